//! Object keys (DESIGN.md, "The page server"). The only place that spells them.

use crate::model::{BaseId, BranchId, BranchName, BranchRef, Nonce, ProjectName};

/// Mutable: names the project's current base.
pub fn project_head(project: &ProjectName) -> String {
    format!("v1/project/{project}/head")
}

/// Everything of one base.
pub fn base(project: &ProjectName, base: &BaseId) -> String {
    format!("v1/project/{project}/base/{base}")
}

/// What a base consists of.
pub fn base_manifest(project: &ProjectName, id: &BaseId) -> String {
    format!("{}/manifest", base(project, id))
}

/// Names, sizes and frame places of a base.
pub fn base_index(project: &ProjectName, id: &BaseId) -> String {
    format!("{}/index", base(project, id))
}

/// The index before the private start; deleted once the base is sealed.
pub fn base_staged_index(project: &ProjectName, id: &BaseId) -> String {
    format!("{}/staged-index", base(project, id))
}

/// One pack of a base.
pub fn base_pack(project: &ProjectName, id: &BaseId, number: u32) -> String {
    format!("{}/pack/{number:05}", base(project, id))
}

/// Heads of all branches of a project lie below.
pub fn branches(project: &ProjectName) -> String {
    format!("v1/project/{project}/branch")
}

/// Mutable: the branch's head.
pub fn branch_head(branch: &BranchRef) -> String {
    format!("{}/{}/head", branches(&branch.project), branch.branch.as_key())
}

/// The branch whose folder below [`branches`] is named `component`, where that is a name.
pub fn branch_of(project: &ProjectName, component: &str) -> Option<BranchRef> {
    let branch = BranchName::from_key(component).ok()?;
    Some(BranchRef { project: project.clone(), branch })
}

/// A branch's manifest.
pub fn manifest(branch: &BranchId, epoch: u64, seq: u64, nonce: &Nonce) -> String {
    format!("v1/branch/{branch}/manifest/{epoch:08}-{seq:08}-{nonce}")
}

/// A branch's layer.
pub fn layer(branch: &BranchId, epoch: u64, seq: u64, nonce: &Nonce) -> String {
    format!("v1/branch/{branch}/layer/{epoch:08}-{seq:08}-{nonce}")
}

/// What the keys of all layers of one upload have in common and no others': their nonce.
pub fn upload_of(layer: &str) -> &str {
    layer.rsplit('-').next().unwrap_or(layer)
}

/// Where the start-up probe writes; removed by it.
pub fn probe(nonce: &Nonce) -> String {
    format!("v1/probe/{nonce}")
}
