//! Errors of data sets.

use std::io;
use std::path::{Path, PathBuf};

/// A data set that cannot be opened, read or packed.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// An operation on a file or directory failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// The operation.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// An image that cannot be decoded.
    #[error("the image {} is damaged: {reason}", path.display())]
    Image {
        /// The file.
        path: PathBuf,
        /// The reason, from the decoder.
        reason: String,
    },
    /// A file or directory with unexpected content.
    #[error("the data in {} cannot be used: {reason}", path.display())]
    Unusable {
        /// The file or directory.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
}

impl DataError {
    pub(super) fn unusable(path: &Path, reason: impl Into<String>) -> Self {
        Self::Unusable { path: path.to_path_buf(), reason: reason.into() }
    }

    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_path_buf();
        move |source| Self::Io { action, path, source }
    }
}
