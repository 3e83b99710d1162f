//! Raw values that masks have written, too: one number's permutation is another number, and names come from lists.
//!
//! Meeting such a value in the masked cluster says nothing of how it came there, so what is to be searched for is looked up in the masked columns
//! before files are searched. What is there raw all the same, since its mask was not carried out, is for the
//! comparison of joined rows to find ([`super::rejoin`]).

use crate::masking::MaskingError;
use crate::masking::catalog::{literal, quote};
use crate::masking::masks::{MaskSpec, Telling};
use crate::masking::plan::{ColumnPlan, DatabasePlan, repertoire};
use crate::masking::rules::Rows;
use crate::masking::sample::Raw;
use crate::masking::value::{Keys, Transform};
use crate::sources::Connection;
use std::collections::{BTreeSet, HashSet};

/// Values that are to be searched for, in every spelling that a column may have them in, and those of them that consist of words
/// which masks write.
pub(super) fn sampled(keys: &Keys) -> (BTreeSet<String>, HashSet<String>) {
    let values: Vec<Raw> = keys.samples.iter().flat_map(|(_, sample)| sample.values()).collect();
    let all = values.iter().flat_map(|raw| raw.spellings().map(str::to_owned).collect::<Vec<_>>()).collect();
    let is_written = |raw: &&Raw| keys.writers.values().any(|leaf| leaf.masker.telling(&raw.text) == Telling::No);
    (all, values.iter().filter(is_written).map(|raw| raw.text.to_string()).collect())
}

/// Those of `sampled` that are in masked columns of the database that `fresh` is connected to.
pub(super) async fn find(
    plan: &DatabasePlan,
    sampled: &BTreeSet<String>,
    fresh: &mut Connection,
) -> Result<HashSet<String>, MaskingError> {
    let mut met = HashSet::new();
    if sampled.is_empty() {
        return Ok(met);
    }
    // What its encoding has no characters for is not in it.
    let last = repertoire(&plan.catalog.encoding);
    let wanted: Vec<String> =
        sampled.iter().filter(|value| value.chars().all(|c| c <= last)).map(|value| literal(value)).collect();
    for table_plan in plan.tables.iter().filter(|table| table.rows == Rows::All) {
        let table = plan.table(table_plan);
        let columns: Vec<String> = table_plan
            .columns
            .iter()
            .filter(|column| is_masked(column))
            .map(|column| format!("{}::text", quote(&column.column.name)))
            .collect();
        if table.is_partitioned || columns.is_empty() {
            continue;
        }
        // Of rows that were routed elsewhere another table's turn finds them.
        let statement = format!(
            "SELECT DISTINCT value FROM ONLY {}, unnest(ARRAY[{}]) value WHERE value = ANY (ARRAY[{}]::text[])",
            table.quoted(),
            columns.join(", "),
            wanted.join(", ")
        );
        // The statement is full of raw values, and an objection may quote it.
        let found = fresh.try_query(&statement).await?.map_err(|message| MaskingError::Fresh {
            what: format!("cannot look up values in {}.{}", plan.catalog.name, table.full_name()),
            reason: format!("SQLSTATE {}", message.sqlstate),
        })?;
        met.extend(found.into_iter().flatten().flatten());
    }
    Ok(met)
}

fn is_masked(column: &ColumnPlan) -> bool {
    let is_computed =
        matches!(column.spec(), Some(MaskSpec::Default | MaskSpec::Template { .. } | MaskSpec::Expression { .. }));
    is_computed || column.transform.as_ref().is_some_and(Transform::is_mask)
}
