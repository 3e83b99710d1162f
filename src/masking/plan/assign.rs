//! Which rule a column has.
//!
//! Its own, where its table lists it; else that of the column it must equal: the parent's of a partition or an inheriting table, the key's of a
//! foreign key; else the first pattern that fits; else what the file says of unlisted columns. A rule that contradicts one it must equal is
//! a problem, wherever it came from: a join would find nothing, or what was masked here would stand there in clear.

use super::{Origin, Problems};
use crate::masking::catalog::{Column, DatabaseCatalog, Oid, Table};
use crate::masking::masks::MaskSpec;
use crate::masking::rules::{ColumnRule, Mask, Rows, Rules, Unlisted};
use std::collections::HashMap;

/// A column of a database: its table and number.
pub(super) type Place = (Oid, i16);

/// Rules with why they are, by column.
pub(super) type Assigned = HashMap<Place, (ColumnRule, Origin)>;

/// One column must have another's rule.
struct Tie {
    from: Place,
    to: Place,
    origin: Origin,
}

/// Finds the rule of every column that is not generated. Columns without one are among the problems.
pub(super) fn assign(catalog: &DatabaseCatalog, rules: &Rules, problems: &mut Problems) -> Assigned {
    check_names(catalog, rules, problems);
    let ties = ties(catalog);
    let mut assigned = listed(catalog, rules);
    spread(&mut assigned, &ties);
    by_pattern(catalog, rules, &mut assigned);
    spread(&mut assigned, &ties);
    for (table, column) in columns(catalog) {
        if rules.unlisted(&catalog.name, &table.full_name()) == Unlisted::Keep {
            let keep = Mask { domain: "keep".to_owned(), spec: MaskSpec::Keep };
            assigned.entry((table.oid, column.number)).or_insert((ColumnRule::Mask(keep), Origin::Unlisted));
        }
    }
    spread(&mut assigned, &ties);
    for (table, column) in columns(catalog) {
        let (rows, _) = rows_of(catalog, rules, table);
        if rows == Rows::All && !assigned.contains_key(&(table.oid, column.number)) {
            problems.of_column(table, column, "no rule is for it; list it, if only as \"keep\"");
        }
    }
    check_ties(catalog, &assigned, &ties, problems);
    assigned
}

/// Columns that rules are for.
fn columns(catalog: &DatabaseCatalog) -> impl Iterator<Item = (&Table, &Column)> {
    let tables = catalog.tables.iter();
    let all = tables.flat_map(|table| table.columns.iter().map(move |column| (table, column)));
    all.filter(|(_, column)| !column.is_generated)
}

/// Which rows of a table come along, and the condition on them: what the file says of it, each for itself else of the table that it is part of.
pub(super) fn rows_of(catalog: &DatabaseCatalog, rules: &Rules, table: &Table) -> (Rows, Option<String>) {
    let own = rules.table(&catalog.name, &table.full_name());
    let above = table.parents.first().filter(|_| table.is_partition).and_then(|oid| catalog.table(*oid));
    let (rows, filter) = above.map(|above| rows_of(catalog, rules, above)).unwrap_or_default();
    (own.and_then(|own| own.rows).unwrap_or(rows), own.and_then(|own| own.filter.clone()).or(filter))
}

fn listed(catalog: &DatabaseCatalog, rules: &Rules) -> Assigned {
    let mut assigned = Assigned::new();
    for (table, column) in columns(catalog) {
        let own = rules.table(&catalog.name, &table.full_name()).and_then(|own| own.columns.get(&column.name));
        if let Some(rule) = own {
            assigned.insert((table.oid, column.number), (rule.clone(), Origin::Listed));
        }
    }
    assigned
}

fn by_pattern(catalog: &DatabaseCatalog, rules: &Rules, assigned: &mut Assigned) {
    for (table, column) in columns(catalog) {
        let type_name = unqualified(&column.written);
        let found = rules.pattern(&catalog.name, &table.full_name(), &column.name, type_name);
        if let Some((number, rule)) = found {
            assigned.entry((table.oid, column.number)).or_insert_with(|| (rule.clone(), Origin::Pattern(number)));
        }
    }
}

/// The name of a type as patterns name it: without modifier, and without the schema that `format_type` puts before an extension's.
fn unqualified(written: &str) -> &str {
    let name = written.split('(').next().unwrap_or_default().trim_end();
    name.rsplit_once('.').map_or(name, |(_, name)| name)
}

/// Every pair of columns that must agree. Parents first: what a partition is ruled by is its table.
fn ties(catalog: &DatabaseCatalog) -> Vec<Tie> {
    let mut ties = Vec::new();
    for table in &catalog.tables {
        for parent in table.parents.iter().filter_map(|oid| catalog.table(*oid)) {
            for column in table.columns.iter() {
                let above = parent.columns.iter().find(|above| above.name == column.name);
                ties.extend(above.map(|above| Tie {
                    from: (table.oid, column.number),
                    to: (parent.oid, above.number),
                    origin: Origin::Parent(parent.full_name()),
                }));
            }
        }
    }
    for table in &catalog.tables {
        for key in &table.foreign_keys {
            for (from, to) in key.columns.iter().zip(&key.referenced_columns) {
                let Some(referenced) = catalog.table(key.references) else { continue };
                let column = referenced.column(*to).map_or("", |column| &column.name);
                ties.push(Tie {
                    from: (table.oid, *from),
                    to: (referenced.oid, *to),
                    origin: Origin::ForeignKey(format!("{}.{column}", referenced.full_name())),
                });
            }
        }
    }
    ties
}

/// Gives rules on along ties until nothing changes. Each round gives at least one column its rule, so it ends.
fn spread(assigned: &mut Assigned, ties: &[Tie]) {
    loop {
        let mut has_changed = false;
        for tie in ties {
            let Some((rule, _)) = assigned.get(&tie.to) else { continue };
            // A template or an expression is of its own table's columns. What is part of a table has them all.
            let is_elsewhere = rule.is_of_its_table() && matches!(tie.origin, Origin::ForeignKey(_));
            if is_elsewhere || assigned.contains_key(&tie.from) {
                continue;
            }
            let given = (rule.clone(), tie.origin.clone());
            assigned.insert(tie.from, given);
            has_changed = true;
        }
        if !has_changed {
            return;
        }
    }
}

fn check_ties(catalog: &DatabaseCatalog, assigned: &Assigned, ties: &[Tie], problems: &mut Problems) {
    for tie in ties {
        let Some(table) = catalog.table(tie.from.0) else { continue };
        let Some(column) = table.column(tie.from.1).filter(|column| !column.is_generated) else { continue };
        let (Some((rule, _)), Some((wanted, _))) = (assigned.get(&tie.from), assigned.get(&tie.to)) else { continue };
        // A reference to nothing refers to no key.
        let is_null = matches!(rule, ColumnRule::Mask(Mask { spec: MaskSpec::Null, .. }));
        if rule == wanted || is_null {
            continue;
        }
        let what = match &tie.origin {
            Origin::ForeignKey(key) => format!(
                "its rule ({}) contradicts that of the key it refers to, {key} ({}); leave it out to inherit that",
                rule.describe(),
                wanted.describe()
            ),
            other => format!(
                "its rule ({}) contradicts the one it has {other} ({}); leave it out to inherit that",
                rule.describe(),
                wanted.describe()
            ),
        };
        problems.of_column(table, column, what);
    }
}

/// Rules for what is not there are typing errors, or the source has changed.
fn check_names(catalog: &DatabaseCatalog, rules: &Rules, problems: &mut Problems) {
    let Some(own) = rules.databases.get(&catalog.name) else { return };
    for (name, table_rules) in &own.tables {
        let Some(table) = catalog.tables.iter().find(|table| table.full_name() == *name) else {
            let known = catalog.tables.iter().map(Table::full_name);
            problems.add(name.clone(), format!("there are rules for it, and no such table{}", nearest(name, known)));
            continue;
        };
        for column_name in table_rules.columns.keys() {
            match table.columns.iter().find(|column| column.name == *column_name) {
                None => {
                    let known = table.columns.iter().map(|column| column.name.clone());
                    let what = format!("there is a rule for it, and no such column{}", nearest(column_name, known));
                    problems.add(format!("{name}.{column_name}"), what);
                }
                Some(column) if column.is_generated => {
                    problems.of_column(table, column, "it is computed from other columns, and takes no rule");
                }
                Some(_) => {}
            }
        }
    }
}

/// The most similar name, to be added to a sentence.
fn nearest(name: &str, known: impl Iterator<Item = String>) -> String {
    let nearest = known.min_by_key(|known| strsim::damerau_levenshtein(name, known));
    nearest.map(|nearest| format!("; did you mean {nearest}?")).unwrap_or_default()
}
