//! What the CPU backend allows beyond Burn's own operations: its rows are in host memory, so they can be read where they are, and a mini-batch
//! whose memory has room can grow in place.
//!
//! On every other device, and without the feature `flex`, the functions here decline and Burn's operations do the work.

#[cfg(feature = "flex")]
pub(crate) use flex::{HostRows, append, into_memory};
#[cfg(not(feature = "flex"))]
pub(crate) use none::{HostRows, append, into_memory};

use burn::tensor::kind::Basic;
use burn::tensor::{Device, Element, Tensor, TensorData};

/// Whether the memory of `device` is the host's. Burn compares devices without their autodiff association.
pub fn is_host(device: &Device) -> bool {
    #[cfg(feature = "flex")]
    return *device == Device::flex();
    #[cfg(not(feature = "flex"))]
    {
        let _ = device;
        false
    }
}

/// A tensor of `shape` from its values, with room for `room` more rows behind them where the device's memory is the host's.
///
/// A batcher that builds its mini-batches so, with room for r rows, saves the buffer from copying the b incoming rows: the representatives are
/// written into the room. The element type is that of the values. On other devices this is [`Tensor::from_data`].
///
/// # Panics
///
/// If the number of values is not that of `shape`, as `Tensor::from_data`.
///
/// ```
/// use burn::tensor::{Device, Int, Tensor};
/// use burn_rehearsal::batch::tensor_with_room;
///
/// let pixels = vec![0u8; 56 * 3 * 32 * 32];
/// let images: Tensor<4, Int> = tensor_with_room(pixels, [56, 3, 32, 32], 7, &Device::default());
/// assert_eq!(images.dims(), [56, 3, 32, 32]);
/// ```
pub fn tensor_with_room<E: Element, K: Basic, const D: usize>(
    mut values: Vec<E>,
    mut shape: [usize; D],
    room: usize,
    device: &Device,
) -> Tensor<D, K> {
    let elements: usize = shape.iter().product();
    let rows = shape.first().copied().unwrap_or(0);
    if room == 0 || rows == 0 || values.len() != elements || !is_host(device) {
        return Tensor::from_data(TensorData::new(values, shape), (device, E::dtype()));
    }
    values.resize(elements + elements / rows * room, E::default());
    shape[0] = rows + room;
    Tensor::from_data(TensorData::new(values, shape), (device, E::dtype())).slice(0..rows)
}

#[cfg(feature = "flex")]
mod flex {
    use crate::batch::Kind;
    use crate::batch::column::{Column, Values};
    use crate::error::BatchError;
    use burn::backend::Flex;
    use burn::backend::flex::{FlexTensor, Layout};
    use burn::tensor::{Bytes, DType, Element, Shape, Tensor};
    use std::ops::Range;
    use std::sync::Arc;

    /// The values of a column, shared with its tensor: reading them copies nothing.
    #[derive(Debug, Clone)]
    pub(crate) struct HostRows {
        tensor: FlexTensor,
        /// Where the rows are in the tensor's memory.
        bytes: Range<usize>,
    }

    impl HostRows {
        /// The rows of `column`, if they lie one after the other in host memory.
        pub(crate) fn of(column: &Column) -> Option<Self> {
            super::is_host(&column.device()).then(|| Self::in_host_memory(column))?
        }

        /// As [`of`](Self::of), for a column that is known to lie in host memory: to ask costs as much as all else here.
        fn in_host_memory(column: &Column) -> Option<Self> {
            Self::of_tensor(primitive(column)?).ok()
        }

        /// The rows of a column's tensor; the tensor, if they do not lie one after the other.
        fn of_tensor(tensor: FlexTensor) -> Result<Self, FlexTensor> {
            let (layout, size) = (tensor.layout(), tensor.dtype().size());
            let place = match (layout.shape().as_slice(), layout.strides()) {
                // What nearly every column looks like is seen at a glance.
                (&[rows, elements], &[stride, 1]) if usize::try_from(stride) == Ok(elements) => {
                    Some((layout.start_offset(), layout.start_offset() + rows * elements))
                }
                _ => layout.contiguous_offsets(),
            };
            match place {
                Some((start, end)) => Ok(Self { tensor, bytes: start * size..end * size }),
                None => Err(tensor),
            }
        }

        /// The numbers of rows and of elements in each.
        fn dims(&self) -> Option<[usize; 2]> {
            self.tensor.layout().shape().as_slice().try_into().ok()
        }

        /// All rows, one after the other.
        pub(crate) fn bytes(&self) -> &[u8] {
            &self.tensor.bytes()[self.bytes.clone()]
        }

        /// The element type.
        pub(crate) fn dtype(&self) -> DType {
            self.tensor.dtype()
        }
    }

    /// Another handle of the backend's own tensor, of a column in host memory; `None` if a gradient leads to it.
    fn primitive(column: &Column) -> Option<FlexTensor> {
        (!is_tracked(&column.values)).then(|| into_primitive(column.values.clone()))?
    }

    fn is_tracked(values: &Values) -> bool {
        matches!(values, Values::Float(tensor) if tensor.is_tracked())
    }

    /// The backend's own tensor of values in host memory, without a gradient.
    fn into_primitive(values: Values) -> Option<FlexTensor> {
        match values {
            Values::Float(tensor) => tensor.inner().try_into_primitive::<Flex>().ok(),
            Values::Int(tensor) => tensor.inner().try_into_primitive::<Flex>().ok(),
            Values::Bool(tensor) => tensor.inner().try_into_primitive::<Flex>().ok(),
        }
    }

    fn from_primitive(tensor: FlexTensor, kind: Kind) -> Values {
        match kind {
            Kind::Float => Values::Float(Tensor::from_primitive::<Flex>(tensor)),
            Kind::Int => Values::Int(Tensor::from_primitive::<Flex>(tensor)),
            Kind::Bool => Values::Bool(Tensor::from_primitive::<Flex>(tensor)),
        }
    }

    /// The memory of a column that nobody else has, to be used again.
    pub(crate) fn into_memory(column: Column) -> Option<Bytes> {
        let tensor = if super::is_host(&column.device()) { primitive(&column)? } else { return None };
        drop(column);
        tensor.is_unique().then(|| tensor.into_data().into_parts().0)
    }

    /// Appends `tail` to `column`, and says how many rows that copied: in the column's own memory, if that has room and belongs to nobody else, otherwise all rows to
    /// new memory. The two have the same row shape and device. `None` if they are not of one type, or do not lie in host memory one row after the other; then the
    /// column is as it was.
    ///
    /// # Errors
    ///
    /// [`BatchError::ColumnType`] if the column is not what its device says.
    pub(crate) fn append(column: Column, tail: &Column, field: &'static str) -> Result<(Column, Option<usize>), BatchError> {
        let (device, kind) = (column.device(), column.kind());
        if !super::is_host(&device) || kind != tail.kind() || is_tracked(&column.values) || matches!(column.dtype(), DType::QFloat(_)) {
            return Ok((column, None));
        }
        let Some(behind) = HostRows::in_host_memory(tail) else { return Ok((column, None)) };
        let Column { values, row_shape } = column;
        let of = |tensor| from_primitive(tensor, kind);
        let whole = |values, copied| Ok((Column { values, row_shape }.on(&device), copied));
        // Taken and not shared: this is the only handle, unless somebody outside has another.
        let own = match HostRows::of_tensor(into_primitive(values).ok_or(BatchError::ColumnType { field })?) {
            Ok(own) if own.dtype() == behind.dtype() => own,
            Ok(HostRows { tensor, .. }) | Err(tensor) => return whole(of(tensor), None),
        };
        let ([rows, elements], more) = match (own.dims(), behind.dims()) {
            (Some(dims), Some([more, elements])) if dims[1] == elements => (dims, more),
            _ => return whole(of(own.tensor), None),
        };
        let layout = Layout::contiguous(Shape::new([rows + more, elements]));
        match grown(own.tensor, &own.bytes, behind.bytes(), &layout) {
            Ok(tensor) => whole(of(tensor), Some(more)),
            Err(tensor) => match joined([&tensor.bytes()[own.bytes], behind.bytes()], tensor.dtype()) {
                Some(all) => whole(of(FlexTensor::new(all, layout, tensor.dtype())), Some(rows + more)),
                None => whole(of(tensor), None),
            },
        }
    }

    /// Writes `tail` behind the rows in their own memory, which then has this layout; the tensor as it was, if it has no room there or somebody else has it, too.
    fn grown(tensor: FlexTensor, rows: &Range<usize>, tail: &[u8], layout: &Layout) -> Result<FlexTensor, FlexTensor> {
        let room = rows.len()..rows.len() + tail.len();
        if rows.start != 0 || tensor.bytes().len() < room.end || !tensor.is_unique() {
            return Err(tensor);
        }
        let (mut data, dtype, before) = (tensor.data_arc(), tensor.dtype(), tensor.layout().clone());
        drop(tensor);
        match Arc::get_mut(&mut data).and_then(|memory| memory.get_mut(room)) {
            Some(room) => {
                room.copy_from_slice(tail);
                Ok(FlexTensor::from_arc(data, layout.clone(), dtype))
            }
            None => Err(FlexTensor::from_arc(data, before, dtype)),
        }
    }

    /// Values of one type behind one another in new memory, which is not filled before.
    fn joined(parts: [&[u8]; 2], dtype: DType) -> Option<Bytes> {
        fn of<E: Element + bytemuck::Pod>(parts: [&[u8]; 2]) -> Option<Bytes> {
            let mut all: Vec<E> = Vec::with_capacity((parts[0].len() + parts[1].len()) / size_of::<E>());
            for part in parts {
                all.extend_from_slice(bytemuck::try_cast_slice(part).ok()?);
            }
            Some(Bytes::from_elems(all))
        }
        match dtype.size() {
            1 => of::<u8>(parts),
            2 => of::<u16>(parts),
            4 => of::<u32>(parts),
            8 => of::<u64>(parts),
            _ => None,
        }
    }
}

/// Without the CPU backend no tensor is in host memory.
#[cfg(not(feature = "flex"))]
mod none {
    use crate::batch::Column;
    use crate::error::BatchError;
    use burn::tensor::{Bytes, DType};

    /// Rows in host memory: there are none.
    #[derive(Debug, Clone)]
    pub(crate) enum HostRows {}

    impl HostRows {
        pub(crate) fn of(_column: &Column) -> Option<Self> {
            None
        }

        pub(crate) fn bytes(&self) -> &[u8] {
            match *self {}
        }

        pub(crate) fn dtype(&self) -> DType {
            match *self {}
        }
    }

    pub(crate) fn append(column: Column, _tail: &Column, _field: &'static str) -> Result<(Column, Option<usize>), BatchError> {
        Ok((column, None))
    }

    pub(crate) fn into_memory(_column: Column) -> Option<Bytes> {
        None
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::batch::{Column, Field};
    use burn::tensor::Int;

    fn with_room(rows: usize, room: usize, device: &Device) -> Tensor<3, Int> {
        tensor_with_room((0..rows as i32 * 6).collect(), [rows, 2, 3], room, device)
    }

    fn column(rows: usize, room: usize, device: &Device) -> Column {
        with_room(rows, room, device).into_column("x").unwrap()
    }

    fn memory(column: &Column) -> *const u8 {
        HostRows::of(column).unwrap().bytes().as_ptr()
    }

    fn values(column: Column) -> Vec<i32> {
        column.into_data("x").unwrap().iter::<i32>().collect()
    }

    #[test]
    fn rows_are_appended_in_the_memory_that_has_room_for_them() {
        for device in [Device::flex(), Device::flex().autodiff()] {
            let tail = column(2, 0, &device);
            let before = column(4, 3, &device);
            let place = memory(&before);
            let after = before.append(tail, "x").unwrap();
            assert_eq!((after.rows(), after.row_shape(), after.device().is_autodiff()), (6, [2, 3].as_slice(), device.is_autodiff()));
            assert_eq!(memory(&after), place);
            assert_eq!(values(after), (0..24).chain(0..12).collect::<Vec<_>>());
        }
    }

    #[test]
    fn floats_on_an_autodiff_device_are_appended_in_place_too() {
        let device = Device::flex().autodiff();
        let floats = |rows: usize, room| tensor_with_room::<f32, burn::tensor::Float, 2>(vec![1.5; rows * 2], [rows, 2], room, &device);
        let before = floats(4, 1).into_column("x").unwrap();
        let place = memory(&before);
        let after = before.append(floats(1, 0).into_column("x").unwrap(), "x").unwrap();
        assert_eq!((memory(&after), after.device().is_autodiff()), (place, true));
        assert_eq!(after.into_data("x").unwrap().iter::<f32>().collect::<Vec<_>>(), [1.5; 10]);
    }

    #[test]
    fn without_enough_room_or_with_another_owner_the_rows_are_copied_and_the_owner_sees_no_change() {
        let device = Device::flex();
        let expected: Vec<i32> = (0..24).chain(0..12).collect();
        assert_eq!(values(column(4, 1, &device).append(column(2, 0, &device), "x").unwrap()), expected);
        let owner = with_room(4, 2, &device);
        let shared = owner.clone().into_column("x").unwrap();
        assert_eq!(values(shared.append(column(2, 0, &device), "x").unwrap()), expected);
        assert_eq!(owner.into_data().iter::<i32>().collect::<Vec<_>>(), (0..24).collect::<Vec<_>>());
    }

    #[test]
    fn the_memory_of_a_column_is_used_again_unless_somebody_else_has_it() {
        let device = Device::flex();
        let values = column(2, 0, &device);
        let place = memory(&values);
        assert!(into_memory(values.clone()).is_none());
        let bytes = into_memory(values).unwrap();
        assert_eq!((bytes.as_ptr(), bytes.len()), (place, 12 * size_of::<i32>()));
    }

    #[test]
    fn host_rows_are_those_of_the_column_also_behind_a_slice() {
        let device = Device::flex();
        let part = with_room(4, 2, &device).slice(1..3).into_column("x").unwrap();
        let rows = HostRows::of(&part).unwrap();
        assert_eq!(bytemuck::cast_slice::<u8, i32>(rows.bytes()), (6..18).collect::<Vec<i32>>());
        assert_eq!(rows.dtype(), burn::tensor::DType::I32);
    }

    #[test]
    #[should_panic(expected = "Shape")]
    fn a_wrong_number_of_values_panics_as_burn_does() {
        let _: Tensor<2, Int> = tensor_with_room(vec![0i32; 5], [2, 3], 1, &Device::flex());
    }
}
