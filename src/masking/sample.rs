//! Raw values that passed by, kept to be searched for in what became of them.
//!
//! Of each column those with the smallest hashes: the same share of every part of a table, duplicates once, whatever the order and the number of
//! streams. Most values cost a hash and a comparison. In memory only, and never shown.

use super::catalog::Type;
use super::literals::Literals;
use super::scan::SecretKind;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Values that are kept of a column.
const KEPT: usize = 32;
/// Longer ones are searched for by their middle anyway.
const LONGEST: usize = 4096;

/// Values of one column, or of one place in a document.
pub(super) struct Sample {
    /// `None`: of a type that is not searched for.
    pub kind: Option<SecretKind>,
    /// Greatest hash that is still of interest.
    bound: AtomicU64,
    kept: Mutex<BTreeMap<u64, Box<str>>>,
    /// What definitions quote, and the column this is of.
    literals: OnceLock<(Arc<Literals>, String)>,
}

impl Sample {
    pub(super) fn of_type(ty: &Type) -> Sample {
        Sample { kind: kind(ty), bound: AtomicU64::new(u64::MAX), kept: Mutex::default(), literals: OnceLock::new() }
    }

    /// From here on values are compared with what definitions quote.
    pub(super) fn watch(&self, literals: Arc<Literals>, column: &str) {
        // Planned anew: the first plan's values count.
        let _ = self.literals.set((literals, column.to_owned()));
    }

    /// Keeps `value` if it is one of those with the smallest hashes and `is_telling`.
    pub(super) fn offer(&self, value: &str, is_telling: impl FnOnce(&str) -> bool) {
        if let Some((literals, column)) = self.literals.get() {
            literals.meet(value, column);
        }
        if self.kind.is_none() || value.is_empty() || value.len() > LONGEST {
            return;
        }
        let mut hasher = DefaultHasher::new();
        hasher.write(value.as_bytes());
        let hash = hasher.finish();
        if hash > self.bound.load(Ordering::Relaxed) || !is_telling(value) {
            return;
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.entry(hash).or_insert_with(|| value.into());
        if kept.len() > KEPT {
            kept.pop_last();
            let greatest = kept.last_key_value().map_or(u64::MAX, |(hash, _)| *hash);
            self.bound.store(greatest, Ordering::Relaxed);
        }
    }

    /// What was kept.
    pub(super) fn values(&self) -> Vec<Box<str>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

/// How values of a type lie on disk. Those of two and four bytes are met everywhere by coincidence.
fn kind(ty: &Type) -> Option<SecretKind> {
    Some(match ty.name.as_str() {
        "text" | "varchar" | "bpchar" | "name" | "citext" | "json" | "jsonb" => SecretKind::Text,
        "int8" => SecretKind::Integer(8),
        "numeric" => SecretKind::Numeric,
        "uuid" => SecretKind::Uuid,
        "inet" | "cidr" => SecretKind::Inet,
        "timestamp" | "timestamptz" => SecretKind::Timestamp,
        // Too common to be searched for: the builder says so.
        "date" => SecretKind::Date,
        "bytea" => SecretKind::Bytea,
        "float8" => SecretKind::Float,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text() -> Sample {
        Sample {
            kind: Some(SecretKind::Text),
            bound: AtomicU64::new(u64::MAX),
            kept: Mutex::default(),
            literals: OnceLock::new(),
        }
    }

    #[test]
    fn the_same_values_are_kept_in_whatever_order_they_come() {
        let (forth, back) = (text(), text());
        (0..10_000).for_each(|number| forth.offer(&format!("value {number}"), |_| true));
        (0..10_000).rev().for_each(|number| back.offer(&format!("value {number}"), |_| true));
        assert_eq!(forth.values(), back.values());
        assert_eq!(forth.values().len(), KEPT);
    }

    #[test]
    fn duplicates_empty_and_untelling_values_take_no_place() {
        let sample = text();
        (0..1000).for_each(|_| sample.offer("twin", |_| true));
        sample.offer("", |_| true);
        sample.offer("commonplace", |_| false);
        assert_eq!(sample.values(), ["twin".into()]);
    }
}
