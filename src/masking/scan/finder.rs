//! Finds where one of a million patterns may begin: 1.2 GB/s of pages with the values of 40 columns, 1.5 of text with a thousand secrets, 0.7 with
//! ten thousand, 0.15 with a hundred thousand (Xeon of 2023, one thread).
//!
//! Of each pattern a stretch of `WINDOW + SHIFTS - 1` bytes is its anchor. The `SHIFTS` windows of it are keys; as many as the stride, so that only
//! every so many-th position of the data needs testing: whatever the pattern's place, one of its keys lies at such a position. Testing goes through
//! sieves, each over all that the one before let through, so that the processor waits for many memory accesses at once:
//!
//! ```text
//! sieve.rs          one bit for each hash of a key: fast, and lets through what it need not
//! fine filter       16 bits a key; a short one with the bytes before or behind
//! anchors' filter   16 bits an anchor
//! table             the key's patterns, by 32 bits of a hash of the whole anchor
//! ```
//!
//! What comes out is a candidate: an anchor that equals the pattern's but for the case of ASCII letters (or another, once in 2^50). The caller compares the whole.

use super::filter::Filter;
use super::sieve::{Keys, LOOKED_AHEAD, PLACES, hash, hash_of};

const FINE_BYTES: usize = 32 << 20;
const BITS_PER_KEY: usize = 16;
/// Bits of an entry that say how far into the anchor its key lies.
const SHIFT_BITS: u32 = 3;

/// The keys of a class of patterns, and whose they are.
pub(super) struct Finder<const WINDOW: usize, const SHIFTS: usize> {
    fine: Filter,
    /// Of whole anchors.
    anchors: Filter,
    /// Where each bucket of `entries` begins; one more than there are buckets.
    starts: Vec<u32>,
    entries: Vec<Entry>,
    /// Of a fine hash, to the number of its bucket.
    shift: u32,
}

/// The places that a sieve leaves, and room for one more.
pub(super) const KEPT: usize = PLACES + 1;

#[derive(Clone, Copy, Default)]
struct Entry {
    /// Of a hash of the whole anchor.
    print: u32,
    /// Number of the pattern, and in the lowest [`SHIFT_BITS`] how far into the anchor the key lies.
    pattern: u32,
}

/// A place where a pattern's anchor may begin.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub pattern: u32,
    /// Of the anchor, in bytes from the start of the data.
    pub anchor: usize,
}

impl<const WINDOW: usize, const SHIFTS: usize> Finder<WINDOW, SHIFTS> {
    /// Bytes by which a key is looked at longer after the sieve: of four letters, many are in any text.
    const MORE: usize = if WINDOW + SHIFTS / 2 < 8 { SHIFTS / 2 } else { 0 };
    /// Bytes of an anchor.
    pub(super) const ANCHOR: usize = WINDOW + SHIFTS - 1;

    /// Of patterns and their anchors, which `each` gives in the same order every time it is called: twice. Their keys go into `sieve`.
    pub(super) fn new(patterns: usize, sieve: &mut Keys, each: impl Fn(&mut dyn FnMut(u32, &[u8]))) -> Self {
        let keys = patterns * SHIFTS;
        let buckets = (keys / 2).next_power_of_two().max(16);
        let mut finder = Self {
            fine: Filter::new(keys, BITS_PER_KEY, FINE_BYTES),
            anchors: Filter::new(patterns, BITS_PER_KEY, FINE_BYTES),
            starts: vec![0; buckets + 1],
            entries: vec![Entry::default(); keys],
            shift: 64 - buckets.trailing_zeros(),
        };
        each(&mut |_, anchor| {
            finder.anchors.insert(Self::anchor_hash(anchor, 0));
            for shift in 0..SHIFTS {
                let coarse = hash::<WINDOW>(load(anchor, shift));
                sieve.insert(coarse);
                let longer = if shift < SHIFTS / 2 { shift } else { shift - Self::MORE };
                finder.fine.insert(Self::longer_hash(anchor, longer));
                finder.starts[(fine_hash(coarse) >> finder.shift) as usize] += 1;
            }
        });
        // From counts to ends; filling a bucket from its end leaves its start.
        let mut end = 0;
        for start in &mut finder.starts {
            end += *start;
            *start = end;
        }
        each(&mut |pattern, anchor| {
            for shift in 0..SHIFTS {
                let fine = fine_hash(hash::<WINDOW>(load(anchor, shift)));
                let place = &mut finder.starts[(fine >> finder.shift) as usize];
                *place -= 1;
                let print = Self::anchor_hash(anchor, 0) as u32;
                finder.entries[*place as usize] = Entry { print, pattern: pattern << SHIFT_BITS | shift as u32 };
            }
        });
        finder
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Calls `found` for each candidate with a key at one of `places` in `data`, at most [`PLACES`]. What was in `kept` does not matter.
    pub(super) fn search(&self, data: &[u8], places: &[u32], kept: &mut [u32; KEPT], mut found: impl FnMut(Candidate)) {
        if self.is_empty() {
            return;
        }
        let fine = self.sieve_finely(data, places, kept);
        let whole = self.sieve_anchors(data, fine, kept);
        for place in &kept[..whole] {
            self.look_up(data, *place as usize, &mut found);
        }
    }

    #[inline(always)]
    fn sieve_finely(&self, data: &[u8], places: &[u32], kept: &mut [u32; KEPT]) -> usize {
        let mut count = 0;
        for place in places {
            kept[count] = *place;
            let behind = self.fine.may_hold(Self::longer_hash(data, *place as usize));
            count += match Self::MORE {
                0 => behind,
                more => behind | self.fine.may_hold(Self::longer_hash(data, (*place as usize).saturating_sub(more))),
            };
        }
        count
    }

    /// Keeps the positions where an anchor may begin at or before.
    #[inline(always)]
    fn sieve_anchors(&self, data: &[u8], count: usize, places: &mut [u32; KEPT]) -> usize {
        let mut kept = 0;
        for at in 0..count {
            let place = places[at];
            let may_hold =
                |shift: usize| self.anchors.may_hold(Self::anchor_hash(data, (place as usize).saturating_sub(shift)));
            places[kept] = place;
            kept += (0..SHIFTS).fold(0, |any, shift| any | may_hold(shift));
        }
        kept
    }

    fn look_up(&self, data: &[u8], place: usize, found: &mut impl FnMut(Candidate)) {
        let fine = fine_hash(hash::<WINDOW>(load(data, place)));
        let bucket = (fine >> self.shift) as usize;
        let entries = &self.entries[self.starts[bucket] as usize..self.starts[bucket + 1] as usize];
        if entries.is_empty() {
            return;
        }
        // The anchor may begin here, or so many bytes before.
        let prints: [Option<u32>; 1 << SHIFT_BITS] = std::array::from_fn(|shift| {
            (shift < SHIFTS && shift <= place && place + 16 <= data.len())
                .then(|| Self::anchor_hash(data, place - shift) as u32)
        });
        for entry in entries {
            let shift = (entry.pattern & ((1 << SHIFT_BITS) - 1)) as usize;
            if prints[shift] == Some(entry.print) {
                found(Candidate { pattern: entry.pattern >> SHIFT_BITS, anchor: place - shift });
            }
        }
    }

    /// Hash of the key at `at` and what is behind it of its anchor.
    #[inline(always)]
    fn longer_hash(bytes: &[u8], at: usize) -> u64 {
        fine_hash(hash_of(load(bytes, at), WINDOW + Self::MORE))
    }

    /// Hash of the anchor at `at`.
    #[inline(always)]
    fn anchor_hash(bytes: &[u8], at: usize) -> u64 {
        let [first, last] = [0, SHIFTS - 1].map(|shift| hash::<WINDOW>(load(bytes, at + shift)));
        fine_hash(first.rotate_left(23) ^ last)
    }

    #[cfg(test)]
    pub(super) fn size_bytes(&self) -> usize {
        self.fine.size_bytes()
            + self.anchors.size_bytes()
            + self.starts.len() * 4
            + self.entries.len() * size_of::<Entry>()
    }
}

/// How often each window of `WINDOW` bytes was counted, at least: a sketch that may count too many.
pub(super) struct Census<const WINDOW: usize> {
    counts: Vec<u16>,
    shift: u32,
}

impl<const WINDOW: usize> Census<WINDOW> {
    /// For a look at windows one by one.
    pub(super) fn none() -> Self {
        Self { counts: Vec::new(), shift: 0 }
    }

    /// For so many windows.
    pub(super) fn new(windows: usize) -> Self {
        let counts = windows.next_power_of_two().clamp(1 << 10, 1 << 24);
        Self { counts: vec![0; counts], shift: 64 - counts.trailing_zeros() }
    }

    pub(super) fn count(&mut self, bytes: &[u8], at: usize) {
        let slot = self.slot(bytes, at);
        self.counts[slot] = self.counts[slot].saturating_add(1);
    }

    /// How common the window is, in words of no unit: how many patterns have it, and more if it looks like what is in every file.
    /// `None` if it may lie where nobody looks: it is all zeros, and so is what follows it.
    pub(super) fn commonness(&self, bytes: &[u8], at: usize) -> Option<u32> {
        let window = &bytes[at..at + WINDOW];
        if window.iter().all(|byte| *byte == 0) {
            let followed = &bytes[at..bytes.len().min(at + LOOKED_AHEAD)];
            return followed.iter().any(|byte| *byte != 0).then_some(2_000_000);
        }
        // Blanks hash as zeros do.
        if window.iter().all(|byte| *byte | 0x20 == 0x20) {
            return Some(1_000_000);
        }
        let repeats = window.windows(2).filter(|pair| pair[0] == pair[1]).count();
        let bare = window.iter().all(|byte| matches!(byte, b'0'..=b'9' | b' ' | b'-' | b':' | b'.' | 0 | 0xff));
        let looks = if repeats * 2 >= WINDOW { 10_000 } else { 50 * u32::from(bare) };
        if self.counts.is_empty() {
            return Some(looks);
        }
        Some(u32::from(self.counts[self.slot(bytes, at)]) + looks)
    }

    fn slot(&self, bytes: &[u8], at: usize) -> usize {
        (fine_hash(hash::<WINDOW>(load(bytes, at))) >> self.shift) as usize
    }
}

/// Eight bytes from `at` on; zeros beyond the end.
#[inline(always)]
fn load(bytes: &[u8], at: usize) -> u64 {
    match bytes.get(at..at + 8) {
        Some(eight) => u64::from_le_bytes(eight.try_into().expect("8 bytes")),
        None => bytes[at..].iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)),
    }
}

/// Another hash of the same window; two windows have the same only if their coarse ones are the same.
#[inline(always)]
fn fine_hash(coarse: u64) -> u64 {
    let mixed = (coarse ^ coarse >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93);
    mixed ^ mixed >> 32
}
