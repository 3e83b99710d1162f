//! What a suspend leaves in the store: the delta's pages as layers, its names as a tree.
//!
//! Synchronous, for a blocking thread. A layer is handed over as soon as it is [`LAYER_SIZE`] long, so memory stays bounded.

use super::layer::LayerWriter;
use super::tree::Node;
use super::volume::Volume;
use super::{DataFile, PageError};
use crate::model::{FileId, LayerRef, PAGE_SIZE, PageNo, TreeDiff, WalSegment};
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use tokio::runtime::Handle;

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

/// Builds the layers of everything the delta holds, and of the local WAL segment. Nothing may write to `volume` meanwhile.
/// With `merge`, the pages of all former layers go into the new ones too. `key` names the n-th layer; requests run on `runtime`.
pub fn build_upload(
    volume: &Volume,
    wal: (&WalSegment, &Path),
    (merge, runtime): (bool, &Handle),
    key: impl Fn(usize) -> String,
    put: PutLayer<'_>,
) -> Result<Upload, PageError> {
    let (files, tree) = {
        let tree = volume.tree();
        let mut files: Vec<Arc<DataFile>> = tree
            .nodes
            .values()
            .filter(|node| node.linked && is_carried(node))
            .filter_map(|node| node.file.clone())
            .filter(|file| merge || file.is_changed())
            .collect();
        files.sort_unstable_by_key(|file| file.id());
        (files, tree.diff(is_carried))
    };
    let mut layers = Layers { key: &key, put, finished: Vec::new(), writer: LayerWriter::new(key(0)) };
    add_wal(&mut layers, wal.0, wal.1)?;
    for file in files {
        let carried = file.pages_to_carry(&volume.ground);
        let mut parts: Vec<(u32, Part)> = carried.own.into_iter().map(|run| (run.start, Part::Own(run))).collect();
        parts.extend(carried.zeros.into_iter().map(|page| (page, Part::Zero)));
        parts.extend(carried.cut.map(|page| (page, Part::Lower)));
        if merge {
            let former = file.layer_pages(&volume.ground).into_iter().filter(|page| Some(*page) != carried.cut);
            parts.extend(former.map(|page| (page, Part::Lower)));
        }
        parts.sort_unstable_by_key(|(page, _)| *page);
        for (page, part) in parts {
            match part {
                Part::Own(run) => add_run(volume, &file, run, &mut layers)?,
                Part::Lower => {
                    let mut content = runtime.block_on(volume.read(&file, PageNo(page).offset(), PAGE_SIZE))?;
                    content.resize(PAGE_SIZE, 0);
                    layers.page(file.id(), PageNo(page), &content)?;
                }
                Part::Zero => layers.page(file.id(), PageNo(page), &[0; PAGE_SIZE])?,
            }
        }
    }
    Ok(Upload { layers: layers.finish()?, tree })
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
fn is_carried(node: &Node) -> bool {
    !node.transient && (node.id >= FileId::FIRST || node.id == FileId::ROOT)
}

fn add_run(volume: &Volume, file: &DataFile, run: Range<u32>, layers: &mut Layers<'_>) -> Result<(), PageError> {
    let mut buffer = Vec::with_capacity(READ_PAGES as usize * PAGE_SIZE);
    let mut page = run.start;
    while page < run.end {
        let pages = READ_PAGES.min(run.end - page);
        volume.read_near(file, PageNo(page).offset(), pages as usize * PAGE_SIZE, &mut buffer)?;
        // The last page of a file may be short.
        buffer.resize(pages as usize * PAGE_SIZE, 0);
        for (content, number) in buffer.chunks_exact(PAGE_SIZE).zip(page..) {
            layers.page(file.id(), PageNo(number), content)?;
        }
        page += pages;
    }
    Ok(())
}

fn add_wal(layers: &mut Layers<'_>, wal: &WalSegment, folder: &Path) -> Result<(), PageError> {
    let path = folder.join(&wal.name);
    let local = |e| PageError::local(&path, e);
    let segment = File::open(&path).map_err(local)?;
    let mut content = [0; PAGE_SIZE];
    for (number, page) in (0..).zip(&wal.pages) {
        segment.read_exact_at(&mut content, PageNo(*page).offset()).map_err(local)?;
        layers.page(FileId::WAL, PageNo(number), &content)?;
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
