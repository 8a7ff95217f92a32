//! Which rank an error comes from.

use crate::data_parallel::DataParallelError;
use crate::evaluate::EvaluateError;
use burn_rehearsal::error::{CheckpointError, RehearsalError};
use burn_rehearsal_collective::CollectiveError;

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

/// An error that knows where it comes from.
pub(crate) trait Origin {
    fn origin(&self) -> ErrorOrigin;
}

impl Origin for CollectiveError {
    fn origin(&self) -> ErrorOrigin {
        match self {
            Self::PeerFailed { .. } | Self::Silent { .. } => ErrorOrigin::Peer,
            _ => ErrorOrigin::Local,
        }
    }
}

impl Origin for RehearsalError {
    fn origin(&self) -> ErrorOrigin {
        match self {
            Self::PeerFailed { .. } => ErrorOrigin::Peer,
            Self::Checkpoint(error) => error.origin(),
            Self::Collective(error) => error.origin(),
            _ => ErrorOrigin::Local,
        }
    }
}

impl Origin for CheckpointError {
    fn origin(&self) -> ErrorOrigin {
        match self {
            Self::Rank(_) => ErrorOrigin::Peer,
            _ => ErrorOrigin::Local,
        }
    }
}

impl Origin for EvaluateError {
    fn origin(&self) -> ErrorOrigin {
        match self {
            Self::Rank(_) => ErrorOrigin::Peer,
            Self::Collective(error) => error.origin(),
            _ => ErrorOrigin::Local,
        }
    }
}

impl Origin for DataParallelError {
    fn origin(&self) -> ErrorOrigin {
        match self {
            Self::RankFailed { .. } => ErrorOrigin::Reported,
            Self::Collective(error) => error.origin(),
            _ => ErrorOrigin::Local,
        }
    }
}
