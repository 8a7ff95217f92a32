//! A table as plain text, for a terminal.

use crate::{Comparison, Group};
use burn_rehearsal_train::metrics::MeanSd;
use burn_rehearsal_train::report::RunReport;

/// The width in characters above which a table is transposed if that makes it narrower.
const WIDEST: usize = 100;

/// Stands for a figure that was not measured or is not defined.
pub(crate) const UNKNOWN: &str = "–";

impl<'a> Comparison<'a> {
    /// A table with a line for each run, as plain text.
    ///
    /// The columns are top-1 accuracy on each task after the last one, their average (class-IL),
    /// the average among the classes of each task (task-IL), forgetting (fractions), total time and
    /// training time in seconds, incoming training samples of all ranks per second and, if there is
    /// an incremental run, training time relative to it. If there are several incremental runs, the
    /// one with the most similar configuration is used.
    ///
    /// A table wider than 100 characters is transposed if that makes it narrower. The text ends
    /// with a line feed. Without reports it is empty.
    pub fn table(&self) -> String {
        let mut lines = Vec::new();
        for group in &self.groups {
            for &report in &group.reports {
                let label = match group.reports.len() {
                    1 => group.label.clone(),
                    _ => format!("{} seed {}", group.label, report.seed),
                };
                lines.push(Line {
                    group: Group { label, reports: vec![report] },
                    reference: self.reference(report).map(|other| other.time.train_s),
                });
            }
        }
        table(&lines)
    }

    /// Like [`table`](Self::table), with a line for each group: mean ± sample standard deviation
    /// over its runs. Relative times are ratios of mean times.
    pub fn merged_table(&self) -> String {
        let line = |group: &Group<'a>| Line {
            group: Group { label: group.title(), ..group.clone() },
            reference: self.reference_time(group),
        };
        table(&self.groups.iter().map(line).collect::<Vec<_>>())
    }
}

/// The runs behind one line of a table.
struct Line<'a> {
    group: Group<'a>,
    /// Training time of the incremental runs, in seconds.
    reference: Option<f64>,
}

/// Top-1 accuracy on `task` after the last task that was learned and evaluated.
fn last_top1(report: &RunReport, task: usize) -> Option<f64> {
    let matrix = &report.accuracy.top1;
    let last = matrix.learned().checked_sub(1)?;
    if task <= last { matrix.get(last, task) } else { None }
}

fn table(lines: &[Line<'_>]) -> String {
    if lines.is_empty() {
        return String::new();
    }
    let tasks = lines.iter().map(|line| line.group.tasks()).max().unwrap_or(0);
    let relative = lines.iter().any(|line| line.reference.is_some());

    let mut head = vec![String::new()];
    head.extend((1..=tasks).map(|task| format!("task {task}")));
    head.extend(["class-IL", "task-IL", "forgetting"].map(String::from));
    head.extend(["total s", "train s", "images/s"].map(String::from));
    head.extend(relative.then(|| "× incr.".into()));
    let mut grid = vec![head];
    for Line { group, reference } in lines {
        let mark = if group.complete() { "" } else { " *" };
        let mut cells = vec![format!("{}{mark}", group.label)];
        cells
            .extend((0..tasks).map(|task| figure(3, group.mean(|report| last_top1(report, task)))));
        cells.extend([
            figure(3, group.mean(|report| report.summary.average_top1)),
            figure(3, group.mean(|report| report.summary.average_task_il)),
            figure(3, group.mean(|report| report.summary.forgetting)),
            figure(1, group.mean(|report| Some(report.time.total_s))),
            figure(1, group.train_s()),
            figure(0, group.mean(|report| report.time.samples_per_s)),
        ]);
        if relative {
            let ratio = group.relative_time(*reference);
            cells.push(ratio.map_or(UNKNOWN.into(), |ratio| format!("{ratio:.2}")));
        }
        grid.push(cells);
    }

    let mut text = align(&grid);
    if width(&text) > WIDEST {
        let transposed = align(&transpose(&grid));
        if width(&transposed) < width(&text) {
            text = transposed;
        }
    }
    if lines.iter().any(|line| !line.group.complete()) {
        text.push_str("* interrupted: results until then\n");
    }
    text
}

/// A figure with this number of decimals.
pub(crate) fn figure(digits: usize, value: Option<MeanSd>) -> String {
    value.map_or(UNKNOWN.into(), |value| format!("{value:.digits$}"))
}

fn transpose(grid: &[Vec<String>]) -> Vec<Vec<String>> {
    let columns = grid.first().map_or(0, Vec::len);
    (0..columns).map(|column| grid.iter().map(|row| row[column].clone()).collect()).collect()
}

/// Width of the longest line, in characters.
fn width(text: &str) -> usize {
    text.lines().map(|line| line.chars().count()).max().unwrap_or(0)
}

/// The grid as text: the first column is aligned to the left, the others to the right. A rule
/// follows the head.
fn align(grid: &[Vec<String>]) -> String {
    let widths: Vec<usize> = transpose(grid)
        .iter()
        .map(|column| column.iter().map(|cell| width(cell)).max().unwrap_or(0))
        .collect();
    let cell = |(column, (text, &width)): (usize, (&String, &usize))| match column {
        0 => format!("{text:<width$}"),
        _ => format!("{text:>width$}"),
    };
    let line = |row: &Vec<String>| {
        let cells: Vec<_> = row.iter().zip(&widths).enumerate().map(cell).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    let mut lines: Vec<String> = grid.iter().map(line).collect();
    let rule = widths.iter().sum::<usize>() + 2 * (widths.len() - 1);
    lines.insert(1, format!("{}\n", "─".repeat(rule)));
    lines.concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{compare, report, three_methods};
    use burn_rehearsal_train::metrics::AccuracyMatrix;
    use burn_rehearsal_train::report::schema::Summary;

    #[test]
    fn three_methods_of_two_tasks_print_as_this_table() {
        let expected = [
            "             task 1  task 2  class-IL  task-IL  forgetting  total s  train s  images/s  × incr.",
            "───────────────────────────────────────────────────────────────────────────────────────────────",
            "incremental   0.050   0.990     0.520    0.919       0.941     10.0      9.0      1234     1.00",
            "rehearsal     0.951   0.980     0.965    0.978       0.029     20.0     18.0      1234     2.00",
            "scratch       0.985   0.985     0.985    0.985       0.000     60.0     54.0      1234     6.00",
        ];
        let text = compare(&three_methods(2)).table();
        assert_eq!(text.lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn relative_time_needs_an_incremental_run() {
        let text = compare(&[report("scratch", 2, 0)]).table();
        assert!(!text.contains('×'), "{text}");
    }

    #[test]
    fn a_wide_table_is_transposed() {
        let text = compare(&three_methods(20)).table();
        assert!(text.lines().all(|line| line.chars().count() <= WIDEST), "{text}");
        assert!(text.lines().any(|line| line.starts_with("task 20 ")), "{text}");
        let aligned: Vec<_> = text.lines().map(|line| line.chars().count()).collect();
        assert!(aligned.iter().all(|&width| width == aligned[0]), "{text}");
    }

    #[test]
    fn one_table_lists_seeds_and_the_other_merges_them() {
        let reports: Vec<_> = (0..3)
            .flat_map(|seed| [report("incremental", 2, seed), report("rehearsal", 2, seed)])
            .collect();
        let apart = compare(&reports).table();
        assert!((0..3).all(|seed| apart.contains(&format!("rehearsal seed {seed}"))), "{apart}");
        assert_eq!(
            apart.matches("2.00\n").count(),
            3,
            "each is compared with the incremental run of its seed: {apart}"
        );
        let merged = compare(&reports).merged_table();
        assert!(
            merged.contains("rehearsal (3 seeds)") && merged.contains("19.8 ± 0.2"),
            "{merged}"
        );
        assert!(!merged.contains("seed 0"), "{merged}");
    }

    #[test]
    fn runs_are_compared_with_the_incremental_run_of_the_same_work() {
        let mut reports = three_methods(2);
        reports.extend(three_methods(2));
        for other in &mut reports[3..] {
            other.config["data"] = "folder:pets".into();
            other.time.train_s *= if other.method == "incremental" { 10.0 } else { 5.0 };
        }
        for text in [compare(&reports).table(), compare(&reports).merged_table()] {
            let ratio = |line: &str| line.split_whitespace().last().map(str::to_string);
            let ratios: Vec<_> = text
                .lines()
                .filter(|line| line.starts_with("rehearsal"))
                .filter_map(ratio)
                .collect();
            assert_eq!(ratios, ["2.00", "1.00"], "{text}");
        }
    }

    #[test]
    fn an_interrupted_run_is_marked_and_has_dashes_for_missing_values() {
        let mut run = report("incremental", 2, 0);
        run.complete = false;
        run.accuracy.top1 = AccuracyMatrix::new(2);
        run.accuracy.top1.push_row(&[Some(0.75), Some(0.0)]).unwrap();
        run.accuracy.task_il = AccuracyMatrix::default();
        run.summary = Summary::of(&run.accuracy);
        let text = compare(&[run]).table();
        let line = text.lines().nth(2).unwrap();
        assert_eq!(
            line.split_whitespace().collect::<Vec<_>>(),
            ["incremental", "*", "0.750", "–", "0.750", "–", "–", "10.0", "9.0", "1234", "1.00"]
        );
        assert!(text.ends_with("* interrupted: results until then\n"));
    }

    #[test]
    fn no_reports_are_an_empty_table() {
        assert_eq!(
            (compare(&[]).table(), compare(&[]).merged_table()),
            (String::new(), String::new())
        );
    }
}
