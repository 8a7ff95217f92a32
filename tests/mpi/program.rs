//! One rank of the guarantees under MPI: `mpi-guarantees TOPIC`, started by `mpirun`.
//!
//! The topics are those of the thread ranks: the same functions, whose worlds are now worlds of
//! processes as well.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(dead_code, unused_imports, reason = "what only the other tests of these files use")]

#[path = "../guarantees/bounded.rs"]
mod bounded;
#[path = "../guarantees/deterministic.rs"]
mod deterministic;
#[path = "../data_parallel/equivalent.rs"]
mod equivalent;
#[path = "../data_parallel/harness.rs"]
mod harness;
#[path = "../guarantees/model.rs"]
mod model;
#[path = "../guarantees/uniform.rs"]
mod uniform;

use std::process::ExitCode;

use burn_rehearsal_collective::{Collective, MpiOptions, run_mpi};
use burn_rehearsal_testing::on_processes;

fn main() -> ExitCode {
    let topic = std::env::args().nth(1).unwrap_or_default();
    let outcome = run_mpi(&MpiOptions::default(), |ranks| {
        let (rank, size) = (ranks.rank(), ranks.size());
        let scenario: fn(usize) = match topic.as_str() {
            "uniform" => uniform,
            "bounded" => bounded,
            "deterministic" => deterministic,
            "equivalent" => equivalent::many_ranks_learn_what_one_rank_learns,
            other => return Err(format!("no topic is called {other:?}")),
        };
        let worlds = on_processes(Box::new(ranks), || scenario(size));
        if rank == 0 {
            println!("{topic}: worlds of {size} processes: {worlds}");
        }
        Ok(())
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// 4.1; rank 0 stores a single row, the others a half, all and a sixth of what they could.
fn uniform(size: usize) {
    uniform::uniform_in_world(size, 8000 / size);
    uniform::class_balanced_in_world(size, 6000 / size);
}

/// 4.2.
fn bounded(size: usize) {
    bounded::never_holds_more_than_its_capacity(size);
    bounded::class_quotas_are_even(size, 61, 6);
}

/// 4.4, and what `lag` means.
fn deterministic(size: usize) {
    deterministic::repetitions_are_bit_identical_inline_or_in_the_background(size);
    deterministic::draws_lag_behind_the_contents(size);
}
