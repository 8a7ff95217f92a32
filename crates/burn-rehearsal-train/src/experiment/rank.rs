//! One rank's part of a run.

use super::curve::LossCurve;
use super::epochs::EpochAccuracies;
use super::{ExperimentError, Observer, Rows, Settings, Workload};
use crate::augment::AugmentLoader;
use crate::data_parallel::{DataParallel, agree, quiet};
use crate::evaluate::evaluate;
use crate::metrics::AccuracyMatrix;
use crate::phases::{Phase, PhaseTimer};
use crate::report::RunReport;
use crate::report::schema::{Accuracy, BufferReport, CurvePoint, Method, PerStep, PrecisionReport, SCHEMA_VERSION, Summary, Time};
use crate::schedule::WarmupSchedule;
use burn::data::dataloader::DataLoader;
use burn::data::dataset::Dataset;
use burn::data::dataset::transform::SelectionDataset;
use burn::module::Module;
use burn::tensor::Device;
use burn::train::metric::LossMetric;
use burn::train::{Interrupter, Learner, SupervisedTraining, TrainingStrategy};
use burn_rehearsal::{EngineTimings, RehearsalBuffer, RehearsalLoader, ShardedLoader, StoreKind};
use burn_rehearsal_collective::Collective;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

type Selection<W> = SelectionDataset<Arc<dyn Dataset<<W as Workload>::Item>>, <W as Workload>::Item>;

/// Rows per step of an evaluation.
const EVALUATION_BATCH: usize = 256;

/// Runs all tasks on this rank and returns the report, which is the same on all ranks but for times.
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
        .with_precision(settings.precision);
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
        epochs,
        learner: None,
        augmented: Arc::default(),
        train_time: Duration::ZERO,
        samples: 0,
    };
    let complete = run.tasks()?;
    run.report(config, started, complete)
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
    epochs: EpochAccuracies,
    /// What the last task left: parameters, optimiser state, schedule.
    learner: Option<Learner<W::Model>>,
    /// The number of the next step whose mini-batch is augmented; goes on from task to task.
    augmented: Arc<AtomicU64>,
    train_time: Duration,
    /// Incoming rows trained on so far, over all ranks.
    samples: u64,
}

impl<W: Workload> Run<'_, W> {
    /// Learns one task after the other; false if the run was stopped before the end.
    fn tasks(&mut self) -> Result<bool, ExperimentError> {
        let untrained = self.workload.model(&self.device, self.settings.seed).valid();
        let (initial, _) = self.evaluate(&untrained)?;
        self.accuracy.initial_top1 = Some(initial);
        for task in 0..self.workload.stream().tasks() {
            let Some(model) = self.learn(task)? else { return Ok(false) };
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
        }
        Ok(true)
    }

    /// Trains on one task; `None` if the run was stopped meanwhile.
    fn learn(&mut self, task: usize) -> Result<Option<W::Model>, ExperimentError> {
        let settings = self.settings;
        let indices = match settings.method {
            Method::Scratch => self.workload.stream().train_so_far(task),
            Method::Incremental | Method::Rehearsal => self.workload.stream().train(task).to_vec(),
        };
        let incoming = indices.len();
        let steps_per_epoch = incoming.div_ceil(settings.batch_size * self.collective.size());
        let learner = self.learner(steps_per_epoch)?;
        if let Some(buffer) = &self.buffer {
            buffer.begin_task(task)?;
        }
        let loader = self.train_loader(task, indices);
        let curve = LossCurve::default();
        let strategy: TrainingStrategy<W::Model> = TrainingStrategy::Custom(self.strategy.clone());
        // Nothing is written there: no checkpoints, no log and a metric logger of our own.
        let training = SupervisedTraining::new(std::env::temp_dir(), loader, self.part(Vec::new()))
            .num_epochs(settings.epochs)
            .with_interrupter(self.interrupter.clone())
            .with_training_strategy(strategy);
        let training = if self.collective.rank() == 0 {
            training
                .with_application_logger(None)
                .with_metric_logger(curve.clone())
                .metric_train_numeric(LossMetric::new())
                .renderer(self.observer.renderer(task))
        } else {
            quiet(training)
        };
        let started = Instant::now();
        let result = training.launch(learner);
        let measured = self.epochs.take();
        self.train_time += started.elapsed().saturating_sub(measured.time);
        // Burn keeps the first error of this rank, the strategy what all ranks agreed on: the first is nearer to the cause.
        if let Some(error) = result.error {
            return Err(ExperimentError::of_training(&error));
        }
        if let Some(error) = self.strategy.take_error() {
            return Err(error.into());
        }
        let losses = curve.means();
        self.curves.extend(losses.iter().enumerate().map(|(epoch, &loss)| CurvePoint {
            task,
            epoch,
            train_loss: Some(loss).filter(|loss| loss.is_finite()),
            top1: measured_after(&measured.top1, epoch + 1),
        }));
        // A stop that comes after the last step is one that some ranks may have seen and others not: all do what the first of them does.
        let seen = agree::gather(self.collective.as_mut(), [u64::from(result.interrupted.is_some())])?;
        if seen.iter().any(|[stopped]| *stopped != 0) {
            return Ok(None);
        }
        self.samples += (incoming * settings.epochs) as u64;
        self.learner = self.strategy.take_learner();
        Ok(Some(result.model))
    }

    /// The learner that a task starts with.
    fn learner(&mut self, steps_per_epoch: usize) -> Result<Learner<W::Model>, ExperimentError> {
        let Settings { method, learning_rate, warmup_epochs, scale_cap, keep_optimizer, seed, .. } = *self.settings;
        let step = |epoch: f64| (epoch.max(0.0) * steps_per_epoch as f64).round() as u64;
        let milestones: Vec<_> = self.settings.milestones.iter().map(|&(epoch, factor)| (step(epoch), factor)).collect();
        let schedule =
            WarmupSchedule::new(learning_rate, self.collective.size(), scale_cap, step(warmup_epochs))?.with_milestones(&milestones)?;
        let fresh = |model| Learner::new(model, self.workload.optimizer(), schedule.clone());
        Ok(match self.learner.take().filter(|_| method != Method::Scratch) {
            None => fresh(self.workload.model(&self.device.clone().autodiff(), seed)),
            Some(learner) if !keep_optimizer => fresh(learner.model()),
            Some(mut learner) => {
                learner.load_scheduler(schedule.restart_record());
                learner
            }
        })
    }

    fn train_loader(&self, task: usize, indices: Vec<usize>) -> Arc<dyn DataLoader<W::Batch>> {
        let loader = ShardedLoader::builder(self.workload.batcher(), self.settings.batch_size)
            .shuffle(self.settings.seed)
            .task(task)
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

    fn report(mut self, config: serde_json::Value, started: Instant, complete: bool) -> Result<RunReport, ExperimentError> {
        let left_out = self.left_out()?;
        let buffer = match &self.buffer {
            Some(buffer) => Some((buffer.report()?, per_step(&buffer.timings()))),
            None => None,
        };
        let stream = self.workload.stream();
        let train_s = self.train_time.as_secs_f64();
        let phases = self.strategy.timer().report();
        Ok(RunReport {
            schema_version: SCHEMA_VERSION,
            package_version: env!("CARGO_PKG_VERSION").to_string(),
            method: self.settings.method,
            config,
            seed: self.settings.seed,
            world_size: self.collective.size(),
            device: crate::device::describe(&self.device),
            complete,
            tasks: (0..stream.tasks()).map(|task| stream.classes(task).to_vec()).collect(),
            left_out,
            summary: Summary::of(&self.accuracy),
            time: Time {
                total_s: started.elapsed().as_secs_f64(),
                train_s,
                samples_per_s: (train_s > 0.0 && self.samples > 0).then(|| self.samples as f64 / train_s),
                phases_ms: self.phases(),
                phases_exact: phases.exact,
                steps: phases.steps,
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

/// The accuracies after `epoch`, counted from 1; empty if they were not measured.
fn measured_after(measured: &[(usize, Vec<f64>)], epoch: usize) -> Vec<Option<f64>> {
    let found = measured.iter().find(|(of, _)| *of == epoch);
    found.map(|(_, top1)| top1.iter().copied().map(Some).collect()).unwrap_or_default()
}

/// The names of the stores that the ranks use, each once.
fn store_names(stores: &[StoreKind]) -> String {
    let used = [StoreKind::Host, StoreKind::Device].into_iter().filter(|store| stores.contains(store));
    used.map(StoreKind::name).collect::<Vec<_>>().join(", ")
}
