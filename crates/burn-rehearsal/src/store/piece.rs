//! One tensor of a store on a device.
//!
//! The tensor has one dimension with the rows in order. Some backends (CUDA) pad the last dimension
//! of tensors with more dimensions, which would make a store larger than it reports. The view
//! `[rows, elements]` uses the same memory.

use crate::batch::{Column, Kind, Values};
use burn::tensor::{Bool, DType, Device, IndexingUpdateOp, Int, Shape, Tensor};
use std::ops::Range;

/// Rows of one field with `elements` values each.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    values: Flat,
    rows: usize,
    elements: usize,
}

/// The values, shape `[rows * elements]`.
#[derive(Debug, Clone)]
enum Flat {
    Float(Tensor<1>),
    Int(Tensor<1, Int>),
    Bool(Tensor<1, Bool>),
}

impl Piece {
    /// Allocates zeros (`false`) of this kind and element type.
    pub(super) fn zeros(
        rows: usize,
        elements: usize,
        kind: Kind,
        dtype: DType,
        device: &Device,
    ) -> Self {
        let shape = [rows * elements];
        let values = match kind {
            Kind::Float => Flat::Float(Tensor::zeros(shape, (device, dtype))),
            Kind::Int => Flat::Int(Tensor::zeros(shape, (device, dtype))),
            Kind::Bool => Flat::Bool(Tensor::zeros(shape, (device, dtype))),
        };
        Self { values, rows, elements }
    }

    /// Whether the last value is zero, as after [`zeros`](Self::zeros). Some devices accept an
    /// allocation that exceeds their memory, and the failure shows only in the values.
    pub(super) fn is_there(&self) -> bool {
        let Some(last) = (self.rows * self.elements).checked_sub(1) else { return true };
        let last = last..last + 1;
        let data = match &self.values {
            Flat::Float(t) => t.clone().slice(last).try_into_data(),
            Flat::Int(t) => t.clone().slice(last).try_into_data(),
            Flat::Bool(t) => t.clone().slice(last).try_into_data(),
        };
        data.is_ok_and(|data| data.as_bytes().iter().all(|&byte| byte == 0))
    }

    /// Overwrites the rows from `at` on with the rows `rows` of `source`, a column of the same
    /// kind, element type, width and device. This happens in place if the piece has no other owner,
    /// since Burn copies only shared tensors on write.
    pub(super) fn write(self, at: usize, source: &Column, rows: Range<usize>) -> Self {
        let Self { values, rows: capacity, elements } = self;
        let (to, len) = (at * elements..(at + rows.len()) * elements, rows.len() * elements);
        let values = match (values, source.values()) {
            (Flat::Float(a), Values::Float(b)) => {
                Flat::Float(a.slice_assign(to, b.slice(rows).reshape([len])))
            }
            (Flat::Int(a), Values::Int(b)) => {
                Flat::Int(a.slice_assign(to, b.slice(rows).reshape([len])))
            }
            (Flat::Bool(a), Values::Bool(b)) => {
                Flat::Bool(a.slice_assign(to, b.slice(rows).reshape([len])))
            }
            // Impossible: the kind of a field is checked with the mini-batch.
            (values, _) => values,
        };
        Self { values, rows: capacity, elements }
    }

    /// Overwrites the rows `places` (shape `[rows, 1]`, all distinct) with the rows of `source`, in
    /// place as [`write`](Self::write) does. Does nothing for booleans, which Burn cannot scatter.
    pub(super) fn scatter(self, places: &Tensor<2, Int>, source: Column) -> Self {
        let Self { values, rows, elements } = self;
        let (two, one) = ([rows, elements], [rows * elements]);
        let (places, assign) = (places.clone(), IndexingUpdateOp::Assign);
        let values = match (values, source.into_values()) {
            (Flat::Float(a), Values::Float(b)) => {
                Flat::Float(a.reshape(two).scatter_nd(places, b, assign).reshape(one))
            }
            (Flat::Int(a), Values::Int(b)) => {
                Flat::Int(a.reshape(two).scatter_nd(places, b, assign).reshape(one))
            }
            (values, _) => values,
        };
        Self { values, rows, elements }
    }

    /// Copies the rows `index`. Each row has the shape `[elements]`.
    pub(super) fn select(&self, index: &Tensor<1, Int>) -> Column {
        let shape = [self.rows, self.elements];
        let values = match &self.values {
            Flat::Float(t) => Values::Float(t.clone().reshape(shape)),
            Flat::Int(t) => Values::Int(t.clone().reshape(shape)),
            Flat::Bool(t) => Values::Bool(t.clone().reshape(shape)),
        };
        Column::of_values(values, Shape::new([self.elements])).select(index)
    }
}
