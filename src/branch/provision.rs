//! From a head to a running branch: make, wake, resume.
//!
//! - **make**: the head is created while the branch is brought up beside it; nobody gets a session before both are done.
//! - **wake**: the head gets this node as its holder, in a new epoch, then manifest and layers are opened.
//! - **resume**: the head says that this node holds it, and its delta is on this node's disk: a killed daemon's branch.

use super::awake::{Awake, Ground, Mounted, blocking, links};
use super::bases::OpenBase;
use super::boot::{self, Known};
use super::claim::{abandon, claim, durability, give_back, give_up, is_washed_away, note_start, wash_away};
use super::error::{BranchError, LifecycleError};
use super::hold::HoldError;
use super::place::Place;
use super::shared::Shared;
use super::wal;
use crate::model::fault::{self, FaultPoint};
use crate::model::{BranchHead, BranchId, BranchManifest, BranchRef};
use crate::pageserver::{Base, Volume, VolumeSource};
use crate::settings::{Durability, ProjectSettings};
use crate::store::{Created, Held, Lookup, StoreError};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::oneshot;

/// A branch that is up, and what its task must keep to take it down again.
pub(super) struct Up {
    pub held: Held,
    pub place: Place,
    pub base: Arc<OpenBase>,
    pub manifest: Option<BranchManifest>,
    pub ground: Ground,
    pub awake: Awake,
}

/// A branch whose state is on this node's disk, without a compute.
pub(super) struct Down {
    pub held: Held,
    pub place: Place,
    pub base: Arc<OpenBase>,
    pub manifest: Option<BranchManifest>,
    pub ground: Ground,
    pub volume: Arc<Volume>,
    /// A put that would have published its upload failed, and may have landed.
    pub in_doubt: bool,
}

/// Brings the branch up from whatever state the store and the disk have it in; makes it if there is none.
pub(super) async fn bring_up(shared: &Shared, branch: &BranchRef) -> Result<Up, BranchError> {
    let started = Instant::now();
    let failed = |trouble: LifecycleError| {
        tracing::error!(%branch, error = %trouble, "a branch cannot be brought up");
        trouble.of_branch(branch)
    };
    let (found, known) = match shared.looks.take(branch) {
        Some(look) => look,
        None => (shared.catalog.look_up(branch).await.map_err(|e| failed(e.into()))?, None),
    };
    if let Lookup::Found(held) = &found {
        readmit(shared, branch, &held.head).await?;
    }
    let (how, up) = match found {
        Lookup::Vacant { next_epoch } => match Box::pin(make(shared, branch, next_epoch)).await? {
            Made::Up(up) => ("made", *up),
            Made::Existing(held) => ("woken", wake(shared, branch, *held, None).await?),
        },
        Lookup::Found(mut held) if held.head.dirty && held.head.is_held_by(&shared.node) => {
            confirm(shared, &mut held).await.map_err(failed)?;
            let place = Place::of(&shared.data_dir, &held.head.id);
            let note = blocking(move || place.read_note()).await.map_err(failed)?;
            match note.filter(|note| note.epoch == held.head.epoch) {
                Some(note) if note.started && is_washed_away(&note).map_err(failed)? => {
                    let freed = wash_away(shared, branch, &held).await.map_err(failed)?;
                    ("woken", wake(shared, branch, freed, None).await?)
                }
                Some(note) if note.started => ("resumed", resume(shared, branch, *held).await?),
                // Killed before anyone was told that it is up: what was written says nothing.
                Some(_) => {
                    claim(shared, &held.head).await.map_err(failed)?;
                    let (head, held) = (held.head.clone(), async { Ok(*held) });
                    ("begun again", Box::pin(begin(shared, branch, head, None, held)).await.map_err(failed)?)
                }
                None => return Err(BranchError::LocalDataLost { branch: branch.to_string() }),
            }
        }
        Lookup::Found(held) => ("woken", wake(shared, branch, *held, known).await?),
    };
    let millis = started.elapsed().as_millis();
    tracing::info!(%branch, how, base = up.held.head.base_version, epoch = up.held.head.epoch, millis, "branch awake");
    Ok(up)
}

/// Refuses a branch that a masked project has from before.
async fn readmit(shared: &Shared, branch: &BranchRef, head: &BranchHead) -> Result<(), BranchError> {
    if !shared.gate.is_before(&branch.project) {
        return Ok(());
    }
    let base = shared.bases.open(&branch.project, &head.base).await.map_err(|e| report(branch, e))?;
    let (gate, readmitted) = (shared.gate.clone(), branch.clone());
    let verdict = blocking(move || Ok(gate.readmit(&readmitted, &base.manifest))).await;
    verdict.map_err(|e| report(branch, e))?
}

enum Made {
    Up(Box<Up>),
    /// Another node was first.
    Existing(Box<Held>),
}

async fn make(shared: &Shared, branch: &BranchRef, epoch: u64) -> Result<Made, BranchError> {
    let settings = project(shared, branch)?;
    let trouble = |e: LifecycleError| e.of_branch(branch);
    let room = async {
        let catalog = &shared.catalog;
        let admitted = shared.census.admit(catalog, branch, settings.max_branches);
        Ok(admitted || catalog.has_room(&branch.project, settings.max_branches).await?)
    };
    let based = async {
        let sealed = shared.bases.current(&branch.project).await?;
        let Some(sealed) = sealed else { return Ok(None) };
        let base = shared.bases.open(&branch.project, &sealed.id).await?;
        Ok::<_, LifecycleError>(Some((sealed, base)))
    };
    let (has_room, based) = tokio::try_join!(room, based).map_err(trouble)?;
    if !has_room {
        return Err(BranchError::TooManyBranches { project: branch.project.to_string(), limit: settings.max_branches });
    }
    let (sealed, base) = based.ok_or_else(|| BranchError::NoBase { project: branch.project.to_string() })?;
    if shared.gate.is_before(&branch.project) {
        let (shared_gate, admitted, base) = (shared.gate.clone(), branch.clone(), base.clone());
        let admission = blocking(move || Ok(shared_gate.admit(&admitted, &base.manifest)));
        admission.await.map_err(trouble)??;
    }
    let now = shared.ambient.clock.now();
    let id = BranchId::random(&shared.ambient.entropy);
    let mut head = BranchHead::of_base(branch, id, (sealed.id, sealed.version), epoch, now);
    (head.holder, head.dirty) = (Some(shared.hold.holder()), true);
    let place = claim(shared, &head).await.map_err(trouble)?;
    let (laid_out, ready) = oneshot::channel();
    // Noted as started only once the head is there: a folder that says so without one would be taken for what a lost store knew.
    let create = async {
        let created = shared.catalog.create_branch(head.clone()).await?;
        if let Created::New(_) = created {
            fault::pass(FaultPoint::HeadCreated);
            note_start(shared, &place, &head, ready).await?;
        }
        Ok::<_, LifecycleError>(created)
    };
    // On the heap, as all that holds a whole start: a debug build's stack is small beside such a future.
    let start = Box::pin(start(shared, settings, &head, &place, base.clone(), (None, laid_out)));
    let (created, started) = tokio::join!(create, start);
    match (created, started) {
        (Ok(Created::New(held)), Ok((ground, awake))) => {
            Ok(Made::Up(Box::new(Up { held, place, base, manifest: None, ground, awake })))
        }
        (Ok(Created::New(held)), Err(e)) => {
            // The name is taken now, and the branch is its base: any node may try again.
            give_back(shared, branch, &held, place).await;
            Err(report(branch, e))
        }
        (Ok(Created::Existing(held)), started) => {
            abandon(started.ok().map(|(_, awake)| awake), place).await;
            Ok(Made::Existing(Box::new(held)))
        }
        (Err(e), started) => {
            // The put may have landed all the same: the place stays, and says that nothing was begun that anyone was told of.
            give_up(shared, branch, &head, started.ok().map(|(_, awake)| awake)).await;
            Err(report(branch, e))
        }
    }
}

/// Wakes a branch that nobody holds. A head that turns out to be an old one is read anew, once.
async fn wake(shared: &Shared, branch: &BranchRef, held: Held, known: Option<Known>) -> Result<Up, BranchError> {
    match Box::pin(wake_as(shared, branch, held, known)).await? {
        Ok(up) => Ok(up),
        Err(_) => {
            let now = shared.catalog.branch_head(branch).await.map_err(|e| report(branch, e.into()))?;
            let now = now.ok_or_else(|| BranchError::NoBranch { branch: branch.to_string() })?;
            Box::pin(wake_as(shared, branch, now, None)).await?.map_err(|e| report(branch, e))
        }
    }
}

/// The inner error: somebody else changed the head.
async fn wake_as(
    shared: &Shared,
    branch: &BranchRef,
    held: Held,
    known: Option<Known>,
) -> Result<Result<Up, LifecycleError>, BranchError> {
    if held.head.dirty && !held.head.is_held_by(&shared.node) {
        return Err(shared.hold.held_elsewhere(branch, &held.head));
    }
    let mut next = held.head.clone();
    next.epoch += 1;
    claim(shared, &next).await.map_err(|e| report(branch, e))?;
    let take = async { Ok(shared.hold.take(&held).await?) };
    match Box::pin(begin(shared, branch, next, known, take)).await {
        Err(e @ LifecycleError::Store(StoreError::Conflict { .. })) => Ok(Err(e)),
        outcome => Ok(Ok(outcome.map_err(|e| report(branch, e))?)),
    }
}

/// Starts a branch for which a place is claimed, from what the store has of it, while `take` makes it this node's.
async fn begin(
    shared: &Shared,
    branch: &BranchRef,
    head: BranchHead,
    known: Option<Known>,
    take: impl Future<Output = Result<Held, LifecycleError>>,
) -> Result<Up, LifecycleError> {
    let place = Place::of(&shared.data_dir, &head.id);
    let (laid_out, ready) = oneshot::channel();
    // Noted as started only once the head says that the branch is this node's.
    let take = async {
        let held = take.await?;
        fault::pass(FaultPoint::HeadTaken);
        let noted = note_start(shared, &place, &held.head, ready).await;
        Ok::<_, LifecycleError>((held, noted))
    };
    let start = async {
        let settings = project(shared, branch).map_err(|e| LifecycleError::Other(e.to_string()))?;
        let base = async { shared.bases.open(&branch.project, &head.base).await };
        let known = async {
            match known {
                Some(known) => Ok(Some(known)),
                None => Ok::<_, LifecycleError>(boot::read_manifest(&shared.catalog, &head).await?),
            }
        };
        let (base, known) = tokio::try_join!(base, known)?;
        let seeded = known.iter().filter_map(|known| known.boot.as_ref()).map(|boot| boot.seed(&shared.cache));
        let seeded: Vec<_> = seeded.collect();
        let manifest = known.map(|known| known.manifest);
        let (ground, awake) =
            Box::pin(start(shared, settings, &head, &place, base.clone(), (manifest.as_ref(), laid_out))).await?;
        drop(seeded);
        Ok::<_, LifecycleError>((base, manifest, ground, awake))
    };
    let (taken, started) = tokio::join!(take, start);
    match (taken, started) {
        (Ok((held, Ok(()))), Ok((base, manifest, ground, awake))) => {
            Ok(Up { held, place, base, manifest, ground, awake })
        }
        // Nothing was written that anyone was told of.
        (Ok((held, Err(e))), Ok((.., awake))) => {
            if let Err(error) = awake.stop().await {
                tracing::warn!(%branch, %error, "while taking down what could not be noted");
            }
            give_back(shared, branch, &held, place).await;
            Err(e)
        }
        (Ok((held, _)), Err(e)) => {
            give_back(shared, branch, &held, place).await;
            Err(e)
        }
        (Err(e), started) => {
            let awake = started.ok().map(|(.., awake)| awake);
            match &e {
                LifecycleError::Store(StoreError::Conflict { .. }) => abandon(awake, place).await,
                // The put may have landed all the same: the place stays, and says that nothing was begun that anyone was told of.
                _ => give_up(shared, branch, &head, awake).await,
            }
            Err(e)
        }
    }
}

/// `Hold::confirm`, where this node's head was just read.
async fn confirm(shared: &Shared, held: &mut Held) -> Result<(), LifecycleError> {
    shared.hold.confirm(held).await.map_err(|error| match error {
        HoldError::Lost => LifecycleError::Other("it changed hands at this moment; try again".to_owned()),
        error => error.into(),
    })
}

/// Opens what a killed daemon left.
async fn resume(shared: &Shared, branch: &BranchRef, held: Held) -> Result<Up, BranchError> {
    let down = recover_down(shared, branch, held).await.map_err(|e| report(branch, e))?;
    start_again(shared, down).await.map_err(|(_, e)| report(branch, e))
}

/// Opens a branch's local state, whose head was confirmed, without starting it.
pub(super) async fn recover_down(shared: &Shared, branch: &BranchRef, held: Held) -> Result<Down, LifecycleError> {
    let settings = project(shared, branch).map_err(|e| LifecycleError::Other(e.to_string()))?;
    let place = Place::of(&shared.data_dir, &held.head.id);
    let base = shared.bases.open(&branch.project, &held.head.base).await?;
    let manifest = match held.head.start_manifest() {
        Some(reference) => Some(shared.catalog.branch_manifest(reference).await?),
        None => None,
    };
    let ground = ground(shared, settings, &base).await?;
    let volume = open_volume(shared, &held.head, &base, manifest.as_ref(), &place).await?;
    Ok(Down { held, place, base, manifest, ground, volume, in_doubt: false })
}

/// Starts a compute on local state. Recovery with `syncfs` relies on the delta being durable: it is made so first. Where that fails,
/// the delta is opened anew from disk, as after a power cut, which the WAL covers.
pub(super) async fn start_again(shared: &Shared, down: Down) -> Result<Up, (Box<Down>, LifecycleError)> {
    let Down { held, place, base, manifest, ground, volume, in_doubt } = down;
    let back = |volume, held, place, base, manifest, ground| {
        Box::new(Down { held, place, base, manifest, ground, volume, in_doubt })
    };
    let syncing = volume.clone();
    if boot::is_far(shared.catalog.store()) {
        volume.start_recording();
    }
    let prepared = blocking(move || Ok(syncing.sync_all()?)).await;
    let mounted = match prepared {
        Ok(()) => Mounted::new(volume.clone(), &place, ground.identity, shared.limits(&held.head)).await,
        Err(e) => {
            tracing::warn!(error = %e, "the delta could not be made durable; opening it anew");
            match open_volume(shared, &held.head, &base, manifest.as_ref(), &place).await {
                Ok(anew) => Mounted::new(anew, &place, ground.identity, shared.limits(&held.head)).await,
                Err(e) => Err(e),
            }
        }
    };
    let mounted = match mounted {
        Ok(mounted) => mounted,
        Err(e) => return Err((back(volume, held, place, base, manifest, ground), e)),
    };
    match mounted.start(&ground, &place).await {
        Ok(awake) => Ok(Up { held, place, base, manifest, ground, awake }),
        Err((volume, e)) => Err((back(volume, held, place, base, manifest, ground), e)),
    }
}

/// Starts a branch in its place, from base and manifest; says when everything that a restart needs lies there.
async fn start(
    shared: &Shared,
    settings: &ProjectSettings,
    head: &BranchHead,
    place: &Place,
    base: Arc<OpenBase>,
    (manifest, laid_out): (Option<&BranchManifest>, oneshot::Sender<()>),
) -> Result<(Ground, Awake), LifecycleError> {
    let ground = ground(shared, settings, &base).await?;
    let identity = ground.identity;
    let volume = open_volume(shared, head, &base, manifest, place).await?;
    if boot::is_far(shared.catalog.store()) {
        volume.start_recording();
    }
    let wal = manifest.map_or(&base.manifest.wal, |manifest| &manifest.wal).clone();
    let content = volume.read_wal(wal::kept_pages(&wal)).await?;
    let wal_place = place.clone();
    let written = blocking(move || wal_place.write_wal(&wal, &content, identity));
    let (written, mounted) = tokio::join!(written, Mounted::new(volume, place, identity, shared.limits(head)));
    let mounted = mounted?;
    match written {
        Ok(()) => {
            // Who does not wait for it needs no note.
            let _ = laid_out.send(());
            Ok((ground.clone(), mounted.start(&ground, place).await.map_err(|(_, e)| e)?))
        }
        Err(e) => {
            mounted.unmount().await?;
            Err(e)
        }
    }
}

async fn open_volume(
    shared: &Shared,
    head: &BranchHead,
    base: &OpenBase,
    manifest: Option<&BranchManifest>,
    place: &Place,
) -> Result<Arc<Volume>, LifecycleError> {
    let links = links(place);
    let links: Vec<(&str, &Path)> = links.iter().map(|(name, target)| (*name, target.as_path())).collect();
    let (base, last_base_id) = match manifest.and_then(|manifest| manifest.image.as_ref()) {
        Some(image) => (Arc::new(Base::open_image(shared.cache.clone(), image).await?), image.last_file_id),
        None => (base.base.clone(), base.manifest.last_file_id),
    };
    let source = VolumeSource {
        base,
        last_base_id,
        layers: manifest.map_or(&[], |manifest| &manifest.layers),
        tree: manifest.map(|manifest| &manifest.tree),
        links: &links,
    };
    let delta = format!("{}-{}", head.id, head.epoch);
    let disk = place.disk(durability(shared, &head.project))?;
    Ok(Arc::new(Volume::open(shared.cache.clone(), source, disk, &delta).await?))
}

async fn ground(shared: &Shared, settings: &ProjectSettings, base: &OpenBase) -> Result<Ground, LifecycleError> {
    let installation = shared.installation(base.manifest.cluster.major).await?;
    let mut parameters = settings.parameters.clone();
    if settings.durability == Durability::Ephemeral {
        // Commits wait for nothing; its WAL is written all the same, for a daemon or compute that is killed.
        parameters.entry("synchronous_commit".to_owned()).or_insert_with(|| "off".to_owned());
    }
    Ok(Ground {
        settings: shared.compute.clone(),
        installation,
        identity: shared.identity,
        source_settings: base.manifest.cluster.settings.clone(),
        parameters,
    })
}

fn project<'a>(shared: &'a Shared, branch: &BranchRef) -> Result<&'a ProjectSettings, BranchError> {
    shared.projects.get(&branch.project).ok_or_else(|| BranchError::UnknownProject {
        project: branch.project.to_string(),
        known: shared.project_names(),
    })
}

fn report(branch: &BranchRef, trouble: LifecycleError) -> BranchError {
    tracing::error!(%branch, error = %trouble, "a branch cannot be brought up");
    trouble.of_branch(branch)
}
