//! Ranks that write and show nothing.

use burn::train::logger::MetricLogger;
use burn::train::metric::store::{EpochSummary, MetricsUpdate, Split};
use burn::train::metric::{MetricDefinition, NumericEntry};
use burn::train::{LearnerModel, SupervisedTraining};

use crate::compat::{Renderer, TrainingView};

/// Takes everything from a training that writes files or to the terminal: for the ranks other than
/// 0.
///
/// No log file, no metric files, no renderer. Do not call `with_default_checkpointers` on such a
/// training: Burn creates their directory in that call ([`DataParallel`](super::DataParallel) would
/// not use them on these ranks anyway).
pub fn without_renderer<M: LearnerModel>(training: SupervisedTraining<M>) -> SupervisedTraining<M> {
    training
        .with_application_logger(None)
        .renderer(Box::new(Renderer(NoView)))
        .with_metric_logger(NoMetricLogger)
}

/// A view that shows nothing; `Renderer(NoView)` is a renderer that shows nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoView;

impl TrainingView for NoView {}

/// A metric logger that keeps nothing; registering one keeps Burn from creating its own, which
/// writes files.
///
/// Early stopping and metric-based checkpointing read from the logger: use it only where neither is
/// used.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoMetricLogger;

impl MetricLogger for NoMetricLogger {
    fn log(&mut self, _update: MetricsUpdate, _epoch: usize, _split: &Split) {}

    fn read_numeric(
        &mut self,
        _name: &str,
        _epoch: usize,
        _split: &Split,
    ) -> Result<Vec<NumericEntry>, String> {
        Ok(Vec::new())
    }

    fn log_metric_definition(&mut self, _definition: MetricDefinition) {}

    fn log_epoch_summary(&mut self, _summary: EpochSummary) {}
}
