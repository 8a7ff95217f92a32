//! `cargo xtask`: development commands of this repository.
//!
//! * `cargo xtask test` is the gate. Developers and CI run the same one.
//! * `cargo xtask validate` repeats the main job over several seeds and compares the means with the
//!   published thresholds.
//! * `cargo xtask kills` kills runs at random moments and checks that they resume bit for bit.
//! * `cargo xtask paired` checks that replayed rows have their stored logits, with all combinations
//!   of options.
//! * `cargo xtask soak` runs buffers for a million steps and checks that neither memory nor the
//!   time of a step grows.
//! * `cargo xtask miri` runs the tests of the unsafe code of thread ranks in Miri.
//! * `cargo xtask bench` runs the benchmarks and updates `docs/BENCHMARKS.md`.
//! * `cargo xtask gpu` runs the device tests and the device benchmarks on an NVIDIA GPU.

mod bench;
mod devices;
mod error;
mod examples;
mod gate;
mod kills;
mod licenses;
mod limit;
mod main_job;
mod miri;
mod paired;
mod prerequisites;
mod process;
mod recipe;
mod soak;
mod totals;
mod validate;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::error::{Error, Result};
use crate::gate::Step;
use crate::workspace::Workspace;

/// Development commands of this repository.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Task,
}

/// The commands.
#[derive(Subcommand)]
enum Task {
    /// Run the gate, which CI runs too: format, licenses, clippy, docs, tests, examples and
    /// the main job
    Test {
        /// Run only this step
        #[arg(long, value_name = "STEP")]
        only: Option<Step>,
    },
    /// Run the main job over several seeds and compare the means with the published thresholds
    Validate {
        /// Number of seeds
        #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
        seeds: u64,
        /// First seed. The defaults of the program were tuned with the seeds 1 to 10
        #[arg(long, value_name = "SEED", default_value_t = 11)]
        first: u64,
    },
    /// Kill runs of the digits at random moments, resume them, and compare their reports with that
    /// of an uninterrupted run
    Kills {
        /// Number of kills
        #[arg(long, value_name = "N", default_value_t = 50)]
        times: u64,
        /// Seed of the random moments
        #[arg(long, value_name = "SEED", default_value_t = 1)]
        seed: u64,
        /// Number of data-parallel ranks
        #[arg(long, value_name = "N", default_value_t = 2)]
        ranks: usize,
        /// Start ranks as processes with this launcher, for example `mpirun`. Every other kill then
        /// hits a single rank instead of the whole job
        #[arg(long, value_name = "PROGRAM")]
        launcher: Option<String>,
        /// Run this program instead of building one
        #[arg(long, value_name = "PATH")]
        program: Option<std::path::PathBuf>,
    },
    /// Check that every replayed row has the logits of the step that stored it, with all
    /// combinations of options. The gate runs some of them
    Paired,
    /// Run buffers for a long time and check that neither memory nor the time of a step grows
    Soak {
        /// Number of steps of each buffer, in 1,000 tasks
        #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(100_000..))]
        steps: u64,
        /// Number of data-parallel ranks, which are threads
        #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=64))]
        ranks: u64,
    },
    /// Run the tests of thread ranks in Miri, which checks every memory access
    Miri {
        /// Run only tests whose names contain this text
        filter: Option<String>,
    },
    /// Run benchmarks, write their figures to benches/results, and update docs/BENCHMARKS.md
    Bench {
        /// Benchmarks to run (default: all)
        names: Vec<String>,
        /// Only update docs/BENCHMARKS.md and its charts from benches/results; run no benchmark
        #[arg(long, conflicts_with = "names")]
        tables: bool,
    },
    /// Run the device tests and the device benchmarks on this machine's NVIDIA GPU, and update
    /// docs/BENCHMARKS.md
    Gpu,
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Error::AlreadyReported) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<()> {
    let workspace = Workspace::find()?;
    match task {
        Task::Test { only } => gate::test(&workspace, only),
        Task::Validate { seeds, first } => {
            validate::validate(&workspace, first..first.saturating_add(seeds))
        }
        Task::Kills { times, seed, ranks, launcher, program } => {
            kills::kills(&workspace, &kills::Plan { times, seed, ranks, launcher, program })
        }
        Task::Paired => paired::paired(&workspace),
        Task::Soak { steps, ranks } => soak::soak(&workspace, steps, ranks),
        Task::Miri { filter } => miri::miri(&workspace, filter.as_deref()),
        Task::Bench { tables: true, .. } => bench::write_tables(&workspace.root),
        Task::Bench { names, .. } => bench::bench(&workspace, &names),
        Task::Gpu => devices::gpu(&workspace),
    }
}
