//! `offshoot base …`: what the store holds of a project, read from it directly; no server is needed.

use super::{bytes, known_project, table, time};
use crate::model::{Entropy, ProjectName};
use crate::settings::Settings;
use crate::store::{Catalog, Store};

/// Lists the bases of a project, oldest first; the last one is current.
pub(super) async fn list(settings: Settings, project: ProjectName, json: bool) -> anyhow::Result<()> {
    known_project(&settings, &project)?;
    let catalog = Catalog::new(Store::open(&settings.store.url)?, Entropy::system());
    let bases = catalog.bases(&project).await?;
    if json {
        let rows: Vec<_> = bases
            .iter()
            .map(|(sealed, manifest)| {
                serde_json::json!({
                    "version": sealed.version,
                    "id": sealed.id,
                    "sealed_at_ms": sealed.sealed_at_ms,
                    "source": manifest.source,
                    "postgres": manifest.cluster.server_version,
                    "databases": manifest.cluster.databases.iter().map(|d| &d.name).collect::<Vec<_>>(),
                    "files": manifest.files,
                    "logical_bytes": manifest.logical_bytes,
                    "stored_bytes": manifest.stored_bytes,
                })
            })
            .collect();
        println!("{}", serde_json::to_string_pretty(&rows)?);
        return Ok(());
    }
    let mut listing = table(&["BASE", "SEALED", "POSTGRES", "SIZE", "STORED", "SOURCE"]);
    for (sealed, manifest) in bases {
        listing.add_row([
            sealed.version.to_string(),
            time(sealed.sealed_at_ms),
            manifest.cluster.server_version,
            bytes(manifest.logical_bytes),
            bytes(manifest.stored_bytes),
            manifest.source,
        ]);
    }
    println!("{listing}");
    Ok(())
}
