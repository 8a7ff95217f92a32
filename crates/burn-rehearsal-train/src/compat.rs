//! The parts of Burn's API that differ between its versions: training events, and the loggers and
//! renderers of progress.
//!
//! Burn 0.23 changes the fields of the events and the signatures of the loggers. Only this file
//! uses them. To show the progress of a training, implement [`TrainingView`] and wrap it in a
//! [`Renderer`].

use crate::epoch::Epoch;
use burn::train::LearnerEvent;
use burn::train::LearnerSummary;
use burn::train::logger::{EvaluationProgressLogger, TrainingProgressLogger};
use burn::train::metric::MetricDefinition;
use burn::train::renderer::{
    EvaluationName, MetricState, MetricsRenderer, MetricsRendererEvaluation,
    MetricsRendererTraining,
};

pub(crate) fn start_split<T>(epoch: Epoch, items: usize) -> LearnerEvent<T> {
    LearnerEvent::StartSplit { epoch_number: epoch.number(), total_items: items }
}

pub(crate) fn end_split<T>(epoch: Epoch) -> LearnerEvent<T> {
    LearnerEvent::EndSplit(epoch.number())
}

pub(crate) fn end_epoch<T>(epoch: Epoch) -> LearnerEvent<T> {
    LearnerEvent::EndEpoch(epoch.number())
}

/// Shows the progress of a training. All methods do nothing by default.
///
/// ```
/// use burn_rehearsal_train::compat::TrainingView;
/// use burn_rehearsal_train::epoch::Epoch;
///
/// struct Lines;
///
/// impl TrainingView for Lines {
///     fn end_epoch(&mut self, epoch: Epoch) {
///         println!("epoch {epoch} is done");
///     }
/// }
/// ```
pub trait TrainingView: Send + Sync {
    /// Training begins with epoch `first`. `items` is the number of samples of all epochs, if it is
    /// known.
    fn start(&mut self, first: Epoch, items: Option<usize>) {
        let _ = (first, items);
    }

    /// A split of an epoch (`train` or `valid`) with `items` samples begins.
    fn start_split(&mut self, split: &str, items: usize) {
        let _ = (split, items);
    }

    /// `items` samples of the split are done.
    fn update_split(&mut self, items: usize) {
        let _ = items;
    }

    /// The split ends.
    fn end_split(&mut self) {}

    /// The epoch ends.
    fn end_epoch(&mut self, epoch: Epoch) {
        let _ = epoch;
    }

    /// A metric is registered, before its first value.
    fn register_metric(&mut self, definition: MetricDefinition) {
        let _ = definition;
    }

    /// A metric of training has a new value.
    fn update_train(&mut self, state: MetricState) {
        let _ = state;
    }

    /// A metric of validation has a new value.
    fn update_valid(&mut self, state: MetricState) {
        let _ = state;
    }

    /// Another event.
    fn event(&mut self, event: String) {
        let _ = event;
    }
}

/// A renderer for Burn's training that passes everything to a [`TrainingView`].
///
/// ```
/// use burn::train::renderer::MetricsRenderer;
/// use burn_rehearsal_train::compat::{Renderer, TrainingView};
///
/// struct Lines;
/// impl TrainingView for Lines {}
///
/// // For `SupervisedTraining::renderer` or `Observer::renderer`.
/// let renderer: Box<dyn MetricsRenderer> = Box::new(Renderer(Lines));
/// ```
#[derive(Debug, Clone)]
pub struct Renderer<V>(pub V);

impl<V: TrainingView> MetricsRendererTraining for Renderer<V> {
    fn update_train(&mut self, state: MetricState) {
        self.0.update_train(state);
    }

    fn update_valid(&mut self, state: MetricState) {
        self.0.update_valid(state);
    }

    fn on_train_end(
        &mut self,
        _summary: Option<LearnerSummary>,
    ) -> Result<(), Box<dyn core::error::Error>> {
        Ok(())
    }
}

impl<V: TrainingView> TrainingProgressLogger for Renderer<V> {
    fn start(&mut self, _epochs: usize, first: usize, items: Option<usize>, _label: Option<&str>) {
        self.0.start(Epoch::from_number(first), items);
    }

    fn update_epoch(&mut self, epoch: usize) {
        self.0.end_epoch(Epoch::from_number(epoch));
    }

    fn start_split(&mut self, split: &str, items: usize) {
        self.0.start_split(split, items);
    }

    fn update_split(&mut self, items: usize) {
        self.0.update_split(items);
    }

    fn end_split(&mut self) {
        self.0.end_split();
    }

    fn end(&mut self) {}

    fn log_event_training(&mut self, event: String) {
        self.0.event(event);
    }
}

impl<V: TrainingView> MetricsRendererEvaluation for Renderer<V> {
    fn update_test(&mut self, _name: EvaluationName, _state: MetricState) {}

    fn on_test_end(
        &mut self,
        _summary: Option<LearnerSummary>,
    ) -> Result<(), Box<dyn core::error::Error>> {
        Ok(())
    }
}

impl<V: TrainingView> EvaluationProgressLogger for Renderer<V> {
    fn start_global_progress(&mut self, _tests: usize) {}

    fn start_test(&mut self, _name: &str, _items: usize) {}

    fn update_test_progress(&mut self, _items: usize) {}

    fn end_test(&mut self) {}

    fn end_global_progress(&mut self) {}

    fn log_event_evaluation(&mut self, _event: String) {}
}

impl<V: TrainingView> MetricsRenderer for Renderer<V> {
    fn manual_close(&mut self) {}

    fn register_metric(&mut self, definition: MetricDefinition) {
        self.0.register_metric(definition);
    }
}
