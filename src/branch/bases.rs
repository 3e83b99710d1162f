//! The bases this node has opened, shared by every branch on them, and what each project's current base is.
//!
//! Bases are immutable, so an opened one is kept. A project's head is read again once it is older than [`FRESH`]: an import
//! by another process shows within that time to whoever makes a branch.

use super::boot;
use super::error::LifecycleError;
use crate::model::{BaseId, BaseManifest, ProjectName, SealedBase};
use crate::pageserver::{Base, PageCache, StoredRange};
use crate::store::{Catalog, keys};
use std::collections::{HashMap, HashSet};
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
    /// What its boot object holds: branches' need not.
    pub boot_ranges: HashSet<StoredRange>,
}

type Shared = Arc<OnceCell<Arc<OpenBase>>>;

pub(super) struct Bases {
    catalog: Catalog,
    cache: PageCache,
    opened: Mutex<HashMap<BaseId, Shared>>,
    current: Mutex<HashMap<ProjectName, (Instant, Option<SealedBase>)>>,
    /// When a refresh behind a client's back last began.
    refreshed: Mutex<HashMap<ProjectName, Instant>>,
}

impl Bases {
    pub(super) fn new(catalog: Catalog, cache: PageCache) -> Self {
        Self { catalog, cache, opened: Mutex::default(), current: Mutex::default(), refreshed: Mutex::default() }
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

    /// What the project's head was when it was last read; `None` if it never was.
    pub(super) fn known(&self, project: &ProjectName) -> Option<Option<SealedBase>> {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.get(project).map(|(_, base)| base.clone())
    }

    /// Whether it is time to read the project's head again. Who is told so does it; for a moment others are not.
    pub(super) fn begin_refresh(&self, project: &ProjectName) -> bool {
        let mut refreshed = self.refreshed.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = refreshed.get(project).is_none_or(|at| at.elapsed() >= FRESH);
        if is_due {
            refreshed.insert(project.clone(), Instant::now());
        }
        is_due
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
            let store = self.catalog.store();
            let boot = boot::read(store, &keys::base_boot(project, id)).await;
            let key = keys::base_manifest(project, id);
            let at_hand = boot.as_ref().and_then(|boot| boot.document(&key));
            let manifest = match at_hand.map(|document| Catalog::decode_base_manifest(&key, &document)) {
                Some(Ok(manifest)) => manifest,
                _ => self.catalog.base_manifest(project, id).await?,
            };
            let seeded = boot.as_ref().map(|boot| boot.seed(&self.cache));
            let base = Arc::new(Base::open(self.cache.clone(), &manifest).await?);
            drop(seeded);
            let boot_ranges = boot.iter().flat_map(|boot| boot.ranges().cloned()).collect();
            Ok::<_, LifecycleError>(Arc::new(OpenBase { manifest, base, boot_ranges }))
        };
        Ok(cell.get_or_try_init(|| open).await?.clone())
    }
}
