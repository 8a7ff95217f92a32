//! A shard in host memory: one preallocated slab of bytes per stored field.

use super::memory::{LARGE_DRAW, LARGE_SLAB, copy_rows, prefetch, zeroed};
use super::non_temporal::CACHE_LINE;
use super::{Source, Store, for_each_byte, for_each_integer, rows};
use crate::batch::{Column, FieldLayout, HostRows, Schema};
use crate::error::{BatchError, RehearsalError};
use burn::tensor::{DType, Device, TensorData};
use memmap2::MmapMut;

/// A shard in host memory.
#[derive(Debug)]
pub struct HostStore {
    schema: Schema,
    slabs: Vec<Slab>,
    /// The rows of the staged columns that are candidates.
    rows: Vec<u32>,
}

#[derive(Debug)]
struct Slab {
    field: FieldLayout,
    row_bytes: usize,
    /// `capacity * row_bytes` bytes, at least one.
    bytes: MmapMut,
    staged: Staged,
    /// The candidates of a `bytes` field as bytes, if the mini-batch has wider integers.
    narrowed: Vec<u8>,
}

/// The staged rows of a field: the candidates, and possibly other rows.
#[derive(Debug)]
enum Staged {
    /// Nothing is staged.
    Nothing,
    /// The memory of the mini-batch.
    Shared(HostRows),
    /// Rows that were read from a device.
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

    /// The size of a row of `elements` values, in bytes.
    fn row_bytes(&self, elements: usize) -> usize {
        elements * self.dtype().map_or(0, |dtype| dtype.size())
    }
}

impl Slab {
    fn row(&self, slot: u32) -> &[u8] {
        let start = slot as usize * self.row_bytes;
        &self.bytes[start..start + self.row_bytes]
    }

    /// Fills `narrowed` if the candidates do not have the stored element type. Checks that their
    /// values fit in a byte.
    fn narrow(&mut self, rows: &[u32]) -> Result<(), BatchError> {
        self.narrowed.clear();
        let Self { narrowed, field, staged, .. } = self;
        let Some(dtype) = staged.dtype().filter(|&dtype| dtype != field.stored) else {
            return Ok(());
        };
        let (bytes, width) = (staged.bytes(), staged.row_bytes(field.elements()));
        for &row in rows {
            for_each_byte(
                &bytes[row as usize * width..][..width],
                dtype,
                field.spec.name,
                |byte| narrowed.push(byte),
            )?;
        }
        Ok(())
    }
}

impl HostStore {
    /// Allocates room for `capacity` rows.
    ///
    /// # Errors
    ///
    /// [`RehearsalError::OutOfMemory`] if the memory cannot be allocated.
    pub fn new(schema: Schema, capacity: usize) -> Result<Self, RehearsalError> {
        let slabs = schema
            .stored()
            .map(|field| {
                let row_bytes = field.row_bytes();
                let size = row_bytes
                    .checked_mul(capacity)
                    .ok_or(RehearsalError::OutOfMemory { bytes: usize::MAX })?;
                let bytes = zeroed(size).ok_or(RehearsalError::OutOfMemory { bytes: size })?;
                Ok(Slab {
                    field: field.clone(),
                    row_bytes,
                    bytes,
                    staged: Staged::Nothing,
                    narrowed: Vec::new(),
                })
            })
            .collect::<Result<_, RehearsalError>>()?;
        Ok(Self { schema, slabs, rows: Vec::new() })
    }
}

impl Store for HostStore {
    fn stage(&mut self, columns: &mut Vec<Column>, rows: &[u32]) -> Result<(), RehearsalError> {
        for (column, slab) in columns.drain(..).zip(&mut self.slabs) {
            slab.staged = match column.into_host_rows() {
                Ok(rows) => Staged::Shared(rows),
                Err(column) => Staged::Read(column.into_data(slab.field.spec.name)?),
            };
        }
        self.rows.clear();
        self.rows.extend_from_slice(rows);
        Ok(self.slabs.iter_mut().try_for_each(|slab| slab.narrow(rows))?)
    }

    fn staged(
        &self,
        field: usize,
        visit: &mut dyn FnMut(i64) -> Result<(), BatchError>,
    ) -> Result<(), BatchError> {
        let Some((slab, dtype)) =
            self.slabs.get(field).and_then(|slab| Some((slab, slab.staged.dtype()?)))
        else {
            return Ok(());
        };
        let (bytes, width) = (slab.staged.bytes(), slab.staged.row_bytes(slab.field.elements()));
        self.rows.iter().try_for_each(|&row| {
            for_each_integer(&bytes[row as usize * width..][..width], dtype, &mut *visit)
        })
    }

    fn write(&mut self, placements: &[(u32, u32)]) {
        debug_assert!(super::are_distinct(placements), "{placements:?}");
        for Slab { field, row_bytes, bytes, staged, narrowed } in &mut self.slabs {
            let width = *row_bytes;
            let place = |row: u32| row as usize * width;
            let is_narrowed = staged.dtype() != Some(field.stored);
            let source = if is_narrowed { narrowed } else { staged.bytes() };
            let rows = placements.iter().map(|&(n, slot)| {
                let from = if is_narrowed { n } else { self.rows[n as usize] };
                (place(slot), &source[place(from)..][..width])
            });
            copy_rows(bytes, width, LARGE_SLAB, rows);
            *staged = Staged::Nothing;
        }
    }

    fn assemble(&self, rows: &[Source<'_>], devices: &[Device], columns: &mut Vec<Column>) {
        // Short fields usually follow a long one. They are prefetched before the long one is
        // copied.
        for slab in self.slabs.iter().filter(|slab| slab.row_bytes <= CACHE_LINE) {
            let slots = rows.iter().filter_map(|row| {
                if let Source::Slot(slot) = row {
                    Some(*slot as usize * slab.row_bytes)
                } else {
                    None
                }
            });
            prefetch(&slab.bytes, slots);
        }
        let mut offset = 0;
        for (index, (slab, device)) in self.slabs.iter().zip(devices).enumerate() {
            let width = slab.row_bytes;
            let fill = |bytes: &mut [u8]| {
                let sources = rows.iter().map(|row| match row {
                    Source::Slot(slot) => slab.row(*slot),
                    Source::Packed(packed) => &packed[offset..offset + width],
                });
                let rows = sources.enumerate().map(|(n, row)| (n * width, row));
                copy_rows(bytes, width, LARGE_DRAW, rows);
            };
            let [elements, size] = [slab.field.elements(), rows.len() * width];
            let stored_as_they_are = slab.field.dtype == slab.field.stored;
            // Reuses the memory of an earlier draw with the same number of rows.
            let earlier =
                columns.get_mut(index).filter(|_| stored_as_they_are).and_then(Column::memory_mut);
            match earlier.filter(|earlier| earlier.len() == size) {
                Some(bytes) => fill(bytes),
                None => {
                    // The only allocation per field. The tensor takes it over.
                    let mut bytes = rows::aligned(size, slab.field.stored);
                    fill(&mut bytes);
                    let data = rows::values_in_place(&slab.field, bytes, [rows.len(), elements]);
                    columns.truncate(index);
                    columns.push(Column::from_data(
                        data,
                        slab.field.spec.kind,
                        slab.field.row_shape.clone(),
                        device,
                    ));
                }
            }
            offset += width;
        }
        columns.truncate(self.slabs.len());
    }

    fn read(
        &self,
        slots: &[u32],
        sink: &mut dyn FnMut(usize, usize, &[u8]),
    ) -> Result<(), RehearsalError> {
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
