//! Errors of a pipeline or of the images given to it.

use super::Size;
use burn::data::dataset::DatasetError;

/// A parameter that makes no sense, or images that do not fit the pipeline.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum AugmentError {
    /// An image, or what an operation would make of it, without a pixel.
    #[error("{operation}: an image of {height}×{width} pixels has nothing in it")]
    Empty {
        /// The operation.
        operation: &'static str,
        /// Pixels.
        height: usize,
        /// Pixels.
        width: usize,
    },
    /// A random crop that is larger than the image with its padding.
    #[error(
        "random_crop: {size} pixels do not fit in an image of {image} pixels with {padding} pixels of padding on each side"
    )]
    CropBeyondImage {
        /// What was to be cut out.
        size: Size,
        /// The image, without padding.
        image: Size,
        /// Pixels on each side.
        padding: usize,
    },
    /// A probability outside 0..=1.
    #[error("{operation}: the probability must be between 0 and 1, not {value}")]
    Probability {
        /// Whose.
        operation: &'static str,
        /// What was given.
        value: f64,
    },
    /// A range whose ends are not in order, not finite, or outside what is possible.
    #[error(
        "{operation}: the range of the {what} must be from low to high, {bounds}, not {low} to {high}"
    )]
    Range {
        /// Whose.
        operation: &'static str,
        /// `scale` or `ratio`.
        what: &'static str,
        /// In words.
        bounds: &'static str,
        /// Its lower end.
        low: f64,
        /// Its upper end.
        high: f64,
    },
    /// A strength of the colour jitter that is negative, not finite, or (hue) above 0.5.
    #[error("color_jitter: {what} must be {bounds}, not {value}")]
    Jitter {
        /// `brightness`, `contrast`, `saturation` or `hue`.
        what: &'static str,
        /// In words.
        bounds: &'static str,
        /// What was given.
        value: f64,
    },
    /// An operation on another number of channels.
    #[error("{operation}: made for {expected} channels, but the images have {found}")]
    Channels {
        /// The operation.
        operation: &'static str,
        /// In words.
        expected: String,
        /// The images' channels.
        found: usize,
    },
    /// A mean or value that is not finite, or a standard deviation that is not positive and finite.
    #[error("{operation}: {value} is no {what}")]
    Value {
        /// Whose.
        operation: &'static str,
        /// What it should have been.
        what: &'static str,
        /// What was given.
        value: f32,
    },
}

impl From<AugmentError> for DatasetError {
    fn from(error: AugmentError) -> Self {
        Self::new(error)
    }
}
