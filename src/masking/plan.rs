//! The plan: what becomes of every column of a database, decided and checked before the first row moves.
//!
//! ```text
//!  catalog ─┐                     ┌─ problems: what is not covered, contradicts itself or does not fit
//!           ├─ assign ── fitness ─┤
//!  rules ───┘                     └─ tables, each with its columns in the order in which they are copied
//! ```
//!
//! A plan with problems is never carried out.

mod assign;
mod fitness;
mod steps;

pub(super) use fitness::repertoire;
pub(super) use steps::{Copying, expressions};

use super::catalog::{Column, DatabaseCatalog, Oid, Sequence, Table};
use super::masks::MaskSpec;
use super::rules::{ColumnRule, Mask, Rows, Rules};
use super::sample::Sample;
use super::value::{Keys, Transform};
use std::fmt;
use std::sync::Arc;

/// What becomes of one database.
pub(super) struct DatabasePlan {
    pub catalog: DatabaseCatalog,
    /// Every table, also those whose rows do not come along.
    pub tables: Vec<TablePlan>,
}

/// What becomes of one table.
pub(super) struct TablePlan {
    pub oid: Oid,
    pub rows: Rows,
    /// SQL over the raw rows.
    pub filter: Option<String>,
    pub columns: Vec<ColumnPlan>,
    /// A masked column is part of the partition key, so a row may belong elsewhere than it was: it is loaded through this table.
    pub through: Option<Oid>,
}

/// What becomes of one column.
#[derive(Clone)]
pub(super) struct ColumnPlan {
    pub column: Column,
    pub rule: ColumnRule,
    pub origin: Origin,
    /// `None` for what is not done to values one by one: `default`, `template`, `shuffle`, `expression`.
    pub transform: Option<Transform>,
    /// Of raw values that nothing comes along of.
    pub sample: Option<Arc<Sample>>,
}

/// Why a column has its rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// The table lists it.
    Listed,
    /// It is a column of this table, which it inherits from or is a partition of.
    Parent(String),
    /// It refers to this key.
    ForeignKey(String),
    /// `[[pattern]]` number so many.
    Pattern(usize),
    /// No rule is for it, and that may be.
    Unlisted,
}

/// Why a plan cannot be carried out. It names tables and columns, never a value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Problem {
    pub database: String,
    /// `schema.table`, `schema.table.column`, or another object.
    pub object: String,
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.database, self.object, self.what)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Listed => f.write_str("listed"),
            Origin::Parent(table) => write!(f, "as in {table}"),
            Origin::ForeignKey(key) => write!(f, "refers to {key}"),
            Origin::Pattern(number) => write!(f, "pattern {number}"),
            Origin::Unlisted => f.write_str("unlisted"),
        }
    }
}

impl DatabasePlan {
    /// Decides for every column of `catalog`. The plan is complete but for the columns that the problems name.
    pub(super) fn new(catalog: DatabaseCatalog, rules: &Rules, keys: &mut Keys) -> (DatabasePlan, Vec<Problem>) {
        let mut problems = Problems { database: catalog.name.clone(), found: Vec::new() };
        let assigned = assign::assign(&catalog, rules, &mut problems);
        let mut tables = Vec::with_capacity(catalog.tables.len());
        for table in &catalog.tables {
            let (rows, filter) = assign::rows_of(&catalog, rules, table);
            let mut columns = Vec::new();
            for column in table.columns.iter().filter(|column| !column.is_generated) {
                let Some((rule, origin)) = assigned.get(&(table.oid, column.number)) else { continue };
                keys.column = format!("{}.{}.{}", catalog.name, table.full_name(), column.name);
                keys.is_reference = table.foreign_keys.iter().any(|key| key.columns.contains(&column.number));
                let transform = if is_done_by_value(rule) {
                    let of_type = (column.type_oid, column.modifier);
                    match Transform::compile(rule, of_type, &catalog, keys) {
                        Ok(transform) => Some(transform),
                        Err(what) => {
                            problems.of_column(table, column, what);
                            continue;
                        }
                    }
                } else {
                    None
                };
                let (ty, _) = catalog.base_type(column.type_oid, column.modifier);
                let sample = match (&transform, rule) {
                    (Some(Transform::Replace(replacement)), _) => Some(replacement.sample.clone()),
                    (None, rule) if is_left_behind(rule) => Some(keys.sample_of_left_behind(ty)),
                    _ => None,
                };
                let (column, rule, origin) = (column.clone(), rule.clone(), origin.clone());
                columns.push(ColumnPlan { column, rule, origin, transform, sample });
            }
            tables.push(TablePlan { oid: table.oid, rows, filter, columns, through: None });
        }
        let mut plan = DatabasePlan { catalog, tables };
        plan.route_partitions();
        fitness::check(&plan, rules, &mut problems);
        (plan, problems.found)
    }

    pub(super) fn table(&self, plan: &TablePlan) -> &Table {
        self.catalog.table(plan.oid).expect("a plan's tables are those of its catalog")
    }

    /// The end of the range that the column which `sequence` numbers is permuted in.
    pub(super) fn permuted_to(&self, sequence: &Sequence) -> Option<i64> {
        let (oid, number) = sequence.owner?;
        let table = self.tables.iter().find(|table| table.oid == oid)?;
        let column = table.columns.iter().find(|column| column.column.number == number)?;
        match column.spec()? {
            MaskSpec::Int { max, .. } => Some(*max),
            _ => None,
        }
    }

    /// Has rows of partitions loaded through the topmost table whose partition key is masked.
    fn route_partitions(&mut self) {
        let masked_key = |oid: Oid| {
            let table = self.catalog.table(oid)?;
            let plan = self.tables.iter().find(|plan| plan.oid == oid)?;
            let changes = |number: &i16| {
                plan.columns.iter().any(|column| column.column.number == *number && !column.rule.is_keep())
            };
            table.partition_key.iter().any(changes).then_some(oid)
        };
        let mut routes = Vec::new();
        for table in self.catalog.tables.iter().filter(|table| table.is_partition) {
            let mut through = None;
            let mut at = table;
            while let Some(parent) = at.parents.first().and_then(|oid| self.catalog.table(*oid)) {
                through = masked_key(parent.oid).or(through);
                at = parent;
            }
            routes.extend(through.map(|through| (table.oid, through)));
        }
        for (partition, through) in routes {
            for plan in self.tables.iter_mut().filter(|plan| plan.oid == partition) {
                plan.through = Some(through);
            }
        }
    }
}

impl ColumnPlan {
    /// The mask, where the rule is one for the whole column.
    pub(super) fn mask(&self) -> Option<&Mask> {
        match &self.rule {
            ColumnRule::Mask(mask) => Some(mask),
            _ => None,
        }
    }

    pub(super) fn spec(&self) -> Option<&MaskSpec> {
        self.mask().map(|mask| &mask.spec)
    }
}

/// Whether a rule makes something of a column that has nothing to do with its values.
fn is_left_behind(rule: &ColumnRule) -> bool {
    let ColumnRule::Mask(mask) = rule else { return false };
    matches!(mask.spec, MaskSpec::Default | MaskSpec::Template { .. } | MaskSpec::Expression { .. })
}

/// Whether a rule says what becomes of one value without knowing any other.
fn is_done_by_value(rule: &ColumnRule) -> bool {
    let ColumnRule::Mask(mask) = rule else { return true };
    !matches!(
        mask.spec,
        MaskSpec::Default | MaskSpec::Template { .. } | MaskSpec::Shuffle | MaskSpec::Expression { .. }
    )
}

/// Problems of one database as they are found.
struct Problems {
    database: String,
    found: Vec<Problem>,
}

impl Problems {
    fn add(&mut self, object: impl Into<String>, what: impl Into<String>) {
        let problem = Problem { database: self.database.clone(), object: object.into(), what: what.into() };
        if !self.found.contains(&problem) {
            self.found.push(problem);
        }
    }

    fn of_column(&mut self, table: &Table, column: &Column, what: impl Into<String>) {
        self.add(format!("{}.{}", table.full_name(), column.name), what);
    }
}

#[cfg(test)]
mod tests;
