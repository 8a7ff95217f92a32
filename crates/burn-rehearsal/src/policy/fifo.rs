//! First in, first out: a full shard is a ring.

use super::{Placement, Policy, SavedShard, ShardInfo, StateError};
use crate::random::Stream;
use crate::slots::SlotTable;

/// Replaces the oldest row.
///
/// # What it keeps
///
/// The last rows offered to each shard, whatever their class: rows of earlier tasks disappear.
#[derive(Debug, Default, Clone)]
pub struct Fifo {
    /// Slots fill in order, so the oldest row of a full shard is always here.
    next: u32,
}

impl Policy for Fifo {
    fn name(&self) -> &'static str {
        "fifo"
    }

    fn place(&mut self, _class: u32, table: &SlotTable, _rng: &mut Stream) -> Placement {
        let slot = self.next;
        self.next = if slot as usize + 1 >= table.len() { 0 } else { slot + 1 };
        Placement::Replace(slot)
    }

    fn state(&self) -> Vec<u64> {
        vec![u64::from(self.next)]
    }

    fn restore(&mut self, state: &[u64], table: &SlotTable) -> Result<(), StateError> {
        let &[next] = state else { return Err(StateError::length(state, 1)) };
        if next >= table.len().max(1) as u64 {
            return Err(StateError::new(format!(
                "slot {next} is the next to be replaced among {} rows",
                table.len()
            )));
        }
        self.next = next as u32;
        Ok(())
    }

    /// From the oldest row to the newest, so that each new shard is a ring that begins with its
    /// oldest row.
    fn order_key(&self, shard: &SavedShard<'_>, slot: u32) -> u64 {
        let len = shard.table.len() as u64;
        let oldest = shard.state.first().map_or(0, |next| next % len);
        let newer = (oldest + 2 * len - 1 - u64::from(slot)) % len;
        u64::MAX - newer
    }

    fn merge(&self, _saved: &[SavedShard<'_>], _table: &SlotTable, _shard: &ShardInfo) -> Vec<u64> {
        vec![0]
    }
}
