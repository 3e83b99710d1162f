//! From the page server's attributes to the kernel's.

use crate::model::FileKind;
use crate::pageserver::Attributes;
use fuser::{FileAttr, FileType, INodeNo};
use std::time::{Duration, SystemTime};

/// Nothing but the mount changes its files, so names and attributes hold until the kernel itself changes them.
pub(super) const TTL: Duration = Duration::from_secs(3600);

/// Who owns every file, and when they were last changed as far as anyone asks: Postgres does not, and the kernel's
/// writeback cache keeps the times of what it writes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Owner {
    pub uid: u32,
    pub gid: u32,
    pub since: SystemTime,
}

impl Owner {
    pub(super) fn attr(&self, attributes: &Attributes) -> FileAttr {
        FileAttr {
            ino: INodeNo(attributes.id.0),
            size: attributes.size,
            blocks: attributes.size.div_ceil(512),
            atime: self.since,
            mtime: self.since,
            ctime: self.since,
            crtime: self.since,
            kind: file_type(attributes.kind),
            perm: attributes.mode as u16,
            nlink: if attributes.kind == FileKind::Directory { 2 } else { 1 },
            uid: self.uid,
            gid: self.gid,
            rdev: 0,
            blksize: 8192,
            flags: 0,
        }
    }

    /// The answer that lets the kernel remember that a name is free: inode 0.
    pub(super) fn nothing(&self) -> FileAttr {
        let nothing = Attributes { id: crate::model::FileId(0), kind: FileKind::File, mode: 0, size: 0 };
        self.attr(&nothing)
    }
}

pub(super) fn file_type(kind: FileKind) -> FileType {
    match kind {
        FileKind::File => FileType::RegularFile,
        FileKind::Directory => FileType::Directory,
        FileKind::Symlink => FileType::Symlink,
    }
}
