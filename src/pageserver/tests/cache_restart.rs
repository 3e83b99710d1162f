//! What the cache is worth after a stop, clean or not, and that nothing wrong comes out of it.

use super::cache_reads::blocks_below;
use super::counted_store::{CountedStore, Pack, small};
use super::fixture::{bytes, folder, write_base};
use crate::model::FileId;
use crate::pageserver::cache::{EXTENT, PageCache};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const AMPLE: u64 = 1 << 30;
/// Bytes before the object's first in its file.
const HEADER: u64 = 4096;

fn open(counted: &CountedStore, folder: &Path, disk: u64) -> PageCache {
    PageCache::open(counted.store(), folder, &small(disk)).unwrap()
}

/// The cache's only file of an object.
fn only_file(folder: &Path) -> PathBuf {
    let mut files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files.find(|path| path.file_name().unwrap() != "extents").unwrap()
}

async fn read_all(cache: &PageCache, pack: &Pack, frames: impl IntoIterator<Item = u32>) {
    for number in frames {
        pack.read(cache, number).await;
    }
}

#[tokio::test]
async fn a_clean_stop_loses_nothing() {
    let (folder, counted) = (folder(), CountedStore::default());
    let store = counted.store();
    let (one, two) = (Pack::put(&store, "v1/one", 40).await, Pack::put(&store, "v1/two", 7).await);
    let cache = open(&counted, folder.path(), AMPLE);
    read_all(&cache, &one, (0..40).step_by(5)).await;
    read_all(&cache, &two, 0..7).await;
    let before = cache.figures();
    cache.close().unwrap();
    // What is read behind the map is not kept: the map would not have it.
    read_all(&cache, &one, 12..14).await;
    assert_eq!(cache.figures().fills, before.fills);
    drop(cache);
    counted.requests();
    let cache = open(&counted, folder.path(), AMPLE);
    assert!(!folder.path().join("extents").exists(), "the map stays behind");
    assert_eq!(cache.figures().disk_bytes, before.disk_bytes);
    read_all(&cache, &one, (0..40).step_by(5)).await;
    read_all(&cache, &two, 0..7).await;
    assert_eq!(counted.requests(), 0);
    read_all(&cache, &one, 12..14).await;
    assert_eq!(counted.requests(), 1);
}

#[tokio::test]
async fn a_smaller_budget_holds_from_the_start() {
    let (folder, counted) = (folder(), CountedStore::default());
    let pack = Pack::put(&counted.store(), "v1/pack", 128).await;
    for clean in [true, false] {
        let cache = open(&counted, folder.path(), AMPLE);
        read_all(&cache, &pack, 0..128).await;
        if clean {
            cache.close().unwrap();
        }
        drop(cache);
        assert!(blocks_below(folder.path()) >= 8 << 20);
        let cache = open(&counted, folder.path(), 2 << 20);
        assert!(blocks_below(folder.path()) <= 2 << 20, "{} bytes", blocks_below(folder.path()));
        read_all(&cache, &pack, 0..128).await;
        assert!(blocks_below(folder.path()) <= 2 << 20);
    }
}

#[tokio::test]
async fn another_store_takes_up_nothing() {
    for clean in [true, false] {
        let (folder, counted) = (folder(), CountedStore::default());
        let pack = Pack::put(&counted.store(), "v1/pack", 4).await;
        let cache = open(&counted, folder.path(), AMPLE);
        read_all(&cache, &pack, 0..4).await;
        if clean {
            cache.close().unwrap();
        }
        drop(cache);
        counted.requests();
        let cache = PageCache::open(counted.store_at("memory://b"), folder.path(), &small(AMPLE)).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        read_all(&cache, &pack, 0..4).await;
        assert_eq!(counted.requests(), 2);
    }
}

/// The daemon is killed; of one extent the disk has only half of what was written, and of another file the header is gone.
#[tokio::test]
async fn a_torn_extent_is_fetched_anew() {
    let (folder, counted) = (folder(), CountedStore::default());
    let pack = Pack::put(&counted.store(), "v1/pack", 16).await;
    let cache = open(&counted, folder.path(), AMPLE);
    read_all(&cache, &pack, (0..10).chain(14..16)).await;
    drop(cache);
    let path = only_file(folder.path());
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&vec![0xa5; EXTENT as usize / 2], HEADER + 2 * EXTENT + EXTENT / 4).unwrap();
    counted.requests();
    let cache = open(&counted, folder.path(), AMPLE);
    // The first extent's frames do not end with it, the third is torn: frames 4 and 5.
    read_all(&cache, &pack, (0..10).chain(14..16)).await;
    assert_eq!(counted.requests(), 1);
    assert_eq!(cache.figures().forgotten, 1);
    drop(cache);
    // Half an extent that was never written: no data, not present.
    file.set_len(HEADER + 7 * EXTENT + EXTENT / 2).unwrap();
    let cache = open(&counted, folder.path(), AMPLE);
    read_all(&cache, &pack, (0..10).chain(14..16)).await;
    assert_eq!(counted.requests(), 1);
    assert_eq!(cache.figures().forgotten, 0, "it was not taken for whole");
    drop(cache);
    file.write_all_at(&[1], 100).unwrap();
    let cache = open(&counted, folder.path(), AMPLE);
    assert!(!path.exists(), "nobody can tell what this file holds");
    read_all(&cache, &pack, 0..16).await;
}

/// A map that lies, as after a power cut behind a clean stop: extents are not synced.
#[tokio::test]
async fn a_map_whose_files_lost_their_content_does_no_harm() {
    let (folder, counted) = (folder(), CountedStore::default());
    let pack = Pack::put(&counted.store(), "v1/pack", 16).await;
    let mut random = StdRng::seed_from_u64(5);
    for round in 0..20 {
        let cache = open(&counted, folder.path(), AMPLE);
        read_all(&cache, &pack, 0..16).await;
        cache.close().unwrap();
        drop(cache);
        let file = OpenOptions::new().write(true).open(only_file(folder.path())).unwrap();
        match round % 4 {
            0 => file.set_len(random.random_range(0..HEADER + pack.bytes)).unwrap(),
            1 => std::fs::remove_file(only_file(folder.path())).unwrap(),
            2 => {
                let map = folder.path().join("extents");
                let mut content = std::fs::read(&map).unwrap();
                let at = random.random_range(0..content.len());
                content[at] ^= 1 << random.random_range(0..8);
                std::fs::write(&map, content).unwrap();
            }
            _ => {
                let at = random.random_range(0..HEADER + pack.bytes - 9000);
                file.write_all_at(&vec![9; 9000], at).unwrap();
            }
        }
        let cache = open(&counted, folder.path(), AMPLE);
        read_all(&cache, &pack, 0..16).await;
        drop(cache);
        // And once more without a map.
        let cache = open(&counted, folder.path(), AMPLE);
        read_all(&cache, &pack, 0..16).await;
    }
}

/// A whole base, its index among it, opens and reads without the store after a restart.
#[test]
fn a_base_is_read_without_the_store_after_a_restart() {
    let (folder, counted) = (folder(), CountedStore::default());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mut random = StdRng::seed_from_u64(1);
    let content: Vec<(String, Vec<u8>)> =
        (0..20).map(|n| (format!("base/5/{n}"), bytes(&mut random, 90_000))).collect();
    let staged = write_base(&counted.store(), folder.path(), &runtime, &content);
    let cached = folder.path().join("cache");
    let read = |cache: &PageCache| {
        runtime.block_on(async {
            let base = staged.open(cache.clone()).await.unwrap();
            for directory in 0..=FileId::FIRST.0 + 5 {
                for record in base.listing(FileId(directory)).await.unwrap().iter().filter(|record| record.size > 0) {
                    let (_, expected) =
                        content.iter().find(|(path, _)| path.ends_with(&format!("/{}", record.name))).unwrap();
                    let extent = crate::pageserver::base::Extent { first_frame: record.first_frame, size: record.size };
                    let read = base.frames(record.id, extent, &[1, 0]).await.unwrap();
                    assert!(read[1][..] == expected[..65536] && read[0][..] == expected[65536..], "{}", record.name);
                }
            }
        });
    };
    let cache = open(&counted, &cached, AMPLE);
    read(&cache);
    cache.close().unwrap();
    drop(cache);
    counted.requests();
    counted.set_away(true);
    read(&open(&counted, &cached, AMPLE));
    assert_eq!(counted.requests(), 0);
    // Killed: the same.
    read(&open(&counted, &cached, AMPLE));
    assert_eq!(counted.requests(), 0);
}
