//! The rule of one column: a mask, or masks inside of an array, a composite or a JSON document.

use super::json_path::JsonPath;
use crate::masking::masks::MaskSpec;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use toml::{Table, Value};

/// What is done to one column.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::masking) enum ColumnRule {
    Mask(Mask),
    /// To each element of an array, of any dimension.
    Each(Box<ColumnRule>),
    /// To the fields of a composite. One that is not listed is an error.
    Fields(BTreeMap<String, ColumnRule>),
    Json {
        paths: Vec<(JsonPath, ColumnRule)>,
        unlisted: UnlistedLeaf,
    },
}

/// A mask, and the domain whose key it uses: the same value gets the same pseudonym throughout a domain.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(in crate::masking) struct Mask {
    pub domain: String,
    pub spec: MaskSpec,
}

/// What becomes of the strings, numbers and booleans of a JSON document that no path leads to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::masking) enum UnlistedLeaf {
    /// Empty strings, zeros, `false`: the document keeps its shape.
    #[default]
    Redact,
    Keep,
    /// A document that has one ends the import.
    Deny,
}

impl ColumnRule {
    /// Reads what the file says of a column. `domains` are the named ones.
    pub(in crate::masking) fn read(value: Value, domains: &BTreeMap<String, Mask>) -> Result<ColumnRule, String> {
        match value {
            Value::String(name) => named(&name, domains),
            Value::Table(table) => ColumnRule::read_table(table, domains),
            _ => Err("a rule is the name of a mask or domain, or a table like { mask = \"email\" }".to_owned()),
        }
    }

    fn read_table(mut table: Table, domains: &BTreeMap<String, Mask>) -> Result<ColumnRule, String> {
        if table.contains_key("mask") {
            return Ok(ColumnRule::Mask(Mask::read(table, None)?));
        }
        if let Some(rule) = table.remove("each") {
            nothing_else(&table, "each")?;
            return Ok(ColumnRule::Each(Box::new(ColumnRule::read(rule, domains)?)));
        }
        if let Some(fields) = table.remove("fields") {
            nothing_else(&table, "fields")?;
            let Value::Table(fields) = fields else { return Err("fields is a table: field = rule".to_owned()) };
            let fields = fields.into_iter().map(|(field, rule)| Ok((field, ColumnRule::read(rule, domains)?)));
            return Ok(ColumnRule::Fields(fields.collect::<Result<_, String>>()?));
        }
        if let Some(paths) = table.remove("json") {
            let unlisted = match table.remove("unlisted") {
                Some(unlisted) => {
                    let wanted = "unlisted is \"redact\", \"keep\" or \"deny\"";
                    unlisted.try_into().map_err(|_| wanted.to_owned())?
                }
                None => UnlistedLeaf::default(),
            };
            nothing_else(&table, "json")?;
            let Value::Table(paths) = paths else { return Err("json is a table: \"$.path\" = rule".to_owned()) };
            let paths =
                paths.into_iter().map(|(path, rule)| Ok((JsonPath::parse(&path)?, ColumnRule::read(rule, domains)?)));
            return Ok(ColumnRule::Json { paths: paths.collect::<Result<_, String>>()?, unlisted });
        }
        Err("a rule's table has one of mask, each, fields and json".to_owned())
    }

    /// Whether raw values stay as they are, all of them.
    pub(in crate::masking) fn is_keep(&self) -> bool {
        matches!(self, ColumnRule::Mask(Mask { spec: MaskSpec::Keep, .. }))
    }

    /// Whether it is made of other columns of its table, and so cannot be another table's.
    pub(in crate::masking) fn is_of_its_table(&self) -> bool {
        matches!(self, ColumnRule::Mask(Mask { spec: MaskSpec::Template { .. } | MaskSpec::Expression { .. }, .. }))
    }

    /// In few words, for listings.
    pub(in crate::masking) fn describe(&self) -> String {
        match self {
            ColumnRule::Mask(mask) if mask.domain == mask.spec.name() => mask.domain.clone(),
            ColumnRule::Mask(mask) => format!("{} ({})", mask.domain, mask.spec.name()),
            ColumnRule::Each(rule) => format!("each {}", rule.describe()),
            ColumnRule::Fields(fields) => {
                let fields: Vec<String> =
                    fields.iter().map(|(field, rule)| format!("{field}: {}", rule.describe())).collect();
                format!("fields {}", fields.join(", "))
            }
            ColumnRule::Json { paths, unlisted } => {
                let paths: Vec<String> =
                    paths.iter().map(|(path, rule)| format!("{path}: {}", rule.describe())).collect();
                let rest = match unlisted {
                    UnlistedLeaf::Redact => "rest redacted",
                    UnlistedLeaf::Keep => "rest kept",
                    UnlistedLeaf::Deny => "rest denied",
                };
                format!("json {}; {rest}", paths.join(", "))
            }
        }
    }
}

impl Mask {
    /// Reads `{ mask = "…", …, domain = "…" }`. Without a domain it is `name`, or the mask's own name.
    pub(in crate::masking) fn read(mut table: Table, name: Option<&str>) -> Result<Mask, String> {
        let domain = match table.remove("domain") {
            None => name.map(str::to_owned),
            Some(Value::String(domain)) => Some(domain),
            Some(_) => return Err("domain is a name".to_owned()),
        };
        let spec: MaskSpec =
            Value::Table(table).try_into().map_err(|e: toml::de::Error| e.message().trim_end().to_owned())?;
        Ok(Mask { domain: domain.unwrap_or_else(|| spec.name().to_owned()), spec })
    }
}

/// A domain of the file, else a mask with its defaults.
fn named(name: &str, domains: &BTreeMap<String, Mask>) -> Result<ColumnRule, String> {
    if let Some(mask) = domains.get(name) {
        return Ok(ColumnRule::Mask(mask.clone()));
    }
    match MaskSpec::simple(name) {
        Some(spec) => Ok(ColumnRule::Mask(Mask { domain: name.to_owned(), spec })),
        None => Err(format!("{name:?} is neither a [domain] of this file nor a mask that needs no parameters")),
    }
}

fn nothing_else(table: &Table, key: &str) -> Result<(), String> {
    match table.keys().next() {
        None => Ok(()),
        Some(other) => Err(format!("{other:?} has no meaning beside {key:?}")),
    }
}
