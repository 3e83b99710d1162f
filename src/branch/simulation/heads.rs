//! Heads as the simulation's nodes and children begin with them.

use super::world::project;
use crate::model::{BranchHead, BranchId, BranchRef, Entropy, Nonce};
use crate::pageserver::tests::fixture::Fixture;

pub(super) fn branch_of(head: &BranchHead) -> BranchRef {
    BranchRef { project: head.project.clone(), branch: head.name.clone() }
}

/// The head of a new branch of the base, held by nobody.
pub(super) fn new_head(branch: &BranchRef, epoch: u64, fixture: &Fixture, entropy: &Entropy, now: u64) -> BranchHead {
    BranchHead {
        format: BranchHead::FORMAT,
        nonce: Nonce::random(entropy),
        project: project(),
        name: branch.branch.clone(),
        id: BranchId::random(entropy),
        base: fixture.staged.id.clone(),
        base_version: 1,
        epoch,
        seq: 1,
        holder: None,
        dirty: false,
        manifest: None,
        epoch_start: None,
        saved_at_ms: 0,
        parent: "base 1".to_owned(),
        created_at_ms: now,
        used_at_ms: now,
        own_bytes: 0,
        deleted_at_ms: None,
    }
}
