//! Simple results to compare with, and data that every rank can compute for every other rank.

use burn_rehearsal_collective::{Collective, CollectiveError, Incoming, Outgoing, ReduceOp};

use rand::{Rng, RngExt};

use crate::seeded;

/// The world sizes of tests.
pub const SIZES: [usize; 5] = [1, 2, 3, 4, 8];

/// Reduces a number of repetitions or a length in Miri, which is about a thousand times slower.
#[must_use]
pub const fn some(count: usize) -> usize {
    if cfg!(miri) { count.div_ceil(50) } else { count }
}

/// Random bytes for `keys`.
#[must_use]
pub fn bytes(keys: &[usize], len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    seeded(keys).fill_bytes(&mut bytes);
    bytes
}

/// Random values for `keys`, with different magnitudes and both signs. The bits of their sum depend
/// on the order of additions.
#[must_use]
pub fn values(keys: &[usize], len: usize) -> Vec<f32> {
    let mut random = seeded(keys);
    let mut value =
        || random.random_range(-0.5_f32..0.5) * 10.0_f32.powi(random.random_range(-8..=8));
    (0..len).map(|_| value()).collect()
}

/// The bits of values.
#[must_use]
pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Runs an all-reduce of `values(&[key, rank])` and compares it with the sum in rank order.
///
/// # Errors
///
/// The errors of the operation.
pub fn check_all_reduce(
    ranks: &mut dyn Collective,
    key: usize,
    len: usize,
    op: ReduceOp,
) -> Result<(), CollectiveError> {
    let (rank, size) = (ranks.rank(), ranks.size());
    let mut expected = values(&[key, 0], len);
    for peer in 1..size {
        for (sum, value) in expected.iter_mut().zip(values(&[key, peer], len)) {
            *sum += value;
        }
    }
    if op == ReduceOp::Mean {
        expected.iter_mut().for_each(|sum| *sum /= size as f32);
    }
    let mut data = values(&[key, rank], len);
    ranks.all_reduce(&mut data, op)?;
    assert_eq!(bits(&data), bits(&expected), "{op:?} of {len} values on {size} ranks");
    Ok(())
}

/// A digest (FNV-1a) of the bits of a few all-reduces, the same on all ranks.
///
/// # Errors
///
/// The errors of the operation.
pub fn digest_of_sums(ranks: &mut dyn Collective) -> Result<u64, CollectiveError> {
    let mut digest = 0xcbf2_9ce4_8422_2325_u64;
    for (len, op) in [
        (1, ReduceOp::Sum),
        (10_007, ReduceOp::Sum),
        (10_007, ReduceOp::Mean),
        (2_500_001, ReduceOp::Mean),
    ] {
        let mut data = values(&[99, ranks.rank()], len);
        ranks.all_reduce(&mut data, op)?;
        bits(&data)
            .into_iter()
            .for_each(|bits| digest = (digest ^ u64::from(bits)).wrapping_mul(0x0100_0000_01b3));
    }
    Ok(digest)
}

/// Runs and checks an all-gather of `bytes(&[key, rank])`.
///
/// # Errors
///
/// The errors of the operation.
pub fn check_all_gather(
    ranks: &mut dyn Collective,
    key: usize,
    len: usize,
) -> Result<(), CollectiveError> {
    let expected: Vec<u8> = (0..ranks.size()).flat_map(|peer| bytes(&[key, peer], len)).collect();
    let mut recv = vec![0; expected.len()];
    ranks.all_gather(&bytes(&[key, ranks.rank()], len), &mut recv)?;
    assert_eq!(recv, expected);
    Ok(())
}

/// Runs and checks a broadcast of `bytes(&[key, root])`.
///
/// # Errors
///
/// The errors of the operation.
pub fn check_broadcast(
    ranks: &mut dyn Collective,
    key: usize,
    len: usize,
    root: usize,
) -> Result<(), CollectiveError> {
    let mut data = bytes(&[key, ranks.rank()], len);
    ranks.broadcast(&mut data, root)?;
    assert_eq!(data, bytes(&[key, root], len));
    Ok(())
}

/// Runs and checks an exchange. `len(from, to)` is the length of a message, or `None`. The order of
/// the messages differs between the ranks.
///
/// # Errors
///
/// The errors of the operation.
pub fn check_exchange(
    ranks: &mut dyn Collective,
    key: usize,
    len: impl Fn(usize, usize) -> Option<usize>,
) -> Result<(), CollectiveError> {
    let (rank, size) = (ranks.rank(), ranks.size());
    let peers: Vec<usize> = (1..size).map(|distance| (rank + distance) % size).collect();
    let sent: Vec<_> = peers
        .iter()
        .filter_map(|&to| len(rank, to).map(|count| (to, bytes(&[key, rank, to], count))))
        .collect();
    let mut received: Vec<_> = peers
        .iter()
        .rev()
        .filter_map(|&from| len(from, rank).map(|count| (from, vec![0; count])))
        .collect();
    let outgoing: Vec<_> =
        sent.iter().map(|(peer, bytes)| Outgoing { peer: *peer, bytes }).collect();
    let mut incoming: Vec<_> =
        received.iter_mut().map(|(peer, bytes)| Incoming { peer: *peer, bytes }).collect();
    ranks.exchange(&outgoing, &mut incoming)?;
    for (from, received) in received {
        assert_eq!(received, bytes(&[key, from, rank], received.len()), "from {from} to {rank}");
    }
    Ok(())
}
