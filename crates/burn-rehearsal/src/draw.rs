//! Drawing distinct numbers without touching the numbers that are not drawn.

use crate::random::Stream;

/// Up to so many numbers are compared with each other; that is faster than a hash set.
const FEW: u64 = 16;

/// Scratch space for [`Distinct::draw`]: a hash set of 64-bit numbers that is emptied in constant time.
#[derive(Debug, Default)]
pub(crate) struct Distinct {
    /// (generation, value) pairs; a slot whose generation is not the current one is free. The length is a power of two.
    table: Vec<(u64, u64)>,
    generation: u64,
}

impl Distinct {
    /// Appends min(`count`, `bound`) distinct numbers of `0..bound` to `out`; every subset of that size is equally likely.
    ///
    /// Floyd's algorithm (Bentley and Floyd, "A Sample of Brilliance", CACM 1987): time O(count), whatever the bound.
    pub(crate) fn draw(&mut self, rng: &mut Stream, count: usize, bound: u64, out: &mut Vec<u64>) {
        let count = (count as u64).min(bound);
        if count <= FEW {
            let first = out.len();
            for last in bound - count..bound {
                let drawn = rng.below(last + 1);
                out.push(if out[first..].contains(&drawn) { last } else { drawn });
            }
            return;
        }
        let slots = (count as usize * 2).next_power_of_two().max(16);
        if self.table.len() < slots {
            self.table = vec![(0, 0); slots];
            self.generation = 0;
        }
        self.generation += 1;
        for last in bound - count..bound {
            let drawn = rng.below(last + 1);
            let value = if self.insert(drawn) { drawn } else { last };
            if value == last && value != drawn {
                self.insert(last);
            }
            out.push(value);
        }
    }

    /// Adds `value`; false if it was there.
    fn insert(&mut self, value: u64) -> bool {
        let mask = self.table.len() - 1;
        let mut slot = (value.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize & mask;
        loop {
            let (generation, stored) = self.table[slot];
            if generation != self.generation {
                self.table[slot] = (self.generation, value);
                return true;
            }
            if stored == value {
                return false;
            }
            slot = (slot + 1) & mask;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Purpose;

    #[test]
    fn draws_are_distinct_and_exactly_as_many_as_there_are() {
        let mut distinct = Distinct::default();
        for (count, bound) in [(0, 0), (3, 0), (0, 5), (5, 5), (9, 5), (7, 1000), (600, 700)] {
            let mut out = Vec::new();
            distinct.draw(&mut Stream::new(1, Purpose::Draw, bound, 0), count, bound, &mut out);
            assert_eq!(out.len() as u64, (count as u64).min(bound));
            assert!(out.iter().all(|&v| v < bound));
            out.sort_unstable();
            out.dedup();
            assert_eq!(out.len() as u64, (count as u64).min(bound), "{count} of {bound} repeat a number");
        }
    }

    /// χ² over the subsets of `count` of `bound` numbers, of which there are `subsets`.
    fn chi2_of_subsets(count: usize, bound: u64, subsets: usize, trials: u64) -> f64 {
        let mut distinct = Distinct::default();
        let mut counts = std::collections::BTreeMap::new();
        for step in 0..trials {
            let mut out = Vec::new();
            distinct.draw(&mut Stream::new(9, Purpose::Draw, step, 0), count, bound, &mut out);
            out.sort_unstable();
            *counts.entry(out).or_insert(0u32) += 1;
        }
        assert_eq!(counts.len(), subsets);
        let expected = trials as f64 / subsets as f64;
        counts.values().map(|&n| (f64::from(n) - expected).powi(2) / expected).sum()
    }

    #[test]
    fn every_subset_is_equally_likely() {
        let chi2 = chi2_of_subsets(2, 5, 10, 20_000);
        assert!(chi2 < 27.88, "χ² with 9 degrees of freedom is {chi2:.1}; at p = 1e-3 it is 27.88");
    }

    #[test]
    fn every_subset_of_many_is_equally_likely() {
        let chi2 = chi2_of_subsets(18, 19, 19, 20_000);
        assert!(chi2 < 42.31, "χ² with 18 degrees of freedom is {chi2:.1}; at p = 1e-3 it is 42.31");
    }
}
