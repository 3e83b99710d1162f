//! Sealing a staged base that was changed at random, and opening what came of it.

use super::changes::Run;
use super::fixture::{Fixture, wal_segment};
use super::model::{Names, assert_same, is_linked, is_transient};
use super::seeds;
use crate::model::{BaseId, FileId};
use crate::pageserver::{Base, LocalDisk, SealedParts, StagedBase, Volume, VolumeSource, seal};
use crate::store::keys;
use rand::RngExt;
use std::sync::Arc;

/// What a copy of a running server's data directory has beside its data.
const TRANSIENT: [(&str, usize); 4] = [
    ("postmaster.pid", 90),
    ("postmaster.opts", 40),
    ("global/pg_internal.init", 20_000),
    ("base/5/pg_internal.init.77", 9000),
];

#[test]
fn a_sealed_base_is_what_the_volume_was() {
    let fixture = Fixture::new(&TRANSIENT);
    for seed in seeds(2000..2060) {
        let mut run = Run::new(&fixture, seed);
        // What is sealed is a staged base, never an image.
        run.makes_images = false;
        for _ in 0..run.random.random_range(0..80) {
            match run.random.random_range(0..40) {
                0 => drop(run.suspend()),
                1 => run.crash(false),
                _ => run.step(),
            }
        }
        run.seal_and_compare();
    }
}

impl Run<'_> {
    fn seal_and_compare(&mut self) {
        let seed = self.seed;
        let (store, handle) = (self.fixture.store.clone(), self.fixture.runtime.handle().clone());
        let scratch = self.fixture.place(&format!("scratch-{seed}"));
        let (wal, kept) = wal_segment(&mut self.random, &scratch);
        let segment = std::fs::read(scratch.join(&wal.name)).expect("the segment can be read");
        self.put_file("pg_wal", &wal.name, &segment);
        let staged = &self.fixture.staged;
        let parts = seal(self.volume(), staged, std::slice::from_ref(&wal), store.clone(), &scratch, handle.clone());
        let parts = parts.unwrap_or_else(|e| panic!("seed {seed}: it cannot be sealed: {e}"));

        let sealed = self.open_sealed(&parts);
        let mut expected: Names = self.model.names().clone();
        expected.retain(|path, _| !is_transient(path) && !is_linked(path));
        let files = expected.values().filter(|named| !named.directory).count();
        assert_eq!(parts.files, files as u64, "seed {seed}: files");
        let highest = expected.values().map(|named| named.id).max().unwrap_or(FileId::FIRST);
        assert!(parts.last_file_id >= highest.0, "seed {seed}: a branch would give out {highest:?} again");
        let found = handle.block_on(sealed.read_wal(wal.pages.len())).expect("WAL can be read");
        assert_same(&found, &kept, format_args!("seed {seed}: the WAL segment"));

        self.close();
        self.replace_volume(sealed);
        assert_eq!(self.found_names(), expected, "seed {seed}: names");
        for (path, named) in expected.iter().filter(|(_, named)| !named.directory) {
            let what = format_args!("seed {seed}: {path} {:?}", named.id);
            assert_same(&self.found_content(named.id), self.model.content(named.id), what);
        }
        self.remove_sealed(staged, &parts);
    }

    fn open_sealed(&self, parts: &SealedParts) -> Volume {
        let (staged, cache) = (&self.fixture.staged, self.fixture.cache.clone());
        let index = keys::base_index(&staged.project, &staged.id);
        let id: &BaseId = &staged.id;
        let runtime = &self.fixture.runtime;
        let base = Base::open_parts(cache.clone(), &staged.project, id, index, parts.index_bytes, &parts.packs);
        let base = Arc::new(runtime.block_on(base).expect("the sealed base opens"));
        let source = VolumeSource { base, last_base_id: parts.last_file_id, layers: &[], tree: None, links: &[] };
        let delta = self.fixture.place(&format!("sealed-{}", self.seed));
        runtime
            .block_on(Volume::open(
                cache,
                source,
                Arc::new(LocalDisk::open(&delta).expect("a folder can be made")),
                "sealed",
            ))
            .expect("a volume opens on it")
    }

    /// For the next seed: names are used once only.
    fn remove_sealed(&self, staged: &StagedBase, parts: &SealedParts) {
        let packs = parts.packs[staged.packs.len()..].iter();
        let packs = packs.map(|pack| keys::base_pack(&staged.project, &staged.id, pack.number));
        for key in packs.chain([keys::base_index(&staged.project, &staged.id)]) {
            self.fixture.runtime.block_on(self.fixture.store.delete(&key)).expect("an object can be deleted");
        }
    }
}
