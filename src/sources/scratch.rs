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

/// What of it holds raw pages of a source.
const RAW: [&str; 2] = ["raw", "raw-cache"];

/// The file in an import's folder by which another import can tell whether it may go on with what is in [`PREPARED`].
pub const RESUMABLE: &str = "resumable";
/// The folder of a data directory that is made by an import.
pub const PREPARED: &str = "fresh";
/// What says whose folder it is.
const OWN: [&str; 2] = ["lock", "project"];

/// Removes what servers that were started on raw data have left below `scratch`, an import's folder; none runs there any more. Blocks.
pub(crate) fn remove_raw(scratch: &Path) -> std::io::Result<()> {
    remove_where(scratch, |name| RAW.contains(&name))
}

/// As above, of everything that is of no use to another import.
fn remove_but_prepared(scratch: &Path) -> std::io::Result<()> {
    remove_where(scratch, |name| !OWN.contains(&name) && name != RESUMABLE && name != PREPARED)
}

fn remove_where(scratch: &Path, is_removed: impl Fn(&str) -> bool) -> std::io::Result<()> {
    // As in Place::remove: never through a mount.
    MOUNTS.iter().try_for_each(|mount| unless_gone(std::fs::remove_dir(scratch.join(mount))))?;
    for entry in std::fs::read_dir(scratch)? {
        let entry = entry?;
        if entry.file_name().to_str().is_none_or(&is_removed) {
            let (path, is_folder) = (entry.path(), entry.file_type()?.is_dir());
            unless_gone(if is_folder { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) })?;
        }
    }
    Ok(())
}

/// Removes a [`RESUMABLE`] for good: before what it tells of, so that nobody goes on with half of that. Blocks.
pub(crate) fn remove_record(record: &Path) -> std::io::Result<()> {
    unless_gone(std::fs::remove_file(record))?;
    File::open(record.parent().unwrap_or(Path::new(".")))?.sync_all()
}

pub(crate) fn unless_gone(removed: std::io::Result<()>) -> std::io::Result<()> {
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

    /// Ends what works in it. Of its files those stay that another import can go on with.
    pub(super) async fn halt(self) -> Result<Scratch, ImportError> {
        let reaped = compute::reap_orphans(&self.path).await;
        reaped.map_err(|e| ImportError::read(&self.path, e))?;
        let path = self.path.clone();
        blocking(move || {
            filesystem::detach_stale(&path).map_err(LifecycleError::io("cannot read the mount table"))?;
            let failed = LifecycleError::io(format!("cannot remove what is in {}", path.display()));
            remove_but_prepared(&path).map_err(failed)
        })
        .await?;
        Ok(self)
    }

    /// Gives it another name.
    pub(super) fn rename(self, path: PathBuf) -> Result<Scratch, ImportError> {
        std::fs::rename(&self.path, &path).map_err(|source| ImportError::Scratch { path: path.clone(), source })?;
        Ok(Scratch { path, ..self })
    }

    /// Ends what works in it, and removes everything.
    pub(super) async fn remove(self) -> Result<(), ImportError> {
        let halted = self.halt().await?;
        let path = halted.path.clone();
        let failed = LifecycleError::io(format!("cannot remove {}", path.display()));
        let remove = move || {
            remove_record(&path.join(RESUMABLE))?;
            std::fs::remove_dir_all(&path)
        };
        blocking(move || remove().map_err(failed)).await?;
        drop(halted);
        Ok(())
    }
}
