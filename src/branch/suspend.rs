//! Suspending a branch: its compute is stopped cleanly, what it changed becomes layers, one conditional put publishes
//! them, and nothing stays on this node.
//!
//! recover → plan → write → publish: until the head is replaced, nothing refers to what was uploaded, and the delta is still
//! here. A failure at any point leaves a [`Down`] that can be started or suspended again.

use super::awake::blocking;
use super::error::LifecycleError;
use super::provision::{Down, Up};
use super::shared::Shared;
use super::wal;
use crate::model::fault::{self, FaultPoint};
use crate::model::{BranchManifest, BranchRef, Database, LayerRef, Nonce, Role};
use crate::pageserver::{Upload, build_upload};
use crate::store::keys;
use std::time::Instant;

/// Layers a manifest may have; beyond, a suspend merges all of them into its own.
const MAX_LAYERS: usize = 16;

/// Roles and databases as the branch had them when it was last up.
pub(super) struct Recorded {
    pub roles: Vec<Role>,
    pub databases: Vec<Database>,
}

/// Asks the running compute what a suspended branch must know of itself.
pub(super) async fn record(up: &Up) -> Result<Recorded, LifecycleError> {
    let cluster = &up.base.manifest.cluster;
    let recorded = crate::compute::read_cluster(up.awake.compute.socket(), &cluster.superuser).await?;
    Ok(Recorded { roles: recorded.roles, databases: recorded.databases })
}

/// Stops the compute and unmounts. Tells whether it stopped cleanly: only then may its delta be uploaded.
pub(super) async fn take_down(up: Up) -> Result<(Down, bool), LifecycleError> {
    let Up { held, place, base, manifest, ground, awake } = up;
    let (exit, volume) = awake.stop().await?;
    if !exit.clean {
        tracing::warn!(branch = %held.head.name, exit = exit.description, "a compute did not stop cleanly");
    }
    Ok((Down { held, place, base, manifest, ground, volume, in_doubt: false }, exit.clean))
}

/// Uploads a cleanly stopped branch and removes it from this node.
pub(super) async fn upload(
    shared: &Shared,
    branch: &BranchRef,
    down: &mut Down,
    recorded: Recorded,
) -> Result<(), LifecycleError> {
    let started = Instant::now();
    let manifest = plan(shared, down, recorded).await?;
    let head = &down.held.head;
    let (epoch, seq) = (head.epoch, head.seq + 1);
    let key = keys::manifest(&head.id, epoch, seq, &Nonce::random(&shared.ambient.entropy));
    let layer_bytes: u64 = manifest.layers.iter().map(|layer| layer.bytes).sum();
    let (reference, manifest_bytes) = shared.catalog.create_manifest(key, &manifest).await?;
    fault::pass(FaultPoint::ManifestPut);
    let now = shared.ambient.clock.now();
    let own_bytes = layer_bytes + manifest_bytes;
    down.in_doubt = true;
    shared
        .catalog
        .update_branch(&down.held, |head| {
            (head.holder, head.dirty, head.manifest) = (None, false, Some(reference));
            (head.used_at_ms, head.own_bytes) = (now, own_bytes);
        })
        .await?;
    fault::pass(FaultPoint::HeadPublished);
    clear(branch, down).await;
    tracing::info!(%branch, own_bytes, layers = manifest.layers.len(), millis = started.elapsed().as_millis(), "branch asleep");
    Ok(())
}

/// What a publish whose put failed turned out to be.
pub(super) enum Settled {
    /// This node still holds the branch.
    Held,
    /// The put had landed: the branch sleeps, and its folder is gone.
    Asleep,
}

/// Finds out what became of a put that failed, before anything more is written on top of what it may have published.
pub(super) async fn settle(shared: &Shared, branch: &BranchRef, down: &mut Down) -> Result<Settled, LifecycleError> {
    if !down.in_doubt {
        return Ok(Settled::Held);
    }
    let ours = &down.held.head;
    match shared.catalog.branch_head(branch).await? {
        // Replaced by itself, so that a put that is still on its way can only fail.
        Some(now) if now.head.nonce == ours.nonce => {
            down.held = shared.catalog.update_branch(&down.held, |_| ()).await?;
            down.in_doubt = false;
            Ok(Settled::Held)
        }
        Some(now) if now.head.id == ours.id && now.head.epoch == ours.epoch && !now.head.dirty => {
            clear(branch, down).await;
            Ok(Settled::Asleep)
        }
        _ => Err(LifecycleError::Other(format!(
            "another node has taken it over; what was written here meanwhile stays in {}",
            down.place.delta().display()
        ))),
    }
}

/// Removes a published branch from this node. What stays is cleared at the next start.
async fn clear(branch: &BranchRef, down: &Down) {
    let place = down.place.clone();
    let removed = blocking(move || place.remove().map_err(LifecycleError::io("cannot remove the branch's folder")));
    if let Err(error) = removed.await {
        tracing::warn!(%branch, %error, "a branch sleeps, but its folder stays");
    }
}

/// Writes the layers and says what the manifest will hold.
async fn plan(shared: &Shared, down: &Down, recorded: Recorded) -> Result<BranchManifest, LifecycleError> {
    let control = wal::control_file(&down.volume).await?;
    let folder = down.place.wal();
    let segment = blocking(move || wal::segment_of_folder(&control, &folder)).await?;

    let former: Vec<LayerRef> = down.manifest.iter().flat_map(|manifest| manifest.layers.clone()).collect();
    let merge = former.len() >= MAX_LAYERS;
    let head = &down.held.head;
    let nonce = Nonce::random(&shared.ambient.entropy);
    let (id, epoch, seq) = (head.id.clone(), head.epoch, head.seq);
    let key = move |number: usize| keys::layer(&id, epoch, seq + number as u64, &nonce);
    let (volume, store, folder) = (down.volume.clone(), shared.catalog.store().clone(), down.place.wal());
    let (wal, runtime) = (segment.clone(), tokio::runtime::Handle::current());
    let Upload { layers, tree } = blocking(move || {
        let mut put = |layer: LayerRef, bytes: Vec<u8>| {
            runtime.block_on(store.create(&layer.key, bytes))?;
            fault::pass(FaultPoint::LayerPut);
            Ok(())
        };
        Ok(build_upload(&volume, (&wal, &folder), (merge, &runtime), key, &mut put)?)
    })
    .await?;
    let kept = if merge { Vec::new() } else { former };
    Ok(BranchManifest {
        format: BranchManifest::FORMAT,
        branch: head.id.clone(),
        base: head.base.clone(),
        layers: kept.into_iter().chain(layers).collect(),
        tree,
        wal: segment,
        databases: recorded.databases,
        roles: recorded.roles,
    })
}
