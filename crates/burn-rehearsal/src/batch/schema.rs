//! The layout of mini-batches. The first mini-batch sets it, and every later one must match it.

use super::{Column, FieldSpec, Kind, Role};
use crate::error::BatchError;
use burn::tensor::{DType, Shape};

/// The shape and the element types of a field's rows.
#[derive(Debug, Clone, PartialEq)]
pub struct FieldLayout {
    /// The declaration in the batch type.
    pub spec: FieldSpec,
    /// The shape of one row.
    pub row_shape: Shape,
    /// The element type of the mini-batches.
    pub dtype: DType,
    /// The element type in the store: [`DType::U8`] for `bytes` fields, otherwise that of the
    /// mini-batches.
    pub stored: DType,
}

impl FieldLayout {
    fn of(spec: &FieldSpec, column: &Column) -> Result<Self, BatchError> {
        let dtype = column.dtype();
        if matches!(dtype, DType::QFloat(_)) {
            return Err(BatchError::Unsupported { field: spec.name, dtype: format!("{dtype:?}") });
        }
        let stored = if spec.bytes { DType::U8 } else { dtype };
        Ok(Self { spec: *spec, row_shape: column.row_shape().into(), dtype, stored })
    }

    /// The number of elements in a row.
    pub fn elements(&self) -> usize {
        self.row_shape.num_elements()
    }

    /// The size of a stored row of this field, in bytes.
    pub fn row_bytes(&self) -> usize {
        self.elements() * self.stored.size()
    }

    /// Whether the field is stored. All fields are, except the `representative` flag.
    pub fn is_stored(&self) -> bool {
        self.spec.role != Role::Representative
    }

    /// Checks the kind, the row shape and the element type of a column.
    fn check(&self, column: &Column) -> Result<(), BatchError> {
        if column.kind() != self.spec.kind
            || column.dims()[1] != column.row_shape().iter().product::<usize>()
        {
            return Err(BatchError::ColumnType { field: self.spec.name });
        }
        if column.row_shape() != self.row_shape.as_slice() || column.dtype() != self.dtype {
            let found = Self::of(&self.spec, column)?;
            return Err(BatchError::Changed {
                field: self.spec.name,
                expected: self.describe(),
                found: found.describe(),
            });
        }
        Ok(())
    }

    fn describe(&self) -> String {
        format!("{:?} of {:?}", self.row_shape.as_slice(), self.dtype)
    }
}

/// The layout of all tensor fields of a mini-batch.
#[derive(Debug, Clone, PartialEq)]
pub struct Schema {
    fields: Vec<FieldLayout>,
    digest: u64,
}

impl Schema {
    /// The layout of a mini-batch.
    ///
    /// # Errors
    ///
    /// [`BatchError`] if the fields have different numbers of rows, or if a field cannot be stored.
    pub fn of(specs: &[FieldSpec], columns: &[Column]) -> Result<Self, BatchError> {
        let fields = specs
            .iter()
            .zip(columns)
            .map(|(spec, column)| FieldLayout::of(spec, column))
            .collect::<Result<Vec<_>, _>>()?;
        let schema = Self::of_fields(fields);
        schema.check(columns)?;
        Ok(schema)
    }

    /// The layout of these fields.
    pub(crate) fn of_fields(fields: Vec<FieldLayout>) -> Self {
        Self { digest: digest(&fields), fields }
    }

    /// Checks a mini-batch against this layout and returns its number of rows.
    ///
    /// # Errors
    ///
    /// [`BatchError`] with the field that differs.
    pub fn check(&self, columns: &[Column]) -> Result<usize, BatchError> {
        let mut rows = None;
        for (layout, column) in self.fields.iter().zip(columns) {
            let found = column.rows();
            let (first, expected) = *rows.get_or_insert((layout.spec.name, found));
            if found != expected {
                return Err(BatchError::Rows { field: layout.spec.name, found, first, expected });
            }
            layout.check(column)?;
        }
        Ok(rows.map_or(0, |(_, rows)| rows))
    }

    /// The layout with late fields, which follow all other fields.
    ///
    /// # Errors
    ///
    /// [`BatchError`] if a field cannot be stored.
    pub(crate) fn with_late(
        &self,
        specs: &[FieldSpec],
        columns: &[Column],
    ) -> Result<Self, BatchError> {
        let mut fields = self.fields.clone();
        let late = specs.iter().filter(|spec| spec.role == Role::Late);
        for (spec, column) in late.zip(columns) {
            fields.push(FieldLayout::of(spec, column)?);
        }
        Ok(Self::of_fields(fields))
    }

    /// The layout without late fields.
    pub(crate) fn without_late(&self) -> Self {
        let fields = self.fields.iter().filter(|field| field.spec.role != Role::Late);
        Self::of_fields(fields.cloned().collect())
    }

    /// Checks the late fields of a mini-batch with `rows` incoming rows.
    ///
    /// # Errors
    ///
    /// [`BatchError`] with the field that differs.
    pub(crate) fn check_late(&self, columns: &[Column], rows: usize) -> Result<(), BatchError> {
        let late = self.fields.iter().filter(|field| field.spec.role == Role::Late);
        for (layout, column) in late.zip(columns) {
            let (field, found) = (layout.spec.name, column.rows());
            if found != rows {
                return Err(BatchError::LateRows { field, found, incoming: rows });
            }
            layout.check(column)?;
        }
        Ok(())
    }

    /// All tensor fields, in the order of the batch type. Late fields are the last.
    pub fn fields(&self) -> &[FieldLayout] {
        &self.fields
    }

    /// The stored fields, in order.
    pub fn stored(&self) -> impl Iterator<Item = &FieldLayout> {
        self.fields.iter().filter(|field| field.is_stored())
    }

    /// The size of a stored row, in bytes.
    pub fn row_bytes(&self) -> usize {
        self.stored().map(FieldLayout::row_bytes).sum()
    }

    /// The index, among the stored fields, of the field with `role`.
    pub fn position(&self, role: Role) -> Option<usize> {
        self.stored().position(|field| field.spec.role == role)
    }

    /// A digest that is equal on all ranks with the same batch type and shapes. Never 0.
    pub fn digest(&self) -> u64 {
        self.digest
    }
}

fn digest(fields: &[FieldLayout]) -> u64 {
    let mut hash = blake3::Hasher::new();
    for field in fields {
        hash.update(field.spec.name.as_bytes());
        let kind = match field.spec.kind {
            Kind::Float => 0u8,
            Kind::Int => 1,
            Kind::Bool => 2,
        };
        hash.update(&[0, kind, field.spec.bytes as u8, field.spec.role as u8]);
        hash.update(format!("{:?}", (field.dtype, field.row_shape.as_slice())).as_bytes());
    }
    first_u64(&hash.finalize()).max(1)
}

/// The first eight bytes of a hash.
pub(crate) fn first_u64(hash: &blake3::Hash) -> u64 {
    hash.as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}
