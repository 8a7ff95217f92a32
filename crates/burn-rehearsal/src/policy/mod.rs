//! Where a candidate goes: a free slot, the slot of a row that gives way, or nowhere.
//!
//! | policy | class-incremental stream | same classes in every task, or no class |
//! |---|---|---|
//! | [`ClassBalanced`] (default) | equal shares, a uniform sample of each class | a uniform sample of all tasks |
//! | [`Reservoir`] | shares as in the stream | a uniform sample of all tasks |
//! | [`RandomReplacement`] | equal shares, new rows of a class replace old ones | forgets earlier tasks |
//! | [`Fifo`] | forgets earlier tasks | forgets earlier tasks |
//!
//! Each shard decides on its own, from the rows that its rank was offered.

mod class_balanced;
mod fifo;
mod quotas;
mod random_replacement;
mod reservoir;

pub use class_balanced::ClassBalanced;
pub use fifo::Fifo;
pub use random_replacement::RandomReplacement;
pub use reservoir::Reservoir;

use crate::config::PolicyKind;
use crate::random::Stream;
use crate::slots::SlotTable;

/// What a policy decides for one candidate when the shard is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// Overwrite the row in this slot.
    Replace(u32),
    /// Do not store the candidate.
    Reject,
}

/// The number of candidates for which memory is prefetched at once: more than a processor can have
/// outstanding.
pub const PREFETCH_DISTANCE: usize = 32;

/// Decides which row makes room.
pub trait Policy: Send {
    /// Called once per step with the classes of all candidates, before any of them is placed.
    fn begin(&mut self, _classes: &[u32]) {}

    /// Called once for every candidate that is offered, stored or not, before [`place`](Self::place).
    fn offered(&mut self, _class: u32) {}

    /// Called once for every candidate that meets a full shard; `class` is the candidate's.
    fn place(&mut self, class: u32, table: &SlotTable, rng: &mut Stream) -> Placement;

    /// Adds to `slots` those that candidates of these classes, at most [`PREFETCH_DISTANCE`], will probably take
    /// in a full shard; `rng` is a copy of their random stream. These slots are prefetched, so that
    /// the cache misses of several candidates overlap. Decides nothing.
    fn predict_slots(&mut self, _classes: &[u32], _table: &SlotTable, _rng: Stream, _slots: &mut Vec<u32>) {}

    /// Everything besides the table that later decisions depend on.
    fn state(&self) -> Vec<u64>;

    /// Continues from a [`state`](Self::state) that was taken with this `table`. Returns `None`, and
    /// changes nothing, if the two do not fit together.
    fn restore(&mut self, state: &[u64], table: &SlotTable) -> Option<()>;
}

/// The policy of a shard whose first slot has the global number `first_slot`.
pub fn policy(kind: PolicyKind, classes: Option<usize>, first_slot: usize) -> Box<dyn Policy> {
    match kind {
        PolicyKind::ClassBalanced => Box::new(ClassBalanced::new(classes, first_slot)),
        PolicyKind::RandomReplacement => Box::new(RandomReplacement::new(classes, first_slot)),
        PolicyKind::Reservoir => Box::new(Reservoir::default()),
        PolicyKind::Fifo => Box::new(Fifo::default()),
    }
}
