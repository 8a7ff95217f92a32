//! A copy of the stored rows as a Burn data set.

use crate::batch::{Column, FieldSpec, RehearsalBatch, Role, RowLayout};
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
/// Use it to look at the stored exemplars, or to train or evaluate on them. With
/// [`SnapshotBatcher`], Burn's loaders turn it into mini-batches of the user's type:
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
        let rows = samples.len();
        let mut columns = Vec::new();
        for (index, spec) in B::FIELDS.iter().filter(|spec| is_stored(spec)).enumerate() {
            let missing = || BatchError::ColumnType { field: spec.name };
            let values: Option<Vec<_>> =
                samples.iter().map(|sample| sample.fields.get(index)).collect();
            let values = values.ok_or_else(missing)?;
            let first = values.first().ok_or_else(missing)?;
            let (row_shape, dtype) = (first.shape().clone(), first.dtype());
            let bytes: Vec<_> = values.iter().map(|data| data.as_bytes()).collect();
            let shape = [rows, row_shape.num_elements()];
            let data = TensorData::try_from_bytes_vec(bytes.concat(), shape, dtype)
                .map_err(|_| missing())?;
            columns.push(Column::from_data(data, spec.kind, row_shape, device));
        }
        stored_batch(columns.into_iter(), rows, device)
    }
}

/// Builds a mini-batch of `rows` rows from the columns of its stored fields, on `device`.
pub(crate) fn stored_batch<B: RehearsalBatch<Rest: Default>>(
    mut stored: impl Iterator<Item = Column>,
    rows: usize,
    device: &Device,
) -> Result<B, BatchError> {
    let columns = B::FIELDS.iter().filter_map(|spec| {
        if is_stored(spec) {
            return stored.next();
        }
        Some(Column::flags(vec![true; rows], DType::Bool(BoolStore::Native), device))
    });
    B::from_parts(columns, B::Rest::default(), RowLayout::drawn(rows))
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
