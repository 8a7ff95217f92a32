//! A data loader that attaches a buffer to training, on one or several ranks.

use super::sharded::take_shard;
use crate::batch::RehearsalBatch;
use crate::buffer::RehearsalBuffer;
use crate::error::{RehearsalError, notice};
use burn::data::dataloader::{DataLoader, DataLoaderIterator, Progress};
use burn::data::dataset::DatasetError;
use burn::tensor::Device;
use std::sync::{Arc, Once};

/// A [`DataLoader`] that passes every mini-batch of another loader through a [`RehearsalBuffer`].
/// [`RehearsalBuffer::attach`] makes one.
///
/// Each call of `next` is one step of the buffer. Burn's training strategies call it exactly once
/// per training step, on the training thread. Attach a buffer to the training loader only, so that
/// validation and test data never enter it.
///
/// # Several ranks
///
/// On several ranks, `next` is collective: all ranks call it the same number of times. A rank
/// without rows gets `None` and takes part without a mini-batch, so a learner for several ranks
/// continues until *all* ranks get `None`. On one rank, `None` is the end of the epoch, as usual.
///
/// # Errors
///
/// An error of the inner loader, of the buffer or of another rank is returned once and ends the
/// epoch. [`RehearsalError::Misuse`] is returned if two iterators are alive at the same time, if
/// the loader is sliced, or if the inner [`ShardedLoader`](crate::ShardedLoader) belongs to another
/// rank. On several ranks, a misuse on one rank ends the run of all ranks.
pub struct RehearsalLoader<B> {
    inner: Arc<dyn DataLoader<B>>,
    buffer: RehearsalBuffer<B>,
    sliced: bool,
}

impl<B: RehearsalBatch> RehearsalBuffer<B> {
    /// Returns a loader that appends representatives to the mini-batches of `inner` (a
    /// [`RehearsalLoader`]). Use it for training data only.
    ///
    /// ```
    /// # mod stubs { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/stubs.rs")); }
    /// # use stubs::*;
    /// use burn_rehearsal::{Capacity, RehearsalConfig};
    ///
    /// let buffer = RehearsalConfig::new(Capacity::Samples(100)).init::<MyBatch>()?;
    /// let loader = DataLoaderBuilder::new(MyBatcher).batch_size(10).build(training_set(0));
    /// let train = buffer.attach(loader);
    /// let mut batches = train.iter();
    /// let rows = |batch: MyBatch| batch.inputs.dims()[0];
    /// assert_eq!(batches.next().transpose()?.map(rows), Some(10));
    /// assert_eq!(batches.next().transpose()?.map(rows), Some(20)); // with 10 representatives
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn attach(&self, inner: Arc<dyn DataLoader<B>>) -> Arc<dyn DataLoader<B>> {
        Arc::new(RehearsalLoader::new(inner, self.clone()))
    }
}

impl<B: RehearsalBatch> RehearsalLoader<B> {
    /// A loader that appends representatives to the mini-batches of `inner`.
    ///
    /// ```
    /// # mod stubs { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/stubs.rs")); }
    /// # use stubs::*;
    /// # let buffer = burn_rehearsal::RehearsalConfig::new(burn_rehearsal::Capacity::Samples(100))
    /// #     .init::<MyBatch>()?;
    /// use burn_rehearsal::RehearsalLoader;
    ///
    /// let loader = DataLoaderBuilder::new(MyBatcher).batch_size(10).build(training_set(0));
    /// let train = RehearsalLoader::new(loader, buffer);
    /// assert_eq!(train.iter().count(), 2);
    /// assert_eq!(train.buffer().len(), 20);
    /// # Ok::<(), burn_rehearsal::error::RehearsalError>(())
    /// ```
    pub fn new(inner: Arc<dyn DataLoader<B>>, buffer: RehearsalBuffer<B>) -> Self {
        Self { inner, buffer, sliced: false }
    }

    /// The buffer.
    pub fn buffer(&self) -> &RehearsalBuffer<B> {
        &self.buffer
    }
}

impl<B: RehearsalBatch> DataLoader<B> for RehearsalLoader<B> {
    fn iter<'a>(&'a self) -> Box<dyn DataLoaderIterator<B> + 'a> {
        take_shard();
        let inner = self.inner.iter();
        let (rank, size) = (self.buffer.rank(), self.buffer.world_size());
        let shard = take_shard();
        let is_other =
            |(of, world): (usize, usize)| size > 1 && world > 1 && (of, world) != (rank, size);
        let misuse = if self.sliced {
            Some(
                "a rehearsal loader cannot be sliced over several devices; \
                 give every rank its own buffer",
            )
        } else if shard.is_some_and(is_other) {
            Some(
                "the `ShardedLoader` was built for another rank or world size than the buffer: \
                 pass the buffer's rank to `shard`",
            )
        } else if !self.buffer.start_iterating() {
            Some("two iterators of a rehearsal loader are alive at the same time")
        } else {
            None
        };
        if shard == Some((0, 1)) && size > 1 {
            static NOTICED: Once = Once::new();
            notice(&NOTICED, || {
                format!(
                    "rank {rank} of {size} reads a `ShardedLoader` without `.shard(&rank)`: every \
                     rank trains on all samples, unless its data set contains only this rank's \
                     samples"
                )
            });
        }
        let (buffer, counted) = (self.buffer.clone(), misuse.is_none());
        Box::new(Iter { inner, buffer, misuse, counted, ended: false })
    }

    fn num_items(&self) -> usize {
        self.inner.num_items()
    }

    fn to_device(&self, device: &Device) -> Arc<dyn DataLoader<B>> {
        Arc::new(Self {
            inner: self.inner.to_device(device),
            buffer: self.buffer.clone(),
            sliced: self.sliced,
        })
    }

    fn slice(&self, start: usize, end: usize) -> Arc<dyn DataLoader<B>> {
        Arc::new(Self {
            inner: self.inner.slice(start, end),
            buffer: self.buffer.clone(),
            sliced: true,
        })
    }
}

struct Iter<'a, B> {
    inner: Box<dyn DataLoaderIterator<B> + 'a>,
    buffer: RehearsalBuffer<B>,
    /// The error that the first call of `next` returns.
    misuse: Option<&'static str>,
    /// Whether the buffer counts this as its one iterator.
    counted: bool,
    ended: bool,
}

impl<B: RehearsalBatch> Iterator for Iter<'_, B> {
    type Item = Result<B, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(misuse) = self.misuse.take() {
            let error = RehearsalError::Misuse(misuse);
            // Other ranks would wait for this rank's mini-batch. Without other ranks, the buffer
            // stays usable with another iterator.
            if self.buffer.world_size() > 1 {
                self.buffer.abort(error.clone());
            }
            return Some(Err(error.into()));
        }
        if !self.counted {
            return None;
        }
        match if self.ended { None } else { self.inner.next() } {
            Some(Ok(batch)) => Some(self.buffer.rehearse(batch).map_err(|error| {
                self.ended = true;
                error.into()
            })),
            Some(Err(error)) => {
                self.ended = true;
                self.buffer.abort(RehearsalError::Data(error.to_string()));
                Some(Err(error))
            }
            None => {
                // An error is returned once, at the step where it is found.
                let first = !std::mem::replace(&mut self.ended, true);
                self.buffer.skip_step().err().filter(|_| first).map(|error| Err(error.into()))
            }
        }
    }
}

impl<B: RehearsalBatch> DataLoaderIterator<B> for Iter<'_, B> {
    fn progress(&self) -> Progress {
        self.inner.progress()
    }
}

impl<B> Drop for Iter<'_, B> {
    fn drop(&mut self) {
        if self.counted {
            self.buffer.stop_iterating();
        }
    }
}
