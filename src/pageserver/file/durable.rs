//! Making a file durable, and taking it up again from the journal.

use super::{DataFile, Ground};
use crate::model::PageNo;
use crate::model::fault::{self, FaultPoint};
use crate::pageserver::PageError;
use crate::pageserver::disk::DiskFile;
use crate::pageserver::journal::Change;
use crate::pageserver::page_set::PageSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl DataFile {
    /// Makes everything written so far durable: data first, then the journal frame that makes it visible.
    /// A failure poisons the file: what the kernel dropped cannot be written again by trying once more.
    pub(in crate::pageserver) fn sync(&self, ground: &Ground) -> Result<(), PageError> {
        if self.is_transient() {
            return Ok(());
        }
        let (overlay, runs, size, journaled_size) = {
            let mut state = self.write_lock();
            if state.poisoned {
                return Err(PageError::Poisoned(format!("{:?}", self.id)));
            }
            let runs = std::mem::take(&mut state.unjournaled).runs();
            let (size, journaled_size) = (state.size, state.journaled_size);
            state.journaled_size = size;
            (state.overlay.clone(), runs, size, journaled_size)
        };
        let outcome = self.sync_parts(ground, overlay, runs, (size != journaled_size).then_some(size));
        if outcome.is_err() {
            self.write_lock().poisoned = true;
        }
        outcome
    }

    fn sync_parts(
        &self,
        ground: &Ground,
        overlay: Option<Arc<dyn DiskFile>>,
        runs: Vec<std::ops::Range<u32>>,
        grown_to: Option<u64>,
    ) -> Result<(), PageError> {
        if let Some(overlay) = overlay {
            overlay.sync().map_err(|e| self.local(e))?;
            ground.names.sync(&*ground.disk).map_err(|e| self.local(e))?;
            fault::pass(FaultPoint::PagesSynced);
        }
        if let Some(size) = grown_to {
            ground.journal.append(&Change::Grow { id: self.id, size });
        }
        if !runs.is_empty() {
            ground.journal.append(&Change::Pages { id: self.id, runs });
        }
        ground.journal.commit()
    }

    /// Takes a change from the journal at open.
    pub(in crate::pageserver) fn replay(&self, ground: &Ground, change: &Change) -> Result<(), PageError> {
        let mut state = self.write_lock();
        state.known = true;
        match change {
            Change::Truncate { size, .. } => {
                let gone = state.present.truncate(PageNo::count_for(*size));
                state.unpublished.truncate(PageNo::count_for(*size));
                ground.own_pages.fetch_sub(gone, Ordering::Relaxed);
                state.lower_limit = state.lower_limit.min(*size);
                state.was_cut = true;
                (state.size, state.journaled_size) = (*size, *size);
            }
            Change::Grow { size, .. } => (state.size, state.journaled_size) = (*size, *size),
            Change::Pages { runs, .. } => {
                self.overlay(ground, &mut state)?;
                for run in runs {
                    state.unpublished.insert(run.clone());
                    let added = state.present.insert(run.clone());
                    ground.own_pages.fetch_add(added, Ordering::Relaxed);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// The journal is replayed: what the overlay holds behind the file's end was written after its last record, or cut off by it.
    pub(in crate::pageserver) fn settle(&self) -> Result<(), PageError> {
        let state = self.read_lock();
        let Some(overlay) = &state.overlay else { return Ok(()) };
        if overlay.len().map_err(|e| self.local(e))? > state.size {
            overlay.set_len(state.size).map_err(|e| self.local(e))?;
        }
        Ok(())
    }

    /// Forgets a file that no name and no kernel refers to any more. True if its overlay may be removed only after the next commit,
    /// since the journal still names its pages.
    pub(in crate::pageserver) fn discard(&self, ground: &Ground) -> bool {
        let mut state = self.write_lock();
        let gone = state.present.truncate(0);
        ground.own_pages.fetch_sub(gone, Ordering::Relaxed);
        let journaled = gone > state.unjournaled.count();
        state.unjournaled = PageSet::default();
        let had_overlay = state.overlay.take().is_some();
        had_overlay && journaled
    }
}
