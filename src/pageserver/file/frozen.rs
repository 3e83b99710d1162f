//! A file while an upload reads it and its compute goes on writing: copy before write.
//!
//! [`DataFile::freeze`] notes which pages the upload is to have. A write that comes before the upload has read such a page copies the old
//! content to a stash, a file beside the overlay, and then goes on; reads do not notice. A stash that cannot be written fails the
//! upload, never the write. After a crash a stash is a stray.

use super::{Carried, DataFile, Ground, State, carried, overlay_name};
use crate::model::{PAGE_SIZE, PageNo};
use crate::pageserver::PageError;
use crate::pageserver::disk::DiskFile;
use crate::pageserver::page_set::PageSet;
use std::io;
use std::ops::Range;
use std::sync::Arc;

/// What an upload under way has not read yet.
pub(super) struct Frozen {
    left: PageSet,
    /// Overwritten since: the old content is in the stash.
    stashed: PageSet,
    stash: Option<Arc<dyn DiskFile>>,
    failed: Option<Arc<io::Error>>,
}

/// The frozen pages of a file, readable even when the file itself is gone.
pub struct FrozenPages {
    overlay: Option<Arc<dyn DiskFile>>,
}

fn stash_name(file: &DataFile) -> String {
    format!("{}.frozen", overlay_name(file.id))
}

impl DataFile {
    /// Freezes what an upload must have. Nothing may write to any file meanwhile; see [`DataFile::pages_to_carry`] for `all`.
    pub(in crate::pageserver) fn freeze(&self, ground: &Ground, all: bool) -> (Carried, FrozenPages) {
        let mut state = self.write_lock();
        let carried = carried(&state, &ground.layers, self.id, all);
        let mut left = PageSet::default();
        for run in &carried.own {
            left.insert(run.clone());
        }
        state.unpublished = PageSet::default();
        let frozen = Frozen { left, stashed: PageSet::default(), stash: None, failed: None };
        state.frozen = Some(frozen);
        (carried, FrozenPages { overlay: state.overlay.clone() })
    }

    /// Reads frozen pages, one after another, into `out`, and lets them go: a page can be read once.
    pub(in crate::pageserver) fn read_frozen(
        &self,
        pages: Range<u32>,
        from: &FrozenPages,
        out: &mut Vec<u8>,
    ) -> Result<(), PageError> {
        let mut state = self.write_lock();
        out.clear();
        out.resize(pages.len() * PAGE_SIZE, 0);
        let Some(frozen) = &mut state.frozen else { return Err(self.not_frozen()) };
        if let Some(error) = &frozen.failed {
            return Err(PageError::Local { path: stash_name(self).into(), source: error.clone() });
        }
        for (content, page) in out.chunks_exact_mut(PAGE_SIZE).zip(pages.clone()) {
            let source = if frozen.stashed.contains(page) { &frozen.stash } else { &from.overlay };
            let source = source.as_ref().ok_or_else(|| self.not_frozen())?;
            source.read_at(content, PageNo(page).offset()).map_err(|e| self.local(e))?;
        }
        frozen.left.remove(pages);
        Ok(())
    }

    /// Ends an upload: `carried` is in a layer that a manifest names, or, where that did not come to be, is to be carried again.
    pub(in crate::pageserver) fn thaw(&self, ground: &Ground, carried: &Carried, published: bool) {
        let mut state = self.write_lock();
        let had_stash = state.frozen.take().is_some_and(|frozen| frozen.stash.is_some());
        if published {
            for run in &carried.own {
                state.published.insert(run.clone());
            }
            for page in &carried.zeros {
                state.published.insert(*page..*page + 1);
            }
        } else {
            let State { present, unpublished, .. } = &mut *state;
            for page in carried.own.iter().flat_map(|run| run.clone()).filter(|page| present.contains(*page)) {
                unpublished.insert(page..page + 1);
            }
        }
        if had_stash {
            // What stays is removed as a stray at the next open.
            let _ = ground.disk.remove(&stash_name(self));
        }
    }

    /// Before `pages` are overwritten or cut off: copies those that an upload must still have.
    pub(super) fn keep_frozen(&self, ground: &Ground, state: &mut State, pages: Range<u32>) {
        let State { frozen: Some(frozen), overlay: Some(overlay), .. } = state else { return };
        let last = pages.end.min(frozen.left.end());
        let (mut page, mut content) = (pages.start, [0; PAGE_SIZE]);
        while page < last && frozen.failed.is_none() {
            let (wanted, run) = frozen.left.run(page, last);
            for page in if wanted { page..page + run } else { 0..0 } {
                if let Err(error) = stash(frozen, &**overlay, page, &mut content, || {
                    let stash = ground.disk.open(&stash_name(self));
                    ground.names.added();
                    stash
                }) {
                    tracing::warn!(file = ?self.id, %error, "an upload is given up: what it was to have cannot be kept");
                    frozen.failed = Some(Arc::new(error));
                    break;
                }
            }
            page += run;
        }
    }

    fn not_frozen(&self) -> PageError {
        self.local(io::Error::other("a page that an upload was to have is not frozen"))
    }
}

fn stash(
    frozen: &mut Frozen,
    overlay: &dyn DiskFile,
    page: u32,
    content: &mut [u8; PAGE_SIZE],
    open: impl FnOnce() -> io::Result<Arc<dyn DiskFile>>,
) -> io::Result<()> {
    content.fill(0);
    overlay.read_at(content, PageNo(page).offset())?;
    let stash = match &frozen.stash {
        Some(stash) => stash,
        None => frozen.stash.insert(open()?),
    };
    stash.write_all_at(content, PageNo(page).offset())?;
    frozen.left.remove(page..page + 1);
    frozen.stashed.insert(page..page + 1);
    Ok(())
}
