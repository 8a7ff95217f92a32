//! What can go wrong with a mini-batch, a configuration or a peer.

use crate::agreement::Disagreement;
pub use crate::checkpoint::CheckpointError;
use burn::data::dataset::DatasetError;
use burn_rehearsal_collective::CollectiveError;
use std::io::Write;
use std::sync::Once;

/// A mini-batch that the buffer cannot take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BatchError {
    /// A tensor has no element.
    #[error("field `{field}` is empty: its shape is {shape:?}")]
    EmptyField {
        /// The field's name.
        field: &'static str,
        /// The tensor's shape.
        shape: Vec<usize>,
    },
    /// A column is not of the type that the batch declares for it, its rows are not of the size
    /// that their shape says, or a tensor is not what its device says.
    #[error(
        "field `{field}` is missing, or of another kind, rank or size than the batch type declares"
    )]
    ColumnType {
        /// The field's name.
        field: &'static str,
    },
    /// A field has another number of rows than the first one.
    #[error("field `{field}` has {found} rows, but field `{first}` has {expected}")]
    Rows {
        /// The field's name.
        field: &'static str,
        /// Its number of rows.
        found: usize,
        /// The first field's name.
        first: &'static str,
        /// The first field's number of rows.
        expected: usize,
    },
    /// A field's row shape or element type is not what it was in the first mini-batch.
    #[error(
        "field `{field}` changed between steps: rows were {expected}, now they are {found}; the buffer stores rows of one shape and type \
         (pad or crop sequences and images to one size)"
    )]
    Changed {
        /// The field's name.
        field: &'static str,
        /// Shape and element type of a row in the first mini-batch.
        expected: String,
        /// Shape and element type of a row in this one.
        found: String,
    },
    /// Mini-batches with and without autodiff are mixed. Burn's learner validates without autodiff,
    /// so this usually means that validation data reached the buffer.
    #[error(
        "mini-batches were on {} and this one is on {}: validation data must not enter the buffer; give the validation loader the \
         batcher without the buffer (`RehearsalBatcher::valid`) or a loader of its own",
        if *autodiff { "a device without autodiff" } else { "an autodiff device" },
        if *autodiff { "an autodiff device" } else { "a device without autodiff" }
    )]
    Autodiff {
        /// Whether this mini-batch is on an autodiff device.
        autodiff: bool,
    },
    /// An element type that cannot be stored.
    #[error("field `{field}` has element type {dtype}, which the buffer cannot store")]
    Unsupported {
        /// The field's name.
        field: &'static str,
        /// The element type.
        dtype: String,
    },
    /// A value of a `bytes` field that does not fit in a byte.
    #[error("field `{field}` is marked `bytes`, but holds the value {value}, outside 0..=255")]
    ByteRange {
        /// The field's name.
        field: &'static str,
        /// The value.
        value: i64,
    },
    /// A class outside the configured range.
    #[error("field `{field}` holds class {class}, outside 0..{classes}")]
    ClassRange {
        /// The field's name.
        field: &'static str,
        /// The class.
        class: i64,
        /// The number of classes.
        classes: usize,
    },
    /// The device failed while a field was read.
    #[error("reading field `{field}` from its device failed: {reason}")]
    Device {
        /// The field's name.
        field: &'static str,
        /// What the backend reports.
        reason: String,
    },
}

/// A configuration that makes no sense.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The capacity is zero samples.
    #[error("the capacity {0} is less than one sample")]
    NoCapacity(String),
    /// Some rank would have no room at all.
    #[error(
        "a capacity of {capacity} samples is smaller than the world size {world_size}: every rank needs room for one"
    )]
    CapacityBelowWorld {
        /// The global capacity, in samples.
        capacity: usize,
        /// The number of ranks.
        world_size: usize,
    },
    /// More representatives than can ever be stored.
    #[error(
        "{representatives} representatives per step do not fit in a buffer of {capacity} samples"
    )]
    RepresentativesBeyondCapacity {
        /// r.
        representatives: usize,
        /// |B|, in samples.
        capacity: usize,
    },
    /// More candidates than a mini-batch has rows.
    #[error("{candidates} candidates per step are more than the {batch_size} rows of a mini-batch")]
    CandidatesBeyondBatch {
        /// c.
        candidates: usize,
        /// b.
        batch_size: usize,
    },
    /// Representatives would be drawn too long before they are used.
    #[error("a lag of {lag} steps; it may be {max} at most")]
    Lag {
        /// The lag.
        lag: usize,
        /// The largest lag.
        max: usize,
    },
    /// A ratio of rows that is negative, too large or NaN.
    #[error("the ratio of {name} to incoming rows is {ratio}; it must be between 0 and {max}")]
    Ratio {
        /// `candidates` or `representatives`.
        name: &'static str,
        /// The ratio.
        ratio: f64,
        /// The largest ratio.
        max: f64,
    },
    /// Text that cannot be parsed as a number of rows.
    #[error(
        "`{0}` is not a valid number of rows: expected a count (14) or a percentage of the incoming rows (25%)"
    )]
    RowCount(String),
    /// Text that cannot be parsed as a capacity.
    #[error(
        "`{0}` is not a valid capacity: expected a number of samples (500), a share of the data set from 0% to 100% (30%), or memory (512MiB)"
    )]
    Capacity(String),
    /// Text that cannot be parsed as an amount of memory.
    #[error("`{0}` is not a valid amount of memory: expected a number and a unit (2GiB)")]
    ByteSize(String),
    /// A name that no built-in rule has.
    #[error("there is no {what} `{name}`; expected one of {names}")]
    UnknownName {
        /// What the name should name: `policy` or `sampling rule`.
        what: &'static str,
        /// The name.
        name: String,
        /// The names that there are.
        names: String,
    },
    /// No candidate would ever be offered.
    #[error("0 candidates per step: the buffer would stay empty")]
    NoCandidates,
    /// A fraction of a data set whose size was not given, or a fraction outside 0..=1.
    #[error(
        "a capacity of {fraction} of the data set needs a fraction in 0..=1 and the size of the data set (`with_dataset_len`)"
    )]
    Fraction {
        /// The fraction.
        fraction: f64,
    },
    /// No class at all, or more than the tables may hold.
    #[error("{0} classes: the number of classes must be in 1..=1048576")]
    Classes(usize),
    /// `skip_if_stored` without a way to know a sample again.
    #[error("`on_repeat = skip_if_stored` needs a field marked `#[rehearsal(id)]`")]
    NoId,
    /// `RehearsalCheckpointing` in a world of several ranks.
    #[error(
        "`RehearsalCheckpointing` works for one rank only, this world has {0}; call `RehearsalBuffer::checkpoint` on every rank after each epoch"
    )]
    CheckpointingWorld(usize),
    /// `RehearsalBatcher` in a world of several ranks.
    #[error(
        "`RehearsalBatcher` works for one rank only, this world has {0}; use `RehearsalLoader`"
    )]
    BatcherWorld(usize),
}

/// An error of the rehearsal buffer.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RehearsalError {
    /// The configuration makes no sense.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// This rank's mini-batch cannot be taken.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// The transport between the ranks failed.
    #[error("{0}")]
    Collective(#[from] CollectiveError),
    /// Another rank reported that it cannot go on.
    #[error("rank {rank} failed at step {step} ({reason})")]
    PeerFailed {
        /// The rank.
        rank: usize,
        /// The step at which it reported.
        step: u64,
        /// Its reason: `data` (its loader failed) or `batch` (its mini-batch was refused).
        reason: &'static str,
        /// The same failure as an error of the transport, so that callers which look for the rank
        /// that failed first need to know one error only.
        source: CollectiveError,
    },
    /// The ranks were configured differently; the same on every rank.
    #[error(transparent)]
    Configuration(#[from] Disagreement),
    /// The ranks do not run the same program.
    #[error(
        "rank {rank} runs another configuration or batch type, or is at another step, than rank {this_rank}: {detail}"
    )]
    Disagreement {
        /// The rank that differs.
        rank: usize,
        /// The rank that reports it.
        this_rank: usize,
        /// What differs.
        detail: String,
    },
    /// This rank's data loader failed.
    #[error("this rank's data failed: {0}")]
    Data(String),
    /// A loader was used in a way that would corrupt the order of steps.
    #[error("misuse: {0}")]
    Misuse(&'static str),
    /// The engine thread is gone (it panicked).
    #[error("the rehearsal engine has stopped")]
    EngineGone,
    /// The operating system refused a thread.
    #[error("cannot start the rehearsal engine's thread: {0}")]
    Thread(String),
    /// A checkpoint cannot be written or read. The buffer is unchanged and stays usable.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Memory for the buffer could not be had.
    #[error("cannot allocate {bytes} bytes for the rehearsal buffer")]
    OutOfMemory {
        /// The bytes asked for.
        bytes: usize,
    },
}

impl RehearsalError {
    /// The error of a rank that learns that `rank` failed at `step`.
    pub fn peer_failed(rank: usize, step: u64, reason: &'static str) -> Self {
        let source = CollectiveError::PeerFailed { rank, step };
        Self::PeerFailed { rank, step, reason, source }
    }
}

impl From<RehearsalError> for DatasetError {
    fn from(error: RehearsalError) -> Self {
        DatasetError::new(error)
    }
}

/// Prints a message to standard error once for each `once`. For what no error can report, and a
/// log, which may not exist, would hide.
pub(crate) fn notice(once: &Once, message: impl FnOnce() -> String) {
    once.call_once(|| print_notice(&message()));
}

/// Prints a message to standard error.
pub(crate) fn print_notice(message: &str) {
    // Standard error may be closed.
    let _ = writeln!(std::io::stderr(), "burn-rehearsal: {message}");
}
