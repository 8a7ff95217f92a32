//! Tasks: draws that are repeated when a task begins, and ranks that disagree about tasks.

use burn_rehearsal::error::RehearsalError;
use burn_rehearsal::{Execution, RehearsalBuffer, SamplingKind};
use burn_rehearsal_testing::{CLASS, assert_augmented, batch, buffer, config, world};

const RANKS: usize = 3;

/// The IDs of a rank's mini-batch, whose class is the task.
fn ids(task: usize, rank: usize, step: usize) -> Vec<i64> {
    (0..2).map(|row| task as i64 * CLASS + (step * 100 + rank * 10 + row) as i64).collect()
}

fn sorted(mut ids: Vec<i64>) -> Vec<i64> {
    ids.sort_unstable();
    ids
}

/// The IDs that all ranks offer during `steps`, in tasks of `per_task` steps.
fn offered(per_task: usize, steps: std::ops::Range<usize>) -> Vec<i64> {
    sorted(
        steps
            .flat_map(|step| (0..RANKS).flat_map(move |rank| ids(step / per_task, rank, step)))
            .collect(),
    )
}

/// r is as large as the buffer, so that the representatives of a step are all rows that can be
/// drawn.
#[test]
fn exclude_current_repeats_pending_draws_when_a_task_begins() {
    for execution in [Execution::Background, Execution::Inline] {
        for lag in [0, 1, 3] {
            let config = config(600, 2, 600)
                .with_sampling(SamplingKind::ExcludeCurrent)
                .with_lag(lag)
                .with_execution(execution);
            world(RANKS, |threads| {
                let buffer = buffer(&config, threads);
                for step in 0..15 {
                    let task = step / 5;
                    if step % 5 == 0 {
                        buffer.begin_task(task).unwrap();
                    }
                    let incoming = ids(task, buffer.rank(), step);
                    let drawn = sorted(assert_augmented(
                        &incoming,
                        &buffer.rehearse(batch(&incoming)).unwrap(),
                    ));
                    // All rows of earlier tasks can be drawn at once, including those of the last
                    // `lag` steps before this task.
                    let expected = if step < lag { Vec::new() } else { offered(5, 0..task * 5) };
                    assert_eq!(drawn, expected, "lag {lag}, step {step}");
                }
            });
        }
    }
}

#[test]
fn pending_draws_are_repeated_when_the_start_task_begins() {
    for lag in [0, 1, 3] {
        let config = config(600, 2, 600).with_start_task(1).with_lag(lag);
        world(RANKS, |threads| {
            let buffer = buffer(&config, threads);
            for step in 0..15 {
                if step % 5 == 0 {
                    buffer.begin_task(step / 5).unwrap();
                }
                let incoming = ids(step / 5, buffer.rank(), step);
                let drawn = sorted(assert_augmented(
                    &incoming,
                    &buffer.rehearse(batch(&incoming)).unwrap(),
                ));
                // The first steps of task 1 see at least the rows that were stored when it began.
                let until = if step < 5 { 0 } else { (step + 1 - lag).max(5) };
                assert_eq!(drawn, offered(5, 0..until), "lag {lag}, step {step}");
            }
        });
    }
}

#[test]
fn under_uniform_sampling_a_new_task_changes_no_draw() {
    for lag in [0, 1, 3] {
        let run = |tasks: bool| {
            world(RANKS, |threads| {
                let buffer = buffer(&config(12, 2, 5).with_lag(lag).with_seed(4), threads);
                let batches: Vec<_> = (0..15)
                    .map(|step| {
                        if tasks && step % 5 == 0 {
                            buffer.begin_task(step / 5).unwrap();
                        }
                        let incoming = ids(step / 5, buffer.rank(), step);
                        assert_augmented(&incoming, &buffer.rehearse(batch(&incoming)).unwrap())
                    })
                    .collect();
                (batches, buffer.report().unwrap().draws_digest)
            })
        };
        assert_eq!(run(true), run(false));
    }
}

#[test]
fn beginning_the_current_task_again_has_no_effect() {
    let config = config(600, 2, 600).with_sampling(SamplingKind::ExcludeCurrent);
    world(RANKS, |threads| {
        let buffer = buffer(&config, threads);
        for step in 0..9 {
            buffer.begin_task(step / 3).unwrap();
            let incoming = ids(step / 3, buffer.rank(), step);
            let drawn =
                sorted(assert_augmented(&incoming, &buffer.rehearse(batch(&incoming)).unwrap()));
            assert_eq!(drawn, offered(3, 0..step / 3 * 3));
            assert_eq!(buffer.inspect().unwrap().task, step / 3);
        }
    });
}

#[test]
fn a_task_may_begin_before_any_mini_batch_or_between_steps() {
    let config = config(60, 2, 60).with_sampling(SamplingKind::ExcludeCurrent).with_lag(3);
    world(RANKS, |threads| {
        let buffer = buffer(&config, threads);
        buffer.begin_task(4).unwrap();
        buffer.begin_task(7).unwrap();
        for step in 0..3 {
            let incoming = ids(7, buffer.rank(), step);
            assert!(
                assert_augmented(&incoming, &buffer.rehearse(batch(&incoming)).unwrap()).is_empty()
            );
        }
        assert!(buffer.snapshot().unwrap().samples().iter().all(|sample| sample.task == 7));
        (0..2).for_each(|_| buffer.skip_step().unwrap());
        buffer.begin_task(8).unwrap();
        let drawn = assert_augmented(&[1], &buffer.rehearse(batch(&[1])).unwrap());
        assert_eq!(drawn.len(), 18, "all rows of the three steps of task 7");
        assert_eq!(buffer.snapshot().unwrap().samples().last().map(|sample| sample.task), Some(8));
    });
}

#[test]
fn ranks_that_begin_tasks_differently_disagree_on_every_rank() {
    for lag in [0, 1, 3] {
        for execution in [Execution::Background, Execution::Inline] {
            let config = config(60, 2, 6).with_lag(lag).with_execution(execution);
            let step = |buffer: &RehearsalBuffer<_>, step| {
                buffer.rehearse(batch(&ids(0, buffer.rank(), step))).map(drop)
            };
            // The disagreement is known at the next call.
            let begin = |buffer: &_, task| {
                RehearsalBuffer::begin_task(buffer, task)
                    .and_then(|()| step(buffer, 3))
                    .unwrap_err()
            };
            let different = world(RANKS, |threads| {
                let buffer = buffer(&config, threads);
                (0..3).try_for_each(|number| step(&buffer, number)).unwrap();
                begin(&buffer, 1 + buffer.rank() / 2)
            });
            let early = world(RANKS, |threads| {
                let buffer = buffer(&config, threads);
                (0..3).try_for_each(|number| step(&buffer, number)).unwrap();
                if buffer.rank() == 1 {
                    begin(&buffer, 1)
                } else {
                    (3..20).find_map(|number| step(&buffer, number).err()).unwrap()
                }
            });
            let late = world(RANKS, |threads| {
                let buffer = buffer(&config, threads);
                (0..3).try_for_each(|number| step(&buffer, number)).unwrap();
                if buffer.rank() == 1 {
                    (3..20).find_map(|number| step(&buffer, number).err()).unwrap()
                } else {
                    begin(&buffer, 1)
                }
            });
            let begins_or_trains =
                |begins| if begins { "begins task 1" } else { "trains on task 0" };
            let cases: [(_, &dyn Fn(usize) -> String); 3] = [
                (different, &|rank| format!("begins task {}", 1 + rank / 2)),
                (early, &|rank| begins_or_trains(rank == 1).to_owned()),
                (late, &|rank| begins_or_trains(rank != 1).to_owned()),
            ];
            for (errors, task) in cases {
                for (this_rank, error) in errors.into_iter().enumerate() {
                    let RehearsalError::Disagreement { rank, .. } = error else {
                        panic!("lag {lag}, rank {this_rank}: {error}")
                    };
                    // The error names the tasks of both ranks.
                    let detail =
                        format!("rank {rank} {}, rank {this_rank} {}", task(rank), task(this_rank));
                    assert_ne!(task(rank), task(this_rank));
                    assert_eq!(error, RehearsalError::Disagreement { rank, this_rank, detail });
                }
            }
        }
    }
}
