//! Which extents may be on local disk: a byte budget, and the choice of what goes when it is used up.
//!
//! The choice is `quick_cache`'s S3-FIFO: what was read once goes before what was read again, so that a scan passes through without
//! washing out what branches share. An extent is admitted before it is written, and what had to go for it is punched out before that too,
//! so the disk never holds more than the budget; see [`super::disk`] for how a writer and an eviction of one extent stay in order.

use super::object::Object;
use quick_cache::sync::Cache;
use quick_cache::{DefaultHashBuilder, Lifecycle, OptionsBuilder, Weighter};
use std::sync::Arc;

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

impl Weighter<Key, Arc<Object>> for ByDiskBytes {
    fn weight(&self, key: &Key, object: &Arc<Object>) -> u64 {
        let range = object.extent_range(key.1);
        (range.end - range.start).next_multiple_of(BLOCK) + OVERHEAD
    }
}

#[derive(Clone)]
struct Collect;

impl Lifecycle<Key, Arc<Object>> for Collect {
    type RequestState = Evicted;

    fn on_evict(&self, evicted: &mut Evicted, key: Key, object: Arc<Object>) {
        evicted.push((object, key.1));
    }
}

pub(super) struct Residency {
    extents: Cache<Key, Arc<Object>, ByDiskBytes, DefaultHashBuilder, Collect>,
}

impl Residency {
    /// A budget of `max_bytes` of disk.
    pub fn new(max_bytes: u64) -> Residency {
        let options = OptionsBuilder::new()
            .estimated_items_capacity((max_bytes / super::object::EXTENT).max(1) as usize)
            .weight_capacity(max_bytes)
            .build()
            .expect("capacity and weight are given");
        Residency { extents: Cache::with_options(options, ByDiskBytes, DefaultHashBuilder::default(), Collect) }
    }

    /// Lets an extent in; returns what has to go for it, which may be the extent itself.
    #[must_use]
    pub fn admit(&self, object: &Arc<Object>, extent: u32) -> Evicted {
        let mut evicted = Evicted::new();
        self.extents.insert_with_lifecycle((object.id, extent), object.clone(), &mut evicted);
        evicted
    }

    /// Somebody read it.
    pub fn touch(&self, object: &Object, extent: u32) {
        let _ = self.extents.get(&(object.id, extent));
    }

    pub fn contains(&self, object: &Object, extent: u32) -> bool {
        self.extents.contains_key(&(object.id, extent))
    }

    pub fn remove(&self, object: &Object, extent: u32) {
        self.extents.remove(&(object.id, extent));
    }
}
