//! What the buffer does, as metrics of Burn: register them with a learner, and they reach its
//! renderer and its logs.

use std::fmt;
use std::sync::Arc;

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

    fn name(self) -> &'static str {
        match self {
            Self::Wait => "Rehearsal wait",
            Self::Assemble => "Rehearsal assemble",
            Self::Insert => "Rehearsal insert",
            Self::Plan => "Rehearsal plan",
            Self::Exchange => "Rehearsal exchange",
            Self::Deliver => "Rehearsal deliver",
            Self::QueueDepth => "Rehearsal queue depth",
            Self::Staleness => "Rehearsal staleness",
            Self::CopiedBytes => "Rehearsal copied",
            Self::Stored => "Rehearsal stored",
        }
    }

    fn unit(self) -> &'static str {
        match self {
            Self::QueueDepth => "rounds",
            Self::Staleness => "steps",
            Self::CopiedBytes => "bytes",
            Self::Stored => "samples",
            _ => "ms",
        }
    }

    /// The sum over all steps so far, or the level.
    fn total(self, timings: &EngineTimings) -> f64 {
        let time = match self {
            Self::Wait => timings.wait,
            Self::Assemble => timings.assemble,
            Self::Insert => timings.insert,
            Self::Plan => timings.plan,
            Self::Exchange => timings.exchange,
            Self::Deliver => timings.deliver,
            Self::QueueDepth => return timings.queued as f64,
            Self::Staleness => return timings.staleness as f64,
            Self::CopiedBytes => return timings.copied_bytes as f64,
            Self::Stored => return timings.stored as f64,
        };
        time.as_secs_f64() * 1e3
    }

    /// The mean per step between two readings, 0 if there was none; or the level at the second.
    fn mean(self, before: &EngineTimings, after: &EngineTimings) -> f64 {
        if self == Self::Stored {
            return self.total(after);
        }
        let steps = after.steps - before.steps;
        if steps == 0 { 0.0 } else { (self.total(after) - self.total(before)) / steps as f64 }
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
        Self {
            stat,
            name: Arc::new(stat.name().to_owned()),
            timings,
            start: now,
            last: now,
            current: 0.0,
        }
    }

    fn entry(&self, value: f64, entry: &NumericEntry) -> SerializedEntry {
        SerializedEntry::new(format!("{value:.3} {}", self.stat.unit()), entry.serialize())
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
            unit: Some(self.stat.unit().to_owned()),
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
