//! Data-parallel training over any [`Collective`].
//!
//! [`DataParallel`] is a Burn learning strategy. Every rank runs Burn's own `SupervisedTraining` on
//! its own thread (or process), with its own loaders and its own `DataParallel`; what makes them
//! one training is the collective between them:
//!
//! ```text
//! fit: compare settings and models ─► copy rank 0's parameters, ids, optimiser state, schedule
//!   epoch:  next() ─► status words (all-gather) ─► forward + backward ─► one flat all-reduce ─► optimiser      … until no rank has a batch
//!           average batch-norm statistics ─► compare parameter digests ─► validation ─► status words ─► checkpoint ─► status words
//! ```
//!
//! **Every rank calls `next()` in every step of the epoch**, also after its iterator has returned
//! `None`, until no rank has a batch: behind a rehearsal loader that call is itself collective. An
//! iterator of a training loader must therefore be fused: after `None` it keeps returning `None`.
//!
//! **No rank leaves silently.** A rank without rows takes part with weight 0 and runs no model
//! step; a stop that anyone requests ends all ranks after the same step; a rank that fails says so
//! in its status word and all ranks end with the same error; a rank that panics drops its
//! collective, so that the others get
//! [`PeerFailed`](burn_rehearsal_collective::CollectiveError::PeerFailed).
//!
//! **Nobody waits for ever.** If one rank trains without a rehearsal loader, or rehearses inside a
//! training step that does not run without rows, the ranks wait for each other in different
//! operations. All of them end with
//! [`Deadlock`](burn_rehearsal_collective::CollectiveError::Deadlock), which says who waits in what
//! for whom.

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
pub(crate) use self::params::{ModulePath, track_path};
pub use self::precision::{Precision, compute_type, in_f32};
pub(crate) use self::recorder::LearnerRecord;
use self::recorder::Recorder;
use self::training_loop::{Ended, TrainingLoop};
use crate::epoch::Epoch;
use crate::phases::PhaseTimer;

/// Called by every rank after each epoch that was not stopped, with the network in its validation
/// state and the epoch. All ranks call it, so it may be collective: it can evaluate (on a
/// collective of its own), or write a checkpoint of the buffer:
///
/// ```
/// # use burn::tensor::Tensor;
/// # use burn_rehearsal::{RehearsalBatch, RehearsalBuffer, checkpoint::RehearsalCheckpointing};
/// # use burn_rehearsal_train::data_parallel::AfterEpoch;
/// # #[derive(RehearsalBatch)] struct MyBatch { inputs: Tensor<2> }
/// fn save_buffer<M>(buffer: RehearsalBuffer<MyBatch>) -> AfterEpoch<M> {
///     Box::new(move |_, epoch| {
///         buffer.checkpoint(RehearsalCheckpointing::path("runs/buffer", epoch.number()))?;
///         Ok(())
///     })
/// }
/// ```
///
/// Its error ends the run.
pub type AfterEpoch<M> =
    Box<dyn Fn(&M, Epoch) -> Result<(), Box<dyn Error + Send + Sync>> + Send + Sync>;

type Rows<M> = Box<dyn Fn(&<M as TrainStep>::Input) -> usize + Send + Sync>;

/// One rank of a data-parallel training, as a Burn learning strategy.
///
/// The same value serves several launches, one after another (the tasks of a stream).
///
/// ```no_run
/// # use std::sync::Arc;
/// # use burn::data::dataloader::DataLoader;
/// # use burn::tensor::Tensor;
/// # use burn::train::{InferenceStep, Learner, LearnerModel, SupervisedTraining, TrainStep};
/// # use burn_rehearsal::RehearsalBatch;
/// # use burn_rehearsal_collective::{CollectiveError, Rank};
/// # use burn_rehearsal_train::data_parallel::{DataParallel, without_renderer};
/// /// Runs on every rank, with that rank's own loaders.
/// fn train<M, B: RehearsalBatch>(
///     rank: &Rank,
///     learner: Learner<M>,
///     train: Arc<dyn DataLoader<B>>,
///     valid: Arc<dyn DataLoader<B>>,
/// ) -> Result<M, CollectiveError>
/// where
///     M: LearnerModel + TrainStep<Input = B> + InferenceStep<Input = B> + 'static,
/// {
///     let training = SupervisedTraining::new("artifacts", train, valid)
///         .num_epochs(5)
///         .with_training_strategy(DataParallel::new(rank)?.into());
///     let training = if rank.is_root() { training } else { without_renderer(training) };
///     Ok(training.launch(learner).model)
/// }
/// ```
///
/// To keep optimiser and schedule from one launch to the next, and for typed errors, launch with an
/// `Arc` of one strategy (`TrainingStrategy::Custom(strategy.clone())`) and call
/// [`take_learner`](Self::take_learner) and [`take_error`](Self::take_error).
///
/// # Semantics
///
/// * Gradients are means over the rows of all ranks, `Σ rowsᵢ·gᵢ / Σ rowsᵢ`: for a loss that is a
///   mean over rows and a network without batch statistics, N ranks compute what one rank with all
///   the rows would (up to rounding). A parameter without gradient on one rank counts as zeros
///   there; one without gradient on every rank is not touched by the optimiser. The reduction is in
///   `f32`.
/// * One rank gives the same bits as Burn's own single-device training.
/// * With gradient accumulation over k steps, the row-weighted means of the k steps are *summed*
///   (as Burn sums them), with one reduction per update; a group that the epoch's end, or a stop,
///   leaves incomplete is applied.
/// * The metrics of a rank are those of its own rows. Only rank 0's are shown and stored (see
///   [`without_renderer`]), and only rank 0's checkpointers and early stopping are used; its
///   decision holds for all.
/// * In half precision ([`with_precision`](Self::with_precision)) a step computes with a copy of
///   the network; parameters and optimiser stay in `f32`. In `f16` the loss is [scaled](LossScale),
///   and an update whose gradients are not finite is left out on all ranks alike.
/// * A stop requested through any rank's `Interrupter` ends all ranks after the step in which they
///   learn of it.
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

/// What passes from one launch to the next.
struct LaunchState<M: LearnerModel> {
    /// `None` while a launch has it, and for good after one that failed or panicked.
    session: Option<Session<M>>,
    /// What the last launch left, until it is taken.
    outcome: Option<Outcome<M>>,
}

/// What a launch takes out of the strategy. The other ranks notice when it is dropped.
struct Session<M: LearnerModel> {
    collective: Box<dyn Collective>,
    /// Steps since the first launch.
    step: u64,
    /// Agreements since the first launch.
    round: u64,
    loss_scale: LossScale,
    /// Reads rank 0's learner; `None` until it is needed.
    recorder: Option<Recorder<M>>,
    /// The running statistics that the next launch of this rank begins with; `None` for rank 0's.
    statistics: Option<Vec<f32>>,
}

/// What a launch leaves.
pub(crate) struct Outcome<M: LearnerModel> {
    /// The learner after its last complete update.
    pub(crate) learner: Option<Learner<M>>,
    /// Why the launch ended early.
    pub(crate) error: Option<DataParallelError>,
    /// Where the launch was stopped.
    pub(crate) stopped: Option<Stopped>,
    /// The records of the learner, on rank 0.
    pub(crate) records: Option<Records>,
}

/// What a checkpoint keeps of the learners of all ranks.
pub(crate) struct Records {
    /// Parameters, optimiser and schedule, which are the same on all ranks; with rank 0's running
    /// statistics.
    pub(crate) learner: LearnerRecord,
    /// Each rank's running statistics, as bytes; none if they are the same on all.
    pub(crate) statistics: Vec<Vec<u8>>,
    /// How long it took to copy them.
    pub(crate) time: Duration,
}

/// What a launch that was stopped would have done next; the same on all ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stopped {
    /// The epoch; beyond the last if nothing was left.
    pub(crate) epoch: Epoch,
    /// The steps of this epoch that this launch has done.
    pub(crate) steps: u64,
}

impl<M: LearnerModel> DataParallel<M>
where
    <M as TrainStep>::Input: RehearsalBatch,
{
    /// The strategy of `rank`, with a collective of its own.
    ///
    /// # Errors
    ///
    /// Those of [`Rank::collective`]. Collective: all ranks call it.
    pub fn new(rank: &Rank) -> Result<Self, CollectiveError> {
        Ok(Self::on_collective(rank.collective()?, RehearsalBatch::rows))
    }
}

impl<M: LearnerModel> DataParallel<M> {
    /// A strategy on a collective that nothing else uses, for batches of any type: `rows` gives the
    /// number of rows of a training batch, incoming and representatives together.
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

    /// Trains on `device` (default: [`Device::default`]).
    #[must_use]
    pub fn with_device(mut self, device: Device) -> Self {
        self.device = if device.is_autodiff() { device } else { device.autodiff() };
        self
    }

    /// Records the phases of the steps in `timer`, a clone of which can be read at any time.
    #[must_use]
    pub fn with_timer(mut self, timer: PhaseTimer) -> Self {
        self.timer = timer;
        self
    }

    /// Whether batch-norm running statistics are averaged over the ranks at the end of every epoch
    /// (default: yes). All ranks choose the same.
    #[must_use]
    pub fn with_averaged_statistics(mut self, average: bool) -> Self {
        self.average_statistics = average;
        self
    }

    /// Whether all ranks compare their parameters, bit for bit, at the end of every epoch (default:
    /// yes). All ranks choose the same.
    #[must_use]
    pub fn with_parameter_check(mut self, check: bool) -> Self {
        self.check_parameters = check;
        self
    }

    /// The format of the numbers in forward and backward passes (default: [`Precision::F32`]); see
    /// there for what the network must do. All ranks choose the same. A launch fails with
    /// [`DataParallelError::Precision`] if the device does not have it.
    #[must_use]
    pub fn with_precision(mut self, precision: Precision) -> Self {
        self.precision = precision;
        self
    }

    /// Resumes with the loss scale of an earlier training; it matters in [`Precision::F16`] only.
    /// All ranks set the same.
    #[must_use]
    pub fn with_loss_scale(self, loss_scale: LossScale) -> Self {
        self.set_loss_scale(loss_scale);
        self
    }

    /// As [`with_loss_scale`](Self::with_loss_scale), between launches.
    pub(crate) fn set_loss_scale(&self, loss_scale: LossScale) {
        self.with_session(|session| session.loss_scale = loss_scale);
    }

    /// The loss scale after the last launch; `None` if the loss is not scaled, or if the last
    /// launch failed.
    pub fn loss_scale(&self) -> Option<LossScale> {
        self.with_session(|session| session.loss_scale).filter(|_| self.precision.scales_loss())
    }

    /// Calls `hook` after every epoch; all ranks have one, or none.
    #[must_use]
    pub fn with_after_epoch(mut self, hook: AfterEpoch<M>) -> Self {
        self.after_epoch = Some(hook);
        self
    }

    /// Whether each launch ends with the records of its learner, on rank 0: what a checkpoint
    /// needs.
    pub(crate) fn with_records(mut self, keep: bool) -> Self {
        self.keep_records = keep;
        self
    }

    /// Begins the next launch with the running statistics of [`Records`]: each rank with its own,
    /// or with their mean if there were other ranks.
    pub(crate) fn set_statistics(&self, of_ranks: &[Vec<u8>]) {
        let statistics = norm::of_rank(of_ranks, self.rank, self.world_size);
        self.with_session(|session| session.statistics = statistics);
    }

    /// The time of each phase so far.
    pub fn timer(&self) -> &PhaseTimer {
        &self.timer
    }

    /// The learner as the last launch left it: after its last complete update, also if it ended
    /// with an error.
    ///
    /// To train on the next task, launch with this learner; restart its schedule with
    /// `learner.load_scheduler(…)`, see
    /// [`WarmupSchedule::restart_record`](crate::schedule::WarmupSchedule::restart_record).
    pub fn take_learner(&self) -> Option<Learner<M>> {
        self.state.lock().outcome.as_mut()?.learner.take()
    }

    /// Why the last launch ended early, if it did: the typed form of what `LearningResult::error`
    /// holds.
    pub fn take_error(&self) -> Option<DataParallelError> {
        self.state.lock().outcome.as_mut()?.error.take()
    }

    /// Everything that the last launch left.
    pub(crate) fn take_outcome(&self) -> Option<Outcome<M>> {
        self.state.lock().outcome.take()
    }

    /// Between launches, applies `work` to what the next one takes over.
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
        // A launch that unwinds drops its session, and the other ranks learn of it.
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
