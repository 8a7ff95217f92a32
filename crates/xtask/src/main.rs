//! `cargo xtask`: the project's own commands.
//!
//! * `cargo xtask test` is the one gate, the same for people and for CI.
//! * `cargo xtask validate` repeats the main job over several seeds and holds the means to the
//!   published thresholds.
//! * `cargo xtask kills` kills runs at random moments and sees that they resume bit for bit.
//! * `cargo xtask soak` runs buffers for a million steps and sees that neither memory nor the time
//!   of a step grows.
//! * `cargo xtask miri` runs the tests of our own unsafe code in Miri.
//! * `cargo xtask bench` runs the benchmarks.
//! * `cargo xtask gpu` runs the device's tests and the benchmarks on this machine's NVIDIA GPU.

mod bench;
mod devices;
mod error;
mod examples;
mod gate;
mod kills;
mod licences;
mod main_job;
mod miri;
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

/// The project's own commands.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Task,
}

/// What can be asked for.
#[derive(Subcommand)]
enum Task {
    /// Run the gate, which CI runs too: format, licences, clippy, docs, tests, examples and
    /// the main job
    Test {
        /// Run this step only
        #[arg(long, value_name = "STEP")]
        only: Option<Step>,
    },
    /// Run the main job over several seeds and compare the means with the published thresholds
    Validate {
        /// How many seeds
        #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
        seeds: u64,
        /// The first of them; the defaults of the program were chosen with the seeds 1 to 10
        #[arg(long, value_name = "SEED", default_value_t = 11)]
        first: u64,
    },
    /// Kill runs of the digits at random moments, resume them, and compare what comes out with a
    /// run that was left alone
    Kills {
        /// How many kills
        #[arg(long, value_name = "N", default_value_t = 50)]
        times: u64,
        /// What the moments follow from
        #[arg(long, value_name = "SEED", default_value_t = 1)]
        seed: u64,
        /// Data-parallel ranks
        #[arg(long, value_name = "N", default_value_t = 2)]
        ranks: usize,
        /// Start ranks as processes with this launcher, for example `mpirun`; every other kill hits
        /// one rank then, the others the whole job
        #[arg(long, value_name = "PROGRAM")]
        launcher: Option<String>,
        /// This program instead of one that is built now
        #[arg(long, value_name = "PATH")]
        program: Option<std::path::PathBuf>,
    },
    /// Run buffers for a long time, and see that memory and the time of a step stay what they were
    Soak {
        /// Steps of every buffer, in 1,000 tasks
        #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(100_000..))]
        steps: u64,
        /// Data-parallel ranks, as threads
        #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=64))]
        ranks: u64,
    },
    /// Run the tests of the thread ranks in Miri, which checks every access to memory
    Miri {
        /// Only tests whose names contain this
        filter: Option<String>,
    },
    /// Run the benchmarks
    Bench {
        /// Only this one
        name: Option<String>,
    },
    /// Run the tests of the device and the benchmarks on this machine's NVIDIA GPU, and add the
    /// figures to benches/RESULTS.md
    Gpu,
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Error::Told) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Carries out one command.
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
        Task::Soak { steps, ranks } => soak::soak(&workspace, steps, ranks),
        Task::Miri { filter } => miri::miri(&workspace, filter.as_deref()),
        Task::Bench { name } => bench::bench(&workspace, name.as_deref()),
        Task::Gpu => devices::gpu(&workspace),
    }
}
