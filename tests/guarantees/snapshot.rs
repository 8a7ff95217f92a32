//! Snapshots: the stored rows as a Burn data set. Guarantee 10 of docs/ARCHITECTURE.md: all fields
//! of a sample return together.

use burn::data::dataloader::DataLoaderBuilder;
use burn::data::dataset::Dataset;
use burn::tensor::{DType, TensorData};
use burn_rehearsal::{PolicyKind, RehearsalBuffer, SnapshotBatcher};
use burn_rehearsal_testing::{
    CLASS, Mixed, Row, batch, buffer, config, device, fresh, read, world,
};

#[test]
fn a_snapshot_holds_the_inserted_rows_in_slot_order() {
    let buffer: RehearsalBuffer<Mixed> =
        config(7, 5, 2).with_policy(PolicyKind::Fifo).init().unwrap();
    assert!(buffer.snapshot().unwrap().is_empty());
    buffer.rehearse(batch(&[1, CLASS + 2, 3, 4, 5])).unwrap();
    buffer.begin_task(3).unwrap();
    buffer.rehearse(batch(&[2 * CLASS + 6, 7, 8, 9])).unwrap();
    let snapshot = buffer.snapshot().unwrap();
    let rows: Vec<_> = snapshot
        .samples()
        .iter()
        .map(|s| (s.handle.slot, s.handle.generation, s.class, s.task, s.id.unwrap_or(-1)))
        .collect();
    let new = 2 * CLASS + 6;
    assert_eq!(
        rows,
        [
            (0, 1, 0, 3, 8),
            (1, 1, 0, 3, 9),
            (2, 0, 0, 0, 3),
            (3, 0, 0, 0, 4),
            (4, 0, 0, 0, 5),
            (5, 0, 2, 3, new),
            (6, 0, 0, 3, 7)
        ]
    );
    for sample in snapshot.samples() {
        let row = Row::of(sample.id.unwrap());
        let [image, class, id, feature] = &sample.fields[..] else {
            panic!("{} fields", sample.fields.len())
        };
        assert_eq!((image.dtype(), image.shape().to_vec()), (DType::U8, vec![1, 2, 2]));
        assert_eq!(image.iter::<i64>().collect::<Vec<_>>(), row.image);
        assert_eq!(
            (class.iter::<i64>().collect(), id.iter::<i64>().collect()),
            (vec![row.class], vec![row.id])
        );
        assert_eq!(feature.iter::<f32>().map(f32::to_bits).collect::<Vec<_>>(), row.feature);
    }
    assert_eq!(snapshot.len(), 7);
    assert_eq!(snapshot.get(2).unwrap(), snapshot.samples()[2]);
    assert_eq!(
        snapshot.get(7).unwrap_err().to_string(),
        "index 7 is past the end of a snapshot of 7 samples"
    );
    // Later steps do not change the snapshot.
    buffer.rehearse(batch(&[20, 21, 22])).unwrap();
    assert_eq!(snapshot.samples()[2].id, Some(3));
}

#[test]
fn burns_loader_reads_mini_batches_from_a_snapshot() {
    for shards in [1, 2] {
        world(shards, |threads| {
            let buffer = buffer(&config(12 * shards, 5, 2), threads);
            for step in 0..6 {
                buffer.rehearse(batch(&fresh(0, buffer.rank(), step, 6, 4))).unwrap();
            }
            let snapshot = buffer.snapshot().unwrap();
            let expected: Vec<i64> =
                snapshot.samples().iter().filter_map(|sample| sample.id).collect();
            assert!(
                snapshot
                    .samples()
                    .iter()
                    .all(|sample| sample.handle.rank as usize == buffer.rank())
            );
            let loader = DataLoaderBuilder::new(SnapshotBatcher::<Mixed>::default())
                .batch_size(5)
                .set_device(device())
                .build(snapshot);
            let mut ids = Vec::new();
            for batch in loader.iter() {
                let batch = batch.unwrap().unwrap();
                assert_eq!((batch.image.dtype(), batch.id.dtype()), (DType::U8, DType::I64));
                for row in read(&batch) {
                    row.assert_whole();
                    assert!(row.replayed);
                    ids.push(row.id);
                }
            }
            assert_eq!(ids, expected);
        });
    }
}

#[test]
fn samples_of_another_type_are_an_error_not_a_panic() {
    let buffer: RehearsalBuffer<Mixed> = config(7, 5, 2).init().unwrap();
    buffer.rehearse(batch(&[1, 2])).unwrap();
    let samples = buffer.snapshot().unwrap().samples().to_vec();
    let batcher = SnapshotBatcher::<Mixed>::default();
    let name = |samples: &[_]| batcher.try_batch(samples, &device()).unwrap_err().to_string();
    assert!(name(&[]).contains("`image`"));
    let mut short = samples.clone();
    short[1].fields.pop();
    assert!(name(&short).contains("`feature`"));
    let mut ragged = samples.clone();
    ragged[1].fields[3] = TensorData::new(vec![1.0f32], [1]);
    assert!(name(&ragged).contains("`feature`"));
    let mut kind = samples;
    kind.iter_mut()
        .for_each(|sample| sample.fields[3] = TensorData::new(vec![1.0f32, 2.0, 3.0], [3, 1]));
    assert!(name(&kind).contains("`feature`"));
}
