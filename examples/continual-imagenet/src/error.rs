//! Errors of the program, in words for its users.

use burn_rehearsal::error::{BatchError, ConfigError, RehearsalError};
use burn_rehearsal_collective::CollectiveError;
use burn_rehearsal_train::experiment::ExperimentError;
use burn_rehearsal_train::report::ReportError;
use burn_rehearsal_train::stream::StreamError;
use burn_rehearsal_train::weights::WeightsError;
use burn_rehearsal_vision::data::DataError;
use std::path::PathBuf;

/// An error with everything that the user needs to know.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// A file or directory.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// An output directory that another run is using.
    #[error("another run is using the directory {}; choose another with `--out`", .0.display())]
    Taken(PathBuf),
    /// A signal before training began.
    #[error("interrupted before training began; nothing was changed")]
    Interrupted,
    /// An unfinished run with another configuration, or on other data.
    #[error(
        "the directory {} holds an unfinished run with other options or data: {changed}; use the same options and data, start over with `--fresh`, or choose \
         another `--out`",
        path.display()
    )]
    Changed {
        /// The directory.
        path: PathBuf,
        /// What differs.
        changed: String,
    },
    /// An unfinished run on other data.
    #[error(
        "{source}; resume with the original data, start over with `--fresh`, or choose another `--out`"
    )]
    ChangedData {
        /// What differs.
        source: ExperimentError,
    },
    /// Ranks that are processes and were configured differently.
    #[error(transparent)]
    Ranks(#[from] RehearsalError),
    /// An unfinished run that cannot be gone on with.
    #[error("{source}; start over with `--fresh`, or choose another `--out`")]
    NoCheckpoint {
        /// Why.
        source: ExperimentError,
    },
    /// The description of an unfinished run, which cannot be understood.
    #[error("{} is damaged: {reason}; start over with `--fresh`, or choose another `--out`", path.display())]
    DamagedJob {
        /// The file.
        path: PathBuf,
        /// Where and why.
        reason: String,
    },
    /// A configuration file that cannot be understood.
    #[error("the configuration file {} is not valid: {reason}", path.display())]
    ConfigFile {
        /// The file.
        path: PathBuf,
        /// Where and why.
        reason: String,
    },
    /// Arguments that cannot be understood.
    #[error(transparent)]
    Arguments(#[from] clap::Error),
    /// Values that are no configuration.
    #[error("the configuration is not valid: {0}")]
    Values(String),
    /// An option's value.
    #[error("`--{option} {value}`: {reason}")]
    Option {
        /// The option.
        option: &'static str,
        /// Its value.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A data set that cannot be used.
    #[error(transparent)]
    Data(#[from] DataError),
    /// Weights to start from.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The buffer's configuration.
    #[error(transparent)]
    Rehearsal(#[from] ConfigError),
    /// A sample that the buffer cannot store.
    #[error("the samples cannot be stored in a buffer: {0}")]
    Sample(#[from] BatchError),
    /// The task stream.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// A run on some rank.
    #[error("rank {rank}: {source}")]
    Rank {
        /// The rank.
        rank: usize,
        /// What happened.
        source: ExperimentError,
    },
    /// A run on this process's rank. MPI names the rank when it prints the error.
    #[error(transparent)]
    Own(ExperimentError),
    /// A rank that panicked, could not be started, or reported to the others why it failed.
    #[error("{0}")]
    RankEnded(String),
    /// What joins the ranks.
    #[error(transparent)]
    Collective(#[from] CollectiveError),
    /// A report or a page made of reports.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// No report where one was looked for.
    #[error("no report.json in {} or its subdirectories", .0.display())]
    NoReport(PathBuf),
}

impl AppError {
    /// What happened on `rank`.
    pub fn on_rank(rank: usize, source: ExperimentError) -> Self {
        Self::of_run(source, |source| Self::Rank { rank, source })
    }

    /// What happened on the rank of this process.
    pub fn on_own_rank(source: ExperimentError) -> Self {
        Self::of_run(source, Self::Own)
    }

    /// An error with advice, or `other`.
    fn of_run(source: ExperimentError, other: impl FnOnce(ExperimentError) -> Self) -> Self {
        match source {
            source @ ExperimentError::NoCheckpoint { .. } => Self::NoCheckpoint { source },
            source @ ExperimentError::ChangedData(_) => Self::ChangedData { source },
            source => other(source),
        }
    }

    /// Values that are no configuration, and why.
    pub fn values(reason: impl ToString) -> Self {
        Self::Values(reason.to_string())
    }

    /// A value of an option that cannot be used.
    pub fn option(option: &'static str, value: impl ToString, reason: impl Into<String>) -> Self {
        Self::Option { option, value: value.to_string(), reason: reason.into() }
    }
}
