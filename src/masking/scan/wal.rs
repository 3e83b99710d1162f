//! WAL segments as the stream they are: records go on behind the header of the next page, and of the next file.
//!
//! ```text
//! page header (xlog_internal.h)  u16 magic (0xD1.. since PostgreSQL 13), u16 info, u32 timeline, u64 address, u32 remaining, 4 bytes padding;
//!                                16 more if info has XLP_LONG_HEADER, on the first page of a file
//! ```
//!
//! The plain search sees all of each page; this one what lies across pages, and compressed values of the tuples and page images in records, which lie at any offset.
//! Pages without a header (of a file that was recycled, or never filled) end the stream.

use super::pages::{CompressedValue, PAGE};
use super::patterns::{Hit, Patterns};
use super::result::{Finding, Place, ScanResult};
use super::toast::{Joined, Unpacked};
use std::path::Path;
use std::sync::Arc;

const XLP_LONG_HEADER: u16 = 0x0002;
const SHORT_HEADER: usize = 24;
const LONG_HEADER: usize = 40;

/// Joins WAL pages, given in the order of their addresses.
pub(super) struct WalJoiner {
    patterns: Arc<Patterns>,
    joined: Joined,
    /// Bytes of records, as far as a compressed value may begin in them that does not end in them.
    records: Vec<u8>,
    unpacked: Option<Unpacked>,
}

impl WalJoiner {
    pub(super) fn new(patterns: Arc<Patterns>) -> WalJoiner {
        WalJoiner { patterns, joined: Joined::default(), records: Vec::new(), unpacked: None }
    }

    /// Takes the next page; `offset` is its place in `file`.
    pub(super) fn take(&mut self, page: &[u8], file: &Path, offset: u64, result: &mut ScanResult) {
        let Some(body) = body(page) else { return self.finish(file, offset, result) };
        let patterns = Arc::clone(&self.patterns);
        self.joined.append(body, &patterns, &mut |hit| result.add_finding(finding(hit, Place::Joined, file, offset)));
        self.records.extend_from_slice(body);
        // A value that begins before has all its bytes here.
        self.unpack(self.records.len().saturating_sub(PAGE), file, offset, result);
    }

    /// Searches what is left, and begins anew.
    pub(super) fn finish(&mut self, file: &Path, offset: u64, result: &mut ScanResult) {
        let patterns = Arc::clone(&self.patterns);
        self.joined.search(&patterns, &mut |hit| result.add_finding(finding(hit, Place::Joined, file, offset)));
        self.unpack(self.records.len(), file, offset, result);
        self.joined = Joined::default();
    }

    /// Decompresses and searches the values that begin within the first `end` bytes of the records, and forgets those.
    fn unpack(&mut self, end: usize, file: &Path, offset: u64, result: &mut ScanResult) {
        let words = self.records.windows(4).take(end).enumerate();
        let header = |word: &[u8]| u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
        for (at, _) in words.filter(|(_, word)| CompressedValue::may_begin(header(word))) {
            if let Some(value) = CompressedValue::at(&self.records, at) {
                let report = |hit| result.add_finding(finding(hit, Place::Compressed, file, offset));
                result.decompressed_bytes += unpack_whole(value, &mut self.unpacked, &self.patterns, report);
            }
        }
        self.records.drain(..end);
    }
}

/// Decompresses what looks like a compressed value and searches it, if it is one. Returns the bytes that came out.
pub(super) fn unpack_whole(
    value: CompressedValue<'_>,
    memory: &mut Option<Unpacked>,
    patterns: &Patterns,
    mut found: impl FnMut(Hit),
) -> u64 {
    let unpacked = memory.get_or_insert_with(|| Unpacked::new(value.info));
    unpacked.restart(value.info);
    if unpacked.append(value.data, patterns, &mut found) == Ok(true) {
        unpacked.search(patterns, &mut found);
    }
    unpacked.produced
}

fn finding(hit: Hit, place: Place, file: &Path, offset: u64) -> Finding {
    Finding { file: file.to_owned(), offset, label: hit.label, encoding: hit.encoding, place }
}

/// A page without its header. `None` if it has none.
fn body(page: &[u8]) -> Option<&[u8]> {
    let info = u16::from_le_bytes([*page.get(2)?, *page.get(3)?]);
    let address = u64::from_le_bytes(page.get(8..16)?.try_into().expect("8 bytes"));
    let header = if info & XLP_LONG_HEADER == 0 { SHORT_HEADER } else { LONG_HEADER };
    let is_page = page[1] == 0xd1 && address.is_multiple_of(PAGE as u64);
    page.get(header..).filter(|_| is_page)
}

#[cfg(test)]
mod tests {
    use super::super::{LabelId, PatternsBuilder, SecretKind};
    use super::*;

    #[test]
    fn what_lies_across_two_pages_is_found() {
        let mut builder = PatternsBuilder::new();
        builder.add(LabelId(4), SecretKind::Text, "anna.petersen@example.com");
        let patterns = Arc::new(builder.build());
        let page = |number: u64, long: bool| {
            let mut page = vec![b'.'; PAGE];
            page[..2].copy_from_slice(&0xd110u16.to_le_bytes());
            page[2..4].copy_from_slice(&(if long { XLP_LONG_HEADER } else { 0 }).to_le_bytes());
            page[8..16].copy_from_slice(&(number * PAGE as u64).to_le_bytes());
            page
        };
        let (mut first, mut second) = (page(2048, true), page(2049, false));
        first[PAGE - 10..].copy_from_slice(b"anna.peter");
        second[SHORT_HEADER..SHORT_HEADER + 15].copy_from_slice(b"sen@example.com");
        second[5000..5025].copy_from_slice(b"anna.petersen@example.com");
        let mut joiner = WalJoiner::new(patterns);
        let mut result = ScanResult::default();
        let file = Path::new("pg_wal/000000010000000000000001");
        joiner.take(&first, file, 0, &mut result);
        joiner.take(&second, file, PAGE as u64, &mut result);
        joiner.finish(file, 2 * PAGE as u64, &mut result);
        assert_eq!(result.found, 1, "the other is the plain search's: {:?}", result.findings);
        assert_eq!(result.findings[0].place, Place::Joined);
    }
}
