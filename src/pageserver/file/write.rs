//! Writing, cutting and growing a file.

use super::{DataFile, Fetched, Ground, Need, State, overlay_name};
use crate::model::{PAGE_SIZE, PageNo};
use crate::pageserver::PageError;
use crate::pageserver::disk::DiskFile;
use crate::pageserver::journal::{Change, LARGEST_FILE};
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl DataFile {
    /// Writes `data` at `offset`. A page of which only a part is written is copied up whole first.
    /// Not empty: what must be fetched before it can be done.
    pub(in crate::pageserver) fn write(
        &self,
        ground: &Ground,
        offset: u64,
        data: &[u8],
        fetched: &Fetched,
    ) -> Result<Vec<Need>, PageError> {
        let mut state = self.write_lock();
        if state.poisoned {
            return Err(PageError::Poisoned(format!("{:?}", self.id)));
        }
        if data.is_empty() {
            return Ok(Vec::new());
        }
        let end = offset.saturating_add(data.len() as u64);
        if end > LARGEST_FILE {
            return Err(PageError::TooLarge);
        }
        let (first, last) = (PageNo::containing(offset), PageNo::containing(end - 1));
        let mut needs = Vec::new();
        let mut edges: Vec<(PageNo, Vec<u8>)> = Vec::new();
        let borders = [first, last];
        for page in borders.into_iter().take(if first == last { 1 } else { 2 }) {
            let whole = page.offset() >= offset && page.offset() + PAGE_SIZE as u64 <= end;
            if whole || state.present.contains(page.0) {
                continue;
            }
            let mut content = vec![0; PAGE_SIZE];
            let near = (&mut content[..], page.offset());
            self.read_lower(ground, &state, fetched, near, &mut None, &mut needs)?;
            edges.push((page, content));
        }
        if !needs.is_empty() {
            return Ok(needs);
        }
        let overlay = self.overlay(ground, &mut state)?;
        self.keep_frozen(ground, &mut state, first.0..last.0 + 1);
        for (page, content) in &mut edges {
            let (from, to) = (page.offset().max(offset), (page.offset() + PAGE_SIZE as u64).min(end));
            content[(from - page.offset()) as usize..(to - page.offset()) as usize]
                .copy_from_slice(&data[(from - offset) as usize..(to - offset) as usize]);
            overlay.write_all_at(content, page.offset()).map_err(|e| self.local(e))?;
        }
        // What no edge page wrote.
        let skip_first = edges.iter().any(|(page, _)| *page == first);
        let skip_last = edges.iter().any(|(page, _)| *page == last);
        let from = if skip_first { (first.offset() + PAGE_SIZE as u64).min(end) } else { offset };
        let to = if skip_last { last.offset().max(from) } else { end };
        if from < to {
            let middle = &data[(from - offset) as usize..(to - offset) as usize];
            overlay.write_all_at(middle, from).map_err(|e| self.local(e))?;
        }
        self.mark_present(ground, &mut state, first.0..last.0 + 1);
        state.size = state.size.max(end);
        Ok(Vec::new())
    }

    /// Makes a page the branch's own as it is, so that what lies below no longer shows through. Not empty: what must be fetched first.
    pub(in crate::pageserver) fn own_page(
        &self,
        ground: &Ground,
        page: PageNo,
        fetched: &Fetched,
    ) -> Result<Vec<Need>, PageError> {
        let mut state = self.write_lock();
        if state.poisoned || state.present.contains(page.0) || page.offset() >= state.size {
            return Ok(Vec::new());
        }
        let length = (PAGE_SIZE as u64).min(state.size - page.offset()) as usize;
        let (mut content, mut needs) = (vec![0; length], Vec::new());
        self.read_lower(ground, &state, fetched, (&mut content, page.offset()), &mut None, &mut needs)?;
        if needs.is_empty() {
            self.overlay(ground, &mut state)?.write_all_at(&content, page.offset()).map_err(|e| self.local(e))?;
            self.mark_present(ground, &mut state, page.0..page.0 + 1);
        }
        Ok(needs)
    }

    fn mark_present(&self, ground: &Ground, state: &mut State, pages: std::ops::Range<u32>) {
        self.introduce(ground, state);
        let mut page = pages.start;
        while page < pages.end {
            let (present, run) = state.present.run(page, pages.end);
            if !present {
                state.unjournaled.insert(page..page + run);
            }
            page += run;
        }
        state.unpublished.insert(pages.clone());
        let added = state.present.insert(pages);
        ground.own_pages.fetch_add(added, Ordering::Relaxed);
    }

    /// Tells the journal of a base's file before its first change.
    fn introduce(&self, ground: &Ground, state: &mut State) {
        if self.is_transient() {
            return;
        }
        if let (false, Some((parent, name))) = (state.known, &self.origin) {
            ground.journal.append(&Change::Adopt { id: self.id, parent: *parent, name: name.to_string() });
        }
        state.known = true;
    }

    pub(super) fn overlay(&self, ground: &Ground, state: &mut State) -> Result<Arc<dyn DiskFile>, PageError> {
        if let Some(overlay) = &state.overlay {
            return Ok(overlay.clone());
        }
        let file = ground.disk.open(&overlay_name(self.id)).map_err(|e| self.local(e))?;
        ground.names.added();
        state.overlay = Some(file.clone());
        Ok(file)
    }

    /// Cuts or grows the file to `size` bytes.
    pub(in crate::pageserver) fn set_size(&self, ground: &Ground, size: u64) -> Result<(), PageError> {
        if size > LARGEST_FILE {
            return Err(PageError::TooLarge);
        }
        let mut state = self.write_lock();
        if state.poisoned {
            return Err(PageError::Poisoned(format!("{:?}", self.id)));
        }
        if size > state.size {
            self.introduce(ground, &mut state);
            state.size = size;
        }
        if size >= state.size {
            return Ok(());
        }
        self.introduce(ground, &mut state);
        if !self.is_transient() {
            ground.journal.append(&Change::Truncate { id: self.id, size });
        }
        let kept = PageNo::count_for(size);
        // Were the overlay cut first, a crash between would leave the journal naming pages that are gone.
        let cuts_durable_pages = state.present.runs().last().is_some_and(|run| PageNo(run.end).offset() > size);
        if cuts_durable_pages && !self.is_transient() {
            ground.journal.commit()?;
        }
        self.keep_frozen(ground, &mut state, PageNo::containing(size).0..u32::MAX);
        if let Some(overlay) = &state.overlay {
            let length = overlay.len().map_err(|e| self.local(e))?;
            if length > size {
                overlay.set_len(size).map_err(|e| self.local(e))?;
            }
        }
        state.unjournaled.truncate(kept);
        state.unpublished.truncate(kept);
        let gone = state.present.truncate(kept);
        ground.own_pages.fetch_sub(gone, Ordering::Relaxed);
        if state.present.contains(PageNo::containing(size).0) {
            // Its tail is zeros from now on, whatever an upload carried of it.
            state.unpublished.insert(PageNo::containing(size).0..kept);
        }
        state.lower_limit = state.lower_limit.min(size);
        state.was_cut = true;
        state.size = size;
        state.journaled_size = size;
        Ok(())
    }
}
