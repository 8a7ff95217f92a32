//! One thread at a time calls MPI: a thread that needs it takes a turn, and lets go between two
//! looks.
//!
//! A lock without waiting inside: a turn takes microseconds, and a thread that cannot have it tries
//! again. So a thread that never comes back from its turn is noticed by the others. MPI promises
//! that its non-blocking calls return, but Open MPI's shared memory does not keep that promise when
//! another process is stopped in the middle of writing to it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

/// Trying: spin, then yield, then sleep. Waiting for messages is done in the same way, with more
/// patience for many bytes.
const SPIN: Duration = Duration::from_micros(20);
const YIELD: Duration = Duration::from_millis(1);
const SLEEP: Duration = Duration::from_micros(100);

/// What only one thread at a time may use.
#[derive(Debug)]
pub(super) struct Turns<T> {
    /// `None` when it is over.
    state: Mutex<Option<T>>,
    /// Turns taken so far.
    taken: AtomicU64,
    /// A turn that takes longer does not come to an end.
    limit: Duration,
}

/// Why there is no turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// It is over.
    Over,
    /// A thread panicked in its turn.
    Broken,
    /// A thread has not come back from its turn for the limit.
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

    /// Ends it: no thread gets a turn any more.
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
            // A process that was itself stopped finds one long pause, which says nothing about the
            // others.
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
    /// Turns taken when last looked at.
    seen: u64,
    /// When that was.
    last: Instant,
    /// For how long no turn has been taken since.
    waited: Duration,
}

/// How a thread waits: the longer it has waited, the less it takes from others.
pub(super) struct Pace {
    since: Instant,
    /// Until it sleeps.
    patience: Duration,
}

impl Pace {
    /// For `bytes` that are under way: they move only while a thread calls MPI, so that sleeping
    /// makes them late.
    pub(super) fn new(bytes: usize) -> Self {
        Self { since: Instant::now(), patience: YIELD + Duration::from_nanos(2 * bytes as u64) }
    }

    /// Begins anew.
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
    fn a_turn_that_does_not_end_is_noticed_by_the_others() {
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
        assert_eq!(turns.take(|()| ()), Ok(()), "it goes on when the turn ends after all");
    }

    #[test]
    fn long_waits_for_turns_that_do_end_are_no_alarm() {
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
    fn after_a_panic_in_a_turn_nobody_gets_one() {
        let turns = Turns::new((), Duration::from_secs(60));
        let panicked =
            thread::scope(|scope| scope.spawn(|| turns.take(|()| panic!("for the test"))).join());
        assert!(panicked.is_err());
        assert_eq!(turns.take(|()| ()), Err(Refused::Broken));
    }
}
