//! Runs one function on every rank of a group.

use std::thread;

use super::Threads;
use crate::launch::as_rank;
use crate::panic_message;

/// The reason why a rank has no result, in [`run_threads`] and [`RunError`](crate::RunError).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RankFailure<E> {
    /// The rank returned an error.
    #[error("rank {rank} failed: {error}")]
    Error {
        /// The rank that failed.
        rank: usize,
        /// The error that the rank returned.
        error: E,
    },
    /// The rank panicked.
    #[error("rank {rank} panicked: {message}")]
    Panic {
        /// The rank that panicked.
        rank: usize,
        /// The panic message, see [`panic_message`].
        message: String,
    },
    /// The operating system cannot start a thread for the rank.
    #[error("rank {rank} did not start: {message}")]
    NotStarted {
        /// The rank that did not start.
        rank: usize,
        /// The error message of the operating system.
        message: String,
    },
}

impl<E> RankFailure<E> {
    /// The rank that has no result.
    pub fn rank(&self) -> usize {
        match self {
            Self::Error { rank, .. } | Self::Panic { rank, .. } | Self::NotStarted { rank, .. } => {
                *rank
            }
        }
    }
}

/// Runs `f` on `size` ranks and waits for all of them. Each is a thread named `rank-0`, `rank-1`, …
///
/// [`Ranks::run`](crate::Ranks::run) is more convenient for whole programs.
///
/// Each rank owns its handle, which is dropped when the rank returns, fails or panics. Ranks that
/// wait for it then get [`PeerFailed`](crate::CollectiveError::PeerFailed), so one failure ends the
/// whole run. `f` may borrow from the caller. Panics of ranks do not propagate.
///
/// Returns one result for each rank, in rank order:
///
/// ```
/// use burn_rehearsal_collective::{Collective, CollectiveError, ReduceOp, run_threads};
///
/// let results = run_threads(4, |mut ranks| {
///     let mut gradients = vec![ranks.rank() as f32; 3];
///     ranks.all_reduce(&mut gradients, ReduceOp::Mean)?;
///     Ok::<_, CollectiveError>(gradients)
/// });
/// for gradients in results {
///     assert_eq!(gradients.unwrap(), [1.5, 1.5, 1.5]);
/// }
/// ```
///
/// After a failure, look at all of them. The first one is often that of a rank which waited for the
/// rank that failed:
///
/// ```
/// # use burn_rehearsal_collective::{Collective, run_threads};
/// let results = run_threads(2, |mut ranks| match ranks.rank() {
///     0 => ranks.barrier(),
///     _ => panic!("no more data"),
/// });
/// let error = |rank: usize| results[rank].as_ref().unwrap_err().to_string();
/// assert_eq!(error(0), "rank 0 failed: rank 1 failed or left the run at step 0");
/// assert_eq!(error(1), "rank 1 panicked: no more data");
/// ```
pub fn run_threads<T, E, F>(size: usize, f: F) -> Vec<Result<T, RankFailure<E>>>
where
    T: Send,
    E: Send,
    F: Fn(Threads) -> Result<T, E> + Sync,
{
    // `group` refuses only 0 ranks.
    run_on(Threads::group(size).unwrap_or_default(), f)
}

/// Like [`run_threads`], with a custom transport. Each rank gets one of `handles`, in rank order.
///
/// ```
/// use burn_rehearsal_collective::{Collective, CollectiveError, Solo, run_on};
///
/// let results = run_on(vec![Solo::new()], |ranks| Ok::<_, CollectiveError>(ranks.size()));
/// assert_eq!(results, [Ok(1)]);
/// ```
pub fn run_on<H, T, E, F>(handles: Vec<H>, f: F) -> Vec<Result<T, RankFailure<E>>>
where
    H: Send,
    T: Send,
    E: Send,
    F: Fn(H) -> Result<T, E> + Sync,
{
    let (f, size) = (&f, handles.len());
    thread::scope(|scope| {
        // All threads start before the first is joined.
        let started: Vec<_> = handles
            .into_iter()
            .enumerate()
            .map(|(rank, handle)| {
                thread::Builder::new()
                    .name(format!("rank-{rank}"))
                    .spawn_scoped(scope, move || as_rank(rank, size, || f(handle)))
            })
            .collect();
        let mut results = Vec::with_capacity(size);
        for (rank, started) in started.into_iter().enumerate() {
            results.push(match started.map(thread::ScopedJoinHandle::join) {
                Ok(Ok(result)) => result.map_err(|error| RankFailure::Error { rank, error }),
                Ok(Err(payload)) => {
                    let message = panic_message(payload.as_ref()).to_owned();
                    Err(RankFailure::Panic { rank, message })
                }
                Err(error) => Err(RankFailure::NotStarted { rank, message: error.to_string() }),
            });
        }
        results
    })
}
