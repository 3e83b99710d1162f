//! From a staged backup to a sealed base: one private start to reach consistency, a clean stop, one minimal WAL segment, then
//! the seal.
//!
//! The start runs on a mount of the staged base, so nothing of the database is copied to local disk but the pages that recovery
//! changes. Here `pg_wal` is the mount's own: recovery reads the WAL that came with the backup. Of WAL, the base keeps what the next start reads.

use super::make_base::Attest;
use crate::branch::awake::{Ground, Mounted, blocking};
use crate::branch::place::Place;
use crate::branch::{LifecycleError, boot, wal};
use crate::compute;
use crate::filesystem::Limits;
use crate::model::fault::{self, FaultPoint};
use crate::model::{BaseManifest, Cluster, ProjectName, SealedBase};
use crate::pageserver::{self, PageCache, SealedParts, StagedBase, Volume, VolumeSource, WriteError};
use crate::settings::{CacheSettings, Durability};
use crate::store::{Catalog, keys};
use std::path::Path;
use std::sync::Arc;

/// Files of a source that would make the private start something else than a recovery from its backup.
const HOSTILE: [&str; 4] = ["standby.signal", "recovery.signal", "recovery.conf", "tablespace_map"];

/// What is sealed, and how.
pub(super) struct Sealing<'a> {
    pub catalog: &'a Catalog,
    pub staged: StagedBase,
    pub ground: Ground,
    /// Where the data came from, without credentials.
    pub source: String,
    pub created_at_ms: u64,
    pub attest: Option<Box<dyn Attest>>,
}

/// Brings the staged base to consistency and seals it. `scratch` is a folder of the import's own, which the compute's user can reach.
pub(super) async fn seal(sealing: Sealing<'_>, scratch: &Path) -> Result<(SealedBase, BaseManifest), LifecycleError> {
    let Sealing { catalog, staged, ground, source, created_at_ms, attest } = sealing;
    let place = Place::at(scratch.join("start"));
    let (laid_out, identity) = (place.clone(), ground.identity);
    blocking(move || laid_out.make(identity)).await?;
    let cache = PageCache::open(catalog.store().clone(), &scratch.join("cache"), &CacheSettings::default())?;
    let base = Arc::new(staged.open(cache.clone()).await?);
    let dynshmem = place.dynshmem();
    let volume_source = VolumeSource {
        base,
        last_base_id: staged.last_file_id,
        layers: &[],
        tree: None,
        links: &[("pg_dynshmem", &dynshmem)],
    };
    let volume =
        Arc::new(Volume::open(cache.clone(), volume_source, place.disk(Durability::Durable)?, "import").await?);
    for name in HOSTILE {
        volume.remove_root_file(name).await?;
    }
    let (volume, cluster) = make_consistent(volume, &ground, &place, &staged.project).await?;
    let wal = wal::segments_of_volume(&volume).await?;
    let (store, folder, runtime) = (catalog.store().clone(), scratch.to_owned(), tokio::runtime::Handle::current());
    let (sealed_wal, sealed_staged) = (wal.clone(), staged.clone());
    let parts = tokio::task::spawn_blocking(move || {
        pageserver::seal(&volume, &sealed_staged, &sealed_wal, store, &folder, runtime)
    })
    .await
    .map_err(|e| LifecycleError::Other(e.to_string()))?
    .map_err(|e| match e {
        WriteError::Store(e) => LifecycleError::Store(e),
        WriteError::Scratch { path, source } => {
            LifecycleError::io(format!("cannot write to {}", path.display()))(source)
        }
        e => LifecycleError::Other(e.to_string()),
    })?;
    let SealedParts { packs, index_bytes, last_file_id, files, logical_bytes } = parts;
    let mut manifest = BaseManifest {
        format: BaseManifest::format_with(&wal),
        project: staged.project.clone(),
        id: staged.id.clone(),
        created_at_ms,
        source,
        cluster,
        wal,
        stored_bytes: packs.iter().map(|pack| pack.bytes).sum::<u64>() + index_bytes,
        packs,
        index_bytes,
        last_file_id,
        files,
        logical_bytes,
        masking: None,
    };
    if let Some(attest) = attest {
        let (masking, report) = attest.attest(&manifest);
        catalog.store().create(&keys::base_report(&staged.project, &staged.id), report).await?;
        fault::pass(FaultPoint::ReportPut);
        manifest.masking = Some(masking);
    }
    let rehearsal = Place::at(scratch.join("rehearsal"));
    boot::rehearse(catalog, cache, &manifest, &ground, &rehearsal).await?;
    catalog.store().delete(&keys::base_staged_index(&staged.project, &staged.id)).await?;
    let sealed = catalog.publish_base(&manifest).await?;
    Ok((sealed, manifest))
}

/// Starts the cluster, reads what a manifest must say of it, and stops it.
async fn make_consistent(
    volume: Arc<Volume>,
    ground: &Ground,
    place: &Place,
    project: &ProjectName,
) -> Result<(Arc<Volume>, Cluster), LifecycleError> {
    let limits = Limits::none(format!("the import of {project}"));
    let mounted = Mounted::new(volume, place, ground.identity, limits).await?;
    let (data_dir, run_dir) = (place.mount(), place.run());
    let superuser = compute::bootstrap_superuser(mounted.launch(ground, &data_dir, &run_dir)).await?;
    let awake = mounted.start(ground, place).await.map_err(|(_, error)| error)?;
    let cluster = compute::read_cluster(awake.compute.socket(), &superuser).await;
    let (exit, mounted) = awake.stop_compute().await;
    let mut cluster = cluster?;
    if !exit.clean {
        return Err(LifecycleError::Other(format!("the private start did not stop cleanly: {}", exit.description)));
    }
    cluster.settings = ground.source_settings.clone();
    Ok((mounted.unmount().await?, cluster))
}
