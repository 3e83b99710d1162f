//! From the page server's attributes to the kernel's.

use crate::model::{FileId, FileKind};
use crate::pageserver::Attributes;
use fuser::{FileAttr, FileType, INodeNo};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Nothing but the mount changes its files, so names and attributes hold until the kernel itself changes them.
pub(super) const TTL: Duration = Duration::from_secs(3600);

/// What stat shows that is the same for all files of a mount: who owns them, and when they were last changed as far as anyone asks:
/// Postgres does not, and the kernel's writeback cache keeps the times of what it writes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Owner {
    pub uid: u32,
    pub gid: u32,
    pub since: SystemTime,
    pub root: RootInode,
}

/// The inode number that stat shows of the data directory; FUSE itself speaks of it as 1, on every mount.
///
/// Postgres takes it for the key of its shared memory segment, and counts up from there while the key is in use. One that starts while
/// another with the same key just removes its own may be told EIDRM, which it takes for a server that is still running
/// (`PGSharedMemoryAttach`), and gives up. So every mount has a number of its own.
#[derive(Clone, Copy, Debug)]
pub(super) struct RootInode(u64);

impl RootInode {
    /// The same for the same path. The key is the lower 32 bits, of which 0 would mean no key at all. A branch that never made four billion files has
    /// none of this number.
    pub(super) fn of_mount(path: &Path) -> RootInode {
        let mut hasher = DefaultHasher::new();
        path.hash(&mut hasher);
        RootInode((1 << 32) | (hasher.finish() & 0xffff_ffff) | 1)
    }
}

impl Owner {
    pub(super) fn attr(&self, attributes: &Attributes) -> FileAttr {
        FileAttr {
            ino: INodeNo(if attributes.id == FileId::ROOT { self.root.0 } else { attributes.id.0 }),
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
        let nothing = Attributes { id: FileId(0), kind: FileKind::File, mode: 0, size: 0 };
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
