//! `offshoot import` as one action: copy, bring to consistency, seal; and leave nothing behind when it fails.
//!
//! The import works in `<data_dir>/import/<base-id>`, which it holds locked. A folder there that nobody holds belongs to an import that
//! was killed: its computes, mounts, packs and files are removed first.

use super::seal::{Sealing, seal};
use super::{Import, ImportError, Progress, Source, import};
use crate::branch::LifecycleError;
use crate::branch::awake::{Ground, blocking};
use crate::branch::place;
use crate::compute::{self, Identity};
use crate::filesystem;
use crate::model::fault::{self, FaultPoint};
use crate::model::{Ambient, BaseId, BaseManifest, MaskingSeal, ProjectName, SealedBase};
use crate::settings::Settings;
use crate::store::{Catalog, keys};
use async_trait::async_trait;
use nix::fcntl::{Flock, FlockArg};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where the files of a base come from.
pub enum Origin {
    /// They are there already.
    Files(Source),
    /// They are made first.
    Made(Box<dyn Prepare>),
}

/// Makes a data directory out of something that is none.
#[async_trait]
pub trait Prepare: Send {
    /// Works in `scratch`, a folder of the import's own, which the compute's user can pass through.
    async fn prepare(self: Box<Self>, scratch: &Path, progress: &Arc<Progress>) -> Result<Prepared, ImportError>;
}

/// A stopped data directory, and what its files do not say.
pub struct Prepared {
    pub data_dir: PathBuf,
    /// Where the data came from, without credentials.
    pub source: String,
    /// Settings of the source that its files do not have.
    pub source_settings: BTreeMap<String, String>,
    pub attest: Option<Box<dyn Attest>>,
}

/// Vouches for what a base holds, once its files are in the store.
pub trait Attest: Send {
    /// The statement that goes into `manifest`, and the report it names.
    fn attest(self: Box<Self>, manifest: &BaseManifest) -> (MaskingSeal, Vec<u8>);
}

/// What to make a base of.
pub struct MakeBase {
    pub settings: Settings,
    pub project: ProjectName,
    pub origin: Origin,
    pub catalog: Catalog,
    pub ambient: Ambient,
    pub progress: Arc<Progress>,
}

/// Imports and seals. Works with or without a running server on the same data directory.
pub async fn make_base(request: MakeBase) -> Result<(SealedBase, BaseManifest), ImportError> {
    let MakeBase { settings, project, origin, catalog, ambient, progress } = request;
    let identity = Identity::resolve(&settings.compute)?;
    let wanted = settings.server.data_dir.clone();
    let folder = blocking(move || place::prepare(&wanted, identity)).await?.join("import");
    clear_killed(&catalog, &folder).await?;

    let base = BaseId::random(&ambient.entropy);
    let scratch = folder.join(base.as_str());
    let lock = make_scratch(&scratch)?;
    let note = scratch.join("project");
    std::fs::write(&note, project.as_str()).map_err(|source| ImportError::Scratch { path: note, source })?;
    let made = copy_and_seal(&settings, &project, origin, &catalog, &ambient, progress, &base, &scratch).await;
    if made.is_err() {
        // Why it failed matters more than what stays behind.
        let _ = remove_base(&catalog, &project, &base).await;
    }
    remove_scratch(&scratch).await?;
    drop(lock);
    made
}

#[expect(clippy::too_many_arguments, reason = "the parts of one request")]
async fn copy_and_seal(
    settings: &Settings,
    project: &ProjectName,
    origin: Origin,
    catalog: &Catalog,
    ambient: &Ambient,
    progress: Arc<Progress>,
    base: &BaseId,
    scratch: &Path,
) -> Result<(SealedBase, BaseManifest), ImportError> {
    let (source, prepared) = match origin {
        Origin::Files(source) => (source, None),
        Origin::Made(prepare) => {
            let prepared = prepare.prepare(scratch, &progress).await?;
            (Source::DataDirectory(prepared.data_dir.clone()), Some(prepared))
        }
    };
    let backup = import(Import {
        source,
        store: catalog.store().clone(),
        project: project.clone(),
        base: base.clone(),
        scratch: scratch.to_owned(),
        settings: settings.compute.clone(),
        ambient: ambient.clone(),
        progress,
    })
    .await?;
    fault::pass(FaultPoint::BaseStaged);
    let (mut facts, mut attest) = (backup.facts, None);
    if let Some(prepared) = prepared {
        // They are in the store: a large database need not be here twice while it is sealed.
        let folder = prepared.data_dir;
        let removed = tokio::fs::remove_dir_all(&folder).await;
        removed.map_err(|source| ImportError::Scratch { path: folder, source })?;
        (facts.source, facts.source_settings) = (prepared.source, prepared.source_settings);
        attest = prepared.attest;
    }
    let ground = Ground {
        settings: settings.compute.clone(),
        installation: facts.installation,
        identity: Identity::resolve(&settings.compute)?,
        source_settings: facts.source_settings,
        // Nothing but recovery may write to what is about to be sealed.
        parameters: BTreeMap::from([("autovacuum".to_owned(), "off".to_owned())]),
    };
    let sealing = Sealing {
        catalog,
        staged: backup.staged,
        ground,
        source: facts.source,
        created_at_ms: ambient.clock.now(),
        attest,
    };
    Ok(seal(sealing, scratch).await?)
}

fn make_scratch(scratch: &Path) -> Result<Flock<File>, ImportError> {
    let failed = |source| ImportError::Scratch { path: scratch.to_owned(), source };
    std::fs::create_dir_all(scratch).map_err(failed)?;
    for folder in [scratch.parent().unwrap_or(scratch), scratch] {
        // The compute of the private start passes through.
        let passable = std::os::unix::fs::PermissionsExt::from_mode(0o711);
        std::fs::set_permissions(folder, passable).map_err(failed)?;
    }
    lock(scratch)?.ok_or_else(|| ImportError::Busy { path: scratch.to_owned() })
}

/// `None` where another process holds it.
fn lock(scratch: &Path) -> Result<Option<Flock<File>>, ImportError> {
    let path = scratch.join("lock");
    let failed = |source| ImportError::Scratch { path: path.clone(), source };
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
    Ok(Flock::lock(file, FlockArg::LockExclusiveNonblock).ok())
}

/// Removes what imports that were killed left on the node with this data directory and in the store; one that goes on is left alone.
pub async fn clear_killed_imports(catalog: &Catalog, data_dir: &Path) -> Result<(), ImportError> {
    clear_killed(catalog, &data_dir.join("import")).await
}

async fn clear_killed(catalog: &Catalog, folder: &Path) -> Result<(), ImportError> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(ImportError::read(folder, e)),
    };
    for entry in entries {
        let scratch = entry.map_err(|e| ImportError::read(folder, e))?.path();
        let Some(lock) = lock(&scratch)? else { continue };
        let project = std::fs::read_to_string(scratch.join("project")).ok().and_then(|name| name.parse().ok());
        if let (Some(base), Some(project)) = (scratch.file_name().and_then(|name| name.to_str()), project) {
            remove_base(catalog, &project, &BaseId::from(base)).await?;
        }
        remove_scratch(&scratch).await?;
        drop(lock);
        tracing::warn!(path = %scratch.display(), "removed what a killed import had left");
    }
    Ok(())
}

/// Deletes the objects of a base that was never sealed. One whose manifest is there may have been listed by a put whose answer was lost, or
/// may still be: it stays.
async fn remove_base(catalog: &Catalog, project: &ProjectName, base: &BaseId) -> Result<(), ImportError> {
    let failed = |e: crate::store::StoreError| ImportError::Store { reason: e.to_string() };
    let head = catalog.project_head(project).await.map_err(failed)?;
    if head.is_some_and(|head| head.bases.iter().any(|sealed| sealed.id == *base)) {
        return Ok(());
    }
    let manifest = keys::base_manifest(project, base);
    if catalog.store().get(&manifest).await.map_err(failed)?.is_some() {
        return Ok(());
    }
    for key in catalog.store().list(&keys::base(project, base)).await.map_err(failed)? {
        catalog.store().delete(&key).await.map_err(failed)?;
    }
    Ok(())
}

async fn remove_scratch(scratch: &Path) -> Result<(), ImportError> {
    let reaped = compute::reap_orphans(scratch).await;
    reaped.map_err(|e| ImportError::read(scratch, e))?;
    let path: PathBuf = scratch.to_owned();
    blocking(move || {
        filesystem::detach_stale(&path).map_err(LifecycleError::io("cannot read the mount table"))?;
        // As in Place::remove: never through a mount.
        for mount in ["start/mnt", "rehearsal/mnt"] {
            match std::fs::remove_dir(path.join(mount)) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(LifecycleError::Io { what: format!("cannot remove {}", path.display()), source: e });
                }
                _ => {}
            }
        }
        std::fs::remove_dir_all(&path).map_err(LifecycleError::io(format!("cannot remove {}", path.display())))
    })
    .await?;
    Ok(())
}
