//! Whether another import could go on with a copy of a database, whatever became of this one.

use super::fresh::Fresh;
use crate::masking::MaskingError;
use crate::masking::catalog::field;
use crate::masking::plan::DatabasePlan;

/// Texts that mean another time each time, and which Postgres takes for constants. They count within other words, too: then an import starts over that
/// need not.
const CLOCK: [&str; 4] = ["now", "today", "tomorrow", "yesterday"];

/// `fresh` has the database's schema, and no row.
///
/// Not where a server that crashes, the source or the fresh one, empties tables: unlogged ones. Nor where a condition of the rules may choose other rows
/// the next time. That is for Postgres to say: it takes those that do not as conditions of indexes, for these must not depend on the time,
/// on settings or on other rows.
pub(super) async fn is_resumable(plan: &DatabasePlan, fresh: &Fresh) -> Result<bool, MaskingError> {
    let mut connection = fresh.connect(&plan.catalog.name).await?;
    let unlogged = connection.query("SELECT EXISTS (SELECT FROM pg_class WHERE relpersistence = 'u')").await?;
    if field(unlogged.first(), 0) == "t" {
        return Ok(false);
    }
    let filtered = plan.tables.iter().filter_map(|table| Some((plan.table(table), table.filter.as_deref()?)));
    for (table, filter) in filtered.filter(|(table, _)| !table.is_partitioned) {
        if CLOCK.iter().any(|word| filter.to_lowercase().contains(word)) {
            return Ok(false);
        }
        connection.query("BEGIN").await?;
        let index = format!("CREATE INDEX ON {} ((1)) WHERE ({filter})", table.quoted());
        let taken = connection.try_query(&index).await?;
        connection.query("ROLLBACK").await?;
        if taken.is_err() {
            return Ok(false);
        }
    }
    Ok(true)
}
