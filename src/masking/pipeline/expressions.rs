//! Columns that Postgres computes once a table is loaded: a rewrite, so that no row is left in two versions.
//!
//! What inherits a column, as partitions do, is rewritten with what it inherits from. An expression over what it has computed itself would compute
//! something else, so that no table is rewritten twice, however often an import is cut off.

use super::record::Record;
use super::rows::objection;
use crate::masking::MaskingError;
use crate::masking::catalog::{Table, literal, objects, quote};
use crate::masking::plan::{DatabasePlan, TablePlan, expressions};
use crate::sources::Connection;
use serde::Deserialize;

/// How the expressions of one table are computed.
pub(super) struct Rewrite {
    /// `None` where a parent's does it.
    pub statement: Option<String>,
    /// What gives columns back what the rewrite has taken.
    storages: Vec<String>,
}

impl Rewrite {
    pub(super) async fn of(
        plan: &DatabasePlan,
        table_plan: &TablePlan,
        fresh: &mut Connection,
    ) -> Result<Rewrite, MaskingError> {
        let table = plan.table(table_plan);
        let (mut actions, mut storages) = (Vec::new(), Vec::new());
        for (name, sql) in expressions(table_plan) {
            let Some(column) = table.columns.iter().find(|column| quote(&column.name) == name) else { continue };
            let definition = Definition::read(table, &column.name, fresh).await?;
            storages.extend(definition.storage(table, &name));
            let has_it = |parent: &Table| parent.columns.iter().any(|above| above.name == column.name);
            if !table.parents.iter().filter_map(|oid| plan.catalog.table(*oid)).any(has_it) {
                let collation = definition.collation.unwrap_or_default();
                actions.push(format!("ALTER COLUMN {name} TYPE {} {collation} USING ({sql})", column.written));
            }
        }
        let statement = format!("ALTER TABLE {} {}", table.quoted(), actions.join(", "));
        Ok(Rewrite { statement: (!actions.is_empty()).then_some(statement), storages })
    }
}

/// Computes those of all tables, of each once.
pub(super) async fn compute(plan: &DatabasePlan, record: &Record, fresh: &mut Connection) -> Result<(), MaskingError> {
    let database = &plan.catalog.name;
    let mut rewrites = Vec::new();
    // All are looked at before one is changed: a rewrite reaches those below.
    for table_plan in &plan.tables {
        rewrites.push((plan.table(table_plan), Rewrite::of(plan, table_plan, fresh).await?));
    }
    for (table, rewrite) in &rewrites {
        let Some(statement) = &rewrite.statement else { continue };
        let step = format!("expressions of {}", table.quoted());
        if record.has(database, &step, fresh).await? {
            continue;
        }
        fresh.query("BEGIN").await?;
        fresh.try_query(statement).await?.map_err(|message| MaskingError::Refused {
            database: database.clone(),
            table: table.full_name(),
            objection: format!("an expression: {}", objection(&message)),
        })?;
        // Those of all tables: which of them this one is inherited by does not matter, and who comes by here again reads them once more.
        for statement in rewrites.iter().flat_map(|(_, rewrite)| &rewrite.storages) {
            fresh.query(statement).await?;
        }
        record.commit(database, &step, fresh).await?;
    }
    Ok(())
}

/// What of a column a change of its type sets back to what its type has (`ATExecAlterColumnType` of tablecmds.c).
#[derive(Deserialize)]
struct Definition {
    /// `COLLATE …`
    collation: Option<String>,
    storage: Option<String>,
    compression: Option<String>,
}

impl Definition {
    async fn read(table: &Table, column: &str, fresh: &mut Connection) -> Result<Definition, MaskingError> {
        let statement = format!(
            "SELECT json_build_object(
                'collation', (SELECT format('COLLATE %I.%I', n.nspname, c.collname)
                    FROM pg_collation c JOIN pg_namespace n ON n.oid = c.collnamespace
                    WHERE c.oid = a.attcollation AND a.attcollation <> t.typcollation),
                'storage', CASE WHEN a.attstorage <> t.typstorage THEN CASE a.attstorage
                    WHEN 'p' THEN 'PLAIN' WHEN 'e' THEN 'EXTERNAL' WHEN 'm' THEN 'MAIN' ELSE 'EXTENDED' END END,
                'compression', CASE a.attcompression WHEN 'p' THEN 'pglz' WHEN 'l' THEN 'lz4' END)
             FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
             WHERE a.attrelid = {}::regclass AND a.attname = {}",
            literal(&table.quoted()),
            literal(column)
        );
        let found = objects(fresh, &statement).await?.into_iter().next();
        found.ok_or_else(|| MaskingError::Catalog { reason: format!("{} has lost a column", table.full_name()) })
    }

    /// The statement that gives it back, if that is needed.
    fn storage(&self, table: &Table, column: &str) -> Option<String> {
        let storage = self.storage.iter().map(|storage| format!("ALTER COLUMN {column} SET STORAGE {storage}"));
        let compression =
            self.compression.iter().map(|method| format!("ALTER COLUMN {column} SET COMPRESSION {method}"));
        let actions: Vec<String> = storage.chain(compression).collect();
        (!actions.is_empty()).then(|| format!("ALTER TABLE ONLY {} {}", table.quoted(), actions.join(", ")))
    }
}
