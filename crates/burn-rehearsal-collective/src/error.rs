//! What can go wrong between ranks.

/// An error of a collective operation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CollectiveError {
    /// A rank that this one waited for has left the run.
    #[error("rank {rank} failed or left the run at step {step}")]
    PeerFailed {
        /// The rank that is gone.
        rank: usize,
        /// The training step of the rank that reports it, see [`Collective::set_step`](crate::Collective::set_step).
        step: u64,
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
    /// What a rank sent did not arrive as it was; found by whoever uses the collective, see [`check_word`](crate::check_word).
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
