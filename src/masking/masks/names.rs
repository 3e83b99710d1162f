//! Masks that are made up whole: people, companies, places, and the names of accounts.
//!
//! Phrases are templates over the lists of the crate `fake`, of which only the lists are used: the index into them is drawn under
//! the key. So a new version of that crate, if it changes a list, changes masks.

use super::key::{DomainKey, Prf};
use super::masker::{Built, Longest, Mask, MaskError, Properties, Unsuitable, until_changed};
use super::spec::Locale;
use fake::locales::{
    AR_SA, CY_GB, DE_DE, Data, EN, FA_IR, FR_FR, IT_IT, JA_JP, NL_NL, PT_BR, PT_PT, TR_TR, ZH_CN, ZH_TW,
};

/// 80 bits: among 10^9 values two are the same with a chance of 2^-21.
const ACCOUNT_CHARS: usize = 16;
const USER_PREFIX: &str = "user_";
/// House numbers are below.
const HOUSE_NUMBERS: u64 = 1000;
const HOUSE_NUMBER_CHARS: usize = 3;

/// `<16 characters>@<at>`
pub(super) fn email(at: &str, key: &DomainKey) -> Result<Built, Unsuitable> {
    if at.is_empty() || at.contains(|c: char| c == '@' || c.is_whitespace() || c.is_control()) {
        let reason = format!("at is {at:?}, and must be a host name, what stands after the @");
        return Err(Unsuitable::Parameter { mask: "email", reason });
    }
    Ok(account("email", "", &format!("@{at}"), key))
}

/// `user_<16 characters>`
pub(super) fn user_name(key: &DomainKey) -> Built {
    account("user_name", USER_PREFIX, "", key)
}

fn account(kind: &str, before: &str, after: &str, key: &DomainKey) -> Built {
    let longest = Longest::Chars(before.chars().count() + ACCOUNT_CHARS + after.chars().count());
    let account = Account { before: before.to_owned(), after: after.to_owned(), prf: key.function(kind) };
    (Properties::new(longest, true).writing(after), Box::new(account))
}

struct Account {
    before: String,
    after: String,
    prf: Prf,
}

impl Mask for Account {
    fn apply(&self, value: &str, out: &mut String) -> Result<(), MaskError> {
        until_changed(value, out, |attempt, out| {
            out.push_str(&self.before);
            self.prf.draws(value.as_bytes(), attempt).base32(ACCOUNT_CHARS, out);
            out.push_str(&self.after);
        })
    }
}

pub(super) fn name(locale: Locale, key: &DomainKey) -> Built {
    let lists = Lists::of(locale);
    lists.phrases("name", &[lists.name], key)
}

pub(super) fn first_name(locale: Locale, key: &DomainKey) -> Built {
    Lists::of(locale).phrases("first_name", &["{FirstName}"], key)
}

pub(super) fn last_name(locale: Locale, key: &DomainKey) -> Built {
    Lists::of(locale).phrases("last_name", &["{LastName}"], key)
}

pub(super) fn company(locale: Locale, key: &DomainKey) -> Built {
    let lists = Lists::of(locale);
    lists.phrases("company", lists.companies, key)
}

/// Street and house number, in the order of the locale.
pub(super) fn street(locale: Locale, key: &DomainKey) -> Built {
    let lists = Lists::of(locale);
    let template = match locale {
        Locale::En | Locale::Cy | Locale::Fr => format!("{{HouseNumber}} {}", lists.street),
        Locale::Zh | Locale::ZhTw => format!("{}{{HouseNumber}}", lists.street),
        _ => format!("{} {{HouseNumber}}", lists.street),
    };
    lists.phrases("street", &[&template], key)
}

pub(super) fn city(locale: Locale, key: &DomainKey) -> Built {
    let lists = Lists::of(locale);
    lists.phrases("city", &lists.cities, key)
}

/// What a locale offers: lists, and templates that name them.
struct Lists {
    first_names: &'static [&'static str],
    last_names: &'static [&'static str],
    name: &'static str,
    companies: &'static [&'static str],
    company_suffixes: &'static [&'static str],
    street: &'static str,
    street_suffixes: &'static [&'static str],
    cities: [&'static str; 2],
    city_prefixes: &'static [&'static str],
    city_suffixes: &'static [&'static str],
}

impl Lists {
    fn of(locale: Locale) -> Lists {
        match locale {
            Locale::En => Self::of_data::<EN>(),
            Locale::Ar => Self::of_data::<AR_SA>(),
            Locale::Cy => Self::of_data::<CY_GB>(),
            Locale::De => Self::of_data::<DE_DE>(),
            Locale::Fa => Self::of_data::<FA_IR>(),
            Locale::Fr => Self::of_data::<FR_FR>(),
            Locale::It => Self::of_data::<IT_IT>(),
            Locale::Ja => Self::of_data::<JA_JP>(),
            Locale::Nl => Self::of_data::<NL_NL>(),
            Locale::PtBr => Self::of_data::<PT_BR>(),
            Locale::Pt => Self::of_data::<PT_PT>(),
            Locale::Tr => Self::of_data::<TR_TR>(),
            Locale::Zh => Self::of_data::<ZH_CN>(),
            Locale::ZhTw => Self::of_data::<ZH_TW>(),
        }
    }

    fn of_data<L: Data>() -> Lists {
        Lists {
            first_names: L::NAME_FIRST_NAME,
            last_names: L::NAME_LAST_NAME,
            name: L::NAME_TPL,
            companies: L::COMPANY_NAME_TPLS,
            company_suffixes: L::COMPANY_SUFFIX,
            street: L::ADDRESS_STREET_TPL,
            street_suffixes: L::ADDRESS_STREET_SUFFIX,
            cities: [L::ADDRESS_CITY_TPL, L::ADDRESS_CITY_WITH_PREFIX_TPL],
            city_prefixes: L::ADDRESS_CITY_PREFIX,
            city_suffixes: L::ADDRESS_CITY_SUFFIX,
        }
    }

    /// A mask that makes one of `templates`.
    fn phrases(&self, kind: &str, templates: &[&str], key: &DomainKey) -> Built {
        let templates: Vec<Vec<Part>> = templates.iter().map(|template| self.parts(template)).collect();
        let chars = |parts: &Vec<Part>| parts.iter().map(Part::longest).sum();
        let longest = templates.iter().map(chars).max().unwrap_or(0);
        let properties = Properties::new(Longest::Chars(longest), false);
        let properties = templates.iter().flatten().fold(properties, |properties, part| part.written(properties));
        (properties, Box::new(Phrases { templates, prf: key.function(kind) }))
    }

    /// Takes a template such as `{LastName} {FirstName}` apart. A place that is not known stays as text.
    fn parts(&self, template: &str) -> Vec<Part> {
        let mut parts = Vec::new();
        let mut rest = template;
        while let Some((before, place, after)) = next_place(rest) {
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            parts.push(match place {
                "FirstName" => Part::OneOf(self.first_names),
                "LastName" | "Name_1" | "Name_2" | "StreetName" | "CityName" => Part::OneOf(self.last_names),
                "Suffix" => Part::OneOf(self.company_suffixes),
                "StreetSuffix" => Part::OneOf(self.street_suffixes),
                "CityPrefix" => Part::OneOf(self.city_prefixes),
                "CitySuffix" => Part::OneOf(self.city_suffixes),
                "HouseNumber" => Part::HouseNumber,
                unknown => Part::Text(unknown.to_owned()),
            });
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        parts
    }
}

/// The text before the next `{place}`, the place, and what follows.
fn next_place(template: &str) -> Option<(&str, &str, &str)> {
    let (before, from_place) = template.split_once('{')?;
    let (place, after) = from_place.split_once('}')?;
    Some((before, place, after))
}

enum Part {
    Text(String),
    OneOf(&'static [&'static str]),
    HouseNumber,
}

impl Part {
    /// Characters.
    fn longest(&self) -> usize {
        match self {
            Part::Text(text) => text.chars().count(),
            Part::OneOf(list) => list.iter().map(|entry| entry.chars().count()).max().unwrap_or(0),
            Part::HouseNumber => HOUSE_NUMBER_CHARS,
        }
    }

    /// What a mask that writes it promises.
    fn written(&self, properties: Properties) -> Properties {
        match self {
            Part::Text(text) => properties.writing(text),
            Part::OneOf(list) => list.iter().fold(properties, |properties, entry| properties.writing(entry)),
            Part::HouseNumber => properties,
        }
    }
}

struct Phrases {
    templates: Vec<Vec<Part>>,
    prf: Prf,
}

impl Mask for Phrases {
    /// Word by word, in any case and any order: more than it writes, never less.
    fn may_write(&self, value: &str) -> bool {
        let value = value.to_lowercase();
        let words = |text: &'_ str| {
            text.to_lowercase().split(|c: char| !c.is_alphabetic()).map(str::to_owned).collect::<Vec<_>>()
        };
        let has = |word: &String, part: &Part| match part {
            Part::Text(text) => words(text).contains(word),
            Part::OneOf(list) => list.iter().any(|entry| words(entry).contains(word)),
            Part::HouseNumber => false,
        };
        let known = |word: &String| self.templates.iter().flatten().any(|part| has(word, part));
        words(&value).iter().filter(|word| !word.is_empty()).all(known)
    }

    fn apply(&self, value: &str, out: &mut String) -> Result<(), MaskError> {
        until_changed(value, out, |attempt, out| {
            let mut draws = self.prf.draws(value.as_bytes(), attempt);
            let template = match self.templates.as_slice() {
                [only] => only,
                several => &several[draws.below(several.len() as u64) as usize],
            };
            for part in template {
                match part {
                    Part::Text(text) => out.push_str(text),
                    Part::OneOf(list) => out.push_str(draws.pick(list)),
                    Part::HouseNumber => out.push_str(&(1 + draws.below(HOUSE_NUMBERS - 1)).to_string()),
                }
            }
        })
    }
}

/// The lists of a locale's first and last names.
#[cfg(test)]
pub(super) fn lists_of(locale: Locale) -> (&'static [&'static str], &'static [&'static str]) {
    let lists = Lists::of(locale);
    (lists.first_names, lists.last_names)
}
