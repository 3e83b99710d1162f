//! Opening a volume: base, layers and names, then the journal replayed over them.

use super::read_ahead::Streams;
use super::{Recording, Volume, VolumeSource};
use crate::model::{FileId, FileKind};
use crate::pageserver::disk::Disk;
use crate::pageserver::file::{Ground, NamesOnDisk, overlay_name};
use crate::pageserver::journal::{Change, Journal};
use crate::pageserver::layer::LayerSet;
use crate::pageserver::tree::Tree;
use crate::pageserver::{Listing, NameProblem, PageCache, PageError};
use std::collections::HashSet;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, RwLock};
use tokio::sync::watch;

impl Volume {
    /// Opens the branch's data with the delta on `disk`. `delta` names what the delta is a difference to: a delta of another
    /// name is from before a later upload, and is dropped.
    pub async fn open(
        cache: PageCache,
        source: VolumeSource<'_>,
        disk: Arc<dyn Disk>,
        delta: &str,
    ) -> Result<Volume, PageError> {
        let layers = LayerSet::open(cache, source.layers).await?;
        let (journal, changes) = Journal::open(disk.clone(), delta)?;
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
        let ground = Ground {
            base: source.base,
            layers,
            journal,
            disk,
            names: NamesOnDisk::default(),
            own_pages: AtomicU64::new(0),
            recording: Recording::default(),
        };
        let volume = Volume {
            ground,
            tree: Mutex::new(tree),
            gate: RwLock::default(),
            uploaded: Mutex::default(),
            recorded: Mutex::default(),
            last_base_id: source.last_base_id,
            removals: Mutex::default(),
            pid_file: watch::Sender::new(Vec::new()),
            streams: Streams::default(),
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
        let disk = &self.ground.disk;
        let local = |e| PageError::local(disk.folder(), e);
        let known: HashSet<String> = self.tree().nodes.keys().map(|id| overlay_name(*id)).collect();
        for name in disk.names().map_err(local)? {
            if !known.contains(&name) && name != Journal::NAME {
                disk.remove(&name).map_err(local)?;
            }
        }
        Ok(())
    }
}
