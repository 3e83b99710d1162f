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
use crate::model::{BranchManifest, BranchRef, Database, LayerRef, Nonce, Role};
use crate::pageserver::{PageError, Upload, build_upload};
use crate::store::{Held, keys};
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
    Ok((Down { held, place, base, manifest, ground, volume }, exit.clean))
}

/// Uploads a cleanly stopped branch and removes it from this node.
pub(super) async fn upload(
    shared: &Shared,
    branch: &BranchRef,
    down: &Down,
    recorded: Recorded,
) -> Result<Held, LifecycleError> {
    let started = Instant::now();
    let manifest = plan(shared, down, recorded).await?;
    let head = &down.held.head;
    let (epoch, seq) = (head.epoch, head.seq + 1);
    let key = keys::manifest(&head.id, epoch, seq, &Nonce::random(&shared.ambient.entropy));
    let layer_bytes: u64 = manifest.layers.iter().map(|layer| layer.bytes).sum();
    let (reference, manifest_bytes) = shared.catalog.create_manifest(key, &manifest).await?;
    let now = shared.ambient.clock.now();
    let own_bytes = layer_bytes + manifest_bytes;
    let held = shared
        .catalog
        .update_branch(&down.held, |head| {
            (head.holder, head.dirty, head.manifest) = (None, false, Some(reference));
            (head.used_at_ms, head.own_bytes) = (now, own_bytes);
        })
        .await?;
    let place = down.place.clone();
    blocking(move || place.remove().map_err(LifecycleError::io("cannot remove the branch's folder"))).await?;
    tracing::info!(%branch, own_bytes, layers = manifest.layers.len(), millis = started.elapsed().as_millis(), "branch asleep");
    Ok(held)
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
            runtime.block_on(store.create(&layer.key, bytes)).map_err(PageError::from)
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
