//! What is drawn from the seed, and the secrets among it: words that a masked copy may not contain.

use rand::{RngExt, SeedableRng, rngs::StdRng};
use std::collections::HashSet;

/// How every secret word begins; nothing that is kept does.
pub const SECRET: &str = "zq";
/// Characters of a secret word.
pub const SECRET_LENGTH: usize = 14;

pub struct Dice {
    random: StdRng,
    pub secrets: HashSet<String>,
}

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice { random: StdRng::seed_from_u64(seed), secrets: HashSet::new() }
    }

    /// From 0 to before `end`.
    pub fn below(&mut self, end: usize) -> usize {
        self.random.random_range(0..end)
    }

    pub fn between(&mut self, first: i64, last: i64) -> i64 {
        self.random.random_range(first..=last)
    }

    pub fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    pub fn word(&mut self, characters: &[u8], length: usize) -> String {
        (0..length).map(|_| char::from(*self.pick(characters))).collect()
    }

    pub fn digits(&mut self, length: usize) -> String {
        self.word(b"0123456789", length)
    }

    /// A word that is nowhere else, and must not be in a masked copy.
    pub fn secret(&mut self) -> String {
        let drawn = self.word(b"abcdefghijklmnopqrstuvwxyz0123456789", SECRET_LENGTH - SECRET.len());
        let secret = format!("{SECRET}{drawn}");
        self.secrets.insert(secret.clone());
        secret
    }
}

/// The secrets that `text` holds, in any case, and in hexadecimal digits.
pub fn secrets_within<'a>(secrets: &'a HashSet<String>, text: &str) -> HashSet<&'a str> {
    let lower = text.to_ascii_lowercase();
    let plain = lower.match_indices(SECRET).filter_map(|(at, _)| secrets.get(lower.get(at..at + SECRET_LENGTH)?));
    let prefix: String = SECRET.bytes().map(|byte| format!("{byte:02x}")).collect();
    let from_hex = |at: usize| {
        let digits = lower.as_bytes().get(at..at + 2 * SECRET_LENGTH)?;
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        secrets.get(&String::from_utf8(digits.chunks(2).map(byte).collect::<Option<Vec<u8>>>()?).ok()?)
    };
    let hexadecimal = lower.match_indices(&prefix).filter_map(|(at, _)| from_hex(at));
    plain.chain(hexadecimal).map(String::as_str).collect()
}
