//! Times and counters of a buffer as Burn metrics.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use burn::tensor::TensorReadError;
use burn::train::metric::{
    Metric, MetricAttributes, MetricMetadata, MetricName, Numeric, NumericAttributes, NumericEntry,
    SerializedEntry,
};

use crate::buffer::RehearsalBuffer;
use crate::engine::{EngineTimings, Timings};

/// A time or counter of a [`RehearsalBuffer`] on this rank, for a [`RehearsalMetric`].
///
/// All values except [`Stored`](Self::Stored) are means per step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RehearsalStat {
    /// The time that the training thread spends waiting for representatives, in milliseconds.
    Wait,
    /// The time that the training thread spends offering candidates and appending representatives,
    /// in milliseconds.
    Assemble,
    /// The time that the engine spends writing candidates to the shard, in milliseconds.
    Insert,
    /// The time that the engine spends computing the draws of all ranks, in milliseconds.
    Plan,
    /// The time that the engine spends waiting for other ranks and exchanging rows with them, in
    /// milliseconds.
    Exchange,
    /// The time that the engine spends building the columns of representatives, in milliseconds.
    Deliver,
    /// The number of unfinished rounds of the engine when a mini-batch arrives, at most `lag`.
    QueueDepth,
    /// The number of steps between drawing representatives and using them.
    Staleness,
    /// The bytes of rows copied.
    CopiedBytes,
    /// The number of samples stored by all ranks together. This is the current value, not a mean.
    Stored,
}

impl RehearsalStat {
    /// All variants.
    pub const ALL: [Self; 10] = [
        Self::Wait,
        Self::Assemble,
        Self::Insert,
        Self::Plan,
        Self::Exchange,
        Self::Deliver,
        Self::QueueDepth,
        Self::Staleness,
        Self::CopiedBytes,
        Self::Stored,
    ];

    /// The name, the unit, and a function that reads the sum over all steps (or the current value).
    fn parts(self) -> (&'static str, &'static str, fn(&EngineTimings) -> f64) {
        fn ms(time: Duration) -> f64 {
            time.as_secs_f64() * 1e3
        }
        match self {
            Self::Wait => ("Rehearsal wait", "ms", |timings| ms(timings.wait)),
            Self::Assemble => ("Rehearsal assemble", "ms", |timings| ms(timings.assemble)),
            Self::Insert => ("Rehearsal insert", "ms", |timings| ms(timings.insert)),
            Self::Plan => ("Rehearsal plan", "ms", |timings| ms(timings.plan)),
            Self::Exchange => ("Rehearsal exchange", "ms", |timings| ms(timings.exchange)),
            Self::Deliver => ("Rehearsal deliver", "ms", |timings| ms(timings.deliver)),
            Self::QueueDepth => {
                ("Rehearsal queue depth", "rounds", |timings| timings.queued as f64)
            }
            Self::Staleness => ("Rehearsal staleness", "steps", |timings| timings.staleness as f64),
            Self::CopiedBytes => {
                ("Rehearsal copied", "bytes", |timings| timings.copied_bytes as f64)
            }
            Self::Stored => ("Rehearsal stored", "samples", |timings| timings.stored as f64),
        }
    }

    /// The mean per step between two readings, or 0 without a step. For `Stored`, the value at the
    /// second reading.
    fn mean(self, before: &EngineTimings, after: &EngineTimings) -> f64 {
        let (_, _, total) = self.parts();
        match after.steps - before.steps {
            _ if self == Self::Stored => total(after),
            0 => 0.0,
            steps => (total(after) - total(before)) / steps as f64,
        }
    }
}

/// A [`RehearsalStat`] of a buffer as a Burn metric, for any model.
///
/// Register it with a learner to see it in the renderer and in the logs. The value of a step is the
/// mean since the last update, and the value of an epoch is the mean over its steps. The engine
/// runs concurrently with training, so its times are those of the last rounds that it has finished.
/// An update costs a few loads, because the buffer maintains the counters in any case.
///
/// ```no_run
/// # use burn::train::{LearnerModel, SupervisedTraining};
/// # use burn_rehearsal::RehearsalBuffer;
/// use burn_rehearsal::{RehearsalMetric, RehearsalStat};
///
/// # fn with_metrics<M: LearnerModel + 'static, B>(
/// #     mut training: SupervisedTraining<M>,
/// #     buffer: &RehearsalBuffer<B>,
/// # ) -> SupervisedTraining<M> {
/// for stat in RehearsalStat::ALL {
///     training = training.metric_train_numeric(RehearsalMetric::new(buffer, stat));
/// }
/// # training
/// # }
/// ```
#[derive(Clone)]
pub struct RehearsalMetric {
    stat: RehearsalStat,
    name: MetricName,
    unit: &'static str,
    timings: Arc<Timings>,
    /// The counters at the start of the epoch and at the last update.
    start: EngineTimings,
    last: EngineTimings,
    current: f64,
}

impl fmt::Debug for RehearsalMetric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RehearsalMetric").field("stat", &self.stat).finish_non_exhaustive()
    }
}

impl RehearsalMetric {
    /// A metric that shows `stat` of `buffer` from now on.
    pub fn new<B>(buffer: &RehearsalBuffer<B>, stat: RehearsalStat) -> Self {
        let timings = buffer.counters();
        let now = timings.read();
        let (name, unit, _) = stat.parts();
        Self {
            stat,
            name: Arc::new(name.to_owned()),
            unit,
            timings,
            start: now,
            last: now,
            current: 0.0,
        }
    }

    fn entry(&self, value: f64, entry: &NumericEntry) -> SerializedEntry {
        SerializedEntry::new(format!("{value:.3} {}", self.unit), entry.serialize())
    }

    fn epoch(&self) -> f64 {
        self.stat.mean(&self.start, &self.last)
    }
}

impl Metric for RehearsalMetric {
    type Input = ();

    fn name(&self) -> MetricName {
        self.name.clone()
    }

    fn attributes(&self) -> MetricAttributes {
        NumericAttributes {
            unit: Some(self.unit.to_owned()),
            higher_is_better: self.stat == RehearsalStat::Stored,
        }
        .into()
    }

    fn update(
        &mut self,
        (): &(),
        _metadata: &MetricMetadata,
    ) -> Result<SerializedEntry, TensorReadError> {
        let now = self.timings.read();
        // There may be several updates in one step, or one update for several steps.
        if now.steps > self.last.steps {
            self.current = self.stat.mean(&self.last, &now);
            self.last = now;
        }
        Ok(self.entry(self.current, &NumericEntry::Value(self.current)))
    }

    fn compute(&mut self) -> Result<SerializedEntry, TensorReadError> {
        Ok(self.entry(self.epoch(), &self.final_value()))
    }

    fn clear(&mut self) {
        self.start = self.last;
    }
}

impl Numeric for RehearsalMetric {
    fn value(&self) -> Option<NumericEntry> {
        Some(NumericEntry::Value(self.current))
    }

    fn running_value(&self) -> Option<NumericEntry> {
        Some(NumericEntry::Value(self.epoch()))
    }

    fn final_value(&self) -> NumericEntry {
        NumericEntry::Final(self.epoch())
    }
}
