//! Training one network on several ranks.
//!
//! [`DataParallel`] is a learning strategy for Burn's `SupervisedTraining`. Every rank (a thread or
//! a process) runs its own `SupervisedTraining`, with its own loaders and its own `DataParallel`.
//! In every step, each rank computes the gradients of its own rows. The ranks sum them and apply
//! the same update, so that all ranks keep the same parameters. A rehearsal buffer is optional.
//!
//! # Several ranks
//!
//! [`Ranks`](burn_rehearsal_collective::Ranks) starts the ranks. Each one reads its own part of the
//! data, creates its shard of the buffer, and trains with its own strategy:
//!
//! ```no_run
//! # mod stubs { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/stubs.rs")); }
//! # use stubs::*;
//! use burn_rehearsal::{Capacity, RehearsalConfig, ShardedLoader};
//! use burn_rehearsal_train::data_parallel::{DataParallel, without_renderer};
//!
//! # fn train(rank: &Rank, learner: Learner<Model>, valid: Loader) -> Result<Model> {
//! let buffer = RehearsalConfig::new(Capacity::Samples(2_000)).init_on::<MyBatch>(rank)?;
//! let train = ShardedLoader::builder(MyBatcher).shard(rank).batch_size(32).shuffle(1);
//! let training = SupervisedTraining::new("runs", buffer.attach(train.build(samples())), valid)
//!     .with_training_strategy(DataParallel::new(rank)?.into())
//!     .num_epochs(5);
//! let training = if rank.is_root() { training } else { without_renderer(training) };
//! let model = training.launch(learner).model;
//! # Ok(model) }
//! ```
//!
//! Build the model once per rank, on the device of the rank
//! ([`device::for_rank`](crate::device::for_rank)). All ranks start with the parameters of rank 0.
//! A batch size of b rows per rank is a global batch size of b times the number of ranks, so the
//! learning rate usually grows with the number of ranks; see [`schedule`](crate::schedule).
//!
//! # What happens in a launch
//!
//! ```text
//! compare settings and models ─► copy parameters, ids, optimizer state and schedule of rank 0
//! every step:   next() ─► status words (all-gather) ─► forward, backward ─► all-reduce
//!               ─► optimizer
//! every epoch:  average batch-norm statistics ─► compare parameters ─► validate ─► status words
//!               ─► checkpoint ─► status words
//! ```
//!
//! * **Every rank calls `next()` in every step of the epoch** until no rank has a batch, even if
//!   its own iterator has already returned `None`. With a rehearsal loader this call is collective.
//!   The iterator of a training loader must therefore be fused: after `None` it keeps returning
//!   `None`.
//! * **No rank leaves silently.** A rank without rows takes part with weight 0 and does not run the
//!   model. A stop that is requested on any rank ends all ranks after the same step. If a rank
//!   fails, all ranks end with the same error. If a rank panics, the others get
//!   [`PeerFailed`](burn_rehearsal_collective::CollectiveError::PeerFailed).
//! * **No rank waits forever.** Ranks can end up waiting for each other in different operations,
//!   for example if only some of them use a rehearsal loader. All of them then get
//!   [`Deadlock`](burn_rehearsal_collective::CollectiveError::Deadlock), which names the operations
//!   and the ranks.

pub(crate) mod adopt;
pub(crate) mod agree;
mod buckets;
mod error;
mod gradients;
mod headless;
mod loss_scale;
mod norm;
mod params;
mod precision;
mod projection;
mod recorder;
mod training_loop;

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use burn::data::dataloader::DataLoader;
use burn::data::dataset::DatasetError;
use burn::tensor::Device;
use burn::train::{
    InferenceStep, Learner, LearnerModel, SupervisedLearningStrategy,
    SupervisedTrainingEventProcessor, TrainStep, TrainingComponents, TrainingStrategy,
};
use burn_rehearsal::RehearsalBatch;
use burn_rehearsal_collective::{Collective, CollectiveError, Rank};
use parking_lot::Mutex;

pub use self::error::{DataParallelError, HookError};
pub use self::headless::{NoMetricLogger, NoView, without_renderer};
pub use self::loss_scale::{LossScale, scale_loss};
pub(crate) use self::params::{ModulePath, track_path, visit_floats};
pub use self::precision::{Precision, compute_type, in_f32};
pub use self::projection::project_gradients;
pub(crate) use self::recorder::LearnerRecord;
use self::recorder::Recorder;
use self::training_loop::{Ended, TrainingLoop};
use crate::epoch::Epoch;
use crate::phases::PhaseTimer;

/// A hook that every rank calls after each epoch that was not stopped. It receives the epoch and
/// the network in its validation state.
///
/// All ranks call it, so it may be collective. It can evaluate on a collective of its own, or write
/// a checkpoint of the buffer:
///
/// ```
/// # use burn_rehearsal::{RehearsalBatch, RehearsalBuffer, checkpoint::RehearsalCheckpointing};
/// # use burn_rehearsal_train::data_parallel::AfterEpoch;
/// fn save_buffer<M, B: RehearsalBatch>(buffer: RehearsalBuffer<B>) -> AfterEpoch<M> {
///     Box::new(move |_, epoch| {
///         buffer.checkpoint(RehearsalCheckpointing::path("runs/buffer", epoch.number()))?;
///         Ok(())
///     })
/// }
/// ```
///
/// An error of the hook ends the run.
pub type AfterEpoch<M> =
    Box<dyn Fn(&M, Epoch) -> Result<(), Box<dyn Error + Send + Sync>> + Send + Sync>;

type Rows<M> = Box<dyn Fn(&<M as TrainStep>::Input) -> usize + Send + Sync>;

/// One rank of a data-parallel training, as a learning strategy of Burn. See the [module](self) for
/// a first example.
///
/// One value can serve several launches, one after another. Launch with an `Arc` of it to keep the
/// optimizer's state from task to task, and to get typed errors:
///
/// ```no_run
/// # mod stubs { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/stubs.rs")); }
/// # use stubs::*;
/// # use burn_rehearsal_train::data_parallel::DataParallel;
/// # fn train(rank: &Rank, mut learner: Learner<Model>, tasks: Vec<[Loader; 2]>) -> Result<()> {
/// let strategy = Arc::new(DataParallel::new(rank)?);
/// for [train, valid] in tasks {
///     let _ = SupervisedTraining::new("runs", train, valid)
///         .with_training_strategy(TrainingStrategy::Custom(strategy.clone()))
///         .launch(learner);
///     if let Some(error) = strategy.take_error() {
///         return Err(error.into());
///     }
///     learner = strategy.take_learner().ok_or("the launch left no learner")?;
/// }
/// # Ok(()) }
/// ```
///
/// # Semantics
///
/// * The gradient is the mean over the rows of all ranks, `Σ rowsᵢ·gᵢ / Σ rowsᵢ`, reduced in `f32`.
///   For a loss that is a mean over rows and a network without batch statistics, N ranks compute
///   the gradient of one rank with all rows, up to rounding.
/// * A parameter without a gradient on some ranks counts as zero there. A parameter without a
///   gradient on all ranks is not updated.
/// * One rank computes the same bits as Burn's own single-device training.
/// * With gradient accumulation over k steps, the means of the k steps are *summed*, as in Burn,
///   and reduced once per update. An incomplete group at the end of an epoch, or at a stop, is
///   applied.
/// * The metrics of a rank are those of its own rows. Only the metrics of rank 0 are shown and
///   stored (see [`without_renderer`]). Only rank 0 uses its checkpointers and its early stopping,
///   whose decision holds for all ranks.
/// * In half precision ([`with_precision`](Self::with_precision)) a step computes with a copy of
///   the network. The parameters and the optimizer stay in `f32`. In `f16` the loss is
///   [scaled](LossScale), and all ranks skip an update whose gradients are not finite.
/// * A stop that is requested through the `Interrupter` of any rank ends all ranks after the step
///   in which they learn of it.
pub struct DataParallel<M: LearnerModel> {
    rank: usize,
    world_size: usize,
    device: Device,
    rows: Rows<M>,
    timer: PhaseTimer,
    average_statistics: bool,
    check_parameters: bool,
    precision: Precision,
    after_epoch: Option<AfterEpoch<M>>,
    keep_records: bool,
    state: Mutex<LaunchState<M>>,
}

/// State that passes from one launch to the next.
struct LaunchState<M: LearnerModel> {
    /// `None` while a launch uses it, and permanently after a launch that failed or panicked.
    session: Option<Session<M>>,
    /// The results of the last launch, until they are taken.
    outcome: Option<Outcome<M>>,
}

/// The part of the state that a launch takes out of the strategy. Dropping it notifies the other
/// ranks.
struct Session<M: LearnerModel> {
    collective: Box<dyn Collective>,
    /// Steps since the first launch.
    step: u64,
    /// Agreements since the first launch.
    round: u64,
    loss_scale: LossScale,
    /// Reads the learner of rank 0. `None` until it is needed.
    recorder: Option<Recorder<M>>,
    /// The running statistics with which the next launch of this rank begins. `None`: those of rank
    /// 0.
    statistics: Option<Vec<f32>>,
}

/// The results of a launch.
pub(crate) struct Outcome<M: LearnerModel> {
    /// The learner after its last complete update.
    pub(crate) learner: Option<Learner<M>>,
    /// The reason why the launch ended early.
    pub(crate) error: Option<DataParallelError>,
    /// The point at which the launch was stopped.
    pub(crate) stopped: Option<Stopped>,
    /// The records of the learner. On rank 0 only.
    pub(crate) records: Option<Records>,
}

/// The learners of all ranks, as a checkpoint stores them.
pub(crate) struct Records {
    /// Parameters, optimizer and schedule, which are the same on all ranks, with the running
    /// statistics of rank 0.
    pub(crate) learner: LearnerRecord,
    /// The running statistics of each rank, as bytes. Empty if they are the same on all ranks.
    pub(crate) statistics: Vec<Vec<u8>>,
    /// The time it took to copy them.
    pub(crate) time: Duration,
}

/// The next step of a launch that was stopped. The same on all ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stopped {
    /// The epoch. Beyond the last one if nothing was left to do.
    pub(crate) epoch: Epoch,
    /// The steps of this epoch that the launch has done.
    pub(crate) steps: u64,
}

impl<M: LearnerModel> DataParallel<M>
where
    <M as TrainStep>::Input: RehearsalBatch,
{
    /// Creates the strategy of `rank`, with a collective of its own. Collective: all ranks call it.
    ///
    /// ```
    /// # mod stubs { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/stubs.rs")); }
    /// # use stubs::*;
    /// use burn_rehearsal_train::data_parallel::{DataParallel, Precision};
    /// use burn_rehearsal_train::device;
    ///
    /// # fn strategy(rank: &Rank) -> Result<DataParallel<Model>> {
    /// let strategy = DataParallel::new(rank)?
    ///     .with_device(device::for_rank(rank))
    ///     .with_precision(Precision::Bf16);
    /// # Ok(strategy) }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`Rank::collective`].
    pub fn new(rank: &Rank) -> Result<Self, CollectiveError> {
        Ok(Self::on_collective(rank.collective()?, RehearsalBatch::rows))
    }
}

impl<M: LearnerModel> DataParallel<M> {
    /// Creates a strategy on a collective that nothing else uses, for batches of any type. `rows`
    /// returns the number of rows of a training batch, incoming rows and representatives together.
    ///
    /// ```
    /// # mod stubs { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/stubs.rs")); }
    /// # use stubs::*;
    /// # use burn_rehearsal_train::data_parallel::DataParallel;
    /// # fn strategy(rank: &Rank) -> Result<DataParallel<Model>> {
    /// let rows = |batch: &MyBatch| batch.targets.dims()[0];
    /// let strategy = DataParallel::on_collective(rank.collective()?, rows);
    /// # Ok(strategy) }
    /// ```
    pub fn on_collective<F>(mut collective: Box<dyn Collective>, rows: F) -> Self
    where
        F: Fn(&<M as TrainStep>::Input) -> usize + Send + Sync + 'static,
    {
        collective.set_purpose("training");
        let (rank, world_size) = (collective.rank(), collective.size());
        let session = Session {
            collective,
            step: 0,
            round: 0,
            loss_scale: LossScale::default(),
            recorder: None,
            statistics: None,
        };
        Self {
            rank,
            world_size,
            device: Device::default().autodiff(),
            rows: Box::new(rows),
            timer: PhaseTimer::new(),
            average_statistics: true,
            check_parameters: true,
            precision: Precision::F32,
            after_epoch: None,
            keep_records: false,
            state: Mutex::new(LaunchState { session: Some(session), outcome: None }),
        }
    }

    /// Sets the device. Default: [`Device::default`].
    #[must_use]
    pub fn with_device(mut self, device: Device) -> Self {
        self.device = if device.is_autodiff() { device } else { device.autodiff() };
        self
    }

    /// Records the phases of the steps in `timer`. Read it at any time through a clone.
    ///
    /// ```
    /// # mod stubs { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/stubs.rs")); }
    /// # use stubs::*;
    /// # use burn_rehearsal_train::{data_parallel::DataParallel, phases::PhaseTimer};
    /// # fn strategy(rank: &Rank) -> Result<DataParallel<Model>> {
    /// let timer = PhaseTimer::profiling();
    /// let strategy = DataParallel::new(rank)?.with_timer(timer.clone());
    /// // After some steps:
    /// println!("{:?}", timer.report(None).by_name());
    /// # Ok(strategy) }
    /// ```
    #[must_use]
    pub fn with_timer(mut self, timer: PhaseTimer) -> Self {
        self.timer = timer;
        self
    }

    /// Sets whether the running statistics of batch norms are averaged over the ranks at the end of
    /// every epoch. All ranks must use the same value. Default: yes.
    #[must_use]
    pub fn with_averaged_statistics(mut self, average: bool) -> Self {
        self.average_statistics = average;
        self
    }

    /// Sets whether all ranks compare their parameters, bit for bit, at the end of every epoch. All
    /// ranks must use the same value. Default: yes.
    #[must_use]
    pub fn with_parameter_check(mut self, check: bool) -> Self {
        self.check_parameters = check;
        self
    }

    /// Sets the number format of forward and backward passes. See [`Precision`] for the
    /// requirements on the network. All ranks must use the same format. A launch fails with
    /// [`DataParallelError::Precision`] if the device does not support it. Default:
    /// [`Precision::F32`].
    #[must_use]
    pub fn with_precision(mut self, precision: Precision) -> Self {
        self.precision = precision;
        self
    }

    /// Continues with the loss scale of an earlier training. Only [`Precision::F16`] uses it. All
    /// ranks must set the same value.
    #[must_use]
    pub fn with_loss_scale(self, loss_scale: LossScale) -> Self {
        self.set_loss_scale(loss_scale);
        self
    }

    /// Like [`with_loss_scale`](Self::with_loss_scale), between launches.
    pub(crate) fn set_loss_scale(&self, loss_scale: LossScale) {
        self.with_session(|session| session.loss_scale = loss_scale);
    }

    /// The loss scale after the last launch. `None` if the loss is not scaled, or if the last
    /// launch failed.
    pub fn loss_scale(&self) -> Option<LossScale> {
        self.with_session(|session| session.loss_scale).filter(|_| self.precision.scales_loss())
    }

    /// Calls `hook` after every epoch. Either all ranks have a hook, or none.
    #[must_use]
    pub fn with_after_epoch(mut self, hook: AfterEpoch<M>) -> Self {
        self.after_epoch = Some(hook);
        self
    }

    /// Sets whether each launch ends with the records of its learner on rank 0, for a checkpoint.
    pub(crate) fn with_records(mut self, keep: bool) -> Self {
        self.keep_records = keep;
        self
    }

    /// Begins the next launch with the running statistics of [`Records`]. Each rank takes its own,
    /// or the mean if the number of ranks has changed.
    pub(crate) fn set_statistics(&self, of_ranks: &[Vec<u8>]) {
        let statistics = norm::of_rank(of_ranks, self.rank, self.world_size);
        self.with_session(|session| session.statistics = statistics);
    }

    /// The times of all phases so far.
    pub fn timer(&self) -> &PhaseTimer {
        &self.timer
    }

    /// Takes the learner that the last launch left: after its last complete update, even if the
    /// launch ended with an error.
    ///
    /// Launch with it to train on the next task. `learner.load_scheduler(…)` restarts its schedule,
    /// see [`WarmupSchedule::restart_record`](crate::schedule::WarmupSchedule::restart_record).
    pub fn take_learner(&self) -> Option<Learner<M>> {
        self.state.lock().outcome.as_mut()?.learner.take()
    }

    /// Takes the reason why the last launch ended early, if it did. It is the typed form of
    /// `LearningResult::error`.
    pub fn take_error(&self) -> Option<DataParallelError> {
        self.state.lock().outcome.as_mut()?.error.take()
    }

    /// Takes the results of the last launch.
    pub(crate) fn take_outcome(&self) -> Option<Outcome<M>> {
        self.state.lock().outcome.take()
    }

    /// Applies `work` to the state of the next launch. Returns `None` during a launch.
    fn with_session<T>(&self, work: impl FnOnce(&mut Session<M>) -> T) -> Option<T> {
        self.state.lock().session.as_mut().map(work)
    }
}

impl<M: LearnerModel + 'static> From<DataParallel<M>> for TrainingStrategy<M> {
    fn from(strategy: DataParallel<M>) -> Self {
        Self::Custom(Arc::new(strategy))
    }
}

impl<M: LearnerModel> SupervisedLearningStrategy<M> for DataParallel<M> {
    fn fit(
        &self,
        components: TrainingComponents<M>,
        learner: Learner<M>,
        train: Arc<dyn DataLoader<<M as TrainStep>::Input>>,
        valid: Arc<dyn DataLoader<<M as InferenceStep>::Input>>,
        starting_epoch: usize,
    ) -> (M, SupervisedTrainingEventProcessor<M>) {
        let interrupter = components.interrupter.clone();
        // A launch that unwinds drops its session, which notifies the other ranks.
        let session = {
            let mut state = self.state.lock();
            state.outcome = None;
            state.session.take()
        };
        let (learner, event_processor, ended) = match session {
            Some(session) => TrainingLoop::new(self, session, components, learner, train, valid)
                .run(Epoch::from_number(starting_epoch)),
            None => (learner, components.event_processor, Err(DataParallelError::Unavailable)),
        };
        let model = learner.model();
        let learner = Some(learner);
        let (session, outcome) = match ended {
            Ok(Ended { session, stopped, records }) => {
                (Some(session), Outcome { learner, error: None, stopped, records })
            }
            Err(error) => {
                interrupter.fail(DatasetError::new(error.clone()));
                (None, Outcome { learner, error: Some(error), stopped: None, records: None })
            }
        };
        *self.state.lock() = LaunchState { session, outcome: Some(outcome) };
        (model, event_processor)
    }
}
