//! A whole continual-learning run: tasks, a method, evaluation, and the report.
//!
//! An [`Experiment`] is a [`Workload`], a [`Method`] and [`Settings`]; every rank runs the same
//! one. It trains task after task with Burn's own `SupervisedTraining` under [`DataParallel`],
//! evaluates on every task's test set after each, and returns a [`RunReport`], the same on all
//! ranks except for times, and for curves and pictures, which only rank 0 keeps.

mod agreement;
mod checkpoint;
mod curve;
mod epochs;
mod progress;
mod rank;

pub use crate::origin::ErrorOrigin;
pub use checkpoint::Checkpoints;
pub use progress::{CompletedEpoch, EpochSink, LaunchInfo, ProgressReader, ProgressSample};

use crate::augmentation::Augmentation;
use crate::compat::Renderer;
use crate::data_parallel::{DataParallelError, NoView, Precision};
use crate::epoch::Epoch;
use crate::evaluate::EvaluateError;
use crate::fingerprint::{Differences, Fingerprint};
use crate::methods::{Classifier, LabelledBatch, MethodRef};
use crate::metrics::MetricsError;
use crate::report::schema::{BufferReport, Picture};
use crate::schedule::{ScheduleError, WarmupSchedule};
use crate::stream::TaskStream;
use crate::weights::WeightsError;
use burn::config::Config;
use burn::data::dataloader::batcher::Batcher;
use burn::data::dataset::Dataset;
use burn::optim::ModuleOptimizer;
use burn::tensor::Device;
use burn::train::renderer::MetricsRenderer;
use burn::train::{Interrupter, TrainingError};
use burn_rehearsal::error::{CheckpointError, RehearsalError};
use burn_rehearsal::{RehearsalBuffer, RehearsalConfig};
use burn_rehearsal_collective::CollectiveError;
use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;

#[cfg(doc)]
use crate::data_parallel::DataParallel;
#[cfg(doc)]
use crate::methods::Method;
#[cfg(doc)]
use crate::report::RunReport;

/// What is learned: data, its order of arrival, and the network.
pub trait Workload: Sync {
    /// One sample as the data set gives it.
    type Item: Clone + Send + Sync + 'static;
    /// One mini-batch.
    type Batch: LabelledBatch;
    /// Builds mini-batches.
    type Batcher: Batcher<Self::Item, Self::Batch> + Clone + 'static;
    /// The network.
    type Model: Classifier<Batch = Self::Batch>;

    /// All training samples of all tasks.
    fn train(&self) -> Arc<dyn Dataset<Self::Item>>;
    /// All test samples of all tasks.
    fn test(&self) -> Arc<dyn Dataset<Self::Item>>;
    /// Which samples arrive with which task.
    fn stream(&self) -> &dyn TaskStream;
    /// The batcher of training and evaluation.
    fn batcher(&self) -> Self::Batcher;
    /// What is done to the mini-batches of training after representatives were appended, and before
    /// the network sees them; nothing if it is `None`.
    ///
    /// Its time is part of the phase `load`. See
    /// [`AugmentLoader`](crate::augmentation::AugmentLoader).
    fn augmentation(&self) -> Option<Augmentation<Self::Batch>> {
        None
    }
    /// What is done to the mini-batches of evaluation before the network sees them; nothing if it
    /// is `None`.
    fn evaluation(&self) -> Option<Augmentation<Self::Batch>> {
        None
    }
    /// Which data it is: a run resumes only on data with this fingerprint, and all ranks must have
    /// it. By default no more than the numbers of samples. The order in which they arrive is
    /// compared in any case.
    fn fingerprint(&self) -> Fingerprint {
        let data = Fingerprint::builder::<String>("samples", "their numbers", []).build();
        data.with_option("the number of training samples", self.train().len())
            .with_option("the number of test samples", self.test().len())
    }
    /// The samples that this process had to leave out so far, each by a number that is its own on
    /// all ranks.
    fn left_out(&self) -> Vec<u64> {
        Vec::new()
    }
    /// Pictures of stored samples for the report of a run that rehearses. Default: none.
    ///
    /// Collective: called on all ranks after the last step, with the buffer and its report. The
    /// pictures of rank 0 become part of the report.
    ///
    /// # Errors
    ///
    /// End the run on all ranks.
    fn pictures(
        &self,
        buffer: &RehearsalBuffer<Self::Batch>,
        report: &BufferReport,
    ) -> Result<Vec<Picture>, RehearsalError> {
        let _ = (buffer, report);
        Ok(Vec::new())
    }
    /// The network, initialised from `seed` alone.
    fn model(&self, device: &Device, seed: u64) -> Self::Model;
    /// A fresh optimiser.
    fn optimizer(&self) -> ModuleOptimizer;
}

/// How a run trains. All ranks must agree, except on [`workers`](Self::workers),
/// [`profile`](Self::profile), what the [buffer](RehearsalConfig::agreed) may differ in, and what
/// only rank 0 does: [`network`](Self::network) and [how many checkpoints](Checkpoints::keep) are
/// kept. [`Experiment::run`] compares them first.
#[derive(Config, Debug, PartialEq)]
pub struct Settings {
    /// Epochs per task, at least 1.
    #[config(default = 1)]
    pub epochs: usize,
    /// Incoming rows per rank and step (b), at least 1.
    #[config(default = 32)]
    pub batch_size: usize,
    /// The rehearsal buffer; needed by methods that [rehearse](Method::rehearses), and used by no
    /// other.
    pub rehearsal: Option<RehearsalConfig>,
    /// Base learning rate.
    #[config(default = 0.1)]
    pub learning_rate: f64,
    /// Epochs of linear warm-up from the base rate to `base × min(world size, scale_cap)`, in every
    /// task.
    #[config(default = 0.0)]
    pub warmup_epochs: f64,
    /// From which epoch of a task on (from 0) the top rate is multiplied by which factor; see
    /// [`WarmupSchedule::with_milestones`].
    #[config(default = "Vec::new()")]
    pub milestones: Vec<(f64, f64)>,
    /// The learning rate is multiplied by the world size, but at most by this (1: no scaling).
    #[config(default = 1.0)]
    pub scale_cap: f64,
    /// Whether the optimiser's state (momentum) is kept from task to task; otherwise every task
    /// starts with a new one.
    #[config(default = false)]
    pub keep_optimizer: bool,
    /// The seed of every random choice.
    #[config(default = 0)]
    pub seed: u64,
    /// Loader threads per rank.
    #[config(default = 1)]
    pub workers: usize,
    /// The numbers of forward and backward passes.
    #[config(default = "Precision::F32")]
    pub precision: Precision,
    /// Also evaluate every N epochs (0: after each task only).
    #[config(default = 0)]
    pub evaluate_every: usize,
    /// Synchronises the device between the phases of a step, so that their times are exact on any
    /// device.
    #[config(default = false)]
    pub profile: bool,
    /// The file that the network is written to at the end of a run that was not interrupted, as by
    /// [`save_safetensors`](crate::weights::save_safetensors).
    pub network: Option<PathBuf>,
    /// Whether, where and how often the run writes checkpoints; it resumes from the newest one.
    pub checkpoints: Option<Checkpoints>,
}

impl Settings {
    /// The learning rates of one task on `world_size` ranks; every task begins with the first of
    /// them.
    ///
    /// # Errors
    ///
    /// [`ScheduleError`] if a rate, a factor or the order of milestones makes no sense.
    pub fn schedule(
        &self,
        world_size: usize,
        steps_per_epoch: usize,
    ) -> Result<WarmupSchedule, ScheduleError> {
        let step = |epoch: f64| (epoch.max(0.0) * steps_per_epoch as f64).round() as u64;
        let milestones: Vec<_> =
            self.milestones.iter().map(|&(epoch, factor)| (step(epoch), factor)).collect();
        WarmupSchedule::new(
            self.learning_rate,
            world_size,
            self.scale_cap,
            step(self.warmup_epochs),
        )?
        .with_milestones(&milestones)
    }
}

/// Who watches a run. The methods are called on rank 0 only, except
/// [`interrupter`](Self::interrupter).
pub trait Observer: Sync {
    /// Called once the start has succeeded: all ranks agree, and the checkpoint was read, if there
    /// is one. Nothing was written before.
    ///
    /// # Errors
    ///
    /// Ends the run on all ranks, as [`ExperimentError::Observer`].
    fn ready(&self) -> Result<(), Box<dyn Error + Send + Sync>> {
        Ok(())
    }
    /// Called whenever training begins or resumes; Burn's training shows itself through it. Its
    /// metrics are `Loss`, `Accuracy` (top-1 in per cent of a mini-batch now and then) and, if they
    /// are [asked for](Self::buffer_metrics), the buffer's. Default: nothing is shown.
    fn renderer(&self, launch: &LaunchInfo) -> Box<dyn MetricsRenderer> {
        let _ = launch;
        Box::new(Renderer(NoView))
    }
    /// Whether the renderer wants [`RehearsalMetric`](burn_rehearsal::RehearsalMetric)s.
    fn buffer_metrics(&self) -> bool {
        false
    }
    /// Called with every renderer: what it returns takes each epoch that is completed, in order, on
    /// a thread of Burn's. An epoch in which the run is stopped does not count.
    fn epochs(&self, launch: &LaunchInfo) -> EpochSink {
        let _ = launch;
        Box::new(|_| {})
    }
    /// The run resumes from a checkpoint: within `task` it is in an epoch of which it has done some
    /// steps, or is about to begin it. `epochs` are those that were completed before.
    fn resumed(
        &self,
        task: usize,
        within: Option<(Epoch, u64)>,
        earlier_world_size: usize,
        epochs: &[CompletedEpoch],
    ) {
        let _ = (task, within, earlier_world_size, epochs);
    }
    /// Accuracies on all tasks' test sets after `task`.
    fn evaluated(&self, task: usize, top1: &[f64]) {
        let _ = (task, top1);
    }
    /// Called on every rank before it trains: stopping it ends the run on all ranks after the same
    /// step.
    fn interrupter(&self, interrupter: &Interrupter) {
        let _ = interrupter;
    }
}

/// Observes nothing.
#[derive(Debug, Clone, Copy)]
pub struct Unobserved;

impl Observer for Unobserved {}

/// A run of one method on one workload. All ranks make the same one and call [`run`](Self::run).
pub struct Experiment<'a, W: Workload> {
    workload: &'a W,
    method: MethodRef,
    settings: &'a Settings,
    configuration: serde_json::Value,
    device: Device,
    observer: &'a dyn Observer,
}

impl<'a, W: Workload> Experiment<'a, W> {
    /// Trains on `workload` with `method`, on Burn's default device.
    pub fn new(workload: &'a W, method: MethodRef, settings: &'a Settings) -> Self {
        let (configuration, device) = (serde_json::Value::Null, Device::default());
        Self { workload, method, settings, configuration, device, observer: &Unobserved }
    }

    /// What the report says of the configuration (default: nothing). The run does not read it.
    #[must_use]
    pub fn with_configuration(mut self, configuration: serde_json::Value) -> Self {
        self.configuration = configuration;
        self
    }

    /// Trains and evaluates on `device`.
    #[must_use]
    pub fn with_device(mut self, device: Device) -> Self {
        self.device = device;
        self
    }

    /// Reports progress to `observer` (default: [`Unobserved`]).
    #[must_use]
    pub fn with_observer(mut self, observer: &'a dyn Observer) -> Self {
        self.observer = observer;
        self
    }
}

/// Why a run failed.
#[derive(Debug, thiserror::Error)]
pub enum ExperimentError {
    /// The rehearsal buffer.
    #[error("{0}")]
    Rehearsal(#[from] RehearsalError),
    /// The learner.
    #[error("{0}")]
    DataParallel(#[source] DataParallelError),
    /// This rank's data set or loader, in its own words.
    #[error("{0}")]
    Data(String),
    /// Burn's training.
    #[error("training failed: {0}")]
    Training(String),
    /// An evaluation.
    #[error("{0}")]
    Evaluate(#[from] EvaluateError),
    /// The learning-rate schedule.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    /// The transport.
    #[error("{0}")]
    Collective(#[from] CollectiveError),
    /// A checkpoint.
    #[error("{0}")]
    Checkpoint(#[from] CheckpointError),
    /// There are checkpoints, but none that a run can resume from.
    #[error("no checkpoint in {} can be used; the newest: {newest}", directory.display())]
    NoCheckpoint {
        /// Where they are.
        directory: PathBuf,
        /// What is wrong with the newest.
        newest: CheckpointError,
    },
    /// The network at the end.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// An accuracy outside 0..=1.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// The ranks do not have the same data; the same on every rank.
    #[error("the data of rank {rank} differs: {differences}")]
    DifferentData {
        /// The lowest rank whose data is not that of rank 0.
        rank: usize,
        /// What differs, in words.
        differences: String,
    },
    /// The checkpoint is of a run on other data.
    #[error("the run began on other data: {0}")]
    ChangedData(Differences),
    /// The observer could not begin.
    #[error("{0}")]
    Observer(Box<dyn Error + Send + Sync>),
    /// A setting that makes no sense.
    #[error("{0}")]
    Settings(String),
}

impl From<DataParallelError> for ExperimentError {
    fn from(error: DataParallelError) -> Self {
        match cause::<EvaluateError>(&error) {
            Some(evaluation) => Self::Evaluate(evaluation.clone()),
            None => Self::DataParallel(error),
        }
    }
}

impl ExperimentError {
    /// Where the error comes from.
    pub fn origin(&self) -> ErrorOrigin {
        causes(self).map(ErrorOrigin::of).max().unwrap_or(ErrorOrigin::Local)
    }

    /// Why a launch of Burn's training ended with `error`: the first that this rank met.
    fn of_training(error: &TrainingError) -> Self {
        if let Some(error) = cause::<DataParallelError>(error) {
            return error.clone().into();
        }
        if let Some(error) = cause::<RehearsalError>(error) {
            return error.clone().into();
        }
        match error {
            TrainingError::Dataset(error) => Self::Data(error.to_string()),
            other => Self::Training(other.to_string()),
        }
    }
}

/// An error, its source, the source of that, and so on.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

/// The first of the causes of an error, itself included, that is an `E`.
fn cause<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    causes(error).find_map(|cause| cause.downcast_ref())
}
