//! Turns a hang into a failed test run, so that it does not look like a slow test.

use std::io::Write;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

/// The time after which a test counts as hanging. No test takes that long, even on a busy machine.
/// Miri is much slower, and so is a simulated GPU, which compiles every kernel first.
fn patience() -> Duration {
    Duration::from_secs(match std::env::var_os("BURN_DEVICE") {
        _ if cfg!(miri) => 3600,
        Some(_) => 900,
        None => 120,
    })
}

/// Aborts the process with a message unless it is dropped in time.
#[derive(Debug)]
pub struct Watchdog(#[allow(dead_code, reason = "dropping it is the signal")] Sender<()>);

/// Watches the calling test until the returned guard is dropped.
#[must_use]
pub fn watchdog() -> Watchdog {
    let (alive, watch) = channel::<()>();
    let name = std::thread::current().name().unwrap_or("a test").to_string();
    std::thread::spawn(move || {
        let patience = patience();
        if watch.recv_timeout(patience) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            // The test harness captures the output of `eprintln!` and would never show it.
            let _ = writeln!(
                std::io::stderr(),
                "\n*** `{name}` hangs: it has not ended within {patience:?}. Aborting. ***\n"
            );
            std::process::abort();
        }
    });
    Watchdog(alive)
}

/// Runs `work` under a [`watchdog`].
///
/// ```
/// assert_eq!(burn_rehearsal_testing::guarded(|| 6 * 7), 42);
/// ```
pub fn guarded<T>(work: impl FnOnce() -> T) -> T {
    let _watchdog = watchdog();
    work()
}
