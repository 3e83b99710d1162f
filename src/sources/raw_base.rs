//! A raw base as a source of rows: a private compute on it, which nobody but the import reaches.
//!
//! The base is read through a cache of bounded size, and what the compute changes goes when it does.

use super::make_base::clear_raw_side;
use super::scratch::Scratch;
use super::{ImportError, Server};
use crate::branch::awake::{Awake, Ground, blocking};
use crate::branch::boot;
use crate::branch::place::{self, Place};
use crate::compute::{Identity, installation};
use crate::model::{BaseId, BaseManifest, Entropy, ProjectName};
use crate::pageserver::PageCache;
use crate::settings::{CacheSettings, ComputeSettings, Settings};
use crate::store::Catalog;
use std::collections::BTreeMap;
use std::path::Path;

/// Settings of the private compute: nothing may run in it by itself, or say what it holds.
const PRIVATE: [(&str, &str); 6] = [
    ("autovacuum", "off"),
    ("log_min_error_statement", "panic"),
    ("log_min_messages", "fatal"),
    ("max_worker_processes", "0"),
    ("synchronous_commit", "off"),
    ("wal_level", "minimal"),
];

/// A base whose rows are to be read.
pub struct RawBase {
    pub catalog: Catalog,
    pub manifest: BaseManifest,
}

/// A running compute on one. Dropping it kills the compute and detaches the mount.
pub(crate) struct RunningRawBase {
    awake: Awake,
    server: Server,
}

impl RawBase {
    /// The project's current base in the raw store of `catalog`.
    pub async fn current(catalog: Catalog, project: &ProjectName) -> Result<RawBase, ImportError> {
        let failed = |e: crate::store::StoreError| ImportError::Store { reason: e.to_string() };
        let head = catalog.project_head(project).await.map_err(failed)?;
        let sealed = head.as_ref().and_then(|head| head.current()).ok_or_else(|| ImportError::NoRawBase {
            project: project.clone(),
            store: catalog.store().url().to_owned(),
        })?;
        let manifest = catalog.base_manifest(project, &sealed.id).await.map_err(failed)?;
        Ok(RawBase { catalog, manifest })
    }

    /// Starts a compute on it. `scratch` is an import's folder, which the compute's user can pass through.
    pub(crate) async fn start(
        &self,
        settings: &ComputeSettings,
        scratch: &Path,
    ) -> Result<RunningRawBase, ImportError> {
        let cluster = &self.manifest.cluster;
        let ground = Ground {
            settings: settings.clone(),
            installation: installation(settings, cluster.major).await?,
            identity: Identity::resolve(settings)?,
            source_settings: cluster.settings.clone(),
            parameters: PRIVATE.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        };
        let place = Place::at(scratch.join("raw"));
        let store = self.catalog.store().clone();
        let cache = PageCache::open(store, &scratch.join("raw-cache"), &CacheSettings::default())
            .map_err(|e| ImportError::RawBase(e.into()))?;
        let started = boot::start_alone(cache, &self.manifest, &ground, &place, "raw side").await;
        let awake = started.map_err(ImportError::RawBase)?;
        let server = Server::on_socket(&place.run(), &cluster.superuser);
        Ok(RunningRawBase { awake, server })
    }

    /// Does `work` with a compute on it, in a folder of its own below `data_dir`, and leaves nothing behind.
    pub async fn look<T>(&self, settings: &Settings, work: impl AsyncFnOnce(&Server) -> T) -> Result<T, ImportError> {
        let (wanted, identity) = (settings.server.data_dir.clone(), Identity::resolve(&settings.compute)?);
        let folder = blocking(move || place::prepare(&wanted, identity)).await?.join("import-raw");
        clear_raw_side(&settings.server.data_dir).await?;
        let scratch = Scratch::make(folder.join(format!("look-{}", BaseId::random(&Entropy::system()))))?;
        let looked = match self.start(&settings.compute, scratch.path()).await {
            Ok(running) => {
                let looked = work(running.server()).await;
                running.stop().await.map(|()| looked)
            }
            Err(error) => Err(error),
        };
        scratch.remove().await?;
        looked
    }

    /// What its cluster was started with, and is not in its files.
    pub(crate) fn source_settings(&self) -> &BTreeMap<String, String> {
        &self.manifest.cluster.settings
    }
}

impl RunningRawBase {
    /// How it is reached.
    pub(crate) fn server(&self) -> &Server {
        &self.server
    }

    /// Stops it, however: nothing of it is kept.
    pub(crate) async fn stop(self) -> Result<(), ImportError> {
        self.awake.stop().await.map_err(ImportError::RawBase)?;
        Ok(())
    }
}
