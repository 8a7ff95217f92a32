//! Compares every operation with a simple reference on the host. `BURN_DEVICE` chooses the device.

mod colors;
mod distributions;
mod pipeline;
mod places;

use super::*;
use burn::tensor::{Device, TensorData};

pub(super) const SEED: u64 = 11;
pub(super) const STEP: u64 = 5;
pub(super) const RANK: usize = 1;

/// A mini-batch on the host.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Images {
    pub(super) shape: [usize; 4],
    pub(super) values: Vec<f32>,
}

impl Images {
    /// Values 0..=1 with repetitions, so that some pixels are gray.
    pub(super) fn random(shape: [usize; 4]) -> Self {
        let mut random = Stream::new(1, Purpose::TaskStream, 0, 0);
        Self {
            shape,
            values: (0..shape.iter().product()).map(|_| random.below(64) as f32 / 63.0).collect(),
        }
    }

    pub(super) fn upload(&self) -> Tensor<4> {
        Tensor::from_data(TensorData::new(self.values.clone(), self.shape), &Device::default())
    }

    pub(super) fn download(tensor: Tensor<4>) -> Self {
        Self { shape: tensor.dims(), values: tensor.into_data().try_into_vec().unwrap() }
    }

    /// A pixel; 0 outside of the image.
    pub(super) fn at(&self, row: usize, channel: usize, y: i64, x: i64) -> f32 {
        let [_, channels, height, width] = self.shape;
        if y < 0 || x < 0 || y >= height as i64 || x >= width as i64 {
            return 0.0;
        }
        self.values[((row * channels + channel) * height + y as usize) * width + x as usize]
    }

    /// Images of `size` from a function of row, channel, y and x.
    pub(super) fn build(&self, size: Size, pixel: impl Fn(usize, usize, i64, i64) -> f32) -> Self {
        let shape = [self.shape[0], self.shape[1], size.height, size.width];
        let mut values = Vec::new();
        for row in 0..shape[0] {
            for channel in 0..shape[1] {
                for y in 0..shape[2] as i64 {
                    values.extend((0..shape[3] as i64).map(|x| pixel(row, channel, y, x)));
                }
            }
        }
        Self { shape, values }
    }

    pub(super) fn size(&self) -> Size {
        [self.shape[2], self.shape[3]].into()
    }

    pub(super) fn apply(&self, augment: &Augment) -> Self {
        Self::download(augment.apply(self.upload(), STEP, RANK).unwrap())
    }

    #[track_caller]
    pub(super) fn assert_close(&self, expected: &Self) {
        assert_eq!(self.shape, expected.shape);
        for (at, (ours, theirs)) in self.values.iter().zip(&expected.values).enumerate() {
            assert!((ours - theirs).abs() <= 1e-5, "value {at}: {ours} instead of {theirs}");
        }
    }
}

/// The random streams of the rows of a mini-batch.
pub(super) fn streams(rows: usize) -> Vec<Stream> {
    (0..rows as u64)
        .map(|row| Stream::for_row(SEED, Purpose::Augment, STEP, RANK as u32, row))
        .collect()
}

pub(super) fn augment() -> Augment {
    Augment::new(SEED)
}
