//! Uniform sampling over all stored rows, or over the rows of earlier tasks.

use super::{DistinctSampler, Draw, RowLocation, Sampling, ShardCounts};
use crate::random::Stream;
use crate::slots::SlotTable;

/// Draws every stored row of all ranks with the same probability. The default.
///
/// Rows are drawn without replacement within a step. Shards may hold different numbers of rows: a
/// row is equally likely in a small and in a large shard.
#[derive(Debug, Default, Clone)]
pub struct UniformSampling(DistinctSampler);

impl Sampling for UniformSampling {
    fn name(&self) -> &'static str {
        "uniform"
    }

    fn plan(
        &mut self,
        counts: &ShardCounts,
        rng: &mut Stream,
        representatives: usize,
        draws: &mut Vec<Draw>,
    ) {
        let numbers = self.0.draw(rng, representatives, counts.fill.total());
        draws.extend(numbers.map(|number| Draw { group: 0, number }));
    }
}

/// Draws every row of earlier tasks with the same probability, and no row of the current task.
///
/// Draws nothing before the second task. Requires
/// [`begin_task`](crate::RehearsalBuffer::begin_task).
#[derive(Debug, Default, Clone)]
pub struct ExcludeCurrentSampling(DistinctSampler);

impl Sampling for ExcludeCurrentSampling {
    fn name(&self) -> &'static str {
        "exclude-current"
    }

    fn depends_on_task(&self) -> bool {
        true
    }

    fn plan(
        &mut self,
        counts: &ShardCounts,
        rng: &mut Stream,
        representatives: usize,
        draws: &mut Vec<Draw>,
    ) {
        let numbers = self.0.draw(rng, representatives, counts.from_earlier_tasks.total());
        draws.extend(numbers.map(|number| Draw { group: 0, number }));
    }

    fn locate(&self, counts: &ShardCounts, draw: Draw) -> Option<RowLocation> {
        counts.from_earlier_tasks.locate(draw.number)
    }

    fn local_index(&self, counts: &ShardCounts, draw: Draw) -> Option<u32> {
        counts.from_earlier_tasks.local_index(draw.number)
    }

    fn slot_of(&self, table: &SlotTable, _group: u32, index: u32) -> Option<u32> {
        table.slot_from_earlier_task(index as usize)
    }
}
