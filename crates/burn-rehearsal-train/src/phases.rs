//! The time of each phase of a training step.
//!
//! A [`PhaseTimer`] collects the times of the learner. A buffer keeps the times of its own phases
//! ([`EngineTimings`]). A [`PhaseReport`] combines both.
//!
//! On a device that only enqueues work, such as a GPU, the host's time in a phase is not the time
//! of its work. A report is then [`exact`](PhaseReport::exact) only with [`PhaseTimer::profiling`],
//! which makes the learner wait for the device after each phase.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::named;
use burn::tensor::Device;
use burn_rehearsal::EngineTimings;

named! {
    /// A phase of a training step. First come the phases of the training thread, in the order of a
    /// step, then those of the engine thread.
    pub enum Phase: "phase" {
        /// Waiting for the next incoming mini-batch, without the two phases below.
        Load = "load",
        /// Waiting for the representatives.
        Wait = "wait",
        /// Appending the representatives to the incoming rows.
        Assemble = "assemble",
        /// The forward and backward pass of the model.
        ForwardBackward = "forward_backward",
        /// Reading the gradients, summing them over the ranks, and uploading the result.
        AllReduce = "all_reduce",
        /// The learning-rate schedule and the optimizer.
        Optimizer = "optimizer",
        /// Engine thread: writing candidates to the shard.
        Insert = "insert",
        /// Engine thread: computing the draws of all ranks.
        Plan = "plan",
        /// Engine thread: waiting for other ranks and moving rows between them.
        Exchange = "exchange",
        /// Engine thread: building the columns of the representatives.
        Deliver = "deliver",
    }
}

/// The number of phases of the training thread, which come first.
const OF_TRAINING: usize = 6;

impl Phase {
    /// The phase with this name. `None` if there is none.
    pub fn from_name(name: &str) -> Option<Self> {
        name.parse().ok()
    }

    /// Whether the phase belongs to the engine thread. It runs while the training thread trains and
    /// does not add to the time of a step.
    pub fn is_background(self) -> bool {
        self as usize >= OF_TRAINING
    }

    /// Whether the time of the phase is meaningful on devices that only enqueue.
    fn is_host_time(self) -> bool {
        matches!(self, Self::Load | Self::Wait) || self.is_background()
    }

    /// The time that a buffer spent in the phase.
    fn in_buffer(self, timings: &EngineTimings) -> Duration {
        match self {
            Self::Load | Self::ForwardBackward | Self::AllReduce | Self::Optimizer => {
                Duration::ZERO
            }
            Self::Wait => timings.wait,
            Self::Assemble => timings.assemble,
            Self::Insert => timings.insert,
            Self::Plan => timings.plan,
            Self::Exchange => timings.exchange,
            Self::Deliver => timings.deliver,
        }
    }

    /// Combines the time that the learner measured with the times `in_buffer`. The learner sees one
    /// call of `next`; the buffer knows its own part of it.
    fn combine(self, learner: f64, in_buffer: impl Fn(Self) -> f64) -> f64 {
        match self {
            Self::Load => (learner - in_buffer(Self::Wait) - in_buffer(Self::Assemble)).max(0.0),
            _ => learner + in_buffer(self),
        }
    }
}

/// Mean times per step, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct PhaseReport {
    /// The number of measured steps.
    pub steps: u64,
    /// The mean time of a whole step.
    pub step_ms: f64,
    /// Whether each phase contains exactly its own work. If not (a device that only enqueues,
    /// without profiling), only the phases of the host are reported: `load`, `wait` and those of
    /// the engine thread.
    pub exact: bool,
    /// Milliseconds per phase, in the order of [`Phase::ALL`]. `None` if it was not measured.
    phases: [Option<f64>; Phase::ALL.len()],
}

impl PhaseReport {
    /// The mean time of a phase per step, in milliseconds. `None` if it was not measured.
    pub fn ms(&self, phase: Phase) -> Option<f64> {
        self.phases[phase as usize]
    }

    /// All means by the name of the phase. `step` is the whole step.
    pub fn by_name(&self) -> BTreeMap<String, f64> {
        let phases =
            Phase::ALL.iter().filter_map(|phase| Some((phase.name().to_owned(), self.ms(*phase)?)));
        phases.chain([("step".to_owned(), self.step_ms)]).collect()
    }
}

#[derive(Debug, Default)]
struct Counters {
    /// Nanoseconds per phase of the training thread, in the order of [`Phase::ALL`].
    phases: [AtomicU64; OF_TRAINING],
    steps: AtomicU64,
    step_nanos: AtomicU64,
    profiling: bool,
    exact: AtomicBool,
}

/// A timer for the phases of training steps. Clones share their counters.
///
/// Pass a clone to [`DataParallel::with_timer`](crate::data_parallel::DataParallel::with_timer), or
/// use it in your own training loop:
///
/// ```
/// use burn_rehearsal_train::phases::{Phase, PhaseTimer};
/// use std::time::Duration;
///
/// let timer = PhaseTimer::new();
/// timer.add(Phase::Load, Duration::from_millis(3));
/// timer.add_step(Duration::from_millis(10));
/// let report = timer.report(None);
/// assert_eq!((report.steps, report.step_ms, report.ms(Phase::Load)), (1, 10.0, Some(3.0)));
/// ```
#[derive(Debug, Clone, Default)]
pub struct PhaseTimer {
    counters: Arc<Counters>,
}

impl PhaseTimer {
    /// A timer that costs a few nanoseconds per phase and never waits for a device.
    pub fn new() -> Self {
        Self::default()
    }

    /// A timer that makes the learner synchronize the device after each phase. Times are exact on
    /// any device, and steps are slower.
    pub fn profiling() -> Self {
        Self { counters: Arc::new(Counters { profiling: true, ..Counters::default() }) }
    }

    /// Whether the device is synchronized after each phase.
    pub fn is_profiling(&self) -> bool {
        self.counters.profiling
    }

    /// Adds time of the training thread to a phase. Phases of the engine thread are ignored, since
    /// the buffer measures them.
    pub fn add(&self, phase: Phase, duration: Duration) {
        if let Some(counter) = self.counters.phases.get(phase as usize) {
            counter.fetch_add(nanos(duration), Ordering::Relaxed);
        }
    }

    /// The total time of a phase, including the times of `buffer`.
    pub fn total(&self, phase: Phase, buffer: Option<&EngineTimings>) -> Duration {
        let in_buffer =
            |phase: Phase| buffer.map_or(0.0, |timings| phase.in_buffer(timings).as_secs_f64());
        Duration::from_secs_f64(phase.combine(self.learner(phase).as_secs_f64(), in_buffer))
    }

    /// The total time that was [added](Self::add).
    fn learner(&self, phase: Phase) -> Duration {
        let counter = self.counters.phases.get(phase as usize);
        Duration::from_nanos(counter.map_or(0, |counter| counter.load(Ordering::Relaxed)))
    }

    /// Counts a step and adds its duration.
    pub fn add_step(&self, duration: Duration) {
        self.counters.step_nanos.fetch_add(nanos(duration), Ordering::Relaxed);
        self.counters.steps.fetch_add(1, Ordering::Relaxed);
    }

    /// The number of steps so far.
    pub fn steps(&self) -> u64 {
        self.counters.steps.load(Ordering::Relaxed)
    }

    /// The time of all steps so far.
    pub fn steps_total(&self) -> Duration {
        Duration::from_nanos(self.counters.step_nanos.load(Ordering::Relaxed))
    }

    /// The values of all counters, for a checkpoint.
    pub(crate) fn counters(&self) -> Vec<u64> {
        let Counters { phases, steps, step_nanos, .. } = &*self.counters;
        phases
            .iter()
            .chain([steps, step_nanos])
            .map(|counter| counter.load(Ordering::Relaxed))
            .collect()
    }

    /// Adds the counters of a checkpoint.
    pub(crate) fn add_counters(&self, values: &[u64]) {
        let Counters { phases, steps, step_nanos, .. } = &*self.counters;
        for (counter, value) in phases.iter().chain([steps, step_nanos]).zip(values) {
            counter.fetch_add(*value, Ordering::Relaxed);
        }
    }

    /// Sets the measured device. The flex backend computes before it returns, so its phases are
    /// exact without profiling.
    pub(crate) fn observe_device(&self, device: &Device) {
        self.counters
            .exact
            .store(self.counters.profiling || is_synchronous(device), Ordering::Relaxed);
    }

    /// Mean times per step, including the times of `buffer`. All means are 0 before the first step.
    pub fn report(&self, buffer: Option<&EngineTimings>) -> PhaseReport {
        let (steps, exact) = (self.steps(), self.counters.exact.load(Ordering::Relaxed));
        let mean = |time: Duration, steps: u64| {
            if steps == 0 { 0.0 } else { time.as_nanos() as f64 / steps as f64 / 1e6 }
        };
        let in_buffer = |phase: Phase| {
            buffer.map_or(0.0, |timings| mean(phase.in_buffer(timings), timings.steps))
        };
        let phases = std::array::from_fn(|index| {
            let phase = Phase::ALL[index];
            let measured =
                (exact || phase.is_host_time()) && (buffer.is_some() || !phase.is_background());
            measured.then(|| phase.combine(mean(self.learner(phase), steps), in_buffer))
        });
        PhaseReport { steps, step_ms: mean(self.steps_total(), steps), exact, phases }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(feature = "flex")]
fn is_synchronous(device: &Device) -> bool {
    *device == Device::flex()
}

#[cfg(not(feature = "flex"))]
fn is_synchronous(_device: &Device) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_add_to_the_same_means() {
        let timer = PhaseTimer::new();
        let other = timer.clone();
        timer.add(Phase::Load, Duration::from_millis(3));
        other.add(Phase::Load, Duration::from_millis(1));
        other.add(Phase::Optimizer, Duration::from_millis(2));
        timer.add_step(Duration::from_millis(6));
        other.add_step(Duration::from_millis(4));
        timer.observe_device(&Device::default());
        let report = timer.report(None);
        assert_eq!((report.steps, report.step_ms), (2, 5.0));
        assert_eq!(
            (report.ms(Phase::Load), report.ms(Phase::Wait), report.ms(Phase::Insert)),
            (Some(2.0), Some(0.0), None)
        );
        assert_eq!(report.ms(Phase::Optimizer), cfg!(feature = "flex").then_some(1.0));
    }

    #[test]
    fn the_buffers_share_of_loading_counts_once() {
        let timer = PhaseTimer::profiling();
        timer.observe_device(&Device::default());
        timer.add(Phase::Load, Duration::from_millis(20));
        (0..2).for_each(|_| timer.add_step(Duration::from_millis(30)));
        let millis = Duration::from_millis;
        let timings = EngineTimings {
            wait: millis(2),
            assemble: millis(4),
            plan: millis(6),
            steps: 2,
            ..EngineTimings::default()
        };
        let report = timer.report(Some(&timings));
        let expected = [
            ("load", 7.0),
            ("wait", 1.0),
            ("assemble", 2.0),
            ("plan", 3.0),
            ("insert", 0.0),
            ("step", 30.0),
        ];
        expected.iter().for_each(|(name, ms)| assert_eq!(report.by_name()[*name], *ms, "{name}"));
        assert_eq!(timer.total(Phase::Load, Some(&timings)), millis(14));
    }

    #[test]
    fn a_report_is_exact_on_flex_or_when_profiling() {
        let timer = PhaseTimer::new();
        assert!(!timer.report(None).exact, "no device was observed");
        timer.observe_device(&Device::default().autodiff());
        assert_eq!(timer.report(None).exact, cfg!(feature = "flex"));
        let timer = PhaseTimer::profiling();
        timer.observe_device(&Device::default());
        assert!(timer.report(None).exact && timer.is_profiling());
    }
}
