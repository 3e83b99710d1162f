//! The first look at data: which of its positions may begin a key of a [`Finder`](super::finder::Finder), most of them not.
//!
//! ```text
//! 64 zero bytes and the next 8   skipped: what follows a key of zeros is not all zeros
//! every 8th position             the 8 bytes there, for long patterns
//! every 4th position             the 4 bytes there, for short ones
//! ```
//!
//! Eight bytes are loaded once for all three. A test is a hash, a load from a table that the L2 cache holds, and a bit of it, without a branch: so sizes are
//! known when this is compiled.

use std::ops::Range;

/// Zeros that must follow the data that is searched.
pub(super) const PADDING: usize = BLOCK + 8;
/// Bytes that are skipped at once if they are zero.
const BLOCK: usize = 64;
/// A position with another byte than zero among so many from there on is never skipped: from a block's last one on, as many are looked at.
pub(super) const LOOKED_AHEAD: usize = PADDING - (BLOCK - 4);
/// Bytes that go through a sieve before the next one begins: their positions fit the L1 cache.
pub(super) const STRETCH: usize = 4 << 10;
/// Places of a stretch at most.
pub(super) const PLACES: usize = STRETCH / 4;
/// Words of a table: 256 KiB, of which two fit the L2 cache beside everything else; 512 KiB; and 4 MiB, which does not, but costs less than
/// looking at every other position.
const SMALL: usize = 1 << 16;
const MIDDLE: usize = 1 << 17;
const LARGE: usize = 1 << 20;
/// Most keys of the first two: an eighth of the bits are set, or a quarter (measured on text, with 1,000 to 100,000 secrets).
const MOST_IN_SMALL: usize = SMALL * 32 / 8;
const MOST_IN_MIDDLE: usize = MIDDLE * 32 / 4;
/// Set in each byte before hashing: the bit in which ASCII letters of both cases differ.
const FOLD: u64 = 0x2020_2020_2020_2020;
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// Of the first `WINDOW` bytes of a word, its high bits the best.
#[inline(always)]
pub(super) fn hash<const WINDOW: usize>(word: u64) -> u64 {
    hash_of(word, WINDOW)
}

/// Of the first `bytes`, at least 1 and at most 8.
#[inline(always)]
pub(super) fn hash_of(word: u64, bytes: usize) -> u64 {
    ((word | FOLD) << (64 - 8 * bytes)).wrapping_mul(MULTIPLIER)
}

/// What may be a key: one bit for each hash.
pub(super) struct Keys {
    /// [`SMALL`], [`MIDDLE`] or [`LARGE`] words; none where there are no keys.
    words: Vec<u32>,
}

impl Keys {
    /// Of long patterns, so many, and of short ones.
    pub(super) fn pair(long: usize, short: usize) -> [Keys; 2] {
        let words = match long.max(short) {
            keys if keys <= MOST_IN_SMALL => SMALL,
            keys if keys <= MOST_IN_MIDDLE => MIDDLE,
            _ => LARGE,
        };
        [long, short].map(|keys| Keys { words: vec![0; if keys == 0 { 0 } else { words }] })
    }

    pub(super) fn insert(&mut self, hash: u64) {
        let (word, bit) = match self.words.len() {
            SMALL => place::<SMALL>(hash),
            MIDDLE => place::<MIDDLE>(hash),
            _ => place::<LARGE>(hash),
        };
        self.words[word] |= 1 << bit;
    }

    fn table<const WORDS: usize>(&self) -> Option<&[u32; WORDS]> {
        self.words.as_slice().try_into().ok()
    }

    #[cfg(test)]
    pub(super) fn size_bytes(&self) -> usize {
        self.words.len() * 4
    }
}

/// Number of the word, and of the bit in it.
#[inline(always)]
fn place<const WORDS: usize>(hash: u64) -> (usize, u32) {
    let at = hash >> (64 - 5 - WORDS.trailing_zeros());
    ((at >> 5) as usize, at as u32 & 31)
}

#[inline(always)]
fn is_set<const WORDS: usize>(table: &[u32; WORDS], hash: u64) -> u32 {
    let (word, bit) = place::<WORDS>(hash);
    table[word] >> bit & 1
}

/// Positions that a stretch of data leaves, ascending.
pub(super) struct Places {
    pub long: Vec<u32>,
    pub short: Vec<u32>,
}

impl Places {
    pub(super) fn new() -> Places {
        Places { long: Vec::with_capacity(PLACES), short: Vec::with_capacity(PLACES) }
    }

    /// Sifts `range` of `data`, of [`STRETCH`] bytes or fewer, which [`PADDING`] bytes follow.
    pub(super) fn sift(&mut self, data: &[u8], range: Range<usize>, [long, short]: [&Keys; 2]) {
        self.long.clear();
        self.short.clear();
        match long.words.len().max(short.words.len()) {
            SMALL => self.sift_through::<SMALL>(data, range, long.table(), short.table()),
            MIDDLE => self.sift_through::<MIDDLE>(data, range, long.table(), short.table()),
            _ => self.sift_through::<LARGE>(data, range, long.table(), short.table()),
        }
    }

    fn sift_through<const WORDS: usize>(
        &mut self,
        data: &[u8],
        range: Range<usize>,
        long: Option<&[u32; WORDS]>,
        short: Option<&[u32; WORDS]>,
    ) {
        match (long, short) {
            (Some(long), Some(short)) => self.sift_for::<true, true, WORDS>(data, range, long, short),
            (Some(long), None) => self.sift_for::<true, false, WORDS>(data, range, long, long),
            (None, Some(short)) => self.sift_for::<false, true, WORDS>(data, range, short, short),
            (None, None) => {}
        }
    }

    #[inline(always)]
    fn sift_for<const LONG: bool, const SHORT: bool, const WORDS: usize>(
        &mut self,
        data: &[u8],
        range: Range<usize>,
        long: &[u32; WORDS],
        short: &[u32; WORDS],
    ) {
        for block in range.step_by(BLOCK) {
            let bytes: &[u8; BLOCK + 8] = data[block..block + BLOCK + 8].try_into().expect("as long as asked for");
            if is_zero(bytes) {
                continue;
            }
            // A bit for each position, the first one's the highest.
            let [mut longs, mut shorts] = [0u32; 2];
            for eight in bytes.as_chunks::<8>().0.iter().take(BLOCK / 8) {
                let word = u64::from_le_bytes(*eight);
                if LONG {
                    longs = longs << 1 | is_set(long, hash::<8>(word));
                }
                if SHORT {
                    shorts = shorts << 1 | is_set(short, hash::<4>(word));
                    shorts = shorts << 1 | is_set(short, hash::<4>(word >> 32));
                }
            }
            keep::<8>(longs, block, &mut self.long);
            keep::<4>(shorts, block, &mut self.short);
        }
    }
}

/// Appends the positions whose bits are set, of those at every `STRIDE` bytes of the block.
#[inline(always)]
fn keep<const STRIDE: usize>(bits: u32, block: usize, places: &mut Vec<u32>) {
    let mut left = bits << (32 - BLOCK / STRIDE);
    while left != 0 {
        let number = left.leading_zeros();
        places.push(block as u32 + number * STRIDE as u32);
        left &= !(1 << 31 >> number);
    }
}

#[inline(always)]
fn is_zero(bytes: &[u8; BLOCK + 8]) -> bool {
    bytes.as_chunks::<8>().0.iter().fold(0, |all, eight| all | u64::from_le_bytes(*eight)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_left_and_little_else() {
        let all: Vec<u64> = (1..500u64).map(|n| n.wrapping_mul(0x2545_f491_4f6c_dd1d)).collect();
        let mut data: Vec<u8> = (0..STRETCH as u64 / 8).flat_map(|n| (n * n + 77).to_le_bytes()).collect();
        data.resize(STRETCH + PADDING, 0);
        let wanted = [(64, all[3]), (128, all[77]), (STRETCH - 8, all[498])];
        wanted.iter().for_each(|(at, key)| data[*at..at + 8].copy_from_slice(&key.to_le_bytes()));
        for count in [500, MOST_IN_MIDDLE, LARGE * 32] {
            let [mut long, mut short] = Keys::pair(count, count);
            for key in &all {
                long.insert(hash::<8>(*key));
                short.insert(hash::<4>(*key));
            }
            let mut places = Places::new();
            places.sift(&data, 0..STRETCH, [&long, &short]);
            for (at, _) in wanted {
                assert!(places.long.contains(&(at as u32)) && places.short.contains(&(at as u32)), "{at}");
            }
            assert!(places.long.len() < 10 && places.short.len() < 20, "{:?} {:?}", places.long, places.short);
            assert!(places.long.is_sorted() && places.short.is_sorted());
            let [none, mut short] = Keys::pair(0, count);
            short.insert(hash::<4>(all[77]));
            places.sift(&data, 0..STRETCH, [&none, &short]);
            assert_eq!((places.long.len(), &places.short[..]), (0, &[128][..]));
        }
    }

    #[test]
    fn where_everything_is_left_nothing_is_lost() {
        let mut keys = Keys::pair(1, 1);
        keys.iter_mut().for_each(|keys| keys.words.fill(u32::MAX));
        let mut places = Places::new();
        places.sift(&[1; STRETCH + PADDING], 0..STRETCH, [&keys[0], &keys[1]]);
        assert_eq!(places.long, (0..STRETCH as u32).step_by(8).collect::<Vec<_>>());
        assert_eq!(places.short, (0..STRETCH as u32).step_by(4).collect::<Vec<_>>());
        places.sift(&[0; STRETCH + PADDING], 0..STRETCH, [&keys[0], &keys[1]]);
        assert!(places.long.is_empty() && places.short.is_empty());
    }
}
