//! Random numbers for tests and for the simulated network.

use burn_rehearsal_collective::checksum;
use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;

/// Returns the generator for `keys`. Its numbers are the same in every run and on every machine.
///
/// ```
/// use burn_rehearsal_testing::seeded;
/// use rand::RngExt;
///
/// let draw = |rank| seeded(&[7, rank]).random_range(0..1_000_000);
/// assert_eq!(draw(0), draw(0));
/// assert_ne!(draw(0), draw(1));
/// ```
///
/// It does not use `burn_rehearsal::random::Stream`, because the tests of the collective, which
/// also run in Miri, would then depend on Burn.
#[must_use]
pub fn seeded(keys: &[usize]) -> Xoshiro256PlusPlus {
    Xoshiro256PlusPlus::seed_from_u64(checksum(keys.iter().map(|key| *key as u64)))
}
