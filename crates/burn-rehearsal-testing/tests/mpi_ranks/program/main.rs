//! One rank of the tests in `tests/mpi_ranks`: `mpi-ranks SCENARIO`, started by `mpirun`. Rank 0
//! prints the output that the tests check.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod scenarios;

use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use burn_rehearsal_collective::{MpiOptions, Reduction, run_mpi};

fn main() -> ExitCode {
    // Some scenarios never end, and the test that should end them may have been killed.
    thread::spawn(|| {
        thread::sleep(Duration::from_secs(300));
        std::process::exit(4);
    });
    let scenario = std::env::args().nth(1).unwrap_or_default();
    let options = MpiOptions {
        reduction: if scenario.starts_with("fast") {
            Reduction::Fast
        } else {
            Reduction::FixedOrder
        },
        expected_ranks: std::env::args().nth(2).and_then(|size| size.parse().ok()),
        silence_limit: Duration::from_secs(3),
        stall_limit: (scenario == "stall").then_some(Duration::from_secs(2)),
        // Pieces of an odd size, so that no message is a multiple of it by chance.
        largest_message: if scenario == "pieces" { 1001 } else { 1 << 30 },
    };
    match run_mpi(&options, |ranks| scenarios::run(&scenario, ranks)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(3)
        }
    }
}
