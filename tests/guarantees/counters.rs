//! The counters of the buffer (copied bytes, pending rounds, age of representatives) and the
//! metrics that show them in Burn's learner.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use crate::learner::{Net, ToPair};
use burn::data::dataset::InMemDataset;
use burn::tensor::Device;
use burn::train::SupervisedTraining;
use burn::train::logger::MetricLogger;
use burn::train::metric::store::{EpochSummary, MetricsUpdate, Split};
use burn::train::metric::{MetricDefinition, NumericEntry};
use burn_rehearsal::{
    Execution, PolicyKind, RehearsalConfig, RehearsalLoader, RehearsalMetric, RehearsalStat,
    ShardedLoader, StorePreference,
};
use burn_rehearsal_testing::{batch_on, buffer, config, fresh, world};
use burn_rehearsal_train::data_parallel::without_renderer;

const B: usize = 6;
const C: usize = 3;
const R: usize = 4;
/// Bytes of a stored row of `Mixed`: four for its image and eight for each other field.
const ROW: usize = 28;

fn inline(lag: usize) -> RehearsalConfig {
    config(40, C, R)
        .with_policy(PolicyKind::Fifo)
        .with_execution(Execution::Inline)
        .with_lag(lag)
        .with_store(StorePreference::Host)
}

#[test]
fn only_candidates_and_representatives_are_copied() {
    let buffer = inline(1).init().unwrap();
    let device = Device::flex();
    // The first step draws nothing. It stores three rows, so that the second step draws three.
    let mut copied = 0;
    for step in 0..30 {
        buffer.rehearse(batch_on(&fresh(1, 0, step, B, 3), &device)).unwrap();
        let drawn = |step: usize| R.min(C * step);
        copied += ROW * (C + drawn(step + 1) + drawn(step));
        assert_eq!(buffer.timings().copied_bytes, copied as u64, "step {step}");
    }
}

#[test]
fn incoming_rows_are_copied_if_their_memory_has_another_owner() {
    let buffer = inline(1).init().unwrap();
    for step in 0..30 {
        let before = buffer.timings().copied_bytes;
        let batch = batch_on(&fresh(1, 0, step, B, 3), &Device::flex());
        let owner = (step % 2 == 1).then(|| batch.clone());
        buffer.rehearse(batch).unwrap();
        let rows = C + R + R + if owner.is_some() { B } else { 0 };
        if step >= 2 {
            assert_eq!(buffer.timings().copied_bytes - before, (ROW * rows) as u64, "step {step}");
        }
    }
}

#[test]
fn rows_for_other_ranks_are_copied_one_more_time() {
    for size in [2, 3] {
        // Without a lag, every drawn row is also used.
        let counts = world(size, |ranks| {
            let rank = ranks.rank();
            let buffer = buffer(&inline(0), ranks);
            let (mut own, mut remote) = (0, 0);
            for step in 0..20 {
                let handles = buffer
                    .rehearse_with_handles(batch_on(&fresh(1, rank, step, B, 3), &Device::flex()))
                    .unwrap()
                    .representatives;
                own += C + handles.len() + handles.len();
                remote += handles.iter().filter(|handle| handle.rank as usize != rank).count();
            }
            (buffer.timings().copied_bytes, own, remote)
        });
        let copied: u64 = counts.iter().map(|(copied, ..)| copied).sum();
        let rows: usize = counts.iter().map(|(_, own, remote)| own + remote).sum();
        assert_eq!(copied, (rows * ROW) as u64);
        assert!(counts.iter().all(|(.., remote)| *remote > 0), "{counts:?}");
    }
}

#[test]
fn staleness_and_pending_rounds_equal_the_lag() {
    for lag in 0..4 {
        let buffer = inline(lag).init().unwrap();
        for step in 0..20 {
            let before = buffer.timings();
            buffer.rehearse(batch_on(&fresh(1, 0, step, B, 3), &Device::flex())).unwrap();
            let after = buffer.timings();
            let expected =
                if step < lag.max(1) { (step.min(lag), None) } else { (lag, Some(lag as u64)) };
            // Without a lag, a step waits for its own round.
            let queued = if lag == 0 { 1 } else { expected.0 as u64 };
            assert_eq!(after.queued - before.queued, queued, "lag {lag}, step {step}");
            if let Some(age) = expected.1 {
                assert_eq!(after.staleness - before.staleness, age, "lag {lag}, step {step}");
            }
        }
    }
}

/// Keeps every logged value under the name of its metric.
#[derive(Clone, Default)]
struct Values(Arc<Mutex<Logged>>);

#[derive(Default)]
struct Logged {
    /// The name for each metric ID.
    names: BTreeMap<String, String>,
    values: BTreeMap<String, Vec<f64>>,
}

impl MetricLogger for Values {
    fn log(&mut self, update: MetricsUpdate, _epoch: usize, _split: &Split) {
        let Logged { names, values } = &mut *self.0.lock().unwrap();
        for metric in update.entries_numeric {
            if let Some(NumericEntry::Value(value)) = metric.numeric_entry {
                values
                    .entry(names[&format!("{:?}", metric.entry.metric_id)].clone())
                    .or_default()
                    .push(value);
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
        self.0
            .lock()
            .unwrap()
            .names
            .insert(format!("{:?}", definition.metric_id), definition.name.to_string());
    }

    fn log_epoch_summary(&mut self, _summary: EpochSummary) {}
}

#[test]
fn burns_metrics_show_the_counters_of_the_buffer() {
    let device = Device::flex().autodiff();
    let buffer = config(20, C, R).with_execution(Execution::Background).init().unwrap();
    let loader = |device: &Device| {
        ShardedLoader::builder(ToPair)
            .batch_size(5)
            .shuffle(1)
            .set_device(device.clone())
            .build(InMemDataset::new((0..100).map(|item| (item as f32, item % 2)).collect()))
    };
    let train = Arc::new(RehearsalLoader::new(loader(&device), buffer.clone()));
    let values = Values::default();
    let directory = tempfile::tempdir().unwrap();
    let mut training =
        without_renderer(SupervisedTraining::new(directory.path(), train, loader(&device)))
            .num_epochs(2)
            .with_metric_logger(values.clone());
    for measure in RehearsalStat::ALL {
        training = training.metric_train_numeric(RehearsalMetric::new(&buffer, measure));
    }
    training.launch(Net::learner());
    let logged = values.0.lock().unwrap();
    let of = |name: &str| {
        logged
            .values
            .get(name)
            .unwrap_or_else(|| panic!("{name} is missing: {:?}", logged.values.keys()))
            .clone()
    };
    assert_eq!(logged.values.len(), RehearsalStat::ALL.len());
    // Updates may be late and cover several steps, but after the first few steps all steps have the
    // same values.
    let (staleness, depth) = (of("Rehearsal staleness"), of("Rehearsal queue depth"));
    assert!(
        staleness.iter().all(|value| (0.0..=1.0).contains(value)) && staleness.last() == Some(&1.0),
        "{staleness:?}"
    );
    assert!(
        depth.iter().all(|value| (0.0..=1.0).contains(value)) && depth.last() == Some(&1.0),
        "{depth:?}"
    );
    let copied = *of("Rehearsal copied").last().unwrap();
    // Two fields of 4 bytes in c + r + r rows. The counters of a background engine may be a step
    // ahead or behind.
    let step = (8 * (C + R + R)) as f64;
    assert!(copied > 0.5 * step && copied < 1.5 * step, "{copied} bytes, expected {step}");
    for name in ["wait", "assemble", "insert", "plan", "exchange", "deliver"] {
        let times = of(&format!("Rehearsal {name}"));
        assert!(times.iter().all(|time| *time >= 0.0), "{name}: {times:?}");
    }
    assert!(of("Rehearsal insert").iter().any(|time| *time > 0.0));
    let stored = of("Rehearsal stored");
    assert!(stored.is_sorted() && stored.last() == Some(&20.0), "{stored:?}");
}
