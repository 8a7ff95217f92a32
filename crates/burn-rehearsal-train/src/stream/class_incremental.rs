//! Streams that bring new classes with every task.

use burn_rehearsal::random::{Purpose, Stream};

use super::{Split, StreamError, Task, check_labels, task_stream_over_tasks};
use burn_rehearsal_collective::even_split;

/// The order of classes in a [`ClassIncremental`] stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClassOrder {
    /// 0, 1, 2, …
    #[default]
    Fixed,
    /// A permutation that depends only on the seed. All permutations are equally likely.
    Seeded(u64),
}

/// A stream that brings new classes with every task: class-incremental learning, the class scenario
/// of van de Ven and Tolias, "Three scenarios for continual learning", 2019, arXiv 1904.07734.
///
/// The order of classes is cut into consecutive groups. If the classes cannot be divided evenly,
/// the first tasks have one more.
///
/// ```
/// use burn_rehearsal_train::stream::{ClassIncremental, ClassOrder, TaskStream};
///
/// let labels = [2, 0, 1, 2, 0];
/// let stream = ClassIncremental::new(&labels, &labels, 3, 2, ClassOrder::Fixed)?;
/// assert_eq!((stream.classes(0), stream.train(0)), ([0, 1].as_slice(), [1, 2, 4].as_slice()));
/// assert_eq!((stream.classes(1), stream.train(1)), ([2].as_slice(), [0, 3].as_slice()));
/// # Ok::<(), burn_rehearsal_train::stream::StreamError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassIncremental {
    tasks: Vec<Task>,
}

impl ClassIncremental {
    /// Divides `num_classes` classes into `tasks` groups. `train_labels[i]` and `test_labels[i]`
    /// are the classes of sample `i` of each split.
    ///
    /// # Errors
    ///
    /// [`StreamError`] if there are no tasks, more tasks than classes, a label outside
    /// `0..num_classes`, or a task without a training or test sample. A class without samples is
    /// accepted if its task has other samples.
    pub fn new(
        train_labels: &[usize],
        test_labels: &[usize],
        num_classes: usize,
        tasks: usize,
        order: ClassOrder,
    ) -> Result<Self, StreamError> {
        if tasks == 0 {
            return Err(StreamError::NoTasks);
        }
        if tasks > num_classes {
            return Err(StreamError::MoreTasksThanClasses { tasks, classes: num_classes });
        }
        check_labels(Split::Train, train_labels, num_classes)?;
        check_labels(Split::Test, test_labels, num_classes)?;

        let mut classes: Vec<usize> = (0..num_classes).collect();
        if let ClassOrder::Seeded(seed) = order {
            Stream::new(seed, Purpose::TaskStream, 0, 0).shuffle(&mut classes);
        }
        let mut built = vec![Task::default(); tasks];
        let mut task_of_class = vec![0; num_classes];
        for (index, task) in built.iter_mut().enumerate() {
            task.classes = classes[even_split(num_classes, tasks, index)].to_vec();
            for &class in &task.classes {
                task_of_class[class] = index;
            }
        }
        for (sample, &label) in train_labels.iter().enumerate() {
            built[task_of_class[label]].train.push(sample);
        }
        for (sample, &label) in test_labels.iter().enumerate() {
            built[task_of_class[label]].test.push(sample);
        }
        for (index, task) in built.iter().enumerate() {
            for (split, samples) in [(Split::Train, &task.train), (Split::Test, &task.test)] {
                if samples.is_empty() {
                    return Err(StreamError::EmptyTask {
                        task: index,
                        split,
                        classes: task.classes.clone(),
                    });
                }
            }
        }
        Ok(Self { tasks: built })
    }
}

task_stream_over_tasks!(ClassIncremental);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::TaskStream;

    fn labels(len: usize, classes: usize) -> Vec<usize> {
        (0..len).map(|index| (index * 7 + index / classes) % classes).collect()
    }

    #[test]
    fn every_sample_and_class_is_in_exactly_one_task() {
        for classes in 1..=11 {
            let (train, test) = (labels(classes * 12, classes), labels(classes * 12 + 1, classes));
            for tasks in 1..=classes {
                for order in [ClassOrder::Fixed, ClassOrder::Seeded(classes as u64)] {
                    let stream =
                        ClassIncremental::new(&train, &test, classes, tasks, order).unwrap();
                    let mut seen_classes = Vec::new();
                    let (mut seen_train, mut seen_test) = (Vec::new(), Vec::new());
                    for task in 0..stream.tasks() {
                        seen_classes.extend_from_slice(stream.classes(task));
                        seen_train.extend_from_slice(stream.train(task));
                        seen_test.extend_from_slice(stream.test(task));
                        assert!(stream.train(task).is_sorted() && stream.test(task).is_sorted());
                        assert!(
                            stream
                                .train(task)
                                .iter()
                                .all(|&sample| stream.classes(task).contains(&train[sample]))
                        );
                        assert!(
                            stream
                                .test(task)
                                .iter()
                                .all(|&sample| stream.classes(task).contains(&test[sample]))
                        );
                    }
                    for (mut seen, len) in [
                        (seen_classes, classes),
                        (seen_train, train.len()),
                        (seen_test, test.len()),
                    ] {
                        seen.sort_unstable();
                        assert_eq!(seen, (0..len).collect::<Vec<_>>());
                    }
                }
            }
        }
    }

    #[test]
    fn ten_classes_in_four_tasks_are_three_three_two_and_two() {
        let labels = labels(100, 10);
        let stream = ClassIncremental::new(&labels, &labels, 10, 4, ClassOrder::Fixed).unwrap();
        let classes: Vec<_> = (0..4).map(|task| stream.classes(task)).collect();
        assert_eq!(classes, [&[0, 1, 2][..], &[3, 4, 5], &[6, 7], &[8, 9]]);
    }

    #[test]
    fn a_seeded_order_is_a_function_of_the_seed_alone() {
        let labels = labels(200, 10);
        let order = |seed| {
            let stream =
                ClassIncremental::new(&labels, &labels, 10, 5, ClassOrder::Seeded(seed)).unwrap();
            (0..5).flat_map(|task| stream.classes(task).to_vec()).collect::<Vec<_>>()
        };
        assert_eq!(order(1), order(1));
        assert_ne!(order(1), order(2));
        assert_ne!(order(1), (0..10).collect::<Vec<_>>());
    }

    #[test]
    fn invalid_numbers_are_refused_by_name() {
        let labels = [0, 1, 2];
        let error = |train: &[usize], test: &[usize], classes, tasks| {
            ClassIncremental::new(train, test, classes, tasks, ClassOrder::Fixed).unwrap_err()
        };
        assert_eq!(error(&labels, &labels, 3, 0), StreamError::NoTasks);
        assert_eq!(
            error(&labels, &labels, 3, 4),
            StreamError::MoreTasksThanClasses { tasks: 4, classes: 3 }
        );
        assert_eq!(
            error(&labels, &labels, 2, 2),
            StreamError::LabelOutOfRange { split: Split::Train, index: 2, label: 2, classes: 2 }
        );
        let empty = error(&labels, &[0, 1], 3, 3);
        assert_eq!(empty, StreamError::EmptyTask { task: 2, split: Split::Test, classes: vec![2] });
        assert_eq!(empty.to_string(), "task 2 (classes [2]) has no test sample");
        assert_eq!(
            error(&[1], &labels, 3, 3),
            StreamError::EmptyTask { task: 0, split: Split::Train, classes: vec![0] }
        );
    }
}
