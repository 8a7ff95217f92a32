//! Bytes on a device without an 8-bit type. Four bytes form a 32-bit integer with the first byte in
//! the lowest bits. The last word of a row is padded with zeros.
//!
//! The memory of a little-endian machine has the same layout, so rows move to and from the host
//! without repacking.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};

/// The element type of a word.
pub(super) const WORD: DType = DType::I32;
/// The number of bytes in a word.
pub(super) const BYTES: usize = 4;

/// Packs and unpacks rows of a fixed number of bytes with tensor operations on the device.
#[derive(Debug)]
pub(super) struct Packing {
    elements: usize,
    /// The shift of each byte in a word, in bits. Shape `[1, 1, 4]`.
    shifts: Tensor<3, Int>,
}

impl Packing {
    /// A packing of rows of `elements` bytes on `device`.
    pub(super) fn new(elements: usize, device: &Device) -> Self {
        let shifts = TensorData::new(vec![0i32, 8, 16, 24], [1, 1, BYTES]);
        Self { elements, shifts: Tensor::from_data(shifts, (device, WORD)) }
    }

    /// The number of words of a row.
    pub(super) fn words(&self) -> usize {
        self.elements.div_ceil(BYTES)
    }

    /// Packs integers 0..=255 of shape `[rows, elements]` into words of shape `[rows, words]`.
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

    /// Unpacks words of shape `[rows, words]` into integers 0..=255 of shape `[rows, elements]`.
    pub(super) fn unpack(&self, words: Tensor<2, Int>) -> Tensor<2, Int> {
        let (rows, count) = (words.dims()[0], self.words());
        // The mask removes the sign bits that the shift inserts.
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
