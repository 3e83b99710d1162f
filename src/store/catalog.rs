//! Heads and manifests: every change of state that others may see is one conditional put made here.
//!
//! A head carries a fresh nonce in each put. After a conflict, or an answer that may hide a landed put, it is read back: our own nonce
//! means that we won after all (DESIGN.md, "head").

use super::{Expect, Store, StoreError, Version, document, keys};
use crate::model::{
    BaseId, BaseManifest, BranchHead, BranchManifest, BranchRef, Entropy, ManifestRef, Nonce, ProjectHead, ProjectName,
    SealedBase,
};
use bytes::Bytes;
use futures::StreamExt;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Heads and manifests in one store. Cheap to clone.
#[derive(Clone)]
pub struct Catalog {
    store: Store,
    entropy: Entropy,
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

impl Catalog {
    pub fn new(store: Store, entropy: Entropy) -> Self {
        Self { store, entropy }
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
            match self.put_own(&key, &head, |read: &ProjectHead| read.nonce == head.nonce, expect).await {
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
        document::decode(&key, &object.bytes)
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
        let read = self.read::<BranchHead>(&keys::branch_head(branch)).await?;
        Ok(read.map(|(head, version)| Held { head, version }))
    }

    /// Makes a branch by writing its head, unless it is there. `head.nonce` is set here.
    pub async fn create_branch(&self, mut head: BranchHead) -> Result<Created, StoreError> {
        head.nonce = Nonce::random(&self.entropy);
        let branch = BranchRef { project: head.project.clone(), branch: head.name.clone() };
        let key = keys::branch_head(&branch);
        let nonce = head.nonce.clone();
        match self.put_own(&key, &head, |read: &BranchHead| read.nonce == nonce, Expect::Absent).await {
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
        let nonce = head.nonce.clone();
        let expect = Expect::Version(held.version.clone());
        let version = self.put_own(&key, &head, |read: &BranchHead| read.nonce == nonce, expect).await?;
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

    async fn read<T: DeserializeOwned>(&self, key: &str) -> Result<Option<(T, Version)>, StoreError> {
        let Some(object) = self.store.get(key).await? else { return Ok(None) };
        let head = serde_json::from_slice(&object.bytes)
            .map_err(|e| StoreError::Damaged { key: key.to_owned(), what: e.to_string() })?;
        Ok(Some((head, object.version)))
    }

    /// A conditional put whose ambiguous failure is resolved by reading back.
    async fn put_own<T: Serialize + DeserializeOwned>(
        &self,
        key: &str,
        head: &T,
        is_own: impl Fn(&T) -> bool,
        expect: Expect,
    ) -> Result<Version, StoreError> {
        let bytes = Bytes::from(serde_json::to_vec_pretty(head).expect("heads hold only strings and numbers"));
        match self.store.put_if(key, bytes, expect).await {
            Ok(version) => Ok(version),
            Err(error @ (StoreError::Conflict { .. } | StoreError::Unavailable { .. })) => {
                match self.read::<T>(key).await {
                    Ok(Some((read, version))) if is_own(&read) => Ok(version),
                    _ => Err(error),
                }
            }
            Err(e) => Err(e),
        }
    }
}
