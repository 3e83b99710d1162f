//! A set of pages of one file: 16 KiB of bits for a whole 1 GiB segment.

use std::ops::Range;

/// Page numbers below 2^32.
#[derive(Clone, Debug, Default)]
pub struct PageSet {
    words: Vec<u64>,
    count: u64,
}

impl PageSet {
    pub fn contains(&self, page: u32) -> bool {
        self.words.get((page / 64) as usize).is_some_and(|word| word & (1 << (page % 64)) != 0)
    }

    /// How many pages are in the set.
    pub fn count(&self) -> u64 {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds `pages`; returns how many were not there before.
    pub fn insert(&mut self, pages: Range<u32>) -> u64 {
        if pages.is_empty() {
            return 0;
        }
        let words = (pages.end as usize).div_ceil(64);
        if self.words.len() < words {
            self.words.resize(words, 0);
        }
        let before = self.count;
        self.each_word(pages, |word, mask| {
            let added = (mask & !*word).count_ones();
            *word |= mask;
            i64::from(added)
        });
        self.count - before
    }

    /// One past the highest page; 0 for the empty set.
    pub fn end(&self) -> u32 {
        let last = self.words.iter().rposition(|word| *word != 0);
        last.map_or(0, |index| (index as u32 + 1) * 64 - self.words[index].leading_zeros())
    }

    /// Removes every page from `first` on; returns how many there were.
    pub fn truncate(&mut self, first: u32) -> u64 {
        let before = self.count;
        let end = (self.words.len() * 64) as u32;
        self.remove(first..end.max(first));
        before - self.count
    }

    /// Removes `pages`.
    pub fn remove(&mut self, pages: Range<u32>) {
        let end = pages.end.min((self.words.len() * 64) as u32);
        if pages.start < end {
            self.each_word(pages.start..end, |word, mask| {
                let removed = (mask & *word).count_ones();
                *word &= !mask;
                -i64::from(removed)
            });
        }
    }

    fn each_word(&mut self, pages: Range<u32>, mut change: impl FnMut(&mut u64, u64) -> i64) {
        let (first, last) = (pages.start / 64, (pages.end - 1) / 64);
        for index in first..=last {
            let low = if index == first { pages.start % 64 } else { 0 };
            let high = if index == last { (pages.end - 1) % 64 } else { 63 };
            let mask = (u64::MAX >> (63 - high)) & (u64::MAX << low);
            let difference = change(&mut self.words[index as usize], mask);
            self.count = self.count.saturating_add_signed(difference);
        }
    }

    /// The length of the run of pages from `page` on that are all in the set, or all not, up to `end`.
    pub fn run(&self, page: u32, end: u32) -> (bool, u32) {
        let inside = self.contains(page);
        let mut at = page + 1;
        while at < end {
            if at.is_multiple_of(64) && at + 64 <= end {
                let word = self.words.get((at / 64) as usize).copied().unwrap_or(0);
                if word == if inside { u64::MAX } else { 0 } {
                    at += 64;
                    continue;
                }
            }
            if self.contains(at) != inside {
                break;
            }
            at += 1;
        }
        (inside, at - page)
    }

    /// Its pages as ascending runs.
    pub fn runs(&self) -> Vec<Range<u32>> {
        let end = (self.words.len() * 64) as u32;
        let mut runs = Vec::new();
        let mut page = 0;
        while page < end {
            let (inside, length) = self.run(page, end);
            if inside {
                runs.push(page..page + length);
            }
            page += length;
        }
        runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};
    use std::collections::BTreeSet;

    /// Random ranges in and out, against a plain set.
    #[test]
    fn behaves_as_a_set_of_numbers() {
        for seed in 0..200 {
            let mut random = StdRng::seed_from_u64(seed);
            let (mut set, mut model) = (PageSet::default(), BTreeSet::new());
            for _ in 0..60 {
                let start = random.random_range(0..600);
                let pages = start..start + random.random_range(0..200);
                match random.random_range(0..10) {
                    0..=5 => {
                        let added = pages.clone().filter(|page| model.insert(*page)).count() as u64;
                        assert_eq!(set.insert(pages), added, "seed {seed}");
                    }
                    6..=7 => {
                        set.remove(pages.clone());
                        model.retain(|page| !pages.contains(page));
                    }
                    _ => {
                        set.truncate(start);
                        model.retain(|page| *page < start);
                    }
                }
                assert_eq!(set.count(), model.len() as u64, "seed {seed}");
                assert_eq!(set.end(), model.last().map_or(0, |last| last + 1), "seed {seed}");
                let pages: Vec<u32> = set.runs().into_iter().flatten().collect();
                assert_eq!(pages, model.iter().copied().collect::<Vec<_>>(), "seed {seed}");
                let runs = set.runs();
                assert!(runs.windows(2).all(|pair| pair[0].end < pair[1].start), "seed {seed}: {runs:?}");
            }
        }
    }
}
