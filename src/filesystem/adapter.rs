//! FUSE requests, one method each: translate, delegate, answer.
//!
//! `open` and `opendir` are answered ENOSYS, so that the kernel stops asking (FUSE_NO_OPEN_SUPPORT, FUSE_NO_OPENDIR_SUPPORT) and
//! keeps what it cached; so is `flush`. A file that was unlinked while open lives until the kernel forgets its inode.

use super::attributes::{TTL, file_type};
use super::readings::cookie;
use super::serving::{BranchFilesystem, Inner, checked};
use crate::model::{FileId, FileKind};
use crate::pageserver::{NameProblem, PageError};
use fuser::{
    BsdFileFlags, Errno, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, InitFlags, KernelConfig, LockOwner,
    OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::time::SystemTime;

/// Largest request the kernel sends; larger gained nothing.
const MAX_WRITE: u32 = 1 << 20;
/// Requests the kernel keeps in flight for read-ahead and writeback; its default of 12 starves bulk writes.
const MAX_BACKGROUND: u16 = 64;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Filesystem for BranchFilesystem {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let wanted = [
            InitFlags::FUSE_WRITEBACK_CACHE,
            InitFlags::FUSE_ASYNC_READ,
            InitFlags::FUSE_BIG_WRITES,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_NO_OPEN_SUPPORT,
            InitFlags::FUSE_NO_OPENDIR_SUPPORT,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_CACHE_SYMLINKS,
            InitFlags::FUSE_HANDLE_KILLPRIV,
        ];
        for flag in wanted {
            if config.add_capabilities(flag).is_err() && flag == InitFlags::FUSE_WRITEBACK_CACHE {
                return Err(io::Error::new(io::ErrorKind::Unsupported, "this kernel's FUSE has no writeback cache"));
            }
        }
        // Nearest possible is good enough for these.
        let _ = config.set_max_write(MAX_WRITE);
        let _ = config.set_max_readahead(MAX_WRITE);
        let _ = config.set_max_background(MAX_BACKGROUND);
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let name = match checked(name) {
            Ok(name) => name,
            Err(e) => return reply.error(e),
        };
        self.with_listings([parent], move |inner, listings| {
            match listings.and_then(|[listing]| inner.volume.lookup(FileId(parent.0), &name, &listing)) {
                Ok(found) => {
                    let (ttl, attr) = inner.shown(&found);
                    reply.entry(&ttl, &attr, Generation(0));
                }
                Err(PageError::Name(NameProblem::NotFound)) => reply.entry(&TTL, &inner.owner.nothing(), Generation(0)),
                Err(e) => reply.error(inner.errno(parent, &e)),
            }
        });
    }

    fn forget(&self, _request: &Request, ino: INodeNo, count: u64) {
        self.0.volume.forget(FileId(ino.0), count);
        if self.0.room.is_tight() {
            self.0.room.look();
        }
    }

    /// With a handle it comes before a write, a read behind the end or a seek to it; without, from stat(2).
    fn getattr(&self, request: &Request, ino: INodeNo, fh: Option<FileHandle>, reply: ReplyAttr) {
        if fh.is_none() || !self.0.room.is_tight() {
            return self.0.answer_attributes(reply, ino, self.0.volume.attributes(FileId(ino.0)));
        }
        let thread = request.pid();
        self.later(move |inner| match inner.room.admits_thread(FileId(ino.0), thread) {
            true => inner.answer_attributes(reply, ino, inner.volume.attributes(FileId(ino.0))),
            false => reply.error(Errno::ENOSPC),
        });
    }

    fn setattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let change = move |inner: &Inner| {
            let id = FileId(ino.0);
            if let Some(mode) = mode {
                inner.volume.set_mode(id, mode)?;
            }
            if let Some(size) = size {
                inner.volume.set_size(&*inner.volume.file(id)?, size)?;
            }
            inner.volume.attributes(id)
        };
        let answer = move |inner: &Inner| inner.answer_attributes(reply, ino, change(inner));
        // A truncation may wait for the journal's fsync.
        if size.is_some() { self.later(answer) } else { answer(&self.0) }
    }

    fn readlink(&self, _request: &Request, ino: INodeNo, reply: ReplyData) {
        match self.0.volume.target(FileId(ino.0)) {
            Ok(target) => reply.data(target.as_bytes()),
            Err(e) => reply.error(self.0.errno(ino, &e)),
        }
    }

    fn mkdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        self.make(parent, name, (FileKind::Directory, mode & !umask, None), |made| match made {
            Ok((ttl, attr)) => reply.entry(&ttl, &attr, Generation(0)),
            Err(e) => reply.error(e),
        });
    }

    fn symlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let Some(target) = target.to_str() else { return reply.error(Errno::EILSEQ) };
        self.make(parent, name, (FileKind::Symlink, 0o777, Some(target.to_owned())), |made| match made {
            Ok((ttl, attr)) => reply.entry(&ttl, &attr, Generation(0)),
            Err(e) => reply.error(e),
        });
    }

    fn create(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        self.make(parent, name, (FileKind::File, mode & !umask, None), |made| match made {
            Ok((ttl, attr)) => {
                reply.created(&ttl, &attr, Generation(0), FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
            }
            Err(e) => reply.error(e),
        });
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = match checked(name) {
            Ok(name) => name,
            Err(e) => return reply.error(e),
        };
        self.with_listings([parent], move |inner, listings| {
            let removed = listings.and_then(|[listing]| inner.volume.remove(FileId(parent.0), &name, &listing, None));
            inner.answer_empty(reply, parent, removed);
        });
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = match checked(name) {
            Ok(name) => name,
            Err(e) => return reply.error(e),
        };
        // The directory's own listing is not known before its name is looked up: always off the serving thread.
        self.fetch(move |inner| async move {
            let removed = async {
                let listing = inner.volume.listing(FileId(parent.0)).await?;
                let own = inner.volume.peek(FileId(parent.0), &name, &listing)?;
                let own_listing = inner.volume.listing(own).await?;
                inner.volume.remove(FileId(parent.0), &name, &listing, Some(&own_listing))
            };
            inner.answer_empty(reply, parent, removed.await);
        });
    }

    fn rename(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if !flags.is_empty() {
            return reply.error(Errno::EINVAL);
        }
        let (name, new_name) = match (checked(name), checked(new_name)) {
            (Ok(name), Ok(new_name)) => (name, new_name),
            (Err(e), _) | (_, Err(e)) => return reply.error(e),
        };
        self.with_listings([parent, new_parent], move |inner, listings| {
            let renamed = listings.and_then(|[listing, new_listing]| {
                let from = (FileId(parent.0), name.as_str(), &listing);
                let to = (FileId(new_parent.0), new_name.as_str(), &new_listing);
                // Postgres never renames over a directory; one that is there counts as not empty.
                inner.volume.rename(from, to, None)
            });
            inner.answer_empty(reply, parent, renamed);
        });
    }

    fn open(&self, _request: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.error(Errno::ENOSYS);
    }

    fn read(
        &self,
        _request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let file = match self.0.file(ino) {
            Ok(file) => file,
            Err(e) => return reply.error(e),
        };
        BUFFER.with_borrow_mut(|buffer| match self.0.volume.read_near(&file, offset, size as usize, buffer) {
            Ok(true) => reply.data(buffer),
            Ok(false) => self.fetch(move |inner| async move {
                match inner.volume.read(&file, offset, size as usize).await {
                    Ok(bytes) => reply.data(&bytes),
                    Err(e) => reply.error(inner.errno(ino, &e)),
                }
            }),
            Err(e) => reply.error(self.0.errno(ino, &e)),
        });
    }

    fn write(
        &self,
        _request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let file = match self.0.file(ino) {
            Ok(file) => file,
            Err(e) => return reply.error(e),
        };
        let size_before = file.size();
        match self.0.volume.write_near(&file, offset, data) {
            Ok(true) => self.0.answer_write(reply, &file, size_before, data.len()),
            Ok(false) => {
                let data = data.to_vec();
                self.fetch(move |inner| async move {
                    match inner.volume.write(&file, offset, &data).await {
                        Ok(()) => inner.answer_write(reply, &file, size_before, data.len()),
                        Err(e) => reply.error(inner.errno(ino, &e)),
                    }
                });
            }
            Err(e) => reply.error(self.0.errno(ino, &e)),
        }
    }

    fn flush(&self, _request: &Request, _ino: INodeNo, _fh: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn fsync(&self, _request: &Request, ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        let file = match self.0.file(ino) {
            Ok(file) => file,
            Err(e) => return reply.error(e),
        };
        self.later(move |inner| {
            let synced = inner.volume.sync(&file);
            inner.volume.announce_pid_file(&file);
            inner.answer_empty(reply, ino, synced);
        });
    }

    fn fsyncdir(&self, _request: &Request, ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.later(move |inner| inner.answer_empty(reply, ino, inner.volume.sync_names()));
    }

    fn opendir(&self, _request: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.error(Errno::ENOSYS);
    }

    fn readdir(&self, _request: &Request, ino: INodeNo, _fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        self.with_listings([ino], move |inner, listings| {
            let directory = FileId(ino.0);
            let entries = match listings
                .and_then(|[listing]| inner.readings.entries(&inner.volume, directory, offset, &listing))
            {
                Ok(entries) => entries,
                Err(e) => return reply.error(inner.errno(ino, &e)),
            };
            for (index, (id, kind, name)) in entries.iter().enumerate().filter(|(i, e)| cookie(*i, e.0) > offset) {
                if reply.add(INodeNo(id.0), cookie(index, *id), file_type(*kind), name) {
                    return reply.ok();
                }
            }
            inner.readings.finished(directory);
            reply.ok();
        });
    }

    fn readdirplus(
        &self,
        _request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        self.with_listings([ino], move |inner, listings| {
            let directory = FileId(ino.0);
            let listed = listings.and_then(|[listing]| {
                Ok((inner.readings.entries(&inner.volume, directory, offset, &listing)?, listing))
            });
            let (entries, listing) = match listed {
                Ok(listed) => listed,
                Err(e) => return reply.error(inner.errno(ino, &e)),
            };
            for (index, (id, _, name)) in entries.iter().enumerate().filter(|(i, e)| cookie(*i, e.0) > offset) {
                // `.` and `..` are not counted as told (libfuse, fuse_lowlevel.h, readdirplus).
                let found = if index < 2 {
                    inner.volume.attributes(*id)
                } else {
                    inner.volume.lookup(directory, name, &listing)
                };
                // Removed since the first request.
                let Ok(found) = found else { continue };
                let (ttl, attr) = inner.shown(&found);
                if reply.add(INodeNo(id.0), cookie(index, *id), name, &ttl, &attr, Generation(0)) {
                    if index >= 2 {
                        inner.volume.forget(found.id, 1);
                    }
                    return reply.ok();
                }
            }
            inner.readings.finished(directory);
            reply.ok();
        });
    }

    fn statfs(&self, _request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        match nix::sys::statvfs::statvfs(self.0.volume.directory()) {
            Ok(disk) => reply.statfs(
                disk.blocks(),
                disk.blocks_free(),
                disk.blocks_available(),
                disk.files(),
                disk.files_free(),
                disk.block_size() as u32,
                255,
                disk.fragment_size() as u32,
            ),
            Err(e) => reply.error(Errno::from(io::Error::from(e))),
        }
    }

    /// No extended attributes: the kernel asks for `security.capability` before a write until it is told so.
    fn getxattr(&self, _request: &Request, _ino: INodeNo, _name: &OsStr, _size: u32, reply: ReplyXattr) {
        reply.error(Errno::ENOSYS);
    }

    fn fallocate(
        &self,
        request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        // Only posix_fallocate(3), which Postgres 16 and later extend relations with: the new part is a hole, zeros.
        if mode != 0 {
            return reply.error(Errno::EOPNOTSUPP);
        }
        let file = match self.0.file(ino) {
            Ok(file) => file,
            Err(e) => return reply.error(e),
        };
        let (thread, end) = (request.pid(), offset.saturating_add(length));
        let grow = move |inner: &Inner, reply| {
            let grown = inner.volume.set_size(&file, file.size().max(end));
            inner.answer_empty(reply, ino, grown);
        };
        self.0.room.look();
        if !self.0.room.is_tight() {
            return grow(&self.0, reply);
        }
        self.later(move |inner| match inner.room.admits_allocation(FileId(ino.0), end, thread) {
            true => grow(inner, reply),
            false => reply.error(Errno::ENOSPC),
        });
    }
}
