//! The page server as a whole against a plain in-memory model, replayed by seed.
//!
//! A failing seed is named in its assertion; `OFFSHOOT_SEED=<n>` runs that one alone, `OFFSHOOT_SEEDS=<n>` so many of each test.

mod allocations;
mod cache_faults;
mod cache_reads;
mod cache_restart;
pub(crate) mod changes;
mod counted_store;
mod crash;
mod damage;
pub(crate) mod fixture;
mod life;
pub(crate) mod model;
mod read_ahead;
mod sealing;

use std::ops::Range;

/// The seeds that a test runs: `all`, as many from its first on as the environment says, or the one that it names.
pub(crate) fn seeds(all: Range<u64>) -> Range<u64> {
    let number = |name: &str| std::env::var(name).ok().map(|value| value.parse::<u64>().expect("a number of seeds"));
    match (number("OFFSHOOT_SEED"), number("OFFSHOOT_SEEDS")) {
        (Some(seed), _) => seed..seed + 1,
        (None, Some(count)) => all.start..all.start + count,
        (None, None) => all,
    }
}
