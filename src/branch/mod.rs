//! The life of branches: made on first connect, awake while used, asleep in the store otherwise.
//!
//! [`Branches`] is what the proxy and the admin API see. Each branch has one task (`task`) that owns its life; `provision` brings it
//! up, `suspend` takes it down; `place` says where it lives on disk meanwhile.

pub(crate) mod awake;
mod bases;
pub(crate) mod boot;
mod census;
mod claim;
mod error;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod gate;
mod hold;
mod looks;
pub(crate) mod place;
mod provision;
mod resolve;
mod save;
mod sessions;
mod shared;
#[cfg(test)]
mod simulation;
mod sleep;
mod suspend;
mod task;
pub(crate) mod wal;

mod branches;

pub use branches::{BranchSummary, Branches};
pub use error::{BranchError, LifecycleError};
pub use gate::{MaskingPolicies, MaskingPolicy};
pub use hold::{Released, release};

use crate::pageserver::Volume;
use sessions::Sessions;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use suspend::Recorded;

/// Keeps a branch awake; dropping it is the session's end.
pub struct Session {
    socket: PathBuf,
    sessions: Arc<Sessions>,
}

impl Session {
    fn new(socket: PathBuf, sessions: Arc<Sessions>) -> Self {
        Self { socket, sessions }
    }

    /// The compute's unix socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.sessions.end();
    }
}

/// What a branch's task last said of it.
#[derive(Clone, Debug)]
enum Status {
    Asleep,
    Waking,
    /// Being brought back from what is on this node's disk, which the store does not know.
    Recovering,
    Awake(AwakeStatus),
    /// Its compute is being stopped, and after that has left what it is remembered by.
    Suspending(Option<Arc<Recorded>>),
    /// Its state is on this node's disk, without a compute.
    Down {
        own_pages: u64,
    },
}

#[derive(Clone)]
struct AwakeStatus {
    socket: PathBuf,
    superuser: String,
    volume: Weak<Volume>,
    /// Bytes of its layers in the store.
    stored_bytes: u64,
}

impl std::fmt::Debug for AwakeStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.socket.display())
    }
}
