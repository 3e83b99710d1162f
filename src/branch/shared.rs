//! What the tasks of all branches share.

use super::bases::Bases;
use super::census::Census;
use super::error::LifecycleError;
use super::gate::Gate;
use super::hold::Hold;
use super::looks::Looks;
use crate::compute::{Identity, Installation};
use crate::filesystem::{Disk, Limits};
use crate::model::{Ambient, BranchHead, NodeId, ProjectName};
use crate::pageserver::PageCache;
use crate::settings::{ComputeSettings, ProjectSettings};
use crate::store::Catalog;
use nix::fcntl::Flock;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Semaphore;

pub(super) struct Shared {
    pub catalog: Catalog,
    pub cache: PageCache,
    pub bases: Bases,
    pub node: NodeId,
    pub data_dir: PathBuf,
    pub disk: Arc<Disk>,
    pub identity: Identity,
    pub compute: ComputeSettings,
    pub projects: BTreeMap<ProjectName, ProjectSettings>,
    pub ambient: Ambient,
    pub hold: Hold,
    pub gate: Arc<Gate>,
    pub looks: Looks,
    pub census: Arc<Census>,
    /// Held while this process lives.
    pub _lock: Flock<File>,
    /// Turns for branches that are brought back at the start of a node: a recovery is bound by its cores.
    pub adoptions: Semaphore,
    pub installations: Mutex<HashMap<u32, Installation>>,
}

impl Shared {
    /// The installation for a major version, looked for once.
    pub(super) async fn installation(&self, major: u32) -> Result<Installation, LifecycleError> {
        let known = self.installations.lock().unwrap_or_else(PoisonError::into_inner).get(&major).cloned();
        if let Some(installation) = known {
            return Ok(installation);
        }
        let found = crate::compute::installation(&self.compute, major).await?;
        self.installations.lock().unwrap_or_else(PoisonError::into_inner).insert(major, found.clone());
        Ok(found)
    }

    /// What a branch may not exceed on this node.
    pub(super) fn limits(&self, head: &BranchHead) -> Limits {
        let project = self.projects.get(&head.project);
        Limits {
            branch: format!("{}@{}", head.project, head.name),
            max_delta_bytes: project.and_then(|project| project.max_delta_bytes).map(|most| most.as_u64()),
            disk: Some(self.disk.clone()),
        }
    }

    pub(super) fn project_names(&self) -> Vec<String> {
        self.projects.keys().map(ToString::to_string).collect()
    }
}
