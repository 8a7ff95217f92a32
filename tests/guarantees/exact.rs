//! Guarantee 3 of docs/ARCHITECTURE.md: exactly min(c, rows) candidates of each mini-batch. Also
//! the handling of repeated samples.

use burn_rehearsal::random::{Purpose, Stream};
use burn_rehearsal::{
    CandidateMode, Capacity, Execution, OnRepeat, PolicyKind, RehearsalBuffer, RehearsalConfig,
};
use burn_rehearsal_testing::{
    CLASS, Mixed, assert_augmented, batch, buffer, config, fresh, stored_ids, uniform_p, world,
};
use std::collections::BTreeMap;

#[test]
fn exactly_min_c_rows_candidates_are_stored_without_repetition() {
    for size in [1, 3] {
        world(size, |threads| {
            let buffer = buffer(&config(1000, 4, 2), threads);
            let mut expected = 0;
            let mut offered = Vec::new();
            for step in 0..30 {
                let rows = 1 + (step * 3 + buffer.rank()) % 9;
                let ids = fresh(1, buffer.rank(), step, rows, 4);
                offered.extend_from_slice(&ids);
                buffer.rehearse(batch(&ids)).unwrap();
                expected += rows.min(4);
                assert_eq!(buffer.inspect().unwrap().len, expected, "step {step}");
            }
            let mut stored = stored_ids(&buffer);
            assert!(stored.iter().all(|id| offered.contains(id)));
            stored.sort_unstable();
            stored.dedup();
            assert_eq!(stored.len(), expected, "a row was offered twice");
        });
    }
}

#[test]
fn all_rows_are_equally_likely_to_be_candidates() {
    for mode in [CandidateMode::Exact, CandidateMode::Bernoulli] {
        let config = config(10_000, 3, 1)
            .with_candidate_mode(mode)
            .with_seed(4)
            .with_execution(Execution::Inline);
        let buffer: RehearsalBuffer<Mixed> = config.init().unwrap();
        let steps = 2000;
        for step in 0..steps {
            buffer
                .rehearse(batch(&(0..10).map(|row| row * CLASS + step).collect::<Vec<_>>()))
                .unwrap();
        }
        let counts: Vec<u64> =
            buffer.inspect().unwrap().per_class.iter().map(|&n| n as u64).collect();
        let total: u64 = counts.iter().sum();
        if mode == CandidateMode::Exact {
            assert_eq!(total, 3 * steps as u64);
            assert!(uniform_p(&counts, steps as u64, 3) > 1e-3, "{counts:?}");
        } else {
            // 20,000 trials of probability 0.3.
            let z = (total as f64 - 6000.0) / (20_000.0f64 * 0.3 * 0.7).sqrt();
            assert!(z.abs() < 3.5, "{total} candidates, expected 6000: z = {z:.1}");
            assert!(uniform_p(&counts, total, 1) > 1e-3, "{counts:?}");
        }
    }
}

#[test]
fn bernoulli_candidates_vary_and_may_be_absent_in_a_step() {
    let config = config(10_000, 1, 1).with_candidate_mode(CandidateMode::Bernoulli);
    let buffer: RehearsalBuffer<Mixed> = config.init().unwrap();
    let mut taken = BTreeMap::new();
    let mut before = 0;
    for step in 0..300 {
        buffer.rehearse(batch(&fresh(0, 0, step, 5, 3))).unwrap();
        let len = buffer.inspect().unwrap().len;
        *taken.entry(len - before).or_insert(0) += 1;
        before = len;
    }
    // Binomial(5, 1/5): 33 % none, 41 % one, 20 % two.
    assert!(taken[&0] > 70 && taken[&0] < 130 && taken[&1] > 90 && taken[&2] > 35, "{taken:?}");
}

#[test]
fn only_keep_both_stores_a_sample_again_in_later_epochs() {
    for size in [1, 2] {
        for (on_repeat, len) in [(OnRepeat::KeepBoth, 150), (OnRepeat::SkipIfStored, 30)] {
            world(size, |threads| {
                let buffer = buffer(&config(1000, 5, 2).with_on_repeat(on_repeat), threads);
                let rank = buffer.rank() as i64;
                for _ in 0..5 {
                    for step in 0..6 {
                        buffer
                            .rehearse(batch(
                                &(0..5).map(|row| rank * 100 + step * 5 + row).collect::<Vec<_>>(),
                            ))
                            .unwrap();
                    }
                }
                let inspection = buffer.inspect().unwrap();
                assert_eq!((inspection.len, inspection.distinct), (len, Some(30)));
                let report = buffer.report().unwrap();
                assert_eq!((report.len, report.distinct), (len * size, Some(30 * size)));
            });
        }
    }
}

#[test]
fn repetitions_within_a_mini_batch_and_between_ranks_count_once() {
    let skip = config(100, 6, 2).with_on_repeat(OnRepeat::SkipIfStored);
    for report in world(2, |threads| {
        let buffer = buffer(&skip, threads);
        buffer.rehearse(batch(&[7, 7, 8, 7, 8])).unwrap();
        assert_eq!(buffer.inspect().unwrap().len, 2);
        buffer.report().unwrap()
    }) {
        assert_eq!((report.len, report.distinct), (4, Some(2)));
    }
}

#[test]
fn skip_if_stored_stores_an_evicted_sample_again() {
    let config =
        config(4, 4, 1).with_policy(PolicyKind::Fifo).with_on_repeat(OnRepeat::SkipIfStored);
    let buffer: RehearsalBuffer<Mixed> = config.init().unwrap();
    // In the last mini-batch, 1 and 2 replace 3 and 4 before those are offered.
    for (ids, expected) in
        [([1, 2, 3, 4], [1, 2, 3, 4]), ([1, 2, 5, 6], [5, 6, 3, 4]), ([1, 2, 3, 4], [3, 4, 1, 2])]
    {
        buffer.rehearse(batch(&ids)).unwrap();
        assert_eq!(stored_ids(&buffer), expected, "after {ids:?}");
    }
}

/// How often a reservoir of 8 slots stores each of 40 rows, over many seeds.
fn reservoir_counts(rank: usize, size: usize, seeds: u64) -> Vec<u64> {
    let mut counts = vec![0; 40];
    for seed in 0..seeds {
        let config = config(8 * size, 4, 1)
            .with_policy(PolicyKind::Reservoir)
            .with_seed(seed)
            .with_execution(Execution::Inline);
        let shards = world(size, |threads| {
            let buffer = buffer(&config, threads);
            for step in 0..10 {
                buffer
                    .rehearse(batch(&(0..4).map(|row| step * 4 + row).collect::<Vec<_>>()))
                    .unwrap();
            }
            stored_ids(&buffer)
        });
        assert_eq!(shards[rank].len(), 8);
        shards[rank].iter().for_each(|&id| counts[id as usize] += 1);
    }
    counts
}

#[test]
fn a_reservoir_stores_every_offered_row_with_the_same_probability() {
    for (rank, size, seeds) in [(0, 1, 600), (1, 2, 200)] {
        let counts = reservoir_counts(rank, size, seeds);
        let p = uniform_p(&counts, seeds, 8);
        assert!(p > 1e-3, "rank {rank} of {size}: {counts:?}, p = {p:e}");
    }
    // The test rejects a reservoir with an off-by-one error in its acceptance (n − 1 instead of n).
    let mut counts = vec![0u64; 40];
    for seed in 0..600 {
        let mut rng = Stream::new(seed, Purpose::Evict, 0, 0);
        let mut slots: Vec<usize> = (0..8).collect();
        for row in 8..40u64 {
            if let Some(slot) = slots.get_mut(rng.below(row - 3) as usize) {
                *slot = row as usize;
            }
        }
        slots.iter().for_each(|&row| counts[row] += 1);
    }
    assert!(uniform_p(&counts, 600, 8) < 1e-3, "the test accepts a biased reservoir");
}

#[test]
fn a_fifo_stores_exactly_the_newest_rows_of_each_shard() {
    for size in [1, 3] {
        world(size, |threads| {
            let config = config(23, 4, 1).with_policy(PolicyKind::Fifo);
            let buffer = buffer(&config, threads);
            let mut offered = Vec::new();
            for step in 0..40 {
                let ids = fresh(2, buffer.rank(), step, 1 + (step + buffer.rank()) % 4, 5);
                buffer.rehearse(batch(&ids)).unwrap();
                offered.extend(ids);
                let mut stored = stored_ids(&buffer);
                let capacity = buffer.inspect().unwrap().capacity;
                let mut newest = offered[offered.len().saturating_sub(capacity)..].to_vec();
                stored.sort_unstable();
                newest.sort_unstable();
                assert_eq!(stored, newest, "step {step}");
            }
        });
    }
}

#[test]
fn ratios_refer_to_the_ranks_mini_batch_of_the_drawing_step() {
    for (lag, size) in [(0, 1), (1, 1), (1, 3), (2, 2)] {
        let config = RehearsalConfig::new(Capacity::Samples(500))
            .with_candidates(0.5)
            .with_representatives(1.5)
            .with_lag(lag);
        world(size, |threads| {
            let buffer = buffer(&config, threads);
            let rank = buffer.rank();
            let rows = |step: usize| 1 + (3 * step + 2 * rank) % 7;
            let mut stored = 0;
            for step in 0..12 {
                let ids = fresh(5, rank, step, rows(step), 3);
                let drawn = assert_augmented(&ids, &buffer.rehearse(batch(&ids)).unwrap()).len();
                stored += (0.5 * rows(step) as f64).round().max(1.0) as usize;
                assert_eq!(buffer.inspect().unwrap().len, stored, "step {step}");
                if step >= lag + 3 {
                    // The buffer then stores more rows than are drawn.
                    let expected = (1.5 * rows(step - lag) as f64).round() as usize;
                    assert_eq!(drawn, expected, "lag {lag}, rank {rank} of {size}, step {step}");
                } else if step < lag {
                    assert_eq!(drawn, 0);
                }
            }
        });
    }
}

#[test]
fn by_default_all_rows_are_offered_and_the_same_number_is_drawn() {
    let buffer: RehearsalBuffer<Mixed> =
        RehearsalConfig::new(Capacity::Samples(30)).init().unwrap();
    for step in 0..10usize {
        let ids = fresh(5, 0, step, 6, 3);
        let drawn = assert_augmented(&ids, &buffer.rehearse(batch(&ids)).unwrap());
        assert_eq!(drawn.len(), if step == 0 { 0 } else { 6 });
        assert_eq!(buffer.inspect().unwrap().len, (6 * (step + 1)).min(30));
    }
}
