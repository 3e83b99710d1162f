//! Whether the rules' conditions answer the same whenever they are asked: an import that goes on hours later must choose the same rows.

use super::fresh::Fresh;
use crate::masking::MaskingError;
use crate::masking::plan::DatabasePlan;

/// Texts that mean another time each time, and which Postgres takes for constants.
const CLOCK: [&str; 4] = ["now", "today", "tomorrow", "yesterday"];

/// Whether all of a database's do. That is for Postgres to say: they do if it takes them as conditions of indexes, which must not depend on the
/// time, on settings or on other rows.
pub(super) async fn are_settled(plan: &DatabasePlan, fresh: &Fresh) -> Result<bool, MaskingError> {
    let filtered = plan.tables.iter().filter_map(|table| Some((plan.table(table), table.filter.as_deref()?)));
    let mut open = None;
    for (table, filter) in filtered.filter(|(table, _)| !table.is_partitioned) {
        if CLOCK.iter().any(|word| filter.to_lowercase().contains(word)) {
            return Ok(false);
        }
        if open.is_none() {
            open = Some(fresh.connect(&plan.catalog.name).await?);
        }
        let connection = open.as_mut().expect("it was opened above");
        connection.query("BEGIN").await?;
        let taken = connection.try_query(&format!("CREATE INDEX ON {} ((1)) WHERE ({filter})", table.quoted())).await?;
        connection.query("ROLLBACK").await?;
        if taken.is_err() {
            return Ok(false);
        }
    }
    Ok(true)
}
