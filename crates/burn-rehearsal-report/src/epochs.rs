//! The figures over epochs: training loss, and, where it was measured within tasks, accuracy.

use crate::canvas::{
    Align, Canvas, Color, FAINT, GRID, INK, Legend, MARGIN, Swatch, WIDTH, count, grid_step,
    text_width, to_pixels,
};
use crate::{Comparison, Group};
use burn_rehearsal_train::report::schema::CurvePoint;

/// Left of the axes, for their numbers; above them, for the title; below them, for numbers and
/// name.
const BESIDE: i32 = 44;
const ABOVE: i32 = 40;
const BELOW: i32 = 50;

impl Comparison<'_> {
    /// The mean training loss of every epoch as an SVG: a line for each group, and the borders
    /// between tasks.
    ///
    /// An epoch whose loss was not finite is a gap. Groups of several runs are shown as their mean.
    /// The figure is 1000 pixels wide.
    pub fn loss_svg(&self) -> String {
        let lines = self.lines(&|point| point.train_loss);
        let highest =
            lines.iter().flatten().flatten().fold(0.0, |highest: f64, &loss| highest.max(loss));
        let step = grid_step(highest, 5.0);
        let ceiling = (highest / step).ceil().max(1.0) * step;
        self.epochs_figure(
            300,
            &[Panel {
                title: "Mean training loss of each epoch",
                lines,
                step,
                ceiling,
                unit: 1.0,
                gaps: true,
            }],
        )
    }

    /// Top-1 accuracy after every epoch in which it was measured, as an SVG with a line for each
    /// group.
    ///
    /// Left: the average over the tasks seen so far; right: the first task. Groups of several runs
    /// are shown as their mean. The figure is 1000 pixels wide.
    pub fn epochs_svg(&self) -> String {
        let panel = |title, lines| Panel {
            title,
            lines,
            step: 0.2,
            ceiling: 1.0,
            unit: 100.0,
            gaps: false,
        };
        let seen = self.lines(&|point| {
            let seen: Option<Vec<f64>> = point.top1.get(..=point.task)?.iter().copied().collect();
            seen.map(|seen| seen.iter().sum::<f64>() / seen.len() as f64)
        });
        let first = self.lines(&|point| point.top1.first().copied().flatten());
        let seen = panel("Top-1 accuracy, average over the tasks seen (%)", seen);
        self.epochs_figure(260, &[seen, panel("Top-1 accuracy on the first task (%)", first)])
    }

    /// Whether some run measured accuracies after an epoch that is not the last of its task.
    pub(crate) fn measured_within_tasks(&self) -> bool {
        let within = |points: &[CurvePoint]| {
            points.windows(2).any(|pair| pair[0].task == pair[1].task && !pair[0].top1.is_empty())
        };
        self.reports.iter().any(|report| within(&report.curves))
    }

    /// A line for each group.
    fn lines(&self, value: &dyn Fn(&CurvePoint) -> Option<f64>) -> Vec<Line> {
        self.groups.iter().map(|group| line(group, value)).collect()
    }

    /// Panels of axes side by side below a legend. The axes are `height` pixels high.
    fn epochs_figure(&self, height: i32, panels: &[Panel]) -> String {
        let epochs = self.reports.iter().map(|report| report.curves.len()).max().unwrap_or(0);
        let (colors, borders) = (self.colors(), self.borders());
        let legend = Legend::new(
            Swatch::Line,
            self.groups.iter().map(Group::title).zip(colors.iter().copied()),
        );
        let top = MARGIN + legend.height;
        let mut canvas = Canvas::new(WIDTH, top + ABOVE + height + BELOW);
        legend.draw(&mut canvas, MARGIN);
        let width = WIDTH / count(panels.len());
        for (index, panel) in panels.iter().enumerate() {
            panel.draw(
                &mut canvas,
                (width * count(index), top),
                (width, height),
                epochs,
                &borders,
                &colors,
            );
        }
        canvas.finish()
    }

    /// The epoch before which each task begins, and the task, in the longest run.
    fn borders(&self) -> Vec<(usize, usize)> {
        let Some(report) = self.reports.iter().max_by_key(|report| report.curves.len()) else {
            return Vec::new();
        };
        let tasks: Vec<usize> = report.curves.iter().map(|point| point.task).collect();
        let first = |epoch: &usize| *epoch == 0 || tasks[*epoch - 1] != tasks[*epoch];
        (0..tasks.len()).filter(first).map(|epoch| (epoch, tasks[epoch])).collect()
    }
}

/// A line: its value after each epoch.
type Line = Vec<Option<f64>>;

/// One pair of axes.
struct Panel {
    title: &'static str,
    /// One for each group.
    lines: Vec<Line>,
    /// From one line of the grid to the next, and the highest.
    step: f64,
    ceiling: f64,
    /// Factor of the values that are written on the axis.
    unit: f64,
    /// Whether a missing value interrupts a line.
    gaps: bool,
}

impl Panel {
    /// Draws the panel with its upper left corner at `corner`; its axes are `size.1` pixels high.
    fn draw(
        &self,
        canvas: &mut Canvas,
        corner: (i32, i32),
        size: (i32, i32),
        epochs: usize,
        borders: &[(usize, usize)],
        colors: &[Color],
    ) {
        canvas.text(self.title, (corner.0 + MARGIN, corner.1 + 14), 14, Align::Start, INK);
        let (left, right) = (corner.0 + MARGIN + BESIDE, corner.0 + size.0 - 24);
        let (top, bottom) = (corner.1 + ABOVE, corner.1 + ABOVE + size.1);
        let y = |value: f64| {
            to_pixels(f64::from(bottom) - value / self.ceiling * f64::from(bottom - top))
        };
        let x = |epoch: f64| {
            to_pixels(f64::from(left) + epoch / epochs.max(1) as f64 * f64::from(right - left))
        };
        // Half a step more than the ceiling, so that rounding does not lose the highest line.
        for line in (0i32..)
            .map(|line| f64::from(line) * self.step)
            .take_while(|value| *value <= self.ceiling + self.step / 2.0)
        {
            canvas.line(&[(left, y(line)), (right, y(line))], GRID, 1);
            let step = self.step * self.unit;
            let digits =
                usize::from(step < 1.0) + usize::from(step < 0.1) + usize::from(step < 0.01);
            canvas.text(
                &format!("{:.digits$}", line * self.unit),
                (left - 8, y(line)),
                11,
                Align::End,
                INK,
            );
        }
        // The names of tasks that would run into the next one are left out.
        let mut free = left;
        for &(epoch, task) in borders {
            let at = x(epoch as f64);
            canvas.line(&[(at, top), (at, bottom)], GRID, 2);
            let name = format!("task {}", task + 1);
            let next = borders
                .iter()
                .find(|(other, _)| *other > epoch)
                .map_or(right, |(other, _)| x(*other as f64));
            if at >= free && next - at > text_width(&name, 11) {
                canvas.text(&name, (at + 4, top - 9), 11, Align::Start, FAINT);
                free = at + text_width(&name, 11);
            }
        }
        canvas.line(&[(left, bottom), (right, bottom)], INK, 1);
        let every =
            grid_step(epochs as f64, 10.0 * f64::from(size.0) / f64::from(WIDTH)).max(1.0) as usize;
        for epoch in (0..=epochs).step_by(every) {
            canvas.line(&[(x(epoch as f64), bottom), (x(epoch as f64), bottom + 4)], INK, 1);
            canvas.text(&epoch.to_string(), (x(epoch as f64), bottom + 14), 11, Align::Middle, INK);
        }
        canvas.text(
            "epochs, over all tasks",
            ((left + right) / 2, bottom + 34),
            12,
            Align::Middle,
            INK,
        );
        for (line, &color) in self.lines.iter().zip(colors) {
            for part in parts(line, self.gaps) {
                let points: Vec<_> = part
                    .iter()
                    .map(|&(epoch, value)| {
                        (x(epoch as f64 + 1.0), y(value.clamp(0.0, self.ceiling)))
                    })
                    .collect();
                match points[..] {
                    [alone] => canvas.rectangle((alone.0 - 2, alone.1 - 2), (4, 4), color),
                    _ => canvas.line(&points, color, 2),
                }
            }
        }
    }
}

/// The parts of a line that are drawn without interruption, as (epoch, value). Missing values are
/// `gaps`, or are left out.
fn parts(line: &Line, gaps: bool) -> Vec<Vec<(usize, f64)>> {
    let points: Vec<_> =
        line.iter().enumerate().map(|(epoch, value)| value.map(|value| (epoch, value))).collect();
    let parts: Vec<Vec<_>> = match gaps {
        true => points
            .split(Option::is_none)
            .map(|part| part.iter().flatten().copied().collect())
            .collect(),
        false => vec![points.into_iter().flatten().collect()],
    };
    parts.into_iter().filter(|part| !part.is_empty()).collect()
}

/// The value after each epoch, over all tasks; the mean of those runs of the group that have one.
fn line(group: &Group<'_>, value: &dyn Fn(&CurvePoint) -> Option<f64>) -> Line {
    let epochs = group.reports.iter().map(|report| report.curves.len()).max().unwrap_or(0);
    (0..epochs)
        .map(|epoch| group.mean(|report| value(report.curves.get(epoch)?)).map(|mean| mean.mean))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{assert_well_formed, compare, three_methods};
    use burn_rehearsal_train::epoch::Epoch;

    fn with(
        points: &[(usize, Option<f64>, &[f64])],
    ) -> Vec<burn_rehearsal_train::report::RunReport> {
        let mut reports = three_methods(2);
        for report in &mut reports {
            let point =
                |(epoch, (task, loss, top1)): (usize, &(usize, Option<f64>, &[f64]))| CurvePoint {
                    task: *task,
                    epoch: Epoch::from_index(epoch % 2),
                    train_loss: *loss,
                    top1: top1.iter().copied().map(Some).collect(),
                };
            report.curves = points.iter().enumerate().map(point).collect();
        }
        reports
    }

    #[test]
    fn every_method_has_a_line_and_every_task_its_border() {
        let svg = compare(&with(&[
            (0, Some(2.0), &[]),
            (0, None, &[]),
            (1, Some(1.5), &[]),
            (1, Some(0.5), &[]),
        ]))
        .loss_svg();
        assert_well_formed(&svg);
        for text in ["incremental", "rehearsal", "scratch", "task 1", "task 2", "epochs"] {
            assert!(svg.contains(text), "{text}");
        }
    }

    #[test]
    fn accuracies_within_tasks_are_drawn_where_there_are_any() {
        let without =
            with(&[(0, None, &[]), (0, None, &[0.9, 0.0]), (1, None, &[]), (1, None, &[0.2, 0.9])]);
        assert!(!compare(&without).measured_within_tasks());
        let within = with(&[
            (0, None, &[0.5, 0.0]),
            (0, None, &[0.9, 0.0]),
            (1, None, &[0.4, 0.7]),
            (1, None, &[0.2, 0.9]),
        ]);
        assert!(compare(&within).measured_within_tasks());
        let svg = compare(&within).epochs_svg();
        assert_well_formed(&svg);
        // One line for each method and panel.
        let lines = svg.matches("<polyline").count() - svg.matches("#E1E1E1").count();
        assert!(
            lines >= 6
                && svg.contains("on the first task")
                && svg.contains("average over the tasks seen"),
            "{lines} in {svg}"
        );
    }

    #[test]
    fn a_missing_loss_is_a_gap_and_an_accuracy_measured_now_and_then_is_one_line() {
        let line: Line = vec![Some(1.0), Some(2.0), None, Some(3.0)];
        assert_eq!(parts(&line, true), [vec![(0, 1.0), (1, 2.0)], vec![(3, 3.0)]]);
        assert_eq!(parts(&line, false), [vec![(0, 1.0), (1, 2.0), (3, 3.0)]]);
        assert!(parts(&vec![None], true).is_empty() && parts(&vec![None], false).is_empty());
    }

    #[test]
    fn runs_without_an_epoch_are_an_empty_figure() {
        let mut reports = three_methods(1);
        reports.iter_mut().for_each(|report| report.curves.clear());
        assert_well_formed(&compare(&reports).loss_svg());
        assert_well_formed(&compare(&[]).loss_svg());
    }
}
