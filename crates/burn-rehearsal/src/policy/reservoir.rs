//! Reservoir sampling: Vitter, "Random Sampling with a Reservoir" (ACM TOMS 1985), algorithm R.

use super::{Placement, Policy};
use crate::random::Stream;
use crate::slots::SlotTable;

/// After n offered rows, each of them is stored with probability capacity / n.
///
/// # What it keeps
///
/// A uniform sample of all rows offered to each shard, in every kind of stream. Classes have the
/// shares that they have in the stream so far.
#[derive(Debug, Default)]
pub struct Reservoir {
    offered: u64,
}

impl Policy for Reservoir {
    fn offered(&mut self, _class: u32) {
        self.offered += 1;
    }

    fn place(&mut self, _class: u32, table: &SlotTable, rng: &mut Stream) -> Placement {
        let slot = rng.below(self.offered);
        if slot < table.len() as u64 { Placement::Replace(slot as u32) } else { Placement::Reject }
    }

    fn state(&self) -> Vec<u64> {
        vec![self.offered]
    }

    fn restore(&mut self, state: &[u64], table: &SlotTable) -> Option<()> {
        let &[offered] = state else { return None };
        if offered < table.len() as u64 {
            return None;
        }
        self.offered = offered;
        Some(())
    }
}
