//! Reproducible random numbers.
//!
//! A [`Stream`] is a counter-based generator, keyed by a seed, a [`Purpose`], a step and a rank. It
//! uses Philox4x32-10 (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011).
//! Every rank can compute the numbers of every other rank, in any order, without communication. No
//! result of this crate depends on Burn's generator, which is global to the process.
//!
//! A stream implements [`rand_core::Rng`] and works with the distributions of `rand`:
//!
//! ```
//! use burn_rehearsal::random::{Purpose, Stream};
//! use rand::RngExt;
//!
//! let mut stream = Stream::new(42, Purpose::Augment, 0, 0);
//! let angle: f64 = stream.random_range(-10.0..10.0);
//! assert!((-10.0..10.0).contains(&angle));
//! ```

use std::convert::Infallible;

/// The use of a stream of random numbers. Streams of different purposes are independent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u64)]
pub enum Purpose {
    /// The choice of candidates among the rows of a mini-batch.
    Candidates = 1,
    /// The draw of representatives.
    Draw = 2,
    /// The choice of the stored rows that candidates replace.
    Evict = 3,
    /// The order of the samples in an epoch.
    Shuffle = 4,
    /// The initial parameters of a network.
    Init = 5,
    /// The augmentation of samples.
    Augment = 6,
    /// The order of classes or samples in a task stream.
    TaskStream = 7,
    /// The choice of the rows that [`fill`](crate::RehearsalBuffer::fill) replaces.
    Fill = 8,
    /// The draw of [`sample`](crate::RehearsalBuffer::sample).
    Sample = 9,
    /// The random choices of a continual-learning method.
    Method = 10,
}

/// A sequence of random numbers that is a pure function of its key. See the [module](self) for an
/// example.
#[derive(Debug, Clone)]
pub struct Stream {
    key: [u32; 2],
    counter: [u32; 4],
    block: [u32; 4],
    /// The number of words of `block` already returned. At 4, the next call computes a new block.
    used: usize,
}

impl Stream {
    /// The stream of `seed` for one purpose, one step (or epoch, task, …) and one rank (or row,
    /// layer, …).
    ///
    /// ```
    /// use burn_rehearsal::random::{Purpose, Stream};
    ///
    /// let [mut here, mut elsewhere] = [(); 2].map(|()| Stream::new(42, Purpose::Shuffle, 3, 0));
    /// assert_eq!(here.next_u32(), elsewhere.next_u32());
    /// ```
    pub fn new(seed: u64, purpose: Purpose, step: u64, rank: u32) -> Self {
        // The purpose is part of the key, which leaves the whole counter to the step, the rank and
        // the block number.
        let key = splitmix64(seed ^ splitmix64(purpose as u64));
        Self {
            key: [key as u32, (key >> 32) as u32],
            counter: [0, rank, step as u32, (step >> 32) as u32],
            block: [0; 4],
            used: 4,
        }
    }

    /// The stream of one row of a mini-batch. It does not depend on the numbers that other rows
    /// use: the streams of different rows, and that of [`new`](Self::new), are independent.
    pub fn for_row(seed: u64, purpose: Purpose, step: u64, rank: u32, row: u64) -> Self {
        // `splitmix64` is a bijection, so no two rows of a seed share a key.
        Self::new(splitmix64(seed ^ splitmix64(row)), purpose, step, rank)
    }

    /// The stream of one of several draws in a step. Draw 0 has the stream of [`new`](Self::new).
    pub(crate) fn for_draw(seed: u64, purpose: Purpose, step: u64, rank: u32, draw: usize) -> Self {
        match draw {
            0 => Self::new(seed, purpose, step, rank),
            _ => Self::for_row(seed, purpose, step, rank, draw as u64),
        }
    }

    /// The next 32 random bits.
    #[inline]
    pub fn next_u32(&mut self) -> u32 {
        if self.used == 4 {
            self.block = philox4x32_10(self.counter, self.key);
            self.counter[0] = self.counter[0].wrapping_add(1);
            self.used = 0;
        }
        self.used += 1;
        self.block[self.used - 1]
    }

    /// The next 64 random bits.
    #[inline]
    pub fn next_u64(&mut self) -> u64 {
        u64::from(self.next_u32()) | u64::from(self.next_u32()) << 32
    }

    /// A uniform number in `0..bound`, or 0 if `bound` is 0.
    ///
    /// Uses the method of Lemire, "Fast Random Integer Generation in an Interval" (2019): usually
    /// one multiplication, with rejections that make the result exactly uniform.
    #[inline]
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 {
            return 0;
        }
        loop {
            let product = u128::from(self.next_u64()) * u128::from(bound);
            let rest = product as u64;
            // The remainder is less than `bound`, so the slow division is rarely needed.
            if rest >= bound || rest >= bound.wrapping_neg() % bound {
                return (product >> 64) as u64;
            }
        }
    }

    /// Like [`below`](Self::below), from half as many random bits.
    #[inline]
    pub(crate) fn below_u32(&mut self, bound: u32) -> u32 {
        if bound == 0 {
            return 0;
        }
        loop {
            let product = u64::from(self.next_u32()) * u64::from(bound);
            let rest = product as u32;
            if rest >= bound || rest >= bound.wrapping_neg() % bound {
                return (product >> 32) as u32;
            }
        }
    }

    /// A uniform number in `[0, 1)` with 24 random bits.
    pub fn unit_f32(&mut self) -> f32 {
        (self.next_u32() >> 8) as f32 * (1.0 / 16_777_216.0)
    }

    /// A uniform number in `[0, 1)` with 53 random bits.
    pub fn unit_f64(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * (1.0 / 9_007_199_254_740_992.0)
    }

    /// Shuffles `values` (Fisher–Yates). Every order is equally likely.
    pub fn shuffle<T>(&mut self, values: &mut [T]) {
        for last in (1..values.len()).rev() {
            let other = self.below(last as u64 + 1) as usize;
            values.swap(last, other);
        }
    }
}

impl rand_core::TryRng for Stream {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(self.next_u32())
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.next_u64())
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        rand_core::utils::fill_bytes_via_next_word(bytes, || self.try_next_u32())
    }
}

fn splitmix64(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn philox4x32_10(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let low = u64::from(counter[0]) * 0xd251_1f53;
        let high = u64::from(counter[2]) * 0xcd9e_8d57;
        counter = [
            (high >> 32) as u32 ^ counter[1] ^ key[0],
            high as u32,
            (low >> 32) as u32 ^ counter[3] ^ key[1],
            low as u32,
        ];
        key = [key[0].wrapping_add(0x9e37_79b9), key[1].wrapping_add(0xbb67_ae85)];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_matches_the_published_test_vectors() {
        assert_eq!(
            philox4x32_10([0; 4], [0; 2]),
            [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]
        );
        assert_eq!(
            philox4x32_10([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox4x32_10(
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0]
            ),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn a_stream_returns_its_blocks_in_order() {
        let mut stream = Stream::new(4, Purpose::Draw, 5, 6);
        let (key, counter) = (stream.key, stream.counter);
        let words: Vec<u32> = (0..20).map(|_| stream.next_u32()).collect();
        let blocks: Vec<u32> = (0..5)
            .flat_map(|block| philox4x32_10([block, counter[1], counter[2], counter[3]], key))
            .collect();
        assert_eq!(words, blocks);
    }

    #[test]
    fn the_rand_traits_return_the_same_numbers() {
        let new = || Stream::new(4, Purpose::Draw, 5, 6);
        let (mut own, mut other, mut bytes) = (new(), new(), [0; 10]);
        assert_eq!(rand_core::Rng::next_u32(&mut other), own.next_u32());
        assert_eq!(rand_core::Rng::next_u64(&mut other), own.next_u64());
        rand_core::Rng::fill_bytes(&mut other, &mut bytes);
        let words: Vec<u8> = (0..3).flat_map(|_| own.next_u32().to_le_bytes()).collect();
        assert_eq!(bytes, words[..10]);
    }

    #[test]
    fn every_part_of_the_key_changes_the_stream() {
        let first = |seed, purpose, step, rank| Stream::new(seed, purpose, step, rank).next_u64();
        let base = first(1, Purpose::Draw, 5, 2);
        assert_eq!(base, first(1, Purpose::Draw, 5, 2));
        assert_ne!(base, first(2, Purpose::Draw, 5, 2));
        assert_ne!(base, first(1, Purpose::Evict, 5, 2));
        assert_ne!(base, first(1, Purpose::Draw, 6, 2));
        assert_ne!(base, first(1, Purpose::Draw, 5 | 1 << 32, 2));
        assert_ne!(base, first(1, Purpose::Draw, 5, 3));
    }

    #[test]
    fn every_row_has_its_own_stream() {
        let first = |row| Stream::for_row(1, Purpose::Augment, 5, 2, row).next_u64();
        let mut all: Vec<u64> = (0..100).map(first).collect();
        assert_eq!(first(7), all[7]);
        all.push(Stream::new(1, Purpose::Augment, 5, 2).next_u64());
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 101);
        assert_ne!(Stream::for_row(1, Purpose::Augment, 6, 2, 7).next_u64(), first(7));
        assert_ne!(Stream::for_row(1, Purpose::Augment, 5, 3, 7).next_u64(), first(7));
    }

    /// The χ² statistic of 70,000 numbers below `N`.
    fn chi2<const N: usize>(mut number: impl FnMut(&mut Stream) -> usize) -> f64 {
        let mut stream = Stream::new(3, Purpose::Draw, 0, 0);
        let mut counts = [0u32; N];
        for _ in 0..70_000 {
            counts[number(&mut stream)] += 1;
        }
        let expected = 70_000.0 / N as f64;
        counts.iter().map(|&n| (f64::from(n) - expected).powi(2) / expected).sum()
    }

    #[test]
    fn below_is_uniform_if_the_bound_is_not_a_power_of_two() {
        let seven = [
            chi2::<7>(|stream| stream.below(7) as usize),
            chi2::<7>(|stream| stream.below_u32(7) as usize),
        ];
        assert!(
            seven.iter().all(|&chi2| chi2 < 22.46),
            "χ² with 6 degrees of freedom is {seven:.1?}; at p = 1e-3 it is 22.46"
        );
        // Without rejections, every third number would be twice as likely as the others.
        let three = [
            chi2::<3>(|stream| (stream.below(3 << 62) % 3) as usize),
            chi2::<3>(|stream| stream.below_u32(3 << 30) as usize % 3),
        ];
        assert!(
            three.iter().all(|&chi2| chi2 < 13.82),
            "χ² with 2 degrees of freedom is {three:.1?}; at p = 1e-3 it is 13.82"
        );
    }
}
