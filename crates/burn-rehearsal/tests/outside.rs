//! Rows outside of steps: the stored rows as a mini-batch, and buffers that only `fill` changes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use burn::tensor::{Bool, DType, Device, Int, Tensor, TensorData};
use burn_rehearsal::error::BatchError;
use burn_rehearsal::{
    Capacity, Execution, RehearsalBatch, RehearsalBuffer, RehearsalConfig, RowCount, RowLayout,
    SnapshotBatcher, StorePreference,
};
use burn_rehearsal_collective::{Collective, run_threads};
use std::convert::Infallible;

#[derive(RehearsalBatch, Clone, Debug)]
struct Batch {
    /// `[rows, 1, 2]`, 32 bits in mini-batches.
    #[rehearsal(bytes)]
    image: Tensor<3, Int>,
    /// `[rows, 2]`, 64 bits.
    features: Tensor<2>,
    /// `[rows]`, 16 bits.
    weight: Tensor<1>,
    /// `[rows, 2]`
    mask: Tensor<2, Bool>,
    /// `[rows]`
    #[rehearsal(class)]
    class: Tensor<1, Int>,
    /// `[rows]`
    #[rehearsal(representative)]
    replayed: Tensor<1, Bool>,
    #[rehearsal(skip)]
    note: String,
    #[rehearsal(layout)]
    rows: RowLayout<Self>,
}

/// A mini-batch of these rows.
fn batch_on(numbers: &[i64], device: &Device) -> Batch {
    fn data<T: burn::tensor::Element>(
        numbers: &[i64],
        width: usize,
        value: impl Fn(i64, usize) -> T,
    ) -> TensorData {
        let value = &value;
        let values: Vec<T> =
            numbers.iter().flat_map(|&n| (0..width).map(move |at| value(n, at))).collect();
        TensorData::new(values, [numbers.len(), width])
    }
    let ints = |values: TensorData, dtype| Tensor::<2, Int>::from_data(values, (device, dtype));
    let floats = |values: TensorData, dtype| Tensor::<2>::from_data(values, (device, dtype));
    let rows = numbers.len();
    let image = data(numbers, 2, |n, at| ((n + 255 * at as i64) % 256) as i32);
    let features = data(numbers, 2, |n, at| n as f64 + at as f64 / 3.0);
    Batch {
        image: ints(image, DType::I32).reshape([rows, 1, 2]),
        features: floats(features, DType::F64),
        weight: floats(data(numbers, 1, |n, _| n as f32), DType::F16).reshape([rows]),
        mask: Tensor::from_data(data(numbers, 2, |n, at| (n + at as i64) % 3 == 0), device),
        class: ints(data(numbers, 1, |n, _| n % 3), DType::I64).reshape([rows]),
        replayed: Tensor::from_data(TensorData::new(vec![false; rows], [rows]), device),
        note: "incoming".into(),
        rows: RowLayout::default(),
    }
}

fn batch(numbers: &[i64]) -> Batch {
    batch_on(numbers, &Device::flex())
}

/// The values of the fields of a mini-batch that are stored.
fn stored(batch: &Batch) -> ([TensorData; 4], Vec<bool>) {
    let Batch { image, features, weight, mask, class, .. } = batch.clone();
    let data = [image.into_data(), features.into_data(), weight.into_data(), class.into_data()];
    (data, mask.into_data().iter::<bool>().collect())
}

/// The numbers of the rows from `first` on.
fn numbers(batch: &Batch, first: usize) -> Vec<i64> {
    let features = batch.features.clone().into_data();
    features.iter::<f64>().step_by(2).skip(first).map(|number| number as i64).collect()
}

/// Runs `f` on `size` ranks.
fn world<T: Send>(size: usize, f: impl Fn(Box<dyn Collective>) -> T + Sync) -> Vec<T> {
    run_threads(size, |threads| Ok::<T, Infallible>(f(Box::new(threads))))
        .into_iter()
        .map(|result| result.unwrap_or_else(|failure| panic!("{failure}")))
        .collect()
}

fn config() -> RehearsalConfig {
    RehearsalConfig::new(Capacity::Samples(60))
}

#[test]
fn a_mini_batch_of_a_snapshot_equals_the_inserted_rows() {
    for store in [StorePreference::Host, StorePreference::Device] {
        for device in [Device::flex(), Device::flex().autodiff()] {
            let buffer = config().with_store(store).init::<Batch>().unwrap();
            buffer.rehearse(batch_on(&[10, 11, 12, 13], &device)).unwrap();
            buffer.fill([Ok(batch_on(&[14, 15], &device))]).unwrap();
            let snapshot = buffer.snapshot().unwrap();
            for rows in [vec![4, 0, 4, 2], vec![5], (0..6).collect()] {
                let found: Batch = snapshot.batch(&rows, &device).unwrap();
                let expected: Vec<i64> = rows.iter().map(|&row| 10 + row as i64).collect();
                assert_eq!(stored(&found), stored(&batch(&expected)), "{store:?}");
                assert!(found.replayed.into_data().iter::<bool>().all(|flag| flag));
                assert_eq!((found.note.as_str(), found.rows.incoming()), ("", None));
                assert_eq!(found.features.device().is_autodiff(), device.is_autodiff());
            }
        }
    }
}

/// The first stored fields of [`Batch`].
#[derive(RehearsalBatch, Clone, Debug)]
struct Fewer {
    #[rehearsal(bytes)]
    image: Tensor<3, Int>,
    features: Tensor<2>,
}

macro_rules! other_type {
    ($name:ident, $image:ty, $features:ty, $mask:ty $(, $more:ident)?) => {
        /// Differs from [`Batch`] in the type of a field, or has one field more.
        #[derive(RehearsalBatch, Clone, Debug)]
        struct $name {
            image: $image,
            features: $features,
            weight: Tensor<1>,
            mask: $mask,
            class: Tensor<1, Int>,
            $($more: Tensor<1>,)?
        }
    };
}

other_type!(FloatImage, Tensor<3>, Tensor<2>, Tensor<2, Bool>);
other_type!(FlatImage, Tensor<2, Int>, Tensor<2>, Tensor<2, Bool>);
other_type!(IntFeatures, Tensor<3, Int>, Tensor<2, Int>, Tensor<2, Bool>);
other_type!(FloatMask, Tensor<3, Int>, Tensor<2>, Tensor<2>);
other_type!(OneMore, Tensor<3, Int>, Tensor<2>, Tensor<2, Bool>, more);

#[test]
fn rows_that_do_not_fit_are_errors() {
    let device = Device::flex();
    let buffer = config().init::<Batch>().unwrap();
    let empty = buffer.snapshot().unwrap();
    let error = empty.batch::<Batch>(&[0], &device).unwrap_err();
    assert_eq!(error, BatchError::NoRow { row: 0, rows: 0 });
    buffer.rehearse(batch(&[10, 11, 12])).unwrap();
    let snapshot = buffer.snapshot().unwrap();
    let error = snapshot.batch::<Batch>(&[1, 3], &device).unwrap_err();
    assert_eq!(error, BatchError::NoRow { row: 3, rows: 3 });
    let nothing = BatchError::EmptyField { field: "image", shape: vec![0] };
    assert_eq!(snapshot.batch::<Batch>(&[], &device).unwrap_err(), nothing);
    let batcher = SnapshotBatcher::<Batch>::default();
    assert_eq!(batcher.try_batch(&[], &device).unwrap_err(), nothing);

    let errors = [
        (snapshot.batch::<FloatImage>(&[0], &device).err(), "image"),
        (snapshot.batch::<FlatImage>(&[0], &device).err(), "image"),
        (snapshot.batch::<IntFeatures>(&[0], &device).err(), "features"),
        (snapshot.batch::<FloatMask>(&[0], &device).err(), "mask"),
        (snapshot.batch::<OneMore>(&[0], &device).err(), "more"),
        (snapshot.batch::<Fewer>(&[0], &device).err(), "(one column more than fields)"),
    ];
    for (error, field) in errors {
        assert_eq!(error, Some(BatchError::ColumnType { field }));
    }
}

#[test]
fn a_buffer_can_be_changed_by_fill_alone() {
    for (size, candidates, execution) in [
        (1, RowCount::Count(0), Execution::Background),
        (1, RowCount::Ratio(0.0), Execution::Inline),
        (3, RowCount::Ratio(0.0), Execution::Background),
        (3, RowCount::Count(0), Execution::Inline),
    ] {
        // Rank 1 never fills its shard.
        let part = |task: usize, rank: usize| -> Vec<i64> {
            let rows = [4, 0, 3][rank];
            (0..rows).map(|row| (100 * task + 10 * rank + row) as i64).collect()
        };
        let filled = |tasks: usize| -> Vec<i64> {
            (0..tasks).flat_map(|task| (0..size).flat_map(move |rank| part(task, rank))).collect()
        };
        let drawn = world(size, |collective| {
            let config = config()
                .with_candidates(candidates)
                .with_representatives(3)
                .with_execution(execution);
            let buffer = RehearsalBuffer::new(&config, collective).unwrap();
            let mut all = Vec::new();
            for task in 0..3 {
                buffer.begin_task(task).unwrap();
                for step in 0..8 {
                    let batch = buffer.rehearse(batch(&[1000, 1001])).unwrap();
                    let drawn = numbers(&batch, 2);
                    // The draw of the first step comes before the last fill.
                    let before = filled(if step == 0 { task.saturating_sub(1) } else { task });
                    assert_eq!(drawn.len(), before.len().min(3), "task {task}, step {step}");
                    assert!(drawn.iter().all(|number| before.contains(number)), "{drawn:?}");
                    all.extend(drawn);
                }
                let own = part(task, buffer.rank());
                let batches = own.chunks(2).map(|numbers| Ok(batch(numbers)));
                assert_eq!(buffer.fill(batches).unwrap(), own.len());
                assert_eq!(buffer.len(), filled(task + 1).len());
            }
            let mut sampled = numbers(&buffer.sample(100).unwrap().unwrap(), 0);
            sampled.sort_unstable();
            assert_eq!(sampled, filled(3));
            let own: usize = (0..3).map(|task| part(task, buffer.rank()).len()).sum();
            assert_eq!(buffer.inspect().unwrap().len, own);
            all
        });
        // Every rank draws rows of all shards with rows.
        for drawn in drawn {
            let owners = (0..size).filter(|&rank| !part(0, rank).is_empty());
            for owner in owners {
                assert!(drawn.iter().any(|number| number / 10 % 10 == owner as i64), "{drawn:?}");
            }
        }
    }
}

#[test]
fn a_rank_without_rows_draws_after_its_first_step() {
    for execution in [Execution::Background, Execution::Inline] {
        world(3, |collective| {
            let buffer =
                RehearsalBuffer::new(&config().with_execution(execution), collective).unwrap();
            let own = [vec![1, 2], vec![], vec![3]][buffer.rank()].clone();
            let batches = (!own.is_empty()).then(|| Ok(batch(&own)));
            assert_eq!(buffer.fill(batches).unwrap(), own.len());
            assert_eq!(buffer.len(), 3);
            assert_eq!(buffer.sample(9).unwrap().is_none(), buffer.rank() == 1);
            buffer.rehearse(batch(&[100])).unwrap();
            assert_eq!(numbers(&buffer.sample(9).unwrap().unwrap(), 0).len(), 6);
        });
    }
}
