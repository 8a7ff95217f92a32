//! Errors of data-parallel training.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use burn_rehearsal_collective::CollectiveError;

use super::Precision;
use crate::epoch::Epoch;

/// The reason why a data-parallel launch ended early.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DataParallelError {
    /// A rank could not continue, because its loader, a metric or a checkpoint failed. All ranks
    /// return the same error.
    #[error("rank {rank} failed at step {step}: {reason}")]
    RankFailed {
        /// The lowest rank that failed.
        rank: usize,
        /// The training step at which the ranks learned of it.
        step: u64,
        /// The error message of that rank, cut to 240 bytes.
        reason: String,
    },
    /// The hook after an epoch failed.
    #[error("after epoch {epoch}: {error}")]
    AfterEpoch {
        /// The epoch.
        epoch: Epoch,
        /// Its error.
        #[source]
        error: HookError,
    },
    /// The ranks are not at the same step, because one of them made a collective call that the
    /// others did not make.
    #[error("rank {rank} is at step {theirs}, this rank at step {ours}")]
    OutOfStep {
        /// The rank that differs from this one.
        rank: usize,
        /// The step of this rank.
        ours: u64,
        /// The step of that rank.
        theirs: u64,
    },
    /// The ranks have different settings.
    #[error("the ranks disagree on {setting}: {theirs} on rank {rank}, {ours} on this rank")]
    DifferentSettings {
        /// The name of the setting.
        setting: &'static str,
        /// The rank that differs from this one.
        rank: usize,
        /// The value on this rank.
        ours: u64,
        /// The value on that rank.
        theirs: u64,
    },
    /// The model of a rank has other parameters (names, shapes or types) than the model of rank 0.
    #[error("the model of rank {rank} differs from that of rank 0: {detail}")]
    DifferentModels {
        /// The lowest rank that differs from rank 0.
        rank: usize,
        /// The first difference, as seen by that rank.
        detail: String,
    },
    /// Several ranks of this process share the running statistics of a batch norm. Clones of a Burn
    /// model share them.
    #[error(
        "rank {0} shares batch-norm running statistics with another rank: clones of a Burn model \
         share them; build the model once per rank, or use `model.valid().train()`"
    )]
    SharedRunningStatistics(usize),
    /// Parameters that must be equal on all ranks differ.
    #[error("after epoch {epoch} the parameter {parameter} of rank {rank} differs from rank 0's")]
    ParametersDiffer {
        /// The lowest rank that differs from rank 0.
        rank: usize,
        /// The path of the first parameter that differs.
        parameter: String,
        /// The epoch after which they were compared.
        epoch: Epoch,
    },
    /// A device operation failed on this rank.
    #[error("the device failed at step {step}: {reason}")]
    Device {
        /// The training step.
        step: u64,
        /// The error message of the device.
        reason: String,
    },
    /// The device does not support the chosen precision.
    #[error("the device {device} does not support {precision}")]
    Precision {
        /// The format.
        precision: Precision,
        /// The device, see [`describe`](crate::device::describe).
        device: String,
    },
    /// The training step of the network did not scale its loss, which training in `f16` requires.
    #[error(
        "training in f16 requires a network that calls `backward` on `scale_loss(loss)`; this one \
         did not at step {step}"
    )]
    LossNotScaled {
        /// The training step.
        step: u64,
    },
    /// A record of the learner (parameters, optimizer, schedule) could not be written or read.
    #[error("a record of the learner could not be written or read: {0}")]
    Record(String),
    /// The strategy cannot launch: another launch is using it, or an earlier launch failed.
    #[error(
        "the strategy is in use, or an earlier launch failed: create a new one on a new collective"
    )]
    Unavailable,
    /// The ranks could not communicate.
    #[error("{0}")]
    Collective(#[from] CollectiveError),
}

/// The error of a hook after an epoch. Two are equal if their messages are.
#[derive(Debug, Clone)]
pub struct HookError(pub Arc<dyn Error + Send + Sync>);

impl fmt::Display for HookError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for HookError {
    /// The error itself, so that a caller can downcast it.
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
