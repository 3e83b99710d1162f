//! Nodes, collectors and operators on one failing store, in simulated time, replayed by seed.

mod collection;
mod node;
mod oracle;
mod planted;
mod template;
mod uploads;
mod world;

use crate::pageserver::tests::seeds;
use planted::Planted;
use world::history;

const SEEDS: u64 = 100;

#[test]
fn whatever_fails_nothing_acknowledged_is_lost_and_nothing_reachable_collected() {
    for seed in seeds(0..SEEDS) {
        history(seed, Planted::Nothing);
    }
}

#[test]
fn a_seed_replays() {
    for seed in 0..5 {
        let (first, second) = (history(seed, Planted::Nothing), history(seed, Planted::Nothing));
        for (one, other) in first.iter().zip(&second) {
            assert_eq!(one, other, "seed {seed}");
        }
        assert_eq!(first.len(), second.len());
    }
}
