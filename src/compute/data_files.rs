//! The files of a data directory as the daemon reads them: never through the mount.
//!
//! A daemon that waits for its own mount cannot be killed: the waiting thread keeps the process's descriptors, these keep the FUSE
//! connection, and nobody is left to answer. So what a start must know is read from the volume below.

use crate::model::FileKind;
use crate::pageserver::Volume;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::runtime::Handle;

/// Where a compute's files are. All paths are relative to the data directory. Every call blocks, and needs a runtime around it.
#[derive(Clone)]
pub enum DataFiles {
    Volume(Arc<Volume>),
    /// A plain folder, for tests and stopped data directories.
    Folder(PathBuf),
}

impl DataFiles {
    /// The whole file.
    pub(super) fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        match self {
            DataFiles::Folder(folder) => std::fs::read(folder.join(path)),
            DataFiles::Volume(volume) => {
                let read = Handle::current().block_on(volume.read_path(&components(path)));
                read.map_err(io::Error::other)?.ok_or_else(|| io::ErrorKind::NotFound.into())
            }
        }
    }

    /// Names in a folder; empty where there is none.
    pub(super) fn names(&self, path: &Path) -> io::Result<Vec<String>> {
        match self {
            DataFiles::Folder(folder) => match std::fs::read_dir(folder.join(path)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
                entries => entries?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect(),
            },
            DataFiles::Volume(volume) => {
                let listed = Handle::current().block_on(volume.list_path(&components(path)));
                let files = listed.map_err(io::Error::other)?.into_iter().filter(|(kind, _)| *kind == FileKind::File);
                Ok(files.map(|(_, name)| name).collect())
            }
        }
    }

    /// Removes a file of a plain folder. A volume's lock file goes before its next mount ([`Volume::remove_pid_file`]): behind the back of one,
    /// the kernel would go on knowing it.
    pub(super) fn remove(&self, path: &Path) -> io::Result<()> {
        match self {
            DataFiles::Folder(folder) => std::fs::remove_file(folder.join(path)),
            DataFiles::Volume(_) => Ok(()),
        }
    }
}

impl std::fmt::Debug for DataFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DataFiles::Volume(volume) => write!(f, "volume over {}", volume.directory().display()),
            DataFiles::Folder(folder) => write!(f, "{}", folder.display()),
        }
    }
}

fn components(path: &Path) -> Vec<String> {
    let plain = path.components().filter(|part| matches!(part, std::path::Component::Normal(_)));
    plain.map(|part| part.as_os_str().to_string_lossy().into_owned()).collect()
}

impl From<Arc<Volume>> for DataFiles {
    fn from(volume: Arc<Volume>) -> Self {
        DataFiles::Volume(volume)
    }
}
