//! The cache on a store that answers wrongly or not at all, on a disk that is full, and on one whose bytes rot.

use super::counted_store::{CountedStore, Pack, small};
use super::fixture::folder;
use crate::pageserver::PageError;
use crate::pageserver::cache::PageCache;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

const AMPLE: u64 = 1 << 30;

#[tokio::test]
async fn a_wrong_answer_is_asked_for_once_more() {
    let (folder, counted) = (folder(), CountedStore::default());
    let store = counted.store();
    let pack = Pack::put(&store, "v1/pack", 4).await;
    let cache = PageCache::open(store, folder.path(), &small(AMPLE)).unwrap();
    counted.set_bad_answers(1);
    pack.read(&cache, 0).await;
    assert_eq!(counted.requests(), 2);
    // The good answer was kept, not the bad one.
    pack.read(&cache, 1).await;
    assert_eq!(counted.requests(), 0);
}

#[tokio::test]
async fn a_store_that_goes_on_answering_wrongly_is_an_error_that_names_the_object() {
    let (folder, counted) = (folder(), CountedStore::default());
    let store = counted.store();
    let pack = Pack::put(&store, "v1/pack", 4).await;
    let cache = PageCache::open(store, folder.path(), &small(AMPLE)).unwrap();
    counted.set_bad_answers(2);
    let read = cache.frames(&pack.open(&cache), &[pack.wanted(0)]).await;
    assert!(matches!(&read, Err(PageError::Damaged { object, .. }) if object == "v1/pack"), "{read:?}");
    assert_eq!(counted.requests(), 2);
    assert_eq!(cache.figures().disk_bytes, 0, "what did not pass its check was kept");
    pack.read(&cache, 0).await;
}

#[tokio::test]
async fn what_is_cached_is_served_while_the_store_is_away() {
    let (folder, counted) = (folder(), CountedStore::default());
    let store = counted.store();
    let pack = Pack::put(&store, "v1/pack", 8).await;
    let cache = PageCache::open(store, folder.path(), &small(AMPLE)).unwrap();
    pack.read(&cache, 0).await;
    counted.set_away(true);
    pack.read(&cache, 1).await;
    let far = cache.frames(&pack.open(&cache), &[pack.wanted(0), pack.wanted(6)]).await;
    assert!(matches!(&far, Err(PageError::Store(e)) if e.is_retryable()), "{far:?}");
    pack.read(&cache, 1).await;
    counted.set_away(false);
    pack.read(&cache, 6).await;
}

#[tokio::test]
async fn a_byte_that_rots_on_disk_is_fetched_anew() {
    let (folder, counted) = (folder(), CountedStore::default());
    let store = counted.store();
    let pack = Pack::put(&store, "v1/pack", 4).await;
    let cache = PageCache::open(store, folder.path(), &small(AMPLE)).unwrap();
    for number in 0..4 {
        pack.read(&cache, number).await;
    }
    let path = std::fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(b"rot", 4096 + 1000).unwrap();
    counted.requests();
    pack.read(&cache, 0).await;
    assert_eq!((counted.requests(), cache.figures().forgotten), (1, 1));
    pack.read(&cache, 0).await;
    assert_eq!(counted.requests(), 0);
}

/// A file system of a few blocks, as root; it goes with this.
struct Tiny<'a>(&'a Path);

impl<'a> Tiny<'a> {
    fn mount(at: &'a Path, size: &str) -> Tiny<'a> {
        let options = format!("size={size}");
        mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), Some(options.as_str())).unwrap();
        Tiny(at)
    }
}

impl Drop for Tiny<'_> {
    fn drop(&mut self) {
        let _ = umount2(self.0, MntFlags::MNT_DETACH);
    }
}

#[tokio::test]
async fn a_full_disk_is_read_past() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: a full disk needs root for a tmpfs; what cannot be written is tried without");
        return;
    }
    let (folder, counted) = (folder(), CountedStore::default());
    let _tiny = Tiny::mount(folder.path(), "1m");
    let filler = folder.path().join("filler");
    let store = counted.store();
    let pack = Pack::put(&store, "v1/pack", 64).await;
    let pause = Duration::from_millis(300);
    let cache = PageCache::open_with(store, &folder.path().join("cache"), &small(AMPLE), pause).unwrap();
    std::fs::write(&filler, vec![1; 700 << 10]).unwrap();
    for number in 0..64 {
        pack.read(&cache, number).await;
    }
    let full = cache.figures();
    assert!(full.fills <= 2, "{full:?}");
    assert!((1..=3).contains(&full.failed_fills), "it was not left alone: {full:?}");
    // What is there is good, and what was half written is not taken for there.
    for number in 0..64 {
        pack.read(&cache, number).await;
    }
    std::fs::remove_file(&filler).unwrap();
    tokio::time::sleep(pause * 2).await;
    for number in 0..12 {
        pack.read(&cache, number).await;
    }
    let after = cache.figures();
    assert!(after.fills >= full.fills + 4, "it did not go on: {after:?}");
    assert_eq!(after.disk_bytes, after.fills * (128 << 10));
}

#[tokio::test]
async fn a_file_that_cannot_be_written_is_read_past() {
    let (folder, counted) = (folder(), CountedStore::default());
    let store = counted.store();
    let pack = Pack::put(&store, "v1/pack", 8).await;
    let pause = Duration::from_millis(200);
    let cache = PageCache::open_with(store, folder.path(), &small(AMPLE), pause).unwrap();
    pack.read(&cache, 0).await;
    let path = std::fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
    // Another object's file cannot be made: the folder is gone.
    let aside = folder.path().with_extension("aside");
    std::fs::rename(folder.path(), &aside).unwrap();
    let other = Pack::put(cache.store(), "v1/other", 4).await;
    for number in 0..4 {
        other.read(&cache, number).await;
    }
    assert_eq!(cache.figures().failed_fills, 1);
    std::fs::rename(&aside, folder.path()).unwrap();
    assert!(path.exists());
    tokio::time::sleep(pause * 2).await;
    other.read(&cache, 0).await;
    assert_eq!(cache.figures().fills, 2);
}
