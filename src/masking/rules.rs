//! The rules: what `masking.toml` says.
//!
//! Parsed into plain data with every name of a domain already replaced by what it stands for, so that two files that say the same have
//! the same [`Rules::fingerprint`], however they are written. A base is sealed with it.

mod column;
mod glob;
mod json_path;

pub(super) use column::{ColumnRule, Mask, UnlistedLeaf};
pub(super) use json_path::{JsonPath, JsonStep};

use super::MaskingError;
use super::masks::MaskSpec;
use glob::Glob;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// Everything a rules file says.
#[derive(Clone, Debug, Serialize)]
pub struct Rules {
    /// Not part of what is done to a row; the key's id is sealed for itself.
    #[serde(skip)]
    pub(super) key: KeySource,
    /// Anything, for instance a date: changed by who has looked at the rules again because the source has changed.
    pub(super) reviewed: String,
    pub(super) unlisted_column: Unlisted,
    pub(super) large_objects: LargeObjects,
    pub(super) role_passwords: Kept,
    pub(super) comments: Kept,
    /// Settings with a dot in their names, of roles and databases, that come along.
    pub(super) keep_settings: BTreeSet<String>,
    /// Objects whose literals somebody has looked at, as `pg_describe_object` names them.
    pub(super) allow_literals: BTreeSet<String>,
    /// Columns whose raw values may be met elsewhere, as `database.schema.table.column`.
    pub(super) unsearched_columns: BTreeSet<String>,
    pub(super) patterns: Vec<Pattern>,
    pub(super) databases: BTreeMap<String, DatabaseRules>,
}

/// Where the masking key is.
#[derive(Clone, Debug)]
pub(super) enum KeySource {
    /// Name of an environment variable.
    Environment(String),
    File(PathBuf),
}

/// What becomes of a column that no rule is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Unlisted {
    #[default]
    Deny,
    Keep,
}

/// What becomes of large objects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum LargeObjects {
    #[default]
    Deny,
    Keep,
    /// They are left out; a reference to one leads nowhere.
    Drop,
}

/// What becomes of something that may carry secrets and that few miss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kept {
    #[default]
    Drop,
    Keep,
}

/// Which rows of a table come along.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Rows {
    #[default]
    All,
    None,
}

/// A rule for columns that no table lists.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Pattern {
    pub database: Glob,
    /// `schema.table`.
    pub table: Glob,
    pub column: Glob,
    /// The type's name without its modifier; of any type without one.
    pub type_name: Glob,
    pub rule: ColumnRule,
}

/// `[database.<name>]`.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct DatabaseRules {
    pub unlisted_column: Option<Unlisted>,
    /// By `schema.table`.
    pub tables: BTreeMap<String, TableRules>,
}

/// `[database.<name>.table."<schema>.<table>"]`.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct TableRules {
    /// `None`: as what it is a partition of.
    pub rows: Option<Rows>,
    /// SQL over the raw rows.
    pub filter: Option<String>,
    pub unlisted_column: Option<Unlisted>,
    pub columns: BTreeMap<String, ColumnRule>,
}

impl Rules {
    /// Reads a rules file.
    pub fn load(path: &Path) -> Result<Rules, MaskingError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| MaskingError::ReadRules { path: path.to_owned(), source })?;
        Rules::parse(&text, path.parent().unwrap_or(Path::new("")))
            .map_err(|message| MaskingError::Rules { path: path.to_owned(), message })
    }

    /// Without rules every column is kept, as it is: a logical import.
    pub(super) fn keep_everything() -> Rules {
        Rules {
            key: KeySource::Environment(String::new()),
            reviewed: String::new(),
            unlisted_column: Unlisted::Keep,
            large_objects: LargeObjects::Keep,
            role_passwords: Kept::Keep,
            comments: Kept::Keep,
            keep_settings: BTreeSet::new(),
            allow_literals: BTreeSet::new(),
            unsearched_columns: BTreeSet::new(),
            patterns: Vec::new(),
            databases: BTreeMap::new(),
        }
    }

    /// Whether they were written by anyone.
    pub(super) fn is_masking(&self) -> bool {
        !matches!(&self.key, KeySource::Environment(variable) if variable.is_empty())
    }

    /// SHA-256 of what the rules say, in hexadecimal.
    pub fn fingerprint(&self) -> String {
        let canonical = serde_json::to_vec(self).expect("plain data with string keys is JSON");
        Sha256::digest(canonical).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// `folder` is what a relative `key_file` is relative to.
    pub(super) fn parse(text: &str, folder: &Path) -> Result<Rules, String> {
        let file: RulesFile = toml::from_str(text).map_err(|e| e.to_string().trim_end().to_owned())?;
        let domains = named_domains(file.domain)?;
        let key = match (file.key_env, file.key_file) {
            (Some(variable), None) => KeySource::Environment(variable),
            (None, Some(path)) => KeySource::File(folder.join(path)),
            _ => return Err("say where the masking key is, by either key_env or key_file; there is no default".into()),
        };
        let patterns = file.pattern.into_iter().map(|pattern| pattern.resolve(&domains)).collect::<Result<_, _>>()?;
        let databases = file.database.into_iter().map(|(name, database)| {
            let place = format!("database {name}");
            Ok::<_, String>((name, database.resolve(&place, &domains)?))
        });
        Ok(Rules {
            key,
            reviewed: file.reviewed,
            unlisted_column: file.unlisted_column,
            large_objects: file.large_objects,
            role_passwords: file.role_passwords,
            comments: file.comments,
            keep_settings: file.keep_settings,
            allow_literals: file.allow_literals,
            unsearched_columns: file.unsearched_columns,
            patterns,
            databases: databases.collect::<Result<_, _>>()?,
        })
    }

    /// The rules of one table, if the file has any.
    pub(super) fn table(&self, database: &str, table: &str) -> Option<&TableRules> {
        self.databases.get(database)?.tables.get(table)
    }

    /// What a column without a rule gets.
    pub(super) fn unlisted(&self, database: &str, table: &str) -> Unlisted {
        let of_database = self.databases.get(database);
        let of_table = of_database.and_then(|rules| rules.tables.get(table));
        of_table
            .and_then(|rules| rules.unlisted_column)
            .or_else(|| of_database.and_then(|rules| rules.unlisted_column))
            .unwrap_or(self.unlisted_column)
    }

    /// The first pattern that fits: its number, from 1, and its rule.
    pub(super) fn pattern(
        &self,
        database: &str,
        table: &str,
        column: &str,
        type_name: &str,
    ) -> Option<(usize, &ColumnRule)> {
        let fits = |pattern: &&Pattern| {
            pattern.database.fits(database)
                && pattern.table.fits(table)
                && pattern.column.fits(column)
                && pattern.type_name.fits(type_name)
        };
        let at = self.patterns.iter().position(|pattern| fits(&pattern))?;
        Some((at + 1, &self.patterns[at].rule))
    }
}

/// The file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RulesFile {
    key_env: Option<String>,
    key_file: Option<PathBuf>,
    #[serde(default)]
    reviewed: String,
    #[serde(default)]
    unlisted_column: Unlisted,
    #[serde(default)]
    large_objects: LargeObjects,
    #[serde(default)]
    role_passwords: Kept,
    #[serde(default)]
    comments: Kept,
    #[serde(default)]
    keep_settings: BTreeSet<String>,
    #[serde(default)]
    allow_literals: BTreeSet<String>,
    #[serde(default)]
    unsearched_columns: BTreeSet<String>,
    #[serde(default)]
    domain: BTreeMap<String, Table>,
    #[serde(default)]
    pattern: Vec<PatternFile>,
    #[serde(default)]
    database: BTreeMap<String, DatabaseFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PatternFile {
    database: Option<String>,
    table: Option<String>,
    column: String,
    #[serde(rename = "type")]
    type_name: Option<String>,
    rule: Value,
}

impl PatternFile {
    fn resolve(self, domains: &BTreeMap<String, Mask>) -> Result<Pattern, String> {
        let rule = ColumnRule::read(self.rule, domains).map_err(|e| format!("pattern {:?}: {e}", self.column))?;
        let glob = |text: Option<String>| Glob::new(text.as_deref().unwrap_or("*"));
        Ok(Pattern {
            database: glob(self.database),
            table: glob(self.table),
            column: Glob::new(&self.column),
            type_name: glob(self.type_name),
            rule,
        })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DatabaseFile {
    unlisted_column: Option<Unlisted>,
    #[serde(default)]
    table: BTreeMap<String, TableFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TableFile {
    rows: Option<Rows>,
    #[serde(rename = "where")]
    filter: Option<String>,
    unlisted_column: Option<Unlisted>,
    #[serde(default)]
    column: BTreeMap<String, Value>,
}

impl DatabaseFile {
    fn resolve(self, place: &str, domains: &BTreeMap<String, Mask>) -> Result<DatabaseRules, String> {
        let table = |(name, table): (String, TableFile)| {
            if !name.contains('.') {
                return Err(format!(
                    "{place}: write the table {name:?} with its schema, for instance \"public.{name}\""
                ));
            }
            let column = |(column, rule): (String, Value)| {
                let rule = ColumnRule::read(rule, domains).map_err(|e| format!("{place}, {name}.{column}: {e}"))?;
                Ok::<_, String>((column, rule))
            };
            let columns = table.column.into_iter().map(column).collect::<Result<_, _>>()?;
            let TableFile { rows, filter, unlisted_column, .. } = table;
            Ok((name, TableRules { rows, filter, unlisted_column, columns }))
        };
        let tables = self.table.into_iter().map(table).collect::<Result<_, String>>()?;
        Ok(DatabaseRules { unlisted_column: self.unlisted_column, tables })
    }
}

/// `[domain.<name>]`: a mask by a name of its own.
fn named_domains(tables: BTreeMap<String, Table>) -> Result<BTreeMap<String, Mask>, String> {
    let named = |(name, table): (String, Table)| {
        if MaskSpec::simple(&name).is_some() {
            return Err(format!("domain {name:?} has the name of a mask; choose another"));
        }
        let mask = Mask::read(table, Some(&name)).map_err(|e| format!("domain {name}: {e}"))?;
        Ok((name, mask))
    };
    tables.into_iter().map(named).collect()
}

#[cfg(test)]
mod tests;
