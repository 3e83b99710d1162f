//! One immutable object as the cache knows it: which of its extents are on local disk, and which are on their way.
//!
//! A bit in `present` is set only under the lock of `disk`, after the extent's bytes were written; it is cleared under the same lock, before
//! they are punched out. Readers look at the bit without a lock: one that raced with a punch reads zeros, which no sum takes for
//! the frame it wanted. The lock of `in_flight` is held for a few steps over a map, never together with another.

use super::fetch::Fetch;
use crate::pageserver::PageError;
use std::collections::HashMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The unit in which objects are fetched, kept and given up, in bytes.
///
/// At 22 ms a request and 80 MB/s (FACTS.md) a lone frame of 13 KiB takes 22.2 ms. 64 KiB take 22.8 (+3 %), 128 KiB 23.6 (+7 %), 256 KiB
/// 25.3 (+14 %), 512 KiB 28.6 (+29 %). 128 KiB bring the nine or ten frames around the wanted one for those 7 %: 640 KiB of a
/// file as the branch sees it. A bit for each is 1 KiB of memory for 1 GiB of objects.
pub(in crate::pageserver) const EXTENT: u64 = 128 << 10;

/// Where an object's bytes are kept on this machine.
pub(super) enum Place {
    /// The store is a folder: read where they lie.
    Store(PathBuf),
    /// A sparse file of the cache.
    Cache(PathBuf),
    /// Nowhere: it cannot be told apart from another of the same name.
    Nowhere,
}

/// What the file of an object is like. Its lock orders writes and punches.
#[derive(Default)]
pub(super) struct FileState {
    /// It is there and begins with its header.
    pub made: bool,
}

pub(super) struct Object {
    /// Never used twice in one life of the cache.
    pub id: u64,
    pub key: String,
    pub bytes: u64,
    pub place: Place,
    pub disk: Mutex<FileState>,
    pub in_flight: Mutex<HashMap<u32, Arc<Fetch>>>,
    present: Box<[AtomicU64]>,
    /// Extents that read-ahead asked for and nobody has read yet.
    ahead: Box<[AtomicU64]>,
    resident: AtomicU32,
}

impl Object {
    pub fn new(id: u64, key: String, bytes: u64, place: Place) -> Object {
        let words = match &place {
            Place::Cache(_) => (extents_in(bytes) as usize).div_ceil(64),
            Place::Store(_) | Place::Nowhere => 0,
        };
        let bits = || (0..words).map(|_| AtomicU64::new(0)).collect();
        Object {
            id,
            key,
            bytes,
            place,
            disk: Mutex::default(),
            in_flight: Mutex::default(),
            present: bits(),
            ahead: bits(),
            resident: AtomicU32::new(0),
        }
    }

    /// Whether the extent is on local disk.
    pub fn has(&self, extent: u32) -> bool {
        bit(&self.present, extent).is_some_and(|(word, mask)| word.load(Ordering::Acquire) & mask != 0)
    }

    pub fn has_all(&self, range: &Range<u64>) -> bool {
        extents_of(range).all(|extent| self.has(extent))
    }

    /// Under the lock of `disk`, once its bytes are written.
    pub fn set_present(&self, extent: u32) {
        if let Some((word, mask)) = bit(&self.present, extent)
            && word.fetch_or(mask, Ordering::AcqRel) & mask == 0
        {
            self.resident.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Under the lock of `disk`, before its bytes are punched out. Whether it was there.
    pub fn clear_present(&self, extent: u32) -> bool {
        let Some((word, mask)) = bit(&self.present, extent) else { return false };
        let was = word.fetch_and(!mask, Ordering::AcqRel) & mask != 0;
        if was {
            self.resident.fetch_sub(1, Ordering::AcqRel);
        }
        was
    }

    /// Extents on local disk.
    pub fn resident(&self) -> u32 {
        self.resident.load(Ordering::Acquire)
    }

    /// The bitmap of extents on local disk.
    pub fn present_words(&self) -> Vec<u64> {
        self.present.iter().map(|word| word.load(Ordering::Acquire)).collect()
    }

    pub fn note_ahead(&self, extent: u32) {
        if let Some((word, mask)) = bit(&self.ahead, extent) {
            word.fetch_or(mask, Ordering::Relaxed);
        }
    }

    /// Whether read-ahead brought the extent and this is the first to read it.
    pub fn take_ahead(&self, extent: u32) -> bool {
        let set = |(word, mask): (&AtomicU64, u64)| {
            word.load(Ordering::Relaxed) & mask != 0 && word.fetch_and(!mask, Ordering::Relaxed) & mask != 0
        };
        bit(&self.ahead, extent).is_some_and(set)
    }

    /// The bytes of an extent; the object's last is shorter.
    pub fn extent_range(&self, extent: u32) -> Range<u64> {
        let start = u64::from(extent) * EXTENT;
        start..(start + EXTENT).min(self.bytes)
    }

    pub fn damaged(&self, what: &str) -> PageError {
        PageError::Damaged { object: self.key.clone(), what: what.to_owned() }
    }

    /// The error with this object's key in it.
    pub fn name_in(&self, error: PageError) -> PageError {
        match error {
            PageError::Damaged { what, .. } => self.damaged(&what),
            other => other,
        }
    }

    pub fn lock_disk(&self) -> MutexGuard<'_, FileState> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn lock_in_flight(&self) -> MutexGuard<'_, HashMap<u32, Arc<Fetch>>> {
        self.in_flight.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn bit(words: &[AtomicU64], extent: u32) -> Option<(&AtomicU64, u64)> {
    words.get((extent / 64) as usize).map(|word| (word, 1 << (extent % 64)))
}

/// How many extents an object of `bytes` has.
pub(super) fn extents_in(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(EXTENT)).unwrap_or(u32::MAX)
}

/// The extents that `range` touches.
pub(super) fn extents_of(range: &Range<u64>) -> Range<u32> {
    (range.start / EXTENT) as u32..extents_in(range.end)
}
