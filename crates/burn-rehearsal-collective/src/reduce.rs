//! Parts of the all-reduce that all transports share, so that sums have the same bits.

use std::ops::Range;

/// How [`Collective::all_reduce`](crate::Collective::all_reduce) combines the values of the ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReduceOp {
    /// The sum over all ranks.
    Sum,
    /// The sum over all ranks divided by the world size.
    Mean,
}

/// The number of values summed at a time. The sums and the summands of one rank fit into the
/// first-level cache.
pub(crate) const BLOCK: usize = 2048;

/// Divides every value by `size`.
pub(crate) fn divide(values: &mut [f32], size: usize) {
    let divisor = size as f32;
    if size.is_power_of_two() {
        // The inverse is exact, so the product has the same bits as the quotient. It is faster.
        values.iter_mut().for_each(|value| *value *= 1.0 / divisor);
    } else {
        values.iter_mut().for_each(|value| *value /= divisor);
    }
}

/// Splits `0..len` into `parts` consecutive ranges and returns the one with number `index`.
///
/// The first `len % parts` ranges have one element more than the others. The range is empty if
/// `index` is not below `parts`.
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
    fn ranges_are_consecutive_and_longer_ones_come_first() {
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
