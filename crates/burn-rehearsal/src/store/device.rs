//! A shard on the training device: Burn tensors that are written with `slice_assign` or
//! `scatter_nd` and read with `select`.
//!
//! Invariant: these tensors have no other owner, because Burn copies a shared tensor before it
//! writes to it. The store therefore returns only copies of rows. The host reads classes,
//! identities, the extremes of `bytes` fields, and rows for other ranks, all on the thread that
//! owns the store.

use super::packed::{self, Packing};
use super::piece::Piece;
use super::scatter::{Part, Scatter};
use super::{Source, Store, for_each_byte, for_each_integer, on_device};
use crate::batch::{Column, FieldLayout, Kind, Role, Schema, Values, index_tensor, is_host};
use crate::error::{BatchError, RehearsalError};
use burn::tensor::{DType, Device, Int, Shape, Tensor, TensorData};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The largest size of a tensor under WebGPU, in bytes: half of the buffer size that every WebGPU
/// device can bind. A larger shard is split into pieces with the same number of rows.
const WEBGPU_PIECE_BYTES: usize = 64 << 20;
/// The largest size of a tensor elsewhere, in bytes. Positions fit in 32 bits, which makes kernels
/// faster. There are few pieces, since each one costs a kernel per write and draw.
const PIECE_BYTES: usize = 2 << 30;
/// The largest number of bytes that are read from a device at once.
const READ_BYTES: usize = 64 << 20;

/// The largest number of runs that are written with one kernel per run. More runs are written with
/// one scatter kernel, whose positions must be uploaded.
const FEW_RUNS: usize = 2;

/// The largest size of a piece on `devices`, in bytes. A device without an 8-bit type uses WebGPU.
fn piece_bytes(devices: &[Device]) -> usize {
    if devices.iter().all(|device| device.supports_dtype(DType::U8)) {
        PIECE_BYTES
    } else {
        WEBGPU_PIECE_BYTES
    }
}

/// A shard in the memory of a device.
#[derive(Debug)]
pub struct DeviceStore {
    schema: Schema,
    fields: Vec<FieldStore>,
    /// Slot s is row s % piece_rows of piece s / piece_rows, in every field.
    piece_rows: usize,
    bytes: usize,
    /// The runs of the current write. Reused from step to step.
    runs: Vec<Run>,
}

#[derive(Debug)]
struct FieldStore {
    field: FieldLayout,
    device: Device,
    /// The packing of a `bytes` field if the device has no 8-bit type.
    packing: Option<Packing>,
    /// The size of one row on the device, in bytes.
    width: usize,
    /// `None` only while a piece is being written.
    pieces: Vec<Option<Piece>>,
    /// The candidates in the stored form, after `stage` and before `write`.
    staged: Option<Column>,
    /// The staged classes or identities on the host.
    read: Option<TensorData>,
}

/// `len` adjacent candidates for adjacent slots of one piece.
#[derive(Debug, Clone, Copy)]
struct Run {
    row: usize,
    piece: usize,
    at: usize,
    len: usize,
}

impl DeviceStore {
    /// Allocates room for `capacity` rows. `devices` has one device per stored field.
    ///
    /// # Errors
    ///
    /// [`RehearsalError::OutOfMemory`] if the memory cannot be allocated.
    pub fn new(
        schema: Schema,
        capacity: usize,
        devices: &[Device],
    ) -> Result<Self, RehearsalError> {
        Self::with_layout(schema, capacity, devices, piece_bytes(devices), false)
    }

    /// Does the same as [`new`](Self::new) with pieces of at most `piece_bytes`. `packed` packs
    /// bytes even if the device has an 8-bit type.
    pub(super) fn with_layout(
        schema: Schema,
        capacity: usize,
        devices: &[Device],
        piece_bytes: usize,
        packed: bool,
    ) -> Result<Self, RehearsalError> {
        let mut fields: Vec<_> = schema
            .stored()
            .zip(devices)
            .map(|(field, device)| FieldStore::new(field, device, packed))
            .collect();
        let widest = fields.iter().map(|field| field.width).max().unwrap_or(0).max(1);
        let piece_rows = (piece_bytes / widest).clamp(1, capacity.max(1));
        let row_bytes: usize = fields.iter().map(|field| field.width).sum();
        let bytes = row_bytes
            .checked_mul(capacity)
            .ok_or(RehearsalError::OutOfMemory { bytes: usize::MAX })?;
        for field in &mut fields {
            field.allocate(capacity, piece_rows)?;
        }
        Ok(Self { schema, fields, piece_rows, bytes, runs: Vec::new() })
    }

    /// The number of staged candidates.
    fn staged_rows(&self) -> usize {
        self.fields.iter().find_map(|field| field.staged.as_ref()).map_or(0, Column::rows)
    }
}

impl FieldStore {
    fn new(field: &FieldLayout, device: &Device, packed: bool) -> Self {
        let elements = field.elements();
        let packed = field.spec.bytes && (packed || !device.supports_dtype(DType::U8));
        let packing = packed.then(|| Packing::new(elements, device));
        let width =
            packing.as_ref().map_or(field.row_bytes(), |packing| packing.words() * packed::BYTES);
        Self {
            field: field.clone(),
            device: device.clone(),
            packing,
            width,
            pieces: Vec::new(),
            staged: None,
            read: None,
        }
    }

    /// The element type on the device.
    fn dtype(&self) -> DType {
        if self.packing.is_some() { packed::WORD } else { self.field.stored }
    }

    /// Whether many runs are written with one scatter kernel. In host memory, one copy per row is
    /// faster than Burn's scatter. Burn cannot scatter booleans.
    fn scatters(&self) -> bool {
        !is_host(&self.device) && self.field.spec.kind != Kind::Bool
    }

    /// The number of values of one row on the device.
    fn columns(&self) -> usize {
        self.packing.as_ref().map_or(self.field.elements(), Packing::words)
    }

    fn allocate(&mut self, capacity: usize, piece_rows: usize) -> Result<(), RehearsalError> {
        let bytes = capacity * self.width;
        // A failed allocation of a tensor in host memory aborts the process, so try first.
        if is_host(&self.device) && Vec::<u8>::new().try_reserve_exact(bytes).is_err() {
            return Err(RehearsalError::OutOfMemory { bytes });
        }
        let zeros = || {
            let sizes =
                (0..capacity).step_by(piece_rows).map(|first| piece_rows.min(capacity - first));
            let piece = |rows| {
                Some(Piece::zeros(
                    rows,
                    self.columns(),
                    self.field.spec.kind,
                    self.dtype(),
                    &self.device,
                ))
            };
            let pieces: Vec<_> = sizes.map(piece).collect();
            let there = self.device.sync().is_ok() && pieces.iter().flatten().all(Piece::is_there);
            there.then_some(pieces)
        };
        // Some of Burn's backends panic if a device has too little memory. The pieces allocated
        // before the panic are dropped here.
        self.pieces = catch_unwind(AssertUnwindSafe(zeros))
            .ok()
            .flatten()
            .ok_or(RehearsalError::OutOfMemory { bytes })?;
        Ok(())
    }

    /// Stages the candidates in the stored form, checks the values of a `bytes` field, and reads
    /// classes and identities.
    fn stage(&mut self, column: Column) -> Result<(), BatchError> {
        let name = self.field.spec.name;
        let column = column.moved_to(&self.device);
        self.read = None;
        if matches!(self.field.spec.role, Role::Class | Role::Id) {
            self.read = Some(column.clone().into_data(name)?);
        }
        let elements = Shape::new([self.columns()]);
        if !self.field.spec.bytes || column.dtype() == DType::U8 && self.packing.is_none() {
            self.staged = Some(column.with_row_shape(elements));
            return Ok(());
        }
        let Values::Int(values) = column.into_values() else {
            return Err(BatchError::ColumnType { field: name });
        };
        check_bytes(&values, name)?;
        let stored = match &self.packing {
            Some(packing) => packing.pack(values),
            None => values.cast(DType::U8),
        };
        self.staged = Some(Column::of_values(Values::Int(stored), elements));
        Ok(())
    }

    /// Writes the staged rows with one kernel per run.
    fn write(&mut self, runs: &[Run]) {
        let Some(staged) = self.staged.take() else { return };
        for run in runs {
            self.rewrite(run.piece, |piece| {
                piece.write(run.at, &staged, run.row..run.row + run.len)
            });
        }
    }

    /// Writes the staged rows with one kernel per piece.
    fn scatter(&mut self, parts: &[Part]) {
        let Some(staged) = self.staged.take() else { return };
        for part in parts {
            let rows =
                part.sources.as_ref().map_or_else(|| staged.clone(), |rows| staged.select(rows));
            self.rewrite(part.piece, |piece| piece.scatter(&part.targets, rows));
        }
    }

    /// Replaces a piece with the result of `write`. The piece is taken out meanwhile, so that its
    /// tensor has only one owner.
    fn rewrite(&mut self, piece: usize, write: impl FnOnce(Piece) -> Piece) {
        if let Some(slot) = self.pieces.get_mut(piece)
            && let Some(piece) = slot.take()
        {
            *slot = Some(write(piece));
        }
    }

    /// Uploads `rows` packed rows in the stored form.
    fn upload<'a>(&self, rows: usize, packed: impl Iterator<Item = &'a [u8]>) -> Column {
        let mut bytes = Vec::with_capacity(rows * self.width);
        for row in packed {
            bytes.extend_from_slice(row);
            bytes.resize(bytes.len() + self.width - row.len(), 0);
        }
        let data = TensorData::from_bytes_vec(bytes, [rows, self.columns()], self.dtype());
        Column::from_data(data, self.field.spec.kind, Shape::new([self.columns()]), &self.device)
    }

    /// Copies the rows of `gather` in its order, in the stored form. `packed` provides the bytes of
    /// this field for each row that is not in this store.
    fn gather<'a>(
        &self,
        gather: &Gather,
        index: &Index,
        packed: impl Iterator<Item = &'a [u8]>,
    ) -> Option<Column> {
        let pieces = gather.pieces.keys().zip(&index.pieces);
        let mut parts: Vec<_> = pieces
            .filter_map(|(&piece, rows)| Some(self.pieces.get(piece)?.as_ref()?.select(rows)))
            .collect();
        if gather.packed > 0 {
            parts.push(self.upload(gather.packed, packed));
        }
        let all = Column::concat(parts)?;
        Some(match &index.order {
            Some(order) => all.select(order),
            None => all,
        })
    }

    /// Converts rows from the stored form to that of the mini-batches.
    fn restore(&self, column: Column) -> Column {
        let values = match (&self.packing, column.into_values()) {
            (Some(packing), Values::Int(words)) => Values::Int(packing.unpack(words)),
            (_, values) => values,
        };
        let column = Column::of_values(values, self.field.row_shape.clone());
        if self.field.spec.bytes { column.cast_int(self.field.dtype) } else { column }
    }
}

/// The rows of a draw, grouped by piece, and their order in the result.
#[derive(Debug)]
struct Gather {
    /// The rows of each piece.
    pieces: BTreeMap<usize, Vec<i64>>,
    /// The number of packed rows. They follow the rows of the pieces.
    packed: usize,
    /// Row i of the result is row `order[i]` of the concatenated parts. Empty if the order is the
    /// same.
    order: Vec<i64>,
}

/// The index tensors of a [`Gather`].
struct Index {
    pieces: Vec<Tensor<1, Int>>,
    order: Option<Tensor<1, Int>>,
}

impl Gather {
    fn new<'a>(rows: impl Iterator<Item = Source<'a>>, piece_rows: usize) -> Self {
        let mut places: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        let mut pieces: BTreeMap<usize, Vec<i64>> = BTreeMap::new();
        let mut elsewhere = Vec::new();
        for (place, row) in rows.enumerate() {
            match row {
                Source::Slot(slot) => {
                    let (piece, row) = (slot as usize / piece_rows, slot as usize % piece_rows);
                    pieces.entry(piece).or_default().push(row as i64);
                    places.entry(piece).or_default().push(place);
                }
                Source::Packed(_) => elsewhere.push(place),
            }
        }
        let packed = elsewhere.len();
        let parts: Vec<usize> = places.into_values().flatten().chain(elsewhere).collect();
        let mut order = Vec::new();
        if !parts.is_sorted() {
            order.resize(parts.len(), 0);
            parts.iter().enumerate().for_each(|(at, &place)| order[place] = at as i64);
        }
        Self { pieces, packed, order }
    }

    /// Uploads the index tensors to `device`.
    fn upload(&self, device: &Device) -> Index {
        let upload = |rows: &Vec<i64>| index_tensor(rows.clone(), device);
        Index {
            pieces: self.pieces.values().map(upload).collect(),
            order: (!self.order.is_empty()).then(|| upload(&self.order)),
        }
    }
}

impl Store for DeviceStore {
    fn stage(&mut self, columns: &mut Vec<Column>, rows: &[u32]) -> Result<(), RehearsalError> {
        for (column, field) in columns.drain(..).zip(&mut self.fields) {
            let whole = rows.len() == column.rows() && rows.is_sorted();
            let index = |column: &Column| {
                index_tensor(
                    rows.iter().map(|&row| i64::from(row)).collect(),
                    &column.device().inner(),
                )
            };
            field.stage(if whole { column } else { column.select(&index(&column)) })?;
        }
        Ok(())
    }

    fn staged(
        &self,
        field: usize,
        visit: &mut dyn FnMut(i64) -> Result<(), BatchError>,
    ) -> Result<(), BatchError> {
        let read = self.fields.get(field).and_then(|field| field.read.as_ref());
        read.map_or(Ok(()), |data| for_each_integer(data.as_bytes(), data.dtype(), visit))
    }

    fn write(&mut self, placements: &[(u32, u32)]) {
        debug_assert!(super::are_distinct(placements), "{placements:?}");
        self.runs.clear();
        for &(row, slot) in placements {
            let (row, piece, at) =
                (row as usize, slot as usize / self.piece_rows, slot as usize % self.piece_rows);
            match self.runs.last_mut() {
                Some(run)
                    if run.row + run.len == row && run.piece == piece && run.at + run.len == at =>
                {
                    run.len += 1
                }
                _ => self.runs.push(Run { row, piece, at, len: 1 }),
            }
        }
        let scatter = (self.runs.len() > FEW_RUNS)
            .then(|| Scatter::new(placements, self.staged_rows(), self.piece_rows));
        let mut parts = None;
        for field in &mut self.fields {
            match &scatter {
                Some(scatter) if field.scatters() => {
                    let parts = on_device(&mut parts, &field.device, |at| scatter.upload(at));
                    field.scatter(parts);
                }
                _ => field.write(&self.runs),
            }
        }
    }

    fn assemble(&self, rows: &[Source<'_>], devices: &[Device], columns: &mut Vec<Column>) {
        columns.clear();
        let gather = Gather::new(rows.iter().copied(), self.piece_rows);
        let mut index = None;
        let mut offset = 0;
        for (field, device) in self.fields.iter().zip(devices) {
            let index = on_device(&mut index, &field.device, |at| gather.upload(at));
            let bytes = offset..offset + field.field.row_bytes();
            offset = bytes.end;
            let packed = rows.iter().filter_map(|row| match row {
                Source::Packed(row) => Some(&row[bytes.clone()]),
                Source::Slot(_) => None,
            });
            let Some(column) = field.gather(&gather, index, packed) else { continue };
            columns.push(field.restore(column).moved_to(device));
        }
    }

    fn read(
        &self,
        slots: &[u32],
        sink: &mut dyn FnMut(usize, usize, &[u8]),
    ) -> Result<(), RehearsalError> {
        let at_once =
            (READ_BYTES / self.fields.iter().map(|field| field.width).sum::<usize>().max(1)).max(1);
        for (chunk, slots) in slots.chunks(at_once).enumerate() {
            let gather = Gather::new(slots.iter().map(|&slot| Source::Slot(slot)), self.piece_rows);
            let (mut index, mut data) = (None, Vec::with_capacity(self.fields.len()));
            for field in &self.fields {
                let name = field.field.spec.name;
                let index = on_device(&mut index, &field.device, |at| gather.upload(at));
                let column = field.gather(&gather, index, std::iter::empty());
                data.push(column.ok_or(BatchError::ColumnType { field: name })?.into_data(name)?);
            }
            for row in 0..slots.len() {
                for (number, (field, data)) in self.fields.iter().zip(&data).enumerate() {
                    let from = row * field.width;
                    sink(
                        chunk * at_once + row,
                        number,
                        &data.as_bytes()[from..from + field.field.row_bytes()],
                    );
                }
            }
        }
        Ok(())
    }

    fn load(&mut self, first: u32, rows: usize, fields: &[Vec<u8>]) {
        let placements: Vec<_> = (0..rows as u32).map(|row| (row, first + row)).collect();
        for (field, bytes) in self.fields.iter_mut().zip(fields) {
            field.staged =
                Some(field.upload(rows, bytes.chunks_exact(field.field.row_bytes().max(1))));
        }
        self.write(&placements);
    }

    fn schema(&self) -> &Schema {
        &self.schema
    }

    fn bytes(&self) -> usize {
        self.bytes
    }
}

/// Checks that all values fit in a byte. Reads only the minimum and the maximum, unless one of them
/// is out of range.
fn check_bytes(values: &Tensor<2, Int>, field: &'static str) -> Result<(), BatchError> {
    let read = |values: Tensor<2, Int>| {
        Column::of_values(Values::Int(values), Shape::new([])).into_data(field)
    };
    let extremes = Tensor::cat(vec![values.clone().min(), values.clone().max()], 0).reshape([1, 2]);
    let check = |data: TensorData| for_each_byte(data.as_bytes(), data.dtype(), field, |_| {});
    if check(read(extremes)?).is_ok() {
        return Ok(());
    }
    // The error names the first value out of range, as in a store on the host.
    check(read(values.clone())?)
}
