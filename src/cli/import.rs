//! `offshoot import`: a source into the project's next base, with its progress on standard error. Works beside a running server.

use super::{bytes, known_project};
use crate::masking::{CopyImport, RawSide, Rules};
use crate::model::{Ambient, ProjectName};
use crate::settings::Settings;
use crate::sources::{MakeBase, Origin, Progress, Source, make_base};
use crate::store::{Catalog, keys, open_and_probe};
use clap::ValueEnum;
use sha2::{Digest, Sha256};
use std::sync::Arc;
use std::time::Instant;

/// More are given by who knows what the source bears.
const STREAMS: usize = 16;

/// How data comes out of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Method {
    /// Its files, by a base backup
    Files,
    /// Its rows, by COPY: for servers that give no backup
    Copy,
}

/// Makes the project's next base, and says so on standard output. Progress goes to standard error.
pub(super) async fn run(
    settings: Settings,
    project: ProjectName,
    from: Option<String>,
    method: Option<Method>,
    streams: Option<usize>,
) -> anyhow::Result<()> {
    let rules = known_project(&settings, &project)?.masking.as_deref().map(Rules::load).transpose()?;
    let started = Instant::now();
    let ambient = Ambient::system();
    let source = super::source(&settings, &project, from)?;
    let store = open_and_probe(&settings.store.url, &ambient.entropy).await?;
    let catalog = Catalog::new(store, ambient.entropy.clone());
    let former = if rules.is_some() { former_report(&catalog, &project).await? } else { None };
    let masked = rules.is_some();
    let copy = |raw| CopyImport {
        raw,
        rules,
        former,
        settings: settings.compute.clone(),
        data_dir: settings.server.data_dir.clone(),
        streams: streams.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from).min(STREAMS)),
        entropy: ambient.entropy.clone(),
    };
    let origin = origin(source, masked, method, copy)?;
    let progress = Arc::new(Progress::stderr());
    let request = MakeBase { settings, project: project.clone(), origin, catalog, ambient, progress };
    let import = make_base(request);
    let interrupted = async {
        tokio::signal::ctrl_c().await.ok();
    };
    let (sealed, manifest) = tokio::select! {
        made = import => made?,
        () = interrupted => anyhow::bail!("interrupted; nothing was sealed, and the next import clears what is left"),
    };
    let databases: Vec<&str> = manifest
        .cluster
        .databases
        .iter()
        .filter(|database| database.allow_connections && !database.is_template)
        .map(|database| database.name.as_str())
        .collect();
    println!(
        "base {} of {project}: PostgreSQL {}, {} in {} files, {} in the store, {:.1} s; databases: {}",
        sealed.version,
        manifest.cluster.server_version,
        bytes(manifest.logical_bytes),
        manifest.files,
        bytes(manifest.stored_bytes),
        started.elapsed().as_secs_f64(),
        databases.join(", "),
    );
    Ok(())
}

/// What the base is made of: the source's files as they are, or its rows, which `copy` copies.
fn origin(
    source: Source,
    is_masked: bool,
    method: Option<Method>,
    copy: impl FnOnce(RawSide) -> CopyImport,
) -> anyhow::Result<Origin> {
    let copies = is_masked || method == Some(Method::Copy);
    match source {
        _ if is_masked && method == Some(Method::Files) => {
            anyhow::bail!("the project is masked, and files hold raw values; leave --method out")
        }
        Source::Server(server) if copies => Ok(Origin::Made(Box::new(copy(RawSide::Server(server))))),
        Source::Dump(path) if method != Some(Method::Files) => Ok(Origin::Made(Box::new(copy(RawSide::Dump(path))))),
        Source::DataDirectory(path) if copies => anyhow::bail!(
            "{} is a data directory, and rows are copied from a running server: start Postgres on it and give its URL",
            path.display()
        ),
        source => Ok(Origin::Files(source)),
    }
}

/// What was reported of the project's current base, if that is masked.
async fn former_report(catalog: &Catalog, project: &ProjectName) -> anyhow::Result<Option<Vec<u8>>> {
    let head = catalog.project_head(project).await?;
    let Some(sealed) = head.as_ref().and_then(|head| head.current()) else { return Ok(None) };
    let Some(seal) = catalog.base_manifest(project, &sealed.id).await?.masking else { return Ok(None) };
    let key = keys::base_report(project, &sealed.id);
    let report = catalog.store().get(&key).await?.map(|report| report.bytes.to_vec()).unwrap_or_default();
    let hash: String = Sha256::digest(&report).iter().map(|byte| format!("{byte:02x}")).collect();
    anyhow::ensure!(
        hash == seal.statement.report_sha256,
        "the report of the current base, {key}, is damaged or gone; it says what the rules were written for. Bring it back, or import into \
         another project"
    );
    Ok(Some(report))
}
