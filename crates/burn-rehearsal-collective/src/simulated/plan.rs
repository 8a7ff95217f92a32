//! What a simulated network does to messages, as a pure function of a seed.

use std::time::Duration;

/// How a network disturbs the ranks that are connected by it.
///
/// Everything but the moment at which the operating system lets a thread run follows from these values: the order in which a rank's messages leave
/// and in which it looks for those of its peers, the delay of each, and the fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Disturbance {
    /// What everything that is drawn follows from.
    pub seed: u64,
    /// One of eight messages is under way for up to this long.
    pub delay: Duration,
    /// What goes wrong, if anything does.
    pub fault: Option<Fault>,
}

/// One thing that goes wrong on one rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// The rank that is to blame.
    pub rank: usize,
    /// Which of its handles: 0 for the one of the group, then its duplicates in the order in which they were made.
    pub handle: usize,
    /// The number of this handle's operation, from 0. If it cannot go wrong in this way (there is no message, for example), the next one does that can.
    pub operation: u64,
    /// What happens.
    pub kind: FaultKind,
}

/// What can go wrong. In an operation that ends before it is over, some of the peers have got the rank's message and the others have not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// In the middle of the operation the rank stops and gives no sign of life any more. Its call returns an error when all other ranks have noticed.
    Stall,
    /// In the middle of the operation the rank is gone, with all its handles; its call returns an error.
    Die,
    /// In the middle of the operation the calling thread panics.
    Panic,
    /// A message has a byte too few or too many.
    Length,
    /// A message is that of another operation.
    Operation,
    /// In an `all_gather`, a message is the one that was sent in the `all_gather` of the same length before.
    Stale,
    /// In an `all_gather`, a bit of a message is flipped.
    Corrupt,
}

impl FaultKind {
    /// All kinds.
    pub const ALL: [Self; 7] = [Self::Stall, Self::Die, Self::Panic, Self::Length, Self::Operation, Self::Stale, Self::Corrupt];
}

/// SplitMix64 (Steele, Lea, Flood 2014), from any number of keys.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(keys: &[u64]) -> Self {
        let mut random = Self(0);
        for key in keys {
            random.0 ^= key;
            random.0 = random.next();
        }
        random
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is not 0; the bias is far below what a test could see.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    /// Fisher and Yates.
    pub(super) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }

    /// Mostly none.
    pub(super) fn delay(&mut self, longest: Duration) -> Duration {
        match self.below(8) {
            0 => longest.mul_f64(self.below(1 << 20) as f64 / (1 << 20) as f64),
            _ => Duration::ZERO,
        }
    }
}
