//! Directories being read: a listing takes several requests, and goes on where the last one ended.
//!
//! Entries are ordered by id, and an entry's id is the offset to go on from, so that a name that comes or goes between two
//! requests moves no other.

use crate::model::{FileId, FileKind};
use crate::pageserver::{Listing, PageError, Volume};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// A directory's entries as they were at the first request.
type Entries = Arc<Vec<(FileId, FileKind, String)>>;

/// The directories of one mount that were not read to their end yet.
#[derive(Default)]
pub(super) struct Readings(Mutex<HashMap<FileId, Entries>>);

impl Readings {
    /// The entries as of `offset` 0, `.` and `..` first.
    pub(super) fn entries(
        &self,
        volume: &Volume,
        directory: FileId,
        offset: u64,
        listing: &Listing,
    ) -> Result<Entries, PageError> {
        let mut readings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Some(entries), true) = (readings.get(&directory), offset > 0) {
            return Ok(entries.clone());
        }
        let parent = volume.parent(directory)?;
        let mut entries =
            vec![(directory, FileKind::Directory, ".".to_owned()), (parent, FileKind::Directory, "..".to_owned())];
        entries.extend(volume.entries(directory, listing)?);
        let entries = Arc::new(entries);
        readings.insert(directory, entries.clone());
        Ok(entries)
    }

    /// The directory was read to its end.
    pub(super) fn finished(&self, directory: FileId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&directory);
    }
}

/// The offset to go on from after the entry at `index`: its id, which is never 1 or 2 but for `.` and `..`.
pub(super) fn cookie(index: usize, id: FileId) -> u64 {
    if index < 2 { index as u64 + 1 } else { id.0 }
}
