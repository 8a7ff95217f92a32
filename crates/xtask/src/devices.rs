//! Builds, tests and benchmarks for devices other than the CPU.

use std::process::Command;

use crate::bench::{Origin, record};
use crate::error::{Error, Result};
use crate::gate::{self, Closing, print_line};
use crate::prerequisites;
use crate::workspace::Workspace;

/// The packages whose tests depend on the device.
const PACKAGES: [&str; 5] = [
    "burn-rehearsal",
    "burn-rehearsal-train",
    "burn-rehearsal-vision",
    "burn-rehearsal-tests",
    "continual-imagenet",
];
/// All features that depend on CUDA, and the terminal interface.
pub(crate) const CUDA_FEATURES: [&str; 7] = [
    "burn-rehearsal/cuda",
    "burn-rehearsal-benches/cuda",
    "burn-rehearsal-tests/cuda",
    "burn-rehearsal-train/cuda",
    "burn-rehearsal-vision/cuda",
    "continual-imagenet/cuda",
    "continual-imagenet/tui",
];
/// The test targets of these packages, and a filter for the names of tests. All other tests run on
/// the CPU.
const TESTS: [&str; 8] =
    ["--lib", "--test", "guarantees", "--test", "device", "--no-fail-fast", "--", "store::tests"];
/// Further filters. A test runs if its name contains any of them.
const NAMES: [&str; 4] = ["augment::tests", "device::", "precision", "on_the_device"];
/// The benchmarks that depend on the device.
const BENCHMARKS: [&str; 4] = ["augment", "device", "gradients", "training"];

/// The command that runs the device tests on `backend`, with further `options` of cargo.
fn device_tests(workspace: &Workspace, backend: &str, options: &[&str]) -> Command {
    let features = PACKAGES.map(|package| format!("{package}/{backend}"));
    let mut command = workspace.cargo(&["test", "--locked"]);
    command
        .args(options)
        .args(PACKAGES.iter().flat_map(|package| ["-p", package]))
        .args(["--features", &features.join(",")])
        .args(TESTS)
        .args(NAMES);
    command.env("BURN_DEVICE", backend);
    command
}

/// Runs the device tests through wgpu.
pub(crate) fn wgpu(workspace: &Workspace, closing: &mut Closing) -> Result<()> {
    prerequisites::ensure(&prerequisites::WGPU_TOOLS)?;
    gate::tests(
        device_tests(workspace, "wgpu", &["--profile", "wgpu"]),
        &mut std::io::stdout(),
        closing,
    )
}

/// Runs the device tests and [`BENCHMARKS`] on this machine's NVIDIA GPU.
pub(crate) fn gpu(workspace: &Workspace) -> Result<()> {
    let name = gpu_name().ok_or(Error::NoGpu)?;
    print_line(&format!("GPU: {name}"));
    let mut closing = Closing::default();
    gate::tests(
        device_tests(workspace, "cuda", &["--release"]),
        &mut std::io::stdout(),
        &mut closing,
    )?;
    let mut bench = workspace.cargo(&[
        "bench",
        "--locked",
        "-p",
        "burn-rehearsal-benches",
        "--features",
        "cuda",
    ]);
    bench.args(BENCHMARKS.iter().flat_map(|name| ["--bench", name])).env("BURN_DEVICE", "cuda");
    let gpu = Some(("cuda", name.as_str()));
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
