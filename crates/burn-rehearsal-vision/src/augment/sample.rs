//! Applies the tables of [`Axes`] to images on their device.
//!
//! Vertically, whole lines are selected. Horizontally, columns are gathered in every line of a
//! sample. This takes two kernels for a crop, and four kernels and weights for bilinear
//! interpolation, whatever the number of rows. Both operations are exact on every device. Batched
//! multiplications with one matrix per sample and axis would be an alternative, but these matrices
//! are sparse, and GPUs may round the factors of `f32` products to TF32.
//!
//! Time on the CPU (flex, two busy cores, best of 12) in µs per image of 3×32² / 3×224², without
//! weights: line select 0.4 / 30, column gather 5 / 500, matrices 12 / 6,800, gather in four
//! dimensions 38 / 4,600, `grid_sample_2d` (nearest) 49 / 4,900.

use super::axis::{Axes, Axis, Tap};
use burn::tensor::{Int, Tensor, TensorData};

/// Samples images: `[rows, channels, height, width]` → `[rows, channels, vertical, horizontal]`,
/// with at least one row and one table per row.
pub(super) fn sample(images: Tensor<4>, axes: &Axes) -> Tensor<4> {
    // The vertical pass is cheaper, and reduces the number of lines of the horizontal pass if
    // images become smaller.
    horizontally(vertically(images, &axes.vertical), &axes.horizontal)
}

fn vertically(images: Tensor<4>, axes: &[Axis]) -> Tensor<4> {
    let [rows, channels, height, width] = images.dims();
    if axes.iter().all(|axis| axis.is_identity(height)) {
        return images;
    }
    let device = images.device();
    let size = axes[0].len();
    let lines = images.reshape([rows * channels * height, width]);
    mix(axes, |taps| {
        let mut numbers = Vec::with_capacity(rows * channels * size);
        for (row, taps) in taps.iter().enumerate() {
            for channel in 0..channels {
                let first = (row * channels + channel) * height;
                numbers.extend(taps.iter().map(|tap| (first + tap.index) as i64));
            }
        }
        let numbers = Tensor::<1, Int>::from_data(
            TensorData::new(numbers, [rows * channels * size]),
            &device,
        );
        let picked = lines.clone().select(0, numbers).reshape([rows, channels, size, width]);
        weigh(picked, taps, [rows, 1, size, 1])
    })
}

fn horizontally(images: Tensor<4>, axes: &[Axis]) -> Tensor<4> {
    let [rows, channels, height, width] = images.dims();
    if axes.iter().all(|axis| axis.is_identity(width)) {
        return images;
    }
    let device = images.device();
    let size = axes[0].len();
    let lines = images.reshape([rows * channels * height, width]);
    mix(axes, |taps| {
        let numbers: Vec<i64> =
            taps.iter().flat_map(|taps| taps.iter().map(|tap| tap.index as i64)).collect();
        let numbers =
            Tensor::<3, Int>::from_data(TensorData::new(numbers, [rows, 1, size]), &device);
        let numbers = numbers
            .expand([rows, channels * height, size])
            .reshape([rows * channels * height, size]);
        let picked = lines.clone().gather(1, numbers).reshape([rows, channels, height, size]);
        weigh(picked, taps, [rows, 1, 1, size])
    })
}

/// The sum of the near and the far contributions, which `contribution` computes from the taps of
/// all samples.
fn mix(axes: &[Axis], contribution: impl Fn(&[&[Tap]]) -> Tensor<4>) -> Tensor<4> {
    let near: Vec<&[Tap]> = axes.iter().map(|axis| axis.near.as_slice()).collect();
    let far: Vec<&[Tap]> = axes.iter().filter_map(|axis| axis.far.as_deref()).collect();
    let near = contribution(&near);
    if far.is_empty() { near } else { near + contribution(&far) }
}

/// Multiplies by the weights of the taps, in this shape, unless all are 1.
fn weigh(picked: Tensor<4>, taps: &[&[Tap]], shape: [usize; 4]) -> Tensor<4> {
    let weights: Vec<f32> =
        taps.iter().flat_map(|taps| taps.iter().map(|tap| tap.weight)).collect();
    if weights.iter().all(|weight| *weight == 1.0) {
        return picked;
    }
    let (device, dtype) = (picked.device(), picked.dtype());
    picked * Tensor::from_data(TensorData::new(weights, shape), (&device, dtype))
}
