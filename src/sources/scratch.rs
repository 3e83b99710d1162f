//! The folder that an import works in, held locked as long as it does.
//!
//! One that nobody holds belongs to an import that was killed: what is there still runs, is mounted, or lies about.

use super::ImportError;
use crate::branch::LifecycleError;
use crate::branch::awake::blocking;
use crate::{compute, filesystem};
use nix::fcntl::{Flock, FlockArg};
use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Places of private computes in it.
const MOUNTS: [&str; 3] = ["start/mnt", "rehearsal/mnt", "raw/mnt"];

/// What of it holds raw pages of a source, and is of no use to another import.
const RAW: [&str; 2] = ["raw", "raw-cache"];

/// Removes what servers that were started on raw data have left below `scratch`, an import's folder; none runs there any more. Blocks.
pub(crate) fn remove_raw(scratch: &Path) -> std::io::Result<()> {
    // As in Place::remove: never through a mount.
    MOUNTS.iter().try_for_each(|mount| unless_gone(std::fs::remove_dir(scratch.join(mount))))?;
    RAW.iter().try_for_each(|raw| unless_gone(std::fs::remove_dir_all(scratch.join(raw))))
}

fn unless_gone(removed: std::io::Result<()>) -> std::io::Result<()> {
    removed.or_else(|e| if e.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(e) })
}

/// A folder of one import, until [`Scratch::remove`].
pub(super) struct Scratch {
    path: PathBuf,
    _lock: Flock<File>,
}

impl Scratch {
    /// Makes it, and the folder it is in. Blocks, shortly.
    pub(super) fn make(path: PathBuf) -> Result<Scratch, ImportError> {
        let failed = |source| ImportError::Scratch { path: path.clone(), source };
        std::fs::create_dir_all(&path).map_err(failed)?;
        for folder in [path.parent().unwrap_or(&path), &path] {
            // The compute of the private start passes through.
            std::fs::set_permissions(folder, PermissionsExt::from_mode(0o711)).map_err(failed)?;
        }
        Scratch::of_killed(path.clone())?.ok_or(ImportError::Busy { path })
    }

    /// Takes over one that is there; `None` where another process holds it, or has just removed it.
    pub(super) fn of_killed(path: PathBuf) -> Result<Option<Scratch>, ImportError> {
        let lock = path.join("lock");
        let failed = |source| ImportError::Scratch { path: lock.clone(), source };
        let file = match File::options().create(true).truncate(false).write(true).open(&lock) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(failed)?,
        };
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).ok();
        Ok(lock.map(|lock| Scratch { path, _lock: lock }))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Ends what works in it. Its files stay, but for raw ones.
    pub(super) async fn halt(self) -> Result<Scratch, ImportError> {
        let reaped = compute::reap_orphans(&self.path).await;
        reaped.map_err(|e| ImportError::read(&self.path, e))?;
        let path = self.path.clone();
        blocking(move || {
            filesystem::detach_stale(&path).map_err(LifecycleError::io("cannot read the mount table"))?;
            remove_raw(&path).map_err(LifecycleError::io(format!("cannot remove what is in {}", path.display())))
        })
        .await?;
        Ok(self)
    }

    /// Ends what works in it, and removes everything.
    pub(super) async fn remove(self) -> Result<(), ImportError> {
        let halted = self.halt().await?;
        let path = halted.path.clone();
        let failed = LifecycleError::io(format!("cannot remove {}", path.display()));
        blocking(move || std::fs::remove_dir_all(&path).map_err(failed)).await?;
        drop(halted);
        Ok(())
    }
}
