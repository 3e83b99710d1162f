//! Names of overlay files become durable before the journal relies on them.

use crate::pageserver::disk::Disk;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Counts the names that were made, and how many of them are durable.
#[derive(Default)]
pub struct NamesOnDisk {
    made: AtomicU64,
    durable: Mutex<u64>,
}

impl NamesOnDisk {
    /// A file was opened that may not have been there before.
    pub fn added(&self) {
        self.made.fetch_add(1, Ordering::AcqRel);
    }

    /// Returns once every name made before the call is durable. Callers at the same time share one sync.
    pub fn sync(&self, disk: &dyn Disk) -> io::Result<()> {
        let wanted = self.made.load(Ordering::Acquire);
        let mut durable = self.durable.lock().unwrap_or_else(PoisonError::into_inner);
        if *durable >= wanted {
            return Ok(());
        }
        let made = self.made.load(Ordering::Acquire);
        disk.sync_names()?;
        *durable = made;
        Ok(())
    }
}
