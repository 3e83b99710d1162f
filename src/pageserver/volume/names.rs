//! Names: looking them up, making, moving and removing them, and forgetting what the kernel forgot.

use super::Volume;
use crate::model::{FileId, FileKind};
use crate::pageserver::file::overlay_name;
use crate::pageserver::journal::Change;
use crate::pageserver::transient::is_transient;
use crate::pageserver::tree::{Tree, Unlinked};
use crate::pageserver::{Attributes, Listing, NameProblem, PageError};
use std::sync::PoisonError;

impl Volume {
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
        let _change = self.begin_change();
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
        let _change = self.begin_change();
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
        let _change = self.begin_change();
        let mut tree = self.tree();
        let id = tree.resolve(parent, name, listing)?;
        let target_is_transient = is_transient(&tree.node(new_parent)?.name, new_name);
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
        let _change = self.begin_change();
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
    pub(super) fn release(&self, tree: &mut Tree, unlinked: Unlinked) {
        if !unlinked.forgotten {
            return;
        }
        let Some(file) = tree.nodes.remove(&unlinked.id).and_then(|node| node.file) else { return };
        let name = overlay_name(unlinked.id);
        if file.discard(&self.ground) {
            self.removals.lock().unwrap_or_else(PoisonError::into_inner).push(name);
        } else {
            // Never journaled. If it is missing, it was never written.
            let _ = self.ground.disk.remove(&name);
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
}
