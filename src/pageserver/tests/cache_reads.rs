//! The cache under many readers: one request however many ask, and never more disk than the budget.

use super::counted_store::{CountedStore, Pack, small};
use super::fixture::folder;
use crate::pageserver::cache::{EXTENT, PageCache};
use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// More than any test here reads.
const AMPLE: u64 = 1 << 30;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_hundred_readers_of_a_cold_extent_make_one_request() {
    let (folder, counted) = (folder(), CountedStore::default());
    let store = counted.store();
    let pack = Arc::new(Pack::put(&store, "v1/pack", 2).await);
    let cache = PageCache::open(store, folder.path(), &small(AMPLE)).unwrap();
    counted.set_delay(Duration::from_millis(30));
    let readers: Vec<_> = (0..200)
        .map(|reader| {
            let (cache, pack) = (cache.clone(), pack.clone());
            tokio::spawn(async move { pack.read(&cache, reader % 2).await })
        })
        .collect();
    for reader in readers {
        reader.await.unwrap();
    }
    assert_eq!(counted.requests(), 1);
    assert_eq!(cache.figures().requests, 1);
    assert_eq!(cache.figures().fills, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_goes_away_leaves_its_request_to_the_others() {
    let (folder, counted) = (folder(), CountedStore::default());
    let store = counted.store();
    let pack = Arc::new(Pack::put(&store, "v1/pack", 6).await);
    let cache = PageCache::open(store, folder.path(), &small(AMPLE)).unwrap();
    counted.set_delay(Duration::from_millis(100));
    let read = |number| {
        let (cache, pack) = (cache.clone(), pack.clone());
        tokio::spawn(async move { pack.read(&cache, number).await })
    };
    // The first goes, the second stays.
    let (first, second) = (read(0), read(1));
    tokio::time::sleep(Duration::from_millis(30)).await;
    first.abort();
    second.await.unwrap();
    assert_eq!(counted.requests(), 1);
    // All go, and with them the request; who comes later makes his own.
    let (first, second) = (read(2), read(3));
    tokio::time::sleep(Duration::from_millis(30)).await;
    first.abort();
    second.abort();
    let _ = (first.await, second.await);
    tokio::time::timeout(Duration::from_secs(5), pack.read(&cache, 2)).await.expect("nobody holds its turn");
    assert_eq!(counted.requests(), 2);
    // It was kept.
    pack.read(&cache, 3).await;
    assert_eq!(counted.requests(), 0);
}

#[tokio::test]
async fn frames_that_lie_together_come_in_one_request() {
    let (folder, counted) = (folder(), CountedStore::default());
    let store = counted.store();
    let pack = Pack::put(&store, "v1/pack", 40).await;
    let cache = PageCache::open(store, folder.path(), &small(AMPLE)).unwrap();
    let object = pack.open(&cache);
    let wanted: Vec<_> = (0..16).map(|number| pack.wanted(number)).collect();
    let read = cache.frames(&object, &wanted).await.unwrap();
    assert!(read == pack.contents[..16]);
    assert_eq!(counted.requests(), 1, "1 MiB is one request");
    // 16 is in extent 8, 20 and 22 in 10 and 11; 0 is there.
    let wanted = [pack.wanted(22), pack.wanted(0), pack.wanted(16), pack.wanted(20)];
    let read = cache.frames(&object, &wanted).await.unwrap();
    assert!([22, 0, 16, 20].iter().zip(&read).all(|(number, content)| *content == pack.contents[*number]));
    assert_eq!(counted.requests(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_disk_never_holds_more_than_the_budget() {
    const BUDGET: u64 = 4 << 20;
    const READERS: u64 = 8;
    let (folder, counted) = (folder(), CountedStore::default());
    let store = counted.store();
    let mut packs = Vec::new();
    for number in 0..6 {
        packs.push(Pack::put(&store, &format!("v1/pack/{number}"), 64).await);
    }
    let packs = Arc::new(packs);
    let cache = PageCache::open(store, folder.path(), &small(BUDGET)).unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let (watched, watch) = (folder.path().to_owned(), done.clone());
    let measured = tokio::task::spawn_blocking(move || {
        let mut most = 0;
        while !watch.load(Ordering::Relaxed) {
            most = most.max(blocks_below(&watched));
        }
        most
    });
    let readers: Vec<_> = (0..READERS)
        .map(|seed| {
            let (cache, packs) = (cache.clone(), packs.clone());
            tokio::spawn(async move {
                let mut random = StdRng::seed_from_u64(seed);
                for _ in 0..600 {
                    let pack = &packs[random.random_range(0..packs.len())];
                    pack.read(&cache, random.random_range(0..64)).await;
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    for reader in readers {
        reader.await.unwrap();
    }
    done.store(true, Ordering::Relaxed);
    let most = measured.await.unwrap();
    let figures = cache.figures();
    let in_flight = READERS * EXTENT;
    assert!(most <= BUDGET + in_flight, "{most} bytes on disk, {figures:?}");
    assert!(most > BUDGET / 2, "{most} bytes on disk are no test");
    assert!(figures.evictions > 500 && figures.disk_hits > 0, "{figures:?}");
    assert!(figures.disk_bytes <= BUDGET, "{figures:?}");
    assert!(blocks_below(folder.path()) <= BUDGET);
    println!("budget {BUDGET}, at most {most} bytes on disk; {figures:?}");
}

/// So small a budget that extents go while they are being read: readers find zeros where they saw a bit, and notice.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_punched_out_under_a_reader_is_never_read() {
    const BUDGET: u64 = 5 * (EXTENT + 4096);
    let (folder, counted) = (folder(), CountedStore::default());
    let store = counted.store();
    let packs = Arc::new([Pack::put(&store, "v1/pack/1", 8).await, Pack::put(&store, "v1/pack/2", 8).await]);
    let cache = PageCache::open(store, folder.path(), &small(BUDGET)).unwrap();
    let readers: Vec<_> = (0..8)
        .map(|seed| {
            let (cache, packs) = (cache.clone(), packs.clone());
            tokio::spawn(async move {
                let mut random = StdRng::seed_from_u64(seed);
                // Held, so that the file stays while its extents go.
                let _open = packs.each_ref().map(|pack| pack.open(&cache));
                for _ in 0..1500 {
                    packs[random.random_range(0..2)].read(&cache, random.random_range(0..8)).await;
                }
            })
        })
        .collect();
    for reader in readers {
        reader.await.unwrap();
    }
    let figures = cache.figures();
    println!("{figures:?}");
    assert!(figures.disk_hits > 1000 && figures.evictions > 1000, "{figures:?}");
    assert!(blocks_below(folder.path()) <= BUDGET);
}

#[tokio::test]
async fn a_scan_does_not_wash_out_what_is_read_again_and_again() {
    let (folder, counted) = (folder(), CountedStore::default());
    let store = counted.store();
    let (hot, scanned) = (Pack::put(&store, "v1/hot", 32).await, Pack::put(&store, "v1/scanned", 320).await);
    // 16 of its 30 or so extents are hot.
    let cache = PageCache::open(store, folder.path(), &small(4 << 20)).unwrap();
    for _ in 0..4 {
        for number in 0..32 {
            hot.read(&cache, number).await;
        }
    }
    for number in 0..320 {
        scanned.read(&cache, number).await;
    }
    counted.requests();
    for number in 0..32 {
        hot.read(&cache, number).await;
    }
    let requests = counted.requests();
    assert!(requests <= 4, "{requests} of 16 hot extents went for a scan");
}

#[tokio::test]
async fn files_are_pooled_and_gone_objects_leave_none() {
    let (folder, counted) = (folder(), CountedStore::default());
    let store = counted.store();
    let cache = PageCache::open(store.clone(), folder.path(), &small(AMPLE)).unwrap();
    let mut packs = Vec::new();
    for number in 0..700 {
        let pack = Pack::put(&store, &format!("v1/pack/{number}"), 1).await;
        pack.read(&cache, 0).await;
        packs.push(pack);
    }
    assert_eq!(counted.requests(), 700);
    let open = || {
        let links = std::fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| entry.ok()?.path().read_link().ok());
        links.filter(|target| target.starts_with(folder.path())).count()
    };
    assert!((200..=520).contains(&open()), "{} files are open", open());
    // Nobody has them open as objects any more; all are still cached.
    for pack in &packs {
        pack.read(&cache, 0).await;
    }
    assert_eq!(counted.requests(), 0);
    // One that is opened and never read leaves nothing.
    drop(cache.object("v1/unread", 12345));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 700);
}

#[tokio::test]
async fn seeded_bytes_spare_the_request_and_are_checked() {
    let (folder, counted) = (folder(), CountedStore::default());
    let store = counted.store();
    let pack = Pack::put(&store, "v1/pack", 8).await;
    let whole = store.get("v1/pack").await.unwrap().unwrap().bytes;
    let cache = PageCache::open(store, folder.path(), &small(AMPLE)).unwrap();
    let object = pack.open(&cache);
    let stored = |number: usize| {
        let range = pack.frames[number].range();
        (range.start, whole.slice(range.start as usize..range.end as usize))
    };
    counted.requests();
    for number in [0, 5] {
        let (offset, bytes) = stored(number);
        cache.seed(&object, offset, bytes);
        pack.read(&cache, number as u32).await;
    }
    assert_eq!(counted.requests(), 0);
    let (offset, bytes) = stored(7);
    cache.seed(&object, offset, Bytes::from(vec![7; bytes.len()]));
    pack.read(&cache, 7).await;
    assert_eq!(counted.requests(), 1, "what is not what it should be is fetched");
}

/// Bytes that the files below `folder` take on disk, as the file system counts them.
pub fn blocks_below(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).unwrap().flatten();
    entries.filter_map(|entry| Some(entry.metadata().ok()?.blocks() * 512)).sum()
}
