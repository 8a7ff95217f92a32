//! Reservoir sampling.

use super::{Placement, Policy, SavedShard, ShardInfo, StateError};
use crate::random::Stream;
use crate::slots::SlotTable;

/// Reservoir sampling: after n offered rows, each is stored with probability capacity / n.
///
/// Each shard holds a uniform sample of all rows that it was offered, in every kind of stream.
/// Classes have the same shares as in the stream so far. Source: Vitter, "Random Sampling with a
/// Reservoir" (ACM TOMS 1985), algorithm R.
#[derive(Debug, Default, Clone)]
pub struct Reservoir {
    offered: u64,
}

impl Policy for Reservoir {
    fn name(&self) -> &'static str {
        "reservoir"
    }

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

    fn restore(&mut self, state: &[u64], table: &SlotTable) -> Result<(), StateError> {
        let &[offered] = state else { return Err(StateError::length(state, 1)) };
        if offered < table.len() as u64 {
            return Err(StateError::new(format!(
                "{} rows are stored, but only {offered} were offered",
                table.len()
            )));
        }
        self.offered = offered;
        Ok(())
    }

    /// Divides the number of offered rows evenly, like the stored rows.
    fn merge(&self, saved: &[SavedShard<'_>], _table: &SlotTable, shard: &ShardInfo) -> Vec<u64> {
        let offered = saved
            .iter()
            .filter_map(|shard| shard.state.first().copied())
            .fold(0, u64::saturating_add);
        vec![shard.part_of(offered)]
    }
}
