//! Compares the stores on the host and on a device, for all layouts. `BURN_DEVICE` selects the
//! device.
#![allow(clippy::unwrap_used)]

use super::{DeviceStore, HostStore, Source, Store};
use crate::batch::{Column, FieldSpec, Kind, Role, Schema};
use crate::error::{BatchError, RehearsalError};
use crate::random::{Purpose, Stream};
use burn::tensor::{DType, Device, Shape, TensorData};
use std::sync::{Mutex, MutexGuard, PoisonError};

const CAPACITY: usize = 11;

const fn field(name: &'static str, role: Role, bytes: bool, kind: Kind) -> FieldSpec {
    FieldSpec { name, role, bytes, kind, late: None }
}

/// Every kind of tensor. The image has seven bytes per row, so the last word of a packed row is
/// padded.
const FIELDS: [FieldSpec; 5] = [
    field("image", Role::Data, true, Kind::Int),
    field("class", Role::Class, false, Kind::Int),
    field("feature", Role::Data, false, Kind::Float),
    field("flag", Role::Data, false, Kind::Bool),
    field("id", Role::Id, false, Kind::Int),
];
const SHAPES: [&[usize]; 5] = [&[7], &[], &[2], &[3], &[]];

fn device() -> Device {
    if std::env::var_os("BURN_DEVICE").is_some() { Device::default() } else { Device::flex() }
}

/// Runs one test at a time, so that no test counts the allocations of another.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn supported(device: &Device, first: DType, second: DType) -> DType {
    if device.supports_dtype(first) { first } else { second }
}

/// `rows` random rows, with images of element type `images`.
fn columns(rng: &mut Stream, rows: usize, images: DType, device: &Device) -> Vec<Column> {
    let labels = supported(device, DType::I64, DType::I32);
    let mut values = |per_row: usize, most: u64| -> Vec<i64> {
        (0..rows * per_row).map(|_| rng.below(most) as i64).collect()
    };
    let image = values(7, 256);
    let class = values(1, 9);
    let feature: Vec<f32> = values(2, 1 << 32)
        .into_iter()
        .map(|bits| f32::from_bits(bits as u32 & 0xbf7f_ffff))
        .collect();
    let flag: Vec<bool> = values(3, 2).into_iter().map(|bit| bit == 1).collect();
    let id = values(1, 1 << 20);
    let flags = TensorData::new(flag, [rows, 3]).convert_dtype(device.settings().bool_dtype.into());
    let data = [
        TensorData::new(image, [rows, 7]).convert_dtype(images),
        TensorData::new(class, [rows, 1]).convert_dtype(labels),
        TensorData::new(feature, [rows, 2]),
        flags,
        TensorData::new(id, [rows, 1]).convert_dtype(labels),
    ];
    let shapes = SHAPES.map(Shape::from);
    data.into_iter()
        .zip(FIELDS)
        .zip(shapes)
        .map(|((data, field), shape)| Column::from_data(data, field.kind, shape, device))
        .collect()
}

fn everything(store: &dyn Store, slots: &[u32]) -> Vec<(usize, usize, Vec<u8>)> {
    let mut rows = Vec::new();
    store.read(slots, &mut |row, field, bytes| rows.push((row, field, bytes.to_vec()))).unwrap();
    rows
}

fn data(columns: Vec<Column>) -> Vec<(DType, Vec<usize>, Vec<u8>)> {
    let read = |column: Column| {
        let (dtype, shape) = (column.dtype(), column.row_shape().to_vec());
        (dtype, shape, column.into_data("field").unwrap().as_bytes().to_vec())
    };
    columns.into_iter().map(read).collect()
}

/// The numbers of all rows of `columns`.
fn all(columns: &[Column]) -> Vec<u32> {
    (0..columns[0].rows() as u32).collect()
}

/// The staged classes or identities in a store.
fn staged(store: &dyn Store, field: usize) -> Vec<i64> {
    let mut values = Vec::new();
    store
        .staged(field, &mut |value| {
            values.push(value);
            Ok(())
        })
        .unwrap();
    values
}

/// The element types that images can have on `device`.
fn image_types(device: &Device) -> Vec<DType> {
    [DType::U8, DType::I32, DType::I64]
        .into_iter()
        .filter(|&dtype| device.supports_dtype(dtype))
        .collect()
}

#[test]
fn both_stores_return_the_same_rows_for_every_layout() {
    let _alone = alone();
    let device = device();
    for images in image_types(&device) {
        // One row per piece, three, or all. Bytes as they are, or packed in words.
        for (piece_bytes, packed) in
            [(1, false), (110, true), (150, false), (1 << 20, true), (1 << 20, false)]
        {
            let mut rng =
                Stream::new(7, Purpose::TaskStream, piece_bytes as u64, u32::from(packed));
            let schema = Schema::of(&FIELDS, &columns(&mut rng, 1, images, &device)).unwrap();
            let devices = vec![device.clone(); FIELDS.len()];
            let mut host = HostStore::new(schema.clone(), CAPACITY).unwrap();
            let mut on_device =
                DeviceStore::with_layout(schema.clone(), CAPACITY, &devices, piece_bytes, packed)
                    .unwrap();
            assert_eq!(host.bytes(), CAPACITY * schema.row_bytes());
            assert!(
                (host.bytes()..=host.bytes() + 3 * CAPACITY).contains(&on_device.bytes()),
                "at most three bytes of padding"
            );
            for round in 0..12 {
                let offered = 1 + rng.below(6) as usize;
                let mut candidates = columns(&mut rng, offered, images, &device);
                let mut chosen: Vec<u32> =
                    (0..offered as u32).filter(|_| rng.below(3) > 0).collect();
                chosen.sort_by_key(|row| row * 7 % 5);
                let rows = chosen.len();
                if rows == 0 {
                    continue;
                }
                host.stage(&mut candidates.clone(), &chosen).unwrap();
                on_device.stage(&mut candidates, &chosen).unwrap();
                assert!(candidates.is_empty());
                for field in [1, 4] {
                    assert_eq!(staged(&host, field), staged(&on_device, field));
                }
                // Every other round, adjacent candidates go to adjacent slots, as they do while a
                // shard fills up.
                let mut slots: Vec<u32> = (0..CAPACITY as u32).collect();
                if round % 2 == 0 {
                    slots.rotate_left(rng.below((CAPACITY - rows) as u64 + 1) as usize)
                } else {
                    rng.shuffle(&mut slots)
                }
                let placements: Vec<_> = (0..rows as u32).zip(slots).collect();
                host.write(&placements);
                on_device.write(&placements);
                let slots: Vec<u32> = (0..CAPACITY as u32).collect();
                let held = everything(&host, &slots);
                assert_eq!(
                    held,
                    everything(&on_device, &slots),
                    "{images:?}, pieces of {piece_bytes} bytes, round {round}"
                );
                // Rows of this store and packed rows, in any order.
                let elsewhere: Vec<Vec<u8>> = held
                    .chunks(FIELDS.len())
                    .map(|row| row.iter().flat_map(|cell| cell.2.clone()).collect())
                    .collect();
                let sources: Vec<_> = (0..1 + rng.below(8))
                    .map(|_| {
                        let slot = rng.below(CAPACITY as u64) as u32;
                        if rng.below(3) == 0 {
                            Source::Packed(&elsewhere[slot as usize])
                        } else {
                            Source::Slot(slot)
                        }
                    })
                    .collect();
                let (mut a, mut b) = (Vec::new(), Vec::new());
                host.assemble(&sources, &devices, &mut a);
                on_device.assemble(&sources, &devices, &mut b);
                assert_eq!(
                    data(a),
                    data(b),
                    "{images:?}, pieces of {piece_bytes} bytes, round {round}: {sources:?}"
                );
            }
        }
    }
}

#[test]
fn both_stores_refuse_values_outside_a_byte_and_stay_unchanged() {
    let _alone = alone();
    let device = device();
    for packed in [false, true] {
        for (wrong, first) in [
            ([256, -1], 256),
            ([-1, 256], -1),
            ([-300, 0], -300),
            ([7, i64::from(i32::MAX)], i64::from(i32::MAX)),
        ] {
            let mut rng = Stream::new(1, Purpose::TaskStream, 0, 0);
            let mut good = columns(&mut rng, 2, DType::I32, &device);
            let schema = Schema::of(&FIELDS, &good).unwrap();
            let devices = vec![device.clone(); FIELDS.len()];
            let mut host = HostStore::new(schema.clone(), CAPACITY).unwrap();
            let mut on_device =
                DeviceStore::with_layout(schema, CAPACITY, &devices, 1 << 20, packed).unwrap();
            let mut bad = good.clone();
            let mut image = vec![0i64; 14];
            (image[3], image[9]) = (wrong[0], wrong[1]);
            bad[0] = Column::from_data(
                TensorData::new(image, [2, 7]).convert_dtype(DType::I32),
                Kind::Int,
                Shape::new([7]),
                &device,
            );
            let expected =
                Err(RehearsalError::Batch(BatchError::ByteRange { field: "image", value: first }));
            for store in [&mut host as &mut dyn Store, &mut on_device] {
                store.stage(&mut good.clone(), &all(&good)).unwrap();
                store.write(&[(0, 4), (1, 0)]);
                let before = everything(store, &[0, 4]);
                assert_eq!(store.stage(&mut bad.clone(), &all(&bad)), expected);
                assert_eq!(everything(store, &[0, 4]), before);
            }
            good.clear();
        }
    }
}

#[test]
fn candidates_move_to_the_store_and_rows_to_the_requested_device() {
    let _alone = alone();
    let (device, host) = (device(), Device::flex());
    let mut rng = Stream::new(3, Purpose::TaskStream, 0, 0);
    // Without booleans: their element type depends on the device, so such a mini-batch cannot move
    // to another device.
    let mut first = columns(&mut rng, 2, DType::I32, &device);
    first.remove(3);
    let fields = [FIELDS[0], FIELDS[1], FIELDS[2], FIELDS[4]];
    let mut store =
        DeviceStore::new(Schema::of(&fields, &first).unwrap(), CAPACITY, &vec![device.clone(); 4])
            .unwrap();
    let elsewhere: Vec<Column> =
        first.iter().map(|column| column.clone().moved_to(&host)).collect();
    store.stage(&mut elsewhere.clone(), &all(&elsewhere)).unwrap();
    store.write(&[(0, 3), (1, 1)]);
    let mut drawn = Vec::new();
    store.assemble(&[Source::Slot(3), Source::Slot(1)], &vec![host.clone(); 4], &mut drawn);
    assert!(drawn.iter().all(|column| column.device() == host));
    assert_eq!(data(drawn), data(elsewhere));
}

#[test]
fn a_shard_too_large_for_the_device_is_an_error() {
    let _alone = alone();
    let device = device();
    let mut rng = Stream::new(9, Purpose::TaskStream, 0, 0);
    let first = columns(&mut rng, 3, DType::I32, &device);
    let schema = |fields: &[usize]| {
        let (specs, columns): (Vec<_>, Vec<_>) =
            fields.iter().map(|&field| (FIELDS[field], first[field].clone())).unzip();
        Schema::of(&specs, &columns).unwrap()
    };
    // Rows of 8 bytes: 1 TiB in one piece, more than any device has. A host could overcommit that,
    // but not half of the address space.
    let capacity = if crate::batch::is_host(&device) { 1 << 60 } else { 1 << 37 };
    let refused = DeviceStore::with_layout(
        schema(&[2]),
        capacity,
        std::slice::from_ref(&device),
        capacity * 8,
        false,
    );
    assert!(
        matches!(refused, Err(RehearsalError::OutOfMemory { bytes }) if bytes == capacity * 8),
        "{refused:?}"
    );

    // The device is still usable.
    let mut small =
        DeviceStore::new(schema(&[0, 1, 2, 3, 4]), CAPACITY, &vec![device.clone(); FIELDS.len()])
            .unwrap();
    let mut host = HostStore::new(schema(&[0, 1, 2, 3, 4]), CAPACITY).unwrap();
    for store in [&mut small as &mut dyn Store, &mut host] {
        store.stage(&mut first.clone(), &all(&first)).unwrap();
        store.write(&[(0, 4), (1, 0), (2, 9)]);
    }
    assert_eq!(everything(&small, &[0, 4, 9]), everything(&host, &[0, 4, 9]));
}

/// Needs a device that reports the use of its memory. On flex, `tests/device_store.rs` counts
/// allocations instead.
#[test]
fn a_write_does_not_copy_the_store() {
    let _alone = alone();
    let device = device();
    let Some(before) = device.memory_pool_usage() else { return };
    let mut rng = Stream::new(5, Purpose::TaskStream, 0, 0);
    let first = columns(&mut rng, 1, supported(&device, DType::U8, DType::I32), &device);
    let capacity = 1 << 20;
    let mut store =
        DeviceStore::new(Schema::of(&FIELDS, &first).unwrap(), capacity, &vec![device.clone(); 5])
            .unwrap();
    let reserved = |at: &Device| at.memory_pool_usage().map_or(0, |usage| usage.bytes_reserved);
    let full = reserved(&device);
    assert!(
        full >= before.bytes_reserved + store.bytes() as u64,
        "the store is in the memory of the device"
    );
    for step in 0..20u32 {
        store.stage(&mut columns(&mut rng, 4, first[0].dtype(), &device), &[0, 1, 2, 3]).unwrap();
        store.write(&[
            (0, 1000 + step * 1000),
            (1, step),
            (2, 77),
            (3, capacity as u32 - 1 - step),
        ]);
        let mut drawn = Vec::new();
        store.assemble(
            &[Source::Slot(step), Source::Slot(77)],
            &vec![device.clone(); 5],
            &mut drawn,
        );
    }
    device.sync().unwrap();
    let widest = 8 * capacity as u64;
    let more = reserved(&device).saturating_sub(full);
    assert!(more < widest / 2, "{more} bytes more");
}
