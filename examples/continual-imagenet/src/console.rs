//! Standard output, standard error, and the log.

use crate::transport;
use std::io::{IsTerminal, Write};

/// Starts the log on standard error. The first process of a run logs warnings and errors, the
/// others only errors.
pub fn init_log() {
    // Burn logs the error of a run on every rank. The program prints it once.
    let level =
        if transport::is_first_process() { "warn,burn_train=off" } else { "error,burn_train=off" };
    let filter =
        tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| level.into());
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal());
    // This fails if a log was started before.
    let _ = log.with_writer(std::io::stderr).log_internal_errors(false).try_init();
}

/// Prints a line on standard error, and ignores failures such as a closed terminal.
pub fn print_error(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// Prints a line on standard output, and ignores failures.
///
/// `println!` would panic: a closed pipe (`… | head -1`) must not end a run that writes its results
/// to disk.
pub fn print_line(line: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}
