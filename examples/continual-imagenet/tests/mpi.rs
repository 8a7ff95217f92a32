//! The program under `mpirun`: the same results as with ranks that are threads, and clear errors.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;
use std::process::{Command, Output};

use burn_rehearsal_collective::launch;
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_continual-imagenet");
const RUN: [&str; 5] = ["train", "--method", "rehearsal", "--epochs", "2"];

/// The program on `size` processes.
fn mpirun(size: usize) -> Command {
    let mut command = launch::mpirun(size, PROGRAM);
    command.args(RUN).env("RUST_BACKTRACE", "0");
    command
}

fn output(command: &mut Command, out: &Path) -> Output {
    // Launchers that begin at the same time and share a folder for their sessions trip over each other when one of them makes it.
    let sessions = tempfile::tempdir().unwrap();
    command.arg("--out").arg(out).env("TMPDIR", sessions.path()).output().expect("mpirun is installed")
}

/// The report of a run that succeeded without a word on stderr.
fn report(command: &mut Command) -> (Value, String) {
    let out = tempfile::tempdir().unwrap();
    let output = output(command, out.path());
    assert_eq!((output.status.success(), String::from_utf8_lossy(&output.stderr).as_ref()), (true, ""));
    let report = std::fs::read(out.path().join("rehearsal/report.json")).unwrap();
    (serde_json::from_slice(&report).unwrap(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn processes_give_the_results_of_threads_bit_for_bit() {
    for size in [2, 3, 4] {
        let (threads, _) = report(Command::new(PROGRAM).args(RUN).args(["--ranks", &size.to_string()]));
        let (processes, stdout) = report(&mut mpirun(size));
        assert_eq!(processes["world_size"], size);
        assert_eq!(processes["config"]["collective"], "mpi");
        for same in ["accuracy", "curves", "tasks", "complete"] {
            assert_eq!(processes[same], threads[same], "{same}, {size} ranks");
        }
        for digest in ["contents_digest", "draws_digest"] {
            assert!(processes["buffer"][digest].is_string());
            assert_eq!(processes["buffer"][digest], threads["buffer"][digest], "{digest}, {size} ranks");
        }
        assert_eq!(stdout.matches("task 5/5  average").count(), 1, "one process shows progress:\n{stdout}");
        assert_eq!(stdout.matches("reports and figures").count(), 1, "{stdout}");
    }
}

#[test]
fn the_library_may_sum_instead() {
    let (report, _) = report(mpirun(2).args(["--reduction", "fast"]));
    assert_eq!(report["config"]["reduction"], "fast");
    assert!(report["summary"]["average_top1"].as_f64().unwrap() > 0.1);
}

#[test]
fn an_error_ends_all_processes_and_names_the_cause() {
    let out = tempfile::tempdir().unwrap();
    let output = output(mpirun(2).args(["--ranks", "3"]), out.path());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && stderr.contains("the launcher started 2 processes"), "{stderr}");
}
