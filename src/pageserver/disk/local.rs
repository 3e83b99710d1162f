//! A folder of this machine's file system.

use super::{Disk, DiskFile};
use nix::libc;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A folder, made when it is opened.
pub struct LocalDisk {
    folder: PathBuf,
    /// Whether a sync waits for the disk. Without, what is written survives this process, but not the machine.
    syncs: bool,
}

/// A file that is synced only where its disk is.
struct LocalFile {
    file: File,
    syncs: bool,
    /// Bytes written since their way to the disk was last begun.
    unbegun: AtomicU64,
}

/// Written bytes of a file whose writeback is begun together. Measured with bulk statements and TPC-B on a mount (ARCHITECTURE.md, "The write path"): with
/// 4 MiB some gained and some lost, with 16 MiB none lost.
const BEGIN_WRITEBACK: u64 = 16 << 20;

impl LocalDisk {
    /// Makes `folder` if it is missing.
    pub fn open(folder: &Path) -> io::Result<LocalDisk> {
        std::fs::create_dir_all(folder)?;
        Ok(LocalDisk { folder: folder.to_owned(), syncs: true })
    }

    /// As [`LocalDisk::open`], of a folder whose content may be lost with the machine.
    pub fn open_ephemeral(folder: &Path) -> io::Result<LocalDisk> {
        Ok(LocalDisk { syncs: false, ..Self::open(folder)? })
    }
}

impl Disk for LocalDisk {
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.folder.join(name);
        let file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path)?;
        Ok(Arc::new(LocalFile { file, syncs: self.syncs, unbegun: AtomicU64::new(0) }))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        match std::fs::remove_file(self.folder.join(name)) {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            outcome => outcome,
        }
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let entries = std::fs::read_dir(&self.folder)?;
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    fn sync_names(&self) -> io::Result<()> {
        if self.syncs { File::open(&self.folder)?.sync_all() } else { Ok(()) }
    }

    fn folder(&self) -> &Path {
        &self.folder
    }
}

impl DiskFile for LocalFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match FileExt::read_at(&self.file, &mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(length) => filled += length,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(filled)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        FileExt::write_all_at(&self.file, bytes, offset)?;
        self.unbegun.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    fn writeback_due(&self) -> bool {
        let is_due = self.syncs && self.unbegun.load(Ordering::Relaxed) >= BEGIN_WRITEBACK;
        is_due && self.unbegun.swap(0, Ordering::Relaxed) >= BEGIN_WRITEBACK
    }

    /// What comes through FUSE is what the kernel wants written back: a local file system would have it on its way to the disk by now. Left in the page
    /// cache once more, all of it would be what the next fsync waits for.
    #[expect(unsafe_code, reason = "sync_file_range(2) has no safe wrapper among our dependencies")]
    fn begin_writeback(&self) {
        // An error is left to the fsync, which will have it, too.
        // SAFETY: the call takes no pointers, and the descriptor is open for as long as `self.file` lives.
        unsafe { libc::sync_file_range(self.file.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE) };
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.file.set_len(bytes)
    }

    fn sync(&self) -> io::Result<()> {
        if self.syncs { self.file.sync_data() } else { Ok(()) }
    }
}
