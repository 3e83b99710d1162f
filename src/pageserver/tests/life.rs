//! A volume's life: random changes, and in between suspends, kills and power cuts, after each of which it is compared with the model.

use super::changes::Run;
use super::fixture::{Fixture, putting, wal_pages};
use super::model::{Model, Names, assert_same, is_transient};
use super::seeds;
use crate::model::{FileId, LayerRef, PAGE_SIZE};
use crate::pageserver::disk::simulated::SimulatedDisk;
use crate::pageserver::{PageError, Selection, build_snapshot_upload, build_upload};
use rand::RngExt;
use std::rc::Rc;

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

impl Run<'_> {
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
        let upload = build_upload(self.volume(), &kept, (selection, handle), key, &mut putting(self.fixture));
        let upload = upload.unwrap_or_else(|e| panic!("seed {seed}: it cannot be uploaded: {e}"));
        if self.random.random_range(0..10) == 0 {
            self.tell(format_args!("the upload is lost"));
            return false;
        }
        self.delta_number += 1;
        self.close();
        self.layers.truncate(selection.merge_from);
        self.layers.extend(uploaded.into_iter().filter(|_| !selection.all));
        self.layers.extend(upload.layers);
        self.tree = Some(upload.tree);
        if self.random.random_range(0..3) > 0 {
            self.delta = SimulatedDisk::default();
        }
        self.open();
        assert_eq!(self.volume().own_pages(), 0, "seed {seed}: a fresh delta has pages");
        let found =
            self.fixture.runtime.block_on(self.volume().read_wal(kept.len() / PAGE_SIZE)).expect("WAL can be read");
        assert_same(&found, &kept, format_args!("seed {seed}: the WAL segment"));
        self.compare();
        self.take_as_durable();
        true
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
        let elsewhere = Run::of_upload(self.fixture, self.seed, (moment, all_layers, tree));
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
