//! Columns in host memory.
//!
//! Tensors of the CPU backend live in host memory. Their rows can be read without a copy, and a
//! mini-batch whose memory has spare capacity can grow in place. On every other device, and without
//! the feature `flex`, the functions here decline and Burn's operations do the work.

#[cfg(not(feature = "flex"))]
use copied as backend;
#[cfg(feature = "flex")]
use flex as backend;

use super::Kind;
use super::column::Values;
use backend::HostKind;
use burn::tensor::kind::Basic;
use burn::tensor::{
    Bytes, DType, Device, Element, GradientCheckpointingStrategy, Shape, Tensor, TensorData,
};
use std::ops::Range;
use std::sync::Arc;

/// Whether tensors of `device` live in host memory.
pub fn is_host(device: &Device) -> bool {
    // The comparison ignores the autodiff association.
    cfg!(feature = "flex") && *device == backend::device()
}

/// Creates a tensor with spare memory for `room` more rows, if `device` is the host.
///
/// A batcher does not need it, because the buffer grows the memory of a mini-batch when it appends
/// representatives. With room for r rows, no reallocation is necessary. The element type is that of
/// the values. On other devices, this is the same as [`Tensor::from_data`].
///
/// # Panics
///
/// Panics if the number of values does not match `shape`, like `Tensor::from_data`.
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

/// The rows of a column, one after the other, in memory that is shared with the tensor they came
/// from.
#[derive(Debug, Clone)]
pub(crate) struct HostRows {
    memory: Arc<Bytes>,
    /// The offset of the first row in `memory`, in bytes. All rows are inside it.
    start: usize,
    rows: usize,
    elements: usize,
    dtype: DType,
    kind: Kind,
    /// The autodiff association of the tensor.
    strategy: Option<GradientCheckpointingStrategy>,
}

impl HostRows {
    /// Whether an untracked tensor of this kind and element type on `device` can be kept as host
    /// rows.
    pub(crate) fn can_hold(kind: Kind, dtype: DType, device: &Device) -> bool {
        // Burn 0.22 reports an integer type for some Boolean tensors.
        let is_of_kind = match kind {
            Kind::Float => dtype.is_float() && !matches!(dtype, DType::QFloat(_)),
            Kind::Int => dtype.is_int() || dtype.is_uint(),
            Kind::Bool => dtype.is_bool(),
        };
        is_of_kind && is_host(device)
    }

    /// The rows of `data`, which has shape `[rows, elements]` without a 0, if they can be held;
    /// otherwise the data.
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

    /// A tensor of this shape, which has the same number of elements.
    pub(crate) fn into_tensor<const D: usize, K: HostKind>(self, shape: Shape) -> Tensor<D, K> {
        let strategy = self.strategy;
        let tensor = self.into_plain_tensor(shape);
        match strategy {
            Some(strategy) => tensor.autodiff().with_gradient_checkpointing_strategy(strategy),
            None => tensor,
        }
    }

    /// Tensors of shape `[rows, elements]`.
    pub(crate) fn into_values(self) -> Values {
        let shape = Shape::new([self.rows, self.elements]);
        match self.kind {
            Kind::Float => Values::Float(self.into_tensor(shape)),
            Kind::Int => Values::Int(self.into_tensor(shape)),
            Kind::Bool => Values::Bool(self.into_tensor(shape)),
        }
    }

    /// The memory, if it holds only these rows and has no other owner.
    pub(crate) fn memory_mut(&mut self) -> Option<&mut [u8]> {
        if self.range() == (0..self.memory.len()) {
            Arc::get_mut(&mut self.memory).map(|memory| &mut **memory)
        } else {
            None
        }
    }

    /// All rows, one after the other.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.memory[self.range()]
    }

    /// The bytes of `memory` that hold the rows.
    fn range(&self) -> Range<usize> {
        self.start..self.start + self.rows * self.elements * self.dtype.size()
    }

    /// The number of rows, and of elements in each row.
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
        let device = backend::device();
        match self.strategy {
            None => device,
            Some(GradientCheckpointingStrategy::Disabled) => device.autodiff(),
            Some(GradientCheckpointingStrategy::Balanced) => {
                device.autodiff().gradient_checkpointing()
            }
        }
    }

    /// The same rows with the autodiff association of `device`, if it has one.
    pub(crate) fn on(self, device: &Device) -> Self {
        Self { strategy: device.gradient_checkpointing_strategy().or(self.strategy), ..self }
    }

    /// Appends `tail` and returns the number of rows copied. Memory without another owner is used
    /// or grown in place. Otherwise all rows are copied to new memory. `None`, without a change, if
    /// the two differ in type or width.
    pub(crate) fn append(&mut self, tail: &Self) -> Option<usize> {
        if (self.kind, self.dtype, self.elements) != (tail.kind, tail.dtype, tail.elements) {
            return None;
        }
        let more = tail.bytes();
        let end = self.range().end;
        let in_place = write_at(&mut self.memory, end, more)
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

/// Writes `more` at offset `end` of memory without another owner, if it has room. Returns whether
/// it did.
fn write_at(memory: &mut Arc<Bytes>, end: usize, more: &[u8]) -> bool {
    // `Bytes` that are shared internally are copied when they are written: check for room first.
    let room = if memory.len() >= end + more.len() { Arc::get_mut(memory) } else { None };
    room.and_then(|memory| memory.get_mut(end..end + more.len()))
        .map(|room| room.copy_from_slice(more))
        .is_some()
}

/// Appends `more` to memory without another owner, like `Vec::extend`. Returns false, without a
/// change, if the memory is not a `Vec` of elements of this size.
fn grow(memory: &mut Arc<Bytes>, more: &[u8], dtype: DType) -> bool {
    fn of<E: Element + bytemuck::Pod>(memory: &mut Bytes, more: &[u8]) -> bool {
        let Ok(more) = bytemuck::try_cast_slice(more) else { return false };
        let taken = std::mem::replace(memory, Bytes::from_elems(Vec::<E>::new()));
        let grown = taken.try_into_vec::<E>().map(|mut values| {
            values.reserve_exact(more.len());
            values.extend_from_slice(more);
            Bytes::from_elems(values)
        });
        let is_vec = grown.is_ok();
        *memory = grown.unwrap_or_else(|unchanged| unchanged);
        is_vec
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

/// The elements of both parts in new memory, which is not zeroed first.
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

/// Access to the memory of tensors of the CPU backend.
#[cfg(feature = "flex")]
mod flex {
    use super::{HostRows, Kind};
    use burn::backend::Flex;
    use burn::backend::flex::{FlexTensor, Layout};
    use burn::tensor::kind::{Autodiff, Basic};
    use burn::tensor::{BackendPrimitive, Device, Shape, Tensor};

    /// A kind of tensor.
    pub(crate) trait HostKind:
        Basic + Autodiff + BackendPrimitive<Flex, Primitive = FlexTensor>
    {
    }
    impl<K: Basic + Autodiff + BackendPrimitive<Flex, Primitive = FlexTensor>> HostKind for K {}

    pub(super) fn device() -> Device {
        Device::flex()
    }

    impl HostRows {
        /// The rows of an untracked tensor that [can be held](Self::can_hold), copied if they are
        /// not contiguous. `None` if the tensor is not on the backend of its device.
        pub(crate) fn take<const D: usize, K: HostKind>(
            tensor: Tensor<D, K>,
            kind: Kind,
            device: &Device,
        ) -> Option<Self> {
            let tensor = tensor.inner().try_into_primitive::<Flex>().ok()?;
            let tensor = if tensor.is_contiguous() { tensor } else { tensor.to_contiguous() };
            let (layout, dtype) = (tensor.layout(), tensor.dtype());
            let (rows, row) = layout.shape().as_slice().split_first()?;
            Some(Self {
                start: layout.start_offset() * dtype.size(),
                rows: *rows,
                elements: row.iter().product(),
                dtype,
                kind,
                strategy: device.gradient_checkpointing_strategy(),
                memory: tensor.data_arc(),
            })
        }

        /// A tensor of this shape without autodiff.
        pub(super) fn into_plain_tensor<const D: usize, K: HostKind>(
            self,
            shape: Shape,
        ) -> Tensor<D, K> {
            let mut layout = Layout::contiguous(shape);
            if self.start > 0 {
                let (shape, strides) = (layout.shape().clone(), layout.strides().to_vec());
                layout = Layout::new(shape, strides, self.start / self.dtype.size());
            }
            let tensor = FlexTensor::from_arc(self.memory, layout, self.dtype);
            Tensor::from_primitive::<Flex>(tensor)
        }
    }
}

/// Without the CPU backend no tensor is in host memory, so nothing becomes [`HostRows`].
#[cfg(not(feature = "flex"))]
mod copied {
    use super::{HostRows, Kind};
    use burn::tensor::kind::{Autodiff, Basic};
    use burn::tensor::{Device, Shape, Tensor, TensorData};

    /// A kind of tensor.
    pub(crate) trait HostKind: Basic + Autodiff {}
    impl<K: Basic + Autodiff> HostKind for K {}

    pub(super) fn device() -> Device {
        Device::default()
    }

    impl HostRows {
        pub(crate) fn take<const D: usize, K: HostKind>(
            _tensor: Tensor<D, K>,
            _kind: Kind,
            _device: &Device,
        ) -> Option<Self> {
            None
        }

        pub(super) fn into_plain_tensor<const D: usize, K: HostKind>(
            self,
            shape: Shape,
        ) -> Tensor<D, K> {
            let data = TensorData::from_bytes_vec(self.bytes().to_vec(), shape, self.dtype);
            Tensor::from_data(data, (&device(), self.dtype))
        }
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests;
