//! Accuracies within a task, every N epochs.

use crate::data_parallel::AfterEpoch;
use crate::epoch::Epoch;
use crate::evaluate::{EvaluateError, evaluate};
use burn::data::dataloader::DataLoader;
use burn::train::{ClassificationOutput, InferenceStep};
use burn_rehearsal_collective::Collective;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The part of each task's test set that one rank evaluates.
pub(super) type Parts<B> = Vec<Arc<dyn DataLoader<B>>>;

/// Measurements since the last [`take`](EpochAccuracies::take).
#[derive(Default)]
pub(super) struct Measured {
    /// Pairs of an epoch of the task and the top-1 accuracy on every task, in order.
    pub(super) top1: Vec<(Epoch, Vec<f64>)>,
    /// The time of the evaluations.
    pub(super) time: Duration,
}

/// Measurements within a task. The learner evaluates, and the run keeps the results.
#[derive(Clone, Default)]
pub(super) struct EpochAccuracies(Arc<Mutex<Measured>>);

impl EpochAccuracies {
    /// Creates the learner's hook after epochs. It evaluates on `parts` after every `every`-th of
    /// the `epochs` of a task, except for the last. Nothing else may use `collective`.
    pub(super) fn hook<M, B>(
        &self,
        every: usize,
        epochs: usize,
        parts: Parts<B>,
        collective: Box<dyn Collective>,
    ) -> AfterEpoch<M>
    where
        M: InferenceStep<Input = B, Output = ClassificationOutput>,
        B: Send + 'static,
    {
        let (measured, collective) = (self.0.clone(), Mutex::new(collective));
        Box::new(move |model, epoch| {
            if every == 0 || !epoch.number().is_multiple_of(every) || epoch.number() == epochs {
                return Ok(());
            }
            let started = Instant::now();
            let mut collective = collective.lock();
            let accuracies = parts.iter().map(|part| {
                evaluate(model, &**part, collective.as_mut())
                    .map(|evaluation| evaluation.top1_accuracy())
            });
            let accuracies = accuracies.collect::<Result<Vec<f64>, EvaluateError>>()?;
            let mut measured = measured.lock();
            measured.top1.push((epoch, accuracies));
            measured.time += started.elapsed();
            Ok(())
        })
    }

    pub(super) fn take(&self) -> Measured {
        std::mem::take(&mut *self.0.lock())
    }

    /// The time of evaluations since the last [`take`](Self::take).
    pub(super) fn time(&self) -> Duration {
        self.0.lock().time
    }

    /// The accuracies after `epoch`. Empty if they were not measured since the last
    /// [`take`](Self::take).
    pub(super) fn after(&self, epoch: Epoch) -> Vec<Option<f64>> {
        measured_after(&self.0.lock().top1, epoch)
    }
}

/// The accuracies after `epoch`. Empty if they were not measured.
pub(super) fn measured_after(measured: &[(Epoch, Vec<f64>)], epoch: Epoch) -> Vec<Option<f64>> {
    let found = measured.iter().find(|(of, _)| *of == epoch);
    found.map(|(_, top1)| top1.iter().copied().map(Some).collect()).unwrap_or_default()
}
