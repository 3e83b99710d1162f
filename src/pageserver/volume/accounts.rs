//! What a branch has of its own and what the kernel knows of it: for quotas, and for who reads a log.

use super::Volume;
use crate::model::{FileId, FileKind};

impl Volume {
    /// Pages that earlier wakes uploaded and that still show: not hidden by a page of the delta, not cut off, their file not removed.
    /// Walks every page of the layers: for now and then.
    pub fn layered_pages(&self) -> u64 {
        self.files().iter().map(|file| file.layer_pages(&self.ground, 0).len() as u64).sum()
    }

    /// The id that the next new file gets.
    pub fn next_file_id(&self) -> u64 {
        self.tree().next_id()
    }

    /// Where a node is, as Postgres names it: `base/5/16384`. Of one that was unlinked, where it was.
    pub fn path_of(&self, id: FileId) -> String {
        let tree = self.tree();
        let (mut names, mut at) = (Vec::new(), id);
        while let Ok(node) = tree.node(at)
            && at != FileId::ROOT
        {
            names.push(node.name.as_str());
            at = node.parent;
        }
        names.reverse();
        names.join("/")
    }

    /// The regular files that the kernel may hold attributes of.
    pub fn files_known_to_kernel(&self) -> Vec<FileId> {
        let tree = self.tree();
        let known = tree.nodes.values().filter(|node| node.lookups > 0 && node.kind == FileKind::File);
        known.map(|node| node.id).collect()
    }
}
