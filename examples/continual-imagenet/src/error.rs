//! Errors of the program.

use burn_rehearsal::error::{BatchError, ConfigError, RehearsalError};
use burn_rehearsal_collective::{CollectiveError, RankFailure};
use burn_rehearsal_train::experiment::{ErrorOrigin, ExperimentError};
use burn_rehearsal_train::report::ReportError;
use burn_rehearsal_train::stream::StreamError;
use burn_rehearsal_train::weights::WeightsError;
use burn_rehearsal_vision::data::DataError;
use clap::ValueEnum;
use std::path::{Path, PathBuf};

/// An error of the program. Its message names the option, file or rank.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// An operation on a file or directory failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// The operation.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// Another run is using the output directory.
    #[error("another run is using the directory {}; choose another with `--out`", .0.display())]
    Taken(PathBuf),
    /// A signal arrived before training began.
    #[error("interrupted before training began; no file was changed")]
    Interrupted,
    /// The output directory holds an unfinished run that cannot be resumed.
    #[error("{0}; to start over, pass `--fresh` or another `--out`")]
    CannotResume(String),
    /// Processes of a run have different options.
    #[error(transparent)]
    Ranks(#[from] RehearsalError),
    /// The configuration file is not valid.
    #[error("the configuration file {} is not valid: {reason}", path.display())]
    ConfigFile {
        /// The file.
        path: PathBuf,
        /// The line and the reason.
        reason: String,
    },
    /// The arguments cannot be parsed.
    #[error(transparent)]
    Arguments(#[from] clap::Error),
    /// The options are not a valid configuration.
    #[error("the configuration is not valid: {0}")]
    Values(String),
    /// The value of an option is not valid.
    #[error("`--{option} {value}`: {reason}")]
    Option {
        /// The option.
        option: &'static str,
        /// Its value.
        value: String,
        /// The reason.
        reason: String,
    },
    /// The data set cannot be opened.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The weights cannot be loaded.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The configuration of the buffer is not valid.
    #[error(transparent)]
    Rehearsal(#[from] ConfigError),
    /// The buffer cannot store the samples.
    #[error("the buffer cannot store the samples: {0}")]
    Sample(#[from] BatchError),
    /// The data cannot be split into tasks.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// A run failed on the rank of this process, or on all ranks.
    #[error(transparent)]
    Run(ExperimentError),
    /// A rank failed, panicked or could not be started.
    #[error("{0}")]
    RankEnded(String),
    /// Communication between processes failed.
    #[error(transparent)]
    Collective(#[from] CollectiveError),
    /// A report cannot be read or written.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// A directory contains no report.
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
    /// Makes an [`Io`](Self::Io) error from an error of the operating system.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self + use<> {
        let path = path.to_path_buf();
        move |source| Self::Io { action, path, source }
    }

    /// Makes a [`Values`](Self::Values) error.
    pub fn values(reason: impl ToString) -> Self {
        Self::Values(reason.to_string())
    }

    /// Makes an [`Option`](Self::Option) error.
    pub fn option(option: &'static str, value: impl ToString, reason: impl Into<String>) -> Self {
        Self::Option { option, value: value.to_string(), reason: reason.into() }
    }

    /// Makes an [`Option`](Self::Option) error about one of a few named values.
    pub fn choice(option: &'static str, value: impl ValueEnum, reason: impl Into<String>) -> Self {
        let value = value.to_possible_value();
        Self::option(option, value.as_ref().map_or("", |value| value.get_name()), reason)
    }
}
