//! Decisions that all ranks make together. One small all-gather of status words gives every rank
//! the same information, from which it computes the same decision.

use burn_rehearsal_collective::{Collective, CollectiveError, CollectiveExt};

use super::error::DataParallelError;

const EXHAUSTED: u64 = 1;
const STOP: u64 = 2;
const FAILED: u64 = 4;
const EARLY_STOP: u64 = 8;

/// The longest failure reason that is sent to the other ranks, in bytes.
const REASON: usize = 240;

/// The status of one rank.
#[derive(Debug, Clone, Default)]
pub(crate) struct Status {
    /// Rows of the mini-batch of this rank in this step.
    pub(crate) rows: u64,
    /// The loader has no more batches in this epoch.
    pub(crate) exhausted: bool,
    /// This rank was asked to stop.
    pub(crate) stop: bool,
    /// Early stopping ends the run as planned. Rank 0 decides.
    pub(crate) early_stop: bool,
    /// The reason why this rank cannot continue.
    pub(crate) failed: Option<String>,
}

/// The result of [`agree`], the same on every rank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Agreement {
    /// Rows of all ranks together.
    pub(crate) total_rows: u64,
    /// No rank has another batch.
    pub(crate) exhausted: bool,
    /// The lowest rank that was asked to stop.
    pub(crate) stop: Option<usize>,
    /// Early stopping on rank 0 ends the run.
    pub(crate) early_stop: bool,
}

/// Exchanges the statuses of all ranks at `step`. `round` counts the agreements, since some steps
/// have several. Collective.
///
/// # Errors
///
/// On every rank: [`DataParallelError::RankFailed`] if a rank failed,
/// [`DataParallelError::OutOfStep`] if a rank is at another step, and the errors of the collective.
pub(crate) fn agree(
    collective: &mut dyn Collective,
    step: u64,
    round: u64,
    status: &Status,
) -> Result<Agreement, DataParallelError> {
    collective.set_step(step);
    let mut word = 0;
    for (bit, set) in [
        (EXHAUSTED, status.exhausted),
        (STOP, status.stop),
        (FAILED, status.failed.is_some()),
        (EARLY_STOP, status.early_stop),
    ] {
        word |= if set { bit } else { 0 };
    }
    let all = collective.gather_words([step, round, status.rows, word])?;
    if let Some((rank, [theirs, ..])) =
        all.iter().enumerate().find(|(_, [theirs, ..])| *theirs != step)
    {
        return Err(DataParallelError::OutOfStep { rank, ours: step, theirs: *theirs });
    }
    if let Some(rank) = all.iter().position(|[_, theirs, ..]| *theirs != round) {
        return Err(CollectiveError::Damaged { rank }.into());
    }
    if let Some(rank) = all.iter().position(|[.., word]| word & FAILED != 0) {
        let reason = share_reason(collective, rank, status.failed.as_deref().unwrap_or_default())?;
        return Err(DataParallelError::RankFailed { rank, step, reason });
    }
    Ok(Agreement {
        total_rows: all.iter().map(|[_, _, rows, _]| rows).sum(),
        exhausted: all.iter().all(|[.., word]| word & EXHAUSTED != 0),
        stop: all.iter().position(|[.., word]| word & STOP != 0),
        early_stop: all.first().is_some_and(|[.., word]| word & EARLY_STOP != 0),
    })
}

/// Sends the text of rank `root` to all ranks, cut to [`REASON`] bytes. Collective.
pub(crate) fn share_reason(
    collective: &mut dyn Collective,
    root: usize,
    own: &str,
) -> Result<String, CollectiveError> {
    let mut end = own.len().min(REASON);
    while !own.is_char_boundary(end) {
        end -= 1;
    }
    let bytes = collective.broadcast_bytes(own.as_bytes()[..end].to_vec(), root)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
