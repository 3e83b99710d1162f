//! A stream's latest bytes, searched piece by piece without losing what lies across two pieces.
//!
//! Whoever fills the stream appends to [`Tail::bytes`]; [`Tail::search`] searches what is new together with an overlap of what came before, and
//! forgets the rest. The first byte kept always has an offset divisible by 4, as 4-byte integers are searched for.

use super::patterns::{Hit, Patterns};
use super::sieve::PADDING;

#[derive(Default)]
pub(super) struct Tail {
    pub bytes: Vec<u8>,
    /// Offset of `bytes` in the stream.
    base: u64,
    /// So many of `bytes` were searched.
    old: usize,
}

impl Tail {
    /// A tail of a stream that is read from `base` on; matches that end within its first `old` bytes are another's.
    pub(super) fn starting_at(base: u64, old: usize) -> Tail {
        Tail { bytes: Vec::new(), base, old }
    }

    /// Begins another stream, with the memory of this one.
    pub(super) fn restart(&mut self) {
        self.bytes.clear();
        (self.base, self.old) = (0, 0);
    }

    /// Offset in the stream of the byte that is appended next.
    pub(super) fn end(&self) -> u64 {
        self.base + self.bytes.len() as u64
    }

    /// Offset in the stream of the first byte that is still here.
    pub(super) fn base(&self) -> u64 {
        self.base
    }

    /// Searches what was appended since the last time, and keeps the last `keep` bytes or a few more. `found` is given
    /// each match and its offset in the stream.
    pub(super) fn search(&mut self, patterns: &Patterns, keep: usize, found: &mut dyn FnMut(Hit, u64)) {
        let length = self.bytes.len();
        self.bytes.resize(length + PADDING, 0);
        let base = self.base;
        patterns.search(&self.bytes, length, self.old, &mut |hit| {
            let offset = base + hit.range.start as u64;
            found(hit, offset);
        });
        self.bytes.truncate(length);
        let forgotten = length.saturating_sub(keep.max(patterns.overlap())) & !3;
        self.bytes.drain(..forgotten);
        self.base += forgotten as u64;
        // Before the stream's own start there may be more that is another's than was read yet.
        self.old = self.old.max(length) - forgotten;
    }
}
