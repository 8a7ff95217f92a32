//! Every stored row of the union with the same probability.

use super::{Draw, OneGroup, Sampling, Union};
use crate::random::Stream;
use crate::slots::SlotTable;

/// Uniform over the union, without replacement within one draw, whatever the fill of the shards.
#[derive(Debug, Default)]
pub struct Uniform(OneGroup);

impl Sampling for Uniform {
    fn plan(&mut self, union: &Union, rng: &mut Stream, representatives: usize, draws: &mut Vec<Draw>) {
        self.0.plan(&union.fill, rng, representatives, draws);
    }

    fn locate(&self, table: &SlotTable, draw: Draw) -> Option<u32> {
        ((draw.index as usize) < table.len()).then_some(draw.index)
    }
}
