//! The main job: `continual-imagenet compare` on the embedded data set, its reports, and the
//! published thresholds.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::limit::Limit;
use crate::process;
use crate::workspace::Workspace;

/// The package of the main job, which is also the name of its program.
pub(crate) const PROGRAM: &str = "continual-imagenet";

/// The methods that `compare` runs. Folders and reports use these names.
pub(crate) const METHODS: [&str; 3] = ["incremental", "scratch", "rehearsal"];

/// The parts of a `report.json` that xtask reads.
#[derive(Deserialize)]
struct Report {
    method: String,
    summary: Summary,
}

/// See [`Report`].
#[derive(Deserialize)]
struct Summary {
    average_top1: f64,
}

/// Average top-1 accuracy after the last task for each method, 0..=1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Averages {
    /// Trained only on the new data of each task: the lower bound.
    pub(crate) incremental: f64,
    /// Trained again on all data so far: the upper bound.
    pub(crate) scratch: f64,
    /// Trained on new data and representatives of the buffer.
    pub(crate) rehearsal: f64,
}

/// A value and its published limit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Check {
    pub(crate) name: &'static str,
    pub(crate) value: f64,
    pub(crate) limit: Limit,
}

impl Averages {
    /// The three averages, in the order of [`METHODS`].
    pub(crate) fn in_order(&self) -> [f64; 3] {
        [self.incremental, self.scratch, self.rehearsal]
    }

    /// The share of the gap between the lower and the upper bound that rehearsal closes, where 1 is
    /// the whole gap.
    pub(crate) fn gap_closed(&self) -> f64 {
        (self.rehearsal - self.incremental) / (self.scratch - self.incremental)
    }

    /// The threshold of each method.
    pub(crate) fn method_checks(&self) -> [Check; 3] {
        [
            Check { name: "incremental", value: self.incremental, limit: Limit::AtMost(0.30) },
            Check { name: "scratch", value: self.scratch, limit: Limit::AtLeast(0.95) },
            Check { name: "rehearsal", value: self.rehearsal, limit: Limit::AtLeast(0.88) },
        ]
    }

    /// The threshold of the gap closed, which is published for means over several seeds.
    pub(crate) fn gap_check(&self) -> Check {
        Check { name: "gap closed", value: self.gap_closed(), limit: Limit::AtLeast(0.85) }
    }
}

impl Check {
    /// Whether the value is within its limit.
    pub(crate) fn holds(&self) -> bool {
        self.limit.holds(self.value)
    }
}

/// An error that names every check of `checks` that does not hold.
pub(crate) fn require(checks: &[Check]) -> Result<()> {
    let missed = checks.iter().filter(|check| !check.holds());
    let missed: Vec<_> = missed
        .map(|Check { name, value, limit }| format!("{name} is {value:.4}, must be {limit:.2}"))
        .collect();
    if missed.is_empty() { Ok(()) } else { Err(Error::Thresholds(missed)) }
}

/// Builds the program in release mode with further `arguments` of cargo, and returns its path.
pub(crate) fn build(workspace: &Workspace, arguments: &[&str]) -> Result<PathBuf> {
    process::run(
        workspace.cargo(&["build", "--release", "-p", PROGRAM, "--locked"]).args(arguments),
    )?;
    let program = format!("{PROGRAM}{}", std::env::consts::EXE_SUFFIX);
    Ok(workspace.target.join("release").join(program))
}

/// The command that compares the methods and writes reports to `out`. Without `seed`, the program
/// uses its default.
pub(crate) fn compare(program: &Path, seed: Option<u64>, out: &Path) -> Command {
    let mut command = Command::new(program);
    command.arg("compare").arg("--out").arg(out).stdin(Stdio::null());
    if let Some(seed) = seed {
        command.args(["--seed", &seed.to_string()]);
    }
    command
}

/// The average top-1 of the three reports under `out`.
pub(crate) fn read_averages(out: &Path) -> Result<Averages> {
    let [incremental, scratch, rehearsal] =
        METHODS.map(|method| read_average(&out.join(method).join("report.json"), method));
    Ok(Averages { incremental: incremental?, scratch: scratch?, rehearsal: rehearsal? })
}

/// The average top-1 of a report, which must be that of `method`.
pub(crate) fn read_average(path: &Path, method: &str) -> Result<f64> {
    let wrong = |reason: String| Error::Invalid { path: path.to_owned(), reason };
    let text = std::fs::read_to_string(path)
        .map_err(|source| Error::File { path: path.to_owned(), source })?;
    let report: Report = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    if report.method != method {
        return Err(wrong(format!("method is {:?}, expected {method:?}", report.method)));
    }
    let average = report.summary.average_top1;
    if (0.0..=1.0).contains(&average) {
        Ok(average)
    } else {
        Err(wrong(format!("summary.average_top1 is {average}, expected 0..=1")))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const GOOD: Averages = Averages { incremental: 0.2, scratch: 0.97, rehearsal: 0.9 };

    #[test]
    fn averages_at_the_limits_are_accepted() {
        let edge = Averages { incremental: 0.30, scratch: 0.95, rehearsal: 0.88 };
        assert!(require(&edge.method_checks()).is_ok());
        assert!(require(&[GOOD.gap_check()]).is_ok());
    }

    #[test]
    fn a_missed_threshold_is_named_with_its_value_and_limit() {
        let bad = Averages { incremental: 0.31, rehearsal: 0.8712, ..GOOD };
        let message = require(&bad.method_checks()).unwrap_err().to_string();
        assert!(message.contains("incremental is 0.3100, must be ≤ 0.30"), "{message}");
        assert!(message.contains("rehearsal is 0.8712, must be ≥ 0.88"), "{message}");
        assert!(!message.contains("scratch"), "{message}");
    }

    #[test]
    fn the_gap_closed_is_the_share_between_the_bounds() {
        let half = Averages { incremental: 0.2, scratch: 1.0, rehearsal: 0.6 };
        assert!((half.gap_closed() - 0.5).abs() < 1e-12);
        assert!(!half.gap_check().holds());
        let none = Averages { incremental: 0.5, scratch: 0.5, rehearsal: 0.5 };
        assert!(!none.gap_check().holds(), "0/0 must not hold");
    }

    #[test]
    fn reports_are_read_from_the_folder_of_each_method() {
        let out = tempfile::tempdir().unwrap();
        for (method, average) in METHODS.into_iter().zip(GOOD.in_order()) {
            let folder = out.path().join(method);
            std::fs::create_dir(&folder).unwrap();
            let report = format!(
                r#"{{"schema": 1, "method": "{method}", "summary": {{"average_top1": {average}, "bwt": null}}}}"#
            );
            std::fs::write(folder.join("report.json"), report).unwrap();
        }
        assert_eq!(read_averages(out.path()).unwrap(), GOOD);
    }

    #[test]
    fn a_report_that_is_missing_or_wrong_is_named() {
        let out = tempfile::tempdir().unwrap();
        let path = out.path().join("report.json");
        let message = || read_average(&path, "scratch").unwrap_err().to_string();
        assert!(message().contains("report.json"));
        for (report, reason) in [
            ("{", "EOF"),
            (r#"{"method": "scratch", "summary": {}}"#, "average_top1"),
            (
                r#"{"method": "rehearsal", "summary": {"average_top1": 0.9}}"#,
                r#"method is "rehearsal", expected "scratch""#,
            ),
            (
                r#"{"method": "scratch", "summary": {"average_top1": 97.0}}"#,
                "is 97, expected 0..=1",
            ),
        ] {
            std::fs::write(&path, report).unwrap();
            assert!(message().contains(reason), "{}", message());
        }
    }
}
