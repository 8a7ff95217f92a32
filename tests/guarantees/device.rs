//! Guarantees that depend on the device of mini-batches and shards, which `BURN_DEVICE` chooses
//! (default: flex).
//!
//! The other modules test the guarantees thoroughly on flex. The tests of this module are small
//! enough for a GPU that is simulated in software.

use crate::deterministic::{configurations, trace_on};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use burn_rehearsal::error::{BatchError, RehearsalError};
use burn_rehearsal::{
    OnRepeat, PolicyKind, RehearsalBatch, RehearsalBuffer, SamplingKind, StoreLocation,
    StorePreference,
};
use burn_rehearsal_testing::{
    CLASS, Mixed, Row, assert_augmented, batch, buffer, config, device, fresh, label_type, read,
    uniform_p, world,
};

#[test]
fn device_and_host_runs_are_bit_identical() {
    // Alternately on one and on three ranks, because a simulated GPU is slow.
    for (number, size) in (0..configurations(1).len()).zip([3, 1].into_iter().cycle()) {
        let config = configurations(size).swap_remove(number);
        let run = |store, device: &Device| {
            world(size, |threads| {
                trace_on(&buffer(&config.clone().with_store(store), threads), 5, device)
            })
        };
        let host = run(StorePreference::Host, &Device::flex());
        assert_eq!(
            host,
            run(StorePreference::Device, &device()),
            "{size} ranks, configuration {number}"
        );
        if number == 0 {
            assert_eq!(host, run(StorePreference::Auto, &device()), "host and device mixed");
        }
    }
}

#[test]
fn auto_stores_a_shard_on_the_device_up_to_the_limit() {
    let is_host = device() == Device::flex();
    let row_bytes = 4 + 2 * label_type(&device()).size() as u64 + 8;
    for (limit, fits) in [(20 * row_bytes, true), (20 * row_bytes - 1, false)] {
        let config = config(20, 3, 2).with_device_limit(limit);
        let buffer: RehearsalBuffer<Mixed> = config.init().unwrap();
        assert_eq!(
            buffer.inspect().unwrap().store,
            None,
            "the store is chosen at the first mini-batch"
        );
        buffer.rehearse(batch(&[1, 2, 3])).unwrap();
        let expected =
            Some(if fits && !is_host { StoreLocation::Device } else { StoreLocation::Host });
        assert_eq!(buffer.inspect().unwrap().store, expected);
        assert_eq!(buffer.report().unwrap().stores, [expected]);
    }
    for (store, location) in [
        (StorePreference::Host, StoreLocation::Host),
        (StorePreference::Device, StoreLocation::Device),
    ] {
        let stores = world(3, |threads| {
            let buffer = buffer(&config(20, 3, 2).with_store(store), threads);
            buffer.rehearse(batch(&[1, 2, 3])).unwrap();
            buffer.report().unwrap().stores
        });
        assert_eq!(stores, vec![vec![Some(location); 3]; 3]);
    }
}

#[test]
fn the_last_of_several_candidates_for_one_slot_is_stored() {
    for &policy in PolicyKind::ALL {
        for store in [StorePreference::Host, StorePreference::Device] {
            let buffer: RehearsalBuffer<Mixed> =
                config(3, 8, 3).with_policy(policy).with_store(store).init().unwrap();
            for step in 0..6 {
                let ids = fresh(1, 0, step, 8, 2);
                buffer.rehearse(batch(&ids)).unwrap();
                let snapshot = buffer.snapshot().unwrap();
                let named: Vec<i64> =
                    snapshot.samples().iter().filter_map(|sample| sample.id).collect();
                for (sample, &id) in snapshot.samples().iter().zip(&named) {
                    assert_eq!(
                        sample.fields[0].iter::<i64>().collect::<Vec<_>>(),
                        Row::of(id).image,
                        "{policy:?}, {store:?}, step {step}"
                    );
                }
                if policy == PolicyKind::Fifo {
                    assert!(ids[5..].iter().all(|id| named.contains(id)), "{named:?} of {ids:?}");
                }
            }
        }
    }
}

/// A short version of the tests in `uniform.rs`: many draws from frozen shards of unequal fill.
#[test]
fn draws_are_uniform_over_shards_on_the_device() {
    let fills = [2usize, 9, 5];
    let (steps, r) = (150, 3);
    let config = config(30, 16, r)
        .with_on_repeat(OnRepeat::SkipIfStored)
        .with_store(StorePreference::Device)
        .with_seed(3);
    let drawn = world(fills.len(), |threads| {
        let buffer = buffer(&config, threads);
        let rank = buffer.rank();
        let stored: Vec<i64> = (0..fills[rank]).map(|row| (rank * 100 + row) as i64).collect();
        buffer.rehearse(batch(&stored)).unwrap();
        (0..steps)
            .flat_map(|_| {
                assert_augmented(&stored[..1], &buffer.rehearse(batch(&stored[..1])).unwrap())
            })
            .collect::<Vec<_>>()
    });
    let mut counts = vec![0u64; fills.iter().sum()];
    for id in drawn.into_iter().flatten() {
        let (rank, row) = ((id / 100) as usize, (id % 100) as usize);
        counts[fills[..rank].iter().sum::<usize>() + row] += 1;
    }
    let p = uniform_p(&counts, 3 * steps, r as u64);
    assert!(p > 1e-3, "{counts:?}: p = {p:e}");
}

#[test]
fn classes_and_bytes_out_of_range_are_errors_with_field_and_value() {
    let labels = label_type(&device());
    let with_class = |class: i64| {
        let values = TensorData::new(vec![0, class], [2]).convert_dtype(labels);
        Mixed { class: Tensor::from_data(values, (&device(), labels)), ..batch(&[1, 2]) }
    };
    let with_byte = |value: i32| {
        let values = TensorData::new(vec![0, 1, 2, 3, 4, value, 6, 255], [2, 1, 2, 2]);
        Mixed {
            image: Tensor::<4, Int>::from_data(values, (&device(), DType::I32)),
            ..batch(&[1, 2])
        }
    };
    for store in [StorePreference::Host, StorePreference::Device] {
        let refused = |batch: Mixed| {
            let config = config(10, 2, 1).with_classes(Some(4)).with_lag(0).with_store(store);
            config.init::<Mixed>().unwrap().rehearse(batch).unwrap_err()
        };
        for class in [-1, 4] {
            let expected = BatchError::ClassRange { field: "class", class, classes: 4 };
            assert_eq!(refused(with_class(class)), RehearsalError::Batch(expected));
        }
        for value in [-1, 256] {
            let expected = BatchError::ByteRange { field: "image", value: value.into() };
            assert_eq!(refused(with_byte(value)), RehearsalError::Batch(expected));
        }
    }
}

#[test]
fn floats_keep_their_bits() {
    #[derive(RehearsalBatch, Clone, Debug)]
    struct Floats {
        value: Tensor<2>,
    }
    let bits: Vec<u32> = vec![
        0,
        0x8000_0000,
        0x7f80_0000,
        0xff80_0000,
        0x0080_0000,
        0x7f7f_ffff,
        0x3f80_0001,
        0xbf80_0001,
    ];
    let rows: Vec<f32> = bits.iter().map(|&bits| f32::from_bits(bits)).collect();
    for store in [StorePreference::Host, StorePreference::Device] {
        let buffer: RehearsalBuffer<Floats> =
            config(4, 1, 1).with_store(store).with_lag(0).init().unwrap();
        let value = Tensor::from_data(
            TensorData::new(rows.clone(), [1, rows.len()]),
            (&device(), DType::F32),
        );
        let out = buffer.rehearse(Floats { value }).unwrap().value.into_data();
        let found: Vec<u32> = out.iter::<f32>().map(f32::to_bits).collect();
        assert_eq!(found, [bits.clone(), bits.clone()].concat(), "{store:?}");
        let stored = buffer.snapshot().unwrap().samples()[0].fields[0]
            .iter::<f32>()
            .map(f32::to_bits)
            .collect::<Vec<_>>();
        assert_eq!(stored, bits);
    }
}

#[test]
fn exclude_current_works_on_an_autodiff_device() {
    let autodiff = device().autodiff();
    let config = config(30, 4, 6)
        .with_sampling(SamplingKind::ExcludeCurrent)
        .with_store(StorePreference::Device);
    world(2, |threads| {
        let buffer = buffer(&config, threads);
        for step in 0..8 {
            if step % 4 == 0 {
                buffer.begin_task(step / 4).unwrap();
            }
            let ids: Vec<i64> = fresh(1, buffer.rank(), step, 5, 1)
                .iter()
                .map(|id| id + step as i64 / 4 * CLASS)
                .collect();
            let out = buffer.rehearse(burn_rehearsal_testing::batch_on(&ids, &autodiff)).unwrap();
            assert!(out.feature.device().is_autodiff());
            let drawn = assert_augmented(&ids, &out);
            assert_eq!(drawn.len(), if step < 4 { 0 } else { 6 });
            assert!(drawn.iter().all(|id| *id < CLASS), "a row of the current task was drawn");
        }
        let snapshot = buffer.snapshot().unwrap();
        for sample in snapshot.samples() {
            let row = Row::of(sample.id.unwrap());
            assert_eq!(sample.fields[0].iter::<i64>().collect::<Vec<_>>(), row.image);
            assert_eq!(
                sample.fields[3].iter::<f32>().map(f32::to_bits).collect::<Vec<_>>(),
                row.feature
            );
        }
        assert_eq!(snapshot.samples().len(), 15);
        assert!(read(&batch(&[1])).iter().all(|row| !row.replayed));
    });
}
