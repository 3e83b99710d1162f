//! Raw values, in the text form that COPY takes after unescaping. Each is of its column's type and something that its rule can mask.
//!
//! What is masked carries secret words where it is text, and nothing that is kept does.

use super::dice::{Dice, SECRET_LENGTH};
use super::kinds::{Kind, MOODS, PAIR};
use super::rules::{Rule, Spec};

/// What follows a word, or stands for it: what quoting and escaping go wrong at.
const NASTY: [&str; 14] = [
    " two  blanks",
    "\ttab",
    "\nnew line",
    "\r\nreturn",
    " back\\slash \\N \\. \\x41",
    " 'quote' \"double\"",
    " {brace},(comma)[1]",
    " ünïcode ß",
    " 日本語 🙂",
    " e\u{301} \u{200f}",
    " $1 $$ %s",
    " <&amp;>",
    "\u{1}\u{b}\u{7f}",
    " null NULL",
];
/// Values that are corners by themselves; too short to be told from anything.
const CORNERS: [&str; 8] = ["NULL", "\\N", "\\.", "ä", "\"", "\\", "{}", "🙂"];

/// One value that is not NULL.
pub fn value(dice: &mut Dice, kind: &Kind, rule: &Rule) -> String {
    match (kind, rule) {
        (Kind::TextArray, Rule::Each(element)) => array(dice, element),
        (Kind::TextArray, _) => array(dice, if matches!(rule, Rule::Keep) { rule } else { &Rule::Null }),
        (Kind::Pair, Rule::Fields(fields)) => composite(dice, fields),
        (Kind::Pair, _) => composite(dice, &PAIR.map(|(name, _)| (name, rule.clone()))),
        (Kind::Json | Kind::Jsonb, rule) => document(dice, rule),
        _ if kind.is_text() => text(dice, kind.limit().unwrap_or(usize::MAX), rule),
        _ => scalar(dice, kind, rule),
    }
}

/// Whether nothing of it may be found in a masked copy.
fn is_hidden(rule: &Rule) -> bool {
    match rule {
        Rule::Keep | Rule::Shuffle => false,
        Rule::Keyed(keyed) => !matches!(keyed.spec, Spec::Fpe(_)),
        _ => true,
    }
}

fn text(dice: &mut Dice, limit: usize, rule: &Rule) -> String {
    let cut = |text: String| text.chars().take(limit).collect::<String>().trim_end_matches(' ').to_owned();
    match rule.keyed() {
        Some(Spec::Fpe(alphabet)) => return cut(encryptable(dice, alphabet, limit)),
        Some(Spec::Uuid) => return uuid(dice),
        Some(Spec::Int(min, max)) => return dice.between(*min, *max).to_string(),
        Some(Spec::Ip) => return address(dice, false),
        _ => {}
    }
    if dice.one_in(12) {
        return String::new();
    }
    if dice.one_in(12) {
        return (*dice.pick(&CORNERS)).to_owned();
    }
    let layout = match rule.keyed() {
        Some(Spec::Phone) => "+49 (0)30 ########",
        Some(Spec::Card) => "4### #### #### ####",
        Some(Spec::Iban) => "DE## #### #### #### #### ##",
        _ => "",
    };
    if !layout.is_empty() && !dice.one_in(5) {
        return cut(layout.chars().map(|c| if c == '#' { dice.digits(1).remove(0) } else { c }).collect());
    }
    let word = match is_hidden(rule) {
        true if limit >= SECRET_LENGTH => dice.secret(),
        true => dice.word(b"abcdefghijklmnoprstuvwxy0123456789", limit),
        false => format!("kept{}", dice.digits(8)),
    };
    match dice.below(8) {
        0 => cut(word.repeat(limit.min(3000).div_ceil(14))),
        // Too varied to be compressed below a page.
        1 if limit > 1000 => word.clone() + &dice.word(b"abcdefghijklmnoprstuvwxy0123456789", 9000),
        2 if matches!(rule.keyed(), Some(Spec::Url)) => cut(format!("https://{word}.test/{word}?q=1")),
        3..=4 => cut(word + *dice.pick(&NASTY)),
        5 => cut(format!("{word}@mail.test")),
        _ => cut(word),
    }
}

/// Characters of the alphabet, enough of them, and others between.
fn encryptable(dice: &mut Dice, alphabet: &str, limit: usize) -> String {
    let characters: &[u8] = match alphabet {
        "digits" => b"0123456789",
        _ => b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ",
    };
    let length = 6 + dice.below(limit.min(20) - 7);
    let drawn = dice.word(characters, length);
    match limit > 30 && dice.one_in(3) {
        true => format!("№ {}-{}", &drawn[..3], &drawn[3..]),
        false => drawn,
    }
}

fn scalar(dice: &mut Dice, kind: &Kind, rule: &Rule) -> String {
    match kind {
        Kind::Bool => (*dice.pick(&["t", "f"])).to_owned(),
        Kind::Mood => (*dice.pick(&MOODS)).to_owned(),
        Kind::Uuid => uuid(dice),
        Kind::Inet => address(dice, matches!(rule, Rule::Keep | Rule::Shuffle)),
        Kind::Date | Kind::Timestamptz => moment(dice, *kind == Kind::Timestamptz),
        Kind::Bytea => bytes(dice, rule),
        Kind::Float8 => float(dice, rule),
        _ => number(dice, kind, rule),
    }
}

fn number(dice: &mut Dice, kind: &Kind, rule: &Rule) -> String {
    let most = match kind {
        Kind::Int2 => i64::from(i16::MAX),
        Kind::Int8 => 9_000_000_000_000_000,
        Kind::Numeric(10, _) => 99_999_999,
        _ => 1_999_999_999,
    };
    let is_numeric = matches!(kind, Kind::Numeric(..));
    let whole = match rule.keyed() {
        Some(Spec::Int(min, max)) => dice.between(*min, *max),
        _ if is_numeric && dice.one_in(15) => return "NaN".to_owned(),
        // What is redacted is searched for: it must be no number that another column may hold.
        _ if matches!(rule, Rule::Redact { .. }) => dice.between(most / 2, most),
        _ if dice.one_in(10) => 0,
        _ if dice.one_in(10) => most,
        _ if *kind == Kind::Amount => dice.between(-900_000_000, most / 3),
        _ => dice.between(-most, most / 3),
    };
    match kind {
        Kind::Numeric(_, scale @ 1..) if rule.keyed().is_some_and(|spec| matches!(spec, Spec::Int(..))) => {
            format!("{whole}.{}", "0".repeat(*scale))
        }
        Kind::Numeric(_, scale @ 1..) => format!("{whole}.{}", dice.digits(*scale)),
        _ => whole.to_string(),
    }
}

fn float(dice: &mut Dice, rule: &Rule) -> String {
    let corners = ["NaN", "Infinity", "-Infinity", "-0", "0", "1.7976931348623157e+308", "5e-324"];
    match dice.one_in(4) && !matches!(rule, Rule::Redact { .. }) {
        true => (*dice.pick(&corners)).to_owned(),
        false => format!("{}.{}e{}", dice.between(-9999, 9999), dice.digits(9), dice.between(-40, 40)),
    }
}

fn uuid(dice: &mut Dice) -> String {
    let digits = dice.word(b"0123456789abcdef", 32);
    [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]].join("-")
}

/// As `inet` prints it. What is kept is of a network that nothing is masked of.
fn address(dice: &mut Dice, is_kept: bool) -> String {
    let mut octet = || dice.between(0, 255);
    let (a, b, c, d) = (octet(), octet(), octet(), octet());
    match dice.below(6) {
        _ if is_kept => format!("10.{b}.{c}.{d}"),
        0 => format!("2001:db8:{:x}:{:x}::{:x}", 1 + a, 1 + b, 1 + c),
        1 => format!("{}.{b}.{c}.{d}/{}", 100 + a % 100, 8 + d % 24),
        2 => format!("{}.{b}.0.0/16", 100 + a % 100),
        _ => format!("{}.{b}.{c}.{d}", 11 + a % 200),
    }
}

fn moment(dice: &mut Dice, is_timed: bool) -> String {
    if dice.one_in(12) {
        return (*dice.pick(&["infinity", "-infinity"])).to_owned();
    }
    let (month, day) = (dice.between(1, 12), dice.between(1, 28));
    let (year, era) = match dice.below(8) {
        0 => (dice.between(1, 4000), " BC"),
        1 => (dice.between(10_000, 200_000), ""),
        _ => (dice.between(1930, 2025), ""),
    };
    let time = match is_timed {
        true => {
            let (hour, minute, micros) = (dice.between(0, 23), dice.between(0, 59), dice.between(0, 999_999));
            format!(" {hour:02}:{minute:02}:07.{micros:06}+00")
        }
        false => String::new(),
    };
    format!("{year:04}-{month:02}-{day:02}{time}{era}")
}

fn bytes(dice: &mut Dice, rule: &Rule) -> String {
    let word = match is_hidden(rule) {
        true => dice.secret(),
        false => format!("kept{}", dice.digits(8)),
    };
    let hex = |text: &str| text.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
    match dice.below(8) {
        0 => "\\x".to_owned(),
        1 => format!("\\x{}", hex(&word).repeat(400)),
        2 => format!("\\x{}{}", hex(&word), dice.word(b"0123456789abcdef", 6000)),
        _ => format!("\\x00ff{}5c0a", hex(&word)),
    }
}

fn array(dice: &mut Dice, element: &Rule) -> String {
    let elements = |dice: &mut Dice| -> String {
        let count = 1 + dice.below(3);
        let one = |dice: &mut Dice| match dice.one_in(6) {
            true => "NULL".to_owned(),
            false => quoted(&value(dice, &Kind::Text, element), "\\\"", "\\\\"),
        };
        let all: Vec<String> = (0..count).map(|_| one(dice)).collect();
        format!("{{{}}}", all.join(","))
    };
    match dice.below(8) {
        0 => "{}".to_owned(),
        1 => format!("[0:0]={{{}}}", quoted(&value(dice, &Kind::Text, element), "\\\"", "\\\\")),
        2 => {
            let one = elements(dice);
            format!("{{{one},{one}}}")
        }
        _ => elements(dice),
    }
}

fn composite(dice: &mut Dice, fields: &[(&'static str, Rule)]) -> String {
    let field = |((_, kind), (_, rule)): (&(&str, Kind), &(&str, Rule))| match dice.one_in(6) {
        true => String::new(),
        false => quoted(&value(dice, kind, rule), "\"\"", "\\\\"),
    };
    let fields: Vec<String> = PAIR.iter().zip(fields).map(field).collect();
    format!("({})", fields.join(","))
}

/// In double quotes, with what stands for a quote and for a backslash.
fn quoted(text: &str, quote: &str, backslash: &str) -> String {
    format!("\"{}\"", text.replace('\\', backslash).replace('"', quote))
}

fn document(dice: &mut Dice, rule: &Rule) -> String {
    use serde_json::{Value, json};
    let (paths, rest) = match rule {
        Rule::Json { paths, keeps_rest } => (paths.as_slice(), if *keeps_rest { Rule::Keep } else { Rule::Null }),
        other => (&[][..], other.clone()),
    };
    let at = |path: &str| paths.iter().find(|(known, _)| *known == path).map_or(rest.clone(), |(_, rule)| rule.clone());
    let mut leaf = |path: &str| loop {
        // JSON of Postgres has no NUL, and everything else.
        let text = value(dice, &Kind::Text, &at(path));
        if text.len() < 500 || dice.one_in(3) {
            return Value::String(text);
        }
    };
    let people: Vec<Value> =
        (0..3).map(|_| json!({ "mail": leaf("$.people[*].mail"), "token": leaf("$..token"), "none": null })).collect();
    let mut object = json!({
        "mail": leaf("$.mail"), "people": people, "odd. key": leaf("$[\"odd. key\"]"),
        "wild": { "a": leaf("$.wild.*"), "b": [leaf("$.wild.*"), { "c": leaf("$.wild.*") }] },
        "token": { "inner": leaf("$..token") }, "rest": { "deep": [[leaf("rest")], true, null] },
    });
    let top = leaf("$[*]");
    // A whole document is a raw value, too: none may be another's by coincidence.
    let number = json!(dice.between(1_000_000_000, 9_000_000_000));
    object["number"] = number.clone();
    object["rest"]["exact"] = serde_json::from_str("12345678901234567890.10").expect("a number");
    match dice.below(12) {
        0 => json!([top, number, null]),
        1 => json!({}),
        2 => Value::Null,
        3 => json!({ "mail": null, "people": [], "number": number, "wild": "" }),
        _ => object,
    }
    .to_string()
}
