//! Heads as the simulation's nodes and children begin with them.

use crate::model::{BranchHead, BranchId, BranchRef, Entropy};
use crate::pageserver::tests::fixture::Fixture;

pub(super) fn branch_of(head: &BranchHead) -> BranchRef {
    BranchRef { project: head.project.clone(), branch: head.name.clone() }
}

/// The head of a new branch of the base, held by nobody.
pub(super) fn new_head(branch: &BranchRef, epoch: u64, fixture: &Fixture, entropy: &Entropy, now: u64) -> BranchHead {
    BranchHead::of_base(branch, BranchId::random(entropy), (fixture.staged.id.clone(), 1), epoch, now)
}
