//! Whole buffers against a plain model, after every step of random lives: tasks that come and go,
//! samples that come again, classes that appear late.

use burn_rehearsal::policy::{ClassBalanced, Policy, ShardInfo};
use burn_rehearsal::{OnRepeat, PolicyKind};
use burn_rehearsal_testing::{CLASS, assert_augmented, batch, buffer, config, world};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

const CLASSES: usize = 5;

/// One step: the task, and every rank's samples, as (class, number of the sample in its class).
type Step = (usize, Vec<Vec<(i64, i64)>>);

fn lives(ranks: usize) -> impl Strategy<Value = Vec<Step>> {
    // Few samples, so that many come again; ids of different ranks differ, as those of parts of a
    // data set do.
    let rows = || proptest::collection::vec((0..CLASSES as i64, 0..7i64), 1..6);
    let step = (0..3usize, proptest::collection::vec(rows(), ranks));
    proptest::collection::vec(step, 1..25)
}

/// A stored row, as the model knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stored {
    id: i64,
    class: usize,
    task: usize,
}

/// What the next step of a shard must keep to.
struct Shard {
    policy: PolicyKind,
    skip: bool,
    info: ShardInfo,
    rows: Vec<Stored>,
    /// The oldest slot of a full ring.
    oldest: usize,
}

impl Shard {
    /// Compares what a shard holds after `offered` in `task` with what it held before, and
    /// remembers it.
    fn check(&mut self, offered: &[i64], task: usize, now: Vec<Stored>) {
        assert!(now.len() <= self.info.capacity, "more than its capacity");
        let candidates: Vec<Stored> =
            offered.iter().map(|&id| Stored { id, class: (id / CLASS) as usize, task }).collect();
        let holds = |rows: &[Stored], id: i64| rows.iter().any(|row| row.id == id);
        if self.skip {
            assert!(
                now.iter().enumerate().all(|(slot, row)| !holds(&now[..slot], row.id)),
                "a sample is stored twice: {now:?}"
            );
        }
        for (slot, row) in now.iter().enumerate() {
            assert!(
                self.rows.get(slot) == Some(row) || candidates.contains(row),
                "{row:?} comes from nowhere"
            );
        }
        assert!(now.len() >= self.rows.len(), "a row vanished");
        match self.policy {
            PolicyKind::Fifo => assert_eq!(now, self.first_in_first_out(&candidates)),
            _ => self.fills_before_it_replaces(&candidates, &now),
        }
        if matches!(self.policy, PolicyKind::ClassBalanced | PolicyKind::RandomReplacement) {
            self.keeps_quotas(&candidates, &now);
        }
        self.rows = now;
    }

    /// Exactly what a ring holds next.
    fn first_in_first_out(&mut self, candidates: &[Stored]) -> Vec<Stored> {
        let mut rows = self.rows.clone();
        for candidate in candidates {
            if self.skip && rows.iter().any(|row| row.id == candidate.id) {
                continue;
            }
            if rows.len() < self.info.capacity {
                rows.push(*candidate);
            } else {
                rows[self.oldest] = *candidate;
                self.oldest = (self.oldest + 1) % self.info.capacity;
            }
        }
        rows
    }

    /// As long as there is room, everything that may be stored is, in order.
    fn fills_before_it_replaces(&self, candidates: &[Stored], now: &[Stored]) {
        let mut expected = self.rows.clone();
        for candidate in candidates {
            if expected.len() < self.info.capacity
                && !(self.skip && expected.iter().any(|row| row.id == candidate.id))
            {
                expected.push(*candidate);
            }
        }
        assert_eq!(now.len(), expected.len());
        if expected.len() < self.info.capacity {
            assert_eq!(now, expected, "nothing gives way while there is room");
        }
    }

    /// A class that holds less than its quota loses nothing, and what is lent is given back to
    /// whoever comes for it.
    fn keeps_quotas(&self, candidates: &[Stored], now: &[Stored]) {
        let mut quotas = ClassBalanced::default();
        quotas.start(&self.info);
        let count =
            |rows: &[Stored], class: usize| rows.iter().filter(|row| row.class == class).count();
        for class in 0..CLASSES {
            let quota = quotas.quota(class, self.info.capacity);
            let mut new: Vec<i64> =
                candidates.iter().filter(|row| row.class == class).map(|row| row.id).collect();
            if self.skip {
                new.retain(|id| !self.rows.iter().any(|row| row.id == *id));
                new.sort_unstable();
                new.dedup();
            }
            let (before, after) = (count(&self.rows, class), count(now, class));
            assert!(
                after >= quota.min(before + new.len()),
                "class {class}: {before} rows, {} offered, then {after}; quota {quota}",
                new.len()
            );
        }
        let spread: Vec<usize> =
            (0..CLASSES).map(|class| quotas.quota(class, self.info.capacity)).collect();
        assert!(
            spread.iter().sum::<usize>() == self.info.capacity
                && spread.iter().max().unwrap() - spread.iter().min().unwrap() <= 1
        );
    }
}

fn live(policy: PolicyKind, skip: bool, ranks: usize, capacity: usize, steps: &[Step]) {
    let on_repeat = if skip { OnRepeat::SkipIfStored } else { OnRepeat::KeepBoth };
    // Every row is a candidate, and what is drawn is what was just inserted.
    let config = config(capacity, 6, 4)
        .with_policy(policy)
        .with_on_repeat(on_repeat)
        .with_classes(Some(CLASSES))
        .with_lag(0);
    world(ranks, |threads| {
        let (rank, size) = (threads.rank(), threads.size());
        let mut model = Shard {
            policy,
            skip,
            info: ShardInfo::new(capacity, rank, size, Some(CLASSES)),
            rows: Vec::new(),
            oldest: 0,
        };
        let buffer = buffer(&config, threads);
        for (task, rows) in steps {
            buffer.begin_task(*task).unwrap();
            let ids: Vec<i64> = rows[rank]
                .iter()
                .map(|(class, sample)| class * CLASS + rank as i64 * 10 + sample)
                .collect();
            let drawn = assert_augmented(&ids, &buffer.rehearse(batch(&ids)).unwrap());
            let report = buffer.report().unwrap();
            assert!(report.len <= capacity && report.capacity == capacity);
            assert_eq!(drawn.len(), report.len.min(4), "exactly min(r, stored) are drawn");
            let snapshot = buffer.snapshot().unwrap();
            let stored = snapshot.samples().iter().map(|row| Stored {
                id: row.id.unwrap(),
                class: row.class,
                task: row.task,
            });
            model.check(&ids, *task, stored.collect());
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, rng_seed: RngSeed::Fixed(46), ..ProptestConfig::default() })]

    #[test]
    fn every_policy_keeps_to_its_model_on_any_number_of_ranks(
        policy in proptest::sample::select(PolicyKind::ALL),
        skip: bool,
        capacity in 4usize..26,
        (ranks, steps) in (1usize..4).prop_flat_map(|ranks| (Just(ranks), lives(ranks))),
    ) {
        live(policy, skip, ranks, capacity, &steps);
    }
}
