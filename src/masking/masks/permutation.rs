//! Whole numbers onto whole numbers: a keyed permutation of a range.
//!
//! A balanced Feistel network with AES-128 as its round function over the smallest even number of bits that holds the range, walked along its
//! cycles until it is back in the range (Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002). At most 4 numbers
//! of the network's domain fall on one of the range, so a walk has 4 steps on average at worst; it ends, since the number it began with lies on its
//! cycle. Ten rounds, as FF1 has, because a small domain makes each round weak.

use super::key::DomainKey;
use super::masker::{Built, Changes, Longest, Mask, MaskError, Properties, Unsuitable, ValueType};
use aes::Aes128;
use aes::cipher::{BlockCipherEncrypt, KeyInit};
use std::fmt::Write;

const ROUNDS: u8 = 10;
/// Below it a permutation hides little: whoever knows most pairs knows the rest.
const LEAST_MEMBERS: u128 = 1000;

/// `min..=max` onto itself.
pub(super) fn int(min: i64, max: i64, ty: &ValueType, key: &DomainKey) -> Result<Built, Unsuitable> {
    let refuse = |reason: String| Err(Unsuitable::Parameter { mask: "int", reason });
    if min > max {
        return refuse(format!("min, {min}, is above max, {max}"));
    }
    let (least, most) = match ty {
        ValueType::SmallInt => (i64::from(i16::MIN), i64::from(i16::MAX)),
        ValueType::Integer => (i64::from(i32::MIN), i64::from(i32::MAX)),
        _ => (i64::MIN, i64::MAX),
    };
    if min < least || max > most {
        return refuse(format!("{min} to {max} is not within the type {ty}, {least} to {most}"));
    }
    let members = max.abs_diff(min) as u128 + 1;
    if members < LEAST_MEMBERS {
        return refuse(format!("{min} to {max} has {members} members and must have at least {LEAST_MEMBERS}"));
    }
    let longest = min.to_string().len().max(max.to_string().len());
    let scaled = *ty == ValueType::Numeric;
    let mask = Int { min, max, scaled, permutation: Permutation::new(max.abs_diff(min), key) };
    Ok((Properties::new(Longest::Chars(longest), true).changing(Changes::AlmostAlways), Box::new(mask)))
}

struct Int {
    min: i64,
    max: i64,
    /// Whether values may carry a fraction of zeros, as `numeric(10, 2)` writes it.
    scaled: bool,
    permutation: Permutation,
}

impl Mask for Int {
    fn apply(&self, value: &str, out: &mut String) -> Result<(), MaskError> {
        const MALFORMED: MaskError = MaskError::Malformed { expected: "a whole number without leading zeros" };
        let (whole, zeros) = match value.find('.').filter(|_| self.scaled) {
            Some(point) => value.split_at(point),
            None => (value, ""),
        };
        if !zeros.bytes().skip(1).all(|byte| byte == b'0') || !is_canonical(whole) {
            return Err(MALFORMED);
        }
        // What is too long for an i64 is a number all the same, and outside every range.
        let number: i64 = whole.parse().map_err(|_| MaskError::OutOfRange { min: self.min, max: self.max })?;
        if !(self.min..=self.max).contains(&number) {
            return Err(MaskError::OutOfRange { min: self.min, max: self.max });
        }
        let masked = self.min.wrapping_add_unsigned(self.permutation.of(number.abs_diff(self.min)));
        write!(out, "{masked}{zeros}").expect("a string takes all that is written");
        Ok(())
    }
}

/// Whether this is how Postgres writes a whole number: two spellings of one number could not keep apart.
fn is_canonical(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let leading_zero = digits.starts_with('0') && text != "0";
    !digits.is_empty() && !leading_zero && digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// A keyed permutation of `0..=last`.
struct Permutation {
    cipher: Aes128,
    last: u64,
    /// Bits of each half of the network: 1 to 32.
    half_bits: u32,
}

impl Permutation {
    fn new(last: u64, key: &DomainKey) -> Self {
        let key = key.cipher_key("int");
        let key: [u8; 16] = key[..16].try_into().expect("16 of 32 bytes");
        let bits = (u64::BITS - last.leading_zeros()).max(2);
        Self { cipher: Aes128::new(&key.into()), last, half_bits: bits.div_ceil(2) }
    }

    /// Where `number` (at most `last`) goes.
    fn of(&self, number: u64) -> u64 {
        let mut at = self.network(number);
        while at > self.last {
            at = self.network(at);
        }
        at
    }

    fn network(&self, number: u64) -> u64 {
        let mask = u64::MAX >> (u64::BITS - self.half_bits);
        let (mut left, mut right) = (number >> self.half_bits, number & mask);
        for round in 0..ROUNDS {
            (left, right) = (right, left ^ self.round(round, right) & mask);
        }
        left << self.half_bits | right
    }

    /// The block: the round, the half's bits, 6 zeros, the half big-endian.
    fn round(&self, round: u8, half: u64) -> u64 {
        let mut block = [0; 16];
        block[0] = round;
        block[1] = self.half_bits as u8;
        block[8..].copy_from_slice(&half.to_be_bytes());
        let mut block = block.into();
        self.cipher.encrypt_block(&mut block);
        u64::from_be_bytes(block[..8].try_into().expect("8 of 16 bytes"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::MaskingKey;
    use super::*;

    #[test]
    fn it_is_a_permutation_of_ranges_of_any_size() {
        let key = MaskingKey::new(&[7; 32]).unwrap().domain("numbers");
        for members in [1000_u64, 1023, 1024, 1025, 4097, 100_000] {
            let permutation = Permutation::new(members - 1, &key);
            let mut seen = vec![false; members as usize];
            let mut fixed = 0;
            for number in 0..members {
                let to = permutation.of(number);
                assert!(!std::mem::replace(&mut seen[to as usize], true));
                fixed += u32::from(to == number);
            }
            assert!(fixed < 10, "{fixed} of {members} stay");
        }
    }
}
