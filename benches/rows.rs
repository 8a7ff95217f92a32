//! Mini-batches of synthetic images of any size, as bytes or as floats.

use crate::Batch;
use burn::data::dataloader::batcher::Batcher;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use burn_rehearsal::batch::tensor_with_room;
use burn_rehearsal::random::{Purpose, Stream};
use burn_rehearsal::{RehearsalBatch, RehearsalBuffer, RowLayout};
use std::sync::Arc;

/// A mini-batch of images in `f32`.
#[derive(Debug, Clone, RehearsalBatch)]
pub struct FloatBatch {
    /// `[rows, 3, side, side]`
    pub images: Tensor<4>,
    /// `[rows]`
    #[rehearsal(class)]
    pub targets: Tensor<1, Int>,
}

/// An image with three channels, and its class.
#[derive(Debug, Clone)]
pub struct Image {
    /// The bytes of its elements.
    pub bytes: Arc<[u8]>,
    /// The class.
    pub class: usize,
}

/// A batch type of images.
pub trait Images: RehearsalBatch + Clone + std::fmt::Debug {
    /// The name of the element type.
    const NAME: &'static str;
    /// The size of an element in bytes.
    const ELEMENT: usize;
    /// The element type.
    const DTYPE: DType;

    /// A mini-batch of images `[rows + room, 3, side, side]`, of which the last `room` are left for
    /// representatives.
    fn of(images: TensorData, room: usize, classes: Vec<i64>, device: &Device) -> Self;

    /// The size of an image in bytes.
    fn row_bytes(side: usize) -> usize {
        3 * side * side * Self::ELEMENT
    }
}

fn targets(classes: Vec<i64>, room: usize, device: &Device) -> Tensor<1, Int> {
    let rows = classes.len();
    tensor_with_room(classes, [rows], room, device)
}

impl Images for Batch {
    const NAME: &'static str = "u8";
    const ELEMENT: usize = 1;
    const DTYPE: DType = DType::U8;

    fn of(images: TensorData, room: usize, classes: Vec<i64>, device: &Device) -> Self {
        let rows = classes.len();
        Self {
            images: Tensor::from_data(images, (device, Self::DTYPE)).slice(0..rows),
            targets: targets(classes, room, device),
            logits: None,
            rows: RowLayout::default(),
        }
    }
}

impl Images for FloatBatch {
    const NAME: &'static str = "f32";
    const ELEMENT: usize = 4;
    const DTYPE: DType = DType::F32;

    fn of(images: TensorData, room: usize, classes: Vec<i64>, device: &Device) -> Self {
        let rows = classes.len();
        Self {
            images: Tensor::from_data(images, (device, Self::DTYPE)).slice(0..rows),
            targets: targets(classes, room, device),
        }
    }
}

/// Stacks images and copies each of them once.
#[derive(Debug, Clone, Copy)]
pub struct StackImages {
    /// Side of the images in pixels.
    pub side: usize,
    /// The number of further rows for which a mini-batch has room.
    pub room: usize,
}

impl<B: Images> Batcher<Image, B> for StackImages {
    fn batch(&self, items: Vec<Image>, device: &Device) -> B {
        let (rows, row_bytes) = (items.len() + self.room, B::row_bytes(self.side));
        let mut bytes = Vec::with_capacity(rows * row_bytes);
        items.iter().for_each(|item| bytes.extend_from_slice(&item.bytes));
        bytes.resize(rows * row_bytes, 0);
        let images = TensorData::from_bytes_vec(bytes, [rows, 3, self.side, self.side], B::DTYPE);
        B::of(images, self.room, items.iter().map(|item| item.class as i64).collect(), device)
    }
}

/// `count` random images of `row_bytes` bytes.
pub fn random_images(count: usize, row_bytes: usize, classes: usize, seed: u64) -> Vec<Image> {
    let mut random = Stream::new(seed, Purpose::Augment, 0, 0);
    // Images may have the same content, but each needs memory of its own.
    let noise: Vec<u8> = (0..row_bytes).map(|_| random.next_u32() as u8).collect();
    (0..count)
        .map(|_| Image {
            bytes: noise.clone().into(),
            class: random.below(classes as u64) as usize,
        })
        .collect()
}

/// `count` mini-batches of `rows` random images each.
pub fn random_batches<B: Images>(
    count: usize,
    rows: usize,
    side: usize,
    classes: usize,
    device: &Device,
) -> Vec<B> {
    (0..count)
        .map(|seed| {
            StackImages { side, room: 0 }
                .batch(random_images(rows, B::row_bytes(side), classes, seed as u64), device)
        })
        .collect()
}

/// Rehearses `batches` until the shard is full.
///
/// # Errors
///
/// As [`RehearsalBuffer::rehearse`].
pub fn fill<B: Images>(
    buffer: &RehearsalBuffer<B>,
    batches: &[B],
) -> Result<(), burn_rehearsal::error::RehearsalError> {
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
