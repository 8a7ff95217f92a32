//! Data augmentation of whole mini-batches, on the device of the images.
//!
//! An [`Augment`] is a pipeline of operations that are defined as in torchvision. Every row has its
//! own random parameters, and all rows of a mini-batch are processed by the same few kernels.
//!
//! ```
//! use burn::tensor::{Device, Int, Tensor, TensorData};
//! use burn_rehearsal_vision::augment::Augment;
//!
//! let augment = Augment::new(42).random_crop(32, 4).horizontal_flip(0.5);
//! // Validates the pipeline once, before training.
//! assert_eq!(augment.output_shape([3, 32, 32])?, [3, 32, 32]);
//!
//! let images = TensorData::new(vec![200u8; 2 * 3 * 32 * 32], [2, 3, 32, 32]);
//! let images = Tensor::<4, Int>::from_data(images, &Device::default());
//! // Augments the mini-batch of step 17 on rank 0.
//! let images: Tensor<4> = augment.apply_bytes(images, 17, 0)?;
//! assert_eq!(images.dims(), [2, 3, 32, 32]);
//! # Ok::<(), burn_rehearsal_vision::augment::AugmentError>(())
//! ```
//!
//! # Rehearsal
//!
//! Augment mini-batches that already contain representatives, at the start of a training step or
//! with an [`AugmentLoader`](burn_rehearsal_train::augmentation::AugmentLoader). The buffer then
//! stores original images, and a replayed image looks different each time. Augmentation in a
//! batcher makes the buffer store augmented images. For evaluation, use a second pipeline of
//! [`resize`](Augment::resize), [`center_crop`](Augment::center_crop) and
//! [`normalize`](Augment::normalize), which are not random.
//!
//! # Reproducibility
//!
//! The augmentation of a row depends on the seed, the step, the rank, the index of the row, and its
//! content. It does not depend on other rows, or on Burn's generator, which is global to the
//! process. Parameters are drawn on the host from a [counter-based
//! generator](burn_rehearsal::random). The order of the operations of color jitter is drawn once
//! per step.
//!
//! # Performance
//!
//! Adjacent crops, flips and resizes are combined, so that the images are sampled once. Pixels must
//! be finite. Pixels outside an image are 0.

mod axis;
mod color;
mod erase;
mod error;
mod geometry;
mod sample;
#[cfg(test)]
mod tests;

pub use self::color::ColorJitter;
pub use self::error::AugmentError;

use self::axis::Axes;
use self::color::Normalize;
use self::erase::Erase;
use self::geometry::Geometry;
use burn::tensor::{Int, Tensor};
use burn_rehearsal::random::{Purpose, Stream};
use std::fmt;

/// The usual range of areas of a [random resized crop](Augment::random_resized_crop), as fractions
/// of the image.
pub const RESIZED_CROP_SCALE: [f64; 2] = [0.08, 1.0];
/// The usual range of ratios of width to height of a
/// [random resized crop](Augment::random_resized_crop).
pub const RESIZED_CROP_RATIO: [f64; 2] = [3.0 / 4.0, 4.0 / 3.0];
/// The usual range of areas of [random erasing](Augment::random_erasing), as fractions of the
/// image.
pub const ERASING_SCALE: [f64; 2] = [0.02, 0.33];
/// The usual range of ratios of height to width of [random erasing](Augment::random_erasing).
pub const ERASING_RATIO: [f64; 2] = [0.3, 3.3];

/// Mean and standard deviation of each channel, for [`Augment::normalize`]. Pixel values are 0..=1.
///
/// ```
/// use burn_rehearsal_vision::augment::{Augment, ChannelStatistics};
///
/// let ChannelStatistics { mean, std } = ChannelStatistics::IMAGENET;
/// let evaluation = Augment::new(0).resize(256).center_crop(224).normalize(&mean, &std);
/// assert_eq!(evaluation.output_shape([3, 500, 500])?, [3, 224, 224]);
/// # Ok::<(), burn_rehearsal_vision::augment::AugmentError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ChannelStatistics {
    /// Means of red, green and blue.
    pub mean: [f32; 3],
    /// Standard deviations of red, green and blue.
    pub std: [f32; 3],
}

impl ChannelStatistics {
    /// The statistics of the training images of ImageNet.
    pub const IMAGENET: Self = Self { mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] };
    /// The statistics of the training images of CIFAR-10.
    pub const CIFAR10: Self =
        Self { mean: [0.4914, 0.4822, 0.4465], std: [0.2470, 0.2435, 0.2615] };
}

/// The size of an image in pixels. A number converts to a square, and a pair is `[height, width]`.
///
/// ```
/// use burn_rehearsal_vision::augment::Size;
///
/// assert_eq!(Size::from(32), Size { height: 32, width: 32 });
/// assert_eq!(Size::from([24, 32]).to_string(), "24×32");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// The number of lines.
    pub height: usize,
    /// The number of columns.
    pub width: usize,
}

impl Size {
    /// The number of pixels.
    fn area(self) -> f64 {
        self.height as f64 * self.width as f64
    }
}

impl From<usize> for Size {
    fn from(side: usize) -> Self {
        Self { height: side, width: side }
    }
}

impl From<[usize; 2]> for Size {
    fn from([height, width]: [usize; 2]) -> Self {
        Self { height, width }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}×{}", self.height, self.width)
    }
}

/// A pipeline of operations on mini-batches of images, which are applied in the order in which they
/// were added.
///
/// Methods that add an operation do not validate it. [`output_shape`](Self::output_shape) and
/// [`apply`](Self::apply) validate all operations.
///
/// ```
/// use burn_rehearsal_vision::augment::*;
///
/// let ChannelStatistics { mean, std } = ChannelStatistics::CIFAR10;
/// let training = Augment::new(42)
///     .random_resized_crop(32, RESIZED_CROP_SCALE, RESIZED_CROP_RATIO)
///     .horizontal_flip(0.5)
///     .normalize(&mean, &std)
///     .random_erasing(0.25, ERASING_SCALE, ERASING_RATIO, 0.0);
/// assert_eq!(training.output_shape([3, 40, 40])?, [3, 32, 32]);
/// assert!(training.output_shape([1, 40, 40]).is_err(), "three means for one channel");
/// # Ok::<(), AugmentError>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Augment {
    seed: u64,
    operations: Vec<Operation>,
}

#[derive(Debug, Clone, PartialEq)]
enum Operation {
    Geometry(Geometry),
    Jitter(ColorJitter),
    Normalize(Normalize),
    Erase(Erase),
}

impl Augment {
    /// An empty pipeline. `seed` determines all random parameters.
    pub fn new(seed: u64) -> Self {
        Self { seed, operations: Vec::new() }
    }

    /// Crops a rectangle of `size` at a random position in the image with `padding` zeros on each
    /// side: torchvision's `RandomCrop(size, padding)`.
    pub fn random_crop(self, size: impl Into<Size>, padding: usize) -> Self {
        self.geometry(Geometry::RandomCrop { size: size.into(), padding })
    }

    /// Crops a random rectangle and scales it to `size`: torchvision's
    /// `RandomResizedCrop(size, scale, ratio, antialias=False)`.
    ///
    /// The area is a fraction of the image's, uniform in `scale`. The logarithm of the ratio of
    /// width to height is uniform in the logarithm of `ratio`. torchvision's defaults are
    /// [`RESIZED_CROP_SCALE`] and [`RESIZED_CROP_RATIO`]. After ten rectangles that do not fit, the
    /// crop is the largest centered rectangle with an allowed ratio. Interpolation is bilinear with
    /// `align_corners=False`.
    pub fn random_resized_crop(
        self,
        size: impl Into<Size>,
        scale: [f64; 2],
        ratio: [f64; 2],
    ) -> Self {
        self.geometry(Geometry::ResizedCrop { size: size.into(), scale, ratio })
    }

    /// Mirrors an image horizontally with `probability`.
    pub fn horizontal_flip(self, probability: f64) -> Self {
        self.geometry(Geometry::Flip { probability })
    }

    /// Crops a centered rectangle of `size`. Smaller images are padded with zeros.
    pub fn center_crop(self, size: impl Into<Size>) -> Self {
        self.geometry(Geometry::CenterCrop { size: size.into() })
    }

    /// Scales to `size`. Interpolation is bilinear with `align_corners=False`, without
    /// antialiasing.
    pub fn resize(self, size: impl Into<Size>) -> Self {
        self.geometry(Geometry::Resize { size: size.into() })
    }

    /// Changes brightness, contrast, saturation and hue of images with values 0..=1, in a random
    /// order per step.
    pub fn color_jitter(self, jitter: ColorJitter) -> Self {
        self.with(Operation::Jitter(jitter))
    }

    /// Computes `(images − mean) / std`, with one mean and one standard deviation per channel.
    pub fn normalize(self, mean: &[f32], std: &[f32]) -> Self {
        self.with(Operation::Normalize(Normalize { mean: mean.to_vec(), std: std.to_vec() }))
    }

    /// Sets all channels of a random rectangle to `value`, with `probability`: torchvision's
    /// `RandomErasing` (Zhong et al., arXiv 1708.04896).
    ///
    /// The area is a fraction of the image's, uniform in `scale`. The logarithm of the ratio of
    /// height to width is uniform in the logarithm of `ratio`. torchvision's defaults are
    /// [`ERASING_SCALE`] and [`ERASING_RATIO`].
    pub fn random_erasing(
        self,
        probability: f64,
        scale: [f64; 2],
        ratio: [f64; 2],
        value: f32,
    ) -> Self {
        self.with(Operation::Erase(Erase { probability, scale, ratio, value }))
    }

    fn geometry(self, geometry: Geometry) -> Self {
        self.with(Operation::Geometry(geometry))
    }

    fn with(mut self, operation: Operation) -> Self {
        self.operations.push(operation);
        self
    }

    /// The shape of the result for images of `[channels, height, width]`.
    ///
    /// # Errors
    ///
    /// [`AugmentError`] for the first operation that is invalid, or that does not support such
    /// images.
    pub fn output_shape(
        &self,
        [channels, height, width]: [usize; 3],
    ) -> Result<[usize; 3], AugmentError> {
        if channels == 0 || height == 0 || width == 0 {
            return Err(AugmentError::Empty { operation: "augmentation", height, width });
        }
        let mut size = Size { height, width };
        for operation in &self.operations {
            match operation {
                Operation::Geometry(geometry) => size = geometry.check(size)?,
                Operation::Jitter(jitter) => jitter.check(channels)?,
                Operation::Normalize(normalize) => normalize.check(channels)?,
                Operation::Erase(erase) => erase.check()?,
            }
        }
        Ok([channels, size.height, size.width])
    }

    /// Scales pixels from 0..=255 to 0..=1, then calls [`apply`](Self::apply).
    ///
    /// # Errors
    ///
    /// As [`apply`](Self::apply).
    pub fn apply_bytes(
        &self,
        images: Tensor<4, Int>,
        step: u64,
        rank: usize,
    ) -> Result<Tensor<4>, AugmentError> {
        self.apply(images.float() / 255.0, step, rank)
    }

    /// Augments the mini-batch of `rank` in `step`.
    ///
    /// `[rows, channels, height, width]` becomes `[rows, …]` with the shape of
    /// [`output_shape`](Self::output_shape), on the same device and of the same type. Equal
    /// arguments give equal results.
    ///
    /// ```
    /// # use burn::tensor::{Device, Tensor};
    /// # use burn_rehearsal_vision::augment::Augment;
    /// let images = Tensor::<4>::ones([2, 3, 8, 8], &Device::default());
    /// let cropped = Augment::new(0).center_crop(4).normalize(&[0.5; 3], &[0.5; 3]);
    /// let images = cropped.apply(images, 0, 0)?;
    /// assert_eq!(images.to_data(), Tensor::<4>::ones([2, 3, 4, 4], &images.device()).to_data());
    /// # Ok::<(), burn_rehearsal_vision::augment::AugmentError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`AugmentError`] if an operation is invalid, or does not support such images.
    pub fn apply(
        &self,
        images: Tensor<4>,
        step: u64,
        rank: usize,
    ) -> Result<Tensor<4>, AugmentError> {
        let [rows, channels, height, width] = images.dims();
        let [_, new_height, new_width] = self.output_shape([channels, height, width])?;
        if rows == 0 {
            return Ok(Tensor::zeros(
                [0, channels, new_height, new_width],
                (&images.device(), images.dtype()),
            ));
        }
        let mut random: Vec<Stream> = (0..rows)
            .map(|row| Stream::for_row(self.seed, Purpose::Augment, step, rank as u32, row as u64))
            .collect();
        let mut of_step = Stream::new(self.seed, Purpose::Augment, step, rank as u32);
        let mut canvas = Canvas { images, size: Size { height, width }, pending: None };
        for operation in &self.operations {
            canvas = match operation {
                Operation::Geometry(geometry) => canvas.reshape(geometry, &mut random)?,
                Operation::Jitter(jitter) => {
                    let order = color::order(&mut of_step);
                    canvas.paint(|images| jitter.apply(images, order, &mut random))
                }
                Operation::Normalize(normalize) => canvas.paint(|images| normalize.apply(images)),
                Operation::Erase(erase) => canvas.paint(|images| erase.apply(images, &mut random)),
            };
        }
        Ok(canvas.finish())
    }
}

/// Images, and geometric operations that are not applied yet.
struct Canvas {
    images: Tensor<4>,
    /// The size after the pending operations.
    size: Size,
    pending: Option<Axes>,
}

impl Canvas {
    fn reshape(self, geometry: &Geometry, random: &mut [Stream]) -> Result<Self, AugmentError> {
        let next = geometry.draw(self.size, random);
        let size = geometry.check(self.size)?;
        Ok(match self.pending.as_ref().and_then(|pending| pending.then(&next)) {
            Some(fused) => Self { size, pending: Some(fused), ..self },
            None => Self { images: self.finish(), size, pending: Some(next) },
        })
    }

    fn paint(self, operation: impl FnOnce(Tensor<4>) -> Tensor<4>) -> Self {
        let size = self.size;
        Self { images: operation(self.finish()), size, pending: None }
    }

    fn finish(self) -> Tensor<4> {
        match self.pending {
            Some(axes) => sample::sample(self.images, &axes),
            None => self.images,
        }
    }
}

fn check_probability(operation: &'static str, value: f64) -> Result<(), AugmentError> {
    if (0.0..=1.0).contains(&value) {
        Ok(())
    } else {
        Err(AugmentError::Probability { operation, value })
    }
}

/// Validates a range: a scale must be in 0..=1, a ratio positive.
fn check_range(
    operation: &'static str,
    what: &'static str,
    [low, high]: [f64; 2],
) -> Result<(), AugmentError> {
    let (possible, bounds) = match what {
        "scale" => (low >= 0.0 && high > 0.0 && high <= 1.0, "between 0 and 1"),
        _ => (low > 0.0 && high.is_finite(), "above 0"),
    };
    if possible && low <= high {
        Ok(())
    } else {
        Err(AugmentError::Range { operation, what, bounds, low, high })
    }
}
