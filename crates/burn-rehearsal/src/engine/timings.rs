//! Time and work of an engine: counters that any thread may read while it runs.

use parking_lot::Mutex;
use std::time::{Duration, Instant};

/// The counters of one rank. The engine and the training thread add to them; each holds the lock
/// for nanoseconds.
#[derive(Debug, Default)]
pub(crate) struct Timings(Mutex<EngineTimings>);

macro_rules! record {
    ($($name:ident),*) => {$(
        /// Adds the time since `since` to this part of the work. Returns the time now, when the
        /// next part begins.
        pub(crate) fn $name(&self, since: Instant) -> Instant {
            let now = Instant::now();
            self.0.lock().$name += now.saturating_duration_since(since);
            now
        }
    )*};
}

impl Timings {
    record!(insert, plan, exchange, deliver, append);

    /// Adds a step of the training thread: `wait` for representatives and `assemble` for the rest
    /// of its part. It found `queued` rounds under way, and representatives that were drawn
    /// `staleness` steps before.
    pub(crate) fn step(&self, wait: Duration, assemble: Duration, queued: usize, staleness: u64) {
        let mut sums = self.0.lock();
        sums.wait += wait;
        sums.assemble += assemble;
        sums.steps += 1;
        sums.queued += queued as u64;
        sums.staleness += staleness;
    }

    /// Adds rows of `bytes` bytes in total that were copied.
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

/// Time spent and work done so far by one rank's buffer, summed over steps, and how full all shards
/// are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EngineTimings {
    /// Engine: reading candidates and writing them to the shard.
    pub insert: Duration,
    /// Engine: computing all ranks' draws.
    pub plan: Duration,
    /// Engine: waiting for other ranks and moving rows between them.
    pub exchange: Duration,
    /// Engine: building the representatives' columns on the training device.
    pub deliver: Duration,
    /// Training thread: waiting for representatives that are not ready; nothing in a step for which
    /// they are.
    pub wait: Duration,
    /// Training thread: all that it does for a step but wait: taking the mini-batch apart,
    /// appending representatives, offering candidates, putting it together.
    pub assemble: Duration,
    /// Training thread: the part of `assemble` that appends the representatives.
    pub append: Duration,
    /// Mini-batches that went through the buffer.
    pub steps: u64,
    /// Bytes of rows copied by the engine and by the training thread: candidates into the shard,
    /// rows for other ranks into messages, representatives out of the shard and behind the incoming
    /// rows. Incoming rows count if their memory has another owner, and not if the allocator moves
    /// them when their memory grows.
    pub copied_bytes: u64,
    /// Rounds that were under way at each step, summed: the depth of the engine's queue.
    pub queued: u64,
    /// For each step with representatives, how many steps before they were drawn, summed; `lag` per
    /// step, less after a change of task.
    pub staleness: u64,
    /// Rows that all ranks together stored at the last round; not a sum over steps.
    pub stored: u64,
}
