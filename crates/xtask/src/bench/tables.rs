//! The generated parts of `docs/BENCHMARKS.md`: tables and charts.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::{RESULTS, Results, Row, chart, read_all};
use crate::error::{Error, Result};

/// The page. It has a marker for each benchmark, which is a comment.
const PAGE: &str = "docs/BENCHMARKS.md";
/// The folder of the charts, relative to the page.
const CHARTS: &str = "bench";
/// A marker, around the name of a benchmark. Its results extend to the next heading.
const MARKER: (&str, &str) = ("<!-- results: ", " -->");
const HEADING: &str = "## ";

/// Writes the page and the charts, which are generated from the results.
pub(crate) fn write_tables(root: &Path) -> Result<()> {
    for (path, content) in generated(root)? {
        let failed = |source| Error::File { path: path.clone(), source };
        path.parent().map_or(Ok(()), fs::create_dir_all).map_err(failed)?;
        fs::write(&path, content).map_err(failed)?;
    }
    Ok(())
}

/// Every file that is generated from the results, with its content.
fn generated(root: &Path) -> Result<Vec<(PathBuf, String)>> {
    let path = root.join(PAGE);
    let page =
        fs::read_to_string(&path).map_err(|source| Error::File { path: path.clone(), source })?;
    let results = read_all::<Results>(&root.join(RESULTS))?;
    let charts = root.join("docs").join(CHARTS);
    let mut files: Vec<_> = results
        .iter()
        .map(|(name, results)| {
            (charts.join(name).with_extension("svg"), chart::chart(&results.rows))
        })
        .collect();
    let page =
        filled(&page, &results).map_err(|reason| Error::Invalid { path: path.clone(), reason })?;
    files.push((path, page));
    Ok(files)
}

/// `page` with the results after its markers.
fn filled(page: &str, results: &[(String, Results)]) -> std::result::Result<String, String> {
    let mut lines = Vec::new();
    let mut in_results = false;
    let mut seen = BTreeSet::new();
    for line in page.lines() {
        if in_results && line.starts_with(HEADING) {
            lines.push(String::new());
            in_results = false;
        }
        if in_results {
            continue;
        }
        lines.push(line.to_owned());
        let name = line.strip_prefix(MARKER.0).and_then(|rest| rest.strip_suffix(MARKER.1));
        if let Some(name) = name {
            in_results = true;
            seen.insert(name);
            let of_name = results.iter().filter(|(_, results)| results.benchmark == name);
            let sections: Vec<String> =
                of_name.map(|(file, results)| section(file, results)).collect();
            lines.push(if sections.is_empty() {
                format!("Not measured yet: `cargo xtask bench {name}`.")
            } else {
                sections.join("\n\n")
            });
        }
    }
    match results.iter().find(|(_, results)| !seen.contains(results.benchmark.as_str())) {
        Some((_, Results { benchmark, .. })) => {
            Err(format!("there is no line `{}{benchmark}{}`", MARKER.0, MARKER.1))
        }
        None => Ok(lines.join("\n") + "\n"),
    }
}

/// The chart, the origin and the table of a file of results.
fn section(file: &str, results: &Results) -> String {
    let Results { machine, commit, date, .. } = results;
    let mut origin = vec![machine.cpu.clone()];
    origin.extend(machine.gpu.clone());
    origin.push(format!("{} cores", machine.cores));
    origin.extend(machine.memory_gib.map(|memory| format!("{memory} GiB")));
    let chart = format!("![{file}]({CHARTS}/{file}.svg)");
    format!("{chart} {}; commit {commit}, {date}.\n\n{}", origin.join(", "), table(&results.rows))
}

/// A table with a row per case and a column per quantity.
fn table(rows: &[Row]) -> String {
    let cases = distinct(rows.iter().map(|row| row.case.clone()));
    let column = |row: &Row| (row.quantity.clone(), row.unit.clone());
    let columns = distinct(rows.iter().map(column));
    // A target that is the same for a whole column is shown in the head of the column.
    let common: Vec<Option<String>> = columns
        .iter()
        .map(|of| {
            let targets = rows.iter().filter(|row| column(row) == *of);
            let targets = distinct(targets.filter_map(|row| row.target.map(|t| t.to_string())));
            if targets.len() == 1 { targets.into_iter().next() } else { None }
        })
        .collect();
    let heads = columns.iter().zip(&common).map(|((quantity, unit), target)| {
        let target = target.as_ref().map_or_else(String::new, |target| format!(" ({target})"));
        format!("{quantity}, {unit}{target}")
    });
    let line = |cells: Vec<String>| format!("| {} |", cells.join(" | "));
    let mut lines = vec![
        line(std::iter::once(String::new()).chain(heads).collect()),
        format!("|---|{}", "---:|".repeat(columns.len())),
    ];
    for case in cases {
        let cell = |(of, common): (&(String, String), &Option<String>)| {
            let row = rows.iter().find(|row| row.case == case && column(row) == *of);
            row.map_or_else(String::new, |row| cell(row, common.is_none()))
        };
        let cells = columns.iter().zip(&common).map(cell);
        lines.push(line(std::iter::once(case.clone()).chain(cells).collect()));
    }
    lines.join("\n")
}

/// A value, whether it meets its target, and the target if `with_target`.
fn cell(row: &Row, with_target: bool) -> String {
    let target = row.target.filter(|_| with_target);
    let target = target.map_or_else(String::new, |target| format!(" ({target})"));
    let mark = match row.met {
        Some(true) => " ✓",
        Some(false) => " ✗",
        None => "",
    };
    format!("{}{target}{mark}", number(row.value))
}

/// The values without repetitions, in the order of their first appearance.
fn distinct<T: PartialEq>(values: impl Iterator<Item = T>) -> Vec<T> {
    let mut distinct = Vec::new();
    values.for_each(|value| {
        if !distinct.contains(&value) {
            distinct.push(value);
        }
    });
    distinct
}

/// A number of at most four significant digits, with commas between thousands.
pub(super) fn number(value: f64) -> String {
    if value < 1e3 {
        return value.to_string();
    }
    let whole = value.round() as u64;
    format!("{},{:03}", number((whole / 1000) as f64), whole % 1000)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use crate::bench::Machine;
    use crate::limit::Limit;

    use super::*;

    fn row(case: &str, quantity: &str, value: f64, target: Option<f64>) -> Row {
        Row {
            question: "q".into(),
            case: case.into(),
            quantity: quantity.into(),
            value,
            unit: "µs".into(),
            target: target.map(Limit::AtMost),
            met: target.map(|limit| value <= limit),
        }
    }

    fn results(benchmark: &str, rows: Vec<Row>) -> (String, Results) {
        let machine = Machine { cpu: "CPU".into(), cores: 2, memory_gib: Some(8), gpu: None };
        let results = Results {
            benchmark: benchmark.into(),
            machine,
            commit: "abc".into(),
            date: "2026-01-02".into(),
            command: "c".into(),
            profile: "bench".into(),
            rows,
        };
        (benchmark.to_owned(), results)
    }

    #[test]
    fn committed_tables_and_charts_match_the_results() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let files = generated(&root).unwrap();
        for (path, content) in &files {
            let committed = fs::read_to_string(path).unwrap_or_default();
            let path = path.display();
            assert!(committed == *content, "{path} is out of date: cargo xtask bench --tables");
        }
        for entry in fs::read_dir(root.join("docs").join(CHARTS)).unwrap() {
            let path = entry.unwrap().path();
            assert!(files.iter().any(|(file, _)| *file == path), "no results for {path:?}");
        }
    }

    #[test]
    fn a_table_has_a_row_per_case_and_a_column_per_quantity() {
        let rows = [
            row("a", "time", 1.5, Some(2.0)),
            row("a", "rest", 12_345.0, Some(1.0)),
            row("b", "time", 3.0, Some(2.0)),
            row("b", "rest", 4.0, Some(5.0)),
            row("c", "rest", 7.0, None),
        ];
        let expected = "\
            |  | time, µs (≤ 2) | rest, µs |\n\
            |---|---:|---:|\n\
            | a | 1.5 ✓ | 12,345 (≤ 1) ✗ |\n\
            | b | 3 ✗ | 4 (≤ 5) ✓ |\n\
            | c |  | 7 |";
        assert_eq!(table(&rows), expected);
    }

    #[test]
    fn results_extend_from_a_marker_to_the_next_heading() {
        let page = "# P\n<!-- results: x -->\nold\n\n## H\ntext\n";
        let empty = filled(page, &[]).unwrap();
        assert!(empty.contains("-->\nNot measured yet: `cargo xtask bench x`.\n\n## H"), "{empty}");
        let all = [results("x", vec![row("a", "time", 1.0, None)])];
        let once = filled(&empty, &all).unwrap();
        assert!(once.contains("![x](bench/x.svg) CPU, 2 cores, 8 GiB; commit abc"), "{once}");
        assert!(once.starts_with("# P\n"), "{once}");
        assert!(once.ends_with("| a | 1 |\n\n## H\ntext\n"), "{once}");
        assert_eq!(filled(&once, &all).unwrap(), once);
    }

    #[test]
    fn a_missing_marker_is_named() {
        let error = filled("# P\n", &[results("x", Vec::new())]).unwrap_err();
        assert!(error.contains("<!-- results: x -->"), "{error}");
    }

    #[test]
    fn thousands_are_grouped() {
        let numbers = [0.5, 12.0, 999.9, 1000.0, 12_340.0, 1_002_000.0];
        assert_eq!(numbers.map(number), ["0.5", "12", "999.9", "1,000", "12,340", "1,002,000"]);
    }
}
