//! A moment of a volume that goes on being written: what an upload of an awake branch carries.
//!
//! Everyone who changes anything is kept out while the pages, sizes and names of the moment are noted ([`Volume::freeze`]), which costs a
//! bitmap a changed file. Pages are read afterwards; a write that comes first keeps the old content aside (`file::frozen`). What
//! the kernel holds and has not written back is not in it, as after a power cut.

use super::Volume;
use crate::model::{LayerRef, PageNo, TreeDiff};
use crate::pageserver::PageError;
use crate::pageserver::file::{Carried, DataFile, Fetched, FrozenPages};
use crate::pageserver::upload::is_carried;
use std::sync::{Arc, PoisonError};
use tokio::runtime::Handle;

/// How often a snapshot is tried again because a file was cut in the middle of a page right before it. Postgres cuts at pages' borders.
const ATTEMPTS: usize = 8;

/// What was frozen. Dropping it gives the upload up: its pages are carried by the next one.
pub struct Snapshot {
    volume: Arc<Volume>,
    pub(in crate::pageserver) files: Vec<FrozenFile>,
    pub(in crate::pageserver) tree: TreeDiff,
    all: bool,
    published: Option<Vec<LayerRef>>,
}

pub(in crate::pageserver) struct FrozenFile {
    pub file: Arc<DataFile>,
    pub carried: Carried,
    pub pages: FrozenPages,
}

impl Volume {
    /// Freezes what changed since the last upload, or with `all` every own page, and runs `during` before anything changes again.
    /// One at a time. For a blocking thread.
    pub fn freeze<T, E: From<PageError>>(
        self: &Arc<Self>,
        all: bool,
        runtime: &Handle,
        during: impl FnOnce() -> Result<T, E>,
    ) -> Result<(Snapshot, T), E> {
        for _ in 0..ATTEMPTS {
            runtime.block_on(self.own_cut_pages())?;
            let _closed = self.gate.write().unwrap_or_else(PoisonError::into_inner);
            let snapshot = self.snapshot(all);
            if snapshot.files.iter().all(|frozen| frozen.carried.cut.is_none()) {
                // A failure drops the snapshot, which thaws.
                return during().map(|value| (snapshot, value));
            }
        }
        let busy = std::io::Error::other("its files are cut in the middle of pages all the time");
        Err(PageError::local(self.directory(), busy).into())
    }

    fn snapshot(self: &Arc<Self>, all: bool) -> Snapshot {
        let (files, tree) = {
            let tree = self.tree();
            let linked = tree.nodes.values().filter(|node| node.linked && is_carried(node));
            let mut files: Vec<_> =
                linked.filter_map(|node| node.file.clone()).filter(|file| file.is_changed()).collect();
            files.sort_unstable_by_key(|file| file.id());
            (files, tree.diff(is_carried))
        };
        let freeze = |file: Arc<DataFile>| {
            let (carried, pages) = file.freeze(&self.ground, all);
            FrozenFile { file, carried, pages }
        };
        Snapshot { volume: self.clone(), files: files.into_iter().map(freeze).collect(), tree, all, published: None }
    }

    /// Makes every page the branch's own that was cut in its middle: what shows through its head would have to be fetched later, when it may
    /// be another's.
    async fn own_cut_pages(&self) -> Result<(), PageError> {
        for file in self.files() {
            let Some(page) = file.pages_to_carry(&self.ground, false).cut.map(PageNo) else { continue };
            let mut fetched = Fetched::default();
            loop {
                let needs = {
                    let _change = self.begin_change();
                    file.own_page(&self.ground, page, &fetched)?
                };
                if needs.is_empty() {
                    break;
                }
                self.fetch(file.id(), needs, &mut fetched).await?;
            }
        }
        Ok(())
    }

    /// Layers that were uploaded since the volume was opened, oldest first.
    pub fn uploaded(&self) -> Vec<LayerRef> {
        self.uploaded.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Pages that changed since the last upload.
    pub fn unpublished_pages(&self) -> u64 {
        self.files().iter().map(|file| file.unpublished_pages()).sum()
    }
}

impl Snapshot {
    /// The names of the moment.
    pub fn tree(&self) -> &TreeDiff {
        &self.tree
    }

    /// A manifest names `layers` now: the next upload carries only what changed since.
    pub fn published(mut self, layers: Vec<LayerRef>) {
        self.published = Some(layers);
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        for frozen in &self.files {
            frozen.file.thaw(&self.volume.ground, &frozen.carried, self.published.is_some());
        }
        if let Some(layers) = self.published.take() {
            let mut uploaded = self.volume.uploaded.lock().unwrap_or_else(PoisonError::into_inner);
            if self.all {
                uploaded.clear();
            }
            uploaded.extend(layers);
        }
    }
}
