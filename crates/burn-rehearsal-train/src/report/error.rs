//! Errors of reading and writing reports.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Why a report cannot be read or written; names the file.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReportError {
    /// The file system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried: "read", "write", …
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },

    /// The file is no JSON, or lacks a field, or has a value of the wrong type.
    #[error("{} is not a run report: {source}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The reason, with line and column.
        source: serde_json::Error,
    },

    /// The file was written by another version of the format.
    #[error(
        "{} has schema_version {found}, this program reads version {supported} only: use the version of the program that wrote it",
        path.display()
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u64,
        /// The version this program reads and writes.
        supported: u64,
    },

    /// Fields of the report contradict each other.
    #[error("the report {} contradicts itself: {what}", path.display())]
    Inconsistent {
        /// The file that was read or was to be written.
        path: PathBuf,
        /// The fields and their values.
        what: String,
    },
}
