//! Why a checkpoint cannot be written or read.

use std::path::{Path, PathBuf};

/// What is wrong with a checkpoint, and in which file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The system refused: no space, no permission, no such file.
    #[error("cannot {action} {}: {reason}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system says.
        reason: String,
    },
    /// The file is not what was written: truncated, changed, or never a checkpoint.
    #[error("{} is damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// The checkpoint is of a version that this program does not read.
    #[error("{} is a checkpoint of version {found}; this program reads version {supported}", path.display())]
    Version {
        /// The manifest.
        path: PathBuf,
        /// Its version.
        found: u64,
        /// What is supported.
        supported: u64,
    },
    /// A rank's file or directory is not there for rank 0, or not the other way round.
    #[error("{} is not the same on rank 0 and on rank {rank}: checkpoints need a directory that all ranks share", path.display())]
    NotShared {
        /// The file or directory.
        path: PathBuf,
        /// The rank that sees something else than rank 0.
        rank: usize,
    },
    /// Another rank could not do its part; that rank's error says why.
    #[error("rank {0} failed with its part of the checkpoint")]
    Rank(usize),
    /// The checkpoint is whole, but one of something else: another batch type, another
    /// configuration.
    #[error("{} is the checkpoint of something else: {reason}", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What differs.
        reason: String,
    },
}

impl CheckpointError {
    /// Makes an [`Io`](Self::Io) error of a failure of the system: `cannot {action} {path}: …`.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        move |error| Self::Io { action, path: path.to_path_buf(), reason: error.to_string() }
    }

    /// Makes a [`Damaged`](Self::Damaged) error: `{path} is damaged: {reason}`.
    pub fn damaged(path: &Path, reason: impl ToString) -> Self {
        Self::Damaged { path: path.to_path_buf(), reason: reason.to_string() }
    }
}
