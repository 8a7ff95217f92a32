//! Where the time of a training step goes.
//!
//! A [`PhaseTimer`] is a cheap handle that the learner, the loaders and whoever else works on a step add their durations to. On devices
//! that only enqueue (every GPU) the host's time per phase says little: such a report is not [`exact`](PhaseReport::exact) unless the timer
//! was made with [`PhaseTimer::profiling`], which makes the learner wait for the device at every border between two phases.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use burn::tensor::Device;
use serde::{Deserialize, Serialize};

/// A part of a training step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Waiting for the next incoming mini-batch (without the two phases below).
    Load,
    /// Waiting for the representatives.
    Wait,
    /// Joining incoming rows and representatives to one batch.
    Assemble,
    /// The model's forward and backward pass.
    ForwardBackward,
    /// Reading the gradients, summing them over the ranks, and uploading the result.
    AllReduce,
    /// The learning-rate schedule and the optimiser.
    Optimizer,
}

impl Phase {
    /// All phases, in the order of a step.
    pub const ALL: [Self; 6] = [Self::Load, Self::Wait, Self::Assemble, Self::ForwardBackward, Self::AllReduce, Self::Optimizer];

    /// The phase's name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::Wait => "wait",
            Self::Assemble => "assemble",
            Self::ForwardBackward => "forward_backward",
            Self::AllReduce => "all_reduce",
            Self::Optimizer => "optimizer",
        }
    }
}

/// Mean times per step, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct PhaseReport {
    /// How many steps were measured.
    pub steps: u64,
    /// Mean time of a whole step.
    pub step_ms: f64,
    /// Mean time in [`Phase::Load`].
    pub load_ms: f64,
    /// Mean time in [`Phase::Wait`].
    pub wait_ms: f64,
    /// Mean time in [`Phase::Assemble`].
    pub assemble_ms: f64,
    /// Mean time in [`Phase::ForwardBackward`].
    pub forward_backward_ms: f64,
    /// Mean time in [`Phase::AllReduce`].
    pub all_reduce_ms: f64,
    /// Mean time in [`Phase::Optimizer`].
    pub optimizer_ms: f64,
    /// Whether each phase contains exactly its own work. If false (a device that only enqueues, not profiled), only `step_ms`, `load_ms`
    /// and `wait_ms` mean something.
    pub exact: bool,
}

impl PhaseReport {
    /// The mean time of one phase per step, in milliseconds.
    pub fn ms(&self, phase: Phase) -> f64 {
        match phase {
            Phase::Load => self.load_ms,
            Phase::Wait => self.wait_ms,
            Phase::Assemble => self.assemble_ms,
            Phase::ForwardBackward => self.forward_backward_ms,
            Phase::AllReduce => self.all_reduce_ms,
            Phase::Optimizer => self.optimizer_ms,
        }
    }
}

#[derive(Debug, Default)]
struct Counters {
    /// Nanoseconds per phase, indexed as [`Phase::ALL`].
    phases: [AtomicU64; 6],
    steps: AtomicU64,
    step_nanos: AtomicU64,
    profiling: bool,
    exact: AtomicBool,
}

/// A shared stopwatch; clones add to the same counters.
#[derive(Debug, Clone, Default)]
pub struct PhaseTimer {
    counters: Arc<Counters>,
}

impl PhaseTimer {
    /// A timer that costs a few nanoseconds per phase and never waits for a device.
    pub fn new() -> Self {
        Self::default()
    }

    /// A timer that makes the learner synchronise the device at every border between phases: exact on any device, and slower.
    pub fn profiling() -> Self {
        Self { counters: Arc::new(Counters { profiling: true, ..Counters::default() }) }
    }

    /// Whether the device is to be synchronised at the borders of phases.
    pub fn is_profiling(&self) -> bool {
        self.counters.profiling
    }

    /// Adds time that was spent in a phase.
    pub fn add(&self, phase: Phase, duration: Duration) {
        self.counters.phases[phase as usize].fetch_add(nanos(duration), Ordering::Relaxed);
    }

    /// The time in a phase so far.
    pub fn total(&self, phase: Phase) -> Duration {
        Duration::from_nanos(self.counters.phases[phase as usize].load(Ordering::Relaxed))
    }

    /// Counts one step and its whole duration.
    pub fn add_step(&self, duration: Duration) {
        self.counters.step_nanos.fetch_add(nanos(duration), Ordering::Relaxed);
        self.counters.steps.fetch_add(1, Ordering::Relaxed);
    }

    /// The time of all steps so far.
    pub fn steps_total(&self) -> Duration {
        Duration::from_nanos(self.counters.step_nanos.load(Ordering::Relaxed))
    }

    /// All counters, for a checkpoint.
    pub(crate) fn counters(&self) -> Vec<u64> {
        let Counters { phases, steps, step_nanos, .. } = &*self.counters;
        phases.iter().chain([steps, step_nanos]).map(|counter| counter.load(Ordering::Relaxed)).collect()
    }

    /// Adds the counters of a checkpoint.
    pub(crate) fn add_counters(&self, values: &[u64]) {
        let Counters { phases, steps, step_nanos, .. } = &*self.counters;
        for (counter, value) in phases.iter().chain([steps, step_nanos]).zip(values) {
            counter.fetch_add(*value, Ordering::Relaxed);
        }
    }

    /// Tells the timer which device is measured; flex computes before it returns, so its phases are exact without profiling.
    pub(crate) fn observe_device(&self, device: &Device) {
        self.counters.exact.store(self.counters.profiling || is_synchronous(device), Ordering::Relaxed);
    }

    /// Starts again from zero, for example at the start of a task.
    pub fn reset(&self) {
        for counter in &self.counters.phases {
            counter.store(0, Ordering::Relaxed);
        }
        self.counters.steps.store(0, Ordering::Relaxed);
        self.counters.step_nanos.store(0, Ordering::Relaxed);
    }

    /// Means per step since the start or the last [`reset`](Self::reset); all zero before the first step.
    pub fn report(&self) -> PhaseReport {
        let steps = self.counters.steps.load(Ordering::Relaxed);
        let mean = |nanos: u64| if steps == 0 { 0.0 } else { nanos as f64 / steps as f64 / 1e6 };
        let phase = |phase: Phase| mean(self.counters.phases[phase as usize].load(Ordering::Relaxed));
        PhaseReport {
            steps,
            step_ms: mean(self.counters.step_nanos.load(Ordering::Relaxed)),
            load_ms: phase(Phase::Load),
            wait_ms: phase(Phase::Wait),
            assemble_ms: phase(Phase::Assemble),
            forward_backward_ms: phase(Phase::ForwardBackward),
            all_reduce_ms: phase(Phase::AllReduce),
            optimizer_ms: phase(Phase::Optimizer),
            exact: self.counters.exact.load(Ordering::Relaxed),
        }
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
        let report = timer.report();
        assert_eq!((report.steps, report.step_ms), (2, 5.0));
        assert_eq!((report.ms(Phase::Load), report.ms(Phase::Optimizer), report.ms(Phase::Wait)), (2.0, 1.0, 0.0));
        timer.reset();
        assert_eq!(other.report(), PhaseReport { exact: report.exact, ..PhaseReport::default() });
    }

    #[test]
    fn a_report_is_exact_on_flex_or_when_profiling() {
        let timer = PhaseTimer::new();
        assert!(!timer.report().exact, "no device seen yet");
        timer.observe_device(&Device::default().autodiff());
        assert_eq!(timer.report().exact, cfg!(feature = "flex"));
        let timer = PhaseTimer::profiling();
        timer.observe_device(&Device::default());
        assert!(timer.report().exact && timer.is_profiling());
    }
}
