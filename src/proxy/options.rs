//! The startup parameter `options`: command-line switches, of which two are the proxy's own.
//!
//! `-c offshoot.branch=x`, `-coffshoot.branch=x` and `--offshoot.branch=x` (and the same for `offshoot.project`) are
//! for tools that cannot spell `@`. They are taken out; the compute gets everything else, byte for byte.
//!
//! Words end at white space; a backslash takes the next byte as it is (`pg_split_opts` in `postinit.c`). In a setting's
//! name `-` stands for `_` (`ParseLongOption` in `guc.c`) and case does not matter.

/// What the proxy itself reads from the options.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ProxyOptions {
    pub branch: Option<Vec<u8>>,
    pub project: Option<Vec<u8>>,
}

impl ProxyOptions {
    /// Notes `name`=`value` if it is one of the proxy's settings; says whether it was. The last one counts, as in
    /// Postgres.
    pub(super) fn note(&mut self, name: &[u8], value: &[u8]) -> bool {
        let name = name.to_ascii_lowercase();
        let place = match name.as_slice() {
            b"offshoot.branch" => &mut self.branch,
            b"offshoot.project" => &mut self.project,
            _ => return false,
        };
        *place = Some(value.to_vec());
        true
    }

    fn note_assignment(&mut self, assignment: &[u8]) -> bool {
        match assignment.iter().position(|byte| *byte == b'=') {
            Some(equals) => self.note(&assignment[..equals], &assignment[equals + 1..]),
            None => false,
        }
    }
}

/// Takes the proxy's own switches out of `options`, noting them in `found`. Returns the rest: `options` itself if
/// none was there.
pub(super) fn extract(options: &[u8], found: &mut ProxyOptions) -> Vec<u8> {
    let words = split(options);
    let mut rest: Vec<&[u8]> = Vec::new();
    let mut taken = false;
    let mut next = 0;
    while let Some(word) = words.get(next) {
        let own = match word.text.as_slice() {
            b"-c" => match words.get(next + 1) {
                Some(argument) if found.note_assignment(&argument.text) => 2,
                _ => 0,
            },
            [b'-', b'c', assignment @ ..] | [b'-', b'-', assignment @ ..] if found.note_assignment(assignment) => 1,
            _ => 0,
        };
        taken |= own > 0;
        if own == 0 {
            rest.push(word.raw);
        }
        next += own.max(1);
    }
    if taken { rest.join(&b' ') } else { options.to_vec() }
}

/// One switch: as it was written, and as it reads without its backslashes.
struct Word<'a> {
    raw: &'a [u8],
    text: Vec<u8>,
}

fn split(options: &[u8]) -> Vec<Word<'_>> {
    let mut words = Vec::new();
    let mut at = 0;
    while at < options.len() {
        if is_space(options[at]) {
            at += 1;
            continue;
        }
        let start = at;
        let mut text = Vec::new();
        let mut escaped = false;
        while at < options.len() && (escaped || !is_space(options[at])) {
            escaped = !escaped && options[at] == b'\\';
            if !escaped {
                text.push(options[at]);
            }
            at += 1;
        }
        words.push(Word { raw: &options[start..at], text });
    }
    words
}

/// C's `isspace` in the C locale; Rust's knows no vertical tab.
fn is_space(byte: u8) -> bool {
    byte.is_ascii_whitespace() || byte == 0x0b
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extracted(options: &str) -> (Option<String>, Option<String>, String) {
        let mut found = ProxyOptions::default();
        let rest = extract(options.as_bytes(), &mut found);
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
        (found.branch.map(text), found.project.map(text), text(rest))
    }

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn every_spelling_of_a_switch_is_taken_out() {
        for options in
            ["-c offshoot.branch=x", "-coffshoot.branch=x", "--offshoot.branch=x", "  -c\tOffShoot.Branch=x "]
        {
            assert_eq!(extracted(options), (some("x"), None, String::new()), "{options}");
        }
    }

    #[test]
    fn the_rest_is_passed_on_as_it_was_written() {
        assert_eq!(
            extracted(r"-c search_path=a\ b\\c -c offshoot.branch=pr/1 --work-mem=1MB -c offshoot.project=shop -E"),
            (some("pr/1"), some("shop"), r"-c search_path=a\ b\\c --work-mem=1MB -E".to_owned())
        );
        let untouched = "  -c geqo=off\n-c  x.branch=1 ";
        assert_eq!(extracted(untouched), (None, None, untouched.to_owned()));
    }

    #[test]
    fn backslashes_are_undone_in_what_is_taken() {
        assert_eq!(extracted(r"-c offshoot.\branch=a\ b"), (some("a b"), None, String::new()));
        assert_eq!(extracted(r"-c\ offshoot.branch=x"), (None, None, r"-c\ offshoot.branch=x".to_owned()));
    }

    #[test]
    fn the_last_one_counts_and_half_a_switch_stays() {
        assert_eq!(extracted("-c offshoot.branch=a --offshoot.branch=b").0, some("b"));
        assert_eq!(extracted("-c"), (None, None, "-c".to_owned()));
        assert_eq!(extracted("-c offshoot.branch"), (None, None, "-c offshoot.branch".to_owned()));
        assert_eq!(extracted("-- offshoot.branch=x").0, None);
        assert_eq!(extracted(r"-c offshoot.branch=x\"), (some("x"), None, String::new()));
    }
}
