//! What holds of every mask: what its properties promise, what it depends on, and that nothing breaks it.

use super::masker::Unsuitable;
use super::spec::{Alphabet, Locale};
use super::*;
use std::collections::HashSet;

const MANY: u64 = 100_000;

fn key(byte: u8, domain: &str) -> DomainKey {
    MaskingKey::new(&[byte; 32]).unwrap().domain(domain)
}

fn masker(spec: &MaskSpec, ty: &ValueType) -> Masker {
    Masker::new(spec, ty, &key(7, "d")).unwrap_or_else(|error| panic!("{spec:?} on {ty:?}: {error}"))
}

fn apply(masker: &Masker, value: &str) -> String {
    let mut out = String::new();
    masker.apply(value, &mut out).unwrap_or_else(|error| panic!("{masker:?} on {value}: {error}"));
    out
}

fn types() -> Vec<ValueType> {
    use ValueType::*;
    let other = Other("point".to_owned());
    vec![Text, SmallInt, Integer, BigInt, Numeric, Real, Boolean, Uuid, Inet, Date, Timestamp, Bytea, Json, other]
}

/// Every mask that takes one value, some with several parameters.
fn specs() -> Vec<MaskSpec> {
    let simple = ["keep", "redact", "email", "user_name", "phone", "uuid", "ip", "url", "card", "iban", "hmac"];
    let mut specs: Vec<MaskSpec> = simple.iter().map(|name| MaskSpec::simple(name).unwrap()).collect();
    for locale in Locale::ALL {
        specs.extend([MaskSpec::Name { locale }, MaskSpec::FirstName { locale }, MaskSpec::LastName { locale }]);
        specs.extend([MaskSpec::Company { locale }, MaskSpec::Street { locale }, MaskSpec::City { locale }]);
    }
    specs.extend([
        MaskSpec::Constant { value: "x".to_owned() },
        MaskSpec::Redact { keep_first: 1, keep_last: usize::MAX, with: '█' },
        MaskSpec::Int { min: -5000, max: 30_000 },
        MaskSpec::Int { min: i64::MIN, max: i64::MAX },
        MaskSpec::Fpe { alphabet: Alphabet::Digits },
        MaskSpec::Fpe { alphabet: Alphabet::Alnum },
        MaskSpec::Fpe { alphabet: Alphabet::Custom("äöüß日本語".to_owned()) },
        MaskSpec::Hmac { length: 16 },
        MaskSpec::Hmac { length: 64 },
        MaskSpec::DateShift { max_days: 365_250 },
        MaskSpec::Noise { percent: 100.0 },
        MaskSpec::Bucket { width: 7.0 },
        MaskSpec::Bucket { width: 1e15 },
        MaskSpec::Bucket { width: 0.1 + 0.2 },
        MaskSpec::Choice { values: vec!["a".to_owned(), "é".to_owned()] },
    ]);
    specs
}

/// The `number`th of many different values that `spec` on `ty` is made for.
fn sample(spec: &MaskSpec, ty: &ValueType, number: u64) -> String {
    let calendar_day =
        |number: u64| format!("{:04}-{:02}-{:02}", 1 + number / 336, 1 + number / 28 % 12, 1 + number % 28);
    match (spec, ty) {
        (MaskSpec::Phone, _) => format!("+49 30 {number:06}"),
        (MaskSpec::Card, _) => format!("4{number:015}"),
        (MaskSpec::Iban, _) => format!("DE00 {number:018}"),
        (MaskSpec::Url, _) => format!("http://host{}.org/{number}", number % 100),
        (MaskSpec::Email { .. }, _) => format!("user{number}@mail.org"),
        (MaskSpec::Fpe { alphabet: Alphabet::Custom(_) }, _) => {
            (0..12).map(|at| "äöüß日本語".chars().nth((number / 7_u64.pow(at) % 7) as usize).unwrap()).collect()
        }
        (MaskSpec::Fpe { .. }, _) => format!("A-{number:09}"),
        (MaskSpec::Uuid, _) | (_, ValueType::Uuid) => format!("a0eebc99-9c0b-4ef8-bb6d-{number:012x}"),
        (MaskSpec::Ip, _) | (_, ValueType::Inet) if number.is_multiple_of(2) => {
            std::net::Ipv4Addr::from_bits(number as u32 * 977).to_string()
        }
        (MaskSpec::Ip, _) | (_, ValueType::Inet) => {
            format!("{}/64", std::net::Ipv6Addr::from_bits(0x2001_0db8 << 96 | u128::from(number) << 40 | 1))
        }
        (MaskSpec::Int { .. }, _) | (_, ValueType::SmallInt | ValueType::Integer) => {
            (number as i64 % 35_001 - 5000).to_string()
        }
        (_, ValueType::BigInt | ValueType::Real) => (number * 1_000_003).to_string(),
        (_, ValueType::Numeric) => format!("{number}.{:02}", number % 100),
        (_, ValueType::Boolean) => if number.is_multiple_of(2) { "t" } else { "f" }.to_owned(),
        (_, ValueType::Date) => calendar_day(number),
        (_, ValueType::Timestamp) => format!("{} 12:00:00", calendar_day(number)),
        (_, ValueType::Bytea) => format!("\\x{number:08x}"),
        (_, ValueType::Json) => format!("{{\"n\": {number}}}"),
        (_, ValueType::Text | ValueType::Other(_)) => format!("Value {number}"),
    }
}

/// Calls `with` for every mask on every type it fits.
fn each(mut with: impl FnMut(&MaskSpec, &ValueType, &Masker)) {
    for spec in specs() {
        for ty in types() {
            if let Ok(masker) = Masker::new(&spec, &ty, &key(7, "d")) {
                with(&spec, &ty, &masker);
            }
        }
    }
}

fn count_for(spec: &MaskSpec) -> u64 {
    match spec {
        // 14 locales of them, and FF1 is slow without optimization.
        MaskSpec::Name { locale } | MaskSpec::FirstName { locale } | MaskSpec::LastName { locale }
            if *locale != Locale::En =>
        {
            MANY / 50
        }
        MaskSpec::Company { locale } | MaskSpec::Street { locale } | MaskSpec::City { locale }
            if *locale != Locale::En =>
        {
            MANY / 50
        }
        // All there are of the small range.
        MaskSpec::Int { .. } => 35_001,
        _ => MANY,
    }
}

#[test]
fn properties_hold_over_many_values() {
    each(|spec, ty, masker| {
        let properties = masker.properties();
        let mut seen = HashSet::new();
        let mut values = HashSet::new();
        for number in 0..count_for(spec) {
            let value = sample(spec, ty, number);
            let masked = apply(masker, &value);
            if *ty == ValueType::Text {
                let longest = match properties.longest {
                    Longest::AsInput => value.chars().count(),
                    Longest::Chars(chars) => chars,
                };
                assert!(masked.chars().count() <= longest, "{spec:?}: {masked}");
            }
            match properties.changes {
                Changes::Always => assert!(!masked.eq_ignore_ascii_case(&value), "{spec:?} on {ty:?}: {value}"),
                Changes::Never => assert_eq!(masked, value),
                _ => {}
            }
            let is_within = masked.chars().all(|c| c <= properties.widest || value.contains(c));
            assert!(is_within, "{spec:?}: {masked}");
            if properties.unique && values.insert(value) {
                assert!(seen.insert(masked), "{spec:?} on {ty:?}, the {number}th");
            }
        }
    });
}

#[test]
fn masks_depend_on_value_domain_and_key_only() {
    each(|spec, ty, masker| {
        if matches!(
            spec,
            MaskSpec::Keep | MaskSpec::Constant { .. } | MaskSpec::Redact { .. } | MaskSpec::Bucket { .. }
        ) {
            return;
        }
        if *ty == ValueType::Boolean {
            // Two values tell nothing.
            return;
        }
        let all = |masker: &Masker| (0..200).map(|number| apply(masker, &sample(spec, ty, number))).collect::<Vec<_>>();
        let again = Masker::new(spec, ty, &key(7, "d")).unwrap();
        let elsewhere = [Masker::new(spec, ty, &key(7, "e")).unwrap(), Masker::new(spec, ty, &key(8, "d")).unwrap()];
        let here = all(masker);
        assert_eq!(here, all(&again));
        for other in elsewhere {
            let same = here.iter().zip(all(&other)).filter(|(one, other)| *one == other).count();
            // Small lists and coarse results repeat; two choices do in half of all cases.
            assert!(same < 160, "{spec:?} on {ty:?}: {same} of 200");
        }
    });
}

#[test]
fn lists_are_used_whole() {
    for locale in Locale::ALL {
        let distinct = |spec: MaskSpec| {
            let masker = masker(&spec, &ValueType::Text);
            (0..20_000).map(|number| apply(&masker, &format!("{number}"))).collect::<HashSet<_>>().len()
        };
        let list = |list: &[&str]| list.iter().collect::<HashSet<_>>().len();
        let (first, last) = super::names::lists_of(locale);
        assert!(distinct(MaskSpec::FirstName { locale }) * 10 >= list(first) * 6, "{locale:?}");
        assert!(distinct(MaskSpec::LastName { locale }) * 10 >= list(last) * 6, "{locale:?}");
        for spec in [MaskSpec::Company { locale }, MaskSpec::Street { locale }, MaskSpec::City { locale }] {
            assert!(distinct(spec.clone()) > 80, "{spec:?}");
        }
    }
}

#[test]
fn threads_share_a_masker() {
    fn shared<T: Send + Sync>() {}
    shared::<Masker>();
    shared::<DomainKey>();
}

#[test]
fn picks_from_short_lists_never_fail() {
    for locale in Locale::ALL {
        let masker = masker(&MaskSpec::FirstName { locale }, &ValueType::Text);
        for name in super::names::lists_of(locale).0 {
            assert!(!apply(&masker, name).eq_ignore_ascii_case(name));
        }
    }
}

#[test]
fn the_empty_string_stays_empty() {
    each(|_, _, masker| assert_eq!(apply(masker, ""), ""));
}

#[test]
fn no_garbage_breaks_a_mask_or_shows_in_an_error() {
    const PIECES: [&str; 34] = [
        "0",
        "7",
        "-",
        "+",
        ".",
        "e",
        "E308",
        " ",
        ":",
        "/",
        "//",
        "@",
        "\\x",
        "{",
        "}",
        "é",
        "日本",
        "🦀",
        "\u{0}",
        "ß",
        "٣",
        "NaN",
        "infinity",
        " BC",
        "2024-02-30",
        "9999999999999999999999999999999999999999999",
        "::",
        "255.",
        "DE89",
        "x",
        "Q",
        "\u{301}",
        "a0eebc99",
        "1e-400",
    ];
    // Any sequence will do, as long as it is the same in every run.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = |count: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % count
    };
    let mut garbage: Vec<String> =
        (0..600).map(|_| (0..1 + next(12)).map(|_| PIECES[next(PIECES.len())]).collect()).collect();
    garbage.extend(PIECES.map(str::to_owned));
    garbage.extend(["9".repeat(5000), "a1-".repeat(3000), " ".to_owned(), format!("0.{}1", "0".repeat(2000))]);
    each(|spec, ty, masker| {
        for value in &garbage {
            let mut out = "before".to_owned();
            match masker.apply(value, &mut out) {
                Ok(()) => {
                    let same = out["before".len()..].eq_ignore_ascii_case(value);
                    assert!(
                        masker.properties().changes != Changes::Always || !same || value == "\\x",
                        "{spec:?} on {ty:?}"
                    );
                }
                Err(error) => {
                    assert_eq!(out, "before");
                    assert!(value.len() < 8 || !format!("{error} {error:?}").contains(value.as_str()));
                }
            }
            let longest = match masker.properties().longest {
                Longest::AsInput => value.chars().count(),
                Longest::Chars(chars) => chars,
            };
            assert!(
                *ty != ValueType::Text || out.chars().count() - "before".len().min(out.len()) <= longest,
                "{spec:?}: {value}"
            );
        }
    });
}

#[test]
fn what_does_not_fit_is_refused_with_what_would() {
    let refused = |spec: &MaskSpec, ty: &ValueType| Masker::new(spec, ty, &key(7, "d")).unwrap_err();
    let simple = |name: &str| MaskSpec::simple(name).unwrap();
    for (spec, ty, says) in [
        (simple("email"), ValueType::Integer, "the mask email does not fit the type integer; it fits text"),
        (simple("uuid"), ValueType::Bytea, "it fits uuid, text"),
        (simple("phone"), ValueType::Other("citext".to_owned()), "the type citext"),
        (MaskSpec::Email { at: "@a.org".to_owned() }, ValueType::Text, "host name"),
        (MaskSpec::Int { min: 5, max: 1 }, ValueType::Integer, "above max"),
        (MaskSpec::Int { min: 1, max: 999 }, ValueType::Integer, "at least 1000"),
        (MaskSpec::Int { min: 1, max: 40_000 }, ValueType::SmallInt, "-32768 to 32767"),
        (MaskSpec::Fpe { alphabet: Alphabet::Custom("a".to_owned()) }, ValueType::Text, "1 characters"),
        (MaskSpec::Fpe { alphabet: Alphabet::Custom("aba".to_owned()) }, ValueType::Text, "twice"),
        (MaskSpec::Hmac { length: 65 }, ValueType::Text, "16 to 64"),
        (MaskSpec::Hmac { length: 17 }, ValueType::Bytea, "even"),
        (MaskSpec::DateShift { max_days: 0 }, ValueType::Date, "1 to"),
        (MaskSpec::Noise { percent: f64::NAN }, ValueType::Real, "above 0"),
        (MaskSpec::Bucket { width: 0.0 }, ValueType::Real, "must be"),
        (MaskSpec::Bucket { width: 0.5 }, ValueType::Date, "whole number"),
        (MaskSpec::Choice { values: vec![] }, ValueType::Text, "empty"),
    ] {
        let error = refused(&spec, &ty).to_string();
        assert!(error.contains(says), "{error}");
    }
    for name in ["null", "default", "shuffle"] {
        assert!(matches!(refused(&simple(name), &ValueType::Text), Unsuitable::Structural { .. }));
    }
    let sql = MaskSpec::Expression { sql: "1".to_owned() };
    assert_eq!(refused(&sql, &ValueType::Json), Unsuitable::Structural { mask: "expression" });
}

#[test]
fn errors_say_what_was_expected_and_never_the_value() {
    for (spec, ty, value) in [
        (MaskSpec::Uuid, ValueType::Uuid, "Mary Jones"),
        (MaskSpec::Ip, ValueType::Text, "Mary Jones"),
        (MaskSpec::Int { min: 1, max: 1000 }, ValueType::Text, "004217"),
        (MaskSpec::Int { min: 1, max: 1000 }, ValueType::Integer, "421700"),
        (MaskSpec::Fpe { alphabet: Alphabet::Digits }, ValueType::Text, "42170"),
        (MaskSpec::DateShift { max_days: 1 }, ValueType::Date, "Mary Jones"),
        (MaskSpec::Noise { percent: 1.0 }, ValueType::Numeric, "Mary Jones"),
    ] {
        let error = masker(&spec, &ty).apply(value, &mut String::new()).unwrap_err();
        assert!(!format!("{error} {error:?}").contains(value), "{error}");
    }
}

#[test]
fn keys_are_long_enough_and_never_shown() {
    let error = MaskingKey::new(b"hunter2 hunter2").unwrap_err();
    assert_eq!(error, KeyError::TooShort { found: 15, least: 32 });
    assert!(!format!("{error} {error:?}").contains("hunter2"));
    let key = MaskingKey::new(b"hunter2 hunter2 hunter2 hunter2 ").unwrap();
    assert_eq!((key.id().len(), key.id()), (16, key.clone().id()));
    let shown = format!("{key:?} {:?} {:?}", key.domain("d"), masker(&MaskSpec::Uuid, &ValueType::Uuid));
    assert!(!shown.contains("hunter2") && shown.contains("[masking key] [domain key]"), "{shown}");
    assert_ne!(key.domain("a").prf(&[b"ab", b"c"]), key.domain("a").prf(&[b"a", b"bc"]));
}

#[test]
fn equal_hosts_and_equal_meanings_get_equal_masks() {
    let url = masker(&MaskSpec::Url, &ValueType::Text);
    let host = |value: &str| apply(&url, value).split('/').nth(2).unwrap().to_owned();
    assert_eq!(host("https://Shop.example/a"), host("https://me@shop.example:8080/b?c"));
    assert!(apply(&url, "ftp://x.org").starts_with("ftp://") && apply(&url, "secret://x.org").starts_with("https://"));
    let uuid = masker(&MaskSpec::Uuid, &ValueType::Text);
    let plain = apply(&uuid, "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11");
    assert_eq!(plain, apply(&uuid, "{A0EEBC999C0B4EF8BB6D6BB9BD380A11}"));
    assert_eq!((&plain[14..15], "89ab".contains(&plain[19..20])), ("4", true));
    let int = |ty| apply(&masker(&MaskSpec::Int { min: 1, max: 5000 }, &ty), "42");
    assert_eq!(int(ValueType::Integer), int(ValueType::Text));
}

#[test]
fn redaction_keeps_what_it_is_told() {
    let redact =
        |keep_first, keep_last| masker(&MaskSpec::Redact { keep_first, keep_last, with: '*' }, &ValueType::Text);
    assert_eq!(apply(&redact(1, 2), "Grüße"), "G**ße");
    assert_eq!(apply(&redact(3, 2), "Grüße"), "*****");
    let zero = |ty| apply(&masker(&MaskSpec::simple("redact").unwrap(), &ty), "\\xdead");
    assert_eq!(zero(ValueType::Bytea), "\\x0000");
    assert_eq!(
        (zero(ValueType::Json), zero(ValueType::Boolean), zero(ValueType::Real)),
        ("null".into(), "f".into(), "0".into())
    );
}

#[derive(serde::Deserialize, serde::Serialize, Debug, PartialEq)]
struct Column {
    mask: MaskSpec,
}

fn read(toml: &str) -> Result<MaskSpec, toml::de::Error> {
    toml::from_str::<Column>(&format!("mask = {toml}")).map(|column| column.mask)
}

#[test]
fn specs_are_read_from_toml() {
    assert_eq!(read("{ mask = 'email', at = 'a.org' }").unwrap(), MaskSpec::Email { at: "a.org".to_owned() });
    assert_eq!(read("{ mask = 'email' }").unwrap(), MaskSpec::simple("email").unwrap());
    assert_eq!(read("{ mask = 'name', locale = 'zh_tw' }").unwrap(), MaskSpec::Name { locale: Locale::ZhTw });
    assert_eq!(read("{ mask = 'fpe', alphabet = 'alnum' }").unwrap(), MaskSpec::Fpe { alphabet: Alphabet::Alnum });
    assert_eq!(read("{ mask = 'hmac' }").unwrap(), MaskSpec::Hmac { length: 32 });
    assert_eq!(read("{ mask = 'noise', percent = 5 }").unwrap(), MaskSpec::Noise { percent: 5.0 });
    for bad in [
        "{ mask = 'email', att = 'a.org' }",
        "{ mask = 'phone', at = 'a.org' }",
        "{ mask = 'emial' }",
        "{ mask = 'int', min = 1 }",
        "{ mask = 'name', locale = 'xx' }",
    ] {
        assert!(read(bad).is_err(), "{bad}");
    }
}

#[test]
fn specs_come_back_and_are_known_by_name() {
    let structural = ["null", "default", "shuffle"].map(|name| MaskSpec::simple(name).unwrap());
    let written = [MaskSpec::Template { template: "t".to_owned() }, MaskSpec::Expression { sql: "s".to_owned() }];
    for spec in specs().into_iter().chain(structural).chain(written) {
        // What TOML has no room for.
        if matches!(spec, MaskSpec::Redact { keep_last: usize::MAX, .. }) {
            continue;
        }
        let text = toml::to_string(&Column { mask: spec.clone() }).unwrap();
        assert_eq!(toml::from_str::<Column>(&text).unwrap().mask, spec, "{text}");
        assert!(text.contains(&format!("mask = \"{}\"", spec.name())), "{text}");
        assert!(MaskSpec::simple(spec.name()).is_none_or(|simple| simple.name() == spec.name()));
    }
}
