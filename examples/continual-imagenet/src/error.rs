//! Errors of the program, in words for its users.

use burn_rehearsal::error::{BatchError, ConfigError, RehearsalError};
use burn_rehearsal_collective::{CollectiveError, RankFailure};
use burn_rehearsal_train::experiment::{ErrorOrigin, ExperimentError};
use burn_rehearsal_train::report::ReportError;
use burn_rehearsal_train::stream::StreamError;
use burn_rehearsal_train::weights::WeightsError;
use burn_rehearsal_vision::data::DataError;
use clap::ValueEnum;
use std::path::{Path, PathBuf};

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
    /// An unfinished run that this one cannot resume.
    #[error("{0}; to start over, pass `--fresh` or another `--out`")]
    CannotResume(String),
    /// Ranks that are processes and were configured differently.
    #[error(transparent)]
    Ranks(#[from] RehearsalError),
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
    /// A run, on this process's rank or on all ranks. MPI names the rank when it prints the error.
    #[error(transparent)]
    Run(ExperimentError),
    /// A rank that failed, panicked or could not be started.
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

impl From<ExperimentError> for AppError {
    fn from(error: ExperimentError) -> Self {
        match error {
            ExperimentError::NoCheckpoint { .. } | ExperimentError::ChangedData(_) => {
                Self::CannotResume(error.to_string())
            }
            error => Self::Run(error),
        }
    }
}

impl From<RankFailure<ExperimentError>> for AppError {
    fn from(failure: RankFailure<ExperimentError>) -> Self {
        let failed = failure.to_string();
        match failure {
            // An error about another rank names that rank.
            RankFailure::Error { error, .. } if error.origin() != ErrorOrigin::Local => {
                error.into()
            }
            RankFailure::Error { error, .. } => match error.into() {
                Self::Run(_) => Self::RankEnded(failed),
                other => other,
            },
            RankFailure::Panic { .. } | RankFailure::NotStarted { .. } => Self::RankEnded(failed),
        }
    }
}

impl AppError {
    /// A file or directory with which something failed.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self + use<> {
        let path = path.to_path_buf();
        move |source| Self::Io { action, path, source }
    }

    /// Values that are no configuration, and why.
    pub fn values(reason: impl ToString) -> Self {
        Self::Values(reason.to_string())
    }

    /// A value of an option that cannot be used.
    pub fn option(option: &'static str, value: impl ToString, reason: impl Into<String>) -> Self {
        Self::Option { option, value: value.to_string(), reason: reason.into() }
    }

    /// As [`option`](Self::option), for one of a few values.
    pub fn choice(option: &'static str, value: impl ValueEnum, reason: impl Into<String>) -> Self {
        let value = value.to_possible_value();
        Self::option(option, value.as_ref().map_or("", |value| value.get_name()), reason)
    }
}
