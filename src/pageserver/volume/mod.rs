//! One branch's data directory: the base's pages and names with the branch's own over them, and the delta that makes these durable.
//!
//! This is what the filesystem serves. Every call that may need the store comes in two forms: one that does what is
//! possible without a request, for the threads that serve FUSE, and an `async` one that fetches first.
//! Lock order: tree, then a file's state, then the journal.

mod accounts;
mod fetch;
mod names;
mod open;
mod read_ahead;
mod recording;
mod snapshot;

pub use recording::{Recorded, Recording, StoredRange};
pub use snapshot::Snapshot;

use super::base::{Base, Extent};
use super::file::{DataFile, Fetched, Ground};
use super::index::Listing;
use super::seal::WAL_RECORD;
use super::tree::Tree;
use super::{NameProblem, PageError};
use crate::model::{FileId, FileKind, LayerRef, PAGE_SIZE, TreeDiff};
use read_ahead::Streams;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use tokio::sync::watch;

/// What a volume is opened from.
pub struct VolumeSource<'a> {
    pub base: Arc<Base>,
    /// Highest id of a file in the base.
    pub last_base_id: u64,
    /// The branch's layers, oldest first.
    pub layers: &'a [LayerRef],
    /// Its names, where it was suspended before.
    pub tree: Option<&'a TreeDiff>,
    /// Symlinks in the root that belong to this node and are kept nowhere: name and target.
    pub links: &'a [(&'a str, &'a Path)],
}

/// A branch's data directory.
pub struct Volume {
    pub(super) ground: Ground,
    tree: Mutex<Tree>,
    /// Whoever changes anything holds it shared; a snapshot is taken with everyone out.
    gate: RwLock<()>,
    /// Layers that were uploaded since the volume was opened, oldest first.
    uploaded: Mutex<Vec<LayerRef>>,
    /// What its last start read.
    recorded: Mutex<Option<Arc<Recorded>>>,
    last_base_id: u64,
    /// Overlay files that may go once the journal no longer names their pages.
    removals: Mutex<Vec<String>>,
    pid_file: watch::Sender<Vec<u8>>,
    streams: Streams,
}

/// The name that a server's readiness is read from.
const PID_FILE: &str = "postmaster.pid";

impl Volume {
    /// The base's entries of a directory, without a request.
    pub fn near_listing(&self, directory: FileId) -> Option<Listing> {
        if directory.0 > self.last_base_id {
            return Some(Arc::new([]));
        }
        self.ground.recording.note_listing(directory);
        self.ground.base.cached_listing(directory)
    }

    /// The base's entries of a directory.
    pub async fn listing(&self, directory: FileId) -> Result<Listing, PageError> {
        match self.near_listing(directory) {
            Some(listing) => Ok(listing),
            None => self.ground.base.listing(directory).await,
        }
    }

    /// The regular file with this id.
    pub fn file(&self, id: FileId) -> Result<Arc<DataFile>, PageError> {
        Ok(self.tree().node(id)?.file.clone().ok_or(NameProblem::IsDirectory)?)
    }

    /// Reads into `out` if that needs no request; false otherwise.
    pub fn read_near(&self, file: &DataFile, offset: u64, length: usize, out: &mut Vec<u8>) -> Result<bool, PageError> {
        Ok(file.read(&self.ground, offset, length, &Fetched::default(), out)?.is_empty())
    }

    /// Reads `length` bytes at `offset`, fewer at the end of the file.
    pub async fn read(&self, file: &DataFile, offset: u64, length: usize) -> Result<Vec<u8>, PageError> {
        let (mut fetched, mut out) = (Fetched::default(), Vec::with_capacity(length));
        loop {
            let needs = file.read(&self.ground, offset, length, &fetched, &mut out)?;
            if needs.is_empty() {
                return Ok(out);
            }
            self.fetch(file.id(), needs, &mut fetched).await?;
        }
    }

    /// Writes if that needs no request; false otherwise.
    pub fn write_near(&self, file: &DataFile, offset: u64, data: &[u8]) -> Result<bool, PageError> {
        let _change = self.begin_change();
        Ok(file.write(&self.ground, offset, data, &Fetched::default())?.is_empty())
    }

    /// Writes `data` at `offset`.
    pub async fn write(&self, file: &DataFile, offset: u64, data: &[u8]) -> Result<(), PageError> {
        let mut fetched = Fetched::default();
        loop {
            let needs = {
                let _change = self.begin_change();
                file.write(&self.ground, offset, data, &fetched)?
            };
            if needs.is_empty() {
                return Ok(());
            }
            self.fetch(file.id(), needs, &mut fetched).await?;
        }
    }

    /// The pages of the WAL segment that base or layers carry, `pages` of them, one after another.
    pub async fn read_wal(&self, pages: usize) -> Result<Vec<u8>, PageError> {
        let used = (pages * PAGE_SIZE) as u64;
        let listing = self.ground.base.listing(FileId(0)).await?;
        let extent = listing
            .iter()
            .find(|record| record.id == FileId::WAL)
            .map(|record| Extent { first_frame: record.first_frame, size: record.size });
        let file = match extent {
            Some(extent) => DataFile::of_base(FileId::WAL, (FileId(0), WAL_RECORD), extent, used, true),
            None => DataFile::new(FileId::WAL, used, true),
        };
        let mut content = self.read(&file, 0, used as usize).await?;
        content.resize(used as usize, 0);
        Ok(content)
    }

    /// Whether every start makes this node anew.
    pub fn is_transient(&self, id: FileId) -> bool {
        self.tree().node(id).is_ok_and(|node| node.transient)
    }

    /// The whole of a file, found by the names on the way to it; `None` where there is none.
    pub async fn read_path(&self, path: &[String]) -> Result<Option<Vec<u8>>, PageError> {
        let Some(id) = self.find_path(path).await? else { return Ok(None) };
        let file = self.file(id)?;
        Ok(Some(self.read(&file, 0, file.size() as usize).await?))
    }

    /// What is in a directory, found likewise; nothing where there is none.
    pub async fn list_path(&self, path: &[String]) -> Result<Vec<(FileKind, String)>, PageError> {
        let Some(id) = self.find_path(path).await? else { return Ok(Vec::new()) };
        let listing = self.listing(id).await?;
        Ok(self.entries(id, &listing)?.into_iter().map(|(_, kind, name)| (kind, name)).collect())
    }

    async fn find_path(&self, path: &[String]) -> Result<Option<FileId>, PageError> {
        let mut id = FileId::ROOT;
        for name in path {
            let listing = self.listing(id).await?;
            id = match self.peek(id, name, &listing) {
                Ok(found) => found,
                Err(PageError::Name(NameProblem::NotFound)) => return Ok(None),
                Err(e) => return Err(e),
            };
        }
        Ok(Some(id))
    }

    /// Cuts or grows a file.
    pub fn set_size(&self, file: &DataFile, size: u64) -> Result<(), PageError> {
        let _change = self.begin_change();
        file.set_size(&self.ground, size)
    }

    /// Makes a file, and every earlier change of names, durable.
    pub fn sync(&self, file: &DataFile) -> Result<(), PageError> {
        if file.is_transient() {
            return Ok(());
        }
        self.then_remove_released(|| file.sync(&self.ground))
    }

    /// Makes every change of names durable.
    pub fn sync_names(&self) -> Result<(), PageError> {
        self.then_remove_released(|| self.ground.journal.commit())
    }

    /// Makes everything durable: before a compute recovers with `syncfs`, which the kernel does not pass on.
    pub fn sync_all(&self) -> Result<(), PageError> {
        for file in self.files().iter().filter(|file| file.is_changed()) {
            file.sync(&self.ground)?;
        }
        self.sync_names()
    }

    /// Held while anything of the volume is changed. Lock order: before tree and files.
    fn begin_change(&self) -> RwLockReadGuard<'_, ()> {
        self.gate.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn files(&self) -> Vec<Arc<DataFile>> {
        self.tree().nodes.values().filter_map(|node| node.file.clone()).collect()
    }

    /// Commits, then removes the overlays of what was released before: these removals are durable now, later ones are not.
    fn then_remove_released(&self, commit: impl FnOnce() -> Result<(), PageError>) -> Result<(), PageError> {
        let removals = || self.removals.lock().unwrap_or_else(PoisonError::into_inner);
        let released = std::mem::take(&mut *removals());
        if let Err(error) = commit() {
            removals().extend(released);
            return Err(error);
        }
        for name in released {
            // What stays is removed as a stray at the next open.
            let _ = self.ground.disk.remove(&name);
        }
        Ok(())
    }

    /// Tells whoever waits for the server's readiness what it wrote to its pid file.
    pub fn announce_pid_file(&self, file: &DataFile) {
        let is_pid_file =
            self.tree().node(file.id()).is_ok_and(|node| node.parent == FileId::ROOT && node.name == PID_FILE);
        let mut content = Vec::new();
        if is_pid_file && self.read_near(file, 0, 4096, &mut content).unwrap_or(false) {
            self.pid_file.send_replace(content);
        }
    }

    /// Removes the pid file that a killed server left: the process it names may be another's by now. Before a mount.
    pub async fn remove_pid_file(&self) -> Result<(), PageError> {
        self.remove_root_file(PID_FILE).await
    }

    /// Removes a file of the data directory's root, if it is there. Before a mount.
    pub async fn remove_root_file(&self, name: &str) -> Result<(), PageError> {
        let listing = self.listing(FileId::ROOT).await?;
        match self.remove(FileId::ROOT, name, &listing, None) {
            Err(PageError::Name(NameProblem::NotFound)) => Ok(()),
            outcome => outcome,
        }
    }

    /// The content of `postmaster.pid` each time the server makes it durable.
    pub fn pid_file(&self) -> watch::Receiver<Vec<u8>> {
        self.pid_file.send_replace(Vec::new());
        self.pid_file.subscribe()
    }

    /// Pages in the delta.
    pub fn own_pages(&self) -> u64 {
        self.ground.own_pages.load(Ordering::Relaxed)
    }

    /// Where the delta is.
    pub fn directory(&self) -> &Path {
        self.ground.disk.folder()
    }

    pub(super) fn tree(&self) -> MutexGuard<'_, Tree> {
        self.tree.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
