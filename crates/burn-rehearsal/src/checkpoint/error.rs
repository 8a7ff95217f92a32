//! Errors of checkpoints.

use std::path::{Path, PathBuf};

/// A checkpoint that cannot be written or read. Every variant names the file or the rank.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The operating system reported an error: no space, no permission, no such file.
    #[error("cannot {action} {}: {reason}", path.display())]
    Io {
        /// The action that failed.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The error of the operating system.
        reason: String,
    },
    /// The file is truncated, has changed, or was never part of a checkpoint.
    #[error("{} is damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
    /// This program does not read this version of the format.
    #[error(
        "{} is a checkpoint of version {found}; this program reads version {supported}",
        path.display()
    )]
    Version {
        /// The manifest.
        path: PathBuf,
        /// Its version.
        found: u64,
        /// The supported version.
        supported: u64,
    },
    /// Rank 0 and another rank do not see the same file or directory.
    #[error(
        "{} is not the same on rank 0 and on rank {rank}: \
         checkpoints need a directory that all ranks share",
        path.display()
    )]
    NotShared {
        /// The file or directory.
        path: PathBuf,
        /// The other rank.
        rank: usize,
    },
    /// Another rank failed. The error on that rank has the reason.
    #[error("rank {0} could not write or read its part of the checkpoint")]
    Rank(usize),
    /// The checkpoint is complete, but was written with another batch type or configuration, or is
    /// of another kind.
    #[error("{} does not belong to this run: {reason}", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// The difference.
        reason: String,
    },
}

impl CheckpointError {
    /// Converts an I/O error into [`Io`](Self::Io): `cannot {action} {path}: …`.
    ///
    /// ```
    /// use burn_rehearsal::checkpoint::CheckpointError;
    /// use std::path::Path;
    ///
    /// let path = Path::new("missing.txt");
    /// let error = std::fs::read(path).map_err(CheckpointError::io("open", path)).unwrap_err();
    /// assert!(error.to_string().starts_with("cannot open missing.txt: "));
    /// ```
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        move |error| Self::Io { action, path: path.to_path_buf(), reason: error.to_string() }
    }

    /// A [`Damaged`](Self::Damaged) error: `{path} is damaged: {reason}`.
    pub fn damaged(path: &Path, reason: impl ToString) -> Self {
        Self::Damaged { path: path.to_path_buf(), reason: reason.to_string() }
    }
}
