//! Which rank an error comes from.

use crate::data_parallel::DataParallelError;
use crate::evaluate::EvaluateError;
use burn_rehearsal::error::{CheckpointError, RehearsalError};
use burn_rehearsal_collective::CollectiveError;
use std::error::Error;

/// Where an error comes from. If all ranks of a run fail, the lowest of their origins has the error
/// to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ErrorOrigin {
    /// This rank, or all ranks: the error says what happened.
    Local,
    /// Another rank, whose own words the error repeats.
    Reported,
    /// Another rank: the error says at most which one.
    Peer,
}

impl ErrorOrigin {
    /// What one of the causes of an error says.
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
