//! Numbers that people write: of telephones, cards and bank accounts. Layout stays, check digits are right.
//!
//! What does not look like such a number is masked all the same ([`scrub`]): real columns hold "n/a", names and remarks, and none of it may pass.

use super::key::{DomainKey, Draws, Prf};
use super::masker::{Built, Longest, Mask, MaskError, Properties, until_changed};

/// Words in a telephone number that say nothing of its owner; other letters are replaced.
const PHONE_WORDS: [&str; 16] =
    ["e", "ext", "extension", "f", "fax", "h", "home", "m", "mob", "mobile", "p", "phone", "t", "tel", "w", "x"];
/// Digits of a card number (ISO/IEC 7812-1).
const CARD_DIGITS: std::ops::RangeInclusive<usize> = 8..=19;
/// Characters of an IBAN after country and check digits (ISO 13616: 30 at most; Norway has 11).
const BBAN_CHARS: std::ops::RangeInclusive<usize> = 11..=30;

/// Appends `value` with every letter and digit replaced by one of its class, or where there is none every character by a digit.
fn scrub(value: &str, draws: &mut Draws<'_>, out: &mut String) {
    match value.chars().any(char::is_alphanumeric) {
        true => value.chars().for_each(|c| draws.of_class(c, out)),
        false => value.chars().for_each(|_| out.push(draws.digit())),
    }
}

pub(super) fn phone(key: &DomainKey) -> Built {
    (Properties::new(Longest::AsInput, false), Box::new(Phone(key.function("phone"))))
}

/// Keeps the length, what is neither letter nor digit, a country code (two digits after a `+` before all digits) or else a
/// first digit 0.
struct Phone(Prf);

impl Mask for Phone {
    fn apply(&self, value: &str, out: &mut String) -> Result<(), MaskError> {
        let kept = match value.chars().find(|c| *c == '+' || c.is_ascii_digit()) {
            Some('+') => 2,
            Some('0') => 1,
            _ => 0,
        };
        let is_phone = value.chars().filter(char::is_ascii_digit).count() > kept;
        until_changed(value, out, |attempt, out| {
            let mut draws = self.0.draws(value.as_bytes(), attempt);
            match is_phone {
                true => write_phone(value, kept, &mut draws, out),
                false => scrub(value, &mut draws, out),
            }
        })
    }
}

/// Appends the number with all digits after the first `kept` replaced.
fn write_phone(value: &str, mut kept: usize, draws: &mut Draws<'_>, out: &mut String) {
    let mut rest = value;
    while let Some(c) = rest.chars().next() {
        if c.is_alphabetic() {
            let end = rest.find(|c: char| !c.is_alphabetic()).unwrap_or(rest.len());
            let (word, after) = rest.split_at(end);
            match PHONE_WORDS.iter().any(|known| known.eq_ignore_ascii_case(word)) {
                true => out.push_str(word),
                false => word.chars().for_each(|c| draws.of_class(c, out)),
            }
            rest = after;
            continue;
        }
        if c.is_ascii_digit() && kept > 0 {
            kept -= 1;
            out.push(c);
        } else {
            draws.of_class(c, out);
        }
        rest = &rest[c.len_utf8()..];
    }
}

pub(super) fn card(key: &DomainKey) -> Built {
    (Properties::new(Longest::AsInput, false), Box::new(Card(key.function("card"))))
}

/// Keeps the first digit, which tells the industry, the number of digits, and separators.
struct Card(Prf);

impl Mask for Card {
    fn apply(&self, value: &str, out: &mut String) -> Result<(), MaskError> {
        let digits = value.bytes().filter(u8::is_ascii_digit).count();
        let is_card =
            CARD_DIGITS.contains(&digits) && value.chars().all(|c| c.is_ascii_digit() || !c.is_alphanumeric());
        until_changed(value, out, |attempt, out| {
            let mut draws = self.0.draws(value.as_bytes(), attempt);
            match is_card {
                true => write_card(value, digits, &mut draws, out),
                false => scrub(value, &mut draws, out),
            }
        })
    }
}

/// Appends another card number in the layout of `value`, which has `count` digits.
fn write_card(value: &str, count: usize, draws: &mut Draws<'_>, out: &mut String) {
    let (mut at, mut luhn) = (0, 0);
    for c in value.chars() {
        let Some(original) = c.to_digit(10) else {
            out.push(c);
            continue;
        };
        let digit = match at {
            0 => original,
            last if last + 1 == count => (10 - luhn % 10) % 10,
            _ => draws.small(10) as u32,
        };
        // Luhn: every second digit counts twice, beginning left of the check digit.
        luhn += match (count - at).is_multiple_of(2) {
            true if digit > 4 => 2 * digit - 9,
            true => 2 * digit,
            false => digit,
        };
        out.push(char::from(b'0' + digit as u8));
        at += 1;
    }
}

pub(super) fn iban(key: &DomainKey) -> Built {
    (Properties::new(Longest::AsInput, false), Box::new(Iban(key.function("iban"))))
}

/// Keeps the country, which of the further characters are letters and which digits, and blanks; written in upper case. Check digits that some countries
/// have within are not minded.
struct Iban(Prf);

impl Mask for Iban {
    fn apply(&self, value: &str, out: &mut String) -> Result<(), MaskError> {
        let compact: String = value.chars().filter(|c| *c != ' ').map(|c| c.to_ascii_uppercase()).collect();
        let is_iban = is_iban(&compact);
        until_changed(value, out, |attempt, out| {
            let mut draws = self.0.draws(value.as_bytes(), attempt);
            match is_iban {
                true => write_iban(value, &compact, &mut draws, out),
                false => scrub(value, &mut draws, out),
            }
        })
    }
}

/// Whether it has the shape of an IBAN: two letters, two digits, then letters and digits.
fn is_iban(compact: &str) -> bool {
    let bytes = compact.as_bytes();
    BBAN_CHARS.contains(&bytes.len().saturating_sub(4))
        && bytes[..2].iter().all(u8::is_ascii_uppercase)
        && bytes[2..4].iter().all(u8::is_ascii_digit)
        && bytes[4..].iter().all(u8::is_ascii_alphanumeric)
}

fn write_iban(value: &str, compact: &str, draws: &mut Draws<'_>, out: &mut String) {
    let country = &compact[..2];
    let mut bban = String::with_capacity(compact.len());
    compact[4..].chars().for_each(|c| draws.of_class(c, &mut bban));
    let check = 98 - remainder_97(&format!("{bban}{country}00"));
    let masked = format!("{country}{check:02}{bban}");
    let mut masked = masked.chars();
    out.extend(value.chars().filter_map(|c| if c == ' ' { Some(' ') } else { masked.next() }));
}

/// The remainder by 97 of the number that ISO 7064 reads in upper-case letters (A is 10) and digits.
fn remainder_97(text: &str) -> u32 {
    text.chars().filter_map(|c| c.to_digit(36)).fold(0, |remainder, digit| match digit {
        0..=9 => (remainder * 10 + digit) % 97,
        _ => (remainder * 100 + digit) % 97,
    })
}

#[cfg(test)]
mod tests {
    use super::super::MaskingKey;
    use super::*;

    fn masked((_, mask): Built, value: &str) -> String {
        let mut out = String::new();
        mask.apply(value, &mut out).unwrap();
        out
    }

    fn key() -> DomainKey {
        MaskingKey::new(&[7; 32]).unwrap().domain("numbers")
    }

    fn passes_luhn(text: &str) -> bool {
        let digits = text.chars().rev().filter_map(|c| c.to_digit(10));
        let double = |digit: u32| if digit > 4 { 2 * digit - 9 } else { 2 * digit };
        digits.enumerate().map(|(at, digit)| if at % 2 == 1 { double(digit) } else { digit }).sum::<u32>() % 10 == 0
    }

    #[test]
    fn phones_keep_their_layout() {
        for (value, kept) in [
            ("+49 (0)30 1234-5678", "+49 ("),
            ("0171/2345678", "0"),
            ("(0171) 2345678", "(0"),
            ("555-0199 ext. 12", ""),
            ("+1-202-555-0143 x9", "+1-2"),
        ] {
            let masked = masked(phone(&key()), value);
            let layout = |text: &str| text.replace(|c: char| c.is_ascii_digit(), "#");
            assert_eq!(layout(&masked), layout(value));
            assert!(masked.starts_with(kept) && masked != value);
        }
    }

    #[test]
    fn remarks_among_numbers_do_not_pass() {
        for value in ["ask Mary Jones 555", "n/a", "+49", "Märy", "-", "日本", "٣٤٥"] {
            for built in [phone(&key()), card(&key()), iban(&key())] {
                let masked = masked(built, value);
                let words = value.split(|c: char| !c.is_alphanumeric()).filter(|word| word.len() > 2);
                assert!(words.into_iter().all(|word| !masked.contains(word)), "{masked}");
                assert_eq!(masked.chars().count(), value.chars().count());
                assert_ne!(masked, value);
            }
        }
    }

    #[test]
    fn cards_pass_luhn() {
        for value in
            ["4111 1111 1111 1111", "5500-0000-0000-0004", "378282246310005", "1234567890123456789", "40000000"]
        {
            let masked = masked(card(&key()), value);
            assert!(passes_luhn(&masked), "{masked}");
            assert_eq!((masked.len(), &masked[..1]), (value.len(), &value[..1]));
        }
        assert!(passes_luhn("4111 1111 1111 1111") && !passes_luhn("4111 1111 1111 1112"));
    }

    #[test]
    fn ibans_pass_their_check() {
        for value in [
            "DE89 3704 0044 0532 0130 00",
            "gb82west12345698765432",
            "NO9386011117947",
            "MT84MALT011000012345MTLCAST001S",
        ] {
            let masked = masked(iban(&key()), value);
            let compact = masked.replace(' ', "");
            assert_eq!(remainder_97(&format!("{}{}", &compact[4..], &compact[..4])), 1, "{masked}");
            assert!(masked[..2].eq_ignore_ascii_case(&value[..2]));
            let class = |c: char| {
                if c.is_ascii_alphabetic() {
                    'a'
                } else if c == ' ' {
                    ' '
                } else {
                    '0'
                }
            };
            assert!(masked.chars().map(class).eq(value.chars().map(class)));
        }
    }
}
