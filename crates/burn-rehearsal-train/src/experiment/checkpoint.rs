//! Checkpoints of a whole run: its position, its learner, its measurements and its buffer.
//!
//! A checkpoint is the state between two steps, after an update. It is a numbered directory with
//! `learner.safetensors` (parameters, optimizer and schedule, which are the same on all ranks;
//! written by rank 0), a directory `buffer` (see
//! [`RehearsalBuffer::begin_checkpoint`](burn_rehearsal::RehearsalBuffer::begin_checkpoint)) and a
//! manifest with everything else, which is written last. Data order, candidates, draws, evictions
//! and augmentation are pure functions of the seed and the position, so there is no other random
//! state.
//!
//! Training waits until the learner is copied to memory. It also waits for a checkpoint that is not
//! complete when the next one begins. The engines copy the rows of the buffer on their own. A
//! thread of rank 0 waits for the buffer, writes the learner and the manifest, and removes older
//! checkpoints.

use super::ExperimentError;
use crate::data_parallel::{LossScale, Records};
use crate::epoch::Epoch;
use crate::fingerprint::Fingerprint;
use crate::methods::MethodRef;
use crate::metrics::AccuracyMatrix;
use crate::report::schema::{Accuracy, CheckpointTime, CurvePoint, EpochTime};
use burn_rehearsal::PendingCheckpoint;
use burn_rehearsal::checkpoint::{
    BUFFER, CheckpointError, FileEntry, MANIFEST, Manifest, check_shared, read_file,
    sync_directory, write_file,
};
use burn_rehearsal::error::RehearsalError;
use burn_rehearsal_collective::{Collective, CollectiveExt};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The kind of manifest that describes a run.
const RUN: &str = "run";
const LEARNER: &str = "learner.safetensors";
/// The parts of a learner, in the order of its records.
const PARTS: [&str; 3] = ["model", "optimizer", "schedule"];

/// The directory and the interval of a run's checkpoints. See
/// [Resuming](crate::experiment#resuming).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoints {
    /// The directory of the checkpoints, on a file system that all ranks share. Each checkpoint is
    /// a numbered directory in it.
    pub directory: PathBuf,
    /// Also write a checkpoint after every N epochs of a task. `None`: after tasks only. A run that
    /// is stopped always writes one.
    pub every: Option<usize>,
    /// The number of checkpoints to keep, at least 1. Older ones are removed when a new one is
    /// complete.
    pub keep: usize,
    /// Whether the run resumes from the directory. Otherwise it starts over, and the checkpoints in
    /// the directory are removed when its first checkpoint is complete.
    pub resume: bool,
}

/// The next step of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Position {
    pub(super) task: usize,
    /// The epoch of the task and the number of steps done in it. `None` before the task has begun.
    pub(super) within: Option<(Epoch, u64)>,
}

/// The state of a run, except for its learner and its buffer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RunState {
    /// The name of the method, with its options.
    pub(super) method: String,
    pub(super) seed: u64,
    pub(super) data: Fingerprint,
    pub(super) world_size: usize,
    pub(super) earlier_world_sizes: Vec<usize>,
    pub(super) position: Position,
    pub(super) accuracy: Accuracy,
    pub(super) curves: Vec<CurvePoint>,
    /// Sums of losses and numbers of rows of the epochs of the current task. They are stored as
    /// bits, since a loss may be infinite.
    pub(super) losses: BTreeMap<Epoch, [u64; 2]>,
    /// Seconds of the epochs of the current task.
    #[serde(default)]
    pub(super) seconds: BTreeMap<Epoch, f64>,
    /// The times of the epochs in `curves`.
    #[serde(default)]
    pub(super) epoch_times: Vec<EpochTime>,
    /// Accuracies within the task: the epoch, and top-1 on every task.
    pub(super) measured: Vec<(Epoch, Vec<f64>)>,
    /// The factor of the loss, if the loss is scaled.
    pub(super) loss_scale: Option<LossScale>,
    /// The number of the next step for the augmentation.
    pub(super) augmented: u64,
    pub(super) samples: u64,
    pub(super) total_s: f64,
    pub(super) train_s: f64,
    pub(super) phases: Vec<u64>,
    pub(super) checkpoints: CheckpointTime,
    /// The digest of the manifest of the buffer's checkpoint that belongs to this state. `None`
    /// without a buffer. Filled in when the state is written.
    pub(super) buffer: Option<String>,
}

impl RunState {
    /// The state of a run at its start.
    pub(super) fn new(
        method: MethodRef,
        seed: u64,
        data: Fingerprint,
        tasks: usize,
        world_size: usize,
    ) -> Self {
        let accuracies = AccuracyMatrix::new(tasks);
        Self {
            method: method.full_name(),
            seed,
            data,
            world_size,
            earlier_world_sizes: Vec::new(),
            position: Position::default(),
            accuracy: Accuracy {
                top1: accuracies.clone(),
                top5: accuracies.clone(),
                task_il: accuracies,
                initial_top1: None,
            },
            curves: Vec::new(),
            losses: BTreeMap::new(),
            seconds: BTreeMap::new(),
            epoch_times: Vec::new(),
            measured: Vec::new(),
            loss_scale: None,
            augmented: 0,
            samples: 0,
            total_s: 0.0,
            train_s: 0.0,
            phases: Vec::new(),
            checkpoints: CheckpointTime::default(),
            buffer: None,
        }
    }
}

/// The checkpoints of one run.
pub(super) struct Directories<'a> {
    settings: &'a Checkpoints,
    /// The number of the next checkpoint.
    next: u64,
    /// The checkpoint that is being written.
    pending: Option<Pending>,
    /// Checkpoints that cannot be used. On rank 0 only.
    damaged: Vec<u64>,
}

/// A checkpoint on disk.
pub(super) struct Found {
    pub(super) state: RunState,
    /// `None` before the first update.
    pub(super) learner: Option<KeptLearner>,
    /// The buffer's checkpoint.
    pub(super) buffer: PathBuf,
}

/// A learner on disk.
pub(super) struct KeptLearner {
    /// Parameters, optimizer and schedule.
    pub(super) parts: [Vec<u8>; 3],
    /// The running statistics of each rank. Empty if they are the same on all ranks.
    pub(super) statistics: Vec<Vec<u8>>,
}

impl<'a> Directories<'a> {
    /// Finds the newest checkpoint whose files are intact, in a directory that all ranks share.
    /// Rank 0 searches, and all ranks read the result. Writes no checkpoint. Collective.
    pub(super) fn open(
        settings: &'a Checkpoints,
        collective: &mut dyn Collective,
    ) -> Result<(Self, Option<Found>), ExperimentError> {
        check_shared(&settings.directory, collective)?;
        let looked = match collective.rank() {
            0 if settings.resume => newest(&settings.directory),
            0 => all_old(&settings.directory),
            _ => Ok(Looked::default()),
        };
        let words = match &looked {
            Ok(Looked { next, good, .. }) => {
                [*next, good.unwrap_or(0), u64::from(good.is_some()), 0]
            }
            Err(_) => [0, 0, 0, 1],
        };
        let [next, number, found, failed] = collective.gather_words(words)?[0];
        let damaged = looked?.damaged;
        if failed != 0 {
            return Err(CheckpointError::Rank(0).into());
        }
        let found = if found == 0 {
            Ok(None)
        } else {
            read(&settings.directory.join(name(number))).map(Some)
        };
        Ok((Self { settings, next, pending: None, damaged }, share(found, collective)?))
    }

    /// Begins the next checkpoint, after the last one is [finished](Self::finish). `buffer` begins
    /// the buffer's checkpoint in the given directory. Collective.
    pub(super) fn begin(
        &mut self,
        state: RunState,
        records: Option<Records>,
        buffer: impl FnOnce(&Path) -> Result<Option<PendingCheckpoint>, ExperimentError>,
        collective: &mut dyn Collective,
    ) -> Result<(), ExperimentError> {
        let begun = Instant::now();
        let directory = self.settings.directory.join(name(self.next));
        // The directory does not exist yet. The first thread that writes to it creates it.
        let buffer = buffer(&directory.join("buffer"))?;
        let (keep, damaged) = (self.settings.keep, self.damaged.clone());
        let wait: Box<Wait> = if collective.rank() == 0 {
            let write = move || {
                let bytes = write(&directory, state, records, buffer)?;
                // A run does not end because an old file cannot be removed.
                if let Err(error) = prune(&directory, keep, &damaged) {
                    tracing::warn!("an older checkpoint cannot be removed: {error}");
                }
                Ok(Written { bytes, time: begun.elapsed() })
            };
            let thread = std::thread::Builder::new().name("checkpoint".into()).spawn(write);
            Box::new(move || match thread.map(JoinHandle::join) {
                Ok(Ok(written)) => written.map(Some),
                Ok(Err(_)) => Err(RehearsalError::EngineGone.into()),
                Err(error) => Err(RehearsalError::Thread(error.to_string()).into()),
            })
        } else {
            Box::new(move || {
                buffer.map(PendingCheckpoint::wait).transpose()?;
                Ok(None)
            })
        };
        self.next += 1;
        self.pending = Some(Pending(Some(wait)));
        Ok(())
    }

    /// Waits until the current checkpoint is complete, if there is one. Only rank 0 learns its
    /// cost. Collective.
    pub(super) fn finish(
        &mut self,
        collective: &mut dyn Collective,
    ) -> Result<Option<Written>, ExperimentError> {
        let Some(mut pending) = self.pending.take() else { return Ok(None) };
        share(pending.wait(), collective)
    }
}

/// The cost of a complete checkpoint.
pub(super) struct Written {
    /// The size of all its files.
    pub(super) bytes: u64,
    /// The time since the snapshot.
    pub(super) time: Duration,
}

/// Waits until the part of this rank is written.
type Wait = dyn FnOnce() -> Result<Option<Written>, ExperimentError>;

/// A checkpoint that is being written. Dropping it waits until it is complete, so a run that fails
/// waits, too.
struct Pending(Option<Box<Wait>>);

impl Pending {
    fn wait(&mut self) -> Result<Option<Written>, ExperimentError> {
        self.0.take().map_or(Ok(None), |wait| wait())
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        // After a panic, the engines may wait for steps that never come, until the buffer is
        // dropped, which happens after this drop.
        if !std::thread::panicking() {
            // The run has already failed with an earlier error.
            let _ = self.wait();
        }
    }
}

/// Returns the result of this rank if no rank failed. Collective.
pub(super) fn share<T, E: Into<ExperimentError>>(
    result: Result<T, E>,
    collective: &mut dyn Collective,
) -> Result<T, ExperimentError> {
    let failed = collective.first_true(result.is_err())?;
    match (result, failed) {
        (Ok(_), Some(rank)) => Err(CheckpointError::Rank(rank).into()),
        (result, _) => result.map_err(Into::into),
    }
}

fn name(number: u64) -> String {
    format!("{number:08}")
}

/// The numbers of all checkpoints, complete or not, in ascending order.
fn numbers(directory: &Path) -> Result<Vec<u64>, CheckpointError> {
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(CheckpointError::io("read the directory", directory))?,
    };
    let names =
        entries.map(|entry| entry.map(|entry| entry.file_name())).collect::<Result<Vec<_>, _>>();
    let names = names.map_err(CheckpointError::io("read the directory", directory))?;
    let mut numbers: Vec<u64> =
        names.iter().filter_map(|name| name.to_str()?.parse().ok()).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// The contents of a directory of checkpoints.
#[derive(Default)]
struct Looked {
    /// The number of the next checkpoint.
    next: u64,
    /// The newest checkpoint that can be used.
    good: Option<u64>,
    /// Newer checkpoints that are damaged. They will be removed.
    damaged: Vec<u64>,
}

/// Returns an error if there are checkpoints but none can be used, or if the directory cannot be
/// read. A run that started over would replace them.
fn newest(directory: &Path) -> Result<Looked, ExperimentError> {
    let numbers = numbers(directory)?;
    let mut looked =
        Looked { next: numbers.last().map_or(1, |last| last + 1), ..Looked::default() };
    let mut first_error = None;
    for &number in numbers.iter().rev() {
        let path = directory.join(name(number));
        // Without a manifest, the checkpoint was never finished.
        if !is_complete(&path)? {
            continue;
        }
        match verify(&path) {
            Ok(()) => {
                looked.good = Some(number);
                return Ok(looked);
            }
            Err(error) => {
                tracing::warn!(
                    "{} cannot be used, trying an earlier checkpoint: {error}",
                    path.display()
                );
                // A file that cannot be read now may be readable later.
                if matches!(error, CheckpointError::Damaged { .. }) {
                    looked.damaged.push(number);
                }
                first_error.get_or_insert(error);
            }
        }
    }
    match first_error {
        Some(newest) => {
            Err(ExperimentError::NoCheckpoint { directory: directory.to_path_buf(), newest })
        }
        None => Ok(looked),
    }
}

/// For a run that starts over: all existing checkpoints are removed when a new one is complete.
fn all_old(directory: &Path) -> Result<Looked, ExperimentError> {
    let damaged = numbers(directory)?;
    Ok(Looked { next: damaged.last().map_or(1, |last| last + 1), good: None, damaged })
}

fn is_complete(path: &Path) -> Result<bool, CheckpointError> {
    let manifest = path.join(MANIFEST);
    match manifest.try_exists() {
        // The entry is a file.
        Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => Ok(false),
        there => there.map_err(CheckpointError::io("look for", &manifest)),
    }
}

fn verify(path: &Path) -> Result<(), CheckpointError> {
    let manifest = Manifest::read(path, RUN)?;
    manifest.verify(path)?;
    let Some(digest) = state_of(&manifest, path)?.buffer else { return Ok(()) };
    let buffer = path.join("buffer");
    let damaged = |reason: &str| CheckpointError::Damaged {
        path: buffer.join(MANIFEST),
        reason: reason.into(),
    };
    if !is_complete(&buffer)? {
        return Err(damaged("it is missing"));
    }
    let manifest = Manifest::read(&buffer, BUFFER)?;
    if manifest.digest() != digest {
        return Err(damaged("it belongs to another checkpoint"));
    }
    manifest.verify(&buffer)
}

fn state_of(manifest: &Manifest, path: &Path) -> Result<RunState, CheckpointError> {
    manifest.state().map_err(|error| CheckpointError::Damaged {
        path: path.join(MANIFEST),
        reason: error.to_string(),
    })
}

fn read(path: &Path) -> Result<Found, CheckpointError> {
    let manifest = Manifest::read(path, RUN)?;
    let damaged = |reason: String| CheckpointError::Damaged { path: path.join(MANIFEST), reason };
    let state = state_of(&manifest, path)?;
    let learner = match manifest.files() {
        [] => None,
        [entry] => {
            let (_, mut parts) = read_file(path, entry)?;
            let [model, optimizer, schedule] = PARTS.map(|part| {
                parts.remove(part).ok_or_else(|| damaged(format!("{LEARNER} lacks the {part}")))
            });
            let own = [model?, optimizer?, schedule?];
            let statistics = (0..parts.len()).map(|rank| parts.remove(&statistics_of(rank)));
            let statistics = statistics
                .collect::<Option<_>>()
                .ok_or_else(|| damaged(format!("{LEARNER} has unknown parts")))?;
            Some(KeptLearner { parts: own, statistics })
        }
        files => return Err(damaged(format!("it lists {} files", files.len()))),
    };
    Ok(Found { state, learner, buffer: path.join("buffer") })
}

/// Removes a checkpoint, its manifest first.
fn remove(directory: &Path) -> Result<(), CheckpointError> {
    let missing_is_fine = |removed: std::io::Result<()>| match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    let manifest = directory.join(MANIFEST);
    missing_is_fine(std::fs::remove_file(&manifest))
        .map_err(CheckpointError::io("remove", &manifest))?;
    missing_is_fine(std::fs::remove_dir_all(directory))
        .map_err(CheckpointError::io("remove", directory))
}

/// Writes a checkpoint, on a thread of rank 0, and returns its size in bytes. After an error, it
/// removes the files that it has written.
fn write(
    directory: &Path,
    mut state: RunState,
    records: Option<Records>,
    buffer: Option<PendingCheckpoint>,
) -> Result<u64, ExperimentError> {
    // The buffer comes first: until its engines have begun, they delay the next step or task, and
    // they need the processors for it.
    let saved = buffer.map(PendingCheckpoint::wait).transpose();
    // From here on, no other thread writes to the directory.
    let written = saved.map_err(ExperimentError::from).and_then(|saved| {
        if saved.is_some() {
            state.buffer =
                Some(Manifest::read(&directory.join("buffer"), BUFFER)?.digest().to_owned());
        }
        let files = write_learner(directory, records)?;
        Ok(seal(directory, files, &state)? + saved.map_or(0, |saved| saved.bytes))
    });
    written.inspect_err(|_| drop(remove(directory)))
}

fn write_learner(
    directory: &Path,
    records: Option<Records>,
) -> Result<Vec<FileEntry>, ExperimentError> {
    std::fs::create_dir_all(directory)
        .map_err(CheckpointError::io("create the directory", directory))?;
    let Some(Records { learner, statistics, .. }) = records else { return Ok(Vec::new()) };
    let names = PARTS.map(str::to_owned).into_iter().chain((0..).map(statistics_of));
    let parts: Vec<_> = names.zip(learner.into_bytes()?.into_iter().chain(statistics)).collect();
    let parts: Vec<_> =
        parts.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
    Ok(vec![write_file(directory, LEARNER, "", &parts)?])
}

/// The name of the running statistics of a rank.
fn statistics_of(rank: usize) -> String {
    format!("statistics.{rank:05}")
}

/// Completes a checkpoint by its manifest and returns the bytes of its own files.
fn seal(directory: &Path, files: Vec<FileEntry>, state: &RunState) -> Result<u64, CheckpointError> {
    let damaged = |error: serde_json::Error| CheckpointError::Damaged {
        path: directory.to_path_buf(),
        reason: error.to_string(),
    };
    let manifest = Manifest::new(RUN, files, state).map_err(damaged)?;
    manifest.write(directory)?;
    // The first checkpoint of a run also creates the directories above it. Directories that existed
    // before need not be readable.
    directory.ancestors().skip(2).take(2).for_each(|above| drop(sync_directory(above)));
    Ok(manifest.bytes())
}

/// Removes all but the newest complete checkpoints. Those in `damaged` do not count.
fn prune(directory: &Path, keep: usize, damaged: &[u64]) -> Result<(), CheckpointError> {
    let parent = directory.parent().unwrap_or(directory);
    let (mut kept, mut old) = (0, Vec::new());
    for number in numbers(parent)?.into_iter().rev() {
        let path = parent.join(name(number));
        if kept < keep.max(1) && !damaged.contains(&number) && is_complete(&path)? {
            kept += 1;
        } else {
            // Incomplete checkpoints of killed runs are removed, too.
            old.push(path);
        }
    }
    old.iter().try_for_each(|path| remove(path))
}
