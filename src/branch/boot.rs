//! Boot objects: written when a base is sealed and when a branch falls asleep, read when one is woken, so that a node which has nothing
//! of it asks the store for its head, this, and no more.
//!
//! A branch's boot object holds its manifest, what a start reads of its layers, and what of the base its base's boot object lacks. Objects of a
//! `file://` store are read where they lie: there it is neither read nor, for branches, written. Whatever goes wrong with one is a wake that takes longer.

use super::awake::{Awake, Ground, Mounted, blocking, links};
use super::error::LifecycleError;
use super::place::Place;
use super::shared::Shared;
use super::wal;
use crate::compute;
use crate::filesystem::Limits;
use crate::model::{BaseManifest, BranchHead, BranchManifest, ManifestRef};
use crate::pageserver::{Base, BootSet, BootWriter, PageCache, PageError, Recorded, StoredRange, Volume, VolumeSource};
use crate::settings::Durability;
use crate::store::{Catalog, Store, StoreError, keys};
use bytes::Bytes;
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How long after its first session is let in a start is taken to be over: its first query is answered by then.
pub(super) const START: Duration = Duration::from_secs(1);
/// Databases of a base that its rehearsal connects to.
const REHEARSED_DATABASES: usize = 8;

/// A suspended branch's manifest, and the boot object it came with.
#[derive(Clone)]
pub(super) struct Known {
    pub manifest: BranchManifest,
    pub boot: Option<Arc<BootSet>>,
}

/// Whether objects of this store are worth a detour.
pub(super) fn is_far(store: &Store) -> bool {
    store.local_path("").is_none()
}

/// The manifest that `head` names: one request, where there is a boot object.
pub(super) async fn read_manifest(catalog: &Catalog, head: &BranchHead) -> Result<Option<Known>, StoreError> {
    let Some(reference) = &head.manifest else { return Ok(None) };
    if let Some(boot) = read(catalog.store(), &keys::boot_of(&reference.key)).await
        && let Some(document) = boot.document(&reference.key)
    {
        match Catalog::decode_branch_manifest(reference, &document) {
            Ok(manifest) => return Ok(Some(Known { manifest, boot: Some(boot) })),
            Err(error) => tracing::warn!(%error, "a boot object holds another manifest than its branch's"),
        }
    }
    let manifest = catalog.branch_manifest(reference).await?;
    Ok(Some(Known { manifest, boot: None }))
}

/// The boot object under `key`, where it is worth a request and of use.
pub(super) async fn read(store: &Store, key: &str) -> Option<Arc<BootSet>> {
    if !is_far(store) {
        return None;
    }
    let opened = match store.get(key).await {
        Ok(object) => object.map(|object| BootSet::open(key, object.bytes)).transpose(),
        Err(e) => Err(PageError::from(e)),
    };
    opened
        .unwrap_or_else(|error| {
            tracing::warn!(%error, "a boot object cannot be used; this wake takes longer");
            None
        })
        .map(Arc::new)
}

/// What the volume's last start read. Ends a recording that is still on.
pub(super) async fn recorded(volume: &Volume) -> Option<Arc<Recorded>> {
    if let Err(error) = volume.keep_recording().await {
        tracing::warn!(%error, "what a start read cannot be told; the next one takes longer");
    }
    volume.recorded()
}

/// What a suspend hands over for the boot object.
pub(super) struct Written {
    /// What the next start will read.
    pub ranges: Vec<StoredRange>,
    /// Parts of the layers that were just put.
    pub fresh: Vec<(StoredRange, Bytes)>,
}

/// Writes the boot object that goes with `manifest`. Returns its length.
pub(super) async fn write(
    shared: &Shared,
    (reference, manifest, document): (&ManifestRef, &BranchManifest, Bytes),
    base_has: &HashSet<StoredRange>,
    written: Written,
) -> Result<u64, LifecycleError> {
    let mut writer = BootWriter::default();
    writer.document(&reference.key, document);
    written.fresh.into_iter().for_each(|(range, bytes)| writer.range(range, bytes));
    let kept: HashSet<&str> = manifest.objects().collect();
    let is_dropped = |range: &StoredRange| range.key.starts_with(keys::BRANCHES) && !kept.contains(range.key.as_str());
    for range in &written.ranges {
        if !base_has.contains(range) && !is_dropped(range) && writer.wants(range) {
            writer.range(range.clone(), shared.cache.read_stored(range).await?);
        }
    }
    let key = keys::boot_of(&reference.key);
    let object = writer.finish(&key);
    let bytes = object.len() as u64;
    shared.catalog.store().create(&key, object).await?;
    Ok(bytes)
}

/// Starts a branch of a base that is about to be sealed, connects to its databases, and throws the branch away: that the base can be branched is
/// known, and so is what a branch of it reads. Puts the base's boot object.
pub(crate) async fn rehearse(
    catalog: &Catalog,
    cache: PageCache,
    manifest: &BaseManifest,
    ground: &Ground,
    place: &Place,
) -> Result<(), LifecycleError> {
    let awake = start_alone(cache.clone(), manifest, ground, place, "rehearsal").await?;
    let databases =
        manifest.cluster.databases.iter().filter(|database| database.allow_connections && !database.is_template);
    for database in databases.take(REHEARSED_DATABASES) {
        let superuser = &manifest.cluster.superuser;
        if let Err(error) = compute::try_database(awake.compute.socket(), superuser, &database.name).await {
            // As in the source, perhaps: a branch of it is none the worse.
            tracing::warn!(database = database.name, %error, "a database of the new base cannot be connected to");
        }
    }
    let (_, volume) = awake.stop().await?;
    let recorded = volume.finish_recording().await?.unwrap_or_default();
    let mut writer = BootWriter::default();
    let (key, document) = Catalog::encode_base_manifest(manifest);
    writer.document(&key, document);
    for range in &recorded.ranges {
        if writer.wants(range) {
            writer.range(range.clone(), cache.read_stored(range).await?);
        }
    }
    let key = keys::base_boot(&manifest.project, &manifest.id);
    catalog.store().create(&key, writer.finish(&key)).await?;
    Ok(())
}

/// Starts a branch that nobody is told of, in a place of its own: what it changes stays there, and goes with it. Its start is being recorded. `what` it
/// is for names its volume.
pub(crate) async fn start_alone(
    cache: PageCache,
    manifest: &BaseManifest,
    ground: &Ground,
    place: &Place,
    what: &'static str,
) -> Result<Awake, LifecycleError> {
    let (laid_out, identity) = (place.clone(), ground.identity);
    blocking(move || laid_out.make(identity)).await?;
    let base = Arc::new(Base::open(cache.clone(), manifest).await?);
    let links = links(place);
    let links: Vec<(&str, &Path)> = links.iter().map(|(name, target)| (*name, target.as_path())).collect();
    let last_base_id = manifest.last_file_id;
    let source = VolumeSource { base, last_base_id, layers: &[], tree: None, links: &links };
    let disk = place.disk(Durability::Ephemeral)?;
    let volume = Arc::new(Volume::open(cache, source, disk, what).await?);
    volume.start_recording();
    let (wal_place, wal) = (place.clone(), manifest.wal.clone());
    let content = volume.read_wal(wal::kept_pages(&wal)).await?;
    blocking(move || wal_place.write_wal(&wal, &content, identity)).await?;
    let limits = Limits::none(format!("the {what} of {}", manifest.project));
    let mounted = Mounted::new(volume, place, identity, limits).await?;
    mounted.start(ground, place).await.map_err(|(_, error)| error)
}
