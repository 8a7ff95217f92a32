//! A batcher that attaches a buffer to a single-process learner.

use crate::batch::{RehearsalBatch, has_late};
use crate::buffer::RehearsalBuffer;
use crate::error::{ConfigError, RehearsalError};
use burn::data::dataloader::batcher::Batcher;
use burn::tensor::Device;

/// A [`Batcher`] that passes every mini-batch of another batcher through a [`RehearsalBuffer`].
///
/// Use it where only the batcher can be changed. Prefer [`RehearsalBuffer::attach`], which works on
/// several ranks and returns errors to the learner.
///
/// ```
/// # mod stubs { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/stubs.rs")); }
/// # use stubs::*;
/// use burn_rehearsal::{Capacity, RehearsalBatcher, RehearsalConfig};
///
/// let buffer = RehearsalConfig::new(Capacity::Samples(100)).init::<MyBatch>()?;
/// let batcher = RehearsalBatcher::new(MyBatcher, buffer.clone())?;
/// let valid = DataLoaderBuilder::new(batcher.valid()).batch_size(10).build(test_set(0));
/// let train = DataLoaderBuilder::new(batcher).batch_size(10).build(training_set(0));
/// # assert_eq!(train.iter().count() + valid.iter().count(), 4);
/// // … training …
/// buffer.check()?;
/// # Ok::<(), burn_rehearsal::error::RehearsalError>(())
/// ```
///
/// # Order
///
/// Steps happen in the order in which the loader calls `batch`. With 0 or 1 loader workers this is
/// the order of the mini-batches; with more workers it is the order of arrival. A loader with
/// workers prepares mini-batches ahead of the training step, so their representatives are older.
///
/// # Errors
///
/// `batch` cannot return an error. If one occurs, the buffer is poisoned, this and all later
/// mini-batches pass unchanged, and a line on standard error reports the error. Call
/// [`RehearsalBuffer::check`] after training: it returns the error.
#[derive(Clone)]
pub struct RehearsalBatcher<Bt, B> {
    inner: Bt,
    /// `None` for validation.
    buffer: Option<RehearsalBuffer<B>>,
}

impl<Bt, B: RehearsalBatch + Clone> RehearsalBatcher<Bt, B> {
    /// A batcher that appends representatives to the mini-batches of `inner`.
    ///
    /// # Errors
    ///
    /// [`ConfigError::BatcherWorld`] if the buffer is shared by several ranks,
    /// [`ConfigError::BatcherLate`] if the buffer stores [late
    /// fields](crate::batch::layout#late-fields).
    pub fn new(inner: Bt, buffer: RehearsalBuffer<B>) -> Result<Self, RehearsalError> {
        if buffer.world_size() != 1 {
            return Err(ConfigError::BatcherWorld(buffer.world_size()).into());
        }
        if has_late(buffer.config().fields::<B>()) {
            return Err(ConfigError::BatcherLate.into());
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
        // Tensors are reference-counted. The original is returned if the buffer refuses the clone.
        match buffer.rehearse(batch.clone()) {
            Ok(rehearsed) => rehearsed,
            Err(error) => {
                buffer.report_error(&error);
                batch
            }
        }
    }
}
