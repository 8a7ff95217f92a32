//! What the CPU backend allows beyond Burn's own operations: its rows are in host memory, so they
//! can be read where they are, and a mini-batch whose memory has room can grow in place.
//!
//! On every other device, and without the feature `flex`, the functions here decline and Burn's
//! operations do the work.

#[cfg(feature = "flex")]
pub(crate) use flex::HostRows;
#[cfg(not(feature = "flex"))]
pub(crate) use none::HostRows;

use burn::tensor::kind::Basic;
use burn::tensor::{Device, Element, Tensor, TensorData};

/// Whether the memory of `device` is the host's. Burn compares devices without their autodiff
/// association.
pub fn is_host(device: &Device) -> bool {
    #[cfg(feature = "flex")]
    return *device == Device::flex();
    #[cfg(not(feature = "flex"))]
    {
        let _ = device;
        false
    }
}

/// A tensor of `shape` from its values, with room for `room` more rows behind them where the
/// device's memory is the host's.
///
/// A batcher does not need it: the buffer enlarges the memory of a mini-batch when it appends the
/// representatives. With room for r rows the allocator has nothing to do. The element type is that
/// of the values. On other devices this is [`Tensor::from_data`].
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
    use burn::tensor::{
        BackendPrimitive, Bytes, DType, Device, Element, GradientCheckpointingStrategy, Shape,
        Tensor, TensorData,
    };
    use std::ops::Range;
    use std::sync::Arc;

    /// The values of a column, one row after the other in memory that is shared with the tensors it
    /// came from.
    #[derive(Debug, Clone)]
    pub(crate) struct HostRows {
        memory: Arc<Bytes>,
        /// Where in it they begin, in bytes; all of them lie in it.
        start: usize,
        rows: usize,
        elements: usize,
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

        /// The rows of a tensor that [can be held](Self::can_hold) and to which no gradient leads,
        /// copied if they do not lie one after the other; `None` if it is not what its device says.
        pub(crate) fn take<const D: usize, K>(
            tensor: Tensor<D, K>,
            kind: Kind,
            device: &Device,
        ) -> Option<Self>
        where
            K: Basic + Autodiff + BackendPrimitive<Flex, Primitive = FlexTensor>,
        {
            let tensor = tensor.inner().try_into_primitive::<Flex>().ok()?;
            let tensor = if tensor.is_contiguous() { tensor } else { tensor.to_contiguous() };
            let (layout, dtype) = (tensor.layout(), tensor.dtype());
            let (rows, row) = layout.shape().as_slice().split_first()?;
            let (rows, elements) = (*rows, row.iter().product());
            let start = layout.start_offset() * dtype.size();
            Some(Self {
                memory: tensor.data_arc(),
                start,
                rows,
                elements,
                dtype,
                kind,
                strategy: device.gradient_checkpointing_strategy(),
            })
        }

        /// The rows of `data`, shape `[rows, elements]` without a 0, if they can be held; otherwise
        /// the data.
        pub(crate) fn from_data(
            data: TensorData,
            elements: usize,
            kind: Kind,
            device: &Device,
        ) -> Result<Self, TensorData> {
            let rows = match data.shape().as_slice() {
                &[rows, width] if rows * width > 0 && width == elements => rows,
                _ => return Err(data),
            };
            if !Self::can_hold(kind, data.dtype(), device) {
                return Err(data);
            }
            let (bytes, _, dtype) = data.into_parts();
            let strategy = device.gradient_checkpointing_strategy();
            Ok(Self { memory: Arc::new(bytes), start: 0, rows, elements, dtype, kind, strategy })
        }

        /// As a tensor of this shape, which has as many elements.
        pub(crate) fn into_tensor<const D: usize, K>(self, shape: Shape) -> Tensor<D, K>
        where
            K: Basic + Autodiff + BackendPrimitive<Flex, Primitive = FlexTensor>,
        {
            let mut layout = Layout::contiguous(shape);
            if self.start > 0 {
                layout = Layout::new(
                    layout.shape().clone(),
                    layout.strides().to_vec(),
                    self.start / self.dtype.size(),
                );
            }
            let tensor = Tensor::from_primitive::<Flex>(FlexTensor::from_arc(
                self.memory,
                layout,
                self.dtype,
            ));
            match self.strategy {
                Some(strategy) => tensor.autodiff().with_gradient_checkpointing_strategy(strategy),
                None => tensor,
            }
        }

        /// As a tensor of shape `[rows, elements]`.
        pub(crate) fn into_values(self) -> Values {
            let shape = Shape::new([self.rows, self.elements]);
            match self.kind {
                Kind::Float => Values::Float(self.into_tensor(shape)),
                Kind::Int => Values::Int(self.into_tensor(shape)),
                Kind::Bool => Values::Bool(self.into_tensor(shape)),
            }
        }

        /// The memory, if it holds nothing else and has no other owner.
        pub(crate) fn memory_mut(&mut self) -> Option<&mut [u8]> {
            if self.place() == (0..self.memory.len()) {
                Arc::get_mut(&mut self.memory).map(|memory| &mut **memory)
            } else {
                None
            }
        }

        /// All rows, one after the other.
        pub(crate) fn bytes(&self) -> &[u8] {
            &self.memory[self.place()]
        }

        fn place(&self) -> Range<usize> {
            self.start..self.start + self.rows * self.elements * self.dtype.size()
        }

        /// The number of rows and of elements in each.
        pub(crate) fn dims(&self) -> [usize; 2] {
            [self.rows, self.elements]
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
                Some(GradientCheckpointingStrategy::Balanced) => {
                    Device::flex().autodiff().gradient_checkpointing()
                }
            }
        }

        /// With the autodiff association of `device`, if it has one.
        pub(crate) fn on(self, device: &Device) -> Self {
            Self { strategy: device.gradient_checkpointing_strategy().or(self.strategy), ..self }
        }

        /// Appends `tail`, and returns how many rows that copied. Memory that has no other owner is
        /// written where it has room, and grows otherwise; else all rows are copied to new memory.
        /// `None`, and nothing happens, if the two differ in type or width.
        pub(crate) fn append(&mut self, tail: &Self) -> Option<usize> {
            if (self.kind, self.dtype, self.elements) != (tail.kind, tail.dtype, tail.elements) {
                return None;
            }
            let more = tail.bytes();
            let end = self.place().end;
            let in_place = write_room(&mut self.memory, end, more)
                || self.memory.len() == end && grow(&mut self.memory, more, self.dtype);
            let copied = if in_place {
                tail.rows
            } else {
                self.memory = Arc::new(joined([self.bytes(), more], self.dtype)?);
                self.start = 0;
                self.rows + tail.rows
            };
            self.rows += tail.rows;
            Some(copied)
        }
    }

    /// Writes `more` at `end` of memory without another owner, if there is room; whether it did.
    fn write_room(memory: &mut Arc<Bytes>, end: usize, more: &[u8]) -> bool {
        // Memory that is shared in another way is copied when it is written, so room comes first.
        let room = if memory.len() >= end + more.len() { Arc::get_mut(memory) } else { None };
        room.and_then(|memory| memory.get_mut(end..end + more.len()))
            .map(|room| room.copy_from_slice(more))
            .is_some()
    }

    /// Appends `more` to memory without another owner, as a `Vec` does: in its spare capacity, or
    /// after the allocator has enlarged it, which copies the rows before only if they cannot stay
    /// where they are. Returns false, and nothing happens, if the memory is not a `Vec` of such
    /// values.
    fn grow(memory: &mut Arc<Bytes>, more: &[u8], dtype: DType) -> bool {
        fn of<E: Element + bytemuck::Pod>(memory: &mut Bytes, more: &[u8]) -> bool {
            let Ok(more) = bytemuck::try_cast_slice(more) else { return false };
            match std::mem::replace(memory, Bytes::from_elems(Vec::<E>::new())).try_into_vec::<E>()
            {
                Ok(mut values) => {
                    values.reserve_exact(more.len());
                    values.extend_from_slice(more);
                    *memory = Bytes::from_elems(values);
                    true
                }
                Err(unchanged) => {
                    *memory = unchanged;
                    false
                }
            }
        }
        let Some(memory) = Arc::get_mut(memory) else { return false };
        match dtype.size() {
            1 => of::<u8>(memory, more),
            2 => of::<u16>(memory, more),
            4 => of::<u32>(memory, more),
            8 => of::<u64>(memory, more),
            _ => false,
        }
    }

    /// Values of one type behind one another in new memory, which is not filled before.
    fn joined(parts: [&[u8]; 2], dtype: DType) -> Option<Bytes> {
        fn of<E: Element + bytemuck::Pod>(parts: [&[u8]; 2]) -> Option<Bytes> {
            let mut all: Vec<E> =
                Vec::with_capacity((parts[0].len() + parts[1].len()) / size_of::<E>());
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
    use burn::tensor::{DType, Device, Shape, Tensor, TensorData};

    /// Rows in host memory: there are none.
    #[derive(Debug, Clone)]
    pub(crate) enum HostRows {}

    impl HostRows {
        pub(crate) fn can_hold(_kind: Kind, _dtype: DType, _device: &Device) -> bool {
            false
        }

        pub(crate) fn take<const D: usize, K: Basic>(
            _tensor: Tensor<D, K>,
            _kind: Kind,
            _device: &Device,
        ) -> Option<Self> {
            None
        }

        pub(crate) fn from_data(
            data: TensorData,
            _elements: usize,
            _kind: Kind,
            _device: &Device,
        ) -> Result<Self, TensorData> {
            Err(data)
        }

        pub(crate) fn into_tensor<const D: usize, K: Basic>(self, _shape: Shape) -> Tensor<D, K> {
            match self {}
        }

        pub(crate) fn into_values(self) -> Values {
            match self {}
        }

        pub(crate) fn memory_mut(&mut self) -> Option<&mut [u8]> {
            match *self {}
        }

        pub(crate) fn bytes(&self) -> &[u8] {
            match *self {}
        }

        pub(crate) fn dims(&self) -> [usize; 2] {
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
mod tests;
