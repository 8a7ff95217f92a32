//! Guarantee 9 of docs/ARCHITECTURE.md for the learner, on a simulated network with faults: delays
//! and reordering change no bit, and every other fault is an error on every rank that names its
//! cause. A failed test prints the seed that repeats it.

use std::sync::Arc;
use std::time::Duration;

use burn::data::dataloader::{DataLoader, DataLoaderIterator, Progress};
use burn::data::dataset::DatasetError;
use burn::tensor::Device;
use burn::train::SupervisedTraining;
use burn_rehearsal::RehearsalBuffer;
use burn_rehearsal_collective::{Collective, CollectiveError, RankFailure};
use burn_rehearsal_testing::{
    Disturbance, Fault, FaultKind, Mixed, batch, config, fresh, run_simulated, watchdog,
};
use burn_rehearsal_train::data_parallel::{DataParallelError, without_renderer};

use crate::equivalent::steps;
use crate::harness::*;

type Learned = (Option<DataParallelError>, Vec<(String, Vec<f32>)>);

/// Launches `epochs` epochs on every rank of a network.
fn learn(
    size: usize,
    epochs: usize,
    disturbance: &Disturbance,
) -> Vec<Result<Learned, RankFailure<()>>> {
    let _watchdog = watchdog();
    let scripts = deal(&steps(), size);
    run_simulated(size, disturbance, |link| {
        let script = &scripts[link.rank()];
        let outcome = launch(
            &Arc::new(strategy_on(Box::new(link))),
            training(script, Vec::new()).num_epochs(epochs),
            learner(1),
        );
        let values = outcome.values();
        Ok((outcome.error, values))
    })
}

#[test]
fn delays_and_reordering_change_no_bit_of_what_is_learned() {
    const EPOCHS: usize = 25;
    for size in [2, 3, 5] {
        let outcomes =
            train(&deal(&steps(), size), |_| learner(1), |_, training| training.num_epochs(EPOCHS));
        for seed in 0..2 {
            let disturbance = Disturbance { seed, delay: Duration::from_micros(60), fault: None };
            for (disturbed, expected) in
                learn(size, EPOCHS, &disturbance).into_iter().zip(&outcomes)
            {
                assert_eq!(disturbed, Ok((None, expected.values())), "seed {seed}, {size} ranks");
            }
        }
    }
}

/// The ranks that an error names.
fn named(error: &DataParallelError) -> Vec<usize> {
    use DataParallelError as E;
    match error {
        E::RankFailed { rank, .. }
        | E::OutOfStep { rank, .. }
        | E::DifferentSettings { rank, .. } => vec![*rank],
        // These name a rank that differs from rank 0.
        E::DifferentModels { rank, .. } | E::ParametersDiffer { rank, .. } => vec![*rank, 0],
        E::Collective(
            CollectiveError::PeerFailed { rank, .. } | CollectiveError::Damaged { rank },
        ) => vec![*rank],
        E::Collective(
            CollectiveError::Mismatch { reason, .. } | CollectiveError::Transport { reason, .. },
        ) => {
            let words = reason.split("rank ").skip(1);
            words
                .filter_map(|rest| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok())
                .collect()
        }
        _ => Vec::new(),
    }
}

#[test]
fn a_faulty_rank_is_an_error_on_every_rank() {
    for seed in 0..70_u64 {
        let size = 2 + seed as usize % 4;
        let kind = FaultKind::ALL[seed as usize % 7];
        let fault = Fault {
            rank: (seed as usize / 3) % size,
            handle: 0,
            operation: (seed * 13) % 40,
            kind,
        };
        let disturbance =
            Disturbance { seed, delay: Duration::from_micros(20), fault: Some(fault) };
        let ends = learn(size, 4, &disturbance);
        let context = format!("seed {seed}, {size} ranks, {fault:?}");
        let errors: Vec<_> = ends.iter().map(|end| end.as_ref().map(|(error, _)| error)).collect();
        for (rank, end) in errors.iter().enumerate().filter(|(rank, _)| *rank != fault.rank) {
            let Ok(Some(error)) = end else {
                panic!("{context}: rank {rank} has no error: {errors:?}")
            };
            assert!(
                named(error).iter().any(|named| *named != rank),
                "{context}: rank {rank} names no other rank: {errors:?}"
            );
        }
        match errors[fault.rank] {
            Ok(Some(_)) => {}
            Err(RankFailure::Panic { .. }) if kind == FaultKind::Panic => {}
            _ => panic!("{context}: the culprit has no error: {errors:?}"),
        }
    }
}

/// The steps in which a rank uses its buffer.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Rehearses {
    /// In every step, like a `RehearsalLoader`.
    Always,
    /// In steps with rows, like a training step.
    WithRows,
    Never,
}

/// A loader that uses a buffer, and that may pause before its second mini-batch.
#[derive(Clone)]
struct Rehearsing {
    inner: Arc<dyn DataLoader<Batch>>,
    buffer: RehearsalBuffer<Mixed>,
    when: Rehearses,
    pause: Duration,
}

struct Iter<'a> {
    inner: Box<dyn DataLoaderIterator<Batch> + 'a>,
    of: &'a Rehearsing,
    calls: usize,
}

impl Iterator for Iter<'_> {
    type Item = Result<Batch, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.inner.next();
        self.calls += 1;
        if self.calls == 2 {
            std::thread::sleep(self.of.pause);
        }
        let buffer = &self.of.buffer;
        let ids = fresh(0, buffer.rank(), self.calls, 4, 3);
        let rehearsed = match (&next, self.of.when) {
            (_, Rehearses::Never) | (None, Rehearses::WithRows) => Ok(()),
            (Some(_), _) => buffer.rehearse(batch(&ids)).map(drop),
            (None, Rehearses::Always) => buffer.skip_step(),
        };
        rehearsed.map_or_else(|error| Some(Err(error.into())), |()| next)
    }
}

impl DataLoaderIterator<Batch> for Iter<'_> {
    fn progress(&self) -> Progress {
        self.inner.progress()
    }
}

impl DataLoader<Batch> for Rehearsing {
    fn iter<'a>(&'a self) -> Box<dyn DataLoaderIterator<Batch> + 'a> {
        Box::new(Iter { inner: self.inner.iter(), of: self, calls: 0 })
    }

    fn num_items(&self) -> usize {
        self.inner.num_items()
    }

    fn to_device(&self, device: &Device) -> Arc<dyn DataLoader<Batch>> {
        Arc::new(Self { inner: self.inner.to_device(device), ..self.clone() })
    }

    fn slice(&self, start: usize, end: usize) -> Arc<dyn DataLoader<Batch>> {
        Arc::new(Self { inner: self.inner.slice(start, end), ..self.clone() })
    }
}

/// Trains two epochs on `size` ranks with a buffer. The last rank rehearses in the steps that
/// `last` selects, and rank 0 pauses once.
fn rehearse(size: usize, last: Rehearses, pause: Duration) -> Vec<Outcome> {
    let _watchdog = watchdog();
    // The last step has one row fewer than there are ranks.
    let scripts =
        deal(&[rows(1, 2 * size), rows(2, 2 * size), rows(3, 2 * size), rows(4, size - 1)], size);
    let outcomes = on_ranks(size, |rank, mut link| {
        let buffer = burn_rehearsal_testing::buffer(&config(30, 4, 3), link.duplicate().unwrap());
        let when = if rank + 1 == size { last } else { Rehearses::Always };
        let pause = if rank == 0 { pause } else { Duration::ZERO };
        let train = Rehearsing { inner: Arc::new(scripts[rank].clone()), buffer, when, pause };
        let training = SupervisedTraining::new(
            "/nonexistent/never-written",
            Arc::new(train),
            Arc::new(Script::new(Vec::new())),
        );
        launch(&Arc::new(strategy(link)), without_renderer(training).num_epochs(2), learner(1))
    });
    outcomes.into_iter().map(|outcome| outcome.unwrap()).collect()
}

#[test]
fn a_rank_that_does_not_rehearse_causes_a_deadlock_error() {
    for size in [2, 3] {
        for last in [Rehearses::Never, Rehearses::WithRows] {
            for (rank, outcome) in rehearse(size, last, Duration::ZERO).into_iter().enumerate() {
                let Some(DataParallelError::Collective(CollectiveError::Deadlock {
                    waiting, ..
                })) = outcome.error
                else {
                    panic!("{size} ranks, {last:?}, rank {rank}: {:?}", outcome.error)
                };
                assert!(
                    waiting.iter().any(|wait| wait.rank == size - 1 && wait.handle == "training"),
                    "{waiting:?}"
                );
                let rounds = || waiting.iter().filter(|wait| wait.handle == "rehearsal");
                assert!(
                    rounds().count() > 0 && rounds().all(|wait| wait.missing.contains(&(size - 1))),
                    "{waiting:?}"
                );
                assert!(
                    outcome.result_error.is_some_and(|error| error.contains("deadlock at step")),
                    "rank {rank}"
                );
            }
        }
    }
}

#[test]
fn a_slow_loader_is_not_an_error() {
    for outcome in rehearse(2, Rehearses::Always, Duration::from_secs(3)) {
        assert_eq!(outcome.error, None);
    }
}
