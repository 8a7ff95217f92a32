//! One rank's part of a run.

mod outcome;
mod resume;

use super::checkpoint::{Directories, Found, Position, share};
use super::curve::{LossCurve, TrainingProgress};
use super::epochs::EpochAccuracies;
use super::progress::Sampled;
use super::{
    Experiment, ExperimentError, LaunchInfo, Observer, ProgressReader, Settings, Workload,
    agreement,
};
use crate::augmentation::AugmentLoader;
use crate::data_parallel::{DataParallel, Outcome, Records, Stopped, without_renderer};
use crate::epoch::Epoch;
use crate::evaluate::evaluate;
use crate::fingerprint::Fingerprint;
use crate::methods::{MethodModel, MethodRef};
use crate::metrics::AccuracyMatrix;
use crate::phases::PhaseTimer;
use crate::report::RunReport;
use crate::report::schema::{Accuracy, CheckpointTime, CurvePoint, EpochTime};
use crate::stream::select;
use crate::weights::save_safetensors;
use burn::data::dataloader::DataLoader;
use burn::module::Module;
use burn::tensor::Device;
use burn::train::metric::{AccuracyMetric, LossMetric};
use burn::train::{Interrupter, Learner, SupervisedTraining, TrainingStrategy};
use burn_rehearsal::checkpoint::CheckpointError;
use burn_rehearsal::{RehearsalBuffer, RehearsalMetric, RehearsalStat, ShardedLoader};
use burn_rehearsal_collective::{Collective, CollectiveExt, Rank};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

/// The network of a run, under its method.
type Model<W> = MethodModel<<W as Workload>::Model>;

/// Rows per step of an evaluation.
const EVALUATION_BATCH: usize = 256;

impl<W: Workload> Experiment<'_, W> {
    /// Runs all tasks on this rank and returns the report, the same on all ranks except for times,
    /// and for curves, which only rank 0 keeps.
    ///
    /// A run that was stopped through its [`Interrupter`] returns what was done so far, with
    /// `complete: false`.
    ///
    /// # Errors
    ///
    /// [`ExperimentError`]; if one rank fails, all do.
    pub fn run(&self, rank: &Rank) -> Result<RunReport, ExperimentError> {
        let Self { workload, method, settings, .. } = *self;
        let mut collective = rank.collective()?;
        collective.set_purpose("tasks");
        let data = agreement::with_stream(workload.fingerprint(), workload.stream());
        // Before anything that would not return if it differed.
        agreement::compare(method, settings, &data, collective.as_mut())?;
        if settings.epochs == 0 || settings.batch_size == 0 {
            return Err(ExperimentError::Settings(
                "the number of epochs and the batch size must be at least 1".into(),
            ));
        }
        let started = Instant::now();
        let timer = if settings.profile { PhaseTimer::profiling() } else { PhaseTimer::new() };
        let buffer = match (&settings.rehearsal, method.rehearses()) {
            (Some(rehearsal), true) => {
                rehearsal
                    .validate_batch_size(settings.batch_size)
                    .map_err(burn_rehearsal::error::RehearsalError::from)?;
                Some(rehearsal.init_on(rank)?)
            }
            (None, true) => {
                return Err(ExperimentError::Settings(format!(
                    "the method {method} needs a rehearsal buffer"
                )));
            }
            (_, false) => None,
        };
        let mut strategy = DataParallel::new(rank)?
            .with_device(self.device.clone())
            .with_timer(timer)
            .with_precision(settings.precision)
            .with_records(settings.checkpoints.is_some());
        let tasks = workload.stream().tasks();
        let epochs = EpochAccuracies::default();
        if settings.evaluate_every > 0 {
            let part = |task| {
                part(
                    workload,
                    settings,
                    collective.as_ref(),
                    &self.device,
                    workload.stream().test(task).to_vec(),
                )
            };
            let parts = (0..tasks).map(part).collect();
            let mut ranks = rank.collective()?;
            ranks.set_purpose("evaluation");
            strategy = strategy.with_after_epoch(epochs.hook(
                settings.evaluate_every,
                settings.epochs,
                parts,
                ranks,
            ));
        }
        let interrupter = Interrupter::new();
        self.observer.interrupter(&interrupter);
        let mut run = Run {
            workload,
            method,
            settings,
            data,
            collective,
            device: self.device.clone(),
            observer: self.observer,
            interrupter,
            strategy: Arc::new(strategy),
            buffer,
            accuracy: Accuracy {
                top1: AccuracyMatrix::new(tasks),
                top5: AccuracyMatrix::new(tasks),
                initial_top1: None,
            },
            curves: Vec::new(),
            epoch_times: Vec::new(),
            epochs,
            learner: None,
            augmented: Arc::default(),
            train_time: Duration::ZERO,
            samples: 0,
            curve: LossCurve::default(),
            measured: Vec::new(),
            records: None,
            started,
            total_before: 0.0,
            earlier_world_sizes: Vec::new(),
            checkpoints: CheckpointTime::default(),
        };
        let complete = run.tasks()?;
        run.report(self.configuration.clone(), complete)
    }
}

/// How a launch ended.
struct Launched<M> {
    model: M,
    stopped: Option<Stopped>,
}

struct Run<'a, W: Workload> {
    workload: &'a W,
    method: MethodRef,
    settings: &'a Settings,
    data: Fingerprint,
    /// For evaluations; gradients and rows have their own.
    collective: Box<dyn Collective>,
    device: Device,
    observer: &'a dyn Observer,
    interrupter: Interrupter,
    strategy: Arc<DataParallel<Model<W>>>,
    buffer: Option<RehearsalBuffer<W::Batch>>,
    accuracy: Accuracy,
    curves: Vec<CurvePoint>,
    /// What the epochs of `curves` took.
    epoch_times: Vec<EpochTime>,
    epochs: EpochAccuracies,
    /// What the last task left: parameters, optimiser state, schedule.
    learner: Option<Learner<Model<W>>>,
    /// The number of the next step whose mini-batch is augmented; it is not reset between tasks.
    augmented: Arc<AtomicU64>,
    train_time: Duration,
    /// Incoming rows trained on so far, over all ranks.
    samples: u64,
    /// The losses of the task in hand.
    curve: LossCurve,
    /// Accuracies in the middle of that task: the epoch and top-1 on every task.
    measured: Vec<(Epoch, Vec<f64>)>,
    /// The learner as the last launch left it; on rank 0, and only if there are checkpoints.
    records: Option<Records>,
    started: Instant,
    /// The run's time before it resumed from a checkpoint, in seconds.
    total_before: f64,
    earlier_world_sizes: Vec<usize>,
    checkpoints: CheckpointTime,
}

impl<W: Workload> Run<'_, W> {
    /// Learns one task after the other; false if the run was stopped before the end.
    fn tasks(&mut self) -> Result<bool, ExperimentError> {
        let (mut directories, found) = match &self.settings.checkpoints {
            Some(checkpoints) => {
                let (directories, found) =
                    Directories::open(checkpoints, self.collective.as_mut())?;
                (Some(directories), found)
            }
            None => (None, None),
        };
        let complete = self.all_tasks(found, directories.as_mut())?;
        self.finish_checkpoint(directories.as_mut())?;
        Ok(complete)
    }

    fn all_tasks(
        &mut self,
        found: Option<Found>,
        mut directories: Option<&mut Directories<'_>>,
    ) -> Result<bool, ExperimentError> {
        let settings = self.settings;
        let mut position = Position { task: 0, within: None };
        match found {
            Some(found) => {
                let before = found.state.world_size;
                position = self.resume(found)?;
                self.ready()?;
                if self.collective.rank() == 0 {
                    self.observer.resumed(
                        position.task,
                        position.within,
                        before,
                        &self.completed(position),
                    );
                }
            }
            None => {
                self.ready()?;
                let untrained = self.model(&self.device).valid();
                let (initial, _) = self.evaluate(&untrained)?;
                self.accuracy.initial_top1 = Some(initial);
            }
        }
        let tasks = self.workload.stream().tasks();
        for task in position.task..tasks {
            let within = position.within.take();
            let Some(model) = self.learn(task, within, directories.as_deref_mut())? else {
                return Ok(false);
            };
            let (top1, top5) = self.evaluate(&model)?;
            let measured = |values: &[f64]| values.iter().copied().map(Some).collect::<Vec<_>>();
            if let Some(last) = self.curves.last_mut() {
                last.top1 = measured(&top1);
            }
            self.accuracy.top1.push_row(&measured(&top1))?;
            self.accuracy.top5.push_row(&measured(&top5))?;
            if self.collective.rank() == 0 {
                self.observer.evaluated(task, &top1);
            }
            if let Some(path) = &settings.network
                && task + 1 == tasks
                && self.collective.rank() == 0
            {
                save_safetensors(&model.network, path)?;
            }
            if task + 1 < tasks {
                self.checkpoint(
                    Position { task: task + 1, within: None },
                    directories.as_deref_mut(),
                )?;
            }
        }
        Ok(true)
    }

    /// The start has succeeded on all ranks: from now on files are written. Collective.
    fn ready(&mut self) -> Result<(), ExperimentError> {
        let ready = if self.collective.rank() == 0 { self.observer.ready() } else { Ok(()) };
        share(ready.map_err(ExperimentError::Observer), self.collective.as_mut()).map_err(|error| {
            match error {
                ExperimentError::Checkpoint(CheckpointError::Rank(rank)) => {
                    ExperimentError::Observer(format!("rank {rank} could not begin the run").into())
                }
                error => error,
            }
        })
    }

    /// The samples that arrive with `task`.
    fn indices(&self, task: usize) -> Vec<usize> {
        let stream = self.workload.stream();
        if self.method.restarts() { stream.train_so_far(task) } else { stream.train(task).to_vec() }
    }

    /// A new network under the method.
    fn model(&self, device: &Device) -> Model<W> {
        MethodModel::new(self.workload.model(device, self.settings.seed), self.method)
    }

    fn steps_per_epoch(&self, incoming: usize) -> usize {
        incoming.div_ceil(self.settings.batch_size * self.collective.size())
    }

    /// Trains on one task, or on what is left of it from `within` on; `None` if the run was stopped
    /// meanwhile.
    fn learn(
        &mut self,
        task: usize,
        within: Option<(Epoch, u64)>,
        mut directories: Option<&mut Directories<'_>>,
    ) -> Result<Option<Model<W>>, ExperimentError> {
        let settings = self.settings;
        let indices = self.indices(task);
        let incoming = indices.len();
        let no_learner = || ExperimentError::Training("the last launch left no learner".into());
        let mut learner = match within {
            Some(_) => self.learner.take().ok_or_else(no_learner)?,
            None => self.begin(task, incoming)?,
        };
        let (mut epoch, mut step) = within.unwrap_or((Epoch::FIRST, 0));
        let every = settings
            .checkpoints
            .as_ref()
            .and_then(|checkpoints| checkpoints.every)
            .unwrap_or(settings.epochs)
            .max(1);
        loop {
            let end =
                Epoch::from_number((epoch.number().div_ceil(every) * every).min(settings.epochs));
            let loader = self.train_loader(task, indices.clone(), (epoch, step));
            let before = self.strategy.timer().steps();
            let Launched { model, stopped } = self.launch(task, learner, loader, epoch, end)?;
            // Every rank counts the steps in which any rank had rows.
            if stopped.is_none() && step == 0 && self.strategy.timer().steps() == before {
                return Err(ExperimentError::Data(format!(
                    "there is no training sample of task {}, or none that can be used",
                    task + 1
                )));
            }
            let at = match stopped {
                Some(Stopped { epoch: stopped, steps }) => {
                    (stopped, if stopped == epoch { step + steps } else { steps })
                }
                None => (end.next(), 0),
            };
            if stopped.is_some() || end.number() < settings.epochs {
                self.checkpoint(Position { task, within: Some(at) }, directories.as_deref_mut())?;
            }
            if stopped.is_none() && end.number() < settings.epochs {
                (epoch, step) = at;
                learner = self.learner.take().ok_or_else(no_learner)?;
                continue;
            }
            let (points, times) = self.epochs_of(task, stopped.is_some().then_some(at));
            self.curves.extend(points);
            self.epoch_times.extend(times);
            (self.curve, self.measured) = Default::default();
            if stopped.is_some() {
                return Ok(None);
            }
            self.samples += (incoming * settings.epochs) as u64;
            return Ok(Some(model));
        }
    }

    /// The learner that a task starts with; the buffer learns of the task.
    fn begin(
        &mut self,
        task: usize,
        incoming: usize,
    ) -> Result<Learner<Model<W>>, ExperimentError> {
        let schedule =
            self.settings.schedule(self.collective.size(), self.steps_per_epoch(incoming))?;
        let fresh = |model| Learner::new(model, self.workload.optimizer(), schedule.clone());
        let learner = match self.learner.take().filter(|_| !self.method.restarts()) {
            None => fresh(self.model(&self.device.clone().autodiff())),
            Some(learner) if !self.settings.keep_optimizer => fresh(learner.model()),
            Some(mut learner) => {
                learner.load_scheduler(schedule.restart_record());
                learner
            }
        };
        if let Some(buffer) = &self.buffer {
            buffer.begin_task(task)?;
        }
        Ok(learner)
    }

    /// Trains from `epoch` to the end of epoch `end`.
    fn launch(
        &mut self,
        task: usize,
        learner: Learner<Model<W>>,
        loader: Arc<dyn DataLoader<W::Batch>>,
        epoch: Epoch,
        end: Epoch,
    ) -> Result<Launched<Model<W>>, ExperimentError> {
        let strategy: TrainingStrategy<Model<W>> = TrainingStrategy::Custom(self.strategy.clone());
        // Nothing is written there: no checkpoints, no log and a metric logger of our own.
        let training = SupervisedTraining::new(std::env::temp_dir(), loader, self.part(Vec::new()))
            .num_epochs(end.number())
            .with_interrupter(self.interrupter.clone())
            .with_training_strategy(strategy);
        // Without a checkpointer, no more than the number of epochs that are behind.
        let training =
            if epoch > Epoch::FIRST { training.checkpoint(epoch.index()) } else { training };
        let training = if self.collective.rank() == 0 {
            let mut training = training
                .with_application_logger(None)
                .with_metric_logger(self.curve.clone())
                .metric_train_numeric(LossMetric::new())
                .metric_train_numeric(Sampled::new(AccuracyMetric::new()));
            if let Some(buffer) = self.buffer.as_ref().filter(|_| self.observer.buffer_metrics()) {
                for measure in RehearsalStat::ALL {
                    training = training.metric_train_numeric(RehearsalMetric::new(buffer, measure));
                }
            }
            let reader = ProgressReader::new(self.strategy.timer().clone(), self.buffer.clone());
            let launch = LaunchInfo { task, epoch, reader };
            let training = training.renderer(self.observer.renderer(&launch));
            self.curve.begin_launch(TrainingProgress {
                task,
                samples: self.indices(task).len(),
                accuracies: self.epochs.clone(),
                interrupter: self.interrupter.clone(),
                sink: self.observer.epochs(&launch),
                since: (Instant::now(), Duration::ZERO),
            });
            training
        } else {
            without_renderer(training)
        };
        let started = Instant::now();
        let result = training.launch(learner);
        self.curve.end_launch();
        let measured = self.epochs.take();
        self.train_time += started.elapsed().saturating_sub(measured.time);
        // Burn keeps the first error of this rank, the strategy what all ranks agreed on: the first
        // is nearer to the cause.
        if let Some(error) = result.error {
            return Err(ExperimentError::of_training(&error));
        }
        let Some(Outcome { learner, error, stopped, records, .. }) = self.strategy.take_outcome()
        else {
            return Err(ExperimentError::Training("the launch did not train".into()));
        };
        if let Some(error) = error {
            return Err(error.into());
        }
        self.measured.extend(measured.top1);
        (self.learner, self.records) = (learner, records);
        // A stop that comes after the last step is one that some ranks may have seen and others
        // not: all do what the first of them does.
        let seen = self.collective.any(result.interrupted.is_some())?;
        let late = seen.then_some(Stopped { epoch: end.next(), steps: 0 });
        Ok(Launched { model: result.model, stopped: stopped.or(late) })
    }

    /// This rank's mini-batches of a task, from a step of an epoch on.
    fn train_loader(
        &self,
        task: usize,
        indices: Vec<usize>,
        (epoch, step): (Epoch, u64),
    ) -> Arc<dyn DataLoader<W::Batch>> {
        let loader = ShardedLoader::builder(self.workload.batcher())
            .batch_size(self.settings.batch_size)
            .shuffle(self.settings.seed)
            .task(task)
            .start_at(epoch.index() as u64, step)
            .num_workers(self.settings.workers)
            .shard_of(self.collective.rank(), self.collective.size())
            .set_device(self.device.clone())
            .build(select(&self.workload.train(), &indices));
        let loader: Arc<dyn DataLoader<W::Batch>> = match &self.buffer {
            Some(buffer) => buffer.attach(loader),
            None => loader,
        };
        match self.workload.augmentation() {
            Some(augmentation) => Arc::new(AugmentLoader::new(
                loader,
                augmentation,
                self.collective.rank(),
                self.augmented.clone(),
            )),
            None => loader,
        }
    }

    /// This rank's part of some test samples.
    fn part(&self, indices: Vec<usize>) -> Arc<dyn DataLoader<W::Batch>> {
        part(self.workload, self.settings, self.collective.as_ref(), &self.device, indices)
    }

    /// Top-1 and top-5 accuracy on the whole test set of every task.
    fn evaluate(&mut self, model: &Model<W>) -> Result<(Vec<f64>, Vec<f64>), ExperimentError> {
        let stream = self.workload.stream();
        let mut accuracies = (Vec::new(), Vec::new());
        for task in 0..stream.tasks() {
            let loader = self.part(stream.test(task).to_vec());
            let evaluation = evaluate(model, &*loader, self.collective.as_mut())?;
            if evaluation.rows == 0 {
                return Err(ExperimentError::Data(format!(
                    "there is no test sample of task {}, or none that can be used",
                    task + 1
                )));
            }
            accuracies.0.push(evaluation.top1_accuracy());
            accuracies.1.push(evaluation.top5_accuracy());
        }
        Ok(accuracies)
    }
}

/// A rank's part of some test samples, in order.
fn part<W: Workload>(
    workload: &W,
    settings: &Settings,
    collective: &dyn Collective,
    device: &Device,
    indices: Vec<usize>,
) -> Arc<dyn DataLoader<W::Batch>> {
    let loader = ShardedLoader::builder(workload.batcher())
        .batch_size(EVALUATION_BATCH)
        .num_workers(if indices.is_empty() { 0 } else { settings.workers })
        .shard_of(collective.rank(), collective.size())
        .set_device(device.clone())
        .build(select(&workload.test(), &indices));
    match workload.evaluation() {
        Some(evaluation) => {
            Arc::new(AugmentLoader::new(loader, evaluation, collective.rank(), Arc::default()))
        }
        None => loader,
    }
}
