//! Every stored row of earlier tasks with the same probability.

use super::{Draw, OneGroup, Sampling, Union};
use crate::random::Stream;
use crate::slots::SlotTable;

/// Uniform over the rows that were stored before the current task began.
#[derive(Debug, Default)]
pub struct ExcludeCurrent(OneGroup);

impl Sampling for ExcludeCurrent {
    fn plan(&mut self, union: &Union, rng: &mut Stream, representatives: usize, draws: &mut Vec<Draw>) {
        self.0.plan(&union.old, rng, representatives, draws);
    }

    fn locate(&self, table: &SlotTable, draw: Draw) -> Option<u32> {
        table.old_slot(draw.index as usize)
    }
}
