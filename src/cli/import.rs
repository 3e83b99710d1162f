//! `offshoot import`: a source into the project's next base, with its progress on standard error. Works beside a running server.

use super::{bytes, known_project};
use crate::masking::{CopyImport, RawSide, Rules};
use crate::model::{Ambient, Entropy, ProjectName};
use crate::settings::Settings;
use crate::sources::{MakeBase, Origin, Progress, Source, make_base};
use crate::store::{Catalog, open_and_probe};
use clap::ValueEnum;
use std::sync::Arc;
use std::time::Instant;

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
    let origin =
        origin(&settings, super::source(&settings, &project, from)?, rules, method, streams, &ambient.entropy)?;
    let store = open_and_probe(&settings.store.url, &ambient.entropy).await?;
    let catalog = Catalog::new(store, ambient.entropy.clone());
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

/// What the base is made of: the source's files as they are, or its rows, masked where there are rules.
fn origin(
    settings: &Settings,
    source: Source,
    rules: Option<Rules>,
    method: Option<Method>,
    streams: Option<usize>,
    entropy: &Entropy,
) -> anyhow::Result<Origin> {
    let copies = rules.is_some() || method == Some(Method::Copy);
    let copy = |raw: RawSide, rules: Option<Rules>| {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Origin::Made(Box::new(CopyImport {
            raw,
            rules,
            settings: settings.compute.clone(),
            data_dir: settings.server.data_dir.clone(),
            streams: streams.unwrap_or_else(cores),
            entropy: entropy.clone(),
        })))
    };
    match source {
        _ if rules.is_some() && method == Some(Method::Files) => {
            anyhow::bail!("the project is masked, and files hold raw values; leave --method out")
        }
        Source::Server(server) if copies => copy(RawSide::Server(*server), rules),
        Source::Dump(path) if method != Some(Method::Files) => copy(RawSide::Dump(path), rules),
        Source::DataDirectory(path) if copies => anyhow::bail!(
            "{} is a data directory, and rows are copied from a running server: start Postgres on it and give its URL",
            path.display()
        ),
        source => Ok(Origin::Files(source)),
    }
}
