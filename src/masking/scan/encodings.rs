//! The forms in which a secret may lie in a file, and how to write each.
//!
//! A form is a [`Source`] (the printed text, or one of the ways Postgres stores the value) in a [`Wrap`] (as it is, hex, base64 and so on). Patterns keep
//! only the form: its bytes are made again where a window of it was met, so that a million patterns take megabytes. Making the same form of the same
//! secret twice gives the same bytes.

use super::binary::{self, Inet};
use super::patterns::SecretKind;
use std::fmt;
use std::io::Write;

/// Shortest secret, and shortest form, that is searched at any offset.
pub(super) const SHORTEST: usize = 7;
/// Secrets with fewer different bytes are everywhere: rulers, zeros, blanks.
const FEWEST_DISTINCT: usize = 3;
/// Digits from which on a number's text is searched.
const NUMBER_DIGITS: usize = 9;
/// With fewer, a number counts only where no digit is before or after it: a card's number has eight others of nine digits in it.
const TELLING_DIGITS: usize = 15;

/// How a value was written where it was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Encoding {
    /// The bytes as they are.
    Text,
    /// In other upper and lower case.
    CaseFolded,
    Utf16Le,
    Utf16Be,
    Hex,
    Base64,
    /// With `-` and `_` for `+` and `/` (RFC 4648, section 5).
    Base64Url,
    /// Decimal bytes between blanks, as `outDatum` prints a constant (`outfuncs.c`).
    NodeTree,
    /// RFC 8259: what JSON escapes, or all that is not ASCII as `\uXXXX`.
    JsonEscaped,
    /// Single quotes doubled.
    SqlEscaped,
    Integer4,
    Integer8,
    NumericDigits,
    UuidBytes,
    InetBytes,
    TimestampMicros,
    ByteaBytes,
    Float8,
}

impl Encoding {
    /// Name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Encoding::Text => "text",
            Encoding::CaseFolded => "text in other case",
            Encoding::Utf16Le => "UTF-16LE",
            Encoding::Utf16Be => "UTF-16BE",
            Encoding::Hex => "hex",
            Encoding::Base64 => "base64",
            Encoding::Base64Url => "base64url",
            Encoding::NodeTree => "pg_node_tree",
            Encoding::JsonEscaped => "JSON escapes",
            Encoding::SqlEscaped => "SQL quotes",
            Encoding::Integer4 => "int4",
            Encoding::Integer8 => "int8",
            Encoding::NumericDigits => "numeric",
            Encoding::UuidBytes => "uuid",
            Encoding::InetBytes => "inet",
            Encoding::TimestampMicros => "timestamp",
            Encoding::ByteaBytes => "bytea",
            Encoding::Float8 => "float8",
        }
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which bytes of a secret a form is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Text,
    /// A timestamp without its zone, which is the session's choice.
    TimestampText,
    /// The same with `T` between date and time, as JSON has it.
    IsoText,
    Integer4,
    Integer8,
    NumericDigits,
    Uuid,
    InetInTuple,
    InetInArray,
    Timestamp,
    Bytea,
    Float8,
}

/// What is done to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wrap {
    AsIs,
    Upper,
    Lower,
    Utf16Le,
    Utf16Be,
    Hex,
    /// Preceded by so many bytes, modulo 3. Characters that neighbours have a part in are left out.
    Base64(u8),
    Base64Url(u8),
    /// `char` is signed on x86-64, and printed as such.
    NodeSigned,
    /// As on aarch64.
    NodeUnsigned,
    Json,
    JsonAscii,
    Sql,
}

const TEXT_WRAPS: [Wrap; 15] = [
    Wrap::AsIs,
    Wrap::Upper,
    Wrap::Lower,
    Wrap::Utf16Le,
    Wrap::Utf16Be,
    Wrap::Hex,
    Wrap::Base64(0),
    Wrap::Base64(1),
    Wrap::Base64(2),
    Wrap::Base64Url(0),
    Wrap::Base64Url(1),
    Wrap::Base64Url(2),
    Wrap::Json,
    Wrap::JsonAscii,
    Wrap::Sql,
];
const NODE_WRAPS: [Wrap; 2] = [Wrap::NodeSigned, Wrap::NodeUnsigned];
const BYTES_WRAPS: [Wrap; 8] = [
    Wrap::AsIs,
    Wrap::Hex,
    Wrap::Base64(0),
    Wrap::Base64(1),
    Wrap::Base64(2),
    Wrap::Base64Url(0),
    Wrap::Base64Url(1),
    Wrap::Base64Url(2),
];

/// One way to write a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Form {
    pub source: Source,
    pub wrap: Wrap,
}

impl Form {
    /// Every form that a secret is searched in: none if it cannot be searched for.
    pub(super) fn of(kind: SecretKind, text: &str) -> Vec<Form> {
        let mut forms = Vec::new();
        for source in sources(kind, text) {
            let own: &[Wrap] = match source {
                Source::Text => &TEXT_WRAPS,
                Source::Uuid | Source::Bytea => &BYTES_WRAPS,
                _ => &[Wrap::AsIs],
            };
            let node: &[Wrap] = if source == Source::Integer4 { &[] } else { &NODE_WRAPS };
            forms.extend(own.iter().chain(node).map(|wrap| Form { source, wrap: *wrap }));
        }
        forms.retain(|form| form.is_of_its_own(text));
        forms
    }

    /// Whether another form does not find the same.
    fn is_of_its_own(self, text: &str) -> bool {
        let encoded = |wrap| {
            let mut bytes = Vec::new();
            Form { wrap, ..self }.encode(text, &mut bytes);
            bytes
        };
        let differs = |other| encoded(self.wrap) != encoded(other);
        let differs_in_letters = |other| !encoded(self.wrap).eq_ignore_ascii_case(&encoded(other));
        match self.wrap {
            Wrap::Upper | Wrap::Json | Wrap::Sql => differs_in_letters(Wrap::AsIs),
            Wrap::Lower => differs_in_letters(Wrap::AsIs) && differs_in_letters(Wrap::Upper),
            Wrap::JsonAscii => differs_in_letters(Wrap::AsIs) && differs_in_letters(Wrap::Json),
            Wrap::Base64Url(alignment) => differs(Wrap::Base64(alignment)),
            Wrap::NodeUnsigned => differs(Wrap::NodeSigned),
            _ => true,
        }
    }

    /// Appends the secret `text` in this form. Nothing if the text is no value of the form's source.
    pub(super) fn encode(self, text: &str, out: &mut Vec<u8>) {
        match (self.wrap, self.source) {
            (Wrap::AsIs, Source::Text) => out.extend_from_slice(text.as_bytes()),
            (Wrap::Upper, _) => out.extend_from_slice(text.to_uppercase().as_bytes()),
            (Wrap::Lower, _) => out.extend_from_slice(text.to_lowercase().as_bytes()),
            (Wrap::Utf16Le, _) => out.extend(text.encode_utf16().flat_map(u16::to_le_bytes)),
            (Wrap::Utf16Be, _) => out.extend(text.encode_utf16().flat_map(u16::to_be_bytes)),
            (Wrap::Json, _) => put_json(text, false, out),
            (Wrap::JsonAscii, _) => put_json(text, true, out),
            (Wrap::Sql, _) => out.extend_from_slice(text.replace('\'', "''").as_bytes()),
            (_, Source::Text) => self.wrap_bytes(text.as_bytes(), out),
            (_, source) => self.wrap_bytes(&source.bytes(text).unwrap_or_default(), out),
        }
    }

    fn wrap_bytes(self, bytes: &[u8], out: &mut Vec<u8>) {
        match self.wrap {
            Wrap::Hex => out.extend(bytes.iter().flat_map(|byte| [hex_digit(byte >> 4), hex_digit(byte & 15)])),
            Wrap::Base64(alignment) => put_base64(bytes, alignment.into(), BASE64, out),
            Wrap::Base64Url(alignment) => put_base64(bytes, alignment.into(), BASE64_URL, out),
            Wrap::NodeSigned => put_decimals(bytes.iter().map(|byte| i32::from(*byte as i8)), out),
            Wrap::NodeUnsigned => put_decimals(bytes.iter().map(|byte| i32::from(*byte)), out),
            _ => out.extend_from_slice(bytes),
        }
    }

    /// Whether ASCII letters match in either case.
    pub(super) fn folds_case(self) -> bool {
        match self.wrap {
            Wrap::AsIs => matches!(self.source, Source::Text | Source::TimestampText | Source::IsoText),
            Wrap::Base64(_) | Wrap::Base64Url(_) | Wrap::Utf16Le | Wrap::Utf16Be => false,
            _ => true,
        }
    }

    /// Name of what was found; `exact` tells that the case of its letters was the secret's own.
    pub(super) fn encoding(self, exact: bool) -> Encoding {
        match self.wrap {
            Wrap::AsIs => self.source.encoding(exact),
            Wrap::Upper | Wrap::Lower => Encoding::CaseFolded,
            Wrap::Utf16Le => Encoding::Utf16Le,
            Wrap::Utf16Be => Encoding::Utf16Be,
            Wrap::Hex => Encoding::Hex,
            Wrap::Base64(_) => Encoding::Base64,
            Wrap::Base64Url(_) => Encoding::Base64Url,
            Wrap::NodeSigned | Wrap::NodeUnsigned => Encoding::NodeTree,
            Wrap::Json | Wrap::JsonAscii => Encoding::JsonEscaped,
            Wrap::Sql => Encoding::SqlEscaped,
        }
    }
}

impl Source {
    /// The bytes of a value that is printed as `text`.
    fn bytes(self, text: &str) -> Option<Vec<u8>> {
        match self {
            Source::Text => Some(text.as_bytes().to_vec()),
            Source::TimestampText => Some(binary::without_zone(text).into()),
            Source::IsoText => Some(binary::without_zone(text).replacen(' ', "T", 1).into_bytes()),
            Source::Integer4 => Some((text.parse::<i64>().ok()? as i32).to_le_bytes().to_vec()),
            Source::Integer8 => Some(text.parse::<i64>().ok()?.to_le_bytes().to_vec()),
            Source::NumericDigits => binary::numeric_digits(text),
            Source::Uuid => binary::uuid(text),
            Source::InetInTuple => Some(Inet::parse(text)?.in_tuple()),
            Source::InetInArray => Inet::parse(text)?.in_array(),
            Source::Timestamp => Some(binary::timestamp_micros(text)?.to_le_bytes().to_vec()),
            Source::Bytea => binary::bytea(text),
            Source::Float8 => Some(binary::float8(text)?.to_vec()),
        }
    }

    fn encoding(self, exact: bool) -> Encoding {
        match self {
            Source::Text | Source::TimestampText | Source::IsoText if exact => Encoding::Text,
            Source::Text | Source::TimestampText | Source::IsoText => Encoding::CaseFolded,
            Source::Integer4 => Encoding::Integer4,
            Source::Integer8 => Encoding::Integer8,
            Source::NumericDigits => Encoding::NumericDigits,
            Source::Uuid => Encoding::UuidBytes,
            Source::InetInTuple | Source::InetInArray => Encoding::InetBytes,
            Source::Timestamp => Encoding::TimestampMicros,
            Source::Bytea => Encoding::ByteaBytes,
            Source::Float8 => Encoding::Float8,
        }
    }
}

/// The limits of the module's table: what of a secret is long and rare enough to be searched for.
fn sources(kind: SecretKind, text: &str) -> Vec<Source> {
    let long = |source: Source| source.bytes(text).is_some_and(|bytes| bytes.len() >= SHORTEST);
    let varied = |source: Source| long(source) && source.bytes(text).is_some_and(|bytes| is_varied(&bytes));
    let printed = |wanted: bool| if wanted && varied(Source::Text) { vec![Source::Text] } else { vec![] };
    let digits = text.bytes().filter(u8::is_ascii_digit).count() >= NUMBER_DIGITS;
    let digit_groups = long(Source::NumericDigits).then_some(Source::NumericDigits);
    let with = |mut sources: Vec<Source>, more: &[Source]| {
        sources.extend(more.iter().copied().filter(|source| long(*source)));
        sources
    };
    match kind {
        SecretKind::Text => printed(true),
        SecretKind::Integer(width) => {
            let mut sources = printed(digits);
            let size = text.parse::<i64>().map_or(0, i64::unsigned_abs);
            match size {
                0x100_0000..=0xffff_ffff if width == 4 => sources.push(Source::Integer4),
                0x100_0000_0000.. => sources.push(Source::Integer8),
                _ => {}
            }
            sources.extend(digit_groups);
            sources
        }
        SecretKind::Numeric => with(printed(digits), &[Source::NumericDigits]),
        SecretKind::Uuid => with(printed(true), &[Source::Uuid]),
        SecretKind::Inet => with(printed(true), &[Source::InetInTuple, Source::InetInArray]),
        SecretKind::Date => vec![],
        SecretKind::Timestamp => match binary::timestamp_micros(text) {
            Some(_) => vec![Source::TimestampText, Source::IsoText, Source::Timestamp],
            None => printed(digits && text.contains(':') && !text.contains(" 00:00:00")),
        },
        SecretKind::Bytea if varied(Source::Bytea) => vec![Source::Bytea],
        SecretKind::Bytea => vec![],
        SecretKind::Float => with(printed(digits), &[Source::Float8]),
    }
}

/// Digits, and what people write between them, too few for it not to be met within longer numbers.
pub(super) fn is_short_number(text: &str) -> bool {
    let is_written = |byte: u8| byte.is_ascii_digit() || b"+-./() ".contains(&byte);
    text.bytes().all(is_written) && text.bytes().filter(u8::is_ascii_digit).count() < TELLING_DIGITS
}

fn is_varied(bytes: &[u8]) -> bool {
    let mut seen = [false; 256];
    bytes.iter().for_each(|byte| seen[usize::from(*byte)] = true);
    seen.iter().filter(|seen| **seen).count() >= FEWEST_DISTINCT
}

fn hex_digit(nibble: u8) -> u8 {
    b"0123456789abcdef"[usize::from(nibble)]
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const BASE64_URL: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

fn put_base64(bytes: &[u8], alignment: usize, alphabet: &[u8; 64], out: &mut Vec<u8>) {
    // Of the bits before ours so many are in a character with some of ours, which is left out.
    let mut foreign = (alignment * 8).next_multiple_of(6) - alignment * 8;
    let (mut word, mut bits) = (0u32, 0);
    for byte in bytes {
        word = word << 8 | u32::from(*byte);
        bits += 8 - std::mem::take(&mut foreign);
        while bits >= 6 {
            bits -= 6;
            out.push(alphabet[(word >> bits & 63) as usize]);
        }
    }
}

/// With a blank on both sides, so that 7 is not met in 17: `outDatum` prints `[ 104 101 108 ]`.
fn put_decimals(bytes: impl Iterator<Item = i32>, out: &mut Vec<u8>) {
    out.push(b' ');
    for byte in bytes {
        write!(out, "{byte} ").expect("memory takes all that is written");
    }
}

/// The inside of a JSON string, as `escape_json` writes it (`json.c`); `ascii` as most other writers do.
fn put_json(text: &str, ascii: bool, out: &mut Vec<u8>) {
    for character in text.chars() {
        match character {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            '\n' => out.extend_from_slice(b"\\n"),
            '\r' => out.extend_from_slice(b"\\r"),
            '\t' => out.extend_from_slice(b"\\t"),
            '\u{8}' => out.extend_from_slice(b"\\b"),
            '\u{c}' => out.extend_from_slice(b"\\f"),
            c if c < ' ' || ascii && !c.is_ascii() => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    out.extend_from_slice(format!("\\u{unit:04x}").as_bytes());
                }
            }
            c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(text: &str, source: Source, wrap: Wrap) -> String {
        let mut out = Vec::new();
        Form { source, wrap }.encode(text, &mut out);
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn wraps_write_what_others_read() {
        let text = |wrap| encoded("Jos\u{e9} \"Q\"", Source::Text, wrap);
        assert_eq!(text(Wrap::Hex), "4a6f73c3a920225122");
        assert_eq!(text(Wrap::NodeSigned), " 74 111 115 -61 -87 32 34 81 34 ");
        assert_eq!(text(Wrap::Json), "Jos\u{e9} \\\"Q\\\"");
        assert_eq!(text(Wrap::JsonAscii), "Jos\\u00e9 \\\"Q\\\"");
        // `hello, world`, alone, after one byte and after two: what base64(1) printed, its edges cut by hand.
        for (alignment, whole) in [(0, "aGVsbG8sIHdvcmxk"), (1, "hlbGxvLCB3b3JsZ"), (2, "oZWxsbywgd29ybG")] {
            assert_eq!(encoded("hello, world", Source::Text, Wrap::Base64(alignment)), whole);
        }
    }

    #[test]
    fn forms_that_find_the_same_are_one() {
        let wraps = |text| Form::of(SecretKind::Text, text).iter().map(|form| form.wrap).collect::<Vec<_>>();
        let plain = wraps("anna.petersen@example.com");
        assert_eq!(plain.len(), 8, "{plain:?}");
        let other = wraps("\u{c9}mile d'Arc \"\u{fc}\u{ff}\u{fe}\"");
        for wrap in [Wrap::Upper, Wrap::Lower, Wrap::Json, Wrap::JsonAscii, Wrap::Sql, Wrap::NodeUnsigned] {
            assert!(other.contains(&wrap), "{wrap:?} in {other:?}");
        }
    }

    #[test]
    fn what_is_too_short_has_no_form() {
        let none = [
            (SecretKind::Text, "Meyer"),
            (SecretKind::Text, "0000000000"),
            (SecretKind::Integer(4), "12345678"),
            (SecretKind::Numeric, "1234.50"),
            (SecretKind::Date, "2024-02-29"),
            (SecretKind::Timestamp, "2024-02-29 00:00:00"),
            (SecretKind::Timestamp, "infinity"),
            (SecretKind::Bytea, "\\x00000000000000000000"),
            (SecretKind::Bytea, "\\x010203"),
            (SecretKind::Float, "0.25"),
            (SecretKind::Inet, "::"),
        ];
        for (kind, text) in none {
            let forms = Form::of(kind, text);
            assert!(forms.is_empty() || kind == SecretKind::Inet, "{text}: {forms:?}");
        }
        assert_eq!(
            Form::of(SecretKind::Integer(8), "1099511627776")[..].last().map(|f| f.source),
            Some(Source::NumericDigits)
        );
    }
}
