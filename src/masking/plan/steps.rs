//! From a table's plan to statements and steps: what is read, what is done to it, and what is written.
//!
//! Columns whose value does not depend on the row are read for a look only, and not where they are long; templates come after the siblings they are
//! made of.

use super::{ColumnPlan, DatabasePlan, TablePlan};
use crate::masking::catalog::{Table, quote};
use crate::masking::masks::{MaskSpec, Telling};
use crate::masking::row::{Masking, Part, Step, escaped};
use crate::masking::value::Transform;
use std::sync::Arc;

/// Bytes of a stored value, as it is stored, up to which it is read for a look: it is in its row, or in few pieces.
const LOOKED_AT: usize = 2000;

/// Pages of a table that is looked at and not copied.
const LOOKED_AT_PAGES: u64 = 4096;
/// Of one whose masks are tried.
const TRIED_PAGES: u64 = 64;
/// About as much of either is read at most.
const LOOKED_AT_BYTES: u64 = 256 << 20;
const TRIED_BYTES: u64 = 64 << 20;

/// How one table is copied.
pub(in crate::masking) struct Copying {
    /// Names of the columns that are written, in the order of the steps.
    pub columns: Vec<String>,
    pub steps: Arc<[Step]>,
    /// What is read, in the order of the steps that read.
    selected: Vec<Selected>,
    /// Columns that are read in another order than their rows, with the seed of that order.
    shuffled: Vec<(String, i64)>,
    from: String,
    condition: Option<String>,
    into: String,
}

/// A column that is read, as SQL names it.
enum Selected {
    Column(String),
    /// NULL where it is long.
    Short(String),
}

impl Selected {
    /// As an expression over the rows that are called `rows`, with a dot.
    fn sql(&self, rows: &str) -> String {
        match self {
            Selected::Column(name) => format!("{rows}{name}"),
            Selected::Short(name) => {
                format!("CASE WHEN pg_column_size({rows}{name}) <= {LOOKED_AT} THEN {rows}{name} END")
            }
        }
    }
}

impl Copying {
    /// `seed` is for shuffling.
    pub(in crate::masking) fn of(
        plan: &DatabasePlan,
        table_plan: &TablePlan,
        mut seed: impl FnMut(&str) -> i64,
    ) -> Copying {
        let table = plan.table(table_plan);
        let into = table_plan.through.and_then(|oid| plan.catalog.table(oid)).unwrap_or(table);
        let templates: Vec<&ColumnPlan> =
            table_plan.columns.iter().filter(|column| template(column).is_some()).collect();
        let mut siblings: Vec<&str> = Vec::new();
        for column in &templates {
            for name in sibling_names(template(column).unwrap_or_default()) {
                if !siblings.contains(&name) {
                    siblings.push(name);
                }
            }
        }
        let (mut columns, mut steps, mut selected, mut shuffled) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for column in &table_plan.columns {
            let name = &column.column.name;
            let remember = siblings.iter().position(|sibling| sibling == name);
            let step = match (column.spec(), &column.transform) {
                (Some(MaskSpec::Template { .. } | MaskSpec::Default | MaskSpec::Expression { .. }), _) => continue,
                (Some(MaskSpec::Null), _) => Step::Emit(escaped(None)),
                (Some(MaskSpec::Shuffle), _) => {
                    let domain = column.mask().map_or("", |mask| &mask.domain);
                    shuffled.push((quote(name), seed(domain)));
                    Step::Copy
                }
                (_, Some(Transform::Keep)) if remember.is_none() => Step::Copy,
                (_, Some(transform)) => Step::Mask(Masking { transform: transform.clone(), remember }),
                (_, None) => continue,
            };
            if !matches!(step, Step::Emit(_)) {
                selected.push(Selected::Column(quote(name)));
            }
            columns.push(quote(name));
            steps.push(step);
        }
        for column in templates {
            let text = template(column).unwrap_or_default();
            let Some(sample) = column.sample.clone() else { continue };
            columns.push(quote(&column.column.name));
            selected.push(Selected::Column(quote(&column.column.name)));
            steps.push(Step::Template(parts(text, &siblings), sample));
        }
        for column in &table_plan.columns {
            let telling = match (column.spec(), &column.sample) {
                (Some(MaskSpec::Null), Some(sample)) if sample.kind.is_some() => Telling::Surely,
                (Some(MaskSpec::Default | MaskSpec::Expression { .. }), Some(sample)) if sample.kind.is_some() => {
                    Telling::Perhaps
                }
                _ => continue,
            };
            selected.push(Selected::Short(quote(&column.column.name)));
            steps.extend(column.sample.clone().map(|sample| Step::Look(sample, telling)));
        }
        let condition = [table_plan.filter.clone(), table.extension_condition.clone().map(without_where)];
        let condition: Vec<String> = condition
            .into_iter()
            .flatten()
            .filter(|text| !text.trim().is_empty())
            .map(|text| format!("({text})"))
            .collect();
        Copying {
            columns,
            steps: steps.into(),
            selected,
            shuffled,
            from: table.quoted(),
            condition: (!condition.is_empty()).then(|| condition.join(" AND ")),
            into: into.quoted(),
        }
    }

    /// Whether its rows can be read in parts, by where they lie.
    pub(in crate::masking) fn is_divisible(&self) -> bool {
        self.shuffled.is_empty()
    }

    /// `COPY … TO STDOUT` of the raw rows; of the pages from `from` on, to before `to`, if that is asked for.
    pub(in crate::masking) fn read(&self, from: Option<u64>, to: Option<u64>) -> String {
        let mut conditions: Vec<String> = self.condition.clone().into_iter().collect();
        conditions.extend(from.map(|page| format!("ctid >= '({page},0)'")));
        conditions.extend(to.map(|page| format!("ctid < '({page},0)'")));
        let filter = if conditions.is_empty() { String::new() } else { format!(" WHERE {}", conditions.join(" AND ")) };
        let from = format!("ONLY {}{filter}", self.from);
        if self.shuffled.is_empty() {
            return format!("COPY (SELECT {} FROM {from}) TO STDOUT", self.selected(""));
        }
        // Row numbers of two orders are joined: that of the rows as they come, and one by a keyed hash of where they lie.
        let shuffled = |column: &String| self.shuffled.iter().position(|(name, _)| name == column);
        let selected = self.selected.iter().map(|selected| match selected {
            Selected::Column(column) if shuffled(column).is_some() => {
                format!("s{}.{column}", shuffled(column).unwrap_or_default())
            }
            other => other.sql("t."),
        });
        let joins = self.shuffled.iter().enumerate().map(|(number, (column, seed))| {
            format!(
                " JOIN (SELECT {column}, row_number() OVER (ORDER BY hashtextextended(ctid::text, {seed})) AS offshoot_place \
                 FROM {from}) s{number} USING (offshoot_place)"
            )
        });
        format!(
            "COPY (SELECT {} FROM (SELECT *, row_number() OVER () AS offshoot_place FROM {from}) t{}) TO STDOUT",
            selected.collect::<Vec<_>>().join(", "),
            joins.collect::<String>(),
        )
    }

    /// The table that rows are written to, as SQL names it.
    pub(in crate::masking) fn target(&self) -> &str {
        &self.into
    }

    /// `COPY … TO STDOUT` of some of the raw rows, of pages from everywhere: of all of these or the first so many, and fewer where rows are large.
    pub(in crate::masking) fn look(&self, table: &Table, rows: Option<usize>) -> String {
        let pages = table.pages.max(1);
        // What is stored out of line counts. How many rows there were when the table was last analyzed may be long ago, if it ever was: a page has one.
        let known_rows = (table.rows.max(0.0) as u64).max(pages);
        let bytes_a_row = (table.bytes / known_rows).max(1);
        let (wanted, most) = match rows {
            Some(rows) => (TRIED_PAGES, (TRIED_BYTES / bytes_a_row).min(rows as u64)),
            None => (LOOKED_AT_PAGES, LOOKED_AT_BYTES / bytes_a_row),
        };
        let limit = format!(" LIMIT {}", most.max(1));
        let percent = (100.0 * wanted as f64 / pages as f64).min(100.0);
        let filter = self.condition.as_ref().map(|condition| format!(" WHERE {condition}")).unwrap_or_default();
        format!(
            "COPY (SELECT {} FROM ONLY {} TABLESAMPLE SYSTEM ({percent}) REPEATABLE (0){filter}{limit}) TO STDOUT",
            self.selected(""),
            self.from
        )
    }

    /// `COPY … FROM STDIN` of the masked rows.
    pub(in crate::masking) fn write(&self, is_frozen: bool) -> String {
        let columns = if self.columns.is_empty() { String::new() } else { format!(" ({})", self.columns.join(", ")) };
        let frozen = if is_frozen { " (FREEZE)" } else { "" };
        format!("COPY {}{columns} FROM STDIN{frozen}", self.into)
    }

    /// The first so many raw rows: of the columns as they are written, or only of those that masking reads.
    pub(in crate::masking) fn preview(&self, rows: usize, is_to_be_masked: bool) -> String {
        let columns = if is_to_be_masked { self.selected("") } else { self.columns.join(", ") };
        let filter = self.condition.as_ref().map(|condition| format!(" WHERE {condition}")).unwrap_or_default();
        format!("COPY (SELECT {columns} FROM ONLY {}{filter} ORDER BY ctid LIMIT {rows}) TO STDOUT", self.from)
    }

    fn selected(&self, rows: &str) -> String {
        self.selected.iter().map(|selected| selected.sql(rows)).collect::<Vec<_>>().join(", ")
    }
}

/// Columns that Postgres computes once the table is loaded: name and expression.
pub(in crate::masking) fn expressions(table: &TablePlan) -> Vec<(String, String)> {
    let expression = |column: &ColumnPlan| match column.spec() {
        Some(MaskSpec::Expression { sql }) => Some((quote(&column.column.name), sql.clone())),
        _ => None,
    };
    table.columns.iter().filter_map(expression).collect()
}

fn template(column: &ColumnPlan) -> Option<&str> {
    match column.spec() {
        Some(MaskSpec::Template { template }) => Some(template),
        _ => None,
    }
}

/// Names in braces.
pub(super) fn sibling_names(template: &str) -> Vec<&str> {
    template.split('{').skip(1).filter_map(|part| part.split_once('}')).map(|(name, _)| name).collect()
}

fn parts(template: &str, siblings: &[&str]) -> Vec<Part> {
    let (first, rest) = template.split_once('{').unwrap_or((template, ""));
    let mut parts = vec![Part::Text(first.to_owned())];
    for part in rest.split('{') {
        let Some((name, text)) = part.split_once('}') else { continue };
        let sibling = siblings.iter().position(|sibling| *sibling == name);
        parts.extend(sibling.map(Part::Sibling));
        parts.push(Part::Text(text.to_owned()));
    }
    parts.retain(|part| *part != Part::Text(String::new()));
    parts
}

/// An extension's condition begins with its keyword (`pg_extension_config_dump`).
fn without_where(condition: String) -> String {
    let trimmed = condition.trim();
    match trimmed.get(..5) {
        Some(keyword) if keyword.eq_ignore_ascii_case("where") => trimmed[5..].to_owned(),
        _ => trimmed.to_owned(),
    }
}
