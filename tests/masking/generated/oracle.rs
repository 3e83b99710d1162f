//! What may have become of a raw value: every promise of every rule, checked on pairs of values without knowing how masks are made.
//!
//! Values are JSON as Postgres writes it: a string holds a type's text, arrays and composites are what `to_json` makes of them. A [`Book`] notes
//! what each mask made of each value, in all tables and databases: the same must become the same, and where it is promised different must differ.

use super::kinds::{Kind, PAIR};
use super::rules::{Keyed, Rule, Spec};
use serde_json::Value;
use std::collections::HashMap;
use std::net::Ipv4Addr;

/// The day of 2000-01-01, from which buckets of days are counted.
const DAY_2000: i64 = 2_451_545;

/// What was made of what, by mask and domain.
#[derive(Default)]
pub struct Book {
    masks: HashMap<String, Page>,
}

struct Page {
    spec: Spec,
    made: HashMap<String, String>,
    made_of: HashMap<String, String>,
}

type Verdict = Result<(), String>;

fn fail(wanted: &str, raw: &str, masked: &str) -> Verdict {
    let shown = |text: &str| text.chars().take(120).collect::<String>();
    Err(format!("{wanted}: {:?} became {:?}", shown(raw), shown(masked)))
}

fn expect(holds: bool, wanted: &str, raw: &str, masked: &str) -> Verdict {
    if holds { Ok(()) } else { fail(wanted, raw, masked) }
}

impl Book {
    /// Whether `rule` may make `masked` of `raw`. Not for rules that need more than one value.
    pub fn check(&mut self, rule: &Rule, kind: &Kind, raw: &Value, masked: &Value) -> Verdict {
        let expect = |holds: bool, wanted: &str| expect(holds, wanted, &raw.to_string(), &masked.to_string());
        match (rule, raw) {
            (Rule::Keep, _) => expect(raw == masked, "it is kept"),
            (Rule::Null, _) => expect(masked.is_null(), "it is NULL"),
            (_, Value::Null) => expect(masked.is_null(), "NULL stays NULL"),
            (Rule::Constant(constant), _) if *kind == Kind::TextArray => {
                expect(constant == "{}" && *masked == Value::Array(vec![]), "it is the constant")
            }
            (Rule::Each(rule), Value::Array(raw)) => {
                let Value::Array(masked) = masked else { return expect(false, "an array stays one") };
                expect(raw.len() == masked.len(), "it has as many elements")?;
                let element = |raw: &Value| if raw.is_array() { Kind::TextArray } else { Kind::Text };
                raw.iter().zip(masked).try_for_each(|(raw, masked)| match element(raw) {
                    Kind::TextArray => self.check(&Rule::Each(rule.clone()), kind, raw, masked),
                    text => self.check(rule, &text, raw, masked),
                })
            }
            (Rule::Fields(rules), Value::Object(_)) => {
                PAIR.iter().zip(rules).try_for_each(|((name, kind), (_, rule))| {
                    // A number of a composite is one in its JSON, too.
                    self.check(rule, kind, &as_text(&raw[*name]), &as_text(&masked[*name]))
                        .map_err(|e| format!("{name}: {e}"))
                })
            }
            (_, Value::String(text)) => match masked {
                Value::String(masked) => self.check_text(rule, kind, text, masked),
                _ => expect(false, "a value stays one"),
            },
            _ => expect(false, "the rule does not fit the value, which is the test's fault"),
        }
    }

    fn check_text(&mut self, rule: &Rule, kind: &Kind, raw: &str, masked: &str) -> Verdict {
        match rule {
            Rule::Constant(constant) => expect(masked == constant, "it is the constant", raw, masked),
            Rule::Redact { first, last } => redacted(kind, *first, *last, raw, masked),
            Rule::Json { .. } => {
                let parse = |text: &str| serde_json::from_str::<Value>(text).map_err(|e| e.to_string());
                self.check_document(rule, &parse(raw)?, &parse(masked)?, &mut Vec::new())
            }
            Rule::Keyed(keyed) => self.check_keyed(keyed, kind, raw, masked),
            _ => Err(format!("{rule:?} is nothing for a single value")),
        }
    }

    fn check_keyed(&mut self, keyed: &Keyed, kind: &Kind, raw: &str, masked: &str) -> Verdict {
        let spec = &keyed.spec;
        if raw.is_empty() || raw == "\\x" {
            return expect(raw == masked, "what is empty stays empty", raw, masked);
        }
        let has_changed = !spec.changes_always() || !raw.eq_ignore_ascii_case(masked);
        expect(has_changed, "it changes", raw, masked)?;
        expect(looks_right(spec, kind, raw, masked), spec.name(), raw, masked)?;
        // What is done to a number depends on its type, and a choice of words is none of truths.
        let of_type = matches!(spec, Spec::Noise(_) | Spec::Bucket(_) | Spec::Choice(_)).then_some(kind);
        let name = format!("{} {spec:?} {of_type:?}", keyed.domain);
        let new = || Page { spec: spec.clone(), made: HashMap::new(), made_of: HashMap::new() };
        let page = self.masks.entry(name).or_insert_with(new);
        let whole = |text: &str| match (spec, kind) {
            (Spec::Int(..), Kind::Numeric(..)) => text.split('.').next().unwrap_or_default().to_owned(),
            _ => text.to_owned(),
        };
        let (raw, masked) = (whole(raw), whole(masked));
        let before = page.made.insert(raw.clone(), masked.clone()).unwrap_or_else(|| masked.clone());
        expect(
            before == masked,
            &format!("the same becomes the same in {}, {before:?} before", keyed.domain),
            &raw,
            &masked,
        )?;
        let of = page.made_of.insert(masked.clone(), raw.clone()).unwrap_or_else(|| raw.clone());
        expect(of == raw || !spec.is_unique(), &format!("different stays different, of {of:?}, too"), &raw, &masked)
    }

    fn check_document(&mut self, rule: &Rule, raw: &Value, masked: &Value, at: &mut Vec<Step>) -> Verdict {
        let Rule::Json { paths, keeps_rest } = rule else { return Err("no rule for documents".to_owned()) };
        if let Some((path, rule)) = paths.iter().find(|(path, _)| leads(&steps(path), at)) {
            return self.check_leaves(rule, raw, masked).map_err(|e| format!("{path}: {e}"));
        }
        let expect = |holds: bool, wanted: &str| expect(holds, wanted, &raw.to_string(), &masked.to_string());
        match (raw, masked) {
            (Value::Object(members), Value::Object(others)) => {
                expect(members.keys().eq(others.keys()), "a document keeps its keys")?;
                members.iter().try_for_each(|(key, raw)| {
                    at.push(Step::Key(key.clone()));
                    let verdict = self.check_document(rule, raw, &others[key], at);
                    at.pop();
                    verdict
                })
            }
            (Value::Array(elements), Value::Array(others)) => {
                expect(elements.len() == others.len(), "a list stays as long")?;
                elements.iter().zip(others).try_for_each(|(raw, masked)| {
                    at.push(Step::Element);
                    let verdict = self.check_document(rule, raw, masked, at);
                    at.pop();
                    verdict
                })
            }
            _ if *keeps_rest => expect(raw == masked, "what no path leads to is kept"),
            (Value::String(_), _) => expect(*masked == "", "what no path leads to is emptied"),
            (Value::Number(_), _) => expect(*masked == 0, "what no path leads to is 0"),
            (Value::Bool(_), _) => expect(*masked == false, "what no path leads to is false"),
            _ => expect(raw == masked, "null stays null"),
        }
    }

    fn check_leaves(&mut self, rule: &Rule, raw: &Value, masked: &Value) -> Verdict {
        match (raw, masked) {
            (Value::Object(members), Value::Object(others)) => {
                members.iter().try_for_each(|(key, raw)| self.check_leaves(rule, raw, &others[key]))
            }
            (Value::Array(elements), Value::Array(others)) => {
                elements.iter().zip(others).try_for_each(|(raw, masked)| self.check_leaves(rule, raw, masked))
            }
            _ => self.check(rule, &Kind::Text, &as_text(raw), &as_text(masked)),
        }
    }

    /// What can be said only when all values were seen.
    pub fn finish(&self) -> Verdict {
        for (name, page) in &self.masks {
            let changed = page.made.iter().filter(|(raw, masked)| raw != masked).count();
            if page.spec.changes_mostly() && page.made.len() >= 8 && 2 * changed < page.made.len() {
                return Err(format!("{name} leaves most values as they are"));
            }
            if page.spec == Spec::Ip {
                neighbours_stay(page)?;
            }
        }
        Ok(())
    }

    /// Values whose masks were looked at.
    pub fn count(&self) -> usize {
        self.masks.values().map(|page| page.made.len()).sum()
    }
}

fn as_text(value: &Value) -> Value {
    match value {
        Value::Number(number) => number.to_string().into(),
        Value::Bool(truth) => truth.to_string().into(),
        other => other.clone(),
    }
}

/// Two addresses have as many first bits in common as before.
fn neighbours_stay(page: &Page) -> Verdict {
    let parse =
        |(raw, masked): (&String, &String)| Some((raw.parse::<Ipv4Addr>().ok()?, masked.parse::<Ipv4Addr>().ok()?));
    let all: Vec<(Ipv4Addr, Ipv4Addr)> = page.made.iter().filter_map(parse).take(150).collect();
    let common = |one: Ipv4Addr, other: Ipv4Addr| (one.to_bits() ^ other.to_bits()).leading_zeros();
    for (number, (raw, masked)) in all.iter().enumerate() {
        for (other_raw, other_masked) in &all[..number] {
            let holds = common(*raw, *other_raw) == common(*masked, *other_masked);
            expect(
                holds,
                "neighbours stay neighbours",
                &format!("{raw} {other_raw}"),
                &format!("{masked} {other_masked}"),
            )?;
        }
    }
    Ok(())
}

fn redacted(kind: &Kind, first: usize, last: usize, raw: &str, masked: &str) -> Verdict {
    let wanted = match kind {
        _ if kind.is_text() => {
            let count = raw.chars().count();
            let (first, last) = if first + last < count { (first, last) } else { (0, 0) };
            let star = |(at, c): (usize, char)| if at < first || at >= count - last { c } else { '*' };
            raw.chars().enumerate().map(star).collect()
        }
        Kind::Bytea => format!("\\x{}", "0".repeat(raw.len() - 2)),
        Kind::Numeric(_, 2) => "0.00".to_owned(),
        Kind::Bool => "false".to_owned(),
        Kind::Uuid => "00000000-0000-0000-0000-000000000000".to_owned(),
        Kind::Inet => "0.0.0.0".to_owned(),
        Kind::Date => "1970-01-01".to_owned(),
        Kind::Timestamptz => "1970-01-01 00:00:00+00".to_owned(),
        Kind::Json | Kind::Jsonb => "null".to_owned(),
        _ => "0".to_owned(),
    };
    expect(masked == wanted, "it is redacted", raw, masked)
}

/// Whether a mask writes such a thing of such a value.
fn looks_right(spec: &Spec, kind: &Kind, raw: &str, masked: &str) -> bool {
    let is_drawn = |text: &str, length: usize| {
        text.len() == length && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    match spec {
        Spec::Email(at) => masked.strip_suffix(&format!("@{at}")).is_some_and(|account| is_drawn(account, 16)),
        Spec::UserName => masked.strip_prefix("user_").is_some_and(|account| is_drawn(account, 16)),
        Spec::Uuid => masked.len() == 36 && &masked[14..15] == "4" && "89ab".contains(&masked[19..20]),
        Spec::Hmac(length) => {
            let digits = if *kind == Kind::Bytea { masked.strip_prefix("\\x") } else { Some(masked) };
            digits.is_some_and(|digits| digits.len() == *length && digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
        }
        Spec::Int(min, max) => {
            let scale = |text: &str| text.find('.').map(|point| text[point..].to_owned());
            let whole = masked.split('.').next().and_then(|whole| whole.parse::<i64>().ok());
            whole.is_some_and(|whole| (*min..=*max).contains(&whole)) && scale(raw) == scale(masked)
        }
        Spec::Fpe(alphabet) => {
            let is_encrypted =
                |c: char| if *alphabet == "digits" { c.is_ascii_digit() } else { c.is_ascii_alphanumeric() };
            let fits = |(raw, masked): (char, char)| is_encrypted(raw) && is_encrypted(masked) || raw == masked;
            raw.chars().count() == masked.chars().count() && raw.chars().zip(masked.chars()).all(fits)
        }
        Spec::Drawn(..) => !masked.trim().is_empty() && !masked.contains(char::is_control),
        Spec::Phone => same_layout(raw, masked),
        Spec::Card => same_layout(raw, masked) && (!is_card(raw) || luhn(masked) == 0),
        Spec::Iban => {
            let is_iban =
                raw.len() >= 19 && raw.chars().all(|c| c.is_ascii_alphanumeric() || c == ' ') && raw.starts_with("DE");
            same_layout(raw, masked) && (!is_iban || remainder_97(masked) == 1)
        }
        Spec::Url => {
            let parts = masked.split_once("://").and_then(|(_, rest)| rest.split_once(".example.com/"));
            parts.is_some_and(|(host, token)| is_drawn(host, 10) && is_drawn(token, 16))
        }
        Spec::Ip => {
            let bits = |text: &str| text.split_once('/').map(|(_, bits)| bits.to_owned());
            bits(raw) == bits(masked) && raw.contains(':') == masked.contains(':')
        }
        Spec::Choice(values) => {
            values.iter().any(|value| value == masked || (*kind == Kind::Bool && masked.starts_with(value.as_str())))
        }
        Spec::DateShift(days) => {
            moments(raw, masked, |from, to, time| (1..=*days).contains(&(from - to).abs()) && time)
        }
        Spec::Bucket(width) if matches!(kind, Kind::Date | Kind::Timestamptz) => {
            moments(raw, masked, |from, to, _| (0..*width).contains(&(from - to)) && (to - DAY_2000) % width == 0)
        }
        Spec::Noise(percent) => {
            numbers(raw, masked, |from, to, slack| (from - to).abs() <= from.abs() * *percent as f64 / 100.0 + slack)
        }
        Spec::Bucket(width) => {
            // Where the type ends the bucket above is taken; a float above 2^53 has no place for each multiple.
            numbers(raw, masked, |from, to, _| {
                from == to || ((from - to).abs() <= *width as f64 && (to % *width as f64 == 0.0 || from.abs() > 9e15))
            })
        }
    }
}

/// As many characters, of the same class at each place.
fn same_layout(raw: &str, masked: &str) -> bool {
    let is_anything = !raw.contains(char::is_alphanumeric);
    let fits = |(raw, masked): (char, char)| is_anything || raw.is_alphanumeric() == masked.is_alphanumeric();
    raw.chars().count() == masked.chars().count() && raw.chars().zip(masked.chars()).all(fits)
}

fn is_card(text: &str) -> bool {
    let digits = text.bytes().filter(u8::is_ascii_digit).count();
    (8..=19).contains(&digits) && text.chars().all(|c| c.is_ascii_digit() || c == ' ')
}

fn luhn(text: &str) -> u32 {
    let digits = text.chars().rev().filter_map(|c| c.to_digit(10)).enumerate();
    digits.map(|(at, digit)| if at % 2 == 1 { digit * 2 / 10 + digit * 2 % 10 } else { digit }).sum::<u32>() % 10
}

fn remainder_97(iban: &str) -> u32 {
    let compact: String = iban.chars().filter(|c| *c != ' ').collect();
    let digits = compact[4..].chars().chain(compact[..4].chars()).filter_map(|c| c.to_digit(36));
    digits.fold(0, |rest, digit| if digit < 10 { (rest * 10 + digit) % 97 } else { (rest * 100 + digit) % 97 })
}

/// Days, and whether the times of day are the same. What has no neighbours stays.
fn moments(raw: &str, masked: &str, holds: impl Fn(i64, i64, bool) -> bool) -> bool {
    if raw.ends_with("infinity") {
        return raw == masked;
    }
    let (Some((from, time)), Some((to, masked_time))) = (day(raw), day(masked)) else { return false };
    holds(from, to, time == masked_time)
}

/// The Julian day (Fliegel and Van Flandern, 1968) of a date with or without a time.
fn day(text: &str) -> Option<(i64, &str)> {
    let (rest, is_before_christ) = text.strip_suffix(" BC").map_or((text, false), |rest| (rest, true));
    let (date, time) = rest.split_once(' ').unwrap_or((rest, ""));
    let mut fields = date.split('-').map(|field| field.parse::<i64>().ok());
    let (year, month, day) = (fields.next()??, fields.next()??, fields.next()??);
    let year = if is_before_christ { 1 - year } else { year };
    let shift = (month - 14) / 12;
    let number = 1461 * (year + 4800 + shift) / 4 + 367 * (month - 2 - 12 * shift) / 12
        - 3 * ((year + 4900 + shift) / 100) / 4
        + day
        - 32_075;
    Some((number, time))
}

/// Numbers, and by how much rounding may have moved one.
fn numbers(raw: &str, masked: &str, holds: impl Fn(f64, f64, f64) -> bool) -> bool {
    let (Ok(from), Ok(to)) = (raw.parse::<f64>(), masked.parse::<f64>()) else { return false };
    if !from.is_finite() {
        return raw == masked;
    }
    let scale = raw.find('.').map_or(0, |point| raw.len() - point - 1);
    let slack = if raw.contains('e') { from.abs() * 1e-9 } else { 0.1_f64.powi(scale as i32) + from.abs() * 1e-9 };
    holds(from, to, slack)
}

/// From a document to a place in it.
#[derive(Clone, Debug, PartialEq)]
enum Step {
    Key(String),
    Element,
    AnyKey,
    Deep,
}

fn steps(path: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut rest = &path[1..];
    while !rest.is_empty() {
        rest = if let Some(after) = rest.strip_prefix("[*]") {
            steps.push(Step::Element);
            after
        } else if let Some((key, after)) = rest.strip_prefix("[\"").and_then(|rest| rest.split_once("\"]")) {
            steps.push(Step::Key(key.to_owned()));
            after
        } else if let Some(after) = rest.strip_prefix(".*") {
            steps.push(Step::AnyKey);
            after
        } else if rest.starts_with("..") {
            steps.push(Step::Deep);
            &rest[1..]
        } else {
            let end = rest[1..].find(['.', '[']).map_or(rest.len(), |end| end + 1);
            steps.push(Step::Key(rest[1..end].to_owned()));
            &rest[end..]
        };
    }
    steps
}

fn leads(path: &[Step], to: &[Step]) -> bool {
    match (path, to) {
        ([], []) => true,
        ([Step::Deep, rest @ ..], _) => (0..to.len()).any(|skipped| leads(rest, &to[skipped..])),
        ([Step::AnyKey, path @ ..], [Step::Key(_), to @ ..]) => leads(path, to),
        ([one, path @ ..], [other, to @ ..]) if one == other => leads(path, to),
        _ => false,
    }
}
