//! What the configuration says of a mask: plain data, checked against a column's type by [`super::Masker::new`] only.
//!
//! Serialized, a mask is canonical: every parameter is written, defaults too, so that equal masks hash alike.

use serde::{Deserialize, Deserializer, Serialize};

/// One mask with its parameters. In TOML a table such as `{ mask = "email", at = "example.org" }`; unknown keys are errors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "mask", rename_all = "snake_case", deny_unknown_fields)]
pub enum MaskSpec {
    /// The value itself.
    #[serde(deserialize_with = "no_parameters")]
    Keep,
    /// NULL. Carried out by the pipeline.
    #[serde(deserialize_with = "no_parameters")]
    Null,
    /// The same text everywhere.
    Constant { value: String },
    /// Every character but the first and last few replaced; zero or its like for types that are no text.
    Redact {
        /// Characters.
        #[serde(default)]
        keep_first: usize,
        /// Characters.
        #[serde(default)]
        keep_last: usize,
        #[serde(default = "star")]
        with: char,
    },
    /// The column's default. Carried out by the pipeline.
    #[serde(deserialize_with = "no_parameters")]
    Default,
    /// Other columns' masks put together. Carried out by the pipeline.
    Template { template: String },
    /// `<16 characters>@<at>`, by the exact input: addresses that differ in case or blanks get different masks.
    Email {
        #[serde(default = "example_com")]
        at: String,
    },
    /// First and last name.
    Name {
        #[serde(default)]
        locale: Locale,
    },
    FirstName {
        #[serde(default)]
        locale: Locale,
    },
    LastName {
        #[serde(default)]
        locale: Locale,
    },
    /// `user_<16 characters>`.
    #[serde(deserialize_with = "no_parameters")]
    UserName,
    Company {
        #[serde(default)]
        locale: Locale,
    },
    /// Street with house number.
    Street {
        #[serde(default)]
        locale: Locale,
    },
    City {
        #[serde(default)]
        locale: Locale,
    },
    /// Other digits in the same layout.
    #[serde(deserialize_with = "no_parameters")]
    Phone,
    /// A version 4 UUID.
    #[serde(deserialize_with = "no_parameters")]
    Uuid,
    /// A permutation of the whole numbers from `min` to `max`, both included.
    Int { min: i64, max: i64 },
    /// An address; those that share a prefix share one as long.
    #[serde(deserialize_with = "no_parameters")]
    Ip,
    /// `<scheme>://<10 characters>.example.com/<16 characters>`; one host gets one mask.
    #[serde(deserialize_with = "no_parameters")]
    Url,
    /// A card number that passes Luhn's check.
    #[serde(deserialize_with = "no_parameters")]
    Card,
    /// An IBAN of the same country that passes its check.
    #[serde(deserialize_with = "no_parameters")]
    Iban,
    /// Format-preserving encryption (NIST SP 800-38G, FF1) of the characters of `alphabet`. All others, also upper case where
    /// the alphabet has only lower, stay as they are.
    Fpe { alphabet: Alphabet },
    /// Hexadecimal digits of a keyed hash.
    Hmac {
        /// Digits, 16 to 64.
        #[serde(default = "hmac_length")]
        length: usize,
    },
    /// Whole days earlier or later, never 0.
    DateShift { max_days: u32 },
    /// Up to so many percent more or less.
    Noise { percent: f64 },
    /// The lower bound of the interval of this width; days for dates.
    Bucket { width: f64 },
    /// The column's values in another order. Carried out by the pipeline.
    #[serde(deserialize_with = "no_parameters")]
    Shuffle,
    /// One of these.
    Choice { values: Vec<String> },
    /// Computed by Postgres. Carried out by the pipeline.
    Expression { sql: String },
}

impl MaskSpec {
    /// What it writes are words that people may have as values.
    pub fn writes_words(&self) -> bool {
        matches!(
            self,
            MaskSpec::Name { .. }
                | MaskSpec::FirstName { .. }
                | MaskSpec::LastName { .. }
                | MaskSpec::Company { .. }
                | MaskSpec::Street { .. }
                | MaskSpec::City { .. }
        )
    }

    /// The mask `name` with its defaults; `None` where there is no such mask, or it needs parameters.
    pub fn simple(name: &str) -> Option<MaskSpec> {
        let locale = Locale::default();
        Some(match name {
            "keep" => Self::Keep,
            "null" => Self::Null,
            "redact" => Self::Redact { keep_first: 0, keep_last: 0, with: star() },
            "default" => Self::Default,
            "email" => Self::Email { at: example_com() },
            "name" => Self::Name { locale },
            "first_name" => Self::FirstName { locale },
            "last_name" => Self::LastName { locale },
            "user_name" => Self::UserName,
            "company" => Self::Company { locale },
            "street" => Self::Street { locale },
            "city" => Self::City { locale },
            "phone" => Self::Phone,
            "uuid" => Self::Uuid,
            "ip" => Self::Ip,
            "url" => Self::Url,
            "card" => Self::Card,
            "iban" => Self::Iban,
            "hmac" => Self::Hmac { length: hmac_length() },
            "shuffle" => Self::Shuffle,
            _ => return None,
        })
    }

    /// As the configuration names it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::Null => "null",
            Self::Constant { .. } => "constant",
            Self::Redact { .. } => "redact",
            Self::Default => "default",
            Self::Template { .. } => "template",
            Self::Email { .. } => "email",
            Self::Name { .. } => "name",
            Self::FirstName { .. } => "first_name",
            Self::LastName { .. } => "last_name",
            Self::UserName => "user_name",
            Self::Company { .. } => "company",
            Self::Street { .. } => "street",
            Self::City { .. } => "city",
            Self::Phone => "phone",
            Self::Uuid => "uuid",
            Self::Int { .. } => "int",
            Self::Ip => "ip",
            Self::Url => "url",
            Self::Card => "card",
            Self::Iban => "iban",
            Self::Fpe { .. } => "fpe",
            Self::Hmac { .. } => "hmac",
            Self::DateShift { .. } => "date_shift",
            Self::Noise { .. } => "noise",
            Self::Bucket { .. } => "bucket",
            Self::Shuffle => "shuffle",
            Self::Choice { .. } => "choice",
            Self::Expression { .. } => "expression",
        }
    }
}

/// Where names come from: the crate `fake`'s lists. What a locale has no list of, companies in Welsh say, comes from the English one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Locale {
    #[default]
    En,
    Ar,
    Cy,
    De,
    Fa,
    Fr,
    It,
    Ja,
    Nl,
    /// Brazil's.
    PtBr,
    /// Portugal's.
    Pt,
    Tr,
    /// Simplified characters.
    Zh,
    /// Traditional characters.
    ZhTw,
}

#[cfg(test)]
impl Locale {
    /// All of them.
    pub const ALL: [Locale; 14] = [
        Self::En,
        Self::Ar,
        Self::Cy,
        Self::De,
        Self::Fa,
        Self::Fr,
        Self::It,
        Self::Ja,
        Self::Nl,
        Self::PtBr,
        Self::Pt,
        Self::Tr,
        Self::Zh,
        Self::ZhTw,
    ];
}

/// The characters that [`MaskSpec::Fpe`] encrypts. Written as one of the names, or as the characters themselves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Alphabet {
    /// 0-9
    Digits,
    /// a-z
    Lower,
    /// A-Z
    Upper,
    /// 0-9, a-z, A-Z
    Alnum,
    /// 0-9, a-f
    Hex,
    /// These.
    Custom(String),
}

impl Alphabet {
    /// Its characters in the order of their numerals.
    pub fn characters(&self) -> Vec<char> {
        let (digits, lower, upper) = ('0'..='9', 'a'..='z', 'A'..='Z');
        match self {
            Self::Digits => digits.collect(),
            Self::Lower => lower.collect(),
            Self::Upper => upper.collect(),
            Self::Alnum => digits.chain(lower).chain(upper).collect(),
            Self::Hex => digits.chain('a'..='f').collect(),
            Self::Custom(characters) => characters.chars().collect(),
        }
    }
}

impl From<String> for Alphabet {
    fn from(text: String) -> Self {
        match text.as_str() {
            "digits" => Self::Digits,
            "lower" => Self::Lower,
            "upper" => Self::Upper,
            "alnum" => Self::Alnum,
            "hex" => Self::Hex,
            _ => Self::Custom(text),
        }
    }
}

impl From<Alphabet> for String {
    fn from(alphabet: Alphabet) -> Self {
        match alphabet {
            Alphabet::Digits => "digits".to_owned(),
            Alphabet::Lower => "lower".to_owned(),
            Alphabet::Upper => "upper".to_owned(),
            Alphabet::Alnum => "alnum".to_owned(),
            Alphabet::Hex => "hex".to_owned(),
            Alphabet::Custom(characters) => characters,
        }
    }
}

fn star() -> char {
    '*'
}

/// Reserved for examples (RFC 2606): mail to it reaches nobody.
fn example_com() -> String {
    "example.com".to_owned()
}

fn hmac_length() -> usize {
    32
}

/// serde lets a variant without fields pass with any further key: this one does not.
fn no_parameters<'de, D: Deserializer<'de>>(deserializer: D) -> Result<(), D::Error> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Nothing {}
    Nothing::deserialize(deserializer).map(|Nothing {}| ())
}
