//! The physical import: from a source to a staged base.
//!
//! Ask the source, find the Postgres that will run it, copy. Nothing exists before the whole copy is in the store, and what does
//! then is not a base yet: no manifest names it, and a server's backup has WAL to replay. Bringing it to consistency and
//! sealing it is the next step, which takes the [`Backup`].

use super::backup::back_up;
use super::directory::{Cancelled, StoppedDirectory};
use super::inquiry::inquire;
use super::sink::Sink;
use super::{ImportError, Progress, Server, Source};
use crate::compute::{Installation, installation};
use crate::model::{Ambient, BaseId, ProjectName};
use crate::pageserver::{BaseWriter, StagedBase, WriteError};
use crate::settings::ComputeSettings;
use crate::store::Store;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What to import, and where to.
pub struct Import {
    pub source: Source,
    pub store: Store,
    pub project: ProjectName,
    /// The base to write; new.
    pub base: BaseId,
    /// An existing, empty local folder.
    pub scratch: PathBuf,
    pub settings: ComputeSettings,
    pub ambient: Ambient,
    pub progress: Arc<Progress>,
}

/// A copy of the source's files in the store: all that sealing needs to know.
pub struct Backup {
    pub staged: StagedBase,
    pub facts: BackupFacts,
}

/// What was learned of the source.
#[derive(Clone, Debug)]
pub struct BackupFacts {
    pub major: u32,
    /// The Postgres of this node that runs it.
    pub installation: Installation,
    /// Bytes of a WAL segment.
    pub wal_segment_size: u64,
    /// Settings that live outside the data directory.
    pub source_settings: BTreeMap<String, String>,
    /// Where the data came from, without credentials.
    pub source: String,
    /// A role known to be a superuser, if the import logged in as one.
    pub superuser: Option<String>,
    /// There is WAL to replay before the files are consistent.
    pub needs_recovery: bool,
}

/// Copies the source into the store. Cancel safe: what it began ends, and leaves only packs that no manifest names.
pub async fn import(import: Import) -> Result<Backup, ImportError> {
    let Import { source, store, project, base, scratch, settings, ambient, progress } = import;
    let runtime = tokio::runtime::Handle::current();
    let open = move || BaseWriter::new(store, &project, &base, &scratch, runtime);
    let (writer, facts) = copy(&source, &settings, &ambient, open, progress).await?;
    let staged =
        tokio::task::spawn_blocking(move || writer.finish()).await.expect("finishing a base does not panic")?;
    Ok(Backup { staged, facts })
}

/// The same for any sink. `open_sink` is called on a blocking thread, once the source is known to be fit.
pub(super) async fn copy<S: Sink>(
    source: &Source,
    settings: &ComputeSettings,
    ambient: &Ambient,
    open_sink: impl FnOnce() -> Result<S, WriteError> + Send + 'static,
    progress: Arc<Progress>,
) -> Result<(S, BackupFacts), ImportError> {
    match source {
        Source::Server(server) => copy_server(source, server, settings, ambient, open_sink, progress).await,
        Source::DataDirectory(path) => copy_directory(source, path, settings, open_sink, progress).await,
        Source::Dump(path) => Err(ImportError::Dump { path: path.clone() }),
    }
}

async fn copy_server<S: Sink>(
    source: &Source,
    server: &Server,
    settings: &ComputeSettings,
    ambient: &Ambient,
    open_sink: impl FnOnce() -> Result<S, WriteError> + Send + 'static,
    progress: Arc<Progress>,
) -> Result<(S, BackupFacts), ImportError> {
    let (connection, inquiry) = inquire(server).await?;
    let installation = installation(settings, inquiry.major).await?;
    let sink = back_up(connection, &inquiry, &ambient.entropy, open_sink, &progress).await?;
    let facts = BackupFacts {
        major: inquiry.major,
        installation,
        wal_segment_size: inquiry.wal_segment_size,
        source_settings: inquiry.settings,
        source: source.to_string(),
        superuser: inquiry.superuser,
        needs_recovery: true,
    };
    Ok((sink, facts))
}

async fn copy_directory<S: Sink>(
    source: &Source,
    path: &Path,
    settings: &ComputeSettings,
    open_sink: impl FnOnce() -> Result<S, WriteError> + Send + 'static,
    progress: Arc<Progress>,
) -> Result<(S, BackupFacts), ImportError> {
    let path = path.to_owned();
    let opened = tokio::task::spawn_blocking(move || StoppedDirectory::open(&path));
    let directory = opened.await.expect("looking at a data directory does not panic")?;
    let facts = BackupFacts {
        major: directory.major,
        installation: installation(settings, directory.major).await?,
        wal_segment_size: directory.control.wal_segment_size,
        source_settings: BTreeMap::new(),
        source: source.to_string(),
        superuser: None,
        needs_recovery: false,
    };
    let (cancelled, _waiting) = Cancelled::pair();
    let copying = tokio::task::spawn_blocking(move || {
        let mut sink = open_sink()?;
        directory.copy_into(&mut sink, &progress, &cancelled).map(|()| sink)
    });
    let sink = copying.await.expect("copying a data directory does not panic")?;
    Ok((sink, facts))
}
