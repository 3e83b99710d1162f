//! The report that is kept with a masked base: what was done to each column, how many rows came along, and what was searched for. No values.

use super::masks::{MaskSpec, MaskingKey};
use super::pipeline::Copied;
use super::plan::{DatabasePlan, Problem};
use super::rules::Rules;
use super::scanning::{Scanned, Searched};
use super::signing::hexadecimal;
use crate::model::ScanSummary;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// JSON, `v1/project/<project>/base/<base-id>/report`. Its hash is in the base's signed statement.
#[derive(Serialize)]
pub(super) struct Report {
    pub format: u32,
    pub version: &'static str,
    pub base: String,
    pub signer: String,
    pub catalog_sha256: String,
    pub rules_sha256: String,
    pub key_id: String,
    pub databases: Vec<DatabaseReport>,
    /// Settings of roles and databases that no rule keeps, by name.
    pub settings_left_out: Vec<String>,
    pub scan: ScanSummary,
}

#[derive(Serialize)]
pub(super) struct DatabaseReport {
    pub name: String,
    pub catalog_sha256: String,
    /// By `schema.table`.
    pub tables: BTreeMap<String, TableReport>,
}

#[derive(Serialize)]
pub(super) struct TableReport {
    pub rows: u64,
    /// By column: its type, and what was done to it.
    pub columns: BTreeMap<String, ColumnReport>,
}

#[derive(Serialize)]
pub(super) struct ColumnReport {
    #[serde(rename = "type")]
    pub type_name: String,
    pub rule: String,
    pub because: String,
    /// Of a masked column: how many of its raw values were searched for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub searched: Option<Searched>,
}

/// What of a former report says whether the source is still what the rules were written for.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct FormerReport {
    rules_sha256: String,
    databases: Vec<FormerDatabase>,
}

#[derive(Clone, Debug, Deserialize)]
struct FormerDatabase {
    name: String,
    tables: BTreeMap<String, FormerTable>,
}

#[derive(Clone, Debug, Deserialize)]
struct FormerTable {
    columns: BTreeMap<String, FormerColumn>,
}

#[derive(Clone, Debug, Deserialize)]
struct FormerColumn {
    #[serde(rename = "type")]
    type_name: String,
}

impl FormerReport {
    /// Columns of `plan` that have another type than when these very rules were last carried out.
    pub(super) fn changes(&self, rules: &Rules, plan: &DatabasePlan) -> Vec<Problem> {
        let former = self.databases.iter().find(|database| database.name == plan.catalog.name);
        let Some(former) = former.filter(|_| self.rules_sha256 == rules.fingerprint()) else { return Vec::new() };
        let mut problems = Vec::new();
        for table_plan in &plan.tables {
            let name = plan.table(table_plan).full_name();
            let Some(table) = former.tables.get(&name) else { continue };
            for column in &table_plan.columns {
                let (column, now) = (&column.column.name, &column.column.written);
                let Some(was) = table.columns.get(column).map(|former| &former.type_name).filter(|was| *was != now)
                else {
                    continue;
                };
                problems.push(Problem {
                    database: plan.catalog.name.clone(),
                    object: format!("{name}.{column}"),
                    what: format!(
                        "it was {was} when the rules were last used, and is {now} now; look at its rule, then change `reviewed` in the rules"
                    ),
                });
            }
        }
        problems
    }
}

impl Report {
    pub(super) fn new(rules: &Rules, key: &MaskingKey, signer: &str, copied: &Copied, scan: Scanned) -> Report {
        let databases: Vec<DatabaseReport> =
            copied.databases.iter().map(|copied| DatabaseReport::new(copied, &scan)).collect();
        let mut all = Sha256::new();
        for database in &databases {
            all.update(&database.catalog_sha256);
        }
        Report {
            format: 1,
            version: env!("CARGO_PKG_VERSION"),
            base: String::new(),
            signer: signer.to_owned(),
            catalog_sha256: hexadecimal(&all.finalize()),
            rules_sha256: rules.fingerprint(),
            key_id: key.id(),
            databases,
            settings_left_out: copied.settings_left_out.clone(),
            scan: scan.summary,
        }
    }

    /// Tables whose rows came along.
    pub(super) fn tables(&self) -> u64 {
        self.databases.iter().map(|database| database.tables.len() as u64).sum()
    }

    pub(super) fn rows(&self) -> u64 {
        self.databases.iter().flat_map(|database| database.tables.values()).map(|table| table.rows).sum()
    }
}

impl DatabaseReport {
    fn new(copied: &super::pipeline::CopiedDatabase, scan: &Scanned) -> DatabaseReport {
        let plan = &copied.plan;
        let table = |table_plan: &super::plan::TablePlan| {
            let name = plan.table(table_plan).full_name();
            let rows = *copied.rows.get(&name)?;
            let columns = table_plan.columns.iter().map(|column| {
                let searched = match column.spec() {
                    Some(MaskSpec::Shuffle) => {
                        Some(Searched { values: 0, because: Some("its values stay, in other rows") })
                    }
                    _ => scan.columns.get(&format!("{}.{name}.{}", plan.catalog.name, column.column.name)).cloned(),
                };
                let report = ColumnReport {
                    searched,
                    type_name: column.column.written.clone(),
                    rule: column.rule.describe(),
                    because: column.origin.to_string(),
                };
                (column.column.name.clone(), report)
            });
            let columns = columns.collect();
            Some((name, TableReport { rows, columns }))
        };
        DatabaseReport {
            name: plan.catalog.name.clone(),
            catalog_sha256: plan.catalog.fingerprint(),
            tables: plan.tables.iter().filter_map(table).collect(),
        }
    }
}
