//! A branch's folder on this node's disk, from before its head says so to when nothing is left of it.
//!
//! A folder is laid out with a note that nothing was begun, then the head is put, then the note says that a compute may have been started. Whoever
//! dies in between leaves a note that tells which (`branch::branches`, adoption). What was claimed and not begun is given back, given up or abandoned.

use super::awake::{Awake, blocking};
use super::error::LifecycleError;
use super::place::{self, Note, Place};
use super::shared::Shared;
use crate::model::fault::{self, FaultPoint};
use crate::model::{BranchHead, BranchRef, ProjectName};
use crate::settings::Durability;
use crate::store::Held;
use tokio::sync::oneshot;

/// Lays out a branch on this node's disk, before its head says that this node holds it: a daemon that is killed in between finds
/// here that nothing was begun.
pub(super) async fn claim(shared: &Shared, head: &BranchHead) -> Result<Place, LifecycleError> {
    let place = Place::of(&shared.data_dir, &head.id);
    let (laid_out, identity, note) = (place.clone(), shared.identity, note(shared, head, false)?);
    blocking(move || {
        // What an abandoned start may have left.
        laid_out.remove().map_err(LifecycleError::io("cannot clear the branch's folder"))?;
        laid_out.make(identity)?;
        laid_out.write_note(&note)
    })
    .await?;
    fault::pass(FaultPoint::BranchClaimed);
    Ok(place)
}

fn note(shared: &Shared, head: &BranchHead, started: bool) -> Result<Note, LifecycleError> {
    let boot = match durability(shared, &head.project) {
        Durability::Durable => None,
        Durability::Ephemeral => Some(place::boot_id()?),
    };
    let (project, name, id) = (head.project.clone(), head.name.clone(), head.id.clone());
    Ok(Note { project, name, id, epoch: head.epoch, started, boot })
}

pub(super) fn durability(shared: &Shared, project: &ProjectName) -> Durability {
    shared.projects.get(project).map_or(Durability::Durable, |project| project.durability)
}

/// Whether what a note speaks of may have been lost with the machine: nothing of it was synced, and the machine has started anew since.
pub(super) fn is_washed_away(note: &Note) -> Result<bool, LifecycleError> {
    match &note.boot {
        Some(boot) => Ok(*boot != place::boot_id()?),
        None => Ok(false),
    }
}

/// Gives up what an ephemeral branch had on this disk: it goes on from its last upload.
pub(super) async fn wash_away(shared: &Shared, branch: &BranchRef, held: &Held) -> Result<Held, LifecycleError> {
    tracing::error!(%branch, "the machine started anew, and durability is \"ephemeral\": a branch goes back to its last upload");
    let change = |head: &mut BranchHead| (head.holder, head.dirty, head.epoch_start) = (None, false, None);
    let freed = shared.catalog.update_branch(held, change).await?;
    let place = Place::of(&shared.data_dir, &held.head.id);
    blocking(move || place.remove().map_err(LifecycleError::io("cannot clear a folder"))).await?;
    Ok(freed)
}

/// Notes, once the place is laid out, that its compute may hold what is nowhere else.
pub(super) async fn note_start(
    shared: &Shared,
    place: &Place,
    head: &BranchHead,
    laid_out: oneshot::Receiver<()>,
) -> Result<(), LifecycleError> {
    if laid_out.await.is_err() {
        // The start failed before.
        return Ok(());
    }
    let (place, started) = (place.clone(), note(shared, head, true)?);
    blocking(move || place.write_note(&started)).await?;
    fault::pass(FaultPoint::StartNoted);
    Ok(())
}

/// Clears a claim on a branch that holds nothing yet. The place goes only once the head no longer says that something is in it.
pub(super) async fn give_back(shared: &Shared, branch: &BranchRef, held: &Held, place: Place) {
    let released = shared.catalog.update_branch(held, |head| (head.holder, head.dirty) = (None, false)).await;
    let cleared = match released {
        Ok(_) => blocking(move || place.remove().map_err(LifecycleError::io("cannot clear a folder"))).await,
        // The next connect here begins again.
        Err(e) => claim(shared, &held.head).await.and(Err(e.into())),
    };
    if let Err(error) = cleared {
        tracing::warn!(%branch, %error, "after a failed start");
    }
}

/// Takes down what was brought up for a head that may or may not have been put.
pub(super) async fn give_up(shared: &Shared, branch: &BranchRef, head: &BranchHead, awake: Option<Awake>) {
    if let Some(awake) = awake
        && let Err(error) = awake.stop().await
    {
        tracing::warn!(%branch, %error, "while taking down what could not be claimed");
    }
    if let Err(error) = claim(shared, head).await {
        tracing::warn!(%branch, %error, "while taking down what could not be claimed");
    }
}

/// Takes down what was brought up for a head that turned out to be another's.
pub(super) async fn abandon(awake: Option<Awake>, place: Place) {
    if let Some(awake) = awake
        && let Err(error) = awake.stop().await
    {
        tracing::warn!(%error, "while taking down what another node was first to make");
    }
    // What stays is cleared at the next start.
    let _ = blocking(move || place.remove().map_err(LifecycleError::io("cannot clear a folder"))).await;
}
