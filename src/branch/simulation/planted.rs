//! The test of the test: bugs that were planted, and how soon the simulation finds each.

use super::world::history;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A bug that a history is run with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Planted {
    Nothing,
    /// A journal frame is synced before the pages that it speaks of: a power cut between shows pages that are not there.
    JournalBeforeData,
    /// A collector acts on a list by what it read, pins included, before it put the list: a child that pinned between is not seen.
    PinsBeforeCondemning,
    /// Deletion removes the head, and the name is made anew with a create-only put: a create that was given up long ago comes through.
    CreateIfAbsentAsFence,
    /// A node goes on with what a killed process of it left, without replacing the head first: a suspend of that process comes through.
    ResumeUnconfirmed,
}

/// The first seed that finds a bug, and what it says.
fn found(planted: Planted, seeds: std::ops::Range<u64>) -> Option<(u64, String)> {
    seeds.into_iter().find_map(|seed| {
        let failed = catch_unwind(AssertUnwindSafe(|| history(seed, planted))).err()?;
        let said = failed.downcast_ref::<String>().cloned();
        Some((seed, said.unwrap_or_else(|| failed.downcast_ref::<&str>().copied().unwrap_or_default().to_owned())))
    })
}

/// Finds the bug within so many seeds, says what it should, and finds nothing in these seeds without it.
fn check_found(planted: Planted, seeds: u64, expected: &[&str]) {
    let (seed, said) = found(planted, 0..seeds).unwrap_or_else(|| panic!("{planted:?} was not found in {seeds} seeds"));
    assert!(expected.iter().any(|expected| said.contains(expected)), "seed {seed} says something else: {said}");
    for without in 0..=seed {
        history(without, Planted::Nothing);
    }
}

#[test]
fn a_journal_that_is_synced_before_its_data_is_found() {
    check_found(Planted::JournalBeforeData, 200, &["which it never was since the last fsync"]);
}

#[test]
fn a_collector_that_reads_pins_before_it_condemns_is_found() {
    check_found(Planted::PinsBeforeCondemning, 1000, &["is lost, which"]);
}

#[test]
fn a_create_if_absent_that_is_used_as_a_fence_is_found() {
    check_found(Planted::CreateIfAbsentAsFence, 300, &["a branch that was deleted lives"]);
}

#[test]
fn a_resume_that_does_not_replace_the_head_first_is_found() {
    check_found(Planted::ResumeUnconfirmed, 1000, &["ended without what was written in it"]);
}
