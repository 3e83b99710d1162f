//! `offshoot import`: a source into the project's next base, with its progress on standard error. Works beside a running server.

use super::{bytes, known_project, on_store, print, until_interrupted};
use crate::masking::{self, CopyImport, RawSide, Rules};
use crate::model::{Ambient, Entropy, ProjectName};
use crate::settings::Settings;
use crate::sources::{MakeBase, Origin, Progress, RawBase, Source, clear_killed_imports, clear_raw_side, make_base};
use crate::store::{Catalog, Store, keys, open_and_probe};
use clap::{Args, ValueEnum};
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

#[derive(Args)]
pub(super) struct ImportArguments {
    project: ProjectName,
    /// postgres://user@host/ (password from the URL, PGPASSWORD or ~/.pgpass; for its files the role needs REPLICATION), a dump in
    /// any format but plain SQL, or a data directory [default: the project's source]
    #[arg(long)]
    from: Option<String>,
    /// How the data comes out of a server [default: copy for a project with masking, otherwise files]
    #[arg(long)]
    method: Option<Method>,
    /// With copy: tables that are copied at once [default: one for each core]
    #[arg(long)]
    streams: Option<usize>,
    /// Keep everything as it is, in the raw store: nobody branches from there
    #[arg(long)]
    raw: bool,
    /// Copy the rows of the project's current base in the raw store
    #[arg(long, conflicts_with_all = ["from", "raw"])]
    from_raw: bool,
}

/// Makes the project's next base, and says so on standard output. Progress goes to standard error.
pub(super) async fn run(settings: Settings, arguments: ImportArguments) -> anyhow::Result<()> {
    let ImportArguments { project, from, method, streams, raw, from_raw } = arguments;
    let masking = known_project(&settings, &project)?.masking.as_deref().filter(|_| !raw);
    let rules = masking.map(Rules::load).transpose()?;
    if let Some(rules) = &rules {
        // Before anything is touched that an earlier import left.
        masking::check_key(rules)?;
    }
    if from_raw && rules.is_none() {
        anyhow::bail!(
            "project {project} has no masking: what --from-raw copies would be raw where branches are made; name a rules file in the config"
        );
    }
    let started = Instant::now();
    let ambient = Ambient::system();
    let side = match from_raw {
        true => Side::RawBase(Box::new(raw_base(&settings, &project).await?)),
        false => Side::Source(super::source(&settings, &project, from)?),
    };
    let settings = on_store(settings, raw)?;
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
    let origin = origin(side, masked, method, copy)?;
    let progress = Arc::new(Progress::stderr());
    let (data_dir, of_store) = (settings.server.data_dir.clone(), catalog.clone());
    let request = MakeBase { settings, project: project.clone(), origin, catalog, is_raw: raw, ambient, progress };
    let Some(made) = until_interrupted(make_base(request)).await else {
        // Above all what is raw.
        match raw {
            true => clear_raw_side(&data_dir).await?,
            false => clear_killed_imports(&of_store, &data_dir).await?,
        }
        anyhow::bail!("interrupted; nothing was sealed");
    };
    let (sealed, manifest) = made?;
    let databases: Vec<&str> = manifest
        .cluster
        .databases
        .iter()
        .filter(|database| database.allow_connections && !database.is_template)
        .map(|database| database.name.as_str())
        .collect();
    print(format_args!(
        "{}base {} of {project}: PostgreSQL {}, {} in {} files, {} in the store, {:.1} s; databases: {}",
        if raw { "raw " } else { "" },
        sealed.version,
        manifest.cluster.server_version,
        bytes(manifest.logical_bytes),
        manifest.files,
        bytes(manifest.stored_bytes),
        started.elapsed().as_secs_f64(),
        databases.join(", ")
    ))?;
    Ok(())
}

/// What an import reads.
enum Side {
    Source(Source),
    RawBase(Box<RawBase>),
}

/// The project's current base in the raw store.
pub(super) async fn raw_base(settings: &Settings, project: &ProjectName) -> anyhow::Result<RawBase> {
    let store = Store::open(&on_store(settings.clone(), true)?.store.url)?;
    Ok(RawBase::current(Catalog::new(store, Entropy::system()), project).await?)
}

/// What the base is made of: the source's files as they are, or its rows, which `copy` copies.
fn origin(
    side: Side,
    is_masked: bool,
    method: Option<Method>,
    copy: impl FnOnce(RawSide) -> CopyImport,
) -> anyhow::Result<Origin> {
    let copies = is_masked || method == Some(Method::Copy);
    let source = match side {
        Side::Source(source) => source,
        Side::RawBase(_) if method == Some(Method::Files) => {
            anyhow::bail!("rows are copied out of a raw base; leave --method out")
        }
        Side::RawBase(base) => return Ok(Origin::Made(Box::new(copy(RawSide::Base(base))))),
    };
    match source {
        _ if is_masked && method == Some(Method::Files) => {
            anyhow::bail!(
                "the project is masked, and files hold raw values; leave --method out, or keep them apart with --raw"
            )
        }
        Source::Server(server) if copies => Ok(Origin::Made(Box::new(copy(RawSide::Server(server))))),
        Source::Dump(path) if method != Some(Method::Files) => Ok(Origin::Made(Box::new(copy(RawSide::Dump(path))))),
        Source::DataDirectory(path) if copies => anyhow::bail!(
            "{} is a data directory, and rows are copied from a running server: make a raw base of it with --raw and go on with --from-raw, or start \
             Postgres on it and give its URL",
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
