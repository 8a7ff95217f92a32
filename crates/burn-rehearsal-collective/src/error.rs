//! The errors of collective operations.

use std::any::Any;
use std::fmt;
use std::time::Duration;

/// An error of a collective operation.
///
/// Errors name the training step that [`Collective::set_step`](crate::Collective::set_step) has
/// set.
///
/// ```
/// use burn_rehearsal_collective::{Collective, CollectiveError, run_threads};
///
/// let results = run_threads(2, |mut ranks| {
///     ranks.set_step(7);
///     if ranks.rank() == 1 { Ok(()) } else { ranks.barrier() }
/// });
/// let error = results[0].as_ref().unwrap_err().to_string();
/// assert_eq!(error, "rank 0 failed: rank 1 failed or left the run at step 7");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CollectiveError {
    /// A rank that this rank waited for has left the run.
    #[error("rank {rank} failed or left the run at step {step}")]
    PeerFailed {
        /// The rank that has left.
        rank: usize,
        /// The training step of the reporting rank.
        step: u64,
    },
    /// Ranks that this rank waited for send no heartbeats: their processes were stopped, or their
    /// machines are down. MPI only.
    #[error("no heartbeat from {} for {limit:?} at step {step}", list(ranks))]
    Silent {
        /// The silent ranks, in order.
        ranks: Vec<usize>,
        /// The training step of the reporting rank.
        step: u64,
        /// The time without a heartbeat.
        limit: Duration,
    },
    /// Ranks wait for each other in operations of different handles. All ranks get this error.
    #[error("deadlock at step {step}: {}", join(waiting, "; "))]
    Deadlock {
        /// The training step of the reporting rank.
        step: u64,
        /// The operations in which the ranks wait, in rank order.
        waiting: Vec<WaitingRank>,
    },
    /// The ranks called different operations, or the same operation with different sizes.
    #[error("ranks disagree at step {step}: {reason}")]
    Mismatch {
        /// The training step of the reporting rank.
        step: u64,
        /// The ranks and what each of them called.
        reason: String,
    },
    /// An argument that fits no call, such as a root that does not exist.
    #[error("invalid argument: {0}")]
    InvalidArgument(String),
    /// A message does not have the [`checksum`](crate::checksum) that it was sent with.
    #[error("a message of rank {rank} is damaged")]
    Damaged {
        /// The rank that sent it.
        rank: usize,
    },
    /// The underlying library failed, or does not match the launcher.
    #[error("{call} failed at step {step}: {reason}")]
    Transport {
        /// The training step of the reporting rank.
        step: u64,
        /// The function of the library.
        call: &'static str,
        /// The error message of the library.
        reason: String,
    },
}

/// A rank that waits in an operation, for [`CollectiveError::Deadlock`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitingRank {
    /// The rank.
    pub rank: usize,
    /// The operation, with its sizes.
    pub call: String,
    /// The number of the operation on its handle, from 0.
    pub operation: u64,
    /// The purpose of the handle, see [`Collective::set_purpose`](crate::Collective::set_purpose),
    /// or its number.
    pub handle: String,
    /// The ranks that have not called the operation.
    pub missing: Vec<usize>,
}

impl fmt::Display for WaitingRank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rank, call, operation, handle, missing } = self;
        write!(
            f,
            "rank {rank} waits in {call} (operation {operation} of the handle `{handle}`) for {}",
            list(missing)
        )
    }
}

/// Formats ranks as "rank 3" or "ranks 0, 1, 2".
fn list(ranks: &[usize]) -> String {
    format!("rank{} {}", if ranks.len() == 1 { "" } else { "s" }, join(ranks, ", "))
}

fn join(items: &[impl ToString], separator: &str) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(separator)
}

/// Returns the message of a panic, from the payload of `catch_unwind` or of a thread's `join`.
///
/// A payload of another type than text gives "(not a text)".
///
/// ```
/// use burn_rehearsal_collective::panic_message;
///
/// let payload = std::panic::catch_unwind(|| panic!("no more data")).unwrap_err();
/// assert_eq!(panic_message(payload.as_ref()), "no more data");
/// ```
pub fn panic_message(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("(not a text)")
}
