//! What the requests of one mount share, and where each is worked on: on the thread that serves it, as a task of the runtime if it needs the
//! store, on a blocking thread if it may wait for the disk or for another process.

use super::attributes::{Owner, RootInode, TTL};
use super::errno::Troubles;
use super::readings::Readings;
use super::room::Room;
use crate::model::{FileId, FileKind};
use crate::pageserver::{Attributes, DataFile, Listing, NameProblem, PageError, Volume};
use fuser::{Errno, INodeNo, ReplyAttr, ReplyEmpty, ReplyWrite};
use std::ffi::OsStr;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::runtime::Handle;

pub(super) struct BranchFilesystem(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub volume: Arc<Volume>,
    pub owner: Owner,
    pub room: Arc<Room>,
    pub readings: Readings,
    troubles: Troubles,
    runtime: Handle,
}

impl BranchFilesystem {
    /// `path` is where it is mounted.
    pub(super) fn new(
        room: Arc<Room>,
        volume: Arc<Volume>,
        (uid, gid): (u32, u32),
        path: &Path,
        runtime: Handle,
    ) -> Self {
        // Only shown by stat: nothing here is decided by it.
        let owner = Owner { uid, gid, since: SystemTime::UNIX_EPOCH, root: RootInode::of_mount(path) };
        let troubles = Troubles::new(room.branch().to_owned());
        Self(Arc::new(Inner { volume, owner, room, readings: Readings::default(), troubles, runtime }))
    }

    /// Runs `action` with the base's listings of `directories`: at once if they are in memory, otherwise after fetching them.
    pub(super) fn with_listings<const N: usize>(
        &self,
        directories: [INodeNo; N],
        action: impl FnOnce(&Inner, Result<[Listing; N], PageError>) + Send + 'static,
    ) {
        let ids = directories.map(|directory| FileId(directory.0));
        let near = ids.map(|id| self.0.volume.near_listing(id));
        if near.iter().all(Option::is_some) {
            let nothing: Listing = Arc::new([]);
            return action(&self.0, Ok(near.map(|listing| listing.unwrap_or_else(|| nothing.clone()))));
        }
        self.fetch(move |inner| async move {
            let fetched = async {
                let mut listings = Vec::new();
                for id in ids {
                    listings.push(inner.volume.listing(id).await?);
                }
                Ok::<_, PageError>(listings)
            };
            let listings = fetched
                .await
                .and_then(|listings| <[Listing; N]>::try_from(listings).map_err(|_| NameProblem::NotFound.into()));
            action(&inner, listings);
        });
    }

    /// Runs `work`, which needs the store, as a task: any number may wait for it without keeping a thread.
    pub(super) fn fetch<F: Future<Output = ()> + Send + 'static>(&self, work: impl FnOnce(Arc<Inner>) -> F) {
        self.0.runtime.spawn(work(self.0.clone()));
    }

    /// Runs `action`, which may wait for the local disk, on a blocking thread of the runtime.
    pub(super) fn later(&self, action: impl FnOnce(&Inner) + Send + 'static) {
        let inner = self.0.clone();
        self.0.runtime.spawn_blocking(move || action(&inner));
    }

    pub(super) fn make(
        &self,
        parent: INodeNo,
        name: &OsStr,
        (kind, mode, target): (FileKind, u32, Option<String>),
        answer: impl FnOnce(Result<(Duration, fuser::FileAttr), Errno>) + Send + 'static,
    ) {
        let name = match checked(name) {
            Ok(name) => name,
            Err(e) => return answer(Err(e)),
        };
        self.with_listings([parent], move |inner, listings| {
            let made = listings.and_then(|[listing]| {
                inner.volume.create(FileId(parent.0), &name, &listing, (kind, mode & 0o7777, target))
            });
            answer(made.map(|made| inner.shown(&made)).map_err(|e| inner.errno(parent, &e)));
        });
    }
}

impl Inner {
    pub(super) fn file(&self, ino: INodeNo) -> Result<Arc<DataFile>, Errno> {
        self.volume.file(FileId(ino.0)).map_err(|e| self.errno(ino, &e))
    }

    /// How long the kernel may keep attributes, and what they are. Asked after the node is one the kernel is told of: see `room`.
    pub(super) fn shown(&self, attributes: &Attributes) -> (Duration, fuser::FileAttr) {
        let asks = attributes.kind == FileKind::File && self.room.watches(attributes.id);
        (if asks { Duration::ZERO } else { TTL }, self.owner.attr(attributes))
    }

    /// The errno for a request about `ino`.
    pub(super) fn errno(&self, ino: INodeNo, error: &PageError) -> Errno {
        self.troubles.errno(error, || self.volume.path_of(FileId(ino.0)))
    }

    pub(super) fn answer_attributes(&self, reply: ReplyAttr, ino: INodeNo, found: Result<Attributes, PageError>) {
        match found {
            Ok(found) => {
                let (ttl, attr) = self.shown(&found);
                reply.attr(&ttl, &attr);
            }
            Err(e) => reply.error(self.errno(ino, &e)),
        }
    }

    /// Answers a write of `length` bytes that worked, and takes stock of what room is left.
    pub(super) fn answer_write(&self, reply: ReplyWrite, file: &Arc<DataFile>, size_before: u64, length: usize) {
        reply.written(length as u32);
        if file.writeback_due() {
            let file = file.clone();
            self.runtime.spawn_blocking(move || file.begin_writeback());
        }
        self.room.look();
        if self.room.is_tight() && file.size() > size_before {
            self.room.grew(file.id());
        }
    }

    pub(super) fn answer_empty(&self, reply: ReplyEmpty, ino: INodeNo, outcome: Result<(), PageError>) {
        match outcome {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(self.errno(ino, &e)),
        }
    }
}

/// A name as UTF-8 of at most NAME_MAX bytes.
pub(super) fn checked(name: &OsStr) -> Result<String, Errno> {
    let name = name.to_str().ok_or(Errno::EILSEQ)?;
    if name.len() > 255 { Err(Errno::ENAMETOOLONG) } else { Ok(name.to_owned()) }
}
