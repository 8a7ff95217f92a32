//! The gate: the steps of `cargo xtask test`, in order, up to the first that fails.

use std::fmt;
use std::io::Write;
use std::process::Command;
use std::time::{Duration, Instant};

use clap::ValueEnum;

use crate::error::{Error, Result};
use crate::totals::Totals;
use crate::workspace::{Leg, Workspace};
use crate::{devices, licences, main_job, prerequisites, process};

/// A step of the gate, cheap ones first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Step {
    /// What must be installed.
    Prerequisites,
    /// `cargo fmt`.
    Format,
    /// Licences, origins and versions of dependencies, and the metadata of our crates.
    Licences,
    /// `cargo clippy`, warnings are errors.
    Clippy,
    /// `cargo doc`, warnings are errors.
    Docs,
    /// `cargo test`, with documentation tests.
    Tests,
    /// Only if it is asked for, since it needs an MPI: the feature `mpi`, clippy, docs and tests of the collective, and the program, with ranks as processes under `mpirun`.
    Mpi,
    /// Only if it is asked for, since it builds Burn's GPU backends: the tests of the device, and a short training run, on a GPU through wgpu; a software
    /// Vulkan driver will do.
    Wgpu,
    /// Only if it is asked for: whether the program compiles for CUDA, which needs no GPU.
    Cuda,
    /// The main job with its default arguments, against the published thresholds.
    MainJob,
}

impl Step {
    /// Whether the step belongs to the gate when none is named.
    fn is_default(self) -> bool {
        !matches!(self, Self::Mpi | Self::Wgpu | Self::Cuda)
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.to_possible_value().as_ref().map_or("step", |value| value.get_name()))
    }
}

/// What came of one step.
struct Outcome {
    step: Step,
    time: Duration,
    passed: bool,
}

/// What the tests printed last: the closing lines as printed, and their sum.
#[derive(Default)]
pub(crate) struct Closing {
    lines: Vec<String>,
    totals: Totals,
}

impl Closing {
    /// The sum of all closing lines.
    pub(crate) fn totals(&self) -> &Totals {
        &self.totals
    }
}

/// Runs all steps, or the one that is asked for; the output ends with the tests' closing lines and their total.
pub(crate) fn test(workspace: &Workspace, only: Option<Step>) -> Result<()> {
    let mut closing = Closing::default();
    let mut outcomes = Vec::new();
    let asked = |step: &Step| only.map_or(step.is_default(), |only| only == *step);
    let steps: Vec<_> = Step::value_variants().iter().copied().filter(asked).collect();
    let mut result = Ok(());
    for (index, &step) in steps.iter().enumerate() {
        say(&format!("==> {}/{} {step}", index + 1, steps.len()));
        let start = Instant::now();
        result = run(step, workspace, &mut closing);
        let time = start.elapsed();
        let passed = result.is_ok();
        say(&format!("<== {step} {} in {:.1} s", if passed { "passed" } else { "FAILED" }, time.as_secs_f64()));
        outcomes.push(Outcome { step, time, passed });
        if let Err(error) = &result {
            eprintln!("\n{step} failed: {error}\nto run this step alone: cargo xtask test --only {step}");
            break;
        }
    }
    say(&table(&outcomes));
    if !closing.lines.is_empty() {
        say(&format!("the closing lines of all test binaries, and their sum:\n{}\n{}", closing.lines.join("\n"), closing.totals));
    }
    // The reason is printed already, so that the total can be the last line.
    result.map_err(|_| Error::Told)
}

/// Runs one step.
fn run(step: Step, workspace: &Workspace, closing: &mut Closing) -> Result<()> {
    let cargo = |arguments: &[&str]| workspace.cargo(Leg::DEFAULT, arguments);
    match step {
        Step::Prerequisites => prerequisites::ensure(&prerequisites::TOOLS),
        Step::Format => process::run(&mut cargo(&["fmt", "--all", "--", "--check"])),
        Step::Licences => licences::check(),
        Step::Clippy => process::run(&mut cargo(&["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"])),
        Step::Docs => process::run(cargo(&["doc", "--workspace", "--no-deps", "--locked"]).env("RUSTDOCFLAGS", "-D warnings")),
        Step::Tests => tests(cargo(&["test", "--workspace", "--locked", "--no-fail-fast"]), &mut std::io::stdout(), closing),
        Step::Mpi => mpi(workspace, closing),
        Step::Wgpu => devices::wgpu(workspace, closing),
        Step::Cuda => devices::cuda(workspace),
        Step::MainJob => main_job(workspace),
    }
}

/// Builds the feature `mpi` and runs what needs it: real processes, more than there are cores if need be.
fn mpi(workspace: &Workspace, closing: &mut Closing) -> Result<()> {
    prerequisites::ensure(&prerequisites::MPI_TOOLS)?;
    let cargo = |arguments: &[&str]| workspace.cargo(Leg::MPI, arguments);
    let collective = ["-p", "burn-rehearsal-collective", "--features", "mpi", "--locked"];
    process::run(cargo(&["clippy", "--all-targets"]).args(collective).args(["--", "-D", "warnings"]))?;
    process::run(cargo(&["doc", "--no-deps"]).args(collective).env("RUSTDOCFLAGS", "-D warnings"))?;
    tests(with(cargo(&["test", "--no-fail-fast"]), &collective), &mut std::io::stdout(), closing)?;
    let program = ["-p", "continual-imagenet", "--features", "mpi", "--test", "mpi", "--locked"];
    tests(with(cargo(&["test", "--no-fail-fast"]), &program), &mut std::io::stdout(), closing)
}

/// `command` with more arguments.
fn with(mut command: Command, arguments: &[&str]) -> Command {
    command.args(arguments);
    command
}

/// Runs the tests and keeps their closing lines, also when some fail.
pub(crate) fn tests(mut command: Command, output: &mut impl Write, closing: &mut Closing) -> Result<()> {
    let status = process::run_listening(&mut command, output, |line| {
        if let Some(counts) = Totals::parse(line) {
            closing.totals.add(counts);
            closing.lines.push(line.trim_end().to_owned());
        }
    })?;
    process::check(&command, status)?;
    if closing.totals.none_run() { Err(Error::NoTests(process::shown(&command))) } else { Ok(()) }
}

/// Runs the main job once, as a user would, and holds it to the published thresholds.
fn main_job(workspace: &Workspace) -> Result<()> {
    let program = main_job::build(workspace)?;
    let out = tempfile::tempdir().map_err(|source| Error::File { path: std::env::temp_dir(), source })?;
    process::run(&mut main_job::compare(&program, None, out.path()))?;
    let averages = main_job::read_averages(out.path())?;
    for check in averages.method_checks() {
        println!("average top-1, {}: {:.4} (must be {})", check.name, check.value, check.limit);
    }
    main_job::require(&averages.method_checks())
}

/// The table of steps and times.
fn table(outcomes: &[Outcome]) -> String {
    let mut lines = vec![format!("\n{:<14}{:>10}", "step", "time")];
    for Outcome { step, time, passed } in outcomes {
        lines.push(format!("{:<14}{:>8.1} s{}", step.to_string(), time.as_secs_f64(), if *passed { "" } else { "  FAILED" }));
    }
    let total: Duration = outcomes.iter().map(|outcome| outcome.time).sum();
    lines.push(format!("{:<14}{:>8.1} s\n", "all", total.as_secs_f64()));
    lines.join("\n")
}

/// Prints a line of ours, before anything that a program started next may print.
pub(crate) fn say(line: &str) {
    println!("{line}");
    // Nobody can be told that standard output is gone.
    let _ = std::io::stdout().flush();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_a_line_for_each_step_and_one_for_all() {
        let outcomes = [
            Outcome { step: Step::Format, time: Duration::from_millis(1540), passed: true },
            Outcome { step: Step::MainJob, time: Duration::from_secs(60), passed: false },
        ];
        let expected = "\nstep                time\nformat             1.5 s\nmain-job          60.0 s  FAILED\nall               61.5 s\n";
        assert_eq!(table(&outcomes), expected);
    }

    #[cfg(unix)]
    #[test]
    fn closing_lines_are_kept_when_tests_fail_and_no_test_at_all_is_a_failure() {
        let shell = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            command
        };
        let line = |passed: u32, failed: u32| {
            format!("test result: ok. {passed} passed; {failed} failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s")
        };

        let mut closing = Closing::default();
        assert!(tests(shell(&format!("echo '{}'; echo '{}'", line(2, 0), line(1, 0))), &mut Vec::new(), &mut closing).is_ok());
        assert_eq!((closing.totals.to_string().as_str(), closing.lines.len()), ("3 passed, 0 failed, 0 skipped", 2));

        let mut closing = Closing::default();
        let failed = tests(shell(&format!("echo '{}'; exit 101", line(2, 1))), &mut Vec::new(), &mut closing);
        assert!(matches!(failed, Err(Error::Failed { .. })));
        assert_eq!(closing.totals.to_string(), "2 passed, 1 failed, 0 skipped");

        let empty = tests(shell(&format!("echo '{}'", line(0, 0))), &mut Vec::new(), &mut Closing::default());
        assert!(matches!(empty, Err(Error::NoTests(_))));
    }
}
