//! Columns: tensors without a static rank.

use super::host::HostRows;
use super::{Field, Kind};
use crate::error::BatchError;
use burn::tensor::{Bool, DType, Device, Int, Shape, Tensor, TensorData};

/// The values of a [`Column`], shape `[rows, elements]`.
#[derive(Debug, Clone)]
pub enum Values {
    /// Floating-point numbers.
    Float(Tensor<2>),
    /// Integers.
    Int(Tensor<2, Int>),
    /// Booleans.
    Bool(Tensor<2, Bool>),
}

/// Evaluates an expression for the tensor in a `Values`, for every kind.
macro_rules! each {
    ($values:expr, $t:ident => $body:expr) => {
        match $values {
            Values::Float($t) => $body,
            Values::Int($t) => $body,
            Values::Bool($t) => $body,
        }
    };
    ($values:expr, $t:ident -> $body:expr) => {
        match $values {
            Values::Float($t) => Values::Float($body),
            Values::Int($t) => Values::Int($body),
            Values::Bool($t) => Values::Bool($body),
        }
    };
}

/// The values of one field of a mini-batch: `[rows, elements]`, and the shape of a row.
#[derive(Debug, Clone)]
pub struct Column {
    data: Data,
    row_shape: Shape,
}

/// The values of a column. Values in host memory are kept as plain memory: a Burn tensor has some
/// hundred bytes of shapes and strides, and for small mini-batches, creating, reshaping and cloning
/// tensors would take longer than all other work on their rows.
#[derive(Debug, Clone)]
enum Data {
    Host(HostRows),
    Tensor(Box<Values>),
}

impl Column {
    /// The number of rows, at least 1.
    pub fn rows(&self) -> usize {
        self.dims()[0]
    }

    /// The number of rows, and of elements in each row.
    pub(super) fn dims(&self) -> [usize; 2] {
        match &self.data {
            Data::Host(rows) => rows.dims(),
            Data::Tensor(values) => each!(&**values, t => t.dims()),
        }
    }

    /// The shape of a row: the shape of the tensor without its first dimension.
    pub fn row_shape(&self) -> &[usize] {
        self.row_shape.as_slice()
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        match &self.data {
            Data::Host(rows) => rows.dtype(),
            Data::Tensor(values) => each!(&**values, t => t.dtype()),
        }
    }

    /// The device that holds the values, with its autodiff association.
    pub fn device(&self) -> Device {
        match &self.data {
            Data::Host(rows) => rows.device(),
            Data::Tensor(values) => each!(&**values, t => t.device()),
        }
    }

    /// The kind of the tensor.
    pub fn kind(&self) -> Kind {
        match &self.data {
            Data::Host(rows) => rows.kind(),
            Data::Tensor(values) => values.kind(),
        }
    }

    /// The values, shape `[rows, elements]`.
    pub(crate) fn values(&self) -> Values {
        match &self.data {
            Data::Host(rows) => rows.clone().into_values(),
            Data::Tensor(values) => Values::clone(values),
        }
    }

    /// The values, shape `[rows, elements]`.
    pub fn into_values(self) -> Values {
        match self.data {
            Data::Host(rows) => rows.into_values(),
            Data::Tensor(values) => *values,
        }
    }

    /// The rows, if they are in host memory; otherwise the column.
    pub(crate) fn into_host_rows(self) -> Result<HostRows, Column> {
        match self.data {
            Data::Host(rows) => Ok(rows),
            Data::Tensor(_) => Err(self),
        }
    }

    #[cfg(test)]
    pub(super) fn host_rows(&self) -> Option<&HostRows> {
        if let Data::Host(rows) = &self.data { Some(rows) } else { None }
    }

    /// The host memory of the column for reuse, if it holds only these rows and has no other owner.
    pub(crate) fn memory_mut(&mut self) -> Option<&mut [u8]> {
        match &mut self.data {
            Data::Host(rows) => rows.memory_mut(),
            Data::Tensor(_) => None,
        }
    }

    /// Copies the rows that `index` names into a new column on the same device, without autodiff.
    pub(crate) fn select(&self, index: &Tensor<1, Int>) -> Column {
        let index = index.clone();
        let values = match self.values() {
            Values::Float(t) => Values::Float(t.inner().select(0, index)),
            Values::Int(t) => Values::Int(t.inner().select(0, index)),
            Values::Bool(t) => Values::Bool(select_bools(t.inner(), index)),
        };
        Column::of_values(values, self.row_shape.clone())
    }

    /// Appends the rows of `other`, in place if the memory of this column has no other owner. Both
    /// must have the same kind, element type, row shape and device.
    ///
    /// # Errors
    ///
    /// [`BatchError::ColumnType`] if the kinds differ.
    pub fn append(mut self, other: Column, field: &'static str) -> Result<Column, BatchError> {
        self.append_counting(&other, field).map(|_| self)
    }

    /// Like [`append`](Self::append), and returns the number of rows copied: all rows, or only
    /// those of `other`. `other` may have another autodiff association. After an error, the column
    /// is unchanged.
    pub(crate) fn append_counting(
        &mut self,
        other: &Column,
        field: &'static str,
    ) -> Result<usize, BatchError> {
        if let Data::Host(rows) = &mut self.data {
            let copied = match &other.data {
                Data::Host(tail) => rows.append(tail),
                Data::Tensor(tail) => tail.host_rows().and_then(|tail| rows.append(&tail)),
            };
            if let Some(copied) = copied {
                return Ok(copied);
            }
        }
        let parts = vec![self.values(), other.clone().on(&self.device()).into_values()];
        let values = Values::cat(parts).ok_or(BatchError::ColumnType { field })?;
        self.data = Data::Tensor(Box::new(values));
        Ok(self.rows())
    }

    /// Reads the values to the host. Waits for the device.
    ///
    /// # Errors
    ///
    /// [`BatchError::Device`] if the device fails.
    pub fn into_data(self, field: &'static str) -> Result<TensorData, BatchError> {
        each!(self.into_values(), t => t.try_into_data())
            .map_err(|error| BatchError::Device { field, reason: error.to_string() })
    }

    /// Uploads rows from the host. `data` has shape `[rows, elements]`. Its element type is kept.
    pub fn from_data(data: TensorData, kind: Kind, row_shape: Shape, device: &Device) -> Column {
        let dtype = data.dtype();
        let data = match HostRows::from_data(data, row_shape.num_elements(), kind, device) {
            Ok(rows) => return Column { data: Data::Host(rows), row_shape },
            Err(data) => data,
        };
        let values = match kind {
            Kind::Float => Values::Float(Tensor::from_data(data, (device, dtype))),
            Kind::Int => Values::Int(Tensor::from_data(data, (device, dtype))),
            Kind::Bool => Values::Bool(Tensor::from_data(data, (device, dtype))),
        };
        Column::of_values(values, row_shape)
    }

    /// A column with one Boolean per row, of element type `dtype`.
    pub(crate) fn flags(flags: Vec<bool>, dtype: DType, device: &Device) -> Column {
        let rows = flags.len();
        Column::from_data(
            TensorData::new(flags, [rows, 1]).convert_dtype(dtype),
            Kind::Bool,
            Shape::new([]),
            device,
        )
    }

    /// A column of these values. `row_shape` has as many elements as a row.
    pub(crate) fn of_values(values: Values, row_shape: Shape) -> Column {
        Column { data: Data::Tensor(Box::new(values)), row_shape }
    }

    /// Concatenates the rows of `parts`, which may differ only in their number of rows. Returns
    /// `None` if `parts` is empty.
    pub(crate) fn concat(mut parts: Vec<Column>) -> Option<Column> {
        if parts.len() < 2 {
            return parts.pop();
        }
        let row_shape = parts.first()?.row_shape.clone();
        let values = Values::cat(parts.into_iter().map(Column::into_values).collect())?;
        Some(Column::of_values(values, row_shape))
    }

    /// The same values with another row shape, which has the same number of elements.
    pub(crate) fn with_row_shape(self, row_shape: Shape) -> Column {
        Column { data: self.data, row_shape }
    }

    /// Moves the values to `device`, if they are on another one.
    pub(crate) fn moved_to(self, device: &Device) -> Column {
        if self.device() == *device {
            return self;
        }
        let row_shape = self.row_shape.clone();
        Column::of_values(each!(self.into_values(), t -> t.to_device(device)), row_shape)
    }

    /// Converts the element type of an integer column. Other columns are unchanged.
    pub fn cast_int(self, dtype: DType) -> Column {
        if self.kind() != Kind::Int || self.dtype() == dtype {
            return self;
        }
        let row_shape = self.row_shape.clone();
        match self.into_values() {
            Values::Int(t) => Column::of_values(Values::Int(t.cast(dtype)), row_shape),
            values => Column::of_values(values, row_shape),
        }
    }

    /// Gives the values the autodiff association of `device`.
    pub fn on(self, device: &Device) -> Column {
        match self.data {
            Data::Host(rows) => {
                Column { data: Data::Host(rows.on(device)), row_shape: self.row_shape }
            }
            Data::Tensor(_) if !device.is_autodiff() => self,
            Data::Tensor(values) => Column {
                data: Data::Tensor(Box::new(values.on(device))),
                row_shape: self.row_shape,
            },
        }
    }
}

impl Values {
    fn kind(&self) -> Kind {
        match self {
            Values::Float(_) => Kind::Float,
            Values::Int(_) => Kind::Int,
            Values::Bool(_) => Kind::Bool,
        }
    }

    /// Concatenates the rows of `parts`. Returns `None` if `parts` is empty or the kinds differ.
    fn cat(parts: Vec<Values>) -> Option<Values> {
        macro_rules! cat {
            ($kind:ident) => {{
                let tensor = |part| if let Values::$kind(t) = part { Some(t) } else { None };
                let tensors: Option<Vec<_>> = parts.into_iter().map(tensor).collect();
                Some(Values::$kind(Tensor::cat(tensors?, 0)))
            }};
        }
        match parts.first()? {
            Values::Float(_) => cat!(Float),
            Values::Int(_) => cat!(Int),
            Values::Bool(_) => cat!(Bool),
        }
    }

    /// The rows, shared, if they are in host memory.
    fn host_rows(&self) -> Option<HostRows> {
        let (kind, device) = (self.kind(), each!(self, t => t.device()));
        if !HostRows::can_hold(kind, each!(self, t => t.dtype()), &device) {
            return None;
        }
        match self {
            Values::Float(t) if t.is_tracked() => None,
            values => each!(values, t => HostRows::take(t.clone(), kind, &device)),
        }
    }

    /// The same values with the autodiff association of `device`.
    fn on(self, device: &Device) -> Values {
        let Some(strategy) = device.gradient_checkpointing_strategy() else { return self };
        each!(self, t -> t.autodiff().with_gradient_checkpointing_strategy(strategy))
    }
}

/// Selects the rows in `index`. In Burn 0.22, a selection of Booleans on flex has an integer type.
/// Writing it into a Boolean tensor restores the type.
fn select_bools(values: Tensor<2, Bool>, index: Tensor<1, Int>) -> Tensor<2, Bool> {
    let (device, dtype) = (values.device(), values.dtype());
    let selected = values.select(0, index);
    if selected.dtype() == dtype {
        return selected;
    }
    let [rows, elements] = selected.dims();
    Tensor::zeros([rows, elements], (&device, dtype)).slice_assign(0..rows, selected)
}

/// Row numbers on `device`, as 64-bit integers if it supports them: flex uses these without a
/// conversion.
pub(crate) fn index_tensor(rows: Vec<i64>, device: &Device) -> Tensor<1, Int> {
    let dtype = if device.supports_dtype(DType::I64) { DType::I64 } else { DType::I32 };
    let len = rows.len();
    Tensor::from_data(TensorData::new(rows, [len]).convert_dtype(dtype), (device, dtype))
}

macro_rules! field {
    ($kind:ident, $ty:ty, $is_tracked:expr) => {
        impl<const D: usize> Field for $ty {
            const KIND: Kind = Kind::$kind;

            fn rows(&self) -> usize {
                self.dims()[0]
            }

            fn into_column(self, name: &'static str) -> Result<Column, BatchError> {
                let dims = self.dims();
                if dims.contains(&0) {
                    return Err(BatchError::EmptyField { field: name, shape: dims.to_vec() });
                }
                let row_shape = Shape::from(&dims[1..]);
                let device = self.device();
                if HostRows::can_hold(Kind::$kind, self.dtype(), &device) && !$is_tracked(&self) {
                    let rows = HostRows::take(self, Kind::$kind, &device)
                        .ok_or(BatchError::ColumnType { field: name })?;
                    return Ok(Column { data: Data::Host(rows), row_shape });
                }
                let values = Values::$kind(self.reshape([dims[0], row_shape.num_elements()]));
                Ok(Column::of_values(values, row_shape))
            }

            fn from_column(column: Column, name: &'static str) -> Result<Self, BatchError> {
                let [rows, elements] = column.dims();
                // The size of host rows is not checked again later.
                let same = column.kind() == Kind::$kind
                    && column.row_shape.rank() + 1 == D
                    && column.row_shape.num_elements() == elements;
                if !same {
                    return Err(BatchError::ColumnType { field: name });
                }
                let mut shape = [rows; D];
                shape[1..].copy_from_slice(column.row_shape.as_slice());
                match column.data {
                    Data::Host(rows) => Ok(rows.into_tensor(Shape::new(shape))),
                    Data::Tensor(values) => match *values {
                        Values::$kind(tensor) => Ok(tensor.reshape(shape)),
                        _ => Err(BatchError::ColumnType { field: name }),
                    },
                }
            }
        }
    };
}

field!(Float, Tensor<D>, Tensor::is_tracked);
field!(Int, Tensor<D, Int>, |_: &Self| false);
field!(Bool, Tensor<D, Bool>, |_: &Self| false);
