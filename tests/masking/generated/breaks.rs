//! Plans that must be refused: a good one with one thing broken, and what is to be said of it.

use super::kinds::Kind;
use super::rules::Rule;
use super::{Column, Coming, Database, Partitioning, Said, Table};
use toml::Value;

/// A way of breaking the rules of one database.
pub struct Break {
    pub name: &'static str,
    /// Part of the reason.
    pub what: &'static str,
    /// Changes the rules, by table, and returns what the refusal names; `None` where the database has nothing to break.
    apply: fn(&Database, &mut toml::Table) -> Option<String>,
}

impl Break {
    /// Breaks the rules file. What the refusal must name: a column, a table, or the beginning of a name.
    pub fn apply(&self, database: &Database, file: &mut toml::Table) -> Option<String> {
        let tables = &mut file["database"][&database.name]["table"];
        (self.apply)(database, tables.as_table_mut().expect("rules are by table"))
    }
}

/// The first column that `fits` gets the rule that is made for it. Where no rows come along, no rule is looked at.
fn change(
    database: &Database,
    rules: &mut toml::Table,
    fits: impl Fn(&Table, usize, &Column) -> bool,
    rule: impl Fn(&Column) -> Value,
) -> Option<String> {
    let (table, column) = database.tables.iter().filter(|table| table.coming != Coming::None).find_map(|table| {
        let at = (0..table.columns.len()).find(|at| {
            let column = &table.columns[*at];
            column.generated.is_none() && fits(table, *at, column)
        })?;
        Some((table, &table.columns[at]))
    })?;
    columns(rules, &table.full_name()).insert(column.name.clone(), rule(column));
    Some(format!("{}.{}", table.full_name(), column.name))
}

/// The rules of a table's columns.
fn columns<'a>(rules: &'a mut toml::Table, table: &str) -> &'a mut toml::Table {
    let of_table = rules.entry(table.to_owned()).or_insert_with(|| toml::Table::new().into());
    let of_table = of_table.as_table_mut().expect("a table has rules");
    let columns = of_table.entry("column").or_insert_with(|| toml::Table::new().into());
    columns.as_table_mut().expect("columns are a table")
}

fn mask(name: &str, parameters: &[(&str, Value)]) -> Value {
    let all = [("mask".to_owned(), Value::from(name))].into_iter();
    Value::Table(all.chain(parameters.iter().map(|(key, value)| ((*key).to_owned(), value.clone()))).collect())
}

fn nested(key: &str, members: &[(&str, Value)]) -> Value {
    let members: toml::Table = members.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    Value::Table([(key.to_owned(), members.into())].into_iter().collect())
}

fn refers(table: &Table, at: usize) -> bool {
    table.foreign_keys.iter().any(|foreign| foreign.columns.contains(&at))
}

fn is_referred_to(database: &Database, table: &Table, at: usize) -> bool {
    let mut keys = database.tables.iter().flat_map(|other| &other.foreign_keys);
    keys.any(|foreign| {
        let referenced = &database.tables[foreign.references];
        referenced.full_name() == table.full_name() && foreign.referenced.contains(&at)
    })
}

/// Another rule than the column has.
fn another(column: &Column) -> Value {
    if column.rule == Rule::Keep { "redact".into() } else { "keep".into() }
}

pub const BREAKS: [Break; 23] = [
    Break { name: "an unlisted column", what: "no rule is for it", apply: unlisted },
    Break {
        name: "a mask that does not keep a key apart",
        what: "wants values that differ",
        apply: |database, rules| {
            let fits = |table: &Table, at: usize, _: &Column| !refers(table, at) && table.is_unique(&[at]);
            change(database, rules, fits, |_| "redact".into())
        },
    },
    Break {
        name: "a mask that is too long",
        what: "longest output has",
        apply: |database, rules| {
            let fits = |table: &Table, at: usize, column: &Column| column.kind.limit().is_some() && !refers(table, at);
            let constant = |column: &Column| "x".repeat(column.kind.limit().unwrap_or(0) + 1);
            change(database, rules, fits, |column| mask("constant", &[("value", constant(column).into())]))
        },
    },
    Break {
        name: "null for what may not be",
        what: "NOT NULL",
        apply: |database, rules| change(database, rules, |_, _, column| column.not_null, |_| "null".into()),
    },
    Break {
        name: "no default",
        what: "it has no default",
        apply: |database, rules| change(database, rules, |_, _, column| is_bare(column), |_| "default".into()),
    },
    Break {
        name: "an expression for what may not be NULL meanwhile",
        what: "an expression is computed after",
        apply: |database, rules| {
            change(database, rules, |_, _, column| is_bare(column), |_| mask("expression", &[("sql", "1".into())]))
        },
    },
    Break {
        name: "another rule than the key's",
        what: "contradicts that of the key",
        apply: |database, rules| change(database, rules, |table, at, _| refers(table, at), another),
    },
    Break {
        name: "another rule than the whole table's",
        what: "contradicts the one it has as in",
        apply: |database, rules| {
            let table = database.tables.iter().find(|table| table.partitioning != Partitioning::None)?;
            let partition = format!("{} part 0", table.full_name());
            columns(rules, &partition).insert("thread".to_owned(), "redact".into());
            Some(format!("{partition}.thread"))
        },
    },
    Break {
        name: "a mask of text for another type",
        what: "does not fit the type",
        apply: |database, rules| {
            let fits = |table: &Table, at: usize, column: &Column| !column.kind.is_text() && !refers(table, at);
            change(database, rules, fits, |_| "email".into())
        },
    },
    Break {
        name: "a mask of dates for text",
        what: "does not fit the type",
        apply: |database, rules| {
            let fits = |table: &Table, at: usize, column: &Column| column.kind.is_text() && !refers(table, at);
            change(database, rules, fits, |_| mask("date_shift", &[("max_days", 3.into())]))
        },
    },
    Break {
        name: "a range that is not the type's",
        what: "is not within the type",
        apply: |database, rules| {
            let range = mask("int", &[("min", 0.into()), ("max", 3_000_000_000_i64.into())]);
            let fits =
                |_: &Table, _: usize, column: &Column| matches!(column.kind, Kind::Int2 | Kind::Int4 | Kind::Amount);
            change(database, rules, fits, |_| range.clone())
        },
    },
    Break {
        name: "a parameter out of bounds",
        what: "length is 5",
        apply: |database, rules| {
            let fits = |_: &Table, _: usize, column: &Column| column.kind.is_text();
            change(database, rules, fits, |_| mask("hmac", &[("length", 5.into())]))
        },
    },
    Break {
        name: "a rule for a computed column",
        what: "takes no rule",
        apply: |database, rules| {
            let computed = database.tables.iter().find_map(|table| {
                let column = table.columns.iter().find(|column| column.generated.is_some())?;
                Some((table, column))
            });
            let (table, column) = computed?;
            columns(rules, &table.full_name()).insert(column.name.clone(), "keep".into());
            Some(format!("{}.{}", table.full_name(), column.name))
        },
    },
    Break {
        name: "a rule for a column that is not there",
        what: "no such column",
        apply: |database, rules| {
            let table = database.tables.first()?.full_name();
            columns(rules, &table).insert("threat".to_owned(), "keep".into());
            Some(format!("{table}.threat"))
        },
    },
    Break {
        name: "rules for a table that is not there",
        what: "no such table",
        apply: |_, rules| {
            columns(rules, "public.nowhere").insert("thread".to_owned(), "keep".into());
            Some("public.nowhere".to_owned())
        },
    },
    Break { name: "rows that others refer to left out", what: "its rows come along", apply: left_out },
    Break {
        name: "a permutation that leaves no next value",
        what: "smaller max",
        apply: |database, rules| {
            let most = |column: &Column| if column.kind == Kind::Int4 { i64::from(i32::MAX) } else { i64::MAX };
            let range = |column: &Column| mask("int", &[("min", 1.into()), ("max", most(column).into())]);
            change(database, rules, |_, _, column| column.is_identity, range)?;
            Some(String::new())
        },
    },
    Break {
        name: "a field without a rule",
        what: "no rule for its field",
        apply: |database, rules| {
            let fields = nested("fields", &[("label", "keep".into())]);
            change(database, rules, |_, _, column| column.kind == Kind::Pair, |_| fields.clone())
        },
    },
    Break {
        name: "a field that is not there",
        what: "has no field",
        apply: |database, rules| {
            let fields = nested("fields", &[("lable", "keep".into())]);
            change(database, rules, |_, _, column| column.kind == Kind::Pair, |_| fields.clone())
        },
    },
    Break {
        name: "elements of what is no array",
        what: "each is for arrays",
        apply: |database, rules| {
            let each = Value::Table([("each".to_owned(), "redact".into())].into_iter().collect());
            change(database, rules, |_, _, column| column.kind != Kind::TextArray, |_| each.clone())
        },
    },
    Break {
        name: "paths in what is no document",
        what: "json is for json",
        apply: |database, rules| {
            let json = nested("json", &[("$.a", "redact".into())]);
            change(database, rules, |_, _, column| column.kind.is_text(), |_| json.clone())
        },
    },
    Break {
        name: "a shuffled key",
        what: "shuffle is for a column that foreign keys depend on",
        apply: |database, rules| {
            let fits = |table: &Table, at: usize, column: &Column| {
                column.said != Said::NotAtAll && is_referred_to(database, table, at)
            };
            change(database, rules, fits, |_| "shuffle".into())
        },
    },
    Break {
        name: "a template of nothing",
        what: "its template names",
        apply: |database, rules| {
            let template = mask("template", &[("template", "{nobody}".into())]);
            let fits = |table: &Table, at: usize, column: &Column| column.kind.is_text() && !refers(table, at);
            change(database, rules, fits, |_| template.clone())
        },
    },
];

fn is_bare(column: &Column) -> bool {
    column.not_null && column.default.is_none() && !column.is_identity
}

fn unlisted(database: &Database, rules: &mut toml::Table) -> Option<String> {
    let table = database.tables.iter().find(|table| !table.keeps_unlisted && table.coming != Coming::None)?;
    let column = table.columns.iter().rev().find(|column| column.said == Said::Listed)?;
    columns(rules, &table.full_name()).remove(&column.name);
    Some(format!("{}.{}", table.full_name(), column.name))
}

fn left_out(database: &Database, rules: &mut toml::Table) -> Option<String> {
    let (table, foreign) = database.tables.iter().filter(|table| table.coming != Coming::None).find_map(|table| {
        let foreign = table.foreign_keys.iter().find(|foreign| {
            let is_null = |at: &usize| table.columns[*at].rule == Rule::Null;
            database.tables[foreign.references].full_name() != table.full_name() && !foreign.columns.iter().any(is_null)
        })?;
        Some((table, foreign))
    })?;
    let referenced = database.tables[foreign.references].full_name();
    let of_table = rules.entry(referenced).or_insert_with(|| toml::Table::new().into());
    of_table.as_table_mut().expect("a table has rules").insert("rows".to_owned(), "none".into());
    Some(table.full_name())
}
