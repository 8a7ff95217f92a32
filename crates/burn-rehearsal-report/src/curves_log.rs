//! A CSV file of epochs that grows while runs train.

use crate::Comparison;
use crate::csv::{curves_head, curves_line};
use burn_rehearsal_train::report::schema::{CurvePoint, EpochTime};
use burn_rehearsal_train::report::{ReportError, write_atomically};
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

/// A CSV file that grows by one line after each epoch, for runs one after another. In the end it is
/// equal to [`Comparison::curves_csv`] of all runs.
///
/// A resumed run begins the log again and first appends the epochs of its checkpoint, so that no
/// epoch is missing or listed twice.
///
/// ```
/// use burn_rehearsal_report::{Comparison, ConfigFields, CurvesLog};
/// use burn_rehearsal_train::report::{RunReport, schema::EXAMPLE};
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path().join("curves.csv");
///
/// let run: RunReport = serde_json::from_str(EXAMPLE)?;
/// let finished = Comparison::new(&[], ConfigFields::default());
/// let log = CurvesLog::begin(&path, run.tasks.len(), &finished)?;
/// log.append(&run.method, run.seed, &run.curves[0], run.time.epochs[0])?;
/// assert_eq!(std::fs::read_to_string(&path)?.lines().count(), 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct CurvesLog {
    path: PathBuf,
    tasks: usize,
}

impl CurvesLog {
    /// Begins a log of runs of `tasks` tasks with the epochs of the `finished` runs. An earlier
    /// file at `path` is replaced. Without an earlier file and finished runs, the file is created
    /// by the first [`append`](Self::append).
    ///
    /// # Errors
    /// [`ReportError::Io`] with the file or its directory.
    pub fn begin(
        path: &Path,
        tasks: usize,
        finished: &Comparison<'_>,
    ) -> Result<Self, ReportError> {
        if path.exists() || !finished.reports.is_empty() {
            let text = if finished.reports.is_empty() {
                curves_head(tasks)
            } else {
                finished.curves_csv()
            };
            write_atomically(path, &text)?;
        }
        Ok(Self { path: path.to_path_buf(), tasks })
    }

    /// Appends an epoch as a complete line.
    ///
    /// # Errors
    /// [`ReportError::Io`] with the file.
    pub fn append(
        &self,
        method: &str,
        seed: u64,
        point: &CurvePoint,
        time: EpochTime,
    ) -> Result<(), ReportError> {
        let mut text = curves_line(method, method, seed, point, time, self.tasks);
        let mut write = || {
            let mut file = OpenOptions::new().create(true).append(true).open(&self.path)?;
            if file.metadata()?.len() == 0 {
                text.insert_str(0, &curves_head(self.tasks));
            }
            file.write_all(text.as_bytes())
        };
        write().map_err(|source| ReportError::Io {
            action: "write",
            path: self.path.clone(),
            source,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{compare, report};

    #[test]
    fn a_log_becomes_the_file_of_the_finished_runs() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("curves.csv");
        let reports: Vec<_> =
            ["incremental", "rehearsal"].map(|method| report(method, 2, 5)).into();
        let log = CurvesLog::begin(&path, 2, &compare(&[])).unwrap();
        assert!(!path.exists());
        for report in &reports {
            for (point, time) in report.curves.iter().zip(&report.time.epochs) {
                log.append(&report.method, report.seed, point, *time).unwrap();
            }
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), compare(&reports).curves_csv());
        let log = CurvesLog::begin(&path, 2, &compare(&reports[..1])).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), compare(&reports[..1]).curves_csv());
        log.append("rehearsal", 5, &reports[1].curves[0], reports[1].time.epochs[0]).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), compare(&reports).curves_csv());
        CurvesLog::begin(&path, 2, &compare(&[])).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 1);
    }
}
