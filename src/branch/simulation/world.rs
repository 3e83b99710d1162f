//! The whole of one history: the store, the nodes on it, collectors, an operator, children under way, and the order in which the seed lets them act.

use super::collection::SimulatedCollector;
use super::forks::Fork;
use super::node::{Around, LEASE, Node, Trouble};
use super::oracle::Oracle;
use super::planted::Planted;
use super::template::Template;
use crate::branch::error::BranchError;
use crate::branch::hold::{Released, release};
use crate::model::{BranchHead, BranchRef, Clock, ProjectName};
use crate::pageserver::tests::fixture::Fixture;
use crate::store::collect::LEAST_GRACE;
use crate::store::simulated::{Delay, Faults, SimulatedStore};
use crate::store::{Deletion, keys};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::time::Instant;

const NODES: usize = 3;
const COLLECTORS: usize = 2;
const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
/// So many of them are made from the base; the rest only as children.
const OF_BASE: usize = 3;
const STEPS: usize = 120;
const START_MS: u64 = 1_800_000_000_000;
/// How far clocks of nodes are apart at most: less than what a release allows for.
const SKEW_MS: u64 = LEASE.as_millis() as u64 / 4;

pub(super) fn project() -> ProjectName {
    "shop".parse().expect("a name")
}

/// A request, driven by this thread alone: time passes when it waits, and never otherwise.
pub(super) fn block_on<T>(runtime: &Runtime, request: impl Future<Output = T>) -> T {
    runtime.block_on(request)
}

pub(super) struct World<'f> {
    runtime: Arc<Runtime>,
    store: SimulatedStore,
    clocks: Vec<Arc<AtomicU64>>,
    pub(super) nodes: Vec<Node<'f>>,
    pub(super) collectors: Vec<SimulatedCollector>,
    pub(super) forks: Vec<Fork>,
    pub(super) around: Around,
    planted: Planted,
    /// Something was deleted or published since reachability was looked at.
    unchecked: bool,
    last_look: Instant,
}

/// Runs the history of a seed. Panics where it is not as it must be; what happened otherwise.
pub(super) fn history(seed: u64, planted: Planted) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = Arc::new(runtime.expect("a runtime starts"));
    let clocks: Vec<_> = (0..=NODES + COLLECTORS).map(|_| Arc::new(AtomicU64::new(START_MS))).collect();
    let store = SimulatedStore::with_clock(seed, Clock::Simulated(clocks[0].clone()));
    let template = Template::get();
    block_on(&runtime, template.plant(&store));
    let pages: Vec<SimulatedStore> = (0..NODES as u64).map(|number| store.door(seed ^ (100 + number))).collect();
    let fixtures: Vec<Fixture> = pages.iter().map(|door| template.fixture(&runtime, door)).collect();
    World::new(seed, planted, (runtime, store, clocks), (&fixtures, pages)).run()
}

impl<'f> World<'f> {
    fn new(
        seed: u64,
        planted: Planted,
        (runtime, store, clocks): (Arc<Runtime>, SimulatedStore, Vec<Arc<AtomicU64>>),
        (fixtures, pages): (&'f [Fixture], Vec<SimulatedStore>),
    ) -> World<'f> {
        let mut random = StdRng::seed_from_u64(seed);
        for clock in &clocks[1..] {
            clock.fetch_add(random.random_range(0..SKEW_MS), Ordering::Relaxed);
        }
        let clock = |number: usize| Clock::Simulated(clocks[1 + number].clone());
        let own_seed = |number: usize| seed.wrapping_mul(1000) + number as u64;
        let nodes = fixtures.iter().zip(pages).enumerate().map(|(number, parts)| {
            let door = store.door(own_seed(number));
            Node::new(parts, door, (clock(number), own_seed(number)), planted)
        });
        let collectors = (NODES..NODES + COLLECTORS).map(|number| {
            SimulatedCollector::new(store.door(own_seed(number)), clock(number), own_seed(number), planted)
        });
        let (nodes, collectors) = (nodes.collect(), collectors.collect());
        let around = Around { seed, random, oracle: Oracle::new(seed), trace: Vec::new() };
        let last_look = block_on(&runtime, async { Instant::now() });
        let forks = Vec::new();
        World { runtime, store, clocks, nodes, collectors, forks, around, planted, unchecked: false, last_look }
    }

    fn run(mut self) -> Vec<String> {
        for number in 0..NODES {
            self.change_faults(number);
        }
        for _ in 0..STEPS {
            self.step();
            self.look();
        }
        self.end();
        let requests = self.store.requests() + self.nodes.iter().map(|node| node.door.requests()).sum::<u64>();
        self.around.tell(format!("{requests} requests"));
        std::mem::take(&mut self.around.trace)
    }

    /// What requests took passes for everybody; heads and what they refer to are as they must be.
    fn look(&mut self) {
        let now = block_on(&self.runtime, async { Instant::now() });
        let passed = now - self.last_look;
        self.last_look = now;
        self.pass(passed);
        for name in NAMES {
            self.unchecked |= self.around.oracle.look(&self.store, &branch(name));
        }
        if std::mem::take(&mut self.unchecked) {
            block_on(&self.runtime, self.around.oracle.check_reachable(&self.store));
        }
    }

    fn pass(&self, time: Duration) {
        for clock in &self.clocks {
            clock.fetch_add(time.as_millis() as u64, Ordering::Relaxed);
        }
    }

    fn some_branch(&mut self) -> BranchRef {
        branch(NAMES[self.around.random.random_range(0..NAMES.len())])
    }

    /// A branch whose head is as `wanted`, if there is one; now and then another.
    pub(super) fn some_branch_that(&mut self, wanted: impl Fn(Option<&BranchHead>) -> bool) -> BranchRef {
        let is_wanted = |name: &&&str| wanted(self.around.oracle.head(&branch(name)));
        let names: Vec<&str> = NAMES.iter().filter(is_wanted).copied().collect();
        match names.is_empty() || self.around.chance(10) {
            true => self.some_branch(),
            false => branch(names[self.around.random.random_range(0..names.len())]),
        }
    }

    fn step(&mut self) {
        if self.chase_a_child() {
            return;
        }
        let number = self.around.random.random_range(0..NODES);
        match self.around.random.random_range(0..100) {
            0..43 => self.use_branch(number),
            43..47 => self.renew(number),
            47..49 => self.die(number),
            49..53 => self.release(number),
            53..59 => {
                let branch = self.some_branch_that(|head| head.is_some_and(|head| !head.dirty));
                self.delete(number, branch);
            }
            59..71 => self.fork(number),
            71..85 => self.collect(),
            85..91 => self.jump(),
            91..95 => self.change_faults(number),
            _ => drop(self.land()),
        }
    }

    /// The node's next step with a branch: up, on, or down.
    fn use_branch(&mut self, number: usize) {
        let live: Vec<BranchRef> = self.nodes[number].live.keys().cloned().collect();
        let branch = match live.is_empty() || self.around.chance(20) {
            true => {
                let node = self.nodes[number].hold.node.clone();
                self.some_branch_that(|head| head.is_none_or(|head| !head.dirty || head.is_held_by(&node)))
            }
            false => live[self.around.random.random_range(0..live.len())].clone(),
        };
        let (node, around) = (&mut self.nodes[number], &mut self.around);
        if !node.is_up {
            around.tell(format!("node {number} starts"));
            let outcome = node.restart(around);
            return around.tell(format!("  {outcome:?}"));
        }
        let Some(live) = node.live.get_mut(&branch) else {
            let is_for_children = NAMES[OF_BASE..].contains(&branch.branch.as_str());
            if is_for_children && around.oracle.head(&branch).is_none() {
                return;
            }
            around.tell(format!("node {number} wakes {}", branch.branch));
            let outcome = node.wake(&branch, around);
            return around.tell(format!("  {outcome:?}"));
        };
        // A node that was fenced off and does not know: what it needs of the store may be gone.
        let is_fenced = !around.oracle.holds(&live.held.head, &branch);
        let choice = around.random.random_range(0..100);
        let outcome = match (live.upload.is_some(), live.stopped) {
            (true, _) if choice < 70 => {
                around.tell(format!("node {number} goes on uploading {}", branch.branch));
                let phases = around.random.random_range(1..5);
                let mut outcome = Ok(());
                for _ in 0..phases {
                    let is_under_way = node.live.get(&branch).is_some_and(|live| live.upload.is_some());
                    if outcome.is_ok() && is_under_way {
                        outcome = node.advance_upload(&branch, around);
                    }
                }
                outcome
            }
            (false, true) if choice < 40 && !live.in_doubt && !is_fenced => {
                around.tell(format!("node {number} suspends {} once more", branch.branch));
                node.begin_suspend(&branch, around);
                Ok(())
            }
            (_, true) => {
                around.tell(format!("node {number} settles {}", branch.branch));
                node.settle(&branch, around)
            }
            (..) if is_fenced => node.renew(&branch, around),
            (_, false) if choice < 50 => {
                let steps = around.random.random_range(1..6);
                around.tell(format!("node {number} changes {} {steps} times", branch.branch));
                (0..steps).for_each(|_| live.run.step());
                live.changes += steps;
                Ok(())
            }
            (false, _) if choice < 68 => {
                around.tell(format!("node {number} uploads {} awake", branch.branch));
                node.begin_upload(&branch, around);
                Ok(())
            }
            (_, false) if choice < 94 => {
                around.tell(format!("node {number} suspends {}", branch.branch));
                node.begin_suspend(&branch, around);
                Ok(())
            }
            (_, _) if choice < 97 => {
                around.tell(format!("node {number} reads {} without a store", branch.branch));
                node.read_while_away(&branch, around);
                Ok(())
            }
            _ => {
                around.tell(format!("node {number} syncs {}", branch.branch));
                node.die_in_fsync(&branch, around);
                Ok(())
            }
        };
        if let Err(trouble) = outcome {
            self.around.tell(format!("  {trouble:?}"));
        }
    }

    fn renew(&mut self, number: usize) {
        self.around.tell(format!("node {number} renews its leases"));
        let names: Vec<BranchRef> = self.nodes[number].live.keys().cloned().collect();
        for name in names {
            let outcome = self.nodes[number].renew(&name, &mut self.around);
            self.around.tell(format!("  {outcome:?}"));
        }
    }

    fn die(&mut self, number: usize) {
        let (node, around) = (&mut self.nodes[number], &mut self.around);
        around.tell(format!("node {number}: an accident"));
        match around.random.random_range(0..5) {
            0 => node.burn(around),
            choice => node.crash(choice < 3, around),
        }
        self.forks.retain(|fork| fork.node != number);
    }

    /// An operator takes a branch from a node that seems to be gone.
    fn release(&mut self, number: usize) {
        let branch = self.some_branch_that(|head| head.is_some_and(|head| head.dirty));
        let Some(head) = self.around.oracle.head(&branch).cloned() else { return };
        let hold = &self.nodes[number].hold;
        let now = hold.clock.now();
        let holder = self.nodes.iter().find(|node| head.is_held_by(&node.hold.node));
        let is_valid = holder.is_some_and(|holder| {
            head.holder.as_ref().is_some_and(|lease| lease.lease_until_ms > holder.hold.clock.now())
        });
        if !is_valid {
            self.around.oracle.note_release(&head);
        }
        let released = block_on(&self.runtime, release(&hold.catalog, &branch, now, LEASE));
        self.around.tell(format!("an operator releases {}: {:?}", branch.branch, released.as_ref().ok()));
        match released {
            Ok(Released::AsOf(_)) => {
                assert!(!is_valid, "seed {}: taken from a node whose lease is valid: {head:?}", self.around.seed);
            }
            Ok(Released::WasFree) | Err(BranchError::LeaseValid { .. } | BranchError::NoBranch { .. }) => {}
            Err(_) if self.nodes[number].door.is_failing() => {}
            Err(error) => panic!("seed {}: {error}", self.around.seed),
        }
    }

    pub(super) fn delete(&mut self, number: usize, branch: BranchRef) {
        let node = &self.nodes[number];
        if self.planted == Planted::CreateIfAbsentAsFence {
            let Some(head) = self.around.oracle.head(&branch).filter(|head| !head.dirty) else { return };
            if block_on(&self.runtime, self.store.has(&keys::branch_head(&branch))) {
                self.around.tell(format!("{} is removed", head.name));
                block_on(&self.runtime, self.store.remove(&keys::branch_head(&branch)));
                self.around.oracle.note_removed(&branch);
            }
            return;
        }
        let deleted = node.wait(node.hold.catalog.delete_branch(&branch, node.hold.clock.now()));
        self.around.tell(format!("node {number} deletes {}: {:?}", branch.branch, deleted.as_ref().ok()));
        match deleted {
            Ok(Deletion::Deleted | Deletion::Absent) => {
                self.around.oracle.look(&self.store, &branch);
                let head = self.around.oracle.head(&branch);
                assert!(head.is_none(), "seed {}: {} is deleted and there", self.around.seed, branch.branch);
            }
            Ok(Deletion::Held(_)) => {}
            Err(error) => drop(node.tolerate(error, &mut self.around)),
        }
    }

    fn collect(&mut self) {
        let which = self.around.random.random_range(0..COLLECTORS);
        self.around.tell(format!("collector {which}"));
        match self.around.chance(3) {
            true => self.collectors[which].die(),
            false => self.collectors[which].step(&self.runtime, &mut self.around),
        }
        self.unchecked = true;
    }

    fn jump(&mut self) {
        let grace = LEAST_GRACE;
        let jumps =
            [LEASE / 3, LEASE * 2, grace.mul_f64(0.3), grace.mul_f64(1.1), grace.mul_f64(1.1), grace.mul_f64(2.5)];
        let jump = jumps[self.around.random.random_range(0..jumps.len())];
        self.around.tell(format!("{jump:?} pass"));
        self.pass(jump);
    }

    fn change_faults(&mut self, number: usize) {
        let faults = [
            Faults::default(),
            Faults { before: 0.1, after: 0.1, late: 0.15, delay: Delay::Measured },
            Faults { before: 0.3, after: 0.2, late: 0.3, delay: Delay::None },
        ];
        let choice = self.around.random.random_range(0..faults.len());
        let is_away = self.around.chance(15);
        self.around.tell(format!("the store is in state {choice} for {number}, away: {is_away}"));
        let node = &self.nodes[number];
        node.door.set_faults(faults[choice]);
        node.door.set_away(is_away);
        node.pages.set_faults(Faults { before: 0.1, after: 0.05, ..Faults::default() });
        let collector = &self.collectors[number % COLLECTORS];
        collector.door.set_faults(faults[choice]);
        collector.door.set_away(is_away);
    }

    /// A put that someone has long given up arrives.
    fn land(&mut self) -> bool {
        let which = self.around.random.random_range(0..1000);
        let landed = block_on(&self.runtime, self.store.land(which));
        if let Some((key, took_effect)) = &landed {
            self.around.tell(format!("a late put of {key} arrives: {took_effect}"));
        }
        landed.is_some()
    }

    /// The store is in order, everything late arrives, every node comes back; then every branch is woken elsewhere, and everything old is collected.
    fn end(&mut self) {
        self.around.tell("the end".to_owned());
        self.forks.clear();
        let doors = self.nodes.iter().flat_map(|node| [&node.door, &node.pages]);
        for door in doors.chain(self.collectors.iter().map(|collector| &collector.door)) {
            door.set_faults(Faults::default());
            door.set_away(false);
        }
        while self.land() {
            self.look();
        }
        for number in 0..NODES {
            while !self.nodes[number].is_up {
                // It may be killed again on the way.
                let _ = self.nodes[number].restart(&mut self.around);
            }
            self.renew(number);
            self.look();
        }
        for round in 0..3 {
            self.pass(LEAST_GRACE + LEASE);
            for name in NAMES {
                self.release_branch(&branch(name), round);
            }
            self.collectors.iter_mut().for_each(SimulatedCollector::die);
            for _ in 0..10 {
                self.collectors[round % COLLECTORS].step(&self.runtime, &mut self.around);
                self.unchecked = true;
                self.look();
            }
        }
    }

    /// Takes a branch to another node, whoever has it, where it is compared with what was uploaded.
    fn release_branch(&mut self, branch: &BranchRef, round: usize) {
        let number = round % NODES;
        let Some(head) = self.around.oracle.head(branch).cloned() else { return };
        self.around.oracle.note_release(&head);
        let hold = &self.nodes[number].hold;
        let released = release(&hold.catalog, branch, hold.clock.now(), LEASE);
        let released = block_on(&self.runtime, released);
        match released {
            Ok(_) => {}
            // A node that came back for another branch took this one up, too.
            Err(BranchError::LeaseValid { .. }) => return,
            Err(error) => panic!("seed {}: {error}", self.around.seed),
        }
        self.look();
        for other in 0..NODES {
            if self.nodes[other].live.contains_key(branch) {
                let _ = self.nodes[other].renew(branch, &mut self.around);
            }
        }
        // It may be killed on the way.
        for _ in 0..20 {
            let (node, around) = (&mut self.nodes[number], &mut self.around);
            let outcome = match node.is_up {
                true if node.live.contains_key(branch) => return,
                true => node.wake(branch, around),
                false => node.restart(around),
            };
            around.tell(format!("node {number} takes {}: {outcome:?}", branch.branch));
            if matches!(outcome, Err(Trouble::LocalDataLost)) {
                // Until the next release.
                return;
            }
        }
        panic!("seed {}: {} cannot be woken", self.around.seed, branch.branch);
    }
}

fn branch(name: &str) -> BranchRef {
    BranchRef { project: project(), branch: name.parse().expect("a name") }
}
