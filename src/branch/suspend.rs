//! Suspending a branch: its compute is stopped cleanly, what it changed becomes layers, one conditional put publishes
//! them, and nothing stays on this node.
//!
//! recover → plan → write → publish: until the head is replaced, nothing refers to what was uploaded, and the delta is still
//! here. A failure at any point leaves a [`Down`] that can be started or suspended again, and so does a client that comes meanwhile: writing
//! may take minutes, starting again takes none of them.

use super::awake::blocking;
use super::bases::OpenBase;
use super::boot;
use super::error::LifecycleError;
use super::hold::{HoldError, Settled};
use super::place::Place;
use super::provision::{Down, Up};
use super::shared::Shared;
use super::wal;
use crate::model::fault::{self, FaultPoint};
use crate::model::{
    BranchHead, BranchManifest, BranchRef, Database, Image, LayerRef, Nonce, Role, TreeDiff, WalSegment,
};
use crate::pageserver::{
    BuiltImage, Driver, ImageNames, PageError, Recorded as Touched, Selection, Upload, Volume, boot_ranges,
    build_image, build_upload, wants_image,
};
use crate::store::keys;
use bytes::Bytes;
use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

/// Uploads whose layers a sleeping branch may have; with those of an epoch (`save`) they are at most 16. One upload makes one layer for each 128 MiB.
const MOST_UPLOADS_ASLEEP: usize = 10;
/// About what a page takes in a layer (FACTS.md: compressed to a fifth on a synthetic database, less well on a real one).
const STORED_PAGE: u64 = 3 << 10;
/// A layer that is always merged: reading it costs a request, whatever its size.
const SMALL_LAYER: u64 = 1 << 20;

/// Roles and databases as the branch had them when it was last up.
#[derive(Debug)]
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

/// What became of a branch that was to be uploaded.
pub(super) enum Uploaded {
    Asleep,
    /// Somebody wants it before anything was published.
    Wanted,
}

/// Uploads a cleanly stopped branch and removes it from this node, unless it is `wanted` before that.
pub(super) async fn upload(
    shared: &Shared,
    branch: &BranchRef,
    down: &mut Down,
    recorded: &Recorded,
    wanted: impl Future<Output = ()>,
) -> Result<Uploaded, LifecycleError> {
    let started = Instant::now();
    let Some((manifest, boot)) = plan_unless(shared, down, recorded, wanted).await? else {
        return Ok(Uploaded::Wanted);
    };
    let head = &down.held.head;
    let (epoch, seq) = (head.epoch, head.seq + 1);
    let key = keys::manifest(&head.id, epoch, seq, &Nonce::random(&shared.ambient.entropy));
    let (reference, document) = shared.catalog.create_manifest(key, &manifest).await?;
    fault::pass(FaultPoint::ManifestPut);
    let mut own_bytes = stored_bytes(&manifest) + document.len() as u64;
    if let Some(boot) = boot {
        match boot::write(shared, (&reference, &manifest, document), &down.base.boot_ranges, boot).await {
            Ok(bytes) => {
                own_bytes += bytes;
                fault::pass(FaultPoint::BootPut);
            }
            Err(error) => {
                tracing::warn!(%branch, %error, "a branch sleeps without a boot object; its wake takes longer")
            }
        }
    }
    down.in_doubt = true;
    shared.hold.publish_suspend(&down.held, reference, own_bytes).await?;
    fault::pass(FaultPoint::HeadPublished);
    clear(branch, down).await;
    tracing::info!(%branch, own_bytes, layers = manifest.layers.len(), millis = started.elapsed().as_millis(), "branch asleep");
    Ok(Uploaded::Asleep)
}

/// Finds out what became of a put that failed. A branch that sleeps has no folder any more.
pub(super) async fn settle(shared: &Shared, branch: &BranchRef, down: &mut Down) -> Result<Settled, LifecycleError> {
    if !down.in_doubt {
        return Ok(Settled::Held);
    }
    match shared.hold.settle(&mut down.held).await {
        Ok(Settled::Held) => {
            down.in_doubt = false;
            Ok(Settled::Held)
        }
        Ok(Settled::Asleep) => {
            clear(branch, down).await;
            Ok(Settled::Asleep)
        }
        Err(HoldError::Lost) => Err(LifecycleError::Other(format!(
            "another node has taken it over; what was written here meanwhile stays in {}",
            down.place.delta().display()
        ))),
        Err(error) => Err(error.into()),
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

/// Bytes of the objects that are the branch's alone, but for the manifest itself and the boot object.
pub(super) fn stored_bytes(manifest: &BranchManifest) -> u64 {
    let of_image = manifest.image.as_ref().map_or(0, |image| {
        let own = image.packs.iter().filter(|pack| pack.key.starts_with(keys::BRANCHES));
        image.index_bytes + own.map(|pack| pack.bytes).sum::<u64>()
    });
    manifest.layers.iter().map(|layer| layer.bytes).sum::<u64>() + of_image
}

/// What an upload is made of.
#[derive(Clone, Copy)]
struct Stopped<'a> {
    /// As it was when the upload began: keys go on from it.
    head: &'a BranchHead,
    place: &'a Place,
    base: &'a OpenBase,
    manifest: Option<&'a BranchManifest>,
    volume: &'a Arc<Volume>,
}

/// As [`plan`], or nothing if the branch is `wanted` before it is done.
async fn plan_unless(
    shared: &Shared,
    down: &mut Down,
    recorded: &Recorded,
    wanted: impl Future<Output = ()>,
) -> Result<Option<Planned>, LifecycleError> {
    let head = down.held.head.clone();
    let Down { held, place, base, manifest, volume, .. } = down;
    let stopped = Stopped { head: &head, place, base, manifest: manifest.as_ref(), volume };
    let stop = CancellationToken::new();
    // It may take longer than a lease: what another node took over meanwhile would be lost.
    let mut planning = pin!(shared.hold.renew_beside(held, plan(shared, stopped, recorded, &stop)));
    tokio::select! {
        planned = &mut planning => return planned.map(Some),
        () = wanted => stop.cancel(),
    }
    // Nothing may read the branch's files any more when it is started. What got done all the same is as good as asleep.
    let planned = planning.await;
    if let Err(error) = &planned {
        tracing::info!(branch = %head.name, %error, "somebody wants a branch that was falling asleep");
    }
    Ok(planned.ok())
}

/// What a manifest will hold, and the boot object beside it.
type Planned = (BranchManifest, Option<boot::Written>);

/// Writes the layers, or an image.
async fn plan(
    shared: &Shared,
    down: Stopped<'_>,
    recorded: &Recorded,
    stop: &CancellationToken,
) -> Result<Planned, LifecycleError> {
    let started = match boot::is_far(shared.catalog.store()) {
        true => boot::recorded(down.volume).await,
        false => None,
    };
    let control = wal::control_file(down.volume).await?;
    let folder = down.place.wal();
    let wal = blocking(move || wal::segments_of_folder(&control, &folder)).await?;

    let manifest = |image: Option<Image>, layers, tree| BranchManifest {
        format: BranchManifest::format_with(image.as_ref()),
        branch: down.head.id.clone(),
        base: down.head.base.clone(),
        image,
        layers,
        tree,
        wal: wal.clone(),
        databases: recorded.databases.clone(),
        roles: recorded.roles.clone(),
    };
    let former = down.manifest.and_then(|manifest| manifest.image.clone());
    let beneath = former.as_ref().map_or(down.base.manifest.logical_bytes, |image| image.logical_bytes);
    // A quota counts pages in layers; it bounds what they are, too.
    let has_quota = shared.limits(down.head).max_delta_bytes.is_some();
    if !has_quota && rewrote_most(down, beneath).await? {
        match make_image(shared, down, &wal, started.as_deref(), stop).await {
            Ok((image, boot)) => {
                let tree = TreeDiff { next_id: image.last_file_id + 1, ..TreeDiff::default() };
                return Ok((manifest(Some(image), Vec::new(), tree), boot));
            }
            Err(error) if stop.is_cancelled() => return Err(error),
            // It reads more than layers do.
            Err(error) => {
                tracing::warn!(branch = %down.head.name, %error, "a branch cannot be given an image; it sleeps with its layers");
            }
        }
    }

    let origin: Vec<LayerRef> = down.manifest.iter().flat_map(|manifest| manifest.layers.clone()).collect();
    let uploaded = down.volume.uploaded();
    let (selection, kept) = select(origin, uploaded, down.volume.unpublished_pages());
    let head = down.head;
    let nonce = Nonce::random(&shared.ambient.entropy);
    let (id, epoch, seq) = (head.id.clone(), head.epoch, head.seq);
    let key = move |number: usize| keys::layer(&id, epoch, seq + number as u64, &nonce);
    let (volume, store, folder) = (down.volume.clone(), shared.catalog.store().clone(), down.place.wal());
    let (segments, driver) = (wal.clone(), Driver::until(stop.clone(), Handle::current()));
    let touched = started.clone();
    let (Upload { layers, tree }, fresh) = blocking(move || {
        let wal = wal::read_pages(&folder, &segments)?;
        let mut fresh = Vec::new();
        let mut put = |layer: LayerRef, bytes: Vec<u8>| {
            for range in touched.iter().flat_map(|touched| boot_ranges(&layer, &bytes, &touched.places)) {
                let part = Bytes::copy_from_slice(&bytes[range.start as usize..range.end as usize]);
                fresh.push((range, part));
            }
            driver.wait(store.create(&layer.key, bytes))??;
            fault::pass(FaultPoint::LayerPut);
            Ok(())
        };
        let upload = build_upload(&volume, &wal, (selection, &driver), key, &mut put)?;
        Ok((upload, fresh))
    })
    .await?;
    let boot = started.map(|recorded| boot::Written { ranges: recorded.ranges.clone(), fresh });
    Ok((manifest(former, kept.into_iter().chain(layers).collect(), tree), boot))
}

/// Whether an image is due. Which pages of layers still show is found out only where all of them would be enough.
async fn rewrote_most(down: Stopped<'_>, beneath: u64) -> Result<bool, LifecycleError> {
    let volume = down.volume.clone();
    let in_layers: u64 = down.manifest.iter().flat_map(|manifest| &manifest.layers).map(|layer| layer.pages).sum();
    if !wants_image(volume.own_pages() + in_layers, beneath) {
        return Ok(false);
    }
    blocking(move || Ok(wants_image(volume.own_pages() + volume.layered_pages(), beneath))).await
}

/// Writes an image of the stopped branch, in place of all its layers.
async fn make_image(
    shared: &Shared,
    down: Stopped<'_>,
    wal: &[WalSegment],
    started: Option<&Touched>,
    stop: &CancellationToken,
) -> Result<(Image, Option<boot::Written>), LifecycleError> {
    let head = down.head;
    let nonce = Nonce::random(&shared.ambient.entropy);
    let (id, epoch, seq) = (head.id.clone(), head.epoch, head.seq);
    let index = keys::image_index(&id, epoch, seq, &nonce);
    let pack = Box::new(move |number: u32| keys::image_pack(&id, epoch, seq + u64::from(number), &nonce));
    let (volume, store, place) = (down.volume.clone(), shared.catalog.store().clone(), down.place.clone());
    let (segments, driver) = (wal.to_vec(), Driver::until(stop.clone(), Handle::current()));
    let built: BuiltImage = blocking(move || {
        let wal = wal::read_pages(&place.wal(), &segments)?;
        let names = ImageNames { index, pack };
        // In the delta's folder, where only the daemon can write.
        let built = build_image(&volume, &wal, names, (store, &place.delta()), &driver);
        let built = built.map_err(|e| LifecycleError::Other(format!("its image cannot be written: {e}")))?;
        fault::pass(FaultPoint::ImagePut);
        Ok(built)
    })
    .await?;
    let boot = match started {
        Some(recorded) => match stop.run_until_cancelled(built.boot_ranges(shared.cache.clone(), recorded)).await {
            None => return Err(PageError::Cancelled.into()),
            Some(Ok(ranges)) => Some(boot::Written { ranges, fresh: Vec::new() }),
            Some(Err(error)) => {
                tracing::warn!(branch = %head.name, %error, "a branch sleeps without a boot object; its wake takes longer");
                None
            }
        },
        None => None,
    };
    Ok((built.image, boot))
}

/// Which layers a suspend merges into its own, and which it leaves: from the newest upload back while they are small beside what is written
/// anyway, or one too many. So a page is written again only once what lies over it has grown to half of its own layer.
fn select(origin: Vec<LayerRef>, uploaded: Vec<LayerRef>, new_pages: u64) -> (Selection, Vec<LayerRef>) {
    let began_with = origin.len();
    let kept: Vec<LayerRef> = origin.into_iter().chain(uploaded).collect();
    let mut uploads = by_upload(&kept);
    let mut written = new_pages * STORED_PAGE;
    while let Some(last) = uploads.last().map(|layers| layers.iter().map(|layer| layer.bytes).sum::<u64>())
        && (uploads.len() >= MOST_UPLOADS_ASLEEP || last <= (2 * written).max(SMALL_LAYER))
    {
        written += last;
        uploads.pop();
    }
    let left: usize = uploads.iter().map(|layers| layers.len()).sum();
    if left == kept.len() {
        return (Selection::CHANGES, kept);
    }
    // All uploads of this epoch are one piece: their pages are the delta's.
    let left = left.min(began_with);
    (Selection { all: true, merge_from: left }, kept.into_iter().take(left).collect())
}

/// The layers of each upload. A large one made several.
pub(super) fn by_upload(layers: &[LayerRef]) -> Vec<&[LayerRef]> {
    layers.chunk_by(|a, b| keys::upload_of(&a.key) == keys::upload_of(&b.key)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layers(bytes: &[u64]) -> Vec<LayerRef> {
        bytes.iter().map(|bytes| LayerRef { key: format!("1-1-{bytes}"), bytes: *bytes, pages: bytes / 4096 }).collect()
    }

    fn sizes(layers: &[LayerRef]) -> Vec<u64> {
        layers.iter().map(|layer| layer.bytes).collect()
    }

    const MIB: u64 = 1 << 20;

    #[test]
    fn small_layers_are_merged_and_large_ones_stay() {
        let (selection, kept) = select(layers(&[900 * MIB, 40 * MIB, MIB / 2]), Vec::new(), 10);
        assert_eq!((sizes(&kept), selection.merge_from, selection.all), (vec![900 * MIB, 40 * MIB], 2, true));
        let (selection, kept) = select(layers(&[900 * MIB, 40 * MIB]), Vec::new(), 10);
        assert_eq!((kept.len(), selection.merge_from, selection.all), (2, usize::MAX, false));
        let (selection, kept) = select(layers(&[900 * MIB, 40 * MIB]), Vec::new(), 20_000);
        assert_eq!((sizes(&kept), selection.merge_from), (vec![900 * MIB], 1));
    }

    #[test]
    fn uploads_of_one_epoch_are_merged_together_or_not_at_all() {
        let (selection, kept) = select(layers(&[900 * MIB]), layers(&[80 * MIB, 70 * MIB]), 10);
        assert_eq!((kept.len(), selection.all), (3, false));
        let (selection, kept) = select(layers(&[900 * MIB]), layers(&[80 * MIB, MIB / 4]), 10);
        assert_eq!((sizes(&kept), selection.all, selection.merge_from), (vec![900 * MIB], true, 1));
    }

    #[test]
    fn the_layers_of_one_large_upload_are_one() {
        let layer = |nonce: &str, part: u64| LayerRef { key: format!("1-{part}-{nonce}"), bytes: 128 * MIB, pages: 1 };
        let large: Vec<LayerRef> = (0..40).map(|part| layer("a", part)).chain([layer("b", 41)]).collect();
        assert_eq!(by_upload(&large).iter().map(|layers| layers.len()).collect::<Vec<_>>(), [40, 1]);
        let (selection, kept) = select(large, Vec::new(), 10);
        assert_eq!((selection.all, kept.len()), (false, 41), "large layers are not too many");
    }

    /// However a branch is used, there are few layers, and what is written stays within a small multiple of what changed.
    #[test]
    fn layers_stay_few_and_merging_cheap() {
        let (mut layers_now, mut written, mut changed) = (Vec::new(), 0, 0);
        for round in 0..1000_u64 {
            let pages = [3, 500, 40, 9000][(round % 4) as usize];
            let before: u64 = sizes(&layers_now).iter().sum();
            let (_, kept) = select(layers_now, Vec::new(), pages);
            let new = before - sizes(&kept).iter().sum::<u64>() + pages * STORED_PAGE;
            (written, changed) = (written + new, changed + pages * STORED_PAGE);
            layers_now = kept.into_iter().chain(layers(&[new])).collect();
            assert!(layers_now.len() <= MOST_UPLOADS_ASLEEP, "round {round}: {} layers", layers_now.len());
        }
        assert!(written <= 8 * changed, "{} times what changed was written", written / changed);
    }
}
