//! Mini-batches with verifiable rows, buffers of them, and χ² tests of draws.

use burn::tensor::{Bool, DType, Device, Int, Tensor, TensorData};
use burn_rehearsal::random::{Purpose, Stream};
use burn_rehearsal::{Capacity, RehearsalBatch, RehearsalBuffer, RehearsalConfig, StorePreference};
use burn_rehearsal_collective::Collective;
use statrs::distribution::{ChiSquared, ContinuousCDF};
use std::io::Write;
use std::sync::Once;

/// The class of an id is `id / CLASS`.
pub const CLASS: i64 = 1_000_000;

/// The device of all tests: flex, or Burn's default device if the variable `BURN_DEVICE` is set.
#[must_use]
pub fn device() -> Device {
    let device =
        if std::env::var_os("BURN_DEVICE").is_some() { Device::default() } else { Device::flex() };
    static SAID: Once = Once::new();
    // The test harness captures the output of `println!` and shows it only if the test fails.
    SAID.call_once(|| {
        drop(writeln!(
            std::io::stdout(),
            "device of these tests: {}",
            burn_rehearsal_train::device::describe(&device)
        ))
    });
    device
}

/// The element type of images on `device`: u8 if supported, otherwise i32.
#[must_use]
pub fn byte_type(device: &Device) -> DType {
    if device.supports_dtype(DType::U8) { DType::U8 } else { DType::I32 }
}

/// The element type of labels on `device`: i64 if supported, otherwise i32.
#[must_use]
pub fn label_type(device: &Device) -> DType {
    if device.supports_dtype(DType::I64) { DType::I64 } else { DType::I32 }
}

/// A mini-batch with a field of every role. All fields of a row are functions of its id, so that a
/// torn or mixed row is detected.
#[derive(RehearsalBatch, Clone, Debug)]
pub struct Mixed {
    /// `[rows, 1, 2, 2]`
    #[rehearsal(bytes)]
    pub image: Tensor<4, Int>,
    /// `[rows]`
    #[rehearsal(class)]
    pub class: Tensor<1, Int>,
    /// `[rows]`
    #[rehearsal(id)]
    pub id: Tensor<1, Int>,
    /// `[rows, 2]`
    pub feature: Tensor<2>,
    /// `[rows]`
    #[rehearsal(representative)]
    pub replayed: Tensor<1, Bool>,
}

fn image_of(id: i64) -> [u8; 4] {
    let mixed = (id as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    [(mixed >> 56) as u8, (mixed >> 48) as u8, (mixed >> 40) as u8, (mixed >> 32) as u8]
}

fn feature_of(id: i64) -> [f32; 2] {
    [id as f32 * 0.5 - 3.0, (id % 1013) as f32]
}

/// A row of a [`Mixed`] on the host.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The id.
    pub id: i64,
    /// The class field.
    pub class: i64,
    /// The image field.
    pub image: Vec<i64>,
    /// The bits of the feature field.
    pub feature: Vec<u32>,
    /// The representative flag.
    pub replayed: bool,
}

impl Row {
    /// The row that [`batch`] makes for `id`.
    #[must_use]
    pub fn of(id: i64) -> Self {
        Self {
            id,
            class: id / CLASS,
            image: image_of(id).map(i64::from).to_vec(),
            feature: feature_of(id).map(f32::to_bits).to_vec(),
            replayed: false,
        }
    }

    /// Panics unless all fields of this row belong to its id.
    #[track_caller]
    pub fn assert_whole(&self) {
        assert_eq!(
            Row { replayed: false, ..self.clone() },
            Row::of(self.id),
            "a torn or mixed row"
        );
    }
}

/// A mini-batch of the samples `ids` on [`device`].
#[must_use]
pub fn batch(ids: &[i64]) -> Mixed {
    batch_on(ids, &device())
}

/// A mini-batch of the samples `ids` on `device`.
#[must_use]
pub fn batch_on(ids: &[i64], device: &Device) -> Mixed {
    let n = ids.len();
    let (bytes, labels) = (byte_type(device), label_type(device));
    let ints = |values: Vec<i64>| {
        Tensor::<1, Int>::from_data(
            TensorData::new(values, [n]).convert_dtype(labels),
            (device, labels),
        )
    };
    let images: Vec<u8> = ids.iter().flat_map(|&id| image_of(id)).collect();
    let features: Vec<f32> = ids.iter().flat_map(|&id| feature_of(id)).collect();
    Mixed {
        image: Tensor::from_data(
            TensorData::new(images, [n, 1, 2, 2]).convert_dtype(bytes),
            (device, bytes),
        ),
        class: ints(ids.iter().map(|id| id / CLASS).collect()),
        id: ints(ids.to_vec()),
        feature: Tensor::from_data(TensorData::new(features, [n, 2]), (device, DType::F32)),
        replayed: Tensor::from_data(TensorData::new(vec![false; n], [n]), device),
    }
}

/// The rows of a mini-batch.
#[must_use]
pub fn read(batch: &Mixed) -> Vec<Row> {
    let ints = |tensor: Tensor<1, Int>| tensor.into_data().iter::<i64>().collect::<Vec<_>>();
    let (ids, classes) = (ints(batch.id.clone()), ints(batch.class.clone()));
    let images: Vec<i64> = batch.image.clone().into_data().iter::<i64>().collect();
    let features: Vec<f32> = batch.feature.clone().into_data().iter::<f32>().collect();
    let flags: Vec<bool> = batch.replayed.clone().into_data().iter::<bool>().collect();
    assert!(classes.len() == ids.len() && flags.len() == ids.len(), "fields of different lengths");
    assert!(
        images.len() == 4 * ids.len() && features.len() == 2 * ids.len(),
        "fields of different lengths"
    );
    (0..ids.len())
        .map(|row| Row {
            id: ids[row],
            class: classes[row],
            image: images[4 * row..4 * row + 4].to_vec(),
            feature: features[2 * row..2 * row + 2].iter().map(|value| value.to_bits()).collect(),
            replayed: flags[row],
        })
        .collect()
}

/// Asserts that `augmented` has the rows `incoming`, in order, followed by whole rows that are
/// flagged as representatives. Returns the ids of the latter.
#[track_caller]
pub fn assert_augmented(incoming: &[i64], augmented: &Mixed) -> Vec<i64> {
    let rows = read(augmented);
    let expected: Vec<Row> = incoming.iter().map(|&id| Row::of(id)).collect();
    assert_eq!(rows[..incoming.len()], expected, "the incoming rows changed");
    assert_eq!(
        augmented.image.dtype(),
        byte_type(&augmented.image.device()),
        "the element type of images changed"
    );
    let drawn = &rows[incoming.len()..];
    drawn.iter().for_each(Row::assert_whole);
    assert!(drawn.iter().all(|row| row.replayed), "a representative is not flagged");
    drawn.iter().map(|row| row.id).collect()
}

/// A configuration with capacity |B|, candidates c and representatives r.
#[must_use]
pub fn config(capacity: usize, candidates: usize, representatives: usize) -> RehearsalConfig {
    RehearsalConfig::new(Capacity::Samples(capacity))
        .with_candidates(candidates)
        .with_representatives(representatives)
}

/// This rank's buffer of [`Mixed`] rows.
///
/// If the configuration does not choose a store, every second rank stores its shard on the device,
/// and so does a single rank. Tests on several ranks then cover both stores and mixed worlds.
#[must_use]
pub fn buffer(config: &RehearsalConfig, ranks: Box<dyn Collective>) -> RehearsalBuffer<Mixed> {
    let store = match config.store {
        StorePreference::Auto if (ranks.rank() + ranks.size()) % 2 == 1 => StorePreference::Device,
        chosen => chosen,
    };
    RehearsalBuffer::new(&config.clone().with_store(store), ranks).unwrap()
}

/// The ids of the rows in this rank's shard, in slot order.
#[must_use]
pub fn stored_ids(buffer: &RehearsalBuffer<Mixed>) -> Vec<i64> {
    let snapshot = buffer.snapshot().unwrap();
    snapshot.samples().iter().map(|sample| sample.id.unwrap()).collect()
}

/// `rows` new ids for one step of one rank, of random classes below `classes`.
#[must_use]
pub fn fresh(seed: u64, rank: usize, step: usize, rows: usize, classes: u64) -> Vec<i64> {
    let mut rng = Stream::new(seed, Purpose::TaskStream, step as u64, rank as u32);
    (0..rows)
        .map(|row| rng.below(classes) as i64 * CLASS + ((step * 8 + rank) * 64 + row) as i64)
        .collect()
}

/// The probability that a uniform sampler deviates at least as much as `counts`: the number of
/// times that each row was drawn in `trials` draws of `drawn` distinct rows each.
///
/// Rows are drawn without replacement within one draw, which reduces the variance of the counts.
/// The statistic is scaled by (n−1)/(n−r), and is then asymptotically χ² with n−1 degrees of
/// freedom.
///
/// ```
/// use burn_rehearsal_testing::uniform_p;
///
/// assert!(uniform_p(&[49, 50, 51, 50], 100, 2) > 0.9);
/// assert!(uniform_p(&[30, 70, 30, 70], 100, 2) < 1e-6);
/// ```
#[must_use]
pub fn uniform_p(counts: &[u64], trials: u64, drawn: u64) -> f64 {
    let n = counts.len() as f64;
    assert_eq!(
        counts.iter().sum::<u64>(),
        trials * drawn,
        "the counts do not add up to {trials} draws of {drawn} rows"
    );
    assert!(counts.len() > drawn as usize, "a draw of all rows has nothing to test");
    let expected = (trials * drawn) as f64 / n;
    assert!(expected >= 5.0, "too few draws for a χ² test");
    let statistic: f64 =
        counts.iter().map(|&count| (count as f64 - expected).powi(2) / expected).sum();
    p_value(statistic * (n - 1.0) / (n - drawn as f64), n - 1.0)
}

/// The upper tail probability of the χ² distribution.
#[must_use]
pub fn p_value(statistic: f64, freedom: f64) -> f64 {
    ChiSquared::new(freedom).unwrap().sf(statistic)
}
