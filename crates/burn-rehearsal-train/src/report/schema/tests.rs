//! Round trips, and reports that are refused.

use super::*;
use tempfile::{TempDir, tempdir};

fn example() -> RunReport {
    serde_json::from_str(EXAMPLE).unwrap()
}

/// Writes a valid report with one replacement to a file.
fn edited(directory: &TempDir, from: &str, to: &str) -> PathBuf {
    let path = example().write(directory.path()).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{from} is not in {text}");
    fs::write(&path, text.replacen(from, to, 1)).unwrap();
    path
}

/// Compares reports except for the last bit of numbers, since serde_json reads decimals exactly
/// only with its feature `float_roundtrip`.
#[track_caller]
fn assert_same(found: &RunReport, expected: &RunReport) {
    fn rounded(value: &mut serde_json::Value) {
        match value {
            serde_json::Value::Number(number) if number.is_f64() => {
                *value = format!("{:.12}", number.as_f64().unwrap()).into()
            }
            serde_json::Value::Array(items) => items.iter_mut().for_each(rounded),
            serde_json::Value::Object(fields) => fields.values_mut().for_each(rounded),
            _ => {}
        }
    }
    let [found, expected] = [found, expected].map(|report| {
        let mut value = serde_json::to_value(report).unwrap();
        rounded(&mut value);
        value
    });
    assert_eq!(found, expected);
}

#[test]
fn a_report_is_read_back_by_file_and_by_directory() {
    let without_buffer = RunReport { buffer: None, ..example() };
    for (index, report) in [example(), without_buffer].into_iter().enumerate() {
        let directory = tempdir().unwrap();
        let run = directory.path().join(format!("runs/{index}"));
        let path = report.write(&run).unwrap();
        assert_eq!(path, run.join("report.json"));
        assert_same(&RunReport::read(&path).unwrap(), &report);
        assert_same(&RunReport::read(&run).unwrap(), &report);
    }
}

#[test]
fn a_run_stopped_before_its_first_evaluation_has_no_nan() {
    let directory = tempdir().unwrap();
    let mut run = example();
    run.complete = false;
    let none = AccuracyMatrix::new(2);
    run.accuracy =
        Accuracy { top1: none.clone(), top5: none.clone(), task_il: none, initial_top1: None };
    run.summary = Summary::of(&run.accuracy);
    run.time.samples_per_s = Some(f64::NAN);
    run.time.phases_ms.insert("never".into(), f64::NAN);
    run.curves = vec![CurvePoint {
        task: 0,
        epoch: crate::epoch::Epoch::FIRST,
        train_loss: Some(f64::INFINITY),
        top1: vec![Some(f64::NAN)],
    }];
    let path = run.write(directory.path()).unwrap();

    let back = RunReport::read(&path).unwrap();
    assert_eq!(back.summary, Summary::default());
    assert_eq!(
        (back.time.samples_per_s, back.curves[0].train_loss, back.curves[0].top1[0]),
        (None, None, None)
    );
    assert!(!back.time.phases_ms.contains_key("never"));
    assert!(!fs::read_to_string(&path).unwrap().contains("NaN"));
}

#[test]
fn pictures_are_files_next_to_the_report_and_may_be_missing() {
    let directory = tempdir().unwrap();
    let mut run = example();
    run.buffer.as_mut().unwrap().pictures[0].png = b"a picture".to_vec();
    let path = run.write(directory.path()).unwrap();
    let png = directory.path().join("stored.png");
    assert_eq!(fs::read(&png).unwrap(), b"a picture");
    let read = || RunReport::read(&path).unwrap().buffer.unwrap().pictures;
    assert_eq!(read(), run.buffer.unwrap().pictures);
    fs::remove_file(png).unwrap();
    assert_eq!(read(), example().buffer.unwrap().pictures);
}

#[test]
fn a_picture_in_another_directory_is_refused() {
    for file in ["../stored.png", "/etc/passwd", "a/b.png", "..", ""] {
        let directory = tempdir().unwrap();
        let path = edited(&directory, "\"stored.png\"", &format!("{file:?}"));
        let error = RunReport::read(&path).unwrap_err();
        assert!(matches!(error, ReportError::Inconsistent { .. }), "{file}: {error}");
    }
}

#[test]
fn field_names_are_those_of_the_schema_page() {
    /// All paths of a JSON value. Arrays of objects are `name[]`.
    fn paths(prefix: &str, value: &serde_json::Value, found: &mut Vec<String>) {
        match value {
            serde_json::Value::Object(fields)
                if !["config", "time.phases_ms"].contains(&prefix) =>
            {
                for (name, value) in fields {
                    paths(
                        &if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") },
                        value,
                        found,
                    );
                }
            }
            serde_json::Value::Array(items)
                if items.first().is_some_and(serde_json::Value::is_object) =>
            {
                paths(&format!("{prefix}[]"), &items[0], found);
            }
            _ => found.push(prefix.to_string()),
        }
    }
    let mut found = Vec::new();
    paths("", &serde_json::to_value(example()).unwrap(), &mut found);
    let page = include_str!("../SCHEMA.md");
    for path in &found {
        assert!(page.contains(&format!("| `{path}` |")), "{path} is not on the schema page");
    }
    // The page also has rows for objects and arrays of objects as a whole.
    assert_eq!(page.matches("\n| `").count(), found.len() + 5);
}

#[test]
fn a_newer_schema_version_is_refused_by_number() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("report.json");
    fs::write(&path, r#"{ "schema_version": 2, "something": "else" }"#).unwrap();
    let error = RunReport::read(&path).unwrap_err();
    assert!(matches!(error, ReportError::Version { found: 2, supported: 1, .. }), "{error}");
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    assert!(error.to_string().contains("schema_version 2"), "{error}");
}

#[test]
fn a_damaged_report_is_refused_with_its_file_name() {
    for (from, to) in [
        ("{", ""),
        ("\"schema_version\": 1,", ""),
        ("\"world_size\": 2", "\"world_size\": \"two\""),
        ("\"complete\"", "\"completed\""),
        ("0.95", "95"),
    ] {
        let directory = tempdir().unwrap();
        let path = edited(&directory, from, to);
        let error = RunReport::read(&path).unwrap_err();
        assert!(matches!(error, ReportError::Damaged { .. }), "{from} → {to}: {error}");
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    }
    let missing = tempdir().unwrap();
    let error = RunReport::read(missing.path()).unwrap_err();
    assert!(error.to_string().contains("report.json"), "{error}");
}

#[test]
fn unknown_fields_are_ignored() {
    let directory = tempdir().unwrap();
    let path = edited(&directory, "\"world_size\"", "\"later\": {}, \"world_size\"");
    assert_same(&RunReport::read(&path).unwrap(), &example());
}

#[test]
fn a_report_without_task_il_is_read_and_written() {
    let mut json = serde_json::to_value(example()).unwrap();
    json["accuracy"].as_object_mut().unwrap().remove("task_il").unwrap();
    json["summary"].as_object_mut().unwrap().remove("average_task_il").unwrap();
    let directory = tempdir().unwrap();
    fs::write(directory.path().join(REPORT_FILE), json.to_string()).unwrap();
    let report = RunReport::read(directory.path()).unwrap();
    assert_eq!(report.accuracy.task_il, AccuracyMatrix::default());
    assert_eq!(report.summary.average_task_il, None);
    assert_eq!(report.summary.average_top1, example().summary.average_top1);
    let copy = tempdir().unwrap();
    report.write(copy.path()).unwrap();
    assert_same(&RunReport::read(copy.path()).unwrap(), &report);
}

#[test]
fn an_inconsistent_report_is_neither_written_nor_read() {
    let directory = tempdir().unwrap();
    let mut wrong = example();
    wrong.tasks.push(vec![9]);
    let error = wrong.write(directory.path()).unwrap_err();
    assert!(
        error.to_string().contains("accuracy.top1 has 2 rows, but there are 3 tasks"),
        "{error}"
    );
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "no partial file");

    let mut wrong = example();
    wrong.accuracy.task_il = AccuracyMatrix::new(1);
    let error = wrong.write(directory.path()).unwrap_err();
    assert!(error.to_string().contains("accuracy.task_il has 1 rows"), "{error}");
    let mut wrong = example();
    wrong.accuracy.initial_top1 = Some(vec![0.1]);
    assert!(matches!(wrong.write(directory.path()), Err(ReportError::Inconsistent { .. })));
    wrong.accuracy.initial_top1 = Some(vec![0.1, f64::NAN]);
    assert!(matches!(wrong.write(directory.path()), Err(ReportError::Inconsistent { .. })));
    let mut wrong = example();
    wrong.time.train_s = f64::NAN;
    assert!(wrong.write(directory.path()).unwrap_err().to_string().contains("time.train_s is NaN"));
    let path = edited(&directory, "\"tasks\": [", "\"tasks\": [ [7],");
    assert!(matches!(RunReport::read(&path), Err(ReportError::Inconsistent { .. })));
}
