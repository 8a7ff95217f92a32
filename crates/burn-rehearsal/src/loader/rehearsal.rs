//! The exact attachment point: a data loader around another.

use super::sharded::take_shard;
use crate::batch::RehearsalBatch;
use crate::buffer::RehearsalBuffer;
use crate::error::{RehearsalError, notice};
use burn::data::dataloader::{DataLoader, DataLoaderIterator, Progress};
use burn::data::dataset::DatasetError;
use burn::tensor::Device;
use std::sync::{Arc, Once};

/// A [`DataLoader`] that sends every mini-batch of another one through a [`RehearsalBuffer`].
///
/// Burn's training strategies call `next` exactly once per training step on the training thread, so
/// one call is one step of the buffer. In a world of several ranks, `next` is collective: all ranks
/// call it equally often, also after it has returned `None` (it then keeps returning `None`, and
/// tells the others that this rank has no rows). A learner for several ranks therefore ends its
/// epoch when *all* ranks are out of rows. On one rank this is the usual end of an iterator.
///
/// The loader belongs to training; give the validation loader no buffer, and test data never enters
/// it.
pub struct RehearsalLoader<B> {
    inner: Arc<dyn DataLoader<B>>,
    buffer: RehearsalBuffer<B>,
    sliced: bool,
}

impl<B: RehearsalBatch> RehearsalBuffer<B> {
    /// The loader `inner`, with representatives appended to its mini-batches: a
    /// [`RehearsalLoader`]. For training data only; test data must not enter the buffer.
    ///
    /// ```no_run
    /// # use burn::data::dataloader::DataLoader;
    /// # use burn_rehearsal::{RehearsalBatch, RehearsalBuffer};
    /// # use std::sync::Arc;
    /// # fn attach<B: RehearsalBatch>(loader: Arc<dyn DataLoader<B>>, buffer: &RehearsalBuffer<B>) {
    /// let train: Arc<dyn DataLoader<B>> = buffer.attach(loader);
    /// # }
    /// ```
    pub fn attach(&self, inner: Arc<dyn DataLoader<B>>) -> Arc<dyn DataLoader<B>> {
        Arc::new(RehearsalLoader::new(inner, self.clone()))
    }
}

impl<B: RehearsalBatch> RehearsalLoader<B> {
    /// Rehearses the mini-batches of `inner`; [`RehearsalBuffer::attach`] does the same.
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
                "a rehearsal loader cannot be sliced over several devices; give every rank a buffer of its own",
            )
        } else if shard.is_some_and(is_other) {
            Some(
                "the `ShardedLoader` was built for another rank or world size than the buffer: pass the buffer's rank to `shard`",
            )
        } else if !self.buffer.start_iterating() {
            Some("two iterators of a rehearsal loader are alive at once")
        } else {
            None
        };
        if shard == Some((0, 1)) && size > 1 {
            static NOTICED: Once = Once::new();
            notice(&NOTICED, || {
                format!(
                    "rank {rank} of {size} reads a `ShardedLoader` without `.shard(&rank)`: every rank trains on all samples, unless \
                     its data set contains only this rank's samples"
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
    /// Reported by the next call of `next`.
    misuse: Option<&'static str>,
    /// Whether this is the iterator that the buffer knows of.
    counted: bool,
    ended: bool,
}

impl<B: RehearsalBatch> Iterator for Iter<'_, B> {
    type Item = Result<B, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(misuse) = self.misuse.take() {
            let error = RehearsalError::Misuse(misuse);
            // The other ranks wait for this one's mini-batch. A single rank can go on with another
            // iterator.
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
                // An error is reported once, at the step where it is found; afterwards the iterator
                // is just over.
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
