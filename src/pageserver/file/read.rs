//! Reading a file: what is near at once, what is not as [`Need`]s.

use super::{DataFile, Fetched, Ground, Need, State};
use crate::model::{PAGE_SIZE, PageNo};
use crate::pageserver::PageError;
use crate::pageserver::frame::PAGES_PER_FRAME;
use bytes::Bytes;

impl DataFile {
    /// Reads `length` bytes at `offset` into `out`, which is emptied first; short at the end of the file.
    /// Not empty: what must be fetched before it can be done.
    pub(in crate::pageserver) fn read(
        &self,
        ground: &Ground,
        offset: u64,
        length: usize,
        fetched: &Fetched,
        out: &mut Vec<u8>,
    ) -> Result<Vec<Need>, PageError> {
        let state = self.read_lock();
        out.clear();
        let end = (offset + length as u64).min(state.size);
        if offset >= end {
            return Ok(Vec::new());
        }
        out.resize((end - offset) as usize, 0);
        let end_page = PageNo::count_for(end);
        ground.recording.note_places(self.id, PageNo::containing(offset).0..end_page);
        let mut needs = Vec::new();
        let mut frame = None;
        let mut page = PageNo::containing(offset).0;
        while page < end_page {
            let (own, run) = state.present.run(page, end_page);
            let from = PageNo(page).offset().max(offset);
            let to = PageNo(page + run).offset().min(end);
            let part = &mut out[(from - offset) as usize..(to - offset) as usize];
            if own {
                self.read_overlay(&state, part, from)?;
            } else {
                self.read_lower(ground, &state, fetched, (part, from), &mut frame, &mut needs)?;
            }
            page += run;
        }
        Ok(needs)
    }

    fn read_overlay(&self, state: &State, part: &mut [u8], from: u64) -> Result<(), PageError> {
        let Some(overlay) = &state.overlay else {
            return Err(self.local(std::io::Error::other("its overlay file is not open")));
        };
        // Short only behind the end of what was written: zeros.
        overlay.read_at(part, from).map(|_| ()).map_err(|e| self.local(e))
    }

    /// Fills `part`, which begins at byte `from` and holds zeros, from layers and base.
    pub(super) fn read_lower(
        &self,
        ground: &Ground,
        state: &State,
        fetched: &Fetched,
        (part, from): (&mut [u8], u64),
        frame: &mut Option<(u32, Bytes)>,
        needs: &mut Vec<Need>,
    ) -> Result<(), PageError> {
        let end = (from + part.len() as u64).min(state.lower_limit);
        let mut at = from;
        while at < end {
            let page = PageNo::containing(at);
            let page_end = (page.offset() + PAGE_SIZE as u64).min(end);
            let target = &mut part[(at - from) as usize..(page_end - from) as usize];
            let skip = (at - page.offset()) as usize;
            match self.lower_page(ground, state, fetched, page, frame)? {
                Ok(content) if content.len() > skip => {
                    let length = target.len().min(content.len() - skip);
                    target[..length].copy_from_slice(&content[skip..skip + length]);
                }
                Ok(_) => {}
                Err(need) => needs.push(need),
            }
            at = page_end;
        }
        Ok(())
    }

    /// A page of layers or base as far as it reaches, empty for none; or what must be fetched for it.
    fn lower_page(
        &self,
        ground: &Ground,
        state: &State,
        fetched: &Fetched,
        page: PageNo,
        last_frame: &mut Option<(u32, Bytes)>,
    ) -> Result<Result<Bytes, Need>, PageError> {
        if let Some(found) = ground.layers.find(self.id, page) {
            ground.recording.note_page(&ground.layers, found);
            if let Some(content) = fetched.layer_pages.get(&page) {
                return Ok(Ok(content.clone()));
            }
            return ground.layers.near_page(found).transpose().map(|near| near.ok_or(Need::Layer(page, found)));
        }
        let Some(extent) = state.base.filter(|extent| page.offset() < extent.size) else { return Ok(Ok(Bytes::new())) };
        let number = page.0 / PAGES_PER_FRAME as u32;
        let content = match last_frame {
            Some((last, content)) if *last == number => content.clone(),
            _ => {
                ground.recording.note_frame(extent, number);
                let content = match fetched.base_frames.get(&number) {
                    Some(content) => content.clone(),
                    None => match ground.base.near_frame(self.id, extent, number).transpose()? {
                        Some(content) => content,
                        None => return Ok(Err(Need::Base(extent, number))),
                    },
                };
                *last_frame = Some((number, content.clone()));
                content
            }
        };
        let start = (page.0 as usize % PAGES_PER_FRAME) * PAGE_SIZE;
        Ok(Ok(content.slice(start.min(content.len())..(start + PAGE_SIZE).min(content.len()))))
    }
}
