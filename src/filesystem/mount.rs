//! Mounting and unmounting a branch's data directory.
//!
//! As root by mount(2), otherwise through `fusermount3`. An unmount returns once the kernel has written back every dirty page and
//! the last request is answered.

use super::adapter::BranchFilesystem;
use super::tuning;
use crate::pageserver::Volume;
use fuser::{BackgroundSession, Config, MountOption, Session, SessionACL};
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::unistd::syncfs;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::Duration;

/// Threads that serve one mount. Two cores' worth of backends seldom miss the kernel's cache at once; four answered
/// fastest (FACTS.md).
const THREADS: usize = 4;

/// How long an unmount waits for whoever still holds a file of the mount open.
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
    /// Mounts `volume` at the empty directory `path`, its files owned by `owner` (uid, gid). Blocking: call it from a blocking thread of the runtime.
    pub fn new(volume: Arc<Volume>, path: &Path, owner: (u32, u32)) -> Result<Mount, MountError> {
        let failed = |source| MountError::Mount { path: path.to_owned(), source };
        let filesystem = BranchFilesystem::new(volume, owner, tokio::runtime::Handle::current());
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
        if is_root && let Err(error) = tuning::lift_throttle(path) {
            tracing::warn!(%error, path = %path.display(), "writes to this branch stay throttled by the kernel");
        }
        Ok(Mount { path: path.to_owned(), session: Some(session) })
    }

    /// Unmounts, with every page that the kernel held written back first. Blocking.
    ///
    /// A process that holds a file of the mount open keeps the kernel's side of it alive. It is waited for no longer than
    /// [`DRAIN`], then the connection is aborted: it sees errors from then on.
    pub fn unmount(mut self) -> Result<(), MountError> {
        let Some(session) = self.session.take() else { return Ok(()) };
        let failed = |source| MountError::Unmount { path: self.path.clone(), source };
        let root = File::open(&self.path).map_err(failed)?;
        syncfs(&root).map_err(|e| failed(e.into()))?;
        drop(root);
        let device = tuning::device_minor(&self.path).map_err(failed)?;
        match umount2(&self.path, MntFlags::empty()) {
            // Someone looks at it from outside, say a shell: they keep what they see, nobody else gets in.
            Err(Errno::EBUSY) => umount2(&self.path, MntFlags::MNT_DETACH).map_err(|e| failed(e.into()))?,
            Ok(()) => {}
            // An ordinary user asks fusermount3.
            Err(Errno::EPERM) => detach(&self.path),
            Err(e) => return Err(failed(e.into())),
        }
        let (ended, end) = mpsc::channel();
        std::thread::spawn(move || ended.send(session.join()));
        if let Ok(joined) = end.recv_timeout(DRAIN) {
            return joined.map_err(failed);
        }
        tracing::warn!(path = %self.path.display(), "a process keeps files of a suspended branch open; cutting it off");
        tuning::abort(&device).map_err(failed)?;
        match end.recv_timeout(DRAIN) {
            Ok(joined) => joined.map_err(failed),
            Err(_) => Err(failed(io::Error::from(io::ErrorKind::TimedOut))),
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.session.take().is_some() {
            detach(&self.path);
        }
    }
}

/// Detaches whatever is still mounted below `root`: what a killed daemon left, which answers ENOTCONN. Returns how many there were. Blocking.
pub fn detach_stale(root: &Path) -> io::Result<usize> {
    let stale = mounts_below(root)?;
    stale.iter().rev().for_each(|(_, path)| detach(path));
    Ok(stale.len())
}

/// Ends the connections of everything mounted below `root`, for a daemon that was killed while a thread of its own waited for an answer
/// from one of its mounts: the kernel lets that thread wait on, and with it live the descriptors that would end the connection
/// (`request_wait_answer`, fs/fuse/dev.c). Blocking.
pub fn abort_stale(root: &Path) -> io::Result<()> {
    for (device, path) in mounts_below(root)? {
        // The control file system need not be mounted; a forced unmount aborts too, even where it then finds the mount busy.
        if tuning::abort(&device).is_err() {
            let _ = umount2(&path, MntFlags::MNT_FORCE);
        }
    }
    Ok(())
}

/// Device minor and mount point of what is mounted below `root` (proc(5), mountinfo). Looks at no mount.
fn mounts_below(root: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    let mount = |line: &str| {
        let fields: Vec<&str> = line.split(' ').collect();
        Some((fields.get(2)?.split_once(':')?.1.to_owned(), unescape(fields.get(4)?)))
    };
    Ok(table.lines().filter_map(mount).filter(|(_, path)| path.starts_with(root)).collect())
}

fn detach(path: &Path) {
    if umount2(path, MntFlags::MNT_DETACH).is_ok() {
        return;
    }
    let asked = std::process::Command::new("fusermount3").args(["-u", "-q", "-z", "--"]).arg(path).status();
    if !asked.is_ok_and(|status| status.success()) {
        tracing::warn!(path = %path.display(), "a mount stays behind; detach it with `umount -l`");
    }
}

/// proc(5): space, tab, newline and backslash are octal in the mount table.
fn unescape(field: &str) -> PathBuf {
    let plain = field.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\");
    PathBuf::from(plain)
}
