//! The generated parts of `docs/BENCHMARKS.md`: tables between markers, and charts.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::{RESULTS, Results, Row, chart, read_all};
use crate::error::{Error, Result};

/// The page, with a pair of markers for each benchmark.
const PAGE: &str = "docs/BENCHMARKS.md";
/// The folder of the charts, relative to the page.
const CHARTS: &str = "bench";
/// The line before the tables of a benchmark, around its name, and the line behind them.
const BEGIN: (&str, &str) = ("<!-- results: ", " -->");
const END: &str = "<!-- end of results -->";

/// Writes the page and the charts that follow from the results.
pub(crate) fn write_tables(root: &Path) -> Result<()> {
    for (path, content) in generated(root)? {
        let failed = |source| Error::File { path: path.clone(), source };
        path.parent().map_or(Ok(()), fs::create_dir_all).map_err(failed)?;
        fs::write(&path, content).map_err(failed)?;
    }
    Ok(())
}

/// Every file that follows from the results, with its content.
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

/// `page` with the results between its markers.
fn filled(page: &str, results: &[(String, Results)]) -> std::result::Result<String, String> {
    let mut lines = Vec::new();
    let mut open: Option<&str> = None;
    let mut seen = BTreeSet::new();
    for line in page.lines() {
        if line == END {
            open = None;
        }
        if open.is_none() {
            lines.push(line.to_owned());
        }
        let name = line.strip_prefix(BEGIN.0).and_then(|rest| rest.strip_suffix(BEGIN.1));
        if let Some(name) = name {
            open = Some(name);
            seen.insert(name);
            let of = |results: &Results| results.benchmark == name;
            let sections = results.iter().filter(|(_, results)| of(results));
            let sections: Vec<String> =
                sections.map(|(file, results)| section(file, results)).collect();
            lines.push(if sections.is_empty() {
                format!("Not measured yet: `cargo xtask bench {name}`.")
            } else {
                sections.join("\n\n")
            });
        }
    }
    if let Some(name) = open {
        return Err(format!("`{}{name}{}` has no `{END}`", BEGIN.0, BEGIN.1));
    }
    match results.iter().find(|(_, results)| !seen.contains(results.benchmark.as_str())) {
        Some((_, Results { benchmark, .. })) => {
            Err(format!("there is no line `{}{benchmark}{}`", BEGIN.0, BEGIN.1))
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
    let chart = format!("![{file}]({CHARTS}/{file}.svg)\\");
    format!("{chart}\n{}; commit {commit}, {date}.\n\n{}", origin.join(", "), table(&results.rows))
}

/// A table with a row per case and a column per quantity.
fn table(rows: &[Row]) -> String {
    let cases = distinct(rows.iter().map(|row| row.case.clone()));
    let column = |row: &Row| (row.quantity.clone(), row.unit.clone());
    let columns = distinct(rows.iter().map(column));
    // A target that is the same in a whole column stands in its head.
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
    fn results_replace_what_is_between_the_markers() {
        let page = format!("# P\n<!-- results: x -->\nold\n{END}\ntext\n");
        let empty = filled(&page, &[]).unwrap();
        assert!(empty.contains("Not measured yet: `cargo xtask bench x`.\n<!-- end"), "{empty}");
        let all = [results("x", vec![row("a", "time", 1.0, None)])];
        let once = filled(&empty, &all).unwrap();
        assert!(once.contains("![x](bench/x.svg)") && once.contains("| a | 1 |"), "{once}");
        assert!(once.contains("CPU, 2 cores, 8 GiB; commit abc, 2026-01-02."), "{once}");
        assert!(
            once.starts_with("# P\n") && once.ends_with(&format!("|\n{END}\ntext\n")),
            "{once}"
        );
        assert_eq!(filled(&once, &all).unwrap(), once);
    }

    #[test]
    fn missing_markers_are_named() {
        let unknown = filled("# P\n", &[results("x", Vec::new())]).unwrap_err();
        assert!(unknown.contains("results: x"), "{unknown}");
        let open = filled("<!-- results: y -->\n", &[]).unwrap_err();
        assert!(open.contains("results: y"), "{open}");
    }

    #[test]
    fn thousands_are_grouped() {
        let numbers = [0.5, 12.0, 999.9, 1000.0, 12_340.0, 1_002_000.0];
        assert_eq!(numbers.map(number), ["0.5", "12", "999.9", "1,000", "12,340", "1,002,000"]);
    }
}
