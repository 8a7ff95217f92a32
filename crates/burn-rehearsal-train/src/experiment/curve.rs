//! Training loss and time per epoch, from Burn's metrics.

use super::epochs::EpochAccuracies;
use super::{CompletedEpoch, EpochSink};
use crate::epoch::Epoch;
use crate::report::schema::{CurvePoint, EpochTime};
use burn::train::Interrupter;
use burn::train::logger::MetricLogger;
use burn::train::metric::store::{EpochSummary, MetricsUpdate, Split};
use burn::train::metric::{MetricDefinition, MetricId, NumericEntry};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A metric logger that writes no files. It keeps the mean loss and the time of each epoch, and
/// reports each complete epoch.
#[derive(Clone, Default)]
pub(super) struct LossCurve {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    loss: Option<MetricId>,
    /// Per epoch, the sum of losses weighted by rows, and the number of rows.
    epochs: BTreeMap<Epoch, (f64, f64)>,
    /// Seconds of training in each epoch.
    seconds: BTreeMap<Epoch, f64>,
    progress: Option<TrainingProgress>,
}

/// The context of the reports of a launch.
pub(super) struct TrainingProgress {
    /// The current task, and the incoming samples of one of its epochs over all ranks.
    pub(super) task: usize,
    pub(super) samples: usize,
    pub(super) accuracies: EpochAccuracies,
    pub(super) interrupter: Interrupter,
    pub(super) sink: EpochSink,
    /// The start of the current epoch, and the time that evaluations of this launch had taken by
    /// then.
    pub(super) since: (Instant, Duration),
}

impl LossCurve {
    /// Continues a curve from its [`sums`](Self::sums) and [`seconds`](Self::seconds).
    pub(super) fn of_sums(sums: &BTreeMap<Epoch, [u64; 2]>, seconds: BTreeMap<Epoch, f64>) -> Self {
        let epochs = sums
            .iter()
            .map(|(&epoch, &[sum, rows])| (epoch, (f64::from_bits(sum), f64::from_bits(rows))))
            .collect();
        Self { state: Arc::new(Mutex::new(State { epochs, seconds, ..State::default() })) }
    }

    /// The sums behind the means, as bits.
    pub(super) fn sums(&self) -> BTreeMap<Epoch, [u64; 2]> {
        self.state
            .lock()
            .epochs
            .iter()
            .map(|(&epoch, &(sum, rows))| (epoch, [sum.to_bits(), rows.to_bits()]))
            .collect()
    }

    /// Seconds of training in each epoch.
    pub(super) fn seconds(&self) -> BTreeMap<Epoch, f64> {
        self.state.lock().seconds.clone()
    }

    /// The mean loss of each epoch.
    pub(super) fn means(&self) -> BTreeMap<Epoch, f64> {
        self.state.lock().epochs.iter().map(|(&epoch, (sum, rows))| (epoch, sum / rows)).collect()
    }

    /// Reports complete epochs until [`end_launch`](Self::end_launch).
    pub(super) fn begin_launch(&self, progress: TrainingProgress) {
        self.state.lock().progress = Some(progress);
    }

    pub(super) fn end_launch(&self) {
        self.state.lock().progress = None;
    }
}

impl State {
    /// Ends `epoch`, whose last step was logged.
    fn end(&mut self, epoch: Epoch) {
        let Some(progress) = &mut self.progress else { return };
        let (now, evaluated) = (Instant::now(), progress.accuracies.time());
        let (began, before) = std::mem::replace(&mut progress.since, (now, evaluated));
        let seconds = self.seconds.entry(epoch).or_default();
        *seconds += (now - began).saturating_sub(evaluated.saturating_sub(before)).as_secs_f64();
        // A stop usually ends the epoch before its last step. If the epoch was complete
        // nevertheless, the run reports it at its end.
        if progress.interrupter.should_stop() {
            return;
        }
        let loss =
            self.epochs.get(&epoch).map(|(sum, rows)| sum / rows).filter(|loss| loss.is_finite());
        (progress.sink)(&CompletedEpoch {
            point: CurvePoint {
                task: progress.task,
                epoch,
                train_loss: loss,
                top1: progress.accuracies.after(epoch),
            },
            time: EpochTime { train_s: *seconds, samples: progress.samples as u64 },
        });
    }
}

impl MetricLogger for LossCurve {
    fn log(&mut self, update: MetricsUpdate, epoch: usize, split: &Split) {
        let mut state = self.state.lock();
        if *split != Split::Train {
            return;
        }
        for metric in update.entries_numeric {
            let (value, rows) = match metric.numeric_entry {
                Some(NumericEntry::Value(value)) => (value, 1.0),
                Some(NumericEntry::Aggregated { aggregated_value, count }) => {
                    (aggregated_value, count as f64)
                }
                Some(NumericEntry::Final(_)) | None => continue,
            };
            if state.loss.as_ref() == Some(&metric.entry.metric_id) {
                let (sum, total) =
                    state.epochs.entry(Epoch::from_number(epoch)).or_insert((0.0, 0.0));
                *sum += value * rows;
                *total += rows;
            }
        }
    }

    fn read_numeric(
        &mut self,
        _name: &str,
        _epoch: usize,
        _split: &Split,
    ) -> Result<Vec<NumericEntry>, String> {
        Ok(Vec::new())
    }

    fn log_metric_definition(&mut self, definition: MetricDefinition) {
        if definition.name.as_str() == "Loss" {
            self.state.lock().loss = Some(definition.metric_id);
        }
    }

    fn log_epoch_summary(&mut self, summary: EpochSummary) {
        if summary.split == Split::Train {
            self.state.lock().end(Epoch::from_number(summary.epoch_number));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mean_belongs_to_its_epoch_if_an_earlier_one_is_missing() {
        let [second, fourth] = [2, 4].map(Epoch::from_number);
        let sums = [(second, [6.0, 3.0]), (fourth, [1.0, 2.0])];
        let sums = sums.map(|(epoch, sum)| (epoch, sum.map(f64::to_bits))).into();
        let curve = LossCurve::of_sums(&sums, BTreeMap::new());
        assert_eq!(curve.means(), [(second, 2.0), (fourth, 0.5)].into());
    }
}
