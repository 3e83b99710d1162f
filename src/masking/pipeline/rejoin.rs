//! Raw rows joined with what became of them, by key: an independent look at the result, through Postgres on both sides.
//!
//! Some rows of each table with a key are read again, in the source's snapshot, masked once more here, and looked up in the masked database by their
//! masked keys. A column that is kept, or whose type prints what it is given, must be what its mask makes of the raw value; no masked value of
//! any type may be a raw one where its mask promises change.

use crate::masking::MaskingError;
use crate::masking::catalog::{Table, field, literal, quote};
use crate::masking::plan::{ColumnPlan, DatabasePlan, TablePlan};
use crate::masking::rules::Rows;
use crate::masking::value::{Became, Transform};
use crate::sources::{Connection, ImportError, Row};
use std::collections::HashMap;

/// Beginnings of the names of types that print what they are given (`format_type`).
const PLAIN: [&str; 7] = ["text", "character", "smallint", "integer", "bigint", "uuid", "bytea"];
/// Rows of each table that are looked at.
const ROWS: u64 = 200;
/// Rows with a stored value of more bytes are not read again: it may be a hundred times as long once it is printed.
const LONGEST: usize = 1900;

/// Compares, and returns how many rows were. A difference is an error.
pub(super) async fn rejoin(
    plan: &DatabasePlan,
    source: &mut Connection,
    fresh: &mut Connection,
) -> Result<u64, MaskingError> {
    let mut joined = 0;
    for table_plan in plan.tables.iter().filter(|table| table.rows == Rows::All) {
        let table = plan.table(table_plan);
        if table.is_partitioned || table.extension_condition.is_some() {
            continue;
        }
        if let Some(join) = Join::of(plan, table, table_plan) {
            joined += join.run(source, fresh).await?;
        }
    }
    Ok(joined)
}

struct Join<'a> {
    database: &'a str,
    table: &'a Table,
    /// Where its rows are found: for a row that may have moved to another partition the whole table.
    from: String,
    filter: Option<&'a str>,
    columns: Vec<&'a ColumnPlan>,
    /// Places in `columns`.
    key: Vec<usize>,
}

impl<'a> Join<'a> {
    /// `None` where no unique index consists of columns whose masks are known for each value.
    fn of(plan: &'a DatabasePlan, table: &'a Table, table_plan: &'a TablePlan) -> Option<Join<'a>> {
        let columns: Vec<&ColumnPlan> = table_plan.columns.iter().filter(|column| column.transform.is_some()).collect();
        let place = |number: &i16| columns.iter().position(|column| column.column.number == *number);
        let usable = table.indexes.iter().filter(|index| {
            index.is_unique
                && !index.has_expressions
                && !index.is_partial
                && !index.is_exclusion
                && !index.columns.is_empty()
        });
        let is_telling = |at: &usize| {
            let column: &ColumnPlan = columns[*at];
            column.is_compared_as_text() && column.transform.as_ref().is_some_and(Transform::is_unique)
        };
        let key = usable.filter_map(|index| index.columns.iter().map(place).collect::<Option<Vec<usize>>>());
        let key = key.filter(|key| key.iter().all(is_telling)).min_by_key(Vec::len)?;
        let from = match table_plan.through.and_then(|oid| plan.catalog.table(oid)) {
            Some(root) => root.quoted(),
            None => format!("ONLY {}", table.quoted()),
        };
        let filter = table_plan.filter.as_deref();
        Some(Join { database: &plan.catalog.name, table, from, filter, columns, key })
    }

    async fn run(&self, source: &mut Connection, fresh: &mut Connection) -> Result<u64, MaskingError> {
        let list: Vec<String> = self.columns.iter().map(|column| quote(&column.column.name)).collect();
        let mut read = format!("SELECT {} FROM ONLY {}", list.join(", "), self.table.quoted());
        let short = list.iter().map(|column| format!("coalesce(pg_column_size({column}), 0) <= {LONGEST}"));
        let filter = self.filter.map(|filter| format!("({filter})"));
        read += &format!(" WHERE {}", filter.into_iter().chain(short).collect::<Vec<_>>().join(" AND "));
        let raw = source.query(&format!("{read} LIMIT {ROWS}")).await.map_err(|e| self.refused(e))?;
        let mut expected: HashMap<Vec<String>, (Row, Row)> = HashMap::new();
        for row in raw {
            let masked = self.mask(&row)?;
            let key: Option<Vec<String>> = self.key.iter().map(|at| masked[*at].clone()).collect();
            // As it is looked up below. A unique index may hold NULLs, and such rows are not found by it.
            let trimmed = |key: Vec<String>| key.iter().map(|part| part.trim_end_matches(' ').to_owned()).collect();
            expected.extend(key.map(|key| (trimmed(key), (row, masked))));
        }
        if expected.is_empty() {
            return Ok(0);
        }
        let keys: Vec<String> = self.key.iter().map(|at| list[*at].clone()).collect();
        let tuple =
            |key: &Vec<String>| format!("({})", key.iter().map(|part| literal(part)).collect::<Vec<_>>().join(", "));
        let tuples: Vec<String> = expected.keys().map(tuple).collect();
        let find = format!(
            "SELECT {} FROM {} WHERE ({}) IN ({})",
            list.join(", "),
            self.from,
            keys.join(", "),
            tuples.join(", ")
        );
        let found = fresh.query(&find).await.map_err(|e| self.refused(e))?;
        for row in &found {
            let key: Vec<String> =
                self.key.iter().map(|at| field(Some(row), *at).trim_end_matches(' ').to_owned()).collect();
            let (raw, masked) = expected.remove(&key).ok_or_else(|| self.differs("a key"))?;
            self.compare(&raw, &masked, row)?;
        }
        match expected.is_empty() {
            true => Ok(found.len() as u64),
            false => Err(self.differs("a row that is missing")),
        }
    }

    fn mask(&self, raw: &Row) -> Result<Row, MaskingError> {
        let value = |(value, column): (&Option<String>, &&ColumnPlan)| {
            let (Some(value), Some(transform)) = (value, &column.transform) else { return Ok(None) };
            let mut masked = String::new();
            let became = transform.apply(value, &mut masked).map_err(|e| MaskingError::Value {
                database: self.database.to_owned(),
                table: self.table.full_name(),
                column: column.column.name.clone(),
                row: 0,
                reason: e.to_string(),
            })?;
            Ok((became == Became::Text).then_some(masked))
        };
        raw.iter().zip(&self.columns).map(value).collect()
    }

    fn compare(&self, raw: &Row, expected: &Row, found: &Row) -> Result<(), MaskingError> {
        for (at, column) in self.columns.iter().enumerate() {
            let name = &column.column.name;
            let trim = |value: &Option<String>| value.as_ref().map(|value| value.trim_end_matches(' ').to_owned());
            if column.is_compared_as_text() && trim(&expected[at]) != trim(&found[at]) {
                return Err(self.differs(name));
            }
            let promises = column.transform.as_ref().is_some_and(Transform::always_changes);
            let is_there = found[at].as_ref().is_some_and(|value| !value.trim().is_empty() && value != "\\x");
            if promises && is_there && trim(&raw[at]) == trim(&found[at]) {
                return Err(self.differs(&format!("{name}, which is the raw value")));
            }
        }
        Ok(())
    }

    /// What a server says of a statement with values in it may hold one.
    fn refused(&self, error: ImportError) -> MaskingError {
        match error {
            ImportError::Server { sqlstate, .. } => {
                let (database, table) = (self.database.to_owned(), self.table.full_name());
                MaskingError::SourceRefused { database, table, sqlstate }
            }
            other => other.into(),
        }
    }

    fn differs(&self, what: &str) -> MaskingError {
        let findings =
            vec![format!("{}.{}: rows joined by their keys differ in {what}", self.database, self.table.full_name())];
        MaskingError::Findings { findings }
    }
}

impl ColumnPlan {
    /// What it was given is what it prints: not so of masked numbers with a scale, times, networks and documents.
    fn is_compared_as_text(&self) -> bool {
        let is_plain = PLAIN.iter().any(|plain| self.column.written.starts_with(plain));
        match &self.transform {
            Some(Transform::Keep) => true,
            Some(Transform::Replace(replacement)) => replacement.with.is_none(),
            Some(Transform::Mask(_)) => is_plain,
            _ => false,
        }
    }
}
