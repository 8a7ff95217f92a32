//! Errors of reading and writing reports.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// The reason why a report cannot be read or written, with its file.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReportError {
    /// An error of the file system.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// The action, for example "read" or "write".
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },

    /// The file is not JSON, lacks a field, or has a value of the wrong type.
    #[error("{} is not a run report: {source}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The reason, with line and column.
        source: serde_json::Error,
    },

    /// The file has another version of the format.
    #[error(
        "{} has schema_version {found}, but this program reads only version {supported}: use the \
         version of the program that wrote it",
        path.display()
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u64,
        /// The version that this program reads and writes.
        supported: u64,
    },

    /// Fields of the report contradict each other.
    #[error("the report {} is inconsistent: {what}", path.display())]
    Inconsistent {
        /// The file that was read or should have been written.
        path: PathBuf,
        /// The fields and their values.
        what: String,
    },
}
