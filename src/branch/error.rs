//! Why a branch cannot be had.

use crate::compute::ComputeError;
use crate::filesystem::MountError;
use crate::pageserver::PageError;
use crate::store::StoreError;
use std::time::Duration;

/// Why a branch cannot be had. The proxy chooses the SQLSTATE, `Display` tells the client what happened.
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
    #[error("project \"{project}\" is masked, and {reason}")]
    NotMasked { project: String, reason: String },
    #[error("branch {branch} was made before its project was masked, or elsewhere: {reason}")]
    MadeOfRaw { branch: String, reason: String },
    #[error("project \"{project}\" has {limit} branches, the most it may have")]
    TooManyBranches { project: String, limit: usize },
    #[error("branch {branch} is held by another node, {node}{}", if *lost { ", which has not been heard of for a while" } else { "" })]
    HeldElsewhere { branch: String, node: String, lost: bool },
    #[error("there is no branch {branch}")]
    NoBranch { branch: String },
    #[error(
        "the node that holds branch {branch} may still be there: its lease can be taken for over in {}",
        humantime::format_duration(Duration::from_secs(wait.as_secs() + 1))
    )]
    LeaseValid { branch: String, wait: Duration },
    #[error("what branch {branch} had not uploaded is no longer on this node's disk")]
    LocalDataLost { branch: String },
    #[error("this node is stopping")]
    Stopping,
    #[error("branch {branch} cannot be started: {reason}")]
    Start { branch: String, reason: String },
    #[error("the object store cannot be reached: {reason}")]
    Store { reason: String },
}

/// What goes wrong while a branch is brought up or taken down.
#[derive(Debug, thiserror::Error)]
pub enum LifecycleError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Page(#[from] PageError),
    #[error(transparent)]
    Mount(#[from] MountError),
    #[error(transparent)]
    Compute(#[from] ComputeError),
    #[error("{what}: {source}")]
    Io { what: String, source: std::io::Error },
    #[error("{0}")]
    Other(String),
}

impl LifecycleError {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> LifecycleError {
        let what = what.into();
        move |source| LifecycleError::Io { what, source }
    }

    /// As the client of `branch` is told.
    pub(super) fn of_branch(&self, branch: &dyn std::fmt::Display) -> BranchError {
        match self {
            LifecycleError::Store(StoreError::Unavailable { key, reason }) => {
                BranchError::Store { reason: format!("{reason} (object {key})") }
            }
            other => BranchError::Start { branch: branch.to_string(), reason: other.to_string() },
        }
    }
}

/// What `read` answers, or that the store did not: a client that logs in is told so before its handshake times out.
pub(super) async fn answer_within<T, E: From<StoreError>>(
    limit: Duration,
    read: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let silence = |_| {
        let reason = format!("no answer within {}", humantime::format_duration(limit));
        Err(StoreError::Unavailable { key: "head".to_owned(), reason }.into())
    };
    tokio::time::timeout(limit, read).await.unwrap_or_else(silence)
}
