//! A database's schema, from source to fresh cluster: by pg_dump and pg_restore of the source's own version, which know how.
//!
//! Databases themselves are the globals': what pg_restore makes of one with `--create` brings along all of its settings, whatever the list says.
//! The dump's table of contents is what is decided over (`pg_restore --list`). What carries secrets is not restored and changed afterwards, for
//! the catalogs would keep the old version: it is left out, and made anew without them.

use super::fresh::Fresh;
use crate::compute::Installation;
use crate::masking::MaskingError;
use crate::masking::catalog::{ForeignServer, literal, quote};
use crate::masking::rules::Kept;
use crate::sources::{Connection, Server};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use tokio::process::Command;

/// What is left out of a dump.
#[derive(Clone, Copy, Debug)]
pub(in crate::masking) struct Omissions {
    pub comments: Kept,
    /// Credentials, and what tells other systems: foreign servers' options, user mappings, publications, security labels.
    pub secrets: bool,
}

/// A dumped schema.
pub(in crate::masking) struct Schema {
    database: String,
    archive: PathBuf,
    /// Lines of the table of contents.
    entries: Vec<String>,
    omissions: Omissions,
}

impl Schema {
    /// Dumps what the exported `snapshot` of `database` sees to `archive`, a file of its own.
    pub(in crate::masking) async fn dump(
        fresh: &Fresh,
        source: &Server,
        database: &str,
        snapshot: Option<&str>,
        archive: PathBuf,
        omissions: Omissions,
    ) -> Result<Schema, MaskingError> {
        let mut arguments =
            vec!["--format=custom", "--schema-only", "--no-tablespaces", "--no-subscriptions", "--no-password"];
        // A snapshot is held meanwhile.
        arguments.push("--lock-wait-timeout=5min");
        if omissions.comments == Kept::Drop {
            arguments.push("--no-comments");
        }
        if omissions.secrets {
            arguments.extend(["--no-publications", "--no-security-labels"]);
        }
        let snapshot = snapshot.map(|snapshot| format!("--snapshot={snapshot}"));
        arguments.extend(snapshot.as_deref());
        let file = format!("--file={}", archive.display());
        arguments.push(&file);
        let output = run(&fresh.installation, "pg_dump", source, database, &arguments).await?;
        check("pg_dump", database, output)?;
        let listed = run(&fresh.installation, "pg_restore", source, database, &["--list", path(&archive)?]).await?;
        let listed = check("pg_restore", database, listed)?;
        let entries = String::from_utf8_lossy(&listed.stdout)
            .lines()
            .filter(|line| !line.starts_with(';'))
            .map(str::to_owned)
            .collect();
        Ok(Schema { database: database.to_owned(), archive, entries, omissions })
    }

    /// Restores what comes before the rows.
    pub(in crate::masking) async fn restore_before(
        &self,
        fresh: &Fresh,
        servers: &[ForeignServer],
    ) -> Result<(), MaskingError> {
        // Foreign tables come after their servers.
        let first_server = self.entries.iter().position(|line| kind_of(line) == "SERVER");
        let first_after =
            |line: &&str| first_server.is_some_and(|first| self.entries[first..].iter().any(|entry| entry == line));
        let (after, before): (Vec<&str>, Vec<&str>) = self.restored().partition(first_after);
        self.restore(fresh, &before, &["--section=pre-data"]).await?;
        if self.omissions.secrets && !servers.is_empty() {
            let mut connection = fresh.connect(&self.database).await?;
            for server in servers {
                create_server(&mut connection, server, &self.database).await?;
            }
        }
        if after.is_empty() {
            return Ok(());
        }
        self.restore(fresh, &after, &["--section=pre-data"]).await
    }

    /// Restores what comes after them, keys, indexes, constraints and triggers, with so many sessions at once.
    pub(in crate::masking) async fn restore_after(&self, fresh: &Fresh, jobs: usize) -> Result<(), MaskingError> {
        self.restore_rest(fresh, &self.restored().collect::<Vec<_>>(), jobs).await
    }

    /// The same where a server was killed meanwhile: what is missing. `owners` are the names of all roles.
    ///
    /// Each entry is made by statements that are sent together, so that it is there or is not. Only its owner is set later: an entry that is
    /// still the superuser's is made anew. Nothing depends on such a one yet, for who restores it did not come so far.
    pub(in crate::masking) async fn restore_missing(
        &self,
        fresh: &Fresh,
        jobs: usize,
        owners: &[&str],
    ) -> Result<(), MaskingError> {
        let archive = self.archive.with_extension("made");
        let made = Schema::dump(fresh, &fresh.server(), &self.database, None, archive, self.omissions).await?;
        let made: HashSet<&str> = made.entries.iter().map(|line| description(line)).collect();
        let is_unowned = |line: &str| {
            let of = |owner: &&str| description(line).strip_suffix(owner)?.strip_suffix(' ');
            owners.iter().filter_map(of).any(|entry| made.contains(&*format!("{entry} {}", fresh.superuser)))
        };
        let missing = self.restored().filter(|line| !made.contains(description(line)));
        let (unowned, missing): (Vec<&str>, Vec<&str>) = missing.partition(|line| is_unowned(line));
        if !unowned.is_empty() {
            self.restore(fresh, &unowned, &["--section=post-data", "--clean", "--if-exists"]).await?;
        }
        self.restore_rest(fresh, &missing, jobs).await
    }

    async fn restore_rest(&self, fresh: &Fresh, list: &[&str], jobs: usize) -> Result<(), MaskingError> {
        self.restore(fresh, list, &["--section=post-data", &format!("--jobs={jobs}")]).await
    }

    /// Lines of what is not left out.
    fn restored(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(String::as_str).filter(|line| !self.is_left_out(line))
    }

    fn is_left_out(&self, line: &str) -> bool {
        match kind_of(line) {
            // Copied by themselves, if at all.
            "BLOB" | "BLOB METADATA" => true,
            "SERVER" | "USER MAPPING" => self.omissions.secrets,
            _ => false,
        }
    }

    async fn restore(&self, fresh: &Fresh, list: &[&str], arguments: &[&str]) -> Result<(), MaskingError> {
        let database = &self.database;
        let list_file = self.archive.with_extension("list");
        std::fs::write(&list_file, list.join("\n") + "\n").map_err(MaskingError::io("cannot write a list"))?;
        let use_list = format!("--use-list={}", list_file.display());
        let dbname = format!("--dbname={}", conninfo(database));
        let mut all = vec!["--exit-on-error", "--no-tablespaces", "--no-password", &use_list, &dbname];
        all.extend(arguments);
        all.push(path(&self.archive)?);
        let output = run(&fresh.installation, "pg_restore", &fresh.server(), database, &all).await?;
        check("pg_restore", database, output).map(drop)
    }
}

/// Kind, schema, name and owner: of `12; 1417 16389 USER MAPPING - USER MAPPING app SERVER s app` all but the numbers, which are another dump's others
/// (`PrintTOCSummary` of pg_backup_archiver.c).
fn description(line: &str) -> &str {
    line.splitn(4, ' ').nth(3).unwrap_or_default()
}

fn kind_of(line: &str) -> &str {
    const KINDS: [&str; 4] = ["USER MAPPING", "SERVER", "BLOB METADATA", "BLOB"];
    let is_it = |kind: &&&str| description(line).strip_prefix(**kind).is_some_and(|rest| rest.starts_with(' '));
    KINDS.iter().find(is_it).copied().unwrap_or_default()
}

/// A server of the same name that leads nowhere.
async fn create_server(
    connection: &mut Connection,
    server: &ForeignServer,
    database: &str,
) -> Result<(), MaskingError> {
    let mut statement = format!("CREATE SERVER {}", quote(&server.name));
    if let Some(server_type) = &server.server_type {
        statement += &format!(" TYPE {}", literal(server_type));
    }
    if let Some(version) = &server.version {
        statement += &format!(" VERSION {}", literal(version));
    }
    statement += &format!(" FOREIGN DATA WRAPPER {}", quote(&server.wrapper));
    // A name that is never anybody's (RFC 2606), where the wrapper knows hosts.
    let nowhere = format!("{statement} OPTIONS (host 'offshoot.invalid')");
    if connection.try_query(&nowhere).await?.is_err() {
        connection.query(&statement).await?;
    }
    let owner = format!("ALTER SERVER {} OWNER TO {}", quote(&server.name), quote(&server.owner));
    connection.try_query(&owner).await?.map(drop).map_err(|e| MaskingError::Tool {
        tool: "CREATE SERVER",
        database: database.to_owned(),
        message: format!("{} (SQLSTATE {})", server.name, e.sqlstate),
    })
}

/// A database's name as part of a connection string, where it could be taken for one itself.
fn conninfo(database: &str) -> String {
    format!("dbname='{}'", database.replace('\\', "\\\\").replace('\'', "\\'"))
}

pub(super) fn path(path: &Path) -> Result<&str, MaskingError> {
    path.to_str().ok_or_else(|| MaskingError::Io {
        what: format!("cannot use {}", path.display()),
        source: std::io::Error::other("the path is not UTF-8"),
    })
}

/// Runs a client program of the cluster's version against `server`.
pub(super) async fn run(
    installation: &Installation,
    tool: &'static str,
    server: &Server,
    database: &str,
    arguments: &[&str],
) -> Result<Output, MaskingError> {
    let program = installation.bin_dir.join(tool);
    if !program.exists() {
        let (version, major, folder) = (installation.version.clone(), installation.major, installation.bin_dir.clone());
        return Err(MaskingError::NoTool { tool, version, major, folder });
    }
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("LC_ALL", "C")
        .envs(server.environment(database));
    command.current_dir("/").stdin(Stdio::null()).kill_on_drop(true);
    command.output().await.map_err(MaskingError::io(format!("cannot run {tool}")))
}

/// What the program printed, or its objection: without the statements and details that it quotes, which may hold values.
pub(super) fn check(tool: &'static str, database: &str, output: Output) -> Result<Output, MaskingError> {
    if output.status.success() {
        return Ok(output);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let is_objection = |line: &&str| line.starts_with(tool) && line.contains("error: ");
    let first: Vec<&str> = said.lines().filter(is_objection).take(2).collect();
    let message = if first.is_empty() { output.status.to_string() } else { first.join("; ") };
    Err(MaskingError::Tool { tool, database: database.to_owned(), message })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_told_apart_by_kind() {
        for (line, kind) in [
            ("3; 1417 16400 SERVER - films postgres", "SERVER"),
            ("4; 1418 16401 USER MAPPING - USER MAPPING app SERVER films postgres", "USER MAPPING"),
            ("7; 0 0 ACL - FOREIGN SERVER shop postgres", ""),
            ("8; 1259 16402 TABLE public SERVER postgres", ""),
            ("9; 1259 16402 SERVERS public x postgres", ""),
        ] {
            assert_eq!(kind_of(line), kind, "{line}");
        }
    }
}
