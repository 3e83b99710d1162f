//! Writing a base: files in, packs and an index out.
//!
//! Files come in the order of the source and are cut into 64 KiB frames; frames fill a pack until it has [`PACK_SIZE`] bytes, then the pack is
//! put, at most [`UPLOADS`] at a time. Frame places go to a local scratch file, 16 bytes for each frame, so memory stays bounded by a few packs
//! whatever the size of the database. Synchronous, for a blocking thread.

use super::base::{Base, Extent};
use super::driver::Driver;
use super::frame::{FRAME_SIZE, FrameEncoder, FrameRef, Identity};
use super::index::{Record, write_index};
use super::{PageCache, PageError};
use crate::model::{BaseId, FileId, FileKind, ImagePack, PackRef, ProjectName};
use crate::store::{Store, StoreError, keys};
use object_store::PutPayload;
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use tokio::runtime::Handle;
use tokio::task::JoinSet;

/// A pack is closed once it is as long: one PUT, at 80 MB/s half a second.
const PACK_SIZE: usize = 48 << 20;
/// Packs being uploaded while the next fills.
const UPLOADS: usize = 2;

/// Why a base could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("cannot read the source: {0}")]
    Source(io::Error),
    #[error("cannot write to the object store: {0}")]
    Store(#[from] StoreError),
    #[error("cannot write to {path}: {source}")]
    Scratch { path: PathBuf, source: io::Error },
    #[error("{0:?} has no parent directory in the source")]
    Orphan(String),
    #[error("cannot read back what was written: {0}")]
    Page(#[from] PageError),
}

/// Writes a data directory, file by file as it comes, into packs in the store.
pub struct BaseWriter {
    project: ProjectName,
    id: BaseId,
    packs: PackWriter,
    directories: HashMap<String, FileId>,
    records: HashMap<(FileId, String), Record>,
    next_id: u64,
}

/// A base whose pages are all in the store, but which nobody can branch yet: it is not consistent, and no manifest names it.
#[derive(Clone, Debug)]
pub struct StagedBase {
    pub project: ProjectName,
    pub id: BaseId,
    pub packs: Vec<PackRef>,
    pub index_bytes: u64,
    pub last_file_id: u64,
}

impl BaseWriter {
    /// `scratch` is an existing local folder for what cannot be kept in memory.
    pub fn new(
        store: Store,
        project: &ProjectName,
        base: &BaseId,
        scratch: &Path,
        runtime: Handle,
    ) -> Result<Self, WriteError> {
        let names = PackNames::of_base(project, base);
        Ok(Self {
            project: project.clone(),
            id: base.clone(),
            packs: PackWriter::new(store, names, scratch.join("frames"), runtime.into(), Vec::new())?,
            directories: HashMap::from([(String::new(), FileId::ROOT)]),
            records: HashMap::new(),
            next_id: FileId::FIRST.0,
        })
    }

    /// Adds a directory; parents first, `path` relative to the data directory, without leading or trailing `/`.
    /// The data directory itself is `""`. `mode` holds permission bits.
    pub fn directory(&mut self, path: &str, mode: u32) -> Result<(), WriteError> {
        if path.is_empty() {
            // The root has no name; its record stands below no parent.
            let root = Record { id: FileId::ROOT, ..self.record(FileId(0), "", FileKind::Directory, mode) };
            self.records.insert((FileId(0), String::new()), root);
            return Ok(());
        }
        let (parent, name) = self.place(path)?;
        let record = self.record(parent, name, FileKind::Directory, mode);
        self.directories.insert(path.to_owned(), record.id);
        self.records.insert((parent, name.to_owned()), record);
        Ok(())
    }

    /// Adds a symlink.
    pub fn symlink(&mut self, path: &str, target: &str) -> Result<(), WriteError> {
        let (parent, name) = self.place(path)?;
        let mut record = self.record(parent, name, FileKind::Symlink, 0o777);
        record.target = Some(target.into());
        self.records.insert((parent, name.to_owned()), record);
        Ok(())
    }

    /// Adds a file, reading `content` to its end. A path given twice replaces the former file.
    pub fn file(&mut self, path: &str, mode: u32, content: &mut dyn Read) -> Result<(), WriteError> {
        let (parent, name) = self.place(path)?;
        let mut record = self.record(parent, name, FileKind::File, mode);
        let extent = self.packs.write_file(record.id, content)?;
        (record.first_frame, record.size) = (extent.first_frame, extent.size);
        self.records.insert((parent, name.to_owned()), record);
        Ok(())
    }

    /// Flushes the last pack and writes the index that the private start reads.
    pub fn finish(self) -> Result<StagedBase, WriteError> {
        let records = self.records.into_values().collect();
        let key = keys::base_staged_index(&self.project, &self.id);
        let (packs, index_bytes) = self.packs.finish(key, records)?;
        let (packs, last_file_id) = (of_base(packs), self.next_id - 1);
        Ok(StagedBase { project: self.project, id: self.id, packs, index_bytes, last_file_id })
    }

    fn record(&mut self, parent: FileId, name: &str, kind: FileKind, mode: u32) -> Record {
        let id = FileId(self.next_id);
        self.next_id += 1;
        Record { parent, name: name.into(), id, kind, mode: mode & 0o7777, size: 0, first_frame: 0, target: None }
    }

    fn place<'a>(&self, path: &'a str) -> Result<(FileId, &'a str), WriteError> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let parent = self.directories.get(parent).ok_or_else(|| WriteError::Orphan(path.to_owned()))?;
        Ok((*parent, name))
    }
}

impl StagedBase {
    /// Opens it for the private start.
    pub async fn open(&self, cache: PageCache) -> Result<Base, PageError> {
        let key = keys::base_staged_index(&self.project, &self.id);
        Base::open_parts(cache, &self.project, &self.id, key, self.index_bytes, &self.packs).await
    }
}

/// Whose packs are written: what frames are summed with, and the key of the n-th pack.
pub(super) struct PackNames {
    pub owner: String,
    pub key: Box<dyn Fn(u32) -> String + Send>,
}

impl PackNames {
    pub(super) fn of_base(project: &ProjectName, base: &BaseId) -> PackNames {
        let (project, id) = (project.clone(), base.clone());
        PackNames { owner: base.to_string(), key: Box::new(move |number| keys::base_pack(&project, &id, number)) }
    }
}

/// A base's packs are numbered by their places.
pub(super) fn of_base(packs: Vec<ImagePack>) -> Vec<PackRef> {
    (0..).zip(packs).map(|(number, pack)| PackRef { number, bytes: pack.bytes }).collect()
}

/// Frames in, packs and a frame table out: what writing and sealing a base and making an image share.
pub(super) struct PackWriter {
    store: Store,
    driver: Driver,
    names: PackNames,
    encoder: FrameEncoder,
    /// The pack that is being filled, and its place in `packs` once it has a frame.
    pack: Vec<u8>,
    filling: Option<u32>,
    packs: Vec<ImagePack>,
    /// Places of packs of another base or image, by the numbers they have there.
    foreign: HashMap<u32, u32>,
    uploads: JoinSet<Result<(), StoreError>>,
    table: BufWriter<File>,
    table_path: PathBuf,
    frames: u64,
    encoded: Vec<u8>,
    content: Vec<u8>,
}

impl PackWriter {
    /// `packs` are those the base already has. The frame table goes to `table_path`, which must not exist.
    pub(super) fn new(
        store: Store,
        names: PackNames,
        table_path: PathBuf,
        driver: Driver,
        packs: Vec<PackRef>,
    ) -> Result<Self, WriteError> {
        let table = OpenOptions::new().create_new(true).read(true).write(true).open(&table_path);
        let table = table.map_err(|source| WriteError::Scratch { path: table_path.clone(), source })?;
        let known =
            |pack: PackRef| ImagePack { key: (names.key)(pack.number), owner: names.owner.clone(), bytes: pack.bytes };
        Ok(Self {
            store,
            driver,
            packs: packs.into_iter().map(known).collect(),
            names,
            encoder: FrameEncoder::new(),
            pack: Vec::with_capacity(PACK_SIZE + FRAME_SIZE),
            filling: None,
            foreign: HashMap::new(),
            uploads: JoinSet::new(),
            table: BufWriter::new(table),
            table_path,
            frames: 0,
            encoded: Vec::with_capacity(FrameRef::ENCODED),
            content: vec![0; FRAME_SIZE],
        })
    }

    /// Frames in the table so far: where the next file begins.
    pub(super) fn frames(&self) -> u64 {
        self.frames
    }

    /// Cuts `content` into frames of `file`.
    pub(super) fn write_file(&mut self, file: FileId, content: &mut dyn Read) -> Result<Extent, WriteError> {
        let first_frame = self.frames;
        let mut size = 0;
        let mut buffer = std::mem::take(&mut self.content);
        for number in 0.. {
            let length = read_full(content, &mut buffer).map_err(WriteError::Source)?;
            if length > 0 {
                self.write_frame(file, number, &buffer[..length])?;
                size += length as u64;
            }
            if length < FRAME_SIZE {
                break;
            }
        }
        self.content = buffer;
        Ok(Extent { first_frame, size })
    }

    /// Adds one frame of new content.
    pub(super) fn write_frame(&mut self, file: FileId, number: u32, content: &[u8]) -> Result<(), WriteError> {
        let identity = Identity { owner: &self.names.owner, file, number };
        let place = self.filling.unwrap_or(self.packs.len() as u32);
        let frame = self.encoder.append(identity, place, content, &mut self.pack);
        if self.filling.is_none() && !frame.is_zero() {
            // Its length and key are known once it is put.
            self.packs.push(ImagePack { key: String::new(), owner: self.names.owner.clone(), bytes: 0 });
            self.filling = Some(place);
        }
        self.point_to(frame)?;
        if self.pack.len() >= PACK_SIZE { self.put_pack() } else { Ok(()) }
    }

    /// Adds one frame that is already in a pack of this base.
    pub(super) fn point_to(&mut self, frame: FrameRef) -> Result<(), WriteError> {
        self.encoded.clear();
        frame.encode(&mut self.encoded);
        let path = &self.table_path;
        self.table.write_all(&self.encoded).map_err(|source| WriteError::Scratch { path: path.clone(), source })?;
        self.frames += 1;
        Ok(())
    }

    /// Adds one frame that is in a pack of another base or image, which `pack` names.
    pub(super) fn point_to_foreign(
        &mut self,
        frame: FrameRef,
        pack: impl FnOnce() -> Result<ImagePack, PageError>,
    ) -> Result<(), WriteError> {
        if frame.is_zero() {
            return self.point_to(frame);
        }
        let place = match self.foreign.get(&frame.object) {
            Some(place) => *place,
            None => {
                self.packs.push(pack()?);
                let place = self.packs.len() as u32 - 1;
                self.foreign.insert(frame.object, place);
                place
            }
        };
        self.point_to(frame.in_object(place))
    }

    fn put_pack(&mut self) -> Result<(), WriteError> {
        let Some(place) = self.filling.take() else { return Ok(()) };
        while self.uploads.len() >= UPLOADS {
            self.wait_for_upload()?;
        }
        let bytes = std::mem::replace(&mut self.pack, Vec::with_capacity(PACK_SIZE + FRAME_SIZE));
        let key = (self.names.key)(place);
        let pack = &mut self.packs[place as usize];
        (pack.key, pack.bytes) = (key.clone(), bytes.len() as u64);
        let store = self.store.clone();
        self.uploads.spawn_on(async move { store.create(&key, PutPayload::from(bytes)).await }, self.driver.runtime());
        Ok(())
    }

    fn wait_for_upload(&mut self) -> Result<(), WriteError> {
        match self.driver.wait(self.uploads.join_next())? {
            None => Ok(()),
            Some(Ok(outcome)) => Ok(outcome?),
            Some(Err(e)) => Err(WriteError::Source(io::Error::other(e))),
        }
    }

    /// Waits for all packs, then writes the index to `key`. Returns all packs and the index's length.
    pub(super) fn finish(mut self, key: String, records: Vec<Record>) -> Result<(Vec<ImagePack>, u64), WriteError> {
        self.put_pack()?;
        while !self.uploads.is_empty() {
            self.wait_for_upload()?;
        }
        let scratch = |source| WriteError::Scratch { path: self.table_path.clone(), source };
        let mut table = self.table.into_inner().map_err(|e| scratch(e.into_error()))?;
        let length = write_index(&mut table, &self.names.owner, records).map_err(scratch)?;
        let bytes = std::fs::read(&self.table_path).map_err(scratch)?;
        self.driver.wait(self.store.create(&key, bytes))??;
        std::fs::remove_file(&self.table_path).map_err(scratch)?;
        Ok((self.packs, length))
    }
}

/// Fills `buffer` as far as `content` reaches.
fn read_full(content: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match content.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(length) => filled += length,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}
