//! Guarantees under MPI: each test runs the program `mpi-guarantees` under `mpirun`, on two, three
//! and four processes.
//!
//! In the program, every process compares what it got with what a thread rank got, bit for bit, and
//! the test for thread ranks judges that.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::process::Stdio;

use burn_rehearsal_testing::mpirun;

/// Runs `topic`, which must succeed without a word on stderr, and must not have forgotten the
/// processes.
fn holds(topic: &str) {
    for size in [2, 3, 4] {
        let mut command = mpirun(size, env!("CARGO_BIN_EXE_mpi-guarantees"));
        // Launchers that begin at the same time and share a folder for their sessions trip over
        // each other when one of them makes it.
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
        // Before that, ranks say which device they are on.
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
fn processes_never_hold_more_than_their_capacity_and_share_it_evenly_among_classes() {
    holds("bounded");
}

#[test]
fn processes_store_and_draw_what_threads_store_and_draw_bit_for_bit() {
    holds("deterministic");
}

#[test]
fn processes_learn_what_one_rank_learns_from_all_rows() {
    holds("equivalent");
}
