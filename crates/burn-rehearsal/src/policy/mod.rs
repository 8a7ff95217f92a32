//! Which stored row makes room for a candidate: one file per policy.
//!
//! | policy | class-incremental stream | same classes in every task, or no class |
//! |---|---|---|
//! | [`ClassBalanced`] (default) | equal shares, a uniform sample of each class | a uniform sample of all tasks |
//! | [`Reservoir`] | shares as in the stream | a uniform sample of all tasks |
//! | [`RandomReplacement`] | equal shares, new rows of a class replace old ones | forgets earlier tasks |
//! | [`Fifo`] | forgets earlier tasks | forgets earlier tasks |
//! | [`Lifo`] | keeps the first rows only | keeps the first rows only |
//!
//! Each shard decides on its own, from the rows that its rank was offered.
//!
//! # Your own policy
//!
//! Implement [`Policy`] and pass a value to
//! [`RehearsalConfig::init_with`](crate::RehearsalConfig::init_with). This one replaces any row,
//! but only with every n-th candidate:
//!
//! ```
//! use burn_rehearsal::policy::{Placement, Policy, SavedShard, ShardInfo, StateError};
//! use burn_rehearsal::{Capacity, CustomRules, RehearsalConfig, SlotTable, random::Stream};
//! use burn_rehearsal_collective::Rank;
//! # use burn::tensor::{Device, Tensor};
//! # #[derive(burn_rehearsal::RehearsalBatch)]
//! # struct Batch { inputs: Tensor<2> }
//!
//! #[derive(Clone)]
//! struct EveryNth {
//!     n: u64,
//!     offered: u64,
//! }
//!
//! impl Policy for EveryNth {
//!     fn name(&self) -> &'static str {
//!         "every-nth"
//!     }
//!
//!     fn parameters(&self) -> String {
//!         format!("n={}", self.n)
//!     }
//!
//!     fn offered(&mut self, _class: u32) {
//!         self.offered += 1;
//!     }
//!
//!     fn place(&mut self, _class: u32, table: &SlotTable, rng: &mut Stream) -> Placement {
//!         match self.offered % self.n {
//!             0 => Placement::Replace(rng.below(table.len() as u64) as u32),
//!             _ => Placement::Reject,
//!         }
//!     }
//!
//!     fn state(&self) -> Vec<u64> {
//!         vec![self.offered]
//!     }
//!
//!     fn restore(&mut self, state: &[u64], _table: &SlotTable) -> Result<(), StateError> {
//!         let &[offered] = state else { return Err(StateError::length(state, 1)) };
//!         self.offered = offered;
//!         Ok(())
//!     }
//!
//!     fn merge(&self, saved: &[SavedShard<'_>], _table: &SlotTable, shard: &ShardInfo) -> Vec<u64> {
//!         vec![shard.part_of(saved.iter().filter_map(|shard| shard.state.first()).sum())]
//!     }
//! }
//!
//! let rules = CustomRules::default().with_policy(EveryNth { n: 3, offered: 0 });
//! let buffer = RehearsalConfig::new(Capacity::Samples(8)).init_with::<Batch>(&Rank::solo(), rules)?;
//! # let device = Device::flex();
//! # for _ in 0..5 { buffer.rehearse(Batch { inputs: Tensor::zeros([4, 2], &device) })?; }
//! assert_eq!(buffer.report()?.policy, "every-nth(n=3)");
//! # Ok::<(), burn_rehearsal::error::RehearsalError>(())
//! ```

mod class_balanced;
mod fifo;
mod lifo;
mod quotas;
mod random_replacement;
mod reservoir;
#[cfg(test)]
mod tests;

pub use crate::slots::ShardInfo;

use crate::random::Stream;
use crate::registry::registry;
use crate::slots::SlotTable;

registry! {
    /// Which stored row makes room for a candidate when the shard is full.
    pub enum PolicyKind: "policy", dyn Policy {
        /// Equal shares for all classes, and a uniform sample of the rows of each class.
        ClassBalanced => class_balanced::ClassBalanced,
        /// Equal shares for all classes; every candidate replaces a random row (Bouvier et al.
        /// 2024).
        RandomReplacement => random_replacement::RandomReplacement,
        /// A uniform sample of all rows offered so far (Vitter 1985, algorithm R).
        Reservoir => reservoir::Reservoir,
        /// The oldest row is replaced.
        Fifo => fifo::Fifo,
        /// The newest row is replaced.
        Lifo => lifo::Lifo,
    }
}

/// What a policy decides for one candidate when the shard is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// Overwrite the row in this slot.
    Replace(u32),
    /// Do not store the candidate.
    Reject,
}

/// A [state](Policy::state) that a policy cannot have with a given table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct StateError(String);

impl StateError {
    /// An error with this reason.
    pub fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }

    /// A state that should have `expected` words.
    pub fn length(state: &[u64], expected: usize) -> Self {
        Self(format!("it has {} words instead of {expected}", state.len()))
    }
}

/// One shard of a checkpoint that was written on another number of ranks.
#[derive(Debug, Clone, Copy)]
pub struct SavedShard<'a> {
    /// The rows of the shard.
    pub table: &'a SlotTable,
    /// The [state](Policy::state) of its policy.
    pub state: &'a [u64],
}

/// The number of candidates whose memory is prefetched together: more than a processor has
/// outstanding cache misses.
pub const PREFETCH_DISTANCE: usize = 32;

/// Decides which row of a full shard makes room for a candidate.
///
/// Each shard has its own value. Decisions must be a function of the arguments and of
/// [`state`](Self::state) alone: then a run that resumes from a checkpoint gives the same bits as
/// one that was not interrupted.
pub trait Policy: Send {
    /// The name in reports, errors and checkpoints, in kebab case.
    fn name(&self) -> &'static str;

    /// The parameters as text, for example `"n=3"`. All ranks must have the same parameters, and a
    /// checkpoint can only be restored with those that it was written with. Default: no parameters.
    fn parameters(&self) -> String {
        String::new()
    }

    /// Called once, before the first candidate, with the size and the position of the shard.
    fn start(&mut self, _shard: &ShardInfo) {}

    /// Called for every mini-batch with the classes of its candidates, before any of them is
    /// placed. Rows without a class field have class 0.
    fn begin(&mut self, _classes: &[u32]) {}

    /// Called once for every candidate that is offered, stored or not, before
    /// [`place`](Self::place).
    fn offered(&mut self, _class: u32) {}

    /// Called once for every candidate that meets a full shard; `class` is the candidate's, `rng` a
    /// stream of this rank and mini-batch.
    fn place(&mut self, class: u32, table: &SlotTable, rng: &mut Stream) -> Placement;

    /// Adds to `slots` those that candidates of these classes, at most [`PREFETCH_DISTANCE`], will
    /// probably take in a full shard; `rng` is a copy of their random stream. These slots are
    /// prefetched, so that the cache misses of several candidates overlap. Decides nothing.
    /// Default: none.
    fn predict_slots(
        &mut self,
        _classes: &[u32],
        _table: &SlotTable,
        _rng: Stream,
        _slots: &mut Vec<u32>,
    ) {
    }

    /// Everything besides the table that later decisions depend on. Checkpoints store it.
    fn state(&self) -> Vec<u64>;

    /// Continues from a [`state`](Self::state) that was taken with this `table`.
    ///
    /// # Errors
    ///
    /// [`StateError`], with no change, if the two do not fit together: the state is read from a
    /// file.
    fn restore(&mut self, state: &[u64], table: &SlotTable) -> Result<(), StateError>;

    /// Orders the rows of a checkpoint that was written on another number of ranks. All rows are
    /// sorted by this key, then by rank and slot, and dealt to the new shards in turn, which store
    /// them in that order. Default: by class, so that every class is spread evenly over the shards.
    fn order_key(&self, shard: &SavedShard<'_>, slot: u32) -> u64 {
        u64::from(shard.table.class(slot))
    }

    /// The [`state`](Self::state) of the new shard `shard` that holds the rows of `table`, made
    /// from all shards of the checkpoint, `saved`. Shards of ranks that never had rows are left
    /// out.
    ///
    /// Each saved state was written by this policy, but may be damaged. The result is checked by
    /// [`restore`](Self::restore).
    fn merge(&self, saved: &[SavedShard<'_>], table: &SlotTable, shard: &ShardInfo) -> Vec<u64>;
}
