//! The nouns every other module shares: names, ids, roles, heads and manifests.
//!
//! Plain data without I/O. What is kept in the object store is defined here with its format.

mod ambient;
#[cfg(test)]
pub(crate) mod corpus;
pub mod fault;
mod head;
mod id;
mod manifest;
mod masking_seal;
mod name;
mod role;
mod secret;

pub use ambient::{Ambient, Clock, Entropy, UnixMs};
pub use head::{BranchHead, EpochStart, Holder, ManifestRef, ProjectHead, SealedBase};
pub use id::{BaseId, BranchId, FileId, NodeId, Nonce, PAGE_SIZE, PageNo, SYMLINK_TARGET_MAX};
pub use manifest::{
    BaseManifest, BranchManifest, Cluster, Database, Entry, FileKind, Image, ImagePack, LayerRef, Origin, PackRef,
    Tombstone, TreeDiff, WalSegment,
};
pub use masking_seal::{MaskingSeal, MaskingStatement, ScanSummary};
pub use name::{BranchName, BranchRef, NameError, ProjectName, Target};
pub use role::Role;
pub use secret::Secret;
