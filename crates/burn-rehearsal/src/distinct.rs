//! Sampling of distinct numbers in time that does not depend on their range.

use crate::random::Stream;

/// Up to this many entries, a linear search is faster than hashing.
const FEW: usize = 16;

/// Draws distinct numbers. Keep one and reuse it: it allocates only when a draw is larger than all
/// earlier ones.
///
/// ```
/// use burn_rehearsal::random::{Purpose, Stream};
/// use burn_rehearsal::sampling::DistinctSampler;
///
/// let mut rng = Stream::new(7, Purpose::Draw, 0, 0);
/// let mut sampler = DistinctSampler::default();
/// let numbers: Vec<u64> = sampler.draw(&mut rng, 3, 1_000_000).collect();
/// assert_eq!(numbers.len(), 3);
/// ```
#[derive(Debug, Default, Clone)]
pub struct DistinctSampler {
    /// The entries of a permutation that were moved, as a hash table. Entries of the current
    /// generation are in use, so a new generation empties the table in constant time. The length is
    /// a power of two.
    table: Vec<Entry>,
    generation: u64,
}

/// A moved entry: `position` of the permutation holds `value`.
#[derive(Debug, Clone, Copy, Default)]
struct Entry {
    generation: u64,
    position: u64,
    value: u64,
}

impl DistinctSampler {
    /// Draws min(`count`, `bound`) distinct numbers of `0..bound`. Every sequence of this length is
    /// equally likely, so every prefix of it is a uniform draw, too. Time O(count).
    ///
    /// These are the first steps of a Fisher–Yates shuffle of `0..bound` that stores only the
    /// entries it has moved.
    pub fn draw(
        &mut self,
        rng: &mut Stream,
        count: usize,
        bound: u64,
    ) -> impl Iterator<Item = u64> {
        let count = count.min(usize::try_from(bound).unwrap_or(usize::MAX));
        let mut few = [(0, 0); FEW];
        if count > FEW {
            let slots = (count * 2).next_power_of_two();
            if self.table.len() < slots {
                self.table = vec![Entry::default(); slots];
                self.generation = 0;
            }
            self.generation += 1;
        }
        (0..count).map(move |step| {
            let first = step as u64;
            let position = first + rng.below(bound - first);
            if count > FEW {
                let value = self.value(first);
                return self.replace(position, value);
            }
            let (moved, rest) = few.split_at_mut(step);
            let find = |wanted| {
                moved.iter().rev().find(|entry| entry.0 == wanted).map_or(wanted, |entry| entry.1)
            };
            rest[0] = (position, find(first));
            find(position)
        })
    }

    /// The table index of `position`, or of the free entry where it belongs.
    fn find(&self, position: u64) -> usize {
        let mask = self.table.len() - 1;
        let mut at = (position.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize & mask;
        while self.table[at].generation == self.generation && self.table[at].position != position {
            at = (at + 1) & mask;
        }
        at
    }

    fn value(&self, position: u64) -> u64 {
        let entry = &self.table[self.find(position)];
        if entry.generation == self.generation { entry.value } else { position }
    }

    /// Puts `value` at `position` and returns the value before.
    fn replace(&mut self, position: u64, value: u64) -> u64 {
        let at = self.find(position);
        let before = std::mem::replace(
            &mut self.table[at],
            Entry { generation: self.generation, position, value },
        );
        if before.generation == self.generation { before.value } else { position }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Purpose;

    #[test]
    fn draws_are_distinct_and_complete() {
        let mut distinct = DistinctSampler::default();
        for (count, bound) in [(0, 0), (3, 0), (0, 5), (5, 5), (9, 5), (7, 1000), (600, 700)] {
            let mut rng = Stream::new(1, Purpose::Draw, bound, 0);
            let mut out: Vec<u64> = distinct.draw(&mut rng, count, bound).collect();
            assert_eq!(out.len() as u64, (count as u64).min(bound));
            assert!(out.iter().all(|&v| v < bound));
            out.sort_unstable();
            out.dedup();
            assert_eq!(
                out.len() as u64,
                (count as u64).min(bound),
                "{count} of {bound} repeat a number"
            );
        }
    }

    /// The χ² statistic of draws of `count` of `bound` numbers, after `key` has mapped each draw to
    /// one of `keys` equally likely values.
    fn chi2(
        count: usize,
        bound: u64,
        keys: usize,
        trials: u64,
        key: impl Fn(&mut Vec<u64>),
    ) -> f64 {
        let mut distinct = DistinctSampler::default();
        let mut counts = std::collections::BTreeMap::new();
        for step in 0..trials {
            let mut rng = Stream::new(9, Purpose::Draw, step, 0);
            let mut out: Vec<u64> = distinct.draw(&mut rng, count, bound).collect();
            key(&mut out);
            *counts.entry(out).or_insert(0u32) += 1;
        }
        assert_eq!(counts.len(), keys);
        let expected = trials as f64 / keys as f64;
        counts.values().map(|&n| (f64::from(n) - expected).powi(2) / expected).sum()
    }

    #[test]
    fn every_prefix_is_a_uniform_sequence() {
        // The critical values are those at p = 1e-3.
        for (prefix, count, bound, sequences, critical) in [
            (1, 5, 7, 7, 22.46),
            (2, 3, 5, 20, 43.82),
            (3, 3, 4, 24, 49.73),
            (1, 18, 19, 19, 42.31),
            (2, 17, 20, 380, 468.7),
        ] {
            let chi2 = chi2(count, bound, sequences, 40_000, |out| out.truncate(prefix));
            assert!(
                chi2 < critical,
                "{prefix} of {count} of {bound}: χ² is {chi2:.1}; at p = 1e-3 it is {critical}"
            );
        }
    }

    #[test]
    fn every_subset_is_equally_likely() {
        let chi2 = chi2(2, 5, 10, 20_000, |out| out.sort_unstable());
        assert!(chi2 < 27.88, "χ² with 9 degrees of freedom is {chi2:.1}; at p = 1e-3 it is 27.88");
    }

    #[test]
    fn every_subset_is_equally_likely_in_the_hash_table() {
        let chi2 = chi2(18, 19, 19, 20_000, |out| out.sort_unstable());
        assert!(
            chi2 < 42.31,
            "χ² with 18 degrees of freedom is {chi2:.1}; at p = 1e-3 it is 42.31"
        );
    }
}
