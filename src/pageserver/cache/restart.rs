//! What the cache leaves at a stop, and what it takes up at a start.
//!
//! A clean stop writes the file `extents`, little-endian:
//!
//! ```text
//! u64 MAGIC, u32 extent size, u32 objects
//! each: u16 length, key, u64 bytes of the object, u32 words, u64 × words: bit n of word m is extent 64 m + n
//! u32 crc of the store's URL followed by all of the above
//! ```
//!
//! It is written aside, synced and renamed, and removed, durably, before anything else is done at the next start: it never speaks of a cache that has
//! changed since. Without it, or with one that is another store's or damaged, each file's header says what it holds, and the extents whose every block has
//! data (`SEEK_DATA`, lseek(2)) count as present. Either may be wrong after a power cut, since extents are not synced, and the latter may hold an extent
//! that was half overwritten: no extent is trusted for being there. Frames, index pages and layer indexes are checked by their sums
//! whenever they are read from disk (`mod.rs`), and what is torn is fetched anew.

use super::PageCache;
use super::disk::{HEADER, file_name, punch, read_header};
use super::object::{EXTENT, Object, Place, extents_in};
use crate::model::fault::{self, FaultPoint};
use crate::pageserver::PageError;
use crate::pageserver::codec::{Reader, put_text};
use nix::unistd::{Whence, lseek};
use std::collections::HashSet;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::DirBuilderExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

const MAGIC: u64 = u64::from_le_bytes(*b"OFFEXT01");
const MAP: &str = "extents";
const NEW_MAP: &str = "extents.new";

/// An object that was found, and the extents it has.
pub(super) struct Found {
    key: String,
    bytes: u64,
    words: Vec<u64>,
}

impl PageCache {
    /// Writes the map of what is on disk. From here on nothing is filled or given up any more; reads go on.
    pub fn close(&self) -> Result<(), PageError> {
        self.0.closed.store(true, Ordering::Release);
        let mut objects: Vec<Arc<Object>> = self.objects().values().cloned().collect();
        objects.retain(|object| {
            // A writer that saw the cache open has this lock, or is done.
            let _disk = object.lock_disk();
            object.resident() > 0
        });
        let present = |object: Arc<Object>| (object.key.clone(), object.bytes, object.present_words());
        let map = encode_map(self.0.store.url(), objects.into_iter().map(present));
        self.write_map(&map).map_err(|e| PageError::local(self.0.directory.join(MAP), e))?;
        fault::pass(FaultPoint::CacheMapped);
        Ok(())
    }

    fn write_map(&self, map: &[u8]) -> io::Result<()> {
        let folder = &self.0.directory;
        let mut file = File::create(folder.join(NEW_MAP))?;
        file.write_all(map)?;
        file.sync_all()?;
        std::fs::rename(folder.join(NEW_MAP), folder.join(MAP))?;
        File::open(folder)?.sync_all()
    }

    /// Takes up what is in the folder, within the budget, and removes the rest.
    pub(super) fn take_up(&self) -> Result<(), PageError> {
        let folder = &self.0.directory;
        let local = |e| PageError::local(folder, e);
        // Pages of every project: nobody else's to read.
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(local)?;
        let map = std::fs::read(folder.join(MAP)).ok().and_then(|map| read_map(&map, self.0.store.url()));
        match std::fs::remove_file(folder.join(MAP)) {
            Ok(()) => File::open(folder).and_then(|folder| folder.sync_all()).map_err(local)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(local(e)),
        }
        let mut files = HashSet::new();
        for entry in std::fs::read_dir(folder).map_err(local)? {
            files.insert(entry.map_err(local)?.file_name().to_string_lossy().into_owned());
        }
        let is_clean = map.is_some();
        let found = map.unwrap_or_else(|| self.rebuild(&files));
        for found in found {
            let name = file_name(self.0.store.url(), &found.key);
            if files.remove(&name) {
                self.adopt(found);
            }
        }
        let strays = files.len();
        for name in files {
            let path = folder.join(name);
            let removed = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
            removed.map_err(|e| PageError::local(&path, e))?;
        }
        let bytes = self.figures().disk_bytes;
        if bytes > 0 || strays > 0 {
            tracing::info!(bytes, strays, is_clean, "took up the cache of a former daemon");
        }
        Ok(())
    }

    /// What the files say of themselves, and where they have data.
    fn rebuild(&self, files: &HashSet<String>) -> Vec<Found> {
        let url = self.0.store.url();
        let read = |name: &String| {
            let file = OpenOptions::new().read(true).write(true).open(self.0.directory.join(name)).ok()?;
            let (key, bytes) = read_header(&file, url).filter(|(key, _)| file_name(url, key) == *name)?;
            let words = whole_extents(&file, bytes).ok()?;
            Some(Found { key, bytes, words })
        };
        files.iter().filter_map(read).collect()
    }

    fn adopt(&self, found: Found) {
        let Place::Cache(path) = self.place_of(&found.key) else { return };
        let object = Arc::new(Object::new(self.next_id(), found.key.clone(), found.bytes, Place::Cache(path)));
        self.objects().insert(found.key, object.clone());
        object.lock_disk().made = true;
        let has = |extent: &u32| {
            let word = found.words.get((extent / 64) as usize);
            word.is_some_and(|word| word & (1 << (extent % 64)) != 0)
        };
        for extent in (0..extents_in(found.bytes)).filter(has) {
            self.adopt_extent(&object, extent);
        }
        // Nothing of it fits, or it was empty: its file goes.
        self.retire(object);
    }

    fn adopt_extent(&self, object: &Arc<Object>, extent: u32) {
        let range = object.extent_range(extent);
        {
            let _disk = object.lock_disk();
            object.set_present(extent);
            self.0.counters.disk_bytes.fetch_add(range.end - range.start, Ordering::Relaxed);
        }
        for (evicted, extent) in self.0.residency.admit(object, extent) {
            self.evict(evicted, extent);
        }
    }
}

/// The extents of which every block has data; what is there of others is punched out.
fn whole_extents(file: &File, bytes: u64) -> io::Result<Vec<u64>> {
    let mut words = vec![0; (extents_in(bytes) as usize).div_ceil(64)];
    let mut data: Vec<Range<u64>> = Vec::new();
    let end = file.metadata()?.len().min(HEADER + bytes);
    let mut at = HEADER;
    while at < end {
        let Some(start) = seek(file, at, Whence::SeekData)? else { break };
        let hole = seek(file, start, Whence::SeekHole)?.unwrap_or(end).min(end);
        data.push(start..hole);
        at = hole.max(at + 1);
    }
    for extent in 0..extents_in(bytes) {
        let start = HEADER + u64::from(extent) * EXTENT;
        let whole = start..(start + EXTENT).min(HEADER + bytes);
        let next = data.partition_point(|part| part.end < whole.end);
        match data.get(next) {
            Some(part) if part.start <= whole.start => words[(extent / 64) as usize] |= 1 << (extent % 64),
            _ if data.iter().any(|part| part.start < whole.end && whole.start < part.end) => punch(file, extent)?,
            _ => {}
        }
    }
    Ok(words)
}

/// `None` where there is none behind `at` (ENXIO).
fn seek(file: &File, at: u64, whence: Whence) -> io::Result<Option<u64>> {
    match lseek(file, at as i64, whence) {
        Ok(found) => Ok(Some(found as u64)),
        Err(nix::errno::Errno::ENXIO) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// The map of objects, each with its key, its bytes and its words.
pub(super) fn encode_map(url: &str, objects: impl ExactSizeIterator<Item = (String, u64, Vec<u64>)>) -> Vec<u8> {
    let mut map = Vec::new();
    map.extend_from_slice(&MAGIC.to_le_bytes());
    map.extend_from_slice(&(EXTENT as u32).to_le_bytes());
    map.extend_from_slice(&(objects.len() as u32).to_le_bytes());
    for (key, bytes, words) in objects {
        put_text(&mut map, &key);
        map.extend_from_slice(&bytes.to_le_bytes());
        map.extend_from_slice(&(words.len() as u32).to_le_bytes());
        words.iter().for_each(|word| map.extend_from_slice(&word.to_le_bytes()));
    }
    map.extend_from_slice(&sum(url, &map).to_le_bytes());
    map
}

/// What a map says; `None` for one that is damaged or another store's.
pub(super) fn read_map(map: &[u8], url: &str) -> Option<Vec<Found>> {
    let (map, crc) = map.split_last_chunk::<4>()?;
    (sum(url, map) == u32::from_le_bytes(*crc)).then_some(())?;
    let mut reader = Reader::new(map);
    (reader.u64()? == MAGIC && u64::from(reader.u32()?) == EXTENT).then_some(())?;
    let mut found = Vec::new();
    for _ in 0..reader.u32()? {
        let (key, bytes) = (reader.text()?.to_owned(), reader.u64()?);
        let mut words = Vec::new();
        for _ in 0..reader.u32()? {
            words.push(reader.u64()?);
        }
        found.push(Found { key, bytes, words });
    }
    reader.is_empty().then_some(found)
}

pub(super) fn sum(url: &str, map: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(url.as_bytes()), map)
}
