//! What the buffer does, as metrics of Burn: register them with a learner, and they reach its
//! renderer and its logs.

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

/// A figure of a [`RehearsalBuffer`], on this rank, per step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RehearsalStat {
    /// Milliseconds that the training thread waits for representatives that are not ready.
    Wait,
    /// Milliseconds in which the training thread chooses candidates and appends representatives.
    Assemble,
    /// Milliseconds in which the engine writes candidates to the shard.
    Insert,
    /// Milliseconds in which the engine computes all ranks' draws.
    Plan,
    /// Milliseconds in which the engine waits for other ranks and moves rows between them.
    Exchange,
    /// Milliseconds in which the engine builds the representatives' columns.
    Deliver,
    /// Rounds of the engine that are under way when a mini-batch arrives; at most `lag`.
    QueueDepth,
    /// How many steps before a step its representatives were drawn.
    Staleness,
    /// Bytes of rows copied.
    CopiedBytes,
    /// Samples that all ranks together store; a level, no mean.
    Stored,
}

impl RehearsalStat {
    /// All of them.
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

    /// The name, the unit, and how to read the sum over all steps so far (or the level).
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

    /// The mean per step between two readings, 0 if there was none; or the level at the second.
    fn mean(self, before: &EngineTimings, after: &EngineTimings) -> f64 {
        let (_, _, total) = self.parts();
        match after.steps - before.steps {
            _ if self == Self::Stored => total(after),
            0 => 0.0,
            steps => (total(after) - total(before)) / steps as f64,
        }
    }
}

/// One [`RehearsalStat`] of a buffer as a metric of Burn, for any kind of model. A value is the
/// mean per step since the metric was last updated; that of an epoch, the mean over the epoch's
/// steps.
///
/// Reading it costs a few loads of counters that are kept anyway; a buffer without metrics pays
/// nothing for them. The engine works beside the training thread, so its times are those of the
/// steps that it has just done, not of the one that is being reported.
///
/// ```no_run
/// # use burn::train::{LearnerModel, SupervisedTraining};
/// # use burn_rehearsal::RehearsalBuffer;
/// # fn with_metrics<M: LearnerModel + 'static, B>(mut training: SupervisedTraining<M>, buffer: &RehearsalBuffer<B>) -> SupervisedTraining<M> {
/// use burn_rehearsal::{RehearsalStat, RehearsalMetric};
///
/// for stat in RehearsalStat::ALL {
///     training = training.metric_train_numeric(RehearsalMetric::new(buffer, stat));
/// }
/// # training }
/// ```
#[derive(Clone)]
pub struct RehearsalMetric {
    stat: RehearsalStat,
    name: MetricName,
    unit: &'static str,
    timings: Arc<Timings>,
    /// When the epoch began, and at the last update.
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
    /// A figure of `buffer`, from now on.
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
        // Several updates may come for one step, or one for several.
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
