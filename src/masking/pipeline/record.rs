//! What of a copy is done, on disk beside the fresh cluster, so that one that was killed or cut off goes on after the last finished table.
//!
//! ```text
//! <scratch>/resumable    a line of JSON that says of what copy it is, then one for each table whose rows are committed, and for each later step that
//!                        must not be done twice, before it is committed
//! ```
//!
//! It is there from when all databases have their schema until there is a base of them. Tables that are done were read
//! in a snapshot that is gone, so the rest may only be added while the source is what it was: not one transaction may have
//! written since ([`SourceState`]). A busy production server never stays so; a standby whose replay is paused does, and raw bases and dumps always.
//! Rows that are added to others (to partitions that masked keys route to, to an extension's own) must not be loaded twice, either, since they cannot be
//! taken away again.

use crate::masking::MaskingError;
use crate::masking::catalog::field;
use crate::model::fault::{self, FaultPoint};
use crate::sources::Connection;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Which copy a record is of. Only an equal one may go on with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::masking) struct Ticket {
    pub made_by: MadeBy,
    source: SourceState,
    /// SHA-256 of each database's catalog, by name.
    catalogs: BTreeMap<String, String>,
}

/// What of a ticket is known before the source is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::masking) struct MadeBy {
    pub version: String,
    pub rules_sha256: String,
    /// None: nothing was masked.
    pub key_id: Option<String>,
}

/// What a source consists of, as far as a number can say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::masking) struct SourceState {
    /// A server's ([`identity`]), or the name of what does not change.
    identity: String,
    /// By database: transactions that its snapshot sees (`pg_current_snapshot`). Where nothing has written, it is the same.
    snapshots: BTreeMap<String, String>,
}

/// What is done, or about to be.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Entry {
    /// A table's rows are committed, or about to be by this transaction.
    Rows {
        database: String,
        table: String,
        rows: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        transaction: Option<String>,
    },
    /// This transaction of the fresh cluster is about to commit a step. Whether it has is what the cluster knows.
    Step { database: String, step: String, transaction: String },
}

/// The record of a copy under way.
pub(in crate::masking) struct Record {
    path: PathBuf,
    /// None: nothing is recorded, since no other run could go on.
    file: Option<Arc<Mutex<File>>>,
    /// By database and table: rows and transaction.
    loaded: BTreeMap<(String, String), (u64, Option<String>)>,
    goes_on: bool,
    /// Database, step and transaction.
    steps: Vec<(String, String, String)>,
}

impl SourceState {
    pub(super) fn new(identity: String, snapshots: BTreeMap<String, String>) -> SourceState {
        SourceState { identity, snapshots }
    }
}

/// Which server `session` is connected to, and how far it has replayed another one's WAL: a standby's snapshots do not tell. `None` where it
/// does not say.
pub(super) async fn identity(session: &mut Connection) -> Option<String> {
    let statement =
        "SELECT concat_ws(' ', s.system_identifier, c.timeline_id, CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() END)
                     FROM pg_control_system() s, pg_control_checkpoint() c";
    let rows = session.query(statement).await.ok()?;
    Some(field(rows.first(), 0))
}

impl Ticket {
    pub(super) fn new(made_by: MadeBy, source: SourceState, catalogs: BTreeMap<String, String>) -> Ticket {
        Ticket { made_by, source, catalogs }
    }

    /// The ticket of the record at `path`, if there is one that can be read.
    pub(in crate::masking) fn read(path: &Path) -> Option<Ticket> {
        serde_json::from_str(std::fs::read_to_string(path).ok()?.lines().next()?).ok()
    }
}

impl Record {
    /// The record at `path`, if it is of the copy with `ticket`.
    pub(super) fn open(path: &Path, ticket: Option<&Ticket>) -> Option<Record> {
        if Ticket::read(path).as_ref() != Some(ticket?) {
            return None;
        }
        let text = std::fs::read_to_string(path).ok()?;
        // The last line may have been cut off; what it was of is loaded once more.
        let complete = text.rfind('\n').map_or("", |end| &text[..=end]);
        let (mut loaded, mut steps) = (BTreeMap::new(), Vec::new());
        for line in complete.lines().skip(1) {
            match serde_json::from_str(line).ok()? {
                Entry::Rows { database, table, rows, transaction } => {
                    loaded.insert((database, table), (rows, transaction));
                }
                Entry::Step { database, step, transaction } => steps.push((database, step, transaction)),
            }
        }
        let file = File::options().append(true).open(path).ok()?;
        file.set_len(complete.len() as u64).ok()?;
        Some(Record { path: path.to_owned(), file: Some(Arc::new(Mutex::new(file))), loaded, goes_on: true, steps })
    }

    /// A new one. Everything in `folder`, the fresh cluster with its schema, is on disk before it says so.
    pub(super) async fn begin(path: &Path, ticket: Option<&Ticket>, folder: &Path) -> Result<Record, MaskingError> {
        let nothing = (BTreeMap::new(), Vec::new());
        let record = |file| Record { path: path.to_owned(), file, loaded: nothing.0, goes_on: false, steps: nothing.1 };
        let Some(ticket) = ticket else { return Ok(record(None)) };
        let (line, folder, place) = (serde_json::to_string(ticket), folder.to_owned(), path.to_owned());
        let begin = move || -> std::io::Result<File> {
            nix::unistd::syncfs(File::open(folder)?)?;
            let mut file = File::create_new(place)?;
            writeln!(file, "{}", line?)?;
            file.sync_all()?;
            Ok(file)
        };
        let begun = tokio::task::spawn_blocking(begin).await.expect("writing a file does not panic");
        let file = begun.map_err(MaskingError::io(format!("cannot write {}", path.display())))?;
        Ok(record(Some(Arc::new(Mutex::new(file)))))
    }

    /// Rows of a table that a former run has committed in the database of `fresh`.
    pub(super) async fn rows(
        &self,
        database: &str,
        table: &str,
        fresh: &mut Connection,
    ) -> Result<Option<u64>, MaskingError> {
        Ok(match self.loaded.get(&(database.to_owned(), table.to_owned())) {
            Some((rows, None)) => Some(*rows),
            Some((rows, Some(transaction))) if is_committed(transaction, fresh).await? => Some(*rows),
            _ => None,
        })
    }

    /// Whether it is a former run's.
    pub(super) fn goes_on(&self) -> bool {
        self.goes_on
    }

    /// Tables that a former run has done, but for one or another that it was about to commit.
    pub(super) fn len(&self) -> usize {
        self.loaded.len()
    }

    /// Commits the transaction that `fresh` is in, which has loaded a table's rows, so that they are there only once, even if another run loads them again.
    pub(super) async fn commit_rows(
        &self,
        (database, table): (&str, &str),
        rows: u64,
        fresh: &mut Connection,
    ) -> Result<(), MaskingError> {
        commit(fresh).await?;
        self.write(Entry::Rows { database: database.to_owned(), table: table.to_owned(), rows, transaction: None })
            .await
    }

    /// The same for rows that another run must not load again.
    pub(super) async fn commit_added_rows(
        &self,
        (database, table): (&str, &str),
        rows: u64,
        fresh: &mut Connection,
    ) -> Result<(), MaskingError> {
        let (database, table) = (database.to_owned(), table.to_owned());
        self.note(fresh, |transaction| Entry::Rows { database, table, rows, transaction: Some(transaction) }).await?;
        commit(fresh).await
    }

    /// Whether a former run has committed this step in the database of `fresh`.
    pub(super) async fn has(&self, database: &str, step: &str, fresh: &mut Connection) -> Result<bool, MaskingError> {
        for (_, _, transaction) in self.steps.iter().filter(|(of, noted, _)| of == database && noted == step) {
            if is_committed(transaction, fresh).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Commits the transaction that `fresh` is in, which has done the step.
    pub(super) async fn commit(&self, database: &str, step: &str, fresh: &mut Connection) -> Result<(), MaskingError> {
        let (database, step) = (database.to_owned(), step.to_owned());
        self.note(fresh, |transaction| Entry::Step { database, step, transaction }).await?;
        commit(fresh).await?;
        fault::pass(FaultPoint::StepCommitted);
        Ok(())
    }

    async fn note(&self, fresh: &mut Connection, entry: impl FnOnce(String) -> Entry) -> Result<(), MaskingError> {
        if !self.is_kept() {
            return Ok(());
        }
        let transaction = field(fresh.query("SELECT txid_current()").await?.first(), 0);
        // Else a server that is killed may have lost it altogether, and give its number to another one, which commits.
        fresh.query("CHECKPOINT").await?;
        self.write(entry(transaction)).await?;
        fault::pass(FaultPoint::StepNoted);
        Ok(())
    }

    async fn write(&self, entry: Entry) -> Result<(), MaskingError> {
        let Some(file) = self.file.clone() else { return Ok(()) };
        let line = serde_json::to_string(&entry).expect("plain data is JSON") + "\n";
        let write = move || {
            let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
            file.write_all(line.as_bytes()).and_then(|()| file.sync_data())
        };
        let written = tokio::task::spawn_blocking(write).await.expect("writing a line does not panic");
        written.map_err(MaskingError::io(format!("cannot write {}", self.path.display())))
    }

    /// Whether another run could go on with it.
    pub(super) fn is_kept(&self) -> bool {
        self.file.is_some()
    }
}

/// What is recorded as done has to be.
pub(super) async fn commit(fresh: &mut Connection) -> Result<(), MaskingError> {
    fresh.query("SET LOCAL synchronous_commit = on; COMMIT").await?;
    Ok(())
}

/// 'aborted' is also what became of one that a killed server was in. Nothing is ever so old that it is forgotten: template0 is never vacuumed.
async fn is_committed(transaction: &str, fresh: &mut Connection) -> Result<bool, MaskingError> {
    let status = fresh.query(&format!("SELECT txid_status({transaction})")).await?;
    Ok(field(status.first(), 0) == "committed")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket(snapshot: &str) -> Ticket {
        let made_by = MadeBy { version: "1".to_owned(), rules_sha256: "r".to_owned(), key_id: None };
        let snapshots = BTreeMap::from([("shop".to_owned(), snapshot.to_owned())]);
        let source = SourceState { identity: "7".to_owned(), snapshots };
        Ticket::new(made_by, source, BTreeMap::new())
    }

    fn rows(table: &str, rows: u64) -> Entry {
        Entry::Rows { database: "shop".to_owned(), table: table.to_owned(), rows, transaction: None }
    }

    fn loaded(record: &Record, table: &str) -> Option<u64> {
        record.loaded.get(&("shop".to_owned(), table.to_owned())).map(|(rows, _)| *rows)
    }

    #[tokio::test]
    async fn an_equal_copy_goes_on_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("resumable");
        assert!(Record::open(&path, Some(&ticket("5:5:"))).is_none());
        let record = Record::begin(&path, Some(&ticket("5:5:")), folder.path()).await.unwrap();
        record.write(rows("public.a", 3)).await.unwrap();
        record.write(rows("public.b", 0)).await.unwrap();
        let again = Record::open(&path, Some(&ticket("5:5:"))).unwrap();
        assert_eq!((again.len(), loaded(&again, "public.a"), loaded(&again, "public.c")), (2, Some(3), None));
        assert!(Record::open(&path, Some(&ticket("5:6:"))).is_none());
        assert!(Record::open(&path, None).is_none());
    }

    #[tokio::test]
    async fn transactions_are_kept_with_what_they_are_of() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("resumable");
        let record = Record::begin(&path, Some(&ticket("5:5:")), folder.path()).await.unwrap();
        let transaction = |number: u32| Some(number.to_string());
        let (database, table) = ("shop".to_owned(), "public.a".to_owned());
        // The first was aborted.
        for number in [7, 9] {
            let (database, table) = (database.clone(), table.clone());
            record.write(Entry::Rows { database, table, rows: 3, transaction: transaction(number) }).await.unwrap();
        }
        record.write(Entry::Step { database, step: "s".to_owned(), transaction: "11".to_owned() }).await.unwrap();
        let again = Record::open(&path, Some(&ticket("5:5:"))).unwrap();
        assert_eq!(again.loaded.values().collect::<Vec<_>>(), [&(3, transaction(9))]);
        assert_eq!(again.steps, [("shop".to_owned(), "s".to_owned(), "11".to_owned())]);
    }

    #[tokio::test]
    async fn a_line_that_was_cut_off_counts_for_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("resumable");
        let record = Record::begin(&path, Some(&ticket("5:5:")), folder.path()).await.unwrap();
        record.write(rows("public.a", 3)).await.unwrap();
        record.write(rows("public.b", 4)).await.unwrap();
        let length = std::fs::metadata(&path).unwrap().len();
        File::options().write(true).open(&path).unwrap().set_len(length - 3).unwrap();
        let again = Record::open(&path, Some(&ticket("5:5:"))).unwrap();
        assert_eq!((again.len(), loaded(&again, "public.a")), (1, Some(3)));
        again.write(rows("public.c", 5)).await.unwrap();
        assert_eq!(loaded(&Record::open(&path, Some(&ticket("5:5:"))).unwrap(), "public.c"), Some(5));
    }
}
