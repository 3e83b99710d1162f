//! The node's cache of immutable objects: packs, indexes and layers, shared by every branch of the node.
//!
//! ```text
//!   near / load ─ memory     decompressed frames; stored bytes that were seeded
//!        │      ─ disk.rs    one sparse file an object, in extents (object.rs), within a byte budget (residency.rs)
//!        └ miss ─ fetch.rs   one request however many ask, checked, kept
//!   restart.rs               the map that a clean stop leaves, and what is found without it
//! ```
//!
//! Objects of a `file://` store are read where they lie, without a copy. Nothing is believed because it is in the cache: whoever reads
//! passes the check of what it wants (a frame's sum, an index page's), and it runs each time bytes come from disk or store. What fails is
//! dropped and fetched once more before the read fails. So a byte that rots, an extent torn by a crash and one that was punched out under a reader are
//! all the same case: a miss.

mod disk;
mod fetch;
mod figures;
#[cfg(any(test, fuzzing))]
pub(super) mod fuzzing;
mod metrics;
mod object;
mod residency;
mod restart;

pub use figures::CacheFigures;

use super::PageError;
use super::frame::{FrameRef, Identity};
use crate::model::FileId;
use crate::settings::CacheSettings;
use crate::store::Store;
use bytes::Bytes;
use fetch::Purpose;
use figures::{Counters, count};
pub(super) use object::EXTENT;
use object::{Object, Place, extents_of};
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use residency::Residency;
use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// How long a disk that refused an extent is left alone.
const FILL_PAUSE: Duration = Duration::from_secs(10);
/// Windows read ahead at once on this node; one more is not begun. At 4 MiB each they hold at most 32 MiB of memory.
const READ_AHEADS: usize = 8;
/// Seeded bytes in memory: a dozen boot objects of at most 4 MiB are being read at once.
const SEED_MEMORY: u64 = 48 << 20;

/// Object and offset of a decompressed frame.
type Spot = (u64, u64);
/// Object, first byte and end of what was seeded: parts of an index overlap.
type Part = (u64, u64, u64);

#[derive(Clone)]
struct ByBytes;

impl<K> Weighter<K, Bytes> for ByBytes {
    fn weight(&self, _: &K, bytes: &Bytes) -> u64 {
        bytes.len() as u64 + 64
    }
}

/// The cache of one node. Cheap to clone.
#[derive(Clone)]
pub struct PageCache(Arc<Inner>);

struct Inner {
    store: Store,
    directory: PathBuf,
    /// Decompressed frames.
    frames: Cache<Spot, Bytes, ByBytes>,
    /// Stored bytes that somebody fetched in one piece for those who will ask; and whether there were ever any.
    seeds: Cache<Part, Bytes, ByBytes>,
    seeded: AtomicBool,
    /// Every object that is open or has extents on disk, by key. Its lock comes before an object's.
    objects: Mutex<HashMap<String, Arc<Object>>>,
    next_object: AtomicU64,
    residency: Residency,
    files: Cache<u64, Arc<File>>,
    counters: Arc<Counters>,
    /// After a write error: until when the disk is left alone.
    paused_until: Mutex<Option<Instant>>,
    fill_pause: Duration,
    /// The map is written: nothing on disk changes any more.
    closed: AtomicBool,
    ahead: Arc<Semaphore>,
}

/// One immutable object, opened for reading. What is cached of it outlives it.
pub struct CachedObject {
    cache: Arc<Inner>,
    object: Option<Arc<Object>>,
}

/// A frame of an object.
#[derive(Clone, Copy)]
pub struct Wanted<'a> {
    pub frame: FrameRef,
    pub identity: Identity<'a>,
    /// Bytes of its content.
    pub length: usize,
}

thread_local! {
    /// Stored bytes on their way to a check, so that a read of what is near allocates nothing for them.
    static STORED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl PageCache {
    /// The cache in `directory`, with what an earlier one left there of the same store. Reads the names of its files, and after an unclean
    /// stop which parts of them hold data.
    pub fn open(store: Store, directory: &Path, settings: &CacheSettings) -> Result<PageCache, PageError> {
        Self::open_with(store, directory, settings, FILL_PAUSE)
    }

    /// As [`PageCache::open`], with another time for which a disk that refused an extent is left alone.
    pub(super) fn open_with(
        store: Store,
        directory: &Path,
        settings: &CacheSettings,
        fill_pause: Duration,
    ) -> Result<PageCache, PageError> {
        let items = |bytes: u64| (bytes / (64 << 10)).max(16) as usize;
        let memory = settings.memory.as_u64();
        let inner = Inner {
            store,
            directory: directory.to_owned(),
            frames: Cache::with_weighter(items(memory), memory, ByBytes),
            seeds: Cache::with_weighter(items(SEED_MEMORY), SEED_MEMORY, ByBytes),
            seeded: AtomicBool::new(false),
            objects: Mutex::default(),
            next_object: AtomicU64::new(0),
            residency: Residency::new(settings.max_bytes.as_u64()),
            files: Cache::new(disk::FILES_OPEN),
            counters: Arc::default(),
            paused_until: Mutex::default(),
            fill_pause,
            closed: AtomicBool::new(false),
            ahead: Arc::new(Semaphore::new(READ_AHEADS)),
        };
        let cache = PageCache(Arc::new(inner));
        cache.take_up()?;
        Ok(cache)
    }

    /// The store that misses go to.
    pub fn store(&self) -> &Store {
        &self.0.store
    }

    /// What was counted so far.
    pub fn figures(&self) -> CacheFigures {
        self.0.counters.snapshot(self.0.frames.weight())
    }

    /// Opens the object `key`, `bytes` long. Talks to no one.
    pub fn object(&self, key: &str, bytes: u64) -> CachedObject {
        let mut objects = self.objects();
        let object = match objects.get(key) {
            Some(object) if object.bytes == bytes => object.clone(),
            // One of two who say how long it is must be wrong: nothing is kept of it.
            Some(_) => Arc::new(Object::new(self.next_id(), key.to_owned(), bytes, Place::Nowhere)),
            None => {
                let object = Arc::new(Object::new(self.next_id(), key.to_owned(), bytes, self.place_of(key)));
                objects.insert(key.to_owned(), object.clone());
                object
            }
        };
        CachedObject { cache: self.0.clone(), object: Some(object) }
    }

    fn place_of(&self, key: &str) -> Place {
        match self.0.store.local_path(key) {
            Some(path) => Place::Store(path),
            None => Place::Cache(self.0.directory.join(disk::file_name(self.0.store.url(), key))),
        }
    }

    fn next_id(&self) -> u64 {
        self.0.next_object.fetch_add(1, Ordering::Relaxed)
    }

    fn objects(&self) -> MutexGuard<'_, HashMap<String, Arc<Object>>> {
        self.0.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What `check` makes of a part of an object, if that needs no request to the store. `None` also where it fails and can be fetched anew: the
    /// caller's next step is [`PageCache::read`].
    pub fn near<T>(
        &self,
        object: &CachedObject,
        range: Range<u64>,
        check: impl Fn(&[u8]) -> Result<T, PageError>,
    ) -> Option<Result<T, PageError>> {
        let object = object.inner();
        if let Some(content) = self.seed_at(object, &range).and_then(|bytes| check(&bytes).ok()) {
            count(&self.0.counters.memory_hits, 1);
            return Some(Ok(content));
        }
        let outcome = STORED.with_borrow_mut(|stored| match &object.place {
            Place::Nowhere => None,
            Place::Store(path) => {
                let read = self.read_in_place(object, path, &range, stored);
                Some(read.and_then(|()| check(stored)).map_err(|e| object.name_in(e)))
            }
            Place::Cache(_) => {
                (range.end <= object.bytes && object.has_all(&range)).then_some(())?;
                stored.clear();
                stored.resize((range.end - range.start) as usize, 0);
                let read = self.read_cached(object, &range, stored).is_ok().then(|| check(stored).ok()).flatten();
                if read.is_none() {
                    self.forget(object, &range);
                }
                read.map(Ok)
            }
        })?;
        self.note_read(object, &range);
        count(&self.0.counters.disk_hits, 1);
        Some(outcome)
    }

    /// What `check` makes of a part of an object, from the store if need be. Concurrent calls share requests. Cancel safe.
    pub async fn read<T>(
        &self,
        object: &CachedObject,
        range: Range<u64>,
        check: impl Fn(&[u8]) -> Result<T, PageError>,
    ) -> Result<T, PageError> {
        if let Some(near) = self.near(object, range.clone(), &check) {
            return near;
        }
        count(&self.0.counters.misses, 1);
        let mut loaded =
            self.load(object, std::slice::from_ref(&range), Purpose::Demand, |_, bytes| check(bytes)).await;
        self.note_read(object.inner(), &range);
        loaded.pop().unwrap_or_else(|| Err(object.inner().damaged("it was not fetched")))
    }

    /// Stored bytes as they are, for a boot object: whoever uses them checks them.
    pub async fn read_stored(&self, range: &super::StoredRange) -> Result<Bytes, PageError> {
        let object = self.object(&range.key, range.object_bytes);
        self.read(&object, range.start..range.end, |bytes| Ok(Bytes::copy_from_slice(bytes))).await
    }

    /// The frame's content if it needs no request to the store: from memory, or decompressed from local disk.
    pub fn near_frame(&self, object: &CachedObject, wanted: Wanted<'_>) -> Option<Result<Bytes, PageError>> {
        let spot = (object.inner().id, u64::from(wanted.frame.offset));
        if let Some(content) = self.0.frames.get(&spot) {
            count(&self.0.counters.memory_hits, 1);
            return Some(Ok(content));
        }
        let opened = self.near(object, wanted.frame.range(), |stored| wanted.open(stored))?;
        if let Ok(content) = &opened {
            self.0.frames.insert(spot, content.clone());
        }
        Some(opened)
    }

    /// The contents of frames, from the store if need be: one request for each run of extents that lie together. Cancel safe.
    pub async fn frames(&self, object: &CachedObject, wanted: &[Wanted<'_>]) -> Result<Vec<Bytes>, PageError> {
        let mut contents: Vec<Option<Bytes>> = Vec::with_capacity(wanted.len());
        for frame in wanted {
            contents.push(self.near_frame(object, *frame).transpose()?);
        }
        let missing: Vec<usize> = (0..wanted.len()).filter(|number| contents[*number].is_none()).collect();
        count(&self.0.counters.misses, missing.len() as u64);
        let pieces: Vec<Range<u64>> = missing.iter().map(|number| wanted[*number].frame.range()).collect();
        let open = |piece: usize, stored: &[u8]| {
            let wanted = wanted[missing[piece]];
            let spot = (object.inner().id, u64::from(wanted.frame.offset));
            // Whoever waited for the same request may have opened it.
            if let Some(content) = self.0.frames.get(&spot) {
                return Ok(content);
            }
            let content = wanted.open(stored)?;
            self.0.frames.insert(spot, content.clone());
            Ok(content)
        };
        let loaded = self.load(object, &pieces, Purpose::Demand, open).await;
        for ((number, content), piece) in missing.iter().zip(loaded).zip(&pieces) {
            self.note_read(object.inner(), piece);
            contents[*number] = Some(content?);
        }
        Ok(contents.into_iter().flatten().collect())
    }

    /// Fetches the extents of `frames` (place, file and number of each) in the background, unless enough is being read ahead already.
    /// `owner` is whose frames they are. Needs a runtime.
    pub fn read_ahead(&self, object: &CachedObject, owner: &str, frames: Vec<(FrameRef, FileId, u32)>) {
        let is_far = |frame: &FrameRef| !object.inner().has_all(&frame.range());
        if matches!(object.inner().place, Place::Store(_)) || !frames.iter().any(|(frame, ..)| is_far(frame)) {
            return;
        }
        let Ok(permit) = self.0.ahead.clone().try_acquire_owned() else { return };
        let (cache, object, owner) = (self.clone(), object.clone(), owner.to_owned());
        tokio::spawn(async move {
            let _permit = permit;
            let pieces: Vec<Range<u64>> = frames.iter().map(|(frame, ..)| frame.range()).collect();
            let check = |piece: usize, stored: &[u8]| {
                let (frame, file, number) = frames[piece];
                frame.check(Identity { owner: &owner, file, number }, stored)
            };
            // Whoever reads what could not be had tries again, and is told why.
            let _ = cache.load(&object, &pieces, Purpose::ReadAhead, check).await;
        });
    }

    /// Takes stored bytes of an object that came by another way: whoever reads exactly this part finds them, for as long as there is room in
    /// memory. Nothing is believed: they pass the reader's check, or the store is asked.
    pub fn seed(&self, object: &CachedObject, offset: u64, bytes: Bytes) {
        self.0.seeds.insert((object.inner().id, offset, offset + bytes.len() as u64), bytes);
        self.0.seeded.store(true, Ordering::Release);
    }

    fn seed_at(&self, object: &Object, range: &Range<u64>) -> Option<Bytes> {
        self.0.seeded.load(Ordering::Acquire).then_some(())?;
        self.0.seeds.get(&(object.id, range.start, range.end))
    }

    /// Drops what is cached of a part of an object, so that it is fetched anew; false where there is nothing to fetch it from.
    pub fn forget_part(&self, object: &CachedObject, range: Range<u64>) -> bool {
        self.0.seeds.remove(&(object.inner().id, range.start, range.end));
        self.forget(object.inner(), &range);
        !matches!(object.inner().place, Place::Store(_))
    }

    fn note_read(&self, object: &Object, range: &Range<u64>) {
        if let Place::Cache(_) = object.place {
            for extent in extents_of(range) {
                let is_first = object.take_ahead(extent);
                if is_first {
                    count(&self.0.counters.read_ahead_used, 1);
                }
                self.0.residency.touch(object, extent, is_first);
            }
        }
    }

    /// Lets go of an object that nobody has open and of which nothing is on disk.
    fn retire(&self, object: Arc<Object>) {
        let mut objects = self.objects();
        let known = objects.get(&object.key).is_some_and(|known| Arc::ptr_eq(known, &object));
        // The list's and this one: new ones are only made from the list, under its lock.
        if known && Arc::strong_count(&object) == 2 && object.resident() == 0 {
            objects.remove(&object.key);
            if let Place::Cache(path) = &object.place {
                // One that stays is removed at the next start.
                let _ = std::fs::remove_file(path);
            }
            self.0.files.remove(&object.id);
        }
    }
}

impl CachedObject {
    /// Its key in the store.
    pub fn key(&self) -> &str {
        &self.inner().key
    }

    /// Its length.
    pub fn bytes(&self) -> u64 {
        self.inner().bytes
    }

    fn inner(&self) -> &Arc<Object> {
        self.object.as_ref().expect("it is taken only when dropped")
    }
}

impl Clone for CachedObject {
    fn clone(&self) -> Self {
        CachedObject { cache: self.cache.clone(), object: self.object.clone() }
    }
}

impl Drop for CachedObject {
    fn drop(&mut self) {
        if let Some(object) = self.object.take() {
            PageCache(self.cache.clone()).retire(object);
        }
    }
}

impl Wanted<'_> {
    fn open(&self, stored: &[u8]) -> Result<Bytes, PageError> {
        self.frame.open(self.identity, stored, self.length)
    }
}
