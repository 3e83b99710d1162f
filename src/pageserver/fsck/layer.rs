//! Layers: footer, index, every frame; and that the layers of a branch have the WAL that its manifest names.

use super::frames::Expected;
use super::heads::Reached;
use super::{Fsck, Trouble};
use crate::model::{FileId, LayerRef, PAGE_SIZE};
use crate::pageserver::frame::{FrameRef, PAGES_PER_FRAME};
use crate::pageserver::layer::{self, FOOTER, Footer, LayerPages, PAGE_ENTRY, ZERO_PAGE};
use std::collections::{BTreeMap, HashMap, HashSet};

impl Fsck<'_> {
    /// Checks each layer once, however many branches list it.
    pub(super) async fn check_layers(&mut self, reached: &Reached, image_wal: &HashMap<&str, u32>) {
        let mut layers: BTreeMap<&str, &LayerRef> = BTreeMap::new();
        for layer in reached.branches.iter().flat_map(|branch| &branch.layers) {
            layers.insert(&layer.key, layer);
        }
        // Pages of WAL that each sound layer has.
        let mut wal: HashMap<&str, HashSet<u32>> = HashMap::new();
        for (key, layer) in layers {
            self.report.count(layer.bytes);
            match self.check_layer(layer).await {
                Ok(pages) => drop(wal.insert(key, pages)),
                Err(trouble) => self.note(key, trouble),
            }
        }
        for branch in &reached.branches {
            let Some(manifest) = &branch.manifest else { continue };
            let Some(all) = branch.layers.iter().map(|layer| wal.get(layer.key.as_str())).collect::<Option<Vec<_>>>()
            else {
                continue;
            };
            let of_image = match &branch.image {
                // An upload over an image has all of its own WAL.
                Some(image) if branch.layers.is_empty() => match image_wal.get(image.index.as_str()) {
                    Some(pages) => *pages,
                    None => continue,
                },
                _ => 0,
            };
            if let Some(page) = (of_image..branch.wal_pages).find(|page| !all.iter().any(|pages| pages.contains(page)))
            {
                self.note(&manifest.key, Trouble::Damaged(format!("none of its layers has page {page} of its WAL")));
            }
        }
    }

    /// The pages of WAL it has.
    async fn check_layer(&self, layer: &LayerRef) -> Result<HashSet<u32>, Trouble> {
        self.check_length(&layer.key, layer.bytes).await?;
        let (footer, frames, pages, stored_pages) = self.read_layer_index(layer).await?;
        check_pages(&pages, stored_pages)?;
        let mut expected = Vec::with_capacity(frames.len());
        let mut end = 0;
        for (number, frame) in (0..).zip(frames) {
            if frame.is_zero() || frame.range().start != end || frame.range().end > footer.offset {
                return Err(Trouble::damaged("its frames do not follow one another"));
            }
            end = frame.range().end;
            let pages = (stored_pages - number * PAGES_PER_FRAME as u32).min(PAGES_PER_FRAME as u32);
            let length = pages * PAGE_SIZE as u32;
            expected.push(Expected { frame, file: FileId(0), number, length });
        }
        self.check_frames(&layer.key, &layer.key, expected).await?;
        Ok(pages.iter().filter(|(file, _, _)| *file == FileId::WAL).map(|(_, page, _)| *page).collect())
    }

    async fn read_layer_index(&self, layer: &LayerRef) -> Result<(Footer, Vec<FrameRef>, LayerPages, u32), Trouble> {
        let key = &layer.key;
        let footer_at = layer.bytes.checked_sub(FOOTER as u64).ok_or_else(|| Trouble::damaged("it is too short"))?;
        let footer = self.read(key, footer_at..layer.bytes).await?;
        let footer = Footer::decode(&footer).ok_or_else(|| Trouble::damaged("it has no footer"))?;
        let (frames, pages) = (u64::from(footer.frames), u64::from(footer.pages));
        let length = frames * FrameRef::ENCODED as u64 + pages * PAGE_ENTRY;
        let stored_end = footer.offset.checked_add(u64::from(footer.stored));
        if pages != layer.pages || u64::from(footer.length) != length || stored_end != Some(footer_at) {
            return Err(Trouble::damaged("its footer does not agree with the manifest"));
        }
        let stored = self.read(key, footer.offset..footer_at).await?;
        if layer::sum(key, &stored) != footer.crc {
            return Err(Trouble::damaged("its index's checksum does not match"));
        }
        let index =
            zstd::bulk::decompress(&stored, footer.length as usize).map_err(|e| Trouble::damaged(e.to_string()))?;
        let (frames, pages, stored_pages) =
            layer::decode_index(&index, footer).ok_or_else(|| Trouble::damaged("its index is cut short"))?;
        if frames.len() as u32 != stored_pages.div_ceil(PAGES_PER_FRAME as u32) {
            return Err(Trouble::damaged("it has more or fewer frames than its pages fill"));
        }
        Ok((footer, frames, pages, stored_pages))
    }
}

/// Pages are sorted, there once, and stored in that order.
fn check_pages(pages: &LayerPages, stored_pages: u32) -> Result<(), Trouble> {
    if !pages.is_sorted_by(|a, b| (a.0, a.1) < (b.0, b.1)) {
        return Err(Trouble::damaged("its pages are not sorted, or one is there twice"));
    }
    let slots = pages.iter().map(|(_, _, slot)| *slot).filter(|slot| *slot != ZERO_PAGE);
    if !slots.eq(0..stored_pages) {
        return Err(Trouble::damaged("its pages are not stored in their order"));
    }
    Ok(())
}
