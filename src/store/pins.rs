//! How a child takes over what its parent's manifest lists while a collector may be at work (DESIGN.md, "GC").
//!
//! A child begins by listing layers that others wrote. Between reading the parent's manifest and putting the child's head nothing in the store says so, and the parent
//! may be deleted meanwhile. Therefore:
//!
//! ```text
//! child, Catalog::pin             collector (collect)
//! 1  put the pin                  a  put a condemn list
//! 2  read the condemn lists       b  read the pins
//! 3  see that all is there        …  a grace
//! 4  put the child's head         c  read all pins, then all heads and manifests
//! 5  remove the pin               d  delete what is condemned, and not reachable by c
//! ```
//!
//! For an object X of the pinned manifest, and a list that condemns it:
//!
//! - **1 before b**: the collector sees the pin. It replaces its list by one without X, or, where it was killed before it could, spares X at c, which comes later.
//! - **1 after b, hence after a**: the child sees the list at 2, as long as it is there. It removes its pin and fails with [`StoreError::Condemned`]; its caller reads the
//!   parent's head again: a parent that lives has other objects by now, or is gone.
//! - **the list is gone at 2**: it is removed when each of its objects is gone, which the child finds at 3 ([`StoreError::Missing`]), or when a grace has gone by since it was
//!   retired, when no collector acts on it any more (`collect`).
//! - **5 before c**: the head was put before, and heads are listed after pins: c finds it.
//!
//! A pin counts while it is younger than the grace, by the store's clock, so that a child which died between 1 and 4 keeps nothing for ever. A child that sleeps between 1 and 4 must
//! not wake up with a pin that is over: [`Pin::check`] lets it put its head only within [`PUBLISH_WITHIN`] of its pin, which is a quarter of the least grace. What is left is a process that
//! stands still between that check and the put for longer than two graces (two passes must have found the pin over): at least two hours, days by default. Or
//! a put that is as long on its way: S3 and Azure refuse a request whose signature is 15 minutes old, a `file://` store has none under way, and of stores behind other
//! doors it is assumed (the simulation assumes it, too).
//!
//! Sealing a base goes the same way: the base's manifest is its pin, since a base that no head lists counts as young as long as its youngest object
//! ([`Catalog::publish_base`]). To bring a deleted branch back is to make a child of its tombstone's manifest.

use super::collect::condemned_keys;
use super::{Catalog, StoreError, document, keys};
use crate::model::fault::{self, FaultPoint};
use crate::model::{BranchId, BranchManifest, ManifestRef, UnixMs};
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::time::Duration;

/// How long after its pin a child may put its head. A quarter of [`super::collect::LEAST_GRACE`].
pub const PUBLISH_WITHIN: Duration = Duration::from_secs(15 * 60);
/// How often condemn lists are read anew when one goes meanwhile.
const LIST_ATTEMPTS: usize = 4;
/// Objects looked for at once.
const LOOK_CONCURRENCY: usize = 16;

/// `v1/pin/<manifest>/<child>`, as plain JSON: what a child that has no head yet is to list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    pub format: u32,
    pub manifest: ManifestRef,
    pub child: BranchId,
    /// By the child's clock, for [`Pin::check`].
    pub pinned_at_ms: UnixMs,
}

impl Pin {
    /// The only format there is yet.
    pub const FORMAT: u32 = 1;

    /// Right before the child's head is put: whether the pin may still be relied on.
    pub fn check(&self, now: UnixMs) -> Result<(), StoreError> {
        let age = Duration::from_millis(now.saturating_sub(self.pinned_at_ms));
        if age < PUBLISH_WITHIN { Ok(()) } else { Err(StoreError::Condemned { key: self.manifest.key.clone() }) }
    }

    fn key(&self) -> Result<String, StoreError> {
        keys::pin(&self.manifest.key, &self.child).ok_or_else(|| StoreError::Damaged {
            key: self.manifest.key.clone(),
            what: "it is no key of a branch's manifest".into(),
        })
    }
}

impl document::Document for Pin {
    const NEWEST: u32 = Pin::FORMAT;
    fn format(&self) -> u32 {
        self.format
    }
}

/// A manifest that stays until its pin is removed or over.
#[derive(Clone, Debug)]
pub struct Pinned {
    pub pin: Pin,
    pub manifest: BranchManifest,
}

impl Catalog {
    /// Steps 1 to 3: from here on, until the pin is over, nothing that `manifest` lists is collected. `child` is an id that nobody else has. Not cancel safe: a
    /// pin may stay, until it is over.
    pub async fn pin(&self, manifest: &ManifestRef, child: &BranchId, now: UnixMs) -> Result<Pinned, StoreError> {
        let pin = Pin { format: Pin::FORMAT, manifest: manifest.clone(), child: child.clone(), pinned_at_ms: now };
        let key = pin.key()?;
        self.store.create(&key, document::encode_head(&key, &pin)).await?;
        fault::pass(FaultPoint::PinPut);
        match self.check_pinned(manifest).await {
            Ok(manifest) => Ok(Pinned { pin, manifest }),
            Err(error) => {
                self.unpin(&pin).await?;
                Err(error)
            }
        }
    }

    async fn check_pinned(&self, reference: &ManifestRef) -> Result<BranchManifest, StoreError> {
        let manifest = self.branch_manifest(reference).await?;
        // A base's packs stay as long as the base, which the child's head names.
        let own = manifest.objects().filter(|key| key.starts_with(keys::BRANCHES)).map(str::to_owned);
        let listed: HashSet<String> = own.chain([reference.key.clone()]).collect();
        self.refuse_condemned(|key| listed.contains(key)).await?;
        // After the lists: one that was read as gone may have been used up.
        let mut looks = futures::stream::iter(listed)
            .map(|key| async move { self.store.length(&key).await.map(|found| found.is_none().then_some(key)) })
            .buffer_unordered(LOOK_CONCURRENCY);
        while let Some(look) = looks.next().await {
            if let Some(key) = look? {
                return Err(StoreError::Missing { key });
            }
        }
        Ok(manifest)
    }

    /// Step 5, or giving up. A pin that is not there is no error.
    pub async fn unpin(&self, pin: &Pin) -> Result<(), StoreError> {
        self.store.delete(&pin.key()?).await
    }

    /// An error where a condemn list names a key that `is_needed`.
    pub(super) async fn refuse_condemned(&self, is_needed: impl Fn(&str) -> bool) -> Result<(), StoreError> {
        let mut vanished = String::new();
        'anew: for _ in 0..LIST_ATTEMPTS {
            let lists = self.store.list(keys::CONDEMNED).await?;
            for list in lists.into_iter().filter(|key| keys::condemn_number(key).is_some()) {
                let Some(condemned) = condemned_keys(&self.store, &list).await? else {
                    // Gone since it was listed; another may have taken its place.
                    vanished = list;
                    continue 'anew;
                };
                if let Some(key) = condemned.into_iter().find(|key| is_needed(key)) {
                    return Err(StoreError::Condemned { key });
                }
            }
            return Ok(());
        }
        Err(StoreError::Unavailable { key: vanished, reason: "condemn lists come and go; try again".into() })
    }
}
