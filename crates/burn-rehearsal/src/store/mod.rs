//! Where rows live.

mod host;

pub use host::HostStore;

pub(crate) use host::for_each_integer;

use crate::batch::{Column, Schema};
use crate::error::RehearsalError;
use burn::tensor::{Device, TensorData};

/// The rows of one shard. Slots are chosen by the caller; a store only moves bytes.
pub trait Store: Send {
    /// Writes row `row` of the columns (the stored fields, in schema order) to `slot`, for every pair. Later pairs win.
    ///
    /// # Errors
    ///
    /// [`RehearsalError::Batch`] if a value cannot be stored; then nothing was written.
    fn write(&mut self, columns: &[TensorData], placements: &[(u32, u32)]) -> Result<(), RehearsalError>;

    /// Appends the bytes of the row in `slot`, all stored fields one after the other.
    fn pack(&self, slot: u32, out: &mut Vec<u8>);

    /// Appends columns of `rows.len()` rows on `devices` (one per stored field) to `columns`, in the mini-batches' element types.
    fn assemble(&self, rows: &[Source<'_>], devices: &[Device], columns: &mut Vec<Column>);

    /// The values of the row in `slot`, one entry per stored field, of shape `[row_shape…]`, in the mini-batches' element types.
    fn row(&self, slot: u32) -> Vec<TensorData>;

    /// Feeds the canonical form of the row in `slot` to `sink`: integers as i64 little-endian, booleans as one byte, floats by their bits.
    fn canonical(&self, slot: u32, sink: &mut dyn FnMut(&[u8]));

    /// The layout of the rows.
    fn schema(&self) -> &Schema;

    /// The bytes that the rows occupy at full capacity.
    fn bytes(&self) -> usize;
}

/// Where a representative's bytes are.
#[derive(Debug, Clone, Copy)]
pub enum Source<'a> {
    /// In a slot of this store.
    Slot(u32),
    /// In a message, as [`Store::pack`] wrote them.
    Packed(&'a [u8]),
}
