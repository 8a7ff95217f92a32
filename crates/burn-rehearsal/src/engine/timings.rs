//! Counters of the time and work of an engine. Any thread can read them while the engine runs.

use parking_lot::Mutex;
use std::time::{Duration, Instant};

/// The counters of one rank. The engine and the training thread add to them. They hold the lock for
/// nanoseconds only.
#[derive(Debug, Default)]
pub(crate) struct Timings(Mutex<EngineTimings>);

macro_rules! record {
    ($($name:ident),*) => {$(
        /// Adds the time since `since` to this part of the work. Returns the current time, at which
        /// the next part begins.
        pub(crate) fn $name(&self, since: Instant) -> Instant {
            let now = Instant::now();
            self.0.lock().$name += now.saturating_duration_since(since);
            now
        }
    )*};
}

impl Timings {
    record!(insert, plan, exchange, deliver, append, assemble);

    /// Adds a step of the training thread, which waited for `wait` and worked for `assemble`. At
    /// its beginning, `queued` rounds were pending. Its representatives were drawn `staleness`
    /// steps earlier.
    pub(crate) fn step(&self, wait: Duration, assemble: Duration, queued: usize, staleness: u64) {
        let mut sums = self.0.lock();
        sums.wait += wait;
        sums.assemble += assemble;
        sums.steps += 1;
        sums.queued += queued as u64;
        sums.staleness += staleness;
    }

    /// Adds copied rows of `bytes` bytes in total.
    pub(crate) fn copied(&self, bytes: usize) {
        self.0.lock().copied_bytes += bytes as u64;
    }

    /// Sets the number of rows that all ranks together store.
    pub(crate) fn stored(&self, rows: u64) {
        self.0.lock().stored = rows;
    }

    pub(crate) fn read(&self) -> EngineTimings {
        *self.0.lock()
    }
}

/// The time spent and the work done by the buffer of one rank, summed over all steps so far.
///
/// The difference of two readings gives the time and work between them:
///
/// ```
/// # use burn::tensor::{Device, Tensor};
/// # use burn_rehearsal::{Capacity, RehearsalBatch, RehearsalConfig};
/// # #[derive(RehearsalBatch)]
/// # struct Batch { inputs: Tensor<2> }
/// # let load = || Batch { inputs: Tensor::zeros([4, 8], &Device::flex()) };
/// let buffer = RehearsalConfig::new(Capacity::Samples(500)).init::<Batch>()?;
/// buffer.rehearse(load())?;
/// let before = buffer.timings();
/// buffer.rehearse(load())?;
/// let now = buffer.timings();
/// assert_eq!(now.steps - before.steps, 1);
/// println!("waited for representatives: {:?}", now.wait - before.wait);
/// # Ok::<(), burn_rehearsal::error::RehearsalError>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EngineTimings {
    /// Engine: reading candidates and writing them to the shard.
    pub insert: Duration,
    /// Engine: computing the draws of all ranks.
    pub plan: Duration,
    /// Engine: waiting for other ranks and moving rows between them.
    pub exchange: Duration,
    /// Engine: building the columns of the representatives on the training device.
    pub deliver: Duration,
    /// Training thread: waiting for representatives that are not ready. A step whose
    /// representatives are ready adds nothing.
    pub wait: Duration,
    /// Training thread: all other work for the buffer: taking the mini-batch apart, appending
    /// representatives, offering candidates, and putting the mini-batch together.
    pub assemble: Duration,
    /// Training thread: the part of `assemble` that appends the representatives.
    pub append: Duration,
    /// The number of mini-batches that went through the buffer.
    pub steps: u64,
    /// The bytes of rows copied by the engine and by the training thread: candidates to the shard,
    /// rows for other ranks to messages, representatives from the shard, and representatives to the
    /// mini-batch. Incoming rows count if they are copied because their memory has another owner.
    /// They do not count if the allocator moves them when their memory grows.
    pub copied_bytes: u64,
    /// The number of pending rounds at each step, summed: the depth of the engine's queue.
    pub queued: u64,
    /// The number of steps between the draw and the use of representatives, summed over the steps
    /// that had any. It is `lag` per step, and less after a change of task.
    pub staleness: u64,
    /// The number of rows that all ranks together stored in the last round. Not a sum over steps.
    pub stored: u64,
}
