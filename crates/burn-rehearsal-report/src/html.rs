//! A page for a browser, in a single file.

use crate::table::{UNKNOWN, figure};
use crate::{Comparison, Group};
use burn_rehearsal_train::report::RunReport;
use burn_rehearsal_train::report::schema::{BufferReport, Summary};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt::Write;

/// The style sheet: for paper, for narrow screens, and for light and dark viewers.
const STYLE: &str = "
:root { color-scheme: light dark; }
:root { --paper: #fff; --ink: #222; --faint: #666; --rule: #ccc; --mark: #b34f00; }
@media (prefers-color-scheme: dark) {
:root { --paper: #101317; --ink: #e4e4e4; --faint: #a2a2a2; --rule: #444; --mark: #f58743; }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); }
body { max-width: 1040px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: 0; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .4rem; }
p { margin: .4rem 0; max-width: 46rem; }
.note { color: var(--faint); }
.wide { overflow-x: auto; margin-top: .8rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--rule); }
th, td { text-align: right; vertical-align: bottom; white-space: nowrap; }
th { font-weight: 600; white-space: normal; }
th:first-child { text-align: left; padding-left: 0; }
tbody th { font-weight: 400; white-space: nowrap; }
.settings td { text-align: left; white-space: normal; overflow-wrap: anywhere; }
.changed th::after { content: ' ← changed'; color: var(--mark); }
/* On a narrow screen figures scroll: reduced texts could not be read. */
svg { display: block; width: 100%; min-width: 820px; height: auto; border-radius: 6px; }
svg + svg { margin-top: .8rem; }
image { image-rendering: pixelated; }
@media print {
body { max-width: none; margin: 0; }
h2, p { break-after: avoid; }
.wide { overflow: visible; }
svg { min-width: 0; break-inside: avoid; }
}
";

const METHODS: &str = "Accuracies are averages over the tasks learned, after the last of them. \
    class-IL is top-1 accuracy among all classes, and task-IL among the classes of the task that a \
    sample belongs to. Forgetting is the mean drop of the earlier tasks from their best accuracy; \
    lower is better. Backward transfer is the mean change of the earlier tasks since they were \
    learned; higher is better. Forward transfer is the mean accuracy on a task just before it is \
    learned, minus that of the untrained network; higher is better. Forgetting and transfer are \
    those of class-IL. images/s: incoming training images of all ranks, without representatives, \
    per second of training.";
const ACCURACY: &str = "The curves are the average accuracy over the tasks learned so far. In the \
    maps, each row is the state after a task, and each column is the test set of a task. A task \
    that is forgotten fades from top to bottom.";
const WITHIN: &str = "Accuracies that were measured between the ends of tasks.";
const LOSS: &str = "The loss is a mean over incoming rows and representatives.";
const PHASES: &str = "Wide bars are the phases of the training thread. Narrow bars are the \
    buffer's engine thread, which works in the background at the same time.";
const BUFFER: &str = "The samples that all ranks stored at the end. distinct: different source \
    samples among them. per class: the smallest and the largest number of samples of one class \
    that is stored.";
const PICTURES: &str = "Images from the buffers of all ranks, drawn at the end of the run.";
const CONFIGURATION: &str = "If groups differ in an option, each value is followed by its groups.";

impl Comparison<'_> {
    /// A page for a browser: the methods side by side, accuracies, losses, the time of a step, the
    /// buffer with pictures of stored samples, and the configuration.
    ///
    /// Groups of several runs are shown as mean ± sample standard deviation. The page needs no
    /// other file and runs no script. It follows the viewer's light or dark color scheme, and can
    /// be printed.
    pub fn html(&self) -> String {
        let mut page = String::from(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <title>Continual learning</title>\n<style>",
        );
        page.push_str(STYLE);
        page.push_str("</style>\n</head>\n<body>\n<h1>Continual learning</h1>\n");
        page.push_str(&paragraph(&self.facts()));
        let mut section = |title: &str, notes: &str, content: &str| {
            // Writing to a string does not fail.
            let _ =
                write!(page, "<h2>{title}</h2>\n{notes}<div class=\"wide\">\n{content}</div>\n");
        };
        section("Methods", &self.notes(), &self.methods());
        section("Accuracy", &paragraph(ACCURACY), &self.accuracy_svg());
        if self.measured_within_tasks() {
            section("Accuracy within tasks", &paragraph(WITHIN), &self.epochs_svg());
        }
        section("Training loss", &paragraph(LOSS), &self.loss_svg());
        section("Time of a step", &paragraph(PHASES), &self.phases_svg());
        if self.reports.iter().any(|report| report.buffer.is_some()) {
            section("Buffer", &paragraph(BUFFER), &self.buffers());
        }
        let pictures = self.pictures();
        if !pictures.is_empty() {
            section("Samples in the buffer", &paragraph(PICTURES), &pictures);
        }
        section("Configuration", &paragraph(CONFIGURATION), &self.configuration());
        page.push_str("</body>\n</html>\n");
        page
    }

    /// The properties that all runs have in common.
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
            "method",
            "class-IL %",
            "task-IL %",
            "top-5 %",
            "forgetting %",
            "backward transfer %",
            "forward transfer %",
            "total s",
            "training s",
            "× incremental",
            "images/s",
        ];
        let line = |group: &Group<'_>| {
            let percent = |value: fn(&Summary) -> Option<f64>| {
                figure(1, group.mean(|report| Some(100.0 * value(&report.summary)?)))
            };
            let ratio = group.relative_time(self.reference_time(group));
            vec![
                group.title(),
                percent(|summary| summary.average_top1),
                percent(|summary| summary.average_task_il),
                percent(|summary| summary.average_top5),
                percent(|summary| summary.forgetting),
                percent(|summary| summary.bwt),
                percent(|summary| summary.fwt),
                figure(1, group.mean(|report| Some(report.time.total_s))),
                figure(1, group.train_s()),
                ratio.map_or(UNKNOWN.into(), |ratio| format!("{ratio:.2}")),
                figure(0, group.mean(|report| report.time.samples_per_s)),
            ]
        };
        table(&head, self.groups.iter().map(line))
    }

    /// Notes on how to read the table of methods.
    fn notes(&self) -> String {
        let mut notes = paragraph(METHODS);
        if self.has_several_seeds() {
            notes += &paragraph(
                "Several seeds: mean ± sample standard deviation. Runs with different \
                 configurations are separate.",
            );
        }
        if self.reports.iter().any(|report| !report.complete) {
            notes += &paragraph("A run was interrupted. Its figures are those so far.");
        }
        let left_out = self.reports.iter().map(|report| report.left_out).max().unwrap_or(0);
        if left_out > 0 {
            notes += &paragraph(&format!("Images left out because they are damaged: {left_out}."));
        }
        notes
    }

    /// A line for each group with a buffer.
    fn buffers(&self) -> String {
        let head = ["method", "stored", "capacity", "per class", "distinct", "bytes", "store"];
        let line = |group: &Group<'_>| {
            let buffer = group.reports.iter().find_map(|report| report.buffer.as_ref())?;
            let BufferReport { capacity, len, bytes, store, per_class, distinct, .. } = buffer;
            let per_class = || per_class.iter().filter(|&&rows| rows > 0);
            let range = per_class().min().zip(per_class().max());
            Some(vec![
                group.title(),
                len.to_string(),
                capacity.to_string(),
                range.map_or(UNKNOWN.into(), |(fewest, most)| format!("{fewest} to {most}")),
                distinct.map_or(UNKNOWN.into(), |distinct| distinct.to_string()),
                bytes.to_string(),
                store.clone(),
            ])
        };
        table(&head, self.groups.iter().filter_map(line))
    }

    /// The configuration of all runs. If groups differ, each value with the groups that have it.
    fn configuration(&self) -> String {
        let configs = || self.reports.iter().filter_map(|report| report.config.as_object());
        let changed: Vec<&str> = self.fields.changed.map_or_else(Vec::new, |changed| {
            configs()
                .filter_map(|config| config.get(changed)?.as_array())
                .flatten()
                .filter_map(Value::as_str)
                .collect()
        });
        let mut html = String::from("<table class=\"settings\">\n<tbody>\n");
        let mut row = |name: &str, values: &str| {
            let class = if changed.contains(&name) { " class=\"changed\"" } else { "" };
            let (name, values) = (escape(name), escape(values));
            let _ =
                writeln!(html, "<tr{class}><th scope=\"row\">{name}</th><td>{values}</td></tr>");
        };
        for name in distinct(configs().flat_map(|config| config.keys())) {
            if self.fields.changed == Some(name) {
                continue;
            }
            let mut values: Vec<(String, Vec<&str>)> = Vec::new();
            for group in &self.groups {
                let of_group = group.reports.iter().filter_map(|report| report.config.get(name));
                for value in of_group.map(shown) {
                    match values.iter_mut().find(|(other, _)| *other == value) {
                        Some((_, labels)) if labels.contains(&group.label.as_str()) => {}
                        Some((_, labels)) => labels.push(&group.label),
                        None => values.push((value, vec![&group.label])),
                    }
                }
            }
            // Seeds and neutral fields differ within groups, and do not distinguish them.
            let apart = self.groups.len() > 1
                && values.len() > 1
                && values.iter().all(|(_, labels)| labels.len() < self.groups.len())
                && name != "seed"
                && !self.fields.neutral.contains(&name.as_str());
            let shown = |(value, labels): (String, Vec<&str>)| match apart {
                true => format!("{value} ({})", labels.join(", ")),
                false => value,
            };
            let values: Vec<_> = values.into_iter().map(shown).collect();
            row(name, &values.join(if apart { "; " } else { ", " }));
        }
        let machine =
            |report: &RunReport| format!("{}, ranks {}", report.device, report.world_size);
        row("trained on", &distinct(self.reports.iter().map(machine)).join("; "));
        html + "</tbody>\n</table>\n"
    }
}

/// The different values, in order.
fn distinct<T: Ord>(values: impl Iterator<Item = T>) -> Vec<T> {
    values.collect::<BTreeSet<_>>().into_iter().collect()
}

/// A value of the configuration as text. Fractions have at most four decimals, unless that would
/// round them to 0.
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
        Value::Object(fields) => {
            let field = |(name, value)| format!("{name}={}", shown(value));
            fields.iter().map(field).collect::<Vec<_>>().join(", ")
        }
        other => other.to_string(),
    }
}

fn paragraph(text: &str) -> String {
    format!("<p class=\"note\">{}</p>\n", escape(text))
}

/// A table with a head. The first cell of a row is its name.
fn table(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let cell = |(index, text): (usize, String)| match index {
        0 => format!("<th scope=\"row\">{}</th>", escape(&text)),
        _ => format!("<td>{}</td>", escape(&text)),
    };
    let row = |cells: Vec<String>| -> String { cells.into_iter().enumerate().map(cell).collect() };
    let head: String = head.iter().map(|title| format!("<th scope=\"col\">{title}</th>")).collect();
    let rows: String = rows.map(|cells| format!("<tr>{}</tr>\n", row(cells))).collect();
    format!("<table>\n<thead>\n<tr>{head}</tr>\n</thead>\n<tbody>\n{rows}</tbody>\n</table>\n")
}

pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use crate::fixtures::{PNG, compare, report, three_methods};
    use burn_rehearsal_train::epoch::Epoch;
    use burn_rehearsal_train::report::schema::CurvePoint;

    #[test]
    fn the_page_is_complete_and_needs_no_other_file() {
        let mut reports = three_methods(2);
        reports[1].left_out = 3;
        reports[1].config["overridden"] = serde_json::json!(["epochs"]);
        reports[1].config["data"] = "folder:<b>&".into();
        let page = compare(&reports).html();
        for text in [
            "incremental",
            "rehearsal",
            "scratch",
            "<th scope=\"col\">class-IL %</th><th scope=\"col\">task-IL %</th>",
            "<td>96.5</td><td>97.8</td>",
            "left out because they are damaged: 3",
            "folder:&lt;b&gt;&amp;",
            "<td>1234</td>",
            "<td>10 to 10</td>",
            "epochs 5 · tasks 2 · ranks 2 · device flex · seed 0",
            "<tr class=\"changed\"><th scope=\"row\">epochs</th><td>5</td></tr>",
        ] {
            assert!(page.contains(text), "{text} is not in {page}");
        }
        // Accuracies within tasks were not measured, and there is no file of a picture.
        assert_eq!(page.matches("<svg").count(), 3);
        for other_file in ["<script", "<link", "src=", "url(", "href"] {
            assert!(!page.contains(other_file), "{other_file}");
        }
        for tag in ["table", "thead", "tbody", "tr", "td", "th", "div", "h2", "svg", "p"] {
            let opened = page.matches(&format!("<{tag}>")).count()
                + page.matches(&format!("<{tag} ")).count();
            assert_eq!(opened, page.matches(&format!("</{tag}>")).count(), "{tag}");
        }
    }

    #[test]
    fn the_page_has_accuracies_within_tasks_if_they_were_measured() {
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
    fn runs_with_different_configurations_are_separate() {
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
            page.contains(">area</th><td>0.75, 1.3333</td>")
                && page.contains(">seed</th><td>0, 1, 2, 3</td>"),
            "{page}"
        );
    }

    #[test]
    fn pictures_of_stored_samples_are_embedded() {
        let mut reports = three_methods(2);
        assert!(!compare(&reports).html().contains("Samples in the buffer"));
        let buffer = reports.iter_mut().find_map(|report| report.buffer.as_mut()).unwrap();
        buffer.pictures[0].png = PNG.to_vec();
        let page = compare(&reports).html();
        assert!(page.contains("<h2>Samples in the buffer</h2>"), "{page}");
        assert_eq!(page.matches("data:image/png;base64,").count(), 1);
    }

    #[test]
    fn seeds_are_merged() {
        let reports: Vec<_> = (0..3).map(|seed| report("rehearsal", 2, seed)).collect();
        let page = compare(&reports).html();
        assert!(page.contains("rehearsal (3 seeds)") && page.contains('±'));
    }
}
