//! The rows of all databases: so many tables at a time, the largest first, a large one read by several sessions.

use super::fresh::{Fresh, set_for_copy};
use super::rows::TableCopy;
use super::{Copy, Snapshot};
use crate::masking::MaskingError;
use crate::masking::catalog::literal;
use crate::masking::plan::{Copying, DatabasePlan};
use crate::masking::rules::Rows;
use crate::masking::value::Keys;
use crate::sources::{Connection, Purpose};
use std::collections::{BTreeMap, VecDeque};
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
}

/// Loads all rows that come along. By database, how many rows each table has.
pub(super) async fn load(
    copy: &Copy,
    fresh: &Fresh,
    snapshots: Vec<Snapshot>,
    keys: &mut Keys,
) -> Result<(Vec<Snapshot>, Vec<BTreeMap<String, u64>>), MaskingError> {
    let mut loads: Vec<Load> = Vec::new();
    for (database, snapshot) in snapshots.iter().enumerate() {
        loads.extend(loads_of(database, &snapshot.plan, keys)?);
    }
    let total: f64 = loads.iter().map(|load| estimate(&snapshots, load)).sum();
    // One database after the other, so that sessions are kept; in each the largest first, so that none is left alone at the end.
    loads.sort_by_key(|load| (load.database, std::cmp::Reverse(load.bytes)));
    copy.progress.begin_rows("copying rows", total as u64);
    let work = Work {
        copy,
        fresh,
        databases: snapshots.iter().map(|snapshot| (snapshot.plan.clone(), snapshot.name.clone())).collect(),
        waiting: Mutex::new(loads.into()),
        loaded: Mutex::new(vec![BTreeMap::new(); snapshots.len()]),
        idle: Mutex::default(),
        readers: Semaphore::new(1),
    };
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

impl Work<'_> {
    /// Takes one table after the other until none is left.
    async fn stream(&self) -> Result<(), MaskingError> {
        let mut open: Option<(usize, Connection)> = None;
        loop {
            let next = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some(load) = next else { return Ok(()) };
            let (plan, _) = &self.databases[load.database];
            let fresh = match &mut open {
                Some((database, fresh)) if *database == load.database => fresh,
                other => &mut other.insert((load.database, self.fresh.connect(&plan.catalog.name).await?)).1,
            };
            let table_plan = &plan.tables[load.table];
            let table = plan.table(table_plan);
            let is_large = load.bytes >= LARGE && load.copying.is_divisible();
            // One large table at a time has several readers: sessions are the source's, and few.
            let readers = is_large.then(|| self.readers.try_acquire().ok()).flatten();
            let count = if readers.is_some() { self.copy.streams.min(READERS) } else { 1 };
            let mut sources = self.idle(load.database, count).await?;
            let one = TableCopy { database: &plan.catalog.name, table, plan: table_plan, copying: &load.copying };
            let rows = one.run(&mut sources, fresh, |rows| self.copy.progress.advance(rows)).await?;
            self.idle
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .extend(sources.into_iter().map(|source| (load.database, source)));
            let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
            loaded[load.database].insert(table.full_name(), rows);
        }
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
