//! Errors of task streams.

use std::fmt;

use thiserror::Error;

/// The training part or the test part of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Split {
    /// The samples for training.
    Train,
    /// The samples for measuring accuracy.
    Test,
}

impl fmt::Display for Split {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Split::Train => "training",
            Split::Test => "test",
        })
    }
}

/// The reason why a task stream cannot be built. Tasks count from 0.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum StreamError {
    /// A stream of no tasks.
    #[error("a stream needs at least one task, not 0")]
    NoTasks,

    /// A task would have no class.
    #[error("{classes} classes are too few for {tasks} tasks with new classes")]
    MoreTasksThanClasses {
        /// Number of tasks.
        tasks: usize,
        /// Number of classes of the data set.
        classes: usize,
    },

    /// A task would have no sample of this split.
    #[error("{samples} {split} samples are too few for {tasks} tasks")]
    MoreTasksThanSamples {
        /// Number of tasks.
        tasks: usize,
        /// The split with too few samples.
        split: Split,
        /// Number of samples in that split.
        samples: usize,
    },

    /// A label is not a class.
    #[error("label {label} of {split} sample {index} is out of range for {classes} classes")]
    LabelOutOfRange {
        /// The split with the wrong label.
        split: Split,
        /// Index of the sample in that split.
        index: usize,
        /// The label.
        label: usize,
        /// Number of classes. Labels are in `0..classes`.
        classes: usize,
    },

    /// The classes of a task have no sample in one of the splits.
    #[error("task {task} (classes {classes:?}) has no {split} sample")]
    EmptyTask {
        /// The task, counted from 0.
        task: usize,
        /// The split without samples of these classes.
        split: Split,
        /// The classes of the task.
        classes: Vec<usize>,
    },
}
