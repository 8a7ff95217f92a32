//! Where the engine's time goes: counters that anybody may read while it runs.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Nanoseconds spent so far in each part of the work. Relaxed atomics: the numbers are for reports, nothing is ordered by them.
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
}

macro_rules! record {
    ($($name:ident),*) => {$(
        pub(crate) fn $name(&self, time: Duration) {
            self.$name.fetch_add(time.as_nanos() as u64, Ordering::Relaxed);
        }
    )*};
}

impl Timings {
    record!(insert, plan, exchange, deliver, wait, assemble, append);

    pub(crate) fn step(&self) {
        self.steps.fetch_add(1, Ordering::Relaxed);
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
        }
    }
}

/// Time spent so far by one rank's buffer, summed over steps.
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
    /// Training thread: waiting for representatives that are not ready.
    pub wait: Duration,
    /// Training thread: choosing candidates and appending representatives.
    pub assemble: Duration,
    /// Training thread: the part of `assemble` that appends the representatives; the rest chooses and copies candidates.
    pub append: Duration,
    /// Mini-batches that went through the buffer.
    pub steps: u64,
}
