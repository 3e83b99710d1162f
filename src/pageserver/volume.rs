//! One branch's data directory: the base's pages and names with the branch's own over them, and the delta that makes these durable.
//!
//! This is what the filesystem serves. Every call that may need the store comes in two forms: one that does what is
//! possible without a request, for the threads that serve FUSE, and an `async` one that fetches first.
//! Lock order: tree, then a file's state, then the journal.

use super::base::{Base, Extent};
use super::cache::PageCache;
use super::file::{DataFile, Fetched, Ground, Need, overlay_path};
use super::index::Listing;
use super::journal::{Change, Journal};
use super::layer::LayerSet;
use super::seal::WAL_RECORD;
use super::tree::{Attributes, Tree, Unlinked};
use super::{NameProblem, PageError};
use crate::model::{FileId, FileKind, LayerRef, PAGE_SIZE, TreeDiff};
use futures::future::try_join_all;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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
    last_base_id: u64,
    /// Overlay files that may go once the journal no longer names their pages.
    removals: Mutex<Vec<PathBuf>>,
    pid_file: watch::Sender<Vec<u8>>,
}

/// The name that a server's readiness is read from.
const PID_FILE: &str = "postmaster.pid";

impl Volume {
    /// Opens the branch's data with the delta in `directory`, made if missing. `delta` names what the delta is a difference to: a delta of another
    /// name is from before a later upload, and is dropped.
    pub async fn open(
        cache: PageCache,
        source: VolumeSource<'_>,
        directory: &Path,
        delta: &str,
    ) -> Result<Volume, PageError> {
        let overlays = directory.to_owned();
        std::fs::create_dir_all(&overlays).map_err(|e| PageError::local(&overlays, e))?;
        let layers = LayerSet::open(cache, source.layers).await?;
        let (journal, changes) = Journal::open(&overlays.join("journal"), delta)?;
        let root = source.base.listing(FileId(0)).await?;
        let root_mode = root.first().map_or(0o700, |record| record.mode);
        let mut tree = Tree::new(root_mode, (source.last_base_id + 1).max(FileId::FIRST.0));
        if let Some(diff) = source.tree {
            tree.apply(diff);
        }
        let first_link = FileId::WAL.0 + 1;
        for (number, (name, target)) in source.links.iter().enumerate() {
            let target = target.to_string_lossy().into_owned();
            tree.create_as(
                FileId(first_link + number as u64),
                FileId::ROOT,
                name,
                (FileKind::Symlink, 0o777, Some(target)),
            );
        }
        let ground = Ground { base: source.base, layers, journal, overlays, own_pages: AtomicU64::new(0) };
        let volume = Volume {
            ground,
            tree: Mutex::new(tree),
            last_base_id: source.last_base_id,
            removals: Mutex::default(),
            pid_file: watch::Sender::new(Vec::new()),
        };
        volume.replay(changes).await?;
        for file in volume.files() {
            file.settle()?;
        }
        volume.remove_strays()?;
        Ok(volume)
    }

    async fn replay(&self, changes: Vec<Change>) -> Result<(), PageError> {
        for change in changes {
            match &change {
                Change::Create { id, parent, name, kind, mode, target } => {
                    self.tree().create_as(*id, *parent, name, (*kind, *mode, target.clone()));
                }
                Change::Adopt { id, parent, name } => {
                    let listing = self.listing(*parent).await?;
                    let mut tree = self.tree();
                    // The kernel may write back a page of a file that was just removed: its record then stands behind the removal.
                    match tree.resolve(*parent, name, &listing) {
                        Err(NameProblem::NotFound) => {}
                        _ if tree.nodes.contains_key(id) => {}
                        outcome => drop(outcome?),
                    }
                }
                Change::Remove { parent, name } => {
                    let listing = self.listing(*parent).await?;
                    let mut tree = self.tree();
                    let id = tree.resolve(*parent, name, &listing)?;
                    let is_directory = tree.node(id)?.kind == FileKind::Directory;
                    let nothing: Listing = Arc::new([]);
                    let unlinked = tree.remove(*parent, name, &listing, is_directory.then_some(&nothing));
                    // A directory of the base may still seem to hold what was removed as transient.
                    self.release(&mut tree, unlinked?);
                }
                Change::Rename { parent, name, new_parent, new_name } => {
                    let (listing, new_listing) = (self.listing(*parent).await?, self.listing(*new_parent).await?);
                    let mut tree = self.tree();
                    let nothing: Listing = Arc::new([]);
                    let from = (*parent, name.as_str(), &listing);
                    let to = (*new_parent, new_name.as_str(), &new_listing);
                    if let Some(unlinked) = tree.rename(from, to, Some(&nothing))? {
                        self.release(&mut tree, unlinked);
                    }
                }
                Change::Mode { id, mode } => {
                    let mut tree = self.tree();
                    // As for Adopt.
                    if let Ok(node) = tree.node_mut(*id) {
                        (node.mode, node.changed) = (*mode, true);
                    }
                }
                Change::Truncate { id, .. } | Change::Grow { id, .. } | Change::Pages { id, .. } => {
                    // A file that was removed while a later fsync still named it.
                    let file = self.tree().node(*id).ok().and_then(|node| node.file.clone());
                    if let Some(file) = file {
                        file.replay(&self.ground, &change)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Removes overlay files that no node has: what was created and never journaled before a crash.
    fn remove_strays(&self) -> Result<(), PageError> {
        let folder = &self.ground.overlays;
        let local = |e| PageError::local(folder, e);
        let known: std::collections::HashSet<_> = {
            let tree = self.tree();
            tree.nodes.keys().map(|id| overlay_path(&self.ground, *id)).collect()
        };
        for entry in std::fs::read_dir(folder).map_err(local)? {
            let path = entry.map_err(local)?.path();
            if !known.contains(&path) && path.file_name().is_some_and(|name| name != "journal") {
                std::fs::remove_file(&path).map_err(local)?;
            }
        }
        Ok(())
    }

    /// The base's entries of a directory, without a request.
    pub fn near_listing(&self, directory: FileId) -> Option<Listing> {
        if directory.0 > self.last_base_id { Some(Arc::new([])) } else { self.ground.base.cached_listing(directory) }
    }

    /// The base's entries of a directory.
    pub async fn listing(&self, directory: FileId) -> Result<Listing, PageError> {
        match self.near_listing(directory) {
            Some(listing) => Ok(listing),
            None => self.ground.base.listing(directory).await,
        }
    }

    /// What `name` is. The kernel is told of it, so its reference is counted.
    pub fn lookup(&self, parent: FileId, name: &str, listing: &Listing) -> Result<Attributes, PageError> {
        let (attributes, file) = {
            let mut tree = self.tree();
            let id = tree.resolve(parent, name, listing)?;
            let node = tree.node_mut(id)?;
            node.lookups += 1;
            let file = node.file.clone();
            (tree.attributes_but_size(id)?, file)
        };
        Ok(attributes.with_size_of(file.as_deref()))
    }

    /// The id behind a name, which the kernel is not told of.
    pub fn peek(&self, parent: FileId, name: &str, listing: &Listing) -> Result<FileId, PageError> {
        Ok(self.tree().resolve(parent, name, listing)?)
    }

    /// What a node is.
    pub fn attributes(&self, id: FileId) -> Result<Attributes, PageError> {
        // Not under the tree's lock: a file's size may have to wait for a truncation, and that for the disk.
        let (attributes, file) = {
            let tree = self.tree();
            (tree.attributes_but_size(id)?, tree.node(id)?.file.clone())
        };
        Ok(attributes.with_size_of(file.as_deref()))
    }

    /// Where a symlink points.
    pub fn target(&self, id: FileId) -> Result<String, PageError> {
        Ok(self.tree().node(id)?.target.clone().ok_or(NameProblem::NotFound)?)
    }

    /// Makes a file, directory or symlink, which the kernel is told of.
    pub fn create(
        &self,
        parent: FileId,
        name: &str,
        listing: &Listing,
        (kind, mode, target): (FileKind, u32, Option<String>),
    ) -> Result<Attributes, PageError> {
        let mut tree = self.tree();
        let id = tree.create(parent, name, listing, (kind, mode, target.clone()))?;
        let node = tree.node_mut(id)?;
        node.lookups += 1;
        if !node.transient {
            self.ground.journal.append(&Change::Create { id, parent, name: name.to_owned(), kind, mode, target });
        }
        Ok(tree.attributes_but_size(id)?)
    }

    /// Removes a name; `own_listing` is the base's listing of the directory that is removed, for rmdir.
    pub fn remove(
        &self,
        parent: FileId,
        name: &str,
        listing: &Listing,
        own_listing: Option<&Listing>,
    ) -> Result<(), PageError> {
        let mut tree = self.tree();
        let unlinked = tree.remove(parent, name, listing, own_listing)?;
        if !unlinked.transient {
            self.ground.journal.append(&Change::Remove { parent, name: name.to_owned() });
        }
        self.release(&mut tree, unlinked);
        Ok(())
    }

    /// Moves a name, over an existing one if need be. `replaced` is the base's listing of a directory that is replaced.
    pub fn rename(
        &self,
        (parent, name, listing): (FileId, &str, &Listing),
        (new_parent, new_name, new_listing): (FileId, &str, &Listing),
        replaced: Option<&Listing>,
    ) -> Result<(), PageError> {
        let mut tree = self.tree();
        let id = tree.resolve(parent, name, listing)?;
        let target_is_transient = super::transient::is_transient(&tree.node(new_parent)?.name, new_name);
        let unlinked = tree.rename((parent, name, listing), (new_parent, new_name, new_listing), replaced)?;
        let node = tree.node_mut(id)?;
        match (node.transient, target_is_transient) {
            (true, true) => {}
            (true, false) => {
                node.transient = false;
                let (kind, mode, target) = (node.kind, node.mode, node.target.clone());
                if let Some(file) = &node.file {
                    file.make_durable();
                }
                if unlinked.as_ref().is_some_and(|unlinked| !unlinked.transient) {
                    self.ground.journal.append(&Change::Remove { parent: new_parent, name: new_name.to_owned() });
                }
                let (parent, name) = (new_parent, new_name.to_owned());
                self.ground.journal.append(&Change::Create { id, parent, name, kind, mode, target });
            }
            (false, _) => self.ground.journal.append(&Change::Rename {
                parent,
                name: name.to_owned(),
                new_parent,
                new_name: new_name.to_owned(),
            }),
        }
        if let Some(unlinked) = unlinked {
            self.release(&mut tree, unlinked);
        }
        Ok(())
    }

    /// Changes permission bits.
    pub fn set_mode(&self, id: FileId, mode: u32) -> Result<(), PageError> {
        let mut tree = self.tree();
        let node = tree.node_mut(id)?;
        (node.mode, node.changed) = (mode & 0o7777, true);
        let origin = node.file.as_ref().and_then(|file| file.origin()).map(|origin| (origin.parent, origin.name));
        let (transient, here) = (node.transient, (node.parent, node.name.clone()));
        if !transient {
            let (parent, name) = origin.unwrap_or(here);
            if id != FileId::ROOT {
                self.ground.journal.append(&Change::Adopt { id, parent, name });
            }
            self.ground.journal.append(&Change::Mode { id, mode: mode & 0o7777 });
        }
        Ok(())
    }

    /// The kernel dropped `count` references to a node.
    pub fn forget(&self, id: FileId, count: u64) {
        let mut tree = self.tree();
        if tree.forget(id, count) {
            let transient = tree.node(id).is_ok_and(|node| node.transient);
            self.release(&mut tree, Unlinked { id, forgotten: true, transient });
        }
    }

    /// The mount is gone, and with it every reference the kernel had.
    pub fn forget_all(&self) {
        let mut tree = self.tree();
        let gone: Vec<_> = tree.forget_all();
        for unlinked in gone {
            self.release(&mut tree, unlinked);
        }
    }

    /// Drops a node without a name, once the kernel does not refer to it either.
    fn release(&self, tree: &mut Tree, unlinked: Unlinked) {
        if !unlinked.forgotten {
            return;
        }
        let Some(file) = tree.nodes.remove(&unlinked.id).and_then(|node| node.file) else { return };
        let path = overlay_path(&self.ground, unlinked.id);
        if file.discard(&self.ground) {
            self.removals.lock().unwrap_or_else(PoisonError::into_inner).push(path);
        } else {
            // Never journaled. If it is missing, it was never written.
            let _ = std::fs::remove_file(path);
        }
    }

    /// The directory's entries sorted by id, each counted as told to the kernel if `counted`.
    pub fn entries(&self, directory: FileId, listing: &Listing) -> Result<Vec<(FileId, FileKind, String)>, PageError> {
        let tree = self.tree();
        tree.node(directory)?;
        Ok(tree.entries(directory, listing))
    }

    /// A directory's parent.
    pub fn parent(&self, directory: FileId) -> Result<FileId, PageError> {
        Ok(self.tree().node(directory)?.parent)
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
        Ok(file.write(&self.ground, offset, data, &Fetched::default())?.is_empty())
    }

    /// Writes `data` at `offset`.
    pub async fn write(&self, file: &DataFile, offset: u64, data: &[u8]) -> Result<(), PageError> {
        let mut fetched = Fetched::default();
        loop {
            let needs = file.write(&self.ground, offset, data, &fetched)?;
            if needs.is_empty() {
                return Ok(());
            }
            self.fetch(file.id(), needs, &mut fetched).await?;
        }
    }

    async fn fetch(&self, file: FileId, needs: Vec<Need>, fetched: &mut Fetched) -> Result<(), PageError> {
        let mut needs = needs;
        needs.dedup_by_key(|need| match need {
            Need::Layer(page, _) => (0, page.0),
            Need::Base(_, number) => (1, *number),
        });
        let contents = needs.into_iter().map(|need| async move {
            let content = match need {
                Need::Layer(_, place) => self.ground.layers.page(place).await?,
                Need::Base(extent, number) => self.ground.base.frame(file, extent, number).await?,
            };
            Ok::<_, PageError>((need, content))
        });
        for (need, content) in try_join_all(contents).await? {
            fetched.add(need, content);
        }
        Ok(())
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

    /// Cuts or grows a file.
    pub fn set_size(&self, file: &DataFile, size: u64) -> Result<(), PageError> {
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
        for path in released {
            // What stays is removed as a stray at the next open.
            let _ = std::fs::remove_file(path);
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
        &self.ground.overlays
    }

    pub(super) fn tree(&self) -> MutexGuard<'_, Tree> {
        self.tree.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
