//! Raw values that masks have written, too: one number's permutation is another number.
//!
//! Meeting such a value in the masked cluster says nothing of how it came there, so those of a sample that may be masks of others are looked for in the
//! masked columns themselves before files are searched. What is there raw all the same, since its mask was not carried out, is for the
//! comparison of joined rows to find ([`super::rejoin`]).

use crate::masking::MaskingError;
use crate::masking::catalog::{literal, quote};
use crate::masking::masks::MaskSpec;
use crate::masking::plan::{ColumnPlan, DatabasePlan};
use crate::masking::rules::Rows;
use crate::masking::sample::Sample;
use crate::masking::value::Transform;
use crate::sources::Connection;
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

/// Values of `samples` that may be masks of others, in every spelling that a column may have them in.
pub(super) fn doubtful(samples: &[(String, Arc<Sample>)]) -> BTreeSet<String> {
    let values = samples.iter().flat_map(|(_, sample)| sample.values()).filter(|raw| raw.is_doubtful);
    values.flat_map(|raw| raw.spellings().map(str::to_owned).collect::<Vec<_>>()).collect()
}

/// Those of `doubtful` that are in masked columns of the database that `fresh` is connected to.
pub(super) async fn find(
    plan: &DatabasePlan,
    doubtful: &BTreeSet<String>,
    fresh: &mut Connection,
) -> Result<HashSet<String>, MaskingError> {
    let mut met = HashSet::new();
    if doubtful.is_empty() {
        return Ok(met);
    }
    let wanted: Vec<String> = doubtful.iter().map(|value| literal(value)).collect();
    for table_plan in plan.tables.iter().filter(|table| table.rows == Rows::All) {
        let table = plan.table(table_plan);
        let columns: Vec<String> = table_plan
            .columns
            .iter()
            .filter(|column| writes_coincidences(column))
            .map(|column| format!("{}::text", quote(&column.column.name)))
            .collect();
        if table.is_partitioned || columns.is_empty() {
            continue;
        }
        // Of rows that were routed elsewhere another table's turn finds them.
        let statement = format!(
            "SELECT DISTINCT value FROM ONLY {}, unnest(ARRAY[{}]) value WHERE value = ANY (ARRAY[{}])",
            table.quoted(),
            columns.join(", "),
            wanted.join(", ")
        );
        met.extend(fresh.query(&statement).await?.into_iter().flatten().flatten());
    }
    Ok(met)
}

fn writes_coincidences(column: &ColumnPlan) -> bool {
    let is_computed =
        matches!(column.spec(), Some(MaskSpec::Default | MaskSpec::Template { .. } | MaskSpec::Expression { .. }));
    is_computed || column.transform.as_ref().is_some_and(Transform::writes_coincidences)
}
