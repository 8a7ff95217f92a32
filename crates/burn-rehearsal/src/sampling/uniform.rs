//! Every stored row with the same probability, or every row of earlier tasks.

use super::{DistinctSampler, Draw, RowLocation, Sampling, ShardCounts};
use crate::random::Stream;
use crate::slots::SlotTable;

/// Uniform over all rows of all ranks, without replacement within one draw, whatever the fill of
/// the shards. The default.
#[derive(Debug, Default, Clone)]
pub struct UniformSampling(OneGroup);

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
        self.0.plan(counts.fill.total(), rng, representatives, draws);
    }

    fn locate(&self, counts: &ShardCounts, draw: Draw) -> Option<RowLocation> {
        counts.fill.locate(draw.number)
    }

    fn local_index(&self, counts: &ShardCounts, draw: Draw) -> Option<u32> {
        counts.fill.local_index(draw.number)
    }

    fn slot_of(&self, table: &SlotTable, _group: u32, index: u32) -> Option<u32> {
        ((index as usize) < table.len()).then_some(index)
    }
}

/// Uniform over the rows that were stored before the current task began. Draws nothing before the
/// second task.
#[derive(Debug, Default, Clone)]
pub struct ExcludeCurrentSampling(OneGroup);

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
        self.0.plan(counts.from_earlier_tasks.total(), rng, representatives, draws);
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

/// Draws uniformly over the rows of one group.
#[derive(Debug, Default, Clone)]
struct OneGroup {
    distinct: DistinctSampler,
    numbers: Vec<u64>,
}

impl OneGroup {
    fn plan(
        &mut self,
        total: u64,
        rng: &mut Stream,
        representatives: usize,
        draws: &mut Vec<Draw>,
    ) {
        self.numbers.clear();
        self.distinct.draw(rng, representatives, total, &mut self.numbers);
        draws.extend(self.numbers.iter().map(|&number| Draw { group: 0, number }));
    }
}
