//! Random numbers for tests and for the simulated network.

use burn_rehearsal_collective::checksum;
use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;

/// The generator that belongs to `keys`: the same numbers in every run and on every machine.
///
/// A generator of the crate `rand`, and not `burn_rehearsal::random::Stream`: the tests of the
/// collective also run in Miri and under loom, where Burn would have to be built for it.
#[must_use]
pub fn seeded(keys: &[usize]) -> Xoshiro256PlusPlus {
    Xoshiro256PlusPlus::seed_from_u64(checksum(keys.iter().map(|key| *key as u64)))
}
