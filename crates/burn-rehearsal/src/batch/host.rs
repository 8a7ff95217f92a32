//! What the CPU backend allows beyond Burn's own operations: its rows are in host memory, so they can be read where they are, and a mini-batch
//! whose memory has room can grow in place.
//!
//! On every other device, and without the feature `flex`, the functions here decline and Burn's operations do the work.

#[cfg(feature = "flex")]
pub(crate) use flex::HostRows;
#[cfg(not(feature = "flex"))]
pub(crate) use none::HostRows;

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
    use crate::batch::column::Values;
    use burn::backend::Flex;
    use burn::backend::flex::{FlexTensor, Layout};
    use burn::tensor::kind::{Autodiff, Basic};
    use burn::tensor::{BackendPrimitive, Bytes, DType, Device, Element, GradientCheckpointingStrategy, Shape, Tensor, TensorData};
    use std::ops::Range;
    use std::sync::Arc;

    /// The values of a column, one row after the other in memory that is shared with the tensors it came from.
    #[derive(Debug, Clone)]
    pub(crate) struct HostRows {
        memory: Arc<Bytes>,
        /// Where in it.
        bytes: Range<usize>,
        rows: usize,
        dtype: DType,
        kind: Kind,
        /// The autodiff association of the tensor.
        strategy: Option<GradientCheckpointingStrategy>,
    }

    impl HostRows {
        /// Whether the values of a tensor without a gradient can be kept so.
        pub(crate) fn can_hold(kind: Kind, dtype: DType, device: &Device) -> bool {
            // Burn 0.22 takes some booleans for integers.
            let is_of_kind = match kind {
                Kind::Float => dtype.is_float() && !matches!(dtype, DType::QFloat(_)),
                Kind::Int => dtype.is_int() || dtype.is_uint(),
                Kind::Bool => dtype.is_bool(),
            };
            is_of_kind && super::is_host(device)
        }

        /// The rows of a tensor that [can be held](Self::can_hold), copied if they do not lie one after the other; `None` if it is not what its device says.
        pub(crate) fn take<const D: usize, K>(tensor: Tensor<D, K>, kind: Kind, device: &Device) -> Option<Self>
        where
            K: Basic + Autodiff + BackendPrimitive<Flex, Primitive = FlexTensor>,
        {
            let tensor = tensor.inner().try_into_primitive::<Flex>().ok()?;
            let tensor = if tensor.is_contiguous() { tensor } else { tensor.to_contiguous() };
            let (layout, dtype) = (tensor.layout(), tensor.dtype());
            let (start, rows) = (layout.start_offset(), *layout.shape().as_slice().first()?);
            let bytes = start * dtype.size()..(start + layout.num_elements()) * dtype.size();
            let strategy = device.gradient_checkpointing_strategy();
            Some(Self { memory: tensor.data_arc(), bytes, rows, dtype, kind, strategy })
        }

        /// The rows of `data`, shape `[rows, elements]`, if they can be held; otherwise the data.
        pub(crate) fn from_data(data: TensorData, kind: Kind, device: &Device) -> Result<Self, TensorData> {
            if !Self::can_hold(kind, data.dtype(), device) {
                return Err(data);
            }
            let strategy = device.gradient_checkpointing_strategy();
            let (bytes, shape, dtype) = data.into_parts();
            Ok(Self { bytes: 0..shape.num_elements() * dtype.size(), memory: Arc::new(bytes), rows: shape[0], dtype, kind, strategy })
        }

        /// As a tensor.
        pub(crate) fn into_tensor<const D: usize, K>(self, shape: Shape) -> Tensor<D, K>
        where
            K: Basic + Autodiff + BackendPrimitive<Flex, Primitive = FlexTensor>,
        {
            let mut layout = Layout::contiguous(shape);
            if self.bytes.start > 0 {
                layout = Layout::new(layout.shape().clone(), layout.strides().to_vec(), self.bytes.start / self.dtype.size());
            }
            let tensor = Tensor::from_primitive::<Flex>(FlexTensor::from_arc(self.memory, layout, self.dtype));
            match self.strategy {
                Some(strategy) => tensor.autodiff().with_gradient_checkpointing_strategy(strategy),
                None => tensor,
            }
        }

        /// As a tensor of shape `[rows, elements]`.
        pub(crate) fn into_values(self) -> Values {
            let shape = Shape::new([self.rows, self.bytes.len() / self.dtype.size() / self.rows]);
            match self.kind {
                Kind::Float => Values::Float(self.into_tensor(shape)),
                Kind::Int => Values::Int(self.into_tensor(shape)),
                Kind::Bool => Values::Bool(self.into_tensor(shape)),
            }
        }

        /// The memory, if it holds nothing else and nobody else has it.
        pub(crate) fn into_memory(self) -> Option<Bytes> {
            if self.bytes == (0..self.memory.len()) { Arc::try_unwrap(self.memory).ok() } else { None }
        }

        /// All rows, one after the other.
        pub(crate) fn bytes(&self) -> &[u8] {
            &self.memory[self.bytes.clone()]
        }

        /// The number of rows.
        pub(crate) fn len(&self) -> usize {
            self.rows
        }

        /// The element type.
        pub(crate) fn dtype(&self) -> DType {
            self.dtype
        }

        /// The kind of the tensor.
        pub(crate) fn kind(&self) -> Kind {
            self.kind
        }

        /// The device, with the autodiff association of the tensor.
        pub(crate) fn device(&self) -> Device {
            match self.strategy {
                None => Device::flex(),
                Some(GradientCheckpointingStrategy::Disabled) => Device::flex().autodiff(),
                Some(GradientCheckpointingStrategy::Balanced) => Device::flex().autodiff().gradient_checkpointing(),
            }
        }

        /// With the autodiff association of `device`, if it has one.
        pub(crate) fn on(self, device: &Device) -> Self {
            Self { strategy: device.gradient_checkpointing_strategy().or(self.strategy), ..self }
        }

        /// Appends `tail`, and says how many rows that copied: in the rows' own memory, if that has room and belongs to nobody else, otherwise all rows to new memory.
        /// `None`, and nothing happens, if the two are not of one type and width.
        pub(crate) fn append(&mut self, tail: &Self) -> Option<usize> {
            let same = self.kind == tail.kind && self.dtype == tail.dtype && self.bytes.len() * tail.rows == tail.bytes.len() * self.rows;
            if !same {
                return None;
            }
            let more = tail.bytes();
            let room = self.bytes.end..self.bytes.end + more.len();
            let copied = match Arc::get_mut(&mut self.memory).and_then(|memory| memory.get_mut(room)) {
                Some(room) => {
                    room.copy_from_slice(more);
                    self.bytes.end += more.len();
                    tail.rows
                }
                None => {
                    self.memory = Arc::new(joined([self.bytes(), more], self.dtype)?);
                    self.bytes = 0..self.memory.len();
                    self.rows + tail.rows
                }
            };
            self.rows += tail.rows;
            Some(copied)
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
    use crate::batch::Kind;
    use crate::batch::column::Values;
    use burn::tensor::kind::Basic;
    use burn::tensor::{Bytes, DType, Device, Shape, Tensor, TensorData};

    /// Rows in host memory: there are none.
    #[derive(Debug, Clone)]
    pub(crate) enum HostRows {}

    impl HostRows {
        pub(crate) fn take<const D: usize, K: Basic>(
            tensor: Tensor<D, K>,
            _kind: Kind,
            _tracked: bool,
        ) -> Result<Self, Option<Tensor<D, K>>> {
            Err(Some(tensor))
        }

        pub(crate) fn from_data(data: TensorData, _kind: Kind, _device: &Device) -> Result<Self, TensorData> {
            Err(data)
        }

        pub(crate) fn into_tensor<const D: usize, K: Basic>(self, _shape: Shape) -> Tensor<D, K> {
            match self {}
        }

        pub(crate) fn into_values(self) -> Values {
            match self {}
        }

        pub(crate) fn into_memory(self) -> Option<Bytes> {
            match self {}
        }

        pub(crate) fn bytes(&self) -> &[u8] {
            match *self {}
        }

        pub(crate) fn len(&self) -> usize {
            match *self {}
        }

        pub(crate) fn dtype(&self) -> DType {
            match *self {}
        }

        pub(crate) fn kind(&self) -> Kind {
            match *self {}
        }

        pub(crate) fn device(&self) -> Device {
            match *self {}
        }

        pub(crate) fn on(self, _device: &Device) -> Self {
            match self {}
        }

        pub(crate) fn append(&mut self, _tail: &Self) -> Option<usize> {
            match *self {}
        }
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
        column.host_rows().unwrap().bytes().as_ptr()
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
        assert!(values.clone().into_memory().is_none());
        let bytes = values.into_memory().unwrap();
        assert_eq!((bytes.as_ptr(), bytes.len()), (place, 12 * size_of::<i32>()));
    }

    #[test]
    fn host_rows_are_those_of_the_column_also_behind_a_slice() {
        let device = Device::flex();
        let part = with_room(4, 2, &device).slice(1..3).into_column("x").unwrap();
        let rows = part.host_rows().unwrap();
        assert_eq!(bytemuck::cast_slice::<u8, i32>(rows.bytes()), (6..18).collect::<Vec<i32>>());
        assert_eq!(rows.dtype(), burn::tensor::DType::I32);
    }

    #[test]
    #[should_panic(expected = "Shape")]
    fn a_wrong_number_of_values_panics_as_burn_does() {
        let _: Tensor<2, Int> = tensor_with_room(vec![0i32; 5], [2, 3], 1, &Device::flex());
    }
}
