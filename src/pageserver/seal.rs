//! From a staged base that a private start has brought to consistency to what can be branched.
//!
//! Frames that the start left alone are pointed to; frames it changed are written to further packs. What no branch needs is left out:
//! transient files, and WAL but for the one segment that a start reads.

use super::base::{Extent, content_length};
use super::base_writer::{PackNames, PackWriter, of_base};
use super::driver::Driver;
use super::frame::{FRAME_SIZE, PAGES_PER_FRAME};
use super::index::Record;
use super::volume::Volume;
use super::{Attributes, DataFile, StagedBase, WriteError};
use crate::model::{FileId, FileKind, PAGE_SIZE, PackRef, PageNo, WalSegment};
use crate::store::{Store, keys};
use std::collections::HashSet;
use std::path::Path;
use tokio::runtime::Handle;

/// Folders of the data directory that a branch has beside its mount; the mount shows links in their place.
pub const LINKED_FOLDERS: [&str; 2] = ["pg_wal", "pg_dynshmem"];
/// The record of the WAL segment: below no directory, beside the root's own.
pub(super) const WAL_RECORD: &str = "wal";

/// What a base's manifest says of its data.
pub struct SealedParts {
    pub packs: Vec<PackRef>,
    pub index_bytes: u64,
    pub last_file_id: u64,
    pub files: u64,
    /// Bytes of all files.
    pub logical_bytes: u64,
}

/// Writes the final packs and index. `volume` is open on `staged`, its compute stopped cleanly and the mount gone. Synchronous, for a blocking thread.
pub fn seal(
    volume: &Volume,
    staged: &StagedBase,
    wal: &[WalSegment],
    store: Store,
    scratch: &Path,
    runtime: Handle,
) -> Result<SealedParts, WriteError> {
    let table = scratch.join("sealed-frames");
    let driver = Driver::from(runtime);
    let names = PackNames::of_base(&staged.project, &staged.id);
    let packs = PackWriter::new(store, names, table, driver.clone(), staged.packs.clone())?;
    let mut sealing = Sealing::new(volume, driver, packs, None);
    let wal = sealing.wal_of_mount(wal)?;
    sealing.add_all(&wal)?;
    let Sealing { packs, records, files, logical_bytes, .. } = sealing;
    let last_file_id = records.iter().map(|record| record.id.0).max().unwrap_or(FileId::FIRST.0);
    let (packs, index_bytes) = packs.finish(keys::base_index(&staged.project, &staged.id), records)?;
    Ok(SealedParts { packs: of_base(packs), index_bytes, last_file_id, files, logical_bytes })
}

/// A walk over a volume that writes down all of it: for a base that is sealed, and for a branch's image.
pub(super) struct Sealing<'a> {
    volume: &'a Volume,
    driver: Driver,
    pub packs: PackWriter,
    pub records: Vec<Record>,
    pub files: u64,
    /// Bytes of all files.
    pub logical_bytes: u64,
    /// What lies beneath the volume has packs of its own, of which these are not worth keeping; `None`: its packs are the writer's.
    sparse: Option<HashSet<u32>>,
}

impl<'a> Sealing<'a> {
    pub(super) fn new(
        volume: &'a Volume,
        driver: Driver,
        packs: PackWriter,
        sparse: Option<HashSet<u32>>,
    ) -> Sealing<'a> {
        Sealing { volume, driver, packs, records: Vec::new(), files: 0, logical_bytes: 0, sparse }
    }

    /// Writes everything that a branch needs, and `wal`: whole pages.
    pub(super) fn add_all(&mut self, wal: &[u8]) -> Result<(), WriteError> {
        let root = self.volume.attributes(FileId::ROOT)?;
        self.records.push(Record {
            parent: FileId(0),
            name: "".into(),
            id: FileId::ROOT,
            kind: FileKind::Directory,
            mode: root.mode,
            size: 0,
            first_frame: 0,
            target: None,
        });
        self.add_wal(wal)?;
        self.add_directory(FileId::ROOT)
    }

    fn add_directory(&mut self, directory: FileId) -> Result<(), WriteError> {
        let listing = self.driver.wait(self.volume.listing(directory))??;
        for (_, kind, name) in self.volume.entries(directory, &listing)? {
            if directory == FileId::ROOT && LINKED_FOLDERS.contains(&name.as_str()) {
                continue;
            }
            // Instantiates the node, so that the tree knows what is transient below it.
            let attributes = self.volume.lookup(directory, &name, &listing)?;
            let added = self.add_entry(directory, (kind, name), &attributes);
            // No kernel was told of it.
            self.volume.forget(attributes.id, 1);
            added?;
        }
        Ok(())
    }

    fn add_entry(
        &mut self,
        directory: FileId,
        (kind, name): (FileKind, String),
        attributes: &Attributes,
    ) -> Result<(), WriteError> {
        if self.volume.is_transient(attributes.id) {
            return Ok(());
        }
        let target = (kind == FileKind::Symlink).then(|| self.volume.target(attributes.id)).transpose()?;
        let mut record = Record {
            parent: directory,
            name: name.into(),
            id: attributes.id,
            kind,
            mode: attributes.mode,
            size: attributes.size,
            first_frame: self.packs.frames(),
            target: target.map(Into::into),
        };
        match kind {
            FileKind::File => self.add_file(attributes.id, attributes.size)?,
            FileKind::Directory => self.add_directory(attributes.id)?,
            FileKind::Symlink => record.size = 0,
        }
        self.records.push(record);
        Ok(())
    }

    fn add_file(&mut self, id: FileId, size: u64) -> Result<(), WriteError> {
        let file = self.volume.file(id)?;
        self.files += 1;
        self.logical_bytes += size;
        for number in 0..size.div_ceil(FRAME_SIZE as u64) as u32 {
            let unchanged = unchanged_frame(self.volume, &file, size, number);
            let unchanged = unchanged.map(|extent| self.driver.wait(self.volume.ground.base.place(extent, number)));
            match (unchanged.transpose()?.transpose()?, &self.sparse) {
                (Some(frame), None) => self.packs.point_to(frame)?,
                (Some(frame), Some(sparse)) if !sparse.contains(&frame.object) => {
                    let base = &self.volume.ground.base;
                    self.packs.point_to_foreign(frame, || base.pack_reference(frame.object))?;
                }
                _ => {
                    let offset = u64::from(number) * FRAME_SIZE as u64;
                    let content = self.driver.wait(self.volume.read(&file, offset, FRAME_SIZE))??;
                    self.packs.write_frame(id, number, &content)?;
                }
            }
        }
        Ok(())
    }

    /// The pages that are kept of `segments` in `pg_wal` of the mount, where the private start left them.
    fn wal_of_mount(&self, segments: &[WalSegment]) -> Result<Vec<u8>, WriteError> {
        let listing = self.driver.wait(self.volume.listing(FileId::ROOT))??;
        let folder = self.volume.lookup(FileId::ROOT, "pg_wal", &listing)?.id;
        let listing = self.driver.wait(self.volume.listing(folder))??;
        let mut content = Vec::new();
        for segment in segments {
            let id = self.volume.lookup(folder, &segment.name, &listing)?.id;
            let file = self.volume.file(id)?;
            for page in &segment.pages {
                content.extend(self.driver.wait(self.volume.read(&file, PageNo(*page).offset(), PAGE_SIZE))??);
            }
        }
        Ok(content)
    }

    fn add_wal(&mut self, mut content: &[u8]) -> Result<(), WriteError> {
        let extent = self.packs.write_file(FileId::WAL, &mut content)?;
        self.records.push(Record {
            parent: FileId(0),
            name: WAL_RECORD.into(),
            id: FileId::WAL,
            kind: FileKind::File,
            mode: 0o600,
            size: extent.size,
            first_frame: extent.first_frame,
            target: None,
        });
        Ok(())
    }
}

/// Where a file of `size` bytes is in what lies beneath, if its `number`-th frame is there as the branch has it.
pub(super) fn unchanged_frame(volume: &Volume, file: &DataFile, size: u64, number: u32) -> Option<Extent> {
    let first_page = number * PAGES_PER_FRAME as u32;
    let last_page = (first_page + PAGES_PER_FRAME as u32).min(PageNo::count_for(size));
    let extent = file.base_extent()?;
    // A file that was cut at a page's border ends within a frame that is longer in the base.
    let as_long = content_length(extent, number) == content_length(Extent { size, ..extent }, number);
    (as_long && !file.differs_from_base(&volume.ground, first_page..last_page)).then_some(extent)
}
