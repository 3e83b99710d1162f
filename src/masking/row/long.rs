//! A value that is masked as it comes, in pieces cut anywhere, because it is too long to be held.

use super::{ValueError, escape, unescaped};
use crate::masking::masks::MaskStream;
use bytes::BytesMut;

pub(super) struct Long {
    mask: Box<dyn MaskStream>,
    /// The last piece ended within an escape.
    in_escape: bool,
    /// Unescaped, and not yet a whole character.
    bytes: Vec<u8>,
    masked: String,
}

impl Long {
    pub(super) fn new(mask: Box<dyn MaskStream>) -> Long {
        Long { mask, in_escape: false, bytes: Vec::new(), masked: String::new() }
    }

    /// Takes what comes next of it, in COPY's text form.
    pub(super) fn push(&mut self, mut piece: &[u8], out: &mut BytesMut) -> Result<(), ValueError> {
        while let Some(first) = piece.first() {
            if std::mem::take(&mut self.in_escape) {
                self.bytes.push(unescaped(*first));
                piece = &piece[1..];
                continue;
            }
            let plain = memchr::memchr(b'\\', piece).unwrap_or(piece.len());
            self.bytes.extend_from_slice(&piece[..plain]);
            self.in_escape = plain < piece.len();
            piece = &piece[piece.len().min(plain + 1)..];
        }
        let whole = match std::str::from_utf8(&self.bytes) {
            Ok(text) => text.len(),
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            Err(_) => return Err(ValueError::NotUtf8),
        };
        let text = std::str::from_utf8(&self.bytes[..whole]).expect("it is valid up to there");
        self.mask.push(text, &mut self.masked);
        self.bytes.drain(..whole);
        self.write(out);
        Ok(())
    }

    /// The value is complete.
    pub(super) fn end(mut self, out: &mut BytesMut) -> Result<(), ValueError> {
        if self.in_escape {
            return Err(ValueError::Malformed("COPY"));
        }
        if !self.bytes.is_empty() {
            return Err(ValueError::NotUtf8);
        }
        self.mask.end(&mut self.masked);
        self.write(out);
        Ok(())
    }

    fn write(&mut self, out: &mut BytesMut) {
        escape(&self.masked, out);
        self.masked.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::super::*;
    use crate::masking::masks::{MaskSpec, Masker, MaskingKey, ValueType};

    const KEY: [u8; 32] = [7; 32];

    fn masker(spec: &MaskSpec, ty: &ValueType) -> Masker {
        Masker::new(spec, ty, &MaskingKey::new(&KEY).unwrap().domain("d")).unwrap()
    }

    fn fed(step: Step, value: &str, piece: usize) -> Result<String, RowError> {
        let mut masker = RowMasker::new(vec![step, Step::Copy].into());
        let (mut out, mut most) = (BytesMut::new(), 0);
        let row = [&escaped(Some(value)), b"\tnext\n".as_slice()].concat();
        for piece in [&row, b"short\tnext\n".as_slice()].concat().chunks(piece) {
            masker.feed(piece, &mut out)?;
            most = most.max(masker.held.capacity());
        }
        assert!(masker.is_between_rows() && masker.rows() == 2);
        assert!(most <= 2 * STREAMED, "{most} bytes were held");
        Ok(String::from_utf8(out.to_vec()).unwrap())
    }

    #[test]
    fn long_values_become_what_they_would_if_they_were_held() {
        let text: String = (0..700_000).map(|n| ['a', '\\', 'ß', '\t', '€', '\n', '🙂', ' '][n * n % 11 % 8]).collect();
        let hex = format!("\\x{}", "0a".repeat(STREAMED));
        let redact = |keep_first, keep_last, with| MaskSpec::Redact { keep_first, keep_last, with };
        for (spec, ty, value) in [
            (redact(0, 0, '*'), ValueType::Text, &text),
            (redact(3, 2, '█'), ValueType::Text, &text),
            (redact(0, 5, '*'), ValueType::Text, &text),
            (redact(0, 0, '*'), ValueType::Bytea, &hex),
            (MaskSpec::Hmac { length: 32 }, ValueType::Text, &text),
            (MaskSpec::Hmac { length: 32 }, ValueType::Bytea, &hex),
        ] {
            let [mut whole, mut short] = [String::new(), String::new()];
            masker(&spec, &ty).apply(value, &mut whole).unwrap();
            masker(&spec, &ty).apply("short", &mut short).unwrap();
            let expected =
                [&escaped(Some(&whole)), b"\tnext\n".as_slice(), &escaped(Some(&short)), b"\tnext\n"].concat();
            for piece in [65_521, 1 << 20, 4099, 10 << 20] {
                let step = Step::Mask(Masking { transform: Transform::of_masker(masker(&spec, &ty)), remember: None });
                assert_eq!(fed(step, value, piece).unwrap().as_bytes(), expected, "{spec:?} in pieces of {piece}");
            }
        }
    }

    #[test]
    fn of_a_long_value_that_is_replaced_only_the_beginning_is_held() {
        let text = "€uro\t".repeat(STREAMED / 3);
        let mut middles = Vec::new();
        for piece in [65_521, 10 << 20] {
            let constant = Step::Mask(Masking { transform: Transform::constant("c"), remember: Some(0) });
            assert_eq!(fed(constant, &text, piece).unwrap(), "c\tnext\nc\tnext\n");
            let sample = Arc::new(crate::masking::sample::of_text());
            let template = Step::Template(vec![Part::Text("t".to_owned())], sample.clone());
            assert_eq!(fed(template, &text, piece).unwrap(), "t\tnext\nt\tnext\n");
            middles.push(sample.values().into_iter().map(|raw| raw.text).collect::<Vec<_>>());
        }
        assert!(middles[0].iter().any(|middle| text.contains(&**middle)), "its middle is searched for");
        assert_eq!(middles[0], middles[1]);
    }

    #[test]
    fn what_has_to_be_held_is_held_up_to_a_bound() {
        let mask = || Masking {
            transform: Transform::of_masker(masker(&MaskSpec::UserName, &ValueType::Text)),
            remember: None,
        };
        let mut masker = RowMasker::new(vec![Step::Mask(mask())].into());
        let mut out = BytesMut::new();
        let piece = vec![b'a'; 1 << 20];
        let mut fed = || masker.feed(&piece, &mut out);
        let held = (0..100).take_while(|_| fed().is_ok()).count();
        assert_eq!(held, LONGEST_VALUE >> 20);
    }

    #[test]
    fn a_beginning_ends_with_a_whole_character() {
        for (held, kept) in [("abc", 3), ("ab\\", 2), ("ab\\\\", 4), ("ü", 2), ("a€", 4), ("🙂", 4)] {
            assert_eq!(beginning(held.as_bytes()).len(), kept, "{held}");
        }
        for (held, kept) in [(&"ü".as_bytes()[..1], 0), (&"a€".as_bytes()[..3], 1), (&"a🙂".as_bytes()[..4], 1)] {
            assert_eq!(beginning(held).len(), kept, "{held:?}");
        }
        assert_eq!(beginning(b"").len(), 0);
    }
}
