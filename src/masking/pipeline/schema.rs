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
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use tokio::process::Command;

/// Beginnings of entries: databases themselves are the globals', and large objects are copied by themselves, if at all.
const COPIED_OTHERWISE: [&str; 7] = [
    "BLOB",
    "BLOB METADATA",
    "DATABASE",
    "DATABASE PROPERTIES",
    "ACL - DATABASE",
    "COMMENT - DATABASE",
    "SECURITY LABEL - DATABASE",
];
/// The kind of an entry that makes a partition's index one of the whole table's.
const ATTACHED: &str = "INDEX ATTACH";

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
    entries: Vec<Entry>,
    omissions: Omissions,
}

/// One of a table of contents (`PrintTOCSummary` of pg_backup_archiver.c).
struct Entry {
    number: u32,
    /// `12; 1417 16389 USER MAPPING - USER MAPPING app SERVER s app`
    line: String,
    depends_on: Vec<u32>,
    /// It comes after the rows: keys, indexes, constraints, triggers, and what is said of them.
    is_late: bool,
}

impl Entry {
    /// From `pg_restore --list --verbose`, and what it lists with `--section=post-data`.
    fn parse(listed: &str, late: &str) -> Vec<Entry> {
        let number = |line: &str| line.split_once(';').and_then(|(number, _)| number.parse().ok());
        let late: HashSet<u32> = late.lines().filter_map(number).collect();
        let mut entries: Vec<Entry> = Vec::new();
        for line in listed.lines() {
            if let Some(numbers) = line.strip_prefix(";\tdepends on: ") {
                let Some(entry) = entries.last_mut() else { continue };
                entry.depends_on.extend(numbers.split_whitespace().filter_map(|number| number.parse::<u32>().ok()));
            } else if let Some(number) = number(line) {
                let is_late = late.contains(&number);
                entries.push(Entry { number, line: line.to_owned(), depends_on: Vec::new(), is_late });
            }
        }
        entries
    }

    /// Kind, schema, name and owner: all but the numbers, which are another dump's others.
    fn description(&self) -> &str {
        self.line.splitn(4, ' ').nth(3).unwrap_or_default()
    }

    fn is(&self, kind: &str) -> bool {
        self.description().strip_prefix(kind).is_some_and(|rest| rest.starts_with(' '))
    }
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
        let mut listed = Vec::new();
        for how in ["--verbose", "--section=post-data"] {
            let list = ["--list", how, path(&archive)?];
            let output = run(&fresh.installation, "pg_restore", source, database, &list).await?;
            listed.push(String::from_utf8_lossy(&check("pg_restore", database, output)?.stdout).into_owned());
        }
        let entries = Entry::parse(&listed[0], &listed[1]);
        Ok(Schema { database: database.to_owned(), archive, entries, omissions })
    }

    /// Restores what comes before the rows.
    pub(in crate::masking) async fn restore_before(
        &self,
        fresh: &Fresh,
        servers: &[ForeignServer],
    ) -> Result<(), MaskingError> {
        // Foreign tables come after their servers.
        let first_server = self.entries.iter().position(|entry| entry.is("SERVER"));
        let behind: HashSet<u32> =
            self.entries.iter().skip(first_server.unwrap_or(usize::MAX)).map(|entry| entry.number).collect();
        let (after, before): (Vec<&Entry>, Vec<&Entry>) =
            self.restored().partition(|entry| behind.contains(&entry.number));
        self.restore(fresh, &before, &["--section=pre-data"]).await?;
        if self.omissions.secrets && !servers.is_empty() {
            let mut connection = fresh.connect(&self.database).await?;
            for server in servers {
                create_server(&mut connection, server, &self.database).await?;
            }
        }
        self.restore(fresh, &after, &["--section=pre-data"]).await
    }

    /// Restores what comes after them, keys, indexes, constraints and triggers, with so many sessions at once.
    pub(in crate::masking) async fn restore_after(&self, fresh: &Fresh, jobs: usize) -> Result<(), MaskingError> {
        self.restore_late(fresh, &self.late().collect::<Vec<_>>(), jobs).await
    }

    /// The same where a server was killed meanwhile: what is missing, and nothing may be in the end. `owners` are the names of all roles.
    ///
    /// Each entry is made by statements that are sent together, so that it is there or is not. Only its owner is set later: an entry that is
    /// still the superuser's is made anew. Nothing depends on such a one yet, for who restores it did not come so far.
    pub(in crate::masking) async fn restore_missing(
        &self,
        fresh: &Fresh,
        jobs: usize,
        owners: &[&str],
    ) -> Result<(), MaskingError> {
        let made = self.made(fresh).await?;
        let names: HashSet<&str> = made.entries.iter().map(Entry::description).collect();
        let is_unowned = |entry: &&Entry| {
            let of = |owner: &&str| entry.description().strip_suffix(owner)?.strip_suffix(' ');
            owners.iter().filter_map(of).any(|entry| names.contains(&*format!("{entry} {}", fresh.superuser)))
        };
        let missing = self.missing_in(&made).into_iter();
        let (unowned, missing): (Vec<&Entry>, Vec<&Entry>) = missing.partition(is_unowned);
        self.restore(fresh, &unowned, &["--clean", "--if-exists"]).await?;
        self.restore_late(fresh, &missing, jobs).await?;
        let made = self.made(fresh).await?;
        let missing: Vec<&str> = self.missing_in(&made).into_iter().map(Entry::description).take(5).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let message = format!("still missing: {}; run the import again, which starts over", missing.join("; "));
        Err(MaskingError::Tool { tool: "pg_restore", database: self.database.clone(), message })
    }

    /// What is there of it.
    async fn made(&self, fresh: &Fresh) -> Result<Schema, MaskingError> {
        let archive = self.archive.with_extension("made");
        Schema::dump(fresh, &fresh.server(), &self.database, None, archive, self.omissions).await
    }

    /// Entries that `made` lacks. Some are called the same.
    fn missing_in(&self, made: &Schema) -> Vec<&Entry> {
        let mut there: HashMap<&str, usize> = HashMap::new();
        made.entries.iter().for_each(|entry| *there.entry(entry.description()).or_default() += 1);
        let is_missing = |entry: &&Entry| match there.get_mut(entry.description()) {
            Some(count) if *count > 0 => {
                *count -= 1;
                false
            }
            _ => true,
        };
        self.late().filter(is_missing).collect()
    }

    /// Indexes of partitions are attached one after the other: of two levels at once, some 1 in 100 restores left the whole table's index invalid, so that no key
    /// could refer to it, or waited for each other (18.4, under load).
    ///
    /// By their numbers: which section a comment is of, pg_restore tells by what it finds before it in the list, and drops it where that is nothing.
    async fn restore_late(&self, fresh: &Fresh, list: &[&Entry], jobs: usize) -> Result<(), MaskingError> {
        let jobs = format!("--jobs={jobs}");
        let (first, rest) = self.split_at_attached(list);
        let (attached, first): (Vec<&Entry>, Vec<&Entry>) = first.into_iter().partition(|entry| entry.is(ATTACHED));
        self.restore(fresh, &first, &[&jobs]).await?;
        self.restore(fresh, &attached, &[]).await?;
        self.restore(fresh, &rest, &[&jobs]).await
    }

    /// What is attached, with all that it depends on; and what is left.
    fn split_at_attached<'e>(&self, list: &[&'e Entry]) -> (Vec<&'e Entry>, Vec<&'e Entry>) {
        let by_number: HashMap<u32, &Entry> = self.entries.iter().map(|entry| (entry.number, entry)).collect();
        let mut waiting: Vec<&Entry> = list.iter().copied().filter(|entry| entry.is(ATTACHED)).collect();
        let mut needed = HashSet::new();
        while let Some(entry) = waiting.pop() {
            if needed.insert(entry.number) {
                waiting.extend(entry.depends_on.iter().filter_map(|number| by_number.get(number)).copied());
            }
        }
        list.iter().partition(|entry| needed.contains(&entry.number))
    }

    fn late(&self) -> impl Iterator<Item = &Entry> {
        self.restored().filter(|entry| entry.is_late)
    }

    fn restored(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|entry| !self.is_left_out(entry))
    }

    fn is_left_out(&self, entry: &Entry) -> bool {
        let is_any_of = |kinds: &[&str]| kinds.iter().any(|kind| entry.is(kind));
        is_any_of(&COPIED_OTHERWISE) || self.omissions.secrets && is_any_of(&["SERVER", "USER MAPPING"])
    }

    async fn restore(&self, fresh: &Fresh, list: &[&Entry], arguments: &[&str]) -> Result<(), MaskingError> {
        if list.is_empty() {
            return Ok(());
        }
        let database = &self.database;
        let list_file = self.archive.with_extension("list");
        let lines: String = list.iter().map(|entry| format!("{}\n", entry.line)).collect();
        std::fs::write(&list_file, lines).map_err(MaskingError::io("cannot write a list"))?;
        let use_list = format!("--use-list={}", list_file.display());
        let dbname = format!("--dbname={}", conninfo(database));
        let mut all = vec!["--exit-on-error", "--no-tablespaces", "--no-password", &use_list, &dbname];
        all.extend(arguments);
        all.push(path(&self.archive)?);
        let output = run(&fresh.installation, "pg_restore", &fresh.server(), database, &all).await?;
        check("pg_restore", database, output).map(drop)
    }
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
        let entries = Entry::parse(
            ";\n; Archive created at 2026\n3; 1417 16400 SERVER - films postgres\n;\tdepends on: 12 13\n\
             4; 1418 16401 USER MAPPING - USER MAPPING app SERVER films postgres\n\
             7; 0 0 ACL - FOREIGN SERVER shop postgres\n8; 1259 16402 TABLE public SERVER postgres\n\
             9; 1259 16402 SERVERS public x postgres\n",
            ";\n9; 1259 16402 SERVERS public x postgres\n",
        );
        assert_eq!(entries.iter().filter(|entry| entry.is_late).map(|entry| entry.number).collect::<Vec<_>>(), [9]);
        let kinds = ["SERVER", "USER MAPPING"];
        let is: Vec<_> = entries.iter().map(|entry| kinds.map(|kind| entry.is(kind))).collect();
        assert_eq!(is, [[true, false], [false, true], [false; 2], [false; 2], [false; 2]]);
        assert_eq!((entries[0].number, &entries[0].depends_on[..]), (3, &[12, 13][..]));
    }

    #[test]
    fn what_is_attached_comes_with_what_it_depends_on() {
        let listed = "1; 2606 1 CONSTRAINT public whole pk app\n2; 2606 2 CONSTRAINT public part pk app\n3; 0 0 INDEX ATTACH public part_pk app\n\
                      ;\tdepends on: 1 2 9\n4; 2606 4 FK CONSTRAINT public other fk app\n;\tdepends on: 1 3\n5; 1259 5 INDEX public other i app\n";
        let omissions = Omissions { comments: Kept::Keep, secrets: false };
        let schema = Schema {
            database: String::new(),
            archive: PathBuf::new(),
            entries: Entry::parse(listed, listed),
            omissions,
        };
        let (first, rest) = schema.split_at_attached(&schema.restored().collect::<Vec<_>>());
        let numbers = |entries: &[&Entry]| entries.iter().map(|entry| entry.number).collect::<Vec<_>>();
        assert_eq!((numbers(&first), numbers(&rest)), (vec![1, 2, 3], vec![4, 5]));
        let (first, rest) = schema.split_at_attached(&schema.entries.iter().skip(3).collect::<Vec<_>>());
        assert_eq!((first.len(), numbers(&rest)), (0, vec![4, 5]));
    }

    #[test]
    fn of_entries_that_are_called_the_same_each_is_missing_by_itself() {
        let schema = |listed: &str| Schema {
            database: String::new(),
            archive: PathBuf::new(),
            entries: Entry::parse(listed, listed),
            omissions: Omissions { comments: Kept::Keep, secrets: false },
        };
        let wanted =
            schema("1; 1 1 TRIGGER public a b c app\n2; 1 2 TRIGGER public a b c app\n3; 1 3 INDEX public i app\n");
        let missing = |made: &str| wanted.missing_in(&schema(made)).len();
        assert_eq!(missing("7; 1 7 TRIGGER public a b c app\n8; 1 8 INDEX public i app\n"), 1);
        assert_eq!(
            missing("7; 1 7 TRIGGER public a b c app\n8; 1 8 TRIGGER public a b c app\n9; 1 9 INDEX public i app\n"),
            0
        );
    }
}
