//! A branch's own image: what a branch that rewrote most of its base has in the base's stead, so that a wake reads one paged index and not an
//! entry for each page it ever wrote.
//!
//! It is made of a stopped branch as a base is sealed: frames that the branch left alone are pointed to where they are, in packs of the base or of its
//! former image; frames that it changed are written whole to packs of its own. Its layers and its tree are empty from there on. Of the packs of its former
//! images it keeps those of which at least half is in use, and writes again what it uses of others: so it stores at most twice what it needs.
//! Synchronous, for a blocking thread.

use super::base::{Base, Extent};
use super::base_writer::{PackNames, PackWriter};
use super::driver::Driver;
use super::frame::FRAME_SIZE;
use super::seal::{Sealing, unchanged_frame};
use super::volume::{Recorded, StoredRange, Volume};
use super::{PageCache, PageError, WriteError};
use crate::model::{FileId, FileKind, Image, PAGE_SIZE};
use crate::store::{Store, keys};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::Path;

/// Pages of its own from which a branch gets an image, 64 MiB: their entries in layers are half of what a boot object should take.
const LEAST_PAGES: u64 = 8192;

/// Whether a branch that has `own_pages` in its delta and its layers is better off with an image, where all that lies beneath has `beneath` bytes.
/// At half of it, an image is written once for each time that half of the branch was rewritten.
pub fn wants_image(own_pages: u64, beneath: u64) -> bool {
    own_pages >= LEAST_PAGES && own_pages * PAGE_SIZE as u64 >= beneath / 2
}

/// Names of an image that is to be made.
pub struct ImageNames {
    /// Key of its index.
    pub index: String,
    /// Key of the pack that is the n-th of all that it needs.
    pub pack: Box<dyn Fn(u32) -> String + Send>,
}

/// An image whose objects are all in the store, but which no manifest names yet.
pub struct BuiltImage {
    pub image: Image,
    /// Where each file is in it.
    extents: HashMap<FileId, Extent>,
}

/// Writes the image of `volume`, to which nothing may write meanwhile, and of `wal`: whole pages, numbered from 0 on. `scratch` is a local folder for its frame table.
pub fn build_image(
    volume: &Volume,
    wal: &[u8],
    names: ImageNames,
    (store, scratch): (Store, &Path),
    driver: &Driver,
) -> Result<BuiltImage, WriteError> {
    let pack_names = PackNames { owner: Image::owner_of(&names.index).to_owned(), key: names.pack };
    let table = scratch.join("image-frames");
    // Of a suspend that failed.
    match std::fs::remove_file(&table) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(WriteError::Scratch { path: table, source: e });
        }
        _ => {}
    }
    let packs = PackWriter::new(store, pack_names, table, driver.clone(), Vec::new())?;
    let sparse = sparse_packs(volume, driver)?;
    let mut sealing = Sealing::new(volume, driver.clone(), packs, Some(sparse));
    sealing.add_all(wal)?;
    let Sealing { packs, records, files, logical_bytes, .. } = sealing;
    let highest = records.iter().map(|record| record.id.0).max().unwrap_or(FileId::FIRST.0);
    let extents = records
        .iter()
        .filter(|record| record.kind == FileKind::File)
        .map(|record| (record.id, Extent { first_frame: record.first_frame, size: record.size }))
        .collect();
    // An id that was given out is never given out again, whatever became of it.
    let last_file_id = highest.max(volume.next_file_id() - 1);
    let (packs, index_bytes) = packs.finish(names.index.clone(), records)?;
    let image = Image { index: names.index, index_bytes, packs, last_file_id, files, logical_bytes };
    Ok(BuiltImage { image, extents })
}

/// Packs of the branch's former images of which it uses less than half, by the numbers they have there.
fn sparse_packs(volume: &Volume, driver: &Driver) -> Result<HashSet<u32>, PageError> {
    let mut used = HashMap::new();
    count_used(volume, driver, FileId::ROOT, &mut used)?;
    let mut sparse = HashSet::new();
    for (number, bytes) in used {
        let pack = volume.ground.base.pack_reference(number)?;
        // A base's packs are there, whoever uses them.
        if pack.key.starts_with(keys::BRANCHES) && bytes < pack.bytes / 2 {
            sparse.insert(number);
        }
    }
    Ok(sparse)
}

/// Adds up the stored bytes of frames below `directory` that are as they lie beneath, by pack.
fn count_used(
    volume: &Volume,
    driver: &Driver,
    directory: FileId,
    used: &mut HashMap<u32, u64>,
) -> Result<(), PageError> {
    let listing = driver.wait(volume.listing(directory))??;
    for (id, kind, name) in volume.entries(directory, &listing)? {
        let size = volume.lookup(directory, &name, &listing)?.size;
        let counted = match kind {
            FileKind::Directory => count_used(volume, driver, id, used),
            FileKind::Symlink => Ok(()),
            FileKind::File => count_used_of_file(volume, driver, (id, size), used),
        };
        // No kernel was told of it.
        volume.forget(id, 1);
        counted?;
    }
    Ok(())
}

fn count_used_of_file(
    volume: &Volume,
    driver: &Driver,
    (id, size): (FileId, u64),
    used: &mut HashMap<u32, u64>,
) -> Result<(), PageError> {
    let file = volume.file(id)?;
    for number in 0..size.div_ceil(FRAME_SIZE as u64) as u32 {
        if let Some(extent) = unchanged_frame(volume, &file, size, number) {
            let frame = driver.wait(volume.ground.base.place(extent, number))??;
            *used.entry(frame.object).or_default() += frame.stored() as u64;
        }
    }
    Ok(())
}

impl BuiltImage {
    /// What a start that does what `recorded` did will read of this image.
    pub async fn boot_ranges(&self, cache: PageCache, recorded: &Recorded) -> Result<Vec<StoredRange>, PageError> {
        let base = Base::open_image(cache, &self.image).await?;
        let wal = self.extents.get(&FileId::WAL).map(|extent| (FileId::WAL, extent.size));
        let wal = wal.into_iter().flat_map(|(file, size)| {
            let frames = size.div_ceil(FRAME_SIZE as u64) as u32;
            (0..frames).map(move |number| (file, number))
        });
        let places: BTreeSet<(FileId, u32)> = recorded.places.iter().copied().chain(wal).collect();
        let in_table = places.iter().filter_map(|(file, number)| {
            let extent = self.extents.get(file)?;
            let has = super::base::content_length(*extent, *number) > 0;
            has.then(|| extent.first_frame + u64::from(*number))
        });
        let ranges = base.stored_ranges(in_table, recorded.listings.iter().copied()).await?;
        // Several places share a page of the frame table.
        let ranges: BTreeSet<StoredRange> = ranges.into_iter().collect();
        Ok(ranges.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_branch_gets_an_image_once_it_rewrote_half_of_what_lies_beneath() {
        let page = PAGE_SIZE as u64;
        assert!(wants_image(LEAST_PAGES, 2 * LEAST_PAGES * page));
        assert!(!wants_image(LEAST_PAGES, 3 * LEAST_PAGES * page));
        assert!(!wants_image(LEAST_PAGES - 1, page), "a small branch has small layers");
        assert!(wants_image(LEAST_PAGES, 0));
    }
}
