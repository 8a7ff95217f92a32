//! What all transports do alike when they sum, so that they give the same bits.

/// Values that are summed at a time: the sums and one rank's summands stay in the first-level cache.
pub(crate) const BLOCK: usize = 2048;

/// The part `start..end` of `len` values that `rank` reduces: the first `len % size` ranks have one more than the others.
pub(crate) fn slice_of(rank: usize, size: usize, len: usize) -> (usize, usize) {
    let (share, extra) = (len / size, len % size);
    let start = rank * share + rank.min(extra);
    (start, start + share + usize::from(rank < extra))
}

/// Divides every value by `size`.
pub(crate) fn divide(values: &mut [f32], size: usize) {
    let divisor = size as f32;
    if size.is_power_of_two() {
        // The inverse is exact, so the product has the bits of the quotient, in a fraction of the time.
        values.iter_mut().for_each(|value| *value *= 1.0 / divisor);
    } else {
        values.iter_mut().for_each(|value| *value /= divisor);
    }
}
