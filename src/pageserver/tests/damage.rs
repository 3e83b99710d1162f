//! Objects in the store whose bytes were changed, cut off or lost: an error, or what was written, but never anything else.

use super::changes::Run;
use super::fixture::{Fixture, bytes};
use crate::model::FileId;
use crate::pageserver::disk::simulated::SimulatedDisk;
use crate::pageserver::frame::FrameRef;
use crate::pageserver::index::{FRAMES_PER_PAGE, Index, write_index};
use crate::pageserver::{PageError, Volume, VolumeSource};
use crate::store::{StoreError, keys};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::path::PathBuf;
use std::sync::Arc;

/// Bytes at the end of an object of which each bit is tried: its footer.
const FOOTER: usize = 40;
/// Bytes at the end of an object that are all tried: index and directory too.
const TAIL: usize = 400;
/// Bytes anywhere that are tried.
const SAMPLES: usize = 150;

#[test]
fn a_damaged_layer_is_noticed() {
    let fixture = Fixture::new(&[]);
    for seed in 0..2 {
        let mut run = changed(&fixture, seed);
        run.suspend();
        for _ in 0..6 {
            run.step();
        }
        while !run.suspend() {}
        let layers: Vec<String> = run.layers.iter().map(|layer| layer.key.clone()).collect();
        for key in layers {
            try_damages(&fixture, &key, seed, || read_all(&run));
        }
    }
}

#[test]
fn a_damaged_index_is_noticed() {
    let fixture = Fixture::new(&[]);
    let run = Run::new(&fixture, 1);
    try_damages(&fixture, &keys::base_staged_index(&fixture.staged.project, &fixture.staged.id), 1, || read_all(&run));
}

#[test]
fn a_damaged_pack_is_noticed() {
    let fixture = Fixture::new(&[]);
    let run = Run::new(&fixture, 1);
    try_damages(&fixture, &keys::base_pack(&fixture.staged.project, &fixture.staged.id, 0), 1, || read_all(&run));
}

/// Frame tables of more than one page are read by ranges that the footer bounds.
#[test]
fn a_damaged_footer_of_a_large_index_is_noticed() {
    let fixture = Fixture::new(&[]);
    let folder = fixture.place("index");
    let mut random = StdRng::seed_from_u64(3);
    let places = FRAMES_PER_PAGE + 900;
    let table = bytes(&mut random, places * FrameRef::ENCODED);
    let path = folder.join("index");
    std::fs::write(&path, &table).expect("a table can be written");
    let mut file = std::fs::OpenOptions::new().read(true).write(true).open(&path).expect("it opens");
    let length = write_index(&mut file, "base1", Vec::new()).expect("an index can be written");
    let whole = std::fs::read(&path).expect("it can be read");
    for (at, bit) in (whole.len() - FOOTER..whole.len()).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << bit;
        let key = format!("v1/index-{at}-{bit}");
        let read = async {
            fixture.store.create(&key, bytes).await?;
            let index = Index::open(fixture.cache.clone(), key.clone(), length, ("base1".into(), 1)).await?;
            for place in [places - 1, FRAMES_PER_PAGE, FRAMES_PER_PAGE - 1, 0] {
                let stored = &table[place * FrameRef::ENCODED..][..FrameRef::ENCODED];
                let expected = FrameRef::decode(stored.try_into().expect("16 bytes"));
                assert_eq!(index.frame(place as u64).await?, expected, "bit {bit} of byte {at} of {length}");
            }
            Ok(())
        };
        check(fixture.runtime.block_on(read), &format!("bit {bit} of byte {at} of an index"));
    }
}

fn changed<'f>(fixture: &'f Fixture, seed: u64) -> Run<'f> {
    let mut run = Run::new(fixture, seed);
    (0..25).for_each(|_| run.step());
    run
}

/// Flips bits of the object one after another, cuts it, removes it, and hands what was there back.
fn try_damages(fixture: &Fixture, key: &str, seed: u64, read: impl Fn() -> Result<(), PageError>) {
    let mut random = StdRng::seed_from_u64(seed);
    let path: PathBuf = fixture.store.local_path(key).expect("the store is a folder");
    let whole = std::fs::read(&path).expect("the object is there");
    read().unwrap_or_else(|e| panic!("{key}, undamaged: {e}"));
    let (footer, tail) = (whole.len().saturating_sub(FOOTER), whole.len().saturating_sub(TAIL));
    let mut flips: Vec<(usize, u8)> = (footer..whole.len()).flat_map(|at| (0..8).map(move |bit| (at, bit))).collect();
    flips.extend((tail..footer).map(|at| (at, random.random_range(0..8))));
    flips.extend((0..SAMPLES).map(|_| (random.random_range(0..whole.len()), random.random_range(0..8))));
    for (at, bit) in flips {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << bit;
        std::fs::write(&path, bytes).expect("the object can be changed");
        check(read(), &format!("bit {bit} of byte {at} of {} of {key} flipped", whole.len()));
    }
    for _ in 0..20 {
        let length = random.random_range(0..whole.len());
        std::fs::write(&path, &whole[..length]).expect("the object can be changed");
        let what = format!("{key} of {} bytes cut to {length}", whole.len());
        check(read(), &what);
    }
    std::fs::remove_file(&path).expect("the object can be removed");
    let missing = read();
    assert!(
        matches!(&missing, Err(PageError::Store(e)) if matches!(**e, StoreError::Missing { .. })),
        "{key} is gone, and that is {missing:?}"
    );
    std::fs::write(&path, &whole).expect("the object can be put back");
}

/// Reading what it should and failing with a word about the store are both right.
fn check(outcome: Result<(), PageError>, what: &str) {
    assert!(
        matches!(outcome, Ok(()) | Err(PageError::Damaged { .. } | PageError::Store(_))),
        "{what}, and that is {outcome:?}"
    );
}

/// Opens everything anew and reads all that the model has; what is read is compared.
fn read_all(run: &Run<'_>) -> Result<(), PageError> {
    let fixture = run.fixture;
    // One that has nothing in memory.
    let cache = fixture.open_cache();
    let delta = SimulatedDisk::default();
    fixture.runtime.block_on(async {
        let source = VolumeSource {
            base: Arc::new(fixture.staged.open(cache.clone()).await?),
            last_base_id: fixture.staged.last_file_id,
            layers: &run.layers,
            tree: run.tree.as_ref(),
            links: &[],
        };
        let volume = Volume::open(cache, source, delta.open(), "fresh").await?;
        for (path, named) in run.model.names() {
            let mut id = FileId::ROOT;
            for name in path.split('/') {
                let listing = volume.listing(id).await?;
                id = volume.peek(id, name, &listing)?;
            }
            assert_eq!(id, named.id, "{path} is something else");
            if !named.directory {
                let expected = run.model.content(id);
                let content = volume.read(&*volume.file(id)?, 0, expected.len() + 1).await?;
                assert!(content == **expected, "{path} reads as something else");
            }
        }
        Ok(())
    })
}
