//! Values that TOAST keeps out of line, joined from their chunks and, where they are compressed, decompressed; in memory that does not depend on their size.
//!
//! Postgres writes the chunks of a value one after another, but a short last one goes where a page has room, before the others or far behind
//! (`RelationGetBufferForTuple`, `hio.c`). So up to [`OPEN`] values wait for their next chunk, and up to [`WAITING_BYTES`] of chunks for the one before them. Only what
//! the plain search cannot see is reported: matches across the border of two chunks, and in what came out of decompression. A chunk whose
//! predecessor is not met, or only after all that, is counted, and its value joined from there on.
//!
//! Whether a value is compressed stands in the tuple that points to it, which is not at hand: a value whose first four bytes may be `va_tcinfo` is decompressed until
//! that fails.

use super::inflate::{CompressionInfo, Inflater, NotCompressed, Pause, REACH};
use super::pages::{CHUNK, Chunk};
use super::patterns::{Hit, Patterns};
use super::result::{Finding, Place, ScanResult};
use super::tail::Tail;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Values that may be under way at once in one relation, each with 300 KiB at most.
const OPEN: usize = 256;
/// Bytes of chunks that may wait for their predecessors.
const WAITING_BYTES: usize = 64 << 20;
/// Bytes that are joined, or decompressed, before they are searched.
const PIECE: usize = 128 << 10;

/// A stream that was cut in pieces; reports what lies across a cut.
#[derive(Default)]
pub(super) struct Joined {
    tail: Tail,
    /// Offsets of the cuts that may still matter.
    cuts: Vec<u64>,
}

impl Joined {
    /// Appends a piece. Searching is put off until there is enough.
    pub(super) fn append(&mut self, piece: &[u8], patterns: &Patterns, found: &mut dyn FnMut(Hit)) {
        self.cuts.push(self.tail.end());
        self.tail.bytes.extend_from_slice(piece);
        if self.tail.bytes.len() >= PIECE {
            self.search(patterns, found);
        }
    }

    /// Searches what has not been searched yet.
    pub(super) fn search(&mut self, patterns: &Patterns, found: &mut dyn FnMut(Hit)) {
        let cuts = &self.cuts;
        self.tail.search(patterns, 0, &mut |hit, offset| {
            let end = offset + hit.range.len() as u64;
            if cuts.iter().any(|cut| offset < *cut && *cut < end) {
                found(hit);
            }
        });
        let base = self.tail.base();
        self.cuts.retain(|cut| *cut > base);
    }
}

/// A compressed value that is decompressed and searched in a stream.
pub(super) struct Unpacked {
    inflater: Inflater,
    tail: Tail,
    /// Bytes that came out.
    pub produced: u64,
}

impl Unpacked {
    pub(super) fn new(info: CompressionInfo) -> Unpacked {
        Unpacked { inflater: Inflater::new(info), tail: Tail::default(), produced: 0 }
    }

    /// Begins another value, with the memory of this one.
    pub(super) fn restart(&mut self, info: CompressionInfo) {
        self.tail.restart();
        self.inflater = Inflater::new(info);
        self.produced = 0;
    }

    /// Decompresses `input`; true if that was the value's end.
    pub(super) fn append(
        &mut self,
        mut input: &[u8],
        patterns: &Patterns,
        found: &mut dyn FnMut(Hit),
    ) -> Result<bool, NotCompressed> {
        loop {
            let before = self.tail.bytes.len();
            let pause = self.inflater.inflate(&mut input, &mut self.tail.bytes, REACH + PIECE);
            self.produced += (self.tail.bytes.len() - before) as u64;
            match pause? {
                Pause::Done if input.is_empty() => return Ok(true),
                Pause::Done => return Err(NotCompressed),
                Pause::NeedsInput => return Ok(false),
                Pause::NeedsRoom => self.search(patterns, found),
            }
        }
    }

    /// Searches what has not been searched yet.
    pub(super) fn search(&mut self, patterns: &Patterns, found: &mut dyn FnMut(Hit)) {
        self.tail.search(patterns, REACH, &mut |hit, _| found(hit));
    }
}

/// Joins the chunks of one TOAST relation, given in the order of its pages.
pub(super) struct ToastJoiner {
    patterns: Arc<Patterns>,
    open: Vec<OpenValue>,
    /// Chunks whose predecessor was not met yet, by value and sequence.
    waiting: BTreeMap<(u32, u32), WaitingChunk>,
    /// Of all waiting chunks together.
    waiting_bytes: usize,
    /// Counts chunks, to tell which value waits longest.
    chunks: u64,
}

struct WaitingChunk {
    data: Vec<u8>,
    file: PathBuf,
    offset: u64,
}

struct OpenValue {
    id: u32,
    /// Sequence of the chunk that comes next.
    next: u32,
    last_chunk: u64,
    joined: Joined,
    unpacked: Option<Unpacked>,
    /// Of its first chunk.
    file: PathBuf,
    offset: u64,
}

impl ToastJoiner {
    pub(super) fn new(patterns: Arc<Patterns>) -> ToastJoiner {
        ToastJoiner { patterns, open: Vec::new(), waiting: BTreeMap::new(), waiting_bytes: 0, chunks: 0 }
    }

    /// Takes the next chunk; `offset` is the tuple's in `file`.
    pub(super) fn take(&mut self, chunk: Chunk<'_>, file: &Path, offset: u64, result: &mut ScanResult) {
        let known = self.open.iter().position(|value| (value.id, value.next) == (chunk.id, chunk.sequence));
        if known.is_none() && chunk.sequence > 0 && self.waiting_bytes + chunk.data.len() <= WAITING_BYTES {
            self.waiting_bytes += chunk.data.len();
            let waiting = WaitingChunk { data: chunk.data.to_owned(), file: file.to_owned(), offset };
            self.waiting.insert((chunk.id, chunk.sequence), waiting);
            return;
        }
        self.join(known, chunk, file, offset, result);
    }

    /// Appends a chunk to the open value at `known`, or to a new one, and then those that waited for it.
    fn join(&mut self, known: Option<usize>, chunk: Chunk<'_>, file: &Path, offset: u64, result: &mut ScanResult) {
        let mut value = match known {
            Some(place) => self.open.swap_remove(place),
            None => {
                result.detached_chunks += u64::from(chunk.sequence > 0);
                self.make_room(result);
                OpenValue::new(chunk, file, offset)
            }
        };
        self.chunks += 1;
        let mut is_last = value.append(chunk, self.chunks, &self.patterns, result);
        while let Some(next) = self.waiting.remove(&(value.id, value.next)) {
            self.waiting_bytes -= next.data.len();
            let chunk = Chunk { id: value.id, sequence: value.next, data: &next.data, offset: 0 };
            is_last = value.append(chunk, self.chunks, &self.patterns, result);
        }
        match is_last {
            true => value.finish(&self.patterns, result),
            false => self.open.push(value),
        }
    }

    /// Ends the value that has waited longest for its next chunk, if too many wait.
    fn make_room(&mut self, result: &mut ScanResult) {
        if self.open.len() < OPEN {
            return;
        }
        let longest = (0..self.open.len()).min_by_key(|place| self.open[*place].last_chunk);
        let value = self.open.swap_remove(longest.expect("there are some"));
        value.finish(&self.patterns, result);
    }

    /// Ends all values. Chunks that still wait do so in vain.
    pub(super) fn finish(mut self, result: &mut ScanResult) {
        while let Some(((id, sequence), first)) = self.waiting.pop_first() {
            self.waiting_bytes -= first.data.len();
            let chunk = Chunk { id, sequence, data: &first.data, offset: 0 };
            self.join(None, chunk, &first.file, first.offset, result);
        }
        for value in self.open {
            value.finish(&self.patterns, result);
        }
    }
}

impl OpenValue {
    fn new(chunk: Chunk<'_>, file: &Path, offset: u64) -> OpenValue {
        let first = chunk.data.first_chunk().filter(|_| chunk.sequence == 0);
        let info = first.and_then(|word| CompressionInfo::decode(u32::from_le_bytes(*word)));
        // Of a value of one chunk all is known. Of a longer one, only that it has more bytes than this.
        let stored = chunk.data.len() as u64 - 4 * u64::from(first.is_some());
        let plausible = |info: &CompressionInfo| match chunk.data.len() < CHUNK {
            true => info.is_plausible(stored),
            false => u64::from(info.raw) > stored,
        };
        OpenValue {
            id: chunk.id,
            next: chunk.sequence,
            last_chunk: 0,
            joined: Joined::default(),
            unpacked: info.filter(plausible).map(Unpacked::new),
            file: file.to_owned(),
            offset,
        }
    }

    /// True if that was its last chunk by its length.
    fn append(&mut self, chunk: Chunk<'_>, now: u64, patterns: &Patterns, result: &mut ScanResult) -> bool {
        let is_last = chunk.data.len() < CHUNK;
        (self.next, self.last_chunk) = (chunk.sequence + 1, now);
        let (file, offset) = (&self.file, self.offset);
        let mut report = |hit: Hit, place| {
            let finding = Finding { file: file.clone(), offset, label: hit.label, encoding: hit.encoding, place };
            result.add_finding(finding);
        };
        self.joined.append(chunk.data, patterns, &mut |hit| report(hit, Place::Joined));
        let Some(unpacked) = &mut self.unpacked else { return is_last };
        let input = if chunk.sequence == 0 { &chunk.data[4..] } else { chunk.data };
        if unpacked.append(input, patterns, &mut |hit| report(hit, Place::JoinedCompressed)).is_err() {
            unpacked.search(patterns, &mut |hit| report(hit, Place::JoinedCompressed));
            result.decompressed_bytes += unpacked.produced;
            self.unpacked = None;
        }
        is_last
    }

    fn finish(mut self, patterns: &Patterns, result: &mut ScanResult) {
        let (file, offset) = (self.file, self.offset);
        let mut report = |hit: Hit, place| {
            let finding = Finding { file: file.clone(), offset, label: hit.label, encoding: hit.encoding, place };
            result.add_finding(finding);
        };
        self.joined.search(patterns, &mut |hit| report(hit, Place::Joined));
        if let Some(unpacked) = &mut self.unpacked {
            unpacked.search(patterns, &mut |hit| report(hit, Place::JoinedCompressed));
            result.decompressed_bytes += unpacked.produced;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{LabelId, PatternsBuilder, SecretKind};
    use super::*;

    const SECRET: &str = "anna.petersen@example.com";

    /// What is found of chunks (value, sequence, data), in that order.
    fn joined(chunks: &[(u32, u32, &[u8])]) -> ScanResult {
        let mut builder = PatternsBuilder::new();
        builder.add(LabelId(4), SecretKind::Text, SECRET);
        let mut joiner = ToastJoiner::new(Arc::new(builder.build()));
        let mut result = ScanResult::default();
        for (place, (id, sequence, data)) in chunks.iter().enumerate() {
            let chunk = Chunk { id: *id, sequence: *sequence, data, offset: 0 };
            joiner.take(chunk, Path::new("base/5/16390"), place as u64 * 2048, &mut result);
        }
        joiner.finish(&mut result);
        result
    }

    fn chunks_of(value: &[u8]) -> Vec<&[u8]> {
        value.chunks(CHUNK).collect()
    }

    #[test]
    fn a_value_is_joined_whatever_lies_between_and_in_any_order() {
        let text = format!("{}{SECRET}{}", "x".repeat(2 * CHUNK - 9), "y".repeat(700));
        let c = chunks_of(text.as_bytes());
        let other = vec![b'.'; CHUNK];
        for (order, detached) in [
            (vec![(7, 0, c[0]), (7, 1, c[1]), (7, 2, c[2])], 0),
            (vec![(7, 0, c[0]), (8, 0, &other), (7, 1, c[1]), (8, 1, b"end"), (7, 2, c[2])], 0),
            (vec![(7, 2, c[2]), (7, 0, c[0]), (7, 1, c[1])], 0),
            (vec![(7, 2, c[2]), (7, 1, c[1]), (7, 0, c[0])], 0),
            (vec![(7, 2, c[2]), (7, 1, c[1])], 1),
        ] {
            let result = joined(&order);
            assert_eq!((result.found, result.detached_chunks), (1, detached), "{:?}", result.findings);
            assert_eq!(result.findings[0].place, Place::Joined);
        }
        assert_eq!(joined(&[(7, 0, c[0]), (7, 2, c[2])]).found, 0);
    }

    #[test]
    fn a_compressed_value_of_any_size_is_found_in_bounded_memory() {
        // 40 MB of which the secret is the last but a few: LZ4 makes 160 kB of it.
        let raw = format!("{}{SECRET}{}", "abcdefgh ".repeat(4 << 20), "and so on");
        let mut stored = (raw.len() as u32 | 1 << 30).to_le_bytes().to_vec();
        stored.extend(lz4_flex::block::compress(raw.as_bytes()));
        let chunks: Vec<(u32, u32, &[u8])> =
            chunks_of(&stored).into_iter().enumerate().map(|(sequence, data)| (7, sequence as u32, data)).collect();
        assert!(chunks.len() > 50);
        let result = joined(&chunks);
        assert!(result.findings.iter().any(|found| found.place == Place::JoinedCompressed));
        assert_eq!(result.decompressed_bytes, raw.len() as u64);
    }
}
