//! The gate: the steps of `cargo xtask test`, in order, until one fails.

use std::collections::BTreeSet;
use std::fmt;
use std::io::Write;
use std::process::Command;
use std::time::{Duration, Instant};

use clap::ValueEnum;

use crate::error::{Error, Result};
use crate::totals::Totals;
use crate::workspace::{Leg, Workspace};
use crate::{devices, examples, licenses, main_job, prerequisites, process};

/// A step of the gate. Cheap steps come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Step {
    /// Check that the required tools are installed.
    Prerequisites,
    /// `cargo fmt`.
    Format,
    /// Licenses, origins and versions of dependencies, and the metadata of the crates.
    Licenses,
    /// `cargo clippy` with warnings as errors, also for the library without the CPU backend.
    Clippy,
    /// `cargo doc` with warnings as errors.
    Docs,
    /// `cargo test`, with documentation tests.
    Tests,
    /// The programs in `examples/`, each with a bound for the figure that it prints.
    Examples,
    /// The model tests of thread ranks, in every interleaving (loom).
    Loom,
    /// Clippy, docs and tests with the feature `mpi`, whose ranks are processes under `mpirun`.
    /// Skipped with a message if there is no MPI.
    Mpi,
    /// Clippy and the tests of images with the feature `turbojpeg`. Skipped with a message if
    /// libjpeg-turbo cannot be built.
    Turbojpeg,
    /// Clippy with the features `cuda` and `tui`. It needs no GPU.
    Cuda,
    /// The device tests and a short training run through wgpu, on a GPU or on one that a Vulkan
    /// driver simulates. Skipped with a message if there is neither.
    Wgpu,
    /// The main job with its default arguments, compared with the published thresholds.
    MainJob,
}

impl Step {
    /// Whether the step may be skipped if its tools are not installed. In CI, and if the step was
    /// requested with `--only`, it may not.
    fn may_be_skipped(self, only: Option<Self>, in_ci: bool) -> bool {
        matches!(self, Self::Mpi | Self::Turbojpeg | Self::Wgpu) && only.is_none() && !in_ci
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.to_possible_value().as_ref().map_or("step", |value| value.get_name()))
    }
}

/// The verdict on a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Passed,
    Skipped,
    Failed,
}

impl Verdict {
    fn of(result: &Result<()>, may_be_skipped: bool) -> Self {
        match result {
            Ok(()) => Self::Passed,
            Err(Error::MissingTools(_)) if may_be_skipped => Self::Skipped,
            Err(_) => Self::Failed,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Passed => "passed",
            Self::Skipped => "SKIPPED",
            Self::Failed => "FAILED",
        })
    }
}

/// The outcome of a step.
struct Outcome {
    step: Step,
    time: Duration,
    verdict: Verdict,
}

/// The closing lines of test binaries, and their sum.
#[derive(Default)]
pub(crate) struct Closing {
    lines: Vec<String>,
    totals: Totals,
    /// The devices on which tests ran.
    devices: BTreeSet<String>,
}

/// The text that tests print before the name of their device.
const DEVICE: &str = "device of these tests: ";

impl Closing {
    /// The sum of all closing lines.
    pub(crate) fn totals(&self) -> &Totals {
        &self.totals
    }
}

/// Runs all steps, or only one. The output ends with the closing lines of the tests and their sum.
pub(crate) fn test(workspace: &Workspace, only: Option<Step>) -> Result<()> {
    let mut closing = Closing::default();
    let mut outcomes = Vec::new();
    let requested = |step: &Step| only.is_none_or(|only| only == *step);
    let steps: Vec<_> = Step::value_variants().iter().copied().filter(requested).collect();
    let mut result = Ok(());
    let mut skipped = Vec::new();
    for (index, &step) in steps.iter().enumerate() {
        print_line(&format!("==> {}/{} {step}", index + 1, steps.len()));
        let start = Instant::now();
        result = run(step, workspace, &mut closing);
        let time = start.elapsed();
        let verdict = Verdict::of(&result, step.may_be_skipped(only, prerequisites::in_ci()));
        if verdict == Verdict::Skipped {
            skipped.extend(result.err().map(|missing| format!("*** {step} SKIPPED: {missing}")));
            result = Ok(());
        }
        print_line(&format!("<== {step} {verdict} in {:.1} s", time.as_secs_f64()));
        outcomes.push(Outcome { step, time, verdict });
        if let Err(error) = &result {
            eprintln!(
                "\n{step} failed: {error}\nto run this step alone: cargo xtask test --only {step}"
            );
            break;
        }
    }
    print_line(&table(&outcomes));
    // Printed at the end, where they are not overlooked.
    skipped.iter().for_each(|skipped| print_line(&format!("{skipped}\n")));
    closing.devices.iter().for_each(|device| print_line(&format!("tests ran on {device}")));
    if !closing.lines.is_empty() {
        print_line(&format!(
            "closing lines of all test binaries, and their sum:\n{}\n{}",
            closing.lines.join("\n"),
            closing.totals
        ));
    }
    // The reason has already been printed, so that the sum is the last line.
    result.map_err(|_| Error::AlreadyReported)
}

fn run(step: Step, workspace: &Workspace, closing: &mut Closing) -> Result<()> {
    let cargo = |arguments: &[&str]| workspace.cargo(Leg::DEFAULT, arguments);
    match step {
        Step::Prerequisites => prerequisites::ensure(&prerequisites::TOOLS),
        Step::Format => process::run(&mut cargo(&["fmt", "--all", "--", "--check"])),
        Step::Licenses => licenses::check(),
        Step::Clippy => clippy(workspace),
        Step::Docs => process::run(
            cargo(&["doc", "--workspace", "--no-deps", "--locked"])
                .env("RUSTDOCFLAGS", "-D warnings"),
        ),
        Step::Tests => tests(
            cargo(&["test", "--workspace", "--locked", "--no-fail-fast"]),
            &mut std::io::stdout(),
            closing,
        ),
        Step::Examples => examples::run(workspace),
        Step::Loom => loom(workspace, closing),
        Step::Mpi => mpi(workspace, closing),
        Step::Turbojpeg => turbojpeg(workspace, closing),
        Step::Cuda => devices::cuda(workspace),
        Step::Wgpu => devices::wgpu(workspace, closing),
        Step::MainJob => main_job(workspace),
    }
}

/// Checks everything with default features, and the library without the CPU backend, which selects
/// other code.
fn clippy(workspace: &Workspace) -> Result<()> {
    let run = |leg, of: &[&str]| {
        process::run(
            workspace.cargo(leg, &["clippy", "--locked"]).args(of).args(["--", "-D", "warnings"]),
        )
    };
    run(Leg::DEFAULT, &["--workspace", "--all-targets"])?;
    run(Leg::NONE, &["-p", "burn-rehearsal", "--no-default-features"])
}

/// Builds the collective with loom's locks in a target directory of its own, and runs the tests
/// that explore all interleavings of threads.
fn loom(workspace: &Workspace, closing: &mut Closing) -> Result<()> {
    let model = [
        "test",
        "--release",
        "-p",
        "burn-rehearsal-collective",
        "--locked",
        "--lib",
        "threads::loom_tests",
    ];
    let mut command = workspace.cargo(Leg::DEFAULT, &model);
    command
        .env("RUSTFLAGS", "--cfg loom -D warnings")
        .env("CARGO_TARGET_DIR", workspace.target_dir(Leg::DEFAULT).join("loom"));
    tests(command, &mut std::io::stdout(), closing)
}

/// The whole workspace with the feature `mpi`, so that Burn is not built again.
const WITH_MPI: [&str; 4] = [
    "--workspace",
    "--locked",
    "--features",
    "burn-rehearsal-testing/mpi,burn-rehearsal-tests/mpi,continual-imagenet/mpi,burn-rehearsal-benches/mpi",
];

/// Runs the tests that need the feature `mpi`, with real processes that may outnumber the cores.
/// The benchmark over MPI is only compiled.
fn mpi(workspace: &Workspace, closing: &mut Closing) -> Result<()> {
    prerequisites::ensure(&prerequisites::MPI_TOOLS)?;
    let cargo = |arguments: &[&str]| workspace.cargo(Leg::DEFAULT, arguments);
    process::run(
        with(cargo(&["clippy", "--all-targets"]), &WITH_MPI).args(["--", "-D", "warnings"]),
    )?;
    let collective = ["-p", "burn-rehearsal-collective", "--features", "mpi", "--locked"];
    process::run(
        with(cargo(&["doc", "--no-deps"]), &collective).env("RUSTDOCFLAGS", "-D warnings"),
    )?;
    tests(
        with(cargo(&["test", "--no-fail-fast", "--test", "mpi*"]), &WITH_MPI),
        &mut std::io::stdout(),
        closing,
    )?;
    // The collective does not depend on Burn, so nothing else is built for its own tests.
    tests(with(cargo(&["test", "--lib"]), &collective), &mut std::io::stdout(), closing)?;
    tests(with(cargo(&["test", "--doc"]), &collective), &mut std::io::stdout(), closing)
}

/// The whole workspace with the feature `turbojpeg`, so that Burn is not built again.
const WITH_TURBOJPEG: [&str; 4] =
    ["--workspace", "--locked", "--features", "burn-rehearsal-vision/turbojpeg"];

/// Runs the tests that read JPEG files with libjpeg-turbo.
fn turbojpeg(workspace: &Workspace, closing: &mut Closing) -> Result<()> {
    prerequisites::ensure(&prerequisites::TURBOJPEG_TOOLS)?;
    let cargo =
        |arguments: &[&str]| with(workspace.cargo(Leg::DEFAULT, arguments), &WITH_TURBOJPEG);
    process::run(cargo(&["clippy", "--all-targets"]).args(["--", "-D", "warnings"]))?;
    tests(cargo(&["test", "--test", "data"]), &mut std::io::stdout(), closing)?;
    tests(with(cargo(&["test", "--lib"]), &["--", "data::turbo"]), &mut std::io::stdout(), closing)
}

/// `command` with further arguments.
fn with(mut command: Command, arguments: &[&str]) -> Command {
    command.args(arguments);
    command
}

/// Runs tests and keeps their closing lines, even if some fail.
pub(crate) fn tests(
    mut command: Command,
    output: &mut impl Write,
    closing: &mut Closing,
) -> Result<()> {
    let status = process::run_listening(&mut command, output, |line| {
        if let Some(counts) = Totals::parse(line) {
            closing.totals.add(counts);
            closing.lines.push(line.trim_end().to_owned());
        }
        if let Some((_, device)) = line.split_once(DEVICE) {
            closing.devices.insert(device.trim_end().to_owned());
        }
    })?;
    process::check(&command, status)?;
    if closing.totals.none_run() { Err(Error::NoTests(process::shown(&command))) } else { Ok(()) }
}

/// Runs the main job once, as a user would, and compares it with the published thresholds.
fn main_job(workspace: &Workspace) -> Result<()> {
    let program = main_job::build(workspace, &[])?;
    let out =
        tempfile::tempdir().map_err(|source| Error::File { path: std::env::temp_dir(), source })?;
    process::run(&mut main_job::compare(&program, None, out.path()))?;
    let averages = main_job::read_averages(out.path())?;
    for check in averages.method_checks() {
        println!("average top-1, {}: {:.4} (must be {:.2})", check.name, check.value, check.limit);
    }
    main_job::require(&averages.method_checks())
}

/// A table of the steps and their times.
fn table(outcomes: &[Outcome]) -> String {
    let mut lines = vec![format!("\n{:<14}{:>10}", "step", "time")];
    for Outcome { step, time, verdict } in outcomes {
        let verdict =
            if *verdict == Verdict::Passed { String::new() } else { format!("  {verdict}") };
        lines.push(format!("{:<14}{:>8.1} s{verdict}", step.to_string(), time.as_secs_f64()));
    }
    let total: Duration = outcomes.iter().map(|outcome| outcome.time).sum();
    lines.push(format!("{:<14}{:>8.1} s\n", "all", total.as_secs_f64()));
    lines.join("\n")
}

/// Prints a line and flushes it, so that the output of the next program follows it.
pub(crate) fn print_line(line: &str) {
    println!("{line}");
    // A closed standard output cannot be reported.
    let _ = std::io::stdout().flush();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_a_line_for_each_step_and_a_total() {
        let outcomes = [
            Outcome {
                step: Step::Format,
                time: Duration::from_millis(1540),
                verdict: Verdict::Passed,
            },
            Outcome { step: Step::Mpi, time: Duration::ZERO, verdict: Verdict::Skipped },
            Outcome {
                step: Step::MainJob,
                time: Duration::from_secs(60),
                verdict: Verdict::Failed,
            },
        ];
        let expected = "\nstep                time\nformat             1.5 s\nmpi                0.0 s  SKIPPED\nmain-job          60.0 s  FAILED\n\
                        all               61.5 s\n";
        assert_eq!(table(&outcomes), expected);
    }

    #[test]
    fn only_optional_steps_are_skipped_and_not_in_ci_or_on_request() {
        let skipped = |step: Step, only: Option<Step>, in_ci: bool| {
            Verdict::of(
                &Err(Error::MissingTools("mpirun".to_owned())),
                step.may_be_skipped(only, in_ci),
            ) == Verdict::Skipped
        };
        for step in [Step::Mpi, Step::Wgpu] {
            assert!(skipped(step, None, false));
            assert!(!skipped(step, None, true) && !skipped(step, Some(step), false));
        }
        assert!(!skipped(Step::Prerequisites, None, false));
        assert_eq!(Verdict::of(&Err(Error::AlreadyReported), true), Verdict::Failed);
    }

    #[cfg(unix)]
    #[test]
    fn failed_tests_are_counted_and_no_test_is_a_failure() {
        let shell = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            command
        };
        let line = |passed: u32, failed: u32| {
            format!(
                "test result: ok. {passed} passed; {failed} failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s"
            )
        };

        let mut closing = Closing::default();
        let script = format!(
            "echo 'test x ... {DEVICE}a GPU'; echo '{}'; echo '{}'; echo '{DEVICE}a GPU'",
            line(2, 0),
            line(1, 0)
        );
        assert!(tests(shell(&script), &mut Vec::new(), &mut closing).is_ok());
        assert_eq!(closing.devices.iter().collect::<Vec<_>>(), ["a GPU"]);
        assert_eq!(
            (closing.totals.to_string().as_str(), closing.lines.len()),
            ("3 passed, 0 failed, 0 skipped", 2)
        );

        let mut closing = Closing::default();
        let failed = tests(
            shell(&format!("echo '{}'; exit 101", line(2, 1))),
            &mut Vec::new(),
            &mut closing,
        );
        assert!(matches!(failed, Err(Error::Failed { .. })));
        assert_eq!(closing.totals.to_string(), "2 passed, 1 failed, 0 skipped");

        let empty = tests(
            shell(&format!("echo '{}'", line(0, 0))),
            &mut Vec::new(),
            &mut Closing::default(),
        );
        assert!(matches!(empty, Err(Error::NoTests(_))));
    }
}
