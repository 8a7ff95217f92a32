//! Plain answers to compare with, and data that every rank can compute for every other.

use burn_rehearsal_collective::{Collective, CollectiveError, Incoming, Outgoing, ReduceOp};

pub(crate) const SIZES: [usize; 5] = [1, 2, 3, 4, 8];

/// How often a test does something that any number of times would do, or how long a buffer is: less in Miri, which takes a thousand times as long.
pub(crate) const fn some(count: usize) -> usize {
    if cfg!(miri) { count.div_ceil(50) } else { count }
}

/// SplitMix64 (Steele, Lea, Flood 2014).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(keys: &[usize]) -> Self {
        let mut random = Self(0);
        for &key in keys {
            random.0 ^= key as u64;
            random.0 = random.next();
        }
        random
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

pub(crate) fn bytes(keys: &[usize], len: usize) -> Vec<u8> {
    let mut random = Random::new(keys);
    (0..len).map(|_| random.next() as u8).collect()
}

/// Values from 1e-8 to 1e8 of both signs: another order of additions gives other bits.
pub(crate) fn values(keys: &[usize], len: usize) -> Vec<f32> {
    let mut random = Random::new(keys);
    let mut value = || {
        let mantissa = (random.next() >> 40) as f32 / (1_u64 << 24) as f32 - 0.5;
        mantissa * 10.0_f32.powi(random.below(17) as i32 - 8)
    };
    (0..len).map(|_| value()).collect()
}

pub(crate) fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// One all-reduce of `values(key + [rank])`, checked against the sum in rank order.
pub(crate) fn check_all_reduce(ranks: &mut dyn Collective, key: usize, len: usize, op: ReduceOp) -> Result<(), CollectiveError> {
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

pub(crate) fn check_all_gather(ranks: &mut dyn Collective, key: usize, len: usize) -> Result<(), CollectiveError> {
    let expected: Vec<u8> = (0..ranks.size()).flat_map(|peer| bytes(&[key, peer], len)).collect();
    let mut recv = vec![0; expected.len()];
    ranks.all_gather(&bytes(&[key, ranks.rank()], len), &mut recv)?;
    assert_eq!(recv, expected);
    Ok(())
}

pub(crate) fn check_broadcast(ranks: &mut dyn Collective, key: usize, len: usize, root: usize) -> Result<(), CollectiveError> {
    let mut data = bytes(&[key, ranks.rank()], len);
    ranks.broadcast(&mut data, root)?;
    assert_eq!(data, bytes(&[key, root], len));
    Ok(())
}

/// One exchange in which `len(from, to)` tells who sends how much, in an order of messages that differs between the ranks.
pub(crate) fn check_exchange(
    ranks: &mut dyn Collective,
    key: usize,
    len: impl Fn(usize, usize) -> Option<usize>,
) -> Result<(), CollectiveError> {
    let (rank, size) = (ranks.rank(), ranks.size());
    let peers: Vec<usize> = (1..size).map(|distance| (rank + distance) % size).collect();
    let sent: Vec<_> = peers.iter().filter_map(|&to| len(rank, to).map(|count| (to, bytes(&[key, rank, to], count)))).collect();
    let mut received: Vec<_> = peers.iter().rev().filter_map(|&from| len(from, rank).map(|count| (from, vec![0; count]))).collect();
    let outgoing: Vec<_> = sent.iter().map(|(peer, bytes)| Outgoing { peer: *peer, bytes }).collect();
    let mut incoming: Vec<_> = received.iter_mut().map(|(peer, bytes)| Incoming { peer: *peer, bytes }).collect();
    ranks.exchange(&outgoing, &mut incoming)?;
    for (from, received) in received {
        assert_eq!(received, bytes(&[key, from, rank], received.len()), "from {from} to {rank}");
    }
    Ok(())
}
