//! What is done to one value: a mask, or masks inside of an array, a composite or a JSON document.
//!
//! Works on the text form of values, as COPY gives it after unescaping. NULL never comes here: it stays NULL.

mod array;
mod json;
mod record;

use super::catalog::{DatabaseCatalog, Oid, Type};
use super::masks::{
    Changes, DomainKey, Longest, MaskError, MaskSpec, MaskStream, Masker, MaskingKey, Telling, ValueType,
};
use super::rules::{ColumnRule, Mask};
use super::sample::Sample;
use array::Array;
use json::JsonMask;
use record::Record;
use std::collections::HashMap;
use std::sync::Arc;

/// Why a value cannot be masked. It says nothing of the value.
#[derive(Debug, thiserror::Error)]
pub(super) enum ValueError {
    #[error("{0}")]
    Mask(#[from] MaskError),
    #[error("a value is not what the text of {0} looks like")]
    Malformed(&'static str),
    #[error("a JSON document has something at a place that no path leads to, and its rule says unlisted = \"deny\"")]
    UnlistedLeaf,
    #[error("a value is longer than {limit} bytes, which only keep, null, constant, redact and hmac can do anything with, and of these redact and hmac not where the column is citext or a sibling of a template", limit = super::row::LONGEST_VALUE)]
    TooLong,
    #[error("a value is not UTF-8, and only keep, null and constant can do anything with it")]
    NotUtf8,
}

/// What is done to a value.
#[derive(Clone)]
pub(super) enum Transform {
    Keep,
    Replace(Arc<Replacement>),
    Mask(Arc<Leaf>),
    Each(Arc<Array>),
    Fields(Arc<Record>),
    Json(Arc<JsonMask>),
}

/// The same instead of every value.
pub(super) struct Replacement {
    /// `None`: NULL.
    pub with: Option<String>,
    pub sample: Arc<Sample>,
}

/// A mask at work.
pub(super) struct Leaf {
    pub masker: Masker,
    /// The blanks that `char(n)` fills up with are no part of the value.
    is_padded: bool,
    /// Values that differ in case are equal (`citext`), so they become one.
    folds_case: bool,
    sample: Arc<Sample>,
}

impl Leaf {
    fn apply(&self, value: &str, out: &mut String) -> Result<(), MaskError> {
        let value = if self.is_padded { value.trim_end_matches(' ') } else { value };
        self.sample.offer(value, |value| self.masker.telling(value));
        if self.folds_case {
            return self.masker.apply(&value.to_lowercase(), out);
        }
        self.masker.apply(value, out)
    }
}

impl Replacement {
    fn apply(&self, value: &str, out: &mut String) -> Became {
        let is_same = |value: &str| self.with.as_deref().is_some_and(|with| with.contains(value));
        self.sample.offer(value, |value| if is_same(value) { Telling::No } else { Telling::Surely });
        match &self.with {
            None => Became::Null,
            Some(with) => {
                out.push_str(with);
                Became::Text
            }
        }
    }
}

/// What is done to a value that is too long to be held.
pub(super) enum LongValue {
    /// The rest of it does not matter.
    Replaced,
    Masked(Box<dyn MaskStream>),
    NeededWhole,
}

/// What a value became.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Became {
    Null,
    /// It was appended to the output.
    Text,
}

/// The keys of the domains in use, derived once, and what is kept of the values that are masked with them.
pub(super) struct Keys {
    master: MaskingKey,
    domains: HashMap<String, DomainKey>,
    /// With the column each is of, `database.schema.table.column`.
    pub samples: Vec<(String, Arc<Sample>)>,
    /// One of each kind of mask that writes words from lists.
    pub writers: HashMap<String, Arc<Leaf>>,
    /// The column that masks are being made for.
    pub column: String,
    /// It refers to a key.
    pub is_reference: bool,
    /// They are for values within that column's.
    is_within: bool,
}

impl Keys {
    pub(super) fn new(master: MaskingKey) -> Keys {
        let (domains, samples, writers, column) = Default::default();
        Keys { master, domains, samples, writers, column, is_reference: false, is_within: false }
    }

    /// For raw values of a type.
    pub(super) fn sample(&mut self, ty: Option<&Type>) -> Arc<Sample> {
        let sample = Arc::new(Sample::of_type(ty, !self.is_within));
        self.samples.push((self.column.clone(), sample.clone()));
        sample
    }

    /// For raw values of which nothing comes along.
    pub(super) fn sample_of_left_behind(&mut self, ty: Option<&Type>) -> Arc<Sample> {
        if !self.is_reference {
            return self.sample(ty);
        }
        let sample = Arc::new(Sample::of_reference());
        self.samples.push((self.column.clone(), sample.clone()));
        sample
    }

    /// Makes masks for values within those of a column.
    fn within<T>(&mut self, make: impl FnOnce(&mut Keys) -> T) -> T {
        let was_within = std::mem::replace(&mut self.is_within, true);
        let made = make(self);
        self.is_within = was_within;
        made
    }

    fn domain(&mut self, name: &str) -> DomainKey {
        self.domains.entry(name.to_owned()).or_insert_with(|| self.master.domain(name)).clone()
    }

    /// A number for Postgres's own random functions, the same for the same key and domain.
    pub(super) fn seed(&mut self, name: &str) -> Result<i64, ValueError> {
        let spec = MaskSpec::Int { min: 0, max: i64::MAX };
        let masker = Masker::new(&spec, &ValueType::BigInt, &self.domain(name));
        let mut seed = String::new();
        masker.map_err(|_| ValueError::Malformed("a seed"))?.apply("0", &mut seed)?;
        Ok(seed.parse().unwrap_or_default())
    }
}

impl Transform {
    /// Makes what `rule` says of values of a type. The error says why it does not fit.
    pub(super) fn compile(
        rule: &ColumnRule,
        (type_oid, modifier): (Oid, i32),
        catalog: &DatabaseCatalog,
        keys: &mut Keys,
    ) -> Result<Transform, String> {
        let (ty, modifier) = catalog.base_type(type_oid, modifier);
        let named = |ty: Option<&Type>| ty.map_or("an unknown type".to_owned(), |ty| format!("type {}", ty.name));
        match rule {
            ColumnRule::Mask(Mask { spec, domain }) => {
                let ty = ty.ok_or("its type is unknown")?;
                Transform::of_mask(spec, domain, ty, keys)
            }
            ColumnRule::Each(element_rule) => {
                let element = ty.and_then(|ty| Some((ty.element?, ty.delimiter)));
                let (element, _) = element.ok_or_else(|| format!("each is for arrays, and this is {}", named(ty)))?;
                let of_element = |keys: &mut Keys| Transform::compile(element_rule, (element, modifier), catalog, keys);
                let transform = keys.within(of_element)?;
                let delimiter = catalog.types.get(&element).map_or(',', |ty| ty.delimiter);
                Ok(Transform::Each(Arc::new(Array { element: transform, delimiter })))
            }
            ColumnRule::Fields(rules) => {
                let ty = ty
                    .filter(|ty| ty.kind == 'c')
                    .ok_or_else(|| format!("fields is for composites, and this is {}", named(ty)))?;
                if let Some(unknown) = rules.keys().find(|name| !ty.fields.iter().any(|field| field.name == **name)) {
                    return Err(format!("{} has no field {unknown:?}", ty.name));
                }
                let mut field = |field: &super::catalog::Field| {
                    let rule =
                        rules.get(&field.name).ok_or_else(|| format!("no rule for its field {:?}", field.name))?;
                    let of_field =
                        |keys: &mut Keys| Transform::compile(rule, (field.type_oid, field.modifier), catalog, keys);
                    keys.within(of_field).map_err(|e| format!("field {:?}: {e}", field.name))
                };
                let fields = ty.fields.iter().map(&mut field).collect::<Result<_, String>>()?;
                Ok(Transform::Fields(Arc::new(Record { fields })))
            }
            ColumnRule::Json { paths, unlisted } => {
                let is_json = ty.is_some_and(|ty| matches!(value_type(ty), ValueType::Json));
                if !is_json {
                    return Err(format!("json is for json and jsonb, and this is {}", named(ty)));
                }
                let text = Type { name: "text".to_owned(), ..ty.cloned().expect("it is a json type") };
                let mut path = |(path, rule): &(super::rules::JsonPath, ColumnRule)| {
                    let ColumnRule::Mask(Mask { spec, domain }) = rule else {
                        return Err(format!("{path}: inside of a document only masks make sense"));
                    };
                    let transform = keys.within(|keys| Transform::of_mask(spec, domain, &text, keys));
                    Ok((path.clone(), transform.map_err(|e| format!("{path}: {e}"))?))
                };
                let paths = paths.iter().map(&mut path).collect::<Result<_, String>>()?;
                let redacted = keys.within(|keys| keys.sample(Some(&text)));
                Ok(Transform::Json(Arc::new(JsonMask { paths, unlisted: *unlisted, redacted })))
            }
        }
    }

    fn of_mask(spec: &MaskSpec, domain: &str, ty: &Type, keys: &mut Keys) -> Result<Transform, String> {
        let value_type = value_type(ty);
        Ok(match spec {
            MaskSpec::Keep => Transform::Keep,
            MaskSpec::Null => {
                let sample = keys.sample_of_left_behind(Some(ty));
                Transform::Replace(Arc::new(Replacement { with: None, sample }))
            }
            MaskSpec::Constant { value } => {
                let with = Some(value.clone());
                Transform::Replace(Arc::new(Replacement { with, sample: keys.sample(Some(ty)) }))
            }
            spec => {
                let masker = Masker::new(spec, &value_type, &keys.domain(domain)).map_err(|e| e.to_string())?;
                let sample = keys.sample(Some(ty));
                let (is_padded, folds_case) = (ty.name == "bpchar", ty.name == "citext");
                let leaf = Arc::new(Leaf { masker, is_padded, folds_case, sample });
                if spec.writes_words() {
                    keys.writers.entry(format!("{spec:?}")).or_insert_with(|| leaf.clone());
                }
                Transform::Mask(leaf)
            }
        })
    }

    /// Appends what becomes of `value`.
    pub(super) fn apply(&self, value: &str, out: &mut String) -> Result<Became, ValueError> {
        match self {
            Transform::Keep => out.push_str(value),
            Transform::Replace(replacement) => return Ok(replacement.apply(value, out)),
            Transform::Mask(leaf) => leaf.apply(value, out)?,
            Transform::Each(array) => array.apply(value, out)?,
            Transform::Fields(record) => record.apply(value, out)?,
            Transform::Json(document) => document.apply(value, out)?,
        }
        Ok(Became::Text)
    }

    /// How a value is masked that goes on after `head`, its first [`STREAMED`](super::masks::STREAMED) bytes or so, and is not held.
    pub(super) fn begin_long(&self, head: &str) -> LongValue {
        match self {
            Transform::Replace(_) => LongValue::Replaced,
            Transform::Mask(leaf) if !leaf.is_padded && !leaf.folds_case => match leaf.masker.stream() {
                Some(stream) => {
                    leaf.sample.offer(head, |head| leaf.masker.telling(head));
                    LongValue::Masked(stream)
                }
                None => LongValue::NeededWhole,
            },
            _ => LongValue::NeededWhole,
        }
    }

    /// Different values stay different.
    pub(super) fn is_unique(&self) -> bool {
        match self {
            Transform::Keep => true,
            Transform::Mask(leaf) => leaf.masker.properties().unique,
            Transform::Replace(_) | Transform::Json(_) => false,
            Transform::Each(array) => array.element.is_unique(),
            Transform::Fields(record) => record.fields.iter().all(Transform::is_unique),
        }
    }

    /// Characters of the longest output, where that does not depend on the input.
    pub(super) fn longest(&self) -> Option<usize> {
        match self {
            Transform::Replace(replacement) => replacement.with.as_ref().map(|with| with.chars().count()),
            Transform::Mask(leaf) => match leaf.masker.properties().longest {
                Longest::Chars(chars) => Some(chars),
                Longest::AsInput => None,
            },
            _ => None,
        }
    }

    /// The greatest character that it adds to what was there.
    pub(super) fn widest(&self) -> char {
        let widest_of =
            |transforms: &mut dyn Iterator<Item = &Transform>| transforms.map(Transform::widest).max().unwrap_or('\0');
        match self {
            Transform::Keep => '\0',
            Transform::Replace(replacement) => {
                replacement.with.iter().flat_map(|with| with.chars()).max().unwrap_or('\0')
            }
            Transform::Mask(leaf) => leaf.masker.properties().widest,
            Transform::Each(array) => array.element.widest(),
            Transform::Fields(record) => widest_of(&mut record.fields.iter()),
            Transform::Json(document) => widest_of(&mut document.paths.iter().map(|(_, transform)| transform)),
        }
    }

    /// It is a mask of whole values.
    pub(super) fn is_mask(&self) -> bool {
        matches!(self, Transform::Mask(_))
    }

    /// No output is its input, but for NULL and the empty string.
    pub(super) fn always_changes(&self) -> bool {
        matches!(self, Transform::Mask(leaf) if leaf.masker.properties().changes == Changes::Always)
    }
}

/// What masks know a type as.
fn value_type(ty: &Type) -> ValueType {
    let is_builtin = ty.schema == "pg_catalog";
    match ty.name.as_str() {
        "citext" => ValueType::Text,
        _ if !is_builtin => ValueType::Other(ty.name.clone()),
        "text" | "varchar" | "bpchar" | "name" => ValueType::Text,
        "int2" => ValueType::SmallInt,
        "int4" => ValueType::Integer,
        "int8" => ValueType::BigInt,
        "numeric" => ValueType::Numeric,
        "float4" | "float8" => ValueType::Real,
        "bool" => ValueType::Boolean,
        "uuid" => ValueType::Uuid,
        "inet" | "cidr" => ValueType::Inet,
        "date" => ValueType::Date,
        "timestamp" | "timestamptz" => ValueType::Timestamp,
        "bytea" => ValueType::Bytea,
        "json" | "jsonb" => ValueType::Json,
        _ => ValueType::Other(ty.name.clone()),
    }
}

#[cfg(test)]
impl Transform {
    pub(super) fn of_masker(masker: Masker) -> Transform {
        let sample = super::sample::of_text().into();
        Transform::Mask(Arc::new(Leaf { masker, is_padded: false, folds_case: false, sample }))
    }

    /// NULL for every value.
    pub(super) fn null() -> Transform {
        Transform::Replace(Arc::new(Replacement { with: None, sample: super::sample::of_text().into() }))
    }

    /// `text` for every value.
    pub(super) fn constant(text: &str) -> Transform {
        let sample = super::sample::of_text().into();
        Transform::Replace(Arc::new(Replacement { with: Some(text.to_owned()), sample }))
    }

    /// For documents of which nothing is kept.
    pub(super) fn redacting() -> Transform {
        Transform::Json(Arc::new(JsonMask {
            paths: Vec::new(),
            unlisted: super::rules::UnlistedLeaf::Redact,
            redacted: super::sample::of_text().into(),
        }))
    }
}
