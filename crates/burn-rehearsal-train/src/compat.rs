//! What changes between versions of Burn: the events of a training and the loggers of its progress.
//!
//! Burn 0.23 changes the fields of the events and the signatures of the loggers. They appear in
//! this file only.

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

/// What a [`Renderer`] shows of a training. By default nothing.
pub trait TrainingView: Send + Sync {
    /// Training begins with this epoch; `items` of all epochs, if they are known.
    fn start(&mut self, first: Epoch, items: Option<usize>) {
        let _ = (first, items);
    }

    /// A part of an epoch (`train` or `valid`) with this many items begins.
    fn start_split(&mut self, split: &str, items: usize) {
        let _ = (split, items);
    }

    /// This many items of the part are done.
    fn update_split(&mut self, items: usize) {
        let _ = items;
    }

    /// The part ends.
    fn end_split(&mut self) {}

    /// The epoch ends.
    fn end_epoch(&mut self, epoch: Epoch) {
        let _ = epoch;
    }

    /// A metric will be reported.
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

    /// Something else happened.
    fn event(&mut self, event: String) {
        let _ = event;
    }
}

/// A renderer for Burn's training that shows what a [`TrainingView`] shows.
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
