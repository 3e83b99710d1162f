//! `offshoot base …`: what the store holds of a project, read from it directly; no server is needed.

use super::{bytes, known_project, print, table, time};
use crate::model::{Entropy, MaskingSeal, ProjectName};
use crate::settings::Settings;
use crate::store::{Catalog, Store, keys};

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
                    "masking": manifest.masking.as_ref().map(masking),
                    "report": manifest.masking.as_ref().map(|_| keys::base_report(&project, &sealed.id)),
                })
            })
            .collect();
        print(serde_json::to_string_pretty(&rows)?)?;
        return Ok(());
    }
    let mut listing = table(&["BASE", "SEALED", "POSTGRES", "SIZE", "STORED", "MASKED", "SOURCE"]);
    for (sealed, manifest) in bases {
        listing.add_row([
            sealed.version.to_string(),
            time(sealed.sealed_at_ms),
            manifest.cluster.server_version,
            bytes(manifest.logical_bytes),
            bytes(manifest.stored_bytes),
            // Rules and key, by which two bases can be told to be masked alike.
            match &manifest.masking {
                Some(seal) => {
                    format!("rules {}, key {}", &seal.statement.rules_sha256[..8], &seal.statement.key_id[..8])
                }
                None => "no".to_owned(),
            },
            manifest.source,
        ]);
    }
    print(&listing)?;
    Ok(())
}

/// What a masked base says of itself.
fn masking(seal: &MaskingSeal) -> serde_json::Value {
    let mut shown = serde_json::to_value(&seal.statement).unwrap_or_default();
    if let Some(object) = shown.as_object_mut() {
        object.insert("signer".to_owned(), seal.signer.clone().into());
    }
    shown
}
