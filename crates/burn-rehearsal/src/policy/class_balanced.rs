//! Class-balancing reservoir sampling: Chrysakis and Moens, "Online Continual Learning from
//! Imbalanced Data" (ICML 2020).

use super::quotas::{Quotas, class_of};
use super::{Placement, Policy, SavedShard, ShardInfo, StateError};
use crate::random::Stream;
use crate::slots::SlotTable;
use std::collections::BTreeMap;

/// Equal shares for all classes, and a reservoir within each class. The default.
///
/// A class grows into free slots, and into slots of classes above their quota. Otherwise a
/// candidate is accepted with probability *held* / *offered*: the rows of its class in this shard,
/// loans included, over the candidates of its class so far, this one included. It then replaces a
/// random row of its class.
///
/// # What it keeps
///
/// Per shard and class, the stored rows are a uniform subset of all rows *offered*, as long as the
/// class has not gained a slot since its first candidate was rejected or its first row replaced.
/// After that, newer rows are over-represented. A class can gain slots late if other classes have
/// too few rows to fill their quotas, if K² exceeds the slots of a shard and a new class moves the
/// remainder of the deal, and after a change of the world size.
///
/// * Class-incremental streams: equal shares for all classes seen so far.
/// * Domain-incremental streams, and batches without a class field: a plain reservoir, in which
///   every row of every task has the same chance.
/// * Several ranks: each shard is a sample of what its own rank was offered. A row that rank i was
///   offered is stored with probability (slots of its class in shard i) / (rows of its class
///   offered to rank i), so ranks that are offered fewer rows are over-represented in the union.
///   With [`ShardedLoader`](crate::ShardedLoader) the numbers differ by at most one row per epoch.
///
/// # Balance over ranks
///
/// In each shard, classes that were offered enough rows differ by at most one row. The same holds
/// for the union of all shards if every shard was offered the same classes, whatever their numbers.
/// Three cases can be less even, by up to one row per class and shard. The first two cannot occur
/// in a shard with at least K(K + 1) slots for K classes:
///
/// * Classes of earlier tasks cannot regain a row. If the share of such a class grows when the
///   remainder of the deal moves, it stays a row short in that shard. With
///   [`classes`](crate::RehearsalConfig::classes) configured, this ends when all of them are
///   present.
/// * While fewer classes are present than configured, the rows that are reserved for a class can
///   exceed its share.
/// * Shards that were offered different classes have different shares.
///
/// # Details
///
/// "Offered" means chosen as a candidate. With fewer candidates than rows, a row of a small
/// mini-batch is more likely to be offered than one of a large mini-batch. With
/// [`OnRepeat::SkipIfStored`](crate::OnRepeat::SkipIfStored), a row that is stored is not offered
/// again, and one that was rejected is. A class without a slot in a shard, because there are more
/// classes than slots, is not stored there unless another class lends it a slot.
#[derive(Debug, Default, Clone)]
pub struct ClassBalanced {
    quotas: Quotas,
    /// The candidates of each class so far.
    offered: Vec<u64>,
}

impl ClassBalanced {
    /// The rows of `class` that only its own candidates replace, in a shard of `capacity` slots.
    pub fn quota(&self, class: usize, capacity: usize) -> usize {
        self.quotas.quota(class, capacity)
    }

    /// The rows that `class` holds in a shard of `capacity` slots if all classes offered so far
    /// have enough rows.
    pub fn share(&self, class: usize, capacity: usize) -> usize {
        self.quotas.share(class, capacity)
    }
}

fn count_of(offered: &[u64], class: u32) -> u64 {
    offered.get(class as usize).copied().unwrap_or(0)
}

impl Policy for ClassBalanced {
    fn name(&self) -> &'static str {
        "class-balanced"
    }

    fn start(&mut self, shard: &ShardInfo) {
        self.quotas = Quotas::new(shard);
    }

    fn begin(&mut self, classes: &[u32]) {
        self.quotas.see(classes);
    }

    fn offered(&mut self, class: u32) {
        let at = class as usize;
        if at >= self.offered.len() {
            self.offered.resize(at + 1, 0);
        }
        self.offered[at] = self.offered[at].saturating_add(1);
    }

    fn place(&mut self, class: u32, table: &SlotTable, rng: &mut Stream) -> Placement {
        let (victims, bound) = match self.quotas.grow(class, table) {
            Some(largest) => (table.of_class(largest as usize), 0),
            None => (table.of_class(class as usize), count_of(&self.offered, class)),
        };
        if victims.is_empty() {
            return Placement::Reject;
        }
        // One number decides both whether the candidate is accepted and which row it replaces.
        let number = rng.below(bound.max(victims.len() as u64));
        victims.get(number as usize).map_or(Placement::Reject, |&slot| Placement::Replace(slot))
    }

    fn predict_slots(
        &mut self,
        classes: &[u32],
        table: &SlotTable,
        rng: Stream,
        slots: &mut Vec<u32>,
    ) {
        let Self { quotas, offered } = self;
        let bound = |candidate: usize, held: usize| {
            let class = classes[candidate];
            let before = classes[..candidate].iter().filter(|&&other| other == class).count();
            count_of(offered, class).saturating_add(before as u64 + 1).max(held as u64)
        };
        quotas.predict_slots(classes, table, rng, bound, slots);
    }

    fn state(&self) -> Vec<u64> {
        let mut state = self.quotas.state();
        let counters = self.offered.iter().enumerate().filter(|(_, count)| **count > 0);
        state.extend(counters.flat_map(|(class, &count)| [class as u64, count]));
        state
    }

    fn restore(&mut self, state: &[u64], table: &SlotTable) -> Result<(), StateError> {
        let (quotas, counters) = self.quotas.restored(state, table)?;
        let mut offered = vec![0; table.class_bound()];
        for pair in counters.chunks(2) {
            let &[class, count] = pair else { return Err(StateError::new("it ends too early")) };
            let class = class_of(class)
                .ok_or_else(|| StateError::new(format!("there is no class {class}")))?
                as usize;
            if class >= offered.len() {
                offered.resize(class + 1, 0);
            }
            offered[class] = count;
        }
        if let Some(class) =
            table.per_class().zip(&offered).position(|(rows, &offered)| rows as u64 > offered)
        {
            return Err(StateError::new(format!(
                "more rows of class {class} are stored than were offered"
            )));
        }
        *self = Self { quotas, offered };
        Ok(())
    }

    /// The ratio of rows held to rows offered stays the same for every class: n′ = max(m′,
    /// ⌈n·m′/m⌉).
    fn merge(&self, saved: &[SavedShard<'_>], table: &SlotTable, shard: &ShardInfo) -> Vec<u64> {
        let mut offered: BTreeMap<u32, u64> = BTreeMap::new();
        for quotas in saved.iter().filter_map(|shard| Quotas::split(shard.state)) {
            let present = quotas.present.iter().map(|&class| [class, 0]);
            for [class, count] in present.chain(quotas.rest.as_chunks::<2>().0.iter().copied()) {
                let Some(class) = class_of(class) else { continue };
                let sum = offered.entry(class).or_default();
                *sum = sum.saturating_add(count);
            }
        }
        let mut state = Quotas::fresh_state(&offered.keys().copied().collect());
        for (class, all) in offered {
            let rows = |table: &SlotTable| table.of_class(class as usize).len() as u64;
            let (own, before) =
                (rows(table), saved.iter().map(|shard| rows(shard.table)).sum::<u64>());
            let scaled = match before {
                // No row to keep the ratio of: the candidates are dealt evenly.
                0 => all.div_ceil(shard.world_size as u64),
                before => {
                    u64::try_from((u128::from(all) * u128::from(own)).div_ceil(u128::from(before)))
                        .unwrap_or(u64::MAX)
                }
            };
            state.extend([u64::from(class), scaled.max(own)]);
        }
        state
    }
}
