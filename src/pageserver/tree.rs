//! The names of a branch: the base's directories with the branch's own changes over them.
//!
//! A node is made when its name is first looked up or changed. `names` holds, per directory, what differs from the base: a
//! name of the branch's own, or a name of the base that is gone. Directories keep their id when renamed, so
//! what is below them is never touched. Callers pass in the base's [`Listing`] of each directory concerned, since reading it may take a request.

use super::NameProblem;
use super::base::Extent;
use super::file::DataFile;
use super::index::{Listing, Record};
use super::transient::is_transient;
use crate::model::{Entry, FileId, FileKind, Tombstone, TreeDiff};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// What `stat` tells of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attributes {
    pub id: FileId,
    pub kind: FileKind,
    pub mode: u32,
    /// Bytes.
    pub size: u64,
}

impl Attributes {
    pub(super) fn with_size_of(self, file: Option<&DataFile>) -> Attributes {
        Attributes { size: file.map_or(self.size, DataFile::size), ..self }
    }
}

pub(super) struct Node {
    pub id: FileId,
    pub parent: FileId,
    pub name: String,
    pub kind: FileKind,
    pub mode: u32,
    pub target: Option<String>,
    pub file: Option<Arc<DataFile>>,
    /// It has a name. Without one it lives as long as the kernel refers to it.
    pub linked: bool,
    /// Its name or mode is not the base's.
    pub changed: bool,
    /// Not in the journal, not in a layer.
    pub transient: bool,
    /// How often the kernel was told of it (FUSE's `nlookup`).
    pub lookups: u64,
}

pub(super) struct Tree {
    pub nodes: HashMap<FileId, Node>,
    names: HashMap<FileId, BTreeMap<String, Option<FileId>>>,
    next_id: u64,
}

/// A node that was removed or replaced, and whether nothing refers to it any more.
pub(super) struct Unlinked {
    pub id: FileId,
    pub forgotten: bool,
    pub transient: bool,
}

impl Tree {
    /// The base's tree with `diff` over it, which files `next_id` and up extend.
    pub fn new(root_mode: u32, next_id: u64) -> Tree {
        let root = Node {
            id: FileId::ROOT,
            parent: FileId::ROOT,
            name: String::new(),
            kind: FileKind::Directory,
            mode: root_mode,
            target: None,
            file: None,
            linked: true,
            changed: false,
            transient: false,
            lookups: 1,
        };
        Tree { nodes: HashMap::from([(FileId::ROOT, root)]), names: HashMap::new(), next_id }
    }

    pub fn next_id(&self) -> u64 {
        self.next_id
    }

    /// Puts what a manifest carries over the base.
    pub fn apply(&mut self, diff: &TreeDiff) {
        self.next_id = self.next_id.max(diff.next_id);
        for removed in &diff.removed {
            self.names.entry(removed.parent).or_default().insert(removed.name.clone(), None);
        }
        for entry in &diff.entries {
            if entry.id == FileId::ROOT {
                if let Some(root) = self.nodes.get_mut(&FileId::ROOT) {
                    (root.mode, root.changed) = (entry.mode, true);
                }
                continue;
            }
            let file = (entry.kind == FileKind::File).then(|| {
                Arc::new(match &entry.origin {
                    Some(origin) => {
                        let extent = Extent { first_frame: origin.first_frame, size: origin.size };
                        DataFile::of_base(entry.id, (origin.parent, &origin.name), extent, entry.size, false)
                    }
                    None => DataFile::new(entry.id, entry.size, false),
                })
            });
            self.insert(Node {
                id: entry.id,
                parent: entry.parent,
                name: entry.name.clone(),
                kind: entry.kind,
                mode: entry.mode,
                target: entry.target.clone(),
                file,
                linked: true,
                changed: true,
                transient: false,
                lookups: 0,
            });
        }
    }

    fn insert(&mut self, node: Node) {
        self.names.entry(node.parent).or_default().insert(node.name.clone(), Some(node.id));
        self.nodes.insert(node.id, node);
    }

    pub fn node(&self, id: FileId) -> Result<&Node, NameProblem> {
        self.nodes.get(&id).ok_or(NameProblem::NotFound)
    }

    pub fn node_mut(&mut self, id: FileId) -> Result<&mut Node, NameProblem> {
        self.nodes.get_mut(&id).ok_or(NameProblem::NotFound)
    }

    /// A regular file's size is 0 here: see [`Attributes::with_size_of`].
    pub fn attributes_but_size(&self, id: FileId) -> Result<Attributes, NameProblem> {
        let node = self.node(id)?;
        let size = node.target.as_ref().map_or(0, |target| target.len() as u64);
        Ok(Attributes { id, kind: node.kind, mode: node.mode, size })
    }

    /// The node named `name`, made from the base's record if need be.
    pub fn resolve(&mut self, parent: FileId, name: &str, listing: &Listing) -> Result<FileId, NameProblem> {
        if let Some(own) = self.names.get(&parent).and_then(|names| names.get(name)) {
            return own.ok_or(NameProblem::NotFound);
        }
        let at = listing.binary_search_by(|record| (*record.name).cmp(name)).map_err(|_| NameProblem::NotFound)?;
        let record = &listing[at];
        // A node of this id with another name was renamed away; its old name is then in `names`.
        if !self.nodes.contains_key(&record.id) {
            let node = self.node_of(record);
            self.nodes.insert(record.id, node);
        }
        Ok(record.id)
    }

    fn node_of(&self, record: &Record) -> Node {
        let transient = is_transient(self.name_of(record.parent), &record.name);
        let file = (record.kind == FileKind::File).then(|| {
            let extent = Extent { first_frame: record.first_frame, size: record.size };
            Arc::new(DataFile::of_base(record.id, (record.parent, &record.name), extent, record.size, transient))
        });
        Node {
            id: record.id,
            parent: record.parent,
            name: record.name.to_string(),
            kind: record.kind,
            mode: record.mode,
            target: record.target.as_deref().map(str::to_owned),
            file,
            linked: true,
            changed: false,
            transient,
            lookups: 0,
        }
    }

    fn name_of(&self, directory: FileId) -> &str {
        self.nodes.get(&directory).map_or("", |node| &node.name)
    }

    /// Adds a node under a name that is free.
    pub fn create(
        &mut self,
        parent: FileId,
        name: &str,
        listing: &Listing,
        (kind, mode, target): (FileKind, u32, Option<String>),
    ) -> Result<FileId, NameProblem> {
        if self.node(parent)?.kind != FileKind::Directory {
            return Err(NameProblem::NotDirectory);
        }
        match self.resolve(parent, name, listing) {
            Ok(_) => return Err(NameProblem::Exists),
            Err(NameProblem::NotFound) => {}
            Err(e) => return Err(e),
        }
        let id = FileId(self.next_id);
        self.next_id += 1;
        self.create_as(id, parent, name, (kind, mode, target));
        Ok(id)
    }

    /// Adds a node with the id that a journal or a link table gives.
    pub fn create_as(
        &mut self,
        id: FileId,
        parent: FileId,
        name: &str,
        (kind, mode, target): (FileKind, u32, Option<String>),
    ) {
        self.next_id = self.next_id.max(id.0 + 1);
        let transient =
            self.nodes.get(&parent).is_some_and(|parent| parent.transient) || is_transient(self.name_of(parent), name);
        let file = (kind == FileKind::File).then(|| Arc::new(DataFile::new(id, 0, transient)));
        self.insert(Node {
            id,
            parent,
            name: name.to_owned(),
            kind,
            mode,
            target,
            file,
            linked: true,
            changed: true,
            transient,
            lookups: 0,
        });
    }

    /// Removes a name. `directory` tells rmdir from unlink.
    pub fn remove(
        &mut self,
        parent: FileId,
        name: &str,
        listing: &Listing,
        directory: Option<&Listing>,
    ) -> Result<Unlinked, NameProblem> {
        let id = self.resolve(parent, name, listing)?;
        match (self.node(id)?.kind == FileKind::Directory, directory) {
            (true, None) => return Err(NameProblem::IsDirectory),
            (false, Some(_)) => return Err(NameProblem::NotDirectory),
            (true, Some(own)) if !self.entries(id, own).is_empty() => return Err(NameProblem::NotEmpty),
            _ => {}
        }
        self.unname(parent, name, listing);
        self.unlink(id)
    }

    /// Takes `name` away: a whiteout where the base has it, nothing otherwise.
    fn unname(&mut self, parent: FileId, name: &str, listing: &Listing) {
        let names = self.names.entry(parent).or_default();
        if listing.binary_search_by(|record| (*record.name).cmp(name)).is_ok() {
            names.insert(name.to_owned(), None);
        } else {
            names.remove(name);
        }
    }

    fn unlink(&mut self, id: FileId) -> Result<Unlinked, NameProblem> {
        let node = self.node_mut(id)?;
        node.linked = false;
        Ok(Unlinked { id, forgotten: node.lookups == 0, transient: node.transient })
    }

    /// Moves a name, over one that exists if need be. Returns the node that was replaced.
    pub fn rename(
        &mut self,
        (parent, name, listing): (FileId, &str, &Listing),
        (new_parent, new_name, new_listing): (FileId, &str, &Listing),
        replaced_listing: Option<&Listing>,
    ) -> Result<Option<Unlinked>, NameProblem> {
        let id = self.resolve(parent, name, listing)?;
        let replaced = match self.resolve(new_parent, new_name, new_listing) {
            Ok(existing) if existing == id => return Ok(None),
            Ok(existing) => Some(existing),
            Err(NameProblem::NotFound) => None,
            Err(e) => return Err(e),
        };
        if let Some(replaced) = replaced {
            let (moved, target) = (self.node(id)?.kind, self.node(replaced)?.kind);
            match (moved == FileKind::Directory, target == FileKind::Directory) {
                (false, true) => return Err(NameProblem::IsDirectory),
                (true, false) => return Err(NameProblem::NotDirectory),
                (true, true) if replaced_listing.is_none_or(|own| !self.entries(replaced, own).is_empty()) => {
                    return Err(NameProblem::NotEmpty);
                }
                _ => {}
            }
        }
        self.unname(parent, name, listing);
        let replaced = replaced.map(|replaced| self.unlink(replaced)).transpose()?;
        self.names.entry(new_parent).or_default().insert(new_name.to_owned(), Some(id));
        let node = self.node_mut(id)?;
        (node.parent, node.name, node.changed) = (new_parent, new_name.to_owned(), true);
        Ok(replaced)
    }

    /// The directory's entries, sorted by id: an id is a stable place to go on reading from.
    pub fn entries(&self, directory: FileId, listing: &Listing) -> Vec<(FileId, FileKind, String)> {
        let own = self.names.get(&directory);
        let hidden = |name: &str| own.is_some_and(|names| names.contains_key(name));
        let base = listing.iter().filter(|record| !hidden(&record.name));
        let mut entries: Vec<_> = base.map(|record| (record.id, record.kind, record.name.to_string())).collect();
        for (name, id) in own.into_iter().flatten() {
            if let Some(node) = id.and_then(|id| self.nodes.get(&id)) {
                entries.push((node.id, node.kind, name.clone()));
            }
        }
        entries.sort_unstable_by_key(|entry| entry.0);
        entries
    }

    /// The kernel dropped `count` of its references. True if nothing refers to the node any more and it has no name.
    pub fn forget(&mut self, id: FileId, count: u64) -> bool {
        let Some(node) = self.nodes.get_mut(&id) else { return false };
        node.lookups = node.lookups.saturating_sub(count);
        node.lookups == 0 && !node.linked
    }

    /// The kernel dropped all of its references; returns the nodes without a name.
    pub fn forget_all(&mut self) -> Vec<Unlinked> {
        self.nodes.values_mut().for_each(|node| node.lookups = 0);
        let gone = self.nodes.values().filter(|node| !node.linked);
        gone.map(|node| Unlinked { id: node.id, forgotten: true, transient: node.transient }).collect()
    }

    /// What a manifest must carry. Names of files that are to be left out, and links, are not in it.
    pub fn diff(&self, is_carried: impl Fn(&Node) -> bool) -> TreeDiff {
        let carried = |node: &&Node| {
            let own = node.changed || node.file.as_ref().is_some_and(|file| file.is_changed());
            own && node.linked && is_carried(node)
        };
        let mut entries: Vec<Entry> = self
            .nodes
            .values()
            .filter(carried)
            .map(|node| Entry {
                id: node.id,
                parent: node.parent,
                name: node.name.clone(),
                kind: node.kind,
                mode: node.mode,
                size: node.file.as_ref().map_or(0, |file| file.size()),
                target: node.target.clone(),
                origin: node.file.as_ref().and_then(|file| file.origin()),
            })
            .collect();
        entries.sort_unstable_by_key(|entry| entry.id);
        let mut removed: Vec<Tombstone> = Vec::new();
        for (parent, names) in &self.names {
            let gone = names.iter().filter(|(_, id)| id.is_none());
            removed.extend(gone.map(|(name, _)| Tombstone { parent: *parent, name: name.clone() }));
        }
        removed.sort_unstable();
        TreeDiff { entries, removed, next_id: self.next_id }
    }
}
