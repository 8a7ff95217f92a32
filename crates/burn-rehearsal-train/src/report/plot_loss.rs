//! The figure of losses: how training went, epoch by epoch.

use super::layout::{Align, Canvas, FAINT, GRID, INK, count, grid_step, group_colors, text_width, to_pixels};
use super::schema::RunReport;
use super::{Group, ReportError, groups};

const FIGURE: &str = "loss";
const WIDTH: i32 = 1000;
/// Height of the axes alone.
const HEIGHT: i32 = 300;
const MARGIN: i32 = 16;
const LEGEND_LINE: i32 = 20;

/// One SVG with the mean training loss of every epoch, a line for each method, and the borders between tasks. Epochs whose loss was not finite
/// are gaps. Runs that differ only in their seed are shown as their mean. 1000 pixels wide.
///
/// # Errors
/// [`ReportError::NoReports`] without reports, [`ReportError::Draw`] if the drawing library fails.
pub fn loss_svg(reports: &[RunReport]) -> Result<String, ReportError> {
    let groups = groups(reports);
    if groups.is_empty() {
        return Err(ReportError::NoReports { figure: FIGURE });
    }
    let curves: Vec<Vec<Option<f64>>> = groups.iter().map(losses).collect();
    let epochs = curves.iter().map(Vec::len).max().unwrap_or(0);
    let highest = curves.iter().flatten().flatten().fold(0.0, |highest: f64, &loss| highest.max(loss));

    let top = 44 + LEGEND_LINE * count(groups.len());
    let (left, right, bottom) = (MARGIN + 44, WIDTH - 24, top + HEIGHT);
    let mut svg = String::new();
    let canvas = Canvas::new(FIGURE, &mut svg, WIDTH, bottom + 50)?;
    canvas.text("Mean training loss of each epoch", (MARGIN, 20), 14, Align::Start, INK)?;

    let step = grid_step(highest, 5.0);
    let ceiling = (highest / step).ceil().max(1.0) * step;
    let y = |loss: f64| to_pixels(f64::from(bottom) - loss / ceiling * f64::from(bottom - top));
    let x = |epoch: f64| to_pixels(f64::from(left) + epoch / epochs.max(1) as f64 * f64::from(right - left));
    // Half a step more than the ceiling, so that rounding does not lose the highest line.
    for line in (0i32..).map(|line| f64::from(line) * step).take_while(|loss| *loss <= ceiling + step / 2.0) {
        canvas.line(vec![(left, y(line)), (right, y(line))], GRID, 1)?;
        let digits = usize::from(step < 1.0) + usize::from(step < 0.1) + usize::from(step < 0.01);
        canvas.text(&format!("{line:.digits$}"), (left - 8, y(line)), 11, Align::End, INK)?;
    }
    for (epoch, task) in borders(&groups) {
        canvas.line(vec![(x(epoch as f64), top), (x(epoch as f64), bottom)], GRID, 2)?;
        let name = format!("task {}", task + 1);
        let room = x(epochs as f64 / groups.iter().map(Group::tasks).max().unwrap_or(1).max(1) as f64) - left;
        if room > text_width(&name, 11) {
            canvas.text(&name, (x(epoch as f64) + 4, top + 8), 11, Align::Start, FAINT)?;
        }
    }
    canvas.line(vec![(left, bottom), (right, bottom)], INK, 1)?;
    let every = grid_step(epochs as f64, 10.0).max(1.0) as usize;
    for epoch in (0..=epochs).step_by(every) {
        canvas.line(vec![(x(epoch as f64), bottom), (x(epoch as f64), bottom + 4)], INK, 1)?;
        canvas.text(&epoch.to_string(), (x(epoch as f64), bottom + 14), 11, Align::Middle, INK)?;
    }
    canvas.text("epochs", ((left + right) / 2, bottom + 34), 12, Align::Middle, INK)?;

    let colors = group_colors(&groups);
    for (index, ((group, curve), &color)) in groups.iter().zip(&curves).zip(&colors).enumerate() {
        let line = 44 + LEGEND_LINE * count(index);
        canvas.line(vec![(MARGIN + 4, line), (MARGIN + 34, line)], color, 2)?;
        canvas.text(&group.title(), (MARGIN + 42, line), 12, Align::Start, INK)?;
        let points: Vec<_> = curve.iter().enumerate().map(|(epoch, loss)| loss.map(|loss| (x(epoch as f64 + 1.0), y(loss)))).collect();
        for part in points.split(Option::is_none) {
            canvas.line(part.iter().flatten().copied().collect(), color, 2)?;
        }
    }
    canvas.finish()?;
    Ok(svg)
}

/// The loss after each epoch, over all tasks; the mean of those runs of the group that have one.
fn losses(group: &Group<'_>) -> Vec<Option<f64>> {
    let epochs = group.reports.iter().map(|report| report.curves.len()).max().unwrap_or(0);
    (0..epochs).map(|epoch| group.mean(|report| report.curves.get(epoch)?.train_loss).map(|mean| mean.mean)).collect()
}

/// The epoch before which each task begins, as the longest run has it.
fn borders(groups: &[Group<'_>]) -> Vec<(usize, usize)> {
    let longest = groups.iter().flat_map(|group| &group.reports).max_by_key(|report| report.curves.len());
    let Some(report) = longest else { return Vec::new() };
    let tasks: Vec<usize> = report.curves.iter().map(|point| point.task).collect();
    let first = |epoch: &usize| *epoch == 0 || tasks[*epoch - 1] != tasks[*epoch];
    (0..tasks.len()).filter(first).map(|epoch| (epoch, tasks[epoch])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixtures::{assert_well_formed, three_methods};
    use crate::report::schema::CurvePoint;

    #[test]
    fn every_method_has_a_line_and_every_task_its_border() {
        let mut reports = three_methods(2);
        for report in &mut reports {
            let point = |task, epoch, loss| CurvePoint { task, epoch, train_loss: loss, top1: Vec::new() };
            report.curves = vec![point(0, 0, Some(2.0)), point(0, 1, None), point(1, 0, Some(1.5)), point(1, 1, Some(0.5))];
        }
        let svg = loss_svg(&reports).unwrap();
        assert_well_formed(&svg);
        for text in ["incremental", "rehearsal", "scratch", "task 1", "task 2", "epochs"] {
            assert!(svg.contains(text), "{text}");
        }
    }

    #[test]
    fn runs_without_an_epoch_are_an_empty_figure() {
        let mut reports = three_methods(1);
        reports.iter_mut().for_each(|report| report.curves.clear());
        assert_well_formed(&loss_svg(&reports).unwrap());
        assert!(matches!(loss_svg(&[]), Err(ReportError::NoReports { .. })));
    }
}
