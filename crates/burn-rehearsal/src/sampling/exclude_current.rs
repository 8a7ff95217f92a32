//! Every stored row of earlier tasks with the same probability.

use super::{Draw, OneGroup, RowLocation, Sampling, ShardCounts};
use crate::random::Stream;
use crate::slots::SlotTable;

/// Uniform over the rows that were stored before the current task began.
#[derive(Debug, Default)]
pub struct ExcludeCurrentSampling(OneGroup);

impl Sampling for ExcludeCurrentSampling {
    fn plan(&mut self, counts: &ShardCounts, rng: &mut Stream, representatives: usize, draws: &mut Vec<Draw>) {
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
