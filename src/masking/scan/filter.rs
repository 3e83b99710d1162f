//! A Bloom filter whose two bits lie in one word: one load a test, and no branch.
//!
//! It never says no to what was inserted. Of what was not, it lets through the square of its filling, about: 1 % at 16 bits a key.

const BIT: [u64; 64] = {
    let mut bits = [0; 64];
    let mut at = 0;
    while at < 64 {
        bits[at] = 1 << at;
        at += 1;
    }
    bits
};

/// Bits of a set of hashes.
pub(super) struct Filter {
    /// A power of two of them.
    words: Vec<u64>,
}

impl Filter {
    /// With `bits_per_key` bits for each of so many keys, rounded up to a power of two and cut at `largest` bytes.
    pub(super) fn new(keys: usize, bits_per_key: usize, largest: usize) -> Filter {
        Filter { words: vec![0; (keys * bits_per_key / 64).next_power_of_two().clamp(64, largest / 8)] }
    }

    pub(super) fn insert(&mut self, hash: u64) {
        let word = self.word(hash);
        self.words[word] |= bits(hash);
    }

    /// 1 if `hash` may have been inserted, else 0.
    #[inline(always)]
    pub(super) fn may_hold(&self, hash: u64) -> usize {
        let bits = bits(hash);
        usize::from(self.words[self.word(hash)] & bits == bits)
    }

    /// From the middle of the hash; its highest bits choose the bits.
    #[inline(always)]
    fn word(&self, hash: u64) -> usize {
        (hash ^ hash >> 32) as usize & (self.words.len() - 1)
    }

    #[cfg(test)]
    pub(super) fn size_bytes(&self) -> usize {
        self.words.len() * 8
    }
}

/// By a table: shifts by a variable cost more than loads on x86-64 without BMI.
#[inline(always)]
fn bits(hash: u64) -> u64 {
    BIT[(hash >> 58) as usize] | BIT[(hash >> 52 & 63) as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_was_inserted_is_let_through_and_little_else() {
        let hash = |i: u64| (i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ i << 40;
        let mut filter = Filter::new(10_000, 16, 1 << 20);
        (0..10_000).for_each(|i| filter.insert(hash(i)));
        assert!((0..10_000).all(|i| filter.may_hold(hash(i)) == 1));
        let others: usize = (10_000..110_000).map(|i| filter.may_hold(hash(i))).sum();
        assert!(others < 4_000, "{others} of 100,000");
    }
}
