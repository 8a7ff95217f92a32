//! Mini-batches of synthetic images of any size, as bytes or as floating-point numbers.

use crate::Batch;
use burn::data::dataloader::batcher::Batcher;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use burn_rehearsal::random::{Purpose, Stream};
use burn_rehearsal::{RehearsalBatch, RehearsalBuffer};
use std::sync::Arc;

/// A mini-batch of images in 32-bit floating-point numbers.
#[derive(Debug, Clone, RehearsalBatch)]
pub struct FloatBatch {
    /// `[rows, 3, side, side]`
    pub images: Tensor<4>,
    /// `[rows]`
    #[rehearsal(class)]
    pub targets: Tensor<1, Int>,
}

/// One image, three channels, and its class.
#[derive(Debug, Clone)]
pub struct Image {
    /// The elements' bytes.
    pub bytes: Arc<[u8]>,
    /// Its class.
    pub class: usize,
}

/// A batch type of images.
pub trait Images: RehearsalBatch + Clone + std::fmt::Debug {
    /// The element type's name.
    const NAME: &'static str;
    /// Bytes of one element.
    const ELEMENT: usize;

    /// A mini-batch of images of `side` × `side` whose bytes are joined in `bytes`.
    fn of(bytes: Vec<u8>, side: usize, classes: Vec<i64>, device: &Device) -> Self;

    /// Bytes of one image.
    fn row_bytes(side: usize) -> usize {
        3 * side * side * Self::ELEMENT
    }
}

fn targets(classes: Vec<i64>, device: &Device) -> Tensor<1, Int> {
    let rows = classes.len();
    Tensor::from_data(TensorData::new(classes, [rows]), (device, DType::I64))
}

impl Images for Batch {
    const NAME: &'static str = "u8";
    const ELEMENT: usize = 1;

    fn of(bytes: Vec<u8>, side: usize, classes: Vec<i64>, device: &Device) -> Self {
        let data = TensorData::from_bytes_vec(bytes, [classes.len(), 3, side, side], DType::U8);
        Self { images: Tensor::from_data(data, (device, DType::U8)), targets: targets(classes, device) }
    }
}

impl Images for FloatBatch {
    const NAME: &'static str = "f32";
    const ELEMENT: usize = 4;

    fn of(bytes: Vec<u8>, side: usize, classes: Vec<i64>, device: &Device) -> Self {
        let data = TensorData::from_bytes_vec(bytes, [classes.len(), 3, side, side], DType::F32);
        Self { images: Tensor::from_data(data, (device, DType::F32)), targets: targets(classes, device) }
    }
}

/// Stacks images, each copied once.
#[derive(Debug, Clone, Copy)]
pub struct StackImages {
    /// The images' side in pixels.
    pub side: usize,
}

impl<B: Images> Batcher<Image, B> for StackImages {
    fn batch(&self, items: Vec<Image>, device: &Device) -> B {
        let mut bytes = Vec::with_capacity(items.len() * B::row_bytes(self.side));
        items.iter().for_each(|item| bytes.extend_from_slice(&item.bytes));
        B::of(bytes, self.side, items.iter().map(|item| item.class as i64).collect(), device)
    }
}

/// `count` random images of `row_bytes` bytes.
pub fn random_images(count: usize, row_bytes: usize, classes: usize, seed: u64) -> Vec<Image> {
    let mut random = Stream::new(seed, Purpose::Augment, 0, 0);
    // Random bytes need not differ from image to image; the memory must.
    let noise: Vec<u8> = (0..row_bytes).map(|_| random.next_u32() as u8).collect();
    (0..count).map(|_| Image { bytes: noise.clone().into(), class: random.below(classes as u64) as usize }).collect()
}

/// `count` mini-batches of `rows` random images each.
pub fn random_batches<B: Images>(count: usize, rows: usize, side: usize, classes: usize, device: &Device) -> Vec<B> {
    (0..count).map(|seed| StackImages { side }.batch(random_images(rows, B::row_bytes(side), classes, seed as u64), device)).collect()
}

/// Rehearses until the shard is full.
///
/// # Errors
///
/// As [`RehearsalBuffer::rehearse`].
pub fn fill<B: Images>(buffer: &RehearsalBuffer<B>, batches: &[B]) -> Result<(), burn_rehearsal::error::RehearsalError> {
    loop {
        for _ in 0..256 {
            for batch in batches {
                buffer.rehearse(batch.clone())?;
            }
            if buffer.inspect()?.len == buffer.inspect()?.capacity {
                return Ok(());
            }
        }
    }
}
