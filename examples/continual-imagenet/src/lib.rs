//! The program `continual-imagenet`: continual learning with rehearsal (experience replay), from
//! the embedded digits to ImageNet on many GPUs.
//!
//! [`main`] runs it. Without arguments it compares three methods on ten classes, learned two at a
//! time. `continual-imagenet --help` lists the options, and [`Config`] declares them.
#![warn(missing_docs)]
#![deny(unsafe_code)]

mod cli;
mod config;
mod console;
mod device;
mod error;
mod pack;
mod progress;
mod run;
mod run_directory;
mod stop;
mod transform;
mod transport;
mod workload;

pub use config::Config;
pub use error::AppError;

use clap::Parser;
use cli::{Cli, Command};
use std::process::ExitCode;

/// Runs the program with the arguments of this process.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    console::init_log();
    match run(cli) {
        Ok(code) => code,
        Err(error) => {
            console::print_error(&format!("error: {error}"));
            if matches!(error, AppError::Interrupted) {
                ExitCode::from(stop::INTERRUPTED)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode, AppError> {
    match cli.command {
        Some(Command::Compare { compare }) => run::run(&compare.options, &compare.methods.0),
        None => run::run(&cli.compare.options, &cli.compare.methods.0),
        Some(Command::Train { method, options }) => run::run(&options, &[method]),
        Some(Command::Pack { options }) => pack::run(&options),
        Some(Command::Report { directories, out }) => run::report(&directories, out.as_deref()),
        Some(Command::Devices) => {
            device::list().iter().for_each(|line| console::print_line(line));
            Ok(ExitCode::SUCCESS)
        }
    }
}
