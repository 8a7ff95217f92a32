//! Saving a buffer together with Burn's own checkpoints.

use crate::batch::RehearsalBatch;
use crate::buffer::RehearsalBuffer;
use crate::error::{ConfigError, RehearsalError, print_notice};
use burn::train::checkpoint::{CheckpointingAction, CheckpointingStrategy};
use burn::train::metric::store::EventStoreClient;
use std::path::{Path, PathBuf};

/// A [`CheckpointingStrategy`] that saves a buffer whenever the learner is saved. For one rank.
///
/// It wraps another strategy, which decides when to save. It also removes the buffer's checkpoint
/// when that of the learner is removed.
///
/// The [checkpoint](crate::checkpoint) of epoch e is in [`path(directory, e)`](Self::path). To
/// resume, [restore](RehearsalBuffer::restore) it, and pass the epoch to the learner:
///
/// ```
/// # use burn::data::dataloader::DataLoader;
/// # use burn::tensor::Device;
/// # use burn::train::{InferenceStep, Learner, LearnerModel, LearningResult, SupervisedTraining};
/// # use burn::train::TrainStep;
/// # use burn::train::checkpoint::KeepLastNCheckpoints;
/// # use burn_rehearsal::checkpoint::RehearsalCheckpointing;
/// # use burn_rehearsal::{RehearsalBatch, RehearsalBuffer, error::RehearsalError};
/// # use std::sync::Arc;
/// fn train<B: RehearsalBatch, M: LearnerModel + TrainStep<Input = B> + InferenceStep<Input = B>>(
///     learner: Learner<M>,
///     train: Arc<dyn DataLoader<B>>,
///     valid: Arc<dyn DataLoader<B>>,
///     buffer: RehearsalBuffer<B>,
///     resume_from: Option<usize>,
/// ) -> Result<LearningResult<M>, RehearsalError> {
///     let keep = KeepLastNCheckpoints::new(2);
///     let strategy = RehearsalCheckpointing::new(keep, buffer.clone(), "runs/buffer")?;
///     let mut training = SupervisedTraining::new("runs", train, valid)
///         .with_default_checkpointers()
///         .with_checkpointing_strategy(strategy);
///     if let Some(epoch) = resume_from {
///         buffer.restore(RehearsalCheckpointing::path("runs/buffer", epoch), &Device::default())?;
///         training = training.checkpoint(epoch);
///     }
///     Ok(training.launch(learner))
/// }
/// ```
///
/// On several ranks, Burn calls the strategy on rank 0 only, but a checkpoint needs all ranks.
/// Instead, call [`RehearsalBuffer::checkpoint`] on every rank in the hook after each epoch
/// (`DataParallel::with_after_epoch`).
///
/// A strategy cannot return an error. If the buffer cannot be saved, or if an error has stopped
/// rehearsal, a notice is printed to standard error. Training continues, and no older checkpoint is
/// removed.
pub struct RehearsalCheckpointing<B> {
    inner: Box<dyn CheckpointingStrategy>,
    buffer: RehearsalBuffer<B>,
    directory: PathBuf,
}

impl<B: RehearsalBatch> RehearsalCheckpointing<B> {
    /// Saves `buffer` to a subdirectory of `directory` whenever `inner` saves the learner.
    ///
    /// # Errors
    ///
    /// [`ConfigError::CheckpointingWorld`] if the buffer belongs to a world of several ranks.
    pub fn new(
        inner: impl CheckpointingStrategy + 'static,
        buffer: RehearsalBuffer<B>,
        directory: impl Into<PathBuf>,
    ) -> Result<Self, RehearsalError> {
        if buffer.world_size() != 1 {
            return Err(ConfigError::CheckpointingWorld(buffer.world_size()).into());
        }
        Ok(Self { inner: Box::new(inner), buffer, directory: directory.into() })
    }
}

impl RehearsalCheckpointing<()> {
    /// The checkpoint of the buffer after `epoch`. Epochs are counted from 1, as in Burn.
    ///
    /// ```
    /// # use burn_rehearsal::checkpoint::RehearsalCheckpointing;
    /// let path = RehearsalCheckpointing::path("runs/buffer", 3);
    /// assert!(path.ends_with("runs/buffer/buffer-3"));
    /// ```
    pub fn path(directory: impl AsRef<Path>, epoch: usize) -> PathBuf {
        directory.as_ref().join(format!("buffer-{epoch}"))
    }
}

impl<B: RehearsalBatch> CheckpointingStrategy for RehearsalCheckpointing<B> {
    fn checkpointing(
        &mut self,
        epoch: usize,
        collector: &EventStoreClient,
    ) -> Vec<CheckpointingAction> {
        let mut actions = self.inner.checkpointing(epoch, collector);
        let path = |epoch| RehearsalCheckpointing::path(&self.directory, epoch);
        if actions.contains(&CheckpointingAction::Save) {
            let saved = self.buffer.check().and_then(|()| self.buffer.checkpoint(path(epoch)));
            if let Err(error) = saved {
                print_notice(&format!(
                    "could not write the buffer checkpoint of epoch {epoch}: {error}"
                ));
                actions.retain(|action| matches!(action, CheckpointingAction::Save));
            }
        }
        for action in &actions {
            if let CheckpointingAction::Delete(old) = action
                && let Err(error) = std::fs::remove_dir_all(path(*old))
                && error.kind() != std::io::ErrorKind::NotFound
            {
                print_notice(&format!(
                    "could not remove the buffer checkpoint of epoch {old}: {error}"
                ));
            }
        }
        actions
    }
}
