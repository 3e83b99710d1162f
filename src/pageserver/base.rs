//! A sealed (or staged) base, opened for reading: index and packs.

use super::PageError;
use super::cache::{CachedObject, PageCache};
use super::frame::{FRAME_SIZE, Identity};
use super::index::{Index, Listing};
use crate::model::{BaseId, BaseManifest, FileId, PackRef, ProjectName};
use crate::store::keys;
use bytes::Bytes;

/// Where a file's frames are, as its record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    pub first_frame: u64,
    /// Bytes of the file in the base.
    pub size: u64,
}

/// One base, shared by all branches on it.
pub struct Base {
    id: BaseId,
    index: Index,
    packs: Vec<CachedObject>,
    cache: PageCache,
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
        let index = Index::open(cache.store().clone(), index_key, index_bytes, id.to_string()).await?;
        let packs = packs
            .iter()
            .map(|pack| cache.object(keys::base_pack(project, id, pack.number), pack.bytes))
            .collect::<Result<_, _>>()?;
        Ok(Base { id: id.clone(), index, packs, cache })
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
    /// whose place is not in memory.
    pub fn near_frame(&self, file: FileId, extent: Extent, number: u32) -> Option<Result<Bytes, PageError>> {
        let frame = self.index.cached_frame(extent.first_frame + u64::from(number))?;
        let length = content_length(extent, number);
        if frame.is_zero() {
            return Some(Ok(zeros(length)));
        }
        let pack = self.packs.get(frame.object as usize)?;
        self.cache.near_frame(pack, frame, self.identity(file, number), length)
    }

    /// Content of the `number`-th frame of a file.
    pub async fn frame(&self, file: FileId, extent: Extent, number: u32) -> Result<Bytes, PageError> {
        let frame = self.index.frame(extent.first_frame + u64::from(number)).await?;
        let length = content_length(extent, number);
        if frame.is_zero() {
            return Ok(zeros(length));
        }
        let pack = self.packs.get(frame.object as usize).ok_or_else(|| PageError::Damaged {
            object: format!("base {}", self.id),
            what: format!("its index names a pack {} that is not in its manifest", frame.object),
        })?;
        self.cache.frame(pack, frame, self.identity(file, number), length).await
    }

    /// Where the index keeps a frame, for sealing: unchanged frames are pointed to, not copied.
    pub(super) async fn place(&self, extent: Extent, number: u32) -> Result<super::frame::FrameRef, PageError> {
        self.index.frame(extent.first_frame + u64::from(number)).await
    }

    fn identity(&self, file: FileId, number: u32) -> Identity<'_> {
        Identity { owner: self.id.as_str(), file, number }
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
