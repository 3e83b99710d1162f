//! Why masking was refused or failed, each with what to do next, and none with a value in it.

use super::masks::KeyError;
use super::plan::Problem;
use crate::sources::ImportError;
use std::path::PathBuf;

/// Why there is no masked base. Everything here ends the import, and leaves no base.
#[derive(Debug, thiserror::Error)]
pub enum MaskingError {
    #[error("cannot read the masking rules {}: {source}", path.display())]
    ReadRules { path: PathBuf, source: std::io::Error },
    #[error("the masking rules {} cannot be used: {message}", path.display())]
    Rules { path: PathBuf, message: String },
    #[error(
        "the masking key is missing: the environment variable {variable} is not set; put at least 32 random bytes there (openssl rand -hex 32)"
    )]
    NoKey { variable: String },
    #[error("cannot read the masking key from {}: {source}", path.display())]
    ReadKey { path: PathBuf, source: std::io::Error },
    #[error("the masking key cannot be used: {0}")]
    Key(#[from] KeyError),
    #[error("the source's catalog cannot be understood: {reason}")]
    Catalog { reason: String },
    #[error(
        "the rules do not cover the source, or do not fit it:\n{}\nRun `offshoot masking check` to see every column",
        list(problems)
    )]
    Plan { problems: Vec<Problem> },
    #[error(transparent)]
    Source(#[from] ImportError),
    #[error(
        "{tool} is needed to copy the schema and is not among the programs of PostgreSQL {version} in {}; install the client programs \
         (on Debian and Ubuntu: apt install postgresql-client-{major})",
        folder.display()
    )]
    NoTool { tool: &'static str, version: String, major: u32, folder: PathBuf },
    #[error("the dump {} cannot be used: {reason}; make one with pg_dump --format=custom", path.display())]
    Dump { path: PathBuf, reason: String },
    #[error("{tool} failed on database {database}: {message}")]
    Tool { tool: &'static str, database: String, message: String },
    #[error("{database}.{table}: row {row} of a stream, column {column}: {reason}")]
    Value { database: String, table: String, column: String, row: u64, reason: String },
    #[error(
        "{database}.{table}: the masked database refuses the rows ({objection}); the value is not shown. Check the rules of its columns"
    )]
    Refused { database: String, table: String, objection: String },
    #[error(
        "{database}.{table}: the source refuses to give the rows (SQLSTATE {sqlstate}); what it says may hold a value and is not shown. Try the table's where there"
    )]
    SourceRefused { database: String, table: String, sqlstate: String },
    #[error("{database}.{table}: {read} rows were read and {written} are there")]
    RowCount { database: String, table: String, read: u64, written: u64 },
    #[error("{what}: {reason}")]
    Fresh { what: String, reason: String },
    #[error("{what}: {source}")]
    Io { what: String, source: std::io::Error },
    #[error("raw values are left in the masked cluster, or could be; nothing was sealed:\n{}\nWhere a column's values say nothing of anybody, name it in unsearched_columns", findings.join("\n"))]
    Findings { findings: Vec<String> },
}

impl MaskingError {
    pub(super) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> MaskingError {
        let what = what.into();
        move |source| MaskingError::Io { what, source }
    }
}

/// The first of them, and how many more there are.
fn list(problems: &[Problem]) -> String {
    const SHOWN: usize = 30;
    let mut lines: Vec<String> = problems.iter().take(SHOWN).map(|problem| format!("  {problem}")).collect();
    if problems.len() > SHOWN {
        lines.push(format!("  and {} more", problems.len() - SHOWN));
    }
    lines.join("\n")
}
