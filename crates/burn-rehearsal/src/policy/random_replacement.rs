//! Random replacement within class quotas.

use super::quotas::{Quotas, class_of};
use super::{Placement, Policy, SavedShard, ShardInfo, StateError};
use crate::random::Stream;
use crate::slots::SlotTable;

/// Equal shares for all classes. Every candidate replaces a random row.
///
/// The policy of Bouvier et al., "Efficient Data-Parallel Continual Learning with Asynchronous
/// Distributed Rehearsal Buffers" (CCGrid 2024). Class quotas are those of
/// [`ClassBalanced`](super::ClassBalanced). Once a class holds its share, every further candidate
/// of the class replaces a random row of it, so older rows decay exponentially.
///
/// * Class-incremental streams: all classes have equal shares. Within a class, most rows are from
///   its last epoch. Rows of a class that is no longer offered stay.
/// * Domain-incremental streams, and batches without a `class` field: almost only rows of the last
///   task remain. Use [`ClassBalanced`](super::ClassBalanced) there.
#[derive(Debug, Default, Clone)]
pub struct RandomReplacement(Quotas);

impl Policy for RandomReplacement {
    fn name(&self) -> &'static str {
        "random-replacement"
    }

    fn start(&mut self, shard: &ShardInfo) {
        self.0 = Quotas::new(shard);
    }

    fn begin(&mut self, classes: &[u32]) {
        self.0.see(classes);
    }

    fn place(&mut self, class: u32, table: &SlotTable, rng: &mut Stream) -> Placement {
        let victims = table.of_class(self.0.grow(class, table).unwrap_or(class) as usize);
        match victims.len() {
            0 => Placement::Reject,
            n => Placement::Replace(victims[rng.below(n as u64) as usize]),
        }
    }

    fn predict_slots(
        &mut self,
        classes: &[u32],
        table: &SlotTable,
        rng: Stream,
        slots: &mut Vec<u32>,
    ) {
        self.0.predict_slots(classes, table, rng, |_, held| held as u64, slots);
    }

    fn state(&self) -> Vec<u64> {
        self.0.state()
    }

    fn restore(&mut self, state: &[u64], table: &SlotTable) -> Result<(), StateError> {
        let (quotas, rest) = self.0.restored(state, table)?;
        if !rest.is_empty() {
            return Err(StateError::length(state, state.len() - rest.len()));
        }
        self.0 = quotas;
        Ok(())
    }

    fn merge(&self, saved: &[SavedShard<'_>], _table: &SlotTable, _shard: &ShardInfo) -> Vec<u64> {
        let states = saved.iter().filter_map(|shard| Quotas::split(shard.state));
        let present = states.flat_map(|quotas| quotas.present).filter_map(|&class| class_of(class));
        Quotas::fresh_state(&present.collect())
    }
}
