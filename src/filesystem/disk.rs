//! The room on this node's disk, one for all its branches: looked at when somebody writes, at most every [`INTERVAL`], never while nobody does.
//!
//! Whoever's write finds that the disk ran short, or has room again, tells every branch: the kernel takes an idle branch's next pages without
//! asking us. Lock order: rooms before seen; neither is held while a room is told.

use super::room::{Level, Room};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

/// A disk takes some megabytes in this time; the reserve is many times that.
const INTERVAL: Duration = Duration::from_millis(20);
/// Without one in the config: enough for the WAL of one busy branch (`max_wal_size` is 1 GB) …
const DEFAULT_RESERVE: u64 = 1 << 30;
/// … and on a small disk this part of it.
const DEFAULT_RESERVE_PART: u64 = 10;

/// A node's disk.
pub struct Disk {
    folder: PathBuf,
    reserve: Option<u64>,
    seen: Mutex<Seen>,
    rooms: Mutex<Vec<Weak<Room>>>,
}

/// How it was when it was last looked at.
#[derive(Clone, Copy)]
struct Seen {
    at: Option<Instant>,
    view: View,
}

/// What a branch must know of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct View {
    pub level: Level,
    /// Bytes that may still be written before the reserve begins.
    pub left: u64,
    pub reserve: u64,
}

impl Disk {
    /// The file system that `folder` lies on, of which `reserve` bytes are kept.
    pub fn new(folder: &Path, reserve: Option<u64>) -> Disk {
        let view = View { level: Level::Open, left: u64::MAX, reserve: reserve.unwrap_or(DEFAULT_RESERVE) };
        Disk { folder: folder.to_owned(), reserve, seen: Mutex::new(Seen { at: None, view }), rooms: Mutex::default() }
    }

    pub(super) fn add(&self, room: &Arc<Room>) {
        let mut rooms = self.rooms.lock().unwrap_or_else(PoisonError::into_inner);
        rooms.retain(|room| room.strong_count() > 0);
        rooms.push(Arc::downgrade(room));
    }

    /// Looks, if the last look was a while ago, and tells all branches when the level changed.
    pub(super) fn look(&self) -> View {
        let (before, view) = {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            if seen.at.is_some_and(|at| at.elapsed() < INTERVAL) {
                return seen.view;
            }
            let before = seen.view;
            seen.at = Some(Instant::now());
            // What cannot be asked is taken to be as it was.
            if let Ok(disk) = nix::sys::statvfs::statvfs(&self.folder) {
                // What an ordinary user may have: a compute's WAL is written by one.
                let (free, total) =
                    (disk.blocks_available() * disk.fragment_size(), disk.blocks() * disk.fragment_size());
                seen.view = view(
                    before.level,
                    free,
                    self.reserve.unwrap_or((total / DEFAULT_RESERVE_PART).min(DEFAULT_RESERVE)),
                );
            }
            (before, seen.view)
        };
        if before.level != view.level {
            let rooms = self.rooms.lock().unwrap_or_else(PoisonError::into_inner).clone();
            rooms.iter().filter_map(Weak::upgrade).for_each(|room| room.settle(Some(view)));
        }
        view
    }
}

/// What `free` bytes of a disk mean after it was at `before`. A short one has room again an eighth above the reserve, so that it does not flap.
fn view(before: Level, free: u64, reserve: u64) -> View {
    let ends = if before == Level::Open { reserve } else { reserve + reserve / 8 };
    let level = match free {
        free if free < reserve / 2 => Level::Full,
        free if free < ends => Level::Tight,
        _ => Level::Open,
    };
    View { level, left: free.saturating_sub(reserve), reserve }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_runs_short_at_its_reserve_and_has_room_an_eighth_above() {
        assert_eq!(view(Level::Open, 1000, 1000), View { level: Level::Open, left: 0, reserve: 1000 });
        assert_eq!(view(Level::Open, 999, 1000).level, Level::Tight);
        assert_eq!(view(Level::Tight, 1124, 1000).level, Level::Tight);
        assert_eq!(view(Level::Tight, 1125, 1000), View { level: Level::Open, left: 125, reserve: 1000 });
        assert_eq!(view(Level::Tight, 499, 1000).level, Level::Full);
        assert_eq!(view(Level::Full, 500, 1000).level, Level::Tight);
        assert_eq!(view(Level::Open, 5, 0).level, Level::Open);
    }
}
