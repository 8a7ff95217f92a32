//! Streams that bring new samples of the same classes with every task.

use burn_rehearsal::random::{Purpose, Stream};

use super::{Split, StreamError, Task, check_labels, task_stream_over_tasks};
use burn_rehearsal_collective::even_split;

/// A stream whose tasks are random parts of the data: instance-incremental learning.
///
/// Training samples and test samples are permuted separately and cut into parts whose sizes differ
/// by at most one, larger ones first. Each task has its own part of the test set. The mean of a row
/// of the accuracy matrix is therefore the accuracy on the whole test set, exactly so if the parts
/// are equal.
///
/// Every task lists all classes ([`classes`](super::TaskStream::classes)). The partition is not
/// stratified, so a part may lack a class with few samples.
///
/// ```
/// use burn_rehearsal_train::stream::{InstanceIncremental, TaskStream};
///
/// let labels = [0, 1, 0, 1, 0];
/// let stream = InstanceIncremental::new(&labels, &labels, 2, 2, 7)?;
/// assert_eq!((stream.train(0).len(), stream.train(1).len()), (3, 2));
/// assert_eq!(stream.classes(1), [0, 1]);
/// # Ok::<(), burn_rehearsal_train::stream::StreamError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceIncremental {
    tasks: Vec<Task>,
}

impl InstanceIncremental {
    /// Divides the samples into `tasks` random parts. `train_labels[i]` and `test_labels[i]` are
    /// the classes of sample `i` of each split.
    ///
    /// # Errors
    ///
    /// [`StreamError`] if there are no tasks, more tasks than training or test samples, or a label
    /// outside `0..num_classes`.
    pub fn new(
        train_labels: &[usize],
        test_labels: &[usize],
        num_classes: usize,
        tasks: usize,
        seed: u64,
    ) -> Result<Self, StreamError> {
        if tasks == 0 {
            return Err(StreamError::NoTasks);
        }
        for (split, labels) in [(Split::Train, train_labels), (Split::Test, test_labels)] {
            check_labels(split, labels, num_classes)?;
            if tasks > labels.len() {
                return Err(StreamError::MoreTasksThanSamples {
                    tasks,
                    split,
                    samples: labels.len(),
                });
            }
        }
        let (train, test) = (
            permutation(train_labels.len(), seed, Split::Train),
            permutation(test_labels.len(), seed, Split::Test),
        );
        let sorted_part = |order: &[usize], index| {
            let mut samples = order[even_split(order.len(), tasks, index)].to_vec();
            samples.sort_unstable();
            samples
        };
        let tasks = (0..tasks)
            .map(|index| Task {
                train: sorted_part(&train, index),
                test: sorted_part(&test, index),
                classes: (0..num_classes).collect(),
            })
            .collect();
        Ok(Self { tasks })
    }
}

/// A permutation of `0..len`. Step 0 of the purpose belongs to the order of classes, steps 1 and 2
/// to the two splits.
fn permutation(len: usize, seed: u64, split: Split) -> Vec<usize> {
    let step = match split {
        Split::Train => 1,
        Split::Test => 2,
    };
    let mut order: Vec<usize> = (0..len).collect();
    Stream::new(seed, Purpose::TaskStream, step, 0).shuffle(&mut order);
    order
}

task_stream_over_tasks!(InstanceIncremental);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::TaskStream;

    #[test]
    fn every_sample_is_in_exactly_one_task_of_nearly_equal_size() {
        for len in 1..=40 {
            let (train, test) = (vec![0; len], vec![1; 41 - len]);
            for tasks in 1..=len.min(41 - len) {
                let stream = InstanceIncremental::new(&train, &test, 2, tasks, len as u64).unwrap();
                let parts: [Vec<&[usize]>; 2] = [
                    (0..tasks).map(|task| stream.train(task)).collect(),
                    (0..tasks).map(|task| stream.test(task)).collect(),
                ];
                for (parts, len) in parts.iter().zip([len, 41 - len]) {
                    let mut seen = parts.concat();
                    seen.sort_unstable();
                    assert_eq!(seen, (0..len).collect::<Vec<_>>());
                    assert!(parts.iter().all(|part| part.is_sorted()));
                    assert!(parts[0].len() - parts[tasks - 1].len() <= 1);
                }
            }
        }
    }

    #[test]
    fn every_task_of_a_large_set_has_all_classes_in_similar_shares() {
        let labels: Vec<usize> = (0..5_000).map(|index| index / 500).collect();
        let stream = InstanceIncremental::new(&labels, &labels, 10, 5, 3).unwrap();
        for task in 0..5 {
            assert_eq!(stream.classes(task), (0..10).collect::<Vec<_>>());
            let mut counts = [0u32; 10];
            stream.train(task).iter().for_each(|&sample| counts[labels[sample]] += 1);
            // Hypergeometric with mean 100 and standard deviation 8.5. The bounds are six of them
            // on either side.
            assert!(counts.iter().all(|count| (49..=151).contains(count)), "{counts:?}");
        }
    }

    #[test]
    fn the_partition_depends_on_the_seed_and_differs_between_splits() {
        let labels = [0; 64];
        let stream = |seed| InstanceIncremental::new(&labels, &labels, 1, 4, seed).unwrap();
        assert_eq!(stream(1), stream(1));
        assert_ne!(stream(1).train(0), stream(2).train(0));
        assert_ne!(stream(1).train(0), stream(1).test(0));
    }

    #[test]
    fn invalid_numbers_are_refused_by_name() {
        let error = |train: &[usize], test: &[usize], tasks| {
            InstanceIncremental::new(train, test, 2, tasks, 0).unwrap_err()
        };
        assert_eq!(error(&[0, 1], &[0, 1], 0), StreamError::NoTasks);
        assert_eq!(
            error(&[0], &[0, 1], 2),
            StreamError::MoreTasksThanSamples { tasks: 2, split: Split::Train, samples: 1 }
        );
        assert_eq!(
            error(&[0, 1], &[], 1),
            StreamError::MoreTasksThanSamples { tasks: 1, split: Split::Test, samples: 0 }
        );
        assert_eq!(
            error(&[0, 1], &[0, 2], 1),
            StreamError::LabelOutOfRange { split: Split::Test, index: 1, label: 2, classes: 2 }
        );
    }
}
