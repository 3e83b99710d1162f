//! What a volume must hold: names and contents in plain maps, and what a crash may leave of them.
//!
//! The oracle for a crash. Names and modes: the journal replays to a prefix of their history that includes the last commit, so all of
//! them together are one of the states since then. A file's size is one that it had since its last fsync. Each of its bytes is one that
//! stood there at some time since its last fsync, where what lies behind the end counts as zero: a byte that was not written since is
//! exactly what was synced.

use crate::model::FileId;
use crate::pageserver::LINKED_FOLDERS;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

/// A file or directory of the volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    pub id: FileId,
    pub directory: bool,
    pub mode: u32,
}

pub type Names = BTreeMap<String, Named>;

/// Names by path, contents by id, each with its history.
#[derive(Default)]
pub struct Model {
    /// Every state since the last commit, the present one last.
    names: Vec<Rc<Names>>,
    empty: Rc<Names>,
    /// Every content since the last fsync, the present one last.
    files: HashMap<FileId, Vec<Rc<Vec<u8>>>>,
}

impl Model {
    pub fn names(&self) -> &Names {
        self.names.last().unwrap_or(&self.empty)
    }

    pub fn content(&self, id: FileId) -> &Rc<Vec<u8>> {
        self.files[&id].last().unwrap()
    }

    /// As everything is now, without its history.
    pub fn latest(&self) -> Model {
        let files = self.files.iter().map(|(id, versions)| (*id, versions.last().into_iter().cloned().collect()));
        Model { names: vec![Rc::new(self.names().clone())], empty: Rc::default(), files: files.collect() }
    }

    /// These names are durable.
    pub fn start_names(&mut self, names: Names) {
        self.names = vec![Rc::new(names)];
    }

    /// This content is durable.
    pub fn start_file(&mut self, id: FileId, content: Rc<Vec<u8>>) {
        self.files.insert(id, vec![content]);
    }

    pub fn change_names(&mut self, change: impl FnOnce(&mut Names)) {
        let mut names = self.names().clone();
        change(&mut names);
        self.names.push(Rc::new(names));
    }

    /// An image does not have what a branch has links for.
    pub fn drop_linked(&mut self) {
        self.change_names(|names| names.retain(|path, _| !is_linked(path)));
    }

    pub fn change_file(&mut self, id: FileId, change: impl FnOnce(&mut Vec<u8>)) {
        let mut content = self.content(id).as_ref().clone();
        change(&mut content);
        self.files.get_mut(&id).unwrap().push(Rc::new(content));
    }

    /// Every change of names so far is durable.
    pub fn commit_names(&mut self) {
        self.names.drain(..self.names.len() - 1);
    }

    /// A file, and every change of names so far, is durable.
    pub fn commit_file(&mut self, id: FileId) {
        let versions = self.files.get_mut(&id).unwrap();
        versions.drain(..versions.len() - 1);
        self.commit_names();
    }

    /// Complains of `found` that a crash may not leave.
    pub fn check_names_after_crash(&self, found: &Names, seed: u64) {
        let durable = |names: &Names| -> Names {
            names
                .iter()
                .filter(|(path, _)| !is_transient(path))
                .map(|(path, named)| (path.clone(), named.clone()))
                .collect()
        };
        let found = &durable(found);
        let possible = self.names.iter().any(|names| durable(names) == *found);
        assert!(
            possible,
            "seed {seed}: names were never so since the last commit, {} changes ago.\nfound but not committed: {:?}\ncommitted but not found: {:?}",
            self.names.len() - 1,
            without(found, &durable(&self.names[0])),
            without(&durable(&self.names[0]), found),
        );
    }

    /// Complains of `found` that a crash may not leave in a file.
    pub fn check_file_after_crash(&self, (path, id): (&str, FileId), found: &[u8], seed: u64) {
        let versions = &self.files[&id];
        let sizes: Vec<usize> = versions.iter().map(|version| version.len()).collect();
        assert!(
            sizes.contains(&found.len()),
            "seed {seed}: {path} ({id:?}) has {} bytes, since its last fsync it had {sizes:?}",
            found.len()
        );
        const CHUNK: usize = 512;
        for (number, chunk) in found.chunks(CHUNK).enumerate() {
            let start = number * CHUNK;
            if versions.iter().any(|version| version.get(start..start + chunk.len()) == Some(chunk)) {
                continue;
            }
            for (at, byte) in (start..).zip(chunk) {
                let was_there = versions.iter().any(|version| version.get(at).copied().unwrap_or(0) == *byte);
                assert!(
                    was_there,
                    "seed {seed}: byte {at} of {path} ({id:?}, {} bytes) is {byte}, which it never was since the last fsync, {} versions ago",
                    found.len(),
                    versions.len() - 1
                );
            }
        }
    }
}

fn without<'n>(names: &'n Names, others: &Names) -> Vec<(&'n String, &'n Named)> {
    names.iter().filter(|(path, named)| others.get(*path) != Some(named)).collect()
}

/// What a base and an image leave out: a branch has it beside its mount.
pub fn is_linked(path: &str) -> bool {
    LINKED_FOLDERS.contains(&path.split('/').next().unwrap_or(path))
}

/// What a crash or a suspend does not keep.
pub fn is_transient(path: &str) -> bool {
    let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
    let directory = parent.rsplit_once('/').map_or(parent, |(_, name)| name);
    crate::pageserver::transient::is_transient(directory, name)
}

/// Says where two contents part, rather than all of both.
pub fn assert_same(found: &[u8], expected: &[u8], what: std::fmt::Arguments<'_>) {
    assert_eq!(found.len(), expected.len(), "{what}: it has another length");
    if found != expected {
        let at = found.iter().zip(expected).position(|(a, b)| a != b).unwrap();
        panic!("{what}: byte {at} of {} is {}, not {}", found.len(), found[at], expected[at]);
    }
}
