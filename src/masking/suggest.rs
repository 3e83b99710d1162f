//! What a column without a rule may hold, by its name, its type and a few of its values, and so which mask to begin with.
//!
//! A suggestion is a hint to a person, never a rule: nothing is masked because of it, and without it nothing is let through.

use super::catalog::{Column, Type};

/// A mask to begin with, and why.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Suggestion {
    pub rule: &'static str,
    pub because: &'static str,
}

/// Parts of names, in the order in which they are tried, with the types they are meant for.
const NAMES: &[(&[&str], Family, &str, &str)] = &[
    (&["email", "e_mail", "mail"], Family::Text, "email", "its name speaks of e-mail"),
    (
        &["password", "passwd", "secret", "token", "api_key", "apikey", "private_key"],
        Family::Text,
        "null",
        "its name speaks of a secret",
    ),
    (&["iban"], Family::Text, "iban", "its name speaks of an account"),
    (&["card_number", "cardnumber", "credit_card", "pan"], Family::Text, "card", "its name speaks of a card"),
    (&["phone", "mobile", "fax", "tel"], Family::Text, "phone", "its name speaks of a phone"),
    (&["ip", "ip_address", "remote_addr"], Family::Network, "ip", "its name speaks of an address on the net"),
    (&["ip", "ip_address", "remote_addr"], Family::Text, "ip", "its name speaks of an address on the net"),
    (
        &["first_name", "firstname", "given_name", "forename"],
        Family::Text,
        "first_name",
        "its name speaks of a person's name",
    ),
    (
        &["last_name", "lastname", "surname", "family_name"],
        Family::Text,
        "last_name",
        "its name speaks of a person's name",
    ),
    (
        &["login", "username", "user_name", "nickname", "handle"],
        Family::Text,
        "user_name",
        "its name speaks of a login",
    ),
    (&["company", "employer", "organisation", "organization"], Family::Text, "company", "its name speaks of a company"),
    (&["street", "address", "addr"], Family::Text, "street", "its name speaks of an address"),
    (&["city", "town"], Family::Text, "city", "its name speaks of a place"),
    (&["url", "website", "homepage"], Family::Text, "url", "its name speaks of a URL"),
    (&["name", "full_name", "fullname", "contact"], Family::Text, "name", "its name speaks of a name"),
    (
        &["note", "notes", "comment", "remark", "description", "message", "body"],
        Family::Text,
        "redact",
        "its name speaks of free text",
    ),
    (&["birth", "birthday", "dob", "born"], Family::Date, "date_shift", "its name speaks of a birthday"),
    (&["salary", "income", "wage"], Family::Number, "noise", "its name speaks of income"),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    Text,
    Network,
    Date,
    Number,
    Document,
    Bytes,
    Other,
}

/// `None`: nothing speaks of a person; look at it all the same.
pub(super) fn suggest(column: &Column, ty: Option<&Type>, values: &[String]) -> Option<Suggestion> {
    let family = family(ty);
    by_values(family, values).or_else(|| by_name(&column.name, family)).or_else(|| by_type(family))
}

fn family(ty: Option<&Type>) -> Family {
    match ty.map_or("", |ty| ty.name.as_str()) {
        "text" | "varchar" | "bpchar" | "citext" | "name" => Family::Text,
        "inet" | "cidr" => Family::Network,
        "date" | "timestamp" | "timestamptz" => Family::Date,
        "int2" | "int4" | "int8" | "numeric" | "float4" | "float8" => Family::Number,
        "json" | "jsonb" | "hstore" | "xml" => Family::Document,
        "bytea" => Family::Bytes,
        _ => Family::Other,
    }
}

/// A name has a part if that is one of its words, or several in a row: `work_email`, `workEmail`.
fn by_name(name: &str, family: Family) -> Option<Suggestion> {
    let mut words = String::from("_");
    let mut was_lower = false;
    for c in name.chars() {
        if c.is_uppercase() && was_lower {
            words.push('_');
        }
        was_lower = c.is_lowercase();
        words.extend(c.to_lowercase());
    }
    words.push('_');
    let has = |part: &&str| words.contains(&format!("_{part}_"));
    let (_, _, rule, because) = NAMES.iter().find(|(parts, wanted, ..)| *wanted == family && parts.iter().any(has))?;
    Some(Suggestion { rule, because })
}

/// Most of the values that are there must look alike.
fn by_values(family: Family, values: &[String]) -> Option<Suggestion> {
    let values: Vec<&str> = values.iter().map(|value| value.trim()).filter(|value| !value.is_empty()).collect();
    if family != Family::Text || values.is_empty() {
        return None;
    }
    let most = |looks: fn(&str) -> bool| values.iter().filter(|value| looks(value)).count() * 10 >= values.len() * 7;
    /// How values look, the mask for them, and why.
    type Kind = (fn(&str) -> bool, &'static str, &'static str);
    let kinds: [Kind; 7] = [
        (is_email, "email", "its values look like e-mail addresses"),
        (is_iban, "iban", "its values look like IBANs"),
        (is_card, "card", "its values look like card numbers"),
        (|value| value.parse::<std::net::IpAddr>().is_ok(), "ip", "its values look like addresses on the net"),
        (|value| value.contains("://"), "url", "its values look like URLs"),
        (is_phone, "phone", "its values look like phone numbers"),
        (is_free_text, "redact", "its values look like free text"),
    ];
    kinds.iter().find(|(looks, ..)| most(*looks)).map(|(_, rule, because)| Suggestion { rule, because })
}

fn by_type(family: Family) -> Option<Suggestion> {
    Some(match family {
        Family::Network => Suggestion { rule: "ip", because: "its type is an address on the net" },
        Family::Document => Suggestion { rule: "{ json = {} }", because: "a document may hold anything" },
        Family::Bytes => Suggestion { rule: "null", because: "bytes may hold anything" },
        _ => return None,
    })
}

/// Whether one value, wherever it is, looks like what identifies a person.
pub(super) fn is_personal(value: &str) -> bool {
    let value = value.trim();
    // Patterns and addresses that are there to be written about.
    let is_pattern = value.contains(['%', '*', '^', '\\', '$', '<', '{']);
    let is_example = ["@example.", ".example", ".invalid", ".test"].iter().any(|part| value.contains(part));
    !is_pattern
        && !is_example
        && (is_email(value) || is_iban(value) || is_card(value) || value.starts_with('+') && is_phone(value))
}

fn is_email(value: &str) -> bool {
    let Some((local, host)) = value.split_once('@') else { return false };
    !local.is_empty() && host.contains('.') && !value.contains(char::is_whitespace)
}

/// ISO 13616: 4 characters moved to the end, letters as numbers, remainder 1 by 97.
fn is_iban(value: &str) -> bool {
    let compact: String = value.chars().filter(|c| !c.is_whitespace()).collect();
    if !(15..=34).contains(&compact.len()) || !compact.chars().all(|c| c.is_ascii_alphanumeric()) {
        return false;
    }
    let digits = compact[4..].chars().chain(compact[..4].chars()).map(|c| c.to_digit(36).unwrap_or(0));
    digits.fold(0, |remainder, digit| (remainder * if digit < 10 { 10 } else { 100 } + digit) % 97) == 1
}

/// ISO/IEC 7812: Luhn's sum.
fn is_card(value: &str) -> bool {
    let digits: Vec<u32> = value.chars().filter(|c| !matches!(c, ' ' | '-')).map_while(|c| c.to_digit(10)).collect();
    let double = |digit: u32| if digit * 2 > 9 { digit * 2 - 9 } else { digit * 2 };
    let sum: u32 =
        digits.iter().rev().enumerate().map(|(at, digit)| if at % 2 == 1 { double(*digit) } else { *digit }).sum();
    (13..=19).contains(&digits.len()) && sum.is_multiple_of(10)
}

fn is_phone(value: &str) -> bool {
    let digits = value.chars().filter(char::is_ascii_digit).count();
    let others = value.chars().all(|c| c.is_ascii_digit() || matches!(c, '+' | ' ' | '-' | '/' | '(' | ')' | '.'));
    others && (7..=15).contains(&digits) && value.contains(['+', ' ', '-', '/', '('])
}

fn is_free_text(value: &str) -> bool {
    value.split_whitespace().count() >= 6
}

#[cfg(test)]
mod tests {
    use super::*;

    fn suggestion(name: &str, type_name: &str, values: &[&str]) -> Option<&'static str> {
        let column = Column {
            number: 1,
            name: name.to_owned(),
            type_oid: 1,
            modifier: -1,
            written: type_name.to_owned(),
            not_null: false,
            is_generated: false,
            is_identity: false,
            has_default: false,
        };
        let ty = Type {
            oid: 1,
            schema: "pg_catalog".to_owned(),
            name: type_name.to_owned(),
            kind: 'b',
            base: None,
            base_modifier: -1,
            element: None,
            delimiter: ',',
            fields: vec![],
            has_checks: false,
        };
        let values: Vec<String> = values.iter().map(|value| (*value).to_owned()).collect();
        suggest(&column, Some(&ty), &values).map(|suggestion| suggestion.rule)
    }

    #[test]
    fn names_are_taken_word_by_word() {
        assert_eq!(suggestion("workEmail", "text", &[]), Some("email"));
        assert_eq!(suggestion("shipping_address", "varchar", &[]), Some("street"));
        assert_eq!(suggestion("username", "text", &[]), Some("user_name"));
        assert_eq!(suggestion("filename", "text", &[]), None, "no word of it is name");
        assert_eq!(suggestion("email", "int4", &[]), None);
        assert_eq!(suggestion("dob", "date", &[]), Some("date_shift"));
        assert_eq!(suggestion("tenant", "uuid", &[]), None);
    }

    #[test]
    fn values_speak_louder_than_names() {
        assert_eq!(suggestion("key", "text", &["a@b.de", "c@d.org", "", "unknown"]), None, "only two of three");
        assert_eq!(suggestion("key", "text", &["a@b.de", "c@d.org", "e@f.com", "unknown"]), Some("email"));
        assert_eq!(suggestion("x", "text", &["DE89 3704 0044 0532 0130 00"]), Some("iban"));
        assert_eq!(suggestion("x", "text", &["4111 1111 1111 1111"]), Some("card"));
        assert_eq!(suggestion("x", "text", &["10.0.0.1", "fe80::1"]), Some("ip"));
        assert_eq!(suggestion("x", "text", &["+49 30 1234567"]), Some("phone"));
        assert_eq!(suggestion("name", "text", &["he said that she had left the house"]), Some("redact"));
    }

    #[test]
    fn what_may_hold_anything_is_never_without_a_suggestion() {
        for ty in ["jsonb", "bytea", "inet"] {
            assert!(suggestion("x", ty, &[]).is_some(), "{ty}");
        }
    }
}
