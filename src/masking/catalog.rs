//! What a database consists of, read from its catalogs: all that a plan depends on, and nothing of its rows.
//!
//! One statement for each kind of thing, each row of the answer one JSON object. The same statements run on 14 to 18.

mod query;

use super::MaskingError;
use crate::sources::{Connection, Row};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};

/// An object's OID.
pub(super) type Oid = u32;

/// One database.
#[derive(Clone, Debug, Default)]
pub(super) struct DatabaseCatalog {
    pub name: String,
    /// As `pg_encoding_to_char` names it.
    pub encoding: String,
    /// Tables and partitioned tables, by schema and name.
    pub tables: Vec<Table>,
    pub types: HashMap<Oid, Type>,
    pub sequences: Vec<Sequence>,
    /// Each after those it reads from.
    pub materialized_views: Vec<MaterializedView>,
    pub servers: Vec<ForeignServer>,
    pub large_objects: u64,
}

/// A table whose rows come along, or a partitioned one, which has none itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Table {
    pub oid: Oid,
    pub schema: String,
    pub name: String,
    /// It holds no rows: they are in its partitions.
    pub is_partitioned: bool,
    pub is_partition: bool,
    /// What it inherits from: a partition's table, or old inheritance.
    pub parents: Vec<Oid>,
    /// Numbers of the columns that say which partition a row belongs to.
    pub partition_key: Vec<i16>,
    /// Estimates; they change without the schema changing.
    #[serde(skip_serializing)]
    pub bytes: u64,
    #[serde(skip_serializing)]
    pub pages: u64,
    #[serde(skip_serializing)]
    pub rows: f64,
    /// An extension's configuration table: which of its rows are the user's own, as an SQL condition, perhaps empty.
    pub extension_condition: Option<String>,
    pub columns: Vec<Column>,
    pub indexes: Vec<Index>,
    pub checks: Vec<Check>,
    pub foreign_keys: Vec<ForeignKey>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Column {
    pub number: i16,
    pub name: String,
    #[serde(rename = "type")]
    pub type_oid: Oid,
    /// `atttypmod`; -1 where there is none.
    pub modifier: i32,
    /// As `format_type` writes it.
    pub written: String,
    pub not_null: bool,
    /// It is computed from other columns.
    pub is_generated: bool,
    /// `GENERATED … AS IDENTITY`.
    pub is_identity: bool,
    pub has_default: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Index {
    pub name: String,
    pub is_unique: bool,
    /// It keeps out what conflicts, not only what is equal.
    pub is_exclusion: bool,
    /// Columns whose values must differ, those in expressions included.
    pub columns: Vec<i16>,
    pub has_expressions: bool,
    /// It has a predicate.
    pub is_partial: bool,
}

/// A check constraint.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Check {
    pub name: String,
    pub columns: Vec<i16>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct ForeignKey {
    pub name: String,
    pub columns: Vec<i16>,
    pub references: Oid,
    pub referenced_columns: Vec<i16>,
}

/// A row of `pg_type`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Type {
    pub oid: Oid,
    pub schema: String,
    pub name: String,
    /// `typtype`: b base, c composite, d domain, e enum, p pseudo, r range, m multirange.
    pub kind: char,
    /// A domain's.
    pub base: Option<Oid>,
    pub base_modifier: i32,
    /// An array's.
    pub element: Option<Oid>,
    pub delimiter: char,
    /// A composite's.
    #[serde(default)]
    pub fields: Vec<Field>,
    /// A domain has check constraints.
    pub has_checks: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Field {
    pub name: String,
    #[serde(rename = "type")]
    pub type_oid: Oid,
    pub modifier: i32,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Sequence {
    pub schema: String,
    pub name: String,
    /// The column it is owned by or makes the identity of: table and number.
    pub owner: Option<(Oid, i16)>,
    pub maximum: i64,
    #[serde(skip)]
    pub state: SequenceState,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SequenceState {
    pub last_value: i64,
    pub is_called: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct MaterializedView {
    pub oid: Oid,
    pub schema: String,
    pub name: String,
    pub is_populated: bool,
    pub depends_on: Vec<Oid>,
}

/// A foreign server, without its options.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct ForeignServer {
    pub name: String,
    pub owner: String,
    pub wrapper: String,
    #[serde(rename = "type")]
    pub server_type: Option<String>,
    pub version: Option<String>,
}

impl DatabaseCatalog {
    /// Reads it in the transaction that `connection` is in.
    pub(super) async fn read(connection: &mut Connection, name: &str) -> Result<DatabaseCatalog, MaskingError> {
        let encoding = connection
            .query("SELECT pg_encoding_to_char(encoding) FROM pg_database WHERE datname = current_database()")
            .await?;
        let types: Vec<Type> = objects(connection, query::TYPES).await?;
        let mut catalog = DatabaseCatalog {
            name: name.to_owned(),
            encoding: field(encoding.first(), 0),
            tables: objects(connection, query::TABLES).await?,
            types: types.into_iter().map(|ty| (ty.oid, ty)).collect(),
            sequences: objects(connection, query::SEQUENCES).await?,
            materialized_views: in_order(objects(connection, query::MATERIALIZED_VIEWS).await?),
            servers: objects(connection, query::SERVERS).await?,
            large_objects: 0,
        };
        let count = connection.query("SELECT count(*) FROM pg_largeobject_metadata").await?;
        catalog.large_objects = field(count.first(), 0).parse().unwrap_or(0);
        for sequence in &mut catalog.sequences {
            let from = quoted(&sequence.schema, &sequence.name);
            let state = connection.query(&format!("SELECT last_value, is_called FROM {from}")).await?;
            sequence.state = SequenceState {
                last_value: field(state.first(), 0).parse().unwrap_or(1),
                is_called: field(state.first(), 1) == "t",
            };
        }
        Ok(catalog)
    }

    pub(super) fn table(&self, oid: Oid) -> Option<&Table> {
        self.tables.iter().find(|table| table.oid == oid)
    }

    /// The type below a domain, and its modifier.
    pub(super) fn base_type(&self, mut oid: Oid, mut modifier: i32) -> (Option<&Type>, i32) {
        let mut ty = self.types.get(&oid);
        while let Some(base) = ty.and_then(|ty| ty.base) {
            if modifier < 0 {
                modifier = ty.map_or(-1, |ty| ty.base_modifier);
            }
            oid = base;
            ty = self.types.get(&oid);
        }
        (ty, modifier)
    }

    /// SHA-256 over what rules refer to: tables, columns, types, keys; not rows, not sizes, not OIDs of types that nothing uses.
    pub(super) fn fingerprint(&self) -> String {
        let used = self.used_types();
        let canonical = serde_json::to_vec(&(&self.name, &self.tables, used)).expect("plain data is JSON");
        Sha256::digest(canonical).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn used_types(&self) -> BTreeMap<Oid, &Type> {
        let mut used = BTreeMap::new();
        let mut waiting: Vec<Oid> =
            self.tables.iter().flat_map(|table| &table.columns).map(|column| column.type_oid).collect();
        while let Some(oid) = waiting.pop() {
            let Some(ty) = self.types.get(&oid) else { continue };
            if used.insert(oid, ty).is_none() {
                waiting
                    .extend(ty.base.into_iter().chain(ty.element).chain(ty.fields.iter().map(|field| field.type_oid)));
            }
        }
        used
    }
}

impl Table {
    /// `schema.table`, as rules name it.
    pub(super) fn full_name(&self) -> String {
        format!("{}.{}", self.schema, self.name)
    }

    /// As SQL names it.
    pub(super) fn quoted(&self) -> String {
        quoted(&self.schema, &self.name)
    }

    pub(super) fn column(&self, number: i16) -> Option<&Column> {
        self.columns.iter().find(|column| column.number == number)
    }
}

/// An identifier as SQL writes it.
pub(super) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A string constant as SQL writes it, whatever `standard_conforming_strings` says.
pub(super) fn literal(text: &str) -> String {
    let doubled = text.replace('\'', "''");
    if doubled.contains('\\') { format!("E'{}'", doubled.replace('\\', "\\\\")) } else { format!("'{doubled}'") }
}

pub(super) fn quoted(schema: &str, name: &str) -> String {
    format!("{}.{}", quote(schema), quote(name))
}

/// Column `at` of a row; empty for NULL and where there is none.
pub(super) fn field(row: Option<&Row>, at: usize) -> String {
    row.and_then(|row| row.get(at)).cloned().flatten().unwrap_or_default()
}

/// The JSON objects that a statement answers with.
pub(super) async fn objects<T: DeserializeOwned>(
    connection: &mut Connection,
    statement: &str,
) -> Result<Vec<T>, MaskingError> {
    let rows = connection.query(statement).await?;
    let parse = |row: &Row| {
        serde_json::from_str(&field(Some(row), 0)).map_err(|e| MaskingError::Catalog { reason: e.to_string() })
    };
    rows.iter().map(parse).collect()
}

/// Each after those it depends on. Views cannot depend on each other in a circle.
fn in_order(mut views: Vec<MaterializedView>) -> Vec<MaterializedView> {
    let mut ordered: Vec<MaterializedView> = Vec::with_capacity(views.len());
    while !views.is_empty() {
        let waits = |view: &MaterializedView| views.iter().any(|other| view.depends_on.contains(&other.oid));
        let (waiting, free): (Vec<_>, Vec<_>) = views.iter().cloned().partition(waits);
        if free.is_empty() {
            ordered.extend(waiting);
            break;
        }
        ordered.extend(free);
        views = waiting;
    }
    ordered
}
