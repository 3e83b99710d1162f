//! The node's cache of immutable objects: packs and layers, shared by every branch of the node.
//!
//! Two levels. On disk, one sparse file per object with a bitmap of 128 KiB blocks, filled on demand; concurrent misses of one
//! block make one request. In memory, a bounded cache of decompressed frames. Objects of a `file://` store are read where they
//! lie, without a copy. Sums are checked each time a frame is decompressed, so a byte that rots in the cache is noticed too:
//! the block is fetched once more before the read fails.

use super::PageError;
use super::frame::{FrameRef, Identity};
use crate::store::Store;
use bytes::Bytes;
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The unit of a fetch. At 22 ms a request and 80 MB/s (FACTS.md), 128 KiB costs 7 % more than a frame of 13 KiB and brings ten.
const BLOCK: u64 = 128 << 10;
/// Decompressed frames in memory, in bytes.
const FRAME_MEMORY: u64 = 64 << 20;

/// Object and offset of a decompressed frame.
type FrameKey = (u64, u32);

#[derive(Clone)]
struct ByBytes;

impl Weighter<FrameKey, Bytes> for ByBytes {
    fn weight(&self, _: &FrameKey, frame: &Bytes) -> u64 {
        frame.len() as u64 + 64
    }
}

/// The cache of one node. Cheap to clone.
#[derive(Clone)]
pub struct PageCache(Arc<Inner>);

struct Inner {
    store: Store,
    directory: PathBuf,
    frames: Cache<FrameKey, Bytes, ByBytes>,
    next_object: AtomicU64,
}

/// One immutable object, opened for reading. Dropping it removes its cached blocks.
pub struct CachedObject {
    id: u64,
    key: String,
    bytes: u64,
    file: File,
    blocks: Option<Blocks>,
}

/// Which blocks of an object are on local disk.
struct Blocks {
    path: PathBuf,
    present: Vec<AtomicU64>,
    in_flight: Mutex<HashMap<u64, Arc<tokio::sync::Mutex<()>>>>,
}

impl PageCache {
    /// A cache in `directory`, which is emptied.
    pub fn new(store: Store, directory: &Path) -> Result<PageCache, PageError> {
        let local = |e| PageError::local(directory, e);
        match std::fs::remove_dir_all(directory) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(local(e)),
            // Pages of every project: nobody else's to read.
            _ => std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(local)?,
        }
        let frames = Cache::with_weighter((FRAME_MEMORY / (64 << 10)) as usize, FRAME_MEMORY, ByBytes);
        let inner = Inner { store, directory: directory.to_owned(), frames, next_object: AtomicU64::new(0) };
        Ok(PageCache(Arc::new(inner)))
    }

    /// The store that misses go to.
    pub fn store(&self) -> &Store {
        &self.0.store
    }

    /// Opens the object `key`, `bytes` long. Talks to no one.
    pub fn object(&self, key: String, bytes: u64) -> Result<CachedObject, PageError> {
        let id = self.0.next_object.fetch_add(1, Ordering::Relaxed);
        if let Some(path) = self.0.store.local_path(&key) {
            let file = File::open(&path).map_err(|e| match e.kind() {
                std::io::ErrorKind::NotFound => PageError::from(crate::store::StoreError::Missing { key: key.clone() }),
                _ => PageError::local(&path, e),
            })?;
            return Ok(CachedObject { id, key, bytes, file, blocks: None });
        }
        let path = self.0.directory.join(format!("{id:x}"));
        let file = OpenOptions::new().create_new(true).read(true).write(true).open(&path);
        let file = file.map_err(|e| PageError::local(&path, e))?;
        let words = bytes.div_ceil(BLOCK).div_ceil(64) as usize;
        let present = (0..words).map(|_| AtomicU64::new(0)).collect();
        let blocks = Blocks { path, present, in_flight: Mutex::default() };
        Ok(CachedObject { id, key, bytes, file, blocks: Some(blocks) })
    }

    /// The frame's content if it needs no request to the store: from memory, or decompressed from local disk.
    pub fn near_frame(
        &self,
        object: &CachedObject,
        frame: FrameRef,
        identity: Identity<'_>,
        content_length: usize,
    ) -> Option<Result<Bytes, PageError>> {
        let key = (object.id, frame.offset);
        if let Some(content) = self.0.frames.get(&key) {
            return Some(Ok(content));
        }
        let stored = object.read_near(frame.range())?;
        match stored.and_then(|stored| frame.open(identity, &stored, content_length)) {
            Ok(content) => {
                self.0.frames.insert(key, content.clone());
                Some(Ok(content))
            }
            // A rotten block: the caller's next step is `frame`, which fetches it anew.
            Err(_) if object.forget(frame.range()) => None,
            Err(e) => Some(Err(e)),
        }
    }

    /// The frame's content, from the store if need be. Concurrent calls for one frame share one request. Cancel safe.
    pub async fn frame(
        &self,
        object: &CachedObject,
        frame: FrameRef,
        identity: Identity<'_>,
        content_length: usize,
    ) -> Result<Bytes, PageError> {
        let load = async {
            object.fill(&self.0.store, frame.range()).await?;
            let stored = object.read_near(frame.range()).unwrap_or_else(|| Err(object.gone()))?;
            match frame.open(identity, &stored, content_length) {
                Err(_) if object.forget(frame.range()) => {
                    object.fill(&self.0.store, frame.range()).await?;
                    let stored = object.read_near(frame.range()).unwrap_or_else(|| Err(object.gone()))?;
                    frame.open(identity, &stored, content_length)
                }
                outcome => outcome,
            }
        };
        self.0.frames.get_or_insert_async(&(object.id, frame.offset), load).await
    }
}

impl CachedObject {
    /// Bytes of `range` if they are on local disk.
    fn read_near(&self, range: Range<u64>) -> Option<Result<Vec<u8>, PageError>> {
        if let Some(blocks) = &self.blocks
            && !blocks_of(&range).all(|block| blocks.has(block))
        {
            return None;
        }
        let mut stored = vec![0; (range.end - range.start) as usize];
        Some(match self.file.read_exact_at(&mut stored, range.start) {
            Ok(()) => Ok(stored),
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
                Err(PageError::Damaged { object: self.key.clone(), what: "it is shorter than its index says".into() })
            }
            Err(e) => Err(PageError::local(&self.key, e)),
        })
    }

    /// Brings the blocks of `range` to local disk.
    async fn fill(&self, store: &Store, range: Range<u64>) -> Result<(), PageError> {
        let Some(blocks) = &self.blocks else { return Ok(()) };
        for block in blocks_of(&range) {
            if blocks.has(block) {
                continue;
            }
            let turn = blocks.turn(block);
            let _turn = turn.lock().await;
            if !blocks.has(block) {
                let start = block * BLOCK;
                let bytes = store.get_range(&self.key, start..(start + BLOCK).min(self.bytes)).await?;
                // Into the kernel's page cache, at once: a blocking thread could not be had while all of them wait for pages.
                self.file.write_all_at(&bytes, start).map_err(|e| PageError::local(&blocks.path, e))?;
                blocks.set(block);
            }
            blocks.done(block);
        }
        Ok(())
    }

    /// Drops the blocks of `range` so that they are fetched anew; false where there is nothing to fetch them from.
    fn forget(&self, range: Range<u64>) -> bool {
        let Some(blocks) = &self.blocks else { return false };
        blocks_of(&range).for_each(|block| blocks.clear(block));
        true
    }

    fn gone(&self) -> PageError {
        PageError::Damaged { object: self.key.clone(), what: "its cached bytes vanished".into() }
    }
}

impl Drop for CachedObject {
    fn drop(&mut self) {
        if let Some(blocks) = &self.blocks {
            // Best effort: the folder is emptied at the next start.
            let _ = std::fs::remove_file(&blocks.path);
        }
    }
}

impl Blocks {
    fn has(&self, block: u64) -> bool {
        let word = self.present.get((block / 64) as usize);
        word.is_some_and(|word| word.load(Ordering::Acquire) & (1 << (block % 64)) != 0)
    }

    fn set(&self, block: u64) {
        if let Some(word) = self.present.get((block / 64) as usize) {
            word.fetch_or(1 << (block % 64), Ordering::Release);
        }
    }

    fn clear(&self, block: u64) {
        if let Some(word) = self.present.get((block / 64) as usize) {
            word.fetch_and(!(1 << (block % 64)), Ordering::Release);
        }
    }

    /// Who holds the turn fetches the block; the others wait for it and find the block there.
    fn turn(&self, block: u64) -> Arc<tokio::sync::Mutex<()>> {
        self.in_flight.lock().unwrap_or_else(PoisonError::into_inner).entry(block).or_default().clone()
    }

    fn done(&self, block: u64) {
        self.in_flight.lock().unwrap_or_else(PoisonError::into_inner).remove(&block);
    }
}

fn blocks_of(range: &Range<u64>) -> Range<u64> {
    range.start / BLOCK..range.end.div_ceil(BLOCK)
}
