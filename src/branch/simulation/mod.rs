//! Nodes, collectors and an operator on one failing store, in simulated time, replayed by seed.
//!
//! One **history** is a row of steps that its seed draws. Three nodes, each with simulated disks, a page cache, a catalog and a clock of its own, make
//! branches, wake, change, fsync, upload and suspend them, renew leases, are killed, lose power (between steps, at durable steps, in the
//! middle of an fsync) or burn down with their disks. An operator releases branches of nodes that seem lost, names are deleted and made again, children
//! fork by pins, two collectors delete; the clock jumps by up to several graces. Each node and collector reaches the store through a door of its
//! own, which refuses, answers after the effect but with an error, is slow or away, or breaks in the middle of a put: that one arrives any
//! number of steps later, or never.
//!
//! What is real: volume, journal, layers, uploads, base, page cache (`pageserver`), catalog, pins, collector, retries (`store`), and `branch::hold`. What the simulation
//! replays itself are the flows around a compute (`node`, `uploads`, after `provision`, `save`, `suspend` and `task`), cut into steps between which anyone
//! else may act. One thread drives everything under tokio's paused clock, so a seed always tells the same story.
//!
//! What must hold, at every step:
//!
//! - On the same node after a kill or a power cut a volume is what `pageserver::tests::model` allows: nothing that was fsynced is missing, no byte is there that was never written.
//! - On any node after an upload, suspend or release it is exactly what the published upload held, names, bytes and WAL.
//! - Every version of every head follows from the one before (`oracle`): one holder an epoch; only it changes what the branch holds; an epoch ends by its own
//!   suspend, with all that was written in it, or by an operator, once the lease is over; what was deleted never lives again.
//! - No node is told that it lost a branch which it holds, or gives up what was neither uploaded nor released.
//! - What a head, and the manifest a holder's delta is a difference to, refer to is in the store.
//! - Requests fail only while the store does, and reads never give wrong bytes.
//!
//! At the end the store is in order, everything late arrives, and every branch is taken over by other nodes between collections.
//!
//! `planted` holds the bugs that it must find. `OFFSHOOT_SEED=<n>` replays one seed and tells every step, `OFFSHOOT_SEEDS=<n>` plays so many of each test.

mod collection;
mod forks;
mod heads;
mod node;
mod oracle;
mod planted;
mod template;
mod uploads;
mod world;

use crate::pageserver::tests::seeds;
use planted::Planted;
use world::history;

/// Of each of two tests, which run side by side: about 42 s of one core in a debug build.
const SEEDS: u64 = 1000;

#[test]
fn whatever_fails_nothing_acknowledged_is_lost_and_nothing_reachable_collected() {
    for seed in seeds(0..SEEDS) {
        history(seed, Planted::Nothing);
    }
}

/// The same, with other seeds, on another core.
#[test]
fn whatever_else_fails_nothing_is_lost_either() {
    for seed in seeds(SEEDS..2 * SEEDS) {
        history(seed, Planted::Nothing);
    }
}

#[test]
fn a_seed_replays() {
    for seed in 0..20 {
        let (first, second) = (history(seed, Planted::Nothing), history(seed, Planted::Nothing));
        for (one, other) in first.iter().zip(&second) {
            assert_eq!(one, other, "seed {seed}");
        }
        assert_eq!(first.len(), second.len(), "seed {seed}");
    }
}
