//! Layers: what a branch wrote between a wake and a suspend, as one immutable object.
//!
//! ```text
//! frames   up to 8 pages each, one after another (frame.rs), sorted by (file, page)
//! index    zstd; per frame: its FrameRef; then per page: u64 file, u32 page, u32 slot
//!          (slot = frame × 8 + place in the frame, or ZERO_PAGE)
//! footer   u32 frames, u32 pages, u64 index offset, u32 stored length, u32 length, u32 crc, u32 0, u64 MAGIC (40 bytes)
//! ```

use super::PageError;
use super::cache::{CachedObject, PageCache, Wanted};
use super::codec::Reader;
use super::frame::{FrameEncoder, FrameRef, Identity, PAGES_PER_FRAME};
use super::volume::StoredRange;
use crate::model::{FileId, LayerRef, PAGE_SIZE, PageNo};
use bytes::Bytes;
use futures::future::try_join_all;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;

const MAGIC: u64 = u64::from_le_bytes(*b"OFFLAY01");
pub(super) const FOOTER: usize = 40;
/// The slot of a page of zeros, which no frame holds.
pub(super) const ZERO_PAGE: u32 = u32::MAX;
/// Bytes of a page's entry in the index.
pub(super) const PAGE_ENTRY: u64 = 16;
/// A layer that fits into a boot object whole.
const SMALL: u64 = 256 << 10;
/// The tail that one request reads at open.
const TAIL: u64 = 64 << 10;

/// Where a page of a layer set is.
#[derive(Clone, Copy, Debug)]
struct Place {
    page: u32,
    layer: u32,
    slot: u32,
}

/// The layers of one manifest, merged: for each page the newest layer that has it. Cheap to clone.
#[derive(Clone)]
pub struct LayerSet(Arc<Inner>);

struct Inner {
    cache: PageCache,
    layers: Vec<Layer>,
    /// By file, sorted by page.
    pages: HashMap<FileId, Box<[Place]>>,
}

struct Layer {
    object: CachedObject,
    key: String,
    frames: Vec<FrameRef>,
    pages: u32,
    /// Where the index is, if the tail is too short for it.
    long_index: Option<Range<u64>>,
}

/// One page found in a layer set.
#[derive(Clone, Copy, Debug)]
pub struct LayerPage(Place);

impl LayerSet {
    /// Opens `layers`, oldest first, all at once.
    pub async fn open(cache: PageCache, layers: &[LayerRef]) -> Result<LayerSet, PageError> {
        let opened = try_join_all(layers.iter().map(|layer| open_layer(&cache, layer))).await?;
        let mut newest: HashMap<FileId, HashMap<u32, Place>> = HashMap::new();
        let mut set = Vec::new();
        for (number, (layer, pages)) in opened.into_iter().enumerate() {
            for (file, page, slot) in pages {
                newest.entry(file).or_default().insert(page, Place { page, layer: number as u32, slot });
            }
            set.push(layer);
        }
        let pages = newest.into_iter().map(|(file, places)| {
            let mut places: Vec<Place> = places.into_values().collect();
            places.sort_unstable_by_key(|place| place.page);
            (file, places.into_boxed_slice())
        });
        Ok(LayerSet(Arc::new(Inner { cache, layers: set, pages: pages.collect() })))
    }

    /// The page, if a layer has it.
    pub fn find(&self, file: FileId, page: PageNo) -> Option<LayerPage> {
        let places = self.0.pages.get(&file)?;
        let at = places.binary_search_by_key(&page.0, |place| place.page).ok()?;
        Some(LayerPage(places[at]))
    }

    /// The pages of `file` whose newest layer is the one numbered `from` or a later one, ascending.
    pub fn pages(&self, file: FileId, from: usize) -> impl Iterator<Item = u32> {
        let places = self.0.pages.get(&file).into_iter().flat_map(|places| places.iter());
        places.filter(move |place| place.layer as usize >= from).map(|place| place.page)
    }

    /// One past the last page that any layer has of `file`.
    pub fn end(&self, file: FileId) -> u32 {
        self.0.pages.get(&file).and_then(|places| places.last()).map_or(0, |place| place.page + 1)
    }

    /// The page's bytes if they need no request to the store.
    pub fn near_page(&self, page: LayerPage) -> Option<Result<Bytes, PageError>> {
        let place = page.0;
        if place.slot == ZERO_PAGE {
            return Some(Ok(zero_page()));
        }
        let layer = &self.0.layers[place.layer as usize];
        let (wanted, _) = layer.frame_of(place.slot)?;
        let content = self.0.cache.near_frame(&layer.object, wanted)?;
        Some(content.and_then(|content| layer.cut(&content, place.slot)))
    }

    /// The bytes of pages, in the order of `pages`: what lies together in a layer comes together.
    pub async fn pages_of(&self, pages: &[LayerPage]) -> Result<Vec<Bytes>, PageError> {
        let mut contents: Vec<Bytes> = pages.iter().map(|_| zero_page()).collect();
        let mut by_layer: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for (at, page) in pages.iter().enumerate().filter(|(_, page)| page.0.slot != ZERO_PAGE) {
            by_layer.entry(page.0.layer).or_default().push(at);
        }
        let loads = by_layer.into_iter().map(|(layer, spots)| async move {
            let layer = &self.0.layers[layer as usize];
            let wanted = spots.iter().map(|at| layer.frame_of(pages[*at].0.slot).map(|(wanted, _)| wanted));
            let wanted: Option<Vec<Wanted<'_>>> = wanted.collect();
            let wanted = wanted.ok_or_else(|| layer.damaged("a page names no frame"))?;
            let loaded = self.0.cache.frames(&layer.object, &wanted).await?;
            let cut =
                spots.into_iter().zip(loaded).map(|(at, content)| Ok((at, layer.cut(&content, pages[at].0.slot)?)));
            cut.collect::<Result<Vec<_>, PageError>>()
        });
        for (at, content) in try_join_all(loads).await?.into_iter().flatten() {
            contents[at] = content;
        }
        Ok(contents)
    }

    /// Which layer a page is in, and the number and place of its frame there; `None` for a page of zeros.
    pub(super) fn place_of(&self, page: LayerPage) -> Option<(u32, u32, FrameRef)> {
        let place = Some(page.0).filter(|place| place.slot != ZERO_PAGE)?;
        let (wanted, number) = self.0.layers[place.layer as usize].frame_of(place.slot)?;
        Some((place.layer, number, wanted.frame))
    }

    /// A layer as the cache knows it.
    pub(super) fn object(&self, layer: u32) -> &CachedObject {
        &self.0.layers[layer as usize].object
    }

    /// What opening these layers reads.
    pub(super) fn opening_ranges(&self) -> Vec<StoredRange> {
        let of_layer = |layer: &Layer| {
            let bytes = layer.object.bytes();
            let tail = StoredRange::of(&layer.object, bytes.saturating_sub(TAIL)..bytes);
            let index = layer.long_index.clone().map(|range| StoredRange::of(&layer.object, range));
            [Some(tail), index]
        };
        self.0.layers.iter().flat_map(of_layer).flatten().collect()
    }

    /// The frames of a layer from `number` on, up to the last that holds a page of `file`.
    pub(super) fn following(&self, file: FileId, layer: u32, number: u32) -> &[FrameRef] {
        let of_layer = |place: &&Place| place.layer == layer && place.slot != ZERO_PAGE;
        let last = self.0.pages.get(&file).and_then(|places| places.iter().rev().find(of_layer));
        let end = last.map_or(0, |place| place.slot as usize / PAGES_PER_FRAME + 1);
        let frames = &self.0.layers[layer as usize].frames;
        frames.get(number as usize..end.min(frames.len())).unwrap_or_default()
    }

    /// Fetches frames of a layer (place and number) in the background.
    pub(super) fn read_ahead(&self, layer: u32, frames: Vec<(FrameRef, u32)>) {
        let layer = &self.0.layers[layer as usize];
        let frames = frames.into_iter().map(|(frame, number)| (frame, FileId(0), number)).collect();
        self.0.cache.read_ahead(&layer.object, &layer.key, frames);
    }
}

impl Layer {
    /// The frame that holds a slot, and its number.
    fn frame_of(&self, slot: u32) -> Option<(Wanted<'_>, u32)> {
        let number = slot / PAGES_PER_FRAME as u32;
        let frame = *self.frames.get(number as usize)?;
        // Only the last frame may be short.
        let stored_pages = (self.pages - number * PAGES_PER_FRAME as u32).min(PAGES_PER_FRAME as u32);
        let identity = Identity { owner: &self.key, file: FileId(0), number };
        Some((Wanted { frame, identity, length: stored_pages as usize * PAGE_SIZE }, number))
    }

    fn cut(&self, content: &Bytes, slot: u32) -> Result<Bytes, PageError> {
        let start = (slot as usize % PAGES_PER_FRAME) * PAGE_SIZE;
        if content.len() < start + PAGE_SIZE {
            return Err(self.damaged("a frame has fewer pages than the index says"));
        }
        Ok(content.slice(start..start + PAGE_SIZE))
    }

    fn damaged(&self, what: &str) -> PageError {
        PageError::Damaged { object: self.key.clone(), what: what.to_owned() }
    }
}

fn zero_page() -> Bytes {
    static ZERO: [u8; PAGE_SIZE] = [0; PAGE_SIZE];
    Bytes::from_static(&ZERO)
}

pub(super) type LayerPages = Vec<(FileId, u32, u32)>;

/// What a layer's index says: frames, pages, and how many of these are stored.
pub(super) type LayerIndex = (Vec<FrameRef>, LayerPages, u32);

/// What the tail of a layer says.
pub(super) enum Tail {
    Whole(LayerIndex),
    /// The index lies, or begins, before the tail.
    Beyond(Footer),
}

async fn open_layer(cache: &PageCache, layer: &LayerRef) -> Result<(Layer, LayerPages), PageError> {
    let key = layer.key.clone();
    let object = cache.object(&key, layer.bytes);
    let damaged = |what: String| PageError::Damaged { object: key.clone(), what };
    let tail_range = layer.bytes.saturating_sub(TAIL)..layer.bytes;
    let read = || async {
        let parse = |tail: &[u8]| read_tail(layer, tail, tail_range.clone()).map_err(damaged);
        let footer = match cache.read(&object, tail_range.clone(), parse).await? {
            Tail::Whole(index) => return Ok((index, None)),
            Tail::Beyond(footer) => footer,
        };
        let parse = |stored: &[u8]| read_index(&key, footer, stored).map_err(damaged);
        Ok((cache.read(&object, footer.range(), parse).await?, Some(footer.range())))
    };
    let ((frames, pages, stored_pages), long_index) = match read().await {
        // The footer has no sum of its own: a cached one that rotted leads to an index that is none.
        Err(PageError::Damaged { .. }) if cache.forget_part(&object, tail_range.clone()) => read().await?,
        outcome => outcome?,
    };
    Ok((Layer { object, key, frames, pages: stored_pages, long_index }, pages))
}

/// What is at the end of a layer, of which `tail` are the bytes at `range`.
pub(super) fn read_tail(layer: &LayerRef, tail: &[u8], range: Range<u64>) -> Result<Tail, String> {
    let (before, footer) = tail.split_last_chunk::<FOOTER>().ok_or("it is too short")?;
    let footer = Footer::decode(footer).ok_or("it has no footer")?;
    // The footer has no sum of its own: a page fewer would show an older one.
    let (frames, pages) = (u64::from(footer.frames), u64::from(footer.pages));
    let length = frames * FrameRef::ENCODED as u64 + pages * PAGE_ENTRY;
    if pages != layer.pages || u64::from(footer.length) != length {
        return Err("its footer does not agree with the manifest".into());
    }
    let end = footer.offset.checked_add(u64::from(footer.stored));
    end.filter(|end| *end <= range.end - FOOTER as u64).ok_or("its index lies outside")?;
    let Some(start) = footer.offset.checked_sub(range.start) else { return Ok(Tail::Beyond(footer)) };
    let stored = &before[start as usize..start as usize + footer.stored as usize];
    Ok(Tail::Whole(read_index(&layer.key, footer, stored)?))
}

fn read_index(key: &str, footer: Footer, stored: &[u8]) -> Result<LayerIndex, String> {
    if sum(key, stored) != footer.crc {
        return Err("its index's checksum does not match".into());
    }
    let index = zstd::bulk::decompress(stored, footer.length as usize).map_err(|e| e.to_string())?;
    Ok(decode_index(&index, footer).ok_or("its index is cut short")?)
}

/// What a start that touches `places` (file, and frame of it) reads of the layer whose object is `bytes`: the parts its opening reads, and the
/// frames that hold pages of these places; all frames of a layer of at most [`SMALL`] bytes.
pub fn boot_ranges(layer: &LayerRef, bytes: &[u8], places: &BTreeSet<(FileId, u32)>) -> Vec<StoredRange> {
    let tail_range = layer.bytes.saturating_sub(TAIL)..layer.bytes;
    let Some(footer) = bytes.last_chunk::<FOOTER>().and_then(|footer| Footer::decode(footer)) else {
        return Vec::new();
    };
    let index = bytes.get(footer.offset as usize..).and_then(|rest| rest.get(..footer.stored as usize));
    let Some(Ok((frames, pages, _))) = index.map(|stored| read_index(&layer.key, footer, stored)) else {
        return Vec::new();
    };
    let is_small = layer.bytes <= SMALL;
    let touched = pages.iter().filter(|(file, page, slot)| {
        *slot != ZERO_PAGE && (is_small || places.contains(&(*file, page / PAGES_PER_FRAME as u32)))
    });
    let numbers: BTreeSet<usize> = touched.map(|(_, _, slot)| *slot as usize / PAGES_PER_FRAME).collect();
    let of_frames = numbers.into_iter().filter_map(|number| frames.get(number)).map(FrameRef::range);
    let long_index = (footer.offset < tail_range.start).then(|| footer.range());
    let ranges = [tail_range].into_iter().chain(long_index).chain(of_frames).filter(|range| !range.is_empty());
    let stored = |Range { start, end }| StoredRange { key: layer.key.clone(), object_bytes: layer.bytes, start, end };
    ranges.map(stored).collect()
}

#[derive(Clone, Copy)]
pub(super) struct Footer {
    pub(super) frames: u32,
    pub(super) pages: u32,
    pub(super) offset: u64,
    pub(super) stored: u32,
    pub(super) length: u32,
    pub(super) crc: u32,
}

impl Footer {
    /// Where the index is; checked to end within the object.
    fn range(&self) -> Range<u64> {
        self.offset..self.offset + u64::from(self.stored)
    }

    pub(super) fn encode(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.frames.to_le_bytes());
        out.extend_from_slice(&self.pages.to_le_bytes());
        out.extend_from_slice(&self.offset.to_le_bytes());
        for word in [self.stored, self.length, self.crc, 0] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        out.extend_from_slice(&MAGIC.to_le_bytes());
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Footer> {
        let mut reader = Reader::new(bytes);
        let (frames, pages, offset) = (reader.u32()?, reader.u32()?, reader.u64()?);
        let (stored, length, crc, _) = (reader.u32()?, reader.u32()?, reader.u32()?, reader.u32()?);
        (reader.u64()? == MAGIC).then_some(Footer { frames, pages, offset, stored, length, crc })
    }
}

pub(super) fn decode_index(index: &[u8], footer: Footer) -> Option<LayerIndex> {
    let frame_bytes = (footer.frames as usize).checked_mul(FrameRef::ENCODED)?;
    let (frames, pages) = index.split_at_checked(frame_bytes)?;
    let (frames, _) = frames.as_chunks::<{ FrameRef::ENCODED }>();
    let mut reader = Reader::new(pages);
    let mut decoded = Vec::with_capacity(pages.len() / 16);
    for _ in 0..footer.pages {
        decoded.push((FileId(reader.u64()?), reader.u32()?, reader.u32()?));
    }
    let stored_pages = decoded.iter().filter(|(_, _, slot)| *slot != ZERO_PAGE).count() as u32;
    let in_range = |slot: u32| slot == ZERO_PAGE || slot < stored_pages;
    decoded.iter().all(|(_, _, slot)| in_range(*slot)).then_some(())?;
    Some((frames.iter().map(FrameRef::decode).collect(), decoded, stored_pages))
}

/// Builds one layer in memory, page by page in order of (file, page).
pub struct LayerWriter {
    key: String,
    encoder: FrameEncoder,
    bytes: Vec<u8>,
    frames: Vec<FrameRef>,
    pages: LayerPages,
    pending: Vec<u8>,
    stored_pages: u32,
}

impl LayerWriter {
    /// `key` is where the layer will be put: part of every sum in it.
    pub fn new(key: String) -> Self {
        Self {
            key,
            encoder: FrameEncoder::new(),
            bytes: Vec::new(),
            frames: Vec::new(),
            pages: Vec::new(),
            pending: Vec::with_capacity(PAGES_PER_FRAME * PAGE_SIZE),
            stored_pages: 0,
        }
    }

    /// Adds one page of [`PAGE_SIZE`] bytes.
    pub fn page(&mut self, file: FileId, page: PageNo, content: &[u8]) {
        if content.iter().all(|byte| *byte == 0) {
            self.pages.push((file, page.0, ZERO_PAGE));
            return;
        }
        self.pages.push((file, page.0, self.stored_pages));
        self.stored_pages += 1;
        self.pending.extend_from_slice(content);
        if self.pending.len() == PAGES_PER_FRAME * PAGE_SIZE {
            self.close_frame();
        }
    }

    /// Bytes so far; a layer is closed well below the 4 GiB that a frame's offset reaches.
    pub fn len(&self) -> usize {
        self.bytes.len() + self.pending.len()
    }

    /// Whether it has no page.
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    fn close_frame(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let identity = Identity { owner: &self.key, file: FileId(0), number: self.frames.len() as u32 };
        let frame = self.encoder.append(identity, 0, &self.pending, &mut self.bytes);
        self.frames.push(frame);
        self.pending.clear();
    }

    /// The object's bytes and what a manifest says of it.
    pub fn finish(mut self) -> (LayerRef, Vec<u8>) {
        self.close_frame();
        let mut index = Vec::with_capacity(self.frames.len() * FrameRef::ENCODED + self.pages.len() * 16);
        self.frames.iter().for_each(|frame| frame.encode(&mut index));
        for (file, page, slot) in &self.pages {
            index.extend_from_slice(&file.0.to_le_bytes());
            index.extend_from_slice(&page.to_le_bytes());
            index.extend_from_slice(&slot.to_le_bytes());
        }
        let stored = zstd::bulk::compress(&index, 3).expect("compressing into memory cannot fail");
        let footer = Footer {
            frames: self.frames.len() as u32,
            pages: self.pages.len() as u32,
            offset: self.bytes.len() as u64,
            stored: stored.len() as u32,
            length: index.len() as u32,
            crc: sum(&self.key, &stored),
        };
        self.bytes.extend_from_slice(&stored);
        footer.encode(&mut self.bytes);
        let layer = LayerRef { key: self.key, bytes: self.bytes.len() as u64, pages: self.pages.len() as u64 };
        (layer, self.bytes)
    }
}

pub(super) fn sum(key: &str, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(key.as_bytes()), bytes)
}
