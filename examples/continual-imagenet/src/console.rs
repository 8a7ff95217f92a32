//! Standard output, standard error, and the log.

use crate::transport;
use std::io::{IsTerminal, Write};

/// Starts the log on standard error. One process of a run logs warnings, the others errors only.
pub fn init_log() {
    // Burn logs every error of a run on every rank; the one that matters is returned and printed.
    let level =
        if transport::is_first_process() { "warn,burn_train=off" } else { "error,burn_train=off" };
    let filter =
        tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| level.into());
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal());
    // A library has started one already if this fails.
    let _ = log.with_writer(std::io::stderr).log_internal_errors(false).try_init();
}

/// Prints a line on standard error. Failures, such as a closed terminal, are ignored.
pub fn print_error(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// Prints a line on standard output.
///
/// Failures are ignored, where `println!` would panic: a closed pipe (`… | head -1`) does not end a
/// run, whose results are on disk.
pub fn print_line(line: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}
