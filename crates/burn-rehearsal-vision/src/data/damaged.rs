//! Images that cannot be decoded.

use super::DataError;
use burn::data::dataset::DatasetError;
use burn_rehearsal::SkipSample;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

/// The treatment of images that cannot be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnDamaged {
    /// Loading the image is an error with its path, which ends the run.
    #[default]
    Fail,
    /// The image is left out of its mini-batch, logged, and listed in [`Damaged`].
    Skip,
}

/// The images that were left out, each listed once. Clones share the list.
#[derive(Debug, Clone, Default)]
pub struct Damaged {
    paths: Arc<Mutex<BTreeSet<PathBuf>>>,
}

impl Damaged {
    /// The paths, in alphabetical order.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.paths.lock().iter().cloned().collect()
    }

    /// Converts an error of `Dataset::get`. The result ends the run or makes the loader skip the
    /// sample. A file that cannot be read always ends the run, because the disk may be gone.
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
