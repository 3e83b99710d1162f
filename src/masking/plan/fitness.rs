//! Whether the masks fit where they are put: types took part already ([`Transform::compile`](crate::masking::value::Transform::compile)), here it is lengths, NOT NULL,
//! what must stay unique, encodings, and what tables refer to each other for. What only an evaluation can tell, check constraints and domains, Postgres
//! tells, which takes every row and builds every index over what was loaded.

use super::steps::sibling_names;
use super::{ColumnPlan, DatabasePlan, Problems, TablePlan};
use crate::masking::catalog::{Index, Table};
use crate::masking::masks::MaskSpec;
use crate::masking::rules::{LargeObjects, Rows, Rules};

/// Types whose modifier bounds their length, with 4 added to it (`VARHDRSZ` of varchar.c).
const BOUNDED: [&str; 2] = ["varchar", "bpchar"];

pub(super) fn check(plan: &DatabasePlan, rules: &Rules, problems: &mut Problems) {
    if plan.catalog.large_objects > 0 && rules.large_objects == LargeObjects::Deny {
        let what = format!("there are {}; say large_objects = \"drop\" or \"keep\"", plan.catalog.large_objects);
        problems.add("large objects", what);
    }
    check_sequences(plan, problems);
    for table_plan in plan.tables.iter().filter(|table| table.rows == Rows::All) {
        let table = plan.table(table_plan);
        for column in &table_plan.columns {
            check_column(plan, table, table_plan, column, problems);
        }
        check_uniqueness(table, table_plan, problems);
        check_references(plan, table, problems);
    }
}

/// A permutation may use its whole range, and new rows come after it.
fn check_sequences(plan: &DatabasePlan, problems: &mut Problems) {
    for sequence in &plan.catalog.sequences {
        if let Some(max) = plan.permuted_to(sequence).filter(|max| *max >= sequence.maximum) {
            let name = format!("{}.{}", sequence.schema, sequence.name);
            let what = format!(
                "the mask int of the column that it numbers goes up to {max}, and it to {}: no new row could be inserted; give the mask a \
                 smaller max",
                sequence.maximum
            );
            problems.add(name, what);
        }
    }
}

fn check_column(plan: &DatabasePlan, table: &Table, of: &TablePlan, column: &ColumnPlan, problems: &mut Problems) {
    match column.spec() {
        Some(MaskSpec::Null) if column.column.not_null => {
            problems.of_column(table, &column.column, "null is for a column that is NOT NULL")
        }
        Some(MaskSpec::Default)
            if column.column.not_null && !column.column.has_default && !column.column.is_identity =>
        {
            problems.of_column(table, &column.column, "it has no default, and is NOT NULL");
        }
        Some(MaskSpec::Template { template }) => check_template(table, of, column, template, problems),
        Some(MaskSpec::Shuffle) if is_in_foreign_key(plan, table, column) => {
            problems.of_column(table, &column.column, "shuffle is for a column that foreign keys depend on");
        }
        Some(MaskSpec::Expression { .. }) if column.column.not_null && !column.column.has_default => {
            problems.of_column(
                table,
                &column.column,
                "an expression is computed after the table is loaded, and the column is NOT NULL without a default",
            );
        }
        _ => {}
    }
    let Some(transform) = &column.transform else { return };
    let (ty, modifier) = plan.catalog.base_type(column.column.type_oid, column.column.modifier);
    let bound = ty.filter(|ty| BOUNDED.contains(&ty.name.as_str()) && modifier > 4).map(|_| (modifier - 4) as usize);
    if let (Some(bound), Some(longest)) = (bound, transform.longest())
        && longest > bound
    {
        let what = format!(
            "the mask's longest output has {longest} characters, and the column takes {bound}; choose a shorter one"
        );
        problems.of_column(table, &column.column, what);
    }
    if transform.widest() > repertoire(&plan.catalog.encoding) {
        let what = format!(
            "the mask writes characters that the database's encoding, {}, may lack; use locale = \"en\"",
            plan.catalog.encoding
        );
        problems.of_column(table, &column.column, what);
    }
}

/// The last of the characters of which an encoding surely has all.
pub(in crate::masking) fn repertoire(encoding: &str) -> char {
    match encoding {
        "UTF8" | "SQL_ASCII" => char::MAX,
        "LATIN1" => '\u{ff}',
        // What it has instead of the control characters lies above.
        _ => '\u{7f}',
    }
}

fn check_template(table: &Table, of: &TablePlan, column: &ColumnPlan, template: &str, problems: &mut Problems) {
    for name in sibling_names(template) {
        let sibling = of.columns.iter().find(|sibling| sibling.column.name == name);
        let what = match sibling.map(|sibling| (sibling.transform.is_some(), sibling.spec())) {
            None => format!("its template names {{{name}}}, and no column with a rule is called so"),
            Some((_, Some(MaskSpec::Null))) | Some((false, _)) => {
                format!("its template names {{{name}}}, whose rule is not one for single values")
            }
            Some(_) => continue,
        };
        problems.of_column(table, &column.column, what);
    }
}

fn is_in_foreign_key(plan: &DatabasePlan, table: &Table, column: &ColumnPlan) -> bool {
    let number = column.column.number;
    let refers = table.foreign_keys.iter().any(|key| key.columns.contains(&number));
    let is_referred_to = |other: &Table| {
        other.foreign_keys.iter().any(|key| key.references == table.oid && key.referenced_columns.contains(&number))
    };
    refers || plan.catalog.tables.iter().any(is_referred_to)
}

/// What an index keeps different must stay so: every column of it that is not kept must have a mask that keeps values apart. Not so where some of its
/// columns are unique by themselves.
fn check_uniqueness(table: &Table, of: &TablePlan, problems: &mut Problems) {
    let is_safe = |index: &Index| {
        let covered = of.columns.iter().filter(|column| index.columns.contains(&column.column.number));
        covered.into_iter().all(|column| keeps_apart(of, column, index.columns.len()))
    };
    let within = |inner: &Index, outer: &Index| {
        let is_part = inner.columns.iter().all(|number| outer.columns.contains(number));
        is_part && !inner.is_exclusion && !inner.is_partial && !inner.has_expressions && !inner.columns.is_empty()
    };
    for index in &table.indexes {
        if !index.is_exclusion && table.indexes.iter().any(|inner| within(inner, index) && is_safe(inner)) {
            continue;
        }
        for column in of.columns.iter().filter(|column| index.columns.contains(&column.column.number)) {
            if keeps_apart(of, column, index.columns.len()) {
                continue;
            }
            let kind = if index.is_exclusion { "exclusion constraint" } else { "unique index" };
            let what = format!(
                "the {kind} {} wants values that differ, and {} does not keep them apart; use one that does (email, user_name, \
                 uuid, int, fpe, hmac)",
                index.name,
                column.rule.describe()
            );
            problems.of_column(table, &column.column, what);
        }
    }
}

fn keeps_apart(of: &TablePlan, column: &ColumnPlan, columns_of_index: usize) -> bool {
    match column.spec() {
        // NULLs are no duplicates, and defaults of keys are as a rule drawn from a sequence: where not, the index's build says so.
        Some(MaskSpec::Null | MaskSpec::Default) => true,
        Some(MaskSpec::Shuffle) => columns_of_index == 1,
        Some(MaskSpec::Template { template }) => {
            let is_unique = |name: &str| {
                let sibling = of.columns.iter().find(|sibling| sibling.column.name == name);
                let transform = sibling.and_then(|sibling| sibling.transform.as_ref());
                transform.is_some_and(|transform| transform.is_unique())
            };
            sibling_names(template).into_iter().any(is_unique)
        }
        Some(MaskSpec::Expression { .. }) => false,
        _ => column.transform.as_ref().is_some_and(|transform| transform.is_unique()),
    }
}

/// Rows that stay refer to rows that go.
fn check_references(plan: &DatabasePlan, table: &Table, problems: &mut Problems) {
    for key in &table.foreign_keys {
        let referenced = plan.tables.iter().find(|other| other.oid == key.references);
        let Some(referenced) = referenced.filter(|other| other.rows == Rows::None) else { continue };
        let is_null = |number: &i16| {
            let own = plan.tables.iter().find(|own| own.oid == table.oid);
            let column = own.and_then(|own| own.columns.iter().find(|column| column.column.number == *number));
            matches!(column.and_then(ColumnPlan::spec), Some(MaskSpec::Null))
        };
        if key.columns.iter().any(is_null) {
            continue;
        }
        let name = plan.table(referenced).full_name();
        problems.add(
            table.full_name(),
            format!("its rows come along, and those of {name}, to which the foreign key {} refers, do not", key.name),
        );
    }
}
