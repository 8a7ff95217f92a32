//! One launch on one rank: the epochs, in the order of Burn's single-device strategy, with the other ranks' consent at every turn.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use burn::data::dataloader::{DataLoader, DataLoaderIterator};
use burn::train::{
    EventProcessorTraining, InferenceStep, Interrupter, Learner, LearnerEvent, LearnerModel, SupervisedTrainingEventProcessor, TrainOutput,
    TrainStep, TrainingComponents, TrainingItem,
};
use burn_rehearsal_collective::Collective;

use super::agree::{Agreement, Status, agree};
use super::error::DataParallelError;
use super::gradients::GradientSync;
use super::loss_scale::with_factor;
use super::recorder::Recorder;
use super::{DataParallel, Link, Precision, Records, Stopped, adopt, lock, norm, params};
use crate::evaluate::EvaluateError;
use crate::phases::Phase;

type TrainLoader<M> = Arc<dyn DataLoader<<M as TrainStep>::Input>>;
type ValidLoader<M> = Arc<dyn DataLoader<<M as InferenceStep>::Input>>;
type TrainIterator<'a, M> = dyn DataLoaderIterator<<M as TrainStep>::Input> + 'a;
/// A batch and its number of rows.
type Counted<M> = (<M as TrainStep>::Input, usize);

pub(super) struct TrainingLoop<'a, M: LearnerModel> {
    strategy: &'a DataParallel<M>,
    learner: Learner<M>,
    train: TrainLoader<M>,
    valid: ValidLoader<M>,
    components: TrainingComponents<M>,
}

impl<'a, M: LearnerModel> TrainingLoop<'a, M> {
    pub(super) fn new(
        strategy: &'a DataParallel<M>,
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
            learner,
            train: train.to_device(&strategy.device),
            valid: valid.to_device(&strategy.device.clone().inner()),
            components,
        }
    }

    pub(super) fn into_parts(self) -> (Learner<M>, SupervisedTrainingEventProcessor<M>) {
        (self.learner, self.components.event_processor)
    }

    pub(super) fn run(&mut self, link: &mut Link, starting_epoch: usize) -> Result<(), DataParallelError> {
        let mut grads = self.prepare(link, starting_epoch)?;
        for epoch in starting_epoch..=self.components.num_epochs {
            let start = LearnerEvent::StartSplit { epoch_number: epoch, total_items: self.train.num_items() };
            let sent = self.components.event_processor.process_train(start);
            self.record_event_error(sent);
            let stopped = self.train_epoch(link, &mut grads)?;
            let middle = matches!(stopped, Some(Some(_)));
            self.sync_statistics(link, epoch, middle)?;
            if stopped.is_none()
                && let Some(hook) = &self.strategy.after_epoch
            {
                hook(&self.learner.model().valid(), epoch).map_err(|error| match error.downcast::<EvaluateError>() {
                    Ok(error) => (*error).into(),
                    Err(error) => DataParallelError::AfterEpoch { epoch, reason: error.to_string() },
                })?;
            }
            let sent = self.components.event_processor.process_train(LearnerEvent::EndSplit(epoch));
            self.record_event_error(sent);
            match stopped {
                None => {}
                Some(None) => self.stop_at(epoch + 1, 0),
                Some(Some(steps)) => self.stop_at(epoch, steps),
            }
            if stopped.is_some() {
                break;
            }

            self.validate(epoch);
            if !self.confirm(link, false, None)? {
                self.stop_at(epoch + 1, 0);
                break;
            }
            let saved = self.checkpoint(epoch);
            let early_stop = saved.is_ok() && self.wants_early_stop(epoch);
            if !self.confirm(link, early_stop, saved.err())? {
                self.stop_at(epoch + 1, 0);
                break;
            }
        }
        // Burn writes checkpoints on other threads; dropping the checkpointer waits for them, and their errors are still errors of this run.
        let checkpointer = self.components.checkpointer.take();
        let closed = unwind_to_error(|| drop(checkpointer), "the last checkpoint could not be written");
        let kept = self.keep_records(link)?;
        self.confirm(link, false, closed.err().or(kept.err())).map(drop)
    }

    fn stop_at(&self, epoch: usize, steps: u64) {
        *lock(&self.strategy.stopped) = Some(Stopped { epoch, steps });
    }

    /// Keeps what a checkpoint needs, if one may be written. The inner error is this rank's own.
    fn keep_records(&self, link: &mut Link) -> Result<Result<(), String>, DataParallelError> {
        if !self.strategy.keep_records {
            return Ok(Ok(()));
        }
        let started = Instant::now();
        let statistics = norm::gather(&self.learner.model(), &mut *link.collective)?;
        if self.strategy.rank != 0 {
            return Ok(Ok(()));
        }
        let mut recorder = lock(&self.strategy.recorder);
        Ok(match recorder.get_or_insert_with(Recorder::new).take(&self.learner, &self.components.event_store) {
            Ok(learner) => {
                *lock(&self.strategy.records) = Some(Records { learner, statistics, time: started.elapsed() });
                Ok(())
            }
            Err(error) => Err(error.to_string()),
        })
    }

    /// Makes all ranks agree on what they are about to do, and start from the same parameters.
    fn prepare(&mut self, link: &mut Link, starting_epoch: usize) -> Result<GradientSync<M>, DataParallelError> {
        let strategy = self.strategy;
        link.collective.set_step(link.step);
        let scale = *lock(&strategy.loss_scale);
        let settings = [
            ("the step", link.step),
            ("the first epoch", starting_epoch as u64),
            ("the number of epochs", self.components.num_epochs as u64),
            ("gradient accumulation", self.components.grad_accumulation.unwrap_or(0) as u64),
            ("averaging batch-norm statistics", u64::from(strategy.average_statistics)),
            ("comparing parameters", u64::from(strategy.check_parameters)),
            ("the precision", strategy.precision as u64),
            ("the factor of the loss", scale.factor as u64),
            ("the number of updates with this factor", scale.good.into()),
        ];
        adopt::check_settings(settings, &mut *link.collective)?;
        if !strategy.precision.is_supported_by(&strategy.device) {
            return Err(DataParallelError::Precision { precision: strategy.precision, device: crate::device::describe(&strategy.device) });
        }
        let params = params::list(&self.learner.model());
        if strategy.world_size > 1 {
            let mut recorder = lock(&strategy.recorder);
            adopt::copy_from_rank0(&mut self.learner, &params, &mut recorder, &self.components.event_store, &mut *link.collective)?;
        }
        if let Some(statistics) = lock(&strategy.statistics).take() {
            norm::set(&self.learner.model(), statistics)?;
        }
        let plain = strategy.precision == Precision::F32;
        Ok(GradientSync::new(strategy.world_size, plain, strategy.device.clone().inner(), &params))
    }

    /// Trains until no rank has another batch, or a rank was asked to stop: then it gives the number of steps done, or `None` for all.
    fn train_epoch(&mut self, link: &mut Link, grads: &mut GradientSync<M>) -> Result<Option<Option<u64>>, DataParallelError> {
        let group = self.components.grad_accumulation.unwrap_or(1);
        let train = self.train.clone();
        let mut iterator = train.iter();
        let mut iteration = 0;
        let mut steps = 0;
        // Steps whose gradients are collected but not applied.
        let mut pending = 0;
        loop {
            let started = Instant::now();
            link.step += 1;
            let (batch, agreement) = self.next(link, &mut *iterator)?;
            let rows = batch.as_ref().map_or(0, |(_, rows)| *rows);
            let mut output = None;
            if let Some((batch, rows)) = batch
                && rows > 0
            {
                iteration += 1;
                output = Some(self.forward_backward(link, batch, grads, rows as f64 / agreement.total_rows as f64)?);
            }
            if agreement.total_rows > 0 {
                pending += 1;
            }
            steps += 1;
            let last = agreement.exhausted || agreement.stop.is_some();
            if pending >= group || (last && pending > 0) {
                pending = 0;
                self.update(link, grads)?;
            }
            if let Some(output) = output {
                let item = TrainingItem::new(output, iterator.progress(), Some(iteration), Some(self.learner.lr_current()));
                let sent = self.components.event_processor.process_train(LearnerEvent::ProcessedItem(item));
                self.record_event_error(sent);
            }
            if agreement.total_rows > 0 {
                tracing::trace!(step = link.step, rows, total = agreement.total_rows, "trained");
                self.strategy.timer.add_step(started.elapsed());
            }
            if last {
                return Ok(agreement.stop.map(|_| (!agreement.exhausted).then_some(steps)));
            }
        }
    }

    /// This rank's next batch and its rows, if it has one, and what all ranks say to theirs.
    fn next(&mut self, link: &mut Link, iterator: &mut TrainIterator<'_, M>) -> Result<(Option<Counted<M>>, Agreement), DataParallelError> {
        let timer = &self.strategy.timer;
        // A rehearsal loader reports its own waiting and assembling to the same timer; the rest of the call is loading.
        let inside = || timer.total(Phase::Wait) + timer.total(Phase::Assemble);
        let (started, before) = (Instant::now(), inside());
        let item = iterator.next();
        let exhausted = item.is_none();
        let batch = match item {
            Some(Ok(batch)) => {
                let rows = (self.strategy.rows)(&batch);
                Some((batch, rows))
            }
            Some(Err(error)) => {
                // The status below tells it to the other ranks.
                self.components.interrupter.fail(error);
                None
            }
            None => None,
        };
        self.sync_if_profiling(link.step)?;
        timer.add(Phase::Load, started.elapsed().saturating_sub(inside().saturating_sub(before)));
        let rows = batch.as_ref().map_or(0, |(_, rows)| *rows as u64);
        let status = Status { rows, exhausted, ..self.status() };
        let agreement = self.agree(link, &status)?;
        Ok((batch, agreement))
    }

    fn forward_backward(
        &self,
        link: &Link,
        batch: <M as TrainStep>::Input,
        grads: &mut GradientSync<M>,
        share: f64,
    ) -> Result<<M as TrainStep>::Output, DataParallelError> {
        let started = Instant::now();
        let output = self.train_step(link.step, batch)?;
        self.sync_if_profiling(link.step)?;
        self.strategy.timer.add(Phase::ForwardBackward, started.elapsed());

        let started = Instant::now();
        grads.add(&self.learner.model(), output.grads, share as f32);
        self.sync_if_profiling(link.step)?;
        self.strategy.timer.add(Phase::AllReduce, started.elapsed());
        Ok(output.item)
    }

    /// The network's own step, in the precision of this run.
    fn train_step(&self, step: u64, batch: <M as TrainStep>::Input) -> Result<TrainOutput<<M as TrainStep>::Output>, DataParallelError> {
        let strategy = self.strategy;
        if strategy.precision == Precision::F32 {
            return Ok(self.learner.train_step(batch));
        }
        let model = strategy.precision.lower(self.learner.model());
        let factor = strategy.loss_scale().map(|scale| scale.factor);
        let (output, scaled) = with_factor(factor.unwrap_or(1.0), || TrainStep::step(&model, batch));
        if factor.is_some() && !scaled { Err(DataParallelError::LossNotScaled { step }) } else { Ok(output) }
    }

    /// Applies the collected gradients of all ranks; also on a rank that has none itself.
    fn update(&mut self, link: &mut Link, grads: &mut GradientSync<M>) -> Result<(), DataParallelError> {
        let started = Instant::now();
        let scale = self.strategy.loss_scale();
        let factor = scale.map(|scale| scale.factor);
        let reduced = grads.reduce(&self.learner.model(), &mut *link.collective, link.step, factor)?;
        if scale.is_some() {
            lock(&self.strategy.loss_scale).note(reduced.finite);
        }
        self.sync_if_profiling(link.step)?;
        self.strategy.timer.add(Phase::AllReduce, started.elapsed());

        let started = Instant::now();
        self.learner.lr_step();
        // All ranks have the same sums, and so leave out the same updates.
        if reduced.finite {
            self.learner.optimizer_step(reduced.grads);
        }
        self.sync_if_profiling(link.step)?;
        self.strategy.timer.add(Phase::Optimizer, started.elapsed());
        Ok(())
    }

    /// What happens between ranks after the last step of an epoch. If it was stopped in the `middle`, statistics stay each rank's own: whoever goes on from
    /// there averages them when the epoch ends.
    fn sync_statistics(&mut self, link: &mut Link, epoch: usize, middle: bool) -> Result<(), DataParallelError> {
        let strategy = self.strategy;
        if strategy.world_size > 1 {
            let model = self.learner.model();
            let average = strategy.average_statistics && !middle;
            if average {
                norm::average(&model, &mut *link.collective)?;
            }
            if strategy.check_parameters {
                params::check_equal_values(&model, average, epoch, &mut *link.collective)?;
            }
        }
        Ok(())
    }

    /// Burn's validation epoch over this rank's part; nothing collective happens in it.
    fn validate(&mut self, epoch: usize) {
        let start = LearnerEvent::StartSplit { epoch_number: epoch, total_items: self.valid.num_items() };
        let sent = self.components.event_processor.process_valid(start);
        self.record_event_error(sent);

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
            let item = TrainingItem::new(InferenceStep::step(&model, item), progress, Some(iteration), None);
            let sent = self.components.event_processor.process_valid(LearnerEvent::ProcessedItem(item));
            self.record_event_error(sent);
            if self.components.interrupter.should_stop() {
                break;
            }
        }

        let processor = &mut self.components.event_processor;
        let mut sent = vec![processor.process_valid(LearnerEvent::EndSplit(epoch)), processor.process_train(LearnerEvent::EndEpoch(epoch))];
        if self.components.checkpointer.is_some() || self.components.early_stopping.is_some() {
            sent.push(processor.flush());
        }
        sent.into_iter().for_each(|sent| self.record_event_error(sent));
    }

    /// Errors of the checkpointer's own threads come through the interrupter; what is an error here is a thread that is gone.
    fn checkpoint(&mut self, epoch: usize) -> Result<(), String> {
        let Some(mut checkpointer) = self.components.checkpointer.take() else { return Ok(()) };
        let (learner, store) = (&self.learner, &self.components.event_store);
        match unwind_to_error(|| checkpointer.checkpoint(learner, epoch, store), "a checkpoint could not be written") {
            Ok(()) => {
                self.components.checkpointer = Some(checkpointer);
                Ok(())
            }
            Err(error) => {
                // Dropping it would panic once for every thread that is gone, and a second panic while unwinding aborts the process.
                std::mem::forget(checkpointer);
                Err(error)
            }
        }
    }

    fn wants_early_stop(&mut self, epoch: usize) -> bool {
        let store = &self.components.event_store;
        self.components.early_stopping.as_mut().is_some_and(|early_stopping| early_stopping.should_stop(epoch, store))
    }

    /// Asks all ranks whether they go on: false if one was asked to stop, or if early stopping ends the run.
    fn confirm(&mut self, link: &mut Link, early_stop: bool, failed: Option<String>) -> Result<bool, DataParallelError> {
        let mut status = Status { early_stop, ..self.status() };
        status.failed = status.failed.or(failed);
        let agreement = self.agree(link, &status)?;
        Ok(agreement.stop.is_none() && !agreement.early_stop)
    }

    fn agree(&self, link: &mut Link, status: &Status) -> Result<Agreement, DataParallelError> {
        let collective: &mut dyn Collective = &mut *link.collective;
        let agreement = agree(collective, link.step, link.round, status)?;
        link.round += 1;
        let interrupter: &Interrupter = &self.components.interrupter;
        if let Some(rank) = agreement.stop
            && !interrupter.should_stop()
        {
            interrupter.stop(Some(&format!("rank {rank} was asked to stop")));
        }
        Ok(agreement)
    }

    /// What this rank's interrupter says.
    fn status(&self) -> Status {
        let interrupter = &self.components.interrupter;
        let failed = interrupter.error().map(|error| error.to_string());
        Status { stop: failed.is_none() && interrupter.should_stop(), failed, ..Status::default() }
    }

    fn record_event_error<E: Into<burn::train::TrainingError>>(&self, sent: Result<(), E>) {
        self.components.interrupter.fail_on_error(sent);
    }

    /// The border between two phases: when profiling, waits until the device has finished the first.
    fn sync_if_profiling(&self, step: u64) -> Result<(), DataParallelError> {
        if self.strategy.timer.is_profiling() {
            self.strategy.device.sync().map_err(|error| DataParallelError::Device { step, reason: format!("{error:?}") })?;
        }
        Ok(())
    }
}

fn unwind_to_error<T>(work: impl FnOnce() -> T, what: &str) -> Result<T, String> {
    // What the work owns is dropped by the unwinding and not looked at again.
    catch_unwind(AssertUnwindSafe(work)).map_err(|payload| {
        let words = payload.downcast_ref::<String>().map(String::as_str).or_else(|| payload.downcast_ref::<&str>().copied());
        format!("{what}: {}", words.unwrap_or("Burn's checkpointer panicked"))
    })
}
