//! What a suspend leaves in the store: the delta's pages as layers, its names as a tree.
//!
//! Synchronous, for a blocking thread. A layer is handed over as soon as it is [`LAYER_SIZE`] long, so memory stays bounded.

use super::driver::Driver;
use super::file::Carried;
use super::layer::LayerWriter;
use super::tree::Node;
use super::volume::{Snapshot, Volume};
use super::{DataFile, PageError};
use crate::model::{FileId, LayerRef, PAGE_SIZE, PageNo, TreeDiff};
use std::ops::Range;
use std::sync::Arc;

/// A layer is closed once it is as long, compressed.
const LAYER_SIZE: usize = 128 << 20;
/// Pages read from an overlay file at a time.
const READ_PAGES: u32 = 32;

/// Where finished layers go: their reference and their bytes.
pub type PutLayer<'a> = &'a mut dyn FnMut(LayerRef, Vec<u8>) -> Result<(), PageError>;

/// The outcome of [`build_upload`].
pub struct Upload {
    pub layers: Vec<LayerRef>,
    pub tree: TreeDiff,
}

/// Which pages an upload of a stopped branch carries.
#[derive(Clone, Copy, Debug)]
pub struct Selection {
    /// Every own page; otherwise those that changed since the last upload.
    pub all: bool,
    /// Pages of the layers numbered so, as the volume was opened with, and later ones go into the new layers too.
    pub merge_from: usize,
}

impl Selection {
    /// What changed since the last upload, and no former layer.
    pub const CHANGES: Selection = Selection { all: false, merge_from: usize::MAX };
}

/// Builds the layers of what the delta holds, and of `wal`: whole pages, numbered from 0 on. Nothing may write to `volume` meanwhile.
/// `key` names the n-th layer; `driver` ends it early.
pub fn build_upload(
    volume: &Volume,
    wal: &[u8],
    (selection, driver): (Selection, &Driver),
    key: impl Fn(usize) -> String,
    put: PutLayer<'_>,
) -> Result<Upload, PageError> {
    let merges = selection.merge_from != usize::MAX;
    let (files, tree) = {
        let tree = volume.tree();
        let mut files: Vec<Arc<DataFile>> = tree
            .nodes
            .values()
            .filter(|node| node.linked && is_carried(node))
            .filter_map(|node| node.file.clone())
            .filter(|file| merges || file.is_changed())
            .collect();
        files.sort_unstable_by_key(|file| file.id());
        (files, tree.diff(is_carried))
    };
    let mut layers = Layers { key: &key, put, finished: Vec::new(), writer: LayerWriter::new(key(0)) };
    layers.wal(wal)?;
    for file in files {
        let carried = file.pages_to_carry(&volume.ground, selection.all);
        let mut parts = parts_of(&carried);
        parts.extend(carried.cut.map(|page| (page, Part::Lower)));
        if merges {
            let former = file.layer_pages(&volume.ground, selection.merge_from);
            parts.extend(former.into_iter().filter(|page| Some(*page) != carried.cut).map(|page| (page, Part::Lower)));
        }
        parts.sort_unstable_by_key(|(page, _)| *page);
        for (page, part) in parts {
            match part {
                Part::Own(run) => add_run(&mut layers, &file, run, |offset, length, buffer| {
                    driver.check()?;
                    volume.read_near(&file, offset, length, buffer).map(|_| ())
                })?,
                Part::Lower => {
                    let mut content = driver.wait(volume.read(&file, PageNo(page).offset(), PAGE_SIZE))??;
                    content.resize(PAGE_SIZE, 0);
                    layers.page(file.id(), PageNo(page), &content)?;
                }
                Part::Zero => layers.page(file.id(), PageNo(page), &[0; PAGE_SIZE])?,
            }
        }
    }
    Ok(Upload { layers: layers.finish()?, tree })
}

/// Builds the layers of a snapshot, whose branch goes on being written, and of `wal`, as [`build_upload`] does.
pub fn build_snapshot_upload(
    snapshot: &Snapshot,
    wal: &[u8],
    key: impl Fn(usize) -> String,
    put: PutLayer<'_>,
) -> Result<Vec<LayerRef>, PageError> {
    let mut layers = Layers { key: &key, put, finished: Vec::new(), writer: LayerWriter::new(key(0)) };
    layers.wal(wal)?;
    for frozen in &snapshot.files {
        for (page, part) in parts_of(&frozen.carried) {
            match part {
                Part::Own(run) => add_run(&mut layers, &frozen.file, run, |offset, length, buffer| {
                    let first = PageNo::containing(offset).0;
                    frozen.file.read_frozen(first..first + (length / PAGE_SIZE) as u32, &frozen.pages, buffer)
                })?,
                _ => layers.page(frozen.file.id(), PageNo(page), &[0; PAGE_SIZE])?,
            }
        }
    }
    layers.finish()
}

/// Own pages and zeros, by page.
fn parts_of(carried: &Carried) -> Vec<(u32, Part)> {
    let own = carried.own.iter().map(|run| (run.start, Part::Own(run.clone())));
    let zeros = carried.zeros.iter().map(|page| (*page, Part::Zero));
    let mut parts: Vec<(u32, Part)> = own.chain(zeros).collect();
    parts.sort_unstable_by_key(|(page, _)| *page);
    parts
}

/// Where pages of a new layer come from.
enum Part {
    /// The delta.
    Own(Range<u32>),
    /// Cut off and grown over.
    Zero,
    /// What shows through from below.
    Lower,
}

/// Whether a node goes into manifests: neither what every start makes anew, nor the node's own links.
pub(super) fn is_carried(node: &Node) -> bool {
    !node.transient && (node.id >= FileId::FIRST || node.id == FileId::ROOT)
}

/// Adds a run of own pages, which `read` reads: whole pages, the last page of a file filled up with zeros.
fn add_run(
    layers: &mut Layers<'_>,
    file: &DataFile,
    run: Range<u32>,
    mut read: impl FnMut(u64, usize, &mut Vec<u8>) -> Result<(), PageError>,
) -> Result<(), PageError> {
    let mut buffer = Vec::with_capacity(READ_PAGES as usize * PAGE_SIZE);
    let mut page = run.start;
    while page < run.end {
        let pages = READ_PAGES.min(run.end - page);
        read(PageNo(page).offset(), pages as usize * PAGE_SIZE, &mut buffer)?;
        buffer.resize(pages as usize * PAGE_SIZE, 0);
        for (content, number) in buffer.chunks_exact(PAGE_SIZE).zip(page..) {
            layers.page(file.id(), PageNo(number), content)?;
        }
        page += pages;
    }
    Ok(())
}

struct Layers<'a> {
    key: &'a dyn Fn(usize) -> String,
    put: PutLayer<'a>,
    finished: Vec<LayerRef>,
    writer: LayerWriter,
}

impl Layers<'_> {
    fn wal(&mut self, pages: &[u8]) -> Result<(), PageError> {
        for (number, content) in (0..).zip(pages.chunks_exact(PAGE_SIZE)) {
            self.page(FileId::WAL, PageNo(number), content)?;
        }
        Ok(())
    }

    fn page(&mut self, file: FileId, page: PageNo, content: &[u8]) -> Result<(), PageError> {
        self.writer.page(file, page, content);
        if self.writer.len() >= LAYER_SIZE { self.close() } else { Ok(()) }
    }

    fn close(&mut self) -> Result<(), PageError> {
        let next = LayerWriter::new((self.key)(self.finished.len() + 1));
        let (layer, bytes) = std::mem::replace(&mut self.writer, next).finish();
        (self.put)(layer.clone(), bytes)?;
        self.finished.push(layer);
        Ok(())
    }

    fn finish(mut self) -> Result<Vec<LayerRef>, PageError> {
        if !self.writer.is_empty() {
            self.close()?;
        }
        Ok(self.finished)
    }
}
