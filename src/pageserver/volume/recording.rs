//! What a branch reads from below its delta while a recording is on: the ground of a boot object.
//!
//! Recorded are the frames of base and layers that reads touched, wherever they came from, and the directories that were listed. In the end they become
//! ranges of stored bytes ([`StoredRange`]), exactly those that a branch asks the cache for when it does the same again: parts of indexes among
//! them. Whoever brings these bytes by another way hands them to [`crate::pageserver::PageCache::seed`]. Off, it costs a read one load of a flag.

use super::Volume;
use crate::model::FileId;
use crate::pageserver::PageError;
use crate::pageserver::base::Extent;
use crate::pageserver::cache::CachedObject;
use crate::pageserver::frame::PAGES_PER_FRAME;
use crate::pageserver::layer::LayerPage;
use std::collections::{BTreeSet, HashSet};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A start reads a few hundred; whoever reads more is not starting any more.
const MOST_PLACES: usize = 4096;

/// Part of an immutable object, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoredRange {
    pub key: String,
    /// Length of the whole object.
    pub object_bytes: u64,
    pub start: u64,
    pub end: u64,
}

impl StoredRange {
    pub(in crate::pageserver) fn of(object: &CachedObject, range: Range<u64>) -> StoredRange {
        let (key, object_bytes) = (object.key().to_owned(), object.bytes());
        StoredRange { key, object_bytes, start: range.start, end: range.end }
    }
}

/// What was read so far.
#[derive(Default)]
pub struct Recording {
    is_on: AtomicBool,
    touched: Mutex<Touched>,
}

#[derive(Default)]
struct Touched {
    /// Places in the base's frame table.
    frames: HashSet<u64>,
    /// Layer and frame.
    layer_frames: HashSet<(u32, u32)>,
    listings: HashSet<FileId>,
    layer_parts: BTreeSet<StoredRange>,
    places: BTreeSet<(FileId, u32)>,
}

/// What was recorded.
#[derive(Clone, Debug, Default)]
pub struct Recorded {
    /// What was read from below, sorted, with what opening base and layers reads.
    pub ranges: Vec<StoredRange>,
    /// Every file and 64 KiB of it that was read, wherever it was.
    pub places: BTreeSet<(FileId, u32)>,
    /// Every directory that was listed.
    pub listings: BTreeSet<FileId>,
}

impl Recording {
    /// These pages of a file were read.
    #[inline]
    pub(in crate::pageserver) fn note_places(&self, file: FileId, pages: Range<u32>) {
        if self.is_on.load(Ordering::Relaxed) {
            let frames = PAGES_PER_FRAME as u32;
            let mut touched = self.lock();
            for number in pages.start / frames..pages.end.div_ceil(frames) {
                touched.places.insert((file, number));
            }
            if touched.places.len() >= MOST_PLACES {
                self.is_on.store(false, Ordering::Relaxed);
            }
        }
    }

    /// A frame of the base was read.
    #[inline]
    pub(in crate::pageserver) fn note_frame(&self, extent: Extent, number: u32) {
        if self.is_on.load(Ordering::Relaxed) {
            self.lock().frames.insert(extent.first_frame + u64::from(number));
        }
    }

    /// A page of a layer was read.
    #[inline]
    pub(in crate::pageserver) fn note_page(&self, layers: &crate::pageserver::layer::LayerSet, page: LayerPage) {
        if self.is_on.load(Ordering::Relaxed)
            && let Some((layer, number, frame)) = layers.place_of(page)
        {
            let mut touched = self.lock();
            if touched.layer_frames.insert((layer, number)) {
                touched.layer_parts.insert(StoredRange::of(layers.object(layer), frame.range()));
            }
        }
    }

    /// A directory of the base was listed.
    #[inline]
    pub(super) fn note_listing(&self, directory: FileId) {
        if self.is_on.load(Ordering::Relaxed) {
            self.lock().listings.insert(directory);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Touched> {
        self.touched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Volume {
    /// From here on what is read from below is recorded, from nothing.
    pub fn start_recording(&self) {
        *self.ground.recording.lock() = Touched::default();
        self.ground.recording.is_on.store(true, Ordering::Relaxed);
    }

    /// Ends the recording. `None` where none was begun since the last end.
    pub async fn finish_recording(&self) -> Result<Option<Recorded>, PageError> {
        self.ground.recording.is_on.store(false, Ordering::Relaxed);
        let touched = std::mem::take(&mut *self.ground.recording.lock());
        if touched.places.is_empty() {
            return Ok(None);
        }
        let mut ranges = touched.layer_parts;
        ranges.extend(self.ground.layers.opening_ranges());
        // What `Volume::open` lists.
        let listings: BTreeSet<FileId> = touched.listings.iter().copied().chain([FileId(0)]).collect();
        ranges.extend(self.ground.base.stored_ranges(touched.frames.iter().copied(), listings.iter().copied()).await?);
        Ok(Some(Recorded { ranges: ranges.into_iter().collect(), places: touched.places, listings }))
    }

    /// Ends the recording and keeps what it says, if it is still on.
    pub async fn keep_recording(&self) -> Result<(), PageError> {
        if let Some(recorded) = self.finish_recording().await? {
            *self.recorded.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(recorded));
        }
        Ok(())
    }

    /// What [`Volume::keep_recording`] kept.
    pub fn recorded(&self) -> Option<Arc<Recorded>> {
        self.recorded.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether a recording is on.
    pub fn is_recording(&self) -> bool {
        self.ground.recording.is_on.load(Ordering::Relaxed)
    }
}
