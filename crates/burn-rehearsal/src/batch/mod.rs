//! What a user's mini-batch looks like to the buffer: a row-aligned list of columns.
//!
//! [`RehearsalBatch`] turns any struct of tensors into [`Column`]s and back;
//! `#[derive(RehearsalBatch)]` writes it. Everything below the trait works on columns, so the
//! engine knows nothing of the user's type.

mod column;
mod host;
mod schema;

pub use column::Column;
#[doc(hidden)]
pub use column::Values;
pub use host::{is_host, tensor_with_room};
#[doc(hidden)]
pub use schema::{FieldLayout, Schema};

pub(crate) use column::index_tensor;
pub(crate) use host::HostRows;
pub(crate) use schema::first_u64;

use crate::error::BatchError;
use burn::tensor::{Bool, Int, Tensor};
use serde::{Deserialize, Serialize};

/// What a field of a mini-batch means to the buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Role {
    /// Stored and drawn like the rest; no further meaning.
    Data,
    /// The class of each row, shape `[rows]`, values `0..classes`.
    Class,
    /// The identity of each row's source sample, shape `[rows]`.
    Id,
    /// Filled by the buffer: `true` for rows that are representatives. Not stored. Shape `[rows]`.
    Representative,
}

/// The kind of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// `Tensor<D>`
    Float,
    /// `Tensor<D, Int>`
    Int,
    /// `Tensor<D, Bool>`
    Bool,
}

/// The static description of one tensor field of a mini-batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FieldSpec {
    /// The field's name, for messages.
    pub name: &'static str,
    /// What the field means.
    pub role: Role,
    /// Whether an integer field holds values `0..=255` and is to be stored as one byte each.
    pub bytes: bool,
    /// The kind of the tensor.
    pub kind: Kind,
}

/// A mini-batch that can be rehearsed: a struct of tensors whose first dimension is the row.
///
/// Derive it:
///
/// ```
/// use burn::tensor::{Bool, Int, Tensor};
/// use burn_rehearsal::RehearsalBatch;
///
/// #[derive(RehearsalBatch, Clone, Debug)]
/// struct Batch {
///     /// `[rows, channels, height, width]`, values 0..=255, stored as one byte each.
///     #[rehearsal(bytes)]
///     images: Tensor<4, Int>,
///     /// `[rows]`
///     #[rehearsal(class)]
///     targets: Tensor<1, Int>,
///     /// `[rows]`: which sample of the data set the row is.
///     #[rehearsal(id)]
///     index: Tensor<1, Int>,
///     /// `[rows]`: filled in by the buffer.
///     #[rehearsal(representative)]
///     replayed: Tensor<1, Bool>,
///     /// Anything that is not row-aligned; it keeps the value of the incoming mini-batch.
///     #[rehearsal(skip)]
///     note: String,
/// }
/// ```
///
/// Without a `class` field all rows are of class 0.
///
/// # Skipped fields
///
/// Fields marked `skip` are neither stored nor replayed: they keep the value of the incoming
/// mini-batch. If such a field has one entry per row, it has none for the representatives, unless a
/// function adds them:
///
/// ```
/// # use burn::tensor::{Int, Tensor};
/// # use burn_rehearsal::RehearsalBatch;
/// #[derive(RehearsalBatch)]
/// struct Batch {
///     tokens: Tensor<2, Int>,
///     /// One name per row.
///     #[rehearsal(skip, fill = replayed)]
///     names: Vec<String>,
/// }
///
/// fn replayed(names: &mut Vec<String>, representatives: usize) {
///     names.extend((0..representatives).map(|_| "replayed".to_owned()));
/// }
/// ```
pub trait RehearsalBatch: Send + Sized + 'static {
    /// The fields that are not tensors (a tuple of the `skip` fields).
    type Rest: Send + 'static;

    /// The tensor fields, in the order of [`into_parts`](Self::into_parts).
    const FIELDS: &'static [FieldSpec];

    /// The number of rows, incoming rows and representatives together.
    fn rows(&self) -> usize;

    /// Takes the mini-batch apart: appends one column per entry of [`FIELDS`](Self::FIELDS) to a
    /// list that the caller reuses.
    ///
    /// # Errors
    ///
    /// [`BatchError::EmptyField`] if a tensor has no element, [`BatchError::ColumnType`] if one is
    /// not what its device says; `columns` then holds the fields before it.
    fn into_parts(self, columns: &mut Vec<Column>) -> Result<Self::Rest, BatchError>;

    /// Adds entries for `representatives` more rows to the fields that have one entry per row but
    /// are not tensors. The default does nothing.
    fn fill(_rest: &mut Self::Rest, _representatives: usize) {}

    /// Puts a mini-batch together again.
    ///
    /// # Errors
    ///
    /// [`BatchError`] if the columns are not those of this type.
    fn from_parts(
        columns: impl Iterator<Item = Column>,
        rest: Self::Rest,
    ) -> Result<Self, BatchError>;
}

/// A tensor type that can be a field of a [`RehearsalBatch`]; implemented for tensors of any rank
/// and kind.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a column of a rehearsal batch",
    note = "a field must be a Burn `Tensor<D>`, `Tensor<D, Int>` or `Tensor<D, Bool>` whose first dimension is the row",
    note = "mark anything else with `#[rehearsal(skip)]`: it is not stored and keeps the value of the incoming mini-batch",
    note = "`#[rehearsal(skip, fill = function)]` adds entries for the representatives to a field with one entry per row"
)]
pub trait Field: Sized {
    /// The kind of the tensor.
    const KIND: Kind;

    /// The first dimension.
    fn rows(&self) -> usize;

    /// Erases the rank.
    ///
    /// # Errors
    ///
    /// [`BatchError::EmptyField`] if the tensor has no element, [`BatchError::ColumnType`] if it is
    /// not what its device says.
    fn into_column(self, name: &'static str) -> Result<Column, BatchError>;

    /// Restores the rank.
    ///
    /// # Errors
    ///
    /// [`BatchError::ColumnType`] if the column is of another kind or rank, or its rows have not as
    /// many elements as its shape says.
    fn from_column(column: Column, name: &'static str) -> Result<Self, BatchError>;
}

/// The type a `class` or `id` field must have.
#[diagnostic::on_unimplemented(
    message = "a `class` or `id` field must be `Tensor<1, Int>`, not `{Self}`",
    note = "one integer per row"
)]
pub trait RowInt {}
impl RowInt for Tensor<1, Int> {}

/// The type a `representative` field must have.
#[diagnostic::on_unimplemented(
    message = "a `representative` field must be `Tensor<1, Bool>`, not `{Self}`",
    note = "the buffer writes `true` for rows that were drawn from it"
)]
pub trait RowBool {}
impl RowBool for Tensor<1, Bool> {}

/// The type a `bytes` field must have.
#[diagnostic::on_unimplemented(
    message = "a `bytes` field must be an integer tensor `Tensor<D, Int>`, not `{Self}`",
    note = "values 0..=255 are stored as one byte each"
)]
pub trait IntField {}
impl<const D: usize> IntField for Tensor<D, Int> {}
