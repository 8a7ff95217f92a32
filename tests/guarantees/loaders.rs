//! The loaders: exact order, errors at their step, and one step per `next`.

use burn::data::dataloader::batcher::Batcher;
use burn::data::dataloader::{DataLoader, DataLoaderBuilder};
use burn::data::dataset::{Dataset, DatasetError};
use burn::tensor::{DType, Device, Tensor};
use burn_rehearsal::error::{BatchError, ConfigError, RehearsalError};
use burn_rehearsal::{RehearsalBatcher, RehearsalBuffer, RehearsalLoader, ShardedLoader};
use burn_rehearsal_testing::{
    Mixed, Row, assert_augmented, batch, batch_on, buffer, config, device, read, watchdog, world,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The samples 0, 1, 2, …, and the number of those that were read.
#[derive(Clone, Default)]
struct Samples {
    len: usize,
    read: Arc<AtomicUsize>,
    /// A sample that cannot be read.
    damaged: Option<i64>,
    /// A sample that makes its reader panic.
    panicking: Option<i64>,
}

impl Samples {
    fn new(len: usize) -> Self {
        Self { len, ..Self::default() }
    }

    fn reads(&self) -> usize {
        self.read.load(Ordering::SeqCst)
    }
}

impl Dataset<i64> for Samples {
    fn get(&self, index: usize) -> Result<i64, DatasetError> {
        self.read.fetch_add(1, Ordering::SeqCst);
        let id = index as i64;
        assert!(self.panicking != Some(id), "sample {id} panics");
        if self.damaged == Some(id) {
            Err(DatasetError::new(std::io::Error::other(format!("sample {id} is damaged"))))
        } else {
            Ok(id)
        }
    }

    fn len(&self) -> usize {
        self.len
    }
}

/// Builds rows. Some mini-batches take longer than others, so that workers overtake each other.
#[derive(Clone)]
struct ToMixed;

impl Batcher<i64, Mixed> for ToMixed {
    fn batch(&self, items: Vec<i64>, device: &Device) -> Mixed {
        for _ in 0..(items[0] * 7919 % 5) * 20 {
            std::thread::yield_now();
        }
        batch_on(&items, device)
    }
}

fn sharded(samples: &Samples, workers: usize) -> Arc<ShardedLoader<i64, Mixed>> {
    ShardedLoader::builder(ToMixed)
        .batch_size(4)
        .shuffle(3)
        .num_workers(workers)
        .set_device(device())
        .build(samples.clone())
}

fn ids(batch: &Mixed) -> Vec<i64> {
    read(batch).iter().map(|row| row.id).collect()
}

/// The IDs of an epoch, which must not fail.
fn epoch(loader: &dyn DataLoader<Mixed>) -> Vec<Vec<i64>> {
    loader.iter().map(|batch| ids(&batch.unwrap())).collect()
}

#[test]
fn the_number_of_workers_does_not_change_the_mini_batches() {
    let _watchdog = watchdog();
    let epochs = |workers| {
        let loader = sharded(&Samples::new(45), workers);
        assert_eq!(loader.num_items(), 45);
        (0..3).map(|_| epoch(&*loader)).collect::<Vec<_>>()
    };
    let none = epochs(0);
    assert_eq!(
        none[0].iter().map(Vec::len).collect::<Vec<_>>(),
        [4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 1]
    );
    assert!(none[0] != none[1] && none[1] != none[2], "every epoch must have its own order");
    for epoch in &none {
        let mut all = epoch.concat();
        all.sort_unstable();
        assert_eq!(all, (0..45).collect::<Vec<_>>());
    }
    for workers in [1, 2, 4, 7, 20] {
        assert_eq!(epochs(workers), none, "{workers} workers");
    }
}

#[test]
fn an_unshuffled_loader_keeps_the_order_of_the_data_set() {
    let loader = ShardedLoader::builder(ToMixed)
        .batch_size(3)
        .num_workers(2)
        .set_device(device())
        .build(Samples::new(8));
    assert_eq!(epoch(&*loader), [vec![0, 1, 2], vec![3, 4, 5], vec![6, 7]]);
}

#[test]
fn ranks_together_read_every_sample_once_and_progress_is_complete() {
    let _watchdog = watchdog();
    for (size, workers) in [(2, 0), (3, 1), (4, 4)] {
        let mut all = Vec::new();
        let mut items = 0;
        for rank in 0..size {
            let loader = ShardedLoader::builder(ToMixed)
                .batch_size(4)
                .shuffle(3)
                .task(2)
                .shard_of(rank, size)
                .num_workers(workers)
                .set_device(device())
                .build(Samples::new(42));
            items += loader.num_items();
            let mut iterator = loader.iter();
            let mut read = 0;
            for batch in iterator.by_ref() {
                let batch = ids(&batch.unwrap());
                read += batch.len();
                all.extend(batch);
            }
            assert_eq!(
                (iterator.progress().items_processed, iterator.progress().items_total),
                (read, loader.num_items())
            );
            assert!(iterator.next().is_none());
        }
        all.sort_unstable();
        assert_eq!((all, items), ((0..42).collect(), 42));
    }
}

#[test]
fn a_start_in_the_middle_reads_only_the_rest_of_the_run() {
    let _watchdog = watchdog();
    let full: Vec<_> = {
        let loader = sharded(&Samples::new(45), 0);
        (0..3).map(|_| epoch(&*loader)).collect()
    };
    for workers in [0, 1, 4] {
        for step in [0, 1, 7, 11, 12, 99] {
            let samples = Samples::new(45);
            let loader = ShardedLoader::builder(ToMixed)
                .batch_size(4)
                .shuffle(3)
                .num_workers(workers)
                .set_device(device())
                .start_at(1, step as u64)
                .build(samples.clone());
            assert_eq!(samples.reads(), 0);
            let tail = &full[1][step.min(12)..];
            let mut iterator = loader.iter();
            assert_eq!(iterator.progress().items_processed, 45 - tail.concat().len());
            let batches: Vec<_> = iterator.by_ref().map(|batch| ids(&batch.unwrap())).collect();
            assert_eq!(batches, tail, "step {step}");
            assert!(iterator.progress().is_completed());
            drop(iterator);
            assert_eq!(
                samples.reads(),
                tail.concat().len(),
                "samples before step {step} were read"
            );
            assert_eq!(epoch(&*loader), full[2], "the next epoch starts at its beginning");
        }
    }
}

#[test]
fn an_unreadable_sample_or_a_panic_ends_the_epoch_at_its_step() {
    let _watchdog = watchdog();
    for workers in [0, 1, 4] {
        let plain = |samples: Samples| {
            ShardedLoader::builder(ToMixed)
                .batch_size(4)
                .num_workers(workers)
                .set_device(device())
                .build(samples)
        };
        for (samples, says) in [
            (Samples { damaged: Some(22), ..Samples::new(45) }, "sample 22 is damaged"),
            (Samples { panicking: Some(22), ..Samples::new(45) }, "sample 22 panics"),
            // If a later step fails too, the first error counts.
            (
                Samples { panicking: Some(22), damaged: Some(26), ..Samples::new(45) },
                "sample 22 panics",
            ),
            (Samples { damaged: Some(0), ..Samples::new(45) }, "sample 0 is damaged"),
        ] {
            let step = if samples.damaged == Some(0) { 0 } else { 5 };
            let loader = plain(samples);
            let mut iterator = loader.iter();
            for before in 0..step {
                assert_eq!(
                    ids(&iterator.next().unwrap().unwrap()),
                    (before * 4..before * 4 + 4).collect::<Vec<_>>()
                );
            }
            let error = iterator.next().unwrap().unwrap_err();
            assert!(error.to_string().contains(says), "{workers} workers: {error}");
            assert!(iterator.next().is_none() && iterator.next().is_none());
        }
    }
}

#[test]
fn an_iterator_dropped_early_leaves_no_worker_behind() {
    let _watchdog = watchdog();
    for workers in [0, 1, 4] {
        for taken in [0, 1, 5] {
            let samples = Samples::new(4000);
            let loader = sharded(&samples, workers);
            let mut iterator = loader.iter();
            (0..taken).for_each(|_| drop(iterator.next().unwrap().unwrap()));
            drop(iterator);
            let reads = samples.reads();
            assert!(
                reads <= (taken + 4) * 4,
                "{workers} workers read {reads} samples for {taken} mini-batches, more than 4 ahead"
            );
            assert_eq!(Arc::strong_count(&samples.read), 2, "a worker still holds the data set");
        }
    }
}

#[test]
fn slices_of_a_sharded_loader_have_their_own_epochs() {
    let _watchdog = watchdog();
    let parts = |both: bool| {
        let loader = sharded(&Samples::new(20), 1);
        let (first, second) = (loader.slice(0, 11), loader.slice(11, 20));
        assert_eq!((first.num_items(), second.num_items()), (11, 9));
        let mut epochs = Vec::new();
        for _ in 0..2 {
            if both {
                let mut other = epoch(second.as_ref()).concat();
                other.sort_unstable();
                assert_eq!(other, (11..20).collect::<Vec<_>>());
            }
            epochs.push(epoch(first.as_ref()));
        }
        let mut all = epochs[0].concat();
        all.sort_unstable();
        assert_eq!(all, (0..11).collect::<Vec<_>>());
        epochs
    };
    assert_eq!(parts(false), parts(true), "the order of a slice depends on another slice");
}

#[test]
fn a_loader_on_another_device_continues_the_same_epochs() {
    let loader = sharded(&Samples::new(9), 0);
    let autodiff = device().autodiff();
    let moved = loader.to_device(&autodiff);
    let first = moved.iter().next().unwrap().unwrap();
    assert!(first.feature.device().is_autodiff());
    let reference = sharded(&Samples::new(9), 0);
    assert_eq!(ids(&first), epoch(&*reference)[0]);
    assert_eq!(epoch(&*loader), epoch(&*reference), "the second epoch");
}

fn solo(representatives: usize) -> RehearsalBuffer<Mixed> {
    config(60, 4, representatives).init().unwrap()
}

/// Samples in order, in mini-batches of 4.
fn in_order(samples: &Samples, workers: usize) -> Arc<dyn DataLoader<Mixed>> {
    ShardedLoader::builder(ToMixed)
        .batch_size(4)
        .num_workers(workers)
        .set_device(device())
        .build(samples.clone())
}

/// The augmented mini-batches of `epochs` epochs over the samples in order, without a loader.
fn by_hand(buffer: &RehearsalBuffer<Mixed>, len: usize, epochs: usize) -> Vec<Vec<Row>> {
    let all: Vec<i64> = (0..len as i64).collect();
    (0..epochs)
        .flat_map(|_| all.chunks(4).collect::<Vec<_>>())
        .map(|ids| read(&buffer.rehearse(batch(ids)).unwrap()))
        .collect()
}

#[test]
fn a_rehearsal_loader_makes_one_step_per_next() {
    let _watchdog = watchdog();
    let expected = by_hand(&solo(5), 22, 3);
    for workers in [0, 1, 4] {
        let loader = RehearsalLoader::new(in_order(&Samples::new(22), workers), solo(5));
        assert_eq!(loader.num_items(), 22);
        let mut batches = Vec::new();
        for _ in 0..3 {
            let mut iterator = loader.iter();
            for batch in iterator.by_ref() {
                let batch = batch.unwrap();
                assert_eq!(batch.image.dtype(), DType::U8);
                batches.push(read(&batch));
            }
            assert!(iterator.progress().is_completed());
        }
        assert_eq!(
            batches, expected,
            "{workers} workers: pending representatives must survive the end of an epoch"
        );
        assert_eq!(loader.buffer().inspect().unwrap().steps, 18);
    }
}

#[test]
fn pending_representatives_survive_a_break_and_a_validation() {
    let _watchdog = watchdog();
    for workers in [0, 1, 4] {
        let loader = RehearsalLoader::new(in_order(&Samples::new(40), workers), solo(5));
        let valid = in_order(&Samples::new(12), workers);
        let by_hand = solo(5);
        for taken in [3, 1, 2, 0, 4] {
            let batches: Vec<_> =
                loader.iter().take(taken).map(|batch| read(&batch.unwrap())).collect();
            let expected: Vec<_> = (0..taken as i64)
                .map(|step| {
                    read(
                        &by_hand
                            .rehearse(batch(&(step * 4..step * 4 + 4).collect::<Vec<_>>()))
                            .unwrap(),
                    )
                })
                .collect();
            assert_eq!(batches, expected);
            assert_eq!(epoch(valid.as_ref()).concat().len(), 12, "validation data pass unchanged");
        }
        assert_eq!(loader.buffer().report().unwrap(), by_hand.report().unwrap());
    }
}

#[test]
fn two_iterators_at_the_same_time_are_an_error() {
    let loader = RehearsalLoader::new(in_order(&Samples::new(12), 0), solo(2));
    let mut first = loader.iter();
    first.next().unwrap().unwrap();
    let copy = loader.to_device(&device());
    for mut second in [loader.iter(), copy.iter()] {
        let error = second.next().unwrap().unwrap_err();
        assert!(error.to_string().contains("two iterators"), "{error}");
        assert!(second.next().is_none());
    }
    assert_eq!(first.by_ref().map(Result::unwrap).count(), 2, "the first iterator must continue");
    drop(first);
    assert_eq!(loader.iter().map(Result::unwrap).count(), 3);
    assert_eq!(copy.iter().map(Result::unwrap).count(), 3);
    assert_eq!(loader.buffer().check(), Ok(()));
}

#[test]
fn a_sliced_rehearsal_loader_is_an_error_at_next() {
    let loader = RehearsalLoader::new(in_order(&Samples::new(12), 0), solo(2));
    let slice = loader.slice(0, 6).to_device(&device());
    let mut iterator = slice.iter();
    assert!(iterator.next().unwrap().unwrap_err().to_string().contains("sliced"));
    assert!(iterator.next().is_none());
    drop(iterator);
    assert_eq!(loader.iter().map(Result::unwrap).count(), 3, "the whole loader must still work");
}

#[test]
fn a_loader_error_on_one_rank_ends_the_epoch_of_all_ranks() {
    for workers in [0, 4] {
        let outcomes = world(3, |threads| {
            let buffer = buffer(&config(60, 4, 3), threads);
            let damaged = (buffer.rank() == 1).then_some(9);
            let loader = RehearsalLoader::new(
                in_order(&Samples { damaged, ..Samples::new(40) }, workers),
                buffer,
            );
            let mut iterator = loader.iter();
            let batches = iterator.by_ref().take_while(Result::is_ok).count();
            // `take_while` has consumed the error, and a poisoned loader ends.
            assert!(iterator.next().is_none() && iterator.next().is_none());
            (batches, loader.buffer().check().unwrap_err())
        });
        for (rank, (batches, error)) in outcomes.into_iter().enumerate() {
            match error {
                RehearsalError::Data(message) if rank == 1 => {
                    assert!(batches == 2 && message.contains("sample 9 is damaged"))
                }
                RehearsalError::PeerFailed { rank: 1, step: 2, reason: "data", .. }
                    if rank != 1 =>
                {
                    assert_eq!(batches, 3)
                }
                error => panic!("rank {rank} after {batches}: {error}"),
            }
        }
    }
}

#[test]
fn errors_of_the_last_mini_batch_arrive_before_the_epoch_ends() {
    let _watchdog = watchdog();
    for lag in [0, 1, 3] {
        // Only class 0 is allowed, and the last sample has class 1.
        let config = config(60, 4, 5).with_classes(Some(1)).with_lag(lag);
        let samples = burn::data::dataset::InMemDataset::new(vec![
            0,
            1,
            2,
            3,
            4,
            5,
            burn_rehearsal_testing::CLASS,
        ]);
        let loader =
            ShardedLoader::builder(ToMixed).batch_size(4).set_device(device()).build(samples);
        let loader = RehearsalLoader::new(loader, config.init().unwrap());
        let mut iterator = loader.iter();
        assert!(iterator.next().unwrap().is_ok());
        assert_eq!(
            iterator.next().unwrap().is_ok(),
            lag > 0,
            "the engine finds the error while the step runs"
        );
        if lag > 0 {
            let error = iterator.next().unwrap().unwrap_err().to_string();
            assert!(error.contains("class 1"), "{error}");
        }
        assert!(iterator.next().is_none());
    }
}

#[test]
fn ranks_without_rows_return_none_until_all_ranks_have_ended() {
    let totals = world(3, |threads| {
        let buffer = buffer(&config(60, 4, 3), threads);
        let loader =
            RehearsalLoader::new(in_order(&Samples::new([40, 13, 0][buffer.rank()]), 1), buffer);
        for _ in 0..2 {
            let mut iterator = loader.iter();
            // Some rank has rows in ten steps, and no rank has rows in the last one.
            let batches: Vec<_> =
                (0..11).filter_map(|_| iterator.next()).map(Result::unwrap).collect();
            assert_eq!(batches.len(), [10, 4, 0][loader.buffer().rank()]);
        }
        let inspection = loader.buffer().inspect().unwrap();
        assert_eq!(inspection.steps, 20);
        loader.buffer().report().unwrap()
    });
    assert!(totals.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn burns_loader_with_a_rehearsal_batcher_keeps_the_exact_order() {
    let _watchdog = watchdog();
    let expected = by_hand(&solo(5), 22, 3);
    for workers in [0, 1] {
        let batcher = RehearsalBatcher::new(ToMixed, solo(5)).unwrap();
        let loader = DataLoaderBuilder::new(batcher)
            .batch_size(4)
            .num_workers(workers)
            .set_device(device())
            .build(Samples::new(22));
        let batches: Vec<_> = (0..3)
            .flat_map(|_| loader.iter().map(|batch| batch.unwrap()).collect::<Vec<_>>())
            .collect();
        assert!(
            batches.iter().all(|batch| batch.image.dtype() == DType::U8),
            "images must stay u8"
        );
        assert_eq!(batches.iter().map(read).collect::<Vec<_>>(), expected, "{workers} workers");
    }
}

#[test]
fn the_batcher_for_validation_changes_and_stores_nothing() {
    let buffer = solo(5);
    let batcher = RehearsalBatcher::new(ToMixed, buffer.clone()).unwrap();
    let items = || vec![1, 2, 3, 4, 5];
    batcher.batch(items(), &device());
    let before = buffer.report().unwrap();
    let valid = batcher.valid();
    for _ in 0..5 {
        assert!(assert_augmented(&items(), &valid.batch(items(), &device())).is_empty());
    }
    assert_eq!(buffer.report().unwrap(), before);
    assert_eq!(
        assert_augmented(&items(), &batcher.batch(items(), &device())).len(),
        4,
        "training must continue where it was"
    );
}

#[test]
fn a_rehearsal_batcher_refuses_several_ranks() {
    world(2, |threads| {
        let error = RehearsalBatcher::new(ToMixed, buffer(&config(10, 1, 1), threads)).err();
        assert_eq!(error, Some(RehearsalError::Config(ConfigError::BatcherWorld(2))));
    });
}

/// Makes a wrong fourth mini-batch.
#[derive(Clone)]
struct Spoiling(Arc<AtomicUsize>);

impl Batcher<i64, Mixed> for Spoiling {
    fn batch(&self, items: Vec<i64>, device: &Device) -> Mixed {
        let batch = batch_on(&items, device);
        if self.0.fetch_add(1, Ordering::SeqCst) == 3 {
            Mixed { feature: batch.feature.slice(0..2), ..batch }
        } else {
            batch
        }
    }
}

#[test]
fn a_poisoned_batcher_passes_mini_batches_through_and_check_reports_the_error() {
    let buffer = solo(5);
    let batcher = RehearsalBatcher::new(Spoiling(Arc::default()), buffer.clone()).unwrap();
    let lengths: Vec<_> = (0..6)
        .map(|step| batcher.batch(vec![step, step + 10, step + 20], &device()).id.dims()[0])
        .collect();
    assert_eq!(lengths, [3, 6, 8, 3, 3, 3]);
    let expected = RehearsalError::Batch(BatchError::Rows {
        field: "feature",
        found: 2,
        first: "image",
        expected: 3,
    });
    assert_eq!(buffer.check(), Err(expected.clone()));
    let loader = RehearsalLoader::new(in_order(&Samples::new(12), 0), buffer);
    let mut iterator = loader.iter();
    assert_eq!(iterator.next().unwrap().unwrap_err().to_string(), expected.to_string());
    assert!(iterator.next().is_none());
}

#[test]
fn gradients_flow_through_a_mini_batch_on_an_autodiff_device() {
    let buffer = solo(3);
    let autodiff = device().autodiff();
    for step in 0..4 {
        let ids: Vec<i64> = (step * 4..step * 4 + 4).collect();
        let incoming = batch_on(&ids, &autodiff);
        let leaf = incoming.feature.clone().require_grad();
        let out = buffer.rehearse(Mixed { feature: leaf.clone(), ..incoming }).unwrap();
        assert_eq!(assert_augmented(&ids, &out).len(), (step as usize * 4).min(3));
        assert!(out.feature.device().is_autodiff());
        let devices = [out.image.device(), out.class.device(), out.id.device()];
        let expected = batch_on(&ids, &autodiff);
        assert_eq!(
            devices,
            [expected.image.device(), expected.class.device(), expected.id.device()]
        );
        // d/dw Σ (rows · w) is the sum of all rows, and d/drow is w for the incoming rows.
        let weight = Tensor::<2>::from_data([[2.0f32], [3.0]], &autodiff).require_grad();
        let gradients = out.feature.clone().matmul(weight.clone()).sum().backward();
        let of_rows = leaf.grad(&gradients).unwrap().into_data().try_to_vec::<f32>().unwrap();
        assert_eq!(of_rows, [2.0, 3.0].repeat(4));
        let of_weight = weight.grad(&gradients).unwrap().into_data().try_to_vec::<f32>().unwrap();
        let features: Vec<f32> = out.feature.inner().into_data().try_to_vec().unwrap();
        let sums: Vec<f32> =
            (0..2).map(|column| features.iter().skip(column).step_by(2).sum()).collect();
        assert!(
            of_weight.iter().zip(&sums).all(|(a, b)| (a - b).abs() < 1e-3),
            "{of_weight:?} {sums:?}"
        );
    }
    // A mini-batch without autodiff is usually validation data.
    let error = buffer.rehearse(batch(&[100, 101])).unwrap_err();
    assert_eq!(error, RehearsalError::Batch(BatchError::Autodiff { autodiff: false }));
    assert!(error.to_string().contains("validation"), "{error}");
    let stored = buffer.snapshot().unwrap();
    assert!(
        stored.samples().iter().all(|sample| sample.id < Some(100)),
        "a row of the refused mini-batch is stored"
    );
}

#[test]
fn images_stay_u8_in_batcher_and_loader() {
    let samples = Samples::new(12);
    let batcher = RehearsalBatcher::new(ToMixed, solo(2)).unwrap();
    let burn =
        DataLoaderBuilder::new(batcher).batch_size(4).set_device(device()).build(samples.clone());
    let ours = RehearsalLoader::new(in_order(&samples, 0), solo(2));
    for batch in burn.iter().chain(ours.iter()) {
        let batch = batch.unwrap();
        assert_eq!(
            (batch.image.dtype(), batch.class.dtype(), batch.feature.dtype()),
            (DType::U8, DType::I64, DType::F32)
        );
    }
}
