//! Mounting and unmounting a branch's data directory.
//!
//! As root by mount(2), otherwise through `fusermount3`. An unmount returns once the kernel has written back every dirty page and
//! the last request is answered.

use super::room::{Limits, Room};
use super::serving::BranchFilesystem;
use super::tuning;
use crate::pageserver::Volume;
use fuser::{BackgroundSession, Config, MountOption, Session, SessionACL};
use nix::mount::{MntFlags, umount2};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, mpsc};
use std::time::Duration;

/// Threads that serve one mount. Two cores' worth of backends seldom miss the kernel's cache at once; four answered
/// fastest (FACTS.md).
const THREADS: usize = 4;

/// How long the threads that served a mount may take to end.
const DRAIN: Duration = Duration::from_secs(5);

/// Why a mount could not be made or taken away.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    #[error(
        "cannot mount {path}: {source}; is /dev/fuse there, and, for an ordinary user, fusermount3 (package fuse3)?"
    )]
    Mount { path: PathBuf, source: io::Error },
    #[error("cannot unmount {path}: {source}")]
    Unmount { path: PathBuf, source: io::Error },
}

/// A mounted branch. Dropping it unmounts without waiting for the last pages; use [`Mount::unmount`] where they matter.
pub struct Mount {
    path: PathBuf,
    session: Option<BackgroundSession>,
}

impl Mount {
    /// Mounts `volume` at the empty directory `path`, its files owned by `owner` (uid, gid), not to exceed `limits`.
    /// Blocking: call it from a blocking thread of the runtime.
    pub fn new(volume: Arc<Volume>, path: &Path, owner: (u32, u32), limits: Limits) -> Result<Mount, MountError> {
        let failed = |source| MountError::Mount { path: path.to_owned(), source };
        let runtime = tokio::runtime::Handle::current();
        let room = Room::new(volume.clone(), limits, runtime.clone());
        let filesystem = BranchFilesystem::new(room.clone(), volume, owner, path, runtime);
        let mut config = Config::default();
        config.mount_options = vec![
            MountOption::FSName("offshoot".to_owned()),
            MountOption::DefaultPermissions,
            MountOption::NoDev,
            MountOption::NoSuid,
            MountOption::NoExec,
            MountOption::NoAtime,
        ];
        // The compute is another user than a root daemon.
        let is_root = nix::unistd::geteuid().is_root();
        config.acl = if is_root { SessionACL::All } else { SessionACL::Owner };
        config.n_threads = Some(THREADS);
        config.clone_fd = true;
        let session = Session::new(filesystem, path, &config).and_then(Session::spawn).map_err(failed)?;
        let lifted = is_root.then(|| tuning::lift_throttle(path));
        let throttle = lifted.and_then(|lifted| {
            let warn = |error| {
                tracing::warn!(%error, path = %path.display(), "writes to this branch stay throttled by the kernel");
            };
            lifted.map_err(warn).ok()
        });
        room.mounted(session.notifier(), throttle);
        Ok(Mount { path: path.to_owned(), session: Some(session) })
    }

    /// Unmounts, with every page that the kernel held written back first. Blocking.
    ///
    /// Another process is asked to: were this one killed while it waits for its own mount, it could not end. A process that holds a file
    /// of the mount open is cut off once everything is written back: it sees errors from then on.
    pub fn unmount(mut self) -> Result<(), MountError> {
        let Some(session) = self.session.take() else { return Ok(()) };
        let failed = |source| MountError::Unmount { path: self.path.clone(), source };
        let ask = |program: &str, arguments: &[&str]| {
            let status = Command::new(program).args(arguments).arg(&self.path).stderr(Stdio::null()).status();
            status.is_ok_and(|status| status.success())
        };
        let is_root = nix::unistd::geteuid().is_root();
        let gone = if is_root { ask("umount", &["--"]) } else { ask("fusermount3", &["-u", "-q", "--"]) };
        if !gone {
            tracing::warn!(path = %self.path.display(), "a process keeps files of this mount open; cutting it off");
            ask("sync", &["--file-system", "--"]);
            cut_off(&self.path);
        }
        let (ended, end) = mpsc::channel();
        std::thread::spawn(move || ended.send(session.join()));
        match end.recv_timeout(DRAIN) {
            Ok(joined) => joined.map_err(failed),
            Err(_) => Err(failed(io::Error::from(io::ErrorKind::TimedOut))),
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.session.take().is_some() {
            cut_off(&self.path);
        }
    }
}

/// Detaches whatever is still mounted below `root`: what a killed daemon left, which answers ENOTCONN. Returns how many there were. Blocking.
pub fn detach_stale(root: &Path) -> io::Result<usize> {
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    let stale = table.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape);
    let stale: Vec<PathBuf> = stale.filter(|path| path.starts_with(root)).collect();
    stale.iter().rev().for_each(|path| cut_off(path));
    Ok(stale.len())
}

/// Ends the connection, whatever still uses or waits for the mount, and takes it out of the tree.
fn cut_off(path: &Path) {
    // MNT_FORCE aborts a FUSE connection (`fuse_umount_begin`, fs/fuse/inode.c): nothing waits for its daemon after that.
    if umount2(path, MntFlags::MNT_FORCE | MntFlags::MNT_DETACH).is_ok() {
        return;
    }
    let asked = Command::new("fusermount3").args(["-u", "-q", "-z", "--"]).arg(path).status();
    if !asked.is_ok_and(|status| status.success()) {
        tracing::warn!(path = %path.display(), "a mount stays behind; detach it with `umount -f -l`");
    }
}

/// proc(5): space, tab, newline and backslash are octal in the mount table.
fn unescape(field: &str) -> PathBuf {
    let plain = field.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\");
    PathBuf::from(plain)
}
