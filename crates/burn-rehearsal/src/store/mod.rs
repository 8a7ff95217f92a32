//! Stores, which hold the rows of a shard.
//!
//! A store only moves rows. It has no notion of classes, policies or draws: its owner decides about
//! them on the host. A store returns rows as columns for a mini-batch, or as bytes for another
//! rank, a digest or a snapshot. The bytes of a row are the same in every store.

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

/// The rows of one shard. The caller chooses the slots.
///
/// Rows are written in two steps: [`stage`](Self::stage), then [`write`](Self::write). Between
/// them, the caller reads classes and identities and chooses slots.
pub trait Store: Send {
    /// Stages the candidates: the rows `rows` of the columns. There is one column per stored field,
    /// in schema order. Leaves `columns` empty.
    ///
    /// Memory that is shared with the caller is only read. [`write`](Self::write) releases it.
    ///
    /// # Errors
    ///
    /// [`RehearsalError::Batch`] if a value cannot be stored or a device fails. The stored rows are
    /// unchanged.
    fn stage(&mut self, columns: &mut Vec<Column>, rows: &[u32]) -> Result<(), RehearsalError>;

    /// Calls `visit` with the value of each staged candidate in a `class` or `id` field. `field` is
    /// the position among the stored fields.
    ///
    /// # Errors
    ///
    /// The first error of `visit`.
    fn staged(
        &self,
        field: usize,
        visit: &mut dyn FnMut(i64) -> Result<(), BatchError>,
    ) -> Result<(), BatchError>;

    /// Writes staged candidate `n` to `slot` for every pair `(n, slot)`, and releases all
    /// candidates. The slots must be distinct.
    fn write(&mut self, placements: &[(u32, u32)]);

    /// Fills `columns` with columns of `rows.len()` rows (at least one) in this order, on `devices`
    /// (one per stored field), in the element types of the mini-batches. If `columns` is not empty,
    /// it holds the columns of an earlier call, whose memory may be reused.
    fn assemble(&self, rows: &[Source<'_>], devices: &[Device], columns: &mut Vec<Column>);

    /// Calls `sink(index, field, bytes)` for every stored field of every slot, row by row. `index`
    /// is the position in `slots`. The bytes are those of a packed row, see [`Source::Packed`].
    ///
    /// # Errors
    ///
    /// [`RehearsalError::Batch`] if a device fails.
    fn read(
        &self,
        slots: &[u32],
        sink: &mut dyn FnMut(usize, usize, &[u8]),
    ) -> Result<(), RehearsalError>;

    /// Overwrites `rows` slots from `first` on. `fields` holds the bytes of each stored field, row
    /// by row, in the form of [`read`](Self::read).
    fn load(&mut self, first: u32, rows: usize, fields: &[Vec<u8>]);

    /// The layout of the rows.
    fn schema(&self) -> &Schema;

    /// The size of the rows at full capacity, in bytes.
    fn bytes(&self) -> usize;
}

/// The source of one row.
#[derive(Debug, Clone, Copy)]
pub enum Source<'a> {
    /// A slot of this store.
    Slot(u32),
    /// A row in a message: its fields in order, each
    /// [`row_bytes`](crate::batch::FieldLayout::row_bytes) long and in its
    /// [`stored`](crate::batch::FieldLayout::stored) element type.
    Packed(&'a [u8]),
}

/// The location of a rank's shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreLocation {
    /// In host memory.
    Host,
    /// On the device of each field.
    Device,
}

impl StoreLocation {
    /// Chooses the location of a shard of `bytes` bytes. `limit` is the limit of
    /// [`StorePreference::Auto`]. `devices` are the devices of the mini-batch's fields.
    ///
    /// ```
    /// # use burn::tensor::Device;
    /// use burn_rehearsal::{StoreLocation, StorePreference};
    ///
    /// let cpu = [Device::flex()];
    /// let location = StoreLocation::choose(StorePreference::Auto, 1 << 20, 1 << 30, &cpu);
    /// assert_eq!(location, StoreLocation::Host);
    /// ```
    pub fn choose(preference: StorePreference, bytes: u64, limit: u64, devices: &[Device]) -> Self {
        match preference {
            StorePreference::Auto if bytes > limit || devices.iter().any(is_host) => Self::Host,
            StorePreference::Host => Self::Host,
            StorePreference::Auto | StorePreference::Device => Self::Device,
        }
    }

    /// The name: `host` or `device`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Device => "device",
        }
    }
}

/// Creates a store with room for `capacity` rows. `devices` are the devices of the first
/// mini-batch, one per stored field.
///
/// # Errors
///
/// [`RehearsalError::OutOfMemory`] if the memory cannot be allocated.
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

/// Returns a value on `device`, which `make` uploads. `last` holds the value for the previous
/// field. It is reused if that field is on the same device.
pub(crate) fn on_device<'a, T>(
    last: &'a mut Option<(Device, T)>,
    device: &Device,
    make: impl FnOnce(&Device) -> T,
) -> &'a T {
    let usable = last.take().filter(|(place, _)| place == device);
    &last.insert(usable.unwrap_or_else(|| (device.clone(), make(device)))).1
}

/// Whether the slots are distinct, as [`Store::write`] requires.
fn are_distinct(placements: &[(u32, u32)]) -> bool {
    placements
        .iter()
        .zip(1..)
        .all(|((_, slot), rest)| placements[rest..].iter().all(|(_, other)| slot != other))
}

/// Calls `visit` with every value of `bytes`, which are integers of type `dtype`.
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

/// Calls `visit` with every value of a `bytes` field whose mini-batch has integers of type `dtype`.
///
/// # Errors
///
/// [`BatchError::ByteRange`] with the first value that does not fit in a byte.
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
