//! Pages of relations, read without a catalog: their items, compressed values, TOAST chunks, and what a heap that was only filled lacks.
//!
//! ```text
//! page  (bufpage.h)     u64 lsn, u16 checksum, u16 flags, u16 lower, u16 upper, u16 special, u16 size | version, u32 prune_xid; line pointers
//!                       up to lower; nothing up to upper; items; special space
//! line pointer (itemid.h)  15 bits offset, 2 bits state, 15 bits length
//! tuple (htup_details.h)   u32 xmin, u32 xmax, u32 cid, 6 bytes ctid, u16 infomask2 (11 bits: attributes), u16 infomask, u8 hoff; nulls; data at hoff
//! value (varatt.h)      length << 2 | 2 when compressed inline, followed by va_tcinfo and the compressed bytes
//! chunk (toast_internals.c)  tuple of oid chunk_id, int4 chunk_seq, bytea chunk_data with a four-byte header
//! ```
//!
//! Whatever the bytes, nothing is read beyond the page, and what is no page is none.

use super::inflate::CompressionInfo;
use super::result::HeapFaults;
use std::ops::Range;

/// Bytes of a page (`BLCKSZ`).
pub(super) const PAGE: usize = 8192;
/// Bytes of a full chunk (`TOAST_MAX_CHUNK_SIZE`, `heaptoast.h`).
pub(super) const CHUNK: usize = 1996;
/// Bytes before the compressed ones: the value's header and `va_tcinfo`.
const COMPRESSED_HEADER: usize = 8;
/// Shortest compressed value: less cannot save anything.
const COMPRESSED_MIN: usize = 12;
const PAGE_HEADER: usize = 24;
/// Words that are looked at together.
const BLOCK: usize = 32;
const TUPLE_HEADER: usize = 23;
/// `PageSetPageSizeAndVersion`: the size, and layout version 4 since PostgreSQL 8.3.
const SIZE_AND_VERSION: u16 = PAGE as u16 | 4;

const LP_NORMAL: u32 = 1;
const LP_REDIRECT: u32 = 2;
const LP_DEAD: u32 = 3;
const HEAP_HASNULL: u16 = 0x0001;
const HEAP_XMAX_INVALID: u16 = 0x0800;
const HEAP_UPDATED: u16 = 0x2000;

/// What a page's bytes are.
pub(super) enum PageState<'a> {
    Page(Page<'a>),
    /// Zeros: new, never written.
    New,
    /// No page.
    Other,
}

/// A page with a valid header.
#[derive(Clone, Copy)]
pub(super) struct Page<'a> {
    bytes: &'a [u8],
    lower: usize,
    upper: usize,
}

/// One chunk of a value that is kept out of line.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chunk<'a> {
    /// Of the value.
    pub id: u32,
    /// Of the chunk in the value, from 0.
    pub sequence: u32,
    pub data: &'a [u8],
    /// Of the tuple, in bytes from the page's start.
    pub offset: usize,
}

/// A place that looks like a compressed value.
#[derive(Clone, Copy, Debug)]
pub(super) struct CompressedValue<'a> {
    pub info: CompressionInfo,
    pub data: &'a [u8],
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

impl<'a> Page<'a> {
    /// Reads the header of [`PAGE`] bytes.
    pub(super) fn parse(bytes: &'a [u8]) -> PageState<'a> {
        let [lower, upper, special] = [12, 14, 16].map(|at| usize::from(u16_at(bytes, at)));
        let ordered = PAGE_HEADER <= lower && lower <= upper && upper <= special && special <= PAGE;
        if u16_at(bytes, 18) == SIZE_AND_VERSION && ordered {
            return PageState::Page(Page { bytes, lower, upper });
        }
        match bytes.iter().all(|byte| *byte == 0) {
            true => PageState::New,
            false => PageState::Other,
        }
    }

    /// States and byte ranges of the line pointers.
    fn items(self) -> impl Iterator<Item = (u32, Range<usize>)> {
        self.bytes[PAGE_HEADER..self.lower].chunks_exact(4).map(|pointer| {
            let word = u32_at(pointer, 0);
            let offset = (word & 0x7fff) as usize;
            (word >> 15 & 3, offset..offset + (word >> 17) as usize)
        })
    }

    /// Tuples of a heap, as far as they lie within the page, with their offsets.
    fn tuples(self) -> impl Iterator<Item = (usize, &'a [u8])> {
        let normal = self.items().filter(|(state, _)| *state == LP_NORMAL);
        normal.filter_map(move |(_, range)| {
            let offset = range.start;
            self.bytes.get(range).filter(|tuple| tuple.len() >= TUPLE_HEADER).map(|tuple| (offset, tuple))
        })
    }

    /// What is wrong with it as a page of a heap.
    pub(super) fn heap_faults(self) -> HeapFaults {
        let is_old = |tuple: &[u8]| {
            let infomask = u16_at(tuple, 20);
            let has_xmax = infomask & HEAP_XMAX_INVALID == 0 && u32_at(tuple, 4) != 0;
            infomask & HEAP_UPDATED != 0 || has_xmax
        };
        HeapFaults {
            nonzero_holes: self.bytes[self.lower..self.upper].iter().any(|byte| *byte != 0).into(),
            dead_items: self.items().filter(|(state, _)| matches!(*state, LP_DEAD | LP_REDIRECT)).count() as u64,
            updated_or_deleted_tuples: self.tuples().filter(|(_, tuple)| is_old(tuple)).count() as u64,
            unreadable_pages: 0,
        }
    }

    /// Its chunks, in the order of their line pointers, if all its tuples are chunks and there is one.
    pub(super) fn chunks(self) -> Option<Vec<Chunk<'a>>> {
        let chunks: Option<Vec<Chunk<'a>>> = self.tuples().map(|(offset, tuple)| Chunk::parse(offset, tuple)).collect();
        chunks.filter(|chunks| !chunks.is_empty())
    }

    /// Whether the page has tuples at all.
    pub(super) fn has_tuples(self) -> bool {
        self.tuples().next().is_some()
    }

    /// Every place that may be a value compressed inline, with its offset: what a tuple or index entry aligns to four bytes.
    pub(super) fn compressed_values(self) -> impl Iterator<Item = (usize, CompressedValue<'a>)> {
        // Few words begin one, and many at once are soon looked at.
        let words = self.bytes[PAGE_HEADER..].as_chunks::<4>().0;
        let may_begin = |word: &[u8; 4]| CompressedValue::may_begin(u32::from_le_bytes(*word));
        let blocks = words.chunks(BLOCK).enumerate();
        let likely = blocks.filter(move |(_, block)| block.iter().fold(false, |any, word| any | may_begin(word)));
        likely.flat_map(move |(number, block)| {
            let places = block.iter().enumerate().filter(move |(_, word)| may_begin(word));
            places.filter_map(move |(place, _)| {
                let at = PAGE_HEADER + (number * BLOCK + place) * 4;
                CompressedValue::at(self.bytes, at).map(|value| (at, value))
            })
        })
    }
}

impl<'a> Chunk<'a> {
    fn parse(offset: usize, tuple: &'a [u8]) -> Option<Chunk<'a>> {
        let is_chunk = tuple.len() > 36
            && u16_at(tuple, 18) & 0x07ff == 3
            && u16_at(tuple, 20) & HEAP_HASNULL == 0
            && tuple[22] == 24
            && u32_at(tuple, 32) as usize == (tuple.len() - 32) << 2
            && tuple.len() - 36 <= CHUNK;
        let (id, sequence) = is_chunk.then(|| (u32_at(tuple, 24), u32_at(tuple, 28)))?;
        // A value has 1 GiB at most.
        (sequence < (1 << 30) / CHUNK as u32 + 1).then(|| Chunk { id, sequence, data: &tuple[36..], offset })
    }
}

impl<'a> CompressedValue<'a> {
    /// Whether four bytes may be the header: 2 in the low bits, then a length of [`COMPRESSED_MIN`] or more and below a page's.
    #[inline(always)]
    pub(super) fn may_begin(header: u32) -> bool {
        header & !((PAGE as u32 - 1) << 2) == 2 && header >> 2 >= COMPRESSED_MIN as u32
    }

    /// A value at `at`, if its header is there and plausible and all of it fits in `bytes` and in a page.
    #[inline(always)]
    pub(super) fn at(bytes: &'a [u8], at: usize) -> Option<CompressedValue<'a>> {
        let header = u32_at(bytes.get(at..at + 4)?, 0);
        let length = (header >> 2) as usize;
        if !Self::may_begin(header) {
            return None;
        }
        let value = bytes.get(at..at + length)?;
        let info = CompressionInfo::decode(u32_at(value, 4))?;
        let data = &value[COMPRESSED_HEADER..];
        info.is_plausible(data.len() as u64).then_some(CompressedValue { info, data })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page_of(tuples: &[Vec<u8>]) -> Vec<u8> {
        let mut page = vec![0; PAGE];
        let (mut lower, mut upper) = (PAGE_HEADER, PAGE);
        for tuple in tuples {
            upper = (upper - tuple.len()) & !7;
            page[upper..upper + tuple.len()].copy_from_slice(tuple);
            let pointer = upper as u32 | LP_NORMAL << 15 | (tuple.len() as u32) << 17;
            page[lower..lower + 4].copy_from_slice(&pointer.to_le_bytes());
            lower += 4;
        }
        for (at, word) in [(12, lower), (14, upper), (16, PAGE), (18, SIZE_AND_VERSION.into())] {
            page[at..at + 2].copy_from_slice(&(word as u16).to_le_bytes());
        }
        page
    }

    fn chunk(id: u32, sequence: u32, data: &[u8]) -> Vec<u8> {
        let mut tuple = vec![0; 24];
        (tuple[18], tuple[21], tuple[22]) = (3, 0x08, 24);
        tuple.extend_from_slice(&id.to_le_bytes());
        tuple.extend_from_slice(&sequence.to_le_bytes());
        tuple.extend_from_slice(&((data.len() as u32 + 4) << 2).to_le_bytes());
        tuple.extend_from_slice(data);
        tuple
    }

    fn parsed(bytes: &[u8]) -> Page<'_> {
        match Page::parse(bytes) {
            PageState::Page(page) => page,
            _ => panic!("a page"),
        }
    }

    #[test]
    fn chunks_are_told_from_other_tuples() {
        let page = page_of(&[chunk(7, 0, &[1; CHUNK]), chunk(7, 1, b"end")]);
        let chunks = parsed(&page).chunks().expect("chunks");
        let met: Vec<(u32, u32, usize)> = chunks.iter().map(|c| (c.id, c.sequence, c.data.len())).collect();
        assert_eq!(met, [(7, 0, CHUNK), (7, 1, 3)]);
        assert!(parsed(&page_of(&[chunk(7, 0, &[1; CHUNK + 1])])).chunks().is_none());
        assert!(parsed(&page_of(&[])).chunks().is_none());
        assert_eq!(parsed(&page).heap_faults(), HeapFaults::default());
    }

    #[test]
    fn faults_are_counted() {
        let mut deleted = chunk(7, 0, b"deleted");
        (deleted[4], deleted[21]) = (9, 0);
        let mut updated = chunk(8, 0, b"updated");
        updated[21] |= 0x20;
        let mut page = page_of(&[deleted, updated, chunk(9, 0, b"as it should be")]);
        page[4000] = 1;
        let wanted = HeapFaults { nonzero_holes: 1, updated_or_deleted_tuples: 2, ..HeapFaults::default() };
        assert_eq!(parsed(&page).heap_faults(), wanted);
        page[PAGE_HEADER + 1] |= 0x80;
        page[PAGE_HEADER + 2] |= 1;
        assert_eq!(parsed(&page).heap_faults().dead_items, 1);
    }

    #[test]
    fn noise_is_no_page_and_breaks_nothing() {
        assert!(matches!(Page::parse(&[0; PAGE]), PageState::New));
        assert!(matches!(Page::parse(&[7; PAGE]), PageState::Other));
        // A valid header over garbage: line pointers lead anywhere.
        let mut page: Vec<u8> = (0..PAGE as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
        for (at, word) in [(12, 4000), (14, 4100), (16, PAGE), (18, SIZE_AND_VERSION.into())] {
            page[at..at + 2].copy_from_slice(&(word as u16).to_le_bytes());
        }
        let page = parsed(&page);
        assert!(page.chunks().is_none());
        assert!(page.heap_faults().nonzero_holes == 1 && page.compressed_values().count() < PAGE);
    }
}
