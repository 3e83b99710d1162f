//! A data directory as a source: one that was shut down cleanly and that no server uses.
//!
//! Nothing is recovered: of its WAL only the file with the last checkpoint is needed. It is looked at before and after the
//! copy, since nothing keeps a server from being started on it in between. Symlinks are followed (`pg_wal` is often one).

use super::contents::comes_along;
use super::sink::Sink;
use super::{ImportError, Progress};
use crate::compute::{ControlFile, MAJORS};
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// How deep a data directory may be; a loop of symlinks is deeper.
const DEPTH_MAX: usize = 16;

/// A directory that can be imported.
#[derive(Debug)]
pub(super) struct StoppedDirectory {
    path: PathBuf,
    pub major: u32,
    pub control: ControlFile,
}

impl StoppedDirectory {
    /// Looks at the directory at `path`. Blocks.
    pub(super) fn open(path: &Path) -> Result<StoppedDirectory, ImportError> {
        let major = major(path)?;
        check_not_running(path)?;
        let control =
            ControlFile::read(path).map_err(|error| ImportError::read(&path.join("global/pg_control"), error))?;
        let not_shut_down =
            |state: &str| Err(ImportError::NotShutDown { path: path.to_owned(), state: state.to_owned() });
        if !control.is_shut_down() {
            return not_shut_down(control.state());
        }
        if path.join("backup_label").exists() {
            return not_shut_down("it is a backup that no server has recovered yet");
        }
        let tablespaces = tablespaces(path)?;
        if !tablespaces.is_empty() {
            return Err(ImportError::ExtraTablespaces { names: tablespaces });
        }
        if !path.join("pg_wal").join(control.checkpoint_wal_file()).is_file() {
            return Err(ImportError::MissingWal { path: path.to_owned() });
        }
        Ok(StoppedDirectory { path: path.to_owned(), major, control })
    }

    /// Hands its files to `sink`. Blocks; gives up when it is `cancelled`.
    pub(super) fn copy_into(
        &self,
        sink: &mut impl Sink,
        progress: &Progress,
        cancelled: &Cancelled,
    ) -> Result<(), ImportError> {
        let mut total = 0;
        self.walk("", 0, &mut |found| {
            total += found.length;
            Ok(())
        })?;
        progress.begin("copying the data directory", total);
        self.walk("", 0, &mut |found| {
            let mode = found.mode;
            if found.is_directory {
                return Ok(sink.directory(found.path, mode)?);
            }
            let source = self.path.join(found.path);
            let mut file = fs::File::open(&source).map_err(|error| ImportError::read(&source, error))?;
            Ok(sink.file(found.path, mode, &mut Watched { file: &mut file, progress, cancelled })?)
        })?;
        let unchanged = ControlFile::read(&self.path).is_ok_and(|control| control == self.control);
        if !unchanged || check_not_running(&self.path).is_err() {
            return Err(ImportError::Changed { path: self.path.clone() });
        }
        progress.finish();
        Ok(())
    }

    /// Visits what comes along, folders before what is in them.
    fn walk(
        &self,
        path: &str,
        depth: usize,
        visit: &mut dyn FnMut(Found<'_>) -> Result<(), ImportError>,
    ) -> Result<(), ImportError> {
        let full = self.path.join(path);
        let metadata = match fs::metadata(&full) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && full.is_symlink() => {
                tracing::warn!(path = %full.display(), "leaving out a symlink that leads nowhere");
                return Ok(());
            }
            metadata => metadata.map_err(|error| ImportError::read(&full, error))?,
        };
        let mode = metadata.permissions().mode() & 0o777;
        if metadata.is_file() {
            return visit(Found { path, mode, length: metadata.len(), is_directory: false });
        }
        if !metadata.is_dir() || depth > DEPTH_MAX {
            return Err(ImportError::read(&full, io::Error::other("no file or folder of a data directory")));
        }
        visit(Found { path, mode, length: 0, is_directory: true })?;
        for name in names_in(&full)? {
            let below = if path.is_empty() { name } else { format!("{path}/{name}") };
            if comes_along(&below) && self.is_needed(&below) {
                self.walk(&below, depth + 1, visit)?;
            }
        }
        Ok(())
    }

    /// Of the WAL, only what a start reads: the file with the last checkpoint's record, and the next where the record may end there.
    fn is_needed(&self, path: &str) -> bool {
        let (redo, size) = (self.control.redo(), self.control.wal_segment_size);
        let last = self.control.wal_file((redo + LONGEST_CHECKPOINT) / size);
        match path.strip_prefix("pg_wal/") {
            Some(name) if name == self.control.checkpoint_wal_file() || name == last => true,
            Some(name) => matches!(name, "archive_status" | "summaries"),
            None => true,
        }
    }
}

/// Bytes, more than a checkpoint's record with the page header that may be within it.
const LONGEST_CHECKPOINT: u64 = 512;

struct Found<'a> {
    path: &'a str,
    mode: u32,
    length: u64,
    is_directory: bool,
}

/// Tells a blocking thread that nobody waits for it any more: the other half was dropped.
pub(super) struct Cancelled(std::sync::Weak<()>);

impl Cancelled {
    /// The thread's half, and the one to keep.
    pub(super) fn pair() -> (Cancelled, std::sync::Arc<()>) {
        let kept = std::sync::Arc::new(());
        (Cancelled(std::sync::Arc::downgrade(&kept)), kept)
    }
}

/// A file whose reading shows, and stops when it is for nothing.
struct Watched<'a> {
    file: &'a mut fs::File,
    progress: &'a Progress,
    cancelled: &'a Cancelled,
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.cancelled.0.strong_count() == 0 {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the import was cancelled"));
        }
        let length = self.file.read(buffer)?;
        self.progress.advance(length as u64);
        Ok(length)
    }
}

fn major(path: &Path) -> Result<u32, ImportError> {
    let not_one = |reason: String| ImportError::NotADataDirectory { path: path.to_owned(), reason };
    let version = match fs::read_to_string(path.join("PG_VERSION")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(not_one("it has no PG_VERSION".to_owned()));
        }
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Err(not_one("it is a file".to_owned())),
        read => read.map_err(|error| ImportError::read(&path.join("PG_VERSION"), error))?,
    };
    let version = version.trim();
    match version.parse() {
        Ok(major) if MAJORS.contains(&major) => Ok(major),
        Ok(_) => Err(ImportError::UnsupportedVersion { version: version.to_owned() }),
        // Until PostgreSQL 9.6 it held two numbers.
        Err(_) if version.starts_with("9.") => Err(ImportError::UnsupportedVersion { version: version.to_owned() }),
        Err(_) => Err(not_one(format!("its PG_VERSION holds {version:?}"))),
    }
}

/// The lock file of a server that is alive; one that a dead server left is for the control file to judge.
fn check_not_running(path: &Path) -> Result<(), ImportError> {
    let lock = path.join("postmaster.pid");
    let content = match fs::read_to_string(&lock) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        read => read.map_err(|error| ImportError::read(&lock, error))?,
    };
    let pid = content.lines().next().and_then(|line| line.trim().parse::<i32>().ok());
    match pid {
        // A negative one is that of a single-user session (CreateLockFile of miscinit.c).
        Some(pid) if Path::new(&format!("/proc/{}", pid.unsigned_abs())).exists() => {
            Err(ImportError::Running { path: path.to_owned(), pid: pid.abs() })
        }
        _ => Ok(()),
    }
}

fn tablespaces(path: &Path) -> Result<Vec<String>, ImportError> {
    let folder = path.join("pg_tblspc");
    let location = |name: String| match fs::read_link(folder.join(&name)) {
        Ok(target) => target.display().to_string(),
        Err(_) => name,
    };
    Ok(names_in(&folder)?.into_iter().map(location).collect())
}

/// Sorted, so that two imports of the same directory write the same.
fn names_in(folder: &Path) -> Result<Vec<String>, ImportError> {
    let read = || -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(folder)? {
            let name = entry?.file_name().into_string();
            names.push(name.map_err(|name| io::Error::other(format!("the file name {name:?} is not UTF-8")))?);
        }
        names.sort();
        Ok(names)
    };
    read().map_err(|error| ImportError::read(folder, error))
}
