//! Raw values that passed by, kept to be searched for in what became of them.
//!
//! Of each column those with the smallest hashes among the values that tell something where they are met: the same share of every part of a table,
//! whatever the order and the number of streams, as long as few tell nothing. A value that many rows have, as a country, is nobody's: meeting it elsewhere says
//! nothing. Most values cost a hash and a comparison. In memory only, and never shown.

use super::catalog::Type;
use super::literals::Literals;
use super::masks::Telling;
use super::scan::{SecretKind, searchable};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::{DefaultHasher, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Values that are kept of a column.
const KEPT: usize = 32;
/// Values of a column that tell nothing, looked at until no more are.
const REJECTED: usize = 4096;
/// A value is common that is met so often, and in one of so many rows.
const COMMON: (u64, u64) = (20, 50);
/// Digits from the first to the last that is no zero. With fewer, one of 10^6 numbers or times that are kept elsewhere is met by chance.
const NUMBER_DIGITS: usize = 12;
/// The same of a text without letters.
const TEXT_DIGITS: usize = 9;
/// Bytes.
const SHORTEST_TEXT: usize = 7;
/// Digits of a second's fraction.
const FRACTION_DIGITS: usize = 4;

/// Values of one column, or of one place in a document.
pub(super) struct Sample {
    /// `None`: its values are not searched for.
    pub kind: Option<SecretKind>,
    /// Why not.
    without_kind: &'static str,
    /// It holds what definitions hold anyway.
    is_enum: bool,
    /// The blanks that `char(n)` fills up with are no part of a value.
    is_padded: bool,
    /// It is of whole columns, so that a look at the masked one tells coincidences from leaks.
    is_of_column: bool,
    /// Greatest hash that is still of interest.
    bound: AtomicU64,
    state: Mutex<State>,
    /// Values that went by.
    met: AtomicU64,
    /// What definitions quote, and the column this is of.
    literals: OnceLock<(Arc<Literals>, String)>,
}

/// By hash.
#[derive(Default)]
struct State {
    kept: BTreeMap<u64, Raw>,
    rejected: BTreeSet<u64>,
}

/// A raw value, or its middle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Raw {
    pub text: Box<str>,
    times: u64,
}

impl Sample {
    pub(super) fn of_type(ty: Option<&Type>, is_of_column: bool) -> Sample {
        Sample {
            kind: ty.and_then(kind),
            without_kind: "values of its type are not searched for",
            is_enum: ty.is_some_and(|ty| ty.kind == 'e'),
            is_padded: ty.is_some_and(|ty| ty.name == "bpchar"),
            is_of_column,
            bound: AtomicU64::new(u64::MAX),
            state: Mutex::default(),
            met: AtomicU64::new(0),
            literals: OnceLock::new(),
        }
    }

    /// Of a column whose values are those of a key, and left behind: the key's rule says what may become of them.
    pub(super) fn of_reference() -> Sample {
        Sample { without_kind: "its values are those of the key it refers to", ..Sample::of_type(None, false) }
    }

    /// From here on values are compared with what definitions quote.
    pub(super) fn watch(&self, literals: Arc<Literals>, column: &str) {
        if !self.is_enum {
            // Planned anew: the first plan's values count.
            let _ = self.literals.set((literals, column.to_owned()));
        }
    }

    /// Keeps `value` if it is one of those with the smallest hashes, and tells something where it is met.
    pub(super) fn offer(&self, value: &str, telling: impl FnOnce(&str) -> Telling) {
        self.met.fetch_add(1, Ordering::Relaxed);
        self.offer_part(value, telling);
    }

    /// As [`Sample::offer`], for one of several values of a row.
    pub(super) fn offer_part(&self, value: &str, telling: impl FnOnce(&str) -> Telling) {
        let value = if self.is_padded { value.trim_end_matches(' ') } else { value };
        if let Some((literals, column)) = self.literals.get() {
            literals.meet(value, column);
        }
        let Some(kind) = self.kind.filter(|kind| is_rare(*kind, value)) else { return };
        let mut hasher = DefaultHasher::new();
        hasher.write(value.as_bytes());
        let hash = hasher.finish();
        if hash > self.bound.load(Ordering::Relaxed) {
            return;
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(raw) = state.kept.get_mut(&hash) {
            raw.times += 1;
        } else if !state.rejected.contains(&hash) {
            let is_told = match telling(value) {
                Telling::Surely => true,
                Telling::Perhaps => self.is_of_column,
                Telling::No => false,
            };
            let text = is_told.then(|| searchable(kind, value)).flatten();
            let raw = text.map(|text| Raw { text: text.into(), times: 1 });
            self.bound.store(state.take(hash, raw), Ordering::Relaxed);
        }
    }

    /// Another row goes by, of which several values may be offered.
    pub(super) fn begin_row(&self) {
        self.met.fetch_add(1, Ordering::Relaxed);
    }

    /// Forgets everything: what went by does so once more.
    pub(super) fn clear(&self) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = State::default();
        self.bound.store(u64::MAX, Ordering::Relaxed);
        self.met.store(0, Ordering::Relaxed);
    }

    /// From here on nothing is taken any more: what is looked up and what is searched for are the same.
    pub(super) fn freeze(&self) {
        self.bound.store(0, Ordering::Relaxed);
    }

    /// What was kept, in the order of hashes.
    pub(super) fn values(&self) -> Vec<Raw> {
        let (times, rows) = COMMON;
        let met = self.met.load(Ordering::Relaxed);
        let is_common = |raw: &Raw| raw.times >= times && raw.times * rows > met;
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.kept.values().filter(|raw| !is_common(raw)).cloned().collect()
    }

    /// Why nothing is searched for, if that is so with those values left out that masks have written, too.
    pub(super) fn unsearched(&self, coincidences: &HashSet<String>) -> Option<&'static str> {
        let kept = self.values();
        match () {
            () if kept.iter().any(|raw| !raw.is_coincidence(coincidences)) => None,
            () if self.kind.is_none() => Some(self.without_kind),
            () if self.met.load(Ordering::Relaxed) == 0 => Some("it has no values"),
            () if kept.is_empty() => Some("its values are short or common, and would be met by chance"),
            () => Some("its values are masks of others, too"),
        }
    }
}

impl State {
    /// Takes a value that was not here before, or that it tells nothing. Returns the greatest hash that is still of interest.
    fn take(&mut self, hash: u64, raw: Option<Raw>) -> u64 {
        match raw {
            Some(raw) => drop(self.kept.insert(hash, raw)),
            None => drop(self.rejected.insert(hash)),
        }
        if self.kept.len() > KEPT {
            self.kept.pop_last();
        }
        if self.rejected.len() > REJECTED {
            self.rejected.pop_last();
        }
        let last = |is_full: bool, last: Option<&u64>| if is_full { last.copied() } else { None };
        let kept = last(self.kept.len() == KEPT, self.kept.last_key_value().map(|(hash, _)| hash));
        let rejected = last(self.rejected.len() == REJECTED, self.rejected.last());
        let bound = kept.unwrap_or(u64::MAX).min(rejected.unwrap_or(u64::MAX));
        // Nobody asks for those beyond it any more.
        self.rejected.split_off(&bound.saturating_add(1));
        bound
    }
}

impl Raw {
    /// Whether it was found among what masks wrote, so that meeting it again says nothing.
    pub(super) fn is_coincidence(&self, coincidences: &HashSet<String>) -> bool {
        self.spellings().any(|spelling| coincidences.contains(spelling))
    }

    /// How a column of the same kind may print it: a time has its zone in one type and none in the other.
    pub(super) fn spellings(&self) -> impl Iterator<Item = &str> {
        [Some(&*self.text), self.text.strip_suffix("+00")].into_iter().flatten()
    }
}

/// Numbers and times of few digits are met by chance: the more rows, the sooner.
fn is_rare(kind: SecretKind, value: &str) -> bool {
    let is_digit = |c: char| c.is_ascii_digit();
    match kind {
        SecretKind::Integer(_) | SecretKind::Numeric | SecretKind::Float => {
            let digits = value.split('e').next().unwrap_or_default().trim_matches(|c: char| c == '0' || !is_digit(c));
            digits.chars().filter(|c| is_digit(*c)).count() >= NUMBER_DIGITS
        }
        SecretKind::Timestamp => {
            let fraction = value.split_once('.').map_or("", |(_, rest)| rest);
            fraction.chars().take_while(|c| is_digit(*c)).count() >= FRACTION_DIGITS
        }
        SecretKind::Text if value.len() < SHORTEST_TEXT => false,
        SecretKind::Text if !value.chars().any(char::is_alphabetic) => {
            value.chars().filter(|c| is_digit(*c)).count() >= TEXT_DIGITS
        }
        _ => true,
    }
}

/// How values of a type lie on disk. Those of two and four bytes are met everywhere by coincidence.
fn kind(ty: &Type) -> Option<SecretKind> {
    Some(match ty.name.as_str() {
        "text" | "varchar" | "bpchar" | "name" | "citext" | "json" | "jsonb" | "xml" => SecretKind::Text,
        "int8" => SecretKind::Integer(8),
        "numeric" => SecretKind::Numeric,
        "uuid" => SecretKind::Uuid,
        "inet" | "cidr" => SecretKind::Inet,
        "timestamp" | "timestamptz" => SecretKind::Timestamp,
        // Too common to be searched for: the scan says so.
        "date" => SecretKind::Date,
        "bytea" => SecretKind::Bytea,
        "float8" => SecretKind::Float,
        _ => return None,
    })
}

/// For tests: values of a text.
#[cfg(test)]
pub(super) fn of_text() -> Sample {
    Sample { kind: Some(SecretKind::Text), ..Sample::of_type(None, true) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(sample: &Sample) -> Vec<Box<str>> {
        sample.values().into_iter().map(|raw| raw.text).collect()
    }

    #[test]
    fn the_same_values_are_kept_in_whatever_order_they_come() {
        let (forth, back) = (of_text(), of_text());
        (0..10_000).for_each(|number| forth.offer(&format!("value {number}"), |_| Telling::Surely));
        (0..10_000).rev().for_each(|number| back.offer(&format!("value {number}"), |_| Telling::Surely));
        assert_eq!(forth.values(), back.values());
        assert_eq!(forth.values().len(), KEPT);
    }

    #[test]
    fn duplicates_and_untelling_values_take_no_place() {
        let sample = of_text();
        (0..10).for_each(|_| sample.offer("the twin", |_| Telling::Surely));
        sample.offer("", |_| Telling::Surely);
        sample.offer("brief", |_| Telling::Surely);
        sample.offer("555-0123", |_| Telling::Surely);
        sample.offer("commonplace", |_| Telling::No);
        assert_eq!(texts(&sample), ["the twin".into()]);
    }

    #[test]
    fn of_a_long_value_its_middle_is_kept() {
        let sample = of_text();
        sample.offer(&format!("{}Middle Name{}", "a ".repeat(100_000), "b ".repeat(100_000)), |_| Telling::Surely);
        let [kept] = &texts(&sample)[..] else { panic!("one value was offered") };
        assert!(kept.len() < 300 && kept.contains("Middle Name"), "{kept}");
    }

    #[test]
    fn numbers_and_times_that_others_have_by_chance_are_not_kept() {
        let rare = |kind, value| is_rare(kind, value);
        assert!(!rare(SecretKind::Integer(8), "1700000000"));
        assert!(!rare(SecretKind::Integer(8), "120000000000000000"));
        assert!(rare(SecretKind::Integer(8), "-881234567891"));
        assert!(rare(SecretKind::Numeric, "0012345678.9012"));
        assert!(!rare(SecretKind::Float, "1.5e+100"));
        assert!(!rare(SecretKind::Timestamp, "2024-03-01 10:11:12.5+00"));
        assert!(rare(SecretKind::Timestamp, "2024-03-01 10:11:12.512346+00"));
    }

    #[test]
    fn what_is_not_searched_for_says_why() {
        let none = HashSet::new();
        let sample = of_text();
        assert_eq!(Sample::of_type(None, true).unsearched(&none), Some("values of its type are not searched for"));
        assert_eq!(sample.unsearched(&none), Some("it has no values"));
        sample.offer("brief", |_| Telling::Surely);
        assert!(sample.unsearched(&none).unwrap().contains("short"));
        sample.offer("+49 30 1234567", |_| Telling::Perhaps);
        assert_eq!(sample.unsearched(&none), None);
        let met = HashSet::from(["+49 30 1234567".to_owned()]);
        assert!(sample.unsearched(&met).unwrap().contains("masks of others"));
        sample.offer("+49 30 7654321", |_| Telling::Surely);
        assert_eq!(sample.unsearched(&met), None);
        sample.freeze();
        sample.offer("too late for this", |_| Telling::Surely);
        assert_eq!(sample.values().len(), 2);
    }

    #[test]
    fn what_many_rows_have_is_nobody_s() {
        let sample = of_text();
        (0..1000).for_each(|_| sample.offer("Liechtenstein", |_| Telling::Surely));
        sample.offer("Rumpelstiltskin", |_| Telling::Surely);
        assert_eq!(texts(&sample), ["Rumpelstiltskin".into()]);
    }

    #[test]
    fn values_that_tell_nothing_are_not_looked_at_forever() {
        let sample = of_text();
        let mut looked_at = 0;
        (0..200_000).for_each(|number| {
            sample.offer(&format!("a name that is on the list {number}"), |_| {
                looked_at += 1;
                Telling::No
            })
        });
        assert!((REJECTED..REJECTED * 10).contains(&looked_at), "{looked_at}");
    }

    #[test]
    fn a_doubtful_value_within_a_document_is_not_kept() {
        let sample = Sample { kind: Some(SecretKind::Text), ..Sample::of_type(None, false) };
        sample.offer("+49 30 1234567", |_| Telling::Perhaps);
        assert_eq!(sample.values(), []);
    }
}
