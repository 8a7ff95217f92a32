//! The figures over epochs: training loss and, if it was measured within tasks, accuracy.

use crate::canvas::{
    Align, Canvas, FAINT, GRID, INK, MARGIN, Swatch, WIDTH, count, grid_step, text_width, to_pixels,
};
use crate::{Comparison, Group};
use burn_rehearsal_train::metrics::mean_sd;
use burn_rehearsal_train::report::RunReport;
use burn_rehearsal_train::report::schema::CurvePoint;
use std::collections::BTreeMap;

/// Space to the left of the axes for numbers, above them for the title, and below them for numbers
/// and name.
const LEFT: i32 = 44;
const ABOVE: i32 = 40;
const BELOW: i32 = 50;

impl Comparison<'_> {
    /// The mean training loss of each epoch as an SVG figure: a line for each group, and the
    /// borders between tasks.
    ///
    /// An epoch whose loss was not finite is a gap. Groups of several runs are shown as their mean.
    /// The figure is 1000 pixels wide, needs no other file, and follows the viewer's light or dark
    /// color scheme.
    pub fn loss_svg(&self) -> String {
        let lines = self.lines(|point| point.train_loss);
        let highest =
            lines.iter().flatten().fold(0.0, |highest: f64, (_, loss)| highest.max(*loss));
        let step = grid_step(highest, 5.0);
        let ceiling = (highest / step).ceil().max(1.0) * step;
        let title = "Mean training loss of each epoch";
        self.epochs_figure(
            "loss",
            300,
            &[Panel { title, lines, step, ceiling, unit: 1.0, gaps: true }],
        )
    }

    /// Top-1 accuracy after each epoch in which it was measured, as an SVG figure with a line for
    /// each group.
    ///
    /// Left: the average over the tasks seen so far. Right: the first task. Groups of several runs
    /// are shown as their mean. The figure is 1000 pixels wide, needs no other file, and follows
    /// the viewer's light or dark color scheme.
    pub fn epochs_svg(&self) -> String {
        let panel = |title, lines| Panel {
            title,
            lines,
            step: 0.2,
            ceiling: 1.0,
            unit: 100.0,
            gaps: false,
        };
        let seen = self.lines(|point| {
            let seen: Option<Vec<f64>> = point.top1.get(..=point.task)?.iter().copied().collect();
            seen.map(|seen| seen.iter().sum::<f64>() / seen.len() as f64)
        });
        let first = self.lines(|point| point.top1.first().copied().flatten());
        self.epochs_figure(
            "epochs",
            260,
            &[
                panel("Top-1 accuracy, average over the tasks seen (%)", seen),
                panel("Top-1 accuracy on the first task (%)", first),
            ],
        )
    }

    /// Whether some run measured accuracies after an epoch that is not the last of its task.
    pub(crate) fn measured_within_tasks(&self) -> bool {
        let within = |points: &[CurvePoint]| {
            points.windows(2).any(|pair| pair[0].task == pair[1].task && !pair[0].top1.is_empty())
        };
        self.reports.iter().any(|report| within(&report.curves))
    }

    /// A line for each group: the mean over those of its runs that have a value.
    fn lines(&self, value: impl Fn(&CurvePoint) -> Option<f64>) -> Vec<Line> {
        let axis = Axis::of(self.reports);
        let line = |group: &Group<'_>| {
            let mut line: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
            for point in group.reports.iter().flat_map(|report| &report.curves) {
                line.entry(axis.position(point)).or_default().extend(value(point));
            }
            let mean = |(epoch, values): (_, Vec<f64>)| Some((epoch, mean_sd(&values)?.mean));
            line.into_iter().filter_map(mean).collect()
        };
        self.groups.iter().map(line).collect()
    }

    /// Panels of axes side by side below a legend. The axes are `height` pixels high.
    fn epochs_figure(&self, name: &str, height: i32, panels: &[Panel]) -> String {
        let axis = Axis::of(self.reports);
        let legend = self.legend(Swatch::Line, WIDTH);
        let top = MARGIN + legend.height;
        let titles: Vec<_> = panels.iter().map(|panel| panel.title).collect();
        let groups: Vec<_> = self.groups.iter().map(Group::title).collect();
        let mut canvas = Canvas::new(
            name,
            &titles.join("; "),
            &format!("A line for each of: {}. {} epochs.", groups.join(", "), axis.epochs),
            (WIDTH, top + ABOVE + height + BELOW),
        );
        legend.draw(&mut canvas, MARGIN);
        let width = WIDTH / count(panels.len());
        for (index, panel) in panels.iter().enumerate() {
            let corner = (width * count(index), top);
            panel.draw(&mut canvas, corner, (width, height), &axis, self);
        }
        canvas.finish()
    }
}

/// The axis of epochs: one task after the other, each as long as in the longest of all runs.
struct Axis {
    /// The epochs before each task.
    tasks: BTreeMap<usize, usize>,
    /// The epochs of all tasks.
    epochs: usize,
}

impl Axis {
    fn of(reports: &[RunReport]) -> Self {
        let mut lengths = BTreeMap::new();
        for point in reports.iter().flat_map(|report| &report.curves) {
            let length = lengths.entry(point.task).or_insert(0);
            *length = point.epoch.number().max(*length);
        }
        let (mut tasks, mut epochs) = (BTreeMap::new(), 0_usize);
        for (task, length) in lengths {
            tasks.insert(task, epochs);
            epochs = length.saturating_add(epochs);
        }
        Self { tasks, epochs }
    }

    /// The position of an epoch, from 1.
    fn position(&self, point: &CurvePoint) -> usize {
        self.tasks[&point.task].saturating_add(point.epoch.number())
    }
}

/// A line: positions of epochs, in order, and its values.
type Line = Vec<(usize, f64)>;

/// One pair of axes.
struct Panel {
    title: &'static str,
    /// One for each group.
    lines: Vec<Line>,
    /// The distance of grid lines, and the highest one.
    step: f64,
    ceiling: f64,
    /// The factor between values and the numbers on the axis.
    unit: f64,
    /// Whether an epoch without a value interrupts a line.
    gaps: bool,
}

impl Panel {
    /// Draws the panel with its upper left corner at `corner`; its axes are `size.1` pixels high.
    fn draw(
        &self,
        canvas: &mut Canvas,
        corner: (i32, i32),
        size: (i32, i32),
        axis: &Axis,
        comparison: &Comparison<'_>,
    ) {
        canvas.text(self.title, (corner.0 + MARGIN, corner.1 + 14), 14, Align::Start, INK);
        let (left, right) = (corner.0 + MARGIN + LEFT, corner.0 + size.0 - 24);
        let (top, bottom) = (corner.1 + ABOVE, corner.1 + ABOVE + size.1);
        let y = |value: f64| {
            to_pixels(f64::from(bottom) - value / self.ceiling * f64::from(bottom - top))
        };
        let pitch = f64::from(right - left) / axis.epochs.max(1) as f64;
        let x = |epochs: usize| to_pixels(f64::from(left) + epochs as f64 * pitch);
        let step = self.step * self.unit;
        let digits = (-step.log10().floor()).max(0.0) as usize;
        for line in 0..=(self.ceiling / self.step).round() as i32 {
            let level = y(f64::from(line) * self.step);
            canvas.line(&[(left, level), (right, level)], GRID, 1);
            let number = format!("{:.digits$}", f64::from(line) * step);
            canvas.text(&number, (left - 8, level), 11, Align::End, INK);
        }
        // A name that would overlap with the next task is left out.
        let mut starts = axis.tasks.iter().map(|(task, &epochs)| (task, x(epochs))).peekable();
        while let Some((task, start)) = starts.next() {
            canvas.line(&[(start, top), (start, bottom)], GRID, 2);
            let name = format!("task {}", task + 1);
            if starts.peek().map_or(right, |next| next.1) - start > text_width(&name, 11) {
                canvas.text(&name, (start + 4, top - 9), 11, Align::Start, FAINT);
            }
        }
        canvas.line(&[(left, bottom), (right, bottom)], INK, 1);
        let numbers = 10.0 * f64::from(size.0) / f64::from(WIDTH);
        let every = grid_step(axis.epochs as f64, numbers).max(1.0) as usize;
        for epoch in (0..=axis.epochs).step_by(every) {
            canvas.line(&[(x(epoch), bottom), (x(epoch), bottom + 4)], INK, 1);
            canvas.text(&epoch.to_string(), (x(epoch), bottom + 14), 11, Align::Middle, INK);
        }
        let name = "epochs, over all tasks";
        canvas.text(name, ((left + right) / 2, bottom + 34), 12, Align::Middle, INK);
        for (line, color) in self.lines.iter().zip(comparison.colors()) {
            for part in line.chunk_by(|(a, _), (b, _)| !self.gaps || a + 1 == *b) {
                let point =
                    |&(epoch, value): &(usize, f64)| (x(epoch), y(value.clamp(0.0, self.ceiling)));
                match part.iter().map(point).collect::<Vec<_>>()[..] {
                    [(x, y)] => canvas.rectangle((x - 2, y - 2), (4, 4), color),
                    ref points => canvas.line(points, color, 2),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{assert_well_formed, compare, polylines, texts, three_methods};
    use burn_rehearsal_train::epoch::Epoch;

    /// Three runs whose epochs have this task, number, loss, and accuracies.
    fn with(points: &[(usize, usize, Option<f64>, &[f64])]) -> Vec<RunReport> {
        let mut reports = three_methods(2);
        for report in &mut reports {
            let point = |&(task, number, train_loss, top1): &(_, _, _, &[f64])| CurvePoint {
                task,
                epoch: Epoch::from_number(number),
                train_loss,
                top1: top1.iter().copied().map(Some).collect(),
            };
            report.curves = points.iter().map(point).collect();
        }
        reports
    }

    #[test]
    fn each_method_has_a_line_and_each_task_a_border() {
        let svg = compare(&with(&[
            (0, 1, Some(2.0), &[]),
            (0, 2, None, &[]),
            (1, 1, Some(1.5), &[]),
            (1, 2, Some(0.5), &[]),
        ]))
        .loss_svg();
        assert_well_formed(&svg);
        for text in ["incremental", "rehearsal", "scratch", "task 1", "task 2", "4"] {
            assert!(texts(&svg).iter().any(|found| found == text), "{text}");
        }
    }

    #[test]
    fn a_line_shows_that_the_first_task_is_forgotten() {
        let without = with(&[
            (0, 1, None, &[]),
            (0, 2, None, &[0.9, 0.0]),
            (1, 1, None, &[]),
            (1, 2, None, &[0.2, 0.9]),
        ]);
        assert!(!compare(&without).measured_within_tasks());
        let mut within = with(&[
            (0, 1, None, &[0.5, 0.0]),
            (0, 2, None, &[1.0, 0.0]),
            (1, 1, None, &[0.4, 0.7]),
            (1, 2, None, &[0.0, 0.9]),
        ]);
        // Only incremental training forgets the first task.
        for report in within.iter_mut().filter(|report| report.method != "incremental") {
            report.curves[2..].iter_mut().for_each(|point| point.top1[0] = Some(1.0));
        }
        let comparison = compare(&within);
        assert!(comparison.measured_within_tasks());
        let svg = comparison.epochs_svg();
        assert_well_formed(&svg);
        for title in ["on the first task", "average over the tasks seen"] {
            assert!(texts(&svg).iter().any(|text| text.contains(title)), "{title}");
        }
        // The axes are 260 pixels high, from 0 to 100 %; the first task is the panel on the right.
        let heights = |class: &str| -> Vec<i32> {
            let lines = polylines(&svg, class);
            let first_task = lines.iter().find(|line| line.len() == 4 && line[0].0 > 500);
            let points = first_task.expect("there is no line of four epochs");
            assert!(points.windows(2).all(|pair| pair[0].0 < pair[1].0), "{points:?}");
            points.iter().map(|(_, y)| y - points[1].1).collect()
        };
        assert_eq!(heights("vermilion"), [130, 0, 156, 260], "incremental");
        for remembers in ["blue", "green"] {
            assert_eq!(heights(remembers), [130, 0, 0, 0], "{remembers}");
        }
    }

    #[test]
    fn an_epoch_is_at_its_number_if_earlier_ones_are_missing() {
        // The second run has only the last epoch of each task.
        let mut reports = with(&[
            (0, 1, Some(1.0), &[]),
            (0, 2, Some(1.0), &[]),
            (0, 3, Some(1.0), &[]),
            (1, 1, Some(1.0), &[]),
            (1, 3, Some(1.0), &[]),
        ]);
        for curves in reports[1..].iter_mut().map(|report| &mut report.curves) {
            curves.retain(|point| point.epoch.number() == 3);
        }
        let comparison = compare(&reports);
        let lines = comparison.lines(|point| point.train_loss);
        let epochs = |line: &Line| line.iter().map(|(epoch, _)| *epoch).collect::<Vec<_>>();
        assert_eq!((epochs(&lines[0]), epochs(&lines[1])), (vec![1, 2, 3, 4, 6], vec![3, 6]));
        let svg = comparison.loss_svg();
        assert!(texts(&svg).iter().any(|text| text == "6"), "six epochs on the axis");
    }

    #[test]
    fn a_loss_that_is_not_finite_is_a_gap_in_its_line() {
        let losses = [Some(1.0), Some(2.0), None, Some(1.0), Some(2.0)];
        let points: Vec<_> =
            losses.iter().zip(1..).map(|(&loss, number)| (0, number, loss, &[][..])).collect();
        let svg = compare(&with(&points)).loss_svg();
        // The first line is that of the legend.
        let epochs: Vec<_> = polylines(&svg, "blue").iter().skip(1).map(Vec::len).collect();
        assert_eq!(epochs, [2, 2], "{svg}");
    }

    #[test]
    fn runs_without_an_epoch_are_an_empty_figure() {
        let mut reports = three_methods(1);
        reports.iter_mut().for_each(|report| report.curves.clear());
        assert_well_formed(&compare(&reports).loss_svg());
        assert_well_formed(&compare(&[]).loss_svg());
    }
}
