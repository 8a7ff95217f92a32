//! Slot tables and policies against a plain model, operation by operation.

use burn_rehearsal::policy::{ClassBalanced, Fifo, Placement, Policy, RandomReplacement, Reservoir};
use burn_rehearsal::random::{Purpose, Stream};
use burn_rehearsal::{SlotTable, first_slot, shard_capacity};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Clone)]
enum Operation {
    /// Push if there is room, else replace the slot with this number (modulo the capacity).
    Store {
        slot: usize,
        class: u32,
        id: i64,
    },
    BeginTask(u32),
}

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    let store = (0usize..64, 0u32..7, 0i64..12).prop_map(|(slot, class, id)| Operation::Store { slot, class, id });
    proptest::collection::vec(prop_oneof![8 => store, 1 => (0u32..4).prop_map(Operation::BeginTask)], 1..120)
}

#[derive(Debug, Clone, PartialEq)]
struct Entry {
    class: u32,
    id: i64,
    task: u32,
    generation: u32,
    old: bool,
}

fn check(table: &SlotTable, model: &[Entry], capacity: usize, ever: &BTreeSet<u32>, has_id: bool) {
    assert_eq!((table.len(), table.is_empty(), table.is_full()), (model.len(), model.is_empty(), model.len() == capacity));
    let mut by_class = BTreeMap::<u32, BTreeSet<u32>>::new();
    for (slot, entry) in model.iter().enumerate() {
        let at = slot as u32;
        assert_eq!((table.class(at), table.task(at), table.generation(at)), (entry.class, entry.task, entry.generation));
        assert_eq!(table.id(at), has_id.then_some(entry.id));
        by_class.entry(entry.class).or_default().insert(at);
    }
    let bound = ever.last().map_or(0, |class| *class as usize + 1);
    assert_eq!((table.class_bound(), table.classes_seen()), (bound, ever.len()));
    let counts: Vec<usize> = table.per_class().collect();
    assert_eq!(counts.len(), bound);
    for class in 0..bound as u32 + 2 {
        let slots = table.of_class(class as usize);
        let set: BTreeSet<u32> = slots.iter().copied().collect();
        assert_eq!(set.len(), slots.len(), "a slot twice in a class");
        assert_eq!(set, by_class.remove(&class).unwrap_or_default());
        assert_eq!(counts.get(class as usize).copied().unwrap_or(0), slots.len());
    }
    let old: BTreeSet<u32> = (0..table.from_earlier_tasks()).map(|index| table.slot_from_earlier_task(index).unwrap()).collect();
    assert_eq!(old.len(), table.from_earlier_tasks(), "a slot twice among the old ones");
    assert_eq!(old, model.iter().zip(0..).filter(|(entry, _)| entry.old).map(|(_, slot)| slot).collect());
    assert_eq!(table.slot_from_earlier_task(table.from_earlier_tasks()), None);
    let ids: BTreeSet<i64> = if has_id { model.iter().map(|entry| entry.id).collect() } else { BTreeSet::new() };
    assert_eq!(table.distinct(), has_id.then_some(ids.len()));
    assert_eq!(table.distinct_ids().collect::<BTreeSet<_>>(), ids);
    assert!((0..12).all(|id| table.holds(id) == ids.contains(&id)));
}

/// The share of replaced slots that were predicted before the step, in `steps` steps of 14 candidates from these classes.
fn predicted(policy: &mut dyn Policy, classes: std::ops::Range<u32>, steps: u64) -> f64 {
    const CAPACITY: usize = 2000;
    let mut table = SlotTable::new(CAPACITY, false);
    for n in 0..CAPACITY {
        policy.begin(&[n as u32 % 10]);
        policy.offered(n as u32 % 10);
        table.push(n as u32 % 10, None);
    }
    let (mut right, mut all) = (0u32, 0u32);
    for step in 0..steps {
        let mut random = Stream::new(5, Purpose::Candidates, step, 0);
        let mut rng = Stream::new(5, Purpose::Evict, step, 0);
        let candidates: Vec<u32> = (0..14).map(|_| classes.start + random.below(classes.len() as u64) as u32).collect();
        let mut slots = Vec::new();
        policy.begin(&candidates);
        policy.predict_slots(&candidates, &table, rng.clone(), &mut slots);
        for &class in &candidates {
            policy.offered(class);
            let Placement::Replace(slot) = policy.place(class, &table, &mut rng) else { continue };
            table.replace(slot, class, None);
            right += u32::from(slots.contains(&slot));
            all += 1;
        }
    }
    f64::from(right) / f64::from(all)
}

#[test]
fn the_slots_that_candidates_will_take_are_guessed_right_as_a_rule() {
    // The classes keep their sizes, or those of a new task take what the others had borrowed, which takes some 14 steps.
    for classes in [Some(20), None] {
        let share = |policy: &dyn Fn() -> Box<dyn Policy>| {
            let (same, new) = (predicted(&mut *policy(), 0..10, 200), predicted(&mut *policy(), 10..12, 14));
            assert!(same > 0.9 && new > 0.6, "{classes:?}: right: {same:.2} and {new:.2}");
        };
        share(&|| Box::new(ClassBalanced::new(classes, 0)));
        share(&|| Box::new(RandomReplacement::new(classes, 0)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, rng_seed: RngSeed::Fixed(45), ..ProptestConfig::default() })]

    #[test]
    fn a_slot_table_agrees_with_a_vector_after_every_operation(capacity in 1usize..10, has_id: bool, operations in operations()) {
        let mut table = SlotTable::new(capacity, has_id);
        let mut model: Vec<Entry> = Vec::new();
        let (mut current, mut ever) = (0, BTreeSet::new());
        for operation in operations {
            match operation {
                Operation::BeginTask(task) => {
                    table.begin_task(task);
                    if task != current {
                        current = task;
                        model.iter_mut().for_each(|entry| entry.old = true);
                    }
                }
                Operation::Store { slot, class, id } => {
                    ever.insert(class);
                    let given = has_id.then_some(id);
                    if model.len() < capacity {
                        prop_assert_eq!(table.push(class, given) as usize, model.len());
                        model.push(Entry { class, id, task: current, generation: 0, old: false });
                    } else {
                        let slot = slot % capacity;
                        table.replace(slot as u32, class, given);
                        let generation = model[slot].generation + 1;
                        model[slot] = Entry { class, id, task: current, generation, old: false };
                    }
                }
            }
            check(&table, &model, capacity, &ever, has_id);
        }
    }

    #[test]
    fn a_class_grows_at_the_expense_of_the_largest_above_its_quota_and_otherwise_replaces_its_own_rows(
        capacity in 1usize..12,
        classes in 1usize..9,
        known: bool,
        first in 0usize..20,
        seed: u64,
        candidates in proptest::collection::vec((0u32..9, 1usize..8), 1..40),
    ) {
        let configured = known.then_some(classes);
        // Both policies have the same quotas: this one decides, and the other must agree on them.
        let (mut policy, mut random) = (ClassBalanced::new(configured, first), RandomReplacement::new(configured, first));
        let (mut table, mut other) = (SlotTable::new(capacity, false), SlotTable::new(capacity, false));
        let mut rng = Stream::new(seed, Purpose::Evict, 0, 0);
        let mut offered = vec![0usize; classes];
        for (class, times) in candidates {
            let class = class % classes as u32;
            policy.begin(&[class]);
            random.begin(&[class]);
            for _ in 0..times {
                offered[class as usize] += 1;
                policy.offered(class);
                random.offered(class);
                if !table.is_full() {
                    table.push(class, None);
                    other.push(class, None);
                    continue;
                }
                let counts: Vec<usize> = (0..classes).map(|class| table.of_class(class).len()).collect();
                let quotas: Vec<usize> = (0..classes).map(|class| policy.quota(class, capacity)).collect();
                let alone: Vec<usize> = (0..classes).filter(|&class| offered[class] > 0).map(|class| quotas[class]).collect();
                let shares: Vec<usize> = (0..classes).map(|class| policy.share(class, capacity)).collect();
                let reserved = quotas.iter().sum::<usize>();
                prop_assert!(reserved == capacity || !known && reserved < capacity, "quotas are the shard, if their number is known");
                prop_assert_eq!(shares.iter().sum::<usize>(), capacity, "shares are the shard");
                prop_assert!(alone.len() < classes || quotas == shares, "with all classes present both deals are one");
                let largest = (0..classes).filter(|&class| counts[class] > quotas[class]).map(|class| counts[class]).max();
                let own = class as usize;
                let must_grow = counts[own] < quotas[own] && largest.is_some();
                let victim = match policy.place(class, &table, &mut rng) {
                    Placement::Reject => {
                        prop_assert!(!must_grow, "a class below its quota must grow");
                        prop_assert!(counts[own] == 0 || offered[own] > counts[own], "every row so far is stored");
                        None
                    }
                    Placement::Replace(slot) => {
                        let victim = table.class(slot) as usize;
                        table.replace(slot, class, None);
                        Some(victim)
                    }
                };
                let Placement::Replace(slot) = random.place(class, &other, &mut rng) else {
                    prop_assert!(counts[own] == 0, "random replacement refuses only classes without a slot");
                    prop_assert_eq!(victim, None);
                    continue;
                };
                let grown = other.class(slot) as usize;
                other.replace(slot, class, None);
                prop_assert!(victim.is_none_or(|victim| victim == grown) && (victim.is_some() || grown == own));
                if grown != own {
                    prop_assert_eq!(Some(counts[grown]), largest, "counts {:?}, quotas {:?}, candidate {}", &counts, &quotas, own);
                    prop_assert!(counts[grown] > quotas[grown], "a row within its quota gave way");
                    let fairer = counts[own] < shares[own] && counts[grown] > shares[grown];
                    prop_assert!(must_grow || fairer || counts[own] + 1 < counts[grown], "for a class that is no smaller");
                } else {
                    prop_assert!(!must_grow, "a class below its quota must grow");
                    prop_assert!(largest.is_none_or(|largest| counts[own] + 1 >= largest), "a loan must move to a smaller class");
                }
            }
        }
        // A class that was offered at least its quota holds it, if the quotas were the same all along.
        if known && table.is_full() {
            for (class, &offered) in offered.iter().enumerate() {
                prop_assert!(table.of_class(class).len() >= policy.quota(class, capacity).min(offered));
            }
        }
    }

    #[test]
    fn shards_share_the_slots_without_gap_and_quotas_and_shares_of_all_shards_differ_by_at_most_one(
        size in 1usize..9,
        capacity in 1usize..60,
        present in proptest::collection::btree_set(0u32..40, 1..20),
        configured in 40usize..60,
    ) {
        prop_assume!(capacity >= size);
        let mut next = 0;
        let mut quotas = vec![0; configured];
        let mut shares = vec![0; configured];
        for rank in 0..size {
            prop_assert_eq!(first_slot(capacity, rank, size), next);
            let shard = shard_capacity(capacity, rank, size);
            next += shard;
            let mut policy = ClassBalanced::new(Some(configured), first_slot(capacity, rank, size));
            policy.begin(&present.iter().copied().collect::<Vec<_>>());
            let add = |totals: &mut Vec<usize>, of: &dyn Fn(usize) -> usize| {
                let own: Vec<usize> = (0..configured).map(of).collect();
                totals.iter_mut().zip(&own).for_each(|(total, own)| *total += own);
                own
            };
            let spread = |own: &mut dyn Iterator<Item = usize>| {
                let own: Vec<usize> = own.collect();
                own.iter().max().unwrap() - own.iter().min().unwrap()
            };
            let own = add(&mut quotas, &|class| policy.quota(class, shard));
            prop_assert!(own.iter().sum::<usize>() == shard && spread(&mut own.into_iter()) <= 1);
            let own = add(&mut shares, &|class| policy.share(class, shard));
            prop_assert_eq!(own.iter().sum::<usize>(), shard, "only classes present have shares");
            prop_assert!(spread(&mut present.iter().map(|&class| own[class as usize])) <= 1);
        }
        prop_assert_eq!(next, capacity);
        let of_present: Vec<usize> = present.iter().map(|&class| shares[class as usize]).collect();
        for (totals, classes) in [(&quotas, configured), (&of_present, present.len())] {
            prop_assert!(totals.iter().max().unwrap() - totals.iter().min().unwrap() <= 1);
            prop_assert!(capacity < classes || totals.iter().all(|&total| total > 0), "a class without a slot anywhere");
        }
    }

    #[test]
    fn fifo_replaces_the_oldest_and_a_reservoir_any_slot_or_none(capacity in 1usize..12, rows in 1usize..60, seed: u64) {
        let mut rng = Stream::new(seed, Purpose::Evict, 0, 0);
        let (mut fifo, mut reservoir) = (Fifo::default(), Reservoir::default());
        let mut table = SlotTable::new(capacity, true);
        let mut kept = Vec::new();
        for row in 0..rows as i64 {
            fifo.offered(0);
            reservoir.offered(0);
            kept.push(row);
            if !table.is_full() {
                table.push(0, Some(row));
                continue;
            }
            let oldest = kept.remove(0);
            match reservoir.place(0, &table, &mut rng) {
                Placement::Replace(slot) => prop_assert!((slot as usize) < capacity),
                Placement::Reject => prop_assert!(row as usize >= capacity),
            }
            let Placement::Replace(slot) = fifo.place(0, &table, &mut rng) else { return Err(TestCaseError::fail("a FIFO refuses nothing")) };
            prop_assert_eq!(table.id(slot), Some(oldest));
            table.replace(slot, 0, Some(row));
            let mut stored: Vec<i64> = table.distinct_ids().collect();
            stored.sort_unstable();
            prop_assert_eq!(&stored, &kept);
        }
    }
}
