//! `offshoot masking check` and `preview`: what the rules do to a source, before anything is copied.
//!
//! Both read the source and write nothing anywhere. A check shows names and types; a preview shows values, raw ones too, to the operator who
//! asked for them.

use super::MaskingError;
use super::catalog::{Column, Table, quote};
use super::import::read_key;
use super::masks::MaskingKey;
use super::pipeline::{self, Snapshot};
use super::plan::{Copying, Problem, TablePlan};
use super::row::RowMasker;
use super::rules::{Rows, Rules};
use super::suggest::{Suggestion, suggest};
use super::value::Keys;
use crate::sources::{Connection, Purpose, Server};
use bytes::BytesMut;
use serde::Serialize;

/// Values of a column that a suggestion looks at.
const SAMPLE: usize = 50;

/// What the rules do to a source.
#[derive(Serialize)]
pub struct Check {
    pub columns: Vec<CheckedColumn>,
    pub problems: Vec<Problem>,
}

/// One column of the source.
#[derive(Serialize)]
pub struct CheckedColumn {
    pub database: String,
    /// `schema.table`.
    pub table: String,
    pub column: String,
    #[serde(rename = "type")]
    pub type_name: String,
    /// What is done to it; `None`: nothing is decided.
    pub rule: Option<String>,
    /// Why that.
    pub because: Option<String>,
    /// For a column without a rule.
    pub suggestion: Option<Suggestion>,
}

/// A few rows of one table, before and after.
#[derive(Serialize)]
pub struct Preview {
    pub database: String,
    pub table: String,
    pub columns: Vec<String>,
    /// `None` is NULL.
    pub before: Vec<Vec<Option<String>>>,
    pub after: Vec<Vec<Option<String>>>,
}

/// Looks at every column of every database of `source`.
pub async fn check(source: &Server, rules: &Rules) -> Result<Check, MaskingError> {
    let (mut snapshots, mut problems) = snapshots(source, rules).await?;
    if let Err(error) = read_key(rules) {
        problems.push(Problem { database: "*".to_owned(), object: "key".to_owned(), what: error.to_string() });
    }
    let mut columns = Vec::new();
    for snapshot in &mut snapshots {
        let plan = snapshot.plan.clone();
        for table_plan in &plan.tables {
            let table = plan.table(table_plan);
            for column in &table.columns {
                let mut checked = checked(&plan.catalog.name, table, table_plan, column);
                if checked.rule.is_none() && table_plan.rows == Rows::All {
                    let values = sample(&mut snapshot.session, table, column).await?;
                    let (ty, _) = plan.catalog.base_type(column.type_oid, column.modifier);
                    checked.suggestion = suggest(column, ty, &values);
                }
                columns.push(checked);
            }
        }
    }
    Ok(Check { columns, problems })
}

fn checked(database: &str, table: &Table, plan: &TablePlan, column: &Column) -> CheckedColumn {
    let planned = plan.columns.iter().find(|planned| planned.column.number == column.number);
    let (rule, because) = match planned {
        _ if column.is_generated => (Some("computed".to_owned()), Some("generated".to_owned())),
        _ if plan.rows == Rows::None => (Some("left out".to_owned()), Some("rows = \"none\"".to_owned())),
        Some(planned) => (Some(planned.rule.describe()), Some(planned.origin.to_string())),
        None => (None, None),
    };
    CheckedColumn {
        database: database.to_owned(),
        table: table.full_name(),
        column: column.name.clone(),
        type_name: column.written.clone(),
        rule,
        because,
        suggestion: None,
    }
}

/// A few values of a column; none of a table that holds no rows itself.
async fn sample(session: &mut Connection, table: &Table, column: &Column) -> Result<Vec<String>, MaskingError> {
    if table.is_partitioned {
        return Ok(Vec::new());
    }
    let name = quote(&column.name);
    let statement =
        format!("SELECT left({name}::text, 200) FROM ONLY {} WHERE {name} IS NOT NULL LIMIT {SAMPLE}", table.quoted());
    Ok(session.query(&statement).await?.into_iter().flatten().flatten().collect())
}

/// So many rows of each table, before and after. The plan must be without problems.
pub async fn preview(source: &Server, rules: &Rules, rows: usize) -> Result<Vec<Preview>, MaskingError> {
    read_key(rules)?;
    let (mut snapshots, problems) = snapshots(source, rules).await?;
    if !problems.is_empty() {
        return Err(MaskingError::Plan { problems });
    }
    let mut previews = Vec::new();
    for snapshot in &mut snapshots {
        let plan = snapshot.plan.clone();
        for table_plan in plan.tables.iter().filter(|table| table.rows == Rows::All) {
            let table = plan.table(table_plan);
            if table.is_partitioned || table_plan.columns.is_empty() {
                continue;
            }
            let copying = Copying::of(&plan, table_plan, |_| 0);
            let before = query(&mut snapshot.session, &copying.preview(rows, false)).await?;
            let read = query(&mut snapshot.session, &copying.preview(rows, true)).await?;
            let after = mask(&copying, &read).map_err(|reason| MaskingError::Catalog { reason })?;
            previews.push(Preview {
                database: plan.catalog.name.clone(),
                table: table.full_name(),
                columns: copying.columns.clone(),
                before: parse(&before, copying.columns.len()),
                after: parse(&after, copying.columns.len()),
            });
        }
    }
    Ok(previews)
}

async fn snapshots(source: &Server, rules: &Rules) -> Result<(Vec<Snapshot>, Vec<Problem>), MaskingError> {
    let mut session = Connection::open(source, Purpose::Queries("postgres")).await?;
    let databases = pipeline::databases(&mut session).await?;
    // Whether a mask fits does not depend on the key.
    let key = read_key(rules).or_else(|_| MaskingKey::new(&[0; 32]))?;
    let (snapshots, problems, _) = pipeline::plan(source, &databases, rules, &mut Keys::new(key)).await?;
    Ok((snapshots, problems))
}

/// All that a COPY sends.
async fn query(session: &mut Connection, statement: &str) -> Result<BytesMut, MaskingError> {
    session.begin_copy_out(statement).await?;
    let (mut all, mut unread) = (BytesMut::new(), 0);
    let mut take = |piece: &[u8]| {
        all.extend_from_slice(piece);
        Ok::<_, MaskingError>(())
    };
    while session.read_copy_out(&mut unread, &mut take).await?.is_none() {}
    Ok(all)
}

fn mask(copying: &Copying, rows: &[u8]) -> Result<BytesMut, String> {
    let mut out = BytesMut::new();
    let mut masker = RowMasker::new(copying.steps.clone());
    masker
        .feed(rows, &mut out)
        .map_err(|e| format!("column {}: {}", copying.columns.get(e.column).map_or("", String::as_str), e.error))?;
    Ok(out)
}

/// Rows of COPY's text form, their escapes left as they are: a preview is for eyes.
fn parse(rows: &[u8], columns: usize) -> Vec<Vec<Option<String>>> {
    let text = String::from_utf8_lossy(rows);
    let value = |value: &str| (value != "\\N").then(|| value.to_owned());
    text.lines().map(|row| row.split('\t').take(columns).map(value).collect()).collect()
}
