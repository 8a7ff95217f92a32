//! Compares policies with simple models, candidate by candidate.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::random::Purpose;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use statrs::distribution::{ChiSquared, ContinuousCDF};
use std::collections::BTreeMap;

/// A policy for a shard with this first slot and number of classes.
fn started<P: Policy + Default>(classes: Option<usize>, first_slot: usize) -> P {
    let mut policy = P::default();
    policy.start(&ShardInfo { rank: 0, world_size: 1, capacity: 0, first_slot, classes });
    policy
}

/// The share of replaced slots that were predicted, in `steps` steps of 14 candidates of these
/// classes.
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
        let candidates: Vec<u32> =
            (0..14).map(|_| classes.start + random.below(classes.len() as u64) as u32).collect();
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
fn most_replaced_slots_are_predicted() {
    // Either the classes keep their sizes, or the classes of a new task take slots that others had
    // borrowed, which takes about 14 steps.
    for classes in [Some(20), None] {
        let share = |policy: &dyn Fn() -> Box<dyn Policy>| {
            let (same, new) =
                (predicted(&mut *policy(), 0..10, 200), predicted(&mut *policy(), 10..12, 14));
            assert!(same > 0.9 && new > 0.6, "{classes:?}: predicted {same:.2} and {new:.2}");
        };
        share(&|| Box::new(started::<ClassBalanced>(classes, 0)));
        share(&|| Box::new(started::<RandomReplacement>(classes, 0)));
    }
}

/// The ids of each class in a shard of `capacity` slots, after these (class, id) were offered.
fn stored(
    seed: u64,
    capacity: usize,
    offered: impl IntoIterator<Item = (u32, i64)>,
) -> BTreeMap<u32, Vec<i64>> {
    let mut policy: ClassBalanced = started(None, 0);
    let mut table = SlotTable::new(capacity, true);
    for (step, (class, id)) in offered.into_iter().enumerate() {
        let mut rng = Stream::new(seed, Purpose::Evict, step as u64, 0);
        policy.begin(&[class]);
        policy.offered(class);
        if !table.is_full() {
            table.push(class, Some(id));
        } else if let Placement::Replace(slot) = policy.place(class, &table, &mut rng) {
            table.replace(slot, class, Some(id));
        }
    }
    let mut ids: BTreeMap<u32, Vec<i64>> = BTreeMap::new();
    for slot in 0..table.len() as u32 {
        ids.entry(table.class(slot)).or_default().extend(table.id(slot));
    }
    ids.values_mut().for_each(|ids| ids.sort_unstable());
    ids
}

fn binomial(n: u64, k: u64) -> u64 {
    (0..k).fold(1, |product, i| product * (n - i) / (i + 1))
}

/// Fails unless all subsets of `held` rows of `class`, among the rows 0..offered, are equally
/// frequent over the seeds.
fn assert_every_subset(
    stream: impl Fn() -> Vec<(u32, i64)>,
    capacity: usize,
    class: u32,
    offered: u64,
    held: u64,
) {
    let subsets = binomial(offered, held);
    let trials = 60 * subsets;
    let mut counts: BTreeMap<Vec<i64>, u64> = BTreeMap::new();
    for seed in 0..trials {
        let ids = stored(seed, capacity, stream()).remove(&class).unwrap();
        assert_eq!(ids.len() as u64, held, "class {class}");
        *counts.entry(ids).or_default() += 1;
    }
    let statistic: f64 = (counts.values().map(|&n| (n as f64 - 60.0).powi(2) / 60.0).sum::<f64>())
        + (subsets - counts.len() as u64) as f64 * 60.0;
    let p = ChiSquared::new(subsets as f64 - 1.0).unwrap().sf(statistic);
    assert!(p > 1e-3, "class {class}: p = {p:e} over {subsets} subsets: {counts:?}");
}

fn rows(class: u32, ids: std::ops::Range<i64>) -> Vec<(u32, i64)> {
    ids.map(|id| (class, id)).collect()
}

#[test]
fn a_class_that_fills_its_share_keeps_a_uniform_subset() {
    // A single class is a plain reservoir.
    assert_every_subset(|| rows(0, 0..7), 3, 0, 7, 3);
    // Two alternating classes have three slots each.
    let in_turn = || (0..7).flat_map(|id| [(0, id), (1, id)]).collect::<Vec<_>>();
    assert_every_subset(in_turn, 6, 0, 7, 3);
    assert_every_subset(in_turn, 6, 1, 7, 3);
}

#[test]
fn a_class_that_shrinks_for_a_later_one_stays_uniform() {
    let late = || [rows(0, 0..9), rows(4, 0..7)].concat();
    assert_every_subset(late, 6, 0, 9, 3);
    assert_every_subset(late, 6, 4, 7, 3);
}

#[test]
fn returned_loans_leave_uniform_subsets() {
    // Class 1 has a single row at first, and its two other slots are lent.
    let stream =
        || [rows(1, 0..1), rows(0, 0..6), rows(2, 0..6), rows(1, 1..6), rows(0, 6..8)].concat();
    assert_every_subset(stream, 6, 0, 8, 2);
    assert_every_subset(stream, 6, 1, 6, 2);
    assert_every_subset(stream, 6, 2, 6, 2);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, rng_seed: RngSeed::Fixed(45), ..ProptestConfig::default() })]

    #[test]
    fn a_class_takes_slots_only_from_the_largest_above_quota(
        capacity in 1usize..12,
        classes in 1usize..9,
        known: bool,
        first in 0usize..20,
        seed: u64,
        candidates in proptest::collection::vec((0u32..9, 1usize..8), 1..40),
    ) {
        let configured = known.then_some(classes);
        // Both policies have the same quotas, so they must agree.
        let (mut policy, mut random): (ClassBalanced, RandomReplacement) = (started(configured, first), started(configured, first));
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
                prop_assert!(reserved == capacity || !known && reserved < capacity, "known quotas add up to the shard");
                prop_assert_eq!(shares.iter().sum::<usize>(), capacity, "shares add up to the shard");
                prop_assert!(alone.len() < classes || quotas == shares, "with all classes present, quotas are shares");
                let largest = (0..classes).filter(|&class| counts[class] > quotas[class]).map(|class| counts[class]).max();
                let own = class as usize;
                let must_grow = counts[own] < quotas[own] && largest.is_some();
                let victim = match policy.place(class, &table, &mut rng) {
                    Placement::Reject => {
                        prop_assert!(!must_grow, "a class below its quota must grow");
                        prop_assert!(counts[own] == 0 || offered[own] > counts[own], "a candidate is refused although every row so far is stored");
                        None
                    }
                    Placement::Replace(slot) => {
                        let victim = table.class(slot) as usize;
                        table.replace(slot, class, None);
                        Some(victim)
                    }
                };
                let Placement::Replace(slot) = random.place(class, &other, &mut rng) else {
                    prop_assert!(counts[own] == 0, "random replacement rejects only classes without a slot");
                    prop_assert_eq!(victim, None);
                    continue;
                };
                let grown = other.class(slot) as usize;
                other.replace(slot, class, None);
                prop_assert!(victim.is_none_or(|victim| victim == grown) && (victim.is_some() || grown == own));
                if grown != own {
                    prop_assert_eq!(Some(counts[grown]), largest, "counts {:?}, quotas {:?}, candidate {}", &counts, &quotas, own);
                    prop_assert!(counts[grown] > quotas[grown], "a row within its quota was replaced");
                    let fairer = counts[own] < shares[own] && counts[grown] > shares[grown];
                    prop_assert!(must_grow || fairer || counts[own] + 1 < counts[grown], "a class gave a row to a class that is not smaller");
                } else {
                    prop_assert!(!must_grow, "a class below its quota must grow");
                    prop_assert!(largest.is_none_or(|largest| counts[own] + 1 >= largest), "a loan must move to a smaller class");
                }
            }
        }
        // With constant quotas, a class that was offered enough rows holds its quota.
        if known && table.is_full() {
            for (class, &offered) in offered.iter().enumerate() {
                prop_assert!(table.of_class(class).len() >= policy.quota(class, capacity).min(offered));
            }
        }
    }

    #[test]
    fn slots_are_dealt_evenly_over_shards_and_classes(
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
            let info = ShardInfo::new(capacity, rank, size, Some(configured));
            let shard = info.capacity;
            prop_assert_eq!(info.first_slot, next);
            next += shard;
            let mut policy = ClassBalanced::default();
            policy.start(&info);
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
            prop_assert!(capacity < classes || totals.iter().all(|&total| total > 0), "a class has no slot in any shard");
        }
    }

    #[test]
    fn fifo_lifo_and_reservoir_replace_the_right_rows(capacity in 1usize..12, rows in 1usize..60, seed: u64) {
        let mut rng = Stream::new(seed, Purpose::Evict, 0, 0);
        let (mut fifo, mut reservoir) = (Fifo::default(), Reservoir::default());
        let (mut table, mut stack) = (SlotTable::new(capacity, true), SlotTable::new(capacity, true));
        let mut kept = Vec::new();
        for row in 0..rows as i64 {
            fifo.offered(0);
            reservoir.offered(0);
            kept.push(row);
            if !table.is_full() {
                table.push(0, Some(row));
                stack.push(0, Some(row));
                continue;
            }
            let Placement::Replace(top) = Lifo.place(0, &stack, &mut rng) else { return Err(TestCaseError::fail("a LIFO rejects nothing")) };
            prop_assert_eq!(stack.id(top), Some(row - 1));
            stack.replace(top, 0, Some(row));
            let oldest = kept.remove(0);
            match reservoir.place(0, &table, &mut rng) {
                Placement::Replace(slot) => prop_assert!((slot as usize) < capacity),
                Placement::Reject => prop_assert!(row as usize >= capacity),
            }
            let Placement::Replace(slot) = fifo.place(0, &table, &mut rng) else { return Err(TestCaseError::fail("a FIFO rejects nothing")) };
            prop_assert_eq!(table.id(slot), Some(oldest));
            table.replace(slot, 0, Some(row));
            let mut stored: Vec<i64> = table.distinct_ids().collect();
            stored.sort_unstable();
            prop_assert_eq!(&stored, &kept);
        }
    }
}
