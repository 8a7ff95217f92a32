//! Continual learning with rehearsal, from the digits embedded in the program up to image folders and many ranks.
//!
//! Without arguments it compares three ways to learn ten classes two at a time. `continual-imagenet --help` lists the rest.
#![warn(missing_docs)]
#![deny(unsafe_code)]

mod batch;
mod cli;
mod config;
mod data;
mod device;
mod error;
mod live;
mod model;
mod pack;
mod place;
mod progress;
mod recipes;
mod renderer;
mod run;
mod say;
mod stop;
mod transform;
mod transport;
#[cfg(feature = "tui")]
mod tui;
mod workload;

use clap::Parser;
use cli::{Cli, Command};
use error::AppError;
use std::io::IsTerminal;
use std::process::ExitCode;

// A training step frees and allocates its largest tensors anew. glibc's allocator gives such memory back to the system at once, and the page faults of
// getting it again took a third of a step of a small convolutional network.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    // One process of a run logs. Burn logs every error of a run on every rank; the one that matters is returned and printed below.
    let level = if transport::is_first_process() { "warn,burn_train=off" } else { "error,burn_train=off" };
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| level.into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .log_internal_errors(false)
        .init();
    match dispatch(cli) {
        Ok(code) => code,
        Err(error) => {
            say::complain(&format!("error: {error}"));
            if matches!(error, AppError::Interrupted) { ExitCode::from(stop::INTERRUPTED) } else { ExitCode::FAILURE }
        }
    }
}

fn dispatch(cli: Cli) -> Result<ExitCode, AppError> {
    match cli.command {
        Some(Command::Compare { options }) => run::compare(options),
        None => run::compare(cli.options),
        Some(Command::Train { method, options }) => run::train(method, options),
        Some(Command::Pack { options }) => pack::run(&options),
        Some(Command::Report { directories, out }) => run::report(&directories, out.as_deref()),
        Some(Command::Devices) => {
            device::list().iter().for_each(|line| say::say(line));
            Ok(ExitCode::SUCCESS)
        }
    }
}
