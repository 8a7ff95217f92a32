//! Data augmentation on the device that the images live on, one mini-batch at a time.
//!
//! An [`Augment`] is a pipeline of the operations that users of torchvision know. It treats every
//! row by itself, with random parameters of its own, but all rows of a mini-batch in the same few
//! kernels:
//!
//! ```
//! use burn::tensor::{Device, Int, Tensor, TensorData};
//! use burn_rehearsal_vision::augment::Augment;
//!
//! let augment = Augment::new(42).random_crop(32, 4).horizontal_flip(0.5).normalize(&[0.49, 0.48, 0.45], &[0.25, 0.24, 0.26]);
//! // Once, before training: does the pipeline make sense for these images, and what comes out?
//! assert_eq!(augment.output_shape([3, 32, 32])?, [3, 32, 32]);
//!
//! let images = TensorData::new(vec![200u8; 2 * 3 * 32 * 32], [2, 3, 32, 32]);
//! let images = Tensor::<4, Int>::from_data(images, &Device::default());
//! // In every step, with its number and this rank's:
//! let images: Tensor<4> = augment.apply_bytes(images, 17, 0)?;
//! assert_eq!(images.dims(), [2, 3, 32, 32]);
//! # Ok::<(), burn_rehearsal_vision::augment::AugmentError>(())
//! ```
//!
//! **Where to call it.** On mini-batches that already hold the representatives, so that a stored
//! sample looks different each time it is replayed and the buffer keeps the original: around the
//! training loader ([`AugmentLoader`](burn_rehearsal_train::augmentation::AugmentLoader); what
//! [`experiment`](burn_rehearsal_train::experiment) does), or at the start of a `TrainStep`. In a
//! batcher it works as well, but then the buffer stores augmented samples. For evaluation, make a
//! second pipeline of [`resize`](Augment::resize), [`center_crop`](Augment::center_crop) and
//! [`normalize`](Augment::normalize), which draw nothing.
//!
//! **Randomness.** The augmentation of a row depends on (seed, step, rank, row) and the content of
//! the row. It does not depend on the size of the mini-batch, other rows, or Burn's generator,
//! which is global to the process. Parameters are drawn on the host, from the project's
//! [counter-based generator](burn_rehearsal::random), and uploaded as small tables. Only the order
//! of the parts of the colour jitter is drawn once per step.
//!
//! **Adjacent crops, flips and resizes** are combined on the host and sample the images once.
//! Pixels outside an image are 0; pixels must be finite.

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

/// The share of an image's area that a [random resized crop](Augment::random_resized_crop) usually
/// shows.
pub const RESIZED_CROP_SCALE: [f64; 2] = [0.08, 1.0];
/// The ratio of width to height that a [random resized crop](Augment::random_resized_crop) usually
/// has.
pub const RESIZED_CROP_RATIO: [f64; 2] = [3.0 / 4.0, 4.0 / 3.0];
/// The share of an image's area that is usually [erased](Augment::random_erasing).
pub const ERASING_SCALE: [f64; 2] = [0.02, 0.33];
/// The ratio of height to width of what is usually [erased](Augment::random_erasing).
pub const ERASING_RATIO: [f64; 2] = [0.3, 3.3];

/// Mean and standard deviation of each channel, for [`Augment::normalize`]; values are 0..=1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ChannelStatistics {
    /// Means of red, green and blue.
    pub mean: [f32; 3],
    /// Standard deviations of red, green and blue.
    pub std: [f32; 3],
}

impl ChannelStatistics {
    /// Those of ImageNet's training images.
    pub const IMAGENET: Self = Self { mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] };
    /// Those of CIFAR-10's training images.
    pub const CIFAR10: Self =
        Self { mean: [0.4914, 0.4822, 0.4465], std: [0.2470, 0.2435, 0.2615] };
}

/// The size of an image in pixels; a single number is the side of a square, a pair is
/// `[height, width]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Lines.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

impl Size {
    /// Pixels.
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

/// A pipeline of operations on mini-batches of images, in the order in which they were added.
///
/// Adding an operation checks nothing; [`output_shape`](Self::output_shape) checks all of them, and
/// so does every application.
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
    /// A pipeline without operations, whose random parameters will depend on `seed`.
    pub fn new(seed: u64) -> Self {
        Self { seed, operations: Vec::new() }
    }

    /// Cuts a rectangle of `size` out of the image with `padding` zeros on each side, each place
    /// equally likely: `RandomCrop(size, padding)`.
    pub fn random_crop(self, size: impl Into<Size>, padding: usize) -> Self {
        self.geometry(Geometry::RandomCrop { size: size.into(), padding })
    }

    /// Cuts out a rectangle with a share `scale` of the area (uniform) and a `ratio` of width to
    /// height (uniform in its logarithm), and scales it to `size`:
    /// `RandomResizedCrop(size, scale, ratio, antialias=False)`. torchvision's defaults are
    /// [`RESIZED_CROP_SCALE`] and [`RESIZED_CROP_RATIO`].
    ///
    /// Bilinear with `align_corners=False`. After ten rectangles that do not fit in the image, it
    /// is the largest one in the middle with an allowed ratio.
    pub fn random_resized_crop(
        self,
        size: impl Into<Size>,
        scale: [f64; 2],
        ratio: [f64; 2],
    ) -> Self {
        self.geometry(Geometry::ResizedCrop { size: size.into(), scale, ratio })
    }

    /// Mirrors an image, left to right, with `probability`.
    pub fn horizontal_flip(self, probability: f64) -> Self {
        self.geometry(Geometry::Flip { probability })
    }

    /// Cuts `size` out of the middle; where the image is smaller, there are zeros around it.
    pub fn center_crop(self, size: impl Into<Size>) -> Self {
        self.geometry(Geometry::CenterCrop { size: size.into() })
    }

    /// Scales to exactly `size`, bilinear with `align_corners=False` and without antialiasing.
    pub fn resize(self, size: impl Into<Size>) -> Self {
        self.geometry(Geometry::Resize { size: size.into() })
    }

    /// Changes brightness, contrast, saturation and hue of images with values 0..=1, in an order
    /// that is drawn for each step.
    pub fn color_jitter(self, jitter: ColorJitter) -> Self {
        self.with(Operation::Jitter(jitter))
    }

    /// `(images − mean) / std`, one value per channel each.
    pub fn normalize(self, mean: &[f32], std: &[f32]) -> Self {
        self.with(Operation::Normalize(Normalize { mean: mean.to_vec(), std: std.to_vec() }))
    }

    /// With `probability`, sets all channels of a random rectangle to `value`; its area is a share
    /// `scale` of the image's (uniform), its ratio of height to width is in `ratio` (uniform in its
    /// logarithm). torchvision's defaults are [`ERASING_SCALE`] and [`ERASING_RATIO`].
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

    /// What images of `[channels, height, width]` become.
    ///
    /// # Errors
    ///
    /// [`AugmentError`] for the first operation that makes no sense, or not for these images.
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

    /// As [`apply`](Self::apply), for pixels 0..=255, which become 0..=1 first.
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

    /// Augments the images that `rank` trains on in `step`: `[rows, channels, height, width]` →
    /// `[rows, …]` as [`output_shape`](Self::output_shape) says, on the same device and of the same
    /// type.
    ///
    /// # Errors
    ///
    /// [`AugmentError`] if an operation makes no sense, or not for these images.
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

/// Images, and the geometric operations that were not applied yet.
struct Canvas {
    images: Tensor<4>,
    /// With the pending operations applied.
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

/// A scale must be in 0..=1, a ratio positive.
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
