//! Heads and manifests: every change of state that others may see is one conditional put made here.
//!
//! A head carries a fresh nonce in each put, so that [`Store::put_if`] can tell an own put whose answer was lost from somebody else's
//! (DESIGN.md, "head").
//!
//! **No wrong head is believed.** One whose sum does not match, that names another branch than its key does (objects were swapped), or that
//! is older than what this node has read or written (the store rolled it back), is [`StoreError::Damaged`]. What was seen is remembered in
//! memory, for [`SEEN_MAX`] heads: a node that was started after a roll-back cannot know of it.

use super::{Expect, Store, StoreError, Version, document, keys};
use crate::model::{
    BaseId, BaseManifest, BranchHead, BranchManifest, BranchRef, Entropy, ManifestRef, Nonce, ProjectHead, ProjectName,
    SealedBase,
};
use futures::StreamExt;
use quick_cache::sync::Cache;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;

/// Heads and manifests in one store. Cheap to clone.
#[derive(Clone)]
pub struct Catalog {
    store: Store,
    entropy: Entropy,
    /// By key: the newest that this node has read or written.
    seen: Arc<Cache<String, Age>>,
}

/// How old a head is among those of its identity.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Age {
    /// The branch's id, or the project: a name that was deleted and made again begins anew.
    of: String,
    /// Grows with each change.
    step: u64,
}

/// Heads that can be old.
trait Head: Serialize + DeserializeOwned {
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
        let key = keys::project_head(&manifest.project);
        for _ in 0..PUBLISH_ATTEMPTS {
            let current = self.read::<ProjectHead>(&key).await?;
            let (mut bases, expect) = match current {
                Some((head, version)) => (head.bases, Expect::Version(version)),
                None => (Vec::new(), Expect::Absent),
            };
            let sealed = SealedBase {
                id: manifest.id.clone(),
                version: bases.last().map_or(1, |last| last.version + 1),
                sealed_at_ms: manifest.created_at_ms,
            };
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

    /// The branch's head, or `None` where nobody made it.
    pub async fn branch_head(&self, branch: &BranchRef) -> Result<Option<Held>, StoreError> {
        let key = keys::branch_head(branch);
        let Some((head, version)) = self.read::<BranchHead>(&key).await? else { return Ok(None) };
        if (&head.project, &head.name) != (&branch.project, &branch.branch) {
            let what = format!("it is the head of {}@{}", head.project, head.name);
            return Err(StoreError::Damaged { key, what });
        }
        Ok(Some(Held { head, version }))
    }

    /// Makes a branch by writing its head, unless it is there. `head.nonce` is set here.
    pub async fn create_branch(&self, mut head: BranchHead) -> Result<Created, StoreError> {
        head.nonce = Nonce::random(&self.entropy);
        let branch = BranchRef { project: head.project.clone(), branch: head.name.clone() };
        let key = keys::branch_head(&branch);
        match self.put(&key, &head, Expect::Absent).await {
            Ok(version) => Ok(Created::New(Held { head, version })),
            Err(StoreError::Conflict { .. }) => match self.branch_head(&branch).await? {
                Some(held) => Ok(Created::Existing(held)),
                None => {
                    Err(StoreError::Unavailable { key, reason: "it conflicted, yet is not there; try again".into() })
                }
            },
            Err(e) => Err(e),
        }
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

    /// Names of all branches of a project, without reading their heads.
    pub async fn branch_names(&self, project: &ProjectName) -> Result<Vec<BranchRef>, StoreError> {
        let components = self.store.list_children(&keys::branches(project)).await?;
        Ok(components.iter().filter_map(|component| keys::branch_of(project, component)).collect())
    }

    /// Writes a branch's manifest under `key`.
    pub async fn create_manifest(
        &self,
        key: String,
        manifest: &BranchManifest,
    ) -> Result<(ManifestRef, u64), StoreError> {
        let bytes = document::encode(manifest);
        let (sha256, length) = (document::sha256(&bytes), bytes.len() as u64);
        self.store.create(&key, bytes).await?;
        Ok((ManifestRef { key, sha256 }, length))
    }

    /// Reads a branch's manifest and checks it against what the head says.
    pub async fn branch_manifest(&self, reference: &ManifestRef) -> Result<BranchManifest, StoreError> {
        let key = &reference.key;
        let object = self.store.get(key).await?.ok_or_else(|| StoreError::Missing { key: key.clone() })?;
        if document::sha256(&object.bytes) != reference.sha256 {
            return Err(StoreError::Damaged {
                key: key.clone(),
                what: "its hash is not the one in the branch's head".into(),
            });
        }
        document::decode(key, &object.bytes)
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
        let version = self.store.put_if(key, document::encode_head(head), expect).await?;
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

#[cfg(test)]
mod tests {
    use super::super::simulated::{Faults, SimulatedStore};
    use super::*;
    use crate::model::BranchId;

    fn head(name: &str, entropy: &Entropy) -> BranchHead {
        BranchHead {
            format: BranchHead::FORMAT,
            nonce: Nonce::random(entropy),
            project: "shop".parse().expect("a name"),
            name: name.parse().expect("a name"),
            id: BranchId::random(entropy),
            base: BaseId::random(entropy),
            base_version: 1,
            epoch: 1,
            seq: 1,
            holder: None,
            dirty: false,
            manifest: None,
            parent: "base 1".to_owned(),
            created_at_ms: 0,
            used_at_ms: 0,
            own_bytes: 0,
        }
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
        assert!(damage(catalog.branch_head(&branch("one")).await).contains("shop@two"));
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
