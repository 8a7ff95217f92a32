//! The figure of accuracies: average accuracy as tasks arrive, and the accuracy matrix of each
//! method.

use crate::canvas::{
    Align, Canvas, FAINT, GRID, INK, LEVEL, Legend, MARGIN, Swatch, WIDTH, count, text_width,
    to_pixels,
};
use crate::table::figure;
use crate::{Comparison, Group};

/// Smallest width and height of the curves with their axes, below the legend.
const CURVES: (i32, i32) = (440, 420);
/// Space above the cells of a heat map, for its title and the numbers of the columns.
const ABOVE: i32 = 42;
/// Space below the cells of a heat map.
const BELOW: i32 = 16;
/// Space to the left of the cells of a heat map, for the numbers of the rows.
const LEFT: i32 = 28;

impl Comparison<'_> {
    /// Accuracies as an SVG figure.
    ///
    /// First: average top-1 accuracy over the tasks seen against the number of tasks learned, a
    /// line for each group. Then: the [accuracy matrix] of each group as a heat map in per cent
    /// (row: after this task, column: on this task). Groups of several runs are shown as their
    /// mean; error bars are ± one sample standard deviation. The figure is 1000 pixels wide with up
    /// to 40 tasks.
    ///
    /// The figure needs no other file. It has a title and a description for screen readers, and
    /// follows the viewer's light or dark color scheme.
    ///
    /// [accuracy matrix]: burn_rehearsal_train::metrics::AccuracyMatrix
    pub fn accuracy_svg(&self) -> String {
        let maps = Maps::plan(self, WIDTH - CURVES.0);
        // Many or large maps are below the curves rather than next to them.
        let below = maps.height() > CURVES.1 + 40;
        let maps = if below { Maps::plan(self, WIDTH + MARGIN) } else { maps };
        let (left, width) = match below {
            true => (WIDTH, WIDTH.max(maps.width() - MARGIN)),
            false => {
                let width = WIDTH.max(CURVES.0 + maps.width());
                (width - maps.width(), width)
            }
        };
        let legend = self.legend(Swatch::Marker, left);
        let height = CURVES.1 + legend.height;
        let corner = if below { (0, height) } else { (left, 0) };
        let mut canvas = Canvas::new(
            "accuracy",
            "Accuracy as tasks are learned",
            &self.describe_accuracy(),
            (width, height.max(corner.1 + maps.height())),
        );
        curves(&mut canvas, self, &legend, (left, height));
        maps.draw(&mut canvas, &self.groups, corner);
        canvas.finish()
    }

    /// The figure of accuracies in words.
    fn describe_accuracy(&self) -> String {
        let group = |group: &Group<'_>| {
            let accuracy =
                figure(1, group.mean(|report| Some(100.0 * report.summary.average_top1?)));
            let forgetting =
                figure(1, group.mean(|report| Some(100.0 * report.summary.forgetting?)));
            format!(" {}: average accuracy {accuracy} %, forgetting {forgetting} %.", group.title())
        };
        let groups: String = self.groups.iter().map(group).collect();
        format!("Top-1 accuracy after {} tasks, on all of them.{groups}", self.tasks())
    }
}

/// Draws the curves in the upper left corner, in a part of the figure of this size.
fn curves(canvas: &mut Canvas, comparison: &Comparison<'_>, legend: &Legend, size: (i32, i32)) {
    let title = "Average top-1 accuracy over the tasks seen (%)";
    canvas.text(title, (MARGIN, 20), 14, Align::Start, INK);
    legend.draw(canvas, 44);

    let (left, right) = (MARGIN + 34, size.0 - 24);
    let (top, bottom) = (52 + legend.height, size.1 - 46);
    let tasks = comparison.tasks();
    let y = |fraction: f64| {
        to_pixels(f64::from(bottom) - fraction.clamp(0.0, 1.0) * f64::from(bottom - top))
    };
    // Half a step on both sides keeps markers off the axes and puts a single task in the middle.
    let step = f64::from(right - left) / tasks.max(1) as f64;
    let x = |task: usize| to_pixels(f64::from(left) + (task as f64 + 0.5) * step);

    for percent in (0..=100).step_by(20) {
        let level = y(f64::from(percent) / 100.0);
        canvas.line(&[(left, level), (right, level)], GRID, 1);
        canvas.text(&percent.to_string(), (left - 8, level), 11, Align::End, INK);
    }
    canvas.line(&[(left, bottom), (right, bottom)], INK, 1);
    // With many tasks, only some numbers have room.
    let every = (f64::from(text_width("000", 11)) / step).ceil().max(1.0) as usize;
    for task in (0..tasks).filter(|task| (task + 1) % every == 0) {
        canvas.line(&[(x(task), bottom), (x(task), bottom + 4)], INK, 1);
        canvas.text(&(task + 1).to_string(), (x(task), bottom + 14), 11, Align::Middle, INK);
    }
    canvas.text("tasks learned", ((left + right) / 2, bottom + 34), 12, Align::Middle, INK);

    for (index, (group, color)) in comparison.groups.iter().zip(comparison.colors()).enumerate() {
        let averages: Vec<_> = (0..tasks)
            .filter_map(|task| {
                Some((x(task), group.mean(|report| report.accuracy.top1.average_after(task))?))
            })
            .collect();
        let points: Vec<_> = averages.iter().map(|(x, average)| (*x, y(average.mean))).collect();
        canvas.line(&points, color, 2);
        for (x, average) in averages {
            if let Some(sd) = average.sd {
                let (low, high) = (y(average.mean - sd), y(average.mean + sd));
                canvas.line(&[(x, low), (x, high)], color, 1);
                for end in [low, high] {
                    canvas.line(&[(x - 4, end), (x + 4, end)], color, 1);
                }
            }
            canvas.marker((x, y(average.mean)), index, color);
        }
    }
}

/// The layout of the heat maps, in rows of equal panels.
struct Maps {
    /// Size of a cell.
    cell: (i32, i32),
    /// Size of a panel: title, numbers, cells and gap.
    panel: (i32, i32),
    columns: i32,
    rows: i32,
}

impl Maps {
    /// Space above the first row of panels, for a title of two lines.
    const HEAD: i32 = 58;

    /// The layout for this width, or for the width of one panel if that is larger.
    fn plan(comparison: &Comparison<'_>, width: i32) -> Self {
        let groups = &comparison.groups;
        let tasks = count(comparison.tasks()).max(1);
        // With many tasks cells shrink as far as "100" fits.
        let cell = ((240 / tasks).clamp(23, 40), (180 / tasks).clamp(17, 26));
        let title = groups.iter().map(|group| text_width(&group.title(), 12)).max().unwrap_or(0);
        let panel = (LEFT + (tasks * cell.0).max(title) + MARGIN, ABOVE + tasks * cell.1 + BELOW);
        let columns = (width / panel.0).clamp(1, count(groups.len()).max(1));
        Self { cell, panel, columns, rows: (count(groups.len()) + columns - 1) / columns }
    }

    /// Width of all panels, at least that of the title above them.
    fn width(&self) -> i32 {
        (self.columns * self.panel.0).max(320)
    }

    fn height(&self) -> i32 {
        Self::HEAD + self.rows * self.panel.1
    }

    /// Draws the maps with their upper left corner at `corner`.
    fn draw(&self, canvas: &mut Canvas, groups: &[Group<'_>], corner: (i32, i32)) {
        let (left, top) = (corner.0.max(MARGIN), corner.1);
        canvas.text("Top-1 accuracy on every task (%)", (left, top + 20), 14, Align::Start, INK);
        let axes = "row: after this task, column: on this task";
        canvas.text(axes, (left, top + 40), 11, Align::Start, FAINT);
        for (index, group) in groups.iter().enumerate() {
            let index = count(index);
            let x = corner.0 + index % self.columns * self.panel.0;
            let y = corner.1 + Self::HEAD + index / self.columns * self.panel.1;
            self.panel(canvas, group, (x, y));
        }
    }

    /// One heat map, its panel's upper left corner at `corner`.
    fn panel(&self, canvas: &mut Canvas, group: &Group<'_>, corner: (i32, i32)) {
        let (left, top) = (corner.0 + LEFT, corner.1 + ABOVE);
        let size = if self.cell.0 < 30 { 10 } else { 12 };
        canvas.text(&group.title(), (left, corner.1 + 10), 12, Align::Start, INK);
        for row in 0..group.tasks() {
            let y = top + count(row) * self.cell.1;
            let x = left + count(row) * self.cell.0;
            let number = (row + 1).to_string();
            canvas.text(&number, (left - 6, y + self.cell.1 / 2), size, Align::End, FAINT);
            canvas.text(&number, (x + self.cell.0 / 2, top - 9), size, Align::Middle, FAINT);
            for column in 0..group.tasks() {
                let x = left + count(column) * self.cell.0;
                let accuracy = group.mean(|report| report.accuracy.top1.get(row, column));
                // A pixel of the background between cells.
                let inside = (self.cell.0 - 1, self.cell.1 - 1);
                let Some(accuracy) = accuracy else {
                    canvas.rectangle((x, y), inside, GRID);
                    continue;
                };
                // One hue, so that lightness alone shows the value.
                canvas.shade((x, y), inside, LEVEL, 0.06 + 0.94 * accuracy.mean);
                let ink = if accuracy.mean < 0.6 { INK } else { LEVEL.label() };
                let center = (x + self.cell.0 / 2, y + self.cell.1 / 2);
                let percent = format!("{:.0}", 100.0 * accuracy.mean);
                canvas.text(&percent, center, size, Align::Middle, ink);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::fixtures::{assert_well_formed, compare, report, texts, three_methods};
    use burn_rehearsal_train::metrics::AccuracyMatrix;

    #[test]
    fn legend_and_maps_name_every_method() {
        for tasks in [1, 2, 5, 10, 20, 30] {
            for reports in [three_methods(tasks), vec![report("rehearsal", tasks, 0)]] {
                let svg = compare(&reports).accuracy_svg();
                assert_well_formed(&svg);
                let texts = texts(&svg);
                for report in &reports {
                    assert_eq!(
                        texts.iter().filter(|text| **text == report.method.as_str()).count(),
                        2,
                        "{texts:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_map_shows_all_measured_percentages_and_no_others() {
        let mut run = report("incremental", 2, 0);
        run.accuracy.top1 = AccuracyMatrix::new(2);
        run.accuracy.top1.push_row(&[Some(0.916), Some(0.333)]).unwrap();
        run.accuracy.top1.push_row(&[Some(0.174)]).unwrap();
        let texts = texts(&compare(&[run]).accuracy_svg());
        for (percent, times) in [("92", 1), ("33", 1), ("17", 1), ("0", 1)] {
            assert_eq!(
                texts.iter().filter(|text| *text == percent).count(),
                times,
                "{percent} in {texts:?}"
            );
        }
    }

    #[test]
    fn seeds_are_one_line_and_one_map() {
        let reports: Vec<_> = (0..3).map(|seed| report("rehearsal", 2, seed)).collect();
        let texts = texts(&compare(&reports).accuracy_svg());
        assert_eq!(
            texts.iter().filter(|text| text.contains("rehearsal (3 seeds)")).count(),
            2,
            "{texts:?}"
        );
    }

    #[test]
    fn a_run_without_measurements_has_a_figure() {
        let mut run = report("incremental", 3, 0);
        run.accuracy.top1 = AccuracyMatrix::new(3);
        assert_well_formed(&compare(&[run]).accuracy_svg());
    }

    #[test]
    fn the_figure_has_a_title_and_a_description() {
        let svg = compare(&three_methods(2)).accuracy_svg();
        assert!(svg.contains("<title id=\"accuracy-title\">Accuracy as tasks are learned</title>"));
        assert!(svg.contains("rehearsal: average accuracy 96.5 %, forgetting 2.9 %."), "{svg}");
    }

    #[test]
    fn a_figure_without_runs_is_empty() {
        assert_well_formed(&compare(&[]).accuracy_svg());
    }
}
