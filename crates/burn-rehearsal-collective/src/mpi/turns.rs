//! Ensures that one thread at a time calls MPI. A thread takes a turn to call it, and takes another
//! turn to test again.
//!
//! A turn takes microseconds. A thread that cannot take one retries instead of blocking, so it can
//! detect that another thread never ends its turn. Non-blocking calls of MPI should always return,
//! but over the shared memory of Open MPI they may not if another process is stopped while it
//! writes to it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

/// A waiting thread spins, then yields, then sleeps.
const SPIN: Duration = Duration::from_micros(20);
const YIELD: Duration = Duration::from_millis(1);
const SLEEP: Duration = Duration::from_micros(100);

/// State that only one thread at a time may use.
#[derive(Debug)]
pub(super) struct Turns<T> {
    /// `None` after [`end`](Self::end).
    state: Mutex<Option<T>>,
    /// The number of turns taken.
    taken: AtomicU64,
    /// A turn that takes longer is considered stuck.
    limit: Duration,
}

/// The reason why a thread gets no turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// The state has been taken by [`Turns::end`].
    Over,
    /// A thread has panicked in its turn.
    Broken,
    /// A thread has not ended its turn within the limit.
    Stuck,
}

impl<T> Turns<T> {
    pub(super) fn new(state: T, limit: Duration) -> Self {
        Self { state: Mutex::new(Some(state)), taken: AtomicU64::new(0), limit }
    }

    /// Takes a turn.
    pub(super) fn take<R>(&self, turn: impl FnOnce(&mut T) -> R) -> Result<R, Refused> {
        self.lock(|state| state.as_mut().map(turn).ok_or(Refused::Over))?
    }

    /// Takes the state. No thread gets a turn after this.
    pub(super) fn end(&self) -> Result<Option<T>, Refused> {
        self.lock(Option::take)
    }

    fn lock<R>(&self, turn: impl FnOnce(&mut Option<T>) -> R) -> Result<R, Refused> {
        let mut waiting = None;
        loop {
            match self.state.try_lock() {
                Ok(mut state) => {
                    self.taken.fetch_add(1, Ordering::Relaxed);
                    return Ok(turn(&mut state));
                }
                Err(TryLockError::Poisoned(_)) => return Err(Refused::Broken),
                Err(TryLockError::WouldBlock) => {}
            }
            let taken = self.taken.load(Ordering::Relaxed);
            let waiting = waiting.get_or_insert_with(|| Waiting {
                pace: Pace::new(0),
                seen: taken,
                last: Instant::now(),
                waited: Duration::ZERO,
            });
            waiting.pace.pause();
            let now = Instant::now();
            // If this process was stopped, one pause is long. It must not count as a stuck turn.
            let paused = (now - waiting.last).min(self.limit / 20);
            waiting.waited =
                if taken == waiting.seen { waiting.waited + paused } else { Duration::ZERO };
            (waiting.seen, waiting.last) = (taken, now);
            if waiting.waited > self.limit {
                return Err(Refused::Stuck);
            }
        }
    }
}

/// A wait for a turn.
struct Waiting {
    pace: Pace,
    /// The number of turns taken at the last check.
    seen: u64,
    /// The time of the last check.
    last: Instant,
    /// For how long no turn has been taken.
    waited: Duration,
}

/// The pace of a waiting thread. The longer it waits, the less it uses the processor.
pub(super) struct Pace {
    since: Instant,
    /// The time after which it sleeps.
    patience: Duration,
}

impl Pace {
    /// The pace for `bytes` that are being transferred. MPI makes progress only while a thread
    /// calls it, so the thread sleeps later if there are more bytes.
    pub(super) fn new(bytes: usize) -> Self {
        Self { since: Instant::now(), patience: YIELD + Duration::from_nanos(2 * bytes as u64) }
    }

    /// Begins again with spinning.
    pub(super) fn restart(&mut self) {
        self.since = Instant::now();
    }

    /// Spins once, yields or sleeps.
    pub(super) fn pause(&self) {
        match self.since.elapsed() {
            waited if waited < SPIN => std::hint::spin_loop(),
            waited if waited < self.patience => thread::yield_now(),
            _ => thread::sleep(SLEEP),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn no_turn_is_lost_among_threads() {
        let turns = Turns::new(0, Duration::from_secs(60));
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    (0..10_000).for_each(|_| assert_eq!(turns.take(|count| *count += 1), Ok(())))
                });
            }
        });
        assert_eq!(turns.end(), Ok(Some(40_000)));
        assert_eq!(turns.take(|_| ()), Err(Refused::Over));
    }

    #[test]
    fn a_stuck_turn_is_detected() {
        let turns = Turns::new((), Duration::from_millis(100));
        let (noticed, wait) = channel();
        let (entered, inside) = channel();
        let turns = &turns;
        thread::scope(|scope| {
            let stuck = scope.spawn(move || {
                turns.take(|()| {
                    entered.send(()).unwrap();
                    wait.recv().unwrap();
                })
            });
            inside.recv().unwrap();
            assert_eq!(turns.take(|()| ()), Err(Refused::Stuck));
            noticed.send(()).unwrap();
            assert_eq!(stuck.join().unwrap(), Ok(()));
        });
        assert_eq!(turns.take(|()| ()), Ok(()), "turns are possible after the stuck one has ended");
    }

    #[test]
    fn long_waits_for_turns_that_end_are_no_error() {
        let turns = Turns::new((), Duration::from_millis(200));
        thread::scope(|scope| {
            let long = || {
                (0..20).for_each(|_| {
                    turns.take(|()| thread::sleep(Duration::from_millis(40))).unwrap()
                })
            };
            (0..3).for_each(|_| {
                scope.spawn(long);
            });
        });
    }

    #[test]
    fn no_thread_gets_a_turn_after_a_panic() {
        let turns = Turns::new((), Duration::from_secs(60));
        let panicked =
            thread::scope(|scope| scope.spawn(|| turns.take(|()| panic!("on purpose"))).join());
        assert!(panicked.is_err());
        assert_eq!(turns.take(|()| ()), Err(Refused::Broken));
    }
}
