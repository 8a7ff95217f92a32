//! One function on every rank of a group, and what became of each.

use std::thread;

use super::Threads;
use crate::launch::as_rank;
use crate::panic_message;

/// Why a rank of [`run_threads`] has no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RankFailure<E> {
    /// The rank returned an error.
    #[error("rank {rank} failed: {error}")]
    Error {
        /// The rank that failed.
        rank: usize,
        /// What it returned.
        error: E,
    },
    /// The rank panicked.
    #[error("rank {rank} panicked: {message}")]
    Panic {
        /// The rank that panicked.
        rank: usize,
        /// The panic message; for a payload that is not text, a remark that says so.
        message: String,
    },
    /// The operating system gave the rank no thread.
    #[error("rank {rank} did not start: {message}")]
    NotStarted {
        /// The rank without a thread.
        rank: usize,
        /// What the operating system said.
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

/// Runs `f` on `size` ranks, each a thread named `rank-0`, `rank-1`, …, and waits for all of them.
///
/// Each rank owns its handle. When it returns, fails or panics, the handle is dropped, and the
/// ranks that wait for it get [`PeerFailed`](crate::CollectiveError::PeerFailed): one failure ends
/// the whole run. `f` may borrow from the caller. No panic of a rank leaves this function.
///
/// The results are in rank order, one for each rank, so none for a `size` of 0. After a failure,
/// look at all of them: the first one is often just a rank that waited for the culprit.
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
///
/// let results = run_threads(2, |mut ranks| match ranks.rank() {
///     0 => ranks.barrier(),
///     _ => panic!("no more data"),
/// });
/// assert_eq!(results[0].as_ref().unwrap_err().to_string(), "rank 0 failed: rank 1 failed or left the run at step 0");
/// assert_eq!(results[1].as_ref().unwrap_err().to_string(), "rank 1 panicked: no more data");
/// ```
pub fn run_threads<T, E, F>(size: usize, f: F) -> Vec<Result<T, RankFailure<E>>>
where
    T: Send,
    E: Send,
    F: Fn(Threads) -> Result<T, E> + Sync,
{
    // A group of 0 ranks is the only one that cannot be made.
    run_on(Threads::group(size).unwrap_or_default(), f)
}

/// [`run_threads`] for a transport of your own: each rank gets one of `handles`, in rank order.
pub fn run_on<H, T, E, F>(handles: Vec<H>, f: F) -> Vec<Result<T, RankFailure<E>>>
where
    H: Send,
    T: Send,
    E: Send,
    F: Fn(H) -> Result<T, E> + Sync,
{
    let (f, size) = (&f, handles.len());
    thread::scope(|scope| {
        // All are started before the first is joined.
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
