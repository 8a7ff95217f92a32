//! Task streams: which samples of a labelled data set arrive with which task.
//!
//! A stream holds indices only, so it serves any data set whose labels are known: `train(t)` and
//! `test(t)` index the data sets whose labels were given to the constructor. Every sample belongs
//! to exactly one task. Within a task the indices ascend; the order of training is the loader's
//! business.
//!
//! * [`ClassIncremental`]: every task brings new classes.
//! * [`InstanceIncremental`]: every task brings new samples of the same classes.
//!
//! A stream is a pure function of its arguments: all ranks build the same one without a message.

mod class_incremental;
mod error;
mod instance_incremental;

use burn::data::dataset::Dataset;
use burn::data::dataset::transform::SelectionDataset;
use std::sync::Arc;

pub use class_incremental::{ClassIncremental, ClassOrder};
pub use error::{Split, StreamError};
pub use instance_incremental::InstanceIncremental;

/// A sequence of tasks over the indices of a labelled training set and a labelled test set.
///
/// Tasks are counted from 0. A task that does not exist has no samples and no classes: the slices
/// are empty, nothing panics.
pub trait TaskStream: Send + Sync {
    /// Number of tasks, at least 1.
    fn tasks(&self) -> usize;

    /// Indices of the training samples that arrive with `task`, ascending.
    fn train(&self, task: usize) -> &[usize];

    /// Indices of the test samples of `task`, ascending. They belong to column `task` of the
    /// accuracy matrix.
    fn test(&self, task: usize) -> &[usize];

    /// The classes that `task` draws its samples from, in the order of the stream.
    fn classes(&self, task: usize) -> &[usize];

    /// Indices of all training samples of tasks `0..=task`, task by task: what training *from
    /// scratch* uses after `task`.
    fn train_so_far(&self, task: usize) -> Vec<usize> {
        (0..self.tasks().min(task.saturating_add(1)))
            .flat_map(|earlier| self.train(earlier).iter().copied())
            .collect()
    }
}

/// The samples of a data set at these indices, in this order.
///
/// ```
/// use burn::data::dataset::{Dataset, InMemDataset};
/// use burn_rehearsal_train::stream::select;
/// use std::sync::Arc;
///
/// let letters: Arc<dyn Dataset<char>> = Arc::new(InMemDataset::new(vec!['a', 'b', 'c']));
/// assert_eq!(select(&letters, &[2, 0]).get(0)?, 'c');
/// # Ok::<(), burn::data::dataset::DatasetError>(())
/// ```
pub fn select<I: Clone + Send + Sync + 'static>(
    dataset: &Arc<dyn Dataset<I>>,
    indices: &[usize],
) -> Selection<I> {
    SelectionDataset::from_indices_unchecked(dataset.clone(), indices.to_vec())
}

/// Some samples of a data set.
pub type Selection<I> = SelectionDataset<Arc<dyn Dataset<I>>, I>;

/// What one task consists of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Task {
    train: Vec<usize>,
    test: Vec<usize>,
    classes: Vec<usize>,
}

/// Implements [`TaskStream`] for a type with a field `tasks: Vec<Task>`.
macro_rules! task_stream_over_tasks {
    ($stream:ty) => {
        impl $crate::stream::TaskStream for $stream {
            fn tasks(&self) -> usize {
                self.tasks.len()
            }

            fn train(&self, task: usize) -> &[usize] {
                self.tasks.get(task).map_or(&[], |task| &task.train)
            }

            fn test(&self, task: usize) -> &[usize] {
                self.tasks.get(task).map_or(&[], |task| &task.test)
            }

            fn classes(&self, task: usize) -> &[usize] {
                self.tasks.get(task).map_or(&[], |task| &task.classes)
            }
        }
    };
}
use task_stream_over_tasks;

/// Refuses the first label that is not in `0..classes`.
fn check_labels(split: Split, labels: &[usize], classes: usize) -> Result<(), StreamError> {
    match labels.iter().position(|&label| label >= classes) {
        Some(index) => {
            Err(StreamError::LabelOutOfRange { split, index, label: labels[index], classes })
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_that_does_not_exist_is_empty_and_everything_so_far_stops_at_the_last_task() {
        let labels = [0, 1, 2, 3];
        let stream = ClassIncremental::new(&labels, &labels, 4, 2, ClassOrder::Fixed).unwrap();
        assert!(
            stream.train(2).is_empty()
                && stream.test(2).is_empty()
                && stream.classes(usize::MAX).is_empty()
        );
        assert_eq!(stream.train_so_far(0), [0, 1]);
        assert_eq!(stream.train_so_far(1), [0, 1, 2, 3]);
        assert_eq!(stream.train_so_far(usize::MAX), [0, 1, 2, 3]);
    }

    #[test]
    fn a_stream_can_be_used_as_a_shared_object() {
        let labels = [0, 1];
        let stream: Box<dyn TaskStream> =
            Box::new(InstanceIncremental::new(&labels, &labels, 2, 2, 0).unwrap());
        std::thread::scope(|scope| scope.spawn(|| assert_eq!(stream.tasks(), 2)).join().unwrap());
    }
}
