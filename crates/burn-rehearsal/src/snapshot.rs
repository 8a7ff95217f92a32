//! A copy of the stored rows as a Burn data set.

use crate::batch::{Column, FieldSpec, Kind, RehearsalBatch, Role, RowLayout};
use crate::error::BatchError;
use crate::slots::RowHandle;
use burn::data::dataloader::batcher::Batcher;
use burn::data::dataset::{Dataset, DatasetError};
use burn::tensor::{BoolStore, DType, Device, TensorData};
use std::marker::PhantomData;
use std::sync::Arc;

/// One stored row.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredSample {
    /// The rank, slot and generation.
    pub handle: RowHandle,
    /// The class. 0 if the batch has no `class` field.
    pub class: usize,
    /// The task during which the row was stored.
    pub task: usize,
    /// The identity of the sample, if the batch has an `id` field.
    pub id: Option<i64>,
    /// The stored fields in the order of the batch type. Each has the shape and element type of one
    /// row.
    pub fields: Vec<TensorData>,
}

/// The rows of one rank's shard at one moment, in slot order, as a Burn [`Dataset`].
///
/// Use it to look at the stored exemplars, or to train or evaluate on them. [`batch`](Self::batch)
/// makes a mini-batch of chosen rows. With [`SnapshotBatcher`], Burn's loaders turn all rows into
/// mini-batches of the user's type:
///
/// ```
/// # use burn::data::dataloader::{DataLoader, DataLoaderBuilder};
/// # use burn::tensor::{Device, Tensor};
/// # use burn_rehearsal::{Capacity, RehearsalBatch, RehearsalConfig, SnapshotBatcher};
/// # #[derive(RehearsalBatch, Clone, Debug)]
/// # struct Batch { inputs: Tensor<2> }
/// # let load = || Batch { inputs: Tensor::zeros([4, 8], &Device::flex()) };
/// let buffer = RehearsalConfig::new(Capacity::Samples(500)).init::<Batch>()?;
/// buffer.rehearse(load())?;
/// let snapshot = buffer.snapshot()?;
/// assert_eq!(snapshot.samples().len(), 4);
/// let loader = DataLoaderBuilder::new(SnapshotBatcher::<Batch>::default())
///     .batch_size(3)
///     .build(snapshot);
/// for batch in loader.iter() {
///     assert!(batch??.inputs.dims()[0] <= 3);
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    samples: Arc<Vec<StoredSample>>,
}

impl Snapshot {
    pub(crate) fn new(samples: Vec<StoredSample>) -> Self {
        Self { samples: Arc::new(samples) }
    }

    /// The rows, in slot order.
    pub fn samples(&self) -> &[StoredSample] {
        &self.samples
    }

    /// Makes a mini-batch of the rows `rows` on `device`, in this order. A row is an index into
    /// [`samples`](Self::samples), and can occur several times.
    ///
    /// Fields have the values and element types of the mini-batches that were inserted. Fields
    /// marked `skip` take their default value, the `representative` field is `true`, late fields
    /// are `Some` if the buffer stores them, and the [row layout](RowLayout) is detached.
    ///
    /// Methods that train on the buffer alone use it (GDumb, Prabhu et al., ECCV 2020), and methods
    /// with a mean per class:
    ///
    /// ```
    /// # use burn::tensor::{Device, Int, Tensor};
    /// # use burn_rehearsal::{Capacity, RehearsalBatch, RehearsalConfig};
    /// # #[derive(RehearsalBatch)]
    /// # struct Batch { inputs: Tensor<1>, #[rehearsal(class)] targets: Tensor<1, Int> }
    /// # let device = Device::flex();
    /// # let [inputs, targets] = [[1, 5, 3], [0, 1, 0]].map(|v| Tensor::<1, Int>::from_data(v, &device));
    /// # let batch = Batch { inputs: inputs.float(), targets };
    /// # let buffer = RehearsalConfig::new(Capacity::Samples(500)).init::<Batch>()?;
    /// # buffer.rehearse(batch)?;
    /// let snapshot = buffer.snapshot()?;
    /// let samples = snapshot.samples().iter().enumerate();
    /// let rows: Vec<_> = samples.filter(|(_, s)| s.class == 0).map(|(row, _)| row).collect();
    /// let batch: Batch = snapshot.batch(&rows, &device)?;
    /// assert_eq!(batch.inputs.mean().into_scalar::<f32>(), 2.0);
    /// # Ok::<(), burn_rehearsal::error::RehearsalError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`BatchError::NoRow`] if a row does not exist, [`BatchError::EmptyField`] if `rows` is
    /// empty, [`BatchError::ColumnType`] if the stored rows are of another batch type.
    pub fn batch<B: RehearsalBatch<Rest: Default>>(
        &self,
        rows: &[usize],
        device: &Device,
    ) -> Result<B, BatchError> {
        let sample = |&row: &usize| {
            self.samples.get(row).ok_or(BatchError::NoRow { row, rows: self.samples.len() })
        };
        let samples: Vec<_> = rows.iter().map(sample).collect::<Result<_, _>>()?;
        collate(&samples, RowLayout::default(), device)
    }
}

/// An index past the end of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("index {index} is past the end of a snapshot of {len} samples")]
struct SnapshotIndexError {
    /// The index.
    index: usize,
    /// The number of samples.
    len: usize,
}

impl Dataset<StoredSample> for Snapshot {
    fn get(&self, index: usize) -> Result<StoredSample, DatasetError> {
        self.samples
            .get(index)
            .cloned()
            .ok_or_else(|| DatasetError::new(SnapshotIndexError { index, len: self.samples.len() }))
    }

    fn len(&self) -> usize {
        self.samples.len()
    }
}

/// Builds mini-batches of the user's type from stored rows. See [`Snapshot`] for an example.
///
/// Fields marked `skip` take their default value, and the `representative` field is `true`.
#[derive(Debug, Clone, Copy)]
pub struct SnapshotBatcher<B>(PhantomData<fn() -> B>);

impl<B> Default for SnapshotBatcher<B> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<B: RehearsalBatch<Rest: Default>> SnapshotBatcher<B> {
    /// Builds one mini-batch of `samples` on `device`.
    ///
    /// # Errors
    ///
    /// [`BatchError`] if there are no samples, or if they are of another batch type.
    pub fn try_batch(&self, samples: &[StoredSample], device: &Device) -> Result<B, BatchError> {
        let samples: Vec<_> = samples.iter().collect();
        collate(&samples, RowLayout::drawn(samples.len()), device)
    }
}

/// Builds a mini-batch of these rows on `device`.
fn collate<B: RehearsalBatch<Rest: Default>>(
    samples: &[&StoredSample],
    layout: RowLayout<B>,
    device: &Device,
) -> Result<B, BatchError> {
    let rows = samples.len();
    let stored = samples.iter().map(|sample| sample.fields.len()).max().unwrap_or(0);
    let mut columns = Vec::new();
    for (index, spec) in B::FIELDS.iter().filter(|spec| is_stored(spec)).enumerate() {
        let field = spec.name;
        if rows == 0 {
            return Err(BatchError::EmptyField { field, shape: vec![0] });
        }
        if spec.role == Role::Late && stored <= index {
            // The buffer does not store late fields, which are the last.
            break;
        }
        let values: Option<Vec<_>> =
            samples.iter().map(|sample| sample.fields.get(index)).collect();
        columns.push(
            values
                .and_then(|values| column_of(&values, spec.kind, device))
                .ok_or(BatchError::ColumnType { field })?,
        );
    }
    if stored > columns.len() {
        return Err(BatchError::ColumnType { field: "(one column more than fields)" });
    }
    stored_batch(columns.into_iter(), rows, layout, device)
}

/// The values of a field in several rows. `None` if they are of another kind, or differ in shape or
/// element type.
fn column_of(values: &[&TensorData], kind: Kind, device: &Device) -> Option<Column> {
    let first = values.first()?;
    let (row_shape, dtype) = (first.shape().clone(), first.dtype());
    let is_of_kind = match kind {
        Kind::Float => dtype.is_float(),
        Kind::Int => dtype.is_int() || dtype.is_uint(),
        // Burn 0.22 reports an integer type for some Boolean tensors.
        Kind::Bool => dtype.is_bool() || dtype == DType::U8,
    };
    let is_like_first = |data: &&TensorData| data.shape() == first.shape() && data.dtype() == dtype;
    if !is_of_kind || !values.iter().all(is_like_first) {
        return None;
    }
    let bytes: Vec<_> = values.iter().map(|data| data.as_bytes()).collect();
    let shape = [values.len(), row_shape.num_elements()];
    let data = TensorData::try_from_bytes_vec(bytes.concat(), shape, dtype).ok()?;
    Some(Column::from_data(data, kind, row_shape, device))
}

/// Builds a mini-batch of `rows` rows from the columns of its stored fields, on `device`.
pub(crate) fn stored_batch<B: RehearsalBatch<Rest: Default>>(
    mut stored: impl Iterator<Item = Column>,
    rows: usize,
    layout: RowLayout<B>,
    device: &Device,
) -> Result<B, BatchError> {
    let columns = B::FIELDS.iter().filter_map(|spec| {
        if is_stored(spec) {
            return stored.next();
        }
        Some(Column::flags(vec![true; rows], DType::Bool(BoolStore::Native), device))
    });
    B::from_parts(columns, B::Rest::default(), layout)
}

fn is_stored(spec: &FieldSpec) -> bool {
    spec.role != Role::Representative
}

/// The output of [`SnapshotBatcher`]: a mini-batch or an error. Burn's [`Batcher`] cannot return an
/// error in another way.
pub type SnapshotBatch<B> = Result<B, BatchError>;

impl<B: RehearsalBatch<Rest: Default>> Batcher<StoredSample, SnapshotBatch<B>>
    for SnapshotBatcher<B>
{
    fn batch(&self, items: Vec<StoredSample>, device: &Device) -> SnapshotBatch<B> {
        self.try_batch(&items, device)
    }
}
