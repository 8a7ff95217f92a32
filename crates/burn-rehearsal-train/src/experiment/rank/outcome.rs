//! What is left of a run: its report.

use super::Run;
use crate::experiment::{ExperimentError, Workload};
use crate::phases::Phase;
use crate::report::RunReport;
use crate::report::schema::{BufferReport, PerStep, PrecisionReport, SCHEMA_VERSION, Summary, Time};
use burn_rehearsal::{EngineTimings, StoreLocation};
use burn_rehearsal_collective::{CollectiveExt, words_of};
use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

impl<W: Workload> Run<'_, W> {
    /// The number of different samples that some rank had to leave out.
    fn left_out(&mut self) -> Result<u64, ExperimentError> {
        let own = self.workload.left_out();
        let bytes: Vec<u8> = own.iter().flat_map(|id| id.to_le_bytes()).collect();
        let all = self.collective.gather_bytes(&bytes)?;
        let ids: HashSet<u64> = all.iter().flat_map(|bytes| words_of(bytes)).collect();
        Ok(ids.len() as u64)
    }

    /// The report of this run, the same on all ranks but for times and curves. Collective.
    pub(super) fn report(mut self, config: serde_json::Value, complete: bool) -> Result<RunReport, ExperimentError> {
        let left_out = self.left_out()?;
        let buffer = match &self.buffer {
            Some(buffer) => Some((buffer.report()?, per_step(&buffer.timings()))),
            None => None,
        };
        let stream = self.workload.stream();
        let train_s = self.train_time.as_secs_f64();
        let phases = self.strategy.timer().report();
        // A run that was stopped within a task has trained on a part of it.
        let samples = self.samples.max(self.epoch_times.iter().map(|epoch| epoch.samples).sum());
        Ok(RunReport {
            schema_version: SCHEMA_VERSION,
            package_version: env!("CARGO_PKG_VERSION").to_string(),
            method: self.method.name().to_owned(),
            config,
            seed: self.settings.seed,
            world_size: self.collective.size(),
            earlier_world_sizes: self.earlier_world_sizes.clone(),
            device: crate::device::describe(&self.device),
            complete,
            tasks: (0..stream.tasks()).map(|task| stream.classes(task).to_vec()).collect(),
            left_out,
            summary: Summary::of(&self.accuracy),
            time: Time {
                total_s: self.total_s(),
                train_s,
                samples_per_s: (train_s > 0.0 && samples > 0).then(|| samples as f64 / train_s),
                phases_ms: self.phases(),
                phases_exact: phases.exact,
                steps: phases.steps,
                checkpoints: (self.checkpoints.written + self.checkpoints.resumed > 0).then_some(self.checkpoints),
                epochs: self.epoch_times,
            },
            precision: PrecisionReport::of(self.settings.precision, self.strategy.loss_scale()),
            accuracy: self.accuracy,
            curves: self.curves,
            buffer: buffer.map(|(buffer, per_step)| BufferReport {
                capacity: buffer.capacity as u64,
                len: buffer.len as u64,
                bytes: buffer.bytes as u64,
                store: store_names(&buffer.stores),
                per_class: buffer.per_class.iter().map(|&rows| rows as u64).collect(),
                distinct: buffer.distinct.map(|ids| ids as u64),
                per_step: Some(per_step),
                contents_digest: buffer.contents_digest,
                draws_digest: buffer.draws_digest,
            }),
        })
    }

    /// Mean milliseconds per step: the learner's phases and, apart from them, the engine's.
    fn phases(&self) -> BTreeMap<String, f64> {
        let report = self.strategy.timer().report();
        let mut phases = BTreeMap::from([("step".to_string(), report.step_ms)]);
        for phase in Phase::ALL {
            // Where calls only enqueue, only what the host waits for means something.
            if report.exact || matches!(phase, Phase::Load | Phase::Wait) {
                phases.insert(phase.name().to_string(), report.ms(phase));
            }
        }
        let Some(buffer) = &self.buffer else { return phases };
        let timings = buffer.timings();
        let steps = timings.steps.max(1) as f64;
        let ms = |time: Duration| time.as_secs_f64() * 1e3 / steps;
        // The learner sees one call of `next`; the buffer knows which part of it was its own.
        let (wait, assemble) = (ms(timings.wait), ms(timings.assemble));
        phases.insert(Phase::Wait.name().to_string(), wait);
        phases.insert("load".to_string(), (report.load_ms - wait - assemble).max(0.0));
        if report.exact {
            phases.insert(Phase::Assemble.name().to_string(), assemble);
        }
        for (name, time) in
            [("insert", timings.insert), ("plan", timings.plan), ("exchange", timings.exchange), ("deliver", timings.deliver)]
        {
            phases.insert(name.to_string(), ms(time));
        }
        phases
    }
}

fn per_step(timings: &EngineTimings) -> PerStep {
    let mean = |sum: u64| sum as f64 / timings.steps.max(1) as f64;
    PerStep { queue_depth: mean(timings.queued), staleness: mean(timings.staleness), copied_bytes: mean(timings.copied_bytes) }
}

/// The names of the stores that the ranks use, each once.
fn store_names(stores: &[Option<StoreLocation>]) -> String {
    let used = [StoreLocation::Host, StoreLocation::Device].into_iter().filter(|store| stores.contains(&Some(*store)));
    used.map(StoreLocation::name).collect::<Vec<_>>().join(", ")
}
