//! Property tests of whole buffers: after every step of a random run, with recurring tasks,
//! repeated samples and late classes, the contents must satisfy a simple model.

use burn_rehearsal::policy::{ClassBalanced, Policy, ShardInfo};
use burn_rehearsal::{OnRepeat, PolicyKind};
use burn_rehearsal_testing::{CLASS, assert_augmented, batch, buffer, config, world};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

const CLASSES: usize = 5;

/// One step: the task, and each rank's samples as (class, number of the sample in its class).
type Step = (usize, Vec<Vec<(i64, i64)>>);

fn runs(ranks: usize) -> impl Strategy<Value = Vec<Step>> {
    // There are few samples, so that many are repeated. As in a sharded data set, different ranks
    // have different IDs.
    let rows = || proptest::collection::vec((0..CLASSES as i64, 0..7i64), 1..6);
    let step = (0..3usize, proptest::collection::vec(rows(), ranks));
    proptest::collection::vec(step, 1..25)
}

/// A stored row in the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stored {
    id: i64,
    class: usize,
    task: usize,
}

/// The model of a shard.
struct Shard {
    policy: PolicyKind,
    skip: bool,
    info: ShardInfo,
    rows: Vec<Stored>,
    /// The oldest slot of a full FIFO shard.
    oldest: usize,
}

impl Shard {
    /// Checks the contents of a shard after rows were `offered` in `task`, and keeps them.
    fn check(&mut self, offered: &[i64], task: usize, now: Vec<Stored>) {
        assert!(now.len() <= self.info.capacity, "the shard exceeds its capacity");
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
                "{row:?} was neither stored nor offered"
            );
        }
        assert!(now.len() >= self.rows.len(), "a row was removed without a replacement");
        match self.policy {
            PolicyKind::Fifo => assert_eq!(now, self.first_in_first_out(&candidates)),
            _ => self.fills_before_it_replaces(&candidates, &now),
        }
        if matches!(self.policy, PolicyKind::ClassBalanced | PolicyKind::RandomReplacement) {
            self.keeps_quotas(&candidates, &now);
        }
        self.rows = now;
    }

    /// The exact contents of a FIFO shard.
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

    /// Candidates are stored in order until the shard is full.
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
            assert_eq!(now, expected, "no row may be replaced before the shard is full");
        }
    }

    /// A class below its quota loses no row, and lent slots are returned on demand.
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

fn check_run(policy: PolicyKind, skip: bool, ranks: usize, capacity: usize, steps: &[Step]) {
    let on_repeat = if skip { OnRepeat::SkipIfStored } else { OnRepeat::KeepBoth };
    // Every row is a candidate, and draws see the rows of the same step.
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
    #![proptest_config(ProptestConfig {
        cases: 40,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(46),
        ..ProptestConfig::default()
    })]

    #[test]
    fn every_policy_satisfies_the_model_on_any_number_of_ranks(
        policy in proptest::sample::select(PolicyKind::ALL),
        skip: bool,
        capacity in 4usize..26,
        (ranks, steps) in (1usize..4).prop_flat_map(|ranks| (Just(ranks), runs(ranks))),
    ) {
        check_run(policy, skip, ranks, capacity, &steps);
    }
}
