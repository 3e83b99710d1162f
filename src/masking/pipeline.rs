//! From a live server to a stopped, masked cluster on local disk.
//!
//! ```text
//!  one session a database: a snapshot, exported ── catalog ── plan ── (all plans without a problem) ──┐
//!  fresh cluster ── roles ── each database: schema before rows ◄──────────────────────────────────────┘
//!     ── rows, so many tables at once ── sequences, large objects, expressions ── keys and indexes ── materialized views
//!     ── freeze, analyze ── settings ── clean stop
//! ```
//!
//! The sessions that export the snapshots stay open until the last row is read. They read, and nothing else.

mod coincidences;
mod control;
mod dump;
mod expressions;
mod finish;
mod fresh;
mod globals;
mod load;
mod objects;
mod record;
mod rejoin;
mod relations;
mod resumable;
mod rows;
mod schema;

pub(super) use control::Canary;
pub(super) use dump::restore as restore_dump;
pub(super) use fresh::{Fresh, set_for_copy};
pub(super) use record::{MadeBy, Ticket};

use super::MaskingError;
use super::catalog::{DatabaseCatalog, field};
use super::literals::Literals;
use super::masks::MaskingKey;
use super::plan::{DatabasePlan, Problem};
use super::report::FormerReport;
use super::rules::Rules;
use super::sample::Sample;
use super::value::Keys;
use crate::compute::{Installation, installation};
use crate::model::fault::{self, FaultPoint};
use crate::settings::ComputeSettings;
use crate::sources::{Connection, ImportError, Progress, Purpose, Row, Server, remove_record, unless_gone};
use fresh::Shape;
use globals::Globals;
use record::{Record, SourceState};
use relations::Relations;
use schema::{Omissions, Schema};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How long the start of a cluster may take that was killed while rows came in: it has gigabytes of WAL to replay.
const RECOVERY: Duration = Duration::from_secs(1800);

/// What to copy, how, and where to.
pub(super) struct Copy {
    pub source: Server,
    /// What of the source's settings comes along.
    pub source_settings: BTreeMap<String, String>,
    pub major: u32,
    pub rules: Rules,
    /// Of the project's current base, if it is masked.
    pub former: Option<FormerReport>,
    /// Without one nothing is masked.
    pub key: Option<MaskingKey>,
    pub settings: ComputeSettings,
    /// A folder of its own: not there yet, or with what a copy that `record` tells of has begun.
    pub folder: PathBuf,
    /// A folder of its own, not there yet, for definitions of the source: with its credentials for others.
    pub archives: PathBuf,
    /// Where it is kept what of the copy is done.
    pub record: PathBuf,
    pub made_by: MadeBy,
    /// The name of a source that does not change.
    pub unchanging: Option<String>,
    /// Tables that are copied at once, and indexes built.
    pub streams: usize,
    pub progress: Arc<Progress>,
}

/// A stopped cluster, and what was done.
pub(super) struct Copied {
    pub data_dir: PathBuf,
    pub databases: Vec<CopiedDatabase>,
    pub relations: Relations,
    /// Raw rows that were compared with what became of them.
    pub joined_rows: u64,
    /// What was kept of raw values, by column.
    pub samples: Vec<(String, Arc<Sample>)>,
    /// Those of them that masks have written, too.
    pub coincidences: HashSet<String>,
    pub literals: Arc<Literals>,
    /// Columns that the rules excuse from the search.
    pub unsearched_columns: BTreeSet<String>,
    installation: Installation,
    shape: Shape,
    settings: ComputeSettings,
    folder: PathBuf,
    /// Settings with a dot in their names that no rule keeps, without values.
    pub settings_left_out: Vec<String>,
}

pub(super) struct CopiedDatabase {
    pub plan: Arc<DatabasePlan>,
    /// By `schema.table`.
    pub rows: BTreeMap<String, u64>,
}

/// A database of the source as one snapshot shows it.
pub(super) struct Snapshot {
    /// Its transaction keeps the snapshot.
    pub session: Connection,
    pub name: String,
    /// Transactions that it sees, as `pg_current_snapshot` writes it.
    pub seen: String,
    pub plan: Arc<DatabasePlan>,
}

/// Opens a session on each of the source's databases, and plans what becomes of it. All problems of all databases.
pub(super) async fn plan(
    source: &Server,
    databases: &[String],
    rules: &Rules,
    keys: &mut Keys,
) -> Result<(Vec<Snapshot>, Vec<Problem>, Arc<Literals>), MaskingError> {
    let (mut snapshots, mut problems) = (Vec::new(), unknown_databases(rules, databases));
    let mut literals = Literals::default();
    for database in databases {
        let mut session = Connection::open(source, Purpose::Queries(database)).await?;
        set_for_copy(&mut session).await?;
        session.query("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
        let exported = session.query("SELECT pg_export_snapshot(), pg_current_snapshot()").await?;
        let catalog = DatabaseCatalog::read(&mut session, database).await?;
        let (plan, found) = DatabasePlan::new(catalog, rules, keys);
        problems.extend(found);
        if rules.is_masking() {
            problems.extend(literals.read(&mut session, database, rules).await?);
        }
        let (name, seen) = (field(exported.first(), 0), field(exported.first(), 1));
        snapshots.push(Snapshot { session, name, seen, plan: Arc::new(plan) });
    }
    let is_unknown = |name: &&String| !keys.samples.iter().any(|(column, _)| column == *name);
    problems.extend(rules.unsearched_columns.iter().filter(is_unknown).map(|name| Problem {
        database: "*".to_owned(),
        object: name.clone(),
        what:
            "unsearched_columns names it, and no masked column is called so (database.schema.table.column)".to_owned(),
    }));
    let literals = Arc::new(literals);
    for (column, sample) in &keys.samples {
        sample.watch(literals.clone(), column);
    }
    Ok((snapshots, problems, literals))
}

/// Databases of a server that we can connect to, `template1` included: what is made from it is made of that. Others are named in the log.
pub(super) async fn databases(session: &mut Connection) -> Result<Vec<String>, MaskingError> {
    let statement = "SELECT datname, datallowconn AND has_database_privilege(datname, 'CONNECT') FROM pg_database
                     WHERE datconnlimit <> -2 AND datname <> 'template0' ORDER BY datname";
    let rows = session.query(statement).await?;
    let (open, closed): (Vec<_>, Vec<_>) = rows.iter().partition(|row| field(Some(row), 1) == "t");
    let names = |rows: Vec<&Row>| rows.into_iter().map(|row| field(Some(row), 0)).collect::<Vec<_>>();
    let closed = names(closed);
    if !closed.is_empty() {
        tracing::warn!(databases = closed.join(", "), "leaving out databases that this role cannot connect to");
    }
    Ok(names(open))
}

fn unknown_databases(rules: &Rules, databases: &[String]) -> Vec<Problem> {
    let unknown = rules.databases.keys().filter(|name| !databases.contains(name));
    let problem = |name: &String| Problem {
        database: name.clone(),
        object: "database".to_owned(),
        what: format!("there are rules for it, and no such database; there are: {}", databases.join(", ")),
    };
    unknown.map(problem).collect()
}

/// Copies everything. What it began is in `copy.folder`.
pub(super) async fn copy(copy: Copy) -> Result<Copied, MaskingError> {
    let installation = installation(&copy.settings, copy.major).await.map_err(ImportError::from)?;
    copy.progress.wait_for("planning");
    let mut session = Connection::open(&copy.source, Purpose::Queries("postgres")).await?;
    set_for_copy(&mut session).await?;
    let shape = Shape::read(&mut session).await?;
    let globals = Globals::read(&mut session, &copy.rules).await?;
    let names = databases(&mut session).await?;
    // Without rules no mask is made, and no key is used.
    let key = copy.key.clone().map_or_else(|| MaskingKey::new(&[0; 32]), Ok)?;
    let mut keys = Keys::new(key);
    let identity = record::identity(&mut session).await;
    let (snapshots, mut problems, literals) = plan(&copy.source, &names, &copy.rules, &mut keys).await?;
    for (former, snapshot) in
        copy.former.iter().flat_map(|former| snapshots.iter().map(move |snapshot| (former, snapshot)))
    {
        problems.extend(former.changes(&copy.rules, &snapshot.plan));
    }
    if !problems.is_empty() {
        return Err(MaskingError::Plan { problems });
    }
    let ticket = ticket(&copy, &mut session, identity, &snapshots).await;
    drop(session);
    let record = Record::open(&copy.record, ticket.as_ref());
    let mut settings = copy.settings.clone();
    if record.is_some() {
        settings.start_timeout = settings.start_timeout.max(RECOVERY);
    }
    let mut fresh = Fresh::at(&copy.folder, &settings, installation.clone(), &shape, copy.source_settings.clone())?;
    match &record {
        Some(record) => {
            let tables = record.len();
            copy.progress.wait_for(&format!("going on with an import that was cut off: {tables} tables are there"));
        }
        None => {
            remove_former(&copy).await?;
            fresh.initialize(&shape).await?;
        }
    }
    fresh.start().await?;
    if record.is_some() {
        globals.unmake_settings(&mut fresh.connect("template1").await?).await?;
        relations::remove_orphans(&fresh, &names).await?;
    }
    let filling = Filling { copy: &copy, fresh: &fresh, globals: &globals, literals: &literals };
    let filled = filling.fill(snapshots, &mut keys, (ticket, record)).await?;
    fresh.stop().await?;
    let Filled { databases, relations, joined_rows, coincidences, settings_left_out } = filled;
    let (data_dir, samples, settings, folder) = (fresh.data_dir(), keys.samples, copy.settings, copy.folder);
    Ok(Copied {
        data_dir,
        databases,
        relations,
        joined_rows,
        samples,
        coincidences,
        literals,
        unsearched_columns: copy.rules.unsearched_columns,
        installation,
        shape,
        settings,
        folder,
        settings_left_out,
    })
}

/// Which copy this is; `None` where nobody could go on with it.
async fn ticket(
    copy: &Copy,
    session: &mut Connection,
    before: Option<String>,
    snapshots: &[Snapshot],
) -> Option<Ticket> {
    let of = |snapshot: &Snapshot| (snapshot.plan.catalog.name.clone(), snapshot.seen.clone());
    let state = match &copy.unchanging {
        // A server that was started or filled for this counts its own transactions.
        Some(name) => SourceState::new(name.clone(), BTreeMap::new()),
        // What a standby replays meanwhile is in no snapshot's numbers.
        None => {
            let identity = record::identity(session).await.filter(|now| before.as_ref() == Some(now))?;
            SourceState::new(identity, snapshots.iter().map(of).collect())
        }
    };
    let catalogs =
        snapshots.iter().map(|snapshot| (snapshot.plan.catalog.name.clone(), snapshot.plan.catalog.fingerprint()));
    Some(Ticket::new(copy.made_by.clone(), state, catalogs.collect()))
}

/// Removes what a copy has begun that this one does not go on with.
async fn remove_former(copy: &Copy) -> Result<(), MaskingError> {
    if !copy.record.exists() {
        return Ok(());
    }
    copy.progress.wait_for("starting over: the source has changed since the import that was cut off");
    let (record, folder) = (copy.record.clone(), copy.folder.clone());
    let failed = MaskingError::io(format!("cannot remove {}", folder.display()));
    let remove = move || {
        remove_record(&record)?;
        unless_gone(std::fs::remove_dir_all(&folder))
    };
    tokio::task::spawn_blocking(remove).await.expect("removing files does not panic").map_err(failed)
}

/// A server ended it, which says nothing of the rows. Class 57P: its operator, or a crash (Postgres manual, "PostgreSQL Error Codes").
fn without_blame(error: MaskingError) -> MaskingError {
    match error {
        MaskingError::Tool { ref message, .. } if message.contains("server closed the connection") => {
            ImportError::Interrupted { reason: error.to_string() }.into()
        }
        MaskingError::SourceRefused { sqlstate, .. } if sqlstate.starts_with("57P") => {
            let reason = format!("the source ended the session (SQLSTATE {sqlstate})");
            ImportError::Interrupted { reason }.into()
        }
        other => other,
    }
}

impl Copied {
    /// Plants canaries in a cluster of their own that is like this one, and stops it. Returns its data directory.
    pub(super) async fn control(&self, canaries: &[Canary]) -> Result<PathBuf, MaskingError> {
        let folder = self.folder.join("control");
        // Of a search that was cut off.
        let removed = unless_gone(tokio::fs::remove_dir_all(&folder).await);
        removed.map_err(MaskingError::io(format!("cannot remove {}", folder.display())))?;
        control::plant(&folder, &self.settings, self.installation.clone(), &self.shape, canaries).await
    }
}

/// What filling a cluster leaves behind.
struct Filled {
    databases: Vec<CopiedDatabase>,
    relations: Relations,
    joined_rows: u64,
    coincidences: HashSet<String>,
    settings_left_out: Vec<String>,
}

/// A copy under way.
struct Filling<'a> {
    copy: &'a Copy,
    fresh: &'a Fresh,
    globals: &'a Globals,
    literals: &'a Literals,
}

impl Filling<'_> {
    /// Brings everything over, and has the cluster as it is to be. `former` is what is known of a copy that this one goes on with.
    async fn fill(
        &self,
        snapshots: Vec<Snapshot>,
        keys: &mut Keys,
        (ticket, former): (Option<Ticket>, Option<Record>),
    ) -> Result<Filled, MaskingError> {
        let Filling { copy, fresh, globals, literals } = self;
        let omissions = Omissions { comments: copy.rules.comments, secrets: copy.key.is_some() };
        let made = tokio::fs::DirBuilder::new().mode(0o700).create(&copy.archives).await;
        made.map_err(MaskingError::io(format!("cannot make {}", copy.archives.display())))?;
        let mut template = fresh.connect("template1").await?;
        if former.is_none() {
            globals.make_roles(&mut template, &copy.rules).await?;
            template.query("DROP DATABASE postgres").await?;
        }
        let (mut schemas, mut is_resumable) = (Vec::new(), true);
        for (number, snapshot) in snapshots.iter().enumerate() {
            let catalog = &snapshot.plan.catalog;
            copy.progress.wait_for(&format!("copying the schema of {}", catalog.name));
            let archive = copy.archives.join(format!("schema-{number}"));
            let dumped =
                Schema::dump(fresh, &copy.source, &catalog.name, Some(&snapshot.name), archive, omissions).await;
            let schema = dumped.map_err(|error| match former.is_some() {
                // Whatever it is that went well before: it says nothing against the rows that are there.
                true => ImportError::Interrupted { reason: error.to_string() }.into(),
                false => error,
            })?;
            if former.is_none() {
                globals.make_database(&mut template, &catalog.name, copy.rules.comments).await?;
                schema.restore_before(fresh, &catalog.servers).await?;
                is_resumable &= resumable::is_resumable(&snapshot.plan, fresh).await?;
            }
            schemas.push(schema);
        }
        fault::pass(FaultPoint::SchemaRestored);
        let record = match former {
            Some(record) => record,
            None => {
                let ticket = ticket.filter(|_| is_resumable);
                template.query("CHECKPOINT").await?;
                Record::begin(&copy.record, ticket.as_ref(), &copy.folder).await?
            }
        };
        let ended = async {
            let (snapshots, rows) = load::load(copy, fresh, snapshots, keys, (&record, literals)).await?;
            fault::pass(FaultPoint::RowsCopied);
            let findings = literals.findings();
            if !findings.is_empty() {
                return Err(MaskingError::Findings { findings });
            }
            let loaded = snapshots.into_iter().zip(rows).zip(schemas).collect();
            let filled = self.finish(loaded, keys, &record).await?;
            let removed = tokio::fs::remove_dir_all(&copy.archives).await;
            removed.map_err(MaskingError::io(format!("cannot remove {}", copy.archives.display())))?;
            Ok(filled)
        };
        ended.await.map_err(|error| if record.is_kept() { without_blame(error) } else { error })
    }
}
