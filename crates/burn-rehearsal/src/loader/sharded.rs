//! A data loader whose order is exact, whatever the number of workers.
//!
//! Burn's multi-thread loader delivers in the order of arrival. This one lets k workers read in
//! parallel but delivers in the order of steps: worker w reads the steps w, w + k, w + 2k, … into a
//! channel of its own, and the iterator reads the channels round robin.

use super::order::EpochPlan;
use burn::data::dataloader::batcher::Batcher;
use burn::data::dataloader::{DataLoader, DataLoaderIterator, Progress};
use burn::data::dataset::transform::PartialDataset;
use burn::data::dataset::{Dataset, DatasetError};
use burn::tensor::Device;
use burn_rehearsal_collective::{Rank, panic_message};
use std::cell::Cell;
use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

thread_local! {
    /// Rank and world size of the last iterator that was made on this thread.
    static SHARD: Cell<Option<(usize, usize)>> = const { Cell::new(None) };
}

/// Rank and world size of the [`ShardedLoader`] whose iterator was made last on this thread, since
/// this was last called. A loader around others learns from it which shard it reads, whatever lies
/// between.
pub(super) fn take_shard() -> Option<(usize, usize)> {
    SHARD.take()
}

/// How many mini-batches the workers are ahead of the training thread, together.
const AHEAD: usize = 4;

/// One rank's loader over its part of a data set, with an exact order.
///
/// * The order depends on (seed, task, epoch, rank, world size) alone: every call of `iter` is the
///   next epoch.
/// * k workers read in parallel, at most four mini-batches ahead (k, if there are more), and
///   deliver in order.
/// * The last mini-batches of an epoch differ by at most one row between ranks; a rank without a
///   row has one mini-batch less.
/// * A data set's error, or a worker's panic, is an `Err` at the step where it happened, and the
///   end of the epoch.
/// * A sample whose error is [`SkipSample`] is left out of its mini-batch; a mini-batch without any
///   sample left is left out.
pub struct ShardedLoader<I, B> {
    settings: Settings,
    batcher: Arc<dyn Batcher<I, B>>,
    dataset: Arc<dyn Dataset<I>>,
    /// The number of the next epoch; shared by the copies that `to_device` makes.
    epoch: Arc<AtomicU64>,
    /// The step at which the next epoch starts.
    first_step: Arc<AtomicU64>,
}

#[derive(Clone)]
struct Settings {
    batch_size: usize,
    seed: Option<u64>,
    task: u32,
    workers: usize,
    rank: usize,
    world_size: usize,
    device: Device,
}

/// Settings of a [`ShardedLoader`].
pub struct ShardedLoaderBuilder<I, B> {
    settings: Settings,
    batcher: Arc<dyn Batcher<I, B>>,
    epoch: u64,
    first_step: u64,
}

impl<I: Send + Sync + 'static, B: Send + 'static> ShardedLoader<I, B> {
    /// A loader that builds mini-batches with `batcher`: by default of one row, on one rank,
    /// unshuffled, without workers.
    pub fn builder(batcher: impl Batcher<I, B> + 'static) -> ShardedLoaderBuilder<I, B> {
        let settings = Settings {
            batch_size: 1,
            seed: None,
            task: 0,
            workers: 0,
            rank: 0,
            world_size: 1,
            device: Device::default(),
        };
        ShardedLoaderBuilder { settings, batcher: Arc::new(batcher), epoch: 0, first_step: 0 }
    }
}

impl<I: Send + Sync + 'static, B: Send + 'static> ShardedLoaderBuilder<I, B> {
    /// The rows of a mini-batch, at least 1; the default. The last mini-batch of an epoch may have
    /// fewer.
    pub fn batch_size(mut self, batch_size: usize) -> Self {
        self.settings.batch_size = batch_size.max(1);
        self
    }

    /// Shuffles every epoch. Default: the order of the data set.
    pub fn shuffle(mut self, seed: u64) -> Self {
        self.settings.seed = Some(seed);
        self
    }

    /// The task, a part of the key of the order.
    pub fn task(mut self, task: usize) -> Self {
        self.settings.task = task as u32;
        self
    }

    /// The number of threads that read. 0, the default, reads on the thread that iterates. The
    /// result is the same.
    pub fn num_workers(mut self, workers: usize) -> Self {
        self.settings.workers = workers;
        self
    }

    /// Reads this rank's part of the data set. Default: all of it.
    pub fn shard(self, rank: &Rank) -> Self {
        self.shard_of(rank.rank(), rank.size())
    }

    /// Reads the part of rank `rank` in a world of `world_size`, for ranks on a transport of your
    /// own.
    pub fn shard_of(mut self, rank: usize, world_size: usize) -> Self {
        self.settings.rank = rank;
        self.settings.world_size = world_size.max(1);
        self
    }

    /// The device that mini-batches are built on. Default: Burn's default device.
    pub fn set_device(mut self, device: Device) -> Self {
        self.settings.device = device;
        self
    }

    /// Starts at step `step` of epoch `epoch`, without reading what comes before it.
    pub fn start_at(mut self, epoch: u64, step: u64) -> Self {
        self.epoch = epoch;
        self.first_step = step;
        self
    }

    /// The loader over `dataset`.
    pub fn build(self, dataset: impl Dataset<I> + 'static) -> Arc<ShardedLoader<I, B>> {
        Arc::new(ShardedLoader {
            settings: self.settings,
            batcher: self.batcher,
            dataset: Arc::new(dataset),
            epoch: Arc::new(AtomicU64::new(self.epoch)),
            first_step: Arc::new(AtomicU64::new(self.first_step)),
        })
    }
}

impl<I: Send + Sync + 'static, B: Send + 'static> ShardedLoader<I, B> {
    fn plan(&self, epoch: u64) -> EpochPlan {
        let Settings { batch_size, seed, task, rank, world_size, .. } = self.settings;
        EpochPlan::new(self.dataset.len(), seed, task, epoch, rank, world_size, batch_size)
    }

    fn reader(&self, plan: Arc<EpochPlan>) -> Reader<I, B> {
        Reader {
            plan,
            dataset: self.dataset.clone(),
            batcher: self.batcher.clone(),
            device: self.settings.device.clone(),
        }
    }

    fn with(&self, dataset: Arc<dyn Dataset<I>>, device: Device) -> Self {
        Self {
            settings: Settings { device, ..self.settings.clone() },
            batcher: self.batcher.clone(),
            dataset,
            epoch: self.epoch.clone(),
            first_step: self.first_step.clone(),
        }
    }
}

impl<I: Send + Sync + Clone + 'static, B: Send + 'static> DataLoader<B> for ShardedLoader<I, B> {
    fn iter<'a>(&'a self) -> Box<dyn DataLoaderIterator<B> + 'a> {
        SHARD.set(Some((self.settings.rank, self.settings.world_size)));
        let plan = Arc::new(self.plan(self.epoch.fetch_add(1, Ordering::Relaxed)));
        let first = (self.first_step.swap(0, Ordering::Relaxed) as usize).min(plan.steps());
        let rows = plan.rows();
        let skipped: usize = (0..first).map(|step| plan.batch(step).len()).sum();
        let source = match self.settings.workers {
            0 => Source::Here(self.reader(plan.clone())),
            workers => Source::Workers(
                (0..workers)
                    .map(|worker| Worker::start(self.reader(plan.clone()), first + worker, workers))
                    .collect(),
            ),
        };
        Box::new(Iter { source, plan, first, step: first, read: skipped, rows })
    }

    fn num_items(&self) -> usize {
        self.plan(0).rows()
    }

    fn to_device(&self, device: &Device) -> Arc<dyn DataLoader<B>> {
        Arc::new(self.with(self.dataset.clone(), device.clone()))
    }

    fn slice(&self, start: usize, end: usize) -> Arc<dyn DataLoader<B>> {
        let part = PartialDataset::new(self.dataset.clone(), start, end);
        // Another data set has epochs of its own: the slices' orders must not depend on who is
        // read first.
        let own = |counter: &AtomicU64| Arc::new(AtomicU64::new(counter.load(Ordering::Relaxed)));
        let whole = self.with(Arc::new(part), self.settings.device.clone());
        Arc::new(Self { epoch: own(&self.epoch), first_step: own(&self.first_step), ..whole })
    }
}

/// Reads the mini-batch of any step.
struct Reader<I, B> {
    plan: Arc<EpochPlan>,
    dataset: Arc<dyn Dataset<I>>,
    batcher: Arc<dyn Batcher<I, B>>,
    device: Device,
}

/// A panic while a mini-batch was read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("reading the mini-batch of step {step} panicked: {message}")]
struct WorkerPanic {
    /// The step within the epoch.
    step: usize,
    /// The panic's message.
    message: String,
}

/// What a data set answers for a sample that is to be left out, in [`DatasetError::new`]: an image
/// that is damaged, say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the sample is to be left out")]
pub struct SkipSample;

fn asks_to_skip(error: &DatasetError) -> bool {
    error.source().is_some_and(|source| source.is::<SkipSample>())
}

impl<I, B> Reader<I, B> {
    /// The samples of a mini-batch without those that are to be left out.
    fn items(&self, indices: &[u32]) -> Result<Vec<I>, DatasetError> {
        let every = || indices.iter().map(|&index| index as usize);
        match self.dataset.get_many(every().collect()) {
            // Rare enough to read the others once more.
            Err(error) if asks_to_skip(&error) => every()
                .map(|index| self.dataset.get(index))
                .filter(|item| !item.as_ref().is_err_and(asks_to_skip))
                .collect(),
            other => other,
        }
    }

    /// The mini-batch of `step`, or `Ok(None)` if none of its samples is left; `None` if this rank
    /// has no row.
    fn read(&self, step: usize) -> Option<Result<Option<B>, DatasetError>> {
        let indices = self.plan.batch(step);
        if indices.is_empty() {
            return None;
        }
        let read = || {
            let items = self.items(indices)?;
            Ok((!items.is_empty()).then(|| self.batcher.batch(items, &self.device)))
        };
        // User code may panic; the state that it leaves behind is not used again, since the epoch
        // ends here.
        Some(catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|payload| {
            Err(DatasetError::new(WorkerPanic {
                step,
                message: panic_message(payload.as_ref()).to_owned(),
            }))
        }))
    }
}

struct Worker<B> {
    batches: Option<Receiver<Result<Option<B>, DatasetError>>>,
    thread: Option<JoinHandle<()>>,
}

impl<B: Send + 'static> Worker<B> {
    fn start<I: Send + Sync + 'static>(reader: Reader<I, B>, first: usize, stride: usize) -> Self {
        // One mini-batch is in the worker's hands, the others of its share in the channel.
        let (sender, batches) = sync_channel((AHEAD / stride).saturating_sub(1));
        let run = move || produce(&reader, first, stride, &sender);
        match std::thread::Builder::new().name("loader".into()).spawn(run) {
            Ok(thread) => Self { batches: Some(batches), thread: Some(thread) },
            Err(_) => Self { batches: None, thread: None },
        }
    }
}

fn produce<I, B>(
    reader: &Reader<I, B>,
    first: usize,
    stride: usize,
    sender: &SyncSender<Result<Option<B>, DatasetError>>,
) {
    for step in (first..reader.plan.steps()).step_by(stride) {
        let Some(batch) = reader.read(step) else { return };
        let failed = batch.is_err();
        if sender.send(batch).is_err() || failed {
            return;
        }
    }
}

impl<B> Drop for Worker<B> {
    fn drop(&mut self) {
        // Without a receiver the worker's next send fails and it ends.
        drop(self.batches.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

enum Source<I, B> {
    Here(Reader<I, B>),
    Workers(Vec<Worker<B>>),
}

/// The operating system refused a worker thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a loader thread could not be started or has ended")]
struct WorkerGone;

struct Iter<I, B> {
    source: Source<I, B>,
    plan: Arc<EpochPlan>,
    first: usize,
    step: usize,
    read: usize,
    rows: usize,
}

impl<I, B> Iterator for Iter<I, B> {
    type Item = Result<B, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if self.step >= self.plan.steps() || self.plan.batch(self.step).is_empty() {
                return None;
            }
            let batch = match &self.source {
                Source::Here(reader) => reader.read(self.step)?,
                Source::Workers(workers) => {
                    let worker = &workers[(self.step - self.first) % workers.len()];
                    let received = worker.batches.as_ref().and_then(|batches| batches.recv().ok());
                    received.unwrap_or_else(|| Err(DatasetError::new(WorkerGone)))
                }
            };
            self.read += self.plan.batch(self.step).len();
            self.step = if batch.is_ok() { self.step + 1 } else { self.plan.steps() };
            if let Some(batch) = batch.transpose() {
                return Some(batch);
            }
        }
    }
}

impl<I, B> DataLoaderIterator<B> for Iter<I, B> {
    fn progress(&self) -> Progress {
        Progress::new(self.read, self.rows, Some("items".to_string()))
    }
}
