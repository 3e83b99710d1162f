//! From a staged base that a private start has brought to consistency to what can be branched.
//!
//! Frames that the start left alone are pointed to; frames it changed are written to further packs. What no branch needs is left out:
//! transient files, and WAL but for the one segment that a start reads.

use super::base::{Extent, content_length};
use super::base_writer::PackWriter;
use super::frame::{FRAME_SIZE, PAGES_PER_FRAME};
use super::index::Record;
use super::volume::Volume;
use super::{StagedBase, WriteError};
use crate::model::{FileId, FileKind, PAGE_SIZE, PackRef, PageNo, WalSegment};
use crate::store::{Store, keys};
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
    wal: &WalSegment,
    store: Store,
    scratch: &Path,
    runtime: Handle,
) -> Result<SealedParts, WriteError> {
    let table = scratch.join("sealed-frames");
    let packs = PackWriter::new(
        store,
        staged.project.clone(),
        staged.id.clone(),
        table,
        runtime.clone(),
        staged.packs.clone(),
    )?;
    let mut sealing = Sealing { volume, runtime, packs, records: Vec::new(), files: 0, logical_bytes: 0 };
    let root = volume.attributes(FileId::ROOT)?;
    sealing.records.push(Record {
        parent: FileId(0),
        name: "".into(),
        id: FileId::ROOT,
        kind: FileKind::Directory,
        mode: root.mode,
        size: 0,
        first_frame: 0,
        target: None,
    });
    sealing.add_wal(wal)?;
    sealing.add_directory(FileId::ROOT)?;
    let Sealing { packs, records, files, logical_bytes, .. } = sealing;
    let last_file_id = records.iter().map(|record| record.id.0).max().unwrap_or(FileId::FIRST.0);
    let (packs, index_bytes) = packs.finish(keys::base_index(&staged.project, &staged.id), records)?;
    Ok(SealedParts { packs, index_bytes, last_file_id, files, logical_bytes })
}

struct Sealing<'a> {
    volume: &'a Volume,
    runtime: Handle,
    packs: PackWriter,
    records: Vec<Record>,
    files: u64,
    logical_bytes: u64,
}

impl Sealing<'_> {
    fn add_directory(&mut self, directory: FileId) -> Result<(), WriteError> {
        let listing = self.runtime.block_on(self.volume.listing(directory))?;
        for (_, kind, name) in self.volume.entries(directory, &listing)? {
            if directory == FileId::ROOT && LINKED_FOLDERS.contains(&name.as_str()) {
                continue;
            }
            // Instantiates the node, so that the tree knows what is transient below it.
            let attributes = self.volume.lookup(directory, &name, &listing)?;
            if self.volume.is_transient(attributes.id) {
                continue;
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
        }
        Ok(())
    }

    fn add_file(&mut self, id: FileId, size: u64) -> Result<(), WriteError> {
        let file = self.volume.file(id)?;
        self.files += 1;
        self.logical_bytes += size;
        for number in 0..size.div_ceil(FRAME_SIZE as u64) as u32 {
            let offset = u64::from(number) * FRAME_SIZE as u64;
            let first_page = number * PAGES_PER_FRAME as u32;
            let last_page = (first_page + PAGES_PER_FRAME as u32).min(size.div_ceil(8192) as u32);
            // A file that was cut at a page's border ends within a frame that is longer in the base.
            let as_long =
                |extent: &Extent| content_length(*extent, number) == content_length(Extent { size, ..*extent }, number);
            match file.base_extent().filter(as_long) {
                Some(extent) if !file.differs_from_base(&self.volume.ground, first_page..last_page) => {
                    let frame = self.runtime.block_on(self.volume.ground.base.place(extent, number))?;
                    self.packs.point_to(frame)?;
                }
                _ => {
                    let content = self.runtime.block_on(self.volume.read(&file, offset, FRAME_SIZE))?;
                    self.packs.write_frame(id, number, &content)?;
                }
            }
        }
        Ok(())
    }

    /// The segment comes from `pg_wal` of the mount, where the private start left it.
    fn add_wal(&mut self, wal: &WalSegment) -> Result<(), WriteError> {
        let listing = self.runtime.block_on(self.volume.listing(FileId::ROOT))?;
        let folder = self.volume.lookup(FileId::ROOT, "pg_wal", &listing)?.id;
        let listing = self.runtime.block_on(self.volume.listing(folder))?;
        let segment = self.volume.lookup(folder, &wal.name, &listing)?.id;
        let file = self.volume.file(segment)?;
        let mut content = Vec::with_capacity(wal.pages.len() * PAGE_SIZE);
        for page in &wal.pages {
            content.extend(self.runtime.block_on(self.volume.read(&file, PageNo(*page).offset(), PAGE_SIZE))?);
        }
        let extent = self.packs.write_file(FileId::WAL, &mut content.as_slice())?;
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
