//! Resuming from a checkpoint, and writing one.

use super::Run;
use crate::data_parallel::adopt;
use crate::epoch::Epoch;
use crate::experiment::checkpoint::{Directories, Found, KeptLearner, Position, RunState};
use crate::experiment::curve::LossCurve;
use crate::experiment::epochs::measured_after;
use crate::experiment::{CompletedEpoch, ExperimentError, Workload};
use crate::report::schema::{CheckpointTime, CurvePoint, EpochTime};
use burn_rehearsal::error::CheckpointError;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

impl<W: Workload> Run<'_, W> {
    /// Takes over what a checkpoint knows.
    pub(super) fn resume(&mut self, found: Found) -> Result<Position, ExperimentError> {
        let Found { state, learner, buffer } = found;
        let settings = self.settings;
        let tasks = self.workload.stream().tasks();
        let method = self.method.full_name();
        if (state.method.as_str(), state.seed, state.accuracy.top1.tasks())
            != (method.as_str(), settings.seed, tasks)
        {
            let reason = format!(
                "it is of method {}, seed {}, {} tasks; this run is of method {method}, seed {}, {tasks} tasks",
                state.method,
                state.seed,
                state.accuracy.top1.tasks(),
                settings.seed
            );
            return Err(CheckpointError::Foreign {
                path: buffer.with_file_name("manifest.json"),
                reason,
            }
            .into());
        }
        if let Some(differences) = state.data.differences(&self.data) {
            return Err(ExperimentError::ChangedData(differences));
        }
        let (size, before) = (self.collective.size(), state.world_size);
        let mut position = state.position;
        if let Some(own) = &self.buffer {
            own.restore(buffer, &self.device)?;
        }
        let steps_per_epoch = self.steps_per_epoch(self.indices(position.task).len());
        if let Some((_, step)) = &mut position.within
            && before != size
        {
            // As many samples of the epoch's order are behind as then, rounded down to whole steps:
            // none is left out.
            *step = *step * before as u64 / size as u64;
        }
        if let Some(KeptLearner { parts, statistics }) = learner {
            let schedule = settings.schedule(size, steps_per_epoch)?;
            let (epoch, step) = position.within.unwrap_or((Epoch::FIRST, 0));
            let schedule = schedule.at_step(epoch.index() as u64 * steps_per_epoch as u64 + step);
            let model = self.model(&self.device.clone().autodiff());
            // The rates of a schedule depend on the number of ranks.
            let learner =
                adopt::read(model, self.workload.optimizer(), &schedule, parts, before == size)?;
            self.learner = Some(learner);
            self.strategy.set_statistics(&statistics);
        }
        self.earlier_world_sizes = state.earlier_world_sizes;
        if before != size {
            self.earlier_world_sizes.push(before);
        }
        self.accuracy = state.accuracy;
        self.curves = state.curves;
        self.epoch_times = state.epoch_times;
        self.epoch_times.resize(self.curves.len(), EpochTime::default());
        self.curve = LossCurve::of_sums(&state.losses, state.seconds);
        self.measured = state.measured;
        if let Some(loss_scale) = state.loss_scale {
            self.strategy.set_loss_scale(loss_scale);
        }
        self.augmented.store(state.augmented, Ordering::Relaxed);
        self.samples = state.samples;
        self.train_time = Duration::try_from_secs_f64(state.train_s).unwrap_or_default();
        self.total_before = state.total_s;
        self.strategy.timer().add_counters(&state.phases);
        self.checkpoints =
            CheckpointTime { resumed: state.checkpoints.resumed + 1, ..state.checkpoints };
        Ok(position)
    }

    /// The epochs that were completed before `position`.
    pub(super) fn completed(&self, position: Position) -> Vec<CompletedEpoch> {
        let mut epochs: Vec<_> = self
            .curves
            .iter()
            .zip(&self.epoch_times)
            .map(|(point, &time)| CompletedEpoch { point: point.clone(), time })
            .collect();
        let (points, times) = self.epochs_of(position.task, position.within);
        let begun = position.within.map_or(0, |(epoch, _)| epoch.index());
        epochs.extend(
            points
                .into_iter()
                .zip(times)
                .take(begun)
                .map(|(point, time)| CompletedEpoch { point, time }),
        );
        epochs
    }

    /// What is known of the epochs of the task in hand, of which the last may be incomplete: `at`
    /// (the epoch and the steps done in it) comes next.
    pub(super) fn epochs_of(
        &self,
        task: usize,
        at: Option<(Epoch, u64)>,
    ) -> (Vec<CurvePoint>, Vec<EpochTime>) {
        let incoming = self.indices(task).len();
        let per_step = (self.settings.batch_size * self.collective.size()) as u64;
        let seconds = self.curve.seconds();
        let losses = self.curve.means();
        losses
            .into_iter()
            .map(|(epoch, loss)| {
                let samples = match at {
                    Some((next, steps)) if next == epoch => (steps * per_step).min(incoming as u64),
                    _ => incoming as u64,
                };
                let point = CurvePoint {
                    task,
                    epoch,
                    train_loss: Some(loss).filter(|loss| loss.is_finite()),
                    top1: measured_after(&self.measured, epoch),
                };
                (
                    point,
                    EpochTime {
                        train_s: seconds.get(&epoch).copied().unwrap_or_default(),
                        samples,
                    },
                )
            })
            .unzip()
    }

    /// Begins to write the run down, if that is asked for, and waits for the time before.
    /// Collective.
    pub(super) fn checkpoint(
        &mut self,
        position: Position,
        mut directories: Option<&mut Directories<'_>>,
    ) -> Result<(), ExperimentError> {
        self.finish_checkpoint(directories.as_deref_mut())?;
        let Some(directories) = directories else { return Ok(()) };
        let started = Instant::now();
        let records = self.records.take();
        let copied = records.as_ref().map_or(Duration::ZERO, |records| records.time);
        let state = RunState {
            method: self.method.full_name(),
            seed: self.settings.seed,
            data: self.data.clone(),
            world_size: self.collective.size(),
            earlier_world_sizes: self.earlier_world_sizes.clone(),
            position,
            accuracy: self.accuracy.clone(),
            curves: self.curves.clone(),
            losses: if position.within.is_some() { self.curve.sums() } else { BTreeMap::new() },
            seconds: if position.within.is_some() { self.curve.seconds() } else { BTreeMap::new() },
            epoch_times: self.epoch_times.clone(),
            measured: self.measured.clone(),
            loss_scale: self.strategy.loss_scale(),
            augmented: self.augmented.load(Ordering::Relaxed),
            samples: self.samples,
            total_s: self.total_s(),
            train_s: self.train_time.as_secs_f64(),
            phases: self.strategy.timer().counters(),
            checkpoints: CheckpointTime {
                written: self.checkpoints.written + 1,
                ..self.checkpoints
            },
            buffer: None,
        };
        let buffer = self.buffer.clone();
        let begin_buffer = |directory: &std::path::Path| {
            Ok(buffer.map(|buffer| buffer.begin_checkpoint(directory)).transpose()?)
        };
        directories.begin(state, records, begin_buffer, self.collective.as_mut())?;
        self.checkpoints.written += 1;
        self.checkpoints.total_s += (copied + started.elapsed()).as_secs_f64();
        Ok(())
    }

    /// Waits until the last checkpoint is complete. Collective.
    pub(super) fn finish_checkpoint(
        &mut self,
        directories: Option<&mut Directories<'_>>,
    ) -> Result<(), ExperimentError> {
        let Some(directories) = directories else { return Ok(()) };
        let started = Instant::now();
        if let Some(written) = directories.finish(self.collective.as_mut())? {
            self.checkpoints.bytes = written.bytes;
            self.checkpoints.background_s += written.time.as_secs_f64();
        }
        self.checkpoints.total_s += started.elapsed().as_secs_f64();
        Ok(())
    }

    /// The run's time so far, in seconds.
    pub(super) fn total_s(&self) -> f64 {
        self.total_before + self.started.elapsed().as_secs_f64()
    }
}
