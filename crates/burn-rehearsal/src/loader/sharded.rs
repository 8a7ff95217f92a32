//! A data loader whose order does not depend on the number of workers.
//!
//! Burn's multi-thread loader delivers mini-batches in the order of arrival. Here, worker w of k
//! reads the steps w, w + k, w + 2k, … into its own channel, and the iterator reads the channels
//! round robin.

use super::order::EpochPlan;
use burn::data::dataloader::batcher::Batcher;
use burn::data::dataloader::{DataLoader, DataLoaderIterator, Progress};
use burn::data::dataset::transform::PartialDataset;
use burn::data::dataset::{Dataset, DatasetError};
use burn::tensor::Device;
use burn_rehearsal_collective::{Rank, panic_message};
use parking_lot::Mutex;
use std::cell::Cell;
use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;

thread_local! {
    /// Rank and world size of the last iterator that was made on this thread.
    static SHARD: Cell<Option<(usize, usize)>> = const { Cell::new(None) };
}

/// Rank and world size of the last [`ShardedLoader`] iterator made on this thread since the last
/// call of this function. An outer loader uses it to find out which shard it reads, even through
/// other loaders.
pub(super) fn take_shard() -> Option<(usize, usize)> {
    SHARD.take()
}

/// The number of mini-batches that up to four workers together read ahead of the training thread.
const AHEAD: usize = 4;

/// A data loader over one rank's part of a data set, in a reproducible order.
///
/// ```
/// # mod stubs { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/stubs.rs")); }
/// # use stubs::*;
/// use burn_rehearsal::{Rank, ShardedLoader};
///
/// # let rank = Rank::solo();
/// let loader = ShardedLoader::builder(MyBatcher)
///     .shard(&rank)
///     .batch_size(8)
///     .shuffle(42) // the seed
///     .num_workers(2)
///     .build(training_set(0));
/// assert_eq!(loader.iter().count(), 3); // mini-batches of 8, 8 and 4 rows
/// ```
///
/// * The order is a function of (seed, task, epoch, rank, world size). Every call of `iter` starts
///   the next epoch.
/// * k workers read in parallel and deliver in order. Together they read at most max(4, k)
///   mini-batches ahead.
/// * The sizes of the last mini-batches of an epoch differ by at most one row between ranks. A rank
///   without a row has one mini-batch fewer.
/// * An error of the data set, or a panic of a worker, is returned at the step at which it happened
///   and ends the epoch.
/// * A sample whose error is [`SkipSample`] is left out of its mini-batch. A mini-batch without
///   samples is left out of the epoch.
pub struct ShardedLoader<I, B> {
    settings: Arc<ShardedLoaderBuilder<I, B>>,
    dataset: Arc<dyn Dataset<I>>,
    device: Device,
    /// The next epoch and its first step; shared by the copies that `to_device` makes.
    next: Arc<Mutex<(u64, u64)>>,
}

/// Builder of a [`ShardedLoader`], from [`ShardedLoader::builder`].
pub struct ShardedLoaderBuilder<I, B> {
    batcher: Box<dyn Batcher<I, B>>,
    batch_size: usize,
    seed: Option<u64>,
    task: u32,
    workers: usize,
    rank: usize,
    world_size: usize,
    device: Device,
    /// The first epoch and its first step.
    start: (u64, u64),
}

impl<I: Send + Sync + 'static, B: Send + 'static> ShardedLoaderBuilder<I, B> {
    /// The rows of a mini-batch, at least 1. Default: 1. The last mini-batch of an epoch may have
    /// fewer.
    pub fn batch_size(mut self, batch_size: usize) -> Self {
        self.batch_size = batch_size.max(1);
        self
    }

    /// Shuffles every epoch. Default: the order of the data set.
    pub fn shuffle(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// The task, a part of the key of the order. Default: 0.
    pub fn task(mut self, task: usize) -> Self {
        self.task = task as u32;
        self
    }

    /// The number of threads that read. Default: 0, which reads on the thread that iterates. The
    /// mini-batches are the same for any number.
    pub fn num_workers(mut self, workers: usize) -> Self {
        self.workers = workers;
        self
    }

    /// Reads this rank's part of the data set. Default: all of it.
    pub fn shard(self, rank: &Rank) -> Self {
        self.shard_of(rank.rank(), rank.size())
    }

    /// Reads the part of rank `rank` in a world of `world_size`, for ranks on a transport of your
    /// own.
    pub fn shard_of(mut self, rank: usize, world_size: usize) -> Self {
        self.rank = rank;
        self.world_size = world_size.max(1);
        self
    }

    /// The device that mini-batches are built on. Default: Burn's default device.
    pub fn set_device(mut self, device: Device) -> Self {
        self.device = device;
        self
    }

    /// Starts at step `step` of epoch `epoch`, without reading earlier samples. Use it to resume.
    /// Default: step 0 of epoch 0.
    pub fn start_at(mut self, epoch: u64, step: u64) -> Self {
        self.start = (epoch, step);
        self
    }

    /// Makes the loader over `dataset`.
    pub fn build(self, dataset: impl Dataset<I> + 'static) -> Arc<ShardedLoader<I, B>> {
        Arc::new(ShardedLoader {
            dataset: Arc::new(dataset),
            device: self.device.clone(),
            next: Arc::new(Mutex::new(self.start)),
            settings: Arc::new(self),
        })
    }
}

impl<I: Send + Sync + 'static, B: Send + 'static> ShardedLoader<I, B> {
    /// A builder of loaders that make mini-batches with `batcher`.
    pub fn builder(batcher: impl Batcher<I, B> + 'static) -> ShardedLoaderBuilder<I, B> {
        ShardedLoaderBuilder {
            batcher: Box::new(batcher),
            batch_size: 1,
            seed: None,
            task: 0,
            workers: 0,
            rank: 0,
            world_size: 1,
            device: Device::default(),
            start: (0, 0),
        }
    }

    fn plan(&self, epoch: u64) -> EpochPlan {
        let ShardedLoaderBuilder { batch_size, seed, task, rank, world_size, .. } = *self.settings;
        EpochPlan::new(self.dataset.len(), seed, task, epoch, rank, world_size, batch_size)
    }
}

impl<I: Send + Sync + Clone + 'static, B: Send + 'static> DataLoader<B> for ShardedLoader<I, B> {
    fn iter<'a>(&'a self) -> Box<dyn DataLoaderIterator<B> + 'a> {
        SHARD.set(Some((self.settings.rank, self.settings.world_size)));
        let (epoch, first) = {
            let mut next = self.next.lock();
            let epoch = next.0;
            std::mem::replace(&mut *next, (epoch + 1, 0))
        };
        let plan = self.plan(epoch);
        let first = (first as usize).min(plan.steps());
        let rows = plan.rows();
        let read = (0..first).map(|step| plan.batch(step).len()).sum();
        let reader = Arc::new(Reader {
            plan,
            dataset: self.dataset.clone(),
            settings: self.settings.clone(),
            device: self.device.clone(),
        });
        let count = self.settings.workers;
        let start = |worker| Worker::start(reader.clone(), first + worker, count);
        let workers = (0..count).map(start).collect();
        Box::new(Iter { reader, workers, first, step: first, read, rows })
    }

    fn num_items(&self) -> usize {
        self.plan(0).rows()
    }

    fn to_device(&self, device: &Device) -> Arc<dyn DataLoader<B>> {
        Arc::new(Self {
            settings: self.settings.clone(),
            dataset: self.dataset.clone(),
            device: device.clone(),
            next: self.next.clone(),
        })
    }

    fn slice(&self, start: usize, end: usize) -> Arc<dyn DataLoader<B>> {
        Arc::new(Self {
            settings: self.settings.clone(),
            dataset: Arc::new(PartialDataset::new(self.dataset.clone(), start, end)),
            device: self.device.clone(),
            // A slice counts its own epochs: its order must not depend on which slice is read
            // first.
            next: Arc::new(Mutex::new(*self.next.lock())),
        })
    }
}

/// Reads the mini-batch of any step of an epoch.
struct Reader<I, B> {
    plan: EpochPlan,
    dataset: Arc<dyn Dataset<I>>,
    settings: Arc<ShardedLoaderBuilder<I, B>>,
    device: Device,
}

/// A mini-batch that was read, or `None` if all of its samples are left out.
type ReadBatch<B> = Result<Option<B>, DatasetError>;

/// Why a mini-batch was not read, other than an error of the data set.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    /// The data set or the batcher panicked.
    #[error("reading the mini-batch of step {step} panicked: {message}")]
    Panic { step: usize, message: String },
    /// The operating system refused a worker thread.
    #[error("a loader thread could not be started or has ended")]
    NoThread,
}

/// The error with which a data set asks a [`ShardedLoader`] to leave a sample out, for example a
/// damaged image.
///
/// ```
/// use burn::data::dataset::{Dataset, DatasetError};
/// use burn_rehearsal::SkipSample;
///
/// struct EvenNumbers;
///
/// impl Dataset<usize> for EvenNumbers {
///     fn get(&self, index: usize) -> Result<usize, DatasetError> {
///         if index % 2 == 0 { Ok(index) } else { Err(DatasetError::new(SkipSample)) }
///     }
/// #   fn len(&self) -> usize { 10 }
/// }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the sample is to be left out")]
pub struct SkipSample;

fn asks_to_skip(error: &DatasetError) -> bool {
    error.source().is_some_and(|source| source.is::<SkipSample>())
}

impl<I, B> Reader<I, B> {
    /// The samples of a mini-batch, except those that are left out.
    fn items(&self, indices: &[u32]) -> Result<Vec<I>, DatasetError> {
        let every = || indices.iter().map(|&index| index as usize);
        match self.dataset.get_many(every().collect()) {
            // Skipped samples are rare, so reading the others a second time costs little.
            Err(error) if asks_to_skip(&error) => every()
                .map(|index| self.dataset.get(index))
                .filter(|item| !item.as_ref().is_err_and(asks_to_skip))
                .collect(),
            other => other,
        }
    }

    /// The mini-batch of `step`; `None` if this rank has no row.
    fn read(&self, step: usize) -> Option<ReadBatch<B>> {
        let indices = self.plan.batch(step);
        if indices.is_empty() {
            return None;
        }
        let read = || {
            let items = self.items(indices)?;
            Ok((!items.is_empty()).then(|| self.settings.batcher.batch(items, &self.device)))
        };
        // User code may panic. Its state is not used again, because the epoch ends here.
        Some(catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|payload| {
            let message = panic_message(payload.as_ref()).to_owned();
            Err(DatasetError::new(ReadError::Panic { step, message }))
        }))
    }
}

struct Worker<B> {
    batches: Option<Receiver<ReadBatch<B>>>,
    thread: Option<JoinHandle<()>>,
}

impl<B: Send + 'static> Worker<B> {
    /// Reads every `stride`-th mini-batch from step `first` on.
    fn start<I: Send + Sync + 'static>(
        reader: Arc<Reader<I, B>>,
        first: usize,
        stride: usize,
    ) -> Self {
        // The worker holds one mini-batch, and the channel the rest of its share.
        let (sender, batches) = sync_channel((AHEAD / stride).saturating_sub(1));
        let run = move || {
            for step in (first..reader.plan.steps()).step_by(stride) {
                let Some(batch) = reader.read(step) else { return };
                let failed = batch.is_err();
                if sender.send(batch).is_err() || failed {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("loader".into()).spawn(run).ok();
        Self { batches: Some(batches), thread }
    }
}

impl<B> Drop for Worker<B> {
    fn drop(&mut self) {
        // Without a receiver, the worker's next send fails and the thread ends.
        drop(self.batches.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Iter<I, B> {
    reader: Arc<Reader<I, B>>,
    /// Empty if this thread reads.
    workers: Vec<Worker<B>>,
    first: usize,
    step: usize,
    read: usize,
    rows: usize,
}

impl<I, B> Iterator for Iter<I, B> {
    type Item = Result<B, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        let plan = &self.reader.plan;
        loop {
            if self.step >= plan.steps() || plan.batch(self.step).is_empty() {
                return None;
            }
            let batch = match self.workers.as_slice() {
                [] => self.reader.read(self.step)?,
                workers => {
                    let worker = &workers[(self.step - self.first) % workers.len()];
                    let received = worker.batches.as_ref().and_then(|batches| batches.recv().ok());
                    received.unwrap_or_else(|| Err(DatasetError::new(ReadError::NoThread)))
                }
            };
            self.read += plan.batch(self.step).len();
            self.step = if batch.is_ok() { self.step + 1 } else { plan.steps() };
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
