//! A whole run on disk: where it is, what it learned, what it measured, and its buffer.
//!
//! The cut lies between two steps, after an update. A checkpoint is a numbered directory with
//! `learner.safetensors` (parameters, optimiser, schedule; the same on all ranks, written by rank
//! 0), a directory `buffer` (see
//! [`RehearsalBuffer::begin_checkpoint`](burn_rehearsal::RehearsalBuffer::begin_checkpoint)) and,
//! written last, a manifest with everything else. Data order, candidates, draws, evictions and
//! augmentation are pure functions of the seed and of positions, so that no other random state
//! exists.
//!
//! Training waits until the learner as it is at the cut is in memory, and for a checkpoint that is
//! not complete when the next one begins; the buffer's engines copy what they must by themselves. A
//! thread of rank 0 does the rest: it waits for the buffer, writes the learner and the manifest,
//! and removes what is older.

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

/// What the manifest of a run calls itself.
const RUN: &str = "run";
const LEARNER: &str = "learner.safetensors";
/// The parts of a learner, in the order of its records.
const PARTS: [&str; 3] = ["model", "optimizer", "schedule"];

/// How a run is checkpointed. It resumes from the newest good checkpoint in the directory, if there
/// is one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoints {
    /// Where checkpoints are, each in a directory of its own with a number for a name; on a file
    /// system that all ranks share.
    pub directory: PathBuf,
    /// After how many epochs of a task one is written, too; `None` for after tasks only. A run that
    /// is stopped always writes one.
    pub every: Option<usize>,
    /// How many are kept, at least 1; older ones are removed once a new one is complete.
    pub keep: usize,
    /// Whether the run resumes from what is in the directory; otherwise it starts anew, and what is
    /// there is removed once its first checkpoint is complete.
    pub resume: bool,
}

/// What a run does next.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Position {
    pub(super) task: usize,
    /// Within the task: the epoch and the steps done in it. `None` before the task has begun.
    pub(super) within: Option<(Epoch, u64)>,
}

/// The state of a run without its learner and its buffer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RunState {
    /// The name of the method, with its options.
    pub(super) method: String,
    pub(super) seed: u64,
    /// The data.
    pub(super) data: Fingerprint,
    pub(super) world_size: usize,
    pub(super) earlier_world_sizes: Vec<usize>,
    pub(super) position: Position,
    pub(super) accuracy: Accuracy,
    pub(super) curves: Vec<CurvePoint>,
    /// Sums of losses and rows of the task's epochs so far, by their bits: a loss may be infinite.
    pub(super) losses: BTreeMap<Epoch, [u64; 2]>,
    /// Seconds of the task's epochs so far.
    #[serde(default)]
    pub(super) seconds: BTreeMap<Epoch, f64>,
    /// What the epochs behind `curves` took.
    #[serde(default)]
    pub(super) epoch_times: Vec<EpochTime>,
    /// Accuracies within the task: the epoch and top-1 on every task.
    pub(super) measured: Vec<(Epoch, Vec<f64>)>,
    /// What the loss is multiplied by, where it is.
    pub(super) loss_scale: Option<LossScale>,
    /// The number of the next step whose mini-batch is augmented.
    pub(super) augmented: u64,
    pub(super) samples: u64,
    pub(super) total_s: f64,
    pub(super) train_s: f64,
    pub(super) phases: Vec<u64>,
    pub(super) checkpoints: CheckpointTime,
    /// The digest of the manifest of the buffer's checkpoint, which belongs to this state and to no
    /// other; `None` if there is no buffer. It is filled in when the state is written.
    pub(super) buffer: Option<String>,
}

impl RunState {
    /// The state of a run that begins.
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
            accuracy: Accuracy { top1: accuracies.clone(), top5: accuracies, initial_top1: None },
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

/// The directories of one run's checkpoints.
pub(super) struct Directories<'a> {
    settings: &'a Checkpoints,
    /// The number of the next.
    next: u64,
    /// The one that is being written.
    pending: Option<Pending>,
    /// Those that cannot be used, as rank 0 found.
    damaged: Vec<u64>,
}

/// What was found on disk.
pub(super) struct Found {
    pub(super) state: RunState,
    /// `None` before the first update.
    pub(super) learner: Option<KeptLearner>,
    /// The buffer's checkpoint.
    pub(super) buffer: PathBuf,
}

/// A learner on disk.
pub(super) struct KeptLearner {
    /// Parameters, optimiser and schedule.
    pub(super) parts: [Vec<u8>; 3],
    /// Each rank's running statistics; none if they were the same on all.
    pub(super) statistics: Vec<Vec<u8>>,
}

impl<'a> Directories<'a> {
    /// Looks for the newest checkpoint whose every byte is what was written, in a directory that
    /// all ranks share. Collective: rank 0 looks, all read the same. Writes nothing.
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

    /// Begins the next checkpoint when the one before is [finished](Self::finish); `buffer` begins
    /// the buffer's in the directory it is given. Collective.
    pub(super) fn begin(
        &mut self,
        state: RunState,
        records: Option<Records>,
        buffer: impl FnOnce(&Path) -> Result<Option<PendingCheckpoint>, ExperimentError>,
        collective: &mut dyn Collective,
    ) -> Result<(), ExperimentError> {
        let begun = Instant::now();
        let directory = self.settings.directory.join(name(self.next));
        // The directory is new; the first to write there creates it.
        let buffer = buffer(&directory.join("buffer"))?;
        let (keep, damaged) = (self.settings.keep, self.damaged.clone());
        let wait: Box<Wait> = if collective.rank() == 0 {
            let write = move || {
                let bytes = write(&directory, state, records, buffer)?;
                // A file that will not go is no reason to end a run.
                if let Err(error) = prune(&directory, keep, &damaged) {
                    tracing::warn!("an older checkpoint is kept: {error}");
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

    /// Waits until the checkpoint in hand is complete, if there is one; what it came to is known to
    /// rank 0. Collective.
    pub(super) fn finish(
        &mut self,
        collective: &mut dyn Collective,
    ) -> Result<Option<Written>, ExperimentError> {
        let Some(mut pending) = self.pending.take() else { return Ok(None) };
        share(pending.wait(), collective)
    }
}

/// What a complete checkpoint cost.
pub(super) struct Written {
    /// Of all its files.
    pub(super) bytes: u64,
    /// From the cut on.
    pub(super) time: Duration,
}

/// Waits until this rank's part of a checkpoint is written.
type Wait = dyn FnOnce() -> Result<Option<Written>, ExperimentError>;

/// A checkpoint that is being written. A run that fails waits for it, too, when this is dropped.
struct Pending(Option<Box<Wait>>);

impl Pending {
    fn wait(&mut self) -> Result<Option<Written>, ExperimentError> {
        self.0.take().map_or(Ok(None), |wait| wait())
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        // After a panic this rank's engine, and with it everybody's, may wait for steps that do not
        // come before the buffer is dropped, which comes later.
        if !std::thread::panicking() {
            // Not needed any more: there is an error already.
            let _ = self.wait();
        }
    }
}

/// This rank's result if no rank failed; collective.
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

/// The numbers of all checkpoints, complete or not, ascending.
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

/// What is in a directory of checkpoints.
#[derive(Default)]
struct Looked {
    /// The number of the next.
    next: u64,
    /// The newest good one.
    good: Option<u64>,
    /// Those that are to be removed: newer ones that are damaged.
    damaged: Vec<u64>,
}

/// An error if there are some but none is good, or if it cannot be seen whether there are: a run
/// that began anew would take their place.
fn newest(directory: &Path) -> Result<Looked, ExperimentError> {
    let numbers = numbers(directory)?;
    let mut looked =
        Looked { next: numbers.last().map_or(1, |last| last + 1), ..Looked::default() };
    let mut first_error = None;
    for &number in numbers.iter().rev() {
        let path = directory.join(name(number));
        // Without its manifest it was never finished.
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
                    "{} cannot be used, looking for an earlier checkpoint: {error}",
                    path.display()
                );
                // What could not be read now may be readable another time.
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

/// For a run that begins anew: whatever is there goes when there is something better.
fn all_old(directory: &Path) -> Result<Looked, ExperimentError> {
    let damaged = numbers(directory)?;
    Ok(Looked { next: damaged.last().map_or(1, |last| last + 1), good: None, damaged })
}

fn is_complete(path: &Path) -> Result<bool, CheckpointError> {
    let manifest = path.join(MANIFEST);
    match manifest.try_exists() {
        // A file among the directories.
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
                .ok_or_else(|| damaged(format!("{LEARNER} has parts that make no sense")))?;
            Some(KeptLearner { parts: own, statistics })
        }
        files => return Err(damaged(format!("it names {} files", files.len()))),
    };
    Ok(Found { state, learner, buffer: path.join("buffer") })
}

/// Removes a checkpoint: first what makes it one.
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

/// What rank 0's thread does; gives the bytes of the whole checkpoint. What is left of one that
/// could not be completed is removed.
fn write(
    directory: &Path,
    mut state: RunState,
    records: Option<Records>,
    buffer: Option<PendingCheckpoint>,
) -> Result<u64, ExperimentError> {
    // The buffer comes first: its engines answer to the next step or task once they have begun, and
    // need the processors for that.
    let saved = buffer.map(PendingCheckpoint::wait).transpose();
    // From here on no other thread writes to the directory.
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

/// Where a rank's running statistics are.
fn statistics_of(rank: usize) -> String {
    format!("statistics.{rank:05}")
}

/// Makes it a checkpoint; gives the bytes of its own files.
fn seal(directory: &Path, files: Vec<FileEntry>, state: &RunState) -> Result<u64, CheckpointError> {
    let damaged = |error: serde_json::Error| CheckpointError::Damaged {
        path: directory.to_path_buf(),
        reason: error.to_string(),
    };
    let manifest = Manifest::new(RUN, files, state).map_err(damaged)?;
    manifest.write(directory)?;
    // The first checkpoint of a run makes the directories above it, too; those that are not its own
    // need not be readable.
    directory.ancestors().skip(2).take(2).for_each(|above| drop(sync_directory(above)));
    Ok(manifest.bytes())
}

/// Removes all but the newest checkpoints, now that there is another; a `damaged` one is none.
fn prune(directory: &Path, keep: usize, damaged: &[u64]) -> Result<(), CheckpointError> {
    let parent = directory.parent().unwrap_or(directory);
    let (mut kept, mut old) = (0, Vec::new());
    for number in numbers(parent)?.into_iter().rev() {
        let path = parent.join(name(number));
        if kept < keep.max(1) && !damaged.contains(&number) && is_complete(&path)? {
            kept += 1;
        } else {
            // What is incomplete, from an attempt that was killed, goes too.
            old.push(path);
        }
    }
    old.iter().try_for_each(|path| remove(path))
}
