//! Images that cannot be decoded: an end of the run, or left out and counted.

use super::DataError;
use burn::data::dataset::DatasetError;
use burn_rehearsal::SkipSample;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

/// How to handle an image that cannot be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnDamaged {
    /// The run ends with its path.
    #[default]
    Fail,
    /// It is left out of its mini-batch, noted in the log, and counted.
    Skip,
}

/// The images that were left out, each once. Clones share the list.
#[derive(Debug, Clone, Default)]
pub struct Damaged {
    paths: Arc<Mutex<BTreeSet<PathBuf>>>,
}

impl Damaged {
    /// Their paths, in alphabetical order.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.paths.lock().iter().cloned().collect()
    }

    /// The error of a data set's `get`: it ends the run, or asks the loader to leave the sample
    /// out. A file that cannot be read at all always ends the run: the disk may be gone.
    pub(super) fn error(&self, error: DataError, on_damaged: OnDamaged) -> DatasetError {
        match (&error, on_damaged) {
            (DataError::Image { path, .. }, OnDamaged::Skip) => {
                if self.paths.lock().insert(path.clone()) {
                    tracing::warn!("left out: {error}");
                }
                DatasetError::new(SkipSample)
            }
            _ => DatasetError::new(error),
        }
    }
}
