//! Brightness, contrast, saturation, hue, and normalization.
//!
//! Color operations are defined as in torchvision, on float images with values 0..=1. Results are
//! clamped to 0..=1.

use super::error::AugmentError;
use super::geometry::between;
use burn::tensor::{Tensor, TensorData};
use burn_rehearsal::random::Stream;

/// Weights of red, green and blue in a grayscale image (ITU-R BT.601, rounded as in torchvision).
pub(super) const GRAY: [f32; 3] = [0.2989, 0.587, 0.114];

/// Strengths of color jitter, torchvision's `ColorJitter`. 0 disables an operation.
///
/// A strength x scales brightness, contrast and saturation by a factor that is uniform in
/// `[max(0, 1 − x), 1 + x]`, and shifts the hue by a part of the color circle that is uniform in
/// `[−x, x]`. Contrast blends an image with its mean gray. Saturation blends each pixel with its
/// gray. Saturation and hue do not apply to images with one channel.
///
/// ```
/// use burn_rehearsal_vision::augment::{Augment, ColorJitter};
///
/// let jitter = ColorJitter { brightness: 0.4, contrast: 0.4, saturation: 0.4, hue: 0.1 };
/// let augment = Augment::new(42).color_jitter(jitter);
/// assert_eq!(augment.output_shape([3, 32, 32])?, [3, 32, 32]);
/// # Ok::<(), burn_rehearsal_vision::augment::AugmentError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct ColorJitter {
    /// Strength of the change of brightness, at least 0.
    pub brightness: f64,
    /// Strength of the change of contrast, at least 0.
    pub contrast: f64,
    /// Strength of the change of saturation, at least 0.
    pub saturation: f64,
    /// Strength of the change of hue, 0..=0.5.
    pub hue: f64,
}

impl ColorJitter {
    pub(super) fn check(&self, channels: usize) -> Result<(), AugmentError> {
        for (what, value) in [
            ("brightness", self.brightness),
            ("contrast", self.contrast),
            ("saturation", self.saturation),
        ] {
            if !(value.is_finite() && value >= 0.0) {
                return Err(AugmentError::Jitter {
                    what,
                    bounds: "a number that is not negative",
                    value,
                });
            }
        }
        if !(0.0..=0.5).contains(&self.hue) {
            return Err(AugmentError::Jitter {
                what: "hue",
                bounds: "between 0 and 0.5",
                value: self.hue,
            });
        }
        if channels != 1 && channels != 3 {
            return Err(AugmentError::Channels {
                operation: "color_jitter",
                expected: "1 or 3".into(),
                found: channels,
            });
        }
        Ok(())
    }

    /// Draws the factors of one sample: brightness, contrast, saturation, and the shift of the hue.
    pub(super) fn draw(&self, random: &mut Stream) -> [f32; 4] {
        let mut factor =
            |strength: f64| between([(1.0 - strength).max(0.0), 1.0 + strength], random) as f32;
        let factors = [self.brightness, self.contrast, self.saturation].map(&mut factor);
        let hue = between([-self.hue, self.hue], random) as f32;
        [factors[0], factors[1], factors[2], hue]
    }

    /// Applies the jitter to `[rows, 1 or 3, height, width]`, with one random stream per row.
    /// `order` is a permutation of 0..4.
    pub(super) fn apply(
        &self,
        images: Tensor<4>,
        order: [usize; 4],
        random: &mut [Stream],
    ) -> Tensor<4> {
        let factors: Vec<[f32; 4]> = random.iter_mut().map(|random| self.draw(random)).collect();
        let (device, dtype, [rows, channels, ..]) =
            (images.device(), images.dtype(), images.dims());
        let strengths = [self.brightness, self.contrast, self.saturation, self.hue];
        order
            .into_iter()
            .filter(|&which| strengths[which] > 0.0 && (which < 2 || channels == 3))
            .fold(images, |images, which| {
                let values: Vec<f32> = factors.iter().map(|factors| factors[which]).collect();
                let factor =
                    Tensor::from_data(TensorData::new(values, [rows, 1, 1, 1]), (&device, dtype));
                match which {
                    0 => (images * factor).clamp(0.0, 1.0),
                    1 => {
                        let mean = mean_of_each(gray(&images));
                        blend(images, mean, factor)
                    }
                    2 => {
                        let gray = gray(&images);
                        blend(images, gray, factor)
                    }
                    _ => shift_hue(images, factor),
                }
            })
    }
}

/// Draws the order of brightness (0), contrast (1), saturation (2) and hue (3), uniformly.
pub(super) fn order(random: &mut Stream) -> [usize; 4] {
    let mut order = [0, 1, 2, 3];
    random.shuffle(&mut order);
    order
}

/// `factor · images + (1 − factor) · other`, clamped.
fn blend(images: Tensor<4>, other: Tensor<4>, factor: Tensor<4>) -> Tensor<4> {
    let rest = factor.clone().neg() + 1.0;
    (images * factor + other * rest).clamp(0.0, 1.0)
}

/// `[rows, 1 or 3, height, width]` → `[rows, 1, height, width]`
fn gray(images: &Tensor<4>) -> Tensor<4> {
    if images.dims()[1] == 1 {
        return images.clone();
    }
    let [red, green, blue] = channels(images);
    red * GRAY[0] + green * GRAY[1] + blue * GRAY[2]
}

/// `[rows, 1, height, width]` → `[rows, 1, 1, 1]`
fn mean_of_each(gray: Tensor<4>) -> Tensor<4> {
    let [rows, _, height, width] = gray.dims();
    gray.reshape([rows, height * width]).mean_dim(1).reshape([rows, 1, 1, 1])
}

fn channels(images: &Tensor<4>) -> [Tensor<4>; 3] {
    [0, 1, 2].map(|channel| images.clone().narrow(1, channel, 1))
}

/// Shifts the hue of `[rows, 3, height, width]` by `[rows, 1, 1, 1]` parts of the color circle.
///
/// Converts RGB to the hue hexagon and back (Smith, "Color Gamut Transform Pairs", SIGGRAPH 1978).
/// In the conversion back, a channel is the largest value minus the part of the chroma that depends
/// on its distance on the hexagon, `k`, without case distinctions.
fn shift_hue(images: Tensor<4>, turn: Tensor<4>) -> Tensor<4> {
    let [red, green, blue] = channels(&images);
    let largest = images.clone().max_dim(1);
    let chroma = largest.clone() - images.min_dim(1);
    // A gray pixel has no hue. With a chroma of 0 it stays gray for any hue.
    let divisor = chroma.clone().mask_fill(chroma.clone().equal_scalar(0.0), 1.0);
    let (is_red, is_green) =
        (largest.clone().equal(red.clone()), largest.clone().equal(green.clone()));
    let hue = ((red.clone() - green.clone()) / divisor.clone() + 4.0)
        .mask_where(is_green, (blue.clone() - red) / divisor.clone() + 2.0)
        .mask_where(is_red, (green - blue) / divisor);
    let hue = hue + turn * 6.0;
    // The hue is in −4..=8. The offsets are 5, 3 and 1 on the hexagon plus a full turn, so that the
    // dividend is positive.
    let channel = |offset: f32| {
        let k = (hue.clone() + offset).remainder_scalar(6.0);
        let away = k.clone().min_pair(k.neg() + 4.0).clamp(0.0, 1.0);
        largest.clone() - chroma.clone() * away
    };
    Tensor::cat(vec![channel(11.0), channel(9.0), channel(7.0)], 1)
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Normalize {
    pub(super) mean: Vec<f32>,
    pub(super) std: Vec<f32>,
}

impl Normalize {
    pub(super) fn check(&self, channels: usize) -> Result<(), AugmentError> {
        for len in [self.mean.len(), self.std.len()] {
            if len != channels {
                return Err(AugmentError::Channels {
                    operation: "normalize",
                    expected: len.to_string(),
                    found: channels,
                });
            }
        }
        if let Some(&value) = self.mean.iter().find(|mean| !mean.is_finite()) {
            return Err(AugmentError::Value { operation: "normalize", what: "mean", value });
        }
        match self.std.iter().find(|std| !(std.is_finite() && **std > 0.0)) {
            Some(&value) => Err(AugmentError::Value {
                operation: "normalize",
                what: "standard deviation",
                value,
            }),
            None => Ok(()),
        }
    }

    /// `(images − mean) / std`, per channel of `[rows, channels, height, width]`.
    pub(super) fn apply(&self, images: Tensor<4>) -> Tensor<4> {
        let (device, dtype) = (images.device(), images.dtype());
        let per_channel = |values: &[f32]| {
            let shape = [1, values.len(), 1, 1];
            Tensor::<4>::from_data(TensorData::new(values.to_vec(), shape), (&device, dtype))
        };
        (images - per_channel(&self.mean)) / per_channel(&self.std)
    }
}
