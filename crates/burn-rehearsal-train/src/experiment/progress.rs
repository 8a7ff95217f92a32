//! The progress of a run: live figures, and each completed epoch.

use crate::epoch::Epoch;
use crate::phases::{Phase, PhaseTimer};
use crate::report::schema::{CurvePoint, EpochTime};
use burn::tensor::TensorReadError;
use burn::train::metric::{
    Metric, MetricAttributes, MetricMetadata, MetricName, Numeric, NumericEntry, SerializedEntry,
};
use burn_rehearsal::{EngineTimings, RehearsalBuffer};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A launch of training that is about to begin or resume.
#[derive(Debug, Clone)]
pub struct LaunchInfo {
    /// The task, counted from 0.
    pub task: usize,
    /// The first epoch of this launch.
    pub epoch: Epoch,
    /// Reads live figures.
    pub reader: ProgressReader,
}

/// A completed epoch.
#[derive(Debug, Clone, PartialEq)]
pub struct CompletedEpoch {
    /// Its loss and accuracies. Those after the last epoch of a task are passed to
    /// [`Observer::evaluated`](super::Observer::evaluated) later.
    pub point: CurvePoint,
    /// Its time.
    pub time: EpochTime,
}

/// Receives each completed epoch.
pub type EpochSink = Box<dyn FnMut(&CompletedEpoch) + Send>;

/// Reads live figures of this rank, at any time and from any thread. A reading loads a few
/// counters.
#[derive(Clone)]
pub struct ProgressReader {
    timer: PhaseTimer,
    buffer: Option<Arc<dyn Fn() -> EngineTimings + Send + Sync>>,
}

impl fmt::Debug for ProgressReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProgressReader").field("sample", &self.read()).finish()
    }
}

/// Sums since the start of the run, on this rank. The difference of two samples has the figures of
/// the time between them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProgressSample {
    /// Time in training steps.
    pub step: Duration,
    /// The part of it that waited for incoming mini-batches.
    pub load: Duration,
    /// The part of it that waited for representatives.
    pub wait: Duration,
    /// Samples that all ranks store together. `None` without a buffer.
    pub stored: Option<u64>,
}

impl ProgressReader {
    pub(super) fn new<B: Send + 'static>(
        timer: PhaseTimer,
        buffer: Option<RehearsalBuffer<B>>,
    ) -> Self {
        let timings = |buffer: RehearsalBuffer<B>| -> Arc<dyn Fn() -> EngineTimings + Send + Sync> {
            Arc::new(move || buffer.timings())
        };
        Self { timer, buffer: buffer.map(timings) }
    }

    /// Reads the sums.
    pub fn read(&self) -> ProgressSample {
        let buffer = self.buffer.as_ref().map(|timings| timings());
        ProgressSample {
            step: self.timer.steps_total(),
            load: self.timer.total(Phase::Load, buffer.as_ref()),
            wait: self.timer.total(Phase::Wait, buffer.as_ref()),
            stored: buffer.map(|timings| timings.stored),
        }
    }
}

/// A metric that is updated so rarely that it takes at most a fraction of 1/[`SHARE`] of the time.
/// Between updates it has no value and reads nothing from the device.
#[derive(Clone)]
pub(super) struct Sampled<M> {
    metric: M,
    last: Option<SerializedEntry>,
    /// The time of the next update.
    next: Option<Instant>,
    fresh: bool,
    /// Whether an epoch has ended since the last update. Its figures stay until the next update.
    ended: bool,
}

/// The inverse of the largest fraction of the time that a [`Sampled`] metric takes.
const SHARE: u32 = 500;

impl<M> Sampled<M> {
    pub(super) fn new(metric: M) -> Self {
        Self { metric, last: None, next: None, fresh: false, ended: false }
    }
}

impl<M: Metric> Metric for Sampled<M> {
    type Input = M::Input;

    fn name(&self) -> MetricName {
        self.metric.name()
    }

    fn attributes(&self) -> MetricAttributes {
        self.metric.attributes()
    }

    fn update(
        &mut self,
        input: &M::Input,
        metadata: &MetricMetadata,
    ) -> Result<SerializedEntry, TensorReadError> {
        let started = Instant::now();
        if let Some(last) = &self.last
            && self.next.is_some_and(|next| started < next)
        {
            self.fresh = false;
            return Ok(last.clone());
        }
        if std::mem::take(&mut self.ended) {
            self.metric.clear();
        }
        let entry = self.metric.update(input, metadata)?;
        self.fresh = true;
        self.last = Some(entry.clone());
        self.next = Instant::now().checked_add(started.elapsed() * SHARE);
        Ok(entry)
    }

    fn compute(&mut self) -> Result<SerializedEntry, TensorReadError> {
        self.metric.compute()
    }

    fn clear(&mut self) {
        self.ended = true;
    }
}

impl<M: Numeric> Numeric for Sampled<M> {
    fn value(&self) -> Option<NumericEntry> {
        self.fresh.then(|| self.metric.value()).flatten()
    }

    fn running_value(&self) -> Option<NumericEntry> {
        self.metric.running_value()
    }

    fn final_value(&self) -> NumericEntry {
        self.metric.final_value()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::data::dataloader::Progress;
    use burn::train::metric::NumericAttributes;

    /// Counts its updates. Each takes a while.
    #[derive(Clone, Default)]
    struct Slow(f64);

    impl Metric for Slow {
        type Input = ();

        fn name(&self) -> MetricName {
            Arc::new("Slow".into())
        }

        fn attributes(&self) -> MetricAttributes {
            NumericAttributes { unit: None, higher_is_better: true }.into()
        }

        fn update(
            &mut self,
            (): &(),
            _metadata: &MetricMetadata,
        ) -> Result<SerializedEntry, TensorReadError> {
            std::thread::sleep(Duration::from_millis(5));
            self.0 += 1.0;
            Ok(SerializedEntry::new(String::new(), self.0.to_string()))
        }

        fn compute(&mut self) -> Result<SerializedEntry, TensorReadError> {
            Ok(SerializedEntry::new(String::new(), self.0.to_string()))
        }

        fn clear(&mut self) {
            *self = Self::default();
        }
    }

    impl Numeric for Slow {
        fn value(&self) -> Option<NumericEntry> {
            Some(NumericEntry::Value(self.0))
        }

        fn running_value(&self) -> Option<NumericEntry> {
            self.value()
        }

        fn final_value(&self) -> NumericEntry {
            NumericEntry::Final(self.0)
        }
    }

    #[test]
    fn a_sampled_metric_is_updated_rarely_and_keeps_its_figures() {
        let mut metric = Sampled::new(Slow::default());
        let metadata =
            MetricMetadata { progress: Progress::new(0, 1, None), iteration: None, lr: None };
        metric.update(&(), &metadata).unwrap();
        assert!(matches!(metric.value(), Some(NumericEntry::Value(1.0))));
        // The next update is due after two and a half seconds.
        for _ in 0..100 {
            metric.update(&(), &metadata).unwrap();
            assert!(metric.value().is_none());
        }
        metric.clear();
        assert!(matches!(metric.final_value(), NumericEntry::Final(1.0)));
    }
}
