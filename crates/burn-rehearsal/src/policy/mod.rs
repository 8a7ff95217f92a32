//! Where a candidate goes: a free slot, the slot of a row that gives way, or nowhere.

mod class_balanced;
mod fifo;
mod reservoir;

pub use class_balanced::ClassBalanced;
pub use fifo::Fifo;
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

/// For so many candidates at a time memory is fetched ahead: more than a processor can wait for at once.
pub const AHEAD: usize = 32;

/// Decides which row makes room.
pub trait Policy: Send {
    /// Called once for every candidate that meets a full shard; `class` is the candidate's.
    fn place(&mut self, class: u32, table: &SlotTable, rng: &mut Stream) -> Placement;

    /// Adds to `slots` those that candidates of these classes, at most [`AHEAD`], will probably take in a full shard; `rng` is a copy of their random stream. What is
    /// known of these slots is fetched ahead, so that the misses of several candidates overlap. Decides nothing.
    fn guess(&mut self, _classes: &[u32], _table: &SlotTable, _rng: Stream, _slots: &mut Vec<u32>) {}

    /// Called once for every candidate that is offered, stored or not, before [`place`](Self::place).
    fn offered(&mut self) {}

    /// What has to be known to go on after a checkpoint, beside the table.
    fn state(&self) -> Vec<u64>;

    /// Goes on from a [`state`](Self::state) that was taken with this `table`; `None`, and nothing changes, if the two do not fit together.
    fn restore(&mut self, state: &[u64], table: &SlotTable) -> Option<()>;
}

/// The policy of a shard whose first slot has the global number `first_slot`.
pub fn policy(kind: PolicyKind, classes: Option<usize>, first_slot: usize) -> Box<dyn Policy> {
    match kind {
        PolicyKind::ClassBalanced => Box::new(ClassBalanced::new(classes, first_slot)),
        PolicyKind::Reservoir => Box::new(Reservoir::default()),
        PolicyKind::Fifo => Box::new(Fifo::default()),
    }
}
