//! Errors of data on disk.

use std::io;
use std::path::{Path, PathBuf};

/// Data that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A file or folder.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// An image that cannot be decoded.
    #[error("the image {} is damaged: {reason}", path.display())]
    Image {
        /// The file.
        path: PathBuf,
        /// In the decoder's words.
        reason: String,
    },
    /// A file or folder that is not what it should be.
    #[error("the data in {} cannot be used: {reason}", path.display())]
    Unusable {
        /// Where.
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
