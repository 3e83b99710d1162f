//! Rows on their way: COPY's text form in, in pieces of any size, and out again with masked values.
//!
//! What is kept goes through as it comes, byte for byte, and is never held: a row may be 1 GB long. What is masked is held until its end, unless it is
//! longer than [`STREAMED`] and its mask can do without that, as redact and hmac can; otherwise it may be at most [`LONGEST_VALUE`]. Of a value that is replaced, its
//! beginning is enough. In COPY's text form a tab or a newline that is part of a value is escaped, so the bare bytes are
//! the ends of values and rows and nothing else (Postgres manual, "COPY", "Text Format").

mod long;

use super::masks::{STREAMED, Telling};
use super::sample::Sample;
use super::value::{Became, LongValue, Transform, ValueError};
use bytes::{BufMut, BytesMut};
use long::Long;
use std::sync::Arc;

/// Longest value, in bytes of COPY's text form, that is held. With what it becomes it is in memory a few times.
pub(super) const LONGEST_VALUE: usize = 48 << 20;

const NULL: &[u8] = b"\\N";

/// What is done with one column of the output, in the order of COPY's column list.
#[derive(Clone)]
pub(super) enum Step {
    /// The next column of the input goes through.
    Copy,
    /// The next column of the input is masked.
    Mask(Masking),
    /// The same for every row, whatever it was: it is not read at all. In COPY's text form.
    Emit(Vec<u8>),
    /// The next column of the input is replaced by what siblings before it became, unless it is NULL or empty.
    Template(Vec<Part>, Arc<Sample>),
    /// The next column of the input is looked at, and nothing is written. Such steps come last.
    Look(Arc<Sample>, Telling),
}

#[derive(Clone)]
pub(super) struct Masking {
    pub transform: Transform,
    /// Templates want what it became, as this sibling.
    pub remember: Option<usize>,
}

/// A part of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Text(String),
    /// What the sibling of this number became; nothing for NULL.
    Sibling(usize),
}

/// A value that cannot be masked, and which column of the output it is.
#[derive(Debug)]
pub(super) struct RowError {
    /// Its place in the column list.
    pub column: usize,
    /// Rows before this one.
    pub row: u64,
    pub error: ValueError,
}

/// Turns rows into masked rows. One for each stream.
pub(super) struct RowMasker {
    steps: Arc<[Step]>,
    /// Steps that write a column.
    written: usize,
    /// The step whose value comes next, or `steps.len()` at the end of a row.
    at: usize,
    /// Of the value that comes in.
    held: Vec<u8>,
    /// What is done with the rest of it.
    rest: Rest,
    rows: u64,
    siblings: Vec<String>,
    raw: String,
    masked: String,
}

/// What becomes of the rest of a value, once more than [`STREAMED`] bytes of it are held.
enum Rest {
    /// Nothing yet: it is held, as long as it is short.
    Unknown,
    /// It is held, too.
    Held,
    Forgotten,
    Masked(Long),
}

impl RowMasker {
    pub(super) fn new(steps: Arc<[Step]>) -> RowMasker {
        let remembered = |step: &Step| match step {
            Step::Mask(masking) => masking.remember,
            _ => None,
        };
        let siblings = steps.iter().filter_map(remembered).max().map_or(0, |last| last + 1);
        RowMasker {
            written: steps.iter().filter(|step| !matches!(step, Step::Look(..))).count(),
            steps,
            at: 0,
            held: Vec::new(),
            rest: Rest::Unknown,
            rows: 0,
            siblings: vec![String::new(); siblings],
            raw: String::new(),
            masked: String::new(),
        }
    }

    /// Rows that have gone through.
    pub(super) fn rows(&self) -> u64 {
        self.rows
    }

    /// No row has begun that has not ended.
    pub(super) fn is_between_rows(&self) -> bool {
        self.at == 0 && self.is_between_values()
    }

    fn is_between_values(&self) -> bool {
        self.held.is_empty() && matches!(self.rest, Rest::Unknown)
    }

    /// Takes what comes next of the input, and appends what is known of the output.
    pub(super) fn feed(&mut self, mut input: &[u8], out: &mut BytesMut) -> Result<(), RowError> {
        while !input.is_empty() {
            if self.is_between_rows() {
                self.emit_unread(out)?;
            }
            let end = memchr::memchr2(b'\t', b'\n', input);
            let piece = &input[..end.unwrap_or(input.len())];
            match self.steps.get(self.at) {
                Some(Step::Copy) => out.extend_from_slice(piece),
                Some(Step::Mask(_) | Step::Template(..) | Step::Look(..)) => {
                    self.hold(piece, out).map_err(|error| self.failed(self.at, error))?;
                }
                // A table none of whose columns are read: only its rows' ends come.
                _ => {}
            }
            let Some(end) = end else { return Ok(()) };
            self.end_value(out)?;
            if input[end] == b'\n' {
                out.put_u8(b'\n');
                self.at = 0;
                self.rows += 1;
            }
            input = &input[end + 1..];
        }
        Ok(())
    }

    fn hold(&mut self, mut piece: &[u8], out: &mut BytesMut) -> Result<(), ValueError> {
        if matches!(self.rest, Rest::Unknown) {
            // However it is cut, its beginning is the same.
            let (first, more) = piece.split_at(piece.len().min(STREAMED - self.held.len()));
            self.held.extend_from_slice(first);
            if more.is_empty() {
                return Ok(());
            }
            self.begin_long(out)?;
            piece = more;
        }
        match &mut self.rest {
            Rest::Masked(long) => long.push(piece, out),
            Rest::Held if self.held.len() + piece.len() > LONGEST_VALUE => Err(ValueError::TooLong),
            Rest::Held => {
                self.held.extend_from_slice(piece);
                Ok(())
            }
            Rest::Unknown | Rest::Forgotten => Ok(()),
        }
    }

    /// Decides what is done with a value that is long. What is held of it is its beginning.
    fn begin_long(&mut self, out: &mut BytesMut) -> Result<(), ValueError> {
        let step = self.steps.clone();
        let long = match step.get(self.at) {
            Some(Step::Mask(masking)) => {
                unescape(beginning(&self.held), &mut self.raw)?;
                match masking.transform.begin_long(&self.raw) {
                    // A template wants what it became as a whole.
                    LongValue::Masked(_) if masking.remember.is_some() => LongValue::NeededWhole,
                    long => long,
                }
            }
            _ => LongValue::Replaced,
        };
        self.rest = match long {
            LongValue::NeededWhole => Rest::Held,
            LongValue::Replaced => {
                self.held.truncate(beginning(&self.held).len());
                Rest::Forgotten
            }
            LongValue::Masked(stream) => {
                let mut long = Long::new(stream);
                long.push(&std::mem::take(&mut self.held), out)?;
                Rest::Masked(long)
            }
        };
        Ok(())
    }

    /// The value at hand is complete: writes what it became, and everything up to the next value that is read.
    fn end_value(&mut self, out: &mut BytesMut) -> Result<(), RowError> {
        let steps = self.steps.clone();
        let rest = std::mem::replace(&mut self.rest, Rest::Unknown);
        match steps.get(self.at) {
            Some(Step::Mask(_)) if let Rest::Masked(long) = rest => {
                long.end(out).map_err(|error| self.failed(self.at, error))?;
            }
            Some(Step::Mask(masking)) => {
                let held = std::mem::take(&mut self.held);
                let outcome = self.mask(masking, &held, out);
                self.held = held;
                outcome.map_err(|error| self.failed(self.at, error))?;
            }
            Some(Step::Template(..)) if self.held == NULL => out.extend_from_slice(NULL),
            Some(Step::Template(parts, sample)) if !self.held.is_empty() => {
                self.look(sample, Telling::Perhaps);
                self.fill(parts, out);
            }
            Some(Step::Look(sample, telling)) if self.held != NULL => self.look(sample, *telling),
            _ => {}
        }
        self.held.clear();
        self.end_column(out);
        self.emit_unread(out)
    }

    /// Writes the columns from here on that need no input.
    fn emit_unread(&mut self, out: &mut BytesMut) -> Result<(), RowError> {
        while let Some(step) = self.steps.get(self.at) {
            match step {
                Step::Copy | Step::Mask(_) | Step::Template(..) | Step::Look(..) => return Ok(()),
                Step::Emit(text) => out.extend_from_slice(text),
            }
            self.end_column(out);
        }
        Ok(())
    }

    fn end_column(&mut self, out: &mut BytesMut) {
        self.at += 1;
        if self.at < self.written {
            out.put_u8(b'\t');
        }
    }

    /// Shows `sample` the raw value that is held. One that is no text is none that comes along, either.
    fn look(&mut self, sample: &Sample, telling: Telling) {
        if unescape(&self.held, &mut self.raw).is_ok() {
            sample.offer(&self.raw, |_| telling);
        }
    }

    fn fill(&self, parts: &[Part], out: &mut BytesMut) {
        for part in parts {
            let text = match part {
                Part::Text(text) => text,
                Part::Sibling(sibling) => &self.siblings[*sibling],
            };
            escape(text, out);
        }
    }

    fn mask(&mut self, masking: &Masking, held: &[u8], out: &mut BytesMut) -> Result<(), ValueError> {
        self.masked.clear();
        let became = if held == NULL {
            Became::Null
        } else {
            unescape(held, &mut self.raw)?;
            masking.transform.apply(&self.raw, &mut self.masked)?
        };
        match became {
            Became::Null => out.extend_from_slice(NULL),
            Became::Text => escape(&self.masked, out),
        }
        if let Some(sibling) = masking.remember {
            self.siblings[sibling].clone_from(&self.masked);
        }
        Ok(())
    }

    fn failed(&self, column: usize, error: ValueError) -> RowError {
        RowError { column, row: self.rows, error }
    }
}

/// What stands for `text` in COPY's text form, for [`Step::Emit`].
pub(super) fn escaped(text: Option<&str>) -> Vec<u8> {
    let mut out = BytesMut::new();
    match text {
        None => out.extend_from_slice(NULL),
        Some(text) => escape(text, &mut out),
    }
    out.to_vec()
}

/// Appends `text` as COPY reads it.
fn escape(text: &str, out: &mut BytesMut) {
    let bytes = text.as_bytes();
    out.reserve(bytes.len());
    let mut from = 0;
    for (at, byte) in bytes.iter().enumerate() {
        let escaped = match byte {
            b'\\' => b'\\',
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            _ => continue,
        };
        out.extend_from_slice(&bytes[from..at]);
        out.extend_from_slice(&[b'\\', escaped]);
        from = at + 1;
    }
    out.extend_from_slice(&bytes[from..]);
}

/// Replaces `text` by what COPY wrote as `held`. The server writes no octal or hexadecimal escapes (`CopyAttributeOutText` of copyto.c).
fn unescape(held: &[u8], text: &mut String) -> Result<(), ValueError> {
    let mut bytes = std::mem::take(text).into_bytes();
    bytes.clear();
    let mut rest = held;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        bytes.extend_from_slice(&rest[..at]);
        let escaped = rest.get(at + 1).ok_or(ValueError::Malformed("COPY"))?;
        bytes.push(unescaped(*escaped));
        rest = &rest[at + 2..];
    }
    bytes.extend_from_slice(rest);
    *text = String::from_utf8(bytes).map_err(|_| ValueError::NotUtf8)?;
    Ok(())
}

/// What a backslash with `byte` behind it stands for.
fn unescaped(byte: u8) -> u8 {
    match byte {
        b'b' => 8,
        b'f' => 12,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'v' => 11,
        other => other,
    }
}

/// `held` without an escape or a character at its end that is cut in two.
fn beginning(held: &[u8]) -> &[u8] {
    let backslashes = held.iter().rev().take_while(|byte| **byte == b'\\').count();
    let held = &held[..held.len() - backslashes % 2];
    let Some(behind) = held.iter().rev().take(4).position(|byte| byte & 0xc0 != 0x80) else { return held };
    let first = held.len() - 1 - behind;
    // As many ones as the character has bytes (RFC 3629, 3).
    let width = held[first].leading_ones() as usize;
    if width > behind + 1 { &held[..first] } else { held }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(transform: Transform, remember: Option<usize>) -> Step {
        Step::Mask(Masking { transform, remember })
    }

    /// The same for the whole input at once and for every way of cutting it in two.
    fn run(steps: Vec<Step>, input: &str) -> Result<String, RowError> {
        let steps: Arc<[Step]> = steps.into();
        let whole = in_pieces(&steps, &[input.as_bytes()]);
        for at in 0..=input.len() {
            let cut = in_pieces(&steps, &[&input.as_bytes()[..at], &input.as_bytes()[at..]]);
            assert_eq!(whole.as_ref().ok(), cut.as_ref().ok(), "cut at {at}");
        }
        whole
    }

    fn in_pieces(steps: &Arc<[Step]>, pieces: &[&[u8]]) -> Result<String, RowError> {
        let mut masker = RowMasker::new(steps.clone());
        let mut out = BytesMut::new();
        for piece in pieces {
            masker.feed(piece, &mut out)?;
        }
        assert!(masker.is_between_rows());
        Ok(String::from_utf8(out.to_vec()).unwrap())
    }

    #[test]
    fn kept_columns_go_through_and_masked_ones_are_replaced() {
        let constant = mask(Transform::constant("a\tb\\"), None);
        let steps = vec![Step::Copy, constant, Step::Copy];
        assert_eq!(run(steps, "1\tx\\ty\t\\N\n\\\\.\t\\N\t\n").unwrap(), "1\ta\\tb\\\\\t\\N\n\\\\.\t\\N\t\n");
    }

    #[test]
    fn what_needs_no_input_may_stand_anywhere() {
        let emit = |text: &str| Step::Emit(escaped(Some(text)));
        let steps = vec![emit("first"), Step::Copy, emit("mid\n"), Step::Copy, Step::Emit(escaped(None))];
        assert_eq!(run(steps, "1\t2\n\t\n").unwrap(), "first\t1\tmid\\n\t2\t\\N\nfirst\t\tmid\\n\t\t\\N\n");
        assert_eq!(run(vec![emit("x"), emit("y")], "\n\n").unwrap(), "x\ty\nx\ty\n");
        assert_eq!(run(vec![], "\n\n").unwrap(), "\n\n");
    }

    #[test]
    fn templates_are_made_of_what_siblings_became() {
        let parts = vec![Part::Sibling(0), Part::Text(".".to_owned()), Part::Sibling(1), Part::Text("@x".to_owned())];
        let steps = vec![
            mask(Transform::Keep, Some(0)),
            mask(Transform::constant("c"), Some(1)),
            Step::Template(parts, crate::masking::sample::of_text().into()),
        ];
        let rows = "a\\\\b\tz\traw\n\\N\tz\traw\na\tz\t\\N\na\tz\t\n";
        let masked = "a\\\\b\tc\ta\\\\b.c@x\n\\N\tc\t.c@x\na\tc\t\\N\na\tc\t\n";
        assert_eq!(run(steps, rows).unwrap(), masked);
    }

    #[test]
    fn what_is_only_looked_at_is_not_written() {
        let sample = Arc::new(crate::masking::sample::of_text());
        let look = || Step::Look(sample.clone(), Telling::Surely);
        let steps = vec![Step::Copy, Step::Emit(escaped(None)), look(), look()];
        assert_eq!(
            in_pieces(&steps.into(), &[b"1\tseen o", b"nce\t\\N\n2\t\tseen too\n"]).unwrap(),
            "1\t\\N\n2\t\\N\n"
        );
        let mut seen: Vec<_> = sample.values().into_iter().map(|raw| raw.text).collect();
        seen.sort();
        assert_eq!(seen, ["seen once".into(), "seen too".into()]);
        assert_eq!(run(vec![Step::Emit(escaped(None)), look()], "a\nb\n").unwrap(), "\\N\n\\N\n");
    }

    #[test]
    fn every_character_survives_being_unescaped_and_escaped() {
        let text = "tab\t nl\n cr\r backslash\\ quote' dot. N ü€ \u{8}\u{b}\u{c}";
        let copied = "tab\\t nl\\n cr\\r backslash\\\\ quote' dot. N ü€ \\b\\v\\f";
        let mut raw = String::new();
        unescape(copied.as_bytes(), &mut raw).unwrap();
        assert_eq!(raw, text);
        let mut again = String::new();
        unescape(&escaped(Some(text)), &mut again).unwrap();
        assert_eq!(again, text);
    }

    #[test]
    fn what_cannot_be_masked_names_its_column_and_row_and_not_its_value() {
        let document = mask(Transform::redacting(), None);
        let error = in_pieces(&vec![Step::Copy, document].into(), &[b"1\t{}\n2\t{secret\n"]).unwrap_err();
        assert_eq!((error.column, error.row), (1, 1));
        assert!(!error.error.to_string().contains("secret"));
        let mut masker = RowMasker::new(vec![mask(Transform::Keep, None)].into());
        assert!(masker.feed(&[0xff, b'\n'], &mut BytesMut::new()).is_err());
    }
}
