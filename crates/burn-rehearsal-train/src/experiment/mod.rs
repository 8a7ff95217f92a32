//! A whole continual-learning run: tasks, a method, evaluation, checkpoints and the report.
//!
//! An [`Experiment`] combines a [`Workload`] (data, stream and network), a [`Method`] and
//! [`Settings`]. It trains on one task after another with [`DataParallel`], evaluates on the test
//! sets of all tasks after each one, and returns a [`RunReport`]. Every rank runs the same
//! experiment:
//!
//! ```no_run
//! # use burn_rehearsal::{Capacity, RehearsalConfig};
//! # use burn_rehearsal_collective::Ranks;
//! # use burn_rehearsal_train::experiment::{Experiment, Settings, Workload};
//! # use burn_rehearsal_train::{device, methods::Rehearsal};
//! # use std::{error::Error, path::Path};
//! # fn run<W: Workload>(workload: &W) -> Result<(), Box<dyn Error>> {
//! let settings = Settings::new()
//!     .with_epochs(5)
//!     .with_rehearsal(Some(RehearsalConfig::new(Capacity::Samples(2_000))));
//! let reports = Ranks::from_env_or_threads(4)?.run(|rank| {
//!     let experiment = Experiment::new(workload, &Rehearsal, &settings);
//!     experiment.with_device(device::for_rank(&rank)).run(&rank)
//! })?;
//! reports[0].write(Path::new("runs/1"))?;
//! # Ok(()) }
//! ```
//!
//! The report is the same on all ranks, except for times and for the curves and pictures, which
//! only rank 0 has.
//!
//! # Resuming
//!
//! A run with [`Settings::checkpoints`] writes a checkpoint after every task but the last, every N
//! epochs if requested, and when it is stopped. Run the same program again to resume: the
//! experiment continues from the newest checkpoint in the directory whose files are intact. If
//! there are checkpoints but none of them can be used, the run fails with
//! [`ExperimentError::NoCheckpoint`].
//!
//! * On the same number of ranks, the final report has the same bits as that of an uninterrupted
//!   run, except for times and the work of the buffer per step.
//! * On another number of ranks, the buffer keeps every stored sample. Within an epoch, the run
//!   resumes at the whole step before its position. [`RunReport::earlier_world_sizes`] lists the
//!   earlier numbers of ranks.
//! * The method with its options, the seed, the number of tasks, the [`Fingerprint`] of the data
//!   and the [configuration of the buffer](RehearsalConfig::agreed) must be those of the first run.
//!   Otherwise the run fails and leaves the checkpoints unchanged.
//! * The directory must be on a file system that all ranks share.
//!
//! An [`Observer`] follows a run while it trains. Its [`interrupter`](Observer::interrupter) stops
//! the run.

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
use crate::methods::{Classifier, LabeledBatch, MethodRef};
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

/// The data, their assignment to tasks, and the network.
///
/// ```
/// # mod stubs { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/stubs.rs")); }
/// # use stubs::*;
/// # use burn_rehearsal_train::experiment::Workload;
/// # use burn_rehearsal_train::init::{Scheme, keyed_init};
/// # use burn_rehearsal_train::stream::{ClassIncremental, TaskStream};
/// # struct MyData { train: Arc<dyn Dataset<i64>>, stream: ClassIncremental }
/// impl Workload for MyData {
///     type Item = i64;
///     type Batch = MyBatch;
///     type Model = Network;
///     fn train(&self) -> Arc<dyn Dataset<i64>> { self.train.clone() }
///     fn stream(&self) -> &dyn TaskStream { &self.stream }
///     fn model(&self, device: &Device, seed: u64) -> Network {
///         keyed_init(Network::new(device), seed, Scheme::default())
///     }
/// #   type Batcher = MyBatcher;
/// #   fn test(&self) -> Arc<dyn Dataset<i64>> { self.train.clone() }
/// #   fn batcher(&self) -> MyBatcher { MyBatcher }
/// #   fn optimizer(&self) -> ModuleOptimizer { SgdConfig::new().init() }
/// }
/// ```
///
/// `Batcher`, `test`, `batcher` and `optimizer` are required, too. The program
/// [continual-imagenet] has a complete implementation for images.
///
/// [continual-imagenet]: https://github.com/burn-rehearsal/burn-rehearsal/blob/main/examples/continual-imagenet/src/workload.rs
pub trait Workload: Sync {
    /// A sample of the data set.
    type Item: Clone + Send + Sync + 'static;
    /// A mini-batch.
    type Batch: LabeledBatch;
    /// The type that builds mini-batches.
    type Batcher: Batcher<Self::Item, Self::Batch> + Clone + 'static;
    /// The network.
    type Model: Classifier<Batch = Self::Batch>;

    /// The training samples of all tasks.
    fn train(&self) -> Arc<dyn Dataset<Self::Item>>;
    /// The test samples of all tasks.
    fn test(&self) -> Arc<dyn Dataset<Self::Item>>;
    /// The assignment of samples to tasks.
    fn stream(&self) -> &dyn TaskStream;
    /// The batcher for training and evaluation.
    fn batcher(&self) -> Self::Batcher;
    /// The transformation of training mini-batches, applied to incoming rows and representatives
    /// before the network sees them. Default: `None`, no transformation.
    ///
    /// Its time counts as part of the phase `load`. See
    /// [`AugmentLoader`](crate::augmentation::AugmentLoader).
    fn augmentation(&self) -> Option<Augmentation<Self::Batch>> {
        None
    }
    /// The transformation of mini-batches for evaluation. Default: `None`, no transformation.
    fn evaluation(&self) -> Option<Augmentation<Self::Batch>> {
        None
    }
    /// The identity of the data. A run resumes only on data with the same fingerprint, and all
    /// ranks must have it. The order of arrival is always compared in addition. Default: the
    /// numbers of samples.
    fn fingerprint(&self) -> Fingerprint {
        let data = Fingerprint::builder::<String>("samples", "their numbers", []).build();
        data.with_option("the number of training samples", self.train().len())
            .with_option("the number of test samples", self.test().len())
    }
    /// The samples that this process has left out so far, because they are damaged. A sample must
    /// have the same number on all ranks. Default: none.
    fn left_out(&self) -> Vec<u64> {
        Vec::new()
    }
    /// Creates pictures of stored samples for the report of a run that rehearses. Default: none.
    ///
    /// Called on all ranks after the last step, with the buffer and its report, so it may be
    /// collective. The pictures of rank 0 become part of the report.
    ///
    /// # Errors
    ///
    /// An error ends the run on all ranks.
    fn pictures(
        &self,
        buffer: &RehearsalBuffer<Self::Batch>,
        report: &BufferReport,
    ) -> Result<Vec<Picture>, RehearsalError> {
        let _ = (buffer, report);
        Ok(Vec::new())
    }
    /// Creates the network. Its parameters may depend only on `seed`.
    fn model(&self, device: &Device, seed: u64) -> Self::Model;
    /// Creates an optimizer.
    fn optimizer(&self) -> ModuleOptimizer;
}

/// The settings of a run.
///
/// All ranks must use the same, except for [`workers`](Self::workers), [`profile`](Self::profile),
/// the [fields of the buffer](RehearsalConfig::agreed) that cannot change a result, and what only
/// rank 0 uses: [`network`](Self::network) and [`Checkpoints::keep`]. [`Experiment::run`] compares
/// them first.
///
/// ```
/// use burn_rehearsal::{Capacity, RehearsalConfig};
/// use burn_rehearsal_train::experiment::Settings;
///
/// let settings = Settings::new()
///     .with_epochs(30)
///     .with_batch_size(56)
///     .with_learning_rate(0.1)
///     .with_rehearsal(Some(RehearsalConfig::new(Capacity::Samples(2_000))));
/// assert!(settings.checkpoints.is_none());
/// ```
#[derive(Config, Debug, PartialEq)]
pub struct Settings {
    /// Epochs per task, at least 1. Default: 1.
    #[config(default = 1)]
    pub epochs: usize,
    /// Incoming rows per rank and step (b), at least 1. Default: 32.
    #[config(default = 32)]
    pub batch_size: usize,
    /// The rehearsal buffer. Methods that [rehearse](Method::rehearses) require it, others ignore
    /// it.
    pub rehearsal: Option<RehearsalConfig>,
    /// Base learning rate. Default: 0.1.
    #[config(default = 0.1)]
    pub learning_rate: f64,
    /// Epochs of linear warm-up at the start of every task, from the base rate to the peak rate
    /// `base × min(world size, scale_cap)`. Default: 0.
    #[config(default = 0.0)]
    pub warmup_epochs: f64,
    /// Steps of the learning rate: pairs of an epoch of a task (from 0, may be fractional) and the
    /// factor of the peak rate from that epoch on. Default: none. See
    /// [`WarmupSchedule::with_milestones`].
    #[config(default = "Vec::new()")]
    pub milestones: Vec<(f64, f64)>,
    /// The largest factor by which the learning rate grows with the number of ranks. Default: 1, no
    /// scaling.
    #[config(default = 1.0)]
    pub scale_cap: f64,
    /// Whether the optimizer's state (momentum) is kept from task to task. Default: every task
    /// starts with a new optimizer.
    #[config(default = false)]
    pub keep_optimizer: bool,
    /// The seed of every random choice. Default: 0.
    #[config(default = 0)]
    pub seed: u64,
    /// Loader threads per rank. Default: 1.
    #[config(default = 1)]
    pub workers: usize,
    /// The number format of forward and backward passes. Default: `F32`.
    #[config(default = "Precision::F32")]
    pub precision: Precision,
    /// Also evaluate after every N epochs. Default: 0, after each task only.
    #[config(default = 0)]
    pub evaluate_every: usize,
    /// Synchronizes the device between the phases of a step, so that times are exact on any device.
    /// Default: no.
    #[config(default = false)]
    pub profile: bool,
    /// The file for the trained network, in the format of
    /// [`save_safetensors`](crate::weights::save_safetensors). It is written at the end of a run
    /// that was not stopped.
    pub network: Option<PathBuf>,
    /// The checkpoints of the run. Default: none.
    pub checkpoints: Option<Checkpoints>,
}

impl Settings {
    /// The learning rates of one task on `world_size` ranks. Every task starts from the first step.
    ///
    /// # Errors
    ///
    /// [`ScheduleError`] if a rate, a factor or the order of milestones is invalid.
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

/// Follows a run. All methods are called on rank 0 only, except for
/// [`interrupter`](Self::interrupter).
///
/// ```
/// use burn_rehearsal_train::experiment::Observer;
///
/// struct PrintAccuracy;
///
/// impl Observer for PrintAccuracy {
///     fn evaluated(&self, task: usize, top1: &[f64]) {
///         println!("after task {task}: accuracy of each task {top1:?}");
///     }
/// }
/// ```
pub trait Observer: Sync {
    /// Called when the start has succeeded: all ranks agree, and the checkpoint, if there is one,
    /// was read. The run has not written any file before.
    ///
    /// # Errors
    ///
    /// An error ends the run on all ranks, as [`ExperimentError::Observer`].
    fn ready(&self) -> Result<(), Box<dyn Error + Send + Sync>> {
        Ok(())
    }
    /// Called when training begins or resumes. Returns the renderer of Burn's training. Its metrics
    /// are `Loss`, `Accuracy` (top-1 in per cent, of a sample of the mini-batches) and, if
    /// [requested](Self::buffer_metrics), those of the buffer. Default: a renderer that shows
    /// nothing.
    fn renderer(&self, launch: &LaunchInfo) -> Box<dyn MetricsRenderer> {
        let _ = launch;
        Box::new(Renderer(NoView))
    }
    /// Whether the renderer receives [`RehearsalMetric`](burn_rehearsal::RehearsalMetric)s.
    /// Default: no.
    fn buffer_metrics(&self) -> bool {
        false
    }
    /// Called with every renderer. The returned sink receives each completed epoch, in order, on a
    /// thread of Burn. An epoch in which the run is stopped is not completed. Default: a sink that
    /// discards them.
    fn epochs(&self, launch: &LaunchInfo) -> EpochSink {
        let _ = launch;
        Box::new(|_| {})
    }
    /// Called when the run resumes from a checkpoint. The next step is in `task`. `within` is the
    /// epoch and the number of steps done in it, or `None` if the task has not begun. `epochs` were
    /// completed before.
    fn resumed(
        &self,
        task: usize,
        within: Option<(Epoch, u64)>,
        earlier_world_size: usize,
        epochs: &[CompletedEpoch],
    ) {
        let _ = (task, within, earlier_world_size, epochs);
    }
    /// Called after each task, with the top-1 accuracies on the test sets of all tasks.
    fn evaluated(&self, task: usize, top1: &[f64]) {
        let _ = (task, top1);
    }
    /// Called on every rank before it trains. Stopping `interrupter` ends the run on all ranks
    /// after the same step.
    fn interrupter(&self, interrupter: &Interrupter) {
        let _ = interrupter;
    }
}

/// An observer that does nothing.
#[derive(Debug, Clone, Copy)]
pub struct Unobserved;

impl Observer for Unobserved {}

/// A run of one method on one workload. All ranks create the same one and call [`run`](Self::run).
/// See the [module](self) for an example.
pub struct Experiment<'a, W: Workload> {
    workload: &'a W,
    method: MethodRef,
    settings: &'a Settings,
    configuration: serde_json::Value,
    device: Device,
    observer: &'a dyn Observer,
}

impl<'a, W: Workload> Experiment<'a, W> {
    /// Creates a run of `method` on `workload`, on Burn's default device.
    pub fn new(workload: &'a W, method: MethodRef, settings: &'a Settings) -> Self {
        let (configuration, device) = (serde_json::Value::Null, Device::default());
        Self { workload, method, settings, configuration, device, observer: &Unobserved }
    }

    /// Sets the configuration that the report shows. It has no other effect. Default: none.
    #[must_use]
    pub fn with_configuration(mut self, configuration: serde_json::Value) -> Self {
        self.configuration = configuration;
        self
    }

    /// Sets the device for training and evaluation.
    #[must_use]
    pub fn with_device(mut self, device: Device) -> Self {
        self.device = device;
        self
    }

    /// Reports progress to `observer`. Default: [`Unobserved`].
    #[must_use]
    pub fn with_observer(mut self, observer: &'a dyn Observer) -> Self {
        self.observer = observer;
        self
    }
}

/// The reason why a run failed.
#[derive(Debug, thiserror::Error)]
pub enum ExperimentError {
    /// The rehearsal buffer failed.
    #[error("{0}")]
    Rehearsal(#[from] RehearsalError),
    /// The learner failed.
    #[error("{0}")]
    DataParallel(#[source] DataParallelError),
    /// The data set or the loader of this rank failed.
    #[error("{0}")]
    Data(String),
    /// Burn's training failed.
    #[error("training failed: {0}")]
    Training(String),
    /// An evaluation failed.
    #[error("{0}")]
    Evaluate(#[from] EvaluateError),
    /// The learning-rate schedule is invalid.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    /// The ranks could not communicate.
    #[error("{0}")]
    Collective(#[from] CollectiveError),
    /// A checkpoint could not be read or written.
    #[error("{0}")]
    Checkpoint(#[from] CheckpointError),
    /// There are checkpoints, but none that a run can resume from.
    #[error("no checkpoint in {} can be used; the newest one: {newest}", directory.display())]
    NoCheckpoint {
        /// Their directory.
        directory: PathBuf,
        /// The error of the newest one.
        newest: CheckpointError,
    },
    /// The file of the trained network could not be written.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// An accuracy is outside 0..=1.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// The ranks have different data. Every rank returns the same error.
    #[error("the data of rank {rank} differs: {differences}")]
    DifferentData {
        /// The lowest rank whose data differ from those of rank 0.
        rank: usize,
        /// The differences.
        differences: String,
    },
    /// The checkpoint belongs to a run on other data.
    #[error("the run began on other data: {0}")]
    ChangedData(Differences),
    /// The observer refused to start the run, see [`Observer::ready`].
    #[error("{0}")]
    Observer(Box<dyn Error + Send + Sync>),
    /// A setting is invalid.
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
    /// The rank that caused the error.
    pub fn origin(&self) -> ErrorOrigin {
        causes(self).map(ErrorOrigin::of).max().unwrap_or(ErrorOrigin::Local)
    }

    /// The reason why a launch of Burn's training ended with `error`: the first error of this rank.
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

/// An error, its source, the source of the source, and so on.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

/// The first `E` among an error and its causes.
fn cause<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    causes(error).find_map(|cause| cause.downcast_ref())
}
