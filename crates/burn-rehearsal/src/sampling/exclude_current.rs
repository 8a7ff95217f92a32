//! Every stored row of earlier tasks with the same probability.

use super::{Draw, OneGroup, Place, Sampling, Union};
use crate::random::Stream;
use crate::slots::SlotTable;

/// Uniform over the rows that were stored before the current task began.
#[derive(Debug, Default)]
pub struct ExcludeCurrent(OneGroup);

impl Sampling for ExcludeCurrent {
    fn plan(&mut self, union: &Union, rng: &mut Stream, representatives: usize, draws: &mut Vec<Draw>) {
        self.0.plan(union.old.total(), rng, representatives, draws);
    }

    fn place(&self, union: &Union, draw: Draw) -> Option<Place> {
        union.old.place(draw.number)
    }

    fn here(&self, union: &Union, draw: Draw) -> Option<u32> {
        union.old.here(draw.number)
    }

    fn locate(&self, table: &SlotTable, _group: u32, index: u32) -> Option<u32> {
        table.old_slot(index as usize)
    }
}
