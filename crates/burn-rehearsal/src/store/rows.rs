//! Conversions of the bytes of stored rows.

use crate::batch::FieldLayout;
use burn::tensor::{Bytes, DType, Shape, TensorData};

/// Converts stored bytes to values of `shape` in the element type of the mini-batches.
pub(crate) fn values(field: &FieldLayout, bytes: Vec<u8>, shape: impl Into<Shape>) -> TensorData {
    values_in_place(field, Bytes::from_bytes_vec(bytes), shape)
}

/// Does the same as [`values`] without copying aligned bytes.
pub(super) fn values_in_place(
    field: &FieldLayout,
    bytes: Bytes,
    shape: impl Into<Shape>,
) -> TensorData {
    let data = TensorData::from_bytes(bytes, shape, field.stored);
    if field.dtype == field.stored { data } else { data.convert_dtype(field.dtype) }
}

/// Allocates `len` bytes that are aligned for elements of type `dtype`. A `Vec<u8>` is not aligned
/// and would be copied when it becomes a tensor.
pub(super) fn aligned(len: usize, dtype: DType) -> Bytes {
    match dtype.size() {
        1 => Bytes::from_elems(vec![0u8; len]),
        2 => Bytes::from_elems(vec![0u16; len / 2]),
        4 => Bytes::from_elems(vec![0u32; len / 4]),
        _ => Bytes::from_elems(vec![0u64; len / 8]),
    }
}

/// Converts one stored row of a field to the shape and element type of the mini-batches.
pub(crate) fn row_data(field: &FieldLayout, bytes: &[u8]) -> TensorData {
    values(field, bytes.to_vec(), field.row_shape.clone())
}

/// Passes the canonical form of a field's stored bytes to `sink`: integers as little-endian i64,
/// booleans as one byte, floats as their bits.
pub(crate) fn canonical(field: &FieldLayout, bytes: &[u8], mut sink: impl FnMut(&[u8])) {
    let stored = field.stored;
    if stored.is_float() || stored == DType::I64 {
        sink(bytes);
    } else if stored.is_bool() {
        bytes
            .chunks_exact(stored.size())
            .for_each(|value| sink(&[u8::from(value.iter().any(|&b| b != 0))]));
    } else {
        bytes
            .chunks_exact(stored.size())
            .for_each(|value| sink(&widen(value, stored).to_le_bytes()));
    }
}

/// Converts a stored integer of up to 64 bits to i64.
pub(super) fn widen(value: &[u8], dtype: DType) -> i64 {
    let mut wide = [0; 8];
    wide[..value.len()].copy_from_slice(value);
    let signed = matches!(dtype, DType::I8 | DType::I16 | DType::I32);
    if signed && value.last().is_some_and(|&top| top & 0x80 != 0) {
        wide[value.len()..].fill(0xff);
    }
    i64::from_le_bytes(wide)
}
