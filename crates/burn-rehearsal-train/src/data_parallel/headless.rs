//! Training without files and without a terminal interface.

use burn::train::logger::MetricLogger;
use burn::train::metric::store::{EpochSummary, MetricsUpdate, Split};
use burn::train::metric::{MetricDefinition, NumericEntry};
use burn::train::{LearnerModel, SupervisedTraining};

use crate::compat::{Renderer, TrainingView};

/// Removes everything from a training that writes files or to the terminal: the log file, the
/// metric files and the renderer. Use it on the ranks other than 0, or to train silently.
///
/// Do not call `with_default_checkpointers` on such a training, since that call creates their
/// directory. [`DataParallel`](super::DataParallel) uses the checkpointers of rank 0 only.
///
/// ```no_run
/// # use burn::train::{LearnerModel, SupervisedTraining};
/// # use burn_rehearsal_collective::Rank;
/// # use burn_rehearsal_train::data_parallel::without_renderer;
/// # fn on_ranks<M: LearnerModel>(training: SupervisedTraining<M>, rank: &Rank)
/// #     -> SupervisedTraining<M> {
/// let training = if rank.is_root() { training } else { without_renderer(training) };
/// # training }
/// ```
pub fn without_renderer<M: LearnerModel>(training: SupervisedTraining<M>) -> SupervisedTraining<M> {
    training
        .with_application_logger(None)
        .renderer(Box::new(Renderer(NoView)))
        .with_metric_logger(NoMetricLogger)
}

/// A view that shows nothing. `Renderer(NoView)` is a renderer that shows nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoView;

impl TrainingView for NoView {}

/// A metric logger that discards everything. Burn does not create its own logger, which writes
/// files, if one is registered.
///
/// Early stopping and metric-based checkpointing read from the logger, so they do not work with
/// this one.
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
