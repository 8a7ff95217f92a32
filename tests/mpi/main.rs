//! Guarantees over MPI: each test runs the program `mpi-guarantees` under `mpirun` on two, three
//! and four processes.
//!
//! In the program, every process compares its results with those of a thread rank, bit for bit, and
//! the test of thread ranks checks the latter.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::process::Stdio;

use burn_rehearsal_testing::mpirun;

/// Runs `topic`, which must succeed, print nothing to standard error, and have used the processes.
fn holds(topic: &str) {
    for size in [2, 3, 4] {
        let mut command = mpirun(size, env!("CARGO_BIN_EXE_mpi-guarantees"));
        // Launchers that start at the same time conflict if they create the same session folder.
        let sessions = tempfile::tempdir().unwrap();
        command
            .arg(topic)
            .stdin(Stdio::null())
            .env("RUST_BACKTRACE", "0")
            .env("TMPDIR", sessions.path());
        let output = command.output().expect("mpirun is installed");
        assert_eq!(
            (String::from_utf8_lossy(&output.stderr).as_ref(), output.status.success()),
            ("", true),
            "{topic}, {size} ranks"
        );
        let stdout = String::from_utf8_lossy(&output.stdout);
        // Earlier lines name the device of each rank.
        let worlds = stdout
            .lines()
            .last()
            .and_then(|line| line.strip_prefix(&format!("{topic}: worlds of {size} processes: ")));
        assert!(
            worlds.is_some_and(|worlds| worlds.parse::<usize>().unwrap() > 0),
            "{topic}, {size} ranks: {stdout}"
        );
    }
}

#[test]
fn draws_are_uniform_over_processes() {
    holds("uniform");
}

#[test]
fn processes_keep_their_capacity_and_class_quotas() {
    holds("bounded");
}

#[test]
fn processes_and_threads_store_and_draw_the_same_bits() {
    holds("deterministic");
}

#[test]
fn processes_learn_the_same_as_one_rank_with_all_rows() {
    holds("equivalent");
}

#[test]
fn rows_replayed_by_processes_have_their_logits() {
    holds("paired");
}
