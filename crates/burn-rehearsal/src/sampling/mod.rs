//! Sampling rules: which stored rows are drawn as representatives.
//!
//! # Choosing a rule
//!
//! * [`UniformSampling`], the default, draws every stored row with the same probability. Classes
//!   are replayed in the shares in which the [policy](crate::policy) stores them.
//! * [`ClassBalancedSampling`] draws every stored class with the same probability, and then a row
//!   of it. Use it if the stored classes differ in size, for example with
//!   [`Reservoir`](crate::policy::Reservoir).
//! * [`ExcludeCurrentSampling`] draws every row of earlier tasks with the same probability. Use it
//!   if rows of the current task need no replay, because they are in the mini-batch.
//!
//! Select a rule with [`RehearsalConfig::with_sampling`](crate::RehearsalConfig::with_sampling).
//! All built-in rules draw without replacement within a draw, from the union of the shards of all
//! ranks.
//!
//! A step can have [several draws](crate::RehearsalConfig::with_draws), each with its own rule.
//!
//! # How ranks draw
//!
//! Every rank knows [`ShardCounts`], a few counters per shard. From them and from a generator that
//! is keyed by seed, step and rank, it computes the draws of *every* rank. The owners of the drawn
//! rows then send them. No rank sends a request.
//!
//! # Adding your own rule
//!
//! Implement [`Sampling`] for a type that is also `Clone`, `Send` and `Sync`: every rank gets a
//! clone. A rule over all stored rows implements only [`name`](Sampling::name) and
//! [`plan`](Sampling::plan). This one draws half of the configured number of representatives. It
//! keeps a [`DistinctSampler`], whose memory it reuses:
//!
//! ```
//! use burn_rehearsal::sampling::DistinctSampler;
//!
//! #[derive(Clone, Default)]
//! struct Half(DistinctSampler);
//! ```
//!
//! Its `plan` draws distinct numbers of stored rows:
//!
//! ```
//! # use burn_rehearsal::random::Stream;
//! # use burn_rehearsal::sampling::{DistinctSampler, Draw, Sampling, ShardCounts};
//! # struct Half(DistinctSampler);
//! # impl Sampling for Half {
//! # fn name(&self) -> &'static str { "half" }
//! fn plan(
//!     &mut self,
//!     counts: &ShardCounts,
//!     rng: &mut Stream,
//!     representatives: usize,
//!     draws: &mut Vec<Draw>,
//! ) {
//!     let numbers = self.0.draw(rng, representatives / 2, counts.fill.total());
//!     draws.extend(numbers.map(|number| Draw { group: 0, number }));
//! }
//! # }
//! ```
//!
//! Pass a value to [`RehearsalConfig::init_with`](crate::RehearsalConfig::init_with):
//!
//! ```
//! # mod stubs { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/stubs.rs")); }
//! # use stubs::*;
//! use burn_rehearsal::{Capacity, CustomRules, Rank, RehearsalConfig};
//!
//! let rules = CustomRules::default().with_sampling(Half::default());
//! let config = RehearsalConfig::new(Capacity::Samples(8)).with_representatives(4);
//! let buffer = config.init_with::<MyBatch>(&Rank::solo(), rules)?;
//! buffer.rehearse(my_batch())?;
//! let batch = buffer.rehearse(my_batch())?; // 4 incoming rows, 2 representatives
//! assert_eq!(batch.inputs.dims()[0], 4 + 2);
//! # Ok::<(), burn_rehearsal::error::RehearsalError>(())
//! ```

mod class_balanced;
mod counts;
mod uniform;

pub use crate::distinct::DistinctSampler;
pub use counts::{ClassCounts, RankCounts, ShardCounts};

use crate::random::Stream;
use crate::registry::registry;
use crate::slots::SlotTable;

registry! {
    /// The built-in sampling rules. The [module](self) compares them.
    ///
    /// ```
    /// use burn_rehearsal::SamplingKind;
    ///
    /// let kind: SamplingKind = "class-balanced".parse()?;
    /// assert_eq!(kind, SamplingKind::ClassBalanced);
    /// # Ok::<(), burn_rehearsal::error::ConfigError>(())
    /// ```
    pub enum SamplingKind: "sampling rule", dyn Sampling {
        /// Draws every stored row of all ranks with the same probability.
        Uniform => uniform::UniformSampling,
        /// Draws every stored class with the same probability, then every row of it.
        ClassBalanced => class_balanced::ClassBalancedSampling,
        /// Draws every stored row of earlier tasks with the same probability.
        ExcludeCurrent => uniform::ExcludeCurrentSampling,
    }
}

/// A drawn row, named by its number among the rows of a group in all shards. The rows of rank 0
/// come first, then those of rank 1, and so on.
///
/// A plan consists of numbers only. Each rank [locates](Sampling::locate) its own draws, and finds
/// the draws of other ranks that are [in its own shard](Sampling::local_index). The time to plan
/// for all ranks is therefore proportional to the number of draws.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Draw {
    /// The group: the class for class-balanced sampling, otherwise 0.
    pub group: u32,
    /// The number of the row within the group. Below 2³² if the rule has several groups.
    pub number: u64,
}

/// The location of a drawn row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowLocation {
    /// The rank that holds the row.
    pub owner: u32,
    /// The number of the row within its group in the owner's shard. Only the owner knows the
    /// [slot](Sampling::slot_of).
    pub index: u32,
}

/// A sampling rule: decides which rows of all shards are drawn.
///
/// Every rank has its own value and calls it for the draws of all ranks, with the same arguments.
/// The results must be a function of the arguments: a value must not keep state between steps,
/// except memory that it reuses. Otherwise ranks disagree, or a resumed run draws other rows.
///
/// The [module](self#adding-your-own-rule) has an example.
pub trait Sampling: Send {
    /// The name in reports, errors and checkpoints, in kebab case.
    fn name(&self) -> &'static str;

    /// The parameters as text, for example `"n=3"`. They must be the same on all ranks, and when a
    /// checkpoint is written and restored. Default: no parameters.
    fn parameters(&self) -> String {
        String::new()
    }

    /// Whether the rule reads [`ShardCounts::classes`]. If so, ranks exchange the changes of their
    /// class counts in every step. Default: no.
    fn needs_class_counts(&self) -> bool {
        false
    }

    /// Whether the rule reads [`ShardCounts::from_earlier_tasks`]. If so, pending representatives
    /// are drawn again when a task begins. Default: no.
    fn depends_on_task(&self) -> bool {
        false
    }

    /// Appends the rows of one draw of one rank in one step to `draws`: at most `representatives`
    /// distinct rows. `rng` is the stream of that rank, step and draw. Should take time O(r).
    fn plan(
        &mut self,
        counts: &ShardCounts,
        rng: &mut Stream,
        representatives: usize,
        draws: &mut Vec<Draw>,
    );

    /// The location of a drawn row, or `None` if there is no such row. Time O(world size).
    ///
    /// Default: the group is the union of all stored rows.
    fn locate(&self, counts: &ShardCounts, draw: Draw) -> Option<RowLocation> {
        counts.fill.locate(draw.number)
    }

    /// The index of a drawn row within its group in this rank's shard, or `None` if another rank
    /// holds it. Must agree with [`locate`](Self::locate). Time O(1).
    ///
    /// Default: the group is the union of all stored rows.
    fn local_index(&self, counts: &ShardCounts, draw: Draw) -> Option<u32> {
        counts.fill.local_index(draw.number)
    }

    /// The slot of this shard's `index`-th row of `group`, or `None` if there is no such row.
    ///
    /// Default: the slot `index`, because the rows of a shard occupy the slots `0..len`.
    fn slot_of(&self, table: &SlotTable, _group: u32, index: u32) -> Option<u32> {
        ((index as usize) < table.len()).then_some(index)
    }
}
