//! Uploading a branch that stays awake, so that the loss of its node loses no more than what was written since.
//!
//! checkpoint → freeze (pages, names, `pg_control`, and the WAL since that checkpoint, which may be newer than the pages, never older) → layers →
//! manifest. What is uploaded is what a power cut at the moment of the freeze would have left: a start from it recovers. The head
//! is changed by the branch's own task, as every head is; until then nothing refers to what was uploaded.
//!
//! Layers that these uploads made in one epoch are few: after [`MOST_UPLOADS`] the next one carries every own page and replaces them.

use super::awake::blocking;
use super::error::LifecycleError;
use super::provision::Up;
use super::shared::Shared;
use super::suspend::{by_upload, stored_bytes};
use super::wal;
use crate::compute;
use crate::model::fault::{self, FaultPoint};
use crate::model::{BranchHead, BranchManifest, Image, LayerRef, ManifestRef, Nonce, PAGE_SIZE, UnixMs};
use crate::pageserver::{Driver, Snapshot, Volume, build_snapshot_upload};
use crate::store::keys;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Uploads of one epoch that a manifest may name beside the layers the epoch began with.
const MOST_UPLOADS: usize = 6;
/// Longest time the checkpoint before an upload may take.
const CHECKPOINT_TIMEOUT: Duration = Duration::from_secs(300);

/// An upload under way.
pub(super) struct Saving {
    task: JoinHandle<Result<Option<Saved>, LifecycleError>>,
    stop: CancellationToken,
}

/// An upload that only lacks its head. Dropping it leaves its pages to the next one.
pub(super) struct Saved {
    snapshot: Snapshot,
    layers: Vec<LayerRef>,
    pub reference: ManifestRef,
    pub own_bytes: u64,
    /// When it began.
    pub at_ms: UnixMs,
    /// Where the WAL stood right after its checkpoint: nothing was written while it still stands there.
    pub wal_position: u64,
}

impl Saved {
    /// The head names its manifest.
    pub(super) fn published(self) {
        self.snapshot.published(self.layers);
    }
}

/// What an upload needs of its branch while that goes on.
struct Subject {
    socket: PathBuf,
    superuser: String,
    volume: Arc<Volume>,
    wal: PathBuf,
    head: BranchHead,
    image: Option<Image>,
    origin: Vec<LayerRef>,
}

impl Saving {
    /// Begins an upload of an awake branch, which ends with nothing where the WAL still stands at `since`.
    pub(super) fn begin(shared: Arc<Shared>, up: &Up, since: Option<u64>) -> Saving {
        let subject = Subject {
            socket: up.awake.compute.socket().to_owned(),
            superuser: up.base.manifest.cluster.superuser.clone(),
            volume: up.awake.volume().clone(),
            wal: up.place.wal(),
            head: up.held.head.clone(),
            image: up.manifest.as_ref().and_then(|manifest| manifest.image.clone()),
            origin: up.manifest.iter().flat_map(|manifest| manifest.layers.clone()).collect(),
        };
        let stop = CancellationToken::new();
        let task = tokio::spawn(save(shared, subject, since, stop.clone()));
        Saving { task, stop }
    }

    /// The outcome, once. Cancel safe.
    pub(super) async fn ended(&mut self) -> Result<Option<Saved>, LifecycleError> {
        (&mut self.task).await.map_err(|e| LifecycleError::Other(format!("a task of ours failed: {e}")))?
    }

    /// Ends it, and waits until nothing of it runs any more.
    pub(super) async fn cancel(mut self) {
        self.stop.cancel();
        // It came to nothing either way.
        drop(self.ended().await);
    }
}

async fn save(
    shared: Arc<Shared>,
    subject: Subject,
    since: Option<u64>,
    stop: CancellationToken,
) -> Result<Option<Saved>, LifecycleError> {
    let (socket, superuser) = (&subject.socket, &subject.superuser);
    if since == Some(compute::wal_position(socket, superuser).await?) {
        return Ok(None);
    }
    let at_ms = shared.ambient.clock.now();
    let cluster = compute::read_cluster(socket, superuser).await?;
    compute::checkpoint(socket, superuser, CHECKPOINT_TIMEOUT).await?;
    let wal_position = compute::wal_position(socket, superuser).await?;
    let control = wal::control_file_id(&subject.volume).await?;

    let (catalog, entropy) = (shared.catalog.clone(), shared.ambient.entropy.clone());
    let uploaded = subject.volume.uploaded();
    let all = by_upload(&uploaded).len() >= MOST_UPLOADS;
    let built = blocking(move || {
        let (runtime, driver) = (Handle::current(), Driver::until(stop, Handle::current()));
        let Subject { volume, wal: folder, head, image, origin, .. } = subject;
        let (snapshot, (segments, content)) = volume.freeze(all, &runtime, || {
            let control = wal::control_file_near(&volume, control)?;
            wal::since_checkpoint(&control, &folder)
        })?;
        debug_assert_eq!(content.len(), segments.iter().map(|segment| segment.pages.len()).sum::<usize>() * PAGE_SIZE);
        let nonce = Nonce::random(&entropy);
        let key = |number: usize| keys::layer(&head.id, head.epoch, head.seq + number as u64, &nonce);
        let store = catalog.store();
        let mut put = |layer: LayerRef, bytes: Vec<u8>| {
            driver.wait(store.create(&layer.key, bytes))??;
            fault::pass(FaultPoint::LayerPut);
            Ok(())
        };
        let layers = build_snapshot_upload(&snapshot, &content, key, &mut put)?;
        let kept = origin.into_iter().chain(uploaded.into_iter().filter(|_| !all));
        let manifest = BranchManifest {
            format: BranchManifest::format_with(image.as_ref()),
            branch: head.id.clone(),
            base: head.base.clone(),
            image,
            layers: kept.chain(layers.iter().cloned()).collect(),
            tree: snapshot.tree().clone(),
            wal: segments,
            databases: cluster.databases,
            roles: cluster.roles,
        };
        let key = keys::manifest(&head.id, head.epoch, head.seq + 1, &Nonce::random(&entropy));
        let (reference, document) = runtime.block_on(catalog.create_manifest(key, &manifest))?;
        fault::pass(FaultPoint::ManifestPut);
        let own_bytes = stored_bytes(&manifest) + document.len() as u64;
        Ok(Saved { snapshot, layers, reference, own_bytes, at_ms, wal_position })
    });
    built.await.map(Some)
}
