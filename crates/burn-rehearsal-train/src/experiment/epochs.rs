//! Accuracies in the middle of a task, every N epochs.

use crate::data_parallel::AfterEpoch;
use crate::epoch::Epoch;
use crate::evaluate::{EvaluateError, evaluate};
use burn::data::dataloader::DataLoader;
use burn::train::{ClassificationOutput, InferenceStep};
use burn_rehearsal_collective::Collective;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// One rank's parts of the test sets of all tasks.
pub(super) type Parts<B> = Vec<Arc<dyn DataLoader<B>>>;

/// What was measured since it was last taken.
#[derive(Default)]
pub(super) struct Measured {
    /// (epoch of the task; top-1 accuracy on every task), in order.
    pub(super) top1: Vec<(Epoch, Vec<f64>)>,
    /// How long it took.
    pub(super) time: Duration,
}

/// Shared by the learner, which evaluates, and the run, which keeps the results.
#[derive(Clone, Default)]
pub(super) struct EpochAccuracies(Arc<Mutex<Measured>>);

impl EpochAccuracies {
    /// What the learner calls after every epoch: evaluates on `parts` after every `every`-th epoch
    /// but the last of a task's `epochs`. Nobody else uses `collective`.
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

    /// How long evaluations took since the last [`take`](Self::take).
    pub(super) fn time(&self) -> Duration {
        self.0.lock().time
    }

    /// The accuracies after `epoch`; empty if they were not measured since the last
    /// [`take`](Self::take).
    pub(super) fn after(&self, epoch: Epoch) -> Vec<Option<f64>> {
        measured_after(&self.0.lock().top1, epoch)
    }
}

/// The accuracies after `epoch`; empty if they were not measured.
pub(super) fn measured_after(measured: &[(Epoch, Vec<f64>)], epoch: Epoch) -> Vec<Option<f64>> {
    let found = measured.iter().find(|(of, _)| *of == epoch);
    found.map(|(_, top1)| top1.iter().copied().map(Some).collect()).unwrap_or_default()
}
