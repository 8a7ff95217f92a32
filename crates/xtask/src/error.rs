//! What can go wrong in a command of xtask, said so that the reader knows what to do next.

use std::path::PathBuf;
use std::process::ExitStatus;

/// The result of everything in xtask that can fail.
pub(crate) type Result<T> = std::result::Result<T, Error>;

/// A failure, with the thing that failed and the value that was wrong.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A program could not be started or listened to at all.
    #[error("cannot run `{command}`: {source}")]
    Start {
        /// The command as one would type it.
        command: String,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A program ended with anything but success.
    #[error("`{command}` failed ({status})")]
    Failed {
        /// The command as one would type it.
        command: String,
        /// How it ended.
        status: ExitStatus,
    },
    /// A file or folder could not be read or made.
    #[error("{path}: {source}")]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// `cargo metadata` failed, or what it printed is not what we know.
    #[error("cargo metadata: {0}")]
    Metadata(#[from] cargo_metadata::Error),
    /// Something that the gate needs is not installed; the text names it and says how to install
    /// it.
    #[error("{0}")]
    Missing(String),
    /// What cannot be done on this machine.
    #[error("{0}")]
    Machine(String),
    /// Dependencies or crates that break the rules, one line each.
    #[error("the dependencies break {} of our rules:\n  {}", .0.len(), .0.join("\n  "))]
    Policy(Vec<String>),
    /// The tests passed, but there were none.
    #[error("`{0}` ran no test: not one `test result:` line with a test in it")]
    NoTests(String),
    /// A report of the main job is not what it should be.
    #[error("{path}: {reason}")]
    Report {
        /// The report.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Results that miss the published thresholds, one line each.
    #[error("published thresholds are missed:\n  {}", .0.join("\n  "))]
    Thresholds(Vec<String>),
    /// Something failed whose reason has been printed already.
    #[error("failed, for the reason above")]
    Told,
}
