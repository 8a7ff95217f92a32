//! Augmentation of mini-batches, between the loader and the training step.

use burn::data::dataloader::{DataLoader, DataLoaderIterator, Progress};
use burn::data::dataset::DatasetError;
use burn::tensor::Device;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A transformation of mini-batches, in general of the same type. Its arguments are the mini-batch,
/// the number of the step, and the rank.
pub type Augmentation<B, I = B> =
    Arc<dyn Fn(I, u64, usize) -> Result<B, DatasetError> + Send + Sync>;

/// A [`DataLoader`] that augments every mini-batch of another one, on the calling thread.
///
/// Wrap a [`RehearsalLoader`](burn_rehearsal::RehearsalLoader) in it, so that representatives are
/// augmented again each time. Use it for training data only. Every call of `next` counts as a step,
/// even one that returns `None`. Burn's training strategies call it once per step. With
/// [`DataParallel`](crate::data_parallel::DataParallel), all ranks call it equally often, even with
/// gradient accumulation.
///
/// ```
/// # use burn::data::dataloader::DataLoader;
/// # use burn::tensor::Tensor;
/// # use burn_rehearsal_train::augmentation::{AugmentLoader, Augmentation};
/// # use std::sync::Arc;
/// # fn augmented(loader: Arc<dyn DataLoader<Tensor<4>>>) -> AugmentLoader<Tensor<4>> {
/// let flip: Augmentation<Tensor<4>> = Arc::new(|images, step, _rank| {
///     Ok(if step.is_multiple_of(2) { images } else { images.flip([3]) })
/// });
/// AugmentLoader::new(loader, flip, 0, Arc::default())
/// # }
/// ```
pub struct AugmentLoader<B, I = B> {
    inner: Arc<dyn DataLoader<I>>,
    augmentation: Augmentation<B, I>,
    rank: usize,
    /// The number of the next step.
    step: Arc<AtomicU64>,
}

impl<B, I> AugmentLoader<B, I> {
    /// Augments the mini-batches of `inner` as those of `rank`.
    ///
    /// `step` is the number of the next step, and every call increases it. Loaders that one
    /// training uses one after another, for example for its tasks, share it.
    pub fn new(
        inner: Arc<dyn DataLoader<I>>,
        augmentation: Augmentation<B, I>,
        rank: usize,
        step: Arc<AtomicU64>,
    ) -> Self {
        Self { inner, augmentation, rank, step }
    }
}

impl<B: 'static, I: 'static> DataLoader<B> for AugmentLoader<B, I> {
    fn iter<'a>(&'a self) -> Box<dyn DataLoaderIterator<B> + 'a> {
        Box::new(Iter { inner: self.inner.iter(), loader: self })
    }

    fn num_items(&self) -> usize {
        self.inner.num_items()
    }

    fn to_device(&self, device: &Device) -> Arc<dyn DataLoader<B>> {
        Arc::new(Self::new(
            self.inner.to_device(device),
            self.augmentation.clone(),
            self.rank,
            self.step.clone(),
        ))
    }

    fn slice(&self, start: usize, end: usize) -> Arc<dyn DataLoader<B>> {
        // Slices are read in parallel. Each counts its own steps, since the numbers of a shared
        // counter would depend on timing.
        let step = Arc::new(AtomicU64::new(self.step.load(Ordering::Relaxed)));
        Arc::new(Self::new(
            self.inner.slice(start, end),
            self.augmentation.clone(),
            self.rank,
            step,
        ))
    }
}

struct Iter<'a, B, I> {
    inner: Box<dyn DataLoaderIterator<I> + 'a>,
    loader: &'a AugmentLoader<B, I>,
}

impl<B, I> Iterator for Iter<'_, B, I> {
    type Item = Result<B, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        let AugmentLoader { augmentation, rank, step, .. } = self.loader;
        let step = step.fetch_add(1, Ordering::Relaxed);
        let augment = |batch| augmentation(batch, step, *rank);
        self.inner.next().map(|item| item.and_then(augment))
    }
}

impl<B, I> DataLoaderIterator<B> for Iter<'_, B, I> {
    fn progress(&self) -> Progress {
        self.inner.progress()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three mini-batches: 10, 11 and 12.
    #[derive(Clone)]
    struct Three;

    struct ThreeIter(std::ops::Range<u64>);

    impl Iterator for ThreeIter {
        type Item = Result<u64, DatasetError>;

        fn next(&mut self) -> Option<Self::Item> {
            self.0.next().map(Ok)
        }
    }

    impl DataLoaderIterator<u64> for ThreeIter {
        fn progress(&self) -> Progress {
            Progress::new(0, 3, None)
        }
    }

    impl DataLoader<u64> for Three {
        fn iter<'a>(&'a self) -> Box<dyn DataLoaderIterator<u64> + 'a> {
            Box::new(ThreeIter(10..13))
        }

        fn num_items(&self) -> usize {
            3
        }

        fn to_device(&self, _device: &Device) -> Arc<dyn DataLoader<u64>> {
            Arc::new(self.clone())
        }

        fn slice(&self, _start: usize, _end: usize) -> Arc<dyn DataLoader<u64>> {
            Arc::new(self.clone())
        }
    }

    #[test]
    fn steps_are_counted_over_epochs_tasks_and_devices() {
        let note: Augmentation<u64> =
            Arc::new(|batch, step, rank| Ok(1000 * batch + 10 * step + rank as u64));
        let step = Arc::new(AtomicU64::new(0));
        let loader = AugmentLoader::new(Arc::new(Three), note.clone(), 3, step.clone());
        let epoch = |loader: &dyn DataLoader<u64>| {
            loader.iter().map(|batch| batch.unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(epoch(&loader), [10_003, 11_013, 12_023]);
        // The call that found the end counts as a step, as on other ranks.
        assert_eq!(epoch(&*loader.to_device(&Device::default())), [10_043, 11_053, 12_063]);
        assert_eq!(
            epoch(&AugmentLoader::new(Arc::new(Three), note, 3, step)),
            [10_083, 11_093, 12_103]
        );
    }

    #[test]
    fn an_error_of_the_augmentation_is_an_error_of_the_loader() {
        let fail: Augmentation<u64> =
            Arc::new(|_, _, _| Err(DatasetError::new(std::io::Error::other("no such flip"))));
        let loader = AugmentLoader::new(Arc::new(Three), fail, 0, Arc::default());
        let error = loader.iter().next().unwrap().unwrap_err();
        assert!(error.to_string().contains("no such flip"), "{error}");
    }
}
