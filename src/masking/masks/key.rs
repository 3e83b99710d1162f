//! The masking key, the keys derived from it, and the numbers drawn under them.
//!
//! The tree, every edge an HMAC-SHA256 (RFC 2104): masking key → key of a domain → key of one kind of mask → a value's draws. Nothing can be
//! computed upwards or sideways: who learns the masks of one domain learns nothing of another's. Keys stay inside; their `Debug` is redacted.

use ring::hmac;
use std::fmt;

/// Least bytes of a masking key: as many as its HMAC puts out.
const LEAST_BYTES: usize = 32;
/// Set apart what [`Prf`] is asked: the first block of a value, and the blocks after it.
const FIRST_BLOCK: u8 = 0;
const LATER_BLOCK: u8 = 1;
/// RFC 4648's alphabet in lower case.
const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// Why bytes are no masking key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error(
        "the masking key has {found} bytes and must have at least {least}; make one with `openssl rand -hex {least}`"
    )]
    TooShort { found: usize, least: usize },
}

/// The secret that all masks depend on: at least 32 bytes. Whoever has it can try candidates against a masked copy.
#[derive(Clone)]
pub struct MaskingKey(hmac::Key);

impl MaskingKey {
    /// Takes the key's bytes as they are.
    pub fn new(bytes: &[u8]) -> Result<Self, KeyError> {
        if bytes.len() < LEAST_BYTES {
            return Err(KeyError::TooShort { found: bytes.len(), least: LEAST_BYTES });
        }
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, bytes)))
    }

    /// 16 hexadecimal digits by which two runs can tell that they used the same key; they reveal nothing of it.
    pub fn id(&self) -> String {
        let tag = hmac::sign(&self.0, b"offshoot masking key id");
        tag.as_ref()[..8].iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The key of the domain `name`: columns of one domain map equal values to equal masks.
    pub fn domain(&self, name: &str) -> DomainKey {
        let message = [b"offshoot masking domain\0", name.as_bytes()].concat();
        DomainKey(hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&self.0, &message).as_ref()))
    }
}

impl fmt::Debug for MaskingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[masking key]")
    }
}

/// The key of one domain.
#[derive(Clone)]
pub struct DomainKey(hmac::Key);

impl DomainKey {
    /// 32 bytes that depend on all of `parts` and on how they are divided.
    pub(super) fn prf(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.0);
        for part in parts {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        bytes_of(context.sign())
    }

    /// The function of one kind of mask, so that two kinds over one domain have nothing in common.
    pub(super) fn function(&self, kind: &str) -> Prf {
        Prf(hmac::Key::new(hmac::HMAC_SHA256, &self.prf(&[b"function", kind.as_bytes()])))
    }

    /// A key for a cipher.
    pub(super) fn cipher_key(&self, kind: &str) -> [u8; 32] {
        self.prf(&[b"cipher", kind.as_bytes()])
    }
}

impl fmt::Debug for DomainKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[domain key]")
    }
}

/// A pseudo-random function of values, keyed for one kind of mask.
#[derive(Clone)]
pub(super) struct Prf(hmac::Key);

impl Prf {
    /// The draws for `value`; another `attempt` gives others.
    pub(super) fn draws(&self, value: &[u8], attempt: u32) -> Draws<'_> {
        self.draws_from(self.block(value, attempt, FIRST_BLOCK))
    }

    fn draws_from(&self, seed: [u8; 32]) -> Draws<'_> {
        Draws { prf: self, seed, block: seed, at: 0, later_blocks: 0, fraction: 0, spent: u64::MAX }
    }

    /// For a value that comes in pieces.
    pub(super) fn context(&self) -> hmac::Context {
        hmac::Context::with_key(&self.0)
    }

    /// The draws of the first attempt for the value that went into `context`.
    pub(super) fn draws_of(&self, context: hmac::Context) -> Draws<'_> {
        self.draws_from(end_of_block(context, 0, FIRST_BLOCK))
    }

    /// HMAC of `value`, `number` (big-endian) and `tag`: a suffix of fixed length, so no two questions read alike.
    fn block(&self, value: &[u8], number: u32, tag: u8) -> [u8; 32] {
        let mut context = self.context();
        context.update(value);
        end_of_block(context, number, tag)
    }
}

fn end_of_block(mut context: hmac::Context, number: u32, tag: u8) -> [u8; 32] {
    let [a, b, c, d] = number.to_be_bytes();
    context.update(&[a, b, c, d, tag]);
    bytes_of(context.sign())
}

fn bytes_of(tag: hmac::Tag) -> [u8; 32] {
    tag.as_ref().try_into().expect("an HMAC-SHA256 has 32 bytes")
}

/// An endless sequence of numbers that depends on key and value only. A value is hashed once, however long it is: later blocks come of the first.
pub(super) struct Draws<'a> {
    prf: &'a Prf,
    seed: [u8; 32],
    block: [u8; 32],
    /// Bytes of `block` that were taken.
    at: usize,
    later_blocks: u32,
    /// What is left of a 64-bit fraction that [`Draws::small`] takes numerals from, and the product of their radices.
    fraction: u64,
    spent: u64,
}

impl Draws<'_> {
    pub(super) fn next_u64(&mut self) -> u64 {
        if self.at == self.block.len() {
            self.later_blocks = self.later_blocks.wrapping_add(1);
            self.block = self.prf.block(&self.seed, self.later_blocks, LATER_BLOCK);
            self.at = 0;
        }
        let word = self.block[self.at..self.at + 8].try_into().expect("8 divides 32");
        self.at += 8;
        u64::from_be_bytes(word)
    }

    /// A number below `count` (> 0), its bias below `count` / 2^64.
    pub(super) fn below(&mut self, count: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(count)) >> 64) as u64
    }

    /// As [`Draws::below`] for a `count` of at most 2^16, several from one word: bias below 2^-32.
    pub(super) fn small(&mut self, count: u32) -> usize {
        let count = u64::from(count);
        match self.spent.checked_mul(count).filter(|spent| *spent <= 1 << 32) {
            Some(spent) => self.spent = spent,
            None => {
                self.fraction = self.next_u64();
                self.spent = count;
            }
        }
        let product = u128::from(self.fraction) * u128::from(count);
        self.fraction = product as u64;
        (product >> 64) as usize
    }

    /// One of `choices`, which are not empty.
    pub(super) fn pick<'c, T: ?Sized>(&mut self, choices: &[&'c T]) -> &'c T {
        choices[self.below(choices.len() as u64) as usize]
    }

    /// A decimal digit.
    pub(super) fn digit(&mut self) -> char {
        char::from(b'0' + self.small(10) as u8)
    }

    /// Appends `count` base32 characters, 5 bits each.
    pub(super) fn base32(&mut self, count: usize, out: &mut String) {
        for _ in 0..count {
            out.push(char::from(BASE32[self.small(32)]));
        }
    }

    /// Appends a character of the class of `c`: a digit, an upper-case or a lower-case letter of ASCII for any alphabet's; others stay.
    pub(super) fn of_class(&mut self, c: char, out: &mut String) {
        let letter = |base: u8, draws: &mut Self| char::from(base + draws.small(26) as u8);
        out.push(match c {
            c if c.is_numeric() => self.digit(),
            c if c.is_uppercase() => letter(b'A', self),
            c if c.is_alphabetic() => letter(b'a', self),
            other => other,
        });
    }
}
