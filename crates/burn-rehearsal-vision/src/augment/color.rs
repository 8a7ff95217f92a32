//! Brightness, contrast, saturation, hue, and normalisation.
//!
//! The definitions are those of torchvision's functional operations on float images with values
//! 0..=1; results are clamped to 0..=1.

use super::error::AugmentError;
use super::geometry::between;
use burn::tensor::{Tensor, TensorData};
use burn_rehearsal::random::Stream;

/// Shares of red, green and blue in a grey image (ITU-R BT.601, in torchvision's digits).
pub(super) const GREY: [f32; 3] = [0.2989, 0.587, 0.114];

/// How much colours may change; 0 leaves a property alone.
///
/// Brightness, contrast and saturation are multiplied by a factor that is uniform in
/// `[max(0, 1 − x), 1 + x]`; the hue is turned by a part of the colour circle that is uniform in
/// `[−x, x]`, x at most 0.5. Contrast moves an image away from its mean grey, saturation each pixel
/// away from its own grey. Images with one channel have neither saturation nor hue.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct ColorJitter {
    /// At least 0.
    pub brightness: f64,
    /// At least 0.
    pub contrast: f64,
    /// At least 0.
    pub saturation: f64,
    /// 0..=0.5.
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

    /// The factors of one sample: brightness, contrast, saturation, and the turn of the hue.
    pub(super) fn draw(&self, random: &mut Stream) -> [f32; 4] {
        let mut factor =
            |strength: f64| between([(1.0 - strength).max(0.0), 1.0 + strength], random) as f32;
        let factors = [self.brightness, self.contrast, self.saturation].map(&mut factor);
        let hue = between([-self.hue, self.hue], random) as f32;
        [factors[0], factors[1], factors[2], hue]
    }

    /// Changes colours: `[rows, 1 or 3, height, width]`, one random stream per row. `order` is a
    /// permutation of 0..4.
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
                        let mean = mean_of_each(grey(&images));
                        blend(images, mean, factor)
                    }
                    2 => {
                        let grey = grey(&images);
                        blend(images, grey, factor)
                    }
                    _ => turn_hue(images, factor),
                }
            })
    }
}

/// The order in which a step applies brightness (0), contrast (1), saturation (2) and hue (3); each
/// of the 24 equally likely.
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
fn grey(images: &Tensor<4>) -> Tensor<4> {
    if images.dims()[1] == 1 {
        return images.clone();
    }
    let [red, green, blue] = channels(images);
    red * GREY[0] + green * GREY[1] + blue * GREY[2]
}

/// `[rows, 1, height, width]` → `[rows, 1, 1, 1]`
fn mean_of_each(grey: Tensor<4>) -> Tensor<4> {
    let [rows, _, height, width] = grey.dims();
    grey.reshape([rows, height * width]).mean_dim(1).reshape([rows, 1, 1, 1])
}

fn channels(images: &Tensor<4>) -> [Tensor<4>; 3] {
    [0, 1, 2].map(|channel| images.clone().narrow(1, channel, 1))
}

/// Turns the hue of `[rows, 3, height, width]` by `[rows, 1, 1, 1]` parts of the circle.
///
/// From RGB to the hexagon of hues and back (Smith, "Color Gamut Transform Pairs", SIGGRAPH 1978).
/// On the way back, a channel is the largest value less the part of the chroma that its distance on
/// the hexagon, `k`, takes away, which needs no cases.
fn turn_hue(images: Tensor<4>, turn: Tensor<4>) -> Tensor<4> {
    let [red, green, blue] = channels(&images);
    let largest = images.clone().max_dim(1);
    let chroma = largest.clone() - images.min_dim(1);
    // A grey pixel has no hue, and its chroma of 0 leaves it grey whatever hue is computed.
    let divisor = chroma.clone().mask_fill(chroma.clone().equal_scalar(0.0), 1.0);
    let (is_red, is_green) =
        (largest.clone().equal(red.clone()), largest.clone().equal(green.clone()));
    let hue = ((red.clone() - green.clone()) / divisor.clone() + 4.0)
        .mask_where(is_green, (blue.clone() - red) / divisor.clone() + 2.0)
        .mask_where(is_red, (green - blue) / divisor);
    let hue = hue + turn * 6.0;
    // The hue lies in −4..=8; the offsets are 5, 3 and 1 on the hexagon and a full turn, so that
    // the remainder is of a positive number.
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
