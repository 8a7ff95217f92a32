//! Rows in host memory: one preallocated slab of bytes per stored field.

use super::memory::{Memory, touch};
use super::{Source, Store, for_each_byte, for_each_integer, rows};
use crate::batch::{Column, FieldLayout, HostRows, Schema};
use crate::error::{BatchError, RehearsalError};
use burn::tensor::{DType, Device, TensorData};

/// A shard in host memory.
#[derive(Debug)]
pub struct HostStore {
    schema: Schema,
    slabs: Vec<Slab>,
    /// The candidates' rows in the staged columns.
    rows: Vec<u32>,
}

#[derive(Debug)]
struct Slab {
    field: FieldLayout,
    row_bytes: usize,
    /// `capacity * row_bytes` bytes.
    bytes: Memory,
    staged: Staged,
    /// Candidates of a `bytes` field that came as wider integers.
    narrowed: Vec<u8>,
}

/// A field's candidates, and perhaps other rows, until they are written.
#[derive(Debug)]
enum Staged {
    /// Nothing is staged.
    Nothing,
    /// The mini-batch's own memory.
    Shared(HostRows),
    /// What was read from a device.
    Read(TensorData),
}

impl Staged {
    fn dtype(&self) -> Option<DType> {
        match self {
            Staged::Nothing => None,
            Staged::Shared(rows) => Some(rows.dtype()),
            Staged::Read(data) => Some(data.dtype()),
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Staged::Nothing => &[],
            Staged::Shared(rows) => rows.bytes(),
            Staged::Read(data) => data.as_bytes(),
        }
    }

    /// Row `row`, if a row has `elements` values.
    fn row(&self, row: u32, elements: usize) -> &[u8] {
        let width = elements * self.dtype().map_or(0, |dtype| dtype.size());
        &self.bytes()[row as usize * width..][..width]
    }
}

impl Slab {
    fn row(&self, slot: u32) -> &[u8] {
        let start = slot as usize * self.row_bytes;
        &self.bytes[start..start + self.row_bytes]
    }

    /// Fills `narrowed` if the candidates are not of the stored element type, checking that their values are bytes.
    fn narrow(&mut self, rows: &[u32]) -> Result<(), BatchError> {
        self.narrowed.clear();
        let Self { narrowed, field, staged, .. } = self;
        let Some(dtype) = staged.dtype().filter(|&dtype| dtype != field.stored) else { return Ok(()) };
        for &row in rows {
            for_each_byte(staged.row(row, field.elements()), dtype, field.spec.name, |byte| narrowed.push(byte))?;
        }
        Ok(())
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
                let bytes = Memory::zeroed(size).ok_or(RehearsalError::OutOfMemory { bytes: size })?;
                Ok(Slab { field: field.clone(), row_bytes, bytes, staged: Staged::Nothing, narrowed: Vec::new() })
            })
            .collect::<Result<_, RehearsalError>>()?;
        Ok(Self { schema, slabs, rows: Vec::new() })
    }
}

impl Store for HostStore {
    fn stage(&mut self, columns: &mut Vec<Column>, rows: &[u32]) -> Result<(), RehearsalError> {
        for (column, slab) in columns.drain(..).zip(&mut self.slabs) {
            slab.staged = match HostRows::of(&column) {
                Some(rows) => Staged::Shared(rows),
                None => Staged::Read(column.into_data(slab.field.spec.name)?),
            };
        }
        self.rows.clear();
        self.rows.extend_from_slice(rows);
        Ok(self.slabs.iter_mut().try_for_each(|slab| slab.narrow(rows))?)
    }

    fn staged(&self, field: usize, visit: &mut dyn FnMut(i64) -> Result<(), BatchError>) -> Result<(), BatchError> {
        let Some((slab, dtype)) = self.slabs.get(field).and_then(|slab| Some((slab, slab.staged.dtype()?))) else { return Ok(()) };
        self.rows.iter().try_for_each(|&row| for_each_integer(slab.staged.row(row, slab.field.elements()), dtype, &mut *visit))
    }

    fn write(&mut self, placements: &[(u32, u32)]) {
        for slab in &mut self.slabs {
            let width = slab.row_bytes;
            touch(&slab.bytes, placements.iter().map(|&(_, slot)| slot as usize * width));
            let narrowed = slab.staged.dtype() != Some(slab.field.stored);
            for &(candidate, slot) in placements {
                let source = if narrowed {
                    &slab.narrowed[candidate as usize * width..][..width]
                } else {
                    slab.staged.row(self.rows[candidate as usize], slab.field.elements())
                };
                slab.bytes[slot as usize * width..][..width].copy_from_slice(source);
            }
            slab.staged = Staged::Nothing;
        }
    }

    fn assemble(&self, rows: &[Source<'_>], devices: &[Device], columns: &mut Vec<Column>) {
        let mut offset = 0;
        for (slab, device) in self.slabs.iter().zip(devices) {
            let width = slab.row_bytes;
            let slots = rows.iter().filter_map(|row| if let Source::Slot(slot) = row { Some(*slot as usize * width) } else { None });
            touch(&slab.bytes, slots);
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

    fn load(&mut self, first: u32, rows: usize, fields: &[Vec<u8>]) {
        for (slab, bytes) in self.slabs.iter_mut().zip(fields) {
            let width = slab.row_bytes;
            slab.bytes[first as usize * width..][..rows * width].copy_from_slice(bytes);
        }
    }

    fn schema(&self) -> &Schema {
        &self.schema
    }

    fn bytes(&self) -> usize {
        self.slabs.iter().map(|slab| slab.bytes.len()).sum()
    }
}
