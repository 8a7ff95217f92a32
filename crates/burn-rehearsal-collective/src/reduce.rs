//! Sums, and the split of work into even parts: alike on all transports, so that they give the same
//! bits.

use std::ops::Range;

/// How [`Collective::all_reduce`](crate::Collective::all_reduce) combines the ranks' values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReduceOp {
    /// The sum over all ranks, added in rank order.
    Sum,
    /// The sum over all ranks divided by the world size.
    Mean,
}

/// Values that are summed at a time: the sums and one rank's summands stay in the first-level
/// cache.
pub(crate) const BLOCK: usize = 2048;

/// Divides every value by `size`.
pub(crate) fn divide(values: &mut [f32], size: usize) {
    let divisor = size as f32;
    if size.is_power_of_two() {
        // The inverse is exact, so the product has the bits of the quotient, in a fraction of the
        // time.
        values.iter_mut().for_each(|value| *value *= 1.0 / divisor);
    } else {
        values.iter_mut().for_each(|value| *value /= divisor);
    }
}

/// Part number `index` of `0..len` cut in `parts` consecutive parts: the first `len % parts` parts
/// have one element more than the others. Empty if `index` is not below `parts`.
///
/// ```
/// use burn_rehearsal_collective::even_split;
///
/// assert_eq!([0, 1, 2].map(|rank| even_split(8, 3, rank)), [0..3, 3..6, 6..8]);
/// ```
pub fn even_split(len: usize, parts: usize, index: usize) -> Range<usize> {
    if index >= parts {
        return len..len;
    }
    let (each, longer) = (len / parts, len % parts);
    let start = index * each + index.min(longer);
    start..start + each + usize::from(index < longer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_the_whole_once_and_differ_by_at_most_one_with_longer_ones_first() {
        for len in 0..40 {
            for parts in 1..=12 {
                let ranges: Vec<_> =
                    (0..parts).map(|index| even_split(len, parts, index)).collect();
                assert_eq!(
                    ranges.iter().cloned().flatten().collect::<Vec<_>>(),
                    (0..len).collect::<Vec<_>>()
                );
                assert!(ranges.windows(2).all(|pair| pair[0].len() >= pair[1].len()), "{ranges:?}");
                assert!(ranges[0].len() - ranges[parts - 1].len() <= 1, "{ranges:?}");
                assert!(even_split(len, parts, parts).is_empty());
            }
        }
        assert!(even_split(3, 0, 0).is_empty());
    }
}
