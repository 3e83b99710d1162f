//! Masks that keep a format and nothing else: encryption within an alphabet, hashes, UUIDs, blanks; and those that leave a value or overwrite it.

use super::key::{DomainKey, Draws, Prf};
use super::masker::{
    Built, Changes, Longest, Mask, MaskError, MaskStream, Properties, STREAMED, Unsuitable, ValueType, until_changed,
};
use super::spec::Alphabet;
use aes::Aes256;
use fpe::ff1::{FF1, FlexibleNumeralString};
use std::collections::{HashMap, VecDeque};
use std::fmt::Write;
use std::ops::RangeInclusive;

/// FF1's least domain (NIST SP 800-38G Rev. 1, 5.2): radix^length.
const LEAST_DOMAIN: u64 = 1_000_000;
/// FF1's radices.
const RADICES: RangeInclusive<usize> = 2..=1 << 16;
/// Numerals encrypted at once: FF1 takes time quadratic in them.
const SEGMENT: usize = 256;
/// Hexadecimal digits of a hash.
const HMAC_LENGTHS: RangeInclusive<usize> = 16..=64;
/// 80 bits: among 10^9 values two hashes are the same with a chance of 2^-21.
const UNIQUE_HMAC: usize = 20;
/// How Postgres begins a `bytea`.
const BYTEA: &str = "\\x";
const NIL_UUID: &str = "00000000-0000-0000-0000-000000000000";

pub(super) fn keep() -> Built {
    (Properties::new(Longest::AsInput, true).changing(Changes::Never), Box::new(Keep))
}

struct Keep;

impl Mask for Keep {
    fn apply(&self, value: &str, out: &mut String) -> Result<(), MaskError> {
        out.push_str(value);
        Ok(())
    }
}

pub(super) fn constant(value: &str) -> Built {
    let properties =
        Properties::new(Longest::Chars(value.chars().count()), false).changing(Changes::AlmostAlways).writing(value);
    (properties, Box::new(Constant(value.to_owned())))
}

struct Constant(String);

impl Mask for Constant {
    fn apply(&self, _value: &str, out: &mut String) -> Result<(), MaskError> {
        out.push_str(&self.0);
        Ok(())
    }
}

/// For text stars, for a `bytea` zeros, for other types their zero.
pub(super) fn redact(keep_first: usize, keep_last: usize, with: char, ty: &ValueType) -> Built {
    let zero = match ty {
        ValueType::Text => {
            let properties = Properties::new(Longest::AsInput, false).changing(Changes::AlmostAlways);
            return (
                properties.writing(with.encode_utf8(&mut [0; 4])),
                Box::new(RedactText { keep_first, keep_last, with }),
            );
        }
        ValueType::Bytea => {
            let properties = Properties::new(Longest::AsInput, false).changing(Changes::AlmostAlways);
            return (properties, Box::new(RedactBytes));
        }
        ValueType::Boolean => "f",
        ValueType::Uuid => NIL_UUID,
        ValueType::Inet => "0.0.0.0",
        ValueType::Date => "1970-01-01",
        ValueType::Timestamp => "1970-01-01 00:00:00",
        ValueType::Json => "null",
        _ => "0",
    };
    constant(zero)
}

#[derive(Clone, Copy)]
struct RedactText {
    keep_first: usize,
    keep_last: usize,
    with: char,
}

impl Mask for RedactText {
    fn apply(&self, value: &str, out: &mut String) -> Result<(), MaskError> {
        let count = value.chars().count();
        let replaced = match self.keep_first.saturating_add(self.keep_last) < count {
            true => self.keep_first..count - self.keep_last,
            false => 0..count,
        };
        out.extend(value.chars().enumerate().map(|(at, c)| if replaced.contains(&at) { self.with } else { c }));
        Ok(())
    }

    fn stream(&self) -> Option<Box<dyn MaskStream>> {
        // More characters than that surely come.
        let keeps_few = self.keep_first.saturating_add(self.keep_last) < STREAMED / 4;
        keeps_few
            .then(|| Box::new(RedactedText { mask: *self, first: 0, last: VecDeque::new() }) as Box<dyn MaskStream>)
    }
}

struct RedactedText {
    mask: RedactText,
    /// Characters that were kept.
    first: usize,
    /// Those that stay if nothing comes after them.
    last: VecDeque<char>,
}

impl MaskStream for RedactedText {
    fn push(&mut self, piece: &str, out: &mut String) {
        let mut rest = piece.chars();
        let kept = rest.by_ref().take(self.mask.keep_first - self.first);
        out.extend(kept.inspect(|_| self.first += 1));
        for c in rest {
            self.last.push_back(c);
            if self.last.len() > self.mask.keep_last {
                self.last.pop_front();
                out.push(self.mask.with);
            }
        }
    }

    fn end(&mut self, out: &mut String) {
        out.extend(self.last.drain(..));
    }
}

struct RedactBytes;

impl Mask for RedactBytes {
    fn apply(&self, value: &str, out: &mut String) -> Result<(), MaskError> {
        let digits = match value.strip_prefix(BYTEA) {
            Some(digits) => digits.len().next_multiple_of(2),
            // `bytea_output = escape`: a byte has one character or more.
            None => 2 * value.len(),
        };
        out.push_str(BYTEA);
        out.extend(std::iter::repeat_n('0', digits));
        Ok(())
    }

    fn stream(&self) -> Option<Box<dyn MaskStream>> {
        Some(Box::new(RedactedBytes::default()))
    }
}

#[derive(Default)]
struct RedactedBytes {
    /// Of the value so far.
    characters: usize,
    /// Digits for each character; once the first ones are known.
    digits: usize,
}

impl MaskStream for RedactedBytes {
    fn push(&mut self, piece: &str, out: &mut String) {
        let mut length = piece.len();
        if self.digits == 0 && length > 0 {
            self.digits = if piece.starts_with(BYTEA) { 1 } else { 2 };
            out.push_str(BYTEA);
            length -= if self.digits == 1 { BYTEA.len() } else { 0 };
        }
        self.characters += length;
        out.extend(std::iter::repeat_n('0', length * self.digits));
    }

    fn end(&mut self, out: &mut String) {
        out.extend(std::iter::repeat_n('0', self.characters * self.digits % 2));
    }
}

pub(super) fn uuid(key: &DomainKey) -> Built {
    (Properties::new(Longest::Chars(NIL_UUID.len()), true), Box::new(Uuid(key.function("uuid"))))
}

struct Uuid(Prf);

impl Mask for Uuid {
    fn apply(&self, value: &str, out: &mut String) -> Result<(), MaskError> {
        let original = uuid_digits(value).ok_or(MaskError::Malformed { expected: "a UUID" })?.to_be_bytes();
        until_changed(value, out, |attempt, out| {
            let mut draws = self.0.draws(&original, attempt);
            let random = u128::from(draws.next_u64()) << 64 | u128::from(draws.next_u64());
            // Version 4, variant 1 (RFC 9562, 5.4).
            let masked = random & !(0xf << 76) & !(0b11 << 62) | 0x4 << 76 | 0b10 << 62;
            write_uuid(masked, out);
        })
    }
}

/// What `uuid_in` reads (uuid.c of Postgres): 32 hexadecimal digits, a hyphen allowed after every fourth, braces allowed around.
fn uuid_digits(text: &str) -> Option<u128> {
    let inside = match text.strip_prefix('{') {
        Some(rest) => rest.strip_suffix('}')?,
        None => text,
    };
    let (mut digits, mut number, mut after_hyphen) = (0, 0, true);
    for c in inside.chars() {
        if c == '-' && digits % 4 == 0 && !after_hyphen {
            after_hyphen = true;
            continue;
        }
        digits += 1;
        number = number << 4 | u128::from(c.to_digit(16).filter(|_| digits <= 32)?);
        after_hyphen = false;
    }
    (digits == 32 && !after_hyphen).then_some(number)
}

fn write_uuid(uuid: u128, out: &mut String) {
    let [a, b, c, d, e] = [uuid >> 96, uuid >> 80, uuid >> 64, uuid >> 48, uuid];
    let (b, c, d, e) = (b as u16, c as u16, d as u16, e as u64 & (u64::MAX >> 16));
    write!(out, "{a:08x}-{b:04x}-{c:04x}-{d:04x}-{e:012x}").expect("a string takes all that is written");
}

/// FF1 with AES-256 over the characters of `alphabet`.
pub(super) fn fpe(alphabet: &Alphabet, key: &DomainKey) -> Result<Built, Unsuitable> {
    let refuse = |reason: String| Unsuitable::Parameter { mask: "fpe", reason };
    let characters = alphabet.characters();
    if !RADICES.contains(&characters.len()) {
        let (least, most) = (RADICES.start(), RADICES.end());
        return Err(refuse(format!("the alphabet has {} characters, and needs {least} to {most}", characters.len())));
    }
    let numerals: HashMap<char, u16> = characters.iter().enumerate().map(|(at, c)| (*c, at as u16)).collect();
    if numerals.len() < characters.len() {
        return Err(refuse("a character is twice in the alphabet".to_owned()));
    }
    let radix = characters.len() as u32;
    let least =
        (2..).find(|n| u64::from(radix).saturating_pow(*n) >= LEAST_DOMAIN).expect("a radix is at least 2") as usize;
    let ff1 = FF1::new(&key.cipher_key("fpe"), radix).expect("the radix was checked");
    let properties = Properties::new(Longest::AsInput, true)
        .changing(Changes::AlmostAlways)
        .writing(&characters.iter().collect::<String>());
    Ok((properties, Box::new(Fpe { characters, numerals, least, ff1 })))
}

struct Fpe {
    /// By numeral.
    characters: Vec<char>,
    numerals: HashMap<char, u16>,
    /// Numerals of the shortest string that FF1 takes.
    least: usize,
    ff1: FF1<Aes256>,
}

impl Mask for Fpe {
    fn apply(&self, value: &str, out: &mut String) -> Result<(), MaskError> {
        let numerals: Vec<u16> = value.chars().filter_map(|c| self.numerals.get(&c).copied()).collect();
        if numerals.len() < self.least {
            return Err(MaskError::TooShort { least: self.least });
        }
        let mut masked = self.encrypt(&numerals)?.into_iter().map(|numeral| self.characters[usize::from(numeral)]);
        out.extend(value.chars().filter_map(|c| match self.numerals.contains_key(&c) {
            true => masked.next(),
            false => Some(c),
        }));
        Ok(())
    }
}

impl Fpe {
    /// Encrypts in segments of about equal length; the tweak of each is what the one before became, so that equal segments differ.
    fn encrypt(&self, numerals: &[u16]) -> Result<Vec<u16>, MaskError> {
        let segments = numerals.len().div_ceil(SEGMENT);
        let bound = |segment: usize| segment * numerals.len() / segments;
        let mut masked = Vec::with_capacity(numerals.len());
        let mut tweak = Vec::new();
        for segment in 0..segments {
            let plain = FlexibleNumeralString::from(numerals[bound(segment)..bound(segment + 1)].to_vec());
            let encrypted = self.ff1.encrypt(&tweak, &plain).map_err(|_| MaskError::TooShort { least: self.least })?;
            let encrypted = Vec::from(encrypted);
            tweak = encrypted.iter().flat_map(|numeral| numeral.to_be_bytes()).collect();
            masked.extend(encrypted);
        }
        Ok(masked)
    }
}

/// `length` hexadecimal digits of the value's keyed hash, for a `bytea` after `\x`.
pub(super) fn hmac(length: usize, ty: &ValueType, key: &DomainKey) -> Result<Built, Unsuitable> {
    let refuse = |reason: String| Err(Unsuitable::Parameter { mask: "hmac", reason });
    if !HMAC_LENGTHS.contains(&length) {
        return refuse(format!("length is {length}, and must be {} to {}", HMAC_LENGTHS.start(), HMAC_LENGTHS.end()));
    }
    let bytea = *ty == ValueType::Bytea;
    if bytea && length % 2 == 1 {
        return refuse(format!("length is {length}, and must be even for a bytea, whose bytes have two digits"));
    }
    let prefix = if bytea { BYTEA } else { "" };
    let properties = Properties::new(Longest::Chars(prefix.len() + length), length >= UNIQUE_HMAC);
    Ok((properties, Box::new(Hmac { prefix, length, prf: key.function("hmac") })))
}

#[derive(Clone)]
struct Hmac {
    prefix: &'static str,
    length: usize,
    prf: Prf,
}

impl Mask for Hmac {
    fn apply(&self, value: &str, out: &mut String) -> Result<(), MaskError> {
        if value == self.prefix {
            out.push_str(value);
            return Ok(());
        }
        until_changed(value, out, |attempt, out| self.write(self.prf.draws(value.as_bytes(), attempt), out))
    }

    fn stream(&self) -> Option<Box<dyn MaskStream>> {
        // The first attempt differs from anything as long as that.
        Some(Box::new(Hashed { mask: self.clone(), context: Some(self.prf.context()) }))
    }
}

impl Hmac {
    fn write(&self, mut draws: Draws<'_>, out: &mut String) {
        out.push_str(self.prefix);
        for _ in 0..self.length {
            out.push(char::from(b"0123456789abcdef"[draws.small(16)]));
        }
    }
}

struct Hashed {
    mask: Hmac,
    /// Until the end.
    context: Option<ring::hmac::Context>,
}

impl MaskStream for Hashed {
    fn push(&mut self, piece: &str, _out: &mut String) {
        if let Some(context) = &mut self.context {
            context.update(piece.as_bytes());
        }
    }

    fn end(&mut self, out: &mut String) {
        if let Some(context) = self.context.take() {
            self.mask.write(self.mask.prf.draws_of(context), out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::MaskingKey;
    use super::*;
    use aes::Aes256;

    #[test]
    fn ff1_is_that_of_nist() {
        // FF1samples.pdf of NIST, samples 7 and 9: AES-256, radix 10 without a tweak, radix 36 with one.
        let key: Vec<u8> = (0..64)
            .step_by(2)
            .map(|at| "2B7E151628AED2A6ABF7158809CF4F3CEF4359D8D580AA4F7F036D6F04FC6A94"[at..at + 2].to_owned())
            .map(|byte| u8::from_str_radix(&byte, 16).unwrap())
            .collect();
        let encrypt = |radix, tweak: &[u8], plain: &str| {
            let numerals: Vec<u16> = plain.chars().map(|c| c.to_digit(36).unwrap() as u16).collect();
            let masked =
                FF1::<Aes256>::new(&key, radix).unwrap().encrypt(tweak, &FlexibleNumeralString::from(numerals));
            let digit = |numeral| char::from_digit(u32::from(numeral), 36).unwrap();
            Vec::from(masked.unwrap()).into_iter().map(digit).collect::<String>()
        };
        assert_eq!(encrypt(10, &[], "0123456789"), "6657667009");
        let tweak = b"\x37\x37\x37\x37\x70\x71\x72\x73\x37\x37\x37";
        assert_eq!(encrypt(36, tweak, "0123456789abcdefghi"), "xs8a0azh2avyalyzuwd");
    }

    #[test]
    fn uuids_are_read_as_postgres_reads_them() {
        let uuid = 0xa0ee_bc99_9c0b_4ef8_bb6d_6bb9_bd38_0a11;
        for text in [
            "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11",
            "{a0eebc99-9c0b4ef8-bb6d6bb9-bd380a11}",
            "a0eebc999c0b4ef8bb6d6bb9bd380a11",
            "a0ee-bc99-9c0b-4ef8-bb6d-6bb9-bd38-0a11",
        ] {
            assert_eq!(uuid_digits(text), Some(uuid), "{text}");
        }
        for text in [
            "",
            "{a0eebc999c0b4ef8bb6d6bb9bd380a11",
            "a0e-ebc999c0b4ef8bb6d6bb9bd380a11",
            "a0ee--bc999c0b4ef8bb6d6bb9bd380a11",
            "a0eebc999c0b4ef8bb6d6bb9bd380a11-",
            "a0eebc999c0b4ef8bb6d6bb9bd380a1",
        ] {
            assert_eq!(uuid_digits(text), None, "{text}");
        }
        let mut out = String::new();
        write_uuid(uuid, &mut out);
        assert_eq!(out, "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11");
    }

    #[test]
    fn long_texts_are_encrypted_in_segments() {
        let (_, mask) = fpe(&Alphabet::Digits, &MaskingKey::new(&[7; 32]).unwrap().domain("d")).unwrap();
        let mut out = String::new();
        let value = "12-".repeat(1000);
        mask.apply(&value, &mut out).unwrap();
        assert_eq!(out.len(), value.len());
        let digits: String = out.chars().filter(char::is_ascii_digit).collect();
        assert_ne!(digits[..250], digits[250..500]);
    }
}
