//! Crops, flips and resizing.

use super::axis::{Axes, Axis};
use super::error::AugmentError;
use super::{Size, check_probability, check_range};
use burn_rehearsal::random::Stream;

/// Maximum number of attempts to draw a random rectangle, as in torchvision.
pub(super) const TRIES: usize = 10;

/// An operation on the geometry of images.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Geometry {
    RandomCrop { size: Size, padding: usize },
    ResizedCrop { size: Size, scale: [f64; 2], ratio: [f64; 2] },
    Flip { probability: f64 },
    CenterCrop { size: Size },
    Resize { size: Size },
}

/// A rectangle in pixels. Parts of it may be outside the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) top: i64,
    pub(super) left: i64,
    pub(super) size: Size,
}

impl Geometry {
    /// Validates the parameters. Returns the size of the result for images of `from` pixels (not
    /// empty).
    pub(super) fn check(&self, from: Size) -> Result<Size, AugmentError> {
        let not_empty = |operation, size: Size| match size {
            Size { height: 0, .. } | Size { width: 0, .. } => {
                Err(AugmentError::Empty { operation, height: size.height, width: size.width })
            }
            size => Ok(size),
        };
        match *self {
            Self::RandomCrop { size, padding } => {
                let [height, width] = padded(from, padding);
                if size.height > height || size.width > width {
                    return Err(AugmentError::CropBeyondImage { size, image: from, padding });
                }
                not_empty("random_crop", size)
            }
            Self::ResizedCrop { size, scale, ratio } => {
                check_range("random_resized_crop", "scale", scale)?;
                check_range("random_resized_crop", "ratio", ratio)?;
                not_empty("random_resized_crop", size)
            }
            Self::Flip { probability } => {
                check_probability("horizontal_flip", probability).map(|()| from)
            }
            Self::CenterCrop { size } => not_empty("center_crop", size),
            Self::Resize { size } => not_empty("resize", size),
        }
    }

    /// Draws the tables of a mini-batch of images of `from` pixels, with one random stream per
    /// sample. [`check`](Self::check) must have succeeded.
    pub(super) fn draw(&self, from: Size, random: &mut [Stream]) -> Axes {
        let (vertical, horizontal) =
            random.iter_mut().map(|random| self.axes(from, random)).unzip();
        Axes { vertical, horizontal }
    }

    fn axes(&self, from: Size, random: &mut Stream) -> (Axis, Axis) {
        let cut = |Window { top, left, size }: Window| {
            (
                Axis::window(from.height, top, size.height),
                Axis::window(from.width, left, size.width),
            )
        };
        let scale = |window: Window, size: Size| {
            let axis = |start: i64, len, size| Axis::linear(start as usize, len, size);
            (
                axis(window.top, window.size.height, size.height),
                axis(window.left, window.size.width, size.width),
            )
        };
        match *self {
            Self::RandomCrop { size, padding } => cut(random_crop(from, size, padding, random)),
            Self::ResizedCrop { size, scale: area, ratio } => {
                scale(resized_crop(from, area, ratio, random), size)
            }
            Self::Flip { probability } => {
                let flip = random.unit_f64() < probability;
                (
                    Axis::identity(from.height),
                    if flip { Axis::reversed(from.width) } else { Axis::identity(from.width) },
                )
            }
            Self::CenterCrop { size } => cut(center_crop(from, size)),
            Self::Resize { size } => scale(Window { top: 0, left: 0, size: from }, size),
        }
    }
}

fn padded(image: Size, padding: usize) -> [usize; 2] {
    [image.height, image.width].map(|side| side.saturating_add(padding.saturating_mul(2)))
}

/// Draws a rectangle of `size` at a uniform position in the padded image.
pub(super) fn random_crop(image: Size, size: Size, padding: usize, random: &mut Stream) -> Window {
    let [height, width] = padded(image, padding);
    let mut start =
        |room: usize, size: usize| random.below((room - size) as u64 + 1) as i64 - padding as i64;
    Window { top: start(height, size.height), left: start(width, size.width), size }
}

/// Draws a rectangle at a uniform position in the image. Its area is a fraction of the image's that
/// is uniform in `scale`, and the logarithm of its ratio of width to height is uniform in `ratio`.
///
/// As torchvision's `RandomResizedCrop.get_params`, returns the largest centered rectangle with an
/// allowed ratio after ten rectangles that do not fit. It has at least one pixel.
pub(super) fn resized_crop(
    image: Size,
    scale: [f64; 2],
    ratio: [f64; 2],
    random: &mut Stream,
) -> Window {
    for _ in 0..TRIES {
        let (area, ratio) =
            (between(scale, random) * image.area(), between(ratio.map(f64::ln), random).exp());
        let size = Size {
            height: (area / ratio).sqrt().round_ties_even() as usize,
            width: (area * ratio).sqrt().round_ties_even() as usize,
        };
        if (1..=image.height).contains(&size.height) && (1..=image.width).contains(&size.width) {
            return somewhere(image, size, random);
        }
    }
    let (height, width) = (image.height as f64, image.width as f64);
    let size = if width / height < ratio[0] {
        Size { height: ((width / ratio[0]).round_ties_even() as usize).max(1), width: image.width }
    } else if width / height > ratio[1] {
        Size {
            height: image.height,
            width: ((height * ratio[1]).round_ties_even() as usize).max(1),
        }
    } else {
        image
    };
    Window {
        top: ((image.height - size.height) / 2) as i64,
        left: ((image.width - size.width) / 2) as i64,
        size,
    }
}

/// The center of an image, with zeros outside the image. Half pixels are rounded as in torchvision.
pub(super) fn center_crop(image: Size, size: Size) -> Window {
    let start = |len: usize, size: usize| match len.checked_sub(size) {
        Some(room) => (room as f64 / 2.0).round_ties_even() as i64,
        None => -(((size - len) / 2) as i64),
    };
    Window { top: start(image.height, size.height), left: start(image.width, size.width), size }
}

/// Draws a rectangle of `size`, which must fit, at a uniform position in the image.
pub(super) fn somewhere(image: Size, size: Size, random: &mut Stream) -> Window {
    random_crop(image, size, 0, random)
}

/// Draws a uniform number in a range.
pub(super) fn between([low, high]: [f64; 2], random: &mut Stream) -> f64 {
    low + (high - low) * random.unit_f64()
}
