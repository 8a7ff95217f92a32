//! The one-line attachment point for a plain, single-process learner: a batcher around another.

use crate::batch::RehearsalBatch;
use crate::buffer::RehearsalBuffer;
use crate::error::{ConfigError, RehearsalError};
use burn::data::dataloader::batcher::Batcher;
use burn::tensor::Device;

/// A [`Batcher`] that sends every mini-batch of another one through a [`RehearsalBuffer`].
///
/// The order of steps is the order in which the loader calls `batch`: exact with 0 or 1 loader
/// workers, the order of arrival with more. A loader with a worker prepares mini-batches ahead of
/// the training step, so their representatives are that much older.
///
/// `batch` cannot return an error. If one occurs, the buffer is poisoned, this and all later
/// mini-batches pass unchanged, and a line on standard error says so. Call
/// [`RehearsalBuffer::check`] after training: it returns the error.
#[derive(Clone)]
pub struct RehearsalBatcher<Bt, B> {
    inner: Bt,
    /// `None` in the view for validation.
    buffer: Option<RehearsalBuffer<B>>,
}

impl<Bt, B: RehearsalBatch + Clone> RehearsalBatcher<Bt, B> {
    /// Rehearses the mini-batches of `inner`.
    ///
    /// # Errors
    ///
    /// [`ConfigError::BatcherWorld`] if the buffer belongs to a world of several ranks.
    pub fn new(inner: Bt, buffer: RehearsalBuffer<B>) -> Result<Self, RehearsalError> {
        if buffer.world_size() != 1 {
            return Err(ConfigError::BatcherWorld(buffer.world_size()).into());
        }
        Ok(Self { inner, buffer: Some(buffer) })
    }

    /// The same batcher without the buffer, for validation and test data.
    pub fn valid(&self) -> Self
    where
        Bt: Clone,
    {
        Self { inner: self.inner.clone(), buffer: None }
    }
}

impl<I, B: RehearsalBatch + Clone, Bt: Batcher<I, B>> Batcher<I, B> for RehearsalBatcher<Bt, B> {
    fn batch(&self, items: Vec<I>, device: &Device) -> B {
        let batch = self.inner.batch(items, device);
        let Some(buffer) = &self.buffer else { return batch };
        // Tensors are reference-counted: the clone is what passes unchanged if the buffer refuses.
        match buffer.rehearse(batch.clone()) {
            Ok(rehearsed) => rehearsed,
            Err(error) => {
                buffer.report_error(&error);
                batch
            }
        }
    }
}
