//! What every test of the page server starts from: a runtime, a `file://` store, and a small base in it.

use super::counted_store::CountedStore;
use super::model::{Model, Named};
use crate::model::{BaseId, FileId, LayerRef, PAGE_SIZE, ProjectName, WalSegment};
use crate::pageserver::{Base, BaseWriter, PageCache, PageError, StagedBase};
use crate::settings::CacheSettings;
use crate::store::Store;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// Directories and files of the base; parents first.
const DIRECTORIES: [&str; 4] = ["base", "base/5", "global", "pg_wal"];
const FILES: [(&str, usize); 8] = [
    ("PG_VERSION", 5),
    ("empty", 0),
    ("base/5/16384", 200_000),
    ("base/5/16385", 8192),
    ("base/5/16386", 70_000),
    ("global/pg_control", 4096),
    ("global/1260", 65_536),
    ("base/sparse", 150_000),
];

pub struct Fixture {
    pub runtime: Arc<Runtime>,
    pub store: Store,
    pub cache: PageCache,
    pub staged: StagedBase,
    pub base: Arc<Base>,
    /// What the base holds.
    pub content: Arc<Vec<(String, Vec<u8>)>>,
    /// Writes far behind the end of a file stay below this.
    pub largest: u64,
    folder: TempDir,
}

impl Fixture {
    /// A store with a staged base; `more` are further files of it.
    pub fn new(more: &[(&str, usize)]) -> Fixture {
        let folder = folder();
        let store = Store::open(&format!("file://{}", folder.path().join("store").display())).expect("a store opens");
        Fixture::on(store, folder, more)
    }

    /// The same on a store that is not a folder: everything goes through the cache's files.
    pub fn remote(more: &[(&str, usize)]) -> Fixture {
        Fixture::on(CountedStore::default().store(), folder(), more)
    }

    fn on(store: Store, folder: TempDir, more: &[(&str, usize)]) -> Fixture {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = Arc::new(runtime.expect("a runtime starts"));
        let content = content_of(&mut FILES.iter().chain(more));
        let staged = write_base(&store, folder.path(), &runtime, &content);
        let cache = open_cache(&store, folder.path());
        let base = runtime.block_on(staged.open(cache.clone())).expect("the base opens");
        Fixture::of_parts((runtime, store, folder), (cache, Arc::new(base)), staged, Arc::new(content), 600_000)
    }

    /// What one node of several has: the same base, through a cache of its own.
    pub fn of_parts(
        (runtime, store, folder): (Arc<Runtime>, Store, TempDir),
        (cache, base): (PageCache, Arc<Base>),
        staged: StagedBase,
        content: Arc<Vec<(String, Vec<u8>)>>,
        largest: u64,
    ) -> Fixture {
        Fixture { runtime, store, cache, staged, base, content, largest, folder }
    }

    /// Another cache of the same store.
    pub fn open_cache(&self) -> PageCache {
        open_cache(&self.store, self.folder.path())
    }

    /// A new empty folder.
    pub fn place(&self, name: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::create_dir_all(&path).expect("a folder can be made");
        path
    }

    /// The base as a model.
    pub fn model(&self) -> Model {
        let mut model = Model::default();
        let mut names = model.names().clone();
        // The root took the first.
        let mut next = FileId::FIRST.0 + 1;
        for path in DIRECTORIES {
            names.insert(path.to_owned(), Named { id: FileId(next), directory: true, mode: 0o700 });
            next += 1;
        }
        for (path, bytes) in self.content.iter() {
            names.insert(path.clone(), Named { id: FileId(next), directory: false, mode: 0o600 });
            model.start_file(FileId(next), Rc::new(bytes.clone()));
            next += 1;
        }
        model.start_names(names);
        model
    }
}

/// Contents for a base's `files`, always the same.
pub fn content_of(files: &mut dyn Iterator<Item = &(&str, usize)>) -> Vec<(String, Vec<u8>)> {
    let mut random = StdRng::seed_from_u64(7);
    let mut content: Vec<(String, Vec<u8>)> = Vec::new();
    for (path, size) in files {
        let mut bytes = bytes(&mut random, *size);
        if *path == "base/sparse" {
            bytes[size / 2..size / 8 * 7].fill(0);
        }
        content.push(((*path).to_owned(), bytes));
    }
    content
}

/// In memory where there is such a folder: these tests sync all the time, and a kernel that dies is not what they try.
pub fn folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.expect("a folder can be made")
}

fn open_cache(store: &Store, folder: &Path) -> PageCache {
    let cache = PageCache::open(store.clone(), &folder.join("cache"), &CacheSettings::default());
    cache.expect("a cache opens")
}

pub fn write_base(store: &Store, scratch: &Path, runtime: &Runtime, content: &[(String, Vec<u8>)]) -> StagedBase {
    let project: ProjectName = "shop".parse().expect("a name");
    let base = BaseId::from("base1");
    let mut writer =
        BaseWriter::new(store.clone(), &project, &base, scratch, runtime.handle().clone()).expect("a writer opens");
    writer.directory("", 0o700).expect("the root is written");
    for path in DIRECTORIES {
        writer.directory(path, 0o700).expect("a directory is written");
    }
    for (path, bytes) in content {
        writer.file(path, 0o600, &mut bytes.as_slice()).expect("a file is written");
    }
    writer.finish().expect("the base is written")
}

/// Pseudo-random bytes, some of them compressible, none of them zero: zeros in a file are then holes.
pub fn bytes(random: &mut StdRng, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    match random.random_range(0..3) {
        0 => bytes.fill(random.random_range(1..=255)),
        _ => random.fill(&mut bytes[..]),
    }
    bytes.iter_mut().filter(|byte| **byte == 0).for_each(|byte| *byte = 1);
    bytes
}

/// Some pages of WAL.
pub fn wal_pages(random: &mut StdRng) -> Vec<u8> {
    let pages = random.random_range(1..8);
    bytes(random, pages * PAGE_SIZE)
}

/// Puts finished layers into the fixture's store.
pub fn putting(fixture: &Fixture) -> impl FnMut(LayerRef, Vec<u8>) -> Result<(), PageError> {
    let (handle, store) = (fixture.runtime.handle().clone(), fixture.store.clone());
    move |layer, bytes| {
        assert_eq!(layer.bytes, bytes.len() as u64);
        Ok(handle.block_on(store.create(&layer.key, bytes))?)
    }
}

/// A segment of 8 pages in `folder`, what is kept of it, and what must come back.
pub fn wal_segment(random: &mut StdRng, folder: &Path) -> (WalSegment, Vec<u8>) {
    const PAGES: u32 = 8;
    let pages: Vec<u32> = (0..PAGES).filter(|page| *page == 0 || random.random_range(0..3) == 0).collect();
    let content = bytes(random, PAGES as usize * PAGE_SIZE);
    let wal = WalSegment { name: "0000000100000000000000A1".into(), size: content.len() as u64, pages };
    let file = File::create(folder.join(&wal.name)).expect("a segment can be made");
    file.write_all_at(&content, 0).expect("a segment can be written");
    let kept = wal.pages.iter().flat_map(|page| content[*page as usize * PAGE_SIZE..][..PAGE_SIZE].to_vec()).collect();
    (wal, kept)
}
