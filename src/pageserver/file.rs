//! One file of a branch: which of its pages are the branch's own, and where the others come from.
//!
//! A page is looked for in this order: the delta's overlay file, if the page is in `present`; the layers and then the base, if it lies below
//! `lower_limit`; otherwise it is zeros. `lower_limit` starts as the size at open and only shrinks: what a truncation cut off never shows again.
//!
//! Lock order: a file's state before the journal. Nothing is awaited under the state's lock: what is not near is
//! named as [`Need`]s, fetched by the caller, and passed in at the next try.

use super::PageError;
use super::base::{Base, Extent};
use super::frame::PAGES_PER_FRAME;
use super::journal::{Change, Journal};
use super::layer::{LayerPage, LayerSet};
use super::page_set::PageSet;
use crate::model::{FileId, Origin, PAGE_SIZE, PageNo};
use bytes::Bytes;
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// What all files of one volume share.
pub(super) struct Ground {
    pub base: Arc<Base>,
    pub layers: LayerSet,
    pub journal: Journal,
    /// Overlay files lie here, named by id.
    pub overlays: PathBuf,
    /// Pages in all overlay files together.
    pub own_pages: AtomicU64,
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
    /// Present, but in no journal record yet.
    unjournaled: PageSet,
    journaled_size: u64,
    /// The journal knows this file.
    known: bool,
    overlay: Option<Arc<File>>,
    poisoned: bool,
}

/// What a layer must have of a file.
pub(super) struct Carried {
    /// Pages of the overlay file.
    pub own: Vec<std::ops::Range<u32>>,
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
            unjournaled: PageSet::default(),
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

    pub(super) fn is_transient(&self) -> bool {
        self.transient.load(Ordering::Relaxed)
    }

    /// A transient file got a name that is not: the next fsync journals all of it.
    pub(super) fn make_durable(&self) {
        let mut state = self.write_lock();
        state.unjournaled = state.present.clone();
        state.journaled_size = 0;
        self.transient.store(false, Ordering::Relaxed);
    }

    /// Whether the branch's manifest must carry it: its size or pages differ from what the base has.
    pub(super) fn is_changed(&self) -> bool {
        let state = self.read_lock();
        !state.present.is_empty() || state.base.is_none_or(|extent| extent.size != state.size)
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

    /// Its record in the base, for a manifest.
    pub(super) fn origin(&self) -> Option<Origin> {
        let (parent, name) = self.origin.as_ref()?;
        let extent = self.read_lock().base?;
        Some(Origin { parent: *parent, name: name.to_string(), first_frame: extent.first_frame, size: extent.size })
    }

    pub(super) fn base_extent(&self) -> Option<Extent> {
        self.read_lock().base
    }

    /// What a new layer must have of this file.
    pub(super) fn pages_to_carry(&self, ground: &Ground) -> Carried {
        let state = self.read_lock();
        let end = PageNo::count_for(state.size);
        let lower_end = ground.layers.end(self.id).max(state.base.map_or(0, |extent| PageNo::count_for(extent.size)));
        let hidden_from = PageNo::count_for(state.lower_limit);
        let cut = (state.lower_limit / PAGE_SIZE as u64) as u32;
        let shows_through = |page: u32| page < lower_end && !state.present.contains(page);
        let mut own = state.present.runs();
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

    /// Pages that show through from a layer.
    pub(super) fn layer_pages(&self, ground: &Ground) -> Vec<u32> {
        let state = self.read_lock();
        let visible = |page: &u32| PageNo(*page).offset() < state.lower_limit && !state.present.contains(*page);
        ground.layers.pages(self.id).filter(visible).collect()
    }

    /// Reads `length` bytes at `offset` into `out`, which is emptied first; short at the end of the file.
    /// Not empty: what must be fetched before it can be done.
    pub(super) fn read(
        &self,
        ground: &Ground,
        offset: u64,
        length: usize,
        fetched: &Fetched,
        out: &mut Vec<u8>,
    ) -> Result<Vec<Need>, PageError> {
        let state = self.read_lock();
        out.clear();
        let end = (offset + length as u64).min(state.size);
        if offset >= end {
            return Ok(Vec::new());
        }
        out.resize((end - offset) as usize, 0);
        let end_page = PageNo::count_for(end);
        let mut needs = Vec::new();
        let mut frame = None;
        let mut page = PageNo::containing(offset).0;
        while page < end_page {
            let (own, run) = state.present.run(page, end_page);
            let from = PageNo(page).offset().max(offset);
            let to = PageNo(page + run).offset().min(end);
            let part = &mut out[(from - offset) as usize..(to - offset) as usize];
            if own {
                self.read_overlay(&state, part, from)?;
            } else {
                self.read_lower(ground, &state, fetched, (part, from), &mut frame, &mut needs)?;
            }
            page += run;
        }
        Ok(needs)
    }

    fn read_overlay(&self, state: &State, part: &mut [u8], from: u64) -> Result<(), PageError> {
        let Some(overlay) = &state.overlay else {
            return Err(self.local(std::io::Error::other("its overlay file is not open")));
        };
        // Short only behind the end of what was written: zeros.
        let mut filled = 0;
        while filled < part.len() {
            match overlay.read_at(&mut part[filled..], from + filled as u64) {
                Ok(0) => break,
                Ok(length) => filled += length,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(self.local(e)),
            }
        }
        Ok(())
    }

    /// Fills `part`, which begins at byte `from` and holds zeros, from layers and base.
    fn read_lower(
        &self,
        ground: &Ground,
        state: &State,
        fetched: &Fetched,
        (part, from): (&mut [u8], u64),
        frame: &mut Option<(u32, Bytes)>,
        needs: &mut Vec<Need>,
    ) -> Result<(), PageError> {
        let end = (from + part.len() as u64).min(state.lower_limit);
        let mut at = from;
        while at < end {
            let page = PageNo::containing(at);
            let page_end = (page.offset() + PAGE_SIZE as u64).min(end);
            let target = &mut part[(at - from) as usize..(page_end - from) as usize];
            let skip = (at - page.offset()) as usize;
            match self.lower_page(ground, state, fetched, page, frame)? {
                Ok(content) if content.len() > skip => {
                    let length = target.len().min(content.len() - skip);
                    target[..length].copy_from_slice(&content[skip..skip + length]);
                }
                Ok(_) => {}
                Err(need) => needs.push(need),
            }
            at = page_end;
        }
        Ok(())
    }

    /// A page of layers or base as far as it reaches, empty for none; or what must be fetched for it.
    fn lower_page(
        &self,
        ground: &Ground,
        state: &State,
        fetched: &Fetched,
        page: PageNo,
        last_frame: &mut Option<(u32, Bytes)>,
    ) -> Result<Result<Bytes, Need>, PageError> {
        if let Some(found) = ground.layers.find(self.id, page) {
            if let Some(content) = fetched.layer_pages.get(&page) {
                return Ok(Ok(content.clone()));
            }
            return ground.layers.near_page(found).transpose().map(|near| near.ok_or(Need::Layer(page, found)));
        }
        let Some(extent) = state.base.filter(|extent| page.offset() < extent.size) else { return Ok(Ok(Bytes::new())) };
        let number = page.0 / PAGES_PER_FRAME as u32;
        let content = match last_frame {
            Some((last, content)) if *last == number => content.clone(),
            _ => {
                let content = match fetched.base_frames.get(&number) {
                    Some(content) => content.clone(),
                    None => match ground.base.near_frame(self.id, extent, number).transpose()? {
                        Some(content) => content,
                        None => return Ok(Err(Need::Base(extent, number))),
                    },
                };
                *last_frame = Some((number, content.clone()));
                content
            }
        };
        let start = (page.0 as usize % PAGES_PER_FRAME) * PAGE_SIZE;
        Ok(Ok(content.slice(start.min(content.len())..(start + PAGE_SIZE).min(content.len()))))
    }

    /// Writes `data` at `offset`. A page of which only a part is written is copied up whole first.
    /// Not empty: what must be fetched before it can be done.
    pub(super) fn write(
        &self,
        ground: &Ground,
        offset: u64,
        data: &[u8],
        fetched: &Fetched,
    ) -> Result<Vec<Need>, PageError> {
        let mut state = self.write_lock();
        if state.poisoned {
            return Err(PageError::Poisoned(format!("{:?}", self.id)));
        }
        if data.is_empty() {
            return Ok(Vec::new());
        }
        let end = offset + data.len() as u64;
        let (first, last) = (PageNo::containing(offset), PageNo::containing(end - 1));
        let mut needs = Vec::new();
        let mut edges: Vec<(PageNo, Vec<u8>)> = Vec::new();
        for page in if first == last { vec![first] } else { vec![first, last] } {
            let whole = page.offset() >= offset && page.offset() + PAGE_SIZE as u64 <= end;
            if whole || state.present.contains(page.0) {
                continue;
            }
            let mut content = vec![0; PAGE_SIZE];
            let near = (&mut content[..], page.offset());
            self.read_lower(ground, &state, fetched, near, &mut None, &mut needs)?;
            edges.push((page, content));
        }
        if !needs.is_empty() {
            return Ok(needs);
        }
        let overlay = self.overlay(ground, &mut state)?;
        for (page, content) in &mut edges {
            let (from, to) = (page.offset().max(offset), (page.offset() + PAGE_SIZE as u64).min(end));
            content[(from - page.offset()) as usize..(to - page.offset()) as usize]
                .copy_from_slice(&data[(from - offset) as usize..(to - offset) as usize]);
            overlay.write_all_at(content, page.offset()).map_err(|e| self.local(e))?;
        }
        // What no edge page wrote.
        let skip_first = edges.iter().any(|(page, _)| *page == first);
        let skip_last = edges.iter().any(|(page, _)| *page == last);
        let from = if skip_first { (first.offset() + PAGE_SIZE as u64).min(end) } else { offset };
        let to = if skip_last { last.offset().max(from) } else { end };
        if from < to {
            let middle = &data[(from - offset) as usize..(to - offset) as usize];
            overlay.write_all_at(middle, from).map_err(|e| self.local(e))?;
        }
        self.mark_present(ground, &mut state, first.0..last.0 + 1);
        state.size = state.size.max(end);
        Ok(Vec::new())
    }

    fn mark_present(&self, ground: &Ground, state: &mut State, pages: std::ops::Range<u32>) {
        self.introduce(ground, state);
        let mut page = pages.start;
        while page < pages.end {
            let (present, run) = state.present.run(page, pages.end);
            if !present {
                state.unjournaled.insert(page..page + run);
            }
            page += run;
        }
        let added = state.present.insert(pages);
        ground.own_pages.fetch_add(added, Ordering::Relaxed);
    }

    /// Tells the journal of a base's file before its first change.
    fn introduce(&self, ground: &Ground, state: &mut State) {
        if self.is_transient() {
            return;
        }
        if let (false, Some((parent, name))) = (state.known, &self.origin) {
            ground.journal.append(&Change::Adopt { id: self.id, parent: *parent, name: name.to_string() });
        }
        state.known = true;
    }

    fn overlay(&self, ground: &Ground, state: &mut State) -> Result<Arc<File>, PageError> {
        if let Some(overlay) = &state.overlay {
            return Ok(overlay.clone());
        }
        let path = overlay_path(ground, self.id);
        let file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path);
        let file = Arc::new(file.map_err(|e| PageError::local(&path, e))?);
        state.overlay = Some(file.clone());
        Ok(file)
    }

    /// Cuts or grows the file to `size` bytes.
    pub(super) fn set_size(&self, ground: &Ground, size: u64) -> Result<(), PageError> {
        let mut state = self.write_lock();
        if size > state.size {
            self.introduce(ground, &mut state);
            state.size = size;
        }
        if size >= state.size {
            return Ok(());
        }
        self.introduce(ground, &mut state);
        if !self.is_transient() {
            ground.journal.append(&Change::Truncate { id: self.id, size });
        }
        let kept = PageNo::count_for(size);
        // Were the overlay cut first, a crash between would leave the journal naming pages that are gone.
        let cuts_durable_pages = state.present.runs().last().is_some_and(|run| PageNo(run.end).offset() > size);
        if cuts_durable_pages && !self.is_transient() {
            ground.journal.commit()?;
        }
        if let Some(overlay) = &state.overlay {
            let length = overlay.metadata().map_err(|e| self.local(e))?.len();
            if length > size {
                overlay.set_len(size).map_err(|e| self.local(e))?;
            }
        }
        state.unjournaled.truncate(kept);
        let gone = state.present.truncate(kept);
        ground.own_pages.fetch_sub(gone, Ordering::Relaxed);
        state.lower_limit = state.lower_limit.min(size);
        state.size = size;
        state.journaled_size = size;
        Ok(())
    }

    /// Makes everything written so far durable: data first, then the journal frame that makes it visible.
    /// A failure poisons the file: what the kernel dropped cannot be written again by trying once more.
    pub(super) fn sync(&self, ground: &Ground) -> Result<(), PageError> {
        if self.is_transient() {
            return Ok(());
        }
        let (overlay, runs, size, journaled_size) = {
            let mut state = self.write_lock();
            if state.poisoned {
                return Err(PageError::Poisoned(format!("{:?}", self.id)));
            }
            let runs = std::mem::take(&mut state.unjournaled).runs();
            let (size, journaled_size) = (state.size, state.journaled_size);
            state.journaled_size = size;
            (state.overlay.clone(), runs, size, journaled_size)
        };
        let outcome = self.sync_parts(ground, overlay, runs, (size != journaled_size).then_some(size));
        if outcome.is_err() {
            self.write_lock().poisoned = true;
        }
        outcome
    }

    fn sync_parts(
        &self,
        ground: &Ground,
        overlay: Option<Arc<File>>,
        runs: Vec<std::ops::Range<u32>>,
        grown_to: Option<u64>,
    ) -> Result<(), PageError> {
        if let Some(overlay) = overlay {
            overlay.sync_data().map_err(|e| self.local(e))?;
        }
        if let Some(size) = grown_to {
            ground.journal.append(&Change::Grow { id: self.id, size });
        }
        if !runs.is_empty() {
            ground.journal.append(&Change::Pages { id: self.id, runs });
        }
        ground.journal.commit()
    }

    /// Takes a change from the journal at open.
    pub(super) fn replay(&self, ground: &Ground, change: &Change) -> Result<(), PageError> {
        let mut state = self.write_lock();
        state.known = true;
        match change {
            Change::Truncate { size, .. } => {
                let gone = state.present.truncate(PageNo::count_for(*size));
                ground.own_pages.fetch_sub(gone, Ordering::Relaxed);
                state.lower_limit = state.lower_limit.min(*size);
                (state.size, state.journaled_size) = (*size, *size);
            }
            Change::Grow { size, .. } => (state.size, state.journaled_size) = (*size, *size),
            Change::Pages { runs, .. } => {
                self.overlay(ground, &mut state)?;
                for run in runs {
                    let added = state.present.insert(run.clone());
                    ground.own_pages.fetch_add(added, Ordering::Relaxed);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Forgets a file that no name and no kernel refers to any more. True if its overlay may be removed only after the next commit,
    /// since the journal still names its pages.
    pub(super) fn discard(&self, ground: &Ground) -> bool {
        let mut state = self.write_lock();
        let gone = state.present.truncate(0);
        ground.own_pages.fetch_sub(gone, Ordering::Relaxed);
        let journaled = gone > state.unjournaled.count();
        state.unjournaled = PageSet::default();
        let had_overlay = state.overlay.take().is_some();
        had_overlay && journaled
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

/// Where the branch's own pages of a file lie.
pub(super) fn overlay_path(ground: &Ground, id: FileId) -> PathBuf {
    ground.overlays.join(format!("{:x}", id.0))
}
