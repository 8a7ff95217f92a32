//! Which stored rows are drawn as representatives: one file per rule, or per family of rules.
//!
//! Every rank knows [`ShardCounts`], a few counters per shard, and computes the draws of *every*
//! rank from them. The owners of the drawn rows then send them. No rank sends a request.
//!
//! # Your own rule
//!
//! Implement [`Sampling`] and pass a value to
//! [`RehearsalConfig::init_with`](crate::RehearsalConfig::init_with). This one draws one half of
//! the rows that the configuration asks for, uniformly:
//!
//! ```
//! use burn_rehearsal::random::Stream;
//! use burn_rehearsal::sampling::{DistinctSampler, Draw, Sampling, ShardCounts};
//! use burn_rehearsal::{Capacity, CustomRules, RehearsalConfig};
//! use burn_rehearsal_collective::Rank;
//! # use burn::tensor::{Device, Tensor};
//! # #[derive(burn_rehearsal::RehearsalBatch)]
//! # struct Batch { inputs: Tensor<2> }
//!
//! #[derive(Clone, Default)]
//! struct Half(DistinctSampler);
//!
//! impl Sampling for Half {
//!     fn name(&self) -> &'static str {
//!         "half"
//!     }
//!
//!     fn plan(&mut self, counts: &ShardCounts, rng: &mut Stream, representatives: usize, draws: &mut Vec<Draw>) {
//!         let numbers = self.0.draw(rng, representatives / 2, counts.fill.total());
//!         draws.extend(numbers.map(|number| Draw { group: 0, number }));
//!     }
//! }
//!
//! let rules = CustomRules::default().with_sampling(Half::default());
//! let config = RehearsalConfig::new(Capacity::Samples(8)).with_representatives(4);
//! let buffer = config.init_with::<Batch>(&Rank::solo(), rules)?;
//! # let device = Device::flex();
//! # buffer.rehearse(Batch { inputs: Tensor::zeros([4, 2], &device) })?;
//! let batch = buffer.rehearse(Batch { inputs: Tensor::zeros([4, 2], &device) })?;
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
    /// Which stored rows are drawn as representatives, and with which probabilities.
    pub enum SamplingKind: "sampling rule", dyn Sampling {
        /// Every stored row of all ranks with the same probability.
        Uniform => uniform::UniformSampling,
        /// Every stored class with the same probability, then every row of it.
        ClassBalanced => class_balanced::ClassBalancedSampling,
        /// Every stored row of earlier tasks with the same probability.
        ExcludeCurrent => uniform::ExcludeCurrentSampling,
    }
}

/// A drawn row, by its number among the rows of a group in all shards: those of rank 0 come first,
/// then those of rank 1, and so on.
///
/// A plan consists of numbers only. Each rank then [locates](Sampling::locate) its own draws; of
/// the draws of others it finds out which fall [on its own shard](Sampling::local_index). Planning
/// for all N ranks therefore takes time in proportion to the number of draws.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Draw {
    /// The group: the class for class-balanced sampling, otherwise 0.
    pub group: u32,
    /// The row's number within the group, below 2³² if the rule has several groups.
    pub number: u64,
}

/// Where a drawn row is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowLocation {
    /// The rank that holds the row.
    pub owner: u32,
    /// The row's number within its group in that shard. Only the owner knows the
    /// [slot](Sampling::slot_of).
    pub index: u32,
}

/// Decides which rows of all shards are drawn.
///
/// Every rank has its own value and calls it for the draws of all ranks, with the same arguments.
/// Results must be a function of the arguments alone: a value keeps nothing from one step to the
/// next but memory that it reuses. Otherwise ranks disagree, or a run that resumes from a
/// checkpoint draws other rows.
pub trait Sampling: Send {
    /// The name in reports, errors and checkpoints, in kebab case.
    fn name(&self) -> &'static str;

    /// The parameters as text, for example `"n=3"`. All ranks must have the same parameters, and a
    /// checkpoint can only be restored with those that it was written with. Default: no parameters.
    fn parameters(&self) -> String {
        String::new()
    }

    /// Whether the rule reads [`ShardCounts::classes`]. Ranks then exchange the changes of their
    /// class counts at every step. Default: no.
    fn needs_class_counts(&self) -> bool {
        false
    }

    /// Whether the rule reads [`ShardCounts::from_earlier_tasks`]. Representatives that are
    /// prepared for the next steps are then drawn again when a task begins. Default: no.
    fn depends_on_task(&self) -> bool {
        false
    }

    /// Appends the draws of one rank at one step: distinct rows, at most `representatives`. Time
    /// O(r).
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
