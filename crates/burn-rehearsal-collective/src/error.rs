//! What can go wrong between ranks.

use std::any::Any;
use std::fmt;
use std::time::Duration;

/// An error of a collective operation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CollectiveError {
    /// A rank that this one waited for has left the run.
    #[error("rank {rank} failed or left the run at step {step}")]
    PeerFailed {
        /// The rank that is gone.
        rank: usize,
        /// The training step of the rank that reports it, see
        /// [`Collective::set_step`](crate::Collective::set_step).
        step: u64,
    },
    /// Ranks that this one waited for have stopped sending heartbeats: their processes were
    /// stopped, or their machines are gone. Over MPI only.
    #[error("no heartbeat from {} for {limit:?} at step {step}", list(ranks))]
    Silent {
        /// The ranks, in order.
        ranks: Vec<usize>,
        /// The training step of the rank that reports it.
        step: u64,
        /// How long nothing came from them.
        limit: Duration,
    },
    /// Ranks wait for each other in operations of different handles. All ranks get the same error.
    #[error("no rank can go on at step {step}: {}", waiting.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Deadlock {
        /// The training step of the rank that reports it.
        step: u64,
        /// The operations in which ranks wait, in rank order.
        waiting: Vec<WaitingRank>,
    },
    /// The ranks called different operations, or the same one with sizes that do not fit together.
    #[error("ranks disagree at step {step}: {reason}")]
    Mismatch {
        /// The training step of the rank that reports it.
        step: u64,
        /// Which ranks and sizes do not fit.
        reason: String,
    },
    /// An argument that no rank could accept.
    #[error("invalid argument: {0}")]
    InvalidArgument(String),
    /// A message did not arrive as it was sent, according to its [`checksum`](crate::checksum).
    #[error("a message of rank {rank} is damaged")]
    Damaged {
        /// The rank that sent it.
        rank: usize,
    },
    /// The library that carries the data failed, or does not fit the launcher.
    #[error("{call} failed at step {step}: {reason}")]
    Transport {
        /// The training step of the rank that reports it.
        step: u64,
        /// The library's function.
        call: &'static str,
        /// What the library says.
        reason: String,
    },
}

/// An operation in which a rank waits, in [`CollectiveError::Deadlock`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitingRank {
    /// The rank.
    pub rank: usize,
    /// What it called, with sizes.
    pub call: String,
    /// The number of the operation on its handle, from 0.
    pub operation: u64,
    /// What the handle is for, see [`Collective::set_purpose`](crate::Collective::set_purpose);
    /// otherwise its number.
    pub handle: String,
    /// The ranks that have not called it.
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

/// "rank 3", "ranks 0, 1, 2".
fn list(ranks: &[usize]) -> String {
    let numbers: Vec<_> = ranks.iter().map(ToString::to_string).collect();
    format!("rank{} {}", if ranks.len() == 1 { "" } else { "s" }, numbers.join(", "))
}

/// The text of a panic, from the payload that `catch_unwind` or a thread's `join` returns.
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
