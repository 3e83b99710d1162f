//! Heads and manifests: every change of state that others may see is one conditional put made here.
//!
//! A head carries a fresh nonce in each put, so that [`Store::put_if`] can tell an own put whose answer was lost from somebody else's
//! (DESIGN.md, "head").
//!
//! **Deletion** is a conditional put like any other: of a tombstone, which is the head with [`BranchHead::deleted_at_ms`] set. A head object is never removed, because
//! stores have no dependable conditional delete, and because an absent head says nothing about who was there before:
//!
//! - A create whose answer was lost may still be under way. It is create-only, so it lands only where there never was a head: not on a tombstone.
//! - A node with a former [`Held`] finds another version. Versions are of content and each put has a new nonce, so none ever comes back.
//! - Whoever takes the name again replaces the tombstone that was read, with a new [`crate::model::BranchId`] and an epoch above the tombstone's. A replacement under way
//!   that meets a *later* tombstone, or a branch, fails: two who took the name at once have one winner, however often it is deleted between.
//! - A wake and a deletion replace the same version: one of them fails, and reads anew.
//!
//! A tombstone costs one object of about 700 bytes and one GET in each listing of its project's branches. They stay until something can tell that no put older
//! than them is under way anywhere; the collector removes all the rest.
//!
//! **No wrong head is believed.** One whose sum does not match, that names another branch than its key does (objects were swapped), or that
//! is older than what this node has read or written (the store rolled it back), is [`StoreError::Damaged`]. What was seen is remembered in
//! memory, for [`SEEN_MAX`] heads: a node that was started after a roll-back cannot know of it.

use super::document::Document;
use super::{Expect, Store, StoreError, Version, document, keys};
use crate::model::fault::{self, FaultPoint};
use crate::model::{
    BaseId, BaseManifest, BranchHead, BranchManifest, BranchRef, Entropy, ManifestRef, Nonce, ProjectHead, ProjectName,
    SealedBase, UnixMs,
};
use bytes::Bytes;
use futures::StreamExt;
use quick_cache::sync::Cache;
use std::collections::HashMap;
use std::sync::Arc;

/// Heads and manifests in one store. Cheap to clone.
#[derive(Clone)]
pub struct Catalog {
    pub(super) store: Store,
    pub(super) entropy: Entropy,
    /// By key: the newest that this node has read or written.
    seen: Arc<Cache<String, Age>>,
}

/// How old a head is among those of its identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Age {
    /// The branch's id, or the project: a name that was deleted and made again begins anew.
    of: String,
    /// Grows with each change.
    step: u64,
}

/// Heads that can be old.
pub(super) trait Head: Document {
    fn age(&self) -> Age;
}

impl Head for BranchHead {
    fn age(&self) -> Age {
        Age { of: self.id.to_string(), step: self.seq }
    }
}

impl Head for ProjectHead {
    fn age(&self) -> Age {
        Age { of: String::new(), step: self.current().map_or(0, |base| base.version) }
    }
}

/// A branch's head as this node last read or wrote it, and the version a change must replace.
#[derive(Clone, Debug)]
pub struct Held {
    pub head: BranchHead,
    version: Version,
}

/// The outcome of creating a branch.
#[derive(Clone, Debug)]
pub enum Created {
    /// It is ours.
    New(Held),
    /// Somebody made it before.
    Existing(Held),
}

/// What there is under a branch's name.
#[derive(Clone, Debug)]
pub enum Lookup {
    Found(Box<Held>),
    /// Nobody has it. Whoever makes a branch begins with this epoch: 1, or the one after a deleted branch's last.
    Vacant {
        next_epoch: u64,
    },
}

/// The outcome of deleting a branch.
#[derive(Clone, Debug)]
pub enum Deletion {
    Deleted,
    /// There is none.
    Absent,
    /// A node has it, with changes that nobody else has.
    Held(Box<BranchHead>),
}

/// How often a deletion is tried anew when the head changes meanwhile.
const DELETE_ATTEMPTS: usize = 4;
/// How often a base is listed anew when other imports are published at the same moment.
const PUBLISH_ATTEMPTS: usize = 16;
/// Heads read at once when listing.
const LIST_CONCURRENCY: usize = 16;
/// Heads whose age is remembered, at about 200 bytes each.
const SEEN_MAX: usize = 20_000;

impl Catalog {
    pub fn new(store: Store, entropy: Entropy) -> Self {
        Self { store, entropy, seen: Arc::new(Cache::new(SEEN_MAX)) }
    }

    /// The store below.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The project's head, or `None` before its first import.
    pub async fn project_head(&self, project: &ProjectName) -> Result<Option<ProjectHead>, StoreError> {
        let read = self.read::<ProjectHead>(&keys::project_head(project)).await?;
        Ok(read.map(|(head, _)| head))
    }

    /// Seals a base: writes its manifest, then lists it in the project's head, as its current base, by one conditional put.
    pub async fn publish_base(&self, manifest: &BaseManifest) -> Result<SealedBase, StoreError> {
        let manifest_key = keys::base_manifest(&manifest.project, &manifest.id);
        self.store.create(&manifest_key, document::encode(manifest)).await?;
        fault::pass(FaultPoint::BaseManifestPut);
        // From here on the base's objects count as young, as if they were pinned (`pins`). An import that slept for days may have been given up before.
        let folder = keys::base(&manifest.project, &manifest.id);
        self.refuse_condemned(|key| key.starts_with(&folder)).await?;
        self.check_base_is_there(manifest).await?;
        let key = keys::project_head(&manifest.project);
        for _ in 0..PUBLISH_ATTEMPTS {
            let current = self.read::<ProjectHead>(&key).await?;
            let (mut bases, expect) = match current {
                Some((head, version)) => (head.bases, Expect::Version(version)),
                None => (Vec::new(), Expect::Absent),
            };
            let version = bases.last().map_or(1, |last| last.version + 1);
            let sealed = SealedBase { id: manifest.id.clone(), version, sealed_at_ms: manifest.created_at_ms };
            bases.push(sealed.clone());
            let head = ProjectHead { format: ProjectHead::FORMAT, nonce: Nonce::random(&self.entropy), bases };
            match self.put(&key, &head, expect).await {
                Ok(_) => return Ok(sealed),
                // Another import was first: its base is listed before ours.
                Err(StoreError::Conflict { .. }) => {}
                Err(e) => return Err(e),
            }
        }
        Err(StoreError::Conflict { key })
    }

    async fn check_base_is_there(&self, manifest: &BaseManifest) -> Result<(), StoreError> {
        let listed = self.store.list_objects(&keys::base(&manifest.project, &manifest.id)).await?;
        let there: HashMap<String, u64> = listed.into_iter().map(|object| (object.key, object.bytes)).collect();
        let pack = |number| keys::base_pack(&manifest.project, &manifest.id, number);
        let packs = manifest.packs.iter().map(|part| (pack(part.number), part.bytes));
        let index = (keys::base_index(&manifest.project, &manifest.id), manifest.index_bytes);
        for (key, bytes) in packs.chain([index]) {
            match there.get(&key) {
                None => return Err(StoreError::Missing { key }),
                Some(found) if *found != bytes => {
                    return Err(StoreError::Damaged { key, what: format!("it has {found} bytes, not {bytes}") });
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// A sealed base.
    pub async fn base_manifest(&self, project: &ProjectName, base: &BaseId) -> Result<BaseManifest, StoreError> {
        let key = keys::base_manifest(project, base);
        let object = self.store.get(&key).await?.ok_or_else(|| StoreError::Missing { key: key.clone() })?;
        let manifest: BaseManifest = document::decode(&key, &object.bytes)?;
        if (&manifest.project, &manifest.id) != (project, base) {
            let what = format!("it is the manifest of base {} of {}", manifest.id, manifest.project);
            return Err(StoreError::Damaged { key, what });
        }
        Ok(manifest)
    }

    /// A base's manifest as it is stored, for its boot object.
    pub fn encode_base_manifest(manifest: &BaseManifest) -> (String, Bytes) {
        (keys::base_manifest(&manifest.project, &manifest.id), document::encode(manifest))
    }

    /// A base's manifest from its stored form, which came by another way.
    pub fn decode_base_manifest(key: &str, bytes: &[u8]) -> Result<BaseManifest, StoreError> {
        document::decode(key, bytes)
    }

    /// A branch's manifest from its stored form, which came by another way; checked against what the head says.
    pub fn decode_branch_manifest(reference: &ManifestRef, bytes: &[u8]) -> Result<BranchManifest, StoreError> {
        check_manifest(reference, bytes)?;
        document::decode(&reference.key, bytes)
    }

    /// All sealed bases of a project, oldest first.
    pub async fn bases(&self, project: &ProjectName) -> Result<Vec<(SealedBase, BaseManifest)>, StoreError> {
        let Some(head) = self.project_head(project).await? else { return Ok(Vec::new()) };
        let mut bases = Vec::new();
        for sealed in head.bases {
            let manifest = self.base_manifest(project, &sealed.id).await?;
            bases.push((sealed, manifest));
        }
        Ok(bases)
    }

    /// The branch's head, or `None` where nobody made it, or it was deleted.
    pub async fn branch_head(&self, branch: &BranchRef) -> Result<Option<Held>, StoreError> {
        Ok(self.head_or_tombstone(branch).await?.filter(|held| !held.head.is_tombstone()))
    }

    /// As [`Catalog::branch_head`], and with which epoch to begin where there is none.
    pub async fn look_up(&self, branch: &BranchRef) -> Result<Lookup, StoreError> {
        Ok(match self.head_or_tombstone(branch).await? {
            None => Lookup::Vacant { next_epoch: 1 },
            Some(held) if held.head.is_tombstone() => Lookup::Vacant { next_epoch: held.head.epoch + 1 },
            Some(held) => Lookup::Found(Box::new(held)),
        })
    }

    /// What stands under the branch's name, a tombstone included.
    pub async fn head_or_tombstone(&self, branch: &BranchRef) -> Result<Option<Held>, StoreError> {
        let key = keys::branch_head(branch);
        let Some((head, version)) = self.read::<BranchHead>(&key).await? else { return Ok(None) };
        if (&head.project, &head.name) != (&branch.project, &branch.branch) {
            let what = format!("it is the head of {}@{}", head.project, head.name);
            return Err(StoreError::Damaged { key, what });
        }
        Ok(Some(Held { head, version }))
    }

    /// Makes a branch by writing its head, unless it is there. `head.epoch` is what [`Catalog::look_up`] said; nonce, and `seq` over a
    /// tombstone, are set here.
    pub async fn create_branch(&self, mut head: BranchHead) -> Result<Created, StoreError> {
        head.nonce = Nonce::random(&self.entropy);
        let branch = BranchRef { project: head.project.clone(), branch: head.name.clone() };
        let key = keys::branch_head(&branch);
        // A later epoch than the first stands over a tombstone.
        let mut outcome = match head.epoch {
            1 => self.put(&key, &head, Expect::Absent).await,
            _ => Err(StoreError::Conflict { key: key.clone() }),
        };
        if let Err(StoreError::Conflict { .. }) = outcome {
            match self.head_or_tombstone(&branch).await? {
                Some(found) if !found.head.is_tombstone() => return Ok(Created::Existing(found)),
                Some(tombstone) if tombstone.head.epoch < head.epoch => {
                    head.seq = tombstone.head.seq + 1;
                    outcome = self.put(&key, &head, Expect::Version(tombstone.version)).await;
                }
                // Made and deleted since it was looked up.
                _ => {}
            }
        }
        match outcome {
            Ok(version) => Ok(Created::New(Held { head, version })),
            Err(StoreError::Conflict { .. }) => match self.branch_head(&branch).await? {
                Some(held) => Ok(Created::Existing(held)),
                None => {
                    let reason = "others made and deleted the branch at the same moment; try again".into();
                    Err(StoreError::Unavailable { key, reason })
                }
            },
            Err(e) => Err(e),
        }
    }

    /// Deletes a branch by replacing its head with a tombstone. Its objects go with the next collections, but for those that children list.
    pub async fn delete_branch(&self, branch: &BranchRef, now: UnixMs) -> Result<Deletion, StoreError> {
        let mut ours = None;
        for _ in 0..DELETE_ATTEMPTS {
            let found = self.head_or_tombstone(branch).await?.filter(|held| !held.head.is_tombstone());
            let held = match (found, &ours) {
                (None, None) => return Ok(Deletion::Absent),
                // It went between our attempts, by our own put or another's. What has its name now is another branch.
                (None, Some(_)) => return Ok(Deletion::Deleted),
                (Some(held), Some(ours)) if held.head.id != *ours => return Ok(Deletion::Deleted),
                (Some(held), _) => held,
            };
            if held.head.dirty || held.head.holder.is_some() {
                return Ok(Deletion::Held(Box::new(held.head)));
            }
            ours = Some(held.head.id.clone());
            match self.update_branch(&held, |head| head.deleted_at_ms = Some(now)).await {
                Ok(_) => {
                    fault::pass(FaultPoint::TombstonePut);
                    return Ok(Deletion::Deleted);
                }
                Err(StoreError::Conflict { .. }) => {}
                Err(e) => return Err(e),
            }
        }
        Err(StoreError::Conflict { key: keys::branch_head(branch) })
    }

    /// Replaces the head that `held` is with a changed one; [`StoreError::Conflict`] when another node was first.
    pub async fn update_branch(
        &self,
        held: &Held,
        change: impl FnOnce(&mut BranchHead) + Send,
    ) -> Result<Held, StoreError> {
        let mut head = held.head.clone();
        change(&mut head);
        head.seq += 1;
        head.nonce = Nonce::random(&self.entropy);
        let key = keys::branch_head(&BranchRef { project: head.project.clone(), branch: head.name.clone() });
        let version = self.put(&key, &head, Expect::Version(held.version.clone())).await?;
        Ok(Held { head, version })
    }

    /// The heads of all branches of a project, by name.
    pub async fn branches(&self, project: &ProjectName) -> Result<Vec<BranchHead>, StoreError> {
        let branches = self.branch_names(project).await?;
        let mut reads = futures::stream::iter(branches)
            .map(|branch| async move { self.branch_head(&branch).await })
            .buffer_unordered(LIST_CONCURRENCY);
        let mut heads = Vec::new();
        while let Some(read) = reads.next().await {
            heads.extend(read?.map(|held| held.head));
        }
        heads.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(heads)
    }

    /// Whether the project has fewer than `limit` branches. Reads heads only where their names alone, deleted ones included, are as many.
    pub async fn has_room(&self, project: &ProjectName, limit: usize) -> Result<bool, StoreError> {
        Ok(self.branch_names(project).await?.len() < limit || self.branches(project).await?.len() < limit)
    }

    /// Names of all branches of a project, deleted ones included, without reading their heads.
    pub async fn branch_names(&self, project: &ProjectName) -> Result<Vec<BranchRef>, StoreError> {
        let components = self.store.list_children(&keys::branches(project)).await?;
        Ok(components.iter().filter_map(|component| keys::branch_of(project, component)).collect())
    }

    /// Writes a branch's manifest under `key`. Returns it as it is stored, too.
    pub async fn create_manifest(
        &self,
        key: String,
        manifest: &BranchManifest,
    ) -> Result<(ManifestRef, Bytes), StoreError> {
        let bytes = document::encode(manifest);
        let sha256 = document::sha256(&bytes);
        self.store.create(&key, bytes.clone()).await?;
        Ok((ManifestRef { key, sha256 }, bytes))
    }

    /// Reads a branch's manifest and checks it against what the head says.
    pub async fn branch_manifest(&self, reference: &ManifestRef) -> Result<BranchManifest, StoreError> {
        document::decode(&reference.key, &self.manifest_object(reference).await?)
    }

    /// A branch's manifest as it is stored, checked against what the head says.
    pub(super) async fn manifest_object(&self, reference: &ManifestRef) -> Result<Bytes, StoreError> {
        let key = &reference.key;
        let object = self.store.get(key).await?.ok_or_else(|| StoreError::Missing { key: key.clone() })?;
        check_manifest(reference, &object.bytes)?;
        Ok(object.bytes)
    }

    /// A mutable object that is never old.
    pub(super) async fn read_document<T: Document>(&self, key: &str) -> Result<Option<T>, StoreError> {
        let Some(object) = self.store.get(key).await? else { return Ok(None) };
        document::decode_head(key, &object.bytes).map(Some)
    }

    async fn read<T: Head>(&self, key: &str) -> Result<Option<(T, Version)>, StoreError> {
        // Looked up before the read begins: what is put meanwhile may be newer than what this read finds.
        let seen = self.seen.get(key);
        let Some(object) = self.store.get(key).await? else { return Ok(None) };
        let head: T = document::decode_head(key, &object.bytes)?;
        let age = head.age();
        match seen {
            Some(seen) if seen.of == age.of && seen.step > age.step => {
                let what = format!("it is stale: the store gave version {}, and had {} before", age.step, seen.step);
                return Err(StoreError::Damaged { key: key.to_owned(), what });
            }
            Some(seen) if seen == age => {}
            _ => self.remember(key, age),
        }
        Ok(Some((head, object.version)))
    }

    async fn put<T: Head>(&self, key: &str, head: &T, expect: Expect) -> Result<Version, StoreError> {
        let version = self.store.put_if(key, document::encode_head(key, head), expect).await?;
        self.remember(key, head.age());
        Ok(version)
    }

    /// A slow read may come here after a newer put did; the younger age stays.
    fn remember(&self, key: &str, age: Age) {
        match self.seen.get(key) {
            Some(seen) if seen.of == age.of && seen.step >= age.step => {}
            _ => self.seen.insert(key.to_owned(), age),
        }
    }
}

fn check_manifest(reference: &ManifestRef, bytes: &[u8]) -> Result<(), StoreError> {
    if document::sha256(bytes) == reference.sha256 {
        return Ok(());
    }
    let what = "its hash is not the one in the branch's head".into();
    Err(StoreError::Damaged { key: reference.key.clone(), what })
}

#[cfg(test)]
mod tests {
    use super::super::simulated::{Faults, SimulatedStore};
    use super::*;
    use crate::model::BranchId;

    fn head(name: &str, entropy: &Entropy) -> BranchHead {
        BranchHead::of_base(&branch(name), BranchId::random(entropy), (BaseId::random(entropy), 1), 1, 0)
    }

    fn branch(name: &str) -> BranchRef {
        BranchRef { project: "shop".parse().expect("a name"), branch: name.parse().expect("a name") }
    }

    fn catalog(simulated: &SimulatedStore, seed: u64) -> Catalog {
        let entropy = Entropy::seeded(seed);
        Catalog::new(Store::simulated(simulated, &entropy), entropy)
    }

    async fn made(catalog: &Catalog, name: &str) -> Held {
        match catalog.create_branch(head(name, &catalog.entropy)).await.expect("the store answers") {
            Created::New(held) => held,
            Created::Existing(held) => panic!("{name} is there already: {held:?}"),
        }
    }

    fn damage(read: Result<Option<Held>, StoreError>) -> String {
        match read {
            Err(StoreError::Damaged { key, what }) => format!("{key} {what}"),
            other => panic!("this must be noticed: {other:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_is_flipped_cut_swapped_or_stale_is_damaged() {
        let simulated = SimulatedStore::new(1);
        let catalog = catalog(&simulated, 1);
        let (one, two) = (made(&catalog, "one").await, made(&catalog, "two").await);
        let (key, other) = (keys::branch_head(&branch("one")), keys::branch_head(&branch("two")));
        let newer = catalog.update_branch(&one, |head| head.own_bytes = 1).await.expect("nobody else");
        catalog.update_branch(&two, |head| head.own_bytes = 2).await.expect("nobody else");

        assert!(simulated.roll_back(&key, 1).await);
        assert!(damage(catalog.branch_head(&branch("one")).await).contains("stale"));
        assert!(simulated.roll_back(&key, 0).await);
        assert_eq!(catalog.branch_head(&branch("one")).await.expect("whole").expect("there").head, newer.head);

        simulated.flip_bit(&key, 999).await;
        damage(catalog.branch_head(&branch("one")).await);
        simulated.flip_bit(&key, 999).await;
        simulated.swap(&key, &other).await;
        assert!(damage(catalog.branch_head(&branch("one")).await).contains("its sum does not match"));
        simulated.swap(&key, &other).await;
        simulated.truncate(&key, 100).await;
        assert!(damage(catalog.branch_head(&branch("one")).await).contains(&key));
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_made_again_is_not_stale() {
        let simulated = SimulatedStore::new(2);
        let catalog = catalog(&simulated, 2);
        let held = made(&catalog, "one").await;
        catalog.update_branch(&held, |head| head.own_bytes = 1).await.expect("nobody else");
        simulated.remove(&keys::branch_head(&branch("one"))).await;
        made(&catalog, "one").await;
        assert!(catalog.branch_head(&branch("one")).await.expect("it is read").is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn every_change_lands_once_through_lost_replies() {
        let simulated = SimulatedStore::new(3);
        let catalog = catalog(&simulated, 3);
        simulated.set_faults(Faults { before: 0.15, after: 0.3, ..Faults::default() });
        let mut held = made(&catalog, "one").await;
        for n in 2..=200 {
            held = catalog.update_branch(&held, |head| head.own_bytes += 1).await.expect("nobody else writes");
            assert_eq!((held.head.seq, held.head.own_bytes), (n, n - 1));
        }
        let read = catalog.branch_head(&branch("one")).await.expect("it is read").expect("it is there");
        assert_eq!(read.head, held.head);
    }
}
