//! A base: its manifest, its index page by page, then its packs. A branch's image is the same without a manifest of its own.
//!
//! A pack is read once, from its first frame to its last, so the frames of a pack must be known together; the index has them by file. A first walk over the frame table checks its sums and counts
//! each pack's frames. Then rounds of packs whose frames fit into memory together are gathered by one further walk each.

use super::frames::{Expected, FRAMES_IN_MEMORY};
use super::heads::ReachedBase;
use super::{Fsck, READ, Trouble};
use crate::model::{BaseManifest, FileId, FileKind, Image, ImagePack, PAGE_SIZE};
use crate::pageserver::codec::Reader;
use crate::pageserver::frame::{FRAME_SIZE, FrameRef};
use crate::pageserver::index::{self, FOOTER, FRAMES_PER_PAGE, Record, RecordPage};
use crate::pageserver::seal::WAL_RECORD;
use crate::store::keys;
use std::collections::{HashMap, HashSet};
use std::ops::Range;

/// An index with its packs, as a manifest describes it.
struct Described {
    index: String,
    index_bytes: u64,
    /// What the index is summed with.
    owner: String,
    packs: Vec<ImagePack>,
    last_file_id: u64,
    files: u64,
    logical_bytes: u64,
    /// Pages of WAL; `None` where layers may have later ones.
    wal_pages: Option<u64>,
}

impl Described {
    fn of_base(manifest: &BaseManifest) -> Described {
        let owner = manifest.id.to_string();
        let packs = manifest.packs.iter().map(|pack| ImagePack {
            key: keys::base_pack(&manifest.project, &manifest.id, pack.number),
            owner: owner.clone(),
            bytes: pack.bytes,
        });
        Described {
            index: keys::base_index(&manifest.project, &manifest.id),
            index_bytes: manifest.index_bytes,
            packs: packs.collect(),
            owner,
            last_file_id: manifest.last_file_id,
            files: manifest.files,
            logical_bytes: manifest.logical_bytes,
            wal_pages: Some(manifest.wal.iter().map(|segment| segment.pages.len() as u64).sum()),
        }
    }

    fn of_image(image: &Image) -> Described {
        Described {
            index: image.index.clone(),
            index_bytes: image.index_bytes,
            owner: image.owner().to_owned(),
            packs: image.packs.clone(),
            last_file_id: image.last_file_id,
            files: image.files,
            logical_bytes: image.logical_bytes,
            wal_pages: None,
        }
    }
}

/// The names of a base or an image, for its branches' trees.
pub(super) struct BaseFiles {
    records: HashMap<(FileId, Box<str>), Record>,
    directories: HashSet<FileId>,
}

impl BaseFiles {
    pub(super) fn find(&self, parent: FileId, name: &str) -> Option<&Record> {
        self.records.get(&(parent, name.into()))
    }

    /// Pages of WAL that it has.
    pub(super) fn wal_pages(&self) -> u32 {
        let wal = self.find(FileId(0), WAL_RECORD);
        wal.map_or(0, |record| record.size.div_ceil(PAGE_SIZE as u64) as u32)
    }

    pub(super) fn is_directory(&self, id: FileId) -> bool {
        self.directories.contains(&id)
    }
}

/// An index, opened.
struct Opened {
    frames: u64,
    crcs: Vec<u32>,
    pages: Vec<RecordPage>,
    directory: u64,
}

/// Where each file's frames are, in the order of the frame table.
struct Places(Vec<(Range<u64>, FileId, u64)>);

impl Fsck<'_> {
    /// Checks a base. Gives its names, where its index can be trusted.
    pub(super) async fn check_base(&mut self, base: &ReachedBase) -> Option<BaseFiles> {
        self.report.bases += 1;
        let manifest_key = keys::base_manifest(&base.project, &base.id);
        let manifest = match self.catalog.base_manifest(&base.project, &base.id).await {
            Ok(manifest) if manifest.id == base.id && manifest.project == base.project => manifest,
            Ok(other) => {
                let what = format!("it is the manifest of base {} of {}", other.id, other.project);
                self.note(&manifest_key, Trouble::Damaged(what));
                return None;
            }
            Err(e) => {
                self.note(&manifest_key, e.into());
                return None;
            }
        };
        self.report.count(self.listed.get(&manifest_key).copied().unwrap_or(0));
        self.check_boot(&keys::base_boot(&base.project, &base.id), &manifest_key).await;
        self.check_described(&Described::of_base(&manifest)).await
    }

    /// Checks an image, with what it needs of its base's packs: that they hold its frames is said nowhere else. Gives its names likewise.
    pub(super) async fn check_image(&mut self, image: &Image) -> Option<BaseFiles> {
        self.check_described(&Described::of_image(image)).await
    }

    async fn check_described(&mut self, described: &Described) -> Option<BaseFiles> {
        let checked = self.check_index(described).await;
        self.report.count(described.index_bytes);
        let checked = checked.map_err(|trouble| self.note(&described.index, trouble)).ok();
        let sound = self.check_pack_lengths(described).await;
        let (files, opened, places) = checked?;
        if let Err(trouble) = self.check_packs(described, &opened, &places, &sound).await {
            self.note(&described.index, trouble);
        }
        Some(files)
    }

    /// The packs that are as long as they should be.
    async fn check_pack_lengths(&mut self, described: &Described) -> HashSet<usize> {
        let mut sound = HashSet::new();
        for (at, pack) in described.packs.iter().enumerate() {
            // A base's pack counts with its base, and one of two images once.
            let is_base = described.index.starts_with(keys::PROJECTS);
            if is_base || (pack.key.starts_with(keys::BRANCHES) && self.counted.insert(pack.key.clone())) {
                self.report.count(pack.bytes);
            }
            match self.check_length(&pack.key, pack.bytes).await {
                Ok(()) => drop(sound.insert(at)),
                Err(trouble) => self.note(&pack.key, trouble),
            }
        }
        sound
    }

    async fn check_index(&self, described: &Described) -> Result<(BaseFiles, Opened, Places), Trouble> {
        let (key, owner) = (described.index.as_str(), described.owner.as_str());
        self.check_length(key, described.index_bytes).await?;
        let opened = self.open_index(key, owner, described.index_bytes).await?;
        let records = self.read_records(key, owner, &opened).await?;
        let places = places(&records, opened.frames)?;
        check_records(&records, described)?;
        let directories = records.iter().filter(|record| record.kind == FileKind::Directory).map(|record| record.id);
        let files = BaseFiles {
            directories: directories.collect(),
            records: records.into_iter().map(|record| ((record.parent, record.name.clone()), record)).collect(),
        };
        Ok((files, opened, places))
    }

    async fn open_index(&self, key: &str, owner: &str, bytes: u64) -> Result<Opened, Trouble> {
        let footer_at = bytes.checked_sub(FOOTER as u64).ok_or_else(|| Trouble::damaged("it is too short"))?;
        let footer = self.read(key, footer_at..bytes).await?;
        let mut reader = Reader::new(&footer);
        let (Some(frames), Some(directory), Some(length), Some(crc), Some(index::MAGIC)) =
            (reader.u64(), reader.u64(), reader.u32(), reader.u32(), reader.u64())
        else {
            return Err(Trouble::damaged("it has no footer"));
        };
        if directory.checked_add(u64::from(length)) != Some(footer_at) {
            return Err(Trouble::damaged("its directory does not end at its footer"));
        }
        let stored = self.read(key, directory..footer_at).await?;
        if index::sum(owner, &stored) != crc {
            return Err(Trouble::damaged("its directory's checksum does not match"));
        }
        let (crcs, pages) =
            index::decode_directory(&stored).ok_or_else(|| Trouble::damaged("its directory is cut short"))?;
        if crcs.len() as u64 != frames.div_ceil(FRAMES_PER_PAGE as u64) {
            return Err(Trouble::damaged("its footer does not agree with its directory"));
        }
        Ok(Opened { frames, crcs, pages, directory })
    }

    async fn read_records(&self, key: &str, owner: &str, opened: &Opened) -> Result<Vec<Record>, Trouble> {
        let mut records = Vec::new();
        let mut at = opened.frames * FrameRef::ENCODED as u64;
        for page in &opened.pages {
            if page.offset != at {
                return Err(Trouble::damaged("its record pages do not follow one another"));
            }
            at += u64::from(page.stored);
            if at > opened.directory {
                return Err(Trouble::damaged("a record page lies outside"));
            }
            let stored = self.read(key, page.offset..at).await?;
            if index::sum(owner, &stored) != page.crc {
                return Err(Trouble::Damaged(format!(
                    "the checksum of the record page at byte {} does not match",
                    page.offset
                )));
            }
            let bytes =
                zstd::bulk::decompress(&stored, page.length as usize).map_err(|e| Trouble::damaged(e.to_string()))?;
            let mut reader = Reader::new(&bytes);
            while !reader.is_empty() {
                let record = index::decode_record(&mut reader);
                records.push(record.ok_or_else(|| Trouble::damaged("a record is cut short"))?);
            }
        }
        if at != opened.directory {
            return Err(Trouble::damaged("its directory does not follow its records"));
        }
        Ok(records)
    }

    /// Walks over the frame table in ranges, checking its sums. `each` gets the place of the first frame and the frames.
    async fn walk_table(
        &self,
        key: &str,
        owner: &str,
        opened: &Opened,
        mut each: impl FnMut(u64, &[FrameRef]) -> Result<(), Trouble> + Send,
    ) -> Result<(), Trouble> {
        let page_bytes = (FRAMES_PER_PAGE * FrameRef::ENCODED) as u64;
        let table_bytes = opened.frames * FrameRef::ENCODED as u64;
        let pages_at_once = (READ / page_bytes) as usize;
        for (number, crcs) in (0..).step_by(pages_at_once).zip(opened.crcs.chunks(pages_at_once)) {
            let start = number as u64 * page_bytes;
            let bytes = self.read(key, start..(start + READ).min(table_bytes)).await?;
            for (page, (stored, crc)) in (number..).zip(bytes.chunks(page_bytes as usize).zip(crcs)) {
                if index::sum(owner, stored) != *crc {
                    return Err(Trouble::Damaged(format!("the checksum of frame page {page} does not match")));
                }
                let (chunks, _) = stored.as_chunks::<{ FrameRef::ENCODED }>();
                let frames: Vec<FrameRef> = chunks.iter().map(FrameRef::decode).collect();
                each(page as u64 * FRAMES_PER_PAGE as u64, &frames)?;
            }
        }
        Ok(())
    }

    /// Checks the frames of the packs that are `sound` so far. An error is the index's.
    async fn check_packs(
        &mut self,
        described: &Described,
        opened: &Opened,
        places: &Places,
        sound: &HashSet<usize>,
    ) -> Result<(), Trouble> {
        let (key, owner) = (described.index.as_str(), described.owner.as_str());
        let mut counts = vec![0; described.packs.len()];
        let count = |_, frames: &[FrameRef]| {
            for frame in frames.iter().filter(|frame| !frame.is_zero()) {
                let pack = described.packs.get(frame.object as usize).filter(|pack| frame.range().end <= pack.bytes);
                pack.ok_or_else(|| Trouble::damaged("a frame lies outside of its packs"))?;
                counts[frame.object as usize] += 1;
            }
            Ok(())
        };
        self.walk_table(key, owner, opened, count).await?;
        for round in rounds(&counts) {
            let mut gathered: HashMap<usize, Vec<Expected>> = HashMap::new();
            let gather = |first: u64, frames: &[FrameRef]| {
                let mut file = places.find(first);
                for (place, frame) in (first..).zip(frames) {
                    let pack = frame.object as usize;
                    if !frame.is_zero() && round.contains(&pack) && sound.contains(&pack) {
                        let expected = places.expected(&mut file, place, *frame)?;
                        gathered.entry(pack).or_default().push(expected);
                    }
                }
                Ok(())
            };
            self.walk_table(key, owner, opened, gather).await?;
            for pack in round {
                let Some(frames) = gathered.remove(&pack) else { continue };
                let pack = &described.packs[pack];
                if let Err(trouble) = self.check_frames(&pack.key, &pack.owner, frames).await {
                    self.note(&pack.key, trouble);
                }
            }
        }
        Ok(())
    }
}

/// Packs, in order, in groups whose frames fit into memory; one pack always does.
fn rounds(counts: &[usize]) -> Vec<Range<usize>> {
    let mut rounds: Vec<Range<usize>> = Vec::new();
    let mut frames = 0;
    for (pack, count) in counts.iter().enumerate() {
        frames += count;
        match rounds.last_mut() {
            Some(round) if frames <= FRAMES_IN_MEMORY => round.end = pack + 1,
            _ => {
                frames = *count;
                rounds.push(pack..pack + 1);
            }
        }
    }
    rounds
}

impl Places {
    /// The file that has the frame at `place`, or the next one.
    fn find(&self, place: u64) -> usize {
        self.0.partition_point(|(range, _, _)| range.end <= place)
    }

    /// What the frame at `place` must be; `file` goes along.
    fn expected(&self, file: &mut usize, place: u64, frame: FrameRef) -> Result<Expected, Trouble> {
        while self.0.get(*file).is_some_and(|(range, _, _)| range.end <= place) {
            *file += 1;
        }
        let found = self.0.get(*file).filter(|(range, _, _)| range.contains(&place));
        let (range, id, size) = found.ok_or_else(|| Trouble::Damaged(format!("frame {place} belongs to no file")))?;
        let number = place - range.start;
        let length = (size - number * FRAME_SIZE as u64).min(FRAME_SIZE as u64);
        Ok(Expected { frame, file: *id, number: number as u32, length: length as u32 })
    }
}

fn places(records: &[Record], frames: u64) -> Result<Places, Trouble> {
    let files = records.iter().filter(|record| record.kind == FileKind::File && record.size > 0);
    let mut places: Vec<_> = files
        .map(|record| {
            let end = record.first_frame.saturating_add(record.size.div_ceil(FRAME_SIZE as u64));
            (record.first_frame..end, record.id, record.size)
        })
        .collect();
    places.sort_unstable_by_key(|(range, _, _)| range.start);
    let is_apart = places.is_sorted_by(|a, b| a.0.end <= b.0.start);
    if !is_apart || places.last().is_some_and(|(range, _, _)| range.end > frames) {
        return Err(Trouble::damaged("files share frames, or have frames that it does not have"));
    }
    Ok(Places(places))
}

/// Order, uniqueness, parents, and what the manifest says of all of them.
fn check_records(records: &[Record], described: &Described) -> Result<(), Trouble> {
    if !records.is_sorted_by(|a, b| (a.parent, &a.name) < (b.parent, &b.name)) {
        return Err(Trouble::damaged("its records are not sorted, or a name is there twice"));
    }
    let mut ids = HashSet::new();
    let directories: HashSet<FileId> =
        records.iter().filter(|record| record.kind == FileKind::Directory).map(|record| record.id).collect();
    for record in records {
        if !ids.insert(record.id) || record.id.0 > described.last_file_id.max(FileId::FIRST.0) {
            return Err(Trouble::Damaged(format!("{:?} is there twice, or beyond the manifest's last", record.id)));
        }
        let is_top = record.parent == FileId(0) && (record.name.is_empty() || *record.name == *WAL_RECORD);
        if !is_top && !directories.contains(&record.parent) {
            return Err(Trouble::Damaged(format!("{:?}, {:?}, lies in no directory", record.id, record.name)));
        }
    }
    let files = || records.iter().filter(|record| record.kind == FileKind::File && record.id != FileId::WAL);
    let bytes: u64 = files().map(|record| record.size).sum();
    if files().count() as u64 != described.files || bytes != described.logical_bytes {
        return Err(Trouble::damaged("its files are not those that the manifest counts"));
    }
    let wal = records.iter().find(|record| record.id == FileId::WAL);
    let is_whole = |bytes: u64| described.wal_pages.is_none_or(|pages| bytes == pages * PAGE_SIZE as u64);
    if !wal.is_some_and(|record| is_whole(record.size)) || !directories.contains(&FileId::ROOT) {
        return Err(Trouble::damaged("it lacks the root or the pages of WAL that the manifest names"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packs_are_read_in_rounds_that_fit_into_memory() {
        let half = FRAMES_IN_MEMORY / 2;
        assert_eq!(rounds(&[half, half, 1, FRAMES_IN_MEMORY * 2, 3]), [0..2, 2..3, 3..4, 4..5]);
        assert_eq!(rounds(&[1, 2, 3]), vec![0..3]);
        assert!(rounds(&[]).is_empty());
    }
}
