//! `offshoot import`: a source into the project's next base, with its progress on standard error. Works beside a running server.

use super::{bytes, known_project};
use crate::model::{Ambient, ProjectName};
use crate::settings::Settings;
use crate::sources::{MakeBase, Progress, Source, make_base};
use crate::store::{Catalog, open_and_probe};
use std::time::Instant;

/// Makes the project's next base, and says so on standard output. Progress goes to standard error.
pub(super) async fn run(settings: Settings, project: ProjectName, from: String) -> anyhow::Result<()> {
    known_project(&settings, &project)?;
    let source: Source = from.parse()?;
    let started = Instant::now();
    let ambient = Ambient::system();
    let store = open_and_probe(&settings.store.url, &ambient.entropy).await?;
    let catalog = Catalog::new(store, ambient.entropy.clone());
    let progress = Progress::stderr();
    let request = MakeBase { settings, project: project.clone(), source, catalog, ambient, progress };
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
