//! Updates the display from Burn's training events, on Burn's renderer thread.

use crate::progress::Shared;
use burn::train::metric::{MetricDefinition, MetricId, NumericEntry};
use burn::train::renderer::MetricState;
use burn_rehearsal_train::compat::TrainingView;
use burn_rehearsal_train::epoch::Epoch;
use burn_rehearsal_train::experiment::{LaunchInfo, ProgressReader};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Minimum time between two updates of the display.
const REFRESH: Duration = Duration::from_millis(100);

/// The renderer for a bar or plain lines.
pub struct ProgressRenderer {
    shared: Arc<Shared>,
    reader: ProgressReader,
    task: usize,
    /// The epoch that starts next.
    next: Epoch,
    /// The number of incoming images of this rank in an epoch; `None` outside training.
    total: Option<usize>,
    loss: Option<MetricId>,
    top1: Option<MetricId>,
    shown: Option<Instant>,
}

impl ProgressRenderer {
    pub fn new(shared: Arc<Shared>, launch: &LaunchInfo) -> Self {
        Self {
            shared,
            reader: launch.reader.clone(),
            task: launch.task,
            next: launch.epoch,
            total: None,
            loss: None,
            top1: None,
            shown: None,
        }
    }
}

impl TrainingView for ProgressRenderer {
    fn start_split(&mut self, split: &str, items: usize) {
        if split != "train" {
            return;
        }
        let epoch = self.next;
        self.next = epoch.next();
        self.total = Some(items);
        self.shared.status.lock().begin(self.task, epoch, self.reader.read(), Instant::now());
    }

    fn update_split(&mut self, items: usize) {
        let Some(total) = self.total else { return };
        let now = Instant::now();
        self.shared.status.lock().step(items, total, now);
        if self.shown.is_none_or(|shown| now.saturating_duration_since(shown) >= REFRESH) {
            self.shown = Some(now);
            self.shared.show(self.reader.read());
        }
    }

    fn end_split(&mut self) {
        self.total = None;
    }

    fn register_metric(&mut self, definition: MetricDefinition) {
        match definition.name.as_str() {
            "Loss" => self.loss = Some(definition.metric_id),
            "Accuracy" => self.top1 = Some(definition.metric_id),
            _ => {}
        }
    }

    fn update_train(&mut self, state: MetricState) {
        let MetricState::Numeric(
            entry,
            Some(
                NumericEntry::Value(value)
                | NumericEntry::Aggregated { aggregated_value: value, .. },
            ),
        ) = state
        else {
            return;
        };
        let id = Some(&entry.metric_id);
        if id == self.loss.as_ref() {
            self.shared.status.lock().loss(value);
        } else if id == self.top1.as_ref() {
            self.shared.status.lock().top1(value);
        }
    }
}
