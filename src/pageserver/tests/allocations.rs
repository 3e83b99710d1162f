//! That what a mount does all the time, reading and writing own pages and reading pages that are at hand, asks for no memory.

use super::fixture::Fixture;
use crate::model::{FileId, FileKind, PAGE_SIZE};
use crate::pageserver::{LocalDisk, Volume, VolumeSource};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

/// The system's allocator, counting what each thread asks for.
struct Counting;

thread_local! {
    static ASKED: Cell<u64> = const { Cell::new(0) };
}

#[global_allocator]
static COUNTING: Counting = Counting;

#[expect(unsafe_code, reason = "an allocator is unsafe by its trait")]
// SAFETY: everything is handed on to the system's allocator as it came; the counter is a plain cell without a destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ASKED.with(|asked| asked.set(asked.get() + 1));
        // SAFETY: the caller's promises are the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// How often `work` asks for memory, once it has run before.
fn asked(mut work: impl FnMut()) -> u64 {
    (0..3).for_each(|_| work());
    let before = ASKED.with(Cell::get);
    (0..10).for_each(|_| work());
    ASKED.with(Cell::get) - before
}

#[test]
fn pages_at_hand_are_read_and_written_without_asking_for_memory() {
    let fixture = Fixture::new(&[]);
    let folder = tempfile::tempdir().expect("a folder");
    let source = VolumeSource {
        base: fixture.base.clone(),
        last_base_id: fixture.staged.last_file_id,
        layers: &[],
        tree: None,
        links: &[],
    };
    let disk = Arc::new(LocalDisk::open(folder.path()).expect("a folder"));
    let opened = Volume::open(fixture.cache.clone(), source, disk, "delta");
    let volume = fixture.runtime.block_on(opened).expect("it opens");
    let listing = fixture.runtime.block_on(volume.listing(FileId::ROOT)).expect("it is listed");
    let made = volume.create(FileId::ROOT, "own", &listing, (FileKind::File, 0o600, None)).expect("it is made");
    let own = volume.file(made.id).expect("it is a file");
    let page = [7; PAGE_SIZE];
    let write = |page: &[u8], offset| assert!(volume.write_near(&own, offset, page).expect("it is written"));
    (0..64).for_each(|number| write(&page, number * PAGE_SIZE as u64));

    assert_eq!(asked(|| write(&page, 5 * PAGE_SIZE as u64)), 0, "a whole page");
    assert_eq!(asked(|| write(&page[..PAGE_SIZE / 2], 5 * PAGE_SIZE as u64 + 4096)), 0, "half an own page");
    let several = [7; 4 * PAGE_SIZE];
    assert_eq!(asked(|| write(&several, 9 * PAGE_SIZE as u64)), 0, "several pages");
    let mut out = Vec::with_capacity(1 << 20);
    let mut read = |file: &crate::pageserver::DataFile, offset, length| {
        assert!(volume.read_near(file, offset, length, &mut out).expect("it is read"), "it is at hand");
    };
    assert_eq!(asked(|| read(&own, 0, 32 * PAGE_SIZE)), 0, "own pages");
    assert_eq!(asked(|| drop(volume.file(made.id).expect("it is a file"))), 0, "finding the file");
    assert!(asked(|| drop(vec![0_u8; 10])) > 0, "nothing is counted");

    let id = volume.peek(FileId::ROOT, "PG_VERSION", &listing).expect("it is there");
    let version = volume.lookup(FileId::ROOT, "PG_VERSION", &listing).and_then(|_| volume.file(id)).expect("a file");
    fixture.runtime.block_on(volume.read(&version, 0, PAGE_SIZE)).expect("it is read");
    assert_eq!(asked(|| read(&version, 0, PAGE_SIZE)), 0, "a page of the base");
}
