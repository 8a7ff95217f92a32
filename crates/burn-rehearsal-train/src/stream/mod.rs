//! Task streams: the assignment of samples to tasks.
//!
//! | scenario | each task brings | stream |
//! |---|---|---|
//! | class-incremental | new classes | [`ClassIncremental`] |
//! | instance-incremental | new samples of the same classes | [`InstanceIncremental`] |
//! | domain-incremental | the same classes in another domain | [your own](#your-own-stream) |
//!
//! A stream holds only indices, so it fits any data set whose labels are known. `train(t)` and
//! `test(t)` are indices into the data sets whose labels were passed to the constructor. Every
//! sample belongs to one task. Within a task the indices ascend; the loader chooses the order of
//! training.
//!
//! ```
//! use burn_rehearsal_train::stream::{ClassIncremental, ClassOrder, TaskStream};
//!
//! let (train, test) = ([0, 1, 2, 3, 0, 1], [3, 2, 1, 0]);
//! let stream = ClassIncremental::new(&train, &test, 4, 2, ClassOrder::Fixed)?;
//! for task in 0..stream.tasks() {
//!     println!("classes {:?}: {} samples", stream.classes(task), stream.train(task).len());
//! }
//! # Ok::<(), burn_rehearsal_train::stream::StreamError>(())
//! ```
//!
//! A stream is a pure function of its arguments, so all ranks build the same one without
//! communication.
//!
//! # Your own stream
//!
//! Implement [`TaskStream`], for example for a data set of several domains (domain-incremental
//! learning):
//!
//! ```
//! use burn_rehearsal_train::stream::TaskStream;
//!
//! /// Task t has the samples of domain t, with all classes.
//! struct Domains { train: Vec<Vec<usize>>, test: Vec<Vec<usize>>, classes: Vec<usize> }
//!
//! impl TaskStream for Domains {
//!     fn tasks(&self) -> usize { self.train.len() }
//!     fn train(&self, task: usize) -> &[usize] { self.train.get(task).map_or(&[], Vec::as_slice) }
//!     fn test(&self, task: usize) -> &[usize] { self.test.get(task).map_or(&[], Vec::as_slice) }
//!     fn classes(&self, _task: usize) -> &[usize] { &self.classes }
//! }
//! ```

mod class_incremental;
mod error;
mod instance_incremental;

use burn::data::dataset::Dataset;
use burn::data::dataset::transform::SelectionDataset;
use std::sync::Arc;

pub use class_incremental::{ClassIncremental, ClassOrder};
pub use error::{Split, StreamError};
pub use instance_incremental::InstanceIncremental;

/// A sequence of tasks over the indices of a labeled training set and a labeled test set.
///
/// Tasks count from 0. A task that does not exist has no samples and no classes.
pub trait TaskStream: Send + Sync {
    /// Number of tasks, at least 1.
    fn tasks(&self) -> usize;

    /// Indices of the training samples of `task`, ascending.
    fn train(&self, task: usize) -> &[usize];

    /// Indices of the test samples of `task`, ascending. They belong to column `task` of the
    /// accuracy matrix.
    fn test(&self, task: usize) -> &[usize];

    /// The classes of the samples of `task`, in the order of the stream.
    fn classes(&self, task: usize) -> &[usize];

    /// Indices of the training samples of tasks `0..=task`, task by task: the data for training
    /// from scratch after `task`.
    ///
    /// ```
    /// # use burn_rehearsal_train::stream::{ClassIncremental, ClassOrder, TaskStream};
    /// let labels = [1, 0, 1];
    /// let stream = ClassIncremental::new(&labels, &labels, 2, 2, ClassOrder::Fixed)?;
    /// assert_eq!(stream.train_so_far(0), [1]);
    /// assert_eq!(stream.train_so_far(1), [1, 0, 2]);
    /// # Ok::<(), burn_rehearsal_train::stream::StreamError>(())
    /// ```
    fn train_so_far(&self, task: usize) -> Vec<usize> {
        (0..self.tasks().min(task.saturating_add(1)))
            .flat_map(|earlier| self.train(earlier).iter().copied())
            .collect()
    }
}

/// The samples of a data set at `indices`, in this order.
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

/// A part of a data set.
pub type Selection<I> = SelectionDataset<Arc<dyn Dataset<I>>, I>;

/// The contents of one task.
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

/// Returns an error for the first label that is not in `0..classes`.
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
    fn a_task_that_does_not_exist_is_empty() {
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
    fn a_stream_is_a_trait_object_that_threads_share() {
        let labels = [0, 1];
        let stream: Box<dyn TaskStream> =
            Box::new(InstanceIncremental::new(&labels, &labels, 2, 2, 0).unwrap());
        std::thread::scope(|scope| scope.spawn(|| assert_eq!(stream.tasks(), 2)).join().unwrap());
    }
}
