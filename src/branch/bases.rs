//! The bases this node has opened, shared by every branch on them, and what each project's current base is.
//!
//! Bases are immutable, so an opened one is kept. A project's head is read again once it is older than [`FRESH`]: an import
//! by another process shows within that time.

use super::error::LifecycleError;
use crate::model::{BaseId, BaseManifest, ProjectName, SealedBase};
use crate::pageserver::{Base, PageCache};
use crate::store::Catalog;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::OnceCell;

/// How long a project's head is believed.
const FRESH: Duration = Duration::from_secs(1);

/// How long a login waits for a project's head. With the time for a branch's roles it stays below a handshake's.
const PATIENCE: Duration = Duration::from_secs(3);

/// An opened base.
pub(super) struct OpenBase {
    pub manifest: BaseManifest,
    pub base: Arc<Base>,
}

type Shared = Arc<OnceCell<Arc<OpenBase>>>;

pub(super) struct Bases {
    catalog: Catalog,
    cache: PageCache,
    opened: Mutex<HashMap<BaseId, Shared>>,
    current: Mutex<HashMap<ProjectName, (Instant, Option<SealedBase>)>>,
}

impl Bases {
    pub(super) fn new(catalog: Catalog, cache: PageCache) -> Self {
        Self { catalog, cache, opened: Mutex::default(), current: Mutex::default() }
    }

    /// The project's current base, or `None` before its first import.
    pub(super) async fn current(&self, project: &ProjectName) -> Result<Option<SealedBase>, LifecycleError> {
        let known = self.current.lock().unwrap_or_else(PoisonError::into_inner).get(project).cloned();
        if let Some((read_at, base)) = known
            && read_at.elapsed() < FRESH
        {
            return Ok(base);
        }
        let head = self.catalog.project_head(project).await?;
        let base = head.and_then(|head| head.current().cloned());
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.insert(project.clone(), (Instant::now(), base.clone()));
        Ok(base)
    }

    /// As [`Bases::current`], or what it was last where the store does not answer: enough to find one's way to a branch that is here.
    pub(super) async fn last_known(&self, project: &ProjectName) -> Result<Option<SealedBase>, LifecycleError> {
        let read = super::error::answer_within(PATIENCE, self.current(project)).await;
        let known = || self.current.lock().unwrap_or_else(PoisonError::into_inner).get(project).cloned();
        match read {
            Err(LifecycleError::Store(e)) if e.is_retryable() => match known() {
                Some((_, base)) => Ok(base),
                None => Err(e.into()),
            },
            read => read,
        }
    }

    /// Opens a base once, however many ask for it.
    pub(super) async fn open(&self, project: &ProjectName, id: &BaseId) -> Result<Arc<OpenBase>, LifecycleError> {
        let cell = self.opened.lock().unwrap_or_else(PoisonError::into_inner).entry(id.clone()).or_default().clone();
        let open = async {
            let manifest = self.catalog.base_manifest(project, id).await?;
            let base = Arc::new(Base::open(self.cache.clone(), &manifest).await?);
            Ok::<_, LifecycleError>(Arc::new(OpenBase { manifest, base }))
        };
        Ok(cell.get_or_try_init(|| open).await?.clone())
    }
}
