//! Turns a hang into a failed test run: a hang must not look like a slow test.

use std::io::Write;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

/// How long a test may take before the run is aborted: far more than any test needs, even on a busy
/// machine. Miri is slower by far, and so is a simulated GPU, which compiles every kernel first.
fn patience() -> Duration {
    Duration::from_secs(match std::env::var_os("BURN_DEVICE") {
        _ if cfg!(miri) => 3600,
        Some(_) => 900,
        None => 120,
    })
}

/// Aborts the process with a message if it is not dropped in time.
#[derive(Debug)]
pub struct Watchdog(#[allow(dead_code, reason = "its drop is the signal")] Sender<()>);

/// Watches the current test until the returned guard is dropped.
#[must_use]
pub fn watchdog() -> Watchdog {
    let (alive, watch) = channel::<()>();
    let name = std::thread::current().name().unwrap_or("a test").to_string();
    std::thread::spawn(move || {
        let patience = patience();
        if watch.recv_timeout(patience) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            // Not `eprintln!`, whose output the test harness would capture and never show.
            let _ = writeln!(
                std::io::stderr(),
                "\n*** `{name}` hangs: it has not ended within {patience:?}; ending the test run ***\n"
            );
            std::process::abort();
        }
    });
    Watchdog(alive)
}

/// Runs `work` under a [`watchdog`].
pub fn guarded<T>(work: impl FnOnce() -> T) -> T {
    let _watchdog = watchdog();
    work()
}
