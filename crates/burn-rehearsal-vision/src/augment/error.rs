//! Errors of augmentation.

use super::Size;
use burn::data::dataset::DatasetError;

/// An invalid parameter, or images that do not fit the pipeline.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum AugmentError {
    /// An input or output image would be empty.
    #[error("{operation}: an image of {height}×{width} pixels is empty")]
    Empty {
        /// The operation.
        operation: &'static str,
        /// The height in pixels.
        height: usize,
        /// The width in pixels.
        width: usize,
    },
    /// A random crop is larger than the padded image.
    #[error(
        "random_crop: {size} pixels do not fit in an image of {image} pixels with {padding} pixels \
         of padding on each side"
    )]
    CropBeyondImage {
        /// The size of the crop.
        size: Size,
        /// The size of the image without padding.
        image: Size,
        /// The padding on each side in pixels.
        padding: usize,
    },
    /// A probability is outside 0..=1.
    #[error("{operation}: the probability must be between 0 and 1, not {value}")]
    Probability {
        /// The operation.
        operation: &'static str,
        /// The value.
        value: f64,
    },
    /// The ends of a range are not in order, not finite, or out of bounds.
    #[error(
        "{operation}: the range of the {what} must be from low to high, {bounds}, not {low} to \
         {high}"
    )]
    Range {
        /// The operation.
        operation: &'static str,
        /// `scale` or `ratio`.
        what: &'static str,
        /// The bounds as text.
        bounds: &'static str,
        /// The lower end.
        low: f64,
        /// The upper end.
        high: f64,
    },
    /// A strength of color jitter is negative, not finite, or (hue) above 0.5.
    #[error("color_jitter: {what} must be {bounds}, not {value}")]
    Jitter {
        /// `brightness`, `contrast`, `saturation` or `hue`.
        what: &'static str,
        /// The bounds as text.
        bounds: &'static str,
        /// The value.
        value: f64,
    },
    /// An operation does not support the number of channels.
    #[error("{operation}: expected {expected} channels, but the images have {found}")]
    Channels {
        /// The operation.
        operation: &'static str,
        /// The supported numbers of channels as text.
        expected: String,
        /// The number of channels of the images.
        found: usize,
    },
    /// A mean or pixel value is not finite, or a standard deviation is not positive and finite.
    #[error("{operation}: {value} is not a valid {what}")]
    Value {
        /// The operation.
        operation: &'static str,
        /// The parameter.
        what: &'static str,
        /// The value.
        value: f32,
    },
}

impl From<AugmentError> for DatasetError {
    fn from(error: AugmentError) -> Self {
        Self::new(error)
    }
}
