//! Worlds of ranks: threads, and the processes of an MPI run that do the same.

use std::cell::RefCell;
use std::convert::Infallible;
use std::fmt::Debug;

use burn_rehearsal_collective::{Collective, run_threads};

use crate::watchdog;

thread_local! {
    /// This process's rank of an MPI run, if it is one, and how many worlds it took part in.
    static PROCESS: RefCell<Option<(Box<dyn Collective>, usize)>> = const { RefCell::new(None) };
}

/// Runs `scenario` with every [`world`] of as many ranks as `process` has being one of processes,
/// too; gives their number.
pub fn on_processes(process: Box<dyn Collective>, scenario: impl FnOnce()) -> usize {
    PROCESS.set(Some((process, 0)));
    scenario();
    PROCESS.take().map_or(0, |(_, worlds)| worlds)
}

/// A handle of its own for one world of `size` processes, if that is what this is.
fn process(size: usize) -> Option<Box<dyn Collective>> {
    PROCESS.with_borrow_mut(|process| {
        let (process, worlds) = process.as_mut().filter(|(process, _)| process.size() == size)?;
        *worlds += 1;
        Some(process.duplicate().unwrap())
    })
}

/// Runs `f` on `size` thread ranks, under a [`watchdog`], and gives the results in rank order. A
/// rank's panic fails the test.
///
/// A process of an MPI run of `size` ranks (see [`on_processes`]) does the same as its rank of that
/// run, which must give what the thread gave.
pub fn world<T: Send + PartialEq + Debug>(
    size: usize,
    f: impl Fn(Box<dyn Collective>) -> T + Sync,
) -> Vec<T> {
    let _watchdog = watchdog();
    let results: Vec<T> = run_threads(size, |threads| Ok::<T, Infallible>(f(Box::new(threads))))
        .into_iter()
        .map(|result| result.unwrap_or_else(|failure| panic!("{failure}")))
        .collect();
    if let Some(process) = process(size) {
        let rank = process.rank();
        assert_eq!(
            f(process),
            results[rank],
            "rank {rank} of {size}: left the process, right the thread"
        );
    }
    results
}
