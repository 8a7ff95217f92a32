//! One rank of the guarantees over MPI: `mpi-guarantees TOPIC`, started by `mpirun`.
//!
//! The topics are the test functions of thread ranks, which also run on processes here.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(dead_code, unused_imports, reason = "other tests of these files use the rest")]

#[path = "../guarantees/bounded.rs"]
mod bounded;
#[path = "../data_parallel/derpp.rs"]
mod derpp;
#[path = "../guarantees/deterministic.rs"]
mod deterministic;
#[path = "../data_parallel/equivalent.rs"]
mod equivalent;
#[path = "../data_parallel/harness.rs"]
mod harness;
#[path = "../guarantees/model.rs"]
mod model;
#[path = "../data_parallel/paired.rs"]
mod paired;
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
            "equivalent" => equivalent,
            "paired" => |size| paired::replayed_rows_have_their_logits(Some(size)),
            other => return Err(format!("unknown topic {other:?}")),
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

/// Guarantee 1, with unequally filled shards.
fn uniform(size: usize) {
    uniform::uniform_in_world(size, 8000 / size);
    uniform::class_balanced_in_world(size, 6000 / size);
}

/// Guarantee 2.
fn bounded(size: usize) {
    bounded::never_holds_more_than_its_capacity(size);
    bounded::class_quotas_are_even(size, 61, 6);
}

/// Guarantee 4, and the meaning of `lag`.
fn deterministic(size: usize) {
    deterministic::repetitions_are_bit_identical(size);
    deterministic::draws_lag_behind_the_contents(size);
}

/// Guarantee 7.
fn equivalent(size: usize) {
    equivalent::many_ranks_learn_what_one_rank_learns(size);
    derpp::several_ranks_compute_the_gradients_of_one(size);
}
