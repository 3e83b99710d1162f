//! The index of a base: which files there are, and where each of their frames is. Paged and read on demand: a base of
//! a hundred thousand files wakes without reading it whole.
//!
//! The object, from its first byte:
//!
//! ```text
//! frame table   FrameRef × frames, in pages of 4096 (64 KiB); a file's frames stand together, in order
//! record pages  zstd blocks of records sorted by (parent, name), about 64 KiB each before compression
//! directory     u32 number of frame pages, u32 crc each;
//!               u32 number of record pages, each: u64 parent, u16 length, name (of its first record),
//!               u64 offset, u32 stored length, u32 length, u32 crc
//! footer        u64 frames, u64 directory offset, u32 directory length, u32 directory crc, u64 MAGIC (32 bytes)
//! ```
//!
//! A record is: u64 parent, u16 length, name, u64 id, u8 kind, u16 mode, u64 size, u64 first frame, u16 length, symlink target.
//! All numbers are little-endian. Every sum is CRC32C with the base id in front.

use super::PageError;
use super::cache::{CachedObject, PageCache};
use super::codec::{Reader, put_text};
use super::frame::FrameRef;
use super::volume::StoredRange;
use crate::model::{FileId, FileKind};
use quick_cache::sync::Cache;
use std::io::{Seek, SeekFrom, Write};
use std::ops::Range;
use std::sync::Arc;

pub(super) const MAGIC: u64 = u64::from_le_bytes(*b"OFFIDX01");
pub(super) const FOOTER: usize = 32;
/// Frames to a page of the frame table: 64 KiB, or 256 MiB of data.
pub const FRAMES_PER_PAGE: usize = 4096;
const RECORD_PAGE: usize = 64 << 10;
/// Longest record page that is read, decompressed: one is closed with the record that fills it, which holds a name and a target.
const LONGEST_RECORD_PAGE: u32 = 256 << 10;
/// Pages of frame tables and directory listings kept in memory per base; 64 KiB each.
pub(super) const PAGES_OF_BASE: usize = 1024;
/// The same for a branch's image, which is that branch's alone.
pub(super) const PAGES_OF_IMAGE: usize = 64;
/// The tail that one request reads at open; holds footer and directory of any but huge bases.
const TAIL: u64 = 128 << 10;

/// A file, directory or symlink of a base.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub parent: FileId,
    pub name: Box<str>,
    pub id: FileId,
    pub kind: FileKind,
    /// Permission bits.
    pub mode: u32,
    /// Bytes.
    pub size: u64,
    /// Place of its first frame in the frame table.
    pub first_frame: u64,
    pub target: Option<Box<str>>,
}

/// All entries of one directory of a base, sorted by name.
pub type Listing = Arc<[Record]>;

#[derive(Debug)]
pub(super) struct RecordPage {
    first: (u64, Box<str>),
    pub(super) offset: u64,
    pub(super) stored: u32,
    pub(super) length: u32,
    pub(super) crc: u32,
}

/// An index, opened: directory in memory, pages on demand through the cache.
pub struct Index {
    cache: PageCache,
    object: CachedObject,
    key: String,
    owner: String,
    frames: u64,
    frame_crcs: Vec<u32>,
    record_pages: Vec<RecordPage>,
    /// Where the directory is, if the tail is too short for it.
    long_directory: Option<Range<u64>>,
    frame_pages: Cache<u32, Arc<[FrameRef]>>,
    listings: Cache<u64, Listing>,
}

impl RecordPage {
    fn range(&self) -> Range<u64> {
        self.offset..self.offset.saturating_add(u64::from(self.stored))
    }
}

/// What the tail of an index says.
pub(super) enum Tail {
    /// Frames, and the directory.
    Whole(u64, Directory),
    /// The directory lies before the tail.
    Beyond(Footer),
}

pub(super) type Directory = (Vec<u32>, Vec<RecordPage>);

#[derive(Clone, Copy)]
pub(super) struct Footer {
    frames: u64,
    offset: u64,
    end: u64,
    crc: u32,
}

impl Index {
    /// Opens the index at `key`, `bytes` long, of the base or image `owner`, of which so many pages may be kept in memory: one request, two for a huge one, none if it is cached.
    pub async fn open(
        cache: PageCache,
        key: String,
        bytes: u64,
        (owner, pages_in_memory): (String, usize),
    ) -> Result<Index, PageError> {
        let object = cache.object(&key, bytes);
        let tail_range = bytes.saturating_sub(TAIL)..bytes;
        let read = || async {
            let parse = |tail: &[u8]| read_tail(&owner, tail, tail_range.clone());
            let tail =
                cache.read(&object, tail_range.clone(), |tail| parse(tail).map_err(|w| damaged(&key, w))).await?;
            let footer = match tail {
                Tail::Whole(frames, directory) => return Ok((frames, directory, None)),
                Tail::Beyond(footer) => footer,
            };
            let parse = |bytes: &[u8]| read_directory(&owner, footer, bytes).map_err(|what| damaged(&key, what));
            let range = footer.offset..footer.end;
            Ok((footer.frames, cache.read(&object, range.clone(), parse).await?, Some(range)))
        };
        let (frames, (frame_crcs, record_pages), long_directory) = match read().await {
            // The footer has no sum of its own: a cached one that rotted leads to a directory that is none.
            Err(PageError::Damaged { .. }) if cache.forget_part(&object, tail_range.clone()) => read().await?,
            outcome => outcome?,
        };
        Ok(Index {
            cache,
            object,
            key,
            owner,
            frames,
            frame_crcs,
            record_pages,
            long_directory,
            frame_pages: Cache::new(pages_in_memory),
            listings: Cache::new(pages_in_memory),
        })
    }

    /// The frame at `place` of the frame table, if its page needs no request to the store.
    pub fn near_frame(&self, place: u64) -> Option<FrameRef> {
        let number = (place / FRAMES_PER_PAGE as u64) as u32;
        let page = match self.frame_pages.get(&number) {
            Some(page) => page,
            None => {
                let range = self.frame_page(number)?;
                let page = self.cache.near(&self.object, range, |bytes| self.decode_frames(number, bytes))?.ok()?;
                self.frame_pages.insert(number, page.clone());
                page
            }
        };
        page.get((place % FRAMES_PER_PAGE as u64) as usize).copied()
    }

    /// The frame at `place` of the frame table.
    pub async fn frame(&self, place: u64) -> Result<FrameRef, PageError> {
        let number = (place / FRAMES_PER_PAGE as u64) as u32;
        let page = self.frame_pages.get_or_insert_async(&number, self.read_frame_page(number)).await?;
        page.get((place % FRAMES_PER_PAGE as u64) as usize)
            .copied()
            .ok_or_else(|| damaged(&self.key, "a frame is missing from it"))
    }

    async fn read_frame_page(&self, number: u32) -> Result<Arc<[FrameRef]>, PageError> {
        let range = self.frame_page(number).ok_or_else(|| damaged(&self.key, "a frame page is missing from it"))?;
        self.cache.read(&self.object, range, |bytes| self.decode_frames(number, bytes)).await
    }

    /// Where a page of the frame table is.
    fn frame_page(&self, number: u32) -> Option<Range<u64>> {
        self.frame_crcs.get(number as usize)?;
        let first = u64::from(number) * FRAMES_PER_PAGE as u64;
        let last = (first + FRAMES_PER_PAGE as u64).min(self.frames);
        let width = FrameRef::ENCODED as u64;
        Some(first * width..last * width)
    }

    fn decode_frames(&self, number: u32, bytes: &[u8]) -> Result<Arc<[FrameRef]>, PageError> {
        if self.frame_crcs.get(number as usize) != Some(&sum(&self.owner, bytes)) {
            return Err(damaged(&self.key, &format!("the checksum of frame page {number} does not match")));
        }
        let (chunks, _) = bytes.as_chunks::<{ FrameRef::ENCODED }>();
        Ok(chunks.iter().map(FrameRef::decode).collect())
    }

    /// The directory's entries, if they are in memory.
    pub fn cached_listing(&self, directory: FileId) -> Option<Listing> {
        self.listings.get(&directory.0)
    }

    /// The directory's entries; empty for what is no directory of this base.
    pub async fn listing(&self, directory: FileId) -> Result<Listing, PageError> {
        self.listings.get_or_insert_async(&directory.0, self.read_listing(directory)).await
    }

    /// What opening this index reads.
    pub(super) fn opening_ranges(&self) -> Vec<StoredRange> {
        let bytes = self.object.bytes();
        let tail = StoredRange::of(&self.object, bytes.saturating_sub(TAIL)..bytes);
        let directory = self.long_directory.clone().map(|range| StoredRange::of(&self.object, range));
        [Some(tail), directory].into_iter().flatten().collect()
    }

    /// The page of the frame table that a place is on.
    pub(super) fn frame_page_at(&self, place: u64) -> Option<StoredRange> {
        let range = self.frame_page((place / FRAMES_PER_PAGE as u64) as u32)?;
        Some(StoredRange::of(&self.object, range))
    }

    /// The record pages that hold a directory's entries.
    pub(super) fn listing_ranges(&self, directory: FileId) -> Vec<StoredRange> {
        self.pages_of(directory).iter().map(|page| StoredRange::of(&self.object, page.range())).collect()
    }

    fn pages_of(&self, directory: FileId) -> &[RecordPage] {
        // Pages whose first record lies before the directory may still hold its first entries.
        let from = self.record_pages.partition_point(|page| page.first.0 < directory.0).saturating_sub(1);
        let to = self.record_pages.partition_point(|page| page.first.0 <= directory.0);
        &self.record_pages[from.min(to)..to]
    }

    async fn read_listing(&self, directory: FileId) -> Result<Listing, PageError> {
        let mut listing = Vec::new();
        for page in self.pages_of(directory) {
            let records = self.read_records(page).await?;
            listing.extend(records.into_iter().filter(|record| record.parent == directory));
        }
        Ok(listing.into())
    }

    async fn read_records(&self, page: &RecordPage) -> Result<Vec<Record>, PageError> {
        let range = page.range();
        let decode = |stored: &[u8]| {
            if sum(&self.owner, stored) != page.crc {
                return Err(damaged(&self.key, "the checksum of a record page does not match"));
            }
            let bytes = zstd::bulk::decompress(stored, page.length as usize);
            let bytes = bytes.map_err(|e| damaged(&self.key, &e.to_string()))?;
            let mut reader = Reader::new(&bytes);
            let mut records = Vec::new();
            while !reader.is_empty() {
                records.push(decode_record(&mut reader).ok_or_else(|| damaged(&self.key, "a record is cut short"))?);
            }
            Ok(records)
        };
        self.cache.read(&self.object, range, decode).await
    }
}

fn damaged(key: &str, what: &str) -> PageError {
    PageError::Damaged { object: key.to_owned(), what: what.to_owned() }
}

/// Completes an index whose frame table `file` already holds: appends records, directory and footer. Returns its length in bytes.
pub fn write_index(file: &mut std::fs::File, owner: &str, mut records: Vec<Record>) -> std::io::Result<u64> {
    let frame_bytes = file.seek(SeekFrom::End(0))?;
    let frame_crcs = sum_frame_pages(file, owner, frame_bytes)?;
    let mut directory = Vec::new();
    directory.extend_from_slice(&(frame_crcs.len() as u32).to_le_bytes());
    for crc in &frame_crcs {
        directory.extend_from_slice(&crc.to_le_bytes());
    }

    records.sort_by(|a, b| (a.parent, &a.name).cmp(&(b.parent, &b.name)));
    let mut pages = Vec::new();
    let mut offset = frame_bytes;
    let mut records = records.iter().peekable();
    let mut output = std::io::BufWriter::new(&mut *file);
    while let Some(first) = records.peek().copied() {
        let mut bytes = Vec::with_capacity(RECORD_PAGE + 512);
        while let Some(record) = records.next_if(|_| bytes.len() < RECORD_PAGE) {
            encode_record(record, &mut bytes);
        }
        let stored = zstd::bulk::compress(&bytes, 3)?;
        output.write_all(&stored)?;
        let (stored_length, length) = (stored.len() as u32, bytes.len() as u32);
        let crc = sum(owner, &stored);
        pages.push(RecordPage {
            first: (first.parent.0, first.name.clone()),
            offset,
            stored: stored_length,
            length,
            crc,
        });
        offset += u64::from(stored_length);
    }
    directory.extend_from_slice(&(pages.len() as u32).to_le_bytes());
    for page in &pages {
        directory.extend_from_slice(&page.first.0.to_le_bytes());
        put_text(&mut directory, &page.first.1);
        directory.extend_from_slice(&page.offset.to_le_bytes());
        for word in [page.stored, page.length, page.crc] {
            directory.extend_from_slice(&word.to_le_bytes());
        }
    }
    output.write_all(&directory)?;
    output.write_all(&(frame_bytes / FrameRef::ENCODED as u64).to_le_bytes())?;
    output.write_all(&offset.to_le_bytes())?;
    output.write_all(&(directory.len() as u32).to_le_bytes())?;
    output.write_all(&sum(owner, &directory).to_le_bytes())?;
    output.write_all(&MAGIC.to_le_bytes())?;
    output.flush()?;
    Ok(offset + (directory.len() + FOOTER) as u64)
}

fn sum_frame_pages(file: &std::fs::File, owner: &str, bytes: u64) -> std::io::Result<Vec<u32>> {
    use std::os::unix::fs::FileExt;
    let page_bytes = (FRAMES_PER_PAGE * FrameRef::ENCODED) as u64;
    let mut crcs = Vec::new();
    let mut page = vec![0; page_bytes as usize];
    let mut at = 0;
    while at < bytes {
        let length = page_bytes.min(bytes - at) as usize;
        file.read_exact_at(&mut page[..length], at)?;
        crcs.push(sum(owner, &page[..length]));
        at += length as u64;
    }
    Ok(crcs)
}

/// What is at the end of an index, of which `tail` are the bytes at `range`.
pub(super) fn read_tail(owner: &str, tail: &[u8], range: Range<u64>) -> Result<Tail, &'static str> {
    let (before, footer) = tail.split_last_chunk::<FOOTER>().ok_or("it is too short")?;
    let mut reader = Reader::new(footer);
    let (Some(frames), Some(offset), Some(length), Some(crc), Some(MAGIC)) =
        (reader.u64(), reader.u64(), reader.u32(), reader.u32(), reader.u64())
    else {
        return Err("it has no footer");
    };
    let end = offset.checked_add(u64::from(length)).filter(|end| *end <= range.end - FOOTER as u64);
    let footer = Footer { frames, offset, end: end.ok_or("its directory lies outside")?, crc };
    let Some(start) = offset.checked_sub(range.start) else { return Ok(Tail::Beyond(footer)) };
    let directory = before.get(start as usize..(footer.end - range.start) as usize).ok_or("it is too short")?;
    Ok(Tail::Whole(frames, read_directory(owner, footer, directory)?))
}

fn read_directory(owner: &str, footer: Footer, bytes: &[u8]) -> Result<Directory, &'static str> {
    if sum(owner, bytes) != footer.crc {
        return Err("its directory's checksum does not match");
    }
    let (frame_crcs, pages) = decode_directory(bytes).ok_or("its directory is cut short")?;
    // The footer has no sum of its own.
    if frame_crcs.len() as u64 != footer.frames.div_ceil(FRAMES_PER_PAGE as u64) {
        return Err("its footer does not agree with its directory");
    }
    Ok((frame_crcs, pages))
}

pub(super) fn decode_directory(bytes: &[u8]) -> Option<(Vec<u32>, Vec<RecordPage>)> {
    let mut reader = Reader::new(bytes);
    let mut frame_crcs = Vec::new();
    for _ in 0..reader.u32()? {
        frame_crcs.push(reader.u32()?);
    }
    let mut pages = Vec::new();
    for _ in 0..reader.u32()? {
        let first = (reader.u64()?, reader.text()?.into());
        let (offset, stored, length, crc) = (reader.u64()?, reader.u32()?, reader.u32()?, reader.u32()?);
        // So that nobody asks for more memory than a page may take.
        if length > LONGEST_RECORD_PAGE {
            return None;
        }
        pages.push(RecordPage { first, offset, stored, length, crc });
    }
    Some((frame_crcs, pages))
}

pub(super) fn encode_record(record: &Record, out: &mut Vec<u8>) {
    out.extend_from_slice(&record.parent.0.to_le_bytes());
    put_text(out, &record.name);
    out.extend_from_slice(&record.id.0.to_le_bytes());
    out.push(record.kind as u8);
    out.extend_from_slice(&(record.mode as u16).to_le_bytes());
    out.extend_from_slice(&record.size.to_le_bytes());
    out.extend_from_slice(&record.first_frame.to_le_bytes());
    put_text(out, record.target.as_deref().unwrap_or(""));
}

pub(super) fn decode_record(reader: &mut Reader<'_>) -> Option<Record> {
    Some(Record {
        parent: FileId(reader.u64()?),
        name: reader.text()?.into(),
        id: FileId(reader.u64()?),
        kind: reader.kind()?,
        mode: u32::from(reader.u16()?),
        size: reader.u64()?,
        first_frame: reader.u64()?,
        target: Some(reader.text()?).filter(|target| !target.is_empty()).map(Into::into),
    })
}

pub(super) fn sum(owner: &str, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(owner.as_bytes()), bytes)
}
