//! What a delta is kept on: one flat folder of files, and what may be relied on after a power cut.
//!
//! Overlay files and journal reach the disk through here and nowhere else, so that a simulation can take the disk's place and drop whatever the
//! rules allow it to: a byte is durable once its file's `sync` returned after the write, and a name once `sync_names` returned after it was made or removed.

mod local;
#[cfg(test)]
pub mod simulated;

pub use local::LocalDisk;

use std::io;
use std::path::Path;
use std::sync::Arc;

/// One flat folder. All calls block.
pub trait Disk: Send + Sync {
    /// Opens a file for reading and writing; an empty one is made where there is none.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// Removes a file; one that is not there is no error.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// The files there are.
    fn names(&self) -> io::Result<Vec<String>>;
    /// Makes every name made or removed so far durable.
    fn sync_names(&self) -> io::Result<()>;
    /// Where it is, for messages and `statvfs`.
    fn folder(&self) -> &Path;
}

/// An open file of a [`Disk`].
pub trait DiskFile: Send + Sync {
    /// Reads into `buffer` at `offset`; fewer bytes only at the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of `bytes` at `offset`.
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Bytes.
    fn len(&self) -> io::Result<u64>;
    /// Cuts or grows it, with zeros.
    fn set_len(&self, bytes: u64) -> io::Result<()>;
    /// Whether so much was written since this last said so that [`DiskFile::begin_writeback`] is worth a call.
    fn writeback_due(&self) -> bool {
        false
    }
    /// Begins to write back what was written, without waiting for the end of it. It promises nothing. Blocks while the disk's queue is full.
    fn begin_writeback(&self) {}
    /// Makes content and length durable.
    fn sync(&self) -> io::Result<()>;
}
