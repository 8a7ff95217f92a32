//! The data that `--data` names.

use crate::error::AppError;
use burn_rehearsal_vision::data::{DataSource, UnknownDataSource};

/// The data set that `--data` names.
///
/// # Errors
///
/// [`AppError::Option`] if there is none of this name.
pub fn source(data: &str) -> Result<DataSource, AppError> {
    data.parse().map_err(|error: UnknownDataSource| AppError::option("data", data, error.to_string()))
}
