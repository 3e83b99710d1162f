//! All branches of a node: names to tasks, and what can be said of a branch without starting it.

use super::bases::Bases;
use super::boot;
use super::census::Census;
use super::claim;
use super::error::{BranchError, LifecycleError, answer_within};
use super::gate::{Gate, MaskingPolicies};
use super::hold::Hold;
use super::looks::Looks;
use super::place::{self, Place};
use super::shared::Shared;
use super::suspend::Recorded;
use super::task::{self, Message, TaskHandle};
use super::{AwakeStatus, Session, Status};
use crate::compute::{self, ComputeError, Identity};
use crate::filesystem::{self, Disk};
use crate::model::{Ambient, BranchHead, BranchManifest, BranchRef, NodeId, PAGE_SIZE, ProjectName, Role};
use crate::pageserver::PageCache;
use crate::settings::Settings;
use crate::store::{Catalog, Held, Lookup};
use crate::telemetry::Metrics;
use dashmap::DashMap;
use futures::stream::StreamExt;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Semaphore, oneshot};

/// Branches suspended at once when the node stops: each is bound by the store's latency, not by this node's cores.
const STOP_CONCURRENCY: usize = 8;

/// Branches brought back at once when the node starts.
const ADOPTIONS: usize = 4;
/// How long a client's login waits for a branch that is being recovered, or asked before it is stopped.
const SETTLING: Duration = Duration::from_secs(60);
/// How long a client's login waits for the store to tell the roles of a branch that is not up here.
const ROLES_PATIENCE: Duration = Duration::from_secs(5);
/// How often, and how long apart, a killed daemon whose mounts were cut off is looked at until it has ended.
const DYING: usize = 100;
const DYING_STEP: Duration = Duration::from_millis(50);
/// How long after a question that its compute did not answer the branch's task may take to notice that it died.
const NOTICING: Duration = Duration::from_secs(2);
/// How often a branch is asked whose compute dies under the question.
const QUESTIONS: usize = 3;

/// All branches of this node. Cheap to clone.
#[derive(Clone)]
pub struct Branches(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) shared: Arc<Shared>,
    tasks: DashMap<BranchRef, TaskHandle>,
    stopping: AtomicBool,
}

/// A branch as a listing shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BranchSummary {
    /// `project@branch`.
    pub name: String,
    /// `asleep`, `waking`, `awake`, `suspending`, `recovering`, `down` (its data is on this node, without a compute) or `elsewhere`.
    pub state: String,
    /// Bytes of its own pages: layers in the store and, while awake, its delta.
    pub own_bytes: u64,
    pub parent: String,
    pub created_at_ms: u64,
    pub used_at_ms: u64,
    /// When its last upload began: what was written since is on one node only. 0 where there was none.
    pub saved_at_ms: u64,
    pub sessions: usize,
}

impl Branches {
    /// Takes over the node's data directory: reaps computes and mounts that a killed daemon left, keeps what it had not uploaded,
    /// removes the rest.
    pub async fn start(
        settings: &Settings,
        catalog: Catalog,
        ambient: Ambient,
        masking: MaskingPolicies,
    ) -> Result<Branches, LifecycleError> {
        let identity = Identity::resolve(&settings.compute)?;
        let wanted = settings.server.data_dir.clone();
        let (data_dir, lock) = super::awake::blocking(move || {
            let data_dir = place::prepare(&wanted, identity)?;
            let lock = lock(&data_dir)?;
            Ok((data_dir, lock))
        })
        .await?;
        let folder = place::branches(&data_dir);
        let orphans =
            compute::reap_orphans(&folder).await.map_err(LifecycleError::io("cannot reap orphaned computes"))?;
        let detach =
            move || filesystem::detach_stale(&folder).map_err(LifecycleError::io("cannot read the mount table"));
        let stale = super::awake::blocking(detach).await?;
        if orphans + stale > 0 {
            tracing::warn!(orphans, stale, "reaped computes and mounts of a daemon that was killed");
        }
        let node = node_id(&data_dir, &ambient).map_err(LifecycleError::io("cannot keep this node's id"))?;
        let hold = Hold {
            catalog: catalog.clone(),
            node: node.clone(),
            clock: ambient.clock.clone(),
            lease: settings.server.lease,
        };
        let cache = PageCache::open(catalog.store().clone(), &data_dir.join("cache"), &settings.cache)?;
        let shared = Arc::new(Shared {
            bases: Bases::new(catalog.clone(), cache.clone()),
            catalog,
            cache,
            node,
            disk: Arc::new(Disk::new(&data_dir, settings.server.disk_reserve.map(|reserve| reserve.as_u64()))),
            data_dir,
            identity,
            compute: settings.compute.clone(),
            projects: settings.projects.iter().map(|project| (project.name.clone(), project.clone())).collect(),
            ambient,
            hold,
            gate: Arc::new(Gate::new(masking)),
            looks: Looks::default(),
            census: Arc::new(Census::default()),
            _lock: lock,
            adoptions: Semaphore::new(ADOPTIONS),
            installations: Mutex::new(HashMap::new()),
        });
        let branches = Branches(Arc::new(Inner { shared, tasks: DashMap::new(), stopping: AtomicBool::new(false) }));
        branches.adopt().await?;
        branches.warm();
        Ok(branches)
    }

    /// Adds what branches have below them to `metrics`.
    pub fn register(&self, metrics: &Metrics) {
        self.0.shared.cache.register(metrics);
    }

    /// Gives a task to every branch whose unfinished business is on this disk. What is proven to be published, or to hold nothing, is
    /// removed; what nobody can account for is set aside.
    async fn adopt(&self) -> Result<(), LifecycleError> {
        let shared = &self.0.shared;
        let folder = place::branches(&shared.data_dir);
        self.bring_back().await?;
        let places = place::list(&folder)?;
        self.check_store(&places).await?;
        for place in places {
            let Some(note) = place.read_note()? else {
                // Made before its note was: nothing was begun.
                place.remove().map_err(LifecycleError::io("cannot remove a stale branch folder"))?;
                continue;
            };
            let branch = BranchRef { project: note.project.clone(), branch: note.name.clone() };
            match (fate(&shared.node, &note, shared.catalog.branch_head(&branch).await?), note.started) {
                (Fate::Ours(held), true) if claim::is_washed_away(&note)? => {
                    claim::wash_away(shared, &branch, &held).await?;
                }
                (Fate::Ours(held), true) => {
                    tracing::info!(%branch, "found what a former daemon had not uploaded");
                    self.task(&branch, Some(*held));
                }
                // The next connect begins it.
                (Fate::Ours(_), false) => {}
                (Fate::Published, _) | (_, false) => {
                    place.remove().map_err(LifecycleError::io("cannot remove a stale branch folder"))?;
                }
                (Fate::Unknown, true) => {
                    let aside = place.set_aside(&shared.data_dir)?;
                    tracing::error!(%branch, kept = %aside.display(), "the store does not know what is on this disk of a branch; it is set aside");
                }
            }
        }
        Ok(())
    }

    /// Moves back what was set aside, where the store now says that this node holds it.
    async fn bring_back(&self) -> Result<(), LifecycleError> {
        let shared = &self.0.shared;
        for place in place::list(&place::lost(&shared.data_dir))? {
            let Some(note) = place.read_note()? else { continue };
            let branch = BranchRef { project: note.project.clone(), branch: note.name.clone() };
            if let Fate::Ours(_) = fate(&shared.node, &note, shared.catalog.branch_head(&branch).await?) {
                place.bring_back(&shared.data_dir)?;
                tracing::info!(%branch, "the store knows what had been set aside of a branch");
            }
        }
        Ok(())
    }

    /// Refuses a store that has never heard of a project whose branches are on this disk: it is empty, or another one, and everything
    /// here would seem to be nobody's.
    async fn check_store(&self, places: &[Place]) -> Result<(), LifecycleError> {
        let shared = &self.0.shared;
        let mut unknown = Vec::new();
        for place in places {
            let Some(note) = place.read_note()?.filter(|note| note.started) else { continue };
            if shared.catalog.project_head(&note.project).await?.is_none() {
                unknown.push(format!("{}@{}", note.project, note.name));
            }
        }
        if unknown.is_empty() {
            return Ok(());
        }
        unknown.sort();
        Err(LifecycleError::Other(format!(
            "the store {} has no base of what this node had not uploaded of {}; set store.url to the store they came from, or,              to give them up, move {} away",
            shared.catalog.store().url(),
            unknown.join(", "),
            place::branches(&shared.data_dir).display()
        )))
    }

    /// The role `name` as the branch has it, or would have it were it made now. Makes nothing and starts nothing.
    pub async fn role(&self, branch: &BranchRef, name: &str) -> Result<Option<Role>, BranchError> {
        let question = async |awake: AwakeStatus| compute::read_roles(&awake.socket, &awake.superuser).await;
        let asked = self.ask(branch, question, |recorded| recorded.roles.clone());
        let roles = match asked.await {
            Some(answer) => answer.map_err(LifecycleError::from),
            None => answer_within(ROLES_PATIENCE, self.recorded_roles(branch)).await,
        };
        let roles = roles.map_err(|e| e.of_branch(branch))?;
        Ok(roles.into_iter().find(|role| role.name == name))
    }

    /// Asks the branch's compute, or, where that is stopped just now, what it has left; `None` where it has none, and what is recorded in the store
    /// holds. A branch that is between two states is waited for: what it was before is no longer recorded, or not yet.
    pub(super) async fn ask<T>(
        &self,
        branch: &BranchRef,
        question: impl AsyncFn(AwakeStatus) -> Result<T, ComputeError>,
        of_recorded: impl Fn(&Recorded) -> T,
    ) -> Option<Result<T, ComputeError>> {
        let mut status = self.0.tasks.get(branch)?.status.clone();
        let mut answer = None;
        for _ in 0..QUESTIONS {
            let settled = |status: &Status| !matches!(status, Status::Recovering | Status::Suspending(None));
            let waited = tokio::time::timeout(SETTLING, status.wait_for(settled)).await;
            let now = waited.ok().and_then(Result::ok).map(|status| status.clone());
            let awake = match now {
                Some(Status::Awake(awake)) => awake,
                // It fell asleep meanwhile: what is recorded of it holds again.
                Some(Status::Asleep | Status::Waking) => return None,
                Some(Status::Suspending(Some(recorded))) => return Some(Ok(of_recorded(&recorded))),
                _ => return answer,
            };
            status.mark_unchanged();
            match question(awake).await {
                Ok(told) => return Some(Ok(told)),
                Err(error) => answer = Some(Err(error)),
            }
            // It may have died under the question.
            let _ = tokio::time::timeout(NOTICING, status.changed()).await;
        }
        answer
    }

    /// Roles of a branch that is not up here: its own, or its base's where it has none of its own yet.
    async fn recorded_roles(&self, branch: &BranchRef) -> Result<Vec<Role>, LifecycleError> {
        let shared = &self.0.shared;
        let found = shared.catalog.look_up(branch).await?;
        let known = match &found {
            Lookup::Found(held) => boot::read_manifest(&shared.catalog, &held.head).await?,
            Lookup::Vacant { .. } => None,
        };
        let (base, own) = match (&found, &known) {
            (Lookup::Found(_), Some(known)) => (None, Some(known.manifest.roles.clone())),
            (Lookup::Found(held), None) => (Some(held.head.base.clone()), None),
            (Lookup::Vacant { .. }, _) => (shared.bases.current(&branch.project).await?.map(|sealed| sealed.id), None),
        };
        shared.looks.put(branch, (found, known));
        if let Some(roles) = own {
            return Ok(roles);
        }
        match base {
            Some(id) => Ok(shared.bases.open(&branch.project, &id).await?.manifest.cluster.roles.clone()),
            None => Ok(Vec::new()),
        }
    }

    pub(super) async fn manifest(&self, branch: &BranchRef) -> Result<Option<BranchManifest>, LifecycleError> {
        let held = self.0.shared.catalog.branch_head(branch).await?;
        match held.and_then(|held| held.head.manifest) {
            Some(reference) => Ok(Some(self.0.shared.catalog.branch_manifest(&reference).await?)),
            None => Ok(None),
        }
    }

    /// The branch's compute, made and woken if need be, once it accepts connections. Only for authenticated clients.
    /// Cancel safe: what was begun for a client that went away is finished and falls asleep in its time.
    pub async fn open_session(&self, branch: &BranchRef) -> Result<Session, BranchError> {
        if self.0.stopping.load(Ordering::Acquire) {
            return Err(BranchError::Stopping);
        }
        let task = self.task(branch, None);
        let _asking = task.sessions.ask();
        let (reply, answer) = oneshot::channel();
        task.messages.send(Message::Open(reply)).await.map_err(|_| BranchError::Stopping)?;
        answer.await.map_err(|_| BranchError::Stopping)?
    }

    /// Puts a branch to sleep now, ending its sessions.
    pub async fn suspend(&self, branch: &BranchRef) -> Result<(), BranchError> {
        let Some(task) = self.0.tasks.get(branch).map(|task| task.clone()) else { return Ok(()) };
        let (reply, answer) = oneshot::channel();
        task.messages.send(Message::Suspend(reply)).await.map_err(|_| BranchError::Stopping)?;
        answer.await.map_err(|_| BranchError::Stopping)?
    }

    fn task(&self, branch: &BranchRef, held: Option<Held>) -> TaskHandle {
        let shared = &self.0.shared;
        let entry = self.0.tasks.entry(branch.clone());
        entry.or_insert_with(|| task::spawn(shared.clone(), branch.clone(), held)).clone()
    }

    /// Every branch of `project`, or of all projects, by name.
    pub async fn list(&self, project: Option<&ProjectName>) -> Result<Vec<BranchSummary>, BranchError> {
        let shared = &self.0.shared;
        let mut summaries = Vec::new();
        for name in shared.projects.keys().filter(|name| project.is_none_or(|wanted| wanted == *name)) {
            let heads = shared.catalog.branches(name).await.map_err(|e| LifecycleError::from(e).of_branch(name))?;
            summaries.extend(heads.iter().map(|head| self.summary(head)));
        }
        Ok(summaries)
    }

    fn summary(&self, head: &BranchHead) -> BranchSummary {
        let branch = BranchRef { project: head.project.clone(), branch: head.name.clone() };
        let mut summary = BranchSummary::of_head(head);
        let Some(task) = self.0.tasks.get(&branch) else { return summary };
        summary.sessions = task.sessions.count();
        let (state, own_pages) = match &*task.status.borrow() {
            Status::Asleep => ("asleep", 0),
            Status::Waking => ("waking", 0),
            Status::Recovering => ("recovering", 0),
            Status::Suspending(_) => ("suspending", 0),
            Status::Down { own_pages } => ("down", *own_pages),
            Status::Awake(awake) => {
                summary.own_bytes = awake.stored_bytes;
                ("awake", awake.volume.upgrade().map_or(0, |volume| volume.own_pages()))
            }
        };
        summary.state = state.to_owned();
        summary.own_bytes += own_pages * PAGE_SIZE as u64;
        summary
    }

    /// Takes no more clients and puts every branch to sleep. Branches that cannot be uploaded stay on this node's disk and are
    /// taken up at its next start.
    pub async fn stop(&self) {
        self.0.stopping.store(true, Ordering::Release);
        let branches: Vec<BranchRef> = self.0.tasks.iter().map(|task| task.key().clone()).collect();
        futures::stream::iter(branches)
            .for_each_concurrent(STOP_CONCURRENCY, |branch| async move {
                // Why one cannot is logged by its task.
                let _ = self.suspend(&branch).await;
            })
            .await;
        let cache = self.0.shared.cache.clone();
        let closed = tokio::task::spawn_blocking(move || cache.close()).await.map_err(|e| e.to_string());
        if let Err(error) | Ok(Err(error)) = closed.map(|closed| closed.map_err(|e| e.to_string())) {
            tracing::warn!(error, "the cache left no map; the next start looks at each of its files");
        }
    }
}

impl BranchSummary {
    /// As the store alone tells.
    pub fn of_head(head: &BranchHead) -> BranchSummary {
        BranchSummary {
            name: format!("{}@{}", head.project, head.name),
            state: if head.dirty { "elsewhere" } else { "asleep" }.to_owned(),
            own_bytes: head.own_bytes,
            parent: head.parent.clone(),
            created_at_ms: head.created_at_ms,
            used_at_ms: head.used_at_ms,
            saved_at_ms: head.saved_at_ms,
            sessions: 0,
        }
    }
}

/// What the store says of a branch's folder on this disk.
enum Fate {
    /// This node holds the branch, and the folder is what it holds.
    Ours(Box<Held>),
    /// The store has all of it.
    Published,
    /// Neither: another store, or another node was told to take over.
    Unknown,
}

fn fate(node: &NodeId, note: &place::Note, held: Option<Held>) -> Fate {
    match held {
        Some(held) if held.head.id != note.id => Fate::Unknown,
        Some(held) if held.head.epoch == note.epoch && !held.head.dirty => Fate::Published,
        Some(held) if held.head.epoch == note.epoch && held.head.is_held_by(node) => Fate::Ours(Box::new(held)),
        _ => Fate::Unknown,
    }
}

/// One daemon at a time: a second one would reap the first one's computes. The kernel lets go when the process ends. Blocking.
fn lock(data_dir: &Path) -> Result<Flock<File>, LifecycleError> {
    let path = data_dir.join("lock");
    let failed = || LifecycleError::io(format!("cannot lock {}", path.display()));
    let refused = || {
        LifecycleError::Other(format!(
            "another offshoot serves from {}; stop it, or give this one a server.data_dir of its own",
            data_dir.display()
        ))
    };
    let open = || File::options().create(true).truncate(false).write(true).open(&path);
    let mut locked = Flock::lock(open().map_err(failed())?, FlockArg::LockExclusiveNonblock);
    if locked.is_err() && holder_was_killed(&path) {
        tracing::warn!("the former daemon was killed and cannot end: its mounts are cut off");
        filesystem::detach_stale(&place::branches(data_dir)).map_err(failed())?;
        for _ in 0..DYING {
            locked = Flock::lock(open().map_err(failed())?, FlockArg::LockExclusiveNonblock);
            if locked.is_ok() {
                break;
            }
            std::thread::park_timeout(DYING_STEP);
        }
    }
    let mut lock = locked.map_err(|_| refused())?;
    let written = lock.set_len(0).and_then(|()| write!(lock, "{}", std::process::id()));
    written.map_err(failed())?;
    Ok(lock)
}

/// Whether the process that wrote its pid into the lock is a zombie, which holds a lock only through threads that cannot end.
fn holder_was_killed(lock: &Path) -> bool {
    let holder = std::fs::read_to_string(lock).unwrap_or_default();
    let stat = holder.parse::<u32>().ok().and_then(|pid| std::fs::read_to_string(format!("/proc/{pid}/stat")).ok());
    // proc(5): the state follows the name, which is in parentheses and may hold any.
    stat.is_some_and(|stat| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z')))
}

/// The node's id, made at its first start and kept in its data directory.
fn node_id(data_dir: &Path, ambient: &Ambient) -> std::io::Result<NodeId> {
    let path = data_dir.join("node-id");
    match std::fs::read_to_string(&path) {
        Ok(text) if text.trim().is_empty() => Err(std::io::Error::other(format!("{} is empty", path.display()))),
        Ok(text) => Ok(NodeId::from(text.trim())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let node = NodeId::random(&ambient.entropy);
            place::write_durably(&path, node.as_str().as_bytes())?;
            Ok(node)
        }
        Err(e) => Err(e),
    }
}
