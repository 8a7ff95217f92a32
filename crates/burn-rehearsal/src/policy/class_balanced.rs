//! Class-balancing reservoir sampling.

use super::quotas::{Quotas, class_of};
use super::{Placement, Policy, SavedShard, ShardInfo, StateError};
use crate::random::Stream;
use crate::slots::SlotTable;
use std::collections::BTreeMap;

/// Equal shares for all classes, and reservoir sampling within each class. The default.
///
/// Source: Chrysakis and Moens, "Online Continual Learning from Imbalanced Data" (ICML 2020).
///
/// A class grows into free slots, and into slots of classes above their quota. Otherwise, a
/// candidate is accepted with probability *held* / *offered*, and replaces a random row of its
/// class. *Held* is the number of rows of the class in this shard, including borrowed slots.
/// *Offered* is the number of candidates of the class so far, including this one.
///
/// # What the buffer holds
///
/// The stored rows of a class in a shard are a uniform sample of its *offered* rows, as long as the
/// class has not gained a slot since its first candidate was rejected or its first row was
/// replaced. After that, newer rows are over-represented. A class can gain a slot late in three
/// cases: other classes have too few rows to fill their quotas; K² is larger than the number of
/// slots in a shard and a new class changes the remainder of the division; or the number of ranks
/// changes.
///
/// * Class-incremental streams: equal shares for all classes seen so far.
/// * Domain-incremental streams, and batches without a `class` field: plain reservoir sampling.
///   Every row of every task has the same probability of being stored.
/// * Several ranks: each shard is a sample of the rows offered to its own rank. Rank i stores an
///   offered row with probability (slots of the class in shard i) / (rows of the class offered to
///   rank i), so ranks that are offered fewer rows are over-represented in the union. With
///   [`ShardedLoader`](crate::ShardedLoader), these numbers of rows differ by at most one per
///   epoch.
///
/// # Balance over ranks
///
/// In each shard, the numbers of rows of classes that were offered enough rows differ by at most
/// one. The same holds for the union of all shards if every shard was offered the same classes. In
/// three cases, the difference can be larger by up to one row per class and shard. The first two
/// cannot occur in shards with at least K(K + 1) slots for K classes:
///
/// * Classes of earlier tasks cannot regain a row. If the share of such a class grows because the
///   remainder of the division moves, the class stays one row short in that shard. If
///   [`classes`](crate::RehearsalConfig::classes) is configured, this ends when all classes are
///   present.
/// * While fewer classes are present than configured, the quota of a class can be larger than its
///   share.
/// * Shards that were offered different classes have different shares.
///
/// # Details
///
/// A row is offered if it is chosen as a candidate. With fewer candidates than rows, a row of a
/// small mini-batch is more likely to be offered than a row of a large one. With
/// [`OnRepeat::SkipIfStored`](crate::OnRepeat::SkipIfStored), a stored row is not offered again,
/// and a rejected row is. If there are more classes than slots, a class without a slot in a shard
/// is stored there only in slots lent by other classes.
#[derive(Debug, Default, Clone)]
pub struct ClassBalanced {
    quotas: Quotas,
    /// The number of candidates of each class so far.
    offered: Vec<u64>,
}

impl ClassBalanced {
    /// The number of rows of `class` that only candidates of the same class can replace, in a shard
    /// of `capacity` slots.
    pub fn quota(&self, class: usize, capacity: usize) -> usize {
        self.quotas.quota(class, capacity)
    }

    /// The number of rows that `class` holds in a shard of `capacity` slots if all classes offered
    /// so far have enough rows.
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
        // One number decides whether the candidate is accepted, and which row it replaces.
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

    /// Keeps the ratio of held rows m to offered rows n for every class: n′ = max(m′, ⌈n·m′/m⌉).
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
                // Without a stored row there is no ratio: the count is divided evenly.
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
