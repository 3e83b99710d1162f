//! Tables with their columns, keys and rows.
//!
//! Every table has a column `thread`, kept and different in each row, by which the oracle finds what became of a row. It is not always a key.

use super::dice::Dice;
use super::kinds::{Kind, Wants};
use super::rules::{Keyed, Rule};
use super::values::value;
use super::{Column, Coming, Database, ForeignKey, Partitioning, Said, Table, quote};
use std::collections::HashSet;

/// Rows of a table, at most.
const ROWS: usize = 40;
const SCHEMAS: [&str; 5] = ["public", "Odd Schema", "s;emi", "größe", "select"];
const TABLES: [&str; 6] = ["plain", "Odd Table", "it's \"quoted\"", "naïve 表", "order", "per%cent\\back"];
const COLUMNS: [&str; 12] = [
    "plain",
    "Odd Name",
    "quo\"te",
    "apo'strophe",
    "per%cent",
    "ümlaut",
    "dollar$1",
    "back\\slash",
    "comma,",
    "line\nbreak",
    "tab\t",
    "table",
];

pub fn database(dice: &mut Dice, number: usize, pool: &[Keyed]) -> Database {
    let schemas: Vec<&str> = (0..1 + dice.below(2)).map(|_| *dice.pick(&SCHEMAS)).collect();
    let mut tables: Vec<Table> = Vec::new();
    for at in 0..2 + dice.below(5) {
        let name = format!("{} {at}", dice.pick(&TABLES)).trim_end_matches(" 0").to_owned();
        let schema = (*dice.pick(&schemas)).to_owned();
        let table = Maker { dice, pool, before: &tables }.table(schema, name);
        tables.push(table);
    }
    Database { name: format!("made{number}"), tables }
}

struct Maker<'a> {
    dice: &'a mut Dice,
    pool: &'a [Keyed],
    /// Tables that may be referred to.
    before: &'a [Table],
}

impl Maker<'_> {
    fn table(&mut self, schema: String, name: String) -> Table {
        let mut table = Table {
            schema,
            name,
            columns: vec![column("thread", Kind::Int4, Rule::Keep)],
            rows: Vec::new(),
            unique: Vec::new(),
            has_primary_key: false,
            foreign_keys: Vec::new(),
            partitioning: Partitioning::None,
            thread: 0,
            keeps_unlisted: self.dice.one_in(4),
            coming: *self.dice.pick(&[Coming::All, Coming::All, Coming::All, Coming::All, Coming::Even, Coming::None]),
        };
        table.columns[0].not_null = true;
        self.add_key(&mut table);
        for _ in 0..3 + self.dice.below(6) {
            self.add_column(&mut table);
        }
        self.add_references(&mut table);
        self.add_computed(&mut table);
        self.partition(&mut table);
        self.say(&mut table);
        self.fill(&mut table);
        table
    }

    fn name(&mut self, table: &Table) -> String {
        format!("{} {}", self.dice.pick(&COLUMNS), table.columns.len())
    }

    fn add_key(&mut self, table: &mut Table) {
        let kind = match self.dice.below(6) {
            0 => {
                table.unique.push(vec![0]);
                table.has_primary_key = true;
                return;
            }
            1 => return,
            2..=3 => self.dice.pick(&[Kind::Int8, Kind::Int4]).clone(),
            4 => Kind::Uuid,
            _ => self.dice.pick(&[Kind::Text, Kind::Varchar(60), Kind::Citext, Kind::Code]).clone(),
        };
        let wants = Wants { unique: true, not_null: true };
        let rule = kind.rule(self.dice, wants, self.pool);
        let is_identity = kind.is_whole() && self.dice.one_in(2);
        let name = self.name(table);
        table.unique.push(vec![table.columns.len()]);
        table.has_primary_key = true;
        table.columns.push(Column { not_null: true, is_identity, ..column(&name, kind, rule) });
    }

    fn add_column(&mut self, table: &mut Table) {
        let kind = Kind::draw(self.dice);
        let not_null = self.dice.one_in(4);
        let number = table.columns.len();
        let unique = kind.can_be_unique() && self.dice.one_in(5);
        // Of a composite index with a kept column, each must keep its values apart all the same.
        let rule = kind.rule(self.dice, Wants { unique, not_null }, self.pool);
        if unique {
            let with_thread = self.dice.one_in(2);
            table.unique.push(if with_thread { vec![0, number] } else { vec![number] });
        }
        let name = self.name(table);
        let default = (kind.is_text() && kind.limit().is_none_or(|limit| limit > 20) && self.dice.one_in(4))
            .then(|| "'kept by default'".to_owned());
        let is_default = default.is_some() && !unique && self.dice.one_in(3);
        let rule = if is_default { Rule::Default } else { rule };
        table.columns.push(Column { not_null, default, ..column(&name, kind, rule) });
    }

    /// Columns that refer to unique ones of tables before this, or of this.
    fn add_references(&mut self, table: &mut Table) {
        for _ in 0..self.dice.below(3) {
            let number = self.dice.below(self.before.len() + 1);
            let referenced_table = self.before.get(number).unwrap_or(table);
            let keys: Vec<&Vec<usize>> = referenced_table.unique.iter().collect();
            if keys.is_empty() || referenced_table.coming != Coming::All {
                continue;
            }
            let referenced = (*self.dice.pick(&keys)).clone();
            // NULL is a rule of the key's own only.
            let keyed = |at: &usize| referenced_table.columns[*at].rule.is_unique();
            if !referenced.iter().all(keyed) {
                continue;
            }
            let of_key: Vec<(Kind, Rule)> = referenced
                .iter()
                .map(|at| (referenced_table.columns[*at].kind.clone(), referenced_table.columns[*at].rule.clone()))
                .collect();
            let mut columns = Vec::new();
            for (kind, rule) in of_key {
                let kind = match kind {
                    Kind::Int4 if self.dice.one_in(3) => Kind::Int8,
                    Kind::Varchar(_) if self.dice.one_in(3) => Kind::Text,
                    other => other,
                };
                columns.push(table.columns.len());
                let name = self.name(table);
                table.columns.push(Column { said: Said::NotAtAll, ..column(&name, kind, rule) });
            }
            table.foreign_keys.push(ForeignKey { columns, references: number, referenced });
        }
    }

    /// Templates, expressions and generated columns.
    fn add_computed(&mut self, table: &mut Table) {
        let is_plain = |column: &Column| {
            let is_text = column.kind.is_text() && !matches!(column.kind, Kind::Char(_));
            let is_known = column.rule.is_by_value() && column.rule != Rule::Null && column.generated.is_none();
            (is_text || column.kind.is_whole()) && is_known
        };
        let plain: Vec<usize> = (0..table.columns.len()).filter(|at| is_plain(&table.columns[*at])).collect();
        let sibling = |maker: &mut Self, table: &Table| table.columns[*maker.dice.pick(&plain)].name.clone();
        if self.dice.one_in(3) {
            let (first, second) = (sibling(self, table), sibling(self, table));
            let rule = Rule::Template(format!("<{{{first}}}.{{{second}}}>"));
            let name = self.name(table);
            table.columns.push(column(&name, Kind::Text, rule));
        }
        if self.dice.one_in(3) {
            let rule = Rule::Expression(format!("md5({}::text) || '!'", quote(&sibling(self, table))));
            let name = self.name(table);
            table.columns.push(column(&name, Kind::Text, rule));
        }
        if self.dice.one_in(2) {
            let sql = format!("upper({}::text) || ' generated'", quote(&sibling(self, table)));
            let name = self.name(table);
            let generated = Some(sql);
            table.columns.push(Column { generated, said: Said::NotAtAll, ..column(&name, Kind::Text, Rule::Keep) });
        }
    }

    /// Where no index is in the way: each would have to hold the partition key.
    fn partition(&mut self, table: &mut Table) {
        if !self.dice.one_in(3) || table.columns.iter().any(|column| column.is_identity) {
            return;
        }
        let kept_mood = |column: &Column| column.kind == Kind::Mood && column.rule == Rule::Keep;
        let list = table.columns.iter().position(kept_mood);
        let hashed = |column: &Column| {
            let is_fit =
                column.rule.keyed().is_some_and(|spec| spec.is_unique()) && !matches!(column.kind, Kind::Char(_));
            is_fit && column.kind.can_be_unique() && column.said == Said::Listed
        };
        let hash = table.columns.iter().position(hashed);
        table.partitioning = match (list, hash) {
            (Some(at), _) if self.dice.one_in(2) => Partitioning::List(at),
            (_, Some(at)) if self.dice.one_in(2) => Partitioning::Hash(at),
            _ => Partitioning::Range,
        };
        let key = match table.partitioning {
            Partitioning::List(at) | Partitioning::Hash(at) => at,
            _ => table.thread,
        };
        table.unique.retain(|index| index.contains(&key));
        table.has_primary_key = false;
        let unique = &table.unique;
        table
            .foreign_keys
            .retain(|foreign| foreign.references < self.before.len() || unique.contains(&foreign.referenced));
        // What has lost its key is a column like others, with a rule of its own.
        let referring: HashSet<usize> = table.foreign_keys.iter().flat_map(|foreign| foreign.columns.clone()).collect();
        for (at, column) in table.columns.iter_mut().enumerate() {
            if column.said == Said::NotAtAll && column.generated.is_none() && !referring.contains(&at) {
                column.said = Said::Listed;
            }
        }
    }

    /// How the file says each rule.
    fn say(&mut self, table: &mut Table) {
        let keeps_unlisted = table.keeps_unlisted;
        for column in table.columns.iter_mut().filter(|column| column.said == Said::Listed) {
            let is_globable = !column.name.contains(['*', '|']);
            column.said = match &column.rule {
                Rule::Keep if keeps_unlisted && self.dice.one_in(2) => Said::NotAtAll,
                rule if rule.is_by_value() && is_globable && self.dice.one_in(6) => Said::Pattern,
                _ => Said::Listed,
            };
        }
    }

    fn fill(&mut self, table: &mut Table) {
        let count = self.dice.below(ROWS);
        let mut seen: Vec<HashSet<Vec<String>>> = vec![HashSet::new(); table.unique.len()];
        for number in 0..count {
            let Some(row) = (0..20).find_map(|_| self.row(table, number, &seen)) else { continue };
            for (index, seen) in table.unique.iter().zip(&mut seen) {
                seen.extend(key(index, &row));
            }
            table.rows.push(row);
        }
    }

    /// `None` where it would be the second of its key.
    fn row(&mut self, table: &Table, number: usize, seen: &[HashSet<Vec<String>>]) -> Option<Vec<Option<String>>> {
        let mut row: Vec<Option<String>> = Vec::with_capacity(table.columns.len());
        for (at, column) in table.columns.iter().enumerate() {
            let is_unique = table.unique.iter().any(|index| index.contains(&at));
            let is_null = !column.not_null && !is_partition_key(table, at) && self.dice.one_in(7);
            row.push(match column.generated.is_some() || is_null {
                true => None,
                false if at == table.thread => Some((number * 3).to_string()),
                false => Some(self.value(column, is_unique)),
            });
        }
        for foreign in &table.foreign_keys {
            let referenced = self.before.get(foreign.references).unwrap_or(table);
            let own: &[Vec<Option<String>>] = &referenced.rows;
            let is_null = own.is_empty() || self.dice.one_in(6);
            let chosen = if is_null { None } else { Some(self.dice.pick(own)) };
            for (at, of_key) in foreign.columns.iter().zip(&foreign.referenced) {
                row[*at] = chosen.and_then(|chosen| chosen[*of_key].clone());
            }
        }
        let is_new =
            table.unique.iter().zip(seen).all(|(index, seen)| key(index, &row).is_none_or(|key| !seen.contains(&key)));
        is_new.then_some(row)
    }

    /// What is in a unique index is short enough for a page.
    fn value(&mut self, column: &Column, is_unique: bool) -> String {
        loop {
            let value = value(self.dice, &column.kind, &column.rule);
            if !is_unique || value.len() < 200 {
                return value;
            }
        }
    }
}

fn is_partition_key(table: &Table, at: usize) -> bool {
    matches!(table.partitioning, Partitioning::List(key) | Partitioning::Hash(key) if key == at)
}

/// What a unique index compares; `None` where a NULL is in it.
fn key(index: &[usize], row: &[Option<String>]) -> Option<Vec<String>> {
    index.iter().map(|at| row[*at].as_ref().map(|value| value.trim_end().to_lowercase())).collect()
}

fn column(name: &str, kind: Kind, rule: Rule) -> Column {
    Column {
        name: name.to_owned(),
        kind,
        not_null: false,
        default: None,
        is_identity: false,
        generated: None,
        rule,
        said: Said::Listed,
    }
}
