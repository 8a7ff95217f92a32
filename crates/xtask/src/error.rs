//! Errors of xtask's commands. Each one names the operation that failed, and its values.

use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

/// The result of a fallible operation in xtask.
pub(crate) type Result<T> = std::result::Result<T, Error>;

/// A failure.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A program could not be started, or its output could not be read.
    #[error("cannot run `{command}`: {source}")]
    Start {
        /// The command as typed in a shell.
        command: String,
        source: std::io::Error,
    },
    /// A program failed.
    #[error("`{command}` failed ({status})")]
    Failed {
        /// The command as typed in a shell.
        command: String,
        status: ExitStatus,
    },
    /// A file or folder could not be read or written.
    #[error("{path}: {source}")]
    File { path: PathBuf, source: std::io::Error },
    /// `cargo metadata` failed, or its output could not be parsed.
    #[error("cargo metadata: {0}")]
    Metadata(#[from] cargo_metadata::Error),
    /// Required tools are not installed. The text names them and how to install them.
    #[error("{0}")]
    MissingTools(String),
    /// The machine has no NVIDIA GPU.
    #[error("no NVIDIA GPU or no driver found: `nvidia-smi` lists no GPU")]
    NoGpu,
    /// A run of which a rank was killed did not end.
    #[error("a run has not ended within {0:?} after one of its ranks was killed")]
    Hang(Duration),
    /// Dependencies or crates that break the rules, one line each.
    #[error("the dependencies break {} rules:\n  {}", .0.len(), .0.join("\n  "))]
    Dependencies(Vec<String>),
    /// The test binaries contained no test.
    #[error("`{0}` ran no test: it printed no `test result:` line with a test")]
    NoTests(String),
    /// The content of a file is not valid.
    #[error("{path}: {reason}")]
    Invalid { path: PathBuf, reason: String },
    /// Values that miss their thresholds, one line each.
    #[error("thresholds are missed:\n  {}", .0.join("\n  "))]
    Thresholds(Vec<String>),
    /// A failure whose reason has been printed.
    #[error("failed, see above")]
    AlreadyReported,
}
