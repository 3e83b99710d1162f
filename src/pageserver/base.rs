//! A sealed (or staged) base, or a branch's own image, opened for reading: index and packs.

use super::PageError;
use super::cache::{CachedObject, PageCache, Wanted};
use super::frame::{FRAME_SIZE, FrameRef, Identity};
use super::index::{Index, Listing, PAGES_OF_BASE, PAGES_OF_IMAGE};
use super::volume::StoredRange;
use crate::model::{BaseId, BaseManifest, FileId, Image, ImagePack, PackRef, ProjectName};
use crate::store::keys;
use bytes::Bytes;
use futures::future::try_join_all;
use std::collections::BTreeMap;

/// Where a file's frames are, as its record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    pub first_frame: u64,
    /// Bytes of the file in the base.
    pub size: u64,
}

/// One base, shared by all branches on it; or one branch's image.
pub struct Base {
    /// Whose index it is: a base's id, or an image's owner.
    owner: String,
    index: Index,
    packs: Vec<Pack>,
    cache: PageCache,
}

struct Pack {
    object: CachedObject,
    /// What its frames are summed with.
    owner: String,
}

impl Base {
    /// Opens a sealed base.
    pub async fn open(cache: PageCache, manifest: &BaseManifest) -> Result<Base, PageError> {
        let index = keys::base_index(&manifest.project, &manifest.id);
        Self::open_parts(cache, &manifest.project, &manifest.id, index, manifest.index_bytes, &manifest.packs).await
    }

    /// Opens a base by its parts: `index_key` names its index.
    pub(super) async fn open_parts(
        cache: PageCache,
        project: &ProjectName,
        id: &BaseId,
        index_key: String,
        index_bytes: u64,
        packs: &[PackRef],
    ) -> Result<Base, PageError> {
        let key = |pack: &PackRef| keys::base_pack(project, id, pack.number);
        let packs = packs.iter().map(|pack| ImagePack { key: key(pack), owner: id.to_string(), bytes: pack.bytes });
        Self::open_with(cache, (id.to_string(), PAGES_OF_BASE), (&index_key, index_bytes), packs).await
    }

    /// Opens a branch's image.
    pub async fn open_image(cache: PageCache, image: &Image) -> Result<Base, PageError> {
        let index = (image.index.as_str(), image.index_bytes);
        Self::open_with(cache, (image.owner().to_owned(), PAGES_OF_IMAGE), index, image.packs.iter().cloned()).await
    }

    async fn open_with(
        cache: PageCache,
        (owner, pages_in_memory): (String, usize),
        (index_key, index_bytes): (&str, u64),
        packs: impl Iterator<Item = ImagePack>,
    ) -> Result<Base, PageError> {
        let index =
            Index::open(cache.clone(), index_key.to_owned(), index_bytes, (owner.clone(), pages_in_memory)).await?;
        let packs = packs.map(|pack| Pack { object: cache.object(&pack.key, pack.bytes), owner: pack.owner }).collect();
        Ok(Base { owner, index, packs, cache })
    }

    /// The pack that its frames count as `number`, for an image that goes on needing it.
    pub(super) fn pack_reference(&self, number: u32) -> Result<ImagePack, PageError> {
        let pack = self.pack(number)?;
        Ok(ImagePack { key: pack.object.key().to_owned(), owner: pack.owner.clone(), bytes: pack.object.bytes() })
    }

    /// Entries of a directory, if they are in memory.
    pub fn cached_listing(&self, directory: FileId) -> Option<Listing> {
        self.index.cached_listing(directory)
    }

    /// Entries of a directory; empty for what is no directory of the base.
    pub async fn listing(&self, directory: FileId) -> Result<Listing, PageError> {
        self.index.listing(directory).await
    }

    /// Content of the `number`-th frame of a file, if it needs no request to the store. `None` may also be a frame of zeros
    /// whose place is not known here.
    pub fn near_frame(&self, file: FileId, extent: Extent, number: u32) -> Option<Result<Bytes, PageError>> {
        let frame = self.index.near_frame(extent.first_frame + u64::from(number))?;
        if frame.is_zero() {
            return Some(Ok(zeros(content_length(extent, number))));
        }
        let pack = self.packs.get(frame.object as usize)?;
        self.cache.near_frame(&pack.object, pack.wanted(file, extent, number, frame))
    }

    /// Contents of frames of a file, in the order of `numbers`: what lies together in a pack comes together.
    pub async fn frames(&self, file: FileId, extent: Extent, numbers: &[u32]) -> Result<Vec<Bytes>, PageError> {
        let places = try_join_all(numbers.iter().map(|number| self.place(extent, *number))).await?;
        let mut contents: Vec<Bytes> = numbers.iter().map(|number| zeros(content_length(extent, *number))).collect();
        let mut by_pack: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for (at, place) in places.iter().enumerate().filter(|(_, place)| !place.is_zero()) {
            by_pack.entry(place.object).or_default().push(at);
        }
        let places = &places;
        let loads = by_pack.into_iter().map(|(pack, spots)| async move {
            let pack = self.pack(pack)?;
            let wanted = spots.iter().map(|at| pack.wanted(file, extent, numbers[*at], places[*at]));
            let wanted: Vec<Wanted<'_>> = wanted.collect();
            let loaded = self.cache.frames(&pack.object, &wanted).await?;
            Ok::<_, PageError>((spots, loaded))
        });
        for (spots, loaded) in try_join_all(loads).await? {
            for (at, content) in spots.into_iter().zip(loaded) {
                contents[at] = content;
            }
        }
        Ok(contents)
    }

    /// Fetches frames of a file (place and number) that lie in one pack, in the background.
    pub(super) fn read_ahead(&self, file: FileId, frames: Vec<(FrameRef, u32)>) {
        let Some(pack) = frames.first().and_then(|(frame, _)| self.packs.get(frame.object as usize)) else { return };
        let frames = frames.into_iter().map(|(frame, number)| (frame, file, number)).collect();
        self.cache.read_ahead(&pack.object, &pack.owner, frames);
    }

    /// Where the index keeps a frame, for read-ahead, and for sealing: unchanged frames are pointed to, not copied.
    pub(super) async fn place(&self, extent: Extent, number: u32) -> Result<FrameRef, PageError> {
        self.index.frame(extent.first_frame + u64::from(number)).await
    }

    /// The stored bytes behind places of the frame table and behind listings, and what opening the base reads.
    pub(super) async fn stored_ranges(
        &self,
        places: impl Iterator<Item = u64>,
        listings: impl Iterator<Item = FileId>,
    ) -> Result<Vec<StoredRange>, PageError> {
        let mut ranges = self.index.opening_ranges();
        for place in places {
            ranges.extend(self.index.frame_page_at(place));
            let frame = self.index.frame(place).await?;
            if !frame.is_zero() {
                ranges.push(StoredRange::of(&self.pack(frame.object)?.object, frame.range()));
            }
        }
        listings.for_each(|directory| ranges.extend(self.index.listing_ranges(directory)));
        Ok(ranges)
    }

    fn pack(&self, number: u32) -> Result<&Pack, PageError> {
        self.packs.get(number as usize).ok_or_else(|| PageError::Damaged {
            object: format!("base {}", self.owner),
            what: format!("its index names a pack {number} that is not in its manifest"),
        })
    }
}

impl Pack {
    fn wanted(&self, file: FileId, extent: Extent, number: u32, frame: FrameRef) -> Wanted<'_> {
        let identity = Identity { owner: &self.owner, file, number };
        Wanted { frame, identity, length: content_length(extent, number) }
    }
}

/// Bytes of the `number`-th frame of a file.
pub(super) fn content_length(extent: Extent, number: u32) -> usize {
    let start = u64::from(number) * FRAME_SIZE as u64;
    extent.size.saturating_sub(start).min(FRAME_SIZE as u64) as usize
}

fn zeros(length: usize) -> Bytes {
    static ZEROS: [u8; FRAME_SIZE] = [0; FRAME_SIZE];
    Bytes::from_static(&ZEROS[..length])
}
