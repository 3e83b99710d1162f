//! One simulated node: places on its disks, branches that are up, and the flows of `provision`, `suspend`, `save` and `task` without a
//! compute: what these flows put, note and clear, and in which order, is production's; holding and publishing is production's own `Hold`.
//!
//! A place survives the process; its disk obeys `SimulatedDisk`. What a place's volume may be after a crash is told by the
//! `Run` that wrote it, which stays with the place as its remains.

use super::heads::{branch_of, new_head};
use super::oracle::{Oracle, Upload};
use super::planted::Planted;
use super::uploads::Uploading;
use super::world::block_on;
use crate::branch::hold::{Hold, HoldError, Settled};
use crate::model::{BranchHead, BranchId, BranchManifest, BranchRef, Clock, Entropy, NodeId, PAGE_SIZE};
use crate::pageserver::SimulatedDisk;
use crate::pageserver::tests::changes::Run;
use crate::pageserver::tests::fixture::Fixture;
use crate::pageserver::tests::model::assert_same;
use crate::store::simulated::{Faults, SimulatedStore};
use crate::store::{Catalog, Created, Held, Lookup, Store, StoreError};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::Duration;

pub(super) const LEASE: Duration = Duration::from_secs(60);

/// What a node's flows draw from and answer to.
pub(super) struct Around {
    pub seed: u64,
    pub random: StdRng,
    pub oracle: Oracle,
    /// One line for each thing that happened: the same for the same seed.
    pub trace: Vec<String>,
}

impl Around {
    pub(super) fn tell(&mut self, what: String) {
        if std::env::var_os("OFFSHOOT_SEED").is_some() {
            eprintln!("{what}");
        }
        self.trace.push(what);
    }

    pub(super) fn chance(&mut self, percent: u32) -> bool {
        self.random.random_range(0..100) < percent
    }
}

/// Why a flow ended early. None of these is wrong.
#[derive(Debug)]
pub(super) enum Trouble {
    Died,
    Elsewhere,
    LocalDataLost,
    Store,
    Lost,
}

/// `Note` of `branch::place`.
#[derive(Clone)]
struct Note {
    branch: BranchRef,
    epoch: u64,
    started: bool,
}

/// A branch's folder, which is there whether the process is or not.
struct Place<'f> {
    disk: SimulatedDisk,
    note: Note,
    remains: Option<Remains<'f>>,
}

/// What wrote the place's delta until the process died.
struct Remains<'f> {
    run: Run<'f>,
    power_cut: bool,
    changes: u64,
}

/// A branch that is up, or down with its volume open.
pub(super) struct Live<'f> {
    pub run: Run<'f>,
    pub held: Held,
    pub upload: Option<Uploading>,
    /// Its compute is stopped: nothing writes.
    pub stopped: bool,
    /// A suspend's last put failed, and may have landed.
    pub in_doubt: bool,
    /// Counts what was written in this epoch.
    pub changes: u64,
}

pub(super) struct Node<'f> {
    pub fixture: &'f Fixture,
    /// Its network: one way for heads, manifests and uploads, one for pages.
    pub door: SimulatedStore,
    pub pages: SimulatedStore,
    pub hold: Hold,
    pub entropy: Entropy,
    pub is_up: bool,
    /// Its last put was given up, since the network broke under it.
    was_cut_off: Cell<bool>,
    pub planted: Planted,
    places: BTreeMap<BranchId, Place<'f>>,
    pub live: BTreeMap<BranchRef, Live<'f>>,
}

impl<'f> Node<'f> {
    pub(super) fn new(
        (fixture, pages): (&'f Fixture, SimulatedStore),
        door: SimulatedStore,
        (clock, seed): (Clock, u64),
        planted: Planted,
    ) -> Self {
        let entropy = Entropy::seeded(seed);
        let catalog = Catalog::new(Store::simulated(&door, &entropy), entropy.clone());
        let hold = Hold { catalog, node: NodeId::random(&entropy), clock, lease: LEASE };
        let (places, live) = (BTreeMap::new(), BTreeMap::new());
        let was_cut_off = Cell::new(false);
        Node { fixture, door, pages, hold, entropy, is_up: true, was_cut_off, planted, places, live }
    }

    pub(super) fn wait<T>(&self, request: impl Future<Output = T>) -> T {
        block_on(&self.fixture.runtime, request)
    }

    /// Waits for a put of a head, in the middle of which the network may break: then it is given up, and arrives some day or never.
    pub(super) fn wait_put<T>(&self, request: impl Future<Output = T>, around: &mut Around) -> T {
        let breaks = around.chance(8);
        let faults = self.door.faults();
        if breaks {
            around.tell("  the network breaks".to_owned());
            self.door.set_faults(Faults { late: 1.0, ..Faults::default() });
        }
        let outcome = self.wait(request);
        self.door.set_faults(faults);
        self.was_cut_off.set(breaks);
        outcome
    }

    /// An error of the store that it may give: a request fails only while the store does, and nothing that is named is missing or damaged.
    pub(super) fn tolerate(&self, error: StoreError, around: &mut Around) -> Trouble {
        match &error {
            StoreError::Conflict { .. } => {}
            StoreError::Unavailable { .. } if self.was_cut_off.replace(false) || self.door.is_failing() => {}
            _ => panic!("seed {}: a store that is in order answers: {error}", around.seed),
        }
        around.tell(format!("  {error}"));
        Trouble::Store
    }

    /// The process may be killed, or the machine lose its power, at any durable step.
    fn may_die(&mut self, around: &mut Around) -> Result<(), Trouble> {
        if !around.chance(4) {
            return Ok(());
        }
        let power_cut = around.chance(50);
        self.crash(power_cut, around);
        Err(Trouble::Died)
    }

    pub(super) fn wake(&mut self, branch: &BranchRef, around: &mut Around) -> Result<(), Trouble> {
        let found = self.wait(self.hold.catalog.look_up(branch));
        match found.map_err(|e| self.tolerate(e, around))? {
            Lookup::Vacant { next_epoch } => self.make(branch, next_epoch, around),
            Lookup::Found(held) if held.head.dirty && held.head.is_held_by(&self.hold.node) => {
                let note = self.places.get(&held.head.id).map(|place| place.note.clone());
                match note.filter(|note| note.epoch == held.head.epoch) {
                    Some(note) if note.started => self.resume(*held, around),
                    Some(_) => {
                        let mut held = *held;
                        self.confirm(&mut held, around)?;
                        self.claim(&held.head);
                        self.begin(held, around)
                    }
                    None => {
                        around.oracle.check_nothing_was_begun(&held.head);
                        Err(Trouble::LocalDataLost)
                    }
                }
            }
            Lookup::Found(held) => self.take(*held, around),
        }
    }

    fn make(&mut self, branch: &BranchRef, epoch: u64, around: &mut Around) -> Result<(), Trouble> {
        let mut head = new_head(branch, epoch, self.fixture, &self.entropy, self.hold.clock.now());
        (head.holder, head.dirty) = (Some(self.hold.holder()), true);
        self.claim(&head);
        self.may_die(around)?;
        match self.wait_put(self.hold.catalog.create_branch(head.clone()), around) {
            Ok(Created::New(held)) => {
                self.may_die(around)?;
                self.begin(held, around)
            }
            Ok(Created::Existing(held)) => {
                self.places.remove(&head.id);
                self.take(held, around)
            }
            Err(e) => Err(self.tolerate(e, around)),
        }
    }

    fn take(&mut self, held: Held, around: &mut Around) -> Result<(), Trouble> {
        if held.head.dirty && !held.head.is_held_by(&self.hold.node) {
            return Err(Trouble::Elsewhere);
        }
        let mut next = held.head.clone();
        next.epoch += 1;
        self.claim(&next);
        self.may_die(around)?;
        let held = self.wait_put(self.hold.take(&held), around).map_err(|e| self.tolerate(e, around))?;
        self.may_die(around)?;
        self.begin(held, around)
    }

    /// Lays out a place in which nothing was begun.
    fn claim(&mut self, head: &BranchHead) {
        let branch = BranchRef { project: head.project.clone(), branch: head.name.clone() };
        let note = Note { branch, epoch: head.epoch, started: false };
        let disk = SimulatedDisk::default();
        if self.planted == Planted::JournalBeforeData {
            disk.plant_journal_first();
        }
        self.places.insert(head.id.clone(), Place { disk, note, remains: None });
    }

    /// Opens a branch that this node holds from what the store has of it, and compares the two.
    fn begin(&mut self, held: Held, around: &mut Around) -> Result<(), Trouble> {
        let manifest = match &held.head.manifest {
            Some(reference) => match self.wait(self.hold.catalog.branch_manifest(reference)) {
                Ok(manifest) => Some(manifest),
                Err(e) => {
                    self.give_back(&held);
                    return Err(self.tolerate(e, around));
                }
            },
            None => None,
        };
        let mut run = self.run_of_upload(&held.head, manifest.as_ref(), around);
        run.delta = self.places[&held.head.id].disk.clone();
        run.delta_number = held.head.epoch;
        run.open();
        self.compare_with_upload(&run, &held.head, around);
        run.take_as_durable();
        let (branch, place) = (branch_of(&held.head), self.places.get_mut(&held.head.id).expect("it was claimed"));
        place.note.started = true;
        around.oracle.note_begun(&held.head);
        self.live.insert(branch, Live { run, held, upload: None, stopped: false, in_doubt: false, changes: 0 });
        self.may_die(around)
    }

    fn run_of_upload(&self, head: &BranchHead, manifest: Option<&BranchManifest>, around: &mut Around) -> Run<'f> {
        let mut run = Run::new(self.fixture, around.seed);
        run.random = StdRng::seed_from_u64(around.random.random());
        run.close();
        if let Some(manifest) = manifest {
            run.model = around.oracle.upload(head).model.latest();
            (run.layers, run.tree) = (manifest.layers.clone(), Some(manifest.tree.clone()));
            run.image = manifest.image.clone();
        }
        run
    }

    /// Every name and byte is as it was when it was uploaded, the WAL too.
    fn compare_with_upload(&self, run: &Run<'f>, head: &BranchHead, around: &Around) {
        run.compare();
        if head.manifest.is_some() {
            let Upload { wal, .. } = around.oracle.upload(head);
            let found = self.wait(run.volume().read_wal(wal.len() / PAGE_SIZE)).expect("WAL can be read");
            assert_same(&found, wal, format_args!("seed {}: the WAL of {}", around.seed, head.name));
        }
    }

    fn give_back(&mut self, held: &Held) {
        let freed = self.hold.catalog.update_branch(held, |head| (head.holder, head.dirty) = (None, false));
        match self.wait(freed) {
            Ok(_) => drop(self.places.remove(&held.head.id)),
            Err(_) => self.claim(&held.head),
        }
    }

    /// Replaces a head that names this node by itself, so that what a former process of it had under way can only fail.
    fn confirm(&mut self, held: &mut Held, around: &mut Around) -> Result<(), Trouble> {
        match self.wait(self.hold.confirm(held)) {
            Ok(()) => Ok(()),
            Err(HoldError::Lost) => Err(Trouble::Lost),
            Err(HoldError::Store(e)) => Err(self.tolerate(e, around)),
        }
    }

    /// Opens what a killed process left, and checks that it is what a crash may leave.
    fn resume(&mut self, mut held: Held, around: &mut Around) -> Result<(), Trouble> {
        if self.planted != Planted::ResumeUnconfirmed {
            self.confirm(&mut held, around)?;
        }
        let manifest = match held.head.start_manifest() {
            Some(reference) => {
                Some(self.wait(self.hold.catalog.branch_manifest(reference)).map_err(|e| self.tolerate(e, around))?)
            }
            None => None,
        };
        let place = self.places.get_mut(&held.head.id).expect("it has a note");
        let Remains { mut run, power_cut, changes } = place.remains.take().expect("its process died");
        run.layers = manifest.as_ref().map_or(Vec::new(), |manifest| manifest.layers.clone());
        run.image = manifest.as_ref().and_then(|manifest| manifest.image.clone());
        run.tree = manifest.map(|manifest| manifest.tree);
        run.open();
        run.check_after_crash(power_cut);
        if around.chance(50) {
            run.volume().sync_all().expect("it can be synced");
            run.take_as_durable();
        }
        let live = Live { run, held, upload: None, stopped: false, in_doubt: false, changes };
        self.live.insert(branch_of(&live.held.head), live);
        Ok(())
    }

    /// Everything in memory is gone, and with `power_cut` what was not synced.
    pub(super) fn crash(&mut self, power_cut: bool, around: &mut Around) {
        around.tell(format!("  node {} dies, power cut: {power_cut}", self.hold.node));
        self.is_up = false;
        for (_, live) in std::mem::take(&mut self.live) {
            let Live { run, held, upload, changes, .. } = live;
            drop(upload);
            let place = self.places.get_mut(&held.head.id).expect("it is up");
            place.remains = Some(Remains { run, power_cut: false, changes });
        }
        for place in self.places.values_mut() {
            match &mut place.remains {
                Some(remains) => {
                    remains.run.die(power_cut);
                    remains.power_cut |= power_cut;
                }
                None => place.disk.kill(),
            }
        }
    }

    /// The machine burns down; another takes its role under another name.
    pub(super) fn burn(&mut self, around: &mut Around) {
        self.crash(true, around);
        self.places.clear();
        self.hold.node = NodeId::random(&self.entropy);
    }

    /// `Branches::adopt`: what is this node's is taken up, what is not is cleared or set aside.
    pub(super) fn restart(&mut self, around: &mut Around) -> Result<(), Trouble> {
        let places: Vec<(BranchId, Note)> =
            self.places.iter().map(|(id, place)| (id.clone(), place.note.clone())).collect();
        self.hold.catalog = Catalog::new(Store::simulated(&self.door, &self.entropy), self.entropy.clone());
        for (id, note) in &places {
            let head = self.wait(self.hold.catalog.branch_head(&note.branch));
            let head = head.map_err(|e| self.tolerate(e, around))?.map(|held| held.head);
            let is_ours = head.is_some_and(|head| {
                head.id == *id && head.epoch == note.epoch && head.dirty && head.is_held_by(&self.hold.node)
            });
            if !is_ours {
                let place = self.places.remove(id).expect("it was listed");
                if let Some(remains) = place.remains.filter(|_| note.started) {
                    around.oracle.check_end((id, note.epoch), remains.changes);
                }
            }
        }
        self.is_up = true;
        for (id, note) in places.into_iter().filter(|(_, note)| note.started) {
            if !self.is_up || !self.places.contains_key(&id) {
                continue;
            }
            // What cannot be taken up now is tried again when somebody wants it.
            let outcome = self.wake(&note.branch, around);
            around.tell(format!("  taken up: {outcome:?}"));
        }
        Ok(())
    }

    /// Renews the lease. A branch that is another's by now is let go.
    pub(super) fn renew(&mut self, branch: &BranchRef, around: &mut Around) -> Result<(), Trouble> {
        // Nothing may touch a head whose last put is in doubt.
        if self.live.get(branch).is_none_or(|live| live.in_doubt) {
            return Ok(());
        }
        let mut live = self.live.remove(branch).expect("it is up");
        let outcome = self.wait_put(self.hold.update(&mut live.held, |_| ()), around);
        self.live.insert(branch.clone(), live);
        self.heed(branch, outcome, around)
    }

    /// What follows from the outcome of a change of a held head.
    pub(super) fn heed(
        &mut self,
        branch: &BranchRef,
        outcome: Result<(), HoldError>,
        around: &mut Around,
    ) -> Result<(), Trouble> {
        match outcome {
            Ok(()) => Ok(()),
            Err(HoldError::Store(e)) => Err(self.tolerate(e, around)),
            Err(HoldError::Lost) => {
                let live = self.live.remove(branch).expect("it is up");
                self.places.remove(&live.held.head.id);
                around.oracle.check_end((&live.held.head.id, live.held.head.epoch), live.changes);
                Err(Trouble::Lost)
            }
        }
    }

    /// Finds out what became of a suspend, and starts the branch again if it still is this node's.
    pub(super) fn settle(&mut self, branch: &BranchRef, around: &mut Around) -> Result<(), Trouble> {
        let live = self.live.get_mut(branch).expect("it is up");
        let id = live.held.head.id.clone();
        let settled = match live.in_doubt {
            true => block_on(&self.fixture.runtime, self.hold.settle(&mut live.held)),
            false => Ok(Settled::Held),
        };
        match settled {
            Ok(Settled::Held) => {
                (live.in_doubt, live.stopped, live.upload) = (false, false, None);
                Ok(())
            }
            Ok(Settled::Asleep) => {
                self.clear(branch, &id);
                Ok(())
            }
            Err(e) => self.heed(branch, Err(e), around),
        }
    }

    /// A published branch leaves this node.
    pub(super) fn clear(&mut self, branch: &BranchRef, id: &BranchId) {
        self.live.remove(branch);
        self.places.remove(id);
    }

    /// An fsync in the middle of which the machine loses its power.
    pub(super) fn die_in_fsync(&mut self, branch: &BranchRef, around: &mut Around) {
        let live = self.live.get_mut(branch).expect("it is up");
        if let Some((path, id)) = live.run.some_file() {
            around.tell(format!("  dies in the fsync of {path}"));
            let file = live.run.volume().file(id).expect("it is a file");
            live.run.delta.die_in_sync(around.random.random_range(0..5));
            if live.run.volume().sync(&file).is_ok() && !live.run.volume().is_transient(id) {
                live.run.model.commit_file(id);
            }
        }
        self.crash(true, around);
    }

    /// Reads while pages cannot be had from the store: an error, or what was written.
    pub(super) fn read_while_away(&mut self, branch: &BranchRef, around: &mut Around) {
        let live = self.live.get_mut(branch).expect("it is up");
        self.pages.set_away(true);
        for _ in 0..3 {
            let files: Vec<_> = live.run.model.names().iter().filter(|(_, named)| !named.directory).collect();
            if files.is_empty() {
                break;
            }
            let (path, named) = files[around.random.random_range(0..files.len())];
            let Ok(file) = live.run.volume().file(named.id) else { continue };
            let expected = live.run.model.content(named.id);
            let read = live.run.volume().read(&file, 0, expected.len());
            if let Ok(found) = block_on(&self.fixture.runtime, read) {
                assert_same(&found, expected, format_args!("seed {}: {path}, store away", around.seed));
            }
        }
        self.pages.set_away(false);
    }

    /// Pages come without faults from here on: what blocks a thread has no time to wait in.
    pub(super) fn calm_pages(&self) {
        self.pages.set_faults(Faults::default());
    }
}
