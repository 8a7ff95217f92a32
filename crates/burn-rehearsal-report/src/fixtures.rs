//! Reports for tests, and functions with which tests read figures.

use burn_rehearsal_train::metrics::AccuracyMatrix;
use burn_rehearsal_train::report::RunReport;
use burn_rehearsal_train::report::schema::{Accuracy, EXAMPLE, Summary};

use crate::{Comparison, ConfigFields};

/// A typical accuracy matrix. `level` is the accuracy on a task once it is learned, and `fade` is
/// the factor by which each later task reduces it.
pub(crate) fn matrix(tasks: usize, fade: f64, level: f64) -> AccuracyMatrix {
    let mut matrix = AccuracyMatrix::new(tasks);
    for row in 0..tasks {
        let accuracy = |column: usize| {
            if column <= row { level * fade.powi((row - column) as i32) } else { 0.0 }
        };
        matrix
            .push_row(&(0..tasks).map(|column| Some(accuracy(column))).collect::<Vec<_>>())
            .unwrap();
    }
    matrix
}

/// A complete run of `tasks` tasks with two classes each.
pub(crate) fn report(method: &str, tasks: usize, seed: u64) -> RunReport {
    let wobble = 1.0 - 0.01 * (seed % 5) as f64;
    let (fade, level, time) = match method {
        "incremental" => (0.05, 0.99, 10.0),
        "rehearsal" => (0.97, 0.98, 20.0),
        _ => (1.0, 0.985, 60.0),
    };
    let accuracy = Accuracy {
        top1: matrix(tasks, fade, level * wobble),
        top5: matrix(tasks, 1.0, 1.0),
        // Within a task, little is forgotten.
        task_il: matrix(tasks, 0.85 + 0.15 * fade, level * wobble),
        initial_top1: Some(vec![0.1; tasks]),
    };
    let mut report: RunReport = serde_json::from_str(EXAMPLE).unwrap();
    report.config["method"] = serde_json::json!(method);
    report.config["seed"] = seed.into();
    report.config["out"] = format!("runs/{seed}").into();
    report.method = method.into();
    report.seed = seed;
    report.tasks = (0..tasks).map(|task| vec![2 * task, 2 * task + 1]).collect();
    report.summary = Summary::of(&accuracy);
    report.accuracy = accuracy;
    report.time.total_s = time * wobble;
    report.time.train_s = 0.9 * time * wobble;
    report.time.phases_ms.insert("forward_backward".into(), time / 10.0);
    report.curves[0].top1 = vec![Some(0.9); tasks];
    if method != "rehearsal" {
        report.buffer = None;
        report
            .time
            .phases_ms
            .retain(|phase, _| !["insert", "plan", "exchange"].contains(&phase.as_str()));
    }
    report
}

/// A comparison of runs whose configuration has these fields.
pub(crate) fn compare(reports: &[RunReport]) -> Comparison<'_> {
    let fields = ConfigFields {
        work: &["data"],
        neutral: &["out"],
        changed: Some("overridden"),
        headline: &["data", "epochs"],
    };
    Comparison::new(reports, fields)
}

/// One run of every method.
pub(crate) fn three_methods(tasks: usize) -> Vec<RunReport> {
    ["incremental", "scratch", "rehearsal"]
        .into_iter()
        .map(|method| report(method, tasks, 0))
        .collect()
}

/// Panics unless every tag of `svg` is closed, in order, and no text holds a bare `<` or `&`.
pub(crate) fn assert_well_formed(svg: &str) {
    let mut open: Vec<&str> = Vec::new();
    let mut rest = svg;
    while let Some(start) = rest.find('<') {
        assert!(!rest[..start].contains('>'), "a stray > in {:?}", &rest[..start]);
        assert!(
            rest[..start]
                .replace("&amp;", "")
                .replace("&lt;", "")
                .replace("&gt;", "")
                .replace("&quot;", "")
                .find('&')
                .is_none()
        );
        let end = start + rest[start..].find('>').expect("a tag is not closed by >");
        let tag = &rest[start + 1..end];
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "a tag is closed in the wrong order");
        } else if !tag.ends_with('/') && !tag.starts_with(['?', '!']) {
            open.push(tag.split_whitespace().next().expect("a tag has no name"));
        }
        assert_eq!(tag.matches('"').count() % 2, 0, "an odd number of quotes in <{tag}>");
        rest = &rest[end + 1..];
    }
    assert!(open.is_empty(), "tags that are not closed: {open:?}");
}

/// The contents of all `<text>` elements.
pub(crate) fn texts(svg: &str) -> Vec<String> {
    svg.split("<text")
        .skip(1)
        .map(|part| {
            part[part.find('>').unwrap() + 1..part.find("</text>").unwrap()].trim().to_string()
        })
        .collect()
}

/// The points of all polylines of a color.
pub(crate) fn polylines(svg: &str, class: &str) -> Vec<Vec<(i32, i32)>> {
    let number = |text: &str| text.parse().unwrap();
    svg.split(&format!("<polyline class=\"{class}\""))
        .skip(1)
        .map(|part| part.split("points=\"").nth(1).unwrap().split('"').next().unwrap())
        .map(|points| {
            points
                .split(' ')
                .map(|point| point.split_once(',').unwrap())
                .map(|(x, y)| (number(x), number(y)))
                .collect()
        })
        .collect()
}

/// A PNG file of 2 × 4 transparent pixels.
pub(crate) const PNG: &[u8] =
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x02\0\0\0\x04\x08\x06\0\0\0\xa4\xef\xee9\0\0\0\x0bID\
    ATx\x9cc` \x0c\0\0$\0\x01\xb6f\xdf\x04\0\0\0\0IEND\xaeB`\x82";
