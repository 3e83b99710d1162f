//! A branch that is up: volume, mount and compute, brought up in this order and taken down in the other.
//!
//! Used for a branch's life and for an import's private start alike.

use super::error::LifecycleError;
use super::place::Place;
use crate::compute::{Compute, Exit, Identity, Installation, Launch};
use crate::filesystem::{Limits, Mount};
use crate::pageserver::{LINKED_FOLDERS, Volume};
use crate::settings::ComputeSettings;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What every start on this node has in common.
#[derive(Clone)]
pub(crate) struct Ground {
    pub settings: ComputeSettings,
    pub installation: Installation,
    pub identity: Identity,
    pub source_settings: BTreeMap<String, String>,
    pub parameters: BTreeMap<String, String>,
}

/// A mounted volume with a running compute. Dropping it kills the compute and detaches the mount.
pub(crate) struct Awake {
    // Dropped in this order.
    pub compute: Compute,
    mounted: Mounted,
}

/// A mounted volume.
pub(crate) struct Mounted {
    mount: Mount,
    pub volume: Arc<Volume>,
}

/// The links that a branch's mount shows, but for an import's, whose recovery reads the WAL that came with the backup.
pub(crate) fn links(place: &Place) -> [(&'static str, PathBuf); 2] {
    let [wal, dynshmem] = LINKED_FOLDERS;
    [(wal, place.wal()), (dynshmem, place.dynshmem())]
}

/// Runs blocking work of bringing up or taking down.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LifecycleError> + Send + 'static,
) -> Result<T, LifecycleError> {
    tokio::task::spawn_blocking(work).await.map_err(|e| LifecycleError::Other(format!("a task of ours failed: {e}")))?
}

impl Mounted {
    pub(crate) async fn new(
        volume: Arc<Volume>,
        place: &Place,
        identity: Identity,
        limits: Limits,
    ) -> Result<Mounted, LifecycleError> {
        volume.remove_pid_file().await?;
        let (shared, path) = (volume.clone(), place.mount());
        let mount = blocking(move || Ok(Mount::new(shared, &path, (identity.uid, identity.gid), limits)?)).await?;
        Ok(Mounted { mount, volume })
    }

    /// What a compute on it is started with.
    pub(crate) fn launch<'a>(&self, ground: &'a Ground, data_dir: &'a Path, run_dir: &'a Path) -> Launch<'a> {
        Launch {
            settings: &ground.settings,
            installation: &ground.installation,
            identity: ground.identity,
            data_dir,
            files: self.volume.clone().into(),
            run_dir,
            source_settings: &ground.source_settings,
            parameters: &ground.parameters,
            pid_file: self.volume.pid_file(),
        }
    }

    /// Starts the compute on it. When that fails, the mount is gone and the volume comes back with the error.
    pub(crate) async fn start(self, ground: &Ground, place: &Place) -> Result<Awake, (Arc<Volume>, LifecycleError)> {
        let (data_dir, run_dir) = (place.mount(), place.run());
        match Compute::start(self.launch(ground, &data_dir, &run_dir)).await {
            Ok(compute) => Ok(Awake { compute, mounted: self }),
            Err(error) => {
                let volume = self.volume.clone();
                if let Err(also) = self.unmount().await {
                    tracing::warn!(error = %also, "after a failed start");
                }
                Err((volume, error.into()))
            }
        }
    }

    /// Unmounts; every page the kernel held is in the volume's delta then.
    pub(crate) async fn unmount(self) -> Result<Arc<Volume>, LifecycleError> {
        let Mounted { mount, volume } = self;
        blocking(move || Ok(mount.unmount()?)).await?;
        volume.forget_all();
        Ok(volume)
    }
}

impl Awake {
    pub(crate) fn volume(&self) -> &Arc<Volume> {
        &self.mounted.volume
    }

    /// Stops the compute; the mount stays.
    pub(crate) async fn stop_compute(mut self) -> (Exit, Mounted) {
        let exit = self.compute.stop().await;
        (exit, self.mounted)
    }

    /// Stops the compute and unmounts.
    pub(crate) async fn stop(self) -> Result<(Exit, Arc<Volume>), LifecycleError> {
        let (exit, mounted) = self.stop_compute().await;
        Ok((exit, mounted.unmount().await?))
    }
}
