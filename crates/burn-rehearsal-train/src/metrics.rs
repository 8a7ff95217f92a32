//! Metrics of continual learning.
//!
//! All metrics are computed from the [`AccuracyMatrix`] `a`. Its entry `a[i][j]` is the accuracy on
//! the test set of task `j` after training on task `i`. `T` is the number of tasks learned so far.
//! Indices count from 0, so the last row is `a[T-1]`.
//!
//! * [Average accuracy](AccuracyMatrix::average): how well all tasks are solved at the end.
//!   `A = 1/T Σ_{j<T} a[T-1][j]`
//!   See [below](#class-il-and-task-il) for its two variants.
//! * [Forgetting](AccuracyMatrix::forgetting): how far earlier tasks fell below their best
//!   accuracy. `F = 1/(T-1) Σ_{j<T-1} ( max_{j≤i<T-1} a[i][j] − a[T-1][j] )`
//! * [Backward transfer](AccuracyMatrix::backward_transfer): how later tasks changed earlier ones.
//!   `BWT = 1/(T-1) Σ_{j<T-1} ( a[T-1][j] − a[j][j] )`
//! * [Forward transfer](AccuracyMatrix::forward_transfer): how much the network knows of a task
//!   before it is trained on it. `FWT = 1/(T-1) Σ_{1≤j<T} ( a[j-1][j] − b[j] )`
//!
//! `b[j]` is the accuracy of the untrained network on task `j`. Lower is better for forgetting, and
//! higher for all other metrics. A network that learns each task perfectly and forgets all earlier
//! ones has an average accuracy of `1/T`, a forgetting of 1 and a BWT of −1. In class-incremental
//! learning the FWT is about `-b`, since a network does not predict classes that it has never seen.
//!
//! ```
//! use burn_rehearsal_train::metrics::AccuracyMatrix;
//!
//! let mut accuracies = AccuracyMatrix::new(2);
//! accuracies.push_row(&[Some(1.0), Some(0.0)])?; // after task 0
//! accuracies.push_row(&[Some(0.75), Some(0.5)])?; // after task 1
//! assert_eq!(accuracies.average(), Some(0.625));
//! assert_eq!(accuracies.forgetting(), Some(0.25));
//! assert_eq!(accuracies.backward_transfer(), Some(-0.25));
//! # Ok::<(), burn_rehearsal_train::metrics::MetricsError>(())
//! ```
//!
//! [`mean_sd`] summarizes a figure over several seeds.
//!
//! # Class-IL and task-IL
//!
//! The literature on class-incremental streams reports two accuracies. They differ in the classes
//! that compete for the highest score of a sample:
//!
//! * *class-IL* (class-incremental): all classes of the network. The network has to recognize the
//!   task of a sample, too.
//! * *task-IL* (task-incremental): the classes of the task that the sample belongs to. All other
//!   scores are masked, as if the task were known. It is never lower than class-IL.
//!
//! Forgetting and transfer are those of class-IL. A task-IL accuracy that stays high while class-IL
//! falls shows that the network still separates the classes within each task, but prefers classes
//! of recent tasks. If each task has all classes, as in instance- and domain-incremental streams,
//! both accuracies are equal. A guess is right with a probability of `1/K` for `K` classes that
//! compete, so compare each accuracy only with others of its kind.
//!
//! [`evaluate_task`](crate::evaluate::evaluate_task) measures both in one pass. In a
//! [report](crate::report), class-IL is [`Accuracy::top1`](crate::report::schema::Accuracy::top1)
//! and task-IL is [`Accuracy::task_il`](crate::report::schema::Accuracy::task_il).
//!
//! Sources: Lopez-Paz and Ranzato, "Gradient Episodic Memory for Continual Learning" (NeurIPS 2017,
//! arXiv 1706.08840), for average accuracy, backward and forward transfer; Chaudhry et al.,
//! "Riemannian Walk for Incremental Learning" (ECCV 2018, arXiv 1801.10112), for forgetting; van de
//! Ven and Tolias, "Three scenarios for continual learning" (arXiv 1904.07734), for class-IL and
//! task-IL.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The reason why accuracies cannot be added to an [`AccuracyMatrix`].
#[derive(Debug, Clone, PartialEq, Error)]
#[non_exhaustive]
pub enum MetricsError {
    /// More rows than tasks.
    #[error("the accuracy matrix of {tasks} tasks already has {tasks} rows")]
    Full {
        /// Number of tasks of the matrix.
        tasks: usize,
    },

    /// A row with more entries than there are tasks.
    #[error("row {row} of the accuracy matrix has {len} entries for {tasks} tasks")]
    RowLength {
        /// The row, counted from 0.
        row: usize,
        /// Its number of entries.
        len: usize,
        /// Number of tasks of the matrix.
        tasks: usize,
    },

    /// A value that is not a fraction, for example a percentage.
    #[error("accuracy {value} after task {row} on task {column} is not a fraction between 0 and 1")]
    NotAFraction {
        /// The row, counted from 0.
        row: usize,
        /// The column, counted from 0.
        column: usize,
        /// The value.
        value: f64,
    },
}

/// Accuracies on the test sets of all tasks (columns) after every task (rows), as fractions in
/// `0..=1`. Shape `[tasks, tasks]`.
///
/// Rows are pushed as tasks are learned. An entry that was not measured is `None`, never NaN.
/// Entries above the diagonal, on tasks still to come, are optional; forward transfer needs them.
///
/// Row `i` is *complete* if its entries `0..=i` are measured. All metrics use the tasks up to the
/// last complete row, so an interrupted run has the metrics of the tasks that it finished.
///
/// As JSON, the matrix is an array of `tasks` arrays of `tasks` numbers or nulls. See the
/// [module](self) for an example.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(into = "Vec<Vec<Option<f64>>>", try_from = "Vec<Vec<Option<f64>>>")]
pub struct AccuracyMatrix {
    /// Always square. Every value is in `0..=1`.
    cells: Vec<Vec<Option<f64>>>,
    /// The index of the next row.
    pushed: usize,
}

impl AccuracyMatrix {
    /// Creates a matrix for `tasks` tasks without measurements.
    pub fn new(tasks: usize) -> Self {
        Self { cells: vec![vec![None; tasks]; tasks], pushed: 0 }
    }

    /// Adds the accuracies after the next task. Missing entries of a shorter row, and values that
    /// are NaN (the accuracy on an empty test set), count as not measured.
    ///
    /// # Errors
    ///
    /// [`MetricsError`] if the matrix is full, if the row has more than `tasks` entries, or if a
    /// value is outside `0..=1`. The matrix is then unchanged.
    pub fn push_row(&mut self, row: &[Option<f64>]) -> Result<(), MetricsError> {
        let tasks = self.tasks();
        let index = self.pushed;
        if index == tasks {
            return Err(MetricsError::Full { tasks });
        }
        if row.len() > tasks {
            return Err(MetricsError::RowLength { row: index, len: row.len(), tasks });
        }
        let mut cells = vec![None; tasks];
        for (column, (cell, value)) in cells.iter_mut().zip(row).enumerate() {
            *cell = value.filter(|value| !value.is_nan());
            if let Some(value) = cell.filter(|value| !(0.0..=1.0).contains(value)) {
                return Err(MetricsError::NotAFraction { row: index, column, value });
            }
        }
        self.cells[index] = cells;
        self.pushed += 1;
        Ok(())
    }

    /// The matrix of a run that resumes after `learned` of its `tasks` tasks: the first `learned`
    /// rows, and room for the others. A row that this matrix does not have is not measured. Same
    /// errors as [`push_row`](Self::push_row).
    pub(crate) fn padded(&self, tasks: usize, learned: usize) -> Result<Self, MetricsError> {
        let mut padded = Self::new(tasks);
        for row in 0..learned {
            padded.push_row(self.cells.get(row).map_or(&[], Vec::as_slice))?;
        }
        Ok(padded)
    }

    /// The number of tasks, of rows and of columns.
    pub fn tasks(&self) -> usize {
        self.cells.len()
    }

    /// All rows, `tasks` × `tasks`.
    pub fn rows(&self) -> &[Vec<Option<f64>>] {
        &self.cells
    }

    /// The accuracy `a[after][on]` on the test set of task `on` after task `after`. `None` if it
    /// was not measured or does not exist.
    pub fn get(&self, after: usize, on: usize) -> Option<f64> {
        *self.cells.get(after)?.get(on)?
    }

    /// The number of tasks that are learned and fully evaluated, `T` in all equations. It is one
    /// more than the index of the last complete row, or 0 without one.
    pub fn learned(&self) -> usize {
        (0..self.tasks())
            .rev()
            .find(|&row| self.cells[row][..=row].iter().all(Option::is_some))
            .map_or(0, |row| row + 1)
    }

    /// Average accuracy, a fraction: `A = 1/T · Σ_{j<T} a[T-1][j]`, the mean of the last complete
    /// row over the tasks seen so far.
    ///
    /// `None` if no row is complete. Lopez-Paz and Ranzato 2017, equation 2 (there ACC).
    pub fn average(&self) -> Option<f64> {
        self.average_after(self.learned().checked_sub(1)?)
    }

    /// Average accuracy after task `row` over the tasks seen by then:
    /// `1/(row+1) · Σ_{j≤row} a[row][j]`. `None` if an entry was not measured.
    pub fn average_after(&self, row: usize) -> Option<f64> {
        mean((0..=row).map(|column| self.get(row, column)))
    }

    /// Forgetting, a fraction in `-1..=1`, lower is better:
    /// `F = 1/(T-1) · Σ_{j<T-1} ( max_{j≤i<T-1} a[i][j] − a[T-1][j] )`.
    ///
    /// The mean distance of each earlier task from its best accuracy. It is negative if the last
    /// task improved the earlier ones. The maximum of a task ignores rows in which the task was not
    /// measured.
    ///
    /// `None` with fewer than two tasks, or if a task has no earlier measurement. Chaudhry et al.
    /// 2018, equation 3, with the maximum from row `j` on, since task `j` had not been learned
    /// before.
    pub fn forgetting(&self) -> Option<f64> {
        let last = self.learned().checked_sub(1)?;
        mean((0..last).map(|task| {
            let best = (task..last).filter_map(|row| self.get(row, task)).reduce(f64::max)?;
            Some(best - self.get(last, task)?)
        }))
    }

    /// Backward transfer, a fraction in `-1..=1`, higher is better:
    /// `BWT = 1/(T-1) · Σ_{j<T-1} ( a[T-1][j] − a[j][j] )`.
    ///
    /// The effect of later tasks on earlier ones, relative to the accuracy right after each task
    /// was learned.
    ///
    /// `None` with fewer than two tasks, or if a diagonal entry was not measured. Lopez-Paz and
    /// Ranzato 2017, equation 3.
    pub fn backward_transfer(&self) -> Option<f64> {
        let last = self.learned().checked_sub(1)?;
        mean((0..last).map(|task| Some(self.get(last, task)? - self.get(task, task)?)))
    }

    /// Forward transfer, a fraction in `-1..=1`, higher is better:
    /// `FWT = 1/(T-1) · Σ_{1≤j<T} ( a[j-1][j] − b[j] )`.
    ///
    /// The accuracy on a task before it is learned, relative to `baseline[j]`, the accuracy of the
    /// randomly initialized network on task `j`. In class-incremental learning it is about `-b`,
    /// since a class that was never seen is never predicted.
    ///
    /// ```
    /// # use burn_rehearsal_train::metrics::AccuracyMatrix;
    /// let mut accuracies = AccuracyMatrix::new(2);
    /// accuracies.push_row(&[Some(1.0), Some(0.75)])?;
    /// accuracies.push_row(&[Some(0.75), Some(1.0)])?;
    /// assert_eq!(accuracies.forward_transfer(&[0.5, 0.5]), Some(0.25));
    /// # Ok::<(), burn_rehearsal_train::metrics::MetricsError>(())
    /// ```
    ///
    /// `None` with fewer than two tasks, if an entry above the diagonal was not measured, or if the
    /// baseline is shorter than `T` or not finite. Lopez-Paz and Ranzato 2017, equation 4.
    pub fn forward_transfer(&self, baseline: &[f64]) -> Option<f64> {
        mean((1..self.learned()).map(|task| {
            let before = baseline.get(task).copied().filter(|value| value.is_finite())?;
            Some(self.get(task - 1, task)? - before)
        }))
    }
}

impl PartialEq for AccuracyMatrix {
    fn eq(&self, other: &Self) -> bool {
        // Trailing rows without measurements compare equal whether they were pushed or not, as in
        // JSON.
        self.cells == other.cells
    }
}

impl From<AccuracyMatrix> for Vec<Vec<Option<f64>>> {
    fn from(matrix: AccuracyMatrix) -> Self {
        matrix.cells
    }
}

impl TryFrom<Vec<Vec<Option<f64>>>> for AccuracyMatrix {
    type Error = MetricsError;

    fn try_from(rows: Vec<Vec<Option<f64>>>) -> Result<Self, Self::Error> {
        let tasks = rows.len();
        let mut matrix = Self::new(tasks);
        for (index, row) in rows.iter().enumerate() {
            if row.len() != tasks {
                return Err(MetricsError::RowLength { row: index, len: row.len(), tasks });
            }
            matrix.push_row(row)?;
        }
        matrix.pushed =
            rows.iter().rposition(|row| row.iter().any(Option::is_some)).map_or(0, |last| last + 1);
        Ok(matrix)
    }
}

/// The mean of all values. `None` if there are none, or if one is missing.
fn mean(values: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    let values: Vec<f64> = values.collect::<Option<_>>()?;
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// Mean and spread of a figure over several runs, usually with different seeds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MeanSd {
    /// The arithmetic mean.
    pub mean: f64,
    /// The sample standard deviation, with `n − 1` in the denominator. `None` for a single value.
    pub sd: Option<f64>,
    /// The number of values.
    pub n: usize,
}

/// Mean and sample standard deviation `sqrt( Σ (x − mean)² / (n − 1) )`. `None` without values.
///
/// ```
/// use burn_rehearsal_train::metrics::mean_sd;
///
/// let accuracy = mean_sd(&[0.90, 0.92, 0.91]);
/// assert_eq!(accuracy.map(|figure| figure.to_string()).as_deref(), Some("0.910 ± 0.010"));
/// ```
pub fn mean_sd(values: &[f64]) -> Option<MeanSd> {
    let n = values.len();
    let mean = mean(values.iter().copied().map(Some))?;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    let sd = (n > 1).then(|| (squares / (n as f64 - 1.0)).sqrt());
    Some(MeanSd { mean, sd, n })
}

impl fmt::Display for MeanSd {
    /// Writes `0.912 ± 0.010`, or `0.912` for a single value. The precision of the format, 3 by
    /// default, applies to both.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = formatter.precision().unwrap_or(3);
        write!(formatter, "{:.digits$}", self.mean)?;
        self.sd.map_or(Ok(()), |sd| write!(formatter, " ± {sd:.digits$}"))
    }
}

#[cfg(test)]
mod tests;
