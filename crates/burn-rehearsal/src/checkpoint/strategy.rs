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
/// ```no_run
/// # mod stubs { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/stubs.rs")); }
/// # use stubs::*;
/// # use burn::train::checkpoint::KeepLastNCheckpoints;
/// # use burn_rehearsal::{Capacity, RehearsalConfig, checkpoint::RehearsalCheckpointing};
/// # let config = RehearsalConfig::new(Capacity::Samples(100));
/// # let valid = DataLoaderBuilder::new(MyBatcher).batch_size(5).build(test_set(0));
/// # let train = DataLoaderBuilder::new(MyBatcher).batch_size(5).build(training_set(0));
/// let buffer = config.init::<MyBatch>()?;
/// let keep = KeepLastNCheckpoints::new(2);
/// let strategy = RehearsalCheckpointing::new(keep, buffer.clone(), "runs/buffer")?;
/// let training = SupervisedTraining::new("runs", buffer.attach(train), valid)
///     .with_default_checkpointers()
///     .with_checkpointing_strategy(strategy);
/// let learner = Learner::new(Model::new(), SgdConfig::new().init(), 0.05);
/// let model = training.launch(learner).model;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// The [checkpoint](crate::checkpoint) of epoch e is in [`path(directory, e)`](Self::path). To
/// resume, [restore](RehearsalBuffer::restore) it before the training, and pass the epoch to the
/// learner:
///
/// ```no_run
/// # mod stubs { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/stubs.rs")); }
/// # use stubs::*;
/// # use burn_rehearsal::{Capacity, RehearsalConfig, checkpoint::RehearsalCheckpointing};
/// # let buffer = RehearsalConfig::new(Capacity::Samples(100)).init::<MyBatch>()?;
/// # let loader = DataLoaderBuilder::new(MyBatcher).batch_size(5).build(training_set(0));
/// # let training = SupervisedTraining::new("runs", buffer.attach(loader.clone()), loader);
/// # let epoch = 3;
/// buffer.restore(RehearsalCheckpointing::path("runs/buffer", epoch), &Device::default())?;
/// let training = training.checkpoint(epoch);
/// # training.launch(Learner::new(Model::new(), SgdConfig::new().init(), 0.05));
/// # Ok::<(), Box<dyn std::error::Error>>(())
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
