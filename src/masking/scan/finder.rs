//! Finds where one of a million patterns may begin, at 2 GB/s with a thousand secrets, half to one with 100,000 (Xeon of 2023, one thread).
//!
//! Of each pattern a stretch of `WINDOW + SHIFTS - 1` bytes is its anchor. The `SHIFTS` windows of it are keys; as many as `STRIDE`, so that only
//! every `STRIDE`-th position of the data needs testing: whatever the pattern's place, one of its keys lies at such a position. Testing goes through
//! sieves, each over all that the one before let through, so that the processor waits for many memory accesses at once:
//!
//! ```text
//! 64 zero bytes and the next 8   skipped: no key is all zeros
//! coarse filter                  in the L2 cache; lets 1 % through with a thousand secrets, some 15 % with 100,000
//! fine filter                    16 to 32 bits a key; 1 % of these
//! anchors' filter                16 bits an anchor
//! table                          the key's patterns, by 32 bits of a hash of the whole anchor
//! ```
//!
//! What comes out is a candidate: an anchor that equals the pattern's but for the case of ASCII letters (or another, once in 2^50). The caller compares the whole.

use super::filter::Filter;

/// Zeros that must follow the data that is searched.
pub(super) const PADDING: usize = BLOCK + 8;
/// Bytes that are skipped at once if they are zero.
const BLOCK: usize = 64;
/// Bytes that go through a sieve before the next one begins: their positions fit the L1 cache.
const STRETCH: usize = 4 << 10;
/// The L2 cache of server processors has 1 or 2 MiB; 2 were no faster where it has 2, and 4 slower.
const COARSE_BYTES: usize = 1 << 20;
const FINE_BYTES: usize = 32 << 20;
const BITS_PER_KEY: usize = 16;
/// Set in each byte before hashing: the bit in which ASCII letters of both cases differ.
const FOLD: u64 = 0x2020_2020_2020_2020;

/// The keys of a class of patterns, and whose they are.
pub(super) struct Finder<const WINDOW: usize, const STRIDE: usize, const SHIFTS: usize> {
    coarse: Filter,
    fine: Filter,
    /// Of whole anchors.
    anchors: Filter,
    /// Where each bucket of `entries` begins; one more than there are buckets.
    starts: Vec<u32>,
    entries: Vec<Entry>,
    /// Of a fine hash, to the number of its bucket.
    shift: u32,
}

#[derive(Clone, Copy, Default)]
struct Entry {
    /// Of a hash of the whole anchor.
    print: u32,
    /// Number of the pattern, and how far into the anchor the key lies in the lowest two bits.
    pattern: u32,
}

/// A place where a pattern's anchor may begin.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub pattern: u32,
    /// Of the anchor, in bytes from the start of the data.
    pub anchor: usize,
}

impl<const WINDOW: usize, const STRIDE: usize, const SHIFTS: usize> Finder<WINDOW, STRIDE, SHIFTS> {
    /// Bytes of an anchor.
    pub(super) const ANCHOR: usize = WINDOW + SHIFTS - 1;

    /// Of patterns and their anchors, which `each` gives in the same order every time it is called: twice.
    pub(super) fn new(patterns: usize, each: impl Fn(&mut dyn FnMut(u32, &[u8]))) -> Self {
        let keys = patterns * SHIFTS;
        let buckets = (keys / 2).next_power_of_two().max(16);
        let mut finder = Self {
            coarse: Filter::new(keys, BITS_PER_KEY, COARSE_BYTES),
            fine: Filter::new(keys, BITS_PER_KEY, FINE_BYTES),
            anchors: Filter::new(patterns, BITS_PER_KEY, FINE_BYTES),
            starts: vec![0; buckets + 1],
            entries: vec![Entry::default(); keys],
            shift: 64 - buckets.trailing_zeros(),
        };
        each(&mut |_, anchor| {
            finder.anchors.insert(Self::anchor_hash(anchor, 0));
            for shift in 0..SHIFTS {
                let hash = coarse_hash::<WINDOW>(load(anchor, shift));
                finder.coarse.insert(hash);
                finder.fine.insert(fine_hash(hash));
                finder.starts[(fine_hash(hash) >> finder.shift) as usize] += 1;
            }
        });
        // From counts to ends; filling a bucket from its end leaves its start.
        let mut end = 0;
        for start in &mut finder.starts {
            end += *start;
            *start = end;
        }
        each(&mut |pattern, anchor| {
            for shift in 0..SHIFTS {
                let hash = fine_hash(coarse_hash::<WINDOW>(load(anchor, shift)));
                let place = &mut finder.starts[(hash >> finder.shift) as usize];
                *place -= 1;
                let print = Self::anchor_hash(anchor, 0) as u32;
                finder.entries[*place as usize] = Entry { print, pattern: pattern << 2 | shift as u32 };
            }
        });
        finder
    }

    /// Calls `found` for each candidate among the first `length` bytes of `data`, which [`PADDING`] zeros follow.
    pub(super) fn search(&self, data: &[u8], length: usize, mut found: impl FnMut(Candidate)) {
        if self.entries.is_empty() {
            return;
        }
        let mut places = [0u32; STRETCH + 1];
        for start in (0..length).step_by(STRETCH) {
            let coarse = self.sieve_coarsely(data, start..length.min(start + STRETCH), &mut places);
            let fine = self.sieve_finely(data, coarse, &mut places);
            let whole = self.sieve_anchors(data, fine, &mut places);
            for place in &places[..whole] {
                self.look_up(data, *place as usize, &mut found);
            }
        }
    }

    /// Puts the positions to look at closer into `places`; how many.
    #[inline(always)]
    fn sieve_coarsely(&self, data: &[u8], range: std::ops::Range<usize>, places: &mut [u32; STRETCH + 1]) -> usize {
        let mut count = 0;
        for block in range.step_by(BLOCK) {
            let bytes: &[u8; BLOCK + 8] = data[block..block + BLOCK + 8].try_into().expect("as long as asked for");
            if is_zero(bytes) {
                continue;
            }
            for offset in (0..BLOCK).step_by(STRIDE) {
                places[count] = (block + offset) as u32;
                count += self.coarse.may_hold(coarse_hash::<WINDOW>(load(bytes, offset)));
            }
        }
        count
    }

    #[inline(always)]
    fn sieve_finely(&self, data: &[u8], count: usize, places: &mut [u32; STRETCH + 1]) -> usize {
        let mut kept = 0;
        for at in 0..count {
            let place = places[at];
            places[kept] = place;
            kept += self.fine.may_hold(fine_hash(coarse_hash::<WINDOW>(load(data, place as usize))));
        }
        kept
    }

    /// Keeps the positions where an anchor may begin at or before.
    #[inline(always)]
    fn sieve_anchors(&self, data: &[u8], count: usize, places: &mut [u32; STRETCH + 1]) -> usize {
        let mut kept = 0;
        for at in 0..count {
            let place = places[at];
            let may_hold =
                |shift: usize| self.anchors.may_hold(Self::anchor_hash(data, (place as usize).saturating_sub(shift)));
            places[kept] = place;
            kept += (0..SHIFTS).fold(0, |any, shift| any | may_hold(shift));
        }
        kept
    }

    fn look_up(&self, data: &[u8], place: usize, found: &mut impl FnMut(Candidate)) {
        let hash = fine_hash(coarse_hash::<WINDOW>(load(data, place)));
        let bucket = (hash >> self.shift) as usize;
        let entries = &self.entries[self.starts[bucket] as usize..self.starts[bucket + 1] as usize];
        if entries.is_empty() {
            return;
        }
        // The anchor may begin here, or so many bytes before.
        let prints: [Option<u32>; 4] = std::array::from_fn(|shift| {
            (shift < SHIFTS && shift <= place && place + 16 <= data.len())
                .then(|| Self::anchor_hash(data, place - shift) as u32)
        });
        for entry in entries {
            let shift = (entry.pattern & 3) as usize;
            if prints[shift] == Some(entry.print) {
                found(Candidate { pattern: entry.pattern >> 2, anchor: place - shift });
            }
        }
    }

    /// Hash of the anchor at `at`.
    #[inline(always)]
    fn anchor_hash(bytes: &[u8], at: usize) -> u64 {
        let [first, last] = [0, SHIFTS - 1].map(|shift| coarse_hash::<WINDOW>(load(bytes, at + shift)));
        fine_hash(first.rotate_left(23) ^ last)
    }

    #[cfg(test)]
    pub(super) fn size_bytes(&self) -> usize {
        self.coarse.size_bytes()
            + self.fine.size_bytes()
            + self.starts.len() * 4
            + self.entries.len() * size_of::<Entry>()
    }
}

/// How often each window of `WINDOW` bytes was counted, at least: a sketch that may count too many.
pub(super) struct Census<const WINDOW: usize> {
    counts: Vec<u16>,
    shift: u32,
}

impl<const WINDOW: usize> Census<WINDOW> {
    /// For so many windows.
    pub(super) fn new(windows: usize) -> Self {
        let counts = windows.next_power_of_two().clamp(1 << 10, 1 << 24);
        Self { counts: vec![0; counts], shift: 64 - counts.trailing_zeros() }
    }

    pub(super) fn count(&mut self, bytes: &[u8], at: usize) {
        let slot = self.slot(bytes, at);
        self.counts[slot] = self.counts[slot].saturating_add(1);
    }

    /// How common the window is, in words of no unit: how many patterns have it, and more if it looks like what is in every file.
    /// `None` if it is all zeros.
    pub(super) fn commonness(&self, bytes: &[u8], at: usize) -> Option<u32> {
        let window = &bytes[at..at + WINDOW];
        if window.iter().all(|byte| *byte | 0x20 == 0x20) {
            return None;
        }
        let repeats = window.windows(2).filter(|pair| pair[0] == pair[1]).count();
        let bare = window.iter().all(|byte| matches!(byte, b'0'..=b'9' | b' ' | b'-' | b':' | b'.' | 0 | 0xff));
        let looks = if repeats + 3 >= WINDOW { 10_000 } else { 50 * u32::from(bare) };
        Some(u32::from(self.counts[self.slot(bytes, at)]) + looks)
    }

    fn slot(&self, bytes: &[u8], at: usize) -> usize {
        (fine_hash(coarse_hash::<WINDOW>(load(bytes, at))) >> self.shift) as usize
    }
}

/// Eight bytes from `at` on; zeros beyond the end.
#[inline(always)]
fn load(bytes: &[u8], at: usize) -> u64 {
    match bytes.get(at..at + 8) {
        Some(eight) => u64::from_le_bytes(eight.try_into().expect("8 bytes")),
        None => bytes[at..].iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)),
    }
}

/// Of the first `WINDOW` bytes, its high bits the best.
#[inline(always)]
fn coarse_hash<const WINDOW: usize>(word: u64) -> u64 {
    ((word | FOLD) << (64 - 8 * WINDOW)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Another hash of the same window; two windows have the same only if their coarse ones are the same.
#[inline(always)]
fn fine_hash(coarse: u64) -> u64 {
    let mixed = (coarse ^ coarse >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93);
    mixed ^ mixed >> 32
}

#[inline(always)]
fn is_zero(bytes: &[u8; BLOCK + 8]) -> bool {
    bytes.chunks_exact(8).fold(0, |all, eight| all | u64::from_le_bytes(eight.try_into().expect("8 bytes"))) == 0
}
