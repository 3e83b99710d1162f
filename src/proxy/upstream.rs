//! What the proxy needs of the branch manager, so that its tests can put a plain Postgres there.

use crate::branch::{BranchError, Branches, Session};
use crate::model::{BranchRef, Role, Target};
use std::future::Future;
use std::path::Path;

/// Finds branches and their roles, and opens sessions on them. [`Branches`] says what each call promises.
pub(super) trait Upstream: Clone + Send + Sync + 'static {
    /// Keeps the branch awake; dropping it ends the session.
    type Session: Awake;

    fn resolve(
        &self,
        target: &Target,
        project: Option<&str>,
    ) -> impl Future<Output = Result<BranchRef, BranchError>> + Send;

    fn role(&self, branch: &BranchRef, name: &str) -> impl Future<Output = Result<Option<Role>, BranchError>> + Send;

    fn open_session(&self, branch: &BranchRef) -> impl Future<Output = Result<Self::Session, BranchError>> + Send;
}

/// A branch that is held awake.
pub(super) trait Awake: Send + Sync + 'static {
    /// The compute's unix socket.
    fn socket(&self) -> &Path;
}

impl Upstream for Branches {
    type Session = Session;

    async fn resolve(&self, target: &Target, project: Option<&str>) -> Result<BranchRef, BranchError> {
        Branches::resolve(self, target, project).await
    }

    async fn role(&self, branch: &BranchRef, name: &str) -> Result<Option<Role>, BranchError> {
        Branches::role(self, branch, name).await
    }

    async fn open_session(&self, branch: &BranchRef) -> Result<Session, BranchError> {
        Branches::open_session(self, branch).await
    }
}

impl Awake for Session {
    fn socket(&self) -> &Path {
        Session::socket(self)
    }
}
