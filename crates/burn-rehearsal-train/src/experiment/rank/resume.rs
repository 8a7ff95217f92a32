//! Resuming from a checkpoint, and writing one.

use super::Run;
use crate::data_parallel::adopt;
use crate::epoch::Epoch;
use crate::experiment::checkpoint::{Found, KeptLearner, Position, RunState};
use crate::experiment::curve::LossCurve;
use crate::experiment::epochs::measured_after;
use crate::experiment::{CompletedEpoch, ExperimentError, Workload};
use crate::report::schema::{CurvePoint, EpochTime};
use burn_rehearsal::error::CheckpointError;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

impl<W: Workload> Run<'_, W> {
    /// Continues from a checkpoint.
    pub(super) fn resume(&mut self, found: Found) -> Result<(), ExperimentError> {
        let Found { mut state, learner, buffer } = found;
        let run = |RunState { method, seed, accuracy, .. }: &RunState| {
            format!("method {method}, seed {seed}, {} tasks", accuracy.top1.tasks())
        };
        let [before, now] = [run(&state), run(&self.state)];
        if before != now {
            return Err(CheckpointError::Foreign {
                path: buffer.with_file_name("manifest.json"),
                reason: format!("it belongs to a run with {before}; this run has {now}"),
            }
            .into());
        }
        if let Some(differences) = state.data.differences(&self.state.data) {
            return Err(ExperimentError::ChangedData(differences));
        }
        if let Some(own) = &self.buffer {
            own.restore(buffer, &self.device)?;
        }
        let (size, before) = (self.rank.size(), state.world_size);
        if before != size {
            state.world_size = size;
            state.earlier_world_sizes.push(before);
            if let Some((_, step)) = &mut state.position.within {
                // The number of samples already trained on, in steps of the new world size, rounded
                // down so that no sample is skipped.
                *step = *step * before as u64 / size as u64;
            }
        }
        if let Some(KeptLearner { parts, statistics }) = learner {
            let Position { task, within } = state.position;
            let steps_per_epoch = self.steps_per_epoch(self.incoming(task));
            let schedule = self.settings.schedule(size, steps_per_epoch)?;
            let (epoch, step) = within.unwrap_or((Epoch::FIRST, 0));
            let schedule = schedule.at_step(epoch.index() as u64 * steps_per_epoch as u64 + step);
            let model = self.model(&self.device.clone().autodiff());
            // The rates of a schedule depend on the number of ranks.
            let learner =
                adopt::read(model, self.workload.optimizer(), &schedule, parts, before == size)?;
            self.learner = Some(learner);
            self.strategy.set_statistics(&statistics);
        }
        // Checkpoints of older versions have no task-IL accuracies.
        let (tasks, learned) = (state.accuracy.top1.tasks(), state.position.task);
        state.accuracy.task_il = state.accuracy.task_il.padded(tasks, learned)?;
        state.epoch_times.resize(state.curves.len(), EpochTime::default());
        state.checkpoints.resumed += 1;
        self.curve = LossCurve::of_sums(&state.losses, state.seconds.clone());
        if let Some(loss_scale) = state.loss_scale {
            self.strategy.set_loss_scale(loss_scale);
        }
        self.augmented.store(state.augmented, Ordering::Relaxed);
        self.strategy.timer().add_counters(&state.phases);
        self.state = state;
        Ok(())
    }

    /// The epochs that were completed before the run resumed.
    pub(super) fn completed(&self) -> Vec<CompletedEpoch> {
        let RunState { position: Position { task, within }, curves, epoch_times, .. } = &self.state;
        let earlier = curves.iter().cloned().zip(epoch_times.iter().copied());
        let begun = within.map_or(0, |(epoch, _)| epoch.index());
        earlier
            .map(|(point, time)| CompletedEpoch { point, time })
            .chain(self.epochs_of(*task, *within).into_iter().take(begun))
            .collect()
    }

    /// The epochs of the current task so far. The last one may be incomplete: `at` is the next
    /// epoch and the number of steps done in it.
    pub(super) fn epochs_of(&self, task: usize, at: Option<(Epoch, u64)>) -> Vec<CompletedEpoch> {
        let incoming = self.incoming(task) as u64;
        let per_step = (self.settings.batch_size * self.rank.size()) as u64;
        let seconds = self.curve.seconds();
        let epoch = |(epoch, loss): (Epoch, f64)| {
            let samples = match at {
                Some((next, steps)) if next == epoch => (steps * per_step).min(incoming),
                _ => incoming,
            };
            let train_s = seconds.get(&epoch).copied().unwrap_or_default();
            let train_loss = Some(loss).filter(|loss| loss.is_finite());
            let top1 = measured_after(&self.state.measured, epoch);
            CompletedEpoch {
                point: CurvePoint { task, epoch, train_loss, top1 },
                time: EpochTime { train_s, samples },
            }
        };
        self.curve.means().into_iter().map(epoch).collect()
    }

    /// Waits for the last checkpoint and begins the next one, if the run has checkpoints.
    /// Collective.
    pub(super) fn checkpoint(&mut self, position: Position) -> Result<(), ExperimentError> {
        self.finish_checkpoint()?;
        let total_s = self.total_s();
        let Some(directories) = &mut self.directories else { return Ok(()) };
        let started = Instant::now();
        let records = self.records.take();
        let copied = records.as_ref().map_or(Duration::ZERO, |records| records.time);
        let mut state = RunState {
            position,
            loss_scale: self.strategy.loss_scale(),
            augmented: self.augmented.load(Ordering::Relaxed),
            total_s,
            phases: self.strategy.timer().counters(),
            losses: self.curve.sums(),
            seconds: self.curve.seconds(),
            buffer: None,
            ..self.state.clone()
        };
        state.checkpoints.written += 1;
        let buffer = self.buffer.clone();
        let begin_buffer = |directory: &Path| {
            Ok(buffer.map(|buffer| buffer.begin_checkpoint(directory)).transpose()?)
        };
        directories.begin(state, records, begin_buffer, self.collective.as_mut())?;
        self.state.checkpoints.written += 1;
        self.state.checkpoints.total_s += (copied + started.elapsed()).as_secs_f64();
        Ok(())
    }

    /// Waits until the last checkpoint is complete. Collective.
    pub(super) fn finish_checkpoint(&mut self) -> Result<(), ExperimentError> {
        let Some(directories) = &mut self.directories else { return Ok(()) };
        let started = Instant::now();
        let checkpoints = &mut self.state.checkpoints;
        if let Some(written) = directories.finish(self.collective.as_mut())? {
            checkpoints.bytes = written.bytes;
            checkpoints.background_s += written.time.as_secs_f64();
        }
        checkpoints.total_s += started.elapsed().as_secs_f64();
        Ok(())
    }

    /// The time of the run so far, in seconds.
    pub(super) fn total_s(&self) -> f64 {
        self.state.total_s + self.started.elapsed().as_secs_f64()
    }
}
