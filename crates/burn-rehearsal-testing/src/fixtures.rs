//! Mini-batches whose rows prove that they are whole, buffers of them, and χ² tests of what is
//! drawn.

use burn::tensor::{Bool, DType, Device, Int, Tensor, TensorData};
use burn_rehearsal::random::{Purpose, Stream};
use burn_rehearsal::{Capacity, RehearsalBatch, RehearsalBuffer, RehearsalConfig, StorePreference};
use burn_rehearsal_collective::Collective;
use statrs::distribution::{ChiSquared, ContinuousCDF};
use std::io::Write;
use std::sync::Once;

/// Ids carry their class: the class of an id is its millions.
pub const CLASS: i64 = 1_000_000;

/// The device of all tests: flex, or what `BURN_DEVICE` names if this was built with its feature.
#[must_use]
pub fn device() -> Device {
    let device =
        if std::env::var_os("BURN_DEVICE").is_some() { Device::default() } else { Device::flex() };
    static SAID: Once = Once::new();
    // Not `println!`, whose output the test harness would capture and show only if the test fails.
    SAID.call_once(|| {
        drop(writeln!(
            std::io::stdout(),
            "device of these tests: {}",
            burn_rehearsal_train::device::describe(&device)
        ))
    });
    device
}

/// The element type of images on `device`: bytes where it has them.
#[must_use]
pub fn byte_type(device: &Device) -> DType {
    if device.supports_dtype(DType::U8) { DType::U8 } else { DType::I32 }
}

/// The element type of labels on `device`: 64 bits where it has them.
#[must_use]
pub fn label_type(device: &Device) -> DType {
    if device.supports_dtype(DType::I64) { DType::I64 } else { DType::I32 }
}

/// A mini-batch with every role, all fields of a row functions of its id: a torn or mixed row
/// cannot pass for a whole one.
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

/// One row of a [`Mixed`] on the host.
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
    /// The row that [`batch`] makes of `id`.
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

    /// Fails unless all fields of this row belong to its id.
    #[track_caller]
    pub fn assert_whole(&self) {
        assert_eq!(
            Row { replayed: false, ..self.clone() },
            Row::of(self.id),
            "a torn or mixed row"
        );
    }
}

/// A mini-batch of the samples `ids` on [`device`], with u8 images and i64 labels if it has those
/// types.
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

/// Fails unless `augmented` is the rows `incoming`, in order, followed by whole, distinct, flagged
/// representatives; returns their ids.
#[track_caller]
pub fn assert_augmented(incoming: &[i64], augmented: &Mixed) -> Vec<i64> {
    let rows = read(augmented);
    let expected: Vec<Row> = incoming.iter().map(|&id| Row::of(id)).collect();
    assert_eq!(rows[..incoming.len()], expected, "the incoming rows changed");
    assert_eq!(
        augmented.image.dtype(),
        byte_type(&augmented.image.device()),
        "images must stay what they were"
    );
    let drawn = &rows[incoming.len()..];
    drawn.iter().for_each(Row::assert_whole);
    assert!(drawn.iter().all(|row| row.replayed), "a representative is not flagged");
    drawn.iter().map(|row| row.id).collect()
}

/// A configuration with |B|, c and r.
#[must_use]
pub fn config(capacity: usize, candidates: usize, representatives: usize) -> RehearsalConfig {
    RehearsalConfig::new(Capacity::Samples(capacity))
        .with_candidates(candidates)
        .with_representatives(representatives)
}

/// This rank's buffer of [`Mixed`] rows.
///
/// Unless the configuration says where shards live, every other rank keeps its own on the device,
/// and so does a rank alone: whatever is tested on several ranks holds for both stores and for
/// worlds in which they are mixed.
#[must_use]
pub fn buffer(config: &RehearsalConfig, ranks: Box<dyn Collective>) -> RehearsalBuffer<Mixed> {
    let store = match config.store {
        StorePreference::Auto if (ranks.rank() + ranks.size()) % 2 == 1 => StorePreference::Device,
        chosen => chosen,
    };
    RehearsalBuffer::new(&config.clone().with_store(store), ranks).unwrap()
}

/// Fresh ids for one step of one rank, `rows` of them, of random classes below `classes`.
#[must_use]
pub fn fresh(seed: u64, rank: usize, step: usize, rows: usize, classes: u64) -> Vec<i64> {
    let mut rng = Stream::new(seed, Purpose::TaskStream, step as u64, rank as u32);
    (0..rows)
        .map(|row| rng.below(classes) as i64 * CLASS + ((step * 8 + rank) * 64 + row) as i64)
        .collect()
}

/// The probability that a uniform sampler deviates at least as much as `counts`: how often each row
/// was drawn in `trials` draws of `drawn` distinct rows each.
///
/// Within one draw the rows are drawn without replacement, which makes the counts vary less: the
/// statistic is scaled by (n−1)/(n−r) and is then asymptotically χ² with n−1 degrees of freedom.
#[must_use]
pub fn uniform_p(counts: &[u64], trials: u64, drawn: u64) -> f64 {
    let n = counts.len() as f64;
    assert_eq!(
        counts.iter().sum::<u64>(),
        trials * drawn,
        "the counts are not those of {trials} draws of {drawn}"
    );
    assert!(counts.len() > drawn as usize, "with r = n there is nothing to test");
    let expected = (trials * drawn) as f64 / n;
    assert!(expected >= 5.0, "too few draws for a χ² test");
    let statistic: f64 =
        counts.iter().map(|&count| (count as f64 - expected).powi(2) / expected).sum();
    p_value(statistic * (n - 1.0) / (n - drawn as f64), n - 1.0)
}

/// The upper tail of the χ² distribution.
#[must_use]
pub fn p_value(statistic: f64, freedom: f64) -> f64 {
    ChiSquared::new(freedom).unwrap().sf(statistic)
}
