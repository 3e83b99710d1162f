//! Holding a branch: the lease in its head, and how a node finds out that it lost one.
//!
//! A node that holds a branch renews the lease in its head every now and then ([`renewal`]). Each renewal is a conditional put on the head that this node wrote last,
//! so it is also the fence: once another node has replaced the head, this one's next put fails, it stops its compute and sets aside what it
//! had. While the store is away nothing is renewed and the compute goes on: its head says `dirty`, and no node takes over a dirty head
//! unless an operator tells it to give up what was not uploaded ([`release`]), which a valid lease forbids.
//!
//! A put whose answer was lost is found out about at the next one: a head that still names this node and epoch was written by this node.

use super::error::{BranchError, LifecycleError};
use super::shared::Shared;
use crate::model::{BranchHead, BranchRef, Holder, UnixMs};
use crate::store::{Catalog, Held, StoreError};
use std::time::Duration;

/// Renewals in the time of a lease: two may fail before it is over. Three puts a minute cost 0.65 USD a month at S3's prices.
const RENEWALS: u32 = 3;
/// How often a change is tried again after finding a put of this node's own whose answer was lost.
const ATTEMPTS: usize = 3;

/// Why a change of a held head failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum HoldError {
    /// Another node has it, or it was deleted: nothing of it may be written any more.
    #[error("another node has taken the branch over")]
    Lost,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// This node, as the holder of a branch from now on.
pub(super) fn holder(shared: &Shared) -> Holder {
    let lease_until_ms = shared.ambient.clock.now() + shared.lease.as_millis() as UnixMs;
    Holder { node: shared.node.clone(), lease_until_ms }
}

/// How long after a change of the head the lease is renewed.
pub(super) fn renewal(shared: &Shared) -> Duration {
    shared.lease / RENEWALS
}

/// How long after its end a lease is taken to be over by another node, whose clock may be ahead.
fn skew(lease: Duration) -> Duration {
    lease / 2
}

/// Changes the head of a branch that this node holds, and renews its lease with it.
pub(super) async fn update(
    shared: &Shared,
    branch: &BranchRef,
    held: &mut Held,
    change: impl Fn(&mut BranchHead) + Send + Sync,
) -> Result<(), HoldError> {
    for _ in 0..ATTEMPTS {
        let put = shared.catalog.update_branch(held, |head| {
            head.holder = Some(holder(shared));
            change(head);
        });
        match put.await {
            Ok(now) => {
                *held = now;
                return Ok(());
            }
            Err(StoreError::Conflict { .. }) => *held = still_ours(shared, branch, &held.head).await?,
            Err(e) => return Err(e.into()),
        }
    }
    Err(HoldError::Lost)
}

/// The head as it is now, if this node wrote it in the present epoch.
async fn still_ours(shared: &Shared, branch: &BranchRef, known: &BranchHead) -> Result<Held, HoldError> {
    match shared.catalog.branch_head(branch).await? {
        Some(now) if now.head.id == known.id && now.head.epoch == known.epoch && now.head.is_held_by(&shared.node) => {
            Ok(now)
        }
        _ => Err(HoldError::Lost),
    }
}

/// What a client is told of a branch that another node holds.
pub(super) fn held_elsewhere(shared: &Shared, branch: &BranchRef, head: &BranchHead) -> BranchError {
    let node = head.holder.as_ref().map_or_else(|| "nobody".to_owned(), |holder| holder.node.to_string());
    BranchError::HeldElsewhere {
        branch: branch.to_string(),
        node,
        lost: is_over(head, shared.ambient.clock.now(), shared.lease),
    }
}

/// Whether the holder has not renewed its lease for so long that it may be taken for lost.
fn is_over(head: &BranchHead, now: UnixMs, lease: Duration) -> bool {
    let until = head.holder.as_ref().map_or(0, |holder| holder.lease_until_ms);
    until + (skew(lease).as_millis() as UnixMs) < now
}

/// What [`release`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Released {
    /// Nobody held it.
    WasFree,
    /// It is free now, as of the upload that began at this time; `None`: as it was made.
    AsOf(Option<UnixMs>),
}

/// Takes a branch from a node that is gone: it goes on from its last upload, and what was written after that is given up. Refused while the
/// holder's lease may be valid. The holder, should it come back, finds itself fenced off and keeps what it has aside.
pub async fn release(
    catalog: &Catalog,
    branch: &BranchRef,
    now: UnixMs,
    lease: Duration,
) -> Result<Released, BranchError> {
    let failed = |e: StoreError| LifecycleError::from(e).of_branch(branch);
    let held = catalog.branch_head(branch).await.map_err(failed)?;
    let held = held.ok_or_else(|| BranchError::NoBranch { branch: branch.to_string() })?;
    if !held.head.dirty {
        return Ok(Released::WasFree);
    }
    if !is_over(&held.head, now, lease) {
        let until = held.head.holder.as_ref().map_or(now, |holder| holder.lease_until_ms);
        let wait = Duration::from_millis((until + skew(lease).as_millis() as UnixMs).saturating_sub(now) + 1);
        return Err(BranchError::LeaseValid { branch: branch.to_string(), wait });
    }
    let freed = catalog.update_branch(&held, |head| {
        head.epoch += 1;
        (head.holder, head.dirty, head.epoch_start) = (None, false, None);
    });
    freed.await.map_err(failed)?;
    Ok(Released::AsOf(Some(held.head.saved_at_ms).filter(|at| *at > 0)))
}
