//! Data-parallel training over any [`Collective`].
//!
//! [`DataParallel`] is a Burn learning strategy. Every rank runs Burn's own `SupervisedTraining` on its own thread (or process), with its own
//! loaders and its own `DataParallel`; what makes them one training is the collective between them:
//!
//! ```text
//! fit: compare settings and models ─► adopt rank 0's parameters, ids, optimiser state, schedule
//!   epoch:  next() ─► status words (all-gather) ─► forward + backward ─► one flat all-reduce ─► optimiser      … until no rank has a batch
//!           average batch-norm statistics ─► compare parameter digests ─► validation ─► status words ─► checkpoint ─► status words
//! ```
//!
//! **Every rank calls `next()` in every step of the epoch**, also after its iterator has returned `None`, until no rank has a batch: behind a
//! rehearsal loader that call is itself collective. An iterator of a training loader must therefore be fused: after `None` it keeps returning `None`.
//!
//! **Nobody leaves silently.** A rank without rows takes part with weight 0 and runs no model step; a stop that anyone requests ends all ranks after
//! the same step; a rank that fails says so in its status word and all ranks end with the same error; a rank that panics drops its collective, so that
//! the others get [`PeerFailed`](burn_rehearsal_collective::CollectiveError::PeerFailed).
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
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use burn::data::dataloader::DataLoader;
use burn::data::dataset::DatasetError;
use burn::tensor::Device;
use burn::train::{
    InferenceStep, Learner, LearnerModel, SupervisedLearningStrategy, SupervisedTrainingEventProcessor, TrainStep, TrainingComponents,
};
use burn_rehearsal_collective::Collective;

pub use self::error::DataParallelError;
pub use self::headless::{NoMetricLogger, NoRenderer, without_renderer};
pub use self::loss_scale::{LossScale, scale_loss};
pub use self::precision::{Precision, compute_type, in_f32};
pub(crate) use self::recorder::LearnerRecord;
use self::recorder::Recorder;
use crate::phases::PhaseTimer;

/// Called by every rank after each epoch that was not stopped, with the network in its validation state and the
/// epoch, counted from 1. All ranks call it, so it may be collective: it can evaluate (on a collective of its own),
/// or write a checkpoint of the buffer:
///
/// ```
/// # use burn::tensor::Tensor;
/// # use burn_rehearsal::{RehearsalBatch, RehearsalBuffer, checkpoint::RehearsalCheckpointing};
/// # use burn_rehearsal_train::data_parallel::AfterEpoch;
/// # #[derive(RehearsalBatch)] struct MyBatch { inputs: Tensor<2> }
/// fn save_buffer<M>(buffer: RehearsalBuffer<MyBatch>) -> AfterEpoch<M> {
///     Box::new(move |_, epoch| {
///         buffer.checkpoint(RehearsalCheckpointing::path("runs/buffer", epoch))?;
///         Ok(())
///     })
/// }
/// ```
///
/// Its error ends the run.
pub type AfterEpoch<M> = Box<dyn Fn(&M, usize) -> Result<(), Box<dyn Error + Send + Sync>> + Send + Sync>;

type Rows<M> = Box<dyn Fn(&<M as TrainStep>::Input) -> usize + Send + Sync>;

/// One rank of a data-parallel training, as a Burn learning strategy.
///
/// The same value serves several launches, one after another (the tasks of a stream); [`take_learner`](Self::take_learner) gives the learner, with
/// optimiser and schedule, from one launch to the next.
///
/// ```no_run
/// # use std::sync::Arc;
/// # use burn::data::dataloader::DataLoader;
/// # use burn::tensor::{Device, Tensor};
/// # use burn::train::{InferenceStep, Learner, LearnerModel, SupervisedTraining, TrainStep, TrainingStrategy};
/// # use burn_rehearsal_collective::Collective;
/// # use burn_rehearsal_train::data_parallel::{DataParallel, DataParallelError, without_renderer};
/// /// Runs on every rank, on a thread (or in a process) of its own, with that rank's end of the collective and its own loaders.
/// fn one_rank<M>(
///     collective: Box<dyn Collective>,
///     learner: Learner<M>,
///     train: Arc<dyn DataLoader<Tensor<2>>>,
///     valid: Arc<dyn DataLoader<Tensor<2>>>,
/// ) -> Result<M, DataParallelError>
/// where
///     M: LearnerModel + TrainStep<Input = Tensor<2>> + InferenceStep<Input = Tensor<2>>,
/// {
///     let rank = collective.rank();
///     let strategy = Arc::new(DataParallel::new(collective, Device::default(), |batch: &Tensor<2>| batch.dims()[0]));
///     let training = SupervisedTraining::new("artifacts", train, valid)
///         .num_epochs(5)
///         .with_training_strategy(TrainingStrategy::Custom(strategy.clone()));
///     let training = if rank == 0 { training } else { without_renderer(training) };
///     let result = training.launch(learner);
///     strategy.take_error().map_or(Ok(result.model), Err)
/// }
/// ```
///
/// # Semantics
///
/// * Gradients are means over the rows of all ranks, `Σ rowsᵢ·gᵢ / Σ rowsᵢ`: for a loss that is a mean over rows and a network without batch
///   statistics, N ranks compute what one rank with all the rows would (up to rounding). A parameter without gradient on one rank counts as zeros
///   there; one without gradient on every rank is not touched by the optimiser. The reduction is in `f32`.
/// * One rank gives the same bits as Burn's own single-device training.
/// * With gradient accumulation over k steps, the row-weighted means of the k steps are *summed* (as Burn sums them), with one reduction per update; a
///   group that the epoch's end, or a stop, leaves incomplete is applied.
/// * The metrics of a rank are those of its own rows. Only rank 0's are shown and stored (see [`without_renderer`]), and only rank 0's checkpointers and early
///   stopping are used; its decision holds for all.
/// * In half precision ([`with_precision`](Self::with_precision)) a step computes with a copy of the network; parameters and optimiser stay in `f32`. In `f16` the
///   loss is [scaled](LossScale), and an update whose gradients are not finite is left out on all ranks alike.
/// * A stop requested through any rank's `Interrupter` ends all ranks after the step in which they learn of it.
pub struct DataParallel<M: LearnerModel> {
    /// `None` while a run uses it, and for good after a run that failed or panicked.
    link: Mutex<Option<Link>>,
    learner: Mutex<Option<Learner<M>>>,
    error: Mutex<Option<DataParallelError>>,
    rank: usize,
    world_size: usize,
    device: Device,
    rows: Rows<M>,
    timer: PhaseTimer,
    average_statistics: bool,
    check_parameters: bool,
    precision: Precision,
    loss_scale: Mutex<LossScale>,
    after_epoch: Option<AfterEpoch<M>>,
    keep_records: bool,
    /// Where the last launch was stopped.
    stopped: Mutex<Option<Stopped>>,
    /// Reads rank 0's learner; `None` until it is wanted.
    recorder: Mutex<Option<Recorder<M>>>,
    /// The records of the last launch's learner, on rank 0.
    records: Mutex<Option<Records>>,
    /// The running statistics that this rank's next launch begins with, if not with rank 0's.
    statistics: Mutex<Option<Vec<f32>>>,
}

/// What a checkpoint keeps of the learners of all ranks.
pub(crate) struct Records {
    /// Parameters, optimiser and schedule, which are the same on all ranks; with rank 0's running statistics.
    pub(crate) learner: LearnerRecord,
    /// Each rank's running statistics, as bytes; none if they are the same on all.
    pub(crate) statistics: Vec<Vec<u8>>,
    /// How long it took to copy them.
    pub(crate) time: Duration,
}

/// What a launch that was stopped would have done next; the same on all ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stopped {
    /// The epoch, counted from 1; beyond the last if nothing was left.
    pub(crate) epoch: usize,
    /// The steps of this epoch that this launch has done.
    pub(crate) steps: u64,
}

/// What a run takes out of the strategy: dropping it tells the other ranks that this one has left.
struct Link {
    collective: Box<dyn Collective>,
    /// Steps since the first launch.
    step: u64,
    /// Agreements since then.
    round: u64,
}

impl<M: LearnerModel> DataParallel<M> {
    /// This rank's strategy: it trains on `device` and talks to the other ranks through `collective`, which nobody else uses.
    ///
    /// `rows` tells the number of rows of a training batch, incoming and representatives together.
    pub fn new<F>(mut collective: Box<dyn Collective>, device: Device, rows: F) -> Self
    where
        F: Fn(&<M as TrainStep>::Input) -> usize + Send + Sync + 'static,
    {
        collective.set_purpose("training");
        let device = if device.is_autodiff() { device } else { device.autodiff() };
        Self {
            rank: collective.rank(),
            world_size: collective.size(),
            link: Mutex::new(Some(Link { collective, step: 0, round: 0 })),
            learner: Mutex::default(),
            error: Mutex::default(),
            device,
            rows: Box::new(rows),
            timer: PhaseTimer::new(),
            average_statistics: true,
            check_parameters: true,
            precision: Precision::F32,
            loss_scale: Mutex::default(),
            after_epoch: None,
            keep_records: false,
            stopped: Mutex::default(),
            recorder: Mutex::new(None),
            records: Mutex::default(),
            statistics: Mutex::default(),
        }
    }

    /// Records the phases of the steps in `timer`, which others (the loaders) may share.
    pub fn with_timer(mut self, timer: PhaseTimer) -> Self {
        self.timer = timer;
        self
    }

    /// Whether batch-norm running statistics are averaged over the ranks at the end of every epoch (default: yes). All ranks choose the same.
    pub fn with_averaged_statistics(mut self, average: bool) -> Self {
        self.average_statistics = average;
        self
    }

    /// Whether all ranks compare their parameters, bit for bit, at the end of every epoch (default: yes). All ranks choose the same.
    pub fn with_parameter_check(mut self, check: bool) -> Self {
        self.check_parameters = check;
        self
    }

    /// The format of the numbers in forward and backward passes (default: [`Precision::F32`]); see there for what the network must do. All ranks choose the
    /// same. A launch fails with [`DataParallelError::Precision`] if the device does not have it.
    pub fn with_precision(mut self, precision: Precision) -> Self {
        self.precision = precision;
        self
    }

    /// Goes on with a factor of the loss that an earlier training came to; it matters in [`Precision::F16`] only. All ranks set the same.
    pub fn with_loss_scale(self, loss_scale: LossScale) -> Self {
        *lock(&self.loss_scale) = loss_scale;
        self
    }

    /// As [`with_loss_scale`](Self::with_loss_scale), between launches.
    pub(crate) fn set_loss_scale(&self, loss_scale: LossScale) {
        *lock(&self.loss_scale) = loss_scale;
    }

    /// The factor of the loss after the last launch, if the loss is scaled.
    pub fn loss_scale(&self) -> Option<LossScale> {
        (self.precision == Precision::F16).then(|| *lock(&self.loss_scale))
    }

    /// Calls `hook` after every epoch; all ranks have one, or none.
    pub fn with_after_epoch(mut self, hook: AfterEpoch<M>) -> Self {
        self.after_epoch = Some(hook);
        self
    }

    /// Whether each launch ends with the records of its learner, on rank 0: what a checkpoint needs.
    pub(crate) fn with_records(mut self, keep: bool) -> Self {
        self.keep_records = keep;
        self
    }

    /// Where the last launch was stopped, if it was.
    pub(crate) fn take_stopped(&self) -> Option<Stopped> {
        lock(&self.stopped).take()
    }

    /// What a checkpoint keeps of the last launch's learners, on rank 0.
    pub(crate) fn take_records(&self) -> Option<Records> {
        lock(&self.records).take()
    }

    /// Begins the next launch with the running statistics of [`Records`]: each rank with its own, or with their mean if there were other ranks.
    pub(crate) fn set_statistics(&self, of_ranks: &[Vec<u8>]) {
        *lock(&self.statistics) = norm::of_rank(of_ranks, self.rank, self.world_size);
    }

    /// The time of each phase so far.
    pub fn timer(&self) -> &PhaseTimer {
        &self.timer
    }

    /// The learner as the last launch left it: after its last complete update, also if it ended with an error.
    ///
    /// To go on with the next task, launch with this learner; restart its schedule with `learner.load_scheduler(…)`, see
    /// [`WarmupSchedule::restart_record`](crate::schedule::WarmupSchedule::restart_record).
    pub fn take_learner(&self) -> Option<Learner<M>> {
        lock(&self.learner).take()
    }

    /// Why the last launch ended early, if it did: the typed form of what `LearningResult::error` holds.
    pub fn take_error(&self) -> Option<DataParallelError> {
        lock(&self.error).take()
    }
}

impl<M: LearnerModel> SupervisedLearningStrategy<M> for DataParallel<M> {
    fn fit(
        &self,
        training_components: TrainingComponents<M>,
        learner: Learner<M>,
        dataloader_train: std::sync::Arc<dyn DataLoader<<M as TrainStep>::Input>>,
        dataloader_valid: std::sync::Arc<dyn DataLoader<<M as InferenceStep>::Input>>,
        starting_epoch: usize,
    ) -> (M, SupervisedTrainingEventProcessor<M>) {
        *lock(&self.error) = None;
        *lock(&self.stopped) = None;
        let interrupter = training_components.interrupter.clone();
        // Taken out for the whole run: if the run unwinds, the collective is dropped and the other ranks are told.
        let mut link = lock(&self.link).take();
        let mut run = training_loop::TrainingLoop::new(self, training_components, learner, dataloader_train, dataloader_valid);
        let result = match &mut link {
            Some(link) => run.run(link, starting_epoch),
            None => Err(DataParallelError::Unavailable),
        };
        match result {
            Ok(()) => *lock(&self.link) = link,
            Err(error) => {
                drop(link);
                interrupter.fail(DatasetError::new(error.clone()));
                *lock(&self.error) = Some(error);
            }
        }
        let (learner, event_processor) = run.into_parts();
        let model = learner.model();
        *lock(&self.learner) = Some(learner);
        (model, event_processor)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // These values are replaced as a whole, so a panic elsewhere cannot have left one half-written; but for the recorder, which nobody uses after one.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
