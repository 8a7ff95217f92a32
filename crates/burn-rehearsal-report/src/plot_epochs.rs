//! The figures over epochs: training loss, and, where it was measured within tasks, accuracy.

use crate::layout::{Align, Canvas, FAINT, GRID, INK, count, grid_step, group_colors, text_width, to_pixels};
use crate::{FigureError, Group, groups};
use burn_rehearsal_train::report::schema::{CurvePoint, RunReport};
use plotters::style::RGBColor;

const WIDTH: i32 = 1000;
const MARGIN: i32 = 16;
const LEGEND_LINE: i32 = 20;
/// Left of the axes, for their numbers; above them, for the title; below them, for numbers and name.
const BESIDE: i32 = 44;
const ABOVE: i32 = 40;
const BELOW: i32 = 50;

/// One SVG with the mean training loss of every epoch, a line for each method, and the borders between tasks. Epochs whose loss was not finite
/// are gaps. Runs that differ only in their seed are shown as their mean. 1000 pixels wide.
///
/// # Errors
/// [`FigureError::NoReports`] without reports, [`FigureError::Draw`] if the drawing library fails.
pub fn loss_svg(reports: &[RunReport]) -> Result<String, FigureError> {
    let loss = |point: &CurvePoint| point.train_loss;
    draw("loss", reports, 300, |lines| {
        let highest = lines(&loss).iter().flatten().flatten().fold(0.0, |highest: f64, &loss| highest.max(loss));
        let step = grid_step(highest, 5.0);
        let ceiling = (highest / step).ceil().max(1.0) * step;
        vec![Panel { title: "Mean training loss of each epoch", lines: lines(&loss), step, ceiling, unit: 1.0, gaps: true }]
    })
}

/// Whether the accuracies of an epoch that is not the last of its task were measured in some run: `--evaluate-every`.
pub(super) fn measured_within_tasks(reports: &[RunReport]) -> bool {
    let within = |points: &[CurvePoint]| points.windows(2).any(|pair| pair[0].task == pair[1].task && !pair[0].top1.is_empty());
    reports.iter().any(|report| within(&report.curves))
}

/// One SVG with the top-1 accuracy after every epoch in which it was measured, a line for each method: on the left the average over the tasks seen so far, on
/// the right that on the first task. Runs that differ only in their seed are shown as their mean. 1000 pixels wide.
///
/// # Errors
/// [`FigureError::NoReports`] without reports, [`FigureError::Draw`] if the drawing library fails.
pub fn epochs_svg(reports: &[RunReport]) -> Result<String, FigureError> {
    let seen = |point: &CurvePoint| {
        let seen: Option<Vec<f64>> = point.top1.get(..=point.task)?.iter().copied().collect();
        seen.map(|seen| seen.iter().sum::<f64>() / seen.len() as f64)
    };
    let first = |point: &CurvePoint| point.top1.first().copied().flatten();
    draw("epochs", reports, 260, |lines| {
        let panel = |title, figure: &dyn Fn(&CurvePoint) -> Option<f64>| Panel {
            title,
            lines: lines(figure),
            step: 0.2,
            ceiling: 1.0,
            unit: 100.0,
            gaps: false,
        };
        vec![panel("Top-1 accuracy, average over the tasks seen (%)", &seen), panel("Top-1 accuracy on the first task (%)", &first)]
    })
}

/// A line: its value after each epoch.
type Line = Vec<Option<f64>>;
/// Gives a line for each group.
type Lines<'a> = dyn Fn(&dyn Fn(&CurvePoint) -> Option<f64>) -> Vec<Line> + 'a;

/// One pair of axes.
struct Panel {
    title: &'static str,
    /// One for each group.
    lines: Vec<Line>,
    /// From one line of the grid to the next, and the highest.
    step: f64,
    ceiling: f64,
    /// What a value is multiplied by to be written.
    unit: f64,
    /// Whether a missing value interrupts a line.
    gaps: bool,
}

fn draw(
    figure: &'static str,
    reports: &[RunReport],
    height: i32,
    panels: impl FnOnce(&Lines<'_>) -> Vec<Panel>,
) -> Result<String, FigureError> {
    let groups = groups(reports);
    if groups.is_empty() {
        return Err(FigureError::NoReports { figure });
    }
    let epochs = groups.iter().flat_map(|group| &group.reports).map(|report| report.curves.len()).max().unwrap_or(0);
    let panels = panels(&|value| groups.iter().map(|group| line(group, value)).collect());
    let colors = group_colors(&groups);
    let legend = Legend::of(&groups);
    let top = 16 + legend.rows * LEGEND_LINE;
    let mut svg = String::new();
    let canvas = Canvas::new(figure, &mut svg, WIDTH, top + ABOVE + height + BELOW)?;
    legend.draw(&canvas, &groups, &colors)?;
    let width = WIDTH / count(panels.len());
    for (index, panel) in panels.iter().enumerate() {
        let corner = (width * count(index), top);
        panel.draw(&canvas, corner, (width, height), epochs, &borders(&groups), &colors)?;
    }
    canvas.finish()?;
    Ok(svg)
}

impl Panel {
    /// Draws the panel with its upper left corner at `corner`; its axes are `size.1` pixels high.
    fn draw(
        &self,
        canvas: &Canvas<'_>,
        corner: (i32, i32),
        size: (i32, i32),
        epochs: usize,
        borders: &[(usize, usize)],
        colors: &[RGBColor],
    ) -> Result<(), FigureError> {
        canvas.text(self.title, (corner.0 + MARGIN, corner.1 + 14), 14, Align::Start, INK)?;
        let (left, right) = (corner.0 + MARGIN + BESIDE, corner.0 + size.0 - 24);
        let (top, bottom) = (corner.1 + ABOVE, corner.1 + ABOVE + size.1);
        let y = |value: f64| to_pixels(f64::from(bottom) - value / self.ceiling * f64::from(bottom - top));
        let x = |epoch: f64| to_pixels(f64::from(left) + epoch / epochs.max(1) as f64 * f64::from(right - left));
        // Half a step more than the ceiling, so that rounding does not lose the highest line.
        for line in (0i32..).map(|line| f64::from(line) * self.step).take_while(|value| *value <= self.ceiling + self.step / 2.0) {
            canvas.line(vec![(left, y(line)), (right, y(line))], GRID, 1)?;
            let step = self.step * self.unit;
            let digits = usize::from(step < 1.0) + usize::from(step < 0.1) + usize::from(step < 0.01);
            canvas.text(&format!("{:.digits$}", line * self.unit), (left - 8, y(line)), 11, Align::End, INK)?;
        }
        // The names of tasks that would run into the next one are left out.
        let mut free = left;
        for &(epoch, task) in borders {
            let at = x(epoch as f64);
            canvas.line(vec![(at, top), (at, bottom)], GRID, 2)?;
            let name = format!("task {}", task + 1);
            let next = borders.iter().find(|(other, _)| *other > epoch).map_or(right, |(other, _)| x(*other as f64));
            if at >= free && next - at > text_width(&name, 11) {
                canvas.text(&name, (at + 4, top - 9), 11, Align::Start, FAINT)?;
                free = at + text_width(&name, 11);
            }
        }
        canvas.line(vec![(left, bottom), (right, bottom)], INK, 1)?;
        let every = grid_step(epochs as f64, 10.0 * f64::from(size.0) / f64::from(WIDTH)).max(1.0) as usize;
        for epoch in (0..=epochs).step_by(every) {
            canvas.line(vec![(x(epoch as f64), bottom), (x(epoch as f64), bottom + 4)], INK, 1)?;
            canvas.text(&epoch.to_string(), (x(epoch as f64), bottom + 14), 11, Align::Middle, INK)?;
        }
        canvas.text("epochs, over all tasks", ((left + right) / 2, bottom + 34), 12, Align::Middle, INK)?;
        for (line, &color) in self.lines.iter().zip(colors) {
            for part in parts(line, self.gaps) {
                let points: Vec<_> =
                    part.iter().map(|&(epoch, value)| (x(epoch as f64 + 1.0), y(value.clamp(0.0, self.ceiling)))).collect();
                match points[..] {
                    [alone] => canvas.rectangle((alone.0 - 2, alone.1 - 2), (4, 4), color)?,
                    _ => canvas.line(points, color, 2)?,
                }
            }
        }
        Ok(())
    }
}

/// What is drawn in one go, as (epoch, value): missing values are `gaps`, or are left out.
fn parts(line: &Line, gaps: bool) -> Vec<Vec<(usize, f64)>> {
    let points: Vec<_> = line.iter().enumerate().map(|(epoch, value)| value.map(|value| (epoch, value))).collect();
    let parts: Vec<Vec<_>> = match gaps {
        true => points.split(Option::is_none).map(|part| part.iter().flatten().copied().collect()).collect(),
        false => vec![points.into_iter().flatten().collect()],
    };
    parts.into_iter().filter(|part| !part.is_empty()).collect()
}

/// The value after each epoch, over all tasks; the mean of those runs of the group that have one.
fn line(group: &Group<'_>, value: &dyn Fn(&CurvePoint) -> Option<f64>) -> Line {
    let epochs = group.reports.iter().map(|report| report.curves.len()).max().unwrap_or(0);
    (0..epochs).map(|epoch| group.mean(|report| value(report.curves.get(epoch)?)).map(|mean| mean.mean)).collect()
}

/// The epoch before which each task begins, as the longest run has it.
fn borders(groups: &[Group<'_>]) -> Vec<(usize, usize)> {
    let longest = groups.iter().flat_map(|group| &group.reports).max_by_key(|report| report.curves.len());
    let Some(report) = longest else { return Vec::new() };
    let tasks: Vec<usize> = report.curves.iter().map(|point| point.task).collect();
    let first = |epoch: &usize| *epoch == 0 || tasks[*epoch - 1] != tasks[*epoch];
    (0..tasks.len()).filter(first).map(|epoch| (epoch, tasks[epoch])).collect()
}

/// Which colour is which group, in as many lines as it takes.
struct Legend {
    /// Place of each group's entry: pixels from the left, and line.
    places: Vec<(i32, i32)>,
    rows: i32,
}

impl Legend {
    fn of(groups: &[Group<'_>]) -> Self {
        let (mut x, mut row) = (MARGIN, 0);
        let mut places = Vec::new();
        for group in groups {
            let width = 42 + text_width(&group.title(), 12) + 16;
            if x > MARGIN && x + width > WIDTH - MARGIN {
                (x, row) = (MARGIN, row + 1);
            }
            places.push((x, row));
            x += width;
        }
        Self { places, rows: row + 1 }
    }

    fn draw(&self, canvas: &Canvas<'_>, groups: &[Group<'_>], colors: &[RGBColor]) -> Result<(), FigureError> {
        for ((group, &(x, row)), &color) in groups.iter().zip(&self.places).zip(colors) {
            let y = 16 + row * LEGEND_LINE;
            canvas.line(vec![(x + 4, y), (x + 34, y)], color, 2)?;
            canvas.text(&group.title(), (x + 42, y), 12, Align::Start, INK)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{assert_well_formed, three_methods};

    fn with(points: &[(usize, Option<f64>, &[f64])]) -> Vec<RunReport> {
        let mut reports = three_methods(2);
        for report in &mut reports {
            let point = |(epoch, (task, loss, top1)): (usize, &(usize, Option<f64>, &[f64]))| CurvePoint {
                task: *task,
                epoch: epoch % 2,
                train_loss: *loss,
                top1: top1.iter().copied().map(Some).collect(),
            };
            report.curves = points.iter().enumerate().map(point).collect();
        }
        reports
    }

    #[test]
    fn every_method_has_a_line_and_every_task_its_border() {
        let svg = loss_svg(&with(&[(0, Some(2.0), &[]), (0, None, &[]), (1, Some(1.5), &[]), (1, Some(0.5), &[])])).unwrap();
        assert_well_formed(&svg);
        for text in ["incremental", "rehearsal", "scratch", "task 1", "task 2", "epochs"] {
            assert!(svg.contains(text), "{text}");
        }
    }

    #[test]
    fn accuracies_within_tasks_are_drawn_where_there_are_any() {
        let without = with(&[(0, None, &[]), (0, None, &[0.9, 0.0]), (1, None, &[]), (1, None, &[0.2, 0.9])]);
        assert!(!measured_within_tasks(&without));
        let within = with(&[(0, None, &[0.5, 0.0]), (0, None, &[0.9, 0.0]), (1, None, &[0.4, 0.7]), (1, None, &[0.2, 0.9])]);
        assert!(measured_within_tasks(&within));
        let svg = epochs_svg(&within).unwrap();
        assert_well_formed(&svg);
        // One line for each method and panel.
        let lines = svg.matches("<polyline").count() - svg.matches("#E1E1E1").count();
        assert!(lines >= 6 && svg.contains("on the first task") && svg.contains("average over the tasks seen"), "{lines} in {svg}");
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
        assert_well_formed(&loss_svg(&reports).unwrap());
        assert!(matches!(loss_svg(&[]), Err(FigureError::NoReports { .. })));
    }
}
