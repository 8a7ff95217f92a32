//! A snapshot of a store's rows that is read chunk by chunk while the store changes.
//!
//! Invariant: rows of slots below `next` have been read. Every other row of the snapshot is either
//! unchanged in the store or in `kept`. Only the owner of the store writes to it, and it calls
//! [`keep`](CopyOnWriteSnapshot::keep) before every write. In the worst case, `kept` grows to the
//! size of the store.

use super::Store;
use crate::batch::Schema;
use crate::error::RehearsalError;
use std::collections::HashMap;

/// The approximate size of a chunk in bytes. It is small, so that a step that arrives during a copy
/// waits only briefly.
pub(crate) const ROW_CHUNK_BYTES: usize = 1 << 19;

/// The number of rows in a chunk.
pub(crate) fn rows_per_chunk(schema: &Schema) -> usize {
    (ROW_CHUNK_BYTES / schema.row_bytes().max(1)).max(1)
}

/// The rows of consecutive slots: the bytes of each stored field.
pub(crate) type RowChunk = Vec<Vec<u8>>;

/// The unread part of a snapshot.
pub(crate) struct CopyOnWriteSnapshot {
    /// The first slot whose row has not been read.
    next: u32,
    /// The number of rows of the snapshot.
    end: u32,
    /// The packed rows, by slot, that were overwritten before they were read.
    kept: HashMap<u32, Vec<u8>>,
    /// The slots of the current chunk or write. Reused from call to call.
    slots: Vec<u32>,
}

impl CopyOnWriteSnapshot {
    /// A snapshot of the first `rows` slots as they are now.
    pub(crate) fn new(rows: usize) -> Self {
        Self { next: 0, end: rows as u32, kept: HashMap::new(), slots: Vec::new() }
    }

    /// Whether all rows have been read.
    pub(crate) fn is_over(&self) -> bool {
        self.next == self.end
    }

    /// Copies the rows that a write of `placements` (candidate and slot) will overwrite, if they
    /// have not been read.
    pub(crate) fn keep(
        &mut self,
        store: &dyn Store,
        placements: &[(u32, u32)],
    ) -> Result<(), RehearsalError> {
        let Self { next, end, kept, slots } = self;
        slots.clear();
        slots.extend(
            placements
                .iter()
                .map(|&(_, slot)| slot)
                .filter(|slot| (*next..*end).contains(slot) && !kept.contains_key(slot)),
        );
        if slots.is_empty() {
            return Ok(());
        }
        store.read(slots, &mut |index, _, bytes| {
            kept.entry(slots[index]).or_default().extend_from_slice(bytes)
        })
    }

    /// Fills `chunk` with the next rows.
    pub(crate) fn take(
        &mut self,
        store: &dyn Store,
        chunk: &mut RowChunk,
    ) -> Result<(), RehearsalError> {
        let Self { next, end, kept, slots } = self;
        let last = (*end).min(next.saturating_add(rows_per_chunk(store.schema()) as u32));
        slots.clear();
        slots.extend(*next..last);
        chunk.resize_with(store.schema().stored().count(), Vec::new);
        chunk.iter_mut().for_each(Vec::clear);
        store.read(slots, &mut |_, field, bytes| chunk[field].extend_from_slice(bytes))?;
        let changed = if kept.is_empty() { &[][..] } else { slots.as_slice() };
        for (index, slot) in changed.iter().enumerate() {
            let Some(row) = kept.remove(slot) else { continue };
            let mut rest = row.as_slice();
            for (field, bytes) in store.schema().stored().zip(chunk.iter_mut()) {
                let (own, others) = rest.split_at(field.row_bytes());
                bytes[index * own.len()..][..own.len()].copy_from_slice(own);
                rest = others;
            }
        }
        *next = last;
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::batch::{Column, FieldSpec, Kind, Role};
    use crate::random::{Purpose, Stream};
    use crate::store::{DeviceStore, HostStore};
    use burn::tensor::{DType, Device, Shape, TensorData};

    const FIELDS: [FieldSpec; 2] = [
        FieldSpec { name: "image", role: Role::Data, bytes: true, kind: Kind::Int, late: None },
        FieldSpec { name: "class", role: Role::Class, bytes: false, kind: Kind::Int, late: None },
    ];
    const CAPACITY: u64 = 9;
    /// A size at which a chunk has two rows.
    const PIXELS: usize = ROW_CHUNK_BYTES / 2 - 100;

    /// Rows whose bytes are a function of their number.
    fn columns(numbers: &[u8], device: &Device) -> Vec<Column> {
        let images: Vec<u8> =
            numbers.iter().flat_map(|&number| std::iter::repeat_n(number, PIXELS)).collect();
        let classes: Vec<i64> = numbers.iter().map(|&number| number.into()).collect();
        let labels = if device.supports_dtype(DType::I64) { DType::I64 } else { DType::I32 };
        let bytes = if device.supports_dtype(DType::U8) { DType::U8 } else { DType::I32 };
        vec![
            Column::from_data(
                TensorData::new(images, [numbers.len(), PIXELS]).convert_dtype(bytes),
                Kind::Int,
                Shape::from([PIXELS]),
                device,
            ),
            Column::from_data(
                TensorData::new(classes, [numbers.len(), 1]).convert_dtype(labels),
                Kind::Int,
                Shape::new([]),
                device,
            ),
        ]
    }

    #[test]
    fn later_writes_do_not_change_a_snapshot() {
        let device = if std::env::var_os("BURN_DEVICE").is_some() {
            Device::default()
        } else {
            Device::flex()
        };
        let schema = Schema::of(&FIELDS, &columns(&[0], &device)).unwrap();
        let devices = vec![device.clone(); 2];
        for seed in 0..12 {
            let mut rng = Stream::new(seed, Purpose::TaskStream, 0, 0);
            let mut store: Box<dyn Store> = match seed % 2 {
                0 => Box::new(HostStore::new(schema.clone(), CAPACITY as usize).unwrap()),
                _ => {
                    Box::new(DeviceStore::new(schema.clone(), CAPACITY as usize, &devices).unwrap())
                }
            };
            let rows = 1 + rng.below(CAPACITY);
            let mut number = 0;
            let mut write = |store: &mut dyn Store,
                             snapshot: Option<&mut CopyOnWriteSnapshot>,
                             slots: &[u32]| {
                let numbers: Vec<u8> = slots.iter().map(|_| number_of(&mut number)).collect();
                let all: Vec<u32> = (0..slots.len() as u32).collect();
                let placements: Vec<_> = all.iter().copied().zip(slots.iter().copied()).collect();
                store.stage(&mut columns(&numbers, &device), &all).unwrap();
                if let Some(snapshot) = snapshot {
                    snapshot.keep(store, &placements).unwrap();
                }
                store.write(&placements);
            };
            write(store.as_mut(), None, &(0..rows as u32).collect::<Vec<_>>());
            let mut snapshot = CopyOnWriteSnapshot::new(rows as usize);
            let (mut found, mut chunk) = (vec![Vec::new(); 2], RowChunk::new());
            while !snapshot.is_over() {
                if rng.below(3) == 0 {
                    snapshot.take(store.as_ref(), &mut chunk).unwrap();
                    found
                        .iter_mut()
                        .zip(&chunk)
                        .for_each(|(found, bytes)| found.extend_from_slice(bytes));
                } else {
                    // Some of these slots may be empty.
                    let mut slots: Vec<u32> = (0..CAPACITY as u32).collect();
                    rng.shuffle(&mut slots);
                    write(store.as_mut(), Some(&mut snapshot), &slots[..3]);
                }
            }
            let images: Vec<u8> =
                (0..rows as u8).flat_map(|number| std::iter::repeat_n(number, PIXELS)).collect();
            assert!(found[0] == images, "seed {seed}");
            let width = found[1].len() / rows as usize;
            assert!(
                found[1].chunks(width).enumerate().all(|(row, class)| class[0] as usize == row),
                "seed {seed}"
            );
            assert!(snapshot.kept.is_empty(), "seed {seed}");
        }
    }

    fn number_of(next: &mut u8) -> u8 {
        *next += 1;
        *next - 1
    }
}
