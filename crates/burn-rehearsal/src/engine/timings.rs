//! Time and work of an engine: counters that any thread may read while it runs.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Nanoseconds spent so far in each part of the work, and counts. Relaxed atomics: the numbers are
/// for reports, nothing is ordered by them.
#[derive(Debug, Default)]
pub(crate) struct Timings {
    insert: AtomicU64,
    plan: AtomicU64,
    exchange: AtomicU64,
    deliver: AtomicU64,
    wait: AtomicU64,
    assemble: AtomicU64,
    append: AtomicU64,
    steps: AtomicU64,
    copied: AtomicU64,
    queued: AtomicU64,
    staleness: AtomicU64,
    stored: AtomicU64,
}

macro_rules! record {
    ($($name:ident),*) => {$(
        /// This part of the work began at `since` and is done; gives the time now, when the next
        /// part begins.
        pub(crate) fn $name(&self, since: Instant) -> Instant {
            let now = Instant::now();
            self.$name.fetch_add(now.saturating_duration_since(since).as_nanos() as u64, Ordering::Relaxed);
            now
        }
    )*};
}

impl Timings {
    record!(insert, plan, exchange, deliver, append);

    /// The training thread waited so long for representatives.
    pub(crate) fn wait(&self, time: Duration) {
        self.wait.fetch_add(time.as_nanos() as u64, Ordering::Relaxed);
    }

    /// The training thread's whole part in a step took so long, the wait aside.
    pub(crate) fn assemble(&self, time: Duration) {
        self.assemble.fetch_add(time.as_nanos() as u64, Ordering::Relaxed);
    }

    /// A step that found `queued` rounds under way, with representatives that were drawn
    /// `staleness` steps before.
    pub(crate) fn step(&self, queued: usize, staleness: u64) {
        self.steps.fetch_add(1, Ordering::Relaxed);
        self.queued.fetch_add(queued as u64, Ordering::Relaxed);
        self.staleness.fetch_add(staleness, Ordering::Relaxed);
    }

    /// Rows of `bytes` bytes in total were copied.
    pub(crate) fn copied(&self, bytes: usize) {
        self.copied.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// All ranks together store `rows` rows.
    pub(crate) fn stored(&self, rows: u64) {
        self.stored.store(rows, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> EngineTimings {
        let time = |counter: &AtomicU64| Duration::from_nanos(counter.load(Ordering::Relaxed));
        EngineTimings {
            insert: time(&self.insert),
            plan: time(&self.plan),
            exchange: time(&self.exchange),
            deliver: time(&self.deliver),
            wait: time(&self.wait),
            assemble: time(&self.assemble),
            append: time(&self.append),
            steps: self.steps.load(Ordering::Relaxed),
            copied_bytes: self.copied.load(Ordering::Relaxed),
            queued: self.queued.load(Ordering::Relaxed),
            staleness: self.staleness.load(Ordering::Relaxed),
            stored: self.stored.load(Ordering::Relaxed),
        }
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
