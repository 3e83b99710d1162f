//! A volume's life: random changes, and in between suspends, kills and power cuts, after each of which it is compared with the model.

use super::changes::Run;
use super::fixture::{Fixture, putting, wal_pages};
use super::model::{Model, Names, assert_same, is_transient};
use super::seeds;
use crate::model::{FileId, Image, LayerRef, PAGE_SIZE, TreeDiff};
use crate::pageserver::disk::simulated::SimulatedDisk;
use crate::pageserver::{
    Base, Driver, ImageNames, PageCache, PageError, Selection, WriteError, build_image, build_snapshot_upload,
    build_upload,
};
use crate::store::keys;
use rand::RngExt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

#[test]
fn a_volume_is_what_was_written_through_suspends_kills_and_power_cuts() {
    let fixture = Fixture::new(&[]);
    for seed in seeds(0..100) {
        let mut run = Run::new(&fixture, seed);
        let steps = run.random.random_range(50..250);
        for _ in 0..steps {
            match run.random.random_range(0..60) {
                0..2 => drop(run.suspend()),
                2 => run.crash(false),
                4..7 => run.upload_awake(),
                3 => run.crash(true),
                _ => run.step(),
            }
        }
        run.suspend();
    }
}

/// As on an object store, where packs, indexes and layers are read through the cache's files.
#[test]
fn a_volume_is_what_was_written_over_a_remote_store() {
    let fixture = Fixture::remote(&[]);
    for seed in seeds(2000..2020) {
        let mut run = Run::new(&fixture, seed);
        for _ in 0..run.random.random_range(50..150) {
            match run.random.random_range(0..40) {
                0..3 => drop(run.suspend()),
                3 => run.crash(true),
                _ => run.step(),
            }
        }
        run.suspend();
    }
    assert!(fixture.cache.figures().fills > 0, "nothing went through the cache");
}

/// An image holds what the branch changed, and of the rest it says where it is.
#[test]
fn an_image_shares_what_was_left_alone() {
    let fixture = Fixture::new(&[]);
    let mut run = Run::new(&fixture, 3000);
    let listing = |run: &Run<'_>, id| fixture.runtime.block_on(run.volume().listing(id)).expect("it is listed");
    let write = |run: &mut Run<'_>, name: &str, offset: u64| {
        let mut directory = FileId::ROOT;
        for name in ["base", "5"] {
            directory = run.volume().peek(directory, name, &listing(run, directory)).expect("it is there");
        }
        let id = run.volume().peek(directory, name, &listing(run, directory)).expect("it is there");
        run.volume().lookup(directory, name, &listing(run, directory)).expect("it is there");
        let (file, content) = (run.volume().file(id).expect("a file"), [7; PAGE_SIZE]);
        fixture.runtime.block_on(run.volume().write(&file, offset, &content)).expect("it is written");
        run.model.change_file(id, |bytes| bytes[offset as usize..][..PAGE_SIZE].fill(7));
    };
    let image = |run: &mut Run<'_>| loop {
        // One in ten comes to nothing.
        if run.suspend_as_image() {
            return run.image.clone().expect("it has one");
        }
    };
    let own = |image: &Image| {
        let own = image.packs.iter().filter(|pack| pack.owner == image.owner());
        own.map(|pack| pack.bytes).sum::<u64>()
    };
    const FRAME: u64 = 64 << 10;
    // Its pages of WAL, at most seven, are a frame of their own.
    write(&mut run, "16384", 9 * PAGE_SIZE as u64);
    let first = image(&mut run);
    assert_eq!(first.packs.iter().filter(|pack| pack.key.contains("/base/")).count(), 1, "{first:?}");
    assert!(own(&first) <= 2 * FRAME, "one frame was changed: {first:?}");
    // Its one changed frame is again changed: the pack of before is not needed any more.
    write(&mut run, "16384", 10 * PAGE_SIZE as u64);
    let second = image(&mut run);
    assert!(second.packs.iter().all(|pack| pack.owner != first.owner()), "{second:?}");
    assert!(own(&second) <= 2 * FRAME, "{second:?}");
    // Another: what the second has of the first is needed, and more than half of its pack, unless its WAL is longer than a frame's half.
    write(&mut run, "16386", 0);
    let third = image(&mut run);
    assert!(own(&third) <= 3 * FRAME, "{third:?}");
    assert!(third.packs.iter().any(|pack| pack.key.contains("/base/")), "{third:?}");
}

/// Hardly a change between them: more suspends than a manifest may have layers.
#[test]
fn the_mode_of_the_root_lasts() {
    let fixture = Fixture::new(&[]);
    let mut run = Run::new(&fixture, 0);
    let mode = |run: &Run<'_>| run.volume().attributes(FileId::ROOT).expect("there is a root").mode;
    assert_eq!(mode(&run), 0o700);
    run.volume().set_mode(FileId::ROOT, 0o750).expect("a mode can be set");
    run.volume().sync_names().expect("names can be synced");
    run.crash(false);
    assert_eq!(mode(&run), 0o750);
    run.suspend();
    assert_eq!(mode(&run), 0o750);
}

#[test]
fn a_volume_is_what_was_written_through_any_number_of_layers() {
    let fixture = Fixture::new(&[]);
    for seed in seeds(1000..1008) {
        let mut run = Run::new(&fixture, seed);
        for _ in 0..45 {
            (0..run.random.random_range(0..6)).for_each(|_| run.step());
            run.suspend();
        }
    }
}

impl<'f> Run<'f> {
    /// A node that has nothing but what was uploaded: `model` is what it must find.
    pub fn of_upload(
        fixture: &'f Fixture,
        seed: u64,
        (model, image): (Model, Option<Image>),
        (layers, tree): (Vec<LayerRef>, TreeDiff),
    ) -> Run<'f> {
        let mut run = Run::unopened(fixture, seed);
        (run.model, run.image, run.layers, run.tree) = (model, image, layers, Some(tree));
        run.open();
        run
    }

    /// What the layers lie over, and its last file.
    pub fn beneath(&self, cache: &PageCache) -> (Arc<Base>, u64) {
        match &self.image {
            None => (self.fixture.base.clone(), self.fixture.staged.last_file_id),
            Some(image) => {
                let opened = self.fixture.runtime.block_on(Base::open_image(cache.clone(), image));
                let opened = opened.unwrap_or_else(|e| panic!("seed {}: its image does not open: {e}", self.seed));
                (Arc::new(opened), image.last_file_id)
            }
        }
    }

    /// Uploads the delta and opens what was uploaded, on a delta folder that is empty or holds an older delta.
    /// False where the upload came to nothing, as every now and then.
    pub fn suspend(&mut self) -> bool {
        /// More than production keeps, so that merges come early and late.
        const MAX_LAYERS: usize = 20;
        if self.random.random() {
            self.forget_all();
        }
        if self.random.random_range(0..4) == 0 {
            self.volume().sync_all().expect("it can be synced");
        }
        if self.makes_images && self.random.random_range(0..12) == 0 {
            return self.suspend_as_image();
        }
        let kept = wal_pages(&mut self.random);
        let merge = self.layers.len() >= MAX_LAYERS || self.random.random_range(0..12) == 0;
        self.tell(format_args!("suspend, {} layers, merge: {merge}", self.layers.len()));
        let key = self.layer_key();
        let (seed, handle) = (self.seed, self.fixture.runtime.handle());
        let uploaded = self.volume().uploaded();
        let selection = match merge {
            true => Selection { all: true, merge_from: self.random.random_range(0..=self.layers.len()) },
            false => Selection { all: uploaded.is_empty() || self.random.random(), ..Selection::CHANGES },
        };
        if self.random.random_range(0..6) == 0 {
            self.tell(format_args!("it is broken off"));
            let driver = self.short_driver();
            let outcome = build_upload(self.volume(), &kept, (selection, &driver), key, &mut putting(self.fixture));
            // Or it was quicker.
            assert!(matches!(outcome, Ok(_) | Err(PageError::Cancelled)), "seed {seed}: {:?}", outcome.err());
            self.compare();
            return false;
        }
        let upload =
            build_upload(self.volume(), &kept, (selection, &handle.clone().into()), key, &mut putting(self.fixture));
        let upload = upload.unwrap_or_else(|e| panic!("seed {seed}: it cannot be uploaded: {e}"));
        if self.random.random_range(0..10) == 0 {
            self.tell(format_args!("the upload is lost"));
            return false;
        }
        self.layers.truncate(selection.merge_from);
        self.layers.extend(uploaded.into_iter().filter(|_| !selection.all));
        self.layers.extend(upload.layers);
        self.tree = Some(upload.tree);
        self.wake_anew(&kept);
        true
    }

    /// As [`Run::suspend`], with an image instead of layers.
    fn suspend_as_image(&mut self) -> bool {
        self.tell(format_args!("suspend as an image"));
        let kept = wal_pages(&mut self.random);
        self.uploads += 1;
        let (seed, number) = (self.seed, self.uploads);
        let key = move |kind: &str, part: u32| format!("v1/branch/b{seed}/{kind}/{number:08}-{part:08}-n");
        let names = ImageNames { index: key("index", 0), pack: Box::new(move |part| key("pack", part)) };
        let (store, scratch) = (self.fixture.store.clone(), self.fixture.place(&format!("image-{seed}")));
        if self.random.random_range(0..4) == 0 {
            self.tell(format_args!("it is broken off"));
            let driver = self.short_driver();
            let outcome = build_image(self.volume(), &kept, names, (store, &scratch), &driver);
            // Or it was quicker.
            let is_right = matches!(outcome, Ok(_) | Err(WriteError::Page(PageError::Cancelled)));
            assert!(is_right, "seed {seed}: {:?}", outcome.err());
            self.compare();
            return false;
        }
        let built =
            build_image(self.volume(), &kept, names, (store, &scratch), &self.fixture.runtime.handle().clone().into());
        let image = built.unwrap_or_else(|e| panic!("seed {seed}: its image cannot be written: {e}")).image;
        let own = image.packs.iter().filter(|pack| pack.key.starts_with(keys::BRANCHES));
        let own: u64 = own.map(|pack| pack.bytes).sum();
        let most = 2 * image.logical_bytes + kept.len() as u64;
        assert!(own <= most, "seed {seed}: packs of {own} bytes for {} of data", image.logical_bytes);
        if self.random.random_range(0..10) == 0 {
            self.tell(format_args!("the image is lost"));
            return false;
        }
        self.tree = Some(TreeDiff { next_id: image.last_file_id + 1, ..TreeDiff::default() });
        self.layers.clear();
        self.image = Some(image);
        self.model.drop_linked();
        self.wake_anew(&kept);
        true
    }

    /// One that ends what it drives at once, or in the midst of it.
    fn short_driver(&mut self) -> Driver {
        let (stop, micros) = (CancellationToken::new(), self.random.random_range(0..3000));
        let (later, handle) = (stop.clone(), self.fixture.runtime.handle());
        handle.spawn(async move {
            tokio::time::sleep(Duration::from_micros(micros)).await;
            later.cancel();
        });
        Driver::until(stop, handle.clone())
    }

    /// Opens what was uploaded, which `kept` is the WAL of, and compares it.
    fn wake_anew(&mut self, kept: &[u8]) {
        let seed = self.seed;
        self.delta_number += 1;
        self.close();
        if self.random.random_range(0..3) > 0 {
            self.delta = SimulatedDisk::default();
        }
        self.open();
        assert_eq!(self.volume().own_pages(), 0, "seed {seed}: a fresh delta has pages");
        let found =
            self.fixture.runtime.block_on(self.volume().read_wal(kept.len() / PAGE_SIZE)).expect("WAL can be read");
        assert_same(&found, kept, format_args!("seed {seed}: the WAL segment"));
        self.compare();
        self.take_as_durable();
    }

    /// Names for the layers of the next upload.
    fn layer_key(&mut self) -> impl Fn(usize) -> String + use<> {
        self.uploads += 1;
        let (seed, number) = (self.seed, self.uploads);
        move |part: usize| format!("v1/branch/b{seed}/layer/{number:08}-{part:08}-n")
    }

    /// Uploads a moment while the volume goes on being changed, and opens elsewhere what was uploaded, as after the loss of the node.
    pub fn upload_awake(&mut self) {
        let kept = wal_pages(&mut self.random);
        let all = self.random.random_range(0..4) == 0;
        self.tell(format_args!("upload awake, all: {all}"));
        let key = self.layer_key();
        let handle = self.fixture.runtime.handle().clone();
        let frozen = self.volume().freeze(all, &handle, || Ok::<_, PageError>(()));
        let (snapshot, ()) = frozen.unwrap_or_else(|e| panic!("seed {}: it cannot be frozen: {e}", self.seed));
        let moment = self.model.latest();
        (0..self.random.random_range(0..30)).for_each(|_| self.step());
        let mut part = 0;
        let fixture = self.fixture;
        let mut put = |layer: LayerRef, bytes: Vec<u8>| {
            part += 1;
            putting(fixture)(layer, bytes)
        };
        let layers = build_snapshot_upload(&snapshot, &kept, key, &mut put);
        let layers = layers.unwrap_or_else(|e| panic!("seed {}: it cannot be uploaded: {e}", self.seed));
        let tree = snapshot.tree().clone();
        (0..self.random.random_range(0..10)).for_each(|_| self.step());
        if self.random.random_range(0..5) == 0 {
            self.tell(format_args!("the upload is given up"));
            return;
        }
        snapshot.published(layers);
        let all_layers: Vec<LayerRef> = self.layers.iter().cloned().chain(self.volume().uploaded()).collect();
        let elsewhere = Run::of_upload(self.fixture, self.seed, (moment, self.image.clone()), (all_layers, tree));
        elsewhere.compare();
        let found = handle.block_on(elsewhere.volume().read_wal(kept.len() / PAGE_SIZE)).expect("WAL can be read");
        assert_same(&found, &kept, format_args!("seed {}: the WAL", self.seed));
    }

    /// Everything is as the model says, but for what is transient, which is gone.
    pub fn compare(&self) {
        let mut expected: Names = self.model.names().clone();
        expected.retain(|path, _| !is_transient(path));
        let mut found = self.found_names();
        // The base's own are back, as far as they were not removed.
        found.retain(|path, _| !is_transient(path));
        assert_eq!(found, expected, "seed {}: names", self.seed);
        for (path, named) in found.iter().filter(|(_, named)| !named.directory) {
            let what = format_args!("seed {}: {path} {:?}", self.seed, named.id);
            assert_same(&self.found_content(named.id), self.model.content(named.id), what);
        }
    }

    /// What the volume holds now is the model from here on.
    pub fn take_as_durable(&mut self) {
        let mut model = Model::default();
        let names = self.found_names();
        for named in names.values().filter(|named| !named.directory) {
            model.start_file(named.id, Rc::new(self.found_content(named.id)));
        }
        model.start_names(names);
        self.model = model;
    }
}
