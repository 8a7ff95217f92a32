//! Devices other than the CPU: what is built for them, and what is run on them.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use crate::error::{Error, Result};
use crate::gate::{self, Closing, say};
use crate::workspace::{Leg, Workspace};
use crate::{prerequisites, process};

/// The packages whose tests depend on the device.
const PACKAGES: [&str; 5] = [
    "burn-rehearsal",
    "burn-rehearsal-train",
    "burn-rehearsal-vision",
    "burn-rehearsal-tests",
    "continual-imagenet",
];
/// The test targets in them, and the names of those tests. Everything else is tested on the CPU.
const TESTS: [&str; 8] =
    ["--lib", "--test", "guarantees", "--test", "device", "--no-fail-fast", "--", "store::tests"];
/// More names; a test runs if its name contains any.
const NAMES: [&str; 4] = ["augment::tests", "device::", "precision", "on_the_device"];
/// Where the figures go.
const RESULTS: &str = "benches/RESULTS.md";

/// The command that runs the device's tests on `leg`, with `options` of cargo.
fn device_tests(workspace: &Workspace, leg: Leg, options: &[&str]) -> Command {
    let features = PACKAGES.map(|package| format!("{package}/{}", leg.backend));
    let mut command = workspace.cargo(leg, &["test", "--locked"]);
    command
        .args(options)
        .args(PACKAGES.iter().flat_map(|package| ["-p", package]))
        .args(["--features", &features.join(",")])
        .args(TESTS)
        .args(NAMES);
    command.env("BURN_DEVICE", leg.backend);
    command
}

/// Runs the device's tests through wgpu.
pub(crate) fn wgpu(workspace: &Workspace, closing: &mut Closing) -> Result<()> {
    prerequisites::ensure(&prerequisites::WGPU_TOOLS)?;
    gate::tests(
        device_tests(workspace, Leg::WGPU, &["--profile", "wgpu"]),
        &mut std::io::stdout(),
        closing,
    )
}

/// Checks that everything compiles for CUDA, and the terminal interface with it; with `DOCS_RS` the
/// bindings do so without CUDA's own libraries and without LLVM.
///
/// The same packages in the same folder as the step `clippy`, so that whatever does not depend on
/// the backend is there already.
pub(crate) fn cuda(workspace: &Workspace) -> Result<()> {
    let packages = PACKAGES.iter().chain(&["burn-rehearsal-benches"]);
    let cuda = packages.map(|package| format!("{package}/cuda"));
    let features = cuda.chain(["continual-imagenet/tui".to_owned()]).collect::<Vec<_>>().join(",");
    let mut clippy = workspace.cargo(
        Leg::DEFAULT,
        &["clippy", "--workspace", "--all-targets", "--locked", "--features", &features],
    );
    process::run(clippy.args(["--", "-D", "warnings"]).env("DOCS_RS", "1"))
}

/// Runs the device's tests and all benchmarks on this machine's NVIDIA GPU, and adds the figures to
/// [`RESULTS`].
pub(crate) fn gpu(workspace: &Workspace) -> Result<()> {
    let name = gpu_name()?;
    say(&format!("GPU: {name}"));
    let mut closing = Closing::default();
    let started = Instant::now();
    gate::tests(
        device_tests(workspace, Leg::CUDA, &["--release"]),
        &mut std::io::stdout(),
        &mut closing,
    )?;
    let tests = format!(
        "tests of the device: {}, {:.0} s with building",
        closing.totals(),
        started.elapsed().as_secs_f64()
    );

    let mut bench = workspace.cargo(
        Leg::CUDA,
        &["bench", "--locked", "-p", "burn-rehearsal-benches", "--features", "cuda"],
    );
    bench.env("BURN_DEVICE", Leg::CUDA.backend);
    let mut figures = Vec::new();
    let status = process::run_listening(&mut bench, &mut std::io::stdout(), |line| {
        figures.push(line.trim_end().to_owned())
    })?;
    process::check(&bench, status)?;

    let section = section(&name, &tests, &figures);
    say(&section);
    add(&workspace.root.join(RESULTS), &heading(&name), &section)
}

/// The name of the first GPU, as its driver tells.
fn gpu_name() -> Result<String> {
    let none = || {
        Error::Machine(
            "there is no NVIDIA GPU here, or no driver for it (`nvidia-smi` tells no name)"
                .to_owned(),
        )
    };
    let output = Command::new("nvidia-smi")
        .args(["--query-gpu=name", "--format=csv,noheader"])
        .output()
        .map_err(|_| none())?;
    let names = String::from_utf8_lossy(&output.stdout).into_owned();
    names
        .lines()
        .map(str::trim)
        .find(|line| output.status.success() && !line.is_empty())
        .map(str::to_owned)
        .ok_or_else(none)
}

/// The heading of a GPU's section.
fn heading(name: &str) -> String {
    format!("## On {name}")
}

/// A section of [`RESULTS`]: what the tests gave, and the benchmarks' own tables.
fn section(name: &str, tests: &str, figures: &[String]) -> String {
    let figures = figures
        .iter()
        .map(String::as_str)
        .filter(|line| !line.is_empty())
        .collect::<Vec<_>>()
        .join("\n");
    format!("{}\n\n`cargo xtask gpu`; {tests}.\n\n```text\n{figures}\n```\n", heading(name))
}

/// Puts `section` in the place of an earlier one with the same heading, or at the end.
fn add(path: &Path, heading: &str, section: &str) -> Result<()> {
    let failed = |source| Error::File { path: path.to_owned(), source };
    let text = std::fs::read_to_string(path).map_err(failed)?;
    std::fs::write(path, replaced(&text, heading, section)).map_err(failed)
}

/// See [`add`].
fn replaced(text: &str, heading: &str, section: &str) -> String {
    let mut kept = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        if line.starts_with("## ") {
            inside = line == heading;
        }
        if !inside {
            kept.push(line);
        }
    }
    format!("{}\n\n{section}", kept.join("\n").trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_replaces_the_one_of_the_same_gpu_and_no_other() {
        let (a, b) = (
            section("A", "2 passed", &["x 1".to_owned(), String::new(), "y 2".to_owned()]),
            section("B", "3 passed", &[]),
        );
        assert!(a.contains("x 1\ny 2") && a.starts_with("## On A\n"), "{a}");
        let text = replaced(&replaced("# Results\n", &heading("A"), &a), &heading("B"), &b);
        assert_eq!(text, format!("# Results\n\n{a}\n{b}"));
        let again = section("A", "4 passed", &[]);
        assert_eq!(replaced(&text, &heading("A"), &again), format!("# Results\n\n{b}\n{again}"));
    }
}
