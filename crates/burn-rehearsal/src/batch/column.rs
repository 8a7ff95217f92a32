//! A tensor with its rank erased: `[rows, elements]` and the shape of one row.

use super::host;
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

/// Applies the same expression to whichever kind a `Values` holds.
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

/// One field of a mini-batch: the same number of rows as its siblings, each of a fixed shape.
#[derive(Debug, Clone)]
pub struct Column {
    pub(super) values: Values,
    pub(super) row_shape: Shape,
}

impl Column {
    /// The number of rows, at least 1.
    pub fn rows(&self) -> usize {
        each!(&self.values, t => t.dims()[0])
    }

    /// The shape of one row: the tensor's shape without its first dimension.
    pub fn row_shape(&self) -> &[usize] {
        self.row_shape.as_slice()
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        each!(&self.values, t => t.dtype())
    }

    /// The device that holds the values, with its autodiff association.
    pub fn device(&self) -> Device {
        each!(&self.values, t => t.device())
    }

    /// The kind of the tensor.
    pub fn kind(&self) -> Kind {
        match self.values {
            Values::Float(_) => Kind::Float,
            Values::Int(_) => Kind::Int,
            Values::Bool(_) => Kind::Bool,
        }
    }

    /// The values, shape `[rows, elements]`.
    pub(crate) fn values(&self) -> &Values {
        &self.values
    }

    /// The values, shape `[rows, elements]`.
    pub fn into_values(self) -> Values {
        self.values
    }

    /// Copies the rows that `index` names into a new column on the same device, without autodiff.
    pub(crate) fn select(&self, index: &Tensor<1, Int>) -> Column {
        let index = index.clone();
        let values = match &self.values {
            Values::Float(t) => Values::Float(t.clone().inner().select(0, index)),
            Values::Int(t) => Values::Int(t.clone().inner().select(0, index)),
            Values::Bool(t) => Values::Bool(select_bools(t.clone().inner(), index)),
        };
        Column { values, row_shape: self.row_shape.clone() }
    }

    /// Appends the rows of `other`, in place if there is [room](super::tensor_with_room). They must have the same kind, element type, row shape and device.
    ///
    /// # Errors
    ///
    /// [`BatchError::ColumnType`] if the kinds differ.
    pub fn append(self, other: Column, field: &'static str) -> Result<Column, BatchError> {
        self.append_counting(&other, field).map(|(all, _)| all)
    }

    /// [`append`](Self::append), and how many rows that copied: all, or only those of `other`, which need not have the autodiff association of the device.
    pub(crate) fn append_counting(self, other: &Column, field: &'static str) -> Result<(Column, usize), BatchError> {
        let (all, copied) = host::append(self, other, field)?;
        if let Some(copied) = copied {
            return Ok((all, copied));
        }
        let copied = all.rows() + other.rows();
        let other = other.clone().on(&all.device());
        let values = match (all.values, other.values) {
            (Values::Float(a), Values::Float(b)) => Values::Float(Tensor::cat(vec![a, b], 0)),
            (Values::Int(a), Values::Int(b)) => Values::Int(Tensor::cat(vec![a, b], 0)),
            (Values::Bool(a), Values::Bool(b)) => Values::Bool(Tensor::cat(vec![a, b], 0)),
            _ => return Err(BatchError::ColumnType { field }),
        };
        Ok((Column { values, row_shape: all.row_shape }, copied))
    }

    /// Reads the values to the host, waiting for the device if need be.
    ///
    /// # Errors
    ///
    /// [`BatchError::Device`] if the device fails.
    pub fn into_data(self, field: &'static str) -> Result<TensorData, BatchError> {
        each!(self.values, t => t.try_into_data()).map_err(|error| BatchError::Device { field, reason: error.to_string() })
    }

    /// Uploads rows from the host. `data` has shape `[rows, elements]`; its element type is kept.
    pub fn from_data(data: TensorData, kind: Kind, row_shape: Shape, device: &Device) -> Column {
        let dtype = data.dtype();
        let values = match kind {
            Kind::Float => Values::Float(Tensor::from_data(data, (device, dtype))),
            Kind::Int => Values::Int(Tensor::from_data(data, (device, dtype))),
            Kind::Bool => Values::Bool(Tensor::from_data(data, (device, dtype))),
        };
        Column { values, row_shape }
    }

    /// The column of these values, whose rows have the shape `row_shape` of as many elements.
    pub(crate) fn of_values(values: Values, row_shape: Shape) -> Column {
        Column { values, row_shape }
    }

    /// The rows of `parts` one after the other, which must be alike but for their number; `None` for no part.
    pub(crate) fn concat(mut parts: Vec<Column>) -> Option<Column> {
        if parts.len() < 2 {
            return parts.pop();
        }
        let row_shape = parts.first()?.row_shape.clone();
        let (mut floats, mut ints, mut bools) = (Vec::new(), Vec::new(), Vec::new());
        for part in parts {
            match part.values {
                Values::Float(t) => floats.push(t),
                Values::Int(t) => ints.push(t),
                Values::Bool(t) => bools.push(t),
            }
        }
        let values = if !floats.is_empty() {
            Values::Float(Tensor::cat(floats, 0))
        } else if !ints.is_empty() {
            Values::Int(Tensor::cat(ints, 0))
        } else {
            Values::Bool(Tensor::cat(bools, 0))
        };
        Some(Column { values, row_shape })
    }

    /// Gives the rows another shape of as many elements, without touching the values.
    pub(crate) fn with_row_shape(self, row_shape: Shape) -> Column {
        Column { values: self.values, row_shape }
    }

    /// Moves the values to `device` if they are elsewhere.
    pub(crate) fn moved_to(self, device: &Device) -> Column {
        if self.device() == *device {
            return self;
        }
        let values = each!(self.values, t -> t.to_device(device));
        Column { values, row_shape: self.row_shape }
    }

    /// Converts the element type of an integer column.
    pub fn cast_int(self, dtype: DType) -> Column {
        match self.values {
            Values::Int(t) if t.dtype() != dtype => Column { values: Values::Int(t.cast(dtype)), row_shape: self.row_shape },
            values => Column { values, row_shape: self.row_shape },
        }
    }

    /// Gives the tensor the autodiff association of `device`, as the incoming mini-batch has it.
    pub fn on(self, device: &Device) -> Column {
        let Some(strategy) = device.gradient_checkpointing_strategy() else { return self };
        let values = each!(self.values, t -> t.autodiff().with_gradient_checkpointing_strategy(strategy));
        Column { values, row_shape: self.row_shape }
    }
}

/// The rows that `index` names. Burn 0.22's flex takes a selection of booleans for integers from then on; written into booleans they are right again.
fn select_bools(values: Tensor<2, Bool>, index: Tensor<1, Int>) -> Tensor<2, Bool> {
    let (device, dtype) = (values.device(), values.dtype());
    let selected = values.select(0, index);
    if selected.dtype() == dtype {
        return selected;
    }
    let [rows, elements] = selected.dims();
    Tensor::zeros([rows, elements], (&device, dtype)).slice_assign(0..rows, selected)
}

/// Row numbers on `device`, in 64 bits where it has them: flex uses those as they are.
pub(crate) fn index_tensor(rows: Vec<i64>, device: &Device) -> Tensor<1, Int> {
    let dtype = if device.supports_dtype(DType::I64) { DType::I64 } else { DType::I32 };
    let len = rows.len();
    Tensor::from_data(TensorData::new(rows, [len]).convert_dtype(dtype), (device, dtype))
}

macro_rules! field {
    ($kind:ident, $ty:ty) => {
        impl<const D: usize> Field for $ty {
            const KIND: Kind = Kind::$kind;

            fn into_column(self, name: &'static str) -> Result<Column, BatchError> {
                let dims = self.dims();
                if dims.contains(&0) {
                    return Err(BatchError::EmptyField { field: name, shape: dims.to_vec() });
                }
                let row_shape = Shape::from(&dims[1..]);
                let elements = row_shape.num_elements();
                Ok(Column { values: Values::$kind(self.reshape([dims[0], elements])), row_shape })
            }

            fn from_column(column: Column, name: &'static str) -> Result<Self, BatchError> {
                let rows = column.rows();
                match column.values {
                    Values::$kind(t) if column.row_shape.rank() + 1 == D => {
                        let mut shape = [rows; D];
                        shape[1..].copy_from_slice(column.row_shape.as_slice());
                        Ok(t.reshape(shape))
                    }
                    _ => Err(BatchError::ColumnType { field: name }),
                }
            }
        }
    };
}

field!(Float, Tensor<D>);
field!(Int, Tensor<D, Int>);
field!(Bool, Tensor<D, Bool>);
