//! Every stored row of the union with the same probability.

use super::{Draw, OneGroup, RowLocation, Sampling, ShardCounts};
use crate::random::Stream;
use crate::slots::SlotTable;

/// Uniform over the union, without replacement within one draw, whatever the fill of the shards.
#[derive(Debug, Default)]
pub struct UniformSampling(OneGroup);

impl Sampling for UniformSampling {
    fn plan(&mut self, counts: &ShardCounts, rng: &mut Stream, representatives: usize, draws: &mut Vec<Draw>) {
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
