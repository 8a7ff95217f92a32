//! The gate: the steps of `cargo xtask test`, in order, until one fails.

use std::collections::BTreeSet;
use std::fmt;
use std::io::Write;
use std::process::Command;
use std::time::{Duration, Instant};

use clap::ValueEnum;

use crate::error::{Error, Result};
use crate::prerequisites::Tool;
use crate::totals::Totals;
use crate::workspace::Workspace;
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
    /// `cargo clippy` with warnings as errors: with all features, of which `cuda` needs no GPU,
    /// with the default ones, and for packages without a backend.
    Clippy,
    /// `cargo doc` with warnings as errors.
    Docs,
    /// `cargo test`, with documentation tests, ranks as processes under `mpirun`, and
    /// libjpeg-turbo.
    Tests,
    /// The programs in `examples/`, each with a bound for the figure that it prints.
    Examples,
    /// The model tests of thread ranks, in every interleaving (loom).
    Loom,
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
        self == Self::Wgpu && only.is_none() && !in_ci
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

/// The end of the output: what was skipped, the closing lines of test binaries, and their sum.
#[derive(Default)]
pub(crate) struct Closing {
    lines: Vec<String>,
    totals: Totals,
    /// The devices on which tests ran.
    devices: BTreeSet<String>,
    /// The steps and features that were skipped, and why.
    skipped: BTreeSet<String>,
}

/// The text that tests print before the name of their device.
const DEVICE: &str = "device of these tests: ";

impl Closing {
    /// The sum of all closing lines.
    pub(crate) fn totals(&self) -> &Totals {
        &self.totals
    }

    /// Notes that `what` is skipped because of `missing` tools.
    fn skip(&mut self, what: impl fmt::Display, missing: &Error) {
        self.skipped.insert(format!("*** {what} SKIPPED: {missing}"));
    }
}

/// Runs all steps, or only one. The output ends with the closing lines of the tests and their sum.
pub(crate) fn test(workspace: &Workspace, only: Option<Step>) -> Result<()> {
    let mut closing = Closing::default();
    let mut outcomes = Vec::new();
    let requested = |step: &Step| only.is_none_or(|only| only == *step);
    let steps: Vec<_> = Step::value_variants().iter().copied().filter(requested).collect();
    let mut result = Ok(());
    for (index, &step) in steps.iter().enumerate() {
        print_line(&format!("==> {}/{} {step}", index + 1, steps.len()));
        let start = Instant::now();
        result = run(step, workspace, &mut closing);
        let time = start.elapsed();
        let verdict = Verdict::of(&result, step.may_be_skipped(only, prerequisites::in_ci()));
        if verdict == Verdict::Skipped
            && let Err(missing) = std::mem::replace(&mut result, Ok(()))
        {
            closing.skip(step, &missing);
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
    closing.skipped.iter().for_each(|skipped| print_line(&format!("{skipped}\n")));
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
    match step {
        Step::Prerequisites => prerequisites::ensure(&prerequisites::TOOLS),
        Step::Format => process::run(&mut workspace.cargo(&["fmt", "--all", "--", "--check"])),
        Step::Licenses => licenses::check(),
        Step::Clippy => clippy(workspace, closing),
        Step::Docs => docs(workspace, closing),
        Step::Tests => test_all(workspace, closing),
        Step::Examples => examples::run(workspace),
        Step::Loom => loom(workspace, closing),
        Step::Wgpu => devices::wgpu(workspace, closing),
        Step::MainJob => main_job(workspace),
    }
}

/// The features that need further tools: their names, the tools, and the packages that have them.
const OPTIONAL: [(&str, &[Tool], &[&str]); 2] = [
    (
        "mpi",
        &prerequisites::MPI_TOOLS,
        &[
            "burn-rehearsal-benches/mpi",
            "burn-rehearsal-testing/mpi",
            "burn-rehearsal-tests/mpi",
            "continual-imagenet/mpi",
        ],
    ),
    (
        "turbojpeg",
        &prerequisites::TURBOJPEG_TOOLS,
        &["burn-rehearsal-benches/turbojpeg", "continual-imagenet/turbojpeg"],
    ),
];

/// The [`OPTIONAL`] features whose tools are installed. In CI, it is an error if others remain.
///
/// All packages are built together with the same features. Otherwise Burn would be built again.
fn optional_features(closing: &mut Closing) -> Result<Vec<&'static str>> {
    let mut enabled = Vec::new();
    for (name, tools, features) in OPTIONAL {
        match prerequisites::ensure(tools) {
            Ok(()) => enabled.extend(features),
            Err(missing @ Error::MissingTools(_)) if !prerequisites::in_ci() => {
                closing.skip(format_args!("feature {name}"), &missing);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(enabled)
}

/// The packages that compile without a backend. Together, they share macros with the workspace.
const WITHOUT_BACKEND: [&str; 11] = [
    "--no-default-features",
    "-p",
    "burn-rehearsal",
    "-p",
    "burn-rehearsal-report",
    "-p",
    "burn-rehearsal-train",
    "-p",
    "burn-rehearsal-vision",
    "-p",
    "continual-imagenet",
];

/// Checks everything with all features. Default features, and packages without a backend, select
/// other code. `DOCS_RS` lets the bindings of CUDA compile without its libraries and LLVM.
fn clippy(workspace: &Workspace, closing: &mut Closing) -> Result<()> {
    let features = [optional_features(closing)?, devices::CUDA_FEATURES.to_vec()].concat();
    for of in [
        &["--workspace", "--all-targets", "--features", &features.join(",")][..],
        &["--workspace"],
        &WITHOUT_BACKEND,
    ] {
        let mut clippy = workspace.cargo(&["clippy", "--locked"]);
        process::run(clippy.args(of).args(["--", "-D", "warnings"]).env("DOCS_RS", "1"))?;
    }
    Ok(())
}

/// Builds the documentation with the features that docs.rs enables.
fn docs(workspace: &Workspace, closing: &mut Closing) -> Result<()> {
    let features = optional_features(closing)?.join(",");
    let mut doc = workspace.cargo(&["doc", "--workspace", "--no-deps", "--locked"]);
    process::run(doc.args(["--features", &features]).env("RUSTDOCFLAGS", "-D warnings"))
}

/// Runs all tests, with real processes that may outnumber the cores. The tests of JPEG files run
/// once with libjpeg-turbo and once without.
fn test_all(workspace: &Workspace, closing: &mut Closing) -> Result<()> {
    let features = optional_features(closing)?.join(",");
    for of in [&["--features", &features][..], &["--test", "data"]] {
        let mut test = workspace.cargo(&["test", "--workspace", "--locked", "--no-fail-fast"]);
        test.args(of);
        tests(test, &mut std::io::stdout(), closing)?;
    }
    Ok(())
}

/// Builds the collective with loom's locks in a target directory of its own, and runs the tests
/// that explore all interleavings of threads.
fn loom(workspace: &Workspace, closing: &mut Closing) -> Result<()> {
    let mut command = workspace.cargo(&["test", "--release", "--locked", "--lib"]);
    command
        .args(["-p", "burn-rehearsal-collective", "threads::loom_tests"])
        .env("RUSTFLAGS", "--cfg loom -D warnings")
        .env("CARGO_TARGET_DIR", workspace.target.join("loom"));
    tests(command, &mut std::io::stdout(), closing)
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

/// Runs the main job once and compares it with the published thresholds. It has the default
/// features and the profile of the tests: its results are the same in release mode, for which Burn
/// would be built again.
fn main_job(workspace: &Workspace) -> Result<()> {
    let [program] = examples::build(workspace, [main_job::PROGRAM])?;
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
            Outcome { step: Step::Wgpu, time: Duration::ZERO, verdict: Verdict::Skipped },
            Outcome {
                step: Step::MainJob,
                time: Duration::from_secs(60),
                verdict: Verdict::Failed,
            },
        ];
        let expected = "\nstep                time\nformat             1.5 s\nwgpu               0.0 s  SKIPPED\nmain-job          60.0 s  FAILED\n\
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
        let wgpu = Step::Wgpu;
        assert!(skipped(wgpu, None, false));
        assert!(!skipped(wgpu, None, true) && !skipped(wgpu, Some(wgpu), false));
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
