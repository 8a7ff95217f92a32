//! Turns a hang into a failed test.

use std::panic::resume_unwind;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

/// The result of `work`; if there is none after a minute (in Miri, an hour), the test fails.
pub(crate) fn guarded<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, wait) = channel();
    let worker = thread::spawn(move || {
        let result = work();
        // Nobody listens any more after a time-out.
        let _ = done.send(());
        result
    });
    let patience = Duration::from_secs(if cfg!(miri) { 3600 } else { 60 });
    if wait.recv_timeout(patience) == Err(RecvTimeoutError::Timeout) {
        panic!("the ranks hang");
    }
    worker.join().unwrap_or_else(|payload| resume_unwind(payload))
}
