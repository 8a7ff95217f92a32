//! First in, first out: a full shard is a ring.

use super::{Placement, Policy};
use crate::random::Stream;
use crate::slots::SlotTable;

/// Replaces the oldest row.
///
/// # What it keeps
///
/// The last rows offered to each shard, whatever their class: rows of earlier tasks disappear.
#[derive(Debug, Default)]
pub struct Fifo {
    /// Slots fill in order, so the oldest row is always here.
    next: u32,
}

impl Policy for Fifo {
    fn place(&mut self, _class: u32, table: &SlotTable, _rng: &mut Stream) -> Placement {
        let slot = self.next;
        self.next = if slot as usize + 1 >= table.len() { 0 } else { slot + 1 };
        Placement::Replace(slot)
    }

    fn state(&self) -> Vec<u64> {
        vec![u64::from(self.next)]
    }

    fn restore(&mut self, state: &[u64], table: &SlotTable) -> Option<()> {
        let &[next] = state else { return None };
        if next >= table.len().max(1) as u64 {
            return None;
        }
        self.next = next as u32;
        Some(())
    }
}
