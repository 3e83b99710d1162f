//! Finding and killing the processes that use a mount, known by their working directory: `postgres` and all its children stay in
//! the data directory. Works while the mount is dead, since reading the link asks the kernel only for a name.
//!
//! A process is held by a pidfd before it is looked at a second time and signalled, so that a pid which was given to another
//! process in between is never hit.

use nix::libc;
use std::collections::HashSet;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{Interest, unix::AsyncFd};

/// How often the process table is read again for what was forked meanwhile.
const ROUNDS: usize = 16;
/// Longest wait for one killed process to be gone.
const EXIT_TIMEOUT: Duration = Duration::from_secs(10);

/// Kills, by pid, every process whose working directory lies under `root`: computes whose daemon was killed.
/// Returns how many, once they are gone. Spares this process and those it descends from.
pub async fn reap_orphans(root: &Path) -> io::Result<usize> {
    reap(root, Scope::Below).await
}

/// The same for one data directory, and `root` itself counts.
pub(super) async fn reap_users(data_dir: &Path) -> io::Result<usize> {
    reap(data_dir, Scope::AtOrBelow).await
}

/// Kills what uses `data_dir` without waiting for it to be gone: all that can be done when a value is dropped.
pub(super) fn kill_users(data_dir: &Path) {
    let root = resolve(data_dir);
    let spared = ancestors();
    for pid in processes_in(&root, Scope::AtOrBelow, &spared) {
        if let Ok(process) = Process::open(pid)
            && uses(pid, &root, Scope::AtOrBelow)
        {
            let _ = process.kill();
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Scope {
    Below,
    AtOrBelow,
}

async fn reap(root: &Path, scope: Scope) -> io::Result<usize> {
    let root = resolve(root);
    let spared = ancestors();
    let mut killed = HashSet::new();
    for _ in 0..ROUNDS {
        let found = processes_in(&root, scope, &spared);
        if found.is_empty() {
            return Ok(killed.len());
        }
        let mut dying = Vec::new();
        for pid in found {
            let Ok(process) = Process::open(pid) else { continue };
            if uses(pid, &root, scope) {
                process.kill()?;
                killed.insert(pid);
                dying.push(process);
            }
        }
        for process in dying {
            tokio::time::timeout(EXIT_TIMEOUT, process.exited()).await.map_err(|_| stuck(&root))??;
        }
    }
    Err(stuck(&root))
}

fn stuck(root: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("processes in {} do not die", root.display()))
}

/// `path` without symlinks, as the kernel names working directories. The last component is kept as it is: it may be a dead mount.
fn resolve(path: &Path) -> PathBuf {
    if let Ok(resolved) = path.canonicalize() {
        return resolved;
    }
    match (path.parent().map(Path::canonicalize), path.file_name()) {
        (Some(Ok(parent)), Some(name)) => parent.join(name),
        _ => path.to_owned(),
    }
}

/// This process and its ancestors: the shell it was started from may stand anywhere.
fn ancestors() -> HashSet<u32> {
    let mut found = HashSet::new();
    let mut pid = std::process::id();
    while pid > 1 && found.insert(pid) {
        // pid (comm) state ppid …, where comm may hold anything (proc_pid_stat(5)).
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let parent =
            stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)).and_then(|ppid| ppid.parse().ok());
        pid = parent.unwrap_or(0);
    }
    found
}

fn processes_in(root: &Path, scope: Scope, spared: &HashSet<u32>) -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| !spared.contains(pid) && uses(*pid, root, scope))
        .collect()
}

fn uses(pid: u32, root: &Path, scope: Scope) -> bool {
    let Ok(cwd) = std::fs::read_link(format!("/proc/{pid}/cwd")) else { return false };
    // The kernel marks a removed directory, or one whose mount was detached.
    let cwd = cwd.to_str().and_then(|text| text.strip_suffix(" (deleted)")).map(PathBuf::from).unwrap_or(cwd);
    cwd.starts_with(root) && (scope == Scope::AtOrBelow || cwd != root)
}

/// A process, held by its pidfd.
struct Process(OwnedFd);

impl Process {
    #[expect(unsafe_code, reason = "pidfd_open(2) has no safe wrapper among our dependencies")]
    fn open(pid: u32) -> io::Result<Process> {
        // SAFETY: the call takes two integers and returns a new descriptor that nobody else owns, or -1.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: as above; a descriptor fits into an int.
        Ok(Process(unsafe { OwnedFd::from_raw_fd(fd as i32) }))
    }

    #[expect(unsafe_code, reason = "pidfd_send_signal(2) has no safe wrapper among our dependencies")]
    fn kill(&self) -> io::Result<()> {
        let no_info: *const libc::siginfo_t = std::ptr::null();
        // SAFETY: the descriptor is open; a null siginfo means what kill(2) would send.
        let sent = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, self.0.as_raw_fd(), libc::SIGKILL, no_info, 0) };
        match io::Error::last_os_error() {
            error if sent < 0 && error.raw_os_error() != Some(libc::ESRCH) => Err(error),
            _ => Ok(()),
        }
    }

    /// A pidfd is readable once its process has ended.
    #[expect(unsafe_code, reason = "the runtime wants it promised that the descriptor stays what it is")]
    async fn exited(self) -> io::Result<()> {
        // SAFETY: the descriptor is owned by what registers it, and closed with it.
        let pidfd = unsafe { AsyncFd::register_with_interest(self.0, Interest::READABLE)? };
        pidfd.readable().await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::process::Command;

    fn sleep_in(dir: &Path) -> tokio::process::Child {
        Command::new("sleep").arg("1000").current_dir(dir).kill_on_drop(true).spawn().unwrap()
    }

    #[tokio::test]
    async fn only_processes_below_the_root_are_killed() {
        let dir = tempfile::tempdir().unwrap();
        let (mount, neighbour) = (dir.path().join("root/mount"), dir.path().join("root2"));
        std::fs::create_dir_all(&mount).unwrap();
        std::fs::create_dir(&neighbour).unwrap();
        let mut orphan = sleep_in(&mount);
        let mut in_deleted = {
            let gone = mount.join("gone");
            std::fs::create_dir(&gone).unwrap();
            let child = sleep_in(&gone);
            std::fs::remove_dir(&gone).unwrap();
            child
        };
        let mut spared = [sleep_in(&neighbour), sleep_in(&dir.path().join("root"))];

        assert_eq!(reap_orphans(&dir.path().join("root")).await.unwrap(), 2);
        assert!(!orphan.wait().await.unwrap().success());
        assert!(!in_deleted.wait().await.unwrap().success());
        for child in &mut spared {
            assert!(child.try_wait().unwrap().is_none());
        }
        assert_eq!(reap_orphans(&dir.path().join("root")).await.unwrap(), 0);
    }

    #[test]
    fn the_way_up_to_init_is_spared() {
        assert!(ancestors().contains(&std::process::id()));
        assert!(ancestors().contains(&std::os::unix::process::parent_id()));
    }
}
