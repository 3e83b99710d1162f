//! Rules as the generator thinks of them: what the rules file says, and by a reading of `config/masking.toml` of its own what each promises.

use toml::{Table, Value};

/// What becomes of a column.
#[derive(Clone, Debug, PartialEq)]
pub enum Rule {
    Keep,
    Null,
    Default,
    Shuffle,
    Constant(String),
    Redact {
        first: usize,
        last: usize,
    },
    Keyed(Keyed),
    /// Text with names of siblings in braces.
    Template(String),
    /// SQL over the masked row.
    Expression(String),
    Each(Box<Rule>),
    /// Of a composite's fields, in their order.
    Fields(Vec<(&'static str, Rule)>),
    Json {
        paths: Vec<(&'static str, Rule)>,
        keeps_rest: bool,
    },
}

/// A mask of single values, and the domain that it has in common with others.
#[derive(Clone, Debug, PartialEq)]
pub struct Keyed {
    pub domain: String,
    pub spec: Spec,
    /// The file has it as `[domain.…]`.
    pub is_declared: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Spec {
    Email(&'static str),
    UserName,
    Uuid,
    Int(i64, i64),
    Fpe(&'static str),
    Hmac(usize),
    /// `name`, `street` and their like, with a locale.
    Drawn(&'static str, &'static str),
    Phone,
    Card,
    Iban,
    Url,
    Ip,
    DateShift(i64),
    Noise(i64),
    Bucket(i64),
    Choice(Vec<String>),
}

impl Spec {
    pub fn name(&self) -> &'static str {
        match self {
            Spec::Email(_) => "email",
            Spec::UserName => "user_name",
            Spec::Uuid => "uuid",
            Spec::Int(..) => "int",
            Spec::Fpe(_) => "fpe",
            Spec::Hmac(_) => "hmac",
            Spec::Drawn(name, _) => name,
            Spec::Phone => "phone",
            Spec::Card => "card",
            Spec::Iban => "iban",
            Spec::Url => "url",
            Spec::Ip => "ip",
            Spec::DateShift(_) => "date_shift",
            Spec::Noise(_) => "noise",
            Spec::Bucket(_) => "bucket",
            Spec::Choice(_) => "choice",
        }
    }

    /// Different values stay different.
    pub fn is_unique(&self) -> bool {
        match self {
            Spec::Hmac(length) => *length >= 20,
            Spec::Email(_) | Spec::UserName | Spec::Uuid | Spec::Int(..) | Spec::Fpe(_) => true,
            Spec::Url | Spec::Ip => true,
            _ => false,
        }
    }

    /// No value that is not empty stays, not even in another case.
    pub fn changes_always(&self) -> bool {
        let is_made_up = matches!(self, Spec::Email(_) | Spec::UserName | Spec::Uuid | Spec::Hmac(_) | Spec::Drawn(..));
        is_made_up || matches!(self, Spec::Phone | Spec::Card | Spec::Iban | Spec::Url)
    }

    /// Most values change.
    pub fn changes_mostly(&self) -> bool {
        self.changes_always() || matches!(self, Spec::Int(..) | Spec::Fpe(_) | Spec::Ip)
    }

    /// Characters that a column must have room for; `None`: as many as the value has.
    pub fn longest(&self) -> Option<usize> {
        match self {
            Spec::Email(at) => Some(17 + at.len()),
            Spec::UserName => Some(21),
            Spec::Uuid => Some(36),
            Spec::Int(..) => Some(11),
            Spec::Hmac(length) => Some(*length),
            Spec::Drawn(..) => Some(150),
            Spec::Url => Some(52),
            Spec::Ip => Some(43),
            Spec::Choice(values) => values.iter().map(|value| value.chars().count()).max(),
            _ => None,
        }
    }

    fn parameters(&self) -> Vec<(&'static str, Value)> {
        match self {
            Spec::Email(at) => vec![("at", (*at).into())],
            Spec::Int(min, max) => vec![("min", (*min).into()), ("max", (*max).into())],
            Spec::Fpe(alphabet) => vec![("alphabet", (*alphabet).into())],
            Spec::Hmac(length) => vec![("length", (*length as i64).into())],
            Spec::Drawn(_, locale) => vec![("locale", (*locale).into())],
            Spec::DateShift(days) => vec![("max_days", (*days).into())],
            Spec::Noise(percent) => vec![("percent", (*percent).into())],
            Spec::Bucket(width) => vec![("width", (*width).into())],
            Spec::Choice(values) => vec![("values", values.clone().into())],
            _ => vec![],
        }
    }

    /// `{ mask = "…", … }`
    pub fn table(&self) -> Table {
        let parameters = self.parameters().into_iter().map(|(name, value)| (name.to_owned(), value));
        [("mask".to_owned(), self.name().into())].into_iter().chain(parameters).collect()
    }
}

impl Rule {
    pub fn keyed(&self) -> Option<&Spec> {
        match self {
            Rule::Keyed(keyed) => Some(&keyed.spec),
            _ => None,
        }
    }

    /// Values of a unique column may be under it. What a default or a NULL does there is another matter.
    pub fn is_unique(&self) -> bool {
        matches!(self, Rule::Keep) || self.keyed().is_some_and(Spec::is_unique)
    }

    /// It makes its value of the raw one alone.
    pub fn is_by_value(&self) -> bool {
        !matches!(self, Rule::Default | Rule::Shuffle | Rule::Template(_) | Rule::Expression(_))
    }

    /// As the file says it.
    pub fn toml(&self) -> Value {
        let single = |key: &str, value: Value| Value::Table([(key.to_owned(), value)].into_iter().collect());
        let mask = |name: &str, parameters: Vec<(&str, Value)>| {
            let all = [("mask", Value::from(name))].into_iter().chain(parameters);
            Value::Table(all.map(|(key, value)| (key.to_owned(), value)).collect())
        };
        let members = |members: &[(&'static str, Rule)]| {
            Value::Table(members.iter().map(|(name, rule)| ((*name).to_owned(), rule.toml())).collect())
        };
        match self {
            Rule::Keep => "keep".into(),
            Rule::Null => "null".into(),
            Rule::Default => "default".into(),
            Rule::Shuffle => "shuffle".into(),
            Rule::Constant(value) => mask("constant", vec![("value", value.clone().into())]),
            Rule::Redact { first: 0, last: 0 } => "redact".into(),
            Rule::Redact { first, last } => {
                mask("redact", vec![("keep_first", (*first as i64).into()), ("keep_last", (*last as i64).into())])
            }
            Rule::Keyed(keyed) => keyed.toml(),
            Rule::Template(text) => mask("template", vec![("template", text.clone().into())]),
            Rule::Expression(sql) => mask("expression", vec![("sql", sql.clone().into())]),
            Rule::Each(rule) => single("each", rule.toml()),
            Rule::Fields(fields) => single("fields", members(fields)),
            Rule::Json { paths, keeps_rest } => {
                let unlisted = if *keeps_rest { "keep" } else { "redact" };
                let rule = [("json".to_owned(), members(paths)), ("unlisted".to_owned(), unlisted.into())];
                Value::Table(rule.into_iter().collect())
            }
        }
    }
}

impl Keyed {
    fn toml(&self) -> Value {
        if self.is_declared {
            return self.domain.clone().into();
        }
        let mut table = self.spec.table();
        if self.domain != self.spec.name() {
            table.insert("domain".to_owned(), self.domain.clone().into());
        }
        Value::Table(table)
    }
}
