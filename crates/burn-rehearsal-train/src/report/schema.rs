#![doc = include_str!("SCHEMA.md")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use burn_rehearsal::{EngineTimings, StoreLocation};
use serde::{Deserialize, Serialize, Serializer};

use super::{ReportError, write_atomically};
use crate::data_parallel::{LossScale, Precision};
use crate::epoch::{Epoch, as_index};
use crate::metrics::AccuracyMatrix;

/// The version of the format that this crate writes. It reads no other.
pub const SCHEMA_VERSION: u64 = 1;

/// The file name of a report in the directory of its run.
pub const REPORT_FILE: &str = "report.json";

/// An example of the format: a complete report of a run of two tasks.
pub const EXAMPLE: &str = include_str!("example.json");

/// The report of a run. See [Reading a report](crate::report#reading-a-report).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunReport {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u64,
    /// The version of the package that made the run.
    pub package_version: String,
    /// The name of the method.
    pub method: String,
    /// The configuration that the run was started with: any JSON object.
    pub config: serde_json::Value,
    /// The seed of every random choice of the run.
    pub seed: u64,
    /// The number of ranks, at least 1.
    pub world_size: usize,
    /// The numbers of ranks before the run was resumed on `world_size` ranks, in order. Empty if
    /// the number never changed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub earlier_world_sizes: Vec<usize>,
    /// The device, see [`describe`](crate::device::describe).
    pub device: String,
    /// The number format of forward and backward passes.
    #[serde(default)]
    pub precision: PrecisionReport,
    /// Whether the run finished. If it was stopped, the report describes what it has done.
    pub complete: bool,
    /// The classes of each task, in the order of the stream. The length is the number of tasks.
    pub tasks: Vec<Vec<usize>>,
    /// The number of different samples that were left out because they are damaged. 0 in older
    /// reports.
    #[serde(default)]
    pub left_out: u64,
    /// Accuracies after every task.
    pub accuracy: Accuracy,
    /// Figures computed from `accuracy`.
    pub summary: Summary,
    /// Times of the run.
    pub time: Time,
    /// Losses after every epoch, in order, and accuracies if they were measured.
    pub curves: Vec<CurvePoint>,
    /// The rehearsal buffer at the end of the run. `None` for methods without one.
    pub buffer: Option<BufferReport>,
}

/// The number format of forward and backward passes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PrecisionReport {
    /// The format.
    pub format: Precision,
    /// The factor of the loss at the end. `None` if the loss was not scaled.
    pub loss_scale: Option<f32>,
    /// Updates that were skipped because gradients were not finite.
    pub skipped_updates: u64,
}

impl PrecisionReport {
    /// The report for a run in `format`, with its loss scale if the loss was scaled.
    pub fn of(format: Precision, loss_scale: Option<LossScale>) -> Self {
        Self {
            format,
            loss_scale: loss_scale.map(|scale| scale.factor),
            skipped_updates: loss_scale.map_or(0, |scale| scale.skipped),
        }
    }
}

/// Accuracies on full test sets, fractions in `0..=1`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Accuracy {
    /// Top-1 accuracy. Row i: after task i. Column j: on the test set of task j.
    pub top1: AccuracyMatrix,
    /// Top-5 accuracy, in the same layout. It is 1 if there are at most five classes.
    pub top5: AccuracyMatrix,
    /// Task-IL accuracy, in the same layout: top-1 among the classes of the task of each sample.
    /// Without tasks in older reports. Rows are unknown if they were measured before the run
    /// resumed from a checkpoint of an older version.
    #[serde(default)]
    pub task_il: AccuracyMatrix,
    /// Top-1 accuracy of the untrained network on each task. `None` if it was not measured.
    pub initial_top1: Option<Vec<f64>>,
}

/// The metrics of continual learning, `None` if undefined. See [`metrics`](crate::metrics) for the
/// equations, and for the difference between class-IL and task-IL.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Average top-1 accuracy over the learned tasks after the last of them, a fraction. All
    /// classes compete (class-IL).
    pub average_top1: Option<f64>,
    /// Average task-IL accuracy, a fraction. `None` in older reports.
    #[serde(default)]
    pub average_task_il: Option<f64>,
    /// Average top-5 accuracy, a fraction.
    pub average_top5: Option<f64>,
    /// Forgetting of top-1 accuracy.
    pub forgetting: Option<f64>,
    /// Backward transfer of top-1 accuracy.
    pub bwt: Option<f64>,
    /// Forward transfer of top-1 accuracy, relative to the untrained network.
    pub fwt: Option<f64>,
}

impl Summary {
    /// Computes the metrics of a run from its accuracies.
    pub fn of(accuracy: &Accuracy) -> Self {
        Self {
            average_top1: accuracy.top1.average(),
            average_task_il: accuracy.task_il.average(),
            average_top5: accuracy.top5.average(),
            forgetting: accuracy.top1.forgetting(),
            bwt: accuracy.top1.backward_transfer(),
            fwt: accuracy
                .initial_top1
                .as_deref()
                .and_then(|initial| accuracy.top1.forward_transfer(initial)),
        }
    }
}

/// Times of the run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Time {
    /// Wall-clock time of the run, including evaluation, in seconds.
    pub total_s: f64,
    /// Wall-clock time of training, in seconds.
    pub train_s: f64,
    /// Incoming training samples of all ranks per second of `train_s`, without representatives.
    /// `None` if nothing was trained.
    pub samples_per_s: Option<f64>,
    /// Mean time of each phase of a training step, in milliseconds, by the name of the phase.
    /// Values that are not finite are not written.
    #[serde(serialize_with = "finite_values")]
    pub phases_ms: BTreeMap<String, f64>,
    /// Whether the device was synchronized between phases. Otherwise the times are those of the
    /// host, which may only have enqueued work.
    pub phases_exact: bool,
    /// The number of training steps behind the means, of one rank.
    pub steps: u64,
    /// The cost of checkpoints. `None` if none was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoints: Option<CheckpointTime>,
    /// The time of each epoch, in the order of [`RunReport::curves`]. Empty in older reports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub epochs: Vec<EpochTime>,
}

/// The time of an epoch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct EpochTime {
    /// Wall-clock time of its training, in seconds.
    pub train_s: f64,
    /// Its incoming training samples, of all ranks.
    pub samples: u64,
}

impl EpochTime {
    /// Incoming training samples of all ranks per second. `None` if no time was measured.
    pub fn samples_per_s(&self) -> Option<f64> {
        (self.train_s > 0.0 && self.samples > 0).then(|| self.samples as f64 / self.train_s)
    }
}

/// The cost of checkpoints.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct CheckpointTime {
    /// The number of written checkpoints.
    pub written: u64,
    /// The number of times the run was resumed.
    pub resumed: u64,
    /// The size of the last checkpoint, in bytes.
    pub bytes: u64,
    /// The total time that training waited for checkpoints, in seconds.
    pub total_s: f64,
    /// The total time from the snapshots until the checkpoints were complete, in seconds. Training
    /// continues meanwhile.
    #[serde(default)]
    pub background_s: f64,
}

/// The state after one epoch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CurvePoint {
    /// The task, counted from 0.
    pub task: usize,
    /// The epoch of the task. Written as its index, from 0.
    #[serde(with = "as_index")]
    pub epoch: Epoch,
    /// The mean training loss of the epoch. `None` if it is not finite, which JSON cannot
    /// represent.
    pub train_loss: Option<f64>,
    /// Top-1 accuracy on each task after the epoch, as fractions. Empty if it was not measured.
    pub top1: Vec<Option<f64>>,
}

/// The rehearsal buffer at the end of the run, over all ranks.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct BufferReport {
    /// The number of samples that fit.
    pub capacity: u64,
    /// The number of stored samples.
    pub len: u64,
    /// Memory reserved for the rows, in bytes.
    pub bytes: u64,
    /// The location of the rows: `host`, `device`, or `host, device` if ranks differ. Empty in
    /// older reports.
    #[serde(default)]
    pub store: String,
    /// The number of stored samples of each class. The index is the class.
    pub per_class: Vec<u64>,
    /// The number of different source samples among the stored ones. `None` if samples have no
    /// identity.
    pub distinct: Option<u64>,
    /// The work of the buffer per step, on rank 0. `None` in older reports.
    #[serde(default)]
    pub per_step: Option<PerStep>,
    /// Digest of the stored rows in (rank, slot) order, in hexadecimal. Equal digests mean equal
    /// contents, bit for bit.
    pub contents_digest: String,
    /// Digest of all draws of the run, in hexadecimal. Equal digests mean the same representatives
    /// at every step.
    pub draws_digest: String,
    /// Pictures of stored samples. Empty if the workload has none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pictures: Vec<Picture>,
}

/// A picture of samples: rows of thumbnails, in a PNG file next to the report.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Picture {
    /// The name of the file in the directory of the report.
    pub file: String,
    /// The subject.
    pub title: String,
    /// The label of each row of thumbnails, from the top. May be empty. Rows have the same height.
    pub rows: Vec<String>,
    /// The contents of the file. Empty if it is missing. Not part of `report.json`.
    #[serde(skip)]
    pub png: Vec<u8>,
}

impl BufferReport {
    /// Combines the report of a buffer with the work that it did on this rank.
    pub fn of(report: burn_rehearsal::BufferReport, timings: &EngineTimings) -> Self {
        let used = [StoreLocation::Host, StoreLocation::Device]
            .into_iter()
            .filter(|store| report.stores.contains(&Some(*store)));
        Self {
            capacity: report.capacity as u64,
            len: report.len as u64,
            bytes: report.bytes as u64,
            store: used.map(StoreLocation::name).collect::<Vec<_>>().join(", "),
            per_class: report.per_class.iter().map(|&rows| rows as u64).collect(),
            distinct: report.distinct.map(|ids| ids as u64),
            per_step: Some(PerStep::of(timings)),
            contents_digest: report.contents_digest,
            draws_digest: report.draws_digest,
            pictures: Vec::new(),
        }
    }
}

/// The mean work of a rank's buffer per step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PerStep {
    /// Rounds of the engine in progress when a mini-batch arrives.
    pub queue_depth: f64,
    /// Number of steps between drawing representatives and using them.
    pub staleness: f64,
    /// Bytes of rows copied by the engine and the training thread.
    pub copied_bytes: f64,
}

impl PerStep {
    /// The means over all steps so far.
    pub fn of(timings: &EngineTimings) -> Self {
        let mean = |sum: u64| sum as f64 / timings.steps.max(1) as f64;
        Self {
            queue_depth: mean(timings.queued),
            staleness: mean(timings.staleness),
            copied_bytes: mean(timings.copied_bytes),
        }
    }
}

impl RunReport {
    /// Writes the report to `report.json` in `directory`, and its
    /// [pictures](BufferReport::pictures) next to it. Creates the directory if it is missing, and
    /// returns the path. Files are replaced atomically, see [`write_atomically`].
    ///
    /// # Errors
    ///
    /// [`ReportError`] if fields contradict each other, or if the file cannot be written.
    pub fn write(&self, directory: &Path) -> Result<PathBuf, ReportError> {
        let path = directory.join(REPORT_FILE);
        self.check(&path)?;
        let json = serde_json::to_string_pretty(self).map_err(|error| ReportError::Io {
            action: "write",
            path: path.clone(),
            source: error.into(),
        })?;
        for picture in self.pictures().filter(|picture| !picture.png.is_empty()) {
            write_atomically(&directory.join(&picture.file), &picture.png)?;
        }
        write_atomically(&path, &(json + "\n"))?;
        Ok(path)
    }

    fn pictures(&self) -> impl Iterator<Item = &Picture> {
        self.buffer.iter().flat_map(|buffer| &buffer.pictures)
    }

    /// Reads a report, and those of its [pictures](BufferReport::pictures) that have files. `path`
    /// is the file or the directory of the run.
    ///
    /// # Errors
    ///
    /// [`ReportError`] with the path if the file cannot be read, is not a report, has another
    /// [`SCHEMA_VERSION`], or contradicts itself.
    pub fn read(path: &Path) -> Result<Self, ReportError> {
        #[derive(Deserialize)]
        struct Versioned {
            schema_version: u64,
        }

        let path = if path.is_dir() { path.join(REPORT_FILE) } else { path.to_path_buf() };
        let json = fs::read_to_string(&path).map_err(|source| ReportError::Io {
            action: "read",
            path: path.clone(),
            source,
        })?;
        let damaged = |source| ReportError::Damaged { path: path.clone(), source };
        // The version is checked first. Otherwise the error for a report of another version would
        // only name a missing field.
        let found = serde_json::from_str::<Versioned>(&json).map_err(damaged)?.schema_version;
        if found != SCHEMA_VERSION {
            return Err(ReportError::Version { path, found, supported: SCHEMA_VERSION });
        }
        let mut report: Self = serde_json::from_str(&json).map_err(damaged)?;
        report.check(&path)?;
        for picture in report.buffer.iter_mut().flat_map(|buffer| &mut buffer.pictures) {
            picture.png = fs::read(path.with_file_name(&picture.file)).unwrap_or_default();
        }
        Ok(report)
    }

    /// Checks that the version, the numbers of tasks and the values are consistent.
    fn check(&self, path: &Path) -> Result<(), ReportError> {
        let inconsistent = |what| Err(ReportError::Inconsistent { path: path.to_path_buf(), what });
        if self.schema_version != SCHEMA_VERSION {
            return inconsistent(format!(
                "schema_version is {}, not {SCHEMA_VERSION}",
                self.schema_version
            ));
        }
        // Nothing outside the directory of the report may be read or written.
        let outside = |picture: &&Picture| {
            Path::new(&picture.file).file_name() != Some(picture.file.as_ref())
        };
        if let Some(picture) = self.pictures().find(outside) {
            return inconsistent(format!(
                "buffer.pictures has the file {:?}, which is not the name of a file",
                picture.file
            ));
        }
        let tasks = self.tasks.len();
        let Accuracy { top1, top5, task_il, .. } = &self.accuracy;
        let matrices =
            [("accuracy.top1", top1), ("accuracy.top5", top5), ("accuracy.task_il", task_il)];
        for (name, matrix) in matrices {
            let missing = name == "accuracy.task_il" && matrix.tasks() == 0;
            if matrix.tasks() != tasks && !missing {
                return inconsistent(format!(
                    "{name} has {} rows, but there are {tasks} tasks",
                    matrix.tasks()
                ));
            }
        }
        for (name, seconds) in
            [("time.total_s", self.time.total_s), ("time.train_s", self.time.train_s)]
        {
            if !seconds.is_finite() {
                return inconsistent(format!("{name} is {seconds}"));
            }
        }
        match &self.accuracy.initial_top1 {
            Some(initial) if initial.len() != tasks => inconsistent(format!(
                "accuracy.initial_top1 has {} values, but there are {tasks} tasks",
                initial.len()
            )),
            Some(initial) if initial.iter().any(|value| !value.is_finite()) => inconsistent(
                format!("accuracy.initial_top1 has a value that is not finite: {initial:?}"),
            ),
            _ => Ok(()),
        }
    }
}

/// A mean over no steps is NaN. JSON would represent it as null, which cannot be read back as a
/// number.
fn finite_values<S: Serializer>(
    values: &BTreeMap<String, f64>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(values.iter().filter(|(_, value)| value.is_finite()))
}

#[cfg(test)]
mod tests;
