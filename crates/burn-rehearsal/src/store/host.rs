//! Rows in host memory: one preallocated slab of bytes per stored field.

use super::{Source, Store, for_each_byte, rows};
use crate::batch::{Column, FieldLayout, Schema};
use crate::error::{BatchError, RehearsalError};
use burn::tensor::{Device, TensorData};

/// A shard in host memory.
#[derive(Debug)]
pub struct HostStore {
    schema: Schema,
    slabs: Vec<Slab>,
    /// The candidates, one entry per stored field; empty between a write and the next stage.
    staged: Vec<TensorData>,
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
        let Self { narrowed, field, .. } = self;
        for_each_byte(data, field.spec.name, |byte| narrowed.push(byte))
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
        Ok(Self { schema, slabs, staged: Vec::new() })
    }
}

impl Store for HostStore {
    fn stage(&mut self, columns: &mut Vec<Column>) -> Result<(), RehearsalError> {
        self.staged.clear();
        for (column, slab) in columns.drain(..).zip(&self.slabs) {
            self.staged.push(column.into_data(slab.field.spec.name)?);
        }
        Ok(self.slabs.iter_mut().zip(&self.staged).try_for_each(|(slab, data)| slab.narrow(data))?)
    }

    fn staged(&self, field: usize) -> Option<&TensorData> {
        self.staged.get(field)
    }

    fn write(&mut self, placements: &[(u32, u32)]) {
        for (slab, data) in self.slabs.iter_mut().zip(&self.staged) {
            let width = slab.row_bytes;
            let source = if data.dtype() == slab.field.stored { data.as_bytes() } else { &slab.narrowed };
            for &(row, slot) in placements {
                let (from, to) = (row as usize * width, slot as usize * width);
                slab.bytes[to..to + width].copy_from_slice(&source[from..from + width]);
            }
        }
        self.staged.clear();
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
            let data = rows::values(&slab.field, bytes, [rows.len(), slab.field.elements()]);
            columns.push(Column::from_data(data, slab.field.spec.kind, slab.field.row_shape.clone(), device));
        }
    }

    fn read(&self, slots: &[u32], sink: &mut dyn FnMut(usize, usize, &[u8])) -> Result<(), RehearsalError> {
        for (index, &slot) in slots.iter().enumerate() {
            for (field, slab) in self.slabs.iter().enumerate() {
                sink(index, field, slab.row(slot));
            }
        }
        Ok(())
    }

    fn schema(&self) -> &Schema {
        &self.schema
    }

    fn bytes(&self) -> usize {
        self.slabs.iter().map(|slab| slab.bytes.len()).sum()
    }
}
