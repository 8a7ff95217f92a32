//! Metrics of continual learning, from the accuracies measured after every task.
//!
//! Everything is computed from the [`AccuracyMatrix`] `a`: `a[i][j]` is the accuracy on the test
//! set of task `j` once task `i` has been learned. `T` below is the number of tasks learned so far;
//! indices count from 0, so the last row is `a[T-1]`.
//!
//! Sources: Lopez-Paz & Ranzato, "Gradient Episodic Memory for Continual Learning" (NeurIPS 2017,
//! arXiv 1706.08840) for average accuracy, backward and forward transfer; Chaudhry et al.,
//! "Riemannian Walk for Incremental Learning" (ECCV 2018, arXiv 1801.10112) for forgetting.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Why accuracies cannot be put in an [`AccuracyMatrix`].
#[derive(Debug, Clone, PartialEq, Error)]
#[non_exhaustive]
pub enum MetricsError {
    /// More rows than tasks.
    #[error("an accuracy matrix of {tasks} tasks has {tasks} rows already")]
    Full {
        /// Number of tasks of the matrix.
        tasks: usize,
    },

    /// A row with more entries than there are tasks.
    #[error("row {row} of the accuracy matrix has {len} entries for {tasks} tasks")]
    RowLength {
        /// The row, counted from 0.
        row: usize,
        /// Number of entries it has.
        len: usize,
        /// Number of tasks of the matrix.
        tasks: usize,
    },

    /// A value that is no fraction, a percentage for example.
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
/// Rows are pushed as tasks are learned. What was not measured is `None`, never NaN: entries of
/// tasks that do not exist yet, of an evaluation that was skipped or interrupted, and all rows that
/// have not been pushed. Entries above the diagonal, on tasks still to come, are welcome: forward
/// transfer needs them.
///
/// A row `i` counts as *complete* once its entries `0..=i` are measured. All metrics look at the
/// tasks up to the last complete row, so that an interrupted run gives the metrics of the tasks
/// that it finished.
///
/// As JSON: an array of `tasks` arrays of `tasks` numbers or nulls.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(into = "Vec<Vec<Option<f64>>>", try_from = "Vec<Vec<Option<f64>>>")]
pub struct AccuracyMatrix {
    /// Always square, every value finite and in `0..=1`.
    cells: Vec<Vec<Option<f64>>>,
    /// Where the next pushed row goes.
    pushed: usize,
}

impl AccuracyMatrix {
    /// A matrix for `tasks` tasks in which nothing is measured yet.
    pub fn new(tasks: usize) -> Self {
        Self { cells: vec![vec![None; tasks]; tasks], pushed: 0 }
    }

    /// Adds the accuracies measured after the next task. A shorter row stands for entries not
    /// measured, and so does a value that is NaN (the accuracy on no sample).
    ///
    /// # Errors
    /// [`MetricsError`] if all rows are there, if the row has more than `tasks` entries, or if a
    /// value is outside `0..=1`. The matrix is unchanged then.
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

    /// Number of tasks: of columns, and of rows once all tasks are learned.
    pub fn tasks(&self) -> usize {
        self.cells.len()
    }

    /// All rows, `tasks` by `tasks`.
    pub fn rows(&self) -> &[Vec<Option<f64>>] {
        &self.cells
    }

    /// `a[after][on]`: the accuracy on the test set of task `on` after task `after`; `None` if it
    /// was not measured or does not exist.
    pub fn get(&self, after: usize, on: usize) -> Option<f64> {
        *self.cells.get(after)?.get(on)?
    }

    /// Number of tasks learned and fully evaluated, `T` in all equations: one more than the last
    /// complete row, 0 if there is none.
    pub fn learned(&self) -> usize {
        (0..self.tasks())
            .rev()
            .find(|&row| self.cells[row][..=row].iter().all(Option::is_some))
            .map_or(0, |row| row + 1)
    }

    /// Average accuracy, a fraction: `A = 1/T · Σ_{j<T} a[T-1][j]`, the mean over the tasks seen so
    /// far of the last complete row.
    ///
    /// `None` if no row is complete. Lopez-Paz & Ranzato 2017 (there "ACC").
    pub fn average(&self) -> Option<f64> {
        self.average_after(self.learned().checked_sub(1)?)
    }

    /// Average accuracy after task `row` over the tasks seen until then: `1/(row+1) · Σ_{j≤row}
    /// a[row][j]`; `None` if one was not measured.
    pub fn average_after(&self, row: usize) -> Option<f64> {
        mean((0..=row).map(|column| self.get(row, column)))
    }

    /// Forgetting, a fraction in `-1..=1`, less is better: `F = 1/(T-1) · Σ_{j<T-1} ( max_{j≤i<T-1}
    /// a[i][j] − a[T-1][j] )`.
    ///
    /// How far each earlier task fell below its best accuracy so far; negative if the last task
    /// improved the earlier ones. Rows in which a task was not measured do not take part in its
    /// maximum. `None` with fewer than two tasks, or if some task has no earlier measurement.
    /// Chaudhry et al. 2018, equation 3, with the maximum taken from row `j` on: before, task `j`
    /// had not been learned.
    pub fn forgetting(&self) -> Option<f64> {
        let last = self.learned().checked_sub(1)?;
        mean((0..last).map(|task| {
            let best = (task..last).filter_map(|row| self.get(row, task)).reduce(f64::max)?;
            Some(best - self.get(last, task)?)
        }))
    }

    /// Backward transfer, a fraction in `-1..=1`, more is better: `BWT = 1/(T-1) · Σ_{j<T-1} (
    /// a[T-1][j] − a[j][j] )`.
    ///
    /// What learning later tasks did to earlier ones, against the accuracy right after they were
    /// learned. `None` with fewer than two tasks, or if a diagonal entry was not measured.
    /// Lopez-Paz & Ranzato 2017, equation 3.
    pub fn backward_transfer(&self) -> Option<f64> {
        let last = self.learned().checked_sub(1)?;
        mean((0..last).map(|task| Some(self.get(last, task)? - self.get(task, task)?)))
    }

    /// Forward transfer, a fraction in `-1..=1`, more is better: `FWT = 1/(T-1) · Σ_{1≤j<T} (
    /// a[j-1][j] − b[j] )`.
    ///
    /// What the network knows of a task before it has seen it, against `baseline[j]`, the accuracy
    /// of the randomly initialised network on task `j`. `None` with fewer than two tasks, if an
    /// entry above the diagonal was not measured, or if the baseline is shorter than `T` or not
    /// finite. Lopez-Paz & Ranzato 2017, equation 4. In class-incremental learning it is about
    /// `-b`: a class never seen is never predicted.
    pub fn forward_transfer(&self, baseline: &[f64]) -> Option<f64> {
        mean((1..self.learned()).map(|task| {
            let before = baseline.get(task).copied().filter(|value| value.is_finite())?;
            Some(self.get(task - 1, task)? - before)
        }))
    }
}

impl PartialEq for AccuracyMatrix {
    fn eq(&self, other: &Self) -> bool {
        // Rows without a measurement at the end are the same whether they were pushed or not: JSON
        // does not tell them apart either.
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

/// The mean of values that are all there; `None` for no value, or if one is missing.
fn mean(values: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    let values: Vec<f64> = values.collect::<Option<_>>()?;
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// Mean and spread of a figure over several runs (seeds).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MeanSd {
    /// Arithmetic mean.
    pub mean: f64,
    /// Sample standard deviation, with `n − 1` in the denominator; `None` for one value.
    pub sd: Option<f64>,
    /// Number of values.
    pub n: usize,
}

/// Mean and sample standard deviation `sqrt( Σ (x − mean)² / (n − 1) )`; `None` for no value.
pub fn mean_sd(values: &[f64]) -> Option<MeanSd> {
    let n = values.len();
    let mean = mean(values.iter().copied().map(Some))?;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    let sd = (n > 1).then(|| (squares / (n as f64 - 1.0)).sqrt());
    Some(MeanSd { mean, sd, n })
}

impl fmt::Display for MeanSd {
    /// `0.912 ± 0.010`, or `0.912` for one value; the format's precision, 3 by default, applies to
    /// both.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = formatter.precision().unwrap_or(3);
        write!(formatter, "{:.digits$}", self.mean)?;
        self.sd.map_or(Ok(()), |sd| write!(formatter, " ± {sd:.digits$}"))
    }
}

#[cfg(test)]
mod tests;
