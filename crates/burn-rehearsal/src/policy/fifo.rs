//! First in, first out.

use super::{Placement, Policy, SavedShard, ShardInfo, StateError};
use crate::random::Stream;
use crate::slots::SlotTable;

/// First in, first out: replaces the oldest row.
///
/// Each shard holds the last rows that it was offered, whatever their class. Rows of earlier tasks
/// disappear.
#[derive(Debug, Default, Clone)]
pub struct Fifo {
    /// The slot of the oldest row of a full shard, because slots are written in order.
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
                "the next slot is {next}, but there are {} rows",
                table.len()
            )));
        }
        self.next = next as u32;
        Ok(())
    }

    /// The order of arrival, so that each new shard begins with its oldest row.
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
