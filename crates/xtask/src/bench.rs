//! `cargo xtask bench`: runs benchmarks, collects their figures in [`RESULTS`], and makes the
//! tables and charts of `docs/BENCHMARKS.md` from them.

mod chart;
mod tables;

use std::fs;
use std::path::Path;
use std::process::Command;

use serde::{Deserialize, Serialize};

pub(crate) use tables::write_tables;

use crate::error::{Error, Result};
use crate::limit::Limit;
use crate::prerequisites;
use crate::process;
use crate::workspace::Workspace;

/// The benchmark that needs an MPI library. It starts `mpirun` itself.
const MPI: &str = "mpi";
/// The folder of the collected figures: one file per benchmark, and one more per backend other than
/// the default.
const RESULTS: &str = "benches/results";
/// The environment variable that names the folder in which benchmarks record their figures.
const FOLDER: &str = "BENCH_FIGURES";

/// The figures of a benchmark, and where they come from.
#[derive(Debug, Serialize, Deserialize)]
struct Results {
    benchmark: String,
    machine: Machine,
    commit: String,
    date: String,
    command: String,
    profile: String,
    rows: Vec<Row>,
}

/// The machine on which a benchmark ran.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Machine {
    cpu: String,
    cores: usize,
    memory_gib: Option<u64>,
    gpu: Option<String>,
}

/// A measured value.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Row {
    /// The question of the benchmark.
    question: String,
    /// The conditions of the measurement.
    case: String,
    /// The name of the figure.
    quantity: String,
    value: f64,
    unit: String,
    target: Option<Limit>,
    /// Whether the value meets the target.
    met: Option<bool>,
}

pub(crate) struct Origin<'a> {
    /// The command that repeats the measurement, `NAME` standing for the benchmark.
    pub(crate) command: &'a str,
    /// Cargo's profile.
    pub(crate) profile: &'a str,
    /// The backend, and the GPU that it ran on, if it is not the default one.
    pub(crate) gpu: Option<(&'a str, &'a str)>,
}

/// Runs the benchmarks `names`, or all if there are no names.
///
/// Without names, the benchmark over MPI is skipped with a message if there is no MPI.
pub(crate) fn bench(workspace: &Workspace, names: &[String]) -> Result<()> {
    let origin = Origin { command: "cargo xtask bench NAME", profile: "bench", gpu: None };
    let run = |arguments: &[&str]| {
        let mut command = workspace.cargo(&["bench", "-p", "burn-rehearsal-benches", "--locked"]);
        command.args(arguments);
        record(workspace, command, &origin)
    };
    let others: Vec<&str> =
        names.iter().filter(|name| *name != MPI).flat_map(|name| ["--bench", name]).collect();
    if names.is_empty() || !others.is_empty() {
        run(&others)?;
    }
    if names.is_empty() || names.iter().any(|name| name == MPI) {
        match prerequisites::ensure(&prerequisites::MPI_TOOLS) {
            Err(Error::MissingTools(missing)) if names.is_empty() => {
                println!("*** {MPI} SKIPPED: {missing}");
            }
            ensured => {
                ensured?;
                run(&["--features", MPI, "--bench", MPI])?;
            }
        }
    }
    Ok(())
}

/// Runs `command`, collects the figures that its benchmarks record, and updates the tables.
///
/// If a benchmark fails, the figures of the earlier ones are kept.
pub(crate) fn record(
    workspace: &Workspace,
    mut command: Command,
    origin: &Origin<'_>,
) -> Result<()> {
    let folder =
        tempfile::tempdir().map_err(|source| Error::File { path: std::env::temp_dir(), source })?;
    let ran = process::run(command.env(FOLDER, folder.path()));
    collect(&workspace.root, folder.path(), origin)?;
    write_tables(&workspace.root)?;
    ran
}

/// Moves recorded figures to [`RESULTS`], with their origin.
fn collect(root: &Path, recorded: &Path, origin: &Origin<'_>) -> Result<()> {
    let results = root.join(RESULTS);
    fs::create_dir_all(&results).map_err(|source| Error::File { path: results.clone(), source })?;
    let commit = commit(root);
    for (benchmark, rows) in read_all::<Vec<Row>>(recorded)? {
        let suffix = origin.gpu.map_or_else(String::new, |(backend, _)| format!("-{backend}"));
        let path = results.join(format!("{benchmark}{suffix}.json"));
        let collected = Results {
            machine: machine(origin.gpu.map(|(_, name)| name)),
            commit: commit.clone(),
            date: first_line(Command::new("date").args(["-u", "+%F"])),
            command: origin.command.replace("NAME", &benchmark),
            profile: origin.profile.to_owned(),
            benchmark,
            rows,
        };
        let json = serde_json::to_string_pretty(&collected)
            .map_err(|error| Error::Invalid { path: path.clone(), reason: error.to_string() })?;
        fs::write(&path, json + "\n").map_err(|source| Error::File { path, source })?;
    }
    Ok(())
}

/// The name and the content of every JSON file in `folder`, in the order of their names.
fn read_all<T: serde::de::DeserializeOwned>(folder: &Path) -> Result<Vec<(String, T)>> {
    let failed = |source| Error::File { path: folder.to_owned(), source };
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let (Some(name), Some("json")) = (
            path.file_stem().and_then(|name| name.to_str()),
            path.extension().and_then(|extension| extension.to_str()),
        ) else {
            continue;
        };
        let text = fs::read_to_string(&path)
            .map_err(|source| Error::File { path: path.clone(), source })?;
        let content = serde_json::from_str(&text)
            .map_err(|error| Error::Invalid { path: path.clone(), reason: error.to_string() })?;
        all.push((name.to_owned(), content));
    }
    all.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(all)
}

/// Describes this machine.
fn machine(gpu: Option<&str>) -> Machine {
    let read = |file: &str, key: &str| {
        let text = fs::read_to_string(file).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix(key));
        line.map(|value| value.trim_start_matches([' ', '\t', ':']).to_owned())
    };
    let memory_kib = read("/proc/meminfo", "MemTotal")
        .and_then(|value| value.strip_suffix(" kB")?.parse::<f64>().ok());
    Machine {
        cpu: read("/proc/cpuinfo", "model name")
            .unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
        cores: std::thread::available_parallelism().map_or(0, usize::from),
        memory_gib: memory_kib.map(|kib| (kib / f64::from(1 << 20)).round() as u64),
        gpu: gpu.map(str::to_owned),
    }
}

/// The commit that is checked out, with `-dirty` if files other than results and documents differ
/// from it.
fn commit(root: &Path) -> String {
    let git = |arguments: &[&str]| {
        let mut command = Command::new("git");
        command.args(arguments).current_dir(root);
        command
    };
    let same = ["diff", "--quiet", "HEAD", "--", ".", ":!benches/results", ":!docs"];
    let dirty = if process::succeeds(&mut git(&same)) { "" } else { "-dirty" };
    first_line(&mut git(&["rev-parse", "--short=10", "HEAD"])) + dirty
}

/// The first line that `command` prints, or `unknown`.
fn first_line(command: &mut Command) -> String {
    let output = command.output().map(|output| output.stdout).unwrap_or_default();
    let text = String::from_utf8_lossy(&output);
    text.lines().next().map_or_else(|| "unknown".to_owned(), str::to_owned)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn recorded_figures_are_collected_with_their_origin() {
        let (root, recorded) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let row = r#"[{"question": "q", "case": "c", "quantity": "time", "value": 1.5, "unit": "ms",
            "target": {"at_most": 2.0}, "met": true}]"#;
        fs::write(recorded.path().join("training.json"), row).unwrap();
        let origin = Origin {
            command: "cargo xtask bench NAME",
            profile: "bench",
            gpu: Some(("cuda", "A GPU")),
        };
        collect(root.path(), recorded.path(), &origin).unwrap();
        let all = read_all::<Results>(&root.path().join(RESULTS)).unwrap();
        let [(name, results)] = all.as_slice() else { panic!("one file: {all:?}") };
        assert_eq!(name, "training-cuda");
        assert_eq!(results.command, "cargo xtask bench training");
        assert_eq!(results.machine.gpu.as_deref(), Some("A GPU"));
        assert_eq!((results.rows.len(), results.rows[0].met), (1, Some(true)));
    }

    #[test]
    fn a_file_of_figures_that_is_not_valid_is_named() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("bad.json"), "{").unwrap();
        let error = read_all::<Results>(folder.path()).unwrap_err().to_string();
        assert!(error.contains("bad.json"), "{error}");
    }
}
