//! The life of branches: made on first connect, awake while used, asleep in the store otherwise.

use crate::model::{BranchRef, Role, Target};
use std::path::{Path, PathBuf};

/// Why a branch cannot be had. The proxy chooses the SQLSTATE, `Display` tells the client what to do.
#[derive(Clone, Debug, thiserror::Error)]
pub enum BranchError {
    #[error("no project has a database \"{database}\"")]
    UnknownDatabase { database: String, known: Vec<String> },
    #[error("database \"{database}\" exists in several projects: {}", projects.join(", "))]
    AmbiguousDatabase { database: String, projects: Vec<String> },
    #[error("project \"{project}\" is not in the config of this node")]
    UnknownProject { project: String, known: Vec<String> },
    #[error("project \"{project}\" has no base yet")]
    NoBase { project: String },
    #[error("project \"{project}\" has {limit} branches, the most it may have")]
    TooManyBranches { project: String, limit: usize },
    #[error("branch {branch} is awake on another node")]
    HeldElsewhere { branch: String },
    #[error("this node is stopping")]
    Stopping,
    #[error("branch {branch} cannot be started: {reason}")]
    Start { branch: String, reason: String },
    #[error("the object store cannot be reached: {reason}")]
    Store { reason: String },
}

/// All branches of this node. Cheap to clone.
#[derive(Clone)]
pub struct Branches {}

impl Branches {
    /// Which branch `target` means: the project that has its database. `project` narrows it where several have
    /// (`options=-c offshoot.project=name`). Reads the store only when this node knows nothing newer than a second.
    pub async fn resolve(&self, _target: &Target, _project: Option<&str>) -> Result<BranchRef, BranchError> {
        todo!()
    }

    /// The role `name` as the branch has it, or would have it were it made now. Makes nothing and starts nothing.
    pub async fn role(&self, _branch: &BranchRef, _name: &str) -> Result<Option<Role>, BranchError> {
        todo!()
    }

    /// The branch's compute, made and woken if need be, once it accepts connections. Only for authenticated clients.
    /// Cancel safe: what was begun for a client that went away is finished and falls asleep in its time.
    pub async fn open_session(&self, _branch: &BranchRef) -> Result<Session, BranchError> {
        todo!()
    }
}

/// Keeps a branch awake; dropping it is the session's end.
pub struct Session {
    socket: PathBuf,
}

impl Session {
    /// The compute's unix socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }
}
