//! A dump as the raw side: restored into a private cluster first, which is then copied from like any other server.
//!
//! A dump holds no roles, only their names, in statements of all kinds. Those that its schema misses when it is restored for a try are made, without
//! a login.

use super::fresh::{Fresh, Shape};
use super::schema::{check, path, run};
use crate::compute::{Installation, installation, installations};
use crate::masking::MaskingError;
use crate::masking::catalog::quote;
use crate::settings::ComputeSettings;
use crate::sources::ImportError;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Output;

/// What a dump's table of contents says of itself (`PrintTOCSummary` of pg_backup_archiver.c).
struct Contents {
    database: String,
    major: u32,
    is_tar: bool,
    /// Lines, but for those that fill materialized views, and these.
    entries: Vec<String>,
    views: Vec<String>,
}

/// Restores for a try: a statement that failed for want of one role may want another one, too.
const ROUNDS: usize = 5;

/// Restores the dump `file` into a cluster in `folder`, and leaves its server running.
pub(in crate::masking) async fn restore(
    file: &Path,
    folder: &Path,
    settings: &ComputeSettings,
    jobs: usize,
) -> Result<Fresh, MaskingError> {
    let contents = contents(file, settings).await?;
    let installation = installation(settings, contents.major).await.map_err(ImportError::from)?;
    let mut fresh = Fresh::make(folder, settings, installation, &Shape::plain(), BTreeMap::new()).await?;
    fresh.start().await?;
    let mut template = fresh.connect("template1").await?;
    let (trial, mut roles) = ("offshoot_trial", BTreeSet::new());
    for _ in 0..ROUNDS {
        template.query(&format!("CREATE DATABASE {trial} TEMPLATE template0")).await?;
        let missing = missing_roles(&fresh, file, trial).await?;
        template.query(&format!("DROP DATABASE {trial}")).await?;
        roles.extend(missing.iter().cloned());
        for role in &missing {
            template.query(&format!("CREATE ROLE {}", quote(role))).await?;
        }
        if missing.is_empty() {
            break;
        }
    }
    if contents.database == "postgres" {
        template.query("DROP DATABASE postgres").await?;
    }
    if contents.database != "template1" {
        template.query(&create_statement(&fresh.installation, file, &contents.database).await?).await?;
    }
    let jobs = format!("--jobs={jobs}");
    // As in schema.rs: indexes of partitions are not to be attached two at a time.
    let attaches = contents.entries.iter().any(|line| line.contains(" INDEX ATTACH "));
    for (number, entries) in [&contents.entries, &contents.views].into_iter().enumerate() {
        let list = folder.join(format!("list-{number}"));
        std::fs::write(&list, entries.join("\n") + "\n").map_err(MaskingError::io("cannot write a list"))?;
        let list = format!("--use-list={}", list.display());
        let restore = ["--exit-on-error", &list];
        // Several sessions want a file or folder that can be read in any order, which a tar is not; views want their order.
        let passes: &[&[&str]] = match (!contents.is_tar && number == 0, attaches) {
            (true, true) => &[&["--section=pre-data", "--section=data", &jobs], &["--section=post-data"]],
            (true, false) => &[&[&jobs]],
            (false, _) => &[&[]],
        };
        for pass in passes {
            let output = restore_into(&fresh, file, &contents.database, &[&restore, *pass].concat()).await?;
            check("pg_restore", &contents.database, output).map_err(without_server_text)?;
        }
        // Materialized views are filled as their owners, of whose memberships a dump says nothing. Grants by superusers would count as the
        // owners', so these come before.
        let attribute = if number == 0 { "SUPERUSER" } else { "NOSUPERUSER" };
        for role in &roles {
            template.query(&format!("ALTER ROLE {} {attribute}", quote(role))).await?;
        }
    }
    Ok(fresh)
}

/// What a server objects to while it takes rows quotes them.
fn without_server_text(error: MaskingError) -> MaskingError {
    match error {
        MaskingError::Tool { tool, database, message } => {
            let shown = message.split("ERROR:").next().unwrap_or_default().trim_end().to_owned();
            MaskingError::Tool {
                tool,
                database,
                message: format!("{shown} the server refuses it; restore it by hand to see why"),
            }
        }
        other => other,
    }
}

async fn restore_into(fresh: &Fresh, file: &Path, database: &str, more: &[&str]) -> Result<Output, MaskingError> {
    let dbname = format!("--dbname=dbname='{}'", database.replace('\\', "\\\\").replace('\'', "\\'"));
    let mut arguments = vec!["--no-tablespaces", "--no-password", &dbname];
    arguments.extend(more);
    arguments.push(path(file)?);
    run(&fresh.installation, "pg_restore", &fresh.server(), database, &arguments).await
}

/// The statement that makes the dump's database, with its encoding and locale; without its owner.
async fn create_statement(installation: &Installation, file: &Path, database: &str) -> Result<String, MaskingError> {
    let nowhere = crate::sources::Server::on_socket(Path::new("/"), "postgres");
    let arguments = ["--create", "--schema-only", "--no-tablespaces", "--file=-", path(file)?];
    let written = check("pg_restore", database, run(installation, "pg_restore", &nowhere, "", &arguments).await?)?;
    let script = String::from_utf8_lossy(&written.stdout);
    let statement = script.lines().find(|line| line.starts_with("CREATE DATABASE "));
    Ok(statement.map_or_else(|| format!("CREATE DATABASE {} TEMPLATE template0", quote(database)), str::to_owned))
}

/// Roles whose absence the schema complains of. The cluster's messages are not translated.
async fn missing_roles(fresh: &Fresh, file: &Path, trial: &str) -> Result<BTreeSet<String>, MaskingError> {
    let output = restore_into(fresh, file, trial, &["--schema-only"]).await?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let role = |line: &str| Some(line.split_once("role \"")?.1.rsplit_once("\" does not exist")?.0.to_owned());
    Ok(said.lines().filter(|line| line.contains("ERROR")).filter_map(role).collect())
}

async fn contents(file: &Path, settings: &ComputeSettings) -> Result<Contents, MaskingError> {
    let unread = |reason: String| MaskingError::Dump { path: file.to_owned(), reason };
    let newest: Option<Installation> =
        installations(settings).await.into_iter().find(|it| it.bin_dir.join("pg_restore").exists());
    let newest = newest.ok_or_else(|| unread("no PostgreSQL on this node has pg_restore".to_owned()))?;
    let server = crate::sources::Server::on_socket(Path::new("/"), "postgres");
    let listed = run(&newest, "pg_restore", &server, "", &["--list", path(file)?]).await?;
    let listed = check("pg_restore", "of the dump", listed).map_err(|e| unread(e.to_string()))?;
    let listed = String::from_utf8_lossy(&listed.stdout);
    let said = |what: &str| {
        listed.lines().find_map(|line| line.trim_start_matches([';', ' ']).strip_prefix(what)).map(str::trim)
    };
    let database = said("dbname:").ok_or_else(|| unread("it does not say of which database it is".to_owned()))?;
    let version = said("Dumped from database version:")
        .and_then(|version| version.split(['.', ' ', 'b', 'd', 'r']).next()?.parse().ok());
    let major = version.ok_or_else(|| unread("it does not say of which version it is".to_owned()))?;
    let lines = listed.lines().filter(|line| !line.starts_with(';') && !line.trim().is_empty()).map(str::to_owned);
    let (views, entries) = lines.partition(|line| line.contains(" MATERIALIZED VIEW DATA "));
    let is_tar = said("Format:").is_some_and(|format| format == "TAR");
    Ok(Contents { database: database.to_owned(), major, is_tar, entries, views })
}
