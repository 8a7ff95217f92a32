//! Every stored row of the union with the same probability.

use super::{Draw, OneGroup, Place, Sampling, Union};
use crate::random::Stream;
use crate::slots::SlotTable;

/// Uniform over the union, without replacement within one draw, whatever the fill of the shards.
#[derive(Debug, Default)]
pub struct Uniform(OneGroup);

impl Sampling for Uniform {
    fn plan(&mut self, union: &Union, rng: &mut Stream, representatives: usize, draws: &mut Vec<Draw>) {
        self.0.plan(union.fill.total(), rng, representatives, draws);
    }

    fn place(&self, union: &Union, draw: Draw) -> Option<Place> {
        union.fill.place(draw.number)
    }

    fn here(&self, union: &Union, draw: Draw) -> Option<u32> {
        union.fill.here(draw.number)
    }

    fn locate(&self, table: &SlotTable, _group: u32, index: u32) -> Option<u32> {
        ((index as usize) < table.len()).then_some(index)
    }
}
