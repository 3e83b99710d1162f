//! Read-ahead through a volume: scans cost few requests, random reads not one too many, and layers are no different from bases.

use super::counted_store::{CountedStore, small};
use super::fixture::{folder, write_base};
use crate::model::{FileId, LayerRef, PAGE_SIZE, PageNo};
use crate::pageserver::disk::simulated::SimulatedDisk;
use crate::pageserver::layer::LayerWriter;
use crate::pageserver::{PageCache, StagedBase, Volume, VolumeSource};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;

const SIZE: usize = 32 << 20;
const FRAME: usize = 64 << 10;
/// What a FUSE request asks for at most.
const READ: usize = 128 << 10;

struct Scene {
    runtime: Runtime,
    counted: CountedStore,
    folder: tempfile::TempDir,
    content: Vec<u8>,
    staged: StagedBase,
}

impl Scene {
    /// A base with one file that does not compress.
    fn new() -> Scene {
        let (folder, counted) = (folder(), CountedStore::default());
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let mut content = vec![0; SIZE];
        StdRng::seed_from_u64(3).fill_bytes(&mut content);
        let files = [("base/5/1".to_owned(), content)];
        let staged = write_base(&counted.store(), folder.path(), &runtime, &files);
        let [(_, content)] = files;
        Scene { runtime, counted, folder, content, staged }
    }

    fn cache(&self) -> PageCache {
        let place = tempfile::tempdir_in(self.folder.path()).unwrap().keep();
        PageCache::open(self.counted.store(), &place, &small(1 << 30)).unwrap()
    }

    fn volume(&self, cache: &PageCache, layers: &[LayerRef]) -> Volume {
        self.runtime.block_on(async {
            let source = VolumeSource {
                base: Arc::new(self.staged.open(cache.clone()).await.unwrap()),
                last_base_id: self.staged.last_file_id,
                layers,
                tree: None,
                links: &[],
            };
            Volume::open(cache.clone(), source, SimulatedDisk::default().open(), "fresh").await.unwrap()
        })
    }

    fn file(&self, volume: &Volume) -> FileId {
        let mut id = FileId::ROOT;
        for name in ["base", "5", "1"] {
            let listing = self.runtime.block_on(volume.listing(id)).unwrap();
            id = volume.peek(id, name, &listing).unwrap();
        }
        id
    }

    /// Reads parts of the file, `length` bytes at each offset.
    fn read(&self, volume: &Volume, offsets: impl IntoIterator<Item = usize>, length: usize) {
        let file = volume.file(self.file(volume)).unwrap();
        self.runtime.block_on(async {
            for offset in offsets {
                let read = volume.read(&file, offset as u64, length).await.unwrap();
                assert!(
                    read == self.content[offset..(offset + length).min(SIZE)],
                    "byte {offset} reads as something else"
                );
            }
        });
    }
}

#[test]
fn a_scan_makes_few_requests() {
    let scene = Scene::new();
    for length in [8 << 10, READ, 1 << 20] {
        let cache = scene.cache();
        let volume = scene.volume(&cache, &[]);
        scene.counted.requests();
        scene.counted.bytes();
        scene.counted.set_delay(Duration::from_millis(2));
        scene.read(&volume, (0..SIZE).step_by(length), length);
        let (requests, bytes, figures) = (scene.counted.requests(), scene.counted.bytes(), cache.figures());
        println!("reads of {length} bytes: {requests} requests, {bytes} bytes for 256 extents; {figures:?}");
        assert!(requests < 60, "{requests} requests for 32 MiB");
        assert!(bytes < SIZE as u64 * 103 / 100, "{bytes} bytes for 32 MiB");
        assert!(figures.read_ahead_issued > 0 && figures.read_ahead_used <= figures.read_ahead_issued, "{figures:?}");
    }
}

#[test]
fn random_reads_fetch_what_they_need() {
    let scene = Scene::new();
    for seed in 0..5 {
        let cache = scene.cache();
        let volume = scene.volume(&cache, &[]);
        let mut frames: Vec<usize> = (0..SIZE / FRAME).collect();
        frames.shuffle(&mut StdRng::seed_from_u64(seed));
        frames.truncate(100);
        // The first opens the directories.
        scene.read(&volume, [frames[0] * FRAME], 8192);
        scene.counted.requests();
        scene.read(&volume, frames[1..].iter().map(|frame| frame * FRAME), 8192);
        let (requests, figures) = (scene.counted.requests(), cache.figures());
        println!("99 random frames: {requests} requests; {figures:?}");
        // Two that happen to be neighbours look like a reader going through.
        assert!(requests <= 99, "{requests} requests for 99 frames");
        assert!(figures.read_ahead_issued <= 8, "{figures:?}");
    }
}

#[test]
fn a_scan_of_layers_makes_few_requests_too() {
    let mut scene = Scene::new();
    let mut random = StdRng::seed_from_u64(9);
    // Every second page of the first half is in a layer.
    let mut writer = LayerWriter::new("v1/branch/b/layer/1".into());
    let file = scene.file(&scene.volume(&scene.cache(), &[]));
    for page in (0..SIZE / PAGE_SIZE / 2).step_by(2) {
        let content = &mut scene.content[page * PAGE_SIZE..(page + 1) * PAGE_SIZE];
        random.fill_bytes(content);
        writer.page(file, PageNo(page as u32), content);
    }
    let (layer, bytes) = writer.finish();
    scene.runtime.block_on(scene.counted.store().create(&layer.key, bytes)).unwrap();
    let cache = scene.cache();
    let volume = scene.volume(&cache, &[layer]);
    scene.counted.requests();
    scene.read(&volume, (0..SIZE).step_by(READ), READ);
    let requests = scene.counted.requests();
    println!("{requests} requests for 32 MiB of base and 8 MiB of layer; {:?}", cache.figures());
    assert!(requests < 80, "{requests} requests");
}

/// What a boot object will do: the bytes that one branch read, brought by another way, leave nothing to ask the store for.
#[test]
fn what_was_recorded_and_seeded_needs_no_request() {
    let mut scene = Scene::new();
    let mut writer = LayerWriter::new("v1/branch/b/layer/1".into());
    let file = scene.file(&scene.volume(&scene.cache(), &[]));
    for page in (0..SIZE / PAGE_SIZE).step_by(3) {
        scene.content[page * PAGE_SIZE..(page + 1) * PAGE_SIZE].fill(page as u8 | 1);
        writer.page(file, PageNo(page as u32), &scene.content[page * PAGE_SIZE..(page + 1) * PAGE_SIZE]);
    }
    let (layer, bytes) = writer.finish();
    let (store, layers) = (scene.counted.store(), [layer]);
    scene.runtime.block_on(store.create(&layers[0].key, bytes)).unwrap();
    let offsets = [0, 5 << 20, (9 << 20) + PAGE_SIZE, SIZE - PAGE_SIZE];
    let volume = scene.volume(&scene.cache(), &layers);
    volume.start_recording();
    scene.read(&volume, offsets, PAGE_SIZE * 2);
    let ranges = scene.runtime.block_on(volume.finish_recording()).unwrap().expect("it was on").ranges;
    // Read after the recording.
    scene.read(&volume, [20 << 20], PAGE_SIZE);

    let cache = scene.cache();
    let mut seeded = Vec::new();
    for range in &ranges {
        let bytes = scene.runtime.block_on(store.get_range(&range.key, range.start..range.end)).unwrap();
        let object = cache.object(&range.key, range.object_bytes);
        cache.seed(&object, range.start, bytes);
        seeded.push(object);
    }
    scene.counted.requests();
    let volume = scene.volume(&cache, &layers);
    scene.read(&volume, offsets, PAGE_SIZE * 2);
    assert_eq!(scene.counted.requests(), 0, "{ranges:#?}");
    scene.read(&volume, [20 << 20], PAGE_SIZE);
    assert!(scene.counted.requests() > 0, "more than was read was recorded");
}
