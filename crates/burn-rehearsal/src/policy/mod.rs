//! Policies: which stored row a candidate replaces.
//!
//! A policy decides what the memory buffer holds. It is called when a candidate meets a full shard,
//! and either names the slot to overwrite or rejects the candidate.
//!
//! # Choosing a policy
//!
//! The memory after training on tasks that bring new classes (class-incremental), and on tasks with
//! the same classes or without a `class` field (domain-incremental):
//!
//! | policy | class-incremental | domain-incremental |
//! |---|---|---|
//! | [`ClassBalanced`] (default) | equal shares, uniform within a class | uniform over all tasks |
//! | [`Reservoir`] | shares as in the stream, uniform | uniform over all tasks |
//! | [`RandomReplacement`] | equal shares, newer rows of a class | mostly the last task |
//! | [`Fifo`] | the newest rows | the newest rows |
//! | [`Lifo`] | the oldest rows | the oldest rows |
//!
//! * [`ClassBalanced`] suits most streams. It needs no knowledge of the number of classes or tasks.
//! * [`Reservoir`] is the classic choice for streams without task boundaries. Rare classes stay
//!   rare.
//! * [`RandomReplacement`] is the policy of Bouvier et al. 2024.
//! * [`Fifo`] and [`Lifo`] are baselines.
//!
//! Select a policy with [`RehearsalConfig::with_policy`](crate::RehearsalConfig::with_policy). Each
//! shard decides separately, from the rows that its rank was offered.
//!
//! # Adding your own policy
//!
//! Implement [`Policy`] for a type that is also `Clone`, `Send` and `Sync`, because every shard
//! gets a clone. The decision is in [`place`](Policy::place). This policy rejects every second
//! candidate on average, and lets the others replace a random row:
//!
//! ```
//! # mod stubs { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/stubs.rs")); }
//! # use stubs::*;
//! use burn_rehearsal::policy::{Placement, Policy};
//! use burn_rehearsal::{SlotTable, random::Stream};
//! # #[derive(Clone)]
//! # struct EverySecond;
//!
//! impl Policy for EverySecond {
//!     fn place(&mut self, _class: u32, table: &SlotTable, rng: &mut Stream) -> Placement {
//!         match rng.below(2) {
//!             0 => Placement::Replace(rng.below(table.len() as u64) as u32),
//!             _ => Placement::Reject,
//!         }
//!     }
//! #   policy_methods!(name, state, restore, merge);
//! }
//! ```
//!
//! The other methods name the policy, and save, restore and merge its state. This policy has no
//! state, so they are short. The example program [custom-policy] shows all methods.
//!
//! Pass a value to [`RehearsalConfig::init_with`](crate::RehearsalConfig::init_with):
//!
//! ```
//! # mod stubs { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/stubs.rs")); }
//! # use stubs::*;
//! # use stubs::MyPolicy as EverySecond;
//! use burn_rehearsal::{Capacity, CustomRules, Rank, RehearsalConfig};
//!
//! let rules = CustomRules::default().with_policy(EverySecond);
//! let config = RehearsalConfig::new(Capacity::Samples(8));
//! let buffer = config.init_with::<MyBatch>(&Rank::solo(), rules)?;
//! # for _ in 0..5 { buffer.rehearse(my_batch())?; }
//! # assert_eq!(buffer.report()?.policy, "my-policy");
//! # Ok::<(), burn_rehearsal::error::RehearsalError>(())
//! ```
//!
//! A state is everything, other than the table, on which later decisions depend. A policy that
//! counts the offered candidates saves and restores the count:
//!
//! ```
//! # mod stubs { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/stubs.rs")); }
//! # use stubs::*;
//! # struct Counting { offered: u64 }
//! # impl Policy for Counting {
//! fn state(&self) -> Vec<u64> {
//!     vec![self.offered]
//! }
//!
//! fn restore(&mut self, state: &[u64], _table: &SlotTable) -> Result<(), StateError> {
//!     let &[offered] = state else { return Err(StateError::length(state, 1)) };
//!     self.offered = offered;
//!     Ok(())
//! }
//! # policy_methods!(name, place, merge);
//! # }
//! ```
//!
//! A checkpoint can be restored on another number of ranks. Each new shard then gets its part of
//! the sum of all counts:
//!
//! ```
//! # mod stubs { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/stubs.rs")); }
//! # use stubs::*;
//! # struct Counting;
//! # impl Policy for Counting {
//! fn merge(&self, saved: &[SavedShard], _table: &SlotTable, shard: &ShardInfo) -> Vec<u64> {
//!     vec![shard.part_of(saved.iter().filter_map(|shard| shard.state.first()).sum())]
//! }
//! # policy_methods!(name, place, state, restore);
//! # }
//! ```
//!
//! To add a policy to this crate, follow the steps under "How to add" in [ARCHITECTURE.md].
//!
//! [custom-policy]: https://github.com/burn-rehearsal/burn-rehearsal/tree/main/examples/custom-policy
//! [ARCHITECTURE.md]: https://github.com/burn-rehearsal/burn-rehearsal/blob/main/docs/ARCHITECTURE.md

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
    /// The built-in policies. The [module](self) compares them.
    ///
    /// ```
    /// use burn_rehearsal::{Capacity, PolicyKind, RehearsalConfig};
    ///
    /// let policy: PolicyKind = "reservoir".parse()?;
    /// let config = RehearsalConfig::new(Capacity::Samples(500)).with_policy(policy);
    /// # assert_eq!(config.policy, PolicyKind::Reservoir);
    /// # Ok::<(), burn_rehearsal::error::ConfigError>(())
    /// ```
    pub enum PolicyKind: "policy", dyn Policy {
        /// Equal shares for all classes, and a uniform sample of the rows of each class.
        ClassBalanced => class_balanced::ClassBalanced,
        /// Equal shares for all classes. Every candidate replaces a random row (Bouvier et al.
        /// 2024).
        RandomReplacement => random_replacement::RandomReplacement,
        /// A uniform sample of all rows offered so far (Vitter 1985, algorithm R).
        Reservoir => reservoir::Reservoir,
        /// Replaces the oldest row.
        Fifo => fifo::Fifo,
        /// Replaces the newest row.
        Lifo => lifo::Lifo,
    }
}

/// The decision of a policy for one candidate that meets a full shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// Overwrite the row in this slot.
    Replace(u32),
    /// Do not store the candidate.
    Reject,
}

/// A saved [state](Policy::state) is invalid, or does not match the table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct StateError(String);

impl StateError {
    /// An error with this reason.
    ///
    /// ```
    /// use burn_rehearsal::{SlotTable, policy::StateError};
    ///
    /// /// Checks the number of a slot that was saved.
    /// fn slot(saved: u64, table: &SlotTable) -> Result<u32, StateError> {
    ///     match saved < table.len() as u64 {
    ///         true => Ok(saved as u32),
    ///         false => Err(StateError::new(format!("slot {saved} is free"))),
    ///     }
    /// }
    /// ```
    pub fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }

    /// The error of a state that should have `expected` words.
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

/// The number of candidates whose slots are prefetched together. It exceeds the number of cache
/// misses that a processor has in flight.
pub const PREFETCH_DISTANCE: usize = 32;

/// A policy: decides which row of a full shard a candidate replaces.
///
/// Each shard has its own value. Decisions must be a function of the arguments and of
/// [`state`](Self::state). A resumed run then gives the same bits as an uninterrupted one.
///
/// The [module](self#adding-your-own-policy) has an example.
pub trait Policy: Send {
    /// The name in reports, errors and checkpoints, in kebab case.
    fn name(&self) -> &'static str;

    /// The parameters as text, for example `"n=3"`. They must be the same on all ranks, and when a
    /// checkpoint is written and restored. Default: no parameters.
    fn parameters(&self) -> String {
        String::new()
    }

    /// Called once, before the first candidate, with the size and position of the shard. Default:
    /// does nothing.
    fn start(&mut self, _shard: &ShardInfo) {}

    /// Called for every mini-batch with the classes of its candidates, before any of them is
    /// placed. Without a `class` field, all rows have class 0. Default: does nothing.
    fn begin(&mut self, _classes: &[u32]) {}

    /// Called once for every candidate, whether it is stored or not, before
    /// [`place`](Self::place). Candidates that [`OnRepeat::SkipIfStored`](crate::OnRepeat) skips
    /// are left out. Default: does nothing.
    fn offered(&mut self, _class: u32) {}

    /// Decides about a candidate of class `class` that meets a full shard. Until the shard is full,
    /// candidates take the slots 0, 1, 2, … in order, and this method is not called. `rng` is the
    /// stream of this rank and mini-batch.
    fn place(&mut self, class: u32, table: &SlotTable, rng: &mut Stream) -> Placement;

    /// Appends the slots that candidates of these classes will probably overwrite in a full shard.
    /// There are at most [`PREFETCH_DISTANCE`] candidates, and `rng` is a copy of their stream. The
    /// slots are prefetched, so that cache misses overlap. A wrong prediction changes no result.
    /// Default: none.
    fn predict_slots(
        &mut self,
        _classes: &[u32],
        _table: &SlotTable,
        _rng: Stream,
        _slots: &mut Vec<u32>,
    ) {
    }

    /// The state on which later decisions depend, other than the table. Checkpoints store it.
    fn state(&self) -> Vec<u64>;

    /// Restores a [`state`](Self::state) that was saved with this `table`.
    ///
    /// # Errors
    ///
    /// [`StateError`], without a change, if the state does not match the table. The state comes
    /// from a file, so check it.
    fn restore(&mut self, state: &[u64], table: &SlotTable) -> Result<(), StateError>;

    /// The sort key of a row in a checkpoint that was written on another number of ranks. All rows
    /// are sorted by this key, then by rank and slot, and dealt to the new shards round robin,
    /// which store them in that order. Default: the class, which spreads every class evenly over
    /// the shards.
    fn order_key(&self, shard: &SavedShard<'_>, slot: u32) -> u64 {
        u64::from(shard.table.class(slot))
    }

    /// The [`state`](Self::state) of a new shard on another number of ranks. `saved` are the shards
    /// of the checkpoint, except those of ranks that never had rows; `table` has the rows of the
    /// new shard.
    ///
    /// Each saved state was written by this policy, but may be damaged. [`restore`](Self::restore)
    /// checks the result.
    fn merge(&self, saved: &[SavedShard<'_>], table: &SlotTable, shard: &ShardInfo) -> Vec<u64>;
}
