//! A masked base, or without rules a logical copy, as one of the ways in which `sources::make_base` gets its files.

use super::masks::MaskingKey;
use super::pipeline::{self, Copied, Copy, Fresh, MadeBy, Ticket};
use super::report::Report;
use super::rules::{KeySource, Rules};
use super::signing::{InstallationKey, hexadecimal};
use super::{MaskingError, scanning};
use crate::model::fault::{self, FaultPoint};
use crate::model::{BaseManifest, Entropy, MaskingSeal, MaskingStatement};
use crate::settings::ComputeSettings;
use crate::sources::{
    Attest, ImportError, PREPARED, Prepare, Prepared, Progress, RESUMABLE, RawBase, RunningRawBase, Server, Source,
    inquire_settings, remove_raw,
};
use async_trait::async_trait;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What to copy, and by which rules.
pub struct CopyImport {
    pub raw: RawSide,
    /// None: everything as it is.
    pub rules: Option<Rules>,
    pub settings: ComputeSettings,
    /// The report of the project's current base, if that is masked.
    pub former: Option<Vec<u8>>,
    /// Where the installation's key is.
    pub data_dir: PathBuf,
    /// Tables that are copied at once.
    pub streams: usize,
    /// For canaries.
    pub entropy: Entropy,
}

/// Where rows are copied from.
pub enum RawSide {
    /// A running server.
    Server(Box<Server>),
    /// A file or folder that pg_dump wrote, in any format but plain SQL.
    Dump(PathBuf),
    /// A base of the raw store.
    Base(Box<RawBase>),
}

/// A server that was started for its rows.
enum Private {
    None,
    Restored(Box<Fresh>),
    Base(Box<RunningRawBase>),
}

#[async_trait]
impl Prepare for CopyImport {
    fn resumes(&self, scratch: &Path) -> bool {
        let key = self.rules.as_ref().map(read_key).transpose();
        let Ok(key) = key else { return false };
        Ticket::read(&scratch.join(RESUMABLE)).is_some_and(|ticket| ticket.made_by == self.made_by(key.as_ref()))
    }

    async fn prepare(self: Box<Self>, scratch: &Path, progress: &Arc<Progress>) -> Result<Prepared, ImportError> {
        Ok(self.run(scratch, progress).await?)
    }
}

impl CopyImport {
    fn made_by(&self, key: Option<&MaskingKey>) -> MadeBy {
        MadeBy {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            rules_sha256: self.rules.as_ref().map(Rules::fingerprint).unwrap_or_default(),
            key_id: key.map(MaskingKey::id),
        }
    }

    async fn run(self, scratch: &Path, progress: &Arc<Progress>) -> Result<Prepared, MaskingError> {
        // What cannot be masked in the end is not begun.
        let key = self.rules.as_ref().map(read_key).transpose()?;
        let signer = self.rules.as_ref().map(|_| InstallationKey::load_or_create(&self.data_dir)).transpose()?;
        // Nobody writes to a dump or a base.
        let unchanging = match &self.raw {
            RawSide::Server(_) => None,
            RawSide::Dump(path) => Some(describe_dump(path.clone()).await?),
            RawSide::Base(base) => Some(format!("raw base {}", base.manifest.id)),
        };
        let (private, server, name) = match &self.raw {
            RawSide::Server(server) => (Private::None, (**server).clone(), Source::Server(server.clone()).to_string()),
            RawSide::Dump(path) => {
                progress.wait_for("restoring the dump into a private cluster");
                let raw = pipeline::restore_dump(path, &scratch.join("raw"), &self.settings, self.streams).await?;
                if unchanging != Some(describe_dump(path.clone()).await?) {
                    return Err(ImportError::Changed { path: path.clone() }.into());
                }
                let server = raw.server();
                (Private::Restored(Box::new(raw)), server, path.display().to_string())
            }
            RawSide::Base(base) => {
                progress.wait_for("starting a private compute on the raw base");
                let raw = base.start(&self.settings, scratch).await?;
                let server = raw.server().clone();
                let name = format!("raw base {} of {}", base.manifest.id, base.manifest.source);
                (Private::Base(Box::new(raw)), server, name)
            }
        };
        let (major, asked) = inquire_settings(&server).await?;
        // Those of a server that was started for this are not the source's.
        let source_settings = match &self.raw {
            RawSide::Server(_) => asked,
            RawSide::Dump(_) => BTreeMap::new(),
            RawSide::Base(base) => base.source_settings().clone(),
        };
        let made_by = self.made_by(key.as_ref());
        let former = self.former.map(|report| serde_json::from_slice(&report)).transpose();
        let former = former
            .map_err(|e| MaskingError::Catalog { reason: format!("the former base's report cannot be read: {e}") })?;
        let copied = pipeline::copy(Copy {
            former,
            source: server,
            source_settings: source_settings.clone(),
            major,
            rules: self.rules.clone().unwrap_or_else(Rules::keep_everything),
            key: key.clone(),
            settings: self.settings,
            folder: scratch.join(PREPARED),
            archives: scratch.join("definitions"),
            record: scratch.join(RESUMABLE),
            made_by,
            unchanging,
            streams: self.streams,
            progress: progress.clone(),
        })
        .await?;
        fault::pass(FaultPoint::ClusterCopied);
        private.remove(scratch).await?;
        let data_dir = copied.data_dir.clone();
        let attest = match (self.rules, key, signer) {
            (Some(rules), Some(key), Some(signer)) => {
                let (copied, scan) = search(copied, self.entropy, self.streams, progress).await?;
                Some(Box::new(Attestation::new(&rules, &key, signer, copied, scan)) as Box<dyn Attest>)
            }
            _ => None,
        };
        fault::pass(FaultPoint::ClusterSearched);
        Ok(Prepared { data_dir, source: name, source_settings, attest })
    }
}

impl Private {
    /// Stops it, and removes its files: they are raw.
    async fn remove(self, scratch: &Path) -> Result<(), MaskingError> {
        match self {
            Private::None => return Ok(()),
            Private::Restored(mut raw) => raw.stop().await?,
            Private::Base(raw) => raw.stop().await?,
        }
        let failed = MaskingError::io(format!("cannot remove raw files in {}", scratch.display()));
        let scratch = scratch.to_owned();
        let removed = tokio::task::spawn_blocking(move || remove_raw(&scratch)).await;
        removed.expect("removing files does not panic").map_err(failed)
    }
}

/// Names a dump and its state: of one in a folder, that of every file.
async fn describe_dump(path: PathBuf) -> Result<String, MaskingError> {
    let failed = MaskingError::io(format!("cannot read {}", path.display()));
    let described = tokio::task::spawn_blocking(move || state_of_dump(&path)).await;
    described.expect("looking at files does not panic").map_err(failed)
}

fn state_of_dump(path: &Path) -> std::io::Result<String> {
    let state = |path: &Path| -> std::io::Result<String> {
        let metadata = std::fs::metadata(path)?;
        let changed = humantime::format_rfc3339_nanos(metadata.modified()?);
        Ok(format!("{} of {} bytes as of {changed}", path.display(), metadata.len()))
    };
    let mut digest = Sha256::new();
    if path.is_dir() {
        let entries = path.read_dir()?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<BTreeSet<_>>>()?;
        for entry in entries {
            digest.update(state(&entry)?);
        }
    }
    Ok(format!("{}, {}", state(path)?, hexadecimal(&digest.finalize())))
}

/// Searches what was copied for raw values, with the proof that they would be found.
async fn search(
    copied: Copied,
    entropy: Entropy,
    threads: usize,
    progress: &Arc<Progress>,
) -> Result<(Copied, scanning::Scanned), MaskingError> {
    let (columns, canaries): (Vec<_>, Vec<_>) = scanning::canaries(&copied.samples, &entropy).into_iter().unzip();
    let control = copied.control(&canaries).await?;
    let progress = progress.clone();
    let search = move || {
        let canaries: Vec<_> = columns.into_iter().zip(canaries).collect();
        let scanned = scanning::scan(&canaries, &control, &copied, threads, &progress)?;
        std::fs::remove_dir_all(&control).map_err(MaskingError::io("cannot remove the control cluster"))?;
        Ok((copied, scanned))
    };
    tokio::task::spawn_blocking(search).await.expect("searching does not panic")
}

/// Whether the masking key is there and can be used.
pub fn check_key(rules: &Rules) -> Result<(), MaskingError> {
    read_key(rules).map(drop)
}

/// The masking key, from where the rules say that it is.
pub(super) fn read_key(rules: &Rules) -> Result<MaskingKey, MaskingError> {
    let bytes = match &rules.key {
        KeySource::Environment(variable) => {
            let value = std::env::var(variable).ok().filter(|value| !value.is_empty());
            value.ok_or_else(|| MaskingError::NoKey { variable: variable.clone() })?.into_bytes()
        }
        KeySource::File(path) => {
            let read = std::fs::read(path).map_err(|source| MaskingError::ReadKey { path: path.clone(), source })?;
            // A file's last line ends, whoever wrote it.
            read.strip_suffix(b"\n").map(<[u8]>::to_vec).unwrap_or(read)
        }
    };
    Ok(MaskingKey::new(&bytes)?)
}

/// What is known of a masked base before its files are in the store.
struct Attestation {
    signer: InstallationKey,
    statement: MaskingStatement,
    report: Report,
}

impl Attestation {
    fn new(rules: &Rules, key: &MaskingKey, signer: InstallationKey, copied: Copied, scan: scanning::Scanned) -> Self {
        let report = Report::new(rules, key, &signer.public(), &copied, scan);
        let statement = MaskingStatement {
            format: MaskingStatement::FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            catalog_sha256: report.catalog_sha256.clone(),
            rules_sha256: report.rules_sha256.clone(),
            key_id: report.key_id.clone(),
            tables: report.tables(),
            rows: report.rows(),
            scan: report.scan.clone(),
            report_sha256: String::new(),
        };
        Attestation { signer, statement, report }
    }
}

impl Attest for Attestation {
    fn attest(self: Box<Self>, manifest: &BaseManifest) -> (MaskingSeal, Vec<u8>) {
        let Attestation { signer, mut statement, mut report } = *self;
        report.base = manifest.id.to_string();
        let text = serde_json::to_vec_pretty(&report).expect("plain data is JSON");
        statement.report_sha256 = hexadecimal(&Sha256::digest(&text));
        (signer.seal(manifest, statement), text)
    }
}

impl From<MaskingError> for ImportError {
    fn from(error: MaskingError) -> ImportError {
        match error {
            MaskingError::Source(error) => error,
            other => ImportError::Prepare(Box::new(other)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dump_in_a_folder_is_another_when_one_of_its_files_is() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("3456.dat.gz");
        std::fs::write(&file, "rows").unwrap();
        let before = state_of_dump(folder.path()).unwrap();
        assert_eq!(state_of_dump(folder.path()).unwrap(), before);
        // As `cp new/* dump/` does it: the folder itself stays as it was.
        let later = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000);
        std::fs::File::options().write(true).open(&file).unwrap().set_modified(later).unwrap();
        assert_ne!(state_of_dump(folder.path()).unwrap(), before);
        assert_ne!(state_of_dump(&file).unwrap(), state_of_dump(folder.path()).unwrap());
        assert!(state_of_dump(&folder.path().join("none")).is_err());
    }
}
