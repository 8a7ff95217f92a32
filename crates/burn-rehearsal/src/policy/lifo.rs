//! Last in, first out.

use super::{Placement, Policy, SavedShard, ShardInfo, StateError};
use crate::random::Stream;
use crate::slots::SlotTable;

/// Last in, first out: replaces the newest row.
///
/// Each shard holds the first rows that it was offered, whatever their class, and the last one. A
/// baseline for streams whose first samples matter most.
#[derive(Debug, Default, Clone)]
pub struct Lifo;

impl Policy for Lifo {
    fn name(&self) -> &'static str {
        "lifo"
    }

    fn place(&mut self, _class: u32, table: &SlotTable, _rng: &mut Stream) -> Placement {
        // Only the last slot is ever overwritten, so it holds the newest row.
        Placement::Replace(table.len().saturating_sub(1) as u32)
    }

    fn state(&self) -> Vec<u64> {
        Vec::new()
    }

    fn restore(&mut self, state: &[u64], _table: &SlotTable) -> Result<(), StateError> {
        if state.is_empty() { Ok(()) } else { Err(StateError::length(state, 0)) }
    }

    /// The slot, which orders rows by age.
    fn order_key(&self, _shard: &SavedShard<'_>, slot: u32) -> u64 {
        u64::from(slot)
    }

    fn merge(&self, _saved: &[SavedShard<'_>], _table: &SlotTable, _shard: &ShardInfo) -> Vec<u64> {
        Vec::new()
    }
}
