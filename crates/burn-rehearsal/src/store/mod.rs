//! Where rows live.
//!
//! A store moves rows and knows nothing of classes, policies or draws; those are decided on the
//! host by who owns it. Rows leave a store as columns for a mini-batch, or as bytes for another
//! rank, a digest or a snapshot: the bytes of a row are the same in every store.

mod copy_on_write;
mod device;
mod host;
mod memory;
mod non_temporal;
mod packed;
mod piece;
mod rows;
mod scatter;
#[cfg(test)]
mod tests;

pub(crate) use copy_on_write::{CopyOnWriteSnapshot, RowChunk, rows_per_chunk};
pub use device::DeviceStore;
pub use host::HostStore;

pub(crate) use rows::{canonical, row_data, values};

use crate::batch::{Column, Schema, is_host};
use crate::config::StorePreference;
use crate::error::{BatchError, RehearsalError};
use burn::tensor::{DType, Device};

/// The rows of one shard. Slots are chosen by the caller; a store only moves rows.
///
/// Rows are written in two steps, so that the caller can look at classes and identities before it
/// chooses slots: [`stage`](Self::stage), then [`write`](Self::write).
pub trait Store: Send {
    /// Takes the candidates: the rows `rows` of the columns, of which there is one per stored field
    /// in schema order; `columns` is left empty.
    ///
    /// What is shared with the caller is only read, and let go by [`write`](Self::write).
    ///
    /// # Errors
    ///
    /// [`RehearsalError::Batch`] if a value cannot be stored or a device fails. What is stored is
    /// as it was.
    fn stage(&mut self, columns: &mut Vec<Column>, rows: &[u32]) -> Result<(), RehearsalError>;

    /// Calls `visit` with the value of each staged candidate in a field whose role is class or id,
    /// given by its position among the stored fields.
    ///
    /// # Errors
    ///
    /// The first error of `visit`.
    fn staged(
        &self,
        field: usize,
        visit: &mut dyn FnMut(i64) -> Result<(), BatchError>,
    ) -> Result<(), BatchError>;

    /// Writes the `n`-th staged candidate to `slot`, for every pair `(n, slot)`, and lets all of
    /// them go. No slot is there twice.
    fn write(&mut self, placements: &[(u32, u32)]);

    /// Fills `columns` with columns of `rows.len()` rows (at least one) in this order, on `devices`
    /// (one per stored field), in the mini-batches' element types. The columns that it holds, if
    /// any, are of an earlier call: their memory may be used again.
    fn assemble(&self, rows: &[Source<'_>], devices: &[Device], columns: &mut Vec<Column>);

    /// Calls `sink(index, field, bytes)` for every stored field of every slot: `index` counts the
    /// slots, and the fields of a row come in order before those of the next row. The bytes are
    /// those of a packed row, see [`Source::Packed`].
    ///
    /// # Errors
    ///
    /// [`RehearsalError::Batch`] if a device fails.
    fn read(
        &self,
        slots: &[u32],
        sink: &mut dyn FnMut(usize, usize, &[u8]),
    ) -> Result<(), RehearsalError>;

    /// Overwrites `rows` slots from `first` on: `fields` holds the bytes of each stored field, row
    /// after row, as [`read`](Self::read) gives them.
    fn load(&mut self, first: u32, rows: usize, fields: &[Vec<u8>]);

    /// The layout of the rows.
    fn schema(&self) -> &Schema;

    /// The bytes that the rows occupy at full capacity.
    fn bytes(&self) -> usize;
}

/// Where a representative's values are.
#[derive(Debug, Clone, Copy)]
pub enum Source<'a> {
    /// In a slot of this store.
    Slot(u32),
    /// In a message: the row's fields one after the other, each
    /// [`row_bytes`](crate::batch::FieldLayout::row_bytes) long in its
    /// [`stored`](crate::batch::FieldLayout::stored) element type.
    Packed(&'a [u8]),
}

/// Where a rank's shard lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreLocation {
    /// In host memory.
    Host,
    /// On the device of each field.
    Device,
}

impl StoreLocation {
    /// The location of a shard of `bytes` bytes, where `limit` is the limit of
    /// [`StorePreference::Auto`] and `devices` are those of the mini-batches' fields.
    pub fn choose(preference: StorePreference, bytes: u64, limit: u64, devices: &[Device]) -> Self {
        match preference {
            StorePreference::Auto if bytes > limit || devices.iter().any(is_host) => Self::Host,
            StorePreference::Host => Self::Host,
            StorePreference::Auto | StorePreference::Device => Self::Device,
        }
    }

    /// `host` or `device`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Device => "device",
        }
    }
}

/// A store with room for `capacity` rows. `devices` are those of the first mini-batch, one per
/// stored field.
///
/// # Errors
///
/// [`RehearsalError::OutOfMemory`] if the memory cannot be had.
pub(crate) fn create(
    location: StoreLocation,
    schema: &Schema,
    capacity: usize,
    devices: &[Device],
) -> Result<Box<dyn Store>, RehearsalError> {
    Ok(match location {
        StoreLocation::Device => Box::new(DeviceStore::new(schema.clone(), capacity, devices)?),
        StoreLocation::Host => Box::new(HostStore::new(schema.clone(), capacity)?),
    })
}

/// A value that `make` uploads for a field on `device`. `last` holds the value of the field before,
/// which is used again if that field is on the same device.
pub(crate) fn on_device<'a, T>(
    last: &'a mut Option<(Device, T)>,
    device: &Device,
    make: impl FnOnce(&Device) -> T,
) -> &'a T {
    let usable = last.take().filter(|(place, _)| place == device);
    &last.insert(usable.unwrap_or_else(|| (device.clone(), make(device)))).1
}

/// Whether no slot is there twice, as [`Store::write`] asks for.
fn are_distinct(placements: &[(u32, u32)]) -> bool {
    placements
        .iter()
        .zip(1..)
        .all(|((_, slot), rest)| placements[rest..].iter().all(|(_, other)| slot != other))
}

/// Calls `visit` with every value of integers of type `dtype`.
///
/// # Errors
///
/// The first error of `visit`.
fn for_each_integer<E>(
    bytes: &[u8],
    dtype: DType,
    mut visit: impl FnMut(i64) -> Result<(), E>,
) -> Result<(), E> {
    match dtype {
        DType::I64 => {
            bytes.as_chunks::<8>().0.iter().try_for_each(|&value| visit(i64::from_ne_bytes(value)))
        }
        DType::I32 => bytes
            .as_chunks::<4>()
            .0
            .iter()
            .try_for_each(|&value| visit(i64::from(i32::from_ne_bytes(value)))),
        _ => {
            bytes.chunks_exact(dtype.size()).try_for_each(|value| visit(rows::widen(value, dtype)))
        }
    }
}

/// Calls `visit` with every value of a `bytes` field that came as integers of type `dtype`.
///
/// # Errors
///
/// [`BatchError::ByteRange`] with the first value that is not a byte.
fn for_each_byte(
    bytes: &[u8],
    dtype: DType,
    field: &'static str,
    mut visit: impl FnMut(u8),
) -> Result<(), BatchError> {
    for_each_integer(bytes, dtype, |value| {
        visit(u8::try_from(value).map_err(|_| BatchError::ByteRange { field, value })?);
        Ok(())
    })
}
