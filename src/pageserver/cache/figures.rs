//! What the cache counts: plain atomics, read together by [`super::PageCache::figures`].

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters since the start of the node.
#[derive(Default)]
pub(super) struct Counters {
    pub memory_hits: AtomicU64,
    pub disk_hits: AtomicU64,
    pub misses: AtomicU64,
    pub requests: AtomicU64,
    pub fetched_bytes: AtomicU64,
    pub fills: AtomicU64,
    pub failed_fills: AtomicU64,
    pub evictions: AtomicU64,
    pub forgotten: AtomicU64,
    pub read_ahead_issued: AtomicU64,
    pub read_ahead_used: AtomicU64,
    pub disk_bytes: AtomicU64,
}

/// The counters at one moment, and what the cache holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheFigures {
    /// Frames found decompressed in memory.
    pub memory_hits: u64,
    /// Frames and parts of indexes found on local disk.
    pub disk_hits: u64,
    /// Those that had to wait for the store.
    pub misses: u64,
    /// Range requests to the store, read-ahead's among them.
    pub requests: u64,
    /// What they brought, in bytes.
    pub fetched_bytes: u64,
    /// Extents written to local disk.
    pub fills: u64,
    /// Extents that could not be written: the disk was full or failed.
    pub failed_fills: u64,
    /// Extents given up to stay within the budget.
    pub evictions: u64,
    /// Extents dropped because a sum did not match or the disk did not give them back.
    pub forgotten: u64,
    /// Extents that read-ahead asked the store for.
    pub read_ahead_issued: u64,
    /// Those of them that somebody read.
    pub read_ahead_used: u64,
    /// Bytes of extents on local disk.
    pub disk_bytes: u64,
    /// Bytes of decompressed frames in memory.
    pub memory_bytes: u64,
}

impl Counters {
    pub fn snapshot(&self, memory_bytes: u64) -> CacheFigures {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CacheFigures {
            memory_hits: read(&self.memory_hits),
            disk_hits: read(&self.disk_hits),
            misses: read(&self.misses),
            requests: read(&self.requests),
            fetched_bytes: read(&self.fetched_bytes),
            fills: read(&self.fills),
            failed_fills: read(&self.failed_fills),
            evictions: read(&self.evictions),
            forgotten: read(&self.forgotten),
            read_ahead_issued: read(&self.read_ahead_issued),
            read_ahead_used: read(&self.read_ahead_used),
            disk_bytes: read(&self.disk_bytes),
            memory_bytes,
        }
    }
}

/// Adds to a counter.
pub(super) fn count(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}
