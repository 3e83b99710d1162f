//! Boot objects: everything a wake reads from the store until its first query is answered, in one object.
//!
//! One per base, and one per suspended branch with what the base's lacks; at most [`MOST_BYTES`]. It holds documents (manifests) and byte ranges of other
//! objects (parts of indexes, frames of packs and layers) as they are stored, so each is checked on use by the sums it is always checked by, and
//! what a boot object lacks is fetched from where it belongs. It is a shortcut, never the truth.
//!
//! ```text
//! parts      documents, then ranges, one after another
//! directory  zstd: u32 documents, each: u16 length, key, u32 bytes;
//!            u32 ranges, each: u16 length, key, u64 bytes of that object, u64 start, u32 bytes
//! footer     u64 directory offset, u32 stored length, u32 length, u32 crc, u32 0, u64 MAGIC (32 bytes)
//! ```
//!
//! The crc is CRC32C over the object's own key, then parts and directory. All numbers are little-endian.

use super::codec::{Reader, put_text};
use super::volume::StoredRange;
use super::{CachedObject, PageCache, PageError};
use bytes::Bytes;
use std::collections::{HashMap, HashSet};

const MAGIC: u64 = u64::from_le_bytes(*b"OFFBOOT1");
const FOOTER: usize = 32;
/// Largest boot object, but for its directory. A start of Postgres reads about 1 MB of pages, a fifth of that compressed (FACTS.md).
pub const MOST_BYTES: usize = 4 << 20;
/// Longest directory that is read, decompressed.
const MOST_DIRECTORY: usize = 16 << 20;

/// An opened boot object.
#[derive(Default)]
pub struct BootSet {
    documents: HashMap<String, Bytes>,
    ranges: Vec<(StoredRange, Bytes)>,
}

impl BootSet {
    /// Opens the object stored under `key`.
    pub fn open(key: &str, object: Bytes) -> Result<BootSet, PageError> {
        let damaged = |what: &str| PageError::Damaged { object: key.to_owned(), what: what.to_owned() };
        let at = object.len().checked_sub(FOOTER).ok_or_else(|| damaged("it is too short"))?;
        let mut footer = Reader::new(&object[at..]);
        let (Some(offset), Some(stored), Some(length), Some(crc), Some(_), Some(MAGIC)) =
            (footer.u64(), footer.u32(), footer.u32(), footer.u32(), footer.u32(), footer.u64())
        else {
            return Err(damaged("it has no footer"));
        };
        if usize::try_from(offset).ok().and_then(|offset| offset.checked_add(stored as usize)) != Some(at) {
            return Err(damaged("its directory lies outside"));
        }
        if sum(key, &object[..at]) != crc || length as usize > MOST_DIRECTORY {
            return Err(damaged("its checksum does not match"));
        }
        let directory = zstd::bulk::decompress(&object[offset as usize..at], length as usize);
        let directory = directory.map_err(|e| damaged(&e.to_string()))?;
        if directory.len() != length as usize {
            return Err(damaged("its directory has not the length its footer says"));
        }
        let parts = object.slice(..offset as usize);
        read_directory(&directory, &parts).ok_or_else(|| damaged("its directory is cut short"))
    }

    /// The document stored under `key`, if it is here.
    pub fn document(&self, key: &str) -> Option<Bytes> {
        self.documents.get(key).cloned()
    }

    /// The ranges that are here.
    pub fn ranges(&self) -> impl Iterator<Item = &StoredRange> {
        self.ranges.iter().map(|(range, _)| range)
    }

    /// Hands its ranges to `cache`. They are there for whoever opens these objects while what is returned is kept.
    #[must_use]
    pub fn seed(&self, cache: &PageCache) -> Vec<CachedObject> {
        let mut objects: HashMap<&str, CachedObject> = HashMap::new();
        for (range, bytes) in &self.ranges {
            let object = objects.entry(&range.key).or_insert_with(|| cache.object(&range.key, range.object_bytes));
            cache.seed(object, range.start, bytes.clone());
        }
        objects.into_values().collect()
    }
}

fn read_directory(directory: &[u8], parts: &Bytes) -> Option<BootSet> {
    let mut reader = Reader::new(directory);
    let mut set = BootSet::default();
    let mut at = 0_usize;
    let mut part = |length: u32| {
        let end = at.checked_add(length as usize).filter(|end| *end <= parts.len())?;
        let part = parts.slice(at..end);
        at = end;
        Some(part)
    };
    for _ in 0..reader.u32()? {
        let (key, length) = (reader.text()?.to_owned(), reader.u32()?);
        set.documents.insert(key, part(length)?);
    }
    for _ in 0..reader.u32()? {
        let key = reader.text()?.to_owned();
        let (object_bytes, start, length) = (reader.u64()?, reader.u64()?, reader.u32()?);
        let end = start.checked_add(u64::from(length)).filter(|end| *end <= object_bytes)?;
        set.ranges.push((StoredRange { key, object_bytes, start, end }, part(length)?));
    }
    Some(set)
}

/// Puts a boot object together.
#[derive(Default)]
pub struct BootWriter {
    documents: Vec<(String, Bytes)>,
    ranges: Vec<(StoredRange, Bytes)>,
    known: HashSet<StoredRange>,
    bytes: usize,
}

impl BootWriter {
    /// Adds a document; one that does not fit is left out.
    pub fn document(&mut self, key: &str, bytes: Bytes) {
        if self.fits(bytes.len()) {
            self.bytes += bytes.len();
            self.documents.push((key.to_owned(), bytes));
        }
    }

    /// Whether a range would be taken: it fits, and is not in it.
    pub fn wants(&self, range: &StoredRange) -> bool {
        self.fits((range.end - range.start) as usize) && !self.known.contains(range)
    }

    /// Adds a range with its stored bytes.
    pub fn range(&mut self, range: StoredRange, bytes: Bytes) {
        if self.wants(&range) && bytes.len() as u64 == range.end - range.start && !bytes.is_empty() {
            self.bytes += bytes.len();
            self.known.insert(range.clone());
            self.ranges.push((range, bytes));
        }
    }

    fn fits(&self, bytes: usize) -> bool {
        self.bytes + bytes <= MOST_BYTES
    }

    /// The object that is to be stored under `key`.
    pub fn finish(self, key: &str) -> Vec<u8> {
        let mut parts = Vec::with_capacity(self.bytes + (64 << 10));
        self.documents.iter().for_each(|(_, bytes)| parts.extend_from_slice(bytes));
        self.ranges.iter().for_each(|(_, bytes)| parts.extend_from_slice(bytes));
        Self::object(key, parts, &self.directory())
    }

    pub(super) fn directory(&self) -> Vec<u8> {
        let mut directory = (self.documents.len() as u32).to_le_bytes().to_vec();
        for (key, bytes) in &self.documents {
            put_text(&mut directory, key);
            directory.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        }
        directory.extend_from_slice(&(self.ranges.len() as u32).to_le_bytes());
        for (range, bytes) in &self.ranges {
            put_text(&mut directory, &range.key);
            directory.extend_from_slice(&range.object_bytes.to_le_bytes());
            directory.extend_from_slice(&range.start.to_le_bytes());
            directory.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        }
        directory
    }

    /// Completes an object whose parts are there.
    pub(super) fn object(key: &str, parts: Vec<u8>, directory: &[u8]) -> Vec<u8> {
        let mut object = parts;
        let stored = zstd::bulk::compress(directory, 3).expect("compressing into memory cannot fail");
        let offset = object.len() as u64;
        object.extend_from_slice(&stored);
        let crc = sum(key, &object);
        object.extend_from_slice(&offset.to_le_bytes());
        for word in [stored.len() as u32, directory.len() as u32, crc, 0] {
            object.extend_from_slice(&word.to_le_bytes());
        }
        object.extend_from_slice(&MAGIC.to_le_bytes());
        object
    }
}

fn sum(key: &str, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(key.as_bytes()), bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(key: &str, start: u64, bytes: &'static [u8]) -> (StoredRange, Bytes) {
        let end = start + bytes.len() as u64;
        (StoredRange { key: key.to_owned(), object_bytes: 5000, start, end }, Bytes::from_static(bytes))
    }

    fn object() -> Vec<u8> {
        let mut writer = BootWriter::default();
        writer.document("manifest", Bytes::from_static(b"all of it"));
        for (range, bytes) in
            [range("pack", 1000, b"one frame"), range("layer", 7, b"x"), range("pack", 1000, b"one frame")]
        {
            writer.range(range, bytes);
        }
        writer.finish("boot")
    }

    #[test]
    fn what_was_put_in_comes_out_once() {
        let set = BootSet::open("boot", object().into()).expect("opens");
        assert_eq!(set.document("manifest").as_deref(), Some(&b"all of it"[..]));
        assert!(set.document("pack").is_none());
        assert_eq!(set.ranges, [range("pack", 1000, b"one frame"), range("layer", 7, b"x")]);
    }

    #[test]
    fn it_stays_small() {
        let mut writer = BootWriter::default();
        for start in 0..100 {
            let (range, _) = range("pack", start, b"");
            let end = start + (64 << 10);
            let range = StoredRange { end, object_bytes: 1 << 30, ..range };
            writer.range(range, vec![7; 64 << 10].into());
        }
        assert!(writer.finish("boot").len() <= MOST_BYTES + (64 << 10));
    }

    #[test]
    fn any_changed_byte_is_noticed() {
        let object = object();
        for at in 0..object.len() {
            let mut damaged = object.clone();
            damaged[at] ^= 4;
            let opened = BootSet::open("boot", damaged.into());
            // One word of the footer means nothing.
            assert!(opened.is_err() || (object.len() - 12..object.len() - 8).contains(&at), "byte {at}");
            assert!(BootSet::open("boot", object[..at].to_vec().into()).is_err(), "cut at {at}");
        }
        assert!(BootSet::open("another", object.into()).is_err(), "another's boot object");
    }
}
