//! One mask for one column: checks a [`MaskSpec`] against the column's type, and dispatches to the families of masks.
//!
//! A mask that promises to change every value ([`Changes::Always`]) goes through [`until_changed`]: where a pick equals the value,
//! ASCII case aside, the next attempt's is taken, so that the result is still a function of value and key.

use super::key::DomainKey;
use super::spec::MaskSpec;
use super::{formats, names, network, numbers, permutation, statistics};
use std::fmt;

/// Picks before [`until_changed`] gives up. A list of two entries equals the value 64 times in a row once in 2^64.
const ATTEMPTS: u32 = 64;

/// The Postgres type that a mask is applied to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ValueType {
    /// `text`, `varchar`, `char`, and what reads and writes like them.
    Text,
    SmallInt,
    Integer,
    BigInt,
    Numeric,
    /// `real` and `double precision`.
    Real,
    Boolean,
    Uuid,
    /// `inet` and `cidr`.
    Inet,
    Date,
    /// `timestamp` and `timestamptz`, in DateStyle ISO.
    Timestamp,
    /// As `bytea_output = hex` writes it.
    Bytea,
    /// `json` and `jsonb`.
    Json,
    /// Any other, by its name: fits [`MaskSpec::Keep`], [`MaskSpec::Constant`] and [`MaskSpec::Choice`] only.
    Other(String),
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::SmallInt => "smallint",
            Self::Integer => "integer",
            Self::BigInt => "bigint",
            Self::Numeric => "numeric",
            Self::Real => "real",
            Self::Boolean => "boolean",
            Self::Uuid => "uuid",
            Self::Inet => "inet",
            Self::Date => "date",
            Self::Timestamp => "timestamp",
            Self::Bytea => "bytea",
            Self::Json => "json",
            Self::Other(name) => name,
        })
    }
}

/// What a mask promises of its results.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Properties {
    /// Of use for [`ValueType::Text`]: whether a `varchar(n)` holds every result.
    pub longest: Longest,
    /// Different values get different masks: surely, or but for a chance of 2^-21 of a clash among 10^9 values (80 bits: n²/2^81).
    /// Values that mean the same, as a UUID in two spellings, count as one.
    pub unique: bool,
    pub changes: Changes,
    /// Equal values get equal masks.
    pub deterministic: bool,
    /// The greatest character of whatever the mask writes that was not in the value: whether a database's encoding holds it.
    pub widest: char,
}

/// Characters of the longest result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Longest {
    /// No longer than the value.
    AsInput,
    Chars(usize),
}

/// Whether results differ from their values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changes {
    /// Each does; for text even when ASCII case is ignored. Only the empty string stays, and the empty `bytea`, `\x`.
    Always,
    /// Some may be equal by chance, or where nothing is to be changed: fixed points of a permutation, infinite dates, an amount of 0.
    AlmostAlways,
    /// None does.
    Never,
}

impl Properties {
    /// Deterministic, changing always, and writing ASCII only; the rest as given.
    pub(super) fn new(longest: Longest, unique: bool) -> Self {
        Self { longest, unique, changes: Changes::Always, deterministic: true, widest: '\u{7f}' }
    }

    pub(super) fn changing(self, changes: Changes) -> Self {
        Self { changes, ..self }
    }

    /// It writes `text`, among others.
    pub(super) fn writing(self, text: &str) -> Self {
        let widest = text.chars().fold(self.widest, char::max);
        Self { widest, ..self }
    }
}

/// Why a mask cannot be used on a column.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsuitable {
    #[error("the mask {mask} does not fit the type {found}; it fits {fits}")]
    Type { mask: &'static str, found: ValueType, fits: String },
    #[error("the mask {mask}: {reason}")]
    Parameter { mask: &'static str, reason: String },
    /// Not for [`Masker`]: the pipeline carries it out.
    #[error("the mask {mask} needs more than one value, and is carried out on whole rows")]
    Structural { mask: &'static str },
}

/// Why a value has no mask. Never holds the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MaskError {
    #[error("a value is not {expected}; mask the column with redact or constant, or correct it in the source")]
    Malformed { expected: &'static str },
    #[error("a value is not between {min} and {max}; widen the range of the mask int")]
    OutOfRange { min: i64, max: i64 },
    #[error(
        "a value has fewer than {least} characters of the alphabet, too few to hide it; mask the column with hmac or redact"
    )]
    TooShort { least: usize },
    #[error("every pick equals the value; give the mask more to choose from")]
    Unchangeable,
}

/// What a family of masks provides: appends the mask of a value that is not empty.
pub(super) trait Mask: Send + Sync {
    fn apply(&self, value: &str, out: &mut String) -> Result<(), MaskError>;

    /// Whether `value` could as well be the mask of another value.
    fn may_write(&self, _value: &str) -> bool {
        false
    }

    /// For a value of more than [`STREAMED`] bytes that is not held as a whole. `None`: this mask needs all of it at once.
    fn stream(&self) -> Option<Box<dyn MaskStream>> {
        None
    }
}

/// Bytes; a value that comes in pieces has more.
pub const STREAMED: usize = 1 << 20;

/// A mask of one long value, piece by piece. What it appends is the same in the end as what [`Masker::apply`] does.
pub trait MaskStream: Send {
    fn push(&mut self, piece: &str, out: &mut String);

    /// The value is complete.
    fn end(&mut self, out: &mut String);
}

/// A mask and what it promises.
pub(super) type Built = (Properties, Box<dyn Mask>);

/// A mask made ready for one column. Shared between threads by reference; applying it locks nothing.
pub struct Masker {
    properties: Properties,
    coincidence: Coincidence,
    mask: Box<dyn Mask>,
}

impl Masker {
    /// Checks `spec` against the type and makes it ready under the key of the column's domain.
    ///
    /// [`MaskSpec::Null`], [`MaskSpec::Default`], [`MaskSpec::Template`], [`MaskSpec::Shuffle`] and [`MaskSpec::Expression`] are carried out by
    /// the pipeline: they are [`Unsuitable::Structural`] here.
    pub fn new(spec: &MaskSpec, ty: &ValueType, key: &DomainKey) -> Result<Masker, Unsuitable> {
        check_type(spec, ty)?;
        let (properties, mask) = match spec {
            MaskSpec::Keep => formats::keep(),
            MaskSpec::Constant { value } => formats::constant(value),
            MaskSpec::Redact { keep_first, keep_last, with } => formats::redact(*keep_first, *keep_last, *with, ty),
            MaskSpec::Uuid => formats::uuid(key),
            MaskSpec::Fpe { alphabet } => formats::fpe(alphabet, key)?,
            MaskSpec::Hmac { length } => formats::hmac(*length, ty, key)?,
            MaskSpec::Email { at } => names::email(at, key)?,
            MaskSpec::UserName => names::user_name(key),
            MaskSpec::Name { locale } => names::name(*locale, key),
            MaskSpec::FirstName { locale } => names::first_name(*locale, key),
            MaskSpec::LastName { locale } => names::last_name(*locale, key),
            MaskSpec::Company { locale } => names::company(*locale, key),
            MaskSpec::Street { locale } => names::street(*locale, key),
            MaskSpec::City { locale } => names::city(*locale, key),
            MaskSpec::Phone => numbers::phone(key),
            MaskSpec::Card => numbers::card(key),
            MaskSpec::Iban => numbers::iban(key),
            MaskSpec::Int { min, max } => permutation::int(*min, *max, ty, key)?,
            MaskSpec::Ip => network::ip(key),
            MaskSpec::Url => network::url(key),
            MaskSpec::DateShift { max_days } => statistics::date_shift(*max_days, ty, key)?,
            MaskSpec::Noise { percent } => statistics::noise(*percent, ty, key)?,
            MaskSpec::Bucket { width } => statistics::bucket(*width, ty)?,
            MaskSpec::Choice { values } => statistics::choice(values, key)?,
            MaskSpec::Null
            | MaskSpec::Default
            | MaskSpec::Template { .. }
            | MaskSpec::Shuffle
            | MaskSpec::Expression { .. } => {
                return Err(Unsuitable::Structural { mask: spec.name() });
            }
        };
        Ok(Masker { properties, coincidence: Coincidence::of(spec), mask })
    }

    /// What can be relied on of every result.
    pub fn properties(&self) -> &Properties {
        &self.properties
    }

    /// For a value of more than [`STREAMED`] bytes, if this mask can do without holding it.
    pub fn stream(&self) -> Option<Box<dyn MaskStream>> {
        self.mask.stream()
    }

    /// What it says of the mask if `value` is met among what it wrote.
    pub fn telling(&self, value: &str) -> Telling {
        // Nothing that it writes is as long as that.
        if matches!(self.properties.longest, Longest::Chars(longest) if value.len() > 4 * longest) {
            return Telling::Surely;
        }
        let perhaps = |is_perhaps: bool| if is_perhaps { Telling::Perhaps } else { Telling::Surely };
        match self.coincidence {
            Coincidence::Always => Telling::No,
            Coincidence::ByChance => Telling::Perhaps,
            Coincidence::OfIpv4 => perhaps(!value.contains(':')),
            Coincidence::FewerDigits(least) => {
                perhaps(value.chars().filter(char::is_ascii_alphanumeric).count() < least)
            }
            Coincidence::OfMask if self.mask.may_write(value) => Telling::No,
            Coincidence::OfMask => Telling::Surely,
        }
    }

    /// Appends the mask of `value`, the text form of what is not NULL, to `out`. The empty string stays empty. On an error `out` is as it was.
    pub fn apply(&self, value: &str, out: &mut String) -> Result<(), MaskError> {
        if value.is_empty() {
            return Ok(());
        }
        let start = out.len();
        self.mask.apply(value, out).inspect_err(|_| out.truncate(start))
    }
}

/// What a raw value says that is met among masked ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Telling {
    /// No mask writes it: it came there raw.
    Surely,
    /// The same, unless it is another value's mask, which a look at the masked column tells.
    Perhaps,
    /// Nothing.
    No,
}

/// When one value's mask may be another value.
enum Coincidence {
    Always,
    ByChance,
    /// IPv6 has room enough.
    OfIpv4,
    /// By chance where a value has fewer characters that are drawn; with as many, 10^9 masks meet one of 10^3 values once in a thousand times.
    FewerDigits(usize),
    OfMask,
}

impl Coincidence {
    fn of(spec: &MaskSpec) -> Coincidence {
        match spec {
            MaskSpec::Keep => Coincidence::Always,
            MaskSpec::Int { .. } | MaskSpec::DateShift { .. } | MaskSpec::Noise { .. } => Coincidence::ByChance,
            MaskSpec::Bucket { .. } | MaskSpec::Choice { .. } => Coincidence::ByChance,
            MaskSpec::Ip => Coincidence::OfIpv4,
            MaskSpec::Phone | MaskSpec::Card | MaskSpec::Iban => Coincidence::FewerDigits(15),
            MaskSpec::Fpe { .. } => Coincidence::FewerDigits(15),
            _ => Coincidence::OfMask,
        }
    }
}

impl fmt::Debug for Masker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Masker").field("properties", &self.properties).finish_non_exhaustive()
    }
}

/// The types a mask fits; `None` is all. Structural masks are told apart later.
fn fits(spec: &MaskSpec) -> Option<&'static [ValueType]> {
    use ValueType::*;
    Some(match spec {
        MaskSpec::Keep | MaskSpec::Constant { .. } | MaskSpec::Choice { .. } => return None,
        MaskSpec::Null | MaskSpec::Default | MaskSpec::Template { .. } => return None,
        MaskSpec::Shuffle | MaskSpec::Expression { .. } => return None,
        MaskSpec::Redact { .. } => {
            &[Text, SmallInt, Integer, BigInt, Numeric, Real, Boolean, Uuid, Inet, Date, Timestamp, Bytea, Json]
        }
        MaskSpec::Uuid => &[Uuid, Text],
        MaskSpec::Hmac { .. } => &[Text, Bytea],
        MaskSpec::Int { .. } => &[SmallInt, Integer, BigInt, Numeric, Text],
        MaskSpec::Ip => &[Inet, Text],
        MaskSpec::DateShift { .. } => &[Date, Timestamp],
        MaskSpec::Noise { .. } => &[SmallInt, Integer, BigInt, Numeric, Real],
        MaskSpec::Bucket { .. } => &[SmallInt, Integer, BigInt, Numeric, Real, Date, Timestamp],
        _ => &[Text],
    })
}

fn check_type(spec: &MaskSpec, ty: &ValueType) -> Result<(), Unsuitable> {
    match fits(spec) {
        Some(types) if !types.contains(ty) => {
            let fits = types.iter().map(ValueType::to_string).collect::<Vec<_>>().join(", ");
            Err(Unsuitable::Type { mask: spec.name(), found: ty.clone(), fits })
        }
        _ => Ok(()),
    }
}

/// Appends what `write` makes of the first attempt whose result differs from `value`, ASCII case aside.
pub(super) fn until_changed(
    value: &str,
    out: &mut String,
    mut write: impl FnMut(u32, &mut String),
) -> Result<(), MaskError> {
    let start = out.len();
    for attempt in 0..ATTEMPTS {
        write(attempt, out);
        if !out[start..].eq_ignore_ascii_case(value) {
            return Ok(());
        }
        out.truncate(start);
    }
    Err(MaskError::Unchangeable)
}
