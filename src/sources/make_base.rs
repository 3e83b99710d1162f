//! `offshoot import` as one action: copy, bring to consistency, seal; and leave nothing behind when it fails.
//!
//! The import works in `<data_dir>/import/<base-id>` (`import-raw` for the raw store), which it holds locked. A folder there that nobody holds belongs to an import that
//! was killed: its computes, mounts, packs and files are removed first, but for what another import can go on with.

use super::scratch::{RESUMABLE, Scratch};
use super::seal::{Sealing, seal};
use super::{Import, ImportError, Progress, Source, import};
use crate::branch::awake::{Ground, blocking};
use crate::branch::place;
use crate::compute::Identity;
use crate::model::fault::{self, FaultPoint};
use crate::model::{Ambient, BaseId, BaseManifest, Entropy, MaskingSeal, ProjectName, SealedBase};
use crate::settings::Settings;
use crate::store::{Catalog, keys};
use async_trait::async_trait;
use std::collections::BTreeMap;
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
pub trait Prepare: Send + Sync {
    /// Whether it goes on with what is in `scratch`, the folder of an import of the same project that was killed or cut off. It says so with
    /// a file there ([`RESUMABLE`]), without which this is not asked.
    fn resumes(&self, _scratch: &Path) -> bool {
        false
    }

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
    /// Of the store that it goes to.
    pub catalog: Catalog,
    /// That is the raw store: what a killed import left is cleared from where it was put.
    pub is_raw: bool,
    pub ambient: Ambient,
    pub progress: Arc<Progress>,
}

/// Imports and seals. Works with or without a running server on the same data directory.
pub async fn make_base(request: MakeBase) -> Result<(SealedBase, BaseManifest), ImportError> {
    let MakeBase { settings, project, origin, catalog, is_raw, ambient, progress } = request;
    let identity = Identity::resolve(&settings.compute)?;
    let wanted = settings.server.data_dir.clone();
    let folder =
        blocking(move || place::prepare(&wanted, identity)).await?.join(if is_raw { "import-raw" } else { "import" });
    if !is_raw {
        clear_raw_side(&settings.server.data_dir).await?;
    }
    let goes_on = |path: &Path| matches!(&origin, Origin::Made(prepare) if prepare.resumes(path));
    let own = (&project, &ambient.entropy, &goes_on as &GoesOn<'_>);
    let (base, scratch) = match clear_killed(&catalog, &folder, Some(own)).await? {
        Some(found) => found,
        None => {
            let base = BaseId::random(&ambient.entropy);
            let scratch = Scratch::make(folder.join(base.as_str()))?;
            let note = scratch.path().join("project");
            std::fs::write(&note, project.as_str()).map_err(|source| ImportError::Scratch { path: note, source })?;
            (base, scratch)
        }
    };
    let made = copy_and_seal(&settings, &project, origin, &catalog, &ambient, progress, &base, scratch.path()).await;
    // Why it failed matters more than what stays behind.
    let is_listed = made.is_err() && remove_base(&catalog, &project, &base).await.unwrap_or(false);
    match made {
        Err(error) if error.may_pass() && !is_listed && scratch.path().join(RESUMABLE).exists() => {
            let halted = scratch.halt().await?;
            Err(ImportError::CutOff { reason: Box::new(error), folder: halted.path().to_owned() })
        }
        made => {
            scratch.remove().await?;
            made
        }
    }
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
        // Its files stay until there is a base of them: another import could go on with them, and sealing brings but few pages here again.
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

/// Whether an import goes on with what is in a folder.
type GoesOn<'a> = dyn Fn(&Path) -> bool + Sync + 'a;

/// Removes what imports that were killed left on the node with this data directory and in the store; one that goes on is left alone.
pub async fn clear_killed_imports(catalog: &Catalog, data_dir: &Path) -> Result<(), ImportError> {
    clear_raw_side(data_dir).await?;
    clear_killed(catalog, &data_dir.join("import"), None).await.map(drop)
}

/// Ends what still runs of killed imports to the raw store, and removes their files and those of looks at raw bases. What the former have put
/// into the raw store is the next one's to remove: nobody else may know that store.
pub async fn clear_raw_side(data_dir: &Path) -> Result<(), ImportError> {
    let folder = data_dir.join("import-raw");
    for folder in folders_in(&folder)? {
        let Some(scratch) = Scratch::of_killed(folder.clone())? else { continue };
        let note = std::fs::read(folder.join("project")).ok();
        scratch.remove().await?;
        if let Some(note) = note {
            let made = Scratch::make(folder)?;
            let path = made.path().join("project");
            std::fs::write(&path, note).map_err(|source| ImportError::Scratch { path, source })?;
        }
    }
    Ok(())
}

/// What is in `folder`, which need not exist.
fn folders_in(folder: &Path) -> Result<Vec<PathBuf>, ImportError> {
    let paths = |entries: std::fs::ReadDir| entries.map(|entry| Ok(entry?.path())).collect();
    match std::fs::read_dir(folder).and_then(paths) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        read => read.map_err(|e| ImportError::read(folder, e)),
    }
}

/// As above. For an import of a project, which goes on with some: the first of these is left, and returned, for a base of another name. Objects of
/// the former one may still be deleted, or come late, whoever lists them now.
async fn clear_killed(
    catalog: &Catalog,
    folder: &Path,
    of: Option<(&ProjectName, &Entropy, &GoesOn<'_>)>,
) -> Result<Option<(BaseId, Scratch)>, ImportError> {
    let mut found = None;
    for path in folders_in(folder)? {
        let Some(scratch) = Scratch::of_killed(path.clone())? else { continue };
        let project: Option<ProjectName> =
            std::fs::read_to_string(path.join("project")).ok().and_then(|name| name.parse().ok());
        let base = path.file_name().and_then(|name| name.to_str()).map(BaseId::from);
        // Of a base that is listed nothing is left to do.
        let is_listed = match (&base, &project) {
            (Some(base), Some(project)) => remove_base(catalog, project, base).await?,
            _ => false,
        };
        let is_own = of.is_some_and(|(own, ..)| project.as_ref() == Some(own));
        let resumed = of.filter(|(_, _, goes_on)| is_own && found.is_none() && goes_on(&path));
        match base.filter(|_| !is_listed && path.join(RESUMABLE).exists()) {
            Some(_) if let Some((_, entropy, _)) = resumed => {
                let base = BaseId::random(entropy);
                let scratch = scratch.halt().await?.rename(folder.join(base.as_str()))?;
                found = Some((base, scratch));
            }
            // Another import may.
            Some(_) if !is_own && project.is_some() => drop(scratch.halt().await?),
            _ => {
                scratch.remove().await?;
                tracing::warn!(path = %path.display(), "removed what a killed import had left");
            }
        }
    }
    Ok(found)
}

/// Deletes the objects of a base that was never sealed. One whose manifest is there may have been listed by a put whose answer was lost, or
/// may still be: it stays. Whether it is listed now.
async fn remove_base(catalog: &Catalog, project: &ProjectName, base: &BaseId) -> Result<bool, ImportError> {
    let failed = |e: crate::store::StoreError| ImportError::Store { reason: e.to_string() };
    let head = catalog.project_head(project).await.map_err(failed)?;
    if head.is_some_and(|head| head.bases.iter().any(|sealed| sealed.id == *base)) {
        return Ok(true);
    }
    let manifest = keys::base_manifest(project, base);
    if catalog.store().get(&manifest).await.map_err(failed)?.is_some() {
        return Ok(false);
    }
    for key in catalog.store().list(&keys::base(project, base)).await.map_err(failed)? {
        catalog.store().delete(&key).await.map_err(failed)?;
    }
    Ok(false)
}
