//! One launch on one rank. The epochs follow the order of Burn's single-device strategy, and all
//! ranks agree on every step.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use super::agree::{Agreement, Status, agree};
use super::error::{DataParallelError, HookError};
use super::gradients::GradientSync;
use super::loss_scale::with_factor;
use super::projection::with_reference;
use super::recorder::Recorder;
use super::{DataParallel, Precision, Records, Session, Stopped, adopt, norm, params};
use crate::compat::{end_epoch, end_split, start_split};
use crate::epoch::Epoch;
use crate::phases::Phase;
use burn::data::dataloader::{DataLoader, DataLoaderIterator};
use burn::train::{
    EventProcessorTraining, InferenceStep, Interrupter, Learner, LearnerEvent, LearnerModel,
    SupervisedTrainingEventProcessor, TrainOutput, TrainStep, TrainingComponents, TrainingItem,
};
use burn_rehearsal_collective::panic_message;

type TrainLoader<M> = Arc<dyn DataLoader<<M as TrainStep>::Input>>;
type ValidLoader<M> = Arc<dyn DataLoader<<M as InferenceStep>::Input>>;
type TrainIterator<'a, M> = dyn DataLoaderIterator<<M as TrainStep>::Input> + 'a;

/// One launch on one rank.
pub(super) struct TrainingLoop<'a, M: LearnerModel> {
    strategy: &'a DataParallel<M>,
    session: Session<M>,
    learner: Learner<M>,
    train: TrainLoader<M>,
    valid: ValidLoader<M>,
    components: TrainingComponents<M>,
}

/// The end of a launch that did not fail.
pub(super) struct Ended<M: LearnerModel> {
    pub(super) session: Session<M>,
    pub(super) stopped: Option<Stopped>,
    pub(super) records: Option<Records>,
}

impl<'a, M: LearnerModel> TrainingLoop<'a, M> {
    pub(super) fn new(
        strategy: &'a DataParallel<M>,
        session: Session<M>,
        mut components: TrainingComponents<M>,
        mut learner: Learner<M>,
        train: TrainLoader<M>,
        valid: ValidLoader<M>,
    ) -> Self {
        if strategy.rank != 0 {
            components.checkpointer = None;
            components.early_stopping = None;
        }
        learner.fork(&strategy.device);
        strategy.timer.observe_device(&strategy.device);
        Self {
            strategy,
            session,
            learner,
            train: train.to_device(&strategy.device),
            valid: valid.to_device(&strategy.device.clone().inner()),
            components,
        }
    }

    /// Runs all epochs from `starting_epoch` on. An error drops the session.
    pub(super) fn run(
        mut self,
        starting_epoch: Epoch,
    ) -> (Learner<M>, SupervisedTrainingEventProcessor<M>, Result<Ended<M>, DataParallelError>)
    {
        let ended = self.epochs(starting_epoch).and_then(|stopped| Ok((stopped, self.finish()?)));
        let Self { session, learner, components, .. } = self;
        let ended = ended.map(|(stopped, records)| Ended { session, stopped, records });
        (learner, components.event_processor, ended)
    }

    /// Trains and validates. Returns the point at which the run was stopped, if it was.
    fn epochs(&mut self, starting_epoch: Epoch) -> Result<Option<Stopped>, DataParallelError> {
        let mut grads = self.prepare(starting_epoch)?;
        for epoch in (starting_epoch.number()..=self.components.num_epochs).map(Epoch::from_number)
        {
            self.report_train(start_split(epoch, self.train.num_items()));
            let stopped = self.train_epoch(epoch, &mut grads)?;
            self.sync_statistics(epoch, stopped.is_some_and(|stopped| stopped.epoch == epoch))?;
            if stopped.is_none()
                && let Some(hook) = &self.strategy.after_epoch
            {
                hook(&self.learner.model().valid(), epoch).map_err(|error| {
                    DataParallelError::AfterEpoch { epoch, error: HookError(error.into()) }
                })?;
            }
            self.report_train(end_split(epoch));
            if stopped.is_some() {
                return Ok(stopped);
            }

            self.validate(epoch);
            let after_this_epoch = Ok(Some(Stopped { epoch: epoch.next(), steps: 0 }));
            if !self.confirm(false, None)? {
                return after_this_epoch;
            }
            let saved = self.checkpoint(epoch);
            let early_stop = saved.is_ok() && self.wants_early_stop(epoch);
            if !self.confirm(early_stop, saved.err())? {
                return after_this_epoch;
            }
        }
        Ok(None)
    }

    /// Waits for the last checkpoint. Keeps the records of the learner on rank 0 if they are
    /// requested.
    fn finish(&mut self) -> Result<Option<Records>, DataParallelError> {
        // Burn writes checkpoints on other threads. Dropping the checkpointer waits for them, and
        // their errors belong to this launch.
        let checkpointer = self.components.checkpointer.take();
        let closed =
            unwind_to_error(|| drop(checkpointer), "the last checkpoint could not be written");
        let (mut records, mut failed) = (None, closed.err());
        if self.strategy.keep_records {
            let started = Instant::now();
            let statistics = norm::gather(&self.learner.model(), &mut *self.session.collective)?;
            if self.strategy.rank == 0 {
                let recorder = self.session.recorder.get_or_insert_with(Recorder::new);
                match recorder.take(&self.learner, &self.components.event_store) {
                    Ok(learner) => {
                        records = Some(Records { learner, statistics, time: started.elapsed() })
                    }
                    Err(error) => failed = failed.or(Some(error.to_string())),
                }
            }
        }
        self.confirm(false, failed)?;
        Ok(records)
    }

    /// Checks that all ranks are about to do the same, and gives them the same parameters.
    fn prepare(&mut self, starting_epoch: Epoch) -> Result<GradientSync<M>, DataParallelError> {
        let Self { strategy, session, .. } = self;
        session.collective.set_step(session.step);
        let settings = [
            ("the step", session.step),
            ("the first epoch", starting_epoch.number() as u64),
            ("the number of epochs", self.components.num_epochs as u64),
            ("gradient accumulation", self.components.grad_accumulation.unwrap_or(0) as u64),
            ("averaging batch-norm statistics", u64::from(strategy.average_statistics)),
            ("comparing parameters", u64::from(strategy.check_parameters)),
            ("the precision", strategy.precision as u64),
            ("the factor of the loss", session.loss_scale.factor as u64),
            ("the number of updates with this factor", session.loss_scale.good.into()),
        ];
        adopt::check_settings(settings, &mut *session.collective)?;
        if !strategy.precision.is_supported_by(&strategy.device) {
            return Err(DataParallelError::Precision {
                precision: strategy.precision,
                device: crate::device::describe(&strategy.device),
            });
        }
        let params = params::list(&self.learner.model());
        if strategy.world_size > 1 {
            let store = &self.components.event_store;
            adopt::copy_from_rank0(
                &mut self.learner,
                &params,
                &mut session.recorder,
                store,
                &mut *session.collective,
            )?;
        }
        if let Some(statistics) = session.statistics.take() {
            norm::set(&self.learner.model(), statistics)?;
        }
        let plain = strategy.precision == Precision::F32;
        Ok(GradientSync::new(strategy.world_size, plain, strategy.device.clone().inner(), &params))
    }

    /// Trains until no rank has another batch or a rank was asked to stop. Returns the next step if
    /// it was stopped.
    fn train_epoch(
        &mut self,
        epoch: Epoch,
        grads: &mut GradientSync<M>,
    ) -> Result<Option<Stopped>, DataParallelError> {
        let group = self.components.grad_accumulation.unwrap_or(1);
        let train = self.train.clone();
        let mut iterator = train.iter();
        let mut iteration = 0;
        let mut steps = 0;
        // Steps whose gradients are collected but not applied.
        let mut pending = 0;
        loop {
            let started = Instant::now();
            self.session.step += 1;
            let (batch, rows, agreement) = self.next(&mut *iterator)?;
            let mut output = None;
            if let Some(batch) = batch
                && rows > 0
            {
                iteration += 1;
                let share = rows as f64 / agreement.total_rows as f64;
                output = Some(self.forward_backward(batch, grads, share)?);
            }
            if agreement.total_rows > 0 {
                pending += 1;
            }
            steps += 1;
            let last = agreement.exhausted || agreement.stop.is_some();
            if pending >= group || (last && pending > 0) {
                pending = 0;
                self.update(grads)?;
            }
            if let Some(output) = output {
                self.report_train(LearnerEvent::ProcessedItem(TrainingItem::new(
                    output,
                    iterator.progress(),
                    Some(iteration),
                    Some(self.learner.lr_current()),
                )));
            }
            if agreement.total_rows > 0 {
                tracing::trace!(
                    step = self.session.step,
                    rows,
                    total = agreement.total_rows,
                    "trained"
                );
                self.strategy.timer.add_step(started.elapsed());
            }
            if last {
                let next = if agreement.exhausted {
                    Stopped { epoch: epoch.next(), steps: 0 }
                } else {
                    Stopped { epoch, steps }
                };
                return Ok(agreement.stop.map(|_| next));
            }
        }
    }

    /// The next batch of this rank, if it has one, the number of its rows, and the agreement of all
    /// ranks on this step.
    fn next(
        &mut self,
        iterator: &mut TrainIterator<'_, M>,
    ) -> Result<(Option<<M as TrainStep>::Input>, u64, Agreement), DataParallelError> {
        let started = Instant::now();
        let item = iterator.next().transpose();
        let exhausted = matches!(item, Ok(None));
        // The status below reports the error to the other ranks.
        let batch = item.unwrap_or_else(|error| {
            self.components.interrupter.fail(error);
            None
        });
        let rows = batch.as_ref().map_or(0, |batch| (self.strategy.rows)(batch) as u64);
        self.end_phase(Phase::Load, started)?;
        let agreement = self.agree(&Status { rows, exhausted, ..self.status() })?;
        Ok((batch, rows, agreement))
    }

    fn forward_backward(
        &self,
        batch: <M as TrainStep>::Input,
        grads: &mut GradientSync<M>,
        share: f64,
    ) -> Result<<M as TrainStep>::Output, DataParallelError> {
        let started = Instant::now();
        let (output, reference) = with_reference(|| self.train_step(batch));
        let output = output?;
        self.end_phase(Phase::ForwardBackward, started)?;

        let started = Instant::now();
        let model = self.learner.model();
        if let Some(reference) = reference {
            grads.add_reference(&model, reference);
        }
        grads.add(&model, output.grads, share as f32);
        self.end_phase(Phase::AllReduce, started)?;
        Ok(output.item)
    }

    /// Runs the network's training step in the precision of this run.
    fn train_step(
        &self,
        batch: <M as TrainStep>::Input,
    ) -> Result<TrainOutput<<M as TrainStep>::Output>, DataParallelError> {
        let strategy = self.strategy;
        if strategy.precision == Precision::F32 {
            return Ok(self.learner.train_step(batch));
        }
        let model = strategy.precision.lower(self.learner.model());
        let factor = self.loss_factor();
        let (output, scaled) =
            with_factor(factor.unwrap_or(1.0), || TrainStep::step(&model, batch));
        if factor.is_some() && !scaled {
            Err(DataParallelError::LossNotScaled { step: self.session.step })
        } else {
            Ok(output)
        }
    }

    /// The factor of the loss, if the loss is scaled.
    fn loss_factor(&self) -> Option<f32> {
        self.strategy.precision.scales_loss().then_some(self.session.loss_scale.factor)
    }

    /// Applies the collected gradients of all ranks, even on a rank that has none itself.
    fn update(&mut self, grads: &mut GradientSync<M>) -> Result<(), DataParallelError> {
        let started = Instant::now();
        let factor = self.loss_factor();
        let reduced = grads.reduce(
            &self.learner.model(),
            &mut *self.session.collective,
            self.session.step,
            factor,
        )?;
        if factor.is_some() {
            self.session.loss_scale.record(reduced.finite);
        }
        self.end_phase(Phase::AllReduce, started)?;

        let started = Instant::now();
        self.learner.lr_step();
        // All ranks have the same sums, so they skip the same updates.
        if reduced.finite {
            self.learner.optimizer_step(reduced.grads);
        }
        self.end_phase(Phase::Optimizer, started)?;
        Ok(())
    }

    /// Averages statistics and compares parameters after an epoch. If the epoch was stopped in the
    /// `middle`, each rank keeps its own statistics; they are averaged when the epoch ends.
    fn sync_statistics(&mut self, epoch: Epoch, middle: bool) -> Result<(), DataParallelError> {
        let strategy = self.strategy;
        if strategy.world_size > 1 {
            let model = self.learner.model();
            let average = strategy.average_statistics && !middle;
            if average {
                norm::average(&model, &mut *self.session.collective)?;
            }
            if strategy.check_parameters {
                params::check_equal_values(&model, average, epoch, &mut *self.session.collective)?;
            }
        }
        Ok(())
    }

    /// Runs Burn's validation epoch over the part of this rank. Nothing in it is collective.
    fn validate(&mut self, epoch: Epoch) {
        self.report_valid(start_split(epoch, self.valid.num_items()));
        let model = self.learner.model().valid();
        let valid = self.valid.clone();
        let mut iterator = valid.iter();
        let mut iteration = 0;
        while let Some(item) = iterator.next() {
            let item = match item {
                Ok(item) => item,
                Err(error) => {
                    self.components.interrupter.fail(error);
                    break;
                }
            };
            let progress = iterator.progress();
            iteration += 1;
            let output = InferenceStep::step(&model, item);
            let item = TrainingItem::new(output, progress, Some(iteration), None);
            self.report_valid(LearnerEvent::ProcessedItem(item));
            if self.components.interrupter.should_stop() {
                break;
            }
        }
        self.report_valid(end_split(epoch));
        self.report_train(end_epoch(epoch));
        if self.components.checkpointer.is_some() || self.components.early_stopping.is_some() {
            let sent = self.components.event_processor.flush();
            self.components.interrupter.fail_on_error(sent);
        }
    }

    /// Starts a checkpoint. Errors of the checkpointer's threads arrive through the interrupter. An
    /// error here means that such a thread is gone.
    fn checkpoint(&mut self, epoch: Epoch) -> Result<(), String> {
        let Some(mut checkpointer) = self.components.checkpointer.take() else { return Ok(()) };
        let (learner, store) = (&self.learner, &self.components.event_store);
        match unwind_to_error(
            || checkpointer.checkpoint(learner, epoch.number(), store),
            "a checkpoint could not be written",
        ) {
            Ok(()) => {
                self.components.checkpointer = Some(checkpointer);
                Ok(())
            }
            Err(error) => {
                // Dropping it would panic once for every thread that is gone, and a second panic
                // during unwinding aborts the process.
                std::mem::forget(checkpointer);
                Err(error)
            }
        }
    }

    fn wants_early_stop(&mut self, epoch: Epoch) -> bool {
        let store = &self.components.event_store;
        self.components
            .early_stopping
            .as_mut()
            .is_some_and(|early_stopping| early_stopping.should_stop(epoch.number(), store))
    }

    /// Agrees with all ranks on whether they continue. Returns false if a rank was asked to stop,
    /// or if early stopping ends the run.
    fn confirm(
        &mut self,
        early_stop: bool,
        failed: Option<String>,
    ) -> Result<bool, DataParallelError> {
        let mut status = Status { early_stop, ..self.status() };
        status.failed = status.failed.or(failed);
        let agreement = self.agree(&status)?;
        Ok(agreement.stop.is_none() && !agreement.early_stop)
    }

    fn agree(&mut self, status: &Status) -> Result<Agreement, DataParallelError> {
        let Session { collective, step, round, .. } = &mut self.session;
        let agreement = agree(&mut **collective, *step, *round, status)?;
        *round += 1;
        let interrupter: &Interrupter = &self.components.interrupter;
        if let Some(rank) = agreement.stop
            && !interrupter.should_stop()
        {
            interrupter.stop(Some(&format!("rank {rank} was asked to stop")));
        }
        Ok(agreement)
    }

    /// The state of this rank's interrupter.
    fn status(&self) -> Status {
        let interrupter = &self.components.interrupter;
        let failed = interrupter.error().map(|error| error.to_string());
        Status { stop: failed.is_none() && interrupter.should_stop(), failed, ..Status::default() }
    }

    fn report_train(&mut self, event: LearnerEvent<<M as TrainStep>::Output>) {
        let sent = self.components.event_processor.process_train(event);
        self.components.interrupter.fail_on_error(sent);
    }

    fn report_valid(&mut self, event: LearnerEvent<<M as InferenceStep>::Output>) {
        let sent = self.components.event_processor.process_valid(event);
        self.components.interrupter.fail_on_error(sent);
    }

    /// Adds the time since `started` to a phase. When profiling, the phase ends when the device has
    /// finished its work.
    fn end_phase(&self, phase: Phase, started: Instant) -> Result<(), DataParallelError> {
        if self.strategy.timer.is_profiling() {
            self.strategy.device.sync().map_err(|error| DataParallelError::Device {
                step: self.session.step,
                reason: format!("{error:?}"),
            })?;
        }
        self.strategy.timer.add(phase, started.elapsed());
        Ok(())
    }
}

fn unwind_to_error<T>(work: impl FnOnce() -> T, what: &str) -> Result<T, String> {
    // Unwinding drops everything that `work` owns, and nothing uses it afterwards.
    catch_unwind(AssertUnwindSafe(work))
        .map_err(|payload| format!("{what}: {}", panic_message(payload.as_ref())))
}
