//! What can go wrong in a data-parallel run.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use burn_rehearsal_collective::CollectiveError;

use super::Precision;
use crate::epoch::Epoch;

/// Why a data-parallel run ended before its last epoch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DataParallelError {
    /// A rank could not continue: its loader, a metric, or a checkpoint failed. All ranks return
    /// the same error.
    #[error("rank {rank} failed at step {step}: {reason}")]
    RankFailed {
        /// The lowest rank that failed.
        rank: usize,
        /// The training step at which all ranks learned of it.
        step: u64,
        /// That rank's own words (cut after 240 bytes).
        reason: String,
    },
    /// The hook after an epoch failed.
    #[error("after epoch {epoch}: {error}")]
    AfterEpoch {
        /// The epoch.
        epoch: Epoch,
        /// The hook's error.
        #[source]
        error: HookError,
    },
    /// The ranks are not at the same step: one of them called something the others did not.
    #[error("rank {rank} is at step {theirs}, this rank at step {ours}")]
    OutOfStep {
        /// The rank that differs from this one.
        rank: usize,
        /// This rank's step.
        ours: u64,
        /// That rank's step.
        theirs: u64,
    },
    /// The ranks were configured differently.
    #[error("ranks disagree about {setting}: it is {theirs} on rank {rank} and {ours} here")]
    DifferentSettings {
        /// What they disagree about.
        setting: &'static str,
        /// The rank that differs from this one.
        rank: usize,
        /// This rank's value.
        ours: u64,
        /// That rank's value.
        theirs: u64,
    },
    /// A rank's model has other parameters (names, shapes, types) than rank 0's.
    #[error("the model of rank {rank} is not the one of rank 0: {detail}")]
    DifferentModels {
        /// The lowest rank that differs from rank 0.
        rank: usize,
        /// The first difference, as that rank saw it.
        detail: String,
    },
    /// Several ranks of this process share the running statistics of one batch norm: clones of a
    /// Burn model do.
    #[error(
        "rank {0} shares batch-norm running statistics with another rank: Burn's clones of a model share them, so build the model once per rank \
         (or use model.valid().train())"
    )]
    SharedRunningStatistics(usize),
    /// Parameters that must be equal on all ranks are not.
    #[error("after epoch {epoch} the parameter {parameter} of rank {rank} differs from rank 0's")]
    ParametersDiffer {
        /// The lowest rank that differs from rank 0.
        rank: usize,
        /// The path of the first parameter that differs.
        parameter: String,
        /// The epoch after which it was found.
        epoch: Epoch,
    },
    /// A device operation failed on this rank.
    #[error("the device failed at step {step}: {reason}")]
    Device {
        /// The training step.
        step: u64,
        /// What the device says.
        reason: String,
    },
    /// The device does not compute in the chosen precision.
    #[error("the device {device} does not compute in {precision}")]
    Precision {
        /// The format.
        precision: Precision,
        /// The device, in words.
        device: String,
    },
    /// The network's training step did not scale its loss, which training in `f16` needs.
    #[error(
        "training in f16 needs a network that calls `backward` on `scale_loss(loss)`; this one did not at step {step}"
    )]
    LossNotScaled {
        /// The training step.
        step: u64,
    },
    /// Rank 0's records could not be written or read.
    #[error("the parameters of rank 0 could not be adopted: {0}")]
    Record(String),
    /// The strategy has no collective: an earlier run failed, or another run is using it right now.
    #[error(
        "this strategy is in use, or an earlier run with it failed: make a new one on new collectives"
    )]
    Unavailable,
    /// The ranks could not communicate.
    #[error("{0}")]
    Collective(#[from] CollectiveError),
}

/// The error of a hook after an epoch. Two are equal if they read the same.
#[derive(Debug, Clone)]
pub struct HookError(pub Arc<dyn Error + Send + Sync>);

impl fmt::Display for HookError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for HookError {
    /// The error itself, so that its type can be found.
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.0)
    }
}

impl PartialEq for HookError {
    fn eq(&self, other: &Self) -> bool {
        self.to_string() == other.to_string()
    }
}

impl Eq for HookError {}
