//! Builds, tests and benchmarks for devices other than the CPU.

use std::process::Command;

use crate::bench::{Origin, record};
use crate::error::{Error, Result};
use crate::gate::{self, Closing, print_line};
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
/// The test targets of these packages, and a filter for the names of tests. All other tests run on
/// the CPU.
const TESTS: [&str; 8] =
    ["--lib", "--test", "guarantees", "--test", "device", "--no-fail-fast", "--", "store::tests"];
/// Further filters. A test runs if its name contains any of them.
const NAMES: [&str; 4] = ["augment::tests", "device::", "precision", "on_the_device"];
/// The benchmarks that depend on the device.
const BENCHMARKS: [&str; 4] = ["augment", "device", "gradients", "training"];

/// The command that runs the device tests on `leg`, with further `options` of cargo.
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

/// Runs the device tests through wgpu.
pub(crate) fn wgpu(workspace: &Workspace, closing: &mut Closing) -> Result<()> {
    prerequisites::ensure(&prerequisites::WGPU_TOOLS)?;
    gate::tests(
        device_tests(workspace, Leg::WGPU, &["--profile", "wgpu"]),
        &mut std::io::stdout(),
        closing,
    )
}

/// Checks that everything compiles for CUDA and with the terminal interface. `DOCS_RS` lets the
/// bindings compile without the CUDA libraries and LLVM.
///
/// It builds the same packages in the same folder as the step `clippy`, so that everything that
/// does not depend on the backend is reused.
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

/// Runs the device tests and [`BENCHMARKS`] on this machine's NVIDIA GPU.
pub(crate) fn gpu(workspace: &Workspace) -> Result<()> {
    let name = gpu_name().ok_or(Error::NoGpu)?;
    print_line(&format!("GPU: {name}"));
    let mut closing = Closing::default();
    gate::tests(
        device_tests(workspace, Leg::CUDA, &["--release"]),
        &mut std::io::stdout(),
        &mut closing,
    )?;
    let mut bench = workspace.cargo(
        Leg::CUDA,
        &["bench", "--locked", "-p", "burn-rehearsal-benches", "--features", "cuda"],
    );
    bench
        .args(BENCHMARKS.iter().flat_map(|name| ["--bench", name]))
        .env("BURN_DEVICE", Leg::CUDA.backend);
    let gpu = Some((Leg::CUDA, name.as_str()));
    record(workspace, bench, &Origin { command: "cargo xtask gpu", profile: "bench", gpu })?;
    print_line(&format!("device tests: {}", closing.totals()));
    Ok(())
}

/// The name of the first GPU that `nvidia-smi` lists.
fn gpu_name() -> Option<String> {
    let output = Command::new("nvidia-smi")
        .args(["--query-gpu=name", "--format=csv,noheader"])
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    let names = String::from_utf8_lossy(&output.stdout);
    names.lines().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned)
}
