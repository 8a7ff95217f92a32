//! Ranks without rows in some steps, at the end of an epoch, or in the whole run.

use crate::model::{Model, assert_draws};
use burn_rehearsal::{PolicyKind, SamplingKind};
use burn_rehearsal_testing::{Row, assert_augmented, batch, buffer, config, fresh, read, world};

/// The number of steps of each rank in an epoch. Rank 1 ends early, and rank 3 has no steps.
fn steps(rank: usize) -> usize {
    [6, 4, 5, 0, 6, 3, 6, 5][rank]
}

type Run = Vec<(Vec<Vec<Row>>, String, String, u64)>;

/// Runs three epochs, each followed by `idle` rounds in which no rank has rows.
fn epochs(size: usize, lag: usize, sampling: SamplingKind, idle: usize) -> Run {
    world(size, |threads| {
        let buffer = buffer(
            &config(9 * size, 3, 5).with_lag(lag).with_sampling(sampling).with_seed(6),
            threads,
        );
        let rank = buffer.rank();
        let mut batches = Vec::new();
        for epoch in 0..3 {
            buffer.begin_task(epoch).unwrap();
            for step in 0..6 {
                let ids = fresh(epoch as u64, rank, step, 4, 3);
                if step < steps(rank) {
                    let augmented = buffer.rehearse(batch(&ids)).unwrap();
                    assert_augmented(&ids, &augmented);
                    batches.push(read(&augmented));
                } else {
                    buffer.skip_step().unwrap();
                }
            }
            for _ in 0..idle {
                buffer.skip_step().unwrap();
            }
        }
        let report = buffer.report().unwrap();
        let steps = buffer.inspect().unwrap().steps;
        (batches, report.contents_digest, report.draws_digest, steps)
    })
}

#[test]
fn a_round_without_rows_on_any_rank_has_no_effect() {
    for size in [1, 2, 3, 4, 8] {
        for lag in [0, 1, 3] {
            let sampling =
                [SamplingKind::Uniform, SamplingKind::ClassBalanced, SamplingKind::ExcludeCurrent]
                    [(size + lag) % 3];
            let none = epochs(size, lag, sampling, 0);
            assert!(none.iter().all(|run| run.3 == 18), "only the 18 rounds with rows are steps");
            assert_eq!(none, epochs(size, lag, sampling, 1), "{size} ranks, lag {lag}");
            assert_eq!(none, epochs(size, lag, sampling, 3), "{size} ranks, lag {lag}");
        }
    }
}

#[test]
fn a_rank_without_rows_in_a_step_discards_its_representatives() {
    // The model computes representatives for every rank and step. A rank without rows in a step
    // never receives those of that step.
    for (size, lag) in [(2, 1), (3, 1), (3, 3), (4, 0), (8, 1)] {
        let rows = |rank: usize, step: usize| {
            if step % 6 < steps(rank) && (step + rank) % 5 != 2 { 1 + (step + rank) % 4 } else { 0 }
        };
        let data = |rank: usize, step: usize| fresh(1, rank, step, rows(rank, step), 3);
        let mut model = Model::new(size, 6 * size, 2, 4, 3, lag as u64);
        let expected: Vec<_> = (0..30)
            .map(|step| model.step(&(0..size).map(|rank| data(rank, step)).collect::<Vec<_>>()))
            .collect();
        let config =
            config(6 * size, 2, 4).with_policy(PolicyKind::Fifo).with_seed(3).with_lag(lag);
        world(size, |threads| {
            let buffer = buffer(&config, threads);
            let ids = |step| data(buffer.rank(), step);
            assert_draws(&buffer, ids, &expected, &format!("{size} ranks, lag {lag}"));
        });
    }
}

#[test]
fn a_late_rank_receives_representatives_after_lag_steps_with_rows() {
    for lag in [0, 1, 2] {
        world(3, |threads| {
            let buffer = buffer(&config(300, 3, 4).with_lag(lag), threads);
            let rank = buffer.rank();
            for step in 0..10 {
                if rank == 2 || rank == 1 && step < 5 {
                    buffer.skip_step().unwrap();
                    continue;
                }
                let ids = fresh(0, rank, step, 3, 2);
                let drawn = assert_augmented(&ids, &buffer.rehearse(batch(&ids)).unwrap());
                let served = step >= lag && (rank == 0 || step >= 5 + lag);
                assert_eq!(
                    drawn.len(),
                    if !served { 0 } else { (3 * (step + 1 - lag)).min(4) },
                    "rank {rank}, lag {lag}, step {step}"
                );
            }
            let report = buffer.report().unwrap();
            assert_eq!((report.len, buffer.inspect().unwrap().len), (45, [30, 15, 0][rank]));
        });
    }
}

#[test]
fn a_single_rank_without_rows_makes_no_step() {
    world(1, |threads| {
        let buffer = buffer(&config(30, 3, 4), threads);
        (0..5).for_each(|_| buffer.skip_step().unwrap());
        assert_eq!(buffer.inspect().unwrap().steps, 0);
    });
}
