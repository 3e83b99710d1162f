//! The rows of all databases: so many tables at a time, the largest first, a large one read by several sessions.

use super::expressions::Rewrite;
use super::fresh::{Fresh, set_for_copy};
use super::record::{self, Record};
use super::rows::{TableCopy, objection};
use super::{Copy, Snapshot};
use crate::masking::MaskingError;
use crate::masking::catalog::literal;
use crate::masking::literals::Literals;
use crate::masking::plan::{Copying, DatabasePlan, Problem};
use crate::masking::rules::Rows;
use crate::masking::value::Keys;
use crate::model::fault::{self, FaultPoint};
use crate::sources::{Connection, Purpose};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Semaphore;

/// From so many bytes on, several sessions read a table.
const LARGE: u64 = 32 << 20;
/// So many at most: they end in one.
const READERS: usize = 8;

/// One table to load.
struct Load {
    /// Number of its database.
    database: usize,
    /// Its place in the plan.
    table: usize,
    copying: Copying,
    bytes: u64,
}

/// What the streams share.
struct Work<'a> {
    copy: &'a Copy,
    fresh: &'a Fresh,
    /// By database: plan and snapshot.
    databases: Vec<(Arc<DatabasePlan>, String)>,
    waiting: Mutex<VecDeque<Load>>,
    loaded: Mutex<Vec<BTreeMap<String, u64>>>,
    /// Sessions on sources that nobody reads from just now, with the number of their database.
    idle: Mutex<Vec<(usize, Connection)>>,
    /// Held by the table that several sessions read.
    readers: Semaphore,
    record: &'a Record,
    literals: &'a Literals,
}

/// Loads all rows that come along. By database, how many rows each table has.
pub(super) async fn load(
    copy: &Copy,
    fresh: &Fresh,
    snapshots: Vec<Snapshot>,
    keys: &mut Keys,
    (record, literals): (&Record, &Literals),
) -> Result<(Vec<Snapshot>, Vec<BTreeMap<String, u64>>), MaskingError> {
    let mut loads: Vec<Load> = Vec::new();
    for (database, snapshot) in snapshots.iter().enumerate() {
        loads.extend(loads_of(database, &snapshot.plan, keys)?);
    }
    let total: f64 = loads.iter().map(|load| estimate(&snapshots, load)).sum();
    // One database after the other, so that sessions are kept; in each the largest first, so that none is left alone at the end.
    loads.sort_by_key(|load| (load.database, std::cmp::Reverse(load.bytes)));
    let work = Work {
        copy,
        fresh,
        databases: snapshots.iter().map(|snapshot| (snapshot.plan.clone(), snapshot.name.clone())).collect(),
        waiting: Mutex::new(loads.into()),
        loaded: Mutex::new(vec![BTreeMap::new(); snapshots.len()]),
        idle: Mutex::default(),
        readers: Semaphore::new(1),
        record,
        literals,
    };
    if record.goes_on() {
        work.remove_dead_rows().await?;
    }
    if record.len() == 0 && copy.key.is_some() {
        copy.progress.wait_for("trying the masks on some rows of each table");
        work.try_out().await?;
        // The same rows come once more.
        keys.samples.iter().for_each(|(_, sample)| sample.clear());
    }
    copy.progress.begin_rows("copying rows", total as u64);
    let streams = (0..copy.streams.max(1)).map(|_| work.stream());
    futures::future::try_join_all(streams).await?;
    copy.progress.finish();
    let loaded = work.loaded.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok((snapshots, loaded))
}

fn estimate(snapshots: &[Snapshot], load: &Load) -> f64 {
    let plan = &snapshots[load.database].plan;
    plan.table(&plan.tables[load.table]).rows.max(0.0)
}

fn loads_of(database: usize, plan: &DatabasePlan, keys: &mut Keys) -> Result<Vec<Load>, MaskingError> {
    let mut loads = Vec::new();
    for (number, table_plan) in plan.tables.iter().enumerate() {
        let table = plan.table(table_plan);
        if table.is_partitioned || table_plan.rows == Rows::None {
            continue;
        }
        let mut seed_error = None;
        let seed =
            |domain: &str| keys.seed(domain).inspect_err(|e| seed_error = Some(e.to_string())).unwrap_or_default();
        let copying = Copying::of(plan, table_plan, seed);
        if let Some(reason) = seed_error {
            return Err(MaskingError::Fresh { what: "cannot derive a seed".to_owned(), reason });
        }
        loads.push(Load { database, table: number, copying, bytes: table.bytes });
    }
    Ok(loads)
}

/// What a trial found wrong with a table, unless it is something else that ended it.
fn problem(tried: &TableCopy<'_>, error: MaskingError) -> Result<Problem, MaskingError> {
    let table = tried.table.full_name();
    let (object, what) = match error {
        MaskingError::Value { column, reason, .. } => (format!("{table}.{}", column.trim_matches('"')), reason),
        MaskingError::Refused { objection, .. } => {
            (table, format!("the masked database refuses masked rows, or what is computed of them ({objection})"))
        }
        MaskingError::SourceRefused { sqlstate, .. } => {
            (table, format!("the source refuses to give rows (SQLSTATE {sqlstate}); try the table's where there"))
        }
        other => return Err(other),
    };
    Ok(Problem { database: tried.database.to_owned(), object, what })
}

impl Work<'_> {
    /// Takes one table after the other until none is left.
    async fn stream(&self) -> Result<(), MaskingError> {
        let mut open: Option<(usize, Connection)> = None;
        loop {
            let next = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some(load) = next else { return Ok(()) };
            let (plan, _) = &self.databases[load.database];
            let fresh = self.session(&mut open, load.database).await?;
            let table_plan = &plan.tables[load.table];
            let table = plan.table(table_plan);
            let is_large = load.bytes >= LARGE && load.copying.is_divisible();
            // One large table at a time has several readers: sessions are the source's, and few.
            let readers = is_large.then(|| self.readers.try_acquire().ok()).flatten();
            let count = if readers.is_some() { self.copy.streams.min(READERS) } else { 1 };
            let mut sources = self.idle(load.database, count).await?;
            let one = TableCopy { database: &plan.catalog.name, table, plan: table_plan, copying: &load.copying };
            let name = format!("{}: {}", one.database, table.full_name());
            let part = self.copy.progress.part(&name, table.rows.max(0.0) as u64);
            let of = (one.database, &*table.quoted());
            let rows = match self.record.rows(of.0, of.1, fresh).await? {
                Some(rows) => {
                    one.check_there(fresh, rows).await?;
                    one.look(&mut sources[0]).await?;
                    part.advance(rows);
                    rows
                }
                None => {
                    let rows = one.run(&mut sources, fresh, |rows| part.advance(rows)).await?;
                    match (self.literals.findings().is_empty(), one.is_added_to_others()) {
                        // What definitions quote of its values is not recorded: a run that goes on must come to the same end.
                        (false, _) => record::commit(fresh).await?,
                        (true, false) => self.record.commit_rows(of, rows, fresh).await?,
                        (true, true) => self.record.commit_added_rows(of, rows, fresh).await?,
                    }
                    fault::pass(FaultPoint::TableCopied);
                    rows
                }
            };
            drop(part);
            self.give_back(load.database, sources);
            let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
            loaded[load.database].insert(table.full_name(), rows);
        }
    }

    /// Removes the rows that loads have left which were killed: of tables that are not emptied before they are loaded again. Else they would lie in the
    /// free space of pages, where the search wants nothing to be.
    async fn remove_dead_rows(&self) -> Result<(), MaskingError> {
        let added_to = |load: &Load| {
            let (plan, _) = &self.databases[load.database];
            let table_plan = &plan.tables[load.table];
            Some((load.database, plan.table(table_plan).quoted(), plan.catalog.table(table_plan.through?)?.quoted()))
        };
        let loads: Vec<_> = {
            let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.iter().filter_map(added_to).collect()
        };
        let (mut unfinished, mut open) = (BTreeSet::new(), None);
        for (database, table, root) in loads {
            let fresh = self.session(&mut open, database).await?;
            let name = &self.databases[database].0.catalog.name;
            if self.record.rows(name, &table, fresh).await?.is_none() {
                unfinished.insert((database, root));
            }
        }
        for (database, root) in unfinished {
            self.session(&mut open, database).await?.query(&format!("VACUUM (FULL) {root}")).await?;
        }
        Ok(())
    }

    /// Tries what is done to each table on some of its rows. All that is wrong with them is one error.
    async fn try_out(&self) -> Result<(), MaskingError> {
        let loads = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        let (mut problems, mut open, mut roots) = (Vec::new(), None, BTreeSet::new());
        for load in &loads {
            let (plan, _) = &self.databases[load.database];
            let table_plan = &plan.tables[load.table];
            let table = plan.table(table_plan);
            // An extension's tables may refer to each other already. Of partitions whose rows are routed one is enough: each is tried in all of them.
            let is_tried = table.extension_condition.is_none()
                && table_plan.through.is_none_or(|root| roots.insert((load.database, root)));
            if !is_tried {
                continue;
            }
            let fresh = self.session(&mut open, load.database).await?;
            let one = TableCopy { database: &plan.catalog.name, table, plan: table_plan, copying: &load.copying };
            let mut sources = self.idle(load.database, 1).await?;
            let rewrite = Rewrite::of(plan, table_plan, fresh).await?;
            match one.try_out(&mut sources, fresh, rewrite.statement).await {
                Ok(()) => self.give_back(load.database, sources),
                // The session that read is in the middle of its rows.
                Err(error) => problems.push(problem(&one, error)?),
            }
        }
        for (database, (plan, _)) in self.databases.iter().enumerate() {
            for table_plan in plan.tables.iter().filter(|table| plan.table(table).is_partitioned) {
                let fresh = self.session(&mut open, database).await?;
                let Some(statement) = Rewrite::of(plan, table_plan, fresh).await?.statement else { continue };
                fresh.query("BEGIN").await?;
                if let Err(message) = fresh.try_query(&statement).await? {
                    let (name, object) = (plan.catalog.name.clone(), plan.table(table_plan).full_name());
                    let what = format!("its expressions cannot be computed ({})", objection(&message));
                    problems.push(Problem { database: name, object, what });
                }
                fresh.query("ROLLBACK").await?;
            }
        }
        *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) = loads;
        let findings = self.literals.findings();
        if problems.is_empty() && !findings.is_empty() {
            return Err(MaskingError::Findings { findings });
        }
        if problems.is_empty() { Ok(()) } else { Err(MaskingError::Plan { problems }) }
    }

    /// A session on the fresh side's database of that number; `open` is the one that was last used.
    async fn session<'s>(
        &self,
        open: &'s mut Option<(usize, Connection)>,
        database: usize,
    ) -> Result<&'s mut Connection, MaskingError> {
        if open.as_ref().is_none_or(|(of, _)| *of != database) {
            *open = Some((database, self.fresh.connect(&self.databases[database].0.catalog.name).await?));
        }
        Ok(&mut open.as_mut().expect("it was opened above").1)
    }

    fn give_back(&self, database: usize, sources: Vec<Connection>) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.extend(sources.into_iter().map(|source| (database, source)));
    }

    /// So many sessions in the snapshot of a database: those that others have done with, and new ones.
    async fn idle(&self, database: usize, count: usize) -> Result<Vec<Connection>, MaskingError> {
        let mut sources = Vec::with_capacity(count);
        {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            // Databases come one after the other: sessions on a former one are of no use any more.
            idle.retain(|(of, _)| *of >= database);
            while sources.len() < count
                && let Some(at) = idle.iter().position(|(of, _)| *of == database)
            {
                sources.push(idle.swap_remove(at).1);
            }
        }
        while sources.len() < count {
            sources.push(self.open(database).await?);
        }
        Ok(sources)
    }

    async fn open(&self, database: usize) -> Result<Connection, MaskingError> {
        let (plan, snapshot) = &self.databases[database];
        let mut source = Connection::open(&self.copy.source, Purpose::Queries(&plan.catalog.name)).await?;
        set_for_copy(&mut source).await?;
        source.query("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
        source.query(&format!("SET TRANSACTION SNAPSHOT {}", literal(snapshot))).await?;
        Ok(source)
    }
}
