//! A branch's names and files against its base: parents, names, and where unchanged pages are said to be.

use super::base::BaseFiles;
use super::heads::ReachedBranch;
use super::{Fsck, Trouble};
use crate::model::{Entry, FileId, FileKind, TreeDiff};
use std::collections::HashSet;

impl Fsck<'_> {
    /// Checks the tree of `branch`. Without the base's files only what needs none of them.
    pub(super) async fn check_tree(&mut self, branch: &ReachedBranch, base: Option<&BaseFiles>) {
        let Some(reference) = &branch.manifest else { return };
        // A manifest that cannot be read was noted with its head.
        let Ok(manifest) = self.catalog.branch_manifest(reference).await else { return };
        if let Err(trouble) = check(&manifest.tree, base) {
            self.note(&reference.key, trouble);
        }
    }
}

fn check(tree: &TreeDiff, base: Option<&BaseFiles>) -> Result<(), Trouble> {
    let own: HashSet<FileId> =
        tree.entries.iter().filter(|entry| entry.kind == FileKind::Directory).map(|entry| entry.id).collect();
    let (mut ids, mut names) = (HashSet::new(), HashSet::new());
    for entry in &tree.entries {
        let complain = |what: &str| Err(Trouble::Damaged(format!("{:?}, {:?}, {what}", entry.id, entry.name)));
        if !ids.insert(entry.id) || (entry.id != FileId::ROOT && !names.insert((entry.parent, entry.name.as_str()))) {
            return complain("is there twice");
        }
        if entry.id != FileId::ROOT && (entry.id < FileId::FIRST || entry.id.0 >= tree.next_id) {
            return complain("has an id that was not given out");
        }
        let Some(base) = base else { continue };
        let has_parent = entry.id == FileId::ROOT
            || entry.parent == FileId::ROOT
            || own.contains(&entry.parent)
            || base.is_directory(entry.parent);
        if !has_parent {
            return complain("lies in no directory");
        }
        if !has_origin(entry, base) {
            return complain("is said to be where its base has nothing like it");
        }
    }
    match tree.removed.iter().find(|removed| names.contains(&(removed.parent, removed.name.as_str()))) {
        Some(removed) => Err(Trouble::Damaged(format!("{:?} is there and removed", removed.name))),
        None => Ok(()),
    }
}

/// Whether the base has what the entry shows through.
fn has_origin(entry: &Entry, base: &BaseFiles) -> bool {
    let Some(origin) = &entry.origin else { return true };
    base.find(origin.parent, &origin.name).is_some_and(|record| {
        record.id == entry.id
            && record.kind == FileKind::File
            && record.size == origin.size
            && record.first_frame == origin.first_frame
    })
}
