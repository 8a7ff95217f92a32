//! Worlds of ranks: threads, and the processes of an MPI run that repeat what the threads do.

use std::cell::RefCell;
use std::convert::Infallible;
use std::fmt::Debug;

use burn_rehearsal_collective::{Collective, run_threads};

use crate::watchdog;

thread_local! {
    /// This process's rank of an MPI run, if any, and the number of worlds that it took part in.
    static PROCESS: RefCell<Option<(Box<dyn Collective>, usize)>> = const { RefCell::new(None) };
}

/// Runs `scenario`. Processes repeat every [`world`] in it that has as many ranks as `process`.
/// Returns the number of these worlds.
pub fn on_processes(process: Box<dyn Collective>, scenario: impl FnOnce()) -> usize {
    PROCESS.set(Some((process, 0)));
    scenario();
    PROCESS.take().map_or(0, |(_, worlds)| worlds)
}

/// Returns a new handle for a world of `size` ranks, if the MPI run has that size.
fn process(size: usize) -> Option<Box<dyn Collective>> {
    PROCESS.with_borrow_mut(|process| {
        let (process, worlds) = process.as_mut().filter(|(process, _)| process.size() == size)?;
        *worlds += 1;
        Some(process.duplicate().unwrap())
    })
}

/// Runs `f` on `size` thread ranks under a [`watchdog`], and returns the results in rank order. The
/// panic of a rank fails the test.
///
/// In an MPI run of `size` ranks (see [`on_processes`]), each process also runs `f` as its rank of
/// that run, and must get the result of the thread.
///
/// ```
/// use burn_rehearsal_collective::CollectiveExt;
/// use burn_rehearsal_testing::world;
///
/// let any = world(3, |mut ranks| {
///     let first = ranks.rank() == 0;
///     ranks.any(first).unwrap()
/// });
/// assert_eq!(any, [true; 3]);
/// ```
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
            "rank {rank} of {size}: result of the process (left) and of the thread (right)"
        );
    }
    results
}
