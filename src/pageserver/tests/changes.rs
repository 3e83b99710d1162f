//! Random changes of a volume, each made in the model too, and reads compared with it.

use super::fixture::{Fixture, bytes};
use super::model::{Model, Named, Names, assert_same, is_transient};
use crate::model::{FileId, FileKind, Image, LayerRef, PAGE_SIZE, TreeDiff};
use crate::pageserver::disk::simulated::SimulatedDisk;
use crate::pageserver::{Listing, NameProblem, PageError, Volume, VolumeSource};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::HashMap;
use std::sync::Arc;

/// Long enough that the journal spills after some thousand renames.
const LONG_NAME: usize = 250;

/// One volume's life under one seed.
pub struct Run<'f> {
    pub fixture: &'f Fixture,
    pub seed: u64,
    pub random: StdRng,
    pub model: Model,
    pub image: Option<Image>,
    /// Whether a suspend may make one.
    pub makes_images: bool,
    pub layers: Vec<LayerRef>,
    pub tree: Option<TreeDiff>,
    pub delta: SimulatedDisk,
    pub delta_number: u64,
    pub uploads: u64,
    volume: Option<Arc<Volume>>,
    /// References that the kernel has beyond the name.
    held: HashMap<FileId, u64>,
    /// Files without a name that the kernel still refers to.
    orphans: Vec<FileId>,
}

impl<'f> Run<'f> {
    pub fn new(fixture: &'f Fixture, seed: u64) -> Run<'f> {
        let mut run = Run::unopened(fixture, seed);
        run.open();
        run
    }

    /// One whose volume is not open yet.
    pub fn unopened(fixture: &'f Fixture, seed: u64) -> Run<'f> {
        Run {
            fixture,
            seed,
            random: StdRng::seed_from_u64(seed),
            model: fixture.model(),
            image: None,
            makes_images: true,
            layers: Vec::new(),
            tree: None,
            delta: SimulatedDisk::default(),
            delta_number: 0,
            uploads: 0,
            volume: None,
            held: HashMap::new(),
            orphans: Vec::new(),
        }
    }

    pub fn volume(&self) -> &Arc<Volume> {
        self.volume.as_ref().unwrap()
    }

    /// The volume is gone, and with it whatever was not synced.
    pub fn close(&mut self) {
        self.volume = None;
    }

    /// Goes on with a volume that was opened elsewhere.
    pub fn replace_volume(&mut self, volume: Volume) {
        self.volume = Some(Arc::new(volume));
    }

    /// Writes a file of the root's `directory`, making both if need be.
    pub fn put_file(&mut self, directory: &str, name: &str, content: &[u8]) {
        let path = format!("{directory}/{name}");
        if self.model.names().get(directory).is_some_and(|named| !named.directory) {
            self.remove_file(directory);
        }
        if !self.model.names().contains_key(directory) {
            self.create_as(directory, FileKind::Directory).expect("a directory can be made");
        }
        let id = self.create_as(&path, FileKind::File).expect("a file can be made");
        let file = self.volume().file(id).expect("it is a file");
        let written = self.fixture.runtime.block_on(self.volume().write(&file, 0, content));
        written.expect("a file can be written");
        self.model.start_file(id, content.to_vec().into());
    }

    /// Opens what layers, tree and delta say; whatever the kernel referred to is gone.
    pub fn open(&mut self) {
        let (base, last_base_id) = self.beneath(&self.fixture.cache);
        let source = VolumeSource { base, last_base_id, layers: &self.layers, tree: self.tree.as_ref(), links: &[] };
        let name = format!("delta {}", self.delta_number);
        let opening = Volume::open(self.fixture.cache.clone(), source, self.delta.open(), &name);
        let opened = self.fixture.runtime.block_on(opening);
        let volume = opened.unwrap_or_else(|e| panic!("seed {}: it does not open: {e}", self.seed));
        self.volume = Some(Arc::new(volume));
        self.held.clear();
        self.orphans.clear();
    }

    /// The mount is gone.
    pub fn forget_all(&mut self) {
        self.volume().forget_all();
        self.held.clear();
        self.orphans.clear();
    }

    /// Says what is done, where one seed is run alone.
    pub fn tell(&self, what: std::fmt::Arguments<'_>) {
        if std::env::var_os("OFFSHOOT_SEED").is_some() {
            eprintln!("{what}");
        }
    }

    fn listing(&self, directory: FileId) -> Listing {
        self.fixture.runtime.block_on(self.volume().listing(directory)).expect("a listing can be read")
    }

    /// The directory's id, found by walking to it as the kernel does.
    fn id_of(&self, directory: &str) -> FileId {
        let mut id = FileId::ROOT;
        for name in directory.split('/').filter(|name| !name.is_empty()) {
            id = self.volume().peek(id, name, &self.listing(id)).expect("a directory of the model is found");
        }
        id
    }

    fn place<'p>(&self, path: &'p str) -> (FileId, &'p str, Listing) {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let id = self.id_of(parent);
        (id, name, self.listing(id))
    }

    /// One random operation.
    pub fn step(&mut self) {
        match self.random.random_range(0..100) {
            0..8 => self.create(),
            8..11 => self.make_directory(),
            11..41 => self.write(),
            41..52 => self.cut_or_grow(),
            52..68 => self.read(),
            68..75 => self.rename(),
            75..80 => self.unlink(),
            80..83 => self.remove_directory(),
            83..86 => self.set_mode(),
            86..94 => self.sync(),
            94..97 => self.sync_names(),
            97..99 => self.forget(),
            _ if self.random.random_range(0..20) == 0 => self.spill(),
            _ => self.read(),
        }
    }

    fn some<T: Clone>(&mut self, of: &[T]) -> Option<T> {
        (!of.is_empty()).then(|| of[self.random.random_range(0..of.len())].clone())
    }

    fn paths(&self, wanted: impl Fn(&Named) -> bool) -> Vec<String> {
        self.model.names().iter().filter(|(_, named)| wanted(named)).map(|(path, _)| path.clone()).collect()
    }

    fn some_directory(&mut self) -> String {
        let mut directories = self.paths(|named| named.directory);
        directories.push(String::new());
        self.some(&directories).unwrap()
    }

    /// A path that may or may not be there.
    fn some_path(&mut self) -> String {
        let directory = self.some_directory();
        let name = match self.random.random_range(0..12) {
            0 => "pg_internal.init".to_owned(),
            1 => format!("pgsql_tmp{}", self.random.random_range(0..2)),
            2 => "PG_VERSION".to_owned(),
            n if n < 6 => format!("1638{}", n + 1),
            _ => format!("f{}", self.random.random_range(0..5)),
        };
        if directory.is_empty() { name } else { format!("{directory}/{name}") }
    }

    /// A file that has a name, or now and then one that had.
    pub fn some_file(&mut self) -> Option<(String, FileId)> {
        if self.random.random_range(0..8) == 0
            && let Some(id) = self.some(&self.orphans.clone())
        {
            return Some(("(unlinked)".to_owned(), id));
        }
        let path = self.some(&self.paths(|named| !named.directory))?;
        let (parent, name, listing) = self.place(&path);
        let id = self.model.names()[&path].id;
        if self.random.random_range(0..6) == 0 {
            let attributes = self.volume().lookup(parent, name, &listing).expect("a file is found");
            assert_eq!(attributes.id, id, "seed {}: {path}", self.seed);
            *self.held.entry(id).or_default() += 1;
        } else {
            let found = self.volume().peek(parent, name, &listing).expect("a file is found");
            assert_eq!(found, id, "seed {}: {path}", self.seed);
        }
        Some((path, id))
    }

    fn create_as(&mut self, path: &str, kind: FileKind) -> Result<FileId, PageError> {
        let mode = self.random.random_range(0..0o1000);
        let (parent, name, listing) = self.place(path);
        let id = self.volume().create(parent, name, &listing, (kind, mode, None))?.id;
        let directory = kind == FileKind::Directory;
        self.model.change_names(|names| {
            names.insert(path.to_owned(), Named { id, directory, mode });
        });
        if self.random.random() && !directory {
            self.held.insert(id, 1);
        } else {
            self.volume().forget(id, 1);
        }
        Ok(id)
    }

    fn create(&mut self) {
        let path = self.some_path();
        self.tell(format_args!("create {path}"));
        let exists = self.model.names().contains_key(&path);
        match self.create_as(&path, FileKind::File) {
            Ok(id) if !exists => self.model.start_file(id, Vec::new().into()),
            Err(PageError::Name(NameProblem::Exists)) if exists => {}
            other => panic!("seed {}: creating {path}, which is there: {exists}: {other:?}", self.seed),
        }
    }

    fn make_directory(&mut self) {
        let directory = self.some_directory();
        let name = format!("d{}", self.random.random_range(0..3));
        let path = if directory.is_empty() { name } else { format!("{directory}/{name}") };
        if path.matches('/').count() > 3 || self.model.names().contains_key(&path) {
            return;
        }
        self.tell(format_args!("mkdir {path}"));
        self.create_as(&path, FileKind::Directory).expect("a directory can be made");
    }

    /// An offset that is now and then on a page's or the kernel's own border, or far behind the end.
    fn some_offset(&mut self, size: u64) -> u64 {
        let reach = match self.random.random_range(0..10) {
            0 => self.fixture.largest,
            1..4 => size + self.fixture.largest / 20,
            _ => size + 1,
        };
        let offset = self.random.random_range(0..reach);
        match self.random.random_range(0..3) {
            0 => offset / PAGE_SIZE as u64 * PAGE_SIZE as u64,
            1 => offset / 4096 * 4096,
            _ => offset,
        }
    }

    fn write(&mut self) {
        let Some((path, id)) = self.some_file() else { return };
        let offset = self.some_offset(self.model.content(id).len() as u64);
        let length = match self.random.random_range(0..5) {
            0 => PAGE_SIZE,
            1 => 4096,
            2 => self.random.random_range(1..100),
            3 => self.random.random_range(0..5) * PAGE_SIZE,
            _ => self.random.random_range(0..self.fixture.largest as usize / 15),
        };
        let mut data = bytes(&mut self.random, length);
        if self.random.random_range(0..12) == 0 {
            data.fill(0);
        }
        self.tell(format_args!("write {path} {id:?} {offset}+{length}"));
        let file = self.volume().file(id).expect("it is a file");
        let written = self.fixture.runtime.block_on(self.volume().write(&file, offset, &data));
        written.unwrap_or_else(|e| panic!("seed {}: writing {path}: {e}", self.seed));
        self.model.change_file(id, |content| {
            let end = offset as usize + data.len();
            if !data.is_empty() {
                content.resize(content.len().max(end), 0);
                content[offset as usize..end].copy_from_slice(&data);
            }
        });
    }

    fn cut_or_grow(&mut self) {
        let Some((path, id)) = self.some_file() else { return };
        let size = self.model.content(id).len() as u64;
        let size = if self.random.random_range(0..6) == 0 { 0 } else { self.some_offset(size) };
        self.tell(format_args!("truncate {path} {id:?} to {size}"));
        let file = self.volume().file(id).expect("it is a file");
        self.volume().set_size(&file, size).expect("a size can be set");
        self.model.change_file(id, |content| content.resize(size as usize, 0));
    }

    fn read(&mut self) {
        let Some((path, id)) = self.some_file() else { return };
        let content = self.model.content(id).clone();
        let offset = self.some_offset(content.len() as u64);
        let length = self.random.random_range(0..50_000);
        let file = self.volume().file(id).expect("it is a file");
        let found = self.fixture.runtime.block_on(self.volume().read(&file, offset, length)).expect("it can be read");
        let from = content.len().min(offset as usize);
        let to = content.len().min(from + length);
        assert_same(&found, &content[from..to], format_args!("seed {}: {path} {id:?} from byte {offset}", self.seed));
    }

    /// A name is gone: its file lives on where the kernel refers to it.
    fn unnamed(&mut self, id: FileId) {
        if self.held.contains_key(&id) {
            self.orphans.push(id);
        }
    }

    fn rename(&mut self) {
        let paths = self.paths(|_| true);
        let Some(from) = self.some(&paths) else { return };
        let to = self.some_path();
        let moved = self.model.names()[&from].clone();
        let below = |path: &str| path.starts_with(&format!("{from}/"));
        let becomes_durable = is_transient(&from) && !is_transient(&to);
        // Postgres has no reason to: the journal knows neither what becomes transient nor a base's transient file that becomes durable.
        let unknown = (is_transient(&to) && (moved.directory || !is_transient(&from)))
            || (becomes_durable && moved.id.0 <= self.fixture.staged.last_file_id);
        if unknown || (moved.directory && below(&to)) {
            return;
        }
        let replaced = self.model.names().get(&to).cloned();
        if moved.directory && replaced.is_some() {
            return;
        }
        self.tell(format_args!("rename {from} {:?} to {to} {replaced:?}", moved.id));
        let ((parent, name, listing), (new_parent, new_name, new_listing)) = (self.place(&from), self.place(&to));
        self.volume().peek(parent, name, &listing).expect("it is found");
        let renamed = self.volume().rename((parent, name, &listing), (new_parent, new_name, &new_listing), None);
        match (renamed, &replaced) {
            (Err(PageError::Name(NameProblem::IsDirectory)), Some(replaced)) if replaced.directory => return,
            (renamed, _) => renamed.unwrap_or_else(|e| panic!("seed {}: {from} to {to}: {e}", self.seed)),
        }
        if from == to {
            return;
        }
        self.model.change_names(|names| {
            let moving: Vec<String> = names.keys().filter(|path| **path == from || below(path)).cloned().collect();
            for path in moving {
                let named = names.remove(&path).unwrap();
                names.insert(format!("{to}{}", &path[from.len()..]), named);
            }
        });
        if let Some(replaced) = replaced {
            self.unnamed(replaced.id);
        }
    }

    fn unlink(&mut self) {
        let Some((path, id)) = self.some_file() else { return };
        if path == "(unlinked)" {
            return;
        }
        self.tell(format_args!("unlink {path} {id:?}"));
        self.remove_file(&path);
    }

    fn remove_file(&mut self, path: &str) {
        let id = self.model.names()[path].id;
        let (parent, name, listing) = self.place(path);
        self.volume().remove(parent, name, &listing, None).expect("a file can be removed");
        self.model.change_names(|names| {
            names.remove(path);
        });
        self.unnamed(id);
    }

    fn remove_directory(&mut self) {
        let path = self.some_directory();
        if path.is_empty() {
            return;
        }
        self.tell(format_args!("rmdir {path}"));
        let empty = !self.model.names().keys().any(|other| other.starts_with(&format!("{path}/")));
        let (parent, name, listing) = self.place(&path);
        let own = self.listing(self.id_of(&path));
        match self.volume().remove(parent, name, &listing, Some(&own)) {
            Ok(()) if empty => self.model.change_names(|names| {
                names.remove(&path);
            }),
            Err(PageError::Name(NameProblem::NotEmpty)) if !empty => {}
            other => panic!("seed {}: rmdir {path}, which is empty: {empty}: {other:?}", self.seed),
        }
    }

    fn set_mode(&mut self) {
        let Some(path) = self.some(&self.paths(|_| true)) else { return };
        let mode = self.random.random_range(0..0o1000);
        let id = self.model.names()[&path].id;
        self.tell(format_args!("chmod {path} {id:?} {mode:o}"));
        let (parent, name, listing) = self.place(&path);
        self.volume().peek(parent, name, &listing).expect("it is found");
        self.volume().set_mode(id, mode).expect("a mode can be set");
        self.model.change_names(|names| names.get_mut(&path).unwrap().mode = mode);
    }

    fn sync(&mut self) {
        let Some((path, id)) = self.some_file() else { return };
        self.tell(format_args!("fsync {path} {id:?}"));
        let file = self.volume().file(id).expect("it is a file");
        self.volume().sync(&file).expect("a file can be synced");
        if !file.is_transient() {
            self.model.commit_file(id);
        }
    }

    fn sync_names(&mut self) {
        self.tell(format_args!("sync names"));
        self.volume().sync_names().expect("names can be synced");
        self.model.commit_names();
    }

    /// The kernel drops its references to a file.
    fn forget(&mut self) {
        let ids: Vec<FileId> = self.orphans.clone();
        let Some(id) = self.some(&ids) else { return };
        self.tell(format_args!("forget {id:?}"));
        let count = self.held.remove(&id).unwrap();
        self.volume().forget(id, count);
        assert!(self.volume().file(id).is_err(), "seed {}: {id:?} was forgotten and is there", self.seed);
        self.orphans.retain(|orphan| *orphan != id);
    }

    /// So many changes of names that the journal writes some of them before anyone asks.
    fn spill(&mut self) {
        let Some(path) = self.some(&self.paths(|named| !named.directory)) else { return };
        let long = "n".repeat(LONG_NAME);
        if is_transient(&path) || self.model.names().contains_key(&long) {
            return;
        }
        self.tell(format_args!("rename {path} many times"));
        let (parent, name, listing) = self.place(&path);
        let root = self.listing(FileId::ROOT);
        let (here, there) = ((parent, name, &listing), (FileId::ROOT, long.as_str(), &root));
        for _ in 0..1900 {
            self.volume().rename(here, there, None).expect("it can be renamed");
            self.volume().rename(there, here, None).expect("it can be renamed back");
        }
        let back = self.model.names().clone();
        self.model.change_names(|names| {
            let named = names.remove(&path).unwrap();
            names.insert(long, named);
        });
        self.model.change_names(|names| *names = back);
    }

    /// Every name of the volume, as it is.
    pub fn found_names(&self) -> Names {
        let mut names = Names::new();
        let mut directories = vec![(String::new(), FileId::ROOT)];
        while let Some((path, directory)) = directories.pop() {
            let listing = self.listing(directory);
            for (id, kind, name) in self.volume().entries(directory, &listing).expect("a directory can be listed") {
                assert_eq!(self.volume().peek(directory, &name, &listing).expect("a listed name is found"), id);
                let mode = self.volume().attributes(id).expect("a listed name has attributes").mode;
                let path = if path.is_empty() { name } else { format!("{path}/{name}") };
                names.insert(path.clone(), Named { id, directory: kind == FileKind::Directory, mode });
                if kind == FileKind::Directory {
                    directories.push((path, id));
                }
            }
        }
        names
    }

    /// All of a file.
    pub fn found_content(&self, id: FileId) -> Vec<u8> {
        let file = self.volume().file(id).expect("it is a file");
        let size = file.size() as usize;
        let content = self.fixture.runtime.block_on(self.volume().read(&file, 0, size + 1)).expect("it can be read");
        assert_eq!(content.len(), size, "seed {}: {id:?} has another size than it says", self.seed);
        content
    }
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("this was seed {0}: OFFSHOOT_SEED={0} runs it alone", self.seed);
        }
    }
}
