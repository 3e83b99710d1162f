//! One file of a branch: which of its pages are the branch's own, and where the others come from.
//!
//! A page is looked for in this order: the delta's overlay file, if the page is in `present`; the layers and then the base, if it lies below
//! `lower_limit`; otherwise it is zeros. `lower_limit` starts as the size at open and only shrinks: what a truncation cut off never shows again.
//!
//! Lock order: a file's state before the journal. Nothing is awaited under the state's lock: what is not near is
//! named as [`Need`]s, fetched by the caller, and passed in at the next try.

mod durable;
mod frozen;
mod names_on_disk;
mod read;
mod write;

use frozen::Frozen;
pub(super) use frozen::FrozenPages;
pub(super) use names_on_disk::NamesOnDisk;

use super::PageError;
use super::base::{Base, Extent};
use super::disk::{Disk, DiskFile};
use super::journal::Journal;
use super::layer::{LayerPage, LayerSet};
use super::page_set::PageSet;
use super::volume::Recording;
use crate::model::{FileId, Origin, PAGE_SIZE, PageNo};
use bytes::Bytes;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// What all files of one volume share.
pub(super) struct Ground {
    pub base: Arc<Base>,
    pub layers: LayerSet,
    pub journal: Journal,
    /// Overlay files lie here, named by id.
    pub disk: Arc<dyn Disk>,
    pub names: NamesOnDisk,
    /// Pages in all overlay files together.
    pub own_pages: AtomicU64,
    /// What is read from base and layers, while somebody wants to know.
    pub recording: Recording,
}

/// A regular file.
pub struct DataFile {
    id: FileId,
    /// Parent and name in the base, for what came from there.
    origin: Option<(FileId, Box<str>)>,
    /// What every start deletes or makes anew is not worth an fsync, nor a byte in a layer.
    transient: AtomicBool,
    state: RwLock<State>,
}

struct State {
    size: u64,
    lower_limit: u64,
    base: Option<Extent>,
    present: PageSet,
    /// Something was cut off since the file was opened: what it grew over since is zeros, not what layers have.
    was_cut: bool,
    /// Present, but in no journal record yet.
    unjournaled: PageSet,
    /// Present, and changed since the last upload.
    unpublished: PageSet,
    /// What uploads since the file was opened carried: a layer has these pages, though `Ground::layers` does not know it.
    published: PageSet,
    /// While an upload reads it: what must be kept as it was.
    frozen: Option<Frozen>,
    journaled_size: u64,
    /// The journal knows this file.
    known: bool,
    overlay: Option<Arc<dyn DiskFile>>,
    poisoned: bool,
}

/// What a layer must have of a file.
#[derive(Debug, Default)]
pub(super) struct Carried {
    /// Pages of the overlay file.
    pub own: Vec<Range<u32>>,
    /// Pages that a layer or the base has, but that this branch cut off and grew over.
    pub zeros: Vec<u32>,
    /// The page that such a cut went through: its head is still what lies below.
    pub cut: Option<u32>,
}

/// Something a read or write must have first.
#[derive(Clone, Copy, Debug)]
pub enum Need {
    Layer(PageNo, LayerPage),
    Base(Extent, u32),
}

/// What was fetched for one read or write.
#[derive(Default)]
pub struct Fetched {
    layer_pages: HashMap<PageNo, Bytes>,
    base_frames: HashMap<u32, Bytes>,
}

impl Fetched {
    pub(super) fn add(&mut self, need: Need, content: Bytes) {
        match need {
            Need::Layer(page, _) => self.layer_pages.insert(page, content),
            Need::Base(_, number) => self.base_frames.insert(number, content),
        };
    }
}

impl DataFile {
    /// A file that the branch made.
    pub(super) fn new(id: FileId, size: u64, transient: bool) -> Self {
        Self::with(id, None, size, None, transient, true)
    }

    /// A file that the base has, `size` bytes long in the branch.
    pub(super) fn of_base(id: FileId, origin: (FileId, &str), extent: Extent, size: u64, transient: bool) -> Self {
        Self::with(id, Some((origin.0, origin.1.into())), size, Some(extent), transient, false)
    }

    fn with(
        id: FileId,
        origin: Option<(FileId, Box<str>)>,
        size: u64,
        base: Option<Extent>,
        transient: bool,
        known: bool,
    ) -> Self {
        let state = State {
            size,
            lower_limit: size,
            base,
            present: PageSet::default(),
            was_cut: false,
            unjournaled: PageSet::default(),
            unpublished: PageSet::default(),
            published: PageSet::default(),
            frozen: None,
            journaled_size: size,
            known,
            overlay: None,
            poisoned: false,
        };
        Self { id, origin, transient: AtomicBool::new(transient), state: RwLock::new(state) }
    }

    pub fn id(&self) -> FileId {
        self.id
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.read_lock().size
    }

    /// Pages in the overlay file.
    pub fn own_pages(&self) -> u64 {
        self.read_lock().present.count()
    }

    /// Whether it is time for [`DataFile::begin_writeback`]; says so once.
    pub fn writeback_due(&self) -> bool {
        self.read_lock().overlay.as_ref().is_some_and(|overlay| overlay.writeback_due())
    }

    /// Lets own pages go to the disk before anyone asks for that. Blocking.
    pub fn begin_writeback(&self) {
        let overlay = self.read_lock().overlay.clone();
        overlay.iter().for_each(|overlay| overlay.begin_writeback());
    }

    pub(super) fn is_transient(&self) -> bool {
        self.transient.load(Ordering::Relaxed)
    }

    /// A transient file got a name that is not: the next fsync journals all of it.
    pub(super) fn make_durable(&self) {
        let mut state = self.write_lock();
        state.unjournaled = state.present.clone();
        state.unpublished = state.present.clone();
        state.journaled_size = 0;
        self.transient.store(false, Ordering::Relaxed);
    }

    /// Whether the branch's manifest must carry it: its size or pages differ from what the base has.
    pub(super) fn is_changed(&self) -> bool {
        let state = self.read_lock();
        let as_in_base = |extent: Extent| extent.size == state.size && extent.size <= state.lower_limit;
        !state.present.is_empty() || state.was_cut || !state.base.is_some_and(as_in_base)
    }

    /// Whether any page from `first` up to `end` is the branch's own or came from a layer, for sealing.
    pub(super) fn differs_from_base(&self, ground: &Ground, pages: std::ops::Range<u32>) -> bool {
        let state = self.read_lock();
        pages.clone().any(|page| {
            state.present.contains(page)
                || PageNo(page).offset() + PAGE_SIZE as u64 > state.lower_limit
                || ground.layers.find(self.id, PageNo(page)).is_some()
        })
    }

    /// Pages that no upload carried as they are now.
    pub(super) fn unpublished_pages(&self) -> u64 {
        if self.is_transient() { 0 } else { self.read_lock().unpublished.count() }
    }

    /// Its record in the base, for a manifest.
    pub(super) fn origin(&self) -> Option<Origin> {
        let (parent, name) = self.origin.as_ref()?;
        let extent = self.read_lock().base?;
        Some(Origin { parent: *parent, name: name.to_string(), first_frame: extent.first_frame, size: extent.size })
    }

    pub(super) fn base_extent(&self) -> Option<Extent> {
        self.read_lock().base
    }

    /// What a new layer must have of this file: all own pages, or those that changed since the last upload.
    pub(super) fn pages_to_carry(&self, ground: &Ground, all: bool) -> Carried {
        carried(&self.read_lock(), &ground.layers, self.id, all)
    }

    /// Pages that show through from the layers numbered `from` and up.
    pub(super) fn layer_pages(&self, ground: &Ground, from: usize) -> Vec<u32> {
        let state = self.read_lock();
        let visible = |page: &u32| PageNo(*page).offset() < state.lower_limit && !state.present.contains(*page);
        ground.layers.pages(self.id, from).filter(visible).collect()
    }

    fn read_lock(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_lock(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn local(&self, error: std::io::Error) -> PageError {
        PageError::local(format!("overlay of {:?}", self.id), error)
    }
}

fn carried(state: &State, layers: &LayerSet, id: FileId, all: bool) -> Carried {
    let end = PageNo::count_for(state.size);
    let in_base = state.base.map_or(0, |extent| PageNo::count_for(extent.size));
    let lower_end = layers.end(id).max(in_base).max(state.published.end());
    let hidden_from = PageNo::count_for(state.lower_limit);
    let cut = (state.lower_limit / PAGE_SIZE as u64) as u32;
    let shows_through = |page: u32| page < lower_end && !state.present.contains(page);
    let mut own = if all { state.present.runs() } else { state.unpublished.runs() };
    own.retain_mut(|run| {
        run.end = run.end.min(end);
        run.start < run.end
    });
    Carried {
        own,
        zeros: (hidden_from..end.min(lower_end)).filter(|page| shows_through(*page)).collect(),
        cut: (cut < hidden_from && state.size > state.lower_limit && shows_through(cut)).then_some(cut),
    }
}

/// The overlay file that holds the branch's own pages of a file.
pub(super) fn overlay_name(id: FileId) -> String {
    format!("{:x}", id.0)
}
