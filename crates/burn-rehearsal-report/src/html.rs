//! Everything about some runs in one file for a browser, which needs nothing else.

use crate::Comparison;
use burn_rehearsal_train::metrics::MeanSd;
use burn_rehearsal_train::report::RunReport;
use serde_json::Value;
use std::collections::BTreeSet;
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

impl Comparison<'_> {
    /// One page for a browser: the methods side by side, accuracies, losses, where the time of a
    /// step goes, the buffer, and the configuration with what was changed.
    ///
    /// Groups of several runs are shown as mean ± sample standard deviation. The page refers to no
    /// other file and runs no script.
    pub fn html(&self) -> String {
        let mut page =
            String::from("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n");
        page.push_str(
            "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>Continual learning</title>\n<style>",
        );
        page.push_str(STYLE);
        page.push_str("</style>\n</head>\n<body>\n<h1>Continual learning</h1>\n");
        // Writing to a string does not fail.
        let _ = writeln!(page, "<p class=\"note\">{}</p>", escape(&self.facts()));
        let mut section = |title: &str, content: &str| {
            let _ = write!(page, "<h2>{title}</h2>\n<div class=\"wide\">\n{content}</div>\n");
        };
        section("Methods", &(self.methods() + &self.notes()));
        section("Accuracy", &self.accuracy_svg());
        if self.measured_within_tasks() {
            section("Accuracy within tasks", &self.epochs_svg());
        }
        section("Training", &self.loss_svg());
        section("Time of a step", &self.phases_svg());
        if self.reports.iter().any(|report| report.buffer.is_some()) {
            section("Buffer", &self.buffers());
        }
        section("Configuration", &self.configuration());
        page.push_str("</body>\n</html>\n");
        page
    }

    /// What all runs have in common.
    fn facts(&self) -> String {
        let common = |name: &str, of: &dyn Fn(&RunReport) -> Option<String>| {
            let [value] = &distinct(self.reports.iter().filter_map(of))[..] else { return None };
            Some(format!("{name} {value}"))
        };
        let mut facts: Vec<_> = self
            .fields
            .headline
            .iter()
            .map(|&name| common(name, &|report| report.config.get(name).map(shown)))
            .collect();
        facts.push(common("tasks", &|report| Some(report.tasks.len().to_string())));
        facts.push(common("ranks", &|report| Some(report.world_size.to_string())));
        facts.push(common("device", &|report| Some(report.device.clone())));
        facts.push(Some(match &distinct(self.reports.iter().map(|report| report.seed))[..] {
            [seed] => format!("seed {seed}"),
            several => format!("{} seeds", several.len()),
        }));
        facts.into_iter().flatten().collect::<Vec<_>>().join(" · ")
    }

    /// A line for each group.
    fn methods(&self) -> String {
        let head = [
            "",
            "top-1 %",
            "top-5 %",
            "forgetting %",
            "backward transfer %",
            "total s",
            "training s",
            "× incremental",
            "images/s",
        ];
        let mut rows = vec![head.map(String::from).to_vec()];
        for group in &self.groups {
            let percent = |value: Option<MeanSd>| {
                number(value.map(|value| MeanSd {
                    mean: value.mean * 100.0,
                    sd: value.sd.map(|sd| sd * 100.0),
                    ..value
                }))
            };
            let train = group.mean(|report| Some(report.time.train_s));
            let ratio = train
                .zip(self.reference_time(group))
                .map(|(ours, theirs)| ours.mean / theirs)
                .filter(|ratio| ratio.is_finite());
            rows.push(vec![
                group.title(),
                percent(group.mean(|report| report.summary.average_top1)),
                percent(group.mean(|report| report.summary.average_top5)),
                percent(group.mean(|report| report.summary.forgetting)),
                percent(group.mean(|report| report.summary.bwt)),
                number(group.mean(|report| Some(report.time.total_s))),
                number(train),
                ratio.map_or("–".into(), |ratio| format!("{ratio:.2}")),
                group
                    .mean(|report| report.time.samples_per_s)
                    .map_or("–".into(), |rate| format!("{rate:.0}")),
            ]);
        }
        table(&rows)
    }

    /// Notes on how to read the table.
    fn notes(&self) -> String {
        let mut notes = vec![
            "Averages over the tasks learned, after the last of them. images/s: incoming training images of all ranks, without those from the buffer, per second of training."
                .to_string(),
        ];
        if self.has_several_seeds() {
            notes.push("Several seeds: mean ± sample standard deviation. Runs that were configured differently are apart.".into());
        }
        if self.reports.iter().any(|report| !report.complete) {
            notes.push(
                "A run was interrupted: its figures are those of what was done so far.".into(),
            );
        }
        if let Some(most) =
            self.reports.iter().map(|report| report.left_out).max().filter(|&most| most > 0)
        {
            notes.push(format!("Images left out because they are damaged: {most}."));
        }
        notes.iter().map(|note| format!("<p class=\"note\">{}</p>\n", escape(note))).collect()
    }

    fn buffers(&self) -> String {
        let mut rows =
            vec![["", "samples", "of", "bytes", "different", "store"].map(String::from).to_vec()];
        for group in &self.groups {
            let Some(buffer) = group.reports.iter().find_map(|report| report.buffer.as_ref())
            else {
                continue;
            };
            rows.push(vec![
                group.title(),
                buffer.len.to_string(),
                buffer.capacity.to_string(),
                buffer.bytes.to_string(),
                buffer.distinct.map_or("–".into(), |distinct| distinct.to_string()),
                buffer.store.clone(),
            ]);
        }
        table(&rows)
    }

    /// The configuration of all runs; where groups differ, each value with the groups that have it.
    fn configuration(&self) -> String {
        let configs = || self.reports.iter().filter_map(|report| report.config.as_object());
        let changed: Vec<&str> = self.fields.changed.map_or_else(Vec::new, |changed| {
            configs()
                .filter_map(|config| config.get(changed)?.as_array())
                .flatten()
                .filter_map(Value::as_str)
                .collect()
        });
        let mut html = String::from("<table class=\"settings\">\n");
        for name in distinct(configs().flat_map(|config| config.keys())) {
            if self.fields.changed == Some(name) {
                continue;
            }
            let mut values: Vec<(String, Vec<&str>)> = Vec::new();
            for (group, report) in self
                .groups
                .iter()
                .flat_map(|group| group.reports.iter().map(move |report| (group, report)))
            {
                let Some(value) = report.config.get(name).map(shown) else { continue };
                match values.iter_mut().find(|(other, _)| *other == value) {
                    Some((_, labels)) if labels.contains(&group.label.as_str()) => {}
                    Some((_, labels)) => labels.push(&group.label),
                    None => values.push((value, vec![&group.label])),
                }
            }
            // Seeds and neutral fields differ within groups, which says nothing about the groups.
            let apart = self.groups.len() > 1
                && values.len() > 1
                && values.iter().all(|(_, labels)| labels.len() < self.groups.len())
                && name != "seed"
                && !self.fields.neutral.contains(&name.as_str());
            let shown = |(value, labels): &(String, Vec<&str>)| {
                if apart { format!("{value} ({})", labels.join(", ")) } else { value.clone() }
            };
            let values =
                values.iter().map(shown).collect::<Vec<_>>().join(if apart { "; " } else { ", " });
            let class = if changed.contains(&name.as_str()) { " class=\"changed\"" } else { "" };
            let _ = writeln!(
                html,
                "<tr{class}><td>{}</td><td>{}</td></tr>",
                escape(name),
                escape(&values)
            );
        }
        let machines = distinct(
            self.reports
                .iter()
                .map(|report| format!("{}, ranks {}", report.device, report.world_size)),
        );
        let _ = write!(
            html,
            "<tr><td>trained on</td><td>{}</td></tr>\n</table>\n",
            escape(&machines.join("; "))
        );
        html
    }
}

/// The different values, in order.
fn distinct<T: Ord>(values: impl Iterator<Item = T>) -> Vec<T> {
    values.collect::<BTreeSet<_>>().into_iter().collect()
}

/// A value of the configuration in words; fractions with as many digits as mean something.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) if number.is_f64() => {
            number.as_f64().map_or_else(String::new, |number| {
                let rounded = format!("{number:.4}").parse().unwrap_or(number);
                if rounded == 0.0 { number.to_string() } else { f64::to_string(&rounded) }
            })
        }
        Value::Array(values) => values.iter().map(shown).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

fn number(value: Option<MeanSd>) -> String {
    value.map_or("–".into(), |value| format!("{value:.1}"))
}

/// The first row is the head.
fn table(rows: &[Vec<String>]) -> String {
    let mut html = String::from("<table>\n");
    for (index, row) in rows.iter().enumerate() {
        let tag = if index == 0 { "th" } else { "td" };
        let cells: String =
            row.iter().map(|cell| format!("<{tag}>{}</{tag}>", escape(cell))).collect();
        let _ = writeln!(html, "<tr>{cells}</tr>");
    }
    html.push_str("</table>\n");
    html
}

pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use crate::fixtures::{compare, report, three_methods};
    use burn_rehearsal_train::epoch::Epoch;
    use burn_rehearsal_train::report::schema::CurvePoint;

    #[test]
    fn the_page_has_everything_and_needs_no_other_file() {
        let mut reports = three_methods(2);
        reports[1].left_out = 3;
        reports[1].config["overridden"] = serde_json::json!(["epochs"]);
        reports[1].config["data"] = "folder:<b>&".into();
        let page = compare(&reports).html();
        for text in [
            "incremental",
            "rehearsal",
            "scratch",
            "96.5",
            "left out because they are damaged: 3",
            "folder:&lt;b&gt;&amp;",
        ] {
            assert!(page.contains(text), "{text}");
        }
        // Accuracies within tasks were not measured.
        assert_eq!(page.matches("<svg").count(), 3);
        assert!(
            page.contains("epochs 5 · tasks 2 · ranks 2 · device flex · seed 0")
                && page.contains("<td>1234</td>"),
            "{page}"
        );
        assert!(page.contains("<tr class=\"changed\"><td>epochs</td><td>5</td></tr>"));
        assert!(!page.contains("<script") && !page.contains("<link") && !page.contains("src="));
        for tag in ["table", "tr", "td", "th", "div", "h2", "svg", "p"] {
            let opened = page.matches(&format!("<{tag}>")).count()
                + page.matches(&format!("<{tag} ")).count();
            assert_eq!(opened, page.matches(&format!("</{tag}>")).count(), "{tag}");
        }
    }

    #[test]
    fn accuracies_after_every_epoch_are_in_the_page_where_they_were_measured() {
        let mut reports = three_methods(2);
        for report in &mut reports {
            let point = |epoch, top1| CurvePoint {
                task: 0,
                epoch: Epoch::from_index(epoch),
                train_loss: Some(1.0),
                top1: vec![Some(top1), Some(0.0)],
            };
            report.curves = vec![point(0, 0.5), point(1, 0.9)];
        }
        let page = compare(&reports).html();
        assert!(
            page.contains("Accuracy within tasks") && page.matches("<svg").count() == 4,
            "{page}"
        );
    }

    #[test]
    fn runs_that_were_configured_differently_are_apart_with_what_differs() {
        let mut reports: Vec<_> = (0..4).map(|seed| report("rehearsal", 2, seed)).collect();
        for run in &mut reports {
            run.config["policy"] = if run.seed < 2 { "fifo" } else { "reservoir" }.into();
            run.config["area"] = serde_json::json!([0.75, 4.0 / 3.0]);
        }
        let page = compare(&reports).html();
        for text in [
            "rehearsal policy=fifo (2 seeds)",
            "rehearsal policy=reservoir (2 seeds)",
            "Several seeds",
            "4 seeds",
        ] {
            assert!(page.contains(text), "{text}");
        }
        assert!(
            page.contains(
                "<td>fifo (rehearsal policy=fifo); reservoir (rehearsal policy=reservoir)</td>"
            ),
            "{page}"
        );
        assert!(
            page.contains("<td>area</td><td>0.75, 1.3333</td>")
                && page.contains("<td>seed</td><td>0, 1, 2, 3</td>"),
            "{page}"
        );
    }

    #[test]
    fn seeds_are_merged() {
        let reports: Vec<_> = (0..3).map(|seed| report("rehearsal", 2, seed)).collect();
        let page = compare(&reports).html();
        assert!(page.contains("rehearsal (3 seeds)") && page.contains('±'));
    }
}
