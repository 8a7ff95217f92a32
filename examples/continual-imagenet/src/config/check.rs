//! Validation of options. Errors name the option and its value.

use super::{Config, MAX_PIXELS};
use crate::error::AppError;
use burn_rehearsal::error::ConfigError;
use burn_rehearsal::{MAX_LAG, RehearsalConfig, RowCount};
use burn_rehearsal_train::methods::MethodRef;
use burn_rehearsal_vision::models::NetworkKind;

// Larger numbers are typing errors, which must not exhaust memory or threads.
const MAX_RANKS: usize = 1024;
const MAX_WORKERS: usize = 64;
/// Maximum number of rows of a mini-batch.
const MAX_ROWS: usize = 1 << 20;
const MAX_WIDTH: usize = 1024;
/// Minimum side for the convolutional network, which halves the image twice.
const MIN_CONV_PIXELS: usize = 4;

impl Config {
    /// Checks everything that can be checked without the data.
    pub(super) fn check(&self, method: MethodRef) -> Result<(), AppError> {
        // Reports and checkpoints store options as JSON, which is Unicode.
        for (option, path) in [("out", Some(&self.out)), ("weights", self.weights.as_ref())] {
            if let Some(path) = path.filter(|path| path.to_str().is_none()) {
                let reason = "the path is not valid Unicode";
                return Err(AppError::option(option, path.display(), reason));
            }
        }
        let bounds = [
            ("tasks", self.tasks, 1, usize::MAX),
            ("epochs", self.epochs, 1, usize::MAX),
            ("ranks", self.ranks, 1, MAX_RANKS),
            ("workers", self.workers, 0, MAX_WORKERS),
            ("image-size", self.image_size, 1, MAX_PIXELS),
            ("crop-size", self.crop_size, 1, self.image_size),
            ("model-width", self.model_width, 1, MAX_WIDTH),
            ("lag", self.lag, 0, MAX_LAG),
            ("batch-size", self.batch_size, 1, MAX_ROWS),
            // Methods that do not store rows in steps ignore it.
            ("candidates", self.candidates.of(self.batch_size), 1, usize::MAX),
            ("representatives", self.representatives.of(self.batch_size), 0, MAX_ROWS),
            ("checkpoint-keep", self.checkpoint_keep, 1, usize::MAX),
        ];
        for (option, value, least, most) in bounds {
            if value < least {
                return Err(AppError::option(option, value, format!("must be at least {least}")));
            }
            if value > most {
                return Err(AppError::option(option, value, format!("must be at most {most}")));
            }
        }
        if self.model == NetworkKind::Conv && self.crop_size < MIN_CONV_PIXELS {
            let reason = format!(
                "the convolutional network (`--model conv`) needs at least {MIN_CONV_PIXELS} pixels"
            );
            let option = if self.crop_size == self.image_size { "image-size" } else { "crop-size" };
            return Err(AppError::option(option, self.crop_size, reason));
        }
        self.crop_ranges()?;
        if method.stores_logits() && self.lag == 0 {
            let reason = format!(
                "must be at least 1: the method `{method}` stores logits, which are known only \
                 after the draws of their step"
            );
            return Err(AppError::option("lag", self.lag, reason));
        }
        if let Some((epoch, _)) =
            self.milestones.pairs().first().filter(|(epoch, _)| *epoch < self.warmup_epochs)
        {
            let reason = format!(
                "epoch {epoch} is within the warm-up (`--warmup-epochs {}`)",
                self.warmup_epochs
            );
            return Err(AppError::option("milestones", &self.milestones, reason));
        }
        if self.start_task >= self.tasks {
            let reason = format!(
                "there are {} tasks, counted from 0, so no mini-batch would have representatives",
                self.tasks
            );
            return Err(AppError::option("start-task", self.start_task, reason));
        }
        let not_negative = "must be a finite number that is not negative";
        let numbers = [
            (
                "learning-rate",
                self.learning_rate,
                self.learning_rate > 0.0,
                "must be finite and above 0",
            ),
            ("scale-cap", self.scale_cap, self.scale_cap >= 1.0, "must be finite and at least 1"),
            ("momentum", self.momentum, self.momentum >= 0.0, not_negative),
            ("momentum", self.momentum, self.momentum < 1.0, "must be below 1"),
            ("weight-decay", self.weight_decay, self.weight_decay >= 0.0, not_negative),
            ("warmup-epochs", self.warmup_epochs, self.warmup_epochs >= 0.0, not_negative),
        ];
        for (option, value, valid, reason) in numbers {
            if !(valid && value.is_finite()) {
                return Err(AppError::option(option, value, reason));
            }
        }
        Ok(())
    }

    /// The ranges of areas (fractions of the image) and aspect ratios of random resized crops, each
    /// as `[low, high]`.
    ///
    /// # Errors
    ///
    /// [`AppError::Option`] if one is not a range of positive numbers.
    pub fn crop_ranges(&self) -> Result<[[f64; 2]; 2], AppError> {
        let range = |option, range: &[f64], most| match *range {
            [low, high] if 0.0 < low && low <= high && high <= most => Ok([low, high]),
            _ => {
                let reason = "expected LOW and HIGH, both above 0; areas are at most 1";
                Err(AppError::option(option, format!("{range:?}"), reason))
            }
        };
        Ok([
            range("crop-area", &self.crop_area, 1.0)?,
            range("crop-ratio", &self.crop_ratio, f64::MAX)?,
        ])
    }

    /// The capacity of the buffer over all ranks, in samples of `row_bytes` bytes.
    ///
    /// # Errors
    ///
    /// [`AppError`] with the option that is not valid, and the reason.
    pub fn buffer_len(
        &self,
        rehearsal: &RehearsalConfig,
        row_bytes: usize,
    ) -> Result<usize, AppError> {
        rehearsal
            .validate(self.ranks)
            .and_then(|()| rehearsal.validate_batch_size(self.batch_size))
            .and_then(|()| rehearsal.capacity_in_samples(row_bytes, self.ranks))
            .map_err(|error| self.in_words_of_options(error))
    }

    /// An error of the buffer's configuration in terms of options.
    fn in_words_of_options(&self, error: ConfigError) -> AppError {
        let (option, value, reason) = match error {
            ConfigError::NoCapacity(_) => (
                "capacity",
                self.capacity.to_string(),
                "the buffer would not hold a single sample".to_owned(),
            ),
            ConfigError::CapacityBelowWorld { capacity, world_size } => (
                "capacity",
                self.capacity.to_string(),
                format!(
                    "the buffer would hold {capacity} samples, but each of the {world_size} ranks \
                     needs room for one"
                ),
            ),
            ConfigError::RepresentativesBeyondCapacity { representatives, capacity } => (
                "representatives",
                representatives.to_string(),
                format!(
                    "more than the {capacity} samples that the buffer holds (`--capacity {}`)",
                    self.capacity
                ),
            ),
            ConfigError::CandidatesBeyondBatch { candidates, batch_size } => (
                "candidates",
                candidates.to_string(),
                format!(
                    "more than the {batch_size} samples of a mini-batch (`--batch-size \
                     {batch_size}`)"
                ),
            ),
            ConfigError::Ratio { name, ratio, max } => (
                name,
                RowCount::Ratio(ratio).to_string(),
                format!("must be at most {}", RowCount::Ratio(max)),
            ),
            other => return AppError::Rehearsal(other),
        };
        AppError::option(option, value, reason)
    }
}
