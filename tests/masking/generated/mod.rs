//! Databases and rules made from a seed: whatever fits together, in as many combinations as seeds are tried.
//!
//! ```text
//!  dice ── kinds (types, rules that fit) ── values ── tables ── script (SQL, and the rules file)
//!                                                        └───── oracle (what must have become of each value), breaks (what must be refused)
//! ```
//!
//! Nothing here knows the product's code: what masks promise is read in `config/masking.toml`.

#![allow(dead_code, reason = "each test binary uses its own part")]

mod breaks;
mod dice;
mod kinds;
mod oracle;
mod rules;
mod script;
mod tables;
mod values;
mod verdicts;

pub use breaks::{BREAKS, Break};
pub use dice::secrets_within;
pub use oracle::Book;
pub use script::{load, quote, rules_file};
pub use verdicts::Verdicts;

use dice::Dice;
use kinds::Kind;
use rules::{Keyed, Rule};
use std::collections::HashSet;

/// The databases of one cluster.
pub struct Cluster {
    pub seed: u64,
    pub databases: Vec<Database>,
    pub pool: Vec<Keyed>,
    /// Words that a masked copy may not contain.
    pub secrets: HashSet<String>,
}

pub struct Database {
    pub name: String,
    pub tables: Vec<Table>,
}

pub struct Table {
    pub schema: String,
    pub name: String,
    pub columns: Vec<Column>,
    /// By column; generated columns have none.
    pub rows: Vec<Vec<Option<String>>>,
    /// Columns of unique indexes; the first is the primary key, if `has_primary_key`.
    pub unique: Vec<Vec<usize>>,
    pub has_primary_key: bool,
    pub foreign_keys: Vec<ForeignKey>,
    pub partitioning: Partitioning,
    /// Rows are joined by this column, which is kept and different in each.
    pub thread: usize,
    /// `unlisted_column = "keep"`
    pub keeps_unlisted: bool,
    pub coming: Coming,
}

/// Which rows come along. Nothing refers to a table whose rows do not all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coming {
    All,
    /// `where`
    Even,
    /// `rows = "none"`
    None,
}

pub struct Column {
    pub name: String,
    pub kind: Kind,
    pub not_null: bool,
    /// SQL.
    pub default: Option<String>,
    pub is_identity: bool,
    /// SQL over the row.
    pub generated: Option<String>,
    pub rule: Rule,
    pub said: Said,
}

/// How the rules file says a column's rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    Listed,
    /// By a pattern of the column's own.
    Pattern,
    /// It takes the rule of the key it refers to, or none at all.
    NotAtAll,
}

pub struct ForeignKey {
    pub columns: Vec<usize>,
    /// Number of a table before this one, or of this.
    pub references: usize,
    pub referenced: Vec<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Partitioning {
    None,
    /// By the thread.
    Range,
    /// By this column of moods, which is kept.
    List(usize),
    /// By this column, which may be masked.
    Hash(usize),
}

impl Cluster {
    pub fn generate(seed: u64, databases: usize) -> Cluster {
        let mut dice = Dice::new(seed);
        let pool = kinds::pool(&mut dice);
        let databases = (0..databases).map(|number| tables::database(&mut dice, number, &pool)).collect();
        Cluster { seed, databases, pool, secrets: dice.secrets }
    }
}

impl Table {
    /// As the rules name it.
    pub fn full_name(&self) -> String {
        format!("{}.{}", self.schema, self.name)
    }

    pub fn quoted(&self) -> String {
        format!("{}.{}", quote(&self.schema), quote(&self.name))
    }

    pub fn is_unique(&self, columns: &[usize]) -> bool {
        self.unique.iter().any(|index| index == columns)
    }
}

impl Coming {
    /// SQL.
    pub fn condition(self) -> &'static str {
        match self {
            Coming::All => "true",
            Coming::Even => "thread % 2 = 0",
            Coming::None => "false",
        }
    }
}

impl Column {
    pub fn quoted(&self) -> String {
        quote(&self.name)
    }
}
