//! The origin of an error: this rank or another one.

use crate::data_parallel::DataParallelError;
use crate::evaluate::EvaluateError;
use burn_rehearsal::error::{CheckpointError, RehearsalError};
use burn_rehearsal_collective::CollectiveError;
use std::error::Error;

/// The origin of an error. If several ranks of a run fail, an error with the lowest origin is
/// closest to the cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ErrorOrigin {
    /// This rank, or all ranks. The error describes the cause.
    Local,
    /// Another rank. The error contains its message.
    Reported,
    /// Another rank. The error contains at most its number.
    Peer,
}

impl ErrorOrigin {
    /// The origin that one of the causes of an error shows.
    pub(crate) fn of(cause: &(dyn Error + 'static)) -> Self {
        use CollectiveError::{PeerFailed, Silent};
        let reported = matches!(cause.downcast_ref(), Some(DataParallelError::RankFailed { .. }));
        let peer = matches!(cause.downcast_ref(), Some(PeerFailed { .. } | Silent { .. }))
            || matches!(
                cause.downcast_ref(),
                Some(
                    RehearsalError::PeerFailed { .. }
                        | RehearsalError::Checkpoint(CheckpointError::Rank(_))
                )
            )
            || matches!(cause.downcast_ref(), Some(CheckpointError::Rank(_)))
            || matches!(cause.downcast_ref(), Some(EvaluateError::Rank(_)));
        match (reported, peer) {
            (true, _) => Self::Reported,
            (_, true) => Self::Peer,
            _ => Self::Local,
        }
    }
}
