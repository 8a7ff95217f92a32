//! Everything about some runs in one file for a browser, which needs nothing else.

use crate::plot_epochs::measured_within_tasks;
use crate::{FigureError, Group, accuracy_svg, epochs_svg, groups, loss_svg, phases_svg};
use burn_rehearsal_train::metrics::MeanSd;
use burn_rehearsal_train::report::RunReport;
use serde_json::Value;
use std::fmt::Write;

/// The look of the page: readable on paper, on a telephone, and in the dark.
const STYLE: &str = "
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1040px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; text-align: right; vertical-align: bottom; border-bottom: 1px solid #8884; white-space: nowrap; }
th { white-space: normal; }
th:first-child, td:first-child { text-align: left; }
.settings td { text-align: left; white-space: normal; overflow-wrap: anywhere; }
.changed td:first-child::after { content: ' ← changed'; color: #d55e00; }
.note { color: #888; }
/* On a narrow screen figures are scrolled rather than made too small to read. */
svg { width: 100%; min-width: 820px; height: auto; background: white; border-radius: 6px; }
/* Lightness is inverted, hues stay. */
@media (prefers-color-scheme: dark) { svg { filter: invert(.93) hue-rotate(180deg); } }
@media print { .wide { overflow: visible; } svg { min-width: 0; break-inside: avoid; } }
";

/// One page: the methods side by side, the accuracies, the losses, where the time of a step goes, the buffer, and the configuration with what was changed in
/// the recipe. Runs that differ only in their seed are shown as mean ± sample standard deviation. It refers to no other file and runs no script.
///
/// # Errors
/// [`FigureError::NoReports`] without reports, [`FigureError::Draw`] if the drawing library fails.
pub fn html(reports: &[RunReport]) -> Result<String, FigureError> {
    let accuracy = accuracy_svg(reports)?;
    let groups = groups(reports);
    let mut page = String::from("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n");
    page.push_str("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>Continual learning</title>\n<style>");
    page.push_str(STYLE);
    page.push_str("</style>\n</head>\n<body>\n<h1>Continual learning</h1>\n");
    // Writing to a string does not fail.
    let _ = writeln!(page, "<p class=\"note\">{}</p>", escape(&facts(reports)));
    let mut section = |title: &str, content: &str| {
        let _ = write!(page, "<h2>{title}</h2>\n<div class=\"wide\">\n{content}</div>\n");
    };
    section("Methods", &(methods(&groups) + &notes(reports)));
    section("Accuracy", &accuracy);
    if measured_within_tasks(reports) {
        section("Accuracy within tasks", &epochs_svg(reports)?);
    }
    section("Training", &loss_svg(reports)?);
    section("Time of a step", &phases_svg(reports)?);
    if reports.iter().any(|report| report.buffer.is_some()) {
        section("Buffer", &buffers(&groups));
    }
    section("Configuration", &configuration(&groups));
    page.push_str("</body>\n</html>\n");
    Ok(page)
}

/// What the runs are of, as far as all have it in common.
fn facts(reports: &[RunReport]) -> String {
    let common = |name: &str, of: &dyn Fn(&RunReport) -> Option<String>| {
        let mut values: Vec<String> = reports.iter().filter_map(of).collect();
        values.sort();
        values.dedup();
        let [value] = &values[..] else { return None };
        Some(format!("{name} {value}"))
    };
    let option = |name: &'static str| common(name, &|report| report.config.get(name).map(shown));
    let mut seeds: Vec<u64> = reports.iter().map(|report| report.seed).collect();
    seeds.sort_unstable();
    seeds.dedup();
    let seeds = match &seeds[..] {
        [seed] => format!("seed {seed}"),
        several => format!("{} seeds", several.len()),
    };
    let facts = [
        option("data"),
        option("model"),
        common("tasks", &|report| Some(report.tasks.len().to_string())),
        option("epochs").map(|epochs| format!("{epochs} per task")),
        common("ranks", &|report| Some(report.world_size.to_string())),
        common("device", &|report| Some(report.device.clone())),
        Some(seeds),
    ];
    facts.into_iter().flatten().collect::<Vec<_>>().join(" · ")
}

/// A value of the configuration in words; fractions with as many digits as mean something.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) if number.is_f64() => number.as_f64().map_or_else(String::new, |number| {
            let rounded = format!("{number:.4}").parse().unwrap_or(number);
            if rounded == 0.0 { number.to_string() } else { f64::to_string(&rounded) }
        }),
        Value::Array(values) => values.iter().map(shown).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

/// A line for each method.
fn methods(groups: &[Group<'_>]) -> String {
    let train = |group: &Group<'_>| group.mean(|report| Some(report.time.train_s)).map(|time| time.mean);
    let mut rows = vec![
        ["", "top-1 %", "top-5 %", "forgetting %", "backward transfer %", "total s", "training s", "× incremental", "images/s"]
            .map(String::from)
            .to_vec(),
    ];
    for group in groups {
        let percent = |value: Option<MeanSd>| {
            number(value.map(|value| MeanSd { mean: value.mean * 100.0, sd: value.sd.map(|sd| sd * 100.0), ..value }))
        };
        let ratio = train(group)
            .zip(crate::merge::reference_time(group, groups))
            .map(|(ours, theirs)| ours / theirs)
            .filter(|ratio| ratio.is_finite());
        rows.push(vec![
            group.title(),
            percent(group.mean(|report| report.summary.average_top1)),
            percent(group.mean(|report| report.summary.average_top5)),
            percent(group.mean(|report| report.summary.forgetting)),
            percent(group.mean(|report| report.summary.bwt)),
            number(group.mean(|report| Some(report.time.total_s))),
            number(group.mean(|report| Some(report.time.train_s))),
            ratio.map_or("–".into(), |ratio| format!("{ratio:.2}")),
            group.mean(|report| report.time.samples_per_s).map_or("–".into(), |rate| format!("{rate:.0}")),
        ]);
    }
    table(&rows, "")
}

/// What a reader must know before believing the table.
fn notes(reports: &[RunReport]) -> String {
    let mut notes = vec![
        "Averages over the tasks learned, after the last of them. images/s: incoming training images of all ranks, without those from the buffer, per second of training."
            .to_string(),
    ];
    if reports.iter().any(|a| reports.iter().any(|b| a.method == b.method && a.seed != b.seed)) {
        notes.push("Several seeds: mean ± sample standard deviation. Runs that were configured differently are apart.".into());
    }
    if reports.iter().any(|report| !report.complete) {
        notes.push("A run was interrupted: its figures are those of what was done so far.".into());
    }
    if let Some(most) = reports.iter().map(|report| report.left_out).max().filter(|&most| most > 0) {
        notes.push(format!("Images left out because they are damaged: {most}."));
    }
    notes.iter().map(|note| format!("<p class=\"note\">{}</p>\n", escape(note))).collect()
}

fn buffers(groups: &[Group<'_>]) -> String {
    let mut rows = vec![["", "samples", "of", "bytes", "different", "store"].map(String::from).to_vec()];
    for group in groups {
        let Some(buffer) = group.reports.iter().find_map(|report| report.buffer.as_ref()) else { continue };
        rows.push(vec![
            group.title(),
            buffer.len.to_string(),
            buffer.capacity.to_string(),
            buffer.bytes.to_string(),
            buffer.distinct.map_or("–".into(), |distinct| distinct.to_string()),
            buffer.store.clone(),
        ]);
    }
    table(&rows, "")
}

/// The options of all runs; where groups of runs differ, each value with the groups that have it.
fn configuration(groups: &[Group<'_>]) -> String {
    const CHANGED: &str = "overridden";
    let reports = || groups.iter().flat_map(|group| &group.reports);
    let mut names: Vec<&String> = Vec::new();
    let mut changed: Vec<&str> = Vec::new();
    for report in reports() {
        let fields = report.config.as_object().into_iter().flatten();
        names.extend(fields.map(|(name, _)| name).filter(|name| *name != CHANGED));
        changed.extend(report.config.get(CHANGED).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str));
    }
    names.sort();
    names.dedup();
    let mut html = String::from("<table class=\"settings\">\n");
    for name in names {
        let mut values: Vec<(String, Vec<&str>)> = Vec::new();
        for (group, report) in groups.iter().flat_map(|group| group.reports.iter().map(move |report| (group, report))) {
            let Some(value) = report.config.get(name).map(shown) else { continue };
            match values.iter_mut().find(|(other, _)| *other == value) {
                Some((_, labels)) if labels.contains(&group.label.as_str()) => {}
                Some((_, labels)) => labels.push(&group.label),
                None => values.push((value, vec![&group.label])),
            }
        }
        // Seeds and places are different within groups, which says nothing about them.
        let apart = groups.len() > 1
            && values.len() > 1
            && values.iter().all(|(_, labels)| labels.len() < groups.len())
            && name != "seed"
            && name != "out";
        let values: Vec<_> =
            values.iter().map(|(value, labels)| if apart { format!("{value} ({})", labels.join(", ")) } else { value.clone() }).collect();
        let class = if changed.contains(&name.as_str()) { " class=\"changed\"" } else { "" };
        let _ =
            writeln!(html, "<tr{class}><td>{}</td><td>{}</td></tr>", escape(name), escape(&values.join(if apart { "; " } else { ", " })));
    }
    let mut machine: Vec<String> = reports().map(|report| format!("{}, ranks {}", report.device, report.world_size)).collect();
    machine.sort();
    machine.dedup();
    let _ = write!(html, "<tr><td>trained on</td><td>{}</td></tr>\n</table>\n", escape(&machine.join("; ")));
    html
}

fn number(value: Option<MeanSd>) -> String {
    value.map_or("–".into(), |value| format!("{value:.1}"))
}

/// The first row is the head.
fn table(rows: &[Vec<String>], class: &str) -> String {
    let mut html = format!("<table class=\"{class}\">\n");
    for (index, row) in rows.iter().enumerate() {
        let tag = if index == 0 { "th" } else { "td" };
        let cells: String = row.iter().map(|cell| format!("<{tag}>{}</{tag}>", escape(cell))).collect();
        let _ = writeln!(html, "<tr>{cells}</tr>");
    }
    html.push_str("</table>\n");
    html
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{report, three_methods};
    use burn_rehearsal_train::report::schema::{CurvePoint, Method};

    #[test]
    fn the_page_has_everything_and_needs_no_other_file() {
        let mut reports = three_methods(2);
        reports[1].left_out = 3;
        reports[1].config["overridden"] = serde_json::json!(["epochs"]);
        reports[1].config["data"] = "folder:<b>&".into();
        let page = html(&reports).unwrap();
        for text in ["incremental", "rehearsal", "scratch", "96.5", "left out because they are damaged: 3", "folder:&lt;b&gt;&amp;"] {
            assert!(page.contains(text), "{text}");
        }
        // Accuracies within tasks were not measured.
        assert_eq!(page.matches("<svg").count(), 3);
        assert!(page.contains("tasks 2 · epochs 5 per task · ranks 2 · device flex · seed 0") && page.contains("<td>1234</td>"), "{page}");
        assert!(page.contains("<tr class=\"changed\"><td>epochs</td><td>5</td></tr>"));
        assert!(!page.contains("<script") && !page.contains("<link") && !page.contains("src="));
        for tag in ["table", "tr", "td", "th", "div", "h2", "svg", "p"] {
            let opened = page.matches(&format!("<{tag}>")).count() + page.matches(&format!("<{tag} ")).count();
            assert_eq!(opened, page.matches(&format!("</{tag}>")).count(), "{tag}");
        }
    }

    #[test]
    fn accuracies_after_every_epoch_are_in_the_page_where_they_were_measured() {
        let mut reports = three_methods(2);
        for report in &mut reports {
            let point = |epoch, top1| CurvePoint { task: 0, epoch, train_loss: Some(1.0), top1: vec![Some(top1), Some(0.0)] };
            report.curves = vec![point(0, 0.5), point(1, 0.9)];
        }
        let page = html(&reports).unwrap();
        assert!(page.contains("Accuracy within tasks") && page.matches("<svg").count() == 4, "{page}");
    }

    #[test]
    fn runs_that_were_configured_differently_are_apart_with_what_differs() {
        let mut reports: Vec<_> = (0..4).map(|seed| report(Method::Rehearsal, 2, seed)).collect();
        for run in &mut reports {
            run.config["policy"] = if run.seed < 2 { "fifo" } else { "reservoir" }.into();
            run.config["area"] = serde_json::json!([0.75, 4.0 / 3.0]);
        }
        let page = html(&reports).unwrap();
        for text in ["rehearsal policy=fifo (2 seeds)", "rehearsal policy=reservoir (2 seeds)", "Several seeds", "4 seeds"] {
            assert!(page.contains(text), "{text}");
        }
        assert!(page.contains("<td>fifo (rehearsal policy=fifo); reservoir (rehearsal policy=reservoir)</td>"), "{page}");
        assert!(page.contains("<td>area</td><td>0.75, 1.3333</td>") && page.contains("<td>seed</td><td>0, 1, 2, 3</td>"), "{page}");
    }

    #[test]
    fn seeds_are_merged() {
        let reports: Vec<_> = (0..3).map(|seed| report(Method::Rehearsal, 2, seed)).collect();
        let page = html(&reports).unwrap();
        assert!(page.contains("rehearsal (3 seeds)") && page.contains('±'));
        assert!(matches!(html(&[]), Err(FigureError::NoReports { .. })));
    }
}
