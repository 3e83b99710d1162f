//! The page server as a whole against a plain in-memory model, replayed by seed.
//!
//! A failing seed is named in its assertion; `OFFSHOOT_SEED=<n>` runs that one alone.

mod cache_faults;
mod cache_reads;
mod cache_restart;
mod changes;
mod counted_store;
mod crash;
mod damage;
mod fixture;
mod life;
mod model;
mod read_ahead;
mod sealing;

use std::ops::Range;

/// The seeds that a test runs: `all`, or the one that the environment names.
fn seeds(all: Range<u64>) -> Range<u64> {
    match std::env::var("OFFSHOOT_SEED") {
        Ok(seed) => {
            let seed: u64 = seed.parse().expect("OFFSHOOT_SEED is a number");
            seed..seed + 1
        }
        Err(_) => all,
    }
}
