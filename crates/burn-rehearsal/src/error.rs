//! Error types.
//!
//! Methods of the buffer return [`RehearsalError`]. It contains a [`BatchError`] if a mini-batch is
//! refused, a [`ConfigError`] if the configuration is invalid, a [`CheckpointError`] if a
//! checkpoint cannot be written or read, and a [`CollectiveError`] if the connection between ranks
//! fails.
//!
//! An error in a step poisons the buffer: every later step returns the same error, and stored rows
//! stay readable with [`snapshot`](crate::RehearsalBuffer::snapshot). The other ranks get
//! [`RehearsalError::PeerFailed`] with the number of the rank that failed, so no rank hangs.

use crate::agreement::Disagreement;
pub use crate::checkpoint::CheckpointError;
use burn::data::dataset::DatasetError;
use burn_rehearsal_collective::CollectiveError;
use std::io::Write;
use std::sync::Once;

/// The buffer refuses a mini-batch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BatchError {
    /// A tensor is empty.
    #[error("field `{field}` is empty: its shape is {shape:?}")]
    EmptyField {
        /// The field's name.
        field: &'static str,
        /// The tensor's shape.
        shape: Vec<usize>,
    },
    /// A column does not have the type that the batch declares, its rows do not have the size of
    /// their shape, or a tensor is not on the backend of its device.
    #[error(
        "field `{field}` is missing, or of another kind, rank or size than the batch type declares"
    )]
    ColumnType {
        /// The field's name.
        field: &'static str,
    },
    /// A field and the first field have different numbers of rows.
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
    /// The row shape or element type of a field differs from the first mini-batch.
    #[error(
        "field `{field}` changed between steps: rows were {expected}, now they are {found}; the \
         buffer stores rows of one shape and type (pad or crop sequences and images to one size)"
    )]
    Changed {
        /// The field's name.
        field: &'static str,
        /// Shape and element type of a row in the first mini-batch.
        expected: String,
        /// Shape and element type of a row in this mini-batch.
        found: String,
    },
    /// Mini-batches with and without autodiff are mixed. Burn's learner validates without autodiff,
    /// so usually validation data has reached the buffer.
    #[error(
        "mini-batches were on {} and this one is on {}: validation data must not enter the buffer; \
         give the validation loader the batcher without the buffer (`RehearsalBatcher::valid`) or \
         a separate loader",
        if *autodiff { "a device without autodiff" } else { "an autodiff device" },
        if *autodiff { "an autodiff device" } else { "a device without autodiff" }
    )]
    Autodiff {
        /// Whether this mini-batch is on an autodiff device.
        autodiff: bool,
    },
    /// The buffer cannot store this element type.
    #[error("field `{field}` has element type {dtype}, which the buffer cannot store")]
    Unsupported {
        /// The field's name.
        field: &'static str,
        /// The element type.
        dtype: String,
    },
    /// A value of a `bytes` field does not fit in a byte.
    #[error("field `{field}` is marked `bytes`, but holds the value {value}, outside 0..=255")]
    ByteRange {
        /// The field's name.
        field: &'static str,
        /// The value.
        value: i64,
    },
    /// A class is outside the configured range.
    #[error("field `{field}` holds class {class}, outside 0..{classes}")]
    ClassRange {
        /// The field's name.
        field: &'static str,
        /// The class.
        class: i64,
        /// The number of classes.
        classes: usize,
    },
    /// A late field of an incoming mini-batch has a value.
    #[error(
        "the late field `{field}` of an incoming mini-batch has a value: the batcher leaves it \
         `None`, and `RowLayout::annotate` takes its values after the forward pass"
    )]
    LateFilled {
        /// The field's name.
        field: &'static str,
    },
    /// A late field does not have one row per incoming row.
    #[error(
        "`annotate` got {found} rows for the late field `{field}`, but the mini-batch has \
         {incoming} incoming rows: it takes one row per incoming row, without representatives"
    )]
    LateRows {
        /// The field's name.
        field: &'static str,
        /// Its number of rows.
        found: usize,
        /// The number of incoming rows.
        incoming: usize,
    },
    /// A row of a [`Snapshot`](crate::Snapshot) does not exist.
    #[error("row {row} does not exist: the snapshot has {rows} rows")]
    NoRow {
        /// The row, counted from 0.
        row: usize,
        /// The number of rows of the snapshot.
        rows: usize,
    },
    /// A device failed while a field was read from it.
    #[error("reading field `{field}` from its device failed: {reason}")]
    Device {
        /// The field's name.
        field: &'static str,
        /// The error of the backend.
        reason: String,
    },
}

/// The configuration is invalid.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The capacity is less than one sample.
    #[error("the capacity {0} is less than one sample")]
    NoCapacity(String),
    /// The capacity is less than one sample per rank.
    #[error(
        "a capacity of {capacity} samples is smaller than the world size {world_size}: every rank \
         needs room for one sample"
    )]
    CapacityBelowWorld {
        /// The global capacity, in samples.
        capacity: usize,
        /// The number of ranks.
        world_size: usize,
    },
    /// A step would draw more representatives than the buffer can store.
    #[error(
        "{representatives} representatives per step do not fit in a buffer of {capacity} samples"
    )]
    RepresentativesBeyondCapacity {
        /// r.
        representatives: usize,
        /// |B|, in samples.
        capacity: usize,
    },
    /// There are more candidates than rows in a mini-batch.
    #[error("{candidates} candidates per step are more than the {batch_size} rows of a mini-batch")]
    CandidatesBeyondBatch {
        /// c.
        candidates: usize,
        /// b.
        batch_size: usize,
    },
    /// The lag is larger than [`MAX_LAG`](crate::MAX_LAG).
    #[error("the lag is {lag} steps; the maximum is {max}")]
    Lag {
        /// The lag.
        lag: usize,
        /// The largest lag.
        max: usize,
    },
    /// A ratio of rows is negative, NaN, or larger than [`MAX_RATIO`](crate::MAX_RATIO).
    #[error("the ratio of {name} to incoming rows is {ratio}; it must be between 0 and {max}")]
    Ratio {
        /// `candidates` or `representatives`.
        name: &'static str,
        /// The ratio.
        ratio: f64,
        /// The largest ratio.
        max: f64,
    },
    /// A text is not a [`RowCount`](crate::RowCount).
    #[error(
        "`{0}` is not a valid number of rows: expected a count (14) or a percentage of the \
         incoming rows (25%)"
    )]
    RowCount(String),
    /// A text is not a [`Capacity`](crate::Capacity).
    #[error(
        "`{0}` is not a valid capacity: expected a number of samples (500), a share of the data \
         set from 0% to 100% (30%), or memory (512MiB)"
    )]
    Capacity(String),
    /// A text is not a [`ByteSize`](crate::ByteSize).
    #[error("`{0}` is not a valid amount of memory: expected a number and a unit (2GiB)")]
    ByteSize(String),
    /// [`CustomRules`](crate::CustomRules) has a sampling rule for a draw that is not configured.
    #[error(
        "a custom sampling rule is for draw {draw}, counted from 0, but a step has {draws} draws"
    )]
    NoDraw {
        /// The draw.
        draw: usize,
        /// The number of draws per step.
        draws: usize,
    },
    /// There is no built-in rule of this name.
    #[error("there is no {what} `{name}`; expected one of {names}")]
    UnknownName {
        /// `policy`, `sampling rule`, …
        what: &'static str,
        /// The name.
        name: String,
        /// All names, separated by commas.
        names: String,
    },
    /// A number is outside its range.
    #[error("{what} is {value}; it must be in {range}")]
    OutOfRange {
        /// The name of the option.
        what: String,
        /// The value.
        value: f64,
        /// The range, as in Rust.
        range: String,
    },
    /// The capacity is a fraction outside 0..=1, or the size of the data set is not configured.
    #[error(
        "a capacity of {fraction} of the data set needs a fraction in 0..=1 and the size of the \
         data set (`with_dataset_len`)"
    )]
    Fraction {
        /// The fraction.
        fraction: f64,
    },
    /// The number of classes is 0 or larger than [`MAX_CLASSES`](crate::MAX_CLASSES).
    #[error("{0} classes: the number of classes must be in 1..=1048576")]
    Classes(usize),
    /// [`OnRepeat::SkipIfStored`](crate::OnRepeat::SkipIfStored) is configured for a batch without
    /// an `id` field.
    #[error("`on_repeat = skip_if_stored` needs a field marked `#[rehearsal(id)]`")]
    NoId,
    /// [`RehearsalCheckpointing`](crate::checkpoint::RehearsalCheckpointing) is used with several
    /// ranks.
    #[error(
        "`RehearsalCheckpointing` works with one rank only, but this world has {0}; call \
         `RehearsalBuffer::checkpoint` on every rank after each epoch"
    )]
    CheckpointingWorld(usize),
    /// [`RehearsalBatcher`](crate::RehearsalBatcher) is used with several ranks.
    #[error(
        "`RehearsalBatcher` works with one rank only, but this world has {0}; use `RehearsalLoader`"
    )]
    BatcherWorld(usize),
    /// [`RehearsalBatcher`](crate::RehearsalBatcher) is used with a buffer that stores late fields.
    #[error(
        "`RehearsalBatcher` cannot store late fields, because loaders fetch mini-batches ahead of \
         the training step; use `RehearsalBuffer::attach`, or switch late fields off with \
         `RehearsalConfig::with_late_fields(false)`"
    )]
    BatcherLate,
    /// The lag is 0, and the buffer stores late fields.
    #[error(
        "late fields need a lag of at least 1: with lag 0, representatives are drawn after the \
         candidates of their own step, whose late values are not known yet; late fields can be \
         switched off with `RehearsalConfig::with_late_fields(false)`"
    )]
    LateLag,
}

/// An error of the rehearsal buffer.
///
/// ```
/// use burn_rehearsal::error::RehearsalError;
///
/// fn advice(error: &RehearsalError) -> String {
///     match error {
///         RehearsalError::PeerFailed { rank, .. } => format!("see the error of rank {rank}"),
///         RehearsalError::Batch(error) => format!("check the batcher: {error}"),
///         error => error.to_string(),
///     }
/// }
/// ```
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RehearsalError {
    /// The configuration is invalid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The buffer refuses this rank's mini-batch.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// The connection between the ranks failed.
    #[error("{0}")]
    Collective(#[from] CollectiveError),
    /// Another rank reported a failure.
    #[error("rank {rank} failed at step {step} ({reason})")]
    PeerFailed {
        /// The rank.
        rank: usize,
        /// The step at which it failed.
        step: u64,
        /// The reason: `data` (its loader failed or was misused) or `batch` (its mini-batch was
        /// refused).
        reason: &'static str,
        /// The same failure as [`CollectiveError::PeerFailed`]. Code that looks for the first
        /// failure among ranks needs to recognize only this error.
        source: CollectiveError,
    },
    /// The ranks have different configurations. Every rank gets the same error.
    #[error(transparent)]
    Configuration(#[from] Disagreement),
    /// The ranks do not make the same calls, or use different batch types.
    #[error("ranks {rank} and {this_rank} disagree: {detail}")]
    Disagreement {
        /// The rank that differs.
        rank: usize,
        /// The rank that reports it.
        this_rank: usize,
        /// The difference.
        detail: String,
    },
    /// This rank's data loader failed.
    #[error("the data loader of this rank failed: {0}")]
    Data(String),
    /// A call would corrupt the order of steps.
    #[error("misuse: {0}")]
    Misuse(&'static str),
    /// The engine thread has panicked.
    #[error("the rehearsal engine has stopped")]
    EngineGone,
    /// The operating system could not start the engine's thread.
    #[error("cannot start the rehearsal engine's thread: {0}")]
    Thread(String),
    /// A checkpoint cannot be written or read. The buffer is unchanged and stays usable.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The memory for the buffer could not be allocated.
    #[error("cannot allocate {bytes} bytes for the rehearsal buffer")]
    OutOfMemory {
        /// The size of the allocation.
        bytes: usize,
    },
}

impl RehearsalError {
    /// The [`PeerFailed`](Self::PeerFailed) error: rank `rank` failed at step `step`.
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

/// Prints a message to standard error, once for each `once`. Use it for warnings that cannot be
/// returned as errors, since logging may not be configured.
pub(crate) fn notice(once: &Once, message: impl FnOnce() -> String) {
    once.call_once(|| print_notice(&message()));
}

/// Prints a message to standard error.
pub(crate) fn print_notice(message: &str) {
    // A failure is ignored: standard error may be closed.
    let _ = writeln!(std::io::stderr(), "burn-rehearsal: {message}");
}
