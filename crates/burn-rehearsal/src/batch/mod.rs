//! Mini-batch types.
//!
//! A mini-batch is a struct of tensors whose first dimension is the row. Derive [`RehearsalBatch`]
//! for it: the derive splits a mini-batch into one [`Column`] per tensor and puts it together
//! again. The buffer works on columns only, so any kind of data can be stored: images, sequences,
//! several inputs, classes or regression targets.
//!
//! A field can be marked with a word, for example `#[rehearsal(class)]`. The page of the trait
//! [`RehearsalBatch`] lists all words.
//!
//! Values that are known only after the forward pass, for example logits, are [late
//! fields](layout#late-fields): the training step passes them to [`RowLayout::annotate`]. A
//! [`RowLayout`] also names the rows of each draw, if a step has [several
//! draws](crate::RehearsalConfig::with_draws).

mod column;
mod host;
pub mod layout;
mod schema;

pub use column::Column;
#[doc(hidden)]
pub use column::Values;
pub use host::{is_host, tensor_with_room};
pub use layout::{LateFields, LateType, NoLateFields, RowLayout};
#[doc(hidden)]
pub use schema::{FieldLayout, Schema};

pub(crate) use column::index_tensor;
pub(crate) use host::HostRows;
pub(crate) use layout::{Annotate, LayoutMaker, has_late};
pub(crate) use schema::first_u64;

use crate::error::BatchError;
use burn::tensor::{Bool, Int, Tensor};
use serde::{Deserialize, Serialize};

/// The role of a field of a mini-batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Role {
    /// The field is stored and drawn. It has no other meaning to the buffer.
    Data,
    /// The class of each row: shape `[rows]`, values `0..classes`.
    Class,
    /// The id of each row's sample in the data set: shape `[rows]`.
    Id,
    /// Written by the buffer: `true` for representatives. Not stored. Shape `[rows]`.
    Representative,
    /// Known after the forward pass only: a [late field](layout#late-fields).
    Late,
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

/// The declaration of a tensor field of a mini-batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FieldSpec {
    /// The name of the field.
    pub name: &'static str,
    /// The role of the field.
    pub role: Role,
    /// Whether the values of an integer field are in `0..=255` and are stored as bytes.
    pub bytes: bool,
    /// The kind of the tensor.
    pub kind: Kind,
    /// The element type to which the values of a late field are converted. `None` keeps their type.
    pub late: Option<LateType>,
}

/// A mini-batch type: a struct of tensors whose first dimension is the row.
///
/// Use the derive to implement it:
///
/// ```
/// use burn::tensor::{Int, Tensor};
/// use burn_rehearsal::RehearsalBatch;
///
/// #[derive(RehearsalBatch, Clone, Debug)]
/// struct Batch {
///     #[rehearsal(bytes)]
///     images: Tensor<4, Int>, // `[rows, channels, height, width]`, values 0..=255
///     #[rehearsal(class)]
///     targets: Tensor<1, Int>, // `[rows]`
/// }
/// ```
///
/// A field without a mark is a tensor that is stored and replayed. `#[rehearsal(WORD)]` marks a
/// field with one of these words:
///
/// | word | the field |
/// |---|---|
/// | `class` | holds the class of each row; without such a field, all rows have class 0 |
/// | `id` | holds the id of each row's sample in the data set |
/// | `representative` | is written by the buffer: `true` for representatives |
/// | `bytes` | holds integers `0..=255`, which are stored as one byte each |
/// | `late` | is known only after the forward pass: a [late field](layout#late-fields) |
/// | `layout` | is a [`RowLayout`], which names the incoming rows and the rows of each draw |
/// | `skip` | is not stored: see [skipped fields](#skipped-fields) |
///
/// The page of the [derive macro](macro@crate::RehearsalBatch) lists the types of the fields and
/// the rules for their number.
///
/// # Skipped fields
///
/// Fields marked `skip` are neither stored nor replayed: they keep the value of the incoming
/// mini-batch. If such a field has one entry per row, name a function that adds entries for the
/// representatives:
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
    /// The skipped fields. The derive makes it the tuple of their types.
    type Rest: Send + 'static;

    /// The [late fields](layout#late-fields). The derive writes a struct for them, or uses
    /// [`NoLateFields`].
    type Late: LateFields;

    /// The tensor fields, in the order of [`into_parts`](Self::into_parts), then the late fields.
    const FIELDS: &'static [FieldSpec];

    /// The number of rows: incoming rows and representatives.
    fn rows(&self) -> usize;

    /// Splits the mini-batch: appends one column per entry of [`FIELDS`](Self::FIELDS), except the
    /// late fields, to `columns` and returns the skipped fields.
    ///
    /// # Errors
    ///
    /// [`BatchError::EmptyField`] if a tensor is empty, [`BatchError::ColumnType`] if a tensor is
    /// not on the backend of its device, [`BatchError::LateFilled`] if a late field has a value.
    /// `columns` then holds the fields before it.
    fn into_parts(self, columns: &mut Vec<Column>) -> Result<Self::Rest, BatchError>;

    /// Adds entries for `representatives` more rows to skipped fields that have one entry per row.
    /// Default: does nothing.
    fn fill(_rest: &mut Self::Rest, _representatives: usize) {}

    /// Makes a mini-batch of columns, skipped fields and a layout. Late fields without a column
    /// become `None`.
    ///
    /// # Errors
    ///
    /// [`BatchError::ColumnType`] if the columns do not match the type.
    fn from_parts(
        columns: impl Iterator<Item = Column>,
        rest: Self::Rest,
        layout: RowLayout<Self>,
    ) -> Result<Self, BatchError>;
}

/// A tensor type that can be a field of a [`RehearsalBatch`]. Implemented for tensors of every rank
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

    /// The number of rows, which is the first dimension.
    fn rows(&self) -> usize;

    /// Converts the tensor to a column, which has no static rank.
    ///
    /// # Errors
    ///
    /// [`BatchError::EmptyField`] if the tensor is empty, [`BatchError::ColumnType`] if it is not
    /// on the backend of its device.
    fn into_column(self, name: &'static str) -> Result<Column, BatchError>;

    /// Converts a column to a tensor.
    ///
    /// # Errors
    ///
    /// [`BatchError::ColumnType`] if the kind or the rank of the column is different, or if the
    /// size of its rows does not match its shape.
    fn from_column(column: Column, name: &'static str) -> Result<Self, BatchError>;
}

/// The type of `class` and `id` fields.
#[diagnostic::on_unimplemented(
    message = "a `class` or `id` field must be `Tensor<1, Int>`, not `{Self}`",
    note = "one integer per row"
)]
pub trait RowInt {}
impl RowInt for Tensor<1, Int> {}

/// The type of `representative` fields.
#[diagnostic::on_unimplemented(
    message = "a `representative` field must be `Tensor<1, Bool>`, not `{Self}`",
    note = "the buffer writes `true` for rows that were drawn from it"
)]
pub trait RowBool {}
impl RowBool for Tensor<1, Bool> {}

/// The type of `bytes` fields.
#[diagnostic::on_unimplemented(
    message = "a `bytes` field must be an integer tensor `Tensor<D, Int>`, not `{Self}`",
    note = "values 0..=255 are stored as one byte each"
)]
pub trait IntField {}
impl<const D: usize> IntField for Tensor<D, Int> {}

/// The type of `late` fields.
#[diagnostic::on_unimplemented(
    message = "a `late` field cannot be `Option<{Self}>`",
    note = "it must be `Option<Tensor<D>>` or `Option<Tensor<D, Int>>`",
    note = "the batcher leaves it `None`, and `RowLayout::annotate` takes its values"
)]
pub trait LateField: Field {
    /// Converts the tensor to a column without autodiff, in the element type `late` if it is given.
    ///
    /// # Errors
    ///
    /// As [`Field::into_column`].
    fn into_late_column(
        self,
        name: &'static str,
        late: Option<LateType>,
    ) -> Result<Column, BatchError>;
}

impl<const D: usize> LateField for Tensor<D> {
    fn into_late_column(
        self,
        name: &'static str,
        late: Option<LateType>,
    ) -> Result<Column, BatchError> {
        let values = self.inner();
        match late.map(LateType::dtype) {
            Some(dtype) if values.dtype() != dtype => values.cast(dtype).into_column(name),
            _ => values.into_column(name),
        }
    }
}

impl<const D: usize> LateField for Tensor<D, Int> {
    fn into_late_column(
        self,
        name: &'static str,
        _late: Option<LateType>,
    ) -> Result<Column, BatchError> {
        self.inner().into_column(name)
    }
}

/// The type of `late` fields with an element type.
#[diagnostic::on_unimplemented(
    message = "a `late` field with an element type cannot be `Option<{Self}>`",
    note = "it must be `Option<Tensor<D>>`",
    note = "integers are stored in their own type: `#[rehearsal(late)]`"
)]
pub trait LateFloat {}
impl<const D: usize> LateFloat for Tensor<D> {}
