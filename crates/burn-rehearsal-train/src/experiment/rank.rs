//! The part of one rank in a run.

mod outcome;
mod resume;

use super::checkpoint::{Directories, Position, RunState, share};
use super::curve::{LossCurve, TrainingProgress};
use super::epochs::EpochAccuracies;
use super::progress::Sampled;
use super::{
    CompletedEpoch, Experiment, ExperimentError, LaunchInfo, Observer, ProgressReader, Settings,
    Workload, agreement,
};
use crate::augmentation::{AugmentLoader, Augmentation};
use crate::data_parallel::{DataParallel, Outcome, Records, Stopped, without_renderer};
use crate::epoch::Epoch;
use crate::evaluate::evaluate_task;
use crate::methods::{Insertion, MethodModel, MethodRef, TaskInfo, TrainingData};
use crate::phases::PhaseTimer;
use crate::report::RunReport;
use crate::stream::select;
use crate::weights::save_safetensors;
use burn::data::dataloader::DataLoader;
use burn::data::dataset::DatasetError;
use burn::module::Module;
use burn::tensor::Device;
use burn::train::metric::{AccuracyMetric, LossMetric};
use burn::train::{Interrupter, Learner, SupervisedTraining, TrainingStrategy};
use burn_rehearsal::batch::Role;
use burn_rehearsal::error::{BatchError, CheckpointError, RehearsalError};
use burn_rehearsal::random::{Purpose, Stream};
use burn_rehearsal::{
    RehearsalBatch, RehearsalBuffer, RehearsalMetric, RehearsalStat, ShardedLoader,
    ShardedLoaderBuilder, SnapshotBatcher,
};
use burn_rehearsal_collective::{Collective, CollectiveExt, Rank};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

/// The network of a run with its method.
type Model<W> = MethodModel<<W as Workload>::Model>;

/// Rows per step of an evaluation.
const EVALUATION_BATCH: usize = 256;

impl<W: Workload> Experiment<'_, W> {
    /// Runs all tasks on this rank and returns the report. Collective.
    ///
    /// A run that was stopped through its [`Interrupter`] returns a report of what it has done,
    /// with [`complete`](RunReport::complete) set to false.
    ///
    /// # Errors
    ///
    /// [`ExperimentError`]. If one rank fails, all ranks fail.
    pub fn run(&self, rank: &Rank) -> Result<RunReport, ExperimentError> {
        let Self { workload, method, settings, .. } = *self;
        let mut collective = rank.collective()?;
        collective.set_purpose("tasks");
        let data = agreement::with_stream(workload.fingerprint(), workload.stream());
        // A difference could make later collective calls hang, so the comparison comes first.
        agreement::compare(method, settings, &data, collective.as_mut())?;
        if settings.epochs == 0 || settings.batch_size == 0 {
            return Err(ExperimentError::Settings(format!(
                "the number of epochs ({}) and the batch size ({}) must be at least 1",
                settings.epochs, settings.batch_size
            )));
        }
        let has_late = W::Batch::FIELDS.iter().any(|field| field.role == Role::Late);
        if method.stores_logits() && !has_late {
            return Err(ExperimentError::Settings(format!(
                "the method `{method}` stores logits, and the mini-batches have no late field for \
                 them"
            )));
        }
        let started = Instant::now();
        let timer = if settings.profile { PhaseTimer::profiling() } else { PhaseTimer::new() };
        let buffer = match &settings.rehearsal {
            _ if !method.rehearses() => None,
            Some(rehearsal) => {
                let rehearsal = method.configured(rehearsal.clone());
                rehearsal.validate_batch_size(settings.batch_size).map_err(RehearsalError::from)?;
                Some(rehearsal.init_on(rank)?)
            }
            None => {
                return Err(ExperimentError::Settings(format!(
                    "the method `{method}` requires a rehearsal buffer"
                )));
            }
        };
        let mut strategy = DataParallel::new(rank)?
            .with_device(self.device.clone())
            .with_timer(timer)
            .with_precision(settings.precision)
            .with_records(settings.checkpoints.is_some());
        let tasks = workload.stream().tasks();
        let epochs = EpochAccuracies::default();
        if settings.evaluate_every > 0 {
            let test = |task| workload.stream().test(task).to_vec();
            let parts = (0..tasks)
                .map(|task| part(workload, settings, rank, &self.device, test(task)))
                .collect();
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
            directories: None,
            workload,
            method,
            settings,
            rank,
            collective,
            device: self.device.clone(),
            observer: self.observer,
            interrupter,
            strategy: Arc::new(strategy),
            buffer,
            epochs,
            learner: None,
            augmented: Arc::default(),
            curve: LossCurve::default(),
            records: None,
            started,
            state: RunState::new(method, settings.seed, data, tasks, rank.size()),
        };
        let complete = run.tasks()?;
        run.report(self.configuration.clone(), complete)
    }
}

struct Run<'a, W: Workload> {
    /// Declared before the buffer, and so dropped before it: dropping waits for the checkpoint that
    /// is being written, which contains the buffer.
    directories: Option<Directories<'a>>,
    workload: &'a W,
    method: MethodRef,
    settings: &'a Settings,
    rank: &'a Rank,
    /// The collective for evaluations. Gradients and rows have their own.
    collective: Box<dyn Collective>,
    device: Device,
    observer: &'a dyn Observer,
    interrupter: Interrupter,
    strategy: Arc<DataParallel<Model<W>>>,
    buffer: Option<RehearsalBuffer<W::Batch>>,
    epochs: EpochAccuracies,
    /// The learner after the last task: parameters, optimizer state and schedule.
    learner: Option<Learner<Model<W>>>,
    /// The number of the next step for the augmentation. Tasks do not reset it.
    augmented: Arc<AtomicU64>,
    /// The losses of the current task.
    curve: LossCurve,
    /// The records of the learner after the last launch. On rank 0, and only with checkpoints.
    records: Option<Records>,
    started: Instant,
    /// The state that checkpoints keep. Here `total_s` is the time before the run resumed. The
    /// values that other fields of the run hold are filled in when a checkpoint begins.
    state: RunState,
}

impl<W: Workload> Run<'_, W> {
    /// Learns one task after another. Returns false if the run was stopped.
    fn tasks(&mut self) -> Result<bool, ExperimentError> {
        let mut found = None;
        if let Some(checkpoints) = &self.settings.checkpoints {
            let (directories, newest) = Directories::open(checkpoints, self.collective.as_mut())?;
            (self.directories, found) = (Some(directories), newest);
        }
        match found {
            Some(found) => {
                let before = found.state.world_size;
                self.resume(found)?;
                self.ready()?;
                if self.rank.is_root() {
                    let Position { task, within } = self.state.position;
                    self.observer.resumed(task, within, before, &self.completed());
                }
            }
            None => {
                self.ready()?;
                let untrained = self.model(&self.device).valid();
                let [initial, ..] = self.evaluate(&untrained)?;
                self.state.accuracy.initial_top1 = Some(initial);
            }
        }
        let complete = self.all_tasks()?;
        self.finish_checkpoint()?;
        Ok(complete)
    }

    fn all_tasks(&mut self) -> Result<bool, ExperimentError> {
        let tasks = self.workload.stream().tasks();
        let Position { task: first, mut within } = self.state.position;
        for task in first..tasks {
            let Some(model) = self.learn(task, within.take())? else {
                return Ok(false);
            };
            let [top1, top5, task_il] = self.evaluate(&model)?;
            let measured = |values: &[f64]| values.iter().copied().map(Some).collect::<Vec<_>>();
            if let Some(last) = self.state.curves.last_mut() {
                last.top1 = measured(&top1);
            }
            self.state.accuracy.top1.push_row(&measured(&top1))?;
            self.state.accuracy.top5.push_row(&measured(&top5))?;
            self.state.accuracy.task_il.push_row(&measured(&task_il))?;
            if self.rank.is_root() {
                self.observer.evaluated(task, &top1);
            }
            if task + 1 < tasks {
                self.checkpoint(Position { task: task + 1, within: None })?;
            } else if let Some(path) =
                self.settings.network.as_ref().filter(|_| self.rank.is_root())
            {
                save_safetensors(&model.evaluated(), path)?;
            }
        }
        Ok(true)
    }

    /// Called when the start has succeeded on all ranks. No file is written before. Collective.
    fn ready(&mut self) -> Result<(), ExperimentError> {
        let ready = if self.rank.is_root() { self.observer.ready() } else { Ok(()) };
        share(ready.map_err(ExperimentError::Observer), self.collective.as_mut()).map_err(|error| {
            match error {
                ExperimentError::Checkpoint(CheckpointError::Rank(rank)) => {
                    ExperimentError::Observer(format!("rank {rank} could not start the run").into())
                }
                error => error,
            }
        })
    }

    /// The training samples of `task`.
    fn indices(&self, task: usize) -> Vec<usize> {
        let stream = self.workload.stream();
        match self.method.training_data() {
            TrainingData::AllTasks => stream.train_so_far(task),
            TrainingData::Task | TrainingData::Buffer => stream.train(task).to_vec(),
        }
    }

    /// A new network with its method.
    fn model(&self, device: &Device) -> Model<W> {
        let network = self.workload.model(device, self.settings.seed);
        MethodModel::new(network, self.method).with_seed(self.settings.seed)
    }

    /// The number of rows in an epoch of `task`, over all ranks.
    fn incoming(&self, task: usize) -> usize {
        match (self.method.training_data(), &self.buffer) {
            (TrainingData::Buffer, Some(buffer)) => buffer.len(),
            _ => self.indices(task).len(),
        }
    }

    /// The position of `task`, for the method.
    fn task_info(&self, task: usize) -> TaskInfo {
        let stream = self.workload.stream();
        let earlier: BTreeSet<_> =
            (0..task).flat_map(|task| stream.classes(task)).copied().collect();
        TaskInfo { task, earlier_classes: earlier.into_iter().collect() }
    }

    fn steps_per_epoch(&self, incoming: usize) -> usize {
        incoming.div_ceil(self.settings.batch_size * self.rank.size())
    }

    /// Trains on one task, from `within` on if the task has already begun. Returns `None` if the
    /// run was stopped.
    fn learn(
        &mut self,
        task: usize,
        within: Option<(Epoch, u64)>,
    ) -> Result<Option<Model<W>>, ExperimentError> {
        let settings = self.settings;
        let no_learner = || ExperimentError::Training("the last launch returned no learner".into());
        let mut learner = match within {
            Some(_) => self.learner.take().ok_or_else(no_learner)?,
            None => self.begin(task)?,
        };
        learner.model().begin_task(self.task_info(task));
        let incoming = self.incoming(task);
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
            let loader = self.train_loader(task, (epoch, step))?;
            let before = self.strategy.timer().steps();
            let (model, stopped) = self.launch(task, learner, loader, epoch, end)?;
            // Every rank counts the steps in which any rank had rows. A run that was stopped in the
            // last step of a task has none left.
            let begins = step == 0 && epoch <= end;
            if stopped.is_none() && begins && self.strategy.timer().steps() == before {
                return Err(ExperimentError::Data(format!(
                    "task {} has no training sample that can be used",
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
                self.checkpoint(Position { task, within: Some(at) })?;
            }
            if stopped.is_none() && end.number() < settings.epochs {
                (epoch, step) = at;
                learner = self.learner.take().ok_or_else(no_learner)?;
                continue;
            }
            for CompletedEpoch { point, time } in self.epochs_of(task, stopped.map(|_| at)) {
                self.state.curves.push(point);
                self.state.epoch_times.push(time);
            }
            (self.curve, self.state.measured) = Default::default();
            if stopped.is_some() {
                return Ok(None);
            }
            self.state.samples += (incoming * settings.epochs) as u64;
            return Ok(Some(model));
        }
    }

    /// Ends the task before `task`, creates the learner for `task` and starts it in the buffer.
    ///
    /// A checkpoint between two tasks is written before the end of the first one. A run that
    /// resumes from it then does the same again.
    fn begin(&mut self, task: usize) -> Result<Learner<Model<W>>, ExperimentError> {
        let mut learner = self.learner.take().filter(|_| !self.method.restarts());
        if let (Some(learner), Some(ended)) = (&mut learner, task.checked_sub(1)) {
            self.end(ended, learner)?;
        }
        if let Some(buffer) = self.buffer.clone() {
            buffer.begin_task(task)?;
            if self.method.training_data() == TrainingData::Buffer {
                let loader = self.task_loader(task, self.indices(task), (Epoch::FIRST, 0));
                buffer.fill(loader.iter())?;
            }
        }
        let steps_per_epoch = self.steps_per_epoch(self.incoming(task));
        let schedule = self.settings.schedule(self.rank.size(), steps_per_epoch)?;
        let fresh = |model| Learner::new(model, self.workload.optimizer(), schedule.clone());
        Ok(match learner {
            None => fresh(self.model(&self.device.clone().autodiff())),
            Some(learner) if !self.settings.keep_optimizer => fresh(learner.model()),
            Some(mut learner) => {
                learner.load_scheduler(schedule.restart_record());
                learner
            }
        })
    }

    /// Lets the method end a task, after its last update.
    fn end(&mut self, task: usize, learner: &mut Learner<Model<W>>) -> Result<(), ExperimentError> {
        let device = self.device.clone().autodiff();
        if let Some(buffer) = self.buffer.clone()
            && self.method.insertion() == Insertion::TaskEnd
        {
            // The buffer has an equal share for every task. The rows of all tasks are dealt to the
            // ranks one by one, so that every shard has room for its part.
            let tasks = self.workload.stream().tasks();
            let share = (buffer.capacity().unwrap_or_default() / tasks).max(1);
            let mut rows = self.indices(task);
            Stream::new(self.settings.seed, Purpose::Fill, task as u64, 0).shuffle(&mut rows);
            let places = task * share..(task + 1) * share;
            let own =
                places.zip(rows).filter(|(place, _)| place % self.rank.size() == self.rank.rank());
            let own: Vec<_> = own.map(|(_, row)| row).collect();
            let loader = self.loader(task).build(select(&self.workload.train(), &own));
            buffer.fill(loader.to_device(&device).iter())?;
        }
        if self.method.snapshots() > 0 {
            let model = learner.model();
            model.begin_task(self.task_info(task));
            let loader = self.task_loader(task, self.indices(task), (Epoch::FIRST, 0));
            let loader = loader.to_device(&device);
            let model = model.end_task(&*loader, self.collective.as_mut())?;
            learner.load_model(model.into_record());
        }
        Ok(())
    }

    /// Trains from `epoch` to the end of epoch `end`. Also returns the next step if the run was
    /// stopped.
    fn launch(
        &mut self,
        task: usize,
        learner: Learner<Model<W>>,
        loader: Arc<dyn DataLoader<W::Batch>>,
        epoch: Epoch,
        end: Epoch,
    ) -> Result<(Model<W>, Option<Stopped>), ExperimentError> {
        let strategy: TrainingStrategy<Model<W>> = TrainingStrategy::Custom(self.strategy.clone());
        // Nothing is written to this directory: there are no checkpointers and no log, and the
        // metric logger writes no files.
        let training = SupervisedTraining::new(std::env::temp_dir(), loader, self.part(Vec::new()))
            .num_epochs(end.number())
            .with_interrupter(self.interrupter.clone())
            .with_training_strategy(strategy);
        // Without a checkpointer, this only sets the number of epochs already done.
        let training =
            if epoch > Epoch::FIRST { training.checkpoint(epoch.index()) } else { training };
        let training = if self.rank.is_root() {
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
                samples: self.incoming(task),
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
        self.state.train_s += started.elapsed().saturating_sub(measured.time).as_secs_f64();
        // Burn keeps the first error of this rank, and the strategy the one that all ranks agreed
        // on. The first is closer to the cause.
        if let Some(error) = result.error {
            return Err(ExperimentError::of_training(&error));
        }
        let Some(Outcome { learner, error, stopped, records, .. }) = self.strategy.take_outcome()
        else {
            return Err(ExperimentError::Training("the launch returned no result".into()));
        };
        if let Some(error) = error {
            return Err(error.into());
        }
        self.state.measured.extend(measured.top1);
        (self.learner, self.records) = (learner, records);
        // Some ranks may have seen a stop after their last step, and others may not. If any rank
        // has, all ranks stop.
        let seen = self.collective.any(result.interrupted.is_some())?;
        let late = seen.then_some(Stopped { epoch: end.next(), steps: 0 });
        Ok((result.model, stopped.or(late)))
    }

    /// Some training samples of a task on this rank, from a step of an epoch on.
    fn task_loader(
        &self,
        task: usize,
        indices: Vec<usize>,
        (epoch, step): (Epoch, u64),
    ) -> Arc<dyn DataLoader<W::Batch>> {
        self.loader(task)
            .start_at(epoch.index() as u64, step)
            .shard(self.rank)
            .build(select(&self.workload.train(), &indices))
    }

    /// A loader of training samples of a task.
    fn loader(&self, task: usize) -> ShardedLoaderBuilder<W::Item, W::Batch> {
        ShardedLoader::builder(self.workload.batcher())
            .batch_size(self.settings.batch_size)
            .shuffle(self.settings.seed)
            .task(task)
            .num_workers(self.settings.workers)
            .set_device(self.device.clone())
    }

    /// The training mini-batches of a task on this rank, from a step of an epoch on.
    fn train_loader(
        &self,
        task: usize,
        at: (Epoch, u64),
    ) -> Result<Arc<dyn DataLoader<W::Batch>>, ExperimentError> {
        let loader: Arc<dyn DataLoader<W::Batch>> = match &self.buffer {
            // Every rank trains on its own shard.
            Some(buffer) if self.method.training_data() == TrainingData::Buffer => {
                let loader = ShardedLoader::builder(SnapshotBatcher::<W::Batch>::default())
                    .batch_size(self.settings.batch_size)
                    .shuffle(self.settings.seed)
                    .task(task)
                    .start_at(at.0.index() as u64, at.1)
                    .set_device(self.device.clone())
                    .build(buffer.snapshot()?);
                let readable: Augmentation<W::Batch, _> =
                    Arc::new(|batch: Result<_, BatchError>, _, _| batch.map_err(DatasetError::new));
                Arc::new(AugmentLoader::new(loader, readable, self.rank.rank(), Arc::default()))
            }
            Some(buffer) => buffer.attach(self.task_loader(task, self.indices(task), at)),
            None => self.task_loader(task, self.indices(task), at),
        };
        Ok(match self.workload.augmentation() {
            Some(augmentation) => Arc::new(AugmentLoader::new(
                loader,
                augmentation,
                self.rank.rank(),
                self.augmented.clone(),
            )),
            None => loader,
        })
    }

    /// The part of some test samples that this rank evaluates.
    fn part(&self, indices: Vec<usize>) -> Arc<dyn DataLoader<W::Batch>> {
        part(self.workload, self.settings, self.rank, &self.device, indices)
    }

    /// Top-1, top-5 and task-IL accuracy on the whole test set of every task. Collective.
    fn evaluate(&mut self, model: &Model<W>) -> Result<[Vec<f64>; 3], ExperimentError> {
        let stream = self.workload.stream();
        let mut accuracies = [const { Vec::new() }; 3];
        for task in 0..stream.tasks() {
            let loader = self.part(stream.test(task).to_vec());
            let (classes, collective) = (stream.classes(task), self.collective.as_mut());
            let evaluation = evaluate_task(model, &*loader, classes, collective)?;
            if evaluation.rows == 0 {
                return Err(ExperimentError::Data(format!(
                    "task {} has no test sample that can be used",
                    task + 1
                )));
            }
            accuracies[0].push(evaluation.top1_accuracy());
            accuracies[1].push(evaluation.top5_accuracy());
            accuracies[2].push(evaluation.task_il_accuracy());
        }
        Ok(accuracies)
    }
}

/// The part of some test samples that a rank evaluates, in order.
fn part<W: Workload>(
    workload: &W,
    settings: &Settings,
    rank: &Rank,
    device: &Device,
    indices: Vec<usize>,
) -> Arc<dyn DataLoader<W::Batch>> {
    let loader = ShardedLoader::builder(workload.batcher())
        .batch_size(EVALUATION_BATCH)
        .num_workers(if indices.is_empty() { 0 } else { settings.workers })
        .shard(rank)
        .set_device(device.clone())
        .build(select(&workload.test(), &indices));
    match workload.evaluation() {
        Some(evaluation) => {
            Arc::new(AugmentLoader::new(loader, evaluation, rank.rank(), Arc::default()))
        }
        None => loader,
    }
}
