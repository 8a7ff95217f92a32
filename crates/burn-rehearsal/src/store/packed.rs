//! Bytes on a device without an 8-bit type: four to a 32-bit integer, the first in the lowest bits,
//! the last word of a row padded with zeros.
//!
//! That is how the same bytes lie in the memory of a little-endian machine, so rows come from and
//! go to the host without being repacked.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};

/// The element type of a word.
pub(super) const WORD: DType = DType::I32;
/// Bytes in a word.
pub(super) const BYTES: usize = 4;

/// Packs and unpacks rows of a fixed number of bytes, with tensor operations on the device alone.
#[derive(Debug)]
pub(super) struct Packing {
    elements: usize,
    /// How far each byte of a word is shifted, shape `[1, 1, 4]`.
    shifts: Tensor<3, Int>,
}

impl Packing {
    /// For rows of `elements` bytes on `device`.
    pub(super) fn new(elements: usize, device: &Device) -> Self {
        let shifts = TensorData::new(vec![0i32, 8, 16, 24], [1, 1, BYTES]);
        Self { elements, shifts: Tensor::from_data(shifts, (device, WORD)) }
    }

    /// The number of words of a row.
    pub(super) fn words(&self) -> usize {
        self.elements.div_ceil(BYTES)
    }

    /// `[rows, elements]` integers 0..=255 to `[rows, words]`.
    pub(super) fn pack(&self, values: Tensor<2, Int>) -> Tensor<2, Int> {
        let (rows, words) = (values.dims()[0], self.words());
        let mut values = values.cast(WORD);
        let padding = words * BYTES - self.elements;
        if padding > 0 {
            let zeros = Tensor::zeros([rows, padding], (&values.device(), WORD));
            values = Tensor::cat(vec![values, zeros], 1);
        }
        let shifted = values.reshape([rows, words, BYTES]).bitwise_left_shift(self.shifts.clone());
        let part = |byte: usize| shifted.clone().slice([0..rows, 0..words, byte..byte + 1]);
        part(0).bitwise_or(part(1)).bitwise_or(part(2)).bitwise_or(part(3)).reshape([rows, words])
    }

    /// `[rows, words]` to `[rows, elements]` integers 0..=255.
    pub(super) fn unpack(&self, words: Tensor<2, Int>) -> Tensor<2, Int> {
        let (rows, count) = (words.dims()[0], self.words());
        // The shift fills up with the sign bit; the mask takes it away again.
        let values = words
            .reshape([rows, count, 1])
            .bitwise_right_shift(self.shifts.clone())
            .bitwise_and_scalar(0xff);
        let values = values.reshape([rows, count * BYTES]);
        if count * BYTES == self.elements {
            values
        } else {
            values.slice([0..rows, 0..self.elements])
        }
    }
}
