//! Holding a branch: the lease in its head, and how a node finds out that it lost one.
//!
//! A node that holds a branch renews the lease in its head every now and then ([`Hold::renewal`]). Each renewal is a conditional put on the head that this node wrote last,
//! so it is also the fence: once another node has replaced the head, this one's next put fails, it stops its compute and sets aside what it
//! had. While the store is away nothing is renewed and the compute goes on: its head says `dirty`, and no node takes over a dirty head
//! unless an operator tells it to give up what was not uploaded ([`release`]), which a valid lease forbids.
//!
//! A put whose answer was lost is found out about at the next one: a head that still names this node and epoch was written by this node.

use super::error::{BranchError, LifecycleError};
use crate::model::{BranchHead, BranchRef, Clock, EpochStart, Holder, ManifestRef, NodeId, UnixMs};
use crate::store::{Catalog, Held, StoreError};
use std::time::Duration;

/// Renewals in the time of a lease: two may fail before it is over. Three puts a minute cost 0.65 USD a month at S3's prices.
const RENEWALS: u32 = 3;
/// How often a change is tried again after finding a put of this node's own whose answer was lost.
const ATTEMPTS: usize = 3;

/// Why a change of a held head failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HoldError {
    /// Another node has it, or it was deleted: nothing of it may be written any more.
    #[error("another node has taken the branch over")]
    Lost,
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<HoldError> for LifecycleError {
    fn from(error: HoldError) -> LifecycleError {
        match error {
            HoldError::Store(error) => error.into(),
            HoldError::Lost => LifecycleError::Other(error.to_string()),
        }
    }
}

/// This node as a holder of branches. Knows nothing of computes, so that a simulation can hold branches the same way. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Hold {
    pub catalog: Catalog,
    pub node: NodeId,
    pub clock: Clock,
    pub lease: Duration,
}

/// What a publish whose put failed turned out to be.
pub(crate) enum Settled {
    /// This node still holds the branch.
    Held,
    /// The put had landed: the branch sleeps.
    Asleep,
}

impl Hold {
    /// This node, as the holder of a branch from now on.
    pub(crate) fn holder(&self) -> Holder {
        let lease_until_ms = self.clock.now() + self.lease.as_millis() as UnixMs;
        Holder { node: self.node.clone(), lease_until_ms }
    }

    /// How long after a change of the head the lease is renewed.
    pub(crate) fn renewal(&self) -> Duration {
        self.lease / RENEWALS
    }

    /// Takes a branch that nobody holds: the head names this node, in the next epoch, and says `dirty`.
    pub(crate) async fn take(&self, free: &Held) -> Result<Held, StoreError> {
        let (holder, now) = (self.holder(), self.clock.now());
        let take = |head: &mut BranchHead| {
            head.epoch += 1;
            (head.holder, head.dirty, head.used_at_ms) = (Some(holder), true, now);
        };
        self.catalog.update_branch(free, take).await
    }

    /// Changes the head of a branch that this node holds, and renews its lease with it.
    pub(crate) async fn update(
        &self,
        held: &mut Held,
        change: impl Fn(&mut BranchHead) + Send + Sync,
    ) -> Result<(), HoldError> {
        for _ in 0..ATTEMPTS {
            let put = self.catalog.update_branch(held, |head| {
                head.holder = Some(self.holder());
                change(head);
            });
            match put.await {
                Ok(now) => {
                    *held = now;
                    return Ok(());
                }
                Err(StoreError::Conflict { .. }) => *held = self.still_ours(&held.head).await?,
                Err(e) => return Err(e.into()),
            }
        }
        Err(HoldError::Lost)
    }

    /// Takes up again what a former process of this node held. Its last put may still be on its way, a suspend's too: the head is replaced
    /// by itself before anything is written, so that such a put can only fail.
    pub(crate) async fn confirm(&self, held: &mut Held) -> Result<(), HoldError> {
        self.update(held, |_| ()).await
    }

    /// Names in the head what was uploaded of a branch that goes on being written here.
    pub(crate) async fn publish_upload(
        &self,
        held: &mut Held,
        (reference, own_bytes, began_at_ms): (ManifestRef, u64, UnixMs),
    ) -> Result<(), HoldError> {
        let publish = |head: &mut BranchHead| {
            if head.epoch_start.is_none() {
                head.epoch_start = Some(EpochStart { manifest: head.manifest.take() });
            }
            head.manifest = Some(reference.clone());
            (head.saved_at_ms, head.own_bytes) = (began_at_ms, own_bytes);
        };
        self.update(held, publish).await
    }

    /// Does `work`, which may take longer than a lease, and renews the lease beside it. That a branch was lost shows at the next change of its head.
    pub(crate) async fn renew_beside<T>(&self, held: &mut Held, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                outcome = &mut work => return outcome,
                () = tokio::time::sleep(self.renewal()) => {
                    if let Err(error) = self.update(held, |_| ()).await {
                        tracing::warn!(branch = %held.head.name, %error, "a lease could not be renewed");
                    }
                }
            }
        }
    }

    /// Names in the head what a stopped branch consists of, and lets go of it. Where this fails, the put may have landed: [`Hold::settle`].
    pub(crate) async fn publish_suspend(
        &self,
        held: &Held,
        reference: ManifestRef,
        own_bytes: u64,
    ) -> Result<Held, StoreError> {
        let now = self.clock.now();
        let publish = |head: &mut BranchHead| {
            (head.holder, head.dirty, head.epoch_start) = (None, false, None);
            (head.manifest, head.own_bytes) = (Some(reference), own_bytes);
            (head.used_at_ms, head.saved_at_ms) = (now, now);
        };
        self.catalog.update_branch(held, publish).await
    }

    /// Finds out what became of a [`Hold::publish_suspend`] that failed, before anything more is written on top of what it may have published.
    pub(crate) async fn settle(&self, held: &mut Held) -> Result<Settled, HoldError> {
        for _ in 0..ATTEMPTS {
            match self.catalog.branch_head(&branch_of(&held.head)).await? {
                Some(now) if now.head.nonce == held.head.nonce => match self.update(held, |_| ()).await {
                    // Replaced by itself, so that a put that is still on its way can only fail.
                    Ok(()) => return Ok(Settled::Held),
                    // It landed just now, perhaps.
                    Err(HoldError::Lost) => {}
                    Err(e) => return Err(e),
                },
                Some(now) if now.head.id == held.head.id && now.head.epoch == held.head.epoch && !now.head.dirty => {
                    return Ok(Settled::Asleep);
                }
                // An earlier put of this node's own whose answer was lost: a renewal.
                Some(now)
                    if now.head.id == held.head.id
                        && now.head.epoch == held.head.epoch
                        && now.head.is_held_by(&self.node) =>
                {
                    *held = now;
                }
                _ => return Err(HoldError::Lost),
            }
        }
        Err(HoldError::Lost)
    }

    /// The head as it is now, if this node wrote it in the present epoch and still holds the branch.
    async fn still_ours(&self, known: &BranchHead) -> Result<Held, HoldError> {
        match self.catalog.branch_head(&branch_of(known)).await? {
            Some(now)
                if now.head.id == known.id && now.head.epoch == known.epoch && now.head.is_held_by(&self.node) =>
            {
                Ok(now)
            }
            _ => Err(HoldError::Lost),
        }
    }

    /// What a client is told of a branch that another node holds.
    pub(super) fn held_elsewhere(&self, branch: &BranchRef, head: &BranchHead) -> BranchError {
        let node = head.holder.as_ref().map_or_else(|| "nobody".to_owned(), |holder| holder.node.to_string());
        let lost = is_over(head, self.clock.now(), self.lease);
        BranchError::HeldElsewhere { branch: branch.to_string(), node, lost }
    }
}

fn branch_of(head: &BranchHead) -> BranchRef {
    BranchRef { project: head.project.clone(), branch: head.name.clone() }
}

/// How long after its end a lease is taken to be over by another node, whose clock may be ahead.
fn skew(lease: Duration) -> Duration {
    lease / 2
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{BaseId, BranchId, Entropy};
    use crate::store::simulated::SimulatedStore;
    use crate::store::{Created, Store};
    use std::sync::Arc;
    use std::sync::atomic::AtomicU64;

    /// Work of ten leases, and the lease never runs out.
    #[tokio::test(start_paused = true)]
    async fn a_lease_is_renewed_beside_what_takes_long() {
        let (simulated, entropy) = (SimulatedStore::new(1), Entropy::seeded(1));
        let catalog = Catalog::new(Store::simulated(&simulated, &entropy), entropy.clone());
        let (clock, lease) = (Clock::Simulated(Arc::new(AtomicU64::new(1))), Duration::from_secs(60));
        let hold = Hold { catalog: catalog.clone(), node: NodeId::random(&entropy), clock, lease };
        let branch: BranchRef = "shop@x".parse().expect("a name");
        let mut head = BranchHead::of_base(&branch, BranchId::random(&entropy), (BaseId::from("b"), 1), 1, 1);
        (head.holder, head.dirty) = (Some(hold.holder()), true);
        let Ok(Created::New(mut held)) = catalog.create_branch(head).await else { panic!("it can be made") };
        let begun = held.head.seq;
        let outcome = hold.renew_beside(&mut held, async {
            tokio::time::sleep(10 * lease).await;
            7
        });
        assert_eq!(outcome.await, 7);
        assert!(held.head.seq >= begun + 20, "{} renewals in ten leases", held.head.seq - begun);
        let now = catalog.branch_head(&branch).await.expect("the store answers").expect("it is there");
        assert_eq!(now.head.nonce, held.head.nonce, "what is published next replaces the newest head");
    }
}
