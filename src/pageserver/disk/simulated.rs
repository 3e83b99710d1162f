//! A disk in memory that forgets what it may forget.
//!
//! A power cut keeps of each file what was synced, and of what was written since any choice of [`SECTOR`]s; of names what was synced, and
//! of the later changes any prefix. A file that was synced but whose name was not may be gone. Chosen by seed.
//!
//! [`SimulatedDisk::die_in_sync`] lets the machine die in the middle of what syncs several times. [`SimulatedDisk::plant_journal_first`] is a bug, for
//! those who must find it: the journal reaches the disk before what it speaks of.

use super::{Disk, DiskFile};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a disk writes whole or not at all.
const SECTOR: usize = 512;

/// The disk of one branch on one simulated node. Cheap to clone: clones are the same disk.
#[derive(Clone, Default)]
pub struct SimulatedDisk(Arc<Inner>);

#[derive(Default)]
struct Inner {
    folder: Mutex<Folder>,
    /// Counts deaths: whoever still holds a file of a former life gets errors, and changes nothing.
    generation: AtomicU64,
    /// Syncs fail from now on, as on a disk that breaks.
    broken: AtomicBool,
    /// Syncs that still go through before the process dies; `None`: all.
    syncs_left: Mutex<Option<u32>>,
    /// With the planted bug: the files whose sync waits for the journal's.
    postponed: Mutex<Option<Vec<Arc<Mutex<Content>>>>>,
}

/// The file that the planted bug syncs first.
const JOURNAL: &str = "journal";

type Names = BTreeMap<String, Arc<Mutex<Content>>>;

#[derive(Default)]
struct Folder {
    now: Names,
    durable: Names,
    /// Changes of names since the last sync, in order.
    pending: Vec<(String, Option<Arc<Mutex<Content>>>)>,
}

#[derive(Clone, Default)]
struct Content {
    now: Vec<u8>,
    durable: Vec<u8>,
    /// Sectors written since the last sync.
    dirty: BTreeSet<usize>,
}

/// What one process of a simulated machine has of its disk.
struct Opened {
    disk: Arc<Inner>,
    generation: u64,
}

struct SimulatedFile {
    disk: Arc<Inner>,
    content: Arc<Mutex<Content>>,
    is_journal: bool,
    generation: u64,
}

/// Cuts, or grows with zeros; `Vec::resize` goes byte by byte in a debug build.
fn resize(bytes: &mut Vec<u8>, length: usize) {
    match length.checked_sub(bytes.len()) {
        Some(more) => bytes.append(&mut vec![0; more]),
        None => bytes.truncate(length),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SimulatedDisk {
    /// A process starts on the machine.
    pub fn open(&self) -> Arc<dyn Disk> {
        Arc::new(Opened { disk: self.0.clone(), generation: self.0.generation.load(Ordering::Acquire) })
    }

    /// The process dies: everything stays as it is, but nobody of the old process changes it any more.
    pub fn kill(&self) {
        self.0.generation.fetch_add(1, Ordering::AcqRel);
        *lock(&self.0.syncs_left) = None;
        if let Some(postponed) = lock(&self.0.postponed).as_mut() {
            postponed.clear();
        }
    }

    /// The machine dies, too.
    pub fn cut_power(&self, seed: u64) {
        self.kill();
        let mut random = StdRng::seed_from_u64(seed);
        let mut folder = lock(&self.0.folder);
        let kept = random.random_range(0..=folder.pending.len());
        let mut names = folder.durable.clone();
        for (name, content) in folder.pending.iter().take(kept) {
            match content {
                Some(content) => names.insert(name.clone(), content.clone()),
                None => names.remove(name),
            };
        }
        for content in names.values_mut() {
            let survived = lock(content).after_power_cut(&mut random);
            *content = Arc::new(Mutex::new(survived));
        }
        *folder = Folder { now: names.clone(), durable: names, pending: Vec::new() };
    }

    /// The process dies at the sync after the next `count`, which has no effect.
    pub fn die_in_sync(&self, count: u32) {
        *lock(&self.0.syncs_left) = Some(count);
    }

    /// From now on what is no journal reaches the disk with the journal's next sync, and after it.
    pub fn plant_journal_first(&self) {
        *lock(&self.0.postponed) = Some(Vec::new());
    }

    /// From now on every sync fails, until the disk is mended.
    pub fn set_broken(&self, broken: bool) {
        self.0.broken.store(broken, Ordering::Release);
    }
}

impl Content {
    fn sync(&mut self) {
        self.durable = self.now.clone();
        self.dirty.clear();
    }

    fn after_power_cut(&self, random: &mut StdRng) -> Content {
        // The length is one of the two, or anything between.
        let (short, long) = (self.now.len().min(self.durable.len()), self.now.len().max(self.durable.len()));
        let length = match random.random_range(0..3) {
            0 => self.durable.len(),
            1 => self.now.len(),
            _ => random.random_range(short..=long),
        };
        let mut survived = self.durable.clone();
        resize(&mut survived, length);
        for sector in &self.dirty {
            let range = sector * SECTOR..((sector + 1) * SECTOR).min(length).min(self.now.len());
            if range.start < range.end && random.random() {
                survived[range.clone()].copy_from_slice(&self.now[range]);
            }
        }
        Content { now: survived.clone(), durable: survived, dirty: BTreeSet::new() }
    }
}

impl Inner {
    fn check(&self, generation: u64) -> io::Result<()> {
        match self.generation.load(Ordering::Acquire) == generation {
            true => Ok(()),
            false => Err(io::Error::other("the simulated process was killed")),
        }
    }

    fn check_sync(&self, generation: u64) -> io::Result<()> {
        self.check(generation)?;
        if let Some(left) = lock(&self.syncs_left).as_mut() {
            match left.checked_sub(1) {
                Some(fewer) => *left = fewer,
                None => self.generation.store(generation + 1, Ordering::Release),
            }
        }
        self.check(generation)?;
        match self.broken.load(Ordering::Acquire) {
            true => Err(io::Error::other("the simulated disk is broken")),
            false => Ok(()),
        }
    }
}

impl Disk for Opened {
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.check(self.generation)?;
        let mut folder = lock(&self.disk.folder);
        let content = match folder.now.get(name) {
            Some(content) => content.clone(),
            None => {
                let content = Arc::new(Mutex::new(Content::default()));
                folder.now.insert(name.to_owned(), content.clone());
                folder.pending.push((name.to_owned(), Some(content.clone())));
                content
            }
        };
        let is_journal = name == JOURNAL;
        Ok(Arc::new(SimulatedFile { disk: self.disk.clone(), content, is_journal, generation: self.generation }))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.check(self.generation)?;
        let mut folder = lock(&self.disk.folder);
        if folder.now.remove(name).is_some() {
            folder.pending.push((name.to_owned(), None));
        }
        Ok(())
    }

    fn names(&self) -> io::Result<Vec<String>> {
        self.disk.check(self.generation)?;
        Ok(lock(&self.disk.folder).now.keys().cloned().collect())
    }

    fn sync_names(&self) -> io::Result<()> {
        self.disk.check_sync(self.generation)?;
        let mut folder = lock(&self.disk.folder);
        folder.durable = folder.now.clone();
        folder.pending.clear();
        Ok(())
    }

    fn folder(&self) -> &Path {
        Path::new("/simulated")
    }
}

impl DiskFile for SimulatedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.disk.check(self.generation)?;
        let content = lock(&self.content);
        let from = content.now.len().min(offset as usize);
        let length = buffer.len().min(content.now.len() - from);
        buffer[..length].copy_from_slice(&content.now[from..from + length]);
        Ok(length)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.disk.check(self.generation)?;
        if bytes.is_empty() {
            return Ok(());
        }
        let mut content = lock(&self.content);
        let (from, to) = (offset as usize, offset as usize + bytes.len());
        if content.now.len() < to {
            resize(&mut content.now, to);
        }
        content.now[from..to].copy_from_slice(bytes);
        content.dirty.extend(from / SECTOR..=(to - 1) / SECTOR);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        self.disk.check(self.generation)?;
        Ok(lock(&self.content).now.len() as u64)
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.disk.check(self.generation)?;
        let mut content = lock(&self.content);
        let (old, new) = (content.now.len(), bytes as usize);
        resize(&mut content.now, new);
        if new < old {
            // What was cut off and grown over again is zeros on disk, whatever was durable there.
            content.dirty.extend(new / SECTOR..=old / SECTOR);
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        if !self.is_journal
            && let Some(postponed) = lock(&self.disk.postponed).as_mut()
        {
            postponed.push(self.content.clone());
            return self.disk.check(self.generation);
        }
        self.disk.check_sync(self.generation)?;
        lock(&self.content).sync();
        let postponed = lock(&self.disk.postponed).as_mut().map(std::mem::take).unwrap_or_default();
        for content in postponed {
            self.disk.check_sync(self.generation)?;
            lock(&content).sync();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_synced_survives_and_the_rest_may_not() {
        let mut lost = 0;
        for seed in 0..50 {
            let machine = SimulatedDisk::default();
            let disk = machine.open();
            let file = disk.open("a").expect("opens");
            file.write_all_at(&[1; 4096], 0).expect("writes");
            file.sync().expect("syncs");
            disk.sync_names().expect("syncs");
            file.write_all_at(&[2; 4096], 4096).expect("writes");
            disk.open("b").expect("opens");
            machine.cut_power(seed);
            assert!(file.sync().is_err(), "a file of a machine that is off was synced");
            let file = machine.open().open("a").expect("opens");
            let mut read = vec![0; 8192];
            let length = file.read_at(&mut read, 0).expect("reads");
            assert!(length >= 4096 && read[..4096] == [1; 4096], "seed {seed}");
            lost += u32::from(length < 8192 || read[4096..] != [2; 4096]);
        }
        assert!(lost > 30, "hardly anything is ever lost: {lost}");
    }
}
