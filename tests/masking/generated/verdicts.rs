//! Source and branch side by side: rows joined by their threads, keys, definitions, sequences, and the search for secret words.

use super::kinds::Kind;
use super::rules::{Rule, Spec};
use super::{Book, Cluster, Column, Coming, Database, Partitioning, Table, dice};
use crate::fixture::{contents, psql};
use serde_json::Value;

/// A session that prints values the same way on either side.
const SESSION: &str = "set client_encoding = 'UTF8'; set timezone = 'UTC'; set datestyle = 'ISO'; set bytea_output = 'hex'; \
                       set extra_float_digits = 1; set search_path = '';";

/// Compares databases one after the other; what masks made is noted over all of them.
pub struct Verdicts<'a> {
    cluster: &'a Cluster,
    book: Book,
    rows: usize,
}

impl<'a> Verdicts<'a> {
    pub fn new(cluster: &'a Cluster) -> Verdicts<'a> {
        Verdicts { cluster, book: Book::default(), rows: 0 }
    }

    /// Panics with seed and place where anything is not as it should be.
    pub fn compare(&mut self, database: &Database, source: &str, branch: &str) {
        let seed = self.cluster.seed;
        for table in &database.tables {
            let (raw, masked) = (read(source, table, table.coming.condition()), read(branch, table, "true"));
            let place = format!("seed {seed}: {} {}", database.name, table.full_name());
            let comes = |row: &&Vec<Option<String>>| match table.coming {
                Coming::All => true,
                Coming::Even => {
                    row[table.thread].as_ref().is_some_and(|thread| thread.ends_with(['0', '2', '4', '6', '8']))
                }
                Coming::None => false,
            };
            assert_eq!(raw.len(), table.rows.iter().filter(comes).count(), "{place}: the source has what was made");
            assert_eq!(masked.len(), raw.len(), "{place}: rows");
            self.rows += raw.len();
            for (at, column) in table.columns.iter().enumerate() {
                let wrong = self.column(table, at, column, &raw, &masked).err();
                let what = wrong.unwrap_or_default();
                assert!(what.is_empty(), "{place} {:?} {:?} {:?}: {what}", column.name, column.kind, column.rule);
            }
            if matches!(table.partitioning, Partitioning::Range | Partitioning::List(_)) {
                let partition = |rows: &[Vec<Value>]| rows.iter().map(|row| row.last().cloned()).collect::<Vec<_>>();
                assert_eq!(partition(&masked), partition(&raw), "{place}: each row is in its partition");
            }
            computed(table, branch, &place);
            sequences(table, source, branch, &place);
        }
        let joins = joins(database);
        let run = |url: &str| if joins.is_empty() { String::new() } else { psql(url, &joins) };
        assert_eq!(run(branch), run(source), "seed {seed}: {} joins as many rows: {joins}", database.name);
        let definitions = |url: &str| contents::definitions(url, &["--no-comments"]);
        contents::assert_same_definitions(&definitions(source), &definitions(branch));
        self.search(database, source, branch);
    }

    fn search(&self, database: &Database, source: &str, branch: &str) {
        let within = |url: &str| dice::secrets_within(&self.cluster.secrets, &contents::dump(url, &[])).len();
        let is_hidden = |column: &Column| column.rule.keyed().is_some_and(Spec::changes_always);
        let hides = database.tables.iter().any(|table| table.rows.len() > 20 && table.columns.iter().any(is_hidden));
        assert!(!hides || within(source) > 0, "seed {}: the search does not find in the source", self.cluster.seed);
        let found = dice::secrets_within(&self.cluster.secrets, &contents::dump(branch, &[])).len();
        assert_eq!(found, 0, "seed {}: {} holds raw words", self.cluster.seed, database.name);
    }

    /// Rows and values that were looked at.
    pub fn finish(self) -> (usize, usize) {
        let wrong = self.book.finish().err().unwrap_or_default();
        assert!(wrong.is_empty(), "seed {}: {wrong}", self.cluster.seed);
        (self.rows, self.book.count())
    }

    fn column(
        &mut self,
        table: &Table,
        at: usize,
        column: &Column,
        raw: &[Vec<Value>],
        masked: &[Vec<Value>],
    ) -> Result<(), String> {
        if column.generated.is_some() {
            return Ok(());
        }
        let pairs = raw.iter().zip(masked);
        match &column.rule {
            // Postgres says so of it, in `computed`.
            Rule::Expression(_) => Ok(()),
            Rule::Shuffle => {
                let sorted = |rows: &[Vec<Value>]| {
                    let mut all: Vec<String> = rows.iter().map(|row| row[at].to_string()).collect();
                    all.sort();
                    all
                };
                if sorted(raw) == sorted(masked) { Ok(()) } else { Err("other values than before".to_owned()) }
            }
            Rule::Default => {
                let is_default = |row: &Vec<Value>| row[at] == "kept by default";
                if masked.iter().all(is_default) { Ok(()) } else { Err("not the default".to_owned()) }
            }
            Rule::Template(template) => pairs.into_iter().try_for_each(|(raw, masked)| {
                let wanted = match &raw[at] {
                    Value::String(text) if !text.is_empty() => Value::String(filled(table, template, masked)),
                    other => other.clone(),
                };
                if masked[at] == wanted { Ok(()) } else { Err(format!("{:?} instead of {wanted:?}", masked[at])) }
            }),
            rule => pairs
                .into_iter()
                .try_for_each(|(raw, masked)| self.book.check(rule, &column.kind, &raw[at], &masked[at])),
        }
    }
}

/// The rows of a table in the order of their threads; last where each is stored.
fn read(url: &str, table: &Table, condition: &str) -> Vec<Vec<Value>> {
    let value = |column: &Column| match column.kind {
        // A cast to text adds a netmask to an address.
        Kind::TextArray | Kind::Pair | Kind::Inet => format!("to_json({})", column.quoted()),
        _ => format!("{}::text", column.quoted()),
    };
    let values: Vec<String> = table.columns.iter().map(value).chain(["tableoid::regclass::text".to_owned()]).collect();
    let sql = format!(
        "{SESSION} select json_build_array({}) from {} where {condition} order by thread",
        values.join(", "),
        table.quoted()
    );
    let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line}"));
    psql(url, &sql).lines().map(parse).collect()
}

/// A template with its siblings' masked values.
fn filled(table: &Table, template: &str, masked: &[Value]) -> String {
    table.columns.iter().zip(masked).fold(template.to_owned(), |text, (column, value)| {
        text.replace(&format!("{{{}}}", column.name), value.as_str().unwrap_or_default())
    })
}

/// What Postgres computes is of what is there now.
fn computed(table: &Table, branch: &str, place: &str) {
    for column in &table.columns {
        let of_expression = match &column.rule {
            Rule::Expression(sql) => Some(sql),
            _ => None,
        };
        if let Some(sql) = column.generated.as_ref().or(of_expression) {
            let wrong =
                format!("select count(*) from {} where {} is distinct from ({sql})", table.quoted(), column.quoted());
            assert_eq!(psql(branch, &wrong), "0", "{place} {:?}: {sql}", column.name);
        }
    }
}

fn sequences(table: &Table, source: &str, branch: &str, place: &str) {
    let literal = |text: &str| format!("'{}'", text.replace('\'', "''"));
    for column in table.columns.iter().filter(|column| column.is_identity) {
        let sequence = format!("pg_get_serial_sequence({}, {})", literal(&table.quoted()), literal(&column.name));
        let last = |url: &str| psql(url, &format!("select pg_sequence_last_value({sequence}::regclass)"));
        let wanted = match column.rule.keyed() {
            // A permutation may use all of its range.
            Some(Spec::Int(_, max)) => last(source).parse::<i64>().expect("a number").max(*max).to_string(),
            _ => last(source),
        };
        assert_eq!(last(branch), wanted, "{place} {:?}: its sequence", column.name);
    }
}

/// Statements that count the rows of each foreign key's join.
fn joins(database: &Database) -> String {
    let mut sql = Vec::new();
    for table in &database.tables {
        for foreign in &table.foreign_keys {
            let referenced = &database.tables[foreign.references];
            let pairs = foreign.columns.iter().zip(&foreign.referenced);
            let on = pairs.map(|(own, key)| {
                format!("c.{} = p.{}", table.columns[*own].quoted(), referenced.columns[*key].quoted())
            });
            let on = on.collect::<Vec<_>>().join(" and ");
            let own = format!("(select * from {} where {}) c", table.quoted(), table.coming.condition());
            sql.push(format!("select count(*) from {own} join {} p on {on}", referenced.quoted()));
        }
    }
    sql.join("; ")
}
