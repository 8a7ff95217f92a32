//! The figure of phases: the time of each part of a training step.

use crate::canvas::{
    Align, BLACK, BLUE, BROWN, Canvas, Color, FAINT, GRAY, GREEN, GRID, INK, Legend, MARGIN,
    ORANGE, PURPLE, SILVER, SKY, Swatch, VERMILION, WIDTH, YELLOW, count, grid_step, text_width,
    to_pixels,
};
use crate::{Comparison, Group};
use burn_rehearsal_train::phases::Phase;
use std::collections::BTreeSet;

/// Space to the right of the longest bar, for its total.
const TOTAL: i32 = 150;
/// Height of a bar of the training thread, and of one of the engine thread.
const BAR: i32 = 26;
const ENGINE_BAR: i32 = 12;

/// The phase that stands for the whole step, and the name of the part of it that the other phases
/// do not cover.
const WHOLE: &str = "step";
const REST: &str = "rest of the step";

/// The note in a figure of times that are not exact.
const NOT_EXACT: &str = "Host times: the device was not synchronized between phases, so work may \
                         be counted in a later phase that waits for it.";

impl Comparison<'_> {
    /// The mean time of a training step in milliseconds as an SVG figure: a horizontal bar for each
    /// group, stacked by phase, with the total.
    ///
    /// The phases of the engine thread (`insert`, `plan`, `exchange`, `deliver`) overlap with the
    /// training thread and have a thinner bar of their own. The part of the phase `step` (the whole
    /// step) that no other phase covers is drawn as "rest of the step". Groups of several runs are
    /// shown as their mean. A note is added if some run did not synchronize the device between
    /// phases. The figure is 1000 pixels wide, needs no other file, and follows the viewer's light
    /// or dark color scheme.
    pub fn phases_svg(&self) -> String {
        let bars: Vec<Bars> = self.groups.iter().map(Bars::of).collect();
        let legend = legend(&bars);
        let note = self.reports.iter().any(|report| !report.time.phases_exact);
        let left =
            MARGIN + 12 + bars.iter().map(|bars| text_width(&bars.title, 12)).max().unwrap_or(0);
        let top = if note { 76 } else { 56 } + legend.height;
        let engine = bars.iter().any(|bars| !bars.engine.is_empty());
        let pitch = if engine { BAR + ENGINE_BAR + 24 } else { BAR + 18 };
        let bottom = top + pitch * count(bars.len());
        let width = WIDTH.max(left + TOTAL + 400);
        let longest =
            bars.iter().map(|bars| total(&bars.step).max(total(&bars.engine))).fold(0.0, f64::max);
        let scale = if longest > 0.0 { f64::from(width - left - TOTAL) / longest } else { 0.0 };

        let title = "Mean time of a training step by phase (ms)";
        let description: Vec<_> = bars.iter().map(Bars::describe).collect();
        let size = (width, bottom + 50);
        let mut canvas = Canvas::new("phases", title, &description.join(" "), size);
        canvas.text(title, (MARGIN, 20), 14, Align::Start, INK);
        if note {
            canvas.text(NOT_EXACT, (MARGIN, 40), 11, Align::Start, FAINT);
        }
        legend.draw(&mut canvas, top - 12 - legend.height);
        axis(&mut canvas, (left, top), bottom, scale, longest);
        for (index, bars) in bars.iter().enumerate() {
            let y = top + 8 + pitch * count(index);
            canvas.text(&bars.title, (left - 8, y + BAR / 2), 12, Align::End, INK);
            if bars.step.is_empty() && bars.engine.is_empty() {
                canvas.text("not measured", (left + 8, y + BAR / 2), 12, Align::Start, FAINT);
            }
            stack(&mut canvas, &bars.step, (left, y), BAR, scale);
            stack(&mut canvas, &bars.engine, (left, y + BAR + 2), ENGINE_BAR, scale);
        }
        canvas.finish()
    }
}

/// A phase of one group: its name and its mean in milliseconds.
type Mean = (String, f64);

/// The two bars of a group, phases in the order in which they are stacked.
struct Bars {
    title: String,
    step: Vec<Mean>,
    engine: Vec<Mean>,
}

impl Bars {
    fn of(group: &Group<'_>) -> Self {
        let names: BTreeSet<&String> =
            group.reports.iter().flat_map(|report| report.time.phases_ms.keys()).collect();
        let mean = |name: &String| {
            let time = group.mean(|report| {
                report.time.phases_ms.get(name).copied().filter(|ms| ms.is_finite())
            });
            Some((name.clone(), time?.mean.max(0.0)))
        };
        let mut phases: Vec<Mean> = names.into_iter().filter_map(mean).collect();
        phases.sort_by_key(|(name, _)| order(name));
        let (engine, mut step): (Vec<_>, Vec<_>) =
            phases.into_iter().partition(|(name, _)| is_background(name));
        if let Some(index) = step.iter().position(|(name, _)| name == WHOLE) {
            let (_, whole) = step.remove(index);
            let rest = whole - total(&step);
            // Less than a thousandth is the cost of measuring.
            if rest > whole / 1000.0 {
                step.push((REST.to_string(), rest));
            }
        }
        Self { title: group.title(), step, engine }
    }

    /// The two bars in words.
    fn describe(&self) -> String {
        let Self { title, step, engine } = self;
        let (step, engine) = (milliseconds(total(step)), milliseconds(total(engine)));
        format!("{title}: {step} ms, and {engine} ms in the background.")
    }
}

/// The position of a phase in the order of a step. Unknown phases come last, in alphabetical
/// order.
fn order(name: &str) -> usize {
    Phase::from_name(name).map_or(Phase::ALL.len(), |phase| phase as usize)
}

fn is_background(name: &str) -> bool {
    Phase::from_name(name).is_some_and(Phase::is_background)
}

fn color(name: &str) -> Color {
    match Phase::from_name(name) {
        Some(Phase::Load) => SKY,
        Some(Phase::Wait) => VERMILION,
        Some(Phase::Assemble) => ORANGE,
        Some(Phase::ForwardBackward) => BLUE,
        Some(Phase::AllReduce) => PURPLE,
        Some(Phase::Optimizer) => GREEN,
        Some(Phase::Insert) => YELLOW,
        Some(Phase::Plan) => BLACK,
        Some(Phase::Exchange) => GRAY,
        Some(Phase::Deliver) => BROWN,
        None => SILVER,
    }
}

fn total(phases: &[Mean]) -> f64 {
    phases.iter().map(|(_, ms)| ms).sum()
}

/// About three significant digits: phases take from microseconds to seconds.
fn milliseconds(ms: f64) -> String {
    let digits = if ms >= 99.95 {
        0
    } else if ms >= 9.995 {
        1
    } else if ms >= 0.9995 {
        2
    } else {
        3
    };
    format!("{ms:.digits$}")
}

/// Draws a bar from `corner` to the right, and its total after it.
fn stack(canvas: &mut Canvas, phases: &[Mean], corner: (i32, i32), height: i32, scale: f64) {
    if phases.is_empty() {
        return;
    }
    let (left, y) = corner;
    let x = |ms: f64| left + to_pixels(ms * scale);
    let middle = y + height / 2 + 1;
    let mut before = 0.0;
    for (name, ms) in phases {
        let (from, to) = (x(before), x(before + ms));
        before += ms;
        if to <= from {
            continue;
        }
        let fill = color(name);
        canvas.rectangle((from, y), (to - from, height), fill);
        let text = milliseconds(*ms);
        if height == BAR && to - from > text_width(&text, 11) + 6 {
            canvas.text(&text, ((from + to) / 2, middle), 11, Align::Middle, fill.label());
        }
    }
    let (size, what) = if height == BAR { (12, "") } else { (10, " in the background") };
    let total = format!("{} ms{what}", milliseconds(before));
    canvas.text(&total, (x(before) + 6, middle), size, Align::Start, INK);
}

/// Draws grid lines of time, and their numbers below the bars.
fn axis(canvas: &mut Canvas, corner: (i32, i32), bottom: i32, scale: f64, longest: f64) {
    let (left, top) = corner;
    if longest > 0.0 {
        let step = grid_step(longest, 6.0);
        let digits = (-step.log10().floor()).max(0.0) as usize;
        for index in 0..=(longest / step).floor() as i32 {
            let ms = f64::from(index) * step;
            let x = left + to_pixels(ms * scale);
            canvas.line(&[(x, top), (x, bottom)], GRID, 1);
            canvas.text(&format!("{ms:.digits$}"), (x, bottom + 12), 11, Align::Middle, INK);
        }
        canvas.text("ms per training step", (left, bottom + 34), 12, Align::Start, INK);
    }
    canvas.line(&[(left, top), (left, bottom)], INK, 1)
}

/// The legend of all phases in `bars`.
fn legend(bars: &[Bars]) -> Legend {
    let mut names: Vec<&String> = bars
        .iter()
        .flat_map(|bars| bars.step.iter().chain(&bars.engine))
        .map(|(name, _)| name)
        .collect();
    names.sort_by_key(|name| (order(name), name.as_str()));
    names.dedup();
    let engine = |name: &str| if is_background(name) { " (engine)" } else { "" };
    Legend::new(
        Swatch::Square,
        WIDTH,
        names
            .into_iter()
            .map(|name| (format!("{}{}", name.replace('_', " "), engine(name)), color(name))),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{assert_well_formed, compare, report, texts, three_methods};

    #[test]
    fn the_figure_names_methods_phases_and_totals() {
        let texts = {
            let svg = compare(&three_methods(5)).phases_svg();
            assert_well_formed(&svg);
            texts(&svg)
        };
        for expected in [
            "incremental",
            "rehearsal",
            "scratch",
            "forward backward",
            "exchange (engine)",
            "2.02 ms",
            "0.140 ms in the background",
        ] {
            assert!(texts.iter().any(|text| text == expected), "{expected} is not in {texts:?}");
        }
        assert!(!texts.iter().any(|text| text.contains("synchronized")));
    }

    #[test]
    fn a_figure_of_host_times_has_a_note() {
        let mut run = report("incremental", 2, 0);
        run.time.phases_exact = false;
        let svg = compare(&[run]).phases_svg();
        assert!(svg.contains("not synchronized"), "{svg}");
    }

    #[test]
    fn unknown_phases_and_runs_without_phases_are_shown() {
        let mut odd = report("incremental", 2, 0);
        odd.time.phases_ms.insert("rendering <live> & more".into(), 3.0);
        odd.time.phases_ms.insert("never".into(), f64::NAN);
        let mut none = report("scratch", 2, 0);
        none.time.phases_ms.clear();
        let svg = compare(&[odd, none]).phases_svg();
        assert_well_formed(&svg);
        assert!(
            svg.contains("rendering &lt;live&gt; &amp; more")
                && svg.contains("not measured")
                && !svg.contains("never"),
            "{svg}"
        );
    }

    #[test]
    fn the_rest_of_the_step_is_shown() {
        let mut run = report("incremental", 2, 0);
        run.time.phases_ms =
            [("step", 4.0), ("wait", 1.0)].map(|(name, ms)| (name.to_string(), ms)).into();
        let texts = texts(&compare(&[run]).phases_svg());
        for expected in ["rest of the step", "3.00", "1.00", "4.00 ms"] {
            assert!(texts.iter().any(|text| text == expected), "{expected} is not in {texts:?}");
        }
        assert!(!texts.iter().any(|text| text == "step"), "{texts:?}");
    }

    #[test]
    fn runs_without_phases_have_a_figure() {
        let mut none = report("scratch", 2, 0);
        none.time.phases_ms.clear();
        assert_well_formed(&compare(&[none]).phases_svg());
    }

    #[test]
    fn milliseconds_have_about_three_digits() {
        let texts: Vec<_> =
            [0.0123, 0.9996, 1.234, 9.996, 12.34, 456.7].into_iter().map(milliseconds).collect();
        assert_eq!(texts, ["0.012", "1.00", "1.23", "10.0", "12.3", "457"]);
    }

    #[test]
    fn a_figure_without_runs_is_empty() {
        assert_well_formed(&compare(&[]).phases_svg());
    }
}
