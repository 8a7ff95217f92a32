//! Rows in host memory: one preallocated slab of bytes per stored field.

use super::{Source, Store};
use crate::batch::{Column, FieldLayout, Schema};
use crate::error::{BatchError, RehearsalError};
use burn::tensor::{DType, Device, Shape, TensorData};

/// A shard in host memory.
#[derive(Debug)]
pub struct HostStore {
    schema: Schema,
    slabs: Vec<Slab>,
}

#[derive(Debug)]
struct Slab {
    field: FieldLayout,
    row_bytes: usize,
    /// `capacity * row_bytes` bytes.
    bytes: Vec<u8>,
    /// Candidates of a `bytes` field that came as wider integers.
    narrowed: Vec<u8>,
}

impl Slab {
    fn row(&self, slot: u32) -> &[u8] {
        let start = slot as usize * self.row_bytes;
        &self.bytes[start..start + self.row_bytes]
    }

    /// Fills `narrowed` if the column is not of the stored element type, checking that its values are bytes.
    fn narrow(&mut self, data: &TensorData) -> Result<(), BatchError> {
        self.narrowed.clear();
        if data.dtype() == self.field.stored {
            return Ok(());
        }
        let field = self.field.spec.name;
        let Self { narrowed, .. } = self;
        for_each_integer(data, |value| {
            narrowed.push(u8::try_from(value).map_err(|_| BatchError::ByteRange { field, value })?);
            Ok(())
        })
    }

    /// Restores the element type of the mini-batches.
    fn restore(&self, bytes: Vec<u8>, shape: impl Into<Shape>) -> TensorData {
        let data = TensorData::from_bytes_vec(bytes, shape, self.field.stored);
        if self.field.dtype == self.field.stored { data } else { data.convert_dtype(self.field.dtype) }
    }
}

impl HostStore {
    /// Room for `capacity` rows.
    ///
    /// # Errors
    ///
    /// [`RehearsalError::OutOfMemory`] if it cannot be had.
    pub fn new(schema: Schema, capacity: usize) -> Result<Self, RehearsalError> {
        let slabs = schema
            .stored()
            .map(|field| {
                let row_bytes = field.row_bytes();
                let size = row_bytes.checked_mul(capacity).ok_or(RehearsalError::OutOfMemory { bytes: usize::MAX })?;
                let mut bytes = Vec::new();
                bytes.try_reserve_exact(size).map_err(|_| RehearsalError::OutOfMemory { bytes: size })?;
                bytes.resize(size, 0);
                Ok(Slab { field: field.clone(), row_bytes, bytes, narrowed: Vec::new() })
            })
            .collect::<Result<_, RehearsalError>>()?;
        Ok(Self { schema, slabs })
    }
}

impl Store for HostStore {
    fn write(&mut self, columns: &[TensorData], placements: &[(u32, u32)]) -> Result<(), RehearsalError> {
        for (slab, data) in self.slabs.iter_mut().zip(columns) {
            slab.narrow(data)?;
        }
        for (slab, data) in self.slabs.iter_mut().zip(columns) {
            let width = slab.row_bytes;
            let source = if data.dtype() == slab.field.stored { data.as_bytes() } else { &slab.narrowed };
            for &(row, slot) in placements {
                let (from, to) = (row as usize * width, slot as usize * width);
                slab.bytes[to..to + width].copy_from_slice(&source[from..from + width]);
            }
        }
        Ok(())
    }

    fn pack(&self, slot: u32, out: &mut Vec<u8>) {
        for slab in &self.slabs {
            out.extend_from_slice(slab.row(slot));
        }
    }

    fn assemble(&self, rows: &[Source<'_>], devices: &[Device], columns: &mut Vec<Column>) {
        let mut offset = 0;
        for (slab, device) in self.slabs.iter().zip(devices) {
            let width = slab.row_bytes;
            // The one allocation per field: it becomes the tensor's own memory.
            let mut bytes = Vec::with_capacity(rows.len() * width);
            for row in rows {
                bytes.extend_from_slice(match row {
                    Source::Slot(slot) => slab.row(*slot),
                    Source::Packed(packed) => &packed[offset..offset + width],
                });
            }
            offset += width;
            let data = slab.restore(bytes, [rows.len(), slab.field.elements()]);
            columns.push(Column::from_data(data, slab.field.spec.kind, slab.field.row_shape.clone(), device));
        }
    }

    fn row(&self, slot: u32) -> Vec<TensorData> {
        self.slabs.iter().map(|slab| slab.restore(slab.row(slot).to_vec(), slab.field.row_shape.clone())).collect()
    }

    fn canonical(&self, slot: u32, sink: &mut dyn FnMut(&[u8])) {
        for slab in &self.slabs {
            let bytes = slab.row(slot);
            let stored = slab.field.stored;
            if stored.is_float() || stored == DType::I64 {
                sink(bytes);
            } else if stored.is_bool() {
                bytes.chunks_exact(stored.size()).for_each(|value| sink(&[u8::from(value.iter().any(|&b| b != 0))]));
            } else {
                bytes.chunks_exact(stored.size()).for_each(|value| sink(&widen(value, stored).to_le_bytes()));
            }
        }
    }

    fn schema(&self) -> &Schema {
        &self.schema
    }

    fn bytes(&self) -> usize {
        self.slabs.iter().map(|slab| slab.bytes.len()).sum()
    }
}

/// Calls `visit` with every element of an integer tensor. Burn's own iterator is a boxed one; the usual types do without.
///
/// # Errors
///
/// The first error of `visit`.
pub(crate) fn for_each_integer<E>(data: &TensorData, mut visit: impl FnMut(i64) -> Result<(), E>) -> Result<(), E> {
    if let Ok(values) = data.as_slice::<i64>() {
        return values.iter().try_for_each(|&value| visit(value));
    }
    if let Ok(values) = data.as_slice::<i32>() {
        return values.iter().try_for_each(|&value| visit(i64::from(value)));
    }
    data.iter::<i64>().try_for_each(visit)
}

/// A stored integer of up to 64 bits as i64.
fn widen(value: &[u8], dtype: DType) -> i64 {
    let mut wide = [0; 8];
    wide[..value.len()].copy_from_slice(value);
    let signed = matches!(dtype, DType::I8 | DType::I16 | DType::I32);
    if signed && value.last().is_some_and(|&top| top & 0x80 != 0) {
        wide[value.len()..].fill(0xff);
    }
    i64::from_le_bytes(wide)
}
