//! One rank's part of a run.

use super::checkpoint::{Directories, Found, Position, RunState};
use super::curve::{Live, LossCurve};
use super::epochs::{EpochAccuracies, measured_after};
use super::live::Sampled;
use super::{Epoch, ExperimentError, Gauges, Launch, Observer, Rows, Settings, Workload};
use crate::augment::AugmentLoader;
use crate::data_parallel::{DataParallel, Records, Stopped, adopt, agree, quiet};
use crate::evaluate::evaluate;
use crate::metrics::AccuracyMatrix;
use crate::phases::{Phase, PhaseTimer};
use crate::report::RunReport;
use crate::report::schema::{
    Accuracy, BufferReport, CheckpointTime, CurvePoint, EpochTime, Method, PerStep, PrecisionReport, SCHEMA_VERSION, Summary, Time,
};
use burn::data::dataloader::DataLoader;
use burn::data::dataset::Dataset;
use burn::data::dataset::transform::SelectionDataset;
use burn::module::Module;
use burn::tensor::Device;
use burn::train::metric::{AccuracyMetric, LossMetric};
use burn::train::{Interrupter, Learner, SupervisedTraining, TrainingStrategy};
use burn_rehearsal::error::CheckpointError;
use burn_rehearsal::{EngineTimings, Measure, RehearsalBuffer, RehearsalLoader, RehearsalMetric, ShardedLoader, StoreKind};
use burn_rehearsal_collective::Collective;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

type Selection<W> = SelectionDataset<Arc<dyn Dataset<<W as Workload>::Item>>, <W as Workload>::Item>;

/// Rows per step of an evaluation.
const EVALUATION_BATCH: usize = 256;

/// Runs all tasks on this rank and returns the report, which is the same on all ranks but for times and for curves, which rank 0 keeps.
///
/// `config` is the resolved configuration, for the report alone. A run that was stopped through its [`Interrupter`] returns what was done so far,
/// with `complete: false`.
///
/// # Errors
///
/// [`ExperimentError`]; if one rank fails, all do.
pub fn run_rank<W: Workload>(
    workload: &W,
    settings: &Settings,
    config: serde_json::Value,
    mut collective: Box<dyn Collective>,
    device: &Device,
    observer: &dyn Observer,
) -> Result<RunReport, ExperimentError> {
    if settings.epochs == 0 || settings.batch_size == 0 {
        return Err(ExperimentError::Settings("the number of epochs and the batch size must be at least 1".into()));
    }
    let started = Instant::now();
    let timer = if settings.profile { PhaseTimer::profiling() } else { PhaseTimer::new() };
    let buffer = match settings.method {
        Method::Rehearsal => {
            settings.rehearsal.validate_batch_size(settings.batch_size).map_err(burn_rehearsal::error::RehearsalError::from)?;
            Some(RehearsalBuffer::new(&settings.rehearsal, collective.duplicate()?)?)
        }
        Method::Incremental | Method::Scratch => None,
    };
    let mut strategy = DataParallel::new(collective.duplicate()?, device.clone(), |batch: &W::Batch| batch.rows())
        .with_timer(timer)
        .with_precision(settings.precision)
        .with_records(settings.checkpoints.is_some());
    let tasks = workload.stream().tasks();
    let epochs = EpochAccuracies::default();
    if settings.evaluate_every > 0 {
        let part = |task| part(workload, settings, collective.as_ref(), device, workload.stream().test(task).to_vec());
        let parts = (0..tasks).map(part).collect();
        strategy = strategy.with_after_epoch(epochs.hook(settings.evaluate_every, settings.epochs, parts, collective.duplicate()?));
    }
    let interrupter = Interrupter::new();
    observer.interrupter(&interrupter);
    let mut run = Run {
        workload,
        settings,
        collective,
        device: device.clone(),
        observer,
        interrupter,
        strategy: Arc::new(strategy),
        buffer,
        accuracy: Accuracy { top1: AccuracyMatrix::new(tasks), top5: AccuracyMatrix::new(tasks), initial_top1: None },
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
    run.report(config, complete)
}

/// How a launch ended.
struct Launched<M> {
    model: M,
    stopped: Option<Stopped>,
}

struct Run<'a, W: Workload> {
    workload: &'a W,
    settings: &'a Settings,
    /// For evaluations; gradients and rows have their own.
    collective: Box<dyn Collective>,
    device: Device,
    observer: &'a dyn Observer,
    interrupter: Interrupter,
    strategy: Arc<DataParallel<W::Model>>,
    buffer: Option<RehearsalBuffer<W::Batch>>,
    accuracy: Accuracy,
    curves: Vec<CurvePoint>,
    /// What the epochs of `curves` took.
    epoch_times: Vec<EpochTime>,
    epochs: EpochAccuracies,
    /// What the last task left: parameters, optimiser state, schedule.
    learner: Option<Learner<W::Model>>,
    /// The number of the next step whose mini-batch is augmented; goes on from task to task.
    augmented: Arc<AtomicU64>,
    train_time: Duration,
    /// Incoming rows trained on so far, over all ranks.
    samples: u64,
    /// The losses of the task in hand.
    curve: LossCurve,
    /// Accuracies in the middle of that task: the epoch, counted from 1, and top-1 on every task.
    measured: Vec<(usize, Vec<f64>)>,
    /// The learner as the last launch left it; on rank 0, and only if there are checkpoints.
    records: Option<Records>,
    started: Instant,
    /// The run's time before it went on from a checkpoint, in seconds.
    total_before: f64,
    earlier_world_sizes: Vec<usize>,
    checkpoints: CheckpointTime,
}

impl<W: Workload> Run<'_, W> {
    /// Learns one task after the other; false if the run was stopped before the end.
    fn tasks(&mut self) -> Result<bool, ExperimentError> {
        let (mut directories, found) = match &self.settings.checkpoints {
            Some(checkpoints) => {
                let (directories, found) = Directories::open(checkpoints, self.collective.as_mut())?;
                (Some(directories), found)
            }
            None => (None, None),
        };
        let complete = self.all_tasks(found, directories.as_mut())?;
        self.finish_checkpoint(directories.as_mut())?;
        Ok(complete)
    }

    fn all_tasks(&mut self, found: Option<Found>, mut directories: Option<&mut Directories<'_>>) -> Result<bool, ExperimentError> {
        let settings = self.settings;
        let mut position = Position { task: 0, within: None };
        match found {
            Some(found) => position = self.resume(found)?,
            None => {
                let untrained = self.workload.model(&self.device, settings.seed).valid();
                let (initial, _) = self.evaluate(&untrained)?;
                self.accuracy.initial_top1 = Some(initial);
            }
        }
        let tasks = self.workload.stream().tasks();
        for task in position.task..tasks {
            let within = position.within.take();
            let Some(model) = self.learn(task, within, directories.as_deref_mut())? else { return Ok(false) };
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
            if task + 1 < tasks {
                self.checkpoint(Position { task: task + 1, within: None }, directories.as_deref_mut())?;
            }
        }
        Ok(true)
    }

    /// Takes over what a checkpoint knows.
    fn resume(&mut self, found: Found) -> Result<Position, ExperimentError> {
        let Found { state, records, buffer } = found;
        let settings = self.settings;
        let tasks = self.workload.stream().tasks();
        if (state.method, state.seed, state.accuracy.top1.tasks()) != (settings.method, settings.seed, tasks) {
            let reason = format!(
                "it is of method {}, seed {}, {} tasks; this run is of method {}, seed {}, {tasks} tasks",
                state.method,
                state.seed,
                state.accuracy.top1.tasks(),
                settings.method,
                settings.seed
            );
            return Err(CheckpointError::Foreign { path: buffer.with_file_name("manifest.json"), reason }.into());
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
            // As many samples of the epoch's order are behind as then, rounded down to whole steps: none is left out.
            *step = *step * before as u64 / size as u64;
        }
        if let Some(Records { learner, statistics, .. }) = records {
            let schedule = settings.schedule(size, steps_per_epoch)?;
            let (epoch, step) = position.within.unwrap_or((1, 0));
            let schedule = schedule.at_step((epoch as u64 - 1) * steps_per_epoch as u64 + step);
            let model = self.workload.model(&self.device.clone().autodiff(), settings.seed);
            // The rates of a schedule depend on the number of ranks.
            let learner = adopt::read(model, self.workload.optimizer(), &schedule, learner, before == size)?;
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
        self.checkpoints = CheckpointTime { resumed: state.checkpoints.resumed + 1, ..state.checkpoints };
        if self.collective.rank() == 0 {
            self.observer.resumed(position.task, position.within, before, &self.completed(position));
        }
        Ok(position)
    }

    /// The epochs that were completed before `position`.
    fn completed(&self, position: Position) -> Vec<Epoch> {
        let mut epochs: Vec<_> =
            self.curves.iter().zip(&self.epoch_times).map(|(point, &time)| Epoch { point: point.clone(), time }).collect();
        let (points, times) = self.epochs_of(position.task, position.within);
        let begun = position.within.map_or(0, |(epoch, _)| epoch - 1);
        epochs.extend(points.into_iter().zip(times).take(begun).map(|(point, time)| Epoch { point, time }));
        epochs
    }

    /// What is known of the epochs of the task in hand, of which the last may be incomplete: `at` (its number, counted from 1, and the steps done) comes next.
    fn epochs_of(&self, task: usize, at: Option<(usize, u64)>) -> (Vec<CurvePoint>, Vec<EpochTime>) {
        let incoming = self.indices(task).len();
        let per_step = (self.settings.batch_size * self.collective.size()) as u64;
        let seconds = self.curve.seconds();
        let losses = self.curve.means().into_iter().enumerate();
        losses
            .map(|(epoch, loss)| {
                let samples = match at {
                    Some((next, steps)) if next == epoch + 1 => (steps * per_step).min(incoming as u64),
                    _ => incoming as u64,
                };
                let point = CurvePoint {
                    task,
                    epoch,
                    train_loss: Some(loss).filter(|loss| loss.is_finite()),
                    top1: measured_after(&self.measured, epoch + 1),
                };
                (point, EpochTime { train_s: seconds.get(&(epoch + 1)).copied().unwrap_or_default(), samples })
            })
            .unzip()
    }

    /// Begins to write the run down, if that is asked for, and waits for the time before. Collective.
    fn checkpoint(&mut self, position: Position, mut directories: Option<&mut Directories<'_>>) -> Result<(), ExperimentError> {
        self.finish_checkpoint(directories.as_deref_mut())?;
        let Some(directories) = directories else { return Ok(()) };
        let started = Instant::now();
        let records = self.records.take();
        let copied = records.as_ref().map_or(Duration::ZERO, |records| records.time);
        let state = RunState {
            method: self.settings.method,
            seed: self.settings.seed,
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
            checkpoints: CheckpointTime { written: self.checkpoints.written + 1, ..self.checkpoints },
        };
        let buffer = self.buffer.clone();
        let begin_buffer = |directory: &std::path::Path| Ok(buffer.map(|buffer| buffer.begin_checkpoint(directory)).transpose()?);
        directories.begin(state, records, begin_buffer, self.collective.as_mut())?;
        self.checkpoints.written += 1;
        self.checkpoints.total_s += (copied + started.elapsed()).as_secs_f64();
        Ok(())
    }

    /// Waits until the last checkpoint is complete. Collective.
    fn finish_checkpoint(&mut self, directories: Option<&mut Directories<'_>>) -> Result<(), ExperimentError> {
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
    fn total_s(&self) -> f64 {
        self.total_before + self.started.elapsed().as_secs_f64()
    }

    /// The samples that arrive with `task`.
    fn indices(&self, task: usize) -> Vec<usize> {
        match self.settings.method {
            Method::Scratch => self.workload.stream().train_so_far(task),
            Method::Incremental | Method::Rehearsal => self.workload.stream().train(task).to_vec(),
        }
    }

    fn steps_per_epoch(&self, incoming: usize) -> usize {
        incoming.div_ceil(self.settings.batch_size * self.collective.size())
    }

    /// Trains on one task, or on what is left of it from `within` on; `None` if the run was stopped meanwhile.
    fn learn(
        &mut self,
        task: usize,
        within: Option<(usize, u64)>,
        mut directories: Option<&mut Directories<'_>>,
    ) -> Result<Option<W::Model>, ExperimentError> {
        let settings = self.settings;
        let indices = self.indices(task);
        let incoming = indices.len();
        let no_learner = || ExperimentError::Training("the last launch left no learner".into());
        let mut learner = match within {
            Some(_) => self.learner.take().ok_or_else(no_learner)?,
            None => self.begin(task, incoming)?,
        };
        let (mut epoch, mut step) = within.unwrap_or((1, 0));
        let every = settings.checkpoints.as_ref().and_then(|checkpoints| checkpoints.every).unwrap_or(settings.epochs).max(1);
        loop {
            let end = (epoch.div_ceil(every) * every).min(settings.epochs);
            let loader = self.train_loader(task, indices.clone(), (epoch, step));
            let Launched { model, stopped } = self.launch(task, learner, loader, epoch, end)?;
            let at = match stopped {
                Some(Stopped { epoch: stopped, steps }) => (stopped, if stopped == epoch { step + steps } else { steps }),
                None => (end + 1, 0),
            };
            if stopped.is_some() || end < settings.epochs {
                self.checkpoint(Position { task, within: Some(at) }, directories.as_deref_mut())?;
            }
            if stopped.is_none() && end < settings.epochs {
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
    fn begin(&mut self, task: usize, incoming: usize) -> Result<Learner<W::Model>, ExperimentError> {
        let Settings { method, keep_optimizer, seed, .. } = *self.settings;
        let schedule = self.settings.schedule(self.collective.size(), self.steps_per_epoch(incoming))?;
        let fresh = |model| Learner::new(model, self.workload.optimizer(), schedule.clone());
        let learner = match self.learner.take().filter(|_| method != Method::Scratch) {
            None => fresh(self.workload.model(&self.device.clone().autodiff(), seed)),
            Some(learner) if !keep_optimizer => fresh(learner.model()),
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
        learner: Learner<W::Model>,
        loader: Arc<dyn DataLoader<W::Batch>>,
        epoch: usize,
        end: usize,
    ) -> Result<Launched<W::Model>, ExperimentError> {
        let strategy: TrainingStrategy<W::Model> = TrainingStrategy::Custom(self.strategy.clone());
        // Nothing is written there: no checkpoints, no log and a metric logger of our own.
        let training = SupervisedTraining::new(std::env::temp_dir(), loader, self.part(Vec::new()))
            .num_epochs(end)
            .with_interrupter(self.interrupter.clone())
            .with_training_strategy(strategy);
        // Without a checkpointer, no more than the number of the first epoch.
        let training = if epoch > 1 { training.checkpoint(epoch - 1) } else { training };
        let training = if self.collective.rank() == 0 {
            let mut training = training
                .with_application_logger(None)
                .with_metric_logger(self.curve.clone())
                .metric_train_numeric(LossMetric::new())
                .metric_train_numeric(Sampled::new(AccuracyMetric::new()));
            if let Some(buffer) = self.buffer.as_ref().filter(|_| self.observer.buffer_metrics()) {
                for measure in Measure::ALL {
                    training = training.metric_train_numeric(RehearsalMetric::new(buffer, measure));
                }
            }
            let gauges = Gauges::new(self.strategy.timer().clone(), self.buffer.clone());
            let launch = Launch { task, epoch, gauges };
            let training = training.renderer(self.observer.renderer(&launch));
            self.curve.tell(Live {
                task,
                samples: self.indices(task).len(),
                accuracies: self.epochs.clone(),
                interrupter: self.interrupter.clone(),
                sink: self.observer.epochs(&launch),
                since: (Instant::now(), Duration::ZERO),
            });
            training
        } else {
            quiet(training)
        };
        let started = Instant::now();
        let result = training.launch(learner);
        self.curve.quiet();
        let measured = self.epochs.take();
        self.train_time += started.elapsed().saturating_sub(measured.time);
        // Burn keeps the first error of this rank, the strategy what all ranks agreed on: the first is nearer to the cause.
        if let Some(error) = result.error {
            return Err(ExperimentError::of_training(&error));
        }
        if let Some(error) = self.strategy.take_error() {
            return Err(error.into());
        }
        self.measured.extend(measured.top1);
        self.learner = self.strategy.take_learner();
        self.records = self.strategy.take_records();
        // A stop that comes after the last step is one that some ranks may have seen and others not: all do what the first of them does.
        let seen = agree::gather(self.collective.as_mut(), [u64::from(result.interrupted.is_some())])?;
        let late = seen.iter().any(|[stopped]| *stopped != 0).then_some(Stopped { epoch: end + 1, steps: 0 });
        Ok(Launched { model: result.model, stopped: self.strategy.take_stopped().or(late) })
    }

    /// This rank's mini-batches of a task, from a step of an epoch (counted from 1) on.
    fn train_loader(&self, task: usize, indices: Vec<usize>, (epoch, step): (usize, u64)) -> Arc<dyn DataLoader<W::Batch>> {
        let loader = ShardedLoader::builder(self.workload.batcher(), self.settings.batch_size)
            .shuffle(self.settings.seed)
            .task(task)
            .start_at(epoch as u64 - 1, step)
            .workers(self.settings.workers)
            .shard(self.collective.rank(), self.collective.size())
            .device(self.device.clone())
            .build(Selection::<W>::from_indices_unchecked(self.workload.train(), indices));
        let loader: Arc<dyn DataLoader<W::Batch>> = match &self.buffer {
            Some(buffer) => Arc::new(RehearsalLoader::new(Arc::new(loader), buffer.clone())),
            None => Arc::new(loader),
        };
        match self.workload.augmentation() {
            Some(augmentation) => Arc::new(AugmentLoader::new(loader, augmentation, self.collective.rank(), self.augmented.clone())),
            None => loader,
        }
    }

    /// This rank's part of some test samples.
    fn part(&self, indices: Vec<usize>) -> Arc<dyn DataLoader<W::Batch>> {
        part(self.workload, self.settings, self.collective.as_ref(), &self.device, indices)
    }

    /// Top-1 and top-5 accuracy on the whole test set of every task.
    fn evaluate(&mut self, model: &W::Model) -> Result<(Vec<f64>, Vec<f64>), ExperimentError> {
        let stream = self.workload.stream();
        let mut accuracies = (Vec::new(), Vec::new());
        for task in 0..stream.tasks() {
            let loader = self.part(stream.test(task).to_vec());
            let evaluation = evaluate(model, &*loader, self.collective.as_mut())?;
            accuracies.0.push(evaluation.top1_accuracy());
            accuracies.1.push(evaluation.top5_accuracy());
        }
        Ok(accuracies)
    }

    /// The number of different samples that some rank had to leave out.
    fn left_out(&mut self) -> Result<u64, ExperimentError> {
        let own = self.workload.left_out();
        let counts = agree::gather(self.collective.as_mut(), [own.len() as u64])?;
        let most = counts.iter().map(|[count]| *count as usize).max().unwrap_or(0);
        let mut padded = own;
        // All ranks send the same number of words; those without a sample say nothing new.
        padded.resize(most, 0);
        let bytes: Vec<u8> = padded.iter().flat_map(|id| id.to_le_bytes()).collect();
        let mut all = vec![0; bytes.len() * self.collective.size()];
        if most > 0 {
            self.collective.all_gather(&bytes, &mut all)?;
        }
        let mut ids: HashSet<&[u8]> = HashSet::new();
        for (part, [count]) in all.chunks_exact((most * 8).max(1)).zip(&counts) {
            ids.extend(part.chunks_exact(8).take(*count as usize));
        }
        Ok(ids.len() as u64)
    }

    fn report(mut self, config: serde_json::Value, complete: bool) -> Result<RunReport, ExperimentError> {
        let left_out = self.left_out()?;
        let buffer = match &self.buffer {
            Some(buffer) => Some((buffer.report()?, per_step(&buffer.timings()))),
            None => None,
        };
        let stream = self.workload.stream();
        let train_s = self.train_time.as_secs_f64();
        let phases = self.strategy.timer().report();
        // A run that was stopped within a task has trained on a part of it.
        let samples = self.samples.max(self.epoch_times.iter().map(|epoch| epoch.samples).sum());
        Ok(RunReport {
            schema_version: SCHEMA_VERSION,
            package_version: env!("CARGO_PKG_VERSION").to_string(),
            method: self.settings.method,
            config,
            seed: self.settings.seed,
            world_size: self.collective.size(),
            earlier_world_sizes: self.earlier_world_sizes.clone(),
            device: crate::device::describe(&self.device),
            complete,
            tasks: (0..stream.tasks()).map(|task| stream.classes(task).to_vec()).collect(),
            left_out,
            summary: Summary::of(&self.accuracy),
            time: Time {
                total_s: self.total_s(),
                train_s,
                samples_per_s: (train_s > 0.0 && samples > 0).then(|| samples as f64 / train_s),
                phases_ms: self.phases(),
                phases_exact: phases.exact,
                steps: phases.steps,
                checkpoints: (self.checkpoints.written + self.checkpoints.resumed > 0).then_some(self.checkpoints),
                epochs: self.epoch_times,
            },
            precision: PrecisionReport::of(self.settings.precision, self.strategy.loss_scale()),
            accuracy: self.accuracy,
            curves: self.curves,
            buffer: buffer.map(|(buffer, per_step)| BufferReport {
                capacity: buffer.capacity as u64,
                len: buffer.len as u64,
                bytes: buffer.bytes as u64,
                store: store_names(&buffer.stores),
                per_class: buffer.per_class.iter().map(|&rows| rows as u64).collect(),
                distinct: buffer.distinct.map(|ids| ids as u64),
                per_step: Some(per_step),
                contents_digest: buffer.contents_digest,
                draws_digest: buffer.draws_digest,
            }),
        })
    }

    /// Mean milliseconds per step: the learner's phases and, apart from them, the engine's.
    fn phases(&self) -> BTreeMap<String, f64> {
        let report = self.strategy.timer().report();
        let mut phases = BTreeMap::from([("step".to_string(), report.step_ms)]);
        for phase in Phase::ALL {
            // Where calls only enqueue, only what the host waits for means something.
            if report.exact || matches!(phase, Phase::Load | Phase::Wait) {
                phases.insert(phase.name().to_string(), report.ms(phase));
            }
        }
        let Some(buffer) = &self.buffer else { return phases };
        let timings = buffer.timings();
        let steps = timings.steps.max(1) as f64;
        let ms = |time: Duration| time.as_secs_f64() * 1e3 / steps;
        // The learner sees one call of `next`; the buffer knows which part of it was its own.
        let (wait, assemble) = (ms(timings.wait), ms(timings.assemble));
        phases.insert(Phase::Wait.name().to_string(), wait);
        phases.insert("load".to_string(), (report.load_ms - wait - assemble).max(0.0));
        if report.exact {
            phases.insert(Phase::Assemble.name().to_string(), assemble);
        }
        for (name, time) in
            [("insert", timings.insert), ("plan", timings.plan), ("exchange", timings.exchange), ("deliver", timings.deliver)]
        {
            phases.insert(name.to_string(), ms(time));
        }
        phases
    }
}

fn per_step(timings: &EngineTimings) -> PerStep {
    let mean = |sum: u64| sum as f64 / timings.steps.max(1) as f64;
    PerStep { queue_depth: mean(timings.queued), staleness: mean(timings.staleness), copied_bytes: mean(timings.copied_bytes) }
}

/// A rank's part of some test samples, in order.
fn part<W: Workload>(
    workload: &W,
    settings: &Settings,
    collective: &dyn Collective,
    device: &Device,
    indices: Vec<usize>,
) -> Arc<dyn DataLoader<W::Batch>> {
    let loader = ShardedLoader::builder(workload.batcher(), EVALUATION_BATCH)
        .workers(if indices.is_empty() { 0 } else { settings.workers })
        .shard(collective.rank(), collective.size())
        .device(device.clone())
        .build(Selection::<W>::from_indices_unchecked(workload.test(), indices));
    match workload.evaluation() {
        Some(evaluation) => Arc::new(AugmentLoader::new(Arc::new(loader), evaluation, collective.rank(), Arc::default())),
        None => Arc::new(loader),
    }
}

/// The names of the stores that the ranks use, each once.
fn store_names(stores: &[StoreKind]) -> String {
    let used = [StoreKind::Host, StoreKind::Device].into_iter().filter(|store| stores.contains(store));
    used.map(StoreKind::name).collect::<Vec<_>>().join(", ")
}
