//! The two small mutable objects: a project's head names its current base, a branch's head
//! names its manifest and holder. Both change by conditional put only (`store::catalog`).

use super::{BaseId, BranchId, BranchName, BranchRef, NodeId, Nonce, ProjectName, UnixMs};
use serde::{Deserialize, Serialize};

/// `v1/project/<project>/head`, as plain JSON with its sum (`store::document`). A base that is not listed here does not exist.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProjectHead {
    pub format: u32,
    pub nonce: Nonce,
    /// Oldest first, never empty; the last is current.
    pub bases: Vec<SealedBase>,
}

impl ProjectHead {
    /// The only format there is yet.
    pub const FORMAT: u32 = 1;

    /// The base that new branches are made from.
    pub fn current(&self) -> Option<&SealedBase> {
        self.bases.last()
    }
}

/// One sealed base of a project.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedBase {
    pub id: BaseId,
    /// 1, 2, 3 … within the project.
    pub version: u64,
    pub sealed_at_ms: UnixMs,
}

/// The node that may write a branch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    pub node: NodeId,
    /// The holder renews it well before. Once it is long over, the node may be taken for lost.
    #[serde(default)]
    pub lease_until_ms: UnixMs,
}

/// What the holder's delta is a difference to, where a background upload has moved the head's manifest on since.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochStart {
    /// `None`: the base.
    pub manifest: Option<ManifestRef>,
}

/// Where a branch's manifest is and what it must hash to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestRef {
    pub key: String,
    /// SHA-256 over the stored object, in hexadecimal.
    pub sha256: String,
}

/// `v1/project/<project>/branch/<name>/head`, as plain JSON with its sum (`store::document`).
///
/// `epoch` grows with every change of holder, `seq` with every change at all. `nonce` is new in each put, so that
/// a writer who got an ambiguous answer can read back and see whether the head is its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BranchHead {
    pub format: u32,
    pub nonce: Nonce,
    pub project: ProjectName,
    pub name: BranchName,
    pub id: BranchId,
    pub base: BaseId,
    pub base_version: u64,
    pub epoch: u64,
    pub seq: u64,
    pub holder: Option<Holder>,
    /// Set before the first local write of an epoch, cleared by a complete upload: while set, the
    /// holder's disk has what the store has not.
    pub dirty: bool,
    /// The last complete upload; `None` until the first one: the branch is its base.
    pub manifest: Option<ManifestRef>,
    /// Set by the first background upload of an epoch, cleared by the suspend that ends it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch_start: Option<EpochStart>,
    /// When the last upload began: what was written since is on the holder's disk only. 0 where there was none.
    #[serde(default)]
    pub saved_at_ms: UnixMs,
    /// What it was made from, for people: `base 1`.
    pub parent: String,
    pub created_at_ms: UnixMs,
    pub used_at_ms: UnixMs,
    /// Bytes of its own layers, manifest and WAL in the store.
    pub own_bytes: u64,
    /// Set in a tombstone: the branch was deleted then, and its name is free. A head is never removed from the store: whoever still
    /// holds a former version of it, or has a put under way, must find it replaced, and only an object that is there can say so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted_at_ms: Option<UnixMs>,
}

impl BranchHead {
    /// A branch as it is made from a base: held by nobody, with nothing of its own. Its nonce is given when it is put.
    pub fn of_base(branch: &BranchRef, id: BranchId, (base, version): (BaseId, u64), epoch: u64, now: UnixMs) -> Self {
        BranchHead {
            format: Self::FORMAT,
            nonce: Nonce::from(""),
            project: branch.project.clone(),
            name: branch.branch.clone(),
            id,
            base,
            base_version: version,
            epoch,
            seq: 1,
            holder: None,
            dirty: false,
            manifest: None,
            epoch_start: None,
            saved_at_ms: 0,
            parent: format!("base {version}"),
            created_at_ms: now,
            used_at_ms: now,
            own_bytes: 0,
            deleted_at_ms: None,
        }
    }

    /// Whether `node` is the one that may write it.
    pub fn is_held_by(&self, node: &NodeId) -> bool {
        self.holder.as_ref().is_some_and(|holder| holder.node == *node)
    }

    /// The manifest that the present epoch began with: the holder's delta is a difference to it.
    pub fn start_manifest(&self) -> Option<&ManifestRef> {
        match &self.epoch_start {
            Some(start) => start.manifest.as_ref(),
            None => self.manifest.as_ref(),
        }
    }

    /// Whether it says that the branch is no more.
    pub fn is_tombstone(&self) -> bool {
        self.deleted_at_ms.is_some()
    }

    /// The only format there is yet.
    pub const FORMAT: u32 = 1;
}
