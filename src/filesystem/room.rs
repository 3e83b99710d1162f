//! How much a branch may still grow: its quota and the node's disk, and what is done where either ends.
//!
//! ```text
//!   Open ── own pages ≥ limit, or free < reserve ──────────▶ Tight ── free < reserve / 2 ──▶ Full
//!    ▲                                                        │  ▲                             │
//!    └── own pages < limit - 1/32, and free ≥ 9/8 of reserve ─┘  └─────────────────────────────┘
//! ```
//!
//! - **Open**: the kernel keeps attributes for good and takes pages without asking.
//! - **Tight**: what a statement makes grow ([`growth_of`]) is refused, but for catalogs and for the first pages of a file, so that TRUNCATE can
//!   make its empty indexes. Writes in place never are, though they may copy base pages up: a quota bounds growth, not change, so it has no
//!   level that would refuse more.
//! - **Full**: growth of catalogs and first pages is refused, too; the disk's end is near.
//!
//! **The way to refuse a write(2) that the writeback cache would take**: attributes of the files that matter are given a time to live of nothing, and
//! those the kernel holds are invalidated. Before each write it then asks for them, and gives the writer our error (`fuse_cache_write_iter`,
//! `fuse_update_get_attr`; fs/fuse). [`requester`] tells a write that grows from all else that asks. The level is set before the
//! files are listed and read after a file is listed, so none slips through but one whose creation is being answered: its
//! first page that is written back invalidates it again.
//!
//! **Overshoot**: what the kernel holds dirty. It may hold half of what is left, rounded down to a power of two, and never less than
//! [`LEAST_DIRTY`] ([`tuning::bound_dirty`]): nothing is throttled while much is left.
//!
//! Lock order: `state` is held for no call but the volume's and the log's; the kernel is told from a blocking thread, since dropping an inode may wait
//! for a page that a serving thread writes.

use super::disk::{Disk, View};
use super::relations::{Growth, growth_of};
use super::{requester, tuning};
use crate::model::{FileId, PAGE_SIZE};
use crate::pageserver::Volume;
use bytesize::ByteSize;
use fuser::{INodeNo, Notifier};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;

/// A file up to this size may grow while a branch is tight: any access method's empty index has fewer pages.
const FIRST_PAGES: u64 = 8 * PAGE_SIZE as u64;
/// Dirty pages that the kernel may always hold; less costs throughput (ARCHITECTURE.md, "Quotas and a full disk").
const LEAST_DIRTY: u64 = 16 << 20;
/// Counting pages in layers walks them all; it may take this part of the time.
const RECOUNT_PART: u32 = 50;

/// What a mount may not exceed, and whose it is.
#[derive(Clone)]
pub struct Limits {
    /// For the log: `shop@pr-1`.
    pub branch: String,
    /// Bytes of the branch's own pages.
    pub max_delta_bytes: Option<u64>,
    /// `None`: it may fill the disk.
    pub disk: Option<Arc<Disk>>,
}

impl Limits {
    /// Whatever there is may be used.
    pub fn none(branch: String) -> Limits {
        Limits { branch, max_delta_bytes: None, disk: None }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum Level {
    Open,
    Tight,
    Full,
}

pub(super) struct Room {
    limits: Limits,
    volume: Arc<Volume>,
    runtime: Handle,
    /// Copy of the state's, for answers that only need to know whether to be careful.
    level: AtomicU8,
    state: Mutex<State>,
    kernel: OnceLock<Kernel>,
    /// Processes cannot be looked at; said once.
    blind: AtomicBool,
}

struct State {
    quota: Level,
    level: Level,
    /// Bytes that the kernel may hold dirty; `None` for as much as it likes.
    dirty: Option<u64>,
    layered_pages: u64,
    counted: Instant,
    counting_took: Duration,
}

/// What is there only once the mount is.
struct Kernel {
    notifier: Notifier,
    /// Only root's daemon may set its throttle.
    throttle: Option<PathBuf>,
}

impl Room {
    pub(super) fn new(volume: Arc<Volume>, limits: Limits, runtime: Handle) -> Arc<Room> {
        let begun = Instant::now();
        let layered_pages = limits.max_delta_bytes.map_or(0, |_| volume.layered_pages());
        let (counted, counting_took) = (Instant::now(), begun.elapsed());
        let (quota, level) = (Level::Open, Level::Open);
        let state = State { quota, level, dirty: None, layered_pages, counted, counting_took };
        let room = Arc::new(Room {
            limits,
            volume,
            runtime,
            level: AtomicU8::new(Level::Open as u8),
            state: Mutex::new(state),
            kernel: OnceLock::new(),
            blind: AtomicBool::new(false),
        });
        if let Some(disk) = &room.limits.disk {
            disk.add(&room);
        }
        room
    }

    /// The mount is there; `throttle` is its backing device's folder in sysfs, if this daemon may write there.
    pub(super) fn mounted(self: &Arc<Self>, notifier: Notifier, throttle: Option<PathBuf>) {
        // Set once: a room has one mount.
        let _ = self.kernel.set(Kernel { notifier, throttle });
        self.look();
    }

    /// Whose it is, for the log.
    pub(super) fn branch(&self) -> &str {
        &self.limits.branch
    }

    /// Whether anything may be refused just now.
    pub(super) fn is_tight(&self) -> bool {
        self.level.load(Ordering::Acquire) != Level::Open as u8
    }

    /// Whether the kernel has to ask before each write to the file.
    pub(super) fn watches(&self, id: FileId) -> bool {
        self.is_tight() && growth_of(&self.volume.path_of(id)).is_some()
    }

    /// Takes stock: after what may have used or freed room.
    pub(super) fn look(self: &Arc<Self>) {
        if self.limits.max_delta_bytes.is_some() || self.limits.disk.is_some() {
            self.settle(self.limits.disk.as_ref().map(|disk| disk.look()));
        }
    }

    /// A page was written back that made `id` longer.
    pub(super) fn grew(self: &Arc<Self>, id: FileId) {
        if self.watches(id) {
            self.tell_kernel(move |room| room.invalidate(&[id]));
        }
    }

    /// Whether the thread `tid`, which asked for attributes of `id` and waits, may go on. Blocking.
    pub(super) fn admits_thread(self: &Arc<Self>, id: FileId, tid: u32) -> bool {
        self.look();
        let Some(growth) = self.is_tight().then(|| growth_of(&self.volume.path_of(id))).flatten() else { return true };
        match requester::grows_to(tid, id.0) {
            Ok(Some(end)) => self.admits(growth, end) || requester::is_recovery(tid),
            Ok(None) => true,
            Err(error) => {
                if !self.blind.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        branch = self.limits.branch, %error,
                        "cannot see what a process of this branch asks for, so it may grow beyond its limit; \
                         let the daemon read /proc/<pid>/syscall (CAP_SYS_PTRACE, or kernel.yama.ptrace_scope below 2)"
                    );
                }
                true
            }
        }
    }

    /// Whether `id` may be preallocated up to byte `end` by the thread `tid`. Blocking.
    pub(super) fn admits_allocation(self: &Arc<Self>, id: FileId, end: u64, tid: u32) -> bool {
        self.look();
        let Some(growth) = self.is_tight().then(|| growth_of(&self.volume.path_of(id))).flatten() else { return true };
        self.admits(growth, end) || requester::is_recovery(tid)
    }

    fn admits(&self, growth: Growth, end: u64) -> bool {
        let harmless = growth == Growth::OfCatalog || end <= FIRST_PAGES;
        harmless && self.level.load(Ordering::Acquire) != Level::Full as u8
    }

    /// Bytes of the branch's own pages. A page in a layer that the delta has, too, counts once; where that matters, they are counted again.
    fn used(&self, state: &mut State) -> u64 {
        let limit = self.limits.max_delta_bytes.unwrap_or(u64::MAX);
        let bytes = |layered: u64| (self.volume.own_pages() + layered) * PAGE_SIZE as u64;
        let due = state.counted.elapsed() >= state.counting_took * RECOUNT_PART;
        if state.layered_pages > 0 && due && bytes(state.layered_pages) >= limit - limit / 32 {
            let begun = Instant::now();
            state.layered_pages = self.volume.layered_pages();
            (state.counted, state.counting_took) = (Instant::now(), begun.elapsed());
        }
        bytes(state.layered_pages)
    }

    /// Acts on what the volume holds and what the disk was seen to have.
    pub(super) fn settle(self: &Arc<Self>, disk: Option<View>) {
        let mut state = self.state();
        let used = self.used(&mut state);
        let quota = self.limits.max_delta_bytes.map_or(Level::Open, |limit| quota_level(state.quota, used, limit));
        let level = quota.max(disk.map_or(Level::Open, |disk| disk.level));
        let left = self.limits.max_delta_bytes.map_or(u64::MAX, |limit| limit.saturating_sub(used));
        let left = left.min(disk.map_or(u64::MAX, |disk| disk.left));
        let dirty = dirty_bound(state.dirty, left);
        let begins = state.level == Level::Open && level != Level::Open;
        let ends = state.level != Level::Open && level == Level::Open;
        let throttles = state.dirty != dirty && self.kernel.get().is_some_and(|kernel| kernel.throttle.is_some());
        (state.quota, state.level, state.dirty) = (quota, level, dirty);
        self.level.store(level as u8, Ordering::Release);
        if begins {
            self.log_beginning(quota, used, disk);
        } else if ends {
            tracing::info!(branch = self.limits.branch, used = %ByteSize::b(used), "this branch may grow again");
        }
        drop(state);
        if begins {
            self.tell_kernel(|room| room.invalidate(&room.volume.files_known_to_kernel()));
        }
        if throttles {
            self.tell_kernel(Room::throttle);
        }
    }

    fn log_beginning(&self, quota: Level, used: u64, disk: Option<View>) {
        let branch = &self.limits.branch;
        match (quota, disk) {
            (Level::Open, Some(disk)) => tracing::error!(
                branch, reserve = %ByteSize::b(disk.reserve),
                "this node's disk is full but for its reserve; what would extend a table, an index or a temporary file fails; \
                 make room in server.data_dir"
            ),
            _ => tracing::warn!(
                branch, used = %ByteSize::b(used), limit = ?self.limits.max_delta_bytes.map(|limit| ByteSize::b(limit).to_string()),
                "a branch has reached max_delta_bytes; what would extend a table, an index or a temporary file fails"
            ),
        }
    }

    fn tell_kernel(self: &Arc<Self>, act: impl FnOnce(&Room) + Send + 'static) {
        let room = self.clone();
        self.runtime.spawn_blocking(move || act(&room));
    }

    /// Makes the kernel ask for attributes of `files` again. Their pages stay cached.
    fn invalidate(&self, files: &[FileId]) {
        let Some(kernel) = self.kernel.get() else { return };
        for id in files.iter().filter(|id| growth_of(&self.volume.path_of(**id)).is_some()) {
            // A negative offset spares the pages (`fuse_reverse_inval_inode`, fs/fuse/inode.c). One that the kernel has forgotten is an error.
            let _ = kernel.notifier.inval_inode(INodeNo(id.0), -1, 0);
        }
    }

    /// Sets the kernel's throttle to what the state says now.
    fn throttle(&self) {
        let Some(throttle) = self.kernel.get().and_then(|kernel| kernel.throttle.as_ref()) else { return };
        let dirty = self.state().dirty;
        if let Err(error) = tuning::bound_dirty(throttle, dirty) {
            tracing::warn!(
                branch = self.limits.branch, %error,
                "the kernel may hold more of this branch's pages than are left of its limit"
            );
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What `used` bytes of `limit` mean after a branch was at `before`; it must fall a little below before it may grow again, so that it does not flap.
fn quota_level(before: Level, used: u64, limit: u64) -> Level {
    let begins = if before == Level::Open { limit } else { limit - limit / 32 };
    if used >= begins { Level::Tight } else { Level::Open }
}

/// What the kernel may hold dirty when `left` bytes may be written: half, in powers of two; up to the next one only well beyond it.
fn dirty_bound(before: Option<u64>, left: u64) -> Option<u64> {
    if left == u64::MAX {
        return None;
    }
    let half = (left / 2).max(LEAST_DIRTY);
    let step = 1 << half.ilog2();
    match before {
        Some(before) if step > before && half < step + step / 4 => Some(before.max(step / 2)),
        _ => Some(step),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_quota_is_reached_at_its_limit_and_left_a_little_below() {
        assert_eq!(quota_level(Level::Open, 31, 32), Level::Open);
        assert_eq!(quota_level(Level::Open, 32, 32), Level::Tight);
        assert_eq!(quota_level(Level::Tight, 31, 32), Level::Tight);
        assert_eq!(quota_level(Level::Tight, 30, 32), Level::Open);
    }

    #[test]
    fn the_kernel_may_hold_half_of_what_is_left_dirty() {
        assert_eq!(dirty_bound(None, u64::MAX), None);
        assert_eq!(dirty_bound(None, 200 * MIB), Some(64 * MIB));
        assert_eq!(dirty_bound(Some(64 * MIB), 0), Some(16 * MIB));
        // Up again: not at once.
        assert_eq!(dirty_bound(Some(16 * MIB), 64 * MIB), Some(16 * MIB));
        assert_eq!(dirty_bound(Some(16 * MIB), 80 * MIB), Some(32 * MIB));
        assert_eq!(dirty_bound(Some(16 * MIB), 1 << 40), Some(1 << 38));
    }
}
