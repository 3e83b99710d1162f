//! Which extents may be on local disk: a byte budget, and the choice of what goes when it is used up.
//!
//! The choice is `quick_cache`'s S3-FIFO: what was read once goes before what was read again, so that a scan passes through without
//! washing out what branches share. An extent holds several frames, each of which a scan reads, so reads soon after one another count as one
//! ([`Residency::touch`]). An extent is admitted before it is written, and what had to go for it is punched out before that too,
//! so the disk never holds more than the budget; see [`super::disk`] for how a writer and an eviction of one extent stay in order.

use super::object::{EXTENT, Object};
use quick_cache::sync::Cache;
use quick_cache::{DefaultHashBuilder, Lifecycle, OptionsBuilder, Weighter};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// File systems keep data in blocks of so many bytes, or a divisor.
const BLOCK: u64 = 4096;
/// What an extent may cost beside its own blocks: its share of the header and of the file system's tree of holes, which `st_blocks` counts.
const OVERHEAD: u64 = BLOCK;

/// Object and extent.
type Key = (u64, u32);
/// What was given up; to be punched out.
pub(super) type Evicted = Vec<(Arc<Object>, u32)>;

#[derive(Clone)]
struct ByDiskBytes;

impl Weighter<Key, Arc<Resident>> for ByDiskBytes {
    fn weight(&self, key: &Key, resident: &Arc<Resident>) -> u64 {
        let range = resident.object.extent_range(key.1);
        (range.end - range.start).next_multiple_of(BLOCK) + OVERHEAD
    }
}

#[derive(Clone)]
struct Collect;

impl Lifecycle<Key, Arc<Resident>> for Collect {
    type RequestState = Evicted;

    fn on_evict(&self, evicted: &mut Evicted, key: Key, resident: Arc<Resident>) {
        evicted.push((resident.object.clone(), key.1));
    }
}

pub(super) struct Residency {
    extents: Cache<Key, Arc<Resident>, ByDiskBytes, DefaultHashBuilder, Collect>,
    /// Extents let in so far: the clock by which reads are far from or close to one another.
    admitted: AtomicU64,
    /// Reads closer together than so many admissions are one.
    together: u64,
}

/// An extent that was let in.
struct Resident {
    object: Arc<Object>,
    /// `admitted` when it was let in, or read the last time that counted.
    read_at: AtomicU64,
}

impl Residency {
    /// A budget of `max_bytes` of disk.
    pub fn new(max_bytes: u64) -> Residency {
        let extents = (max_bytes / EXTENT).max(1);
        let options = OptionsBuilder::new()
            .estimated_items_capacity(extents as usize)
            .weight_capacity(max_bytes)
            .build()
            .expect("capacity and weight are given");
        Residency {
            extents: Cache::with_options(options, ByDiskBytes, DefaultHashBuilder::default(), Collect),
            admitted: AtomicU64::new(0),
            together: (extents / 16).max(1),
        }
    }

    /// Lets an extent in; returns what has to go for it, which may be the extent itself.
    #[must_use]
    pub fn admit(&self, object: &Arc<Object>, extent: u32) -> Evicted {
        let mut evicted = Evicted::new();
        let read_at = AtomicU64::new(self.admitted.fetch_add(1, Ordering::Relaxed));
        let resident = Arc::new(Resident { object: object.clone(), read_at });
        self.extents.insert_with_lifecycle((object.id, extent), resident, &mut evicted);
        evicted
    }

    /// Somebody read it; `first` is who it was read ahead for. Counts once in a sixteenth of the cache's turnover.
    pub fn touch(&self, object: &Object, extent: u32, first: bool) {
        let key = (object.id, extent);
        let Some(resident) = self.extents.peek(&key) else { return };
        let now = self.admitted.load(Ordering::Relaxed);
        let is_again = now.saturating_sub(resident.read_at.load(Ordering::Relaxed)) >= self.together;
        if first || is_again {
            resident.read_at.store(now, Ordering::Relaxed);
        }
        if is_again && !first {
            let _ = self.extents.get(&key);
        }
    }

    pub fn contains(&self, object: &Object, extent: u32) -> bool {
        self.extents.contains_key(&(object.id, extent))
    }

    pub fn remove(&self, object: &Object, extent: u32) {
        self.extents.remove(&(object.id, extent));
    }
}
