//! What fuzzing throws at the readers of the page server's formats (`fuzz/`), and what must hold for any bytes: no panic, no memory beyond
//! what the bytes could fill, and what was read is written as it was.
//!
//! Sums stop nearly every random byte at the door, so each reader is given its input twice: as the stored form, and as what stands behind a sum
//! that is made to fit. Each function tells whether the bytes were understood either way.

use super::boot::{BootSet, BootWriter};
use super::cache;
use super::codec::Reader;
use super::frame::{FRAME_SIZE, FrameRef, Identity};
use super::index::{self, FOOTER, FRAMES_PER_PAGE};
use super::journal;
use super::layer::{self, Footer, PAGE_ENTRY, boot_ranges};
use super::tree::Tree;
use crate::model::{FileId, LayerRef, TreeDiff};
use bytes::Bytes;
use std::collections::BTreeSet;

const KEY: &str = "v1/branch/b/layer/00000001-00000001-n";
const URL: &str = "file:///store";
const IDENTITY: Identity<'static> = Identity { owner: KEY, file: FileId(17), number: 3 };

/// A [`FrameRef`], and the stored bytes that it is said to stand for.
pub fn frame(data: &[u8]) -> bool {
    let Some((header, stored)) = data.split_first_chunk() else { return false };
    let said = FrameRef::decode(header);
    let length = said.offset as usize % (FRAME_SIZE + 1);
    [said, said.standing_for(IDENTITY, stored)].into_iter().any(|frame| {
        let range = frame.range();
        assert_eq!(range.end - range.start, frame.stored() as u64);
        frame.open(IDENTITY, stored, length).map(|content| assert_eq!(content.len(), length)).is_ok()
    })
}

/// The index of a base: as an object; as its directory; as records.
pub fn index(data: &[u8]) -> bool {
    let whole = index::read_tail(KEY, data, 0..data.len() as u64).is_ok();
    let frames = index::decode_directory(data).map_or(0, |(crcs, _)| crcs.len() * FRAMES_PER_PAGE);
    let mut object = data.to_vec();
    object.extend_from_slice(&(frames as u64).to_le_bytes());
    object.extend_from_slice(&0_u64.to_le_bytes());
    object.extend_from_slice(&(data.len() as u32).to_le_bytes());
    object.extend_from_slice(&index::sum(KEY, data).to_le_bytes());
    object.extend_from_slice(&index::MAGIC.to_le_bytes());
    assert_eq!(object.len(), data.len() + FOOTER);
    let directory = index::read_tail(KEY, &object, 0..object.len() as u64).is_ok();
    whole | directory | records(data)
}

fn records(data: &[u8]) -> bool {
    let (mut reader, mut read, mut written) = (Reader::new(data), 0, Vec::new());
    while !reader.is_empty() {
        let Some(record) = index::decode_record(&mut reader) else { break };
        index::encode_record(&record, &mut written);
        read += 1;
    }
    assert!(data.starts_with(&written), "{read} records are not written as they were read");
    read > 0
}

/// A layer: as an object; as an index, behind a `u16` number of frames.
pub fn layer(data: &[u8]) -> bool {
    let pages = data.last_chunk::<{ layer::FOOTER }>().and_then(|footer| Footer::decode(footer));
    let whole = opens(data, pages.map_or(0, |footer| footer.pages));
    let Some((frames, content)) = data.split_first_chunk::<2>() else { return whole };
    let frames = u32::from(u16::from_le_bytes(*frames));
    let frame_bytes = frames as usize * FrameRef::ENCODED;
    let pages = (content.len().saturating_sub(frame_bytes) as u64 / PAGE_ENTRY) as u32;
    let length = frame_bytes as u32 + pages * PAGE_ENTRY as u32;
    let mut object = zstd::bulk::compress(content, 1).expect("compressing into memory cannot fail");
    let crc = layer::sum(KEY, &object);
    Footer { frames, pages, offset: 0, stored: object.len() as u32, length, crc }.encode(&mut object);
    whole | opens(&object, pages)
}

fn opens(object: &[u8], pages: u32) -> bool {
    let bytes = object.len() as u64;
    let reference = LayerRef { key: KEY.to_owned(), bytes, pages: u64::from(pages) };
    let opened = layer::read_tail(&reference, object, 0..bytes).is_ok();
    for range in boot_ranges(&reference, object, &BTreeSet::from([(FileId(17), 0)])) {
        assert!(range.start <= range.end);
    }
    opened
}

/// A boot object: as it is; as a directory, behind its `u16` length and before the parts.
pub fn boot(data: &[u8]) -> bool {
    let whole = reads(data.to_vec());
    let Some((length, rest)) = data.split_first_chunk::<2>() else { return whole };
    let (directory, parts) = rest.split_at(usize::from(u16::from_le_bytes(*length)).min(rest.len()));
    whole | reads(BootWriter::object(KEY, parts.to_vec(), directory))
}

fn reads(object: Vec<u8>) -> bool {
    let length = object.len() as u64;
    let Ok(set) = BootSet::open(KEY, Bytes::from(object)) else { return false };
    let bytes: u64 = set.ranges().map(|range| range.end - range.start).sum();
    assert!(bytes <= length, "ranges of {bytes} bytes in an object of {length}");
    true
}

/// A journal's frames; and records, as one frame has them.
pub fn journal(data: &[u8]) -> bool {
    let stored = journal::replay(data);
    if let Ok((changes, good, frames)) = &stored {
        assert!(*good <= data.len() && (*good > 0) == (*frames > 0) && (*good > 0 || changes.is_empty()));
    }
    let Ok((changes, ..)) = journal::replay(&journal::frame(1, data)) else {
        return stored.is_ok_and(|(_, good, _)| good > 0);
    };
    let mut written = Vec::new();
    changes.iter().for_each(|change| journal::encode(change, &mut written));
    assert!(written == data, "changes are not written as they were read");
    true
}

/// The cache's map of extents, and the header of one of its files; each with its sum, and without.
pub fn cache(data: &[u8]) -> bool {
    cache::fuzzing::read_any(data, URL)
}

/// A branch's names, as a manifest has them.
pub fn tree(data: &[u8]) -> bool {
    let Ok(diff) = serde_json::from_slice::<TreeDiff>(data) else { return false };
    let mut tree = Tree::new(0o700, FileId::FIRST.0);
    tree.apply(&diff);
    let written = tree.diff(|_| true);
    // What is there twice counts once.
    assert!(written.entries.len() <= diff.entries.len() + 1 && written.next_id >= diff.next_id);
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::corpus::replay;
    use crate::model::{Entry, FileKind, PAGE_SIZE, PageNo, Tombstone};
    use crate::pageserver::frame::FrameEncoder;
    use crate::pageserver::index::{Record, write_index};
    use crate::pageserver::layer::LayerWriter;
    use crate::pageserver::volume::StoredRange;
    use std::io::Read;

    #[test]
    fn frames_of_the_corpus() {
        let content: Vec<u8> = (0..200_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let sample = |content: &[u8]| {
            let mut stored = Vec::new();
            let frame = FrameEncoder::new().append(IDENTITY, 0, content, &mut stored);
            let mut sample = Vec::new();
            // The reader under test takes the content's length from where the offset stands.
            frame.encode(&mut sample);
            sample[4..8].copy_from_slice(&(content.len() as u32).to_le_bytes());
            sample.extend(stored);
            sample
        };
        replay("frame", frame, &[sample(&content), sample(&[7; 5000])]);
    }

    #[test]
    fn indexes_of_the_corpus() {
        let record = |parent: u64, name: &str, kind, target: Option<&str>| Record {
            parent: FileId(parent),
            name: name.into(),
            id: FileId(20),
            kind,
            mode: 0o600,
            size: 8192,
            first_frame: 0,
            target: target.map(Into::into),
        };
        let records = vec![
            record(1, "base", FileKind::Directory, None),
            record(20, "16384", FileKind::File, None),
            record(20, "link", FileKind::Symlink, Some("/else/where")),
        ];
        let mut encoded = Vec::new();
        records.iter().for_each(|record| index::encode_record(record, &mut encoded));
        let mut file = tempfile::tempfile().expect("a file");
        std::io::Write::write_all(&mut file, &[5; 3 * FrameRef::ENCODED]).expect("the file is ours");
        write_index(&mut file, KEY, records).expect("the file is ours");
        let mut object = Vec::new();
        std::io::Seek::rewind(&mut file).and_then(|()| file.read_to_end(&mut object)).expect("the file is ours");
        let footer = object.len() - FOOTER;
        let length = u32::from_le_bytes(object[footer + 16..footer + 20].try_into().expect("four bytes")) as usize;
        let directory = object[footer - length..footer].to_vec();
        replay("index", index, &[object, directory, encoded]);
    }

    #[test]
    fn layers_of_the_corpus() {
        let mut writer = LayerWriter::new(KEY.to_owned());
        for (file, page, fill) in [(FileId::WAL, 0, 1), (FileId(17), 0, 2), (FileId(17), 1, 0), (FileId(17), 9, 3)] {
            writer.page(file, PageNo(page), &[fill; PAGE_SIZE]);
        }
        let (reference, object) = writer.finish();
        let footer = object.last_chunk::<{ layer::FOOTER }>().and_then(|footer| Footer::decode(footer));
        let footer = footer.expect("it was just written");
        let stored = &object[footer.offset as usize..][..footer.stored as usize];
        let mut behind = (footer.frames as u16).to_le_bytes().to_vec();
        behind.extend(zstd::bulk::decompress(stored, footer.length as usize).expect("it was just written"));
        assert_eq!(reference.pages, 4);
        replay("layer", layer, &[object, behind]);
    }

    #[test]
    fn boot_objects_of_the_corpus() {
        let mut writer = BootWriter::default();
        writer.document("v1/branch/b/manifest/1-1-n", Bytes::from_static(b"all of it"));
        let range = StoredRange { key: KEY.to_owned(), object_bytes: 5000, start: 100, end: 104 };
        writer.range(range, Bytes::from_static(b"page"));
        let directory = writer.directory();
        let behind = [&(directory.len() as u16).to_le_bytes()[..], &directory, b"all of itpage"].concat();
        replay("boot", boot, &[writer.finish(KEY), behind]);
    }

    #[test]
    fn journals_of_the_corpus() {
        let mut records = Vec::new();
        journal::tests::changes().iter().for_each(|change| journal::encode(change, &mut records));
        let frames = [journal::frame(1, &records), journal::frame(2, &records)].concat();
        replay("journal", journal, &[frames, records]);
    }

    #[test]
    fn cache_files_of_the_corpus() {
        replay("cache", cache, &cache::fuzzing::samples(URL));
    }

    #[test]
    fn trees_of_the_corpus() {
        let entry = |id, kind| Entry {
            id: FileId(id),
            parent: FileId::ROOT,
            name: format!("n{id}"),
            kind,
            mode: 0o600,
            size: 8192,
            target: None,
            origin: None,
        };
        let removed = vec![Tombstone { parent: FileId::ROOT, name: "gone".to_owned() }];
        let diff = TreeDiff {
            entries: vec![entry(1, FileKind::Directory), entry(20, FileKind::File), entry(21, FileKind::Directory)],
            removed,
            next_id: 22,
        };
        replay("tree", tree, &[serde_json::to_vec(&diff).expect("serializes")]);
    }
}
