//! Column types, and which rules fit each.

use super::dice::Dice;
use super::rules::{Keyed, Rule, Spec};

/// The types that every generated database has, in a schema of their own.
pub const TYPES: &str = "
    create extension citext schema public;
    create schema kinds;
    create type kinds.mood as enum ('calm mood', 'busy mood', 'dark mood', 'mood of others');
    create domain kinds.word as text check (length(value) < 1000000);
    create domain kinds.code as varchar(40);
    create domain kinds.amount as int4 check (value > -2000000000);
    create type kinds.pair as (label text, \"E-Mail\" varchar(60), number int4, mood kinds.mood);";
pub const MOODS: [&str; 4] = ["calm mood", "busy mood", "dark mood", "mood of others"];
/// The fields of `kinds.pair`.
pub const PAIR: [(&str, Kind); 4] =
    [("label", Kind::Text), ("E-Mail", Kind::Varchar(60)), ("number", Kind::Int4), ("mood", Kind::Mood)];

#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    Text,
    Varchar(usize),
    Char(usize),
    Citext,
    Int2,
    Int4,
    Int8,
    /// Digits, and those after the point.
    Numeric(usize, usize),
    Float8,
    Bool,
    Uuid,
    Inet,
    Date,
    Timestamptz,
    Bytea,
    Json,
    Jsonb,
    TextArray,
    Mood,
    /// Domains.
    Word,
    Code,
    Amount,
    Pair,
}

/// What a rule must go along with, beside the type.
#[derive(Clone, Copy, Default)]
pub struct Wants {
    /// A unique index is over the column.
    pub unique: bool,
    pub not_null: bool,
}

impl Kind {
    pub fn draw(dice: &mut Dice) -> Kind {
        let lengths = [8, 30, 60, 200];
        match dice.below(27) {
            0..=2 => Kind::Text,
            3..=4 => Kind::Varchar(*dice.pick(&lengths)),
            5 => Kind::Char(*dice.pick(&lengths)),
            6 => Kind::Citext,
            7 => Kind::Int2,
            8 => Kind::Int4,
            9 => Kind::Int8,
            10 => Kind::Numeric(10, 2),
            11 => Kind::Numeric(20, 0),
            12 => Kind::Float8,
            13 => Kind::Bool,
            14 => Kind::Uuid,
            15 => Kind::Inet,
            16 => Kind::Date,
            17 => Kind::Timestamptz,
            18 => Kind::Bytea,
            19 => Kind::Json,
            20 => Kind::Jsonb,
            21 => Kind::TextArray,
            22 => Kind::Mood,
            23 => Kind::Word,
            24 => Kind::Code,
            25 => Kind::Amount,
            _ => Kind::Pair,
        }
    }

    pub fn sql(&self) -> String {
        let name = match self {
            Kind::Varchar(length) => return format!("varchar({length})"),
            Kind::Char(length) => return format!("char({length})"),
            Kind::Numeric(digits, scale) => return format!("numeric({digits},{scale})"),
            Kind::Text => "text",
            Kind::Citext => "public.citext",
            Kind::Int2 => "int2",
            Kind::Int4 => "int4",
            Kind::Int8 => "int8",
            Kind::Float8 => "float8",
            Kind::Bool => "bool",
            Kind::Uuid => "uuid",
            Kind::Inet => "inet",
            Kind::Date => "date",
            Kind::Timestamptz => "timestamptz",
            Kind::Bytea => "bytea",
            Kind::Json => "json",
            Kind::Jsonb => "jsonb",
            Kind::TextArray => "text[]",
            Kind::Mood => "kinds.mood",
            Kind::Word => "kinds.word",
            Kind::Code => "kinds.code",
            Kind::Amount => "kinds.amount",
            Kind::Pair => "kinds.pair",
        };
        name.to_owned()
    }

    pub fn is_text(&self) -> bool {
        matches!(self, Kind::Text | Kind::Varchar(_) | Kind::Char(_) | Kind::Citext | Kind::Word | Kind::Code)
    }

    pub fn is_whole(&self) -> bool {
        matches!(self, Kind::Int2 | Kind::Int4 | Kind::Int8 | Kind::Amount)
    }

    /// Characters that it takes.
    pub fn limit(&self) -> Option<usize> {
        match self {
            Kind::Varchar(length) | Kind::Char(length) => Some(*length),
            Kind::Code => Some(40),
            _ => None,
        }
    }

    /// Columns of it can be in a B-tree, short as generated values are there.
    pub fn can_be_unique(&self) -> bool {
        self.is_text() || self.is_whole() || matches!(self, Kind::Uuid | Kind::Inet | Kind::Numeric(..))
    }

    /// One of the rules that fit. `pool` are the masks that columns have in common.
    pub fn rule(&self, dice: &mut Dice, wants: Wants, pool: &[Keyed]) -> Rule {
        if dice.one_in(4) {
            return Rule::Keep;
        }
        let mut fitting: Vec<Rule> = self.rules(dice, pool);
        if !wants.not_null {
            fitting.push(Rule::Null);
        }
        fitting.retain(|rule| !wants.unique || rule.is_unique() || (*rule == Rule::Null && !wants.not_null));
        match fitting.is_empty() {
            true => Rule::Keep,
            false => dice.pick(&fitting).clone(),
        }
    }

    fn rules(&self, dice: &mut Dice, pool: &[Keyed]) -> Vec<Rule> {
        let constant = |value: &str| Rule::Constant(value.to_owned());
        let own = |spec: Spec| Rule::Keyed(Keyed { domain: spec.name().to_owned(), spec, is_declared: false });
        let pooled = |fits: &dyn Fn(&Spec) -> bool| {
            pool.iter().filter(|keyed| fits(&keyed.spec)).cloned().map(Rule::Keyed).collect::<Vec<_>>()
        };
        let redact = Rule::Redact { first: 0, last: 0 };
        let mut rules = vec![Rule::Shuffle];
        match self {
            _ if self.is_text() => {
                let limit = self.limit().unwrap_or(usize::MAX);
                rules = pooled(&|spec| !matches!(spec, Spec::DateShift(_)) && spec.longest().unwrap_or(0) <= limit);
                let (first, last) = (dice.below(3), dice.below(4));
                let choice = ["north side", "süd", ""].map(str::to_owned).to_vec();
                rules.extend([Rule::Redact { first, last }, redact, constant("a\tb\\c"), Rule::Shuffle]);
                rules.extend((limit >= 10).then(|| own(Spec::Choice(choice))));
            }
            Kind::Int2 | Kind::Int4 | Kind::Int8 | Kind::Amount => {
                let most = if *self == Kind::Int2 { i64::from(i16::MAX) } else { i64::from(i32::MAX) };
                rules.extend(pooled(&|spec| matches!(spec, Spec::Int(_, max) if *max <= most)));
                rules.extend([own(Spec::Noise(dice.between(1, 100))), own(Spec::Bucket(dice.between(2, 5000)))]);
                rules.extend([redact, constant("-7")]);
            }
            Kind::Numeric(digits, scale) => {
                rules.extend(pooled(&|spec| matches!(spec, Spec::Int(_, max) if *digits > 10 || *max < 100_000)));
                rules.extend([own(Spec::Noise(dice.between(1, 100))), own(Spec::Bucket(dice.between(2, 50)))]);
                rules.extend([redact, constant(if *scale > 0 { "12.50" } else { "12" })]);
            }
            Kind::Float8 => {
                rules.extend([own(Spec::Noise(dice.between(1, 100))), own(Spec::Bucket(dice.between(2, 50)))]);
                rules.extend([redact, constant("0.5")]);
            }
            Kind::Bool => {
                let choice = ["t", "f"].map(str::to_owned).to_vec();
                rules.extend([redact, constant("true"), own(Spec::Choice(choice))]);
            }
            Kind::Uuid => {
                rules.extend(pooled(&|spec| *spec == Spec::Uuid));
                rules.extend([redact, constant("12345678-1234-4234-8234-123456789012")]);
            }
            Kind::Inet => {
                rules.extend(pooled(&|spec| *spec == Spec::Ip));
                rules.extend([redact, constant("192.0.2.1")]);
            }
            Kind::Date | Kind::Timestamptz => {
                rules.extend(pooled(&|spec| matches!(spec, Spec::DateShift(_))));
                rules.extend([own(Spec::Bucket(dice.between(1, 400))), redact]);
            }
            Kind::Bytea => {
                rules = vec![redact, constant("\\x00ff"), own(Spec::Hmac(2 * dice.between(10, 32) as usize))];
            }
            Kind::Json | Kind::Jsonb => rules = vec![redact, constant("{}"), json(dice, pool), json(dice, pool)],
            Kind::TextArray => {
                let wants = Wants { not_null: true, ..Wants::default() };
                let elements = (0..3).map(|_| Kind::Text.rule(dice, wants, pool));
                let by_element = elements.filter(Rule::is_by_value).map(|rule| Rule::Each(Box::new(rule)));
                rules = by_element.chain([constant("{}"), Rule::Each(Box::new(Rule::Null))]).collect();
            }
            Kind::Mood => {
                let choice = MOODS[..2].iter().map(|mood| (*mood).to_owned()).collect();
                rules.extend([constant(MOODS[0]), own(Spec::Choice(choice))]);
            }
            Kind::Pair => {
                let fields = PAIR.iter().map(|(name, kind)| {
                    let rule = kind.rule(dice, Wants::default(), pool);
                    (*name, if rule.is_by_value() { rule } else { Rule::Keep })
                });
                rules = vec![Rule::Fields(fields.collect())];
            }
            _ => {}
        }
        rules
    }
}

/// Paths that do not lead to the same places, so that their order does not matter.
fn json(dice: &mut Dice, pool: &[Keyed]) -> Rule {
    let wants = Wants { not_null: true, ..Wants::default() };
    let of_text = |dice: &mut Dice| loop {
        let rule = Kind::Text.rule(dice, wants, pool);
        let is_free = rule.keyed().is_none_or(|spec| {
            matches!(spec, Spec::Email(_) | Spec::UserName | Spec::Hmac(_) | Spec::Drawn(..) | Spec::Phone)
        });
        if is_free && rule.is_by_value() {
            return rule;
        }
    };
    let all = ["$.mail", "$.people[*].mail", "$..token", "$[\"odd. key\"]", "$.number", "$.wild.*", "$[*]"];
    let mut paths: Vec<(&'static str, Rule)> = Vec::new();
    for path in all {
        if !dice.one_in(3) {
            paths.push((path, of_text(dice)));
        }
    }
    Rule::Json { paths, keeps_rest: dice.one_in(2) }
}

/// The masks that columns of all databases draw from.
pub fn pool(dice: &mut Dice) -> Vec<Keyed> {
    let locales = ["en", "ar", "de", "fr", "ja", "tr", "zh"];
    let drawn = ["name", "first_name", "last_name", "company", "street", "city"];
    let mut specs = vec![
        ("people", Spec::Email("example.org")),
        ("email", Spec::Email("example.com")),
        ("user_name", Spec::UserName),
        ("uuid", Spec::Uuid),
        ("numbers", Spec::Int(1, 1_000_000_000)),
        ("small numbers", Spec::Int(-3000, 29_000)),
        ("digits", Spec::Fpe("digits")),
        ("letters", Spec::Fpe("alnum")),
        ("hmac", Spec::Hmac(32)),
        ("long hash", Spec::Hmac(20)),
        ("phone", Spec::Phone),
        ("card", Spec::Card),
        ("iban", Spec::Iban),
        ("url", Spec::Url),
        ("ip", Spec::Ip),
        ("days", Spec::DateShift(dice.between(1, 4000))),
        // Of the same domain as another mask.
        ("people", Spec::UserName),
    ];
    for _ in 0..3 {
        let (name, locale): (&&str, &&str) = (dice.pick(&drawn), dice.pick(&locales));
        specs.push(("drawn", Spec::Drawn(name, locale)));
    }
    let mut pool: Vec<Keyed> = Vec::new();
    for (domain, spec) in specs {
        let is_mask_name = domain == spec.name();
        let is_declared = !is_mask_name && dice.one_in(2) && pool.iter().all(|keyed| keyed.domain != domain);
        pool.push(Keyed { domain: domain.to_owned(), spec, is_declared });
    }
    pool
}
