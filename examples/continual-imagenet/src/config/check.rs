//! Values that make no sense, in words of the options.

use super::{Config, MAX_PIXELS};
use crate::error::AppError;
use burn_rehearsal::error::ConfigError;
use burn_rehearsal::{MAX_LAG, MAX_RATIO, RehearsalConfig, RowCount};
use burn_rehearsal_vision::models::NetworkKind;

// Larger numbers are typing errors, which should not exhaust memory or threads.
const MAX_RANKS: usize = 1024;
const MAX_WORKERS: usize = 64;
/// Of a mini-batch.
const MAX_ROWS: usize = 1 << 20;
const MAX_WIDTH: usize = 1024;
/// The convolutional network halves the image twice.
const MIN_CONV_PIXELS: usize = 4;

impl Config {
    /// Checks the values that can be checked without the data.
    pub(super) fn check(&self) -> Result<(), AppError> {
        // Reports and checkpoints hold the options as JSON, which has Unicode text only.
        for (option, path) in [("out", Some(&self.out)), ("weights", self.weights.as_ref())] {
            if let Some(path) = path.filter(|path| path.to_str().is_none()) {
                return Err(AppError::option(
                    option,
                    path.display(),
                    "the path is not valid Unicode",
                ));
            }
        }
        let at_least_one = [
            ("tasks", self.tasks),
            ("epochs", self.epochs),
            ("batch-size", self.batch_size),
            ("ranks", self.ranks),
            ("image-size", self.image_size),
            ("crop-size", self.crop_size),
            ("model-width", self.model_width),
            ("checkpoint-keep", self.checkpoint_keep),
        ];
        for (option, value) in at_least_one {
            if value == 0 {
                return Err(AppError::option(option, value, "must be at least 1"));
            }
        }
        let at_most = [
            ("ranks", self.ranks, MAX_RANKS),
            ("workers", self.workers, MAX_WORKERS),
            ("image-size", self.image_size, MAX_PIXELS),
            ("crop-size", self.crop_size, self.image_size),
            ("model-width", self.model_width, MAX_WIDTH),
            ("lag", self.lag, MAX_LAG),
            ("batch-size", self.batch_size, MAX_ROWS),
            ("representatives", self.representatives.of(self.batch_size), MAX_ROWS),
        ];
        for (option, value, most) in at_most {
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
        if let Some((epoch, _)) =
            self.milestones.pairs().first().filter(|(epoch, _)| *epoch < self.warmup_epochs)
        {
            let reason = format!(
                "epoch {epoch} lies within the warm-up (`--warmup-epochs {}`)",
                self.warmup_epochs
            );
            return Err(AppError::option("milestones", &self.milestones, reason));
        }
        if self.start_task >= self.tasks {
            let reason = format!(
                "there are {} tasks, counted from 0: no mini-batch would ever have representatives",
                self.tasks
            );
            return Err(AppError::option("start-task", self.start_task, reason));
        }
        if !(self.learning_rate.is_finite() && self.learning_rate > 0.0) {
            return Err(AppError::option(
                "learning-rate",
                self.learning_rate,
                "must be a number above 0",
            ));
        }
        if !(self.scale_cap.is_finite() && self.scale_cap >= 1.0) {
            return Err(AppError::option(
                "scale-cap",
                self.scale_cap,
                "must be at least 1, which means no scaling",
            ));
        }
        let finite = [
            ("momentum", self.momentum),
            ("weight-decay", self.weight_decay),
            ("warmup-epochs", self.warmup_epochs),
        ];
        for (option, value) in finite {
            if !(value.is_finite() && value >= 0.0) {
                return Err(AppError::option(
                    option,
                    value,
                    "must be a number that is not negative",
                ));
            }
        }
        if self.momentum >= 1.0 {
            return Err(AppError::option("momentum", self.momentum, "must be below 1"));
        }
        Ok(())
    }

    /// Areas, as fractions of the image, and aspect ratios of random resized crops: the lowest and
    /// the highest.
    ///
    /// # Errors
    ///
    /// [`AppError::Option`] if they are no such ranges.
    pub fn crop_ranges(&self) -> Result<[[f64; 2]; 2], AppError> {
        let range = |option, range: &[f64], most| match *range {
            [low, high] if 0.0 < low && low <= high && high <= most => Ok([low, high]),
            _ => {
                let reason = "expected two numbers above 0, the lower and the higher one; an area is at most 1";
                Err(AppError::option(option, format!("{range:?}"), reason))
            }
        };
        Ok([
            range("crop-area", &self.crop_area, 1.0)?,
            range("crop-ratio", &self.crop_ratio, f64::MAX)?,
        ])
    }

    /// How many samples of `row_bytes` bytes the buffer will hold, over all ranks.
    ///
    /// # Errors
    ///
    /// [`AppError`] naming the option that makes no sense.
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

    /// The buffer's complaint as one about options.
    fn in_words_of_options(&self, error: ConfigError) -> AppError {
        match error {
            ConfigError::NoCapacity(_) => AppError::option(
                "capacity",
                &self.capacity,
                "the buffer would not hold a single sample",
            ),
            ConfigError::CapacityBelowWorld { capacity, world_size } => {
                let reason = format!(
                    "the size of the buffer would be {capacity}, but each of the {world_size} ranks needs room for a sample"
                );
                AppError::option("capacity", &self.capacity, reason)
            }
            ConfigError::RepresentativesBeyondCapacity { representatives, capacity } => {
                let reason = format!(
                    "more than the {capacity} samples that the buffer holds (`--capacity {}`)",
                    self.capacity
                );
                AppError::option("representatives", representatives, reason)
            }
            ConfigError::CandidatesBeyondBatch { candidates, batch_size } => {
                let reason = format!(
                    "more than the {batch_size} samples of a mini-batch (`--batch-size {batch_size}`)"
                );
                AppError::option("candidates", candidates, reason)
            }
            ConfigError::Ratio { name, ratio, .. } => AppError::option(
                name,
                RowCount::Ratio(ratio),
                format!("must be at most {}", RowCount::Ratio(MAX_RATIO)),
            ),
            ConfigError::NoCandidates => AppError::option(
                "candidates",
                0,
                "must be at least 1, or the buffer would stay empty",
            ),
            other => AppError::Rehearsal(other),
        }
    }
}
