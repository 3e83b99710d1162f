//! The page server.

use crate::model::{BaseId, ProjectName};
use crate::store::Store;
use std::io::Read;
use std::path::Path;

/// Why a base could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("cannot read the source: {0}")]
    Source(std::io::Error),
    #[error("cannot write to the object store: {0}")]
    Store(String),
    #[error("cannot write to {path}: {source}")]
    Scratch { path: std::path::PathBuf, source: std::io::Error },
}

/// Writes a data directory, file by file as it comes, into packs in the store. Memory is bounded by a few packs.
/// Synchronous, for a blocking thread: uploads run on `runtime`, a few at a time.
pub struct BaseWriter {}

impl BaseWriter {
    /// `scratch` is an existing, empty local folder for what cannot be kept in memory (16 bytes for each 64 KiB).
    pub fn new(_store: Store, _project: &ProjectName, _base: &BaseId, _scratch: &Path, _runtime: tokio::runtime::Handle) -> Result<Self, WriteError> {
        todo!()
    }

    /// Adds a directory; parents first, `path` relative to the data directory, without leading or trailing `/`.
    /// The data directory itself is `""`. `mode` holds permission bits.
    pub fn directory(&mut self, _path: &str, _mode: u32) -> Result<(), WriteError> {
        todo!()
    }

    /// Adds a symlink.
    pub fn symlink(&mut self, _path: &str, _target: &str) -> Result<(), WriteError> {
        todo!()
    }

    /// Adds a file, reading `content` to its end. A path given twice replaces the former file.
    pub fn file(&mut self, _path: &str, _mode: u32, _content: &mut dyn Read) -> Result<(), WriteError> {
        todo!()
    }

    /// Flushes the last pack and the index.
    pub fn finish(self) -> Result<StagedBase, WriteError> {
        todo!()
    }
}

/// A base whose pages are all in the store, but which nobody can branch yet: it is not consistent, and no manifest names it.
pub struct StagedBase {}
