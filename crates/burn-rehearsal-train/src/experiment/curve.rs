//! Keeps the training loss of every epoch, as Burn's metrics see it.

use burn::train::logger::MetricLogger;
use burn::train::metric::store::{EpochSummary, MetricsUpdate, Split};
use burn::train::metric::{MetricDefinition, MetricId, NumericEntry};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// A metric logger that writes no files and remembers the mean loss of each epoch.
#[derive(Clone, Default)]
pub(super) struct LossCurve {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    loss: Option<MetricId>,
    /// Sum of losses weighted by rows, and rows, per epoch (counted from 1).
    epochs: BTreeMap<usize, (f64, f64)>,
}

impl LossCurve {
    /// A curve that goes on from the [`sums`](Self::sums) of another.
    pub(super) fn of_sums(sums: &BTreeMap<usize, [u64; 2]>) -> Self {
        let epochs = sums.iter().map(|(&epoch, &[sum, rows])| (epoch, (f64::from_bits(sum), f64::from_bits(rows)))).collect();
        Self { state: Arc::new(Mutex::new(State { loss: None, epochs })) }
    }

    /// What the means are made of, by its bits.
    pub(super) fn sums(&self) -> BTreeMap<usize, [u64; 2]> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.epochs.iter().map(|(&epoch, &(sum, rows))| (epoch, [sum.to_bits(), rows.to_bits()])).collect()
    }

    /// The mean loss of each epoch, in order.
    pub(super) fn means(&self) -> Vec<f64> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.epochs.values().map(|(sum, rows)| sum / rows).collect()
    }
}

impl MetricLogger for LossCurve {
    fn log(&mut self, update: MetricsUpdate, epoch: usize, split: &Split) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if *split != Split::Train {
            return;
        }
        for metric in update.entries_numeric {
            let (value, rows) = match metric.numeric_entry {
                Some(NumericEntry::Value(value)) => (value, 1.0),
                Some(NumericEntry::Aggregated { aggregated_value, count }) => (aggregated_value, count as f64),
                Some(NumericEntry::Final(_)) | None => continue,
            };
            if state.loss.as_ref() == Some(&metric.entry.metric_id) {
                let (sum, total) = state.epochs.entry(epoch).or_insert((0.0, 0.0));
                *sum += value * rows;
                *total += rows;
            }
        }
    }

    fn read_numeric(&mut self, _name: &str, _epoch: usize, _split: &Split) -> Result<Vec<NumericEntry>, String> {
        Ok(Vec::new())
    }

    fn log_metric_definition(&mut self, definition: MetricDefinition) {
        if definition.name.as_str() == "Loss" {
            self.state.lock().unwrap_or_else(PoisonError::into_inner).loss = Some(definition.metric_id);
        }
    }

    fn log_epoch_summary(&mut self, _summary: EpochSummary) {}
}
