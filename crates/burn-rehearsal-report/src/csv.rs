//! Runs as comma-separated values, for other tools. Tasks and epochs are numbered from 1,
//! accuracies are fractions, values that were not measured are empty, and lines end with a line
//! feed.

use crate::Comparison;
use burn_rehearsal_train::metrics::MeanSd;
use burn_rehearsal_train::report::RunReport;
use burn_rehearsal_train::report::schema::{CurvePoint, EpochTime};
use std::borrow::Cow;

/// A figure of `summary_csv`: its name, and its value in a run.
type Figure = (&'static str, fn(&RunReport) -> Option<f64>);

const FIGURES: [Figure; 9] = [
    ("average_top1", |report| report.summary.average_top1),
    ("average_task_il", |report| report.summary.average_task_il),
    ("average_top5", |report| report.summary.average_top5),
    ("forgetting", |report| report.summary.forgetting),
    ("bwt", |report| report.summary.bwt),
    ("fwt", |report| report.summary.fwt),
    ("total_s", |report| Some(report.time.total_s)),
    ("train_s", |report| Some(report.time.train_s)),
    ("samples_per_s", |report| report.time.samples_per_s),
];

impl Comparison<'_> {
    /// All epochs of all runs, a line each:
    /// `run,method,seed,task,epoch,train_loss,train_s,samples_per_s,task_1,task_2,…`.
    ///
    /// `run` is the [label](crate::Group::label) of the run's group. `task_i` is the top-1 accuracy
    /// on task i after the epoch, a fraction. Tasks and epochs are numbered from 1. A value that
    /// was not measured is empty.
    pub fn curves_csv(&self) -> String {
        let tasks = self.tasks();
        let mut csv = curves_head(tasks);
        for report in self.reports {
            let group = self
                .groups
                .iter()
                .find(|group| group.reports.iter().any(|other| std::ptr::eq(*other, report)));
            let run = group.map_or(&report.method, |group| &group.label);
            for (index, point) in report.curves.iter().enumerate() {
                let time = report.time.epochs.get(index).copied().unwrap_or_default();
                csv.push_str(&curves_line(run, &report.method, report.seed, point, time, tasks));
            }
        }
        csv
    }

    /// The figures of each group, a line each: `run,method,seeds`, and mean and sample standard
    /// deviation of each figure over the runs of the group, such as
    /// `average_top1_mean,average_top1_sd`.
    ///
    /// The figures are `average_top1` (class-IL), `average_task_il`, `average_top5`, `forgetting`,
    /// `bwt`, `fwt` (fractions), `total_s`, `train_s` (seconds), and `samples_per_s`. The deviation
    /// of a single run is empty.
    pub fn summary_csv(&self) -> String {
        let names = FIGURES.map(|(name, _)| format!(",{name}_mean,{name}_sd")).concat();
        let mut csv = format!("run,method,seeds{names}\n");
        for group in &self.groups {
            let cells = FIGURES.map(|(_, figure)| match group.mean(figure) {
                Some(MeanSd { mean, sd, .. }) => format!(",{mean},{}", cell(sd)),
                None => ",,".into(),
            });
            let (label, method) = (text(&group.label), text(group.method()));
            let seeds = group.reports.len();
            csv.push_str(&format!("{label},{method},{seeds}{}\n", cells.concat()));
        }
        csv
    }
}

/// The first line of [`Comparison::curves_csv`].
pub(crate) fn curves_head(tasks: usize) -> String {
    let tasks: String = (1..=tasks).map(|task| format!(",task_{task}")).collect();
    format!("run,method,seed,task,epoch,train_loss,train_s,samples_per_s{tasks}\n")
}

/// The line of an epoch.
pub(crate) fn curves_line(
    run: &str,
    method: &str,
    seed: u64,
    point: &CurvePoint,
    time: EpochTime,
    tasks: usize,
) -> String {
    let (run, method) = (text(run), text(method));
    let (task, epoch, loss) = (point.task + 1, point.epoch, cell(point.train_loss));
    let seconds = cell(Some(time.train_s).filter(|&seconds| seconds > 0.0));
    let rate = cell(time.samples_per_s());
    let top1 = |task: usize| format!(",{}", cell(point.top1.get(task).copied().flatten()));
    let top1: String = (0..tasks).map(top1).collect();
    format!("{run},{method},{seed},{task},{epoch},{loss},{seconds},{rate}{top1}\n")
}

fn cell(value: Option<f64>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

/// A text as a cell, quoted if RFC 4180 requires it.
fn text(text: &str) -> Cow<'_, str> {
    if text.contains(['"', ',', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\"")).into()
    } else {
        text.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{compare, report};
    use burn_rehearsal_train::epoch::Epoch;

    fn points() -> Vec<CurvePoint> {
        vec![
            CurvePoint { task: 0, epoch: Epoch::FIRST, train_loss: None, top1: Vec::new() },
            CurvePoint {
                task: 0,
                epoch: Epoch::FIRST.next(),
                train_loss: Some(0.5),
                top1: vec![Some(0.75), None],
            },
        ]
    }

    #[test]
    fn each_epoch_is_a_line_with_a_cell_for_each_column() {
        let mut run = report("rehearsal", 2, 7);
        run.curves = points();
        run.time.epochs = vec![EpochTime { train_s: 0.5, samples: 100 }];
        let csv = compare(&[run]).curves_csv();
        let head = "run,method,seed,task,epoch,train_loss,train_s,samples_per_s,task_1,task_2";
        assert_eq!(
            csv,
            format!(
                "{head}\nrehearsal,rehearsal,7,1,1,,0.5,200,,\nrehearsal,rehearsal,7,1,2,0.5,,,0.75,\n"
            )
        );
    }

    #[test]
    fn the_summary_has_a_line_for_each_configuration() {
        let mut reports: Vec<_> = (0..3).map(|seed| report("rehearsal", 2, seed)).collect();
        let mut other = report("rehearsal", 2, 0);
        other.config["rehearsal"]["policy"] = "fifo".into();
        reports.push(other);
        let curves = compare(&reports).curves_csv();
        let runs: Vec<_> = curves
            .lines()
            .skip(1)
            .filter_map(|line| line.split_once(','))
            .map(|(run, _)| run)
            .collect();
        assert_eq!(
            runs,
            [
                "rehearsal policy=class-balanced",
                "rehearsal policy=class-balanced",
                "rehearsal policy=class-balanced",
                "rehearsal policy=fifo"
            ]
        );
        let summary = compare(&reports).summary_csv();
        let lines: Vec<Vec<_>> = summary.lines().map(|line| line.split(',').collect()).collect();
        assert_eq!((lines.len(), lines[1][2], lines[2][2]), (3, "3", "1"));
        let column = lines[0].iter().position(|name| *name == "total_s_mean").unwrap();
        assert_eq!(lines[0][column + 1], "total_s_sd");
        assert_eq!(
            lines[0][3..6],
            ["average_top1_mean", "average_top1_sd", "average_task_il_mean"]
        );
        assert!(lines[2][5].parse::<f64>().unwrap() > lines[2][3].parse::<f64>().unwrap());
        let number = |line: usize, column: usize| lines[line][column].parse::<f64>().unwrap();
        assert!(
            (number(1, column) - 19.8).abs() < 1e-9 && (number(1, column + 1) - 0.2).abs() < 1e-9,
            "{summary}"
        );
        assert_eq!((number(2, column), lines[2][column + 1]), (20.0, ""));
        assert!(lines.iter().all(|line| line.len() == lines[0].len()));
    }

    #[test]
    fn a_text_with_commas_or_quotes_stays_one_cell() {
        assert_eq!(text("rehearsal data=folder:a,\"b\""), "\"rehearsal data=folder:a,\"\"b\"\"\"");
    }
}
