//! What can be wrong with a task stream.

use std::fmt;

use thiserror::Error;

/// The training part or the test part of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Split {
    /// The samples that are trained on.
    Train,
    /// The samples that accuracies are measured on.
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

/// Why a task stream cannot be built. Every variant names the value that is wrong; tasks count from
/// 0.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum StreamError {
    /// A stream of no tasks was asked for.
    #[error("tasks is 0: a stream has at least one task")]
    NoTasks,

    /// Some task would bring no class.
    #[error(
        "{tasks} tasks of new classes cannot be made of {classes} classes: use at most {classes} tasks"
    )]
    MoreTasksThanClasses {
        /// Number of tasks asked for.
        tasks: usize,
        /// Number of classes of the data set.
        classes: usize,
    },

    /// Some task would have no sample of this split.
    #[error(
        "{tasks} tasks cannot be made of {samples} {split} samples: every task needs at least one"
    )]
    MoreTasksThanSamples {
        /// Number of tasks asked for.
        tasks: usize,
        /// The split that is too small.
        split: Split,
        /// Number of samples in that split.
        samples: usize,
    },

    /// A label is not a class.
    #[error(
        "label {label} of {split} sample {index} is out of range: there are {classes} classes, counted from 0"
    )]
    LabelOutOfRange {
        /// The split with the wrong label.
        split: Split,
        /// Index of the sample in that split.
        index: usize,
        /// The label found.
        label: usize,
        /// Number of classes configured; labels are in `0..classes`.
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
