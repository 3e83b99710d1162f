//! A masked base, or without rules a logical copy, as one of the ways in which `sources::make_base` gets its files.

use super::masks::MaskingKey;
use super::pipeline::{self, Copied, Copy};
use super::report::Report;
use super::rules::{KeySource, Rules};
use super::signing::{InstallationKey, hexadecimal};
use super::{MaskingError, scanning};
use crate::model::fault::{self, FaultPoint};
use crate::model::{BaseManifest, Entropy, MaskingSeal, MaskingStatement};
use crate::settings::ComputeSettings;
use crate::sources::{Attest, ImportError, Prepare, Prepared, Progress, Server, Source, inquire_settings};
use async_trait::async_trait;
use sha2::{Digest, Sha256};
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
}

#[async_trait]
impl Prepare for CopyImport {
    async fn prepare(self: Box<Self>, scratch: &Path, progress: &Arc<Progress>) -> Result<Prepared, ImportError> {
        Ok(self.run(scratch, progress).await?)
    }
}

impl CopyImport {
    async fn run(self, scratch: &Path, progress: &Arc<Progress>) -> Result<Prepared, MaskingError> {
        // What cannot be masked in the end is not begun.
        let key = self.rules.as_ref().map(read_key).transpose()?;
        let signer = self.rules.as_ref().map(|_| InstallationKey::load_or_create(&self.data_dir)).transpose()?;
        let (mut restored, server, name) = match &self.raw {
            RawSide::Server(server) => (None, (**server).clone(), Source::Server(server.clone()).to_string()),
            RawSide::Dump(path) => {
                progress.wait_for("restoring the dump into a private cluster");
                let raw = pipeline::restore_dump(path, &scratch.join("raw"), &self.settings, self.streams).await?;
                let server = raw.server();
                (Some(raw), server, path.display().to_string())
            }
        };
        let (major, mut source_settings) = inquire_settings(&server).await?;
        if restored.is_some() {
            // Those of a cluster that is being loaded.
            source_settings.clear();
        }
        let folder = scratch.join("fresh");
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
            folder,
            streams: self.streams,
            progress: progress.clone(),
        })
        .await?;
        fault::pass(FaultPoint::ClusterCopied);
        if let Some(raw) = &mut restored {
            raw.stop().await?;
            let folder = scratch.join("raw");
            let removed = tokio::fs::remove_dir_all(&folder).await;
            removed.map_err(MaskingError::io(format!("cannot remove {}", folder.display())))?;
        }
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
        let wanted = scanning::Wanted::new(&copied, &canaries);
        let scanned = scanning::scan(&wanted, &control, &copied, threads, &progress)?;
        std::fs::remove_dir_all(&control).map_err(MaskingError::io("cannot remove the control cluster"))?;
        Ok((copied, scanned))
    };
    tokio::task::spawn_blocking(search).await.expect("searching does not panic")
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
