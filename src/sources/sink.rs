//! Where the files of an import go.

use crate::pageserver::{BaseWriter, WriteError};
use std::io::Read;

/// Takes a data directory file by file, on a blocking thread: the three calls of [`BaseWriter`] that the readers of sources need.
pub(super) trait Sink: Send + 'static {
    fn directory(&mut self, path: &str, mode: u32) -> Result<(), WriteError>;
    fn symlink(&mut self, path: &str, target: &str) -> Result<(), WriteError>;
    fn file(&mut self, path: &str, mode: u32, content: &mut dyn Read) -> Result<(), WriteError>;
}

impl Sink for BaseWriter {
    fn directory(&mut self, path: &str, mode: u32) -> Result<(), WriteError> {
        BaseWriter::directory(self, path, mode)
    }

    fn symlink(&mut self, path: &str, target: &str) -> Result<(), WriteError> {
        BaseWriter::symlink(self, path, target)
    }

    fn file(&mut self, path: &str, mode: u32, content: &mut dyn Read) -> Result<(), WriteError> {
        BaseWriter::file(self, path, mode, content)
    }
}
