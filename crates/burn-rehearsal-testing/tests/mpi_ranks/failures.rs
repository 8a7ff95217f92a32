//! Ranks that fail, leave, disagree or are killed. All ranks end in time, with an error that names
//! the cause.

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::launcher::{Ended, run, send, start, state_of};

/// The time within which every failure ends the run. The limit of silence of the tests is 3 s.
const BOUND: Duration = Duration::from_secs(30);

/// Asserts that `scenario` fails in time with all of `messages` on stderr.
fn fails(size: usize, scenario: &str, messages: &[&str]) {
    let ended = run(size, &[scenario]);
    assert!(!ended.success && ended.time < BOUND, "{ended:?}");
    for message in messages {
        assert!(ended.stderr.contains(message), "{message:?} is missing: {ended:?}");
    }
}

#[test]
fn a_panic_ends_the_run_and_names_rank_and_step() {
    fails(
        3,
        "panic",
        &[
            "rank 1: panicked: row 5 is missing",
            "rank 0: rank 1 failed or left the run at step 7",
            "rank 2: rank",
        ],
    );
}

#[test]
fn an_error_ends_the_run_and_names_rank_and_step() {
    fails(
        3,
        "error",
        &[
            "rank 1: cannot read shard 3",
            "rank 0: rank 1 failed or left the run at step 7",
            "rank 2: rank",
        ],
    );
}

#[test]
fn an_error_that_names_its_rank_is_shown_with_one_name() {
    let ended = run(2, &["named-error"]);
    assert!(ended.stderr.lines().any(|line| line == "rank 1: cannot read shard 3"), "{ended:?}");
}

#[test]
fn an_invalid_argument_ends_calls_of_other_ranks() {
    let invalid =
        "rank 1: invalid argument: rank 1, broadcast: root 9 is not a rank of a world of 2";
    fails(2, "invalid", &[invalid, "rank 0: rank 1 failed or left the run at step 7"]);
}

#[test]
fn a_dropped_handle_ends_calls_of_other_ranks() {
    fails(2, "leave", &["rank 0: rank 1 failed or left the run at step 7"]);
}

#[test]
fn different_calls_are_named() {
    fails(2, "calls", &["ranks disagree at step 7", "barrier on rank 1"]);
}

#[test]
fn different_lengths_are_named() {
    fails(2, "lengths", &["ranks disagree at step 7: all_gather of", "expected from it"]);
}

#[test]
fn missing_data_of_an_exchange_is_detected() {
    fails(
        2,
        "missing",
        &["rank 0: ranks disagree at step 7: exchange: rank 1 has finished, \
             but its data did not arrive"],
    );
}

#[test]
fn a_deadlock_is_reported_on_all_ranks() {
    for size in [2, 3] {
        let ended = run(size, &["deadlock"]);
        assert!(!ended.success && ended.time < BOUND, "{ended:?}");
        let others = if size == 2 { "rank 1" } else { "ranks 1, 2" };
        let expected = format!(
            "deadlock at step 7: rank 0 waits in all_reduce to the mean of 100 values \
             (operation 11 of the handle `gradients`) for {others}; \
             rank 1 waits in all_gather of 3 bytes each (operation 10 of the handle `rows`) \
             for rank 0"
        );
        for rank in 0..size {
            assert!(ended.stderr.contains(&format!("rank {rank}: {expected}")), "{ended:?}");
        }
    }
    // In the tree of the broadcast, a rank waits for a rank that itself waits.
    let ended = run(4, &["deadlock-broadcast"]);
    assert!(!ended.success && ended.time < BOUND, "{ended:?}");
    assert!(
        ended.stderr.contains(
            "deadlock at step 7: rank 0 waits in barrier (operation 0 of the handle `1`)"
        ),
        "{ended:?}"
    );
}

#[test]
fn slow_ranks_are_no_deadlock() {
    for scenario in ["deadlock-none", "slow-engine"] {
        let ended = run(3, &[scenario]);
        assert!(ended.success, "{scenario}: {ended:?}");
    }
}

#[test]
fn operations_can_have_a_time_limit() {
    fails(
        2,
        "stall",
        &["rank 0: progress limit failed at step 7: barrier has waited for ranks [1]"],
    );
}

/// Sends a signal to rank 1 while it works.
fn signalled(scenario: &str, signal: &str) -> Ended {
    let mut run = start(3, &[scenario]);
    let pids = run.wait_for("pids ");
    let pids: Vec<_> = pids.split(' ').collect();
    send(signal, pids[1]);
    let ended = run.end(BOUND);
    assert!(!ended.success, "{ended:?}");
    no_rank_is_left(&pids, &ended);
    ended
}

#[test]
fn a_killed_rank_ends_the_run() {
    for scenario in ["signal-exchange", "signal-reduce", "signal-between"] {
        let ended = signalled(scenario, "KILL");
        // The launcher of Open MPI reports it on stderr, that of MPICH on stdout.
        assert!(
            ended.stderr.contains("signal 9") || ended.stdout.contains("signal 9"),
            "{ended:?}"
        );
    }
}

#[test]
fn a_stopped_rank_is_named_by_waiting_ranks() {
    for scenario in ["signal-exchange", "signal-reduce", "signal-between"] {
        let ended = signalled(scenario, "STOP");
        // If it is stopped while it queues a message in shared memory, the reader receives nothing
        // from any rank.
        let named = [
            "no heartbeat from rank 1 for 3s at step",
            "no heartbeat from ranks 1, 2 for 3s",
            "no heartbeat from ranks 0, 1 for 3s",
        ];
        assert!(
            named.iter().any(|message| ended.stderr.contains(message)),
            "{scenario}: {ended:?}"
        );
    }
}

#[test]
fn ctrl_c_to_the_launcher_ends_the_run() {
    let mut run = start(2, &["signal-between"]);
    let pids = run.wait_for("pids ");
    send("INT", &run.launcher().to_string());
    let ended = run.end(BOUND);
    // The launcher of MPICH exits with 0 after a signal to itself.
    assert!(!ended.success || ended.stdout.contains("[mpiexec@"), "{ended:?}");
    no_rank_is_left(&pids.split(' ').collect::<Vec<_>>(), &ended);
}

/// Asserts that all ranks end. The launcher may end shortly before the ranks that it has killed.
fn no_rank_is_left(pids: &[&str], ended: &Ended) {
    let start = Instant::now();
    while let Some(state) = pids.iter().find_map(|pid| state_of(pid)) {
        assert!(start.elapsed() < Duration::from_secs(10), "a rank is left: {state}; {ended:?}");
        sleep(Duration::from_millis(50));
    }
}
