//! The report of a run.

use super::Run;
use crate::experiment::checkpoint::RunState;
use crate::experiment::{ExperimentError, Workload};
use crate::report::RunReport;
use crate::report::schema::{BufferReport, PrecisionReport, SCHEMA_VERSION, Summary, Time};
use burn_rehearsal::RehearsalBuffer;
use burn_rehearsal_collective::{CollectiveExt, words_of};
use std::collections::HashSet;

impl<W: Workload> Run<'_, W> {
    /// The number of different samples that any rank has left out. Collective.
    fn left_out(&mut self) -> Result<u64, ExperimentError> {
        let own = self.workload.left_out();
        let bytes: Vec<u8> = own.iter().flat_map(|id| id.to_le_bytes()).collect();
        let all = self.collective.gather_bytes(&bytes)?;
        let ids: HashSet<u64> = all.iter().flat_map(|bytes| words_of(bytes)).collect();
        Ok(ids.len() as u64)
    }

    /// Creates the report of this run. Collective.
    pub(super) fn report(
        mut self,
        config: serde_json::Value,
        complete: bool,
    ) -> Result<RunReport, ExperimentError> {
        let left_out = self.left_out()?;
        let buffer = match &self.buffer {
            Some(buffer) => Some(BufferReport::of(buffer.report()?, &buffer.timings())),
            None => None,
        };
        let stream = self.workload.stream();
        let total_s = self.total_s();
        let timings = self.buffer.as_ref().map(RehearsalBuffer::timings);
        let phases = self.strategy.timer().report(timings.as_ref());
        // A run that was stopped within a task has trained on a part of it.
        let in_epochs = self.state.epoch_times.iter().map(|epoch| epoch.samples).sum();
        let RunState { accuracy, samples, train_s, checkpoints, .. } = self.state;
        let samples = samples.max(in_epochs);
        let mut report = RunReport {
            schema_version: SCHEMA_VERSION,
            package_version: env!("CARGO_PKG_VERSION").to_string(),
            method: self.method.name().to_owned(),
            config,
            seed: self.state.seed,
            world_size: self.state.world_size,
            earlier_world_sizes: self.state.earlier_world_sizes,
            device: crate::device::describe(&self.device),
            complete,
            tasks: (0..stream.tasks()).map(|task| stream.classes(task).to_vec()).collect(),
            left_out,
            summary: Summary::of(&accuracy),
            time: Time {
                total_s,
                train_s,
                samples_per_s: (train_s > 0.0 && samples > 0).then(|| samples as f64 / train_s),
                phases_ms: phases.by_name(),
                phases_exact: phases.exact,
                steps: phases.steps,
                checkpoints: (checkpoints.written + checkpoints.resumed > 0).then_some(checkpoints),
                epochs: self.state.epoch_times,
            },
            precision: PrecisionReport::of(self.settings.precision, self.strategy.loss_scale()),
            accuracy,
            curves: self.state.curves,
            buffer,
        };
        // Pictures come last: creating them changes the state of the buffer, and their time does
        // not belong to the run.
        if let (Some(buffer), Some(stored)) = (&self.buffer, &mut report.buffer) {
            stored.pictures = self.workload.pictures(buffer, stored)?;
        }
        Ok(report)
    }
}
