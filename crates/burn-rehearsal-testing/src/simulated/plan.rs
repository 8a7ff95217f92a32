//! What a simulated network does to messages, as a pure function of a seed.

use std::time::Duration;

use rand::RngExt;
use rand::rngs::Xoshiro256PlusPlus;

/// How a network disturbs the ranks that are connected by it.
///
/// Everything but the moment at which the operating system lets a thread run follows from these
/// values: the order in which a rank's messages leave and in which it looks for those of its peers,
/// the delay of each, and the fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Disturbance {
    /// What everything that is drawn follows from.
    pub seed: u64,
    /// One of eight messages is under way for up to this long.
    pub delay: Duration,
    /// What goes wrong, if anything does.
    pub fault: Option<Fault>,
}

impl Disturbance {
    /// The delay of a message; mostly none.
    pub(super) fn draw_delay(&self, random: &mut Xoshiro256PlusPlus) -> Duration {
        if random.random_bool(1.0 / 8.0) {
            self.delay.mul_f64(random.random())
        } else {
            Duration::ZERO
        }
    }
}

/// One thing that goes wrong on one rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// The rank that is to blame.
    pub rank: usize,
    /// Which of its handles: 0 for the one of the group, then its duplicates in the order in which
    /// they were made.
    pub handle: usize,
    /// The number of this handle's operation, from 0. If it cannot go wrong in this way (there is
    /// no message, for example), the next one does that can.
    pub operation: u64,
    /// What happens.
    pub kind: FaultKind,
}

/// What can go wrong. In an operation that ends before it is over, some of the peers have got the
/// rank's message and the others have not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// In the middle of the operation the rank stops and gives no sign of life any more. Its call
    /// returns an error when all other ranks have noticed.
    Stall,
    /// In the middle of the operation the rank is gone, with all its handles; its call returns an
    /// error.
    Die,
    /// In the middle of the operation the calling thread panics.
    Panic,
    /// A message has a byte too few or too many.
    Length,
    /// A message is that of another operation.
    Operation,
    /// In an `all_gather`, a message is the one that was sent in the `all_gather` of the same
    /// length before.
    Stale,
    /// In an `all_gather`, a bit of a message is flipped.
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
