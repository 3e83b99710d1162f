//! The cache's files: one sparse file for each object, in which extents are written and punched out.
//!
//! The file is named by the hash of store and key ([`file_name`]). It begins with a header of [`HEADER`] bytes, little-endian:
//!
//! ```text
//! u64 MAGIC, u32 crc of the rest of the header, u32 extent size, u64 bytes of the object,
//! u16 length, key; 32 bytes SHA-256 of the store's URL; zeros
//! ```
//!
//! so that neither another object nor another store's is ever taken for it. Behind it every byte of the object stands at its offset plus
//! [`HEADER`]. Nothing is synced: a frame carries its sum wherever it is read from, and what the disk lost is fetched again.
//!
//! A writer admits its extent first, then writes under the object's lock if the extent still is admitted. An eviction takes it off
//! the list first, then clears the bit and punches under that lock, unless it was admitted anew. Whichever comes second sees the other.
//!
//! Descriptors are pooled: at most [`FILES_OPEN`] of them, however many packs the bases have.

use super::PageCache;
use super::figures::count;
use super::object::{EXTENT, Object, Place, extents_of};
use crate::pageserver::PageError;
use crate::pageserver::codec::{Reader, put_text};
use crate::store::StoreError;
use nix::fcntl::{FallocateFlags, fallocate};
use sha2::{Digest, Sha256};
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

/// Bytes before the object's first. A block, so that extents stay aligned to blocks.
pub(super) const HEADER: u64 = 4096;
/// Files kept open at most. Beyond it the least used is closed.
pub(super) const FILES_OPEN: usize = 512;
const MAGIC: u64 = u64::from_le_bytes(*b"OFFCOB01");

/// The name of an object's file: 128 bits of SHA-256 over the store's URL and the key.
pub(super) fn file_name(url: &str, key: &str) -> String {
    let digest = Sha256::new().chain_update(url).chain_update([0]).chain_update(key).finalize();
    digest[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The header of an object's file; `None` for a key that does not fit into it.
pub(super) fn header(url: &str, key: &str, bytes: u64) -> Option<Vec<u8>> {
    let mut rest = Vec::with_capacity(HEADER as usize);
    rest.extend_from_slice(&(EXTENT as u32).to_le_bytes());
    rest.extend_from_slice(&bytes.to_le_bytes());
    put_text(&mut rest, key);
    rest.extend_from_slice(&Sha256::digest(url));
    (rest.len() <= HEADER as usize - 12).then_some(())?;
    rest.resize(HEADER as usize - 12, 0);
    Some(summed_header(&rest))
}

pub(super) fn summed_header(rest: &[u8]) -> Vec<u8> {
    let mut header = MAGIC.to_le_bytes().to_vec();
    header.extend_from_slice(&crc32c::crc32c(rest).to_le_bytes());
    header.extend_from_slice(rest);
    header
}

/// Key and length of the object that a file says it holds; `None` for no file of this cache and store.
pub(super) fn read_header(file: &File, url: &str) -> Option<(String, u64)> {
    let mut header = vec![0; HEADER as usize];
    file.read_exact_at(&mut header, 0).ok()?;
    parse_header(&header, url)
}

pub(super) fn parse_header(header: &[u8], url: &str) -> Option<(String, u64)> {
    let mut reader = Reader::new(header);
    let (magic, crc) = (reader.u64()?, reader.u32()?);
    if magic != MAGIC || crc32c::crc32c(header.get(12..)?) != crc || u64::from(reader.u32()?) != EXTENT {
        return None;
    }
    let bytes = reader.u64()?;
    let key = reader.text()?.to_owned();
    let store = 12 + 4 + 8 + 2 + key.len();
    (header.get(store..store + 32)? == Sha256::digest(url).as_slice()).then_some((key, bytes))
}

impl PageCache {
    /// Bytes of an object that is read where the store has it.
    pub(super) fn read_in_place(
        &self,
        object: &Object,
        path: &Path,
        range: &Range<u64>,
        out: &mut Vec<u8>,
    ) -> Result<(), PageError> {
        let file = self.pooled(object.id, path).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => PageError::from(StoreError::Missing { key: object.key.clone() }),
            _ => PageError::local(path, e),
        })?;
        out.clear();
        out.resize((range.end - range.start) as usize, 0);
        file.read_exact_at(out, range.start).map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => {
                PageError::Damaged { object: object.key.clone(), what: "it is shorter than its index says".into() }
            }
            _ => PageError::local(path, e),
        })
    }

    /// Bytes of extents that are present. An error is a reason to fetch them again.
    pub(super) fn read_cached(&self, object: &Object, range: &Range<u64>, out: &mut [u8]) -> io::Result<()> {
        let Place::Cache(path) = &object.place else { return Err(io::ErrorKind::NotFound.into()) };
        self.pooled(object.id, path)?.read_exact_at(out, HEADER + range.start)
    }

    /// Keeps an extent whose content was checked. Whatever goes wrong with the disk, the caller has the bytes.
    pub(super) fn keep(&self, object: &Arc<Object>, extent: u32, bytes: &[u8]) {
        if !matches!(object.place, Place::Cache(_)) || object.has(extent) || self.is_paused() {
            return;
        }
        for (evicted, extent) in self.0.residency.admit(object, extent) {
            self.evict(evicted, extent);
        }
        let mut disk = object.lock_disk();
        if object.has(extent) || !self.0.residency.contains(object, extent) || self.0.closed.load(Ordering::Acquire) {
            return;
        }
        match self.write(object, &mut disk.made, extent, bytes) {
            Ok(()) => {
                object.set_present(extent);
                count(&self.0.counters.disk_bytes, bytes.len() as u64);
                count(&self.0.counters.fills, 1);
            }
            Err(error) => {
                // Part of it may be there.
                let _ = self.punch(object, extent);
                self.0.residency.remove(object, extent);
                drop(disk);
                self.pause(&error);
            }
        }
    }

    fn write(&self, object: &Object, made: &mut bool, extent: u32, bytes: &[u8]) -> io::Result<()> {
        let Place::Cache(path) = &object.place else { return Err(io::ErrorKind::NotFound.into()) };
        let file = match *made {
            true => self.pooled(object.id, path)?,
            false => {
                let header = header(self.0.store.url(), &object.key, object.bytes)
                    .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the key is too long"))?;
                let file =
                    OpenOptions::new().create(true).truncate(true).read(true).write(true).mode(0o600).open(path)?;
                file.write_all_at(&header, 0)?;
                let file = Arc::new(file);
                self.0.files.insert(object.id, file.clone());
                *made = true;
                file
            }
        };
        // Into the kernel's page cache, at once: a blocking thread could not be had while all of them wait for pages.
        file.write_all_at(bytes, HEADER + object.extent_range(extent).start)
    }

    /// Gives up an extent that was taken off the list, unless it has been admitted anew.
    pub(super) fn evict(&self, object: Arc<Object>, extent: u32) {
        let mut disk = object.lock_disk();
        if !self.0.residency.contains(&object, extent) && self.drop_extent(&object, &mut disk.made, extent) {
            count(&self.0.counters.evictions, 1);
        }
        drop(disk);
        self.retire(object);
    }

    /// Drops what `range` touches, so that it is fetched anew.
    pub(super) fn forget(&self, object: &Arc<Object>, range: &Range<u64>) {
        for extent in extents_of(range) {
            let mut disk = object.lock_disk();
            if self.drop_extent(object, &mut disk.made, extent) {
                count(&self.0.counters.forgotten, 1);
                // Still under the lock: whoever brings it back is admitted before that, and would be taken off the list with it there.
                self.0.residency.remove(object, extent);
            }
        }
    }

    /// Under the lock of `disk`. Whether it was there.
    fn drop_extent(&self, object: &Object, made: &mut bool, extent: u32) -> bool {
        if !object.clear_present(extent) {
            return false;
        }
        object.take_ahead(extent);
        let range = object.extent_range(extent);
        self.0.counters.disk_bytes.fetch_sub(range.end - range.start, Ordering::Relaxed);
        if let Place::Cache(path) = &object.place
            && (object.resident() == 0 || self.punch(object, extent).is_err())
        {
            // The last one, or a file system that cannot punch: all of the file goes.
            for extent in (0..super::object::extents_in(object.bytes)).filter(|extent| object.clear_present(*extent)) {
                let range = object.extent_range(extent);
                self.0.counters.disk_bytes.fetch_sub(range.end - range.start, Ordering::Relaxed);
            }
            *made = false;
            if let Ok(file) = self.pooled(object.id, path) {
                // What stays because of an error is removed at the next start.
                let _ = file.set_len(0);
            }
        }
        true
    }

    fn punch(&self, object: &Object, extent: u32) -> io::Result<()> {
        let Place::Cache(path) = &object.place else { return Ok(()) };
        punch(&*self.pooled(object.id, path)?, extent)
    }

    /// The open file of an object.
    fn pooled(&self, id: u64, path: &Path) -> io::Result<Arc<File>> {
        if let Some(file) = self.0.files.get(&id) {
            return Ok(file);
        }
        let in_cache = path.starts_with(&self.0.directory);
        let file = Arc::new(OpenOptions::new().read(true).write(in_cache).open(path)?);
        self.0.files.insert(id, file.clone());
        Ok(file)
    }

    /// After an error: the disk is left alone for a while, and misses are served from what was fetched.
    fn pause(&self, error: &io::Error) {
        count(&self.0.counters.failed_fills, 1);
        let mut paused = self.0.paused_until.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if paused.is_none_or(|until| until <= now) {
            *paused = Some(now + self.0.fill_pause);
            let directory = self.0.directory.display();
            tracing::warn!(%error, %directory, "the cache cannot be written; reading through to the store for a while");
        }
    }

    fn is_paused(&self) -> bool {
        let paused = self.0.paused_until.lock().unwrap_or_else(PoisonError::into_inner);
        paused.is_some_and(|until| Instant::now() < until)
    }
}

/// Makes a hole of an extent, in an object's file.
pub(super) fn punch(file: &File, extent: u32) -> io::Result<()> {
    let start = (HEADER + u64::from(extent) * EXTENT) as i64;
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    Ok(fallocate(file, flags, start, EXTENT as i64)?)
}
