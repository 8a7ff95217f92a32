//! The delays and faults of a simulated network, as a pure function of a seed.

use std::time::Duration;

use rand::RngExt;
use rand::rngs::Xoshiro256PlusPlus;

/// The delays and the fault of a simulated network.
///
/// These values determine the order in which a rank sends and receives its messages, the delay of
/// each message, and the fault. Only the scheduling of threads is up to the operating system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Disturbance {
    /// The seed of all random numbers.
    pub seed: u64,
    /// The maximum delay. One in eight messages is delayed.
    pub delay: Duration,
    /// The fault, if any.
    pub fault: Option<Fault>,
}

impl Disturbance {
    /// Draws the delay of a message.
    pub(super) fn draw_delay(&self, random: &mut Xoshiro256PlusPlus) -> Duration {
        if random.random_bool(1.0 / 8.0) {
            self.delay.mul_f64(random.random())
        } else {
            Duration::ZERO
        }
    }
}

/// A fault of one rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// The faulty rank.
    pub rank: usize,
    /// The handle: 0 for that of the group, then duplicates in the order in which they were made.
    pub handle: usize,
    /// The number of the operation of this handle, from 0. If the fault is impossible in that
    /// operation (without a message, for example), it happens in the next possible one.
    pub operation: u64,
    /// The kind of fault.
    pub kind: FaultKind,
}

/// A kind of fault. If it ends an operation early, only some of the peers get the rank's message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// The rank stops in the middle of the operation and is silent. Its call returns an error when
    /// all other ranks have noticed.
    Stall,
    /// The rank dies in the middle of the operation, with all its handles. Its call returns an
    /// error.
    Die,
    /// The calling thread panics in the middle of the operation.
    Panic,
    /// A message is one byte too short or too long.
    Length,
    /// A message has the number of another operation.
    Operation,
    /// A message of an `all_gather` is that of the previous `all_gather` of the same length.
    Stale,
    /// One bit in a message of an `all_gather` is flipped.
    Corrupt,
}

impl FaultKind {
    /// All kinds.
    pub const ALL: [Self; 7] = [
        Self::Stall,
        Self::Die,
        Self::Panic,
        Self::Length,
        Self::Operation,
        Self::Stale,
        Self::Corrupt,
    ];
}
