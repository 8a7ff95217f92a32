//! Mini-batches of images.

use crate::augment::Augment;
use crate::data::{Image, ImageShape};
use crate::models::{ConvNet, GhostNet, Mlp, Network, ResNet};
use burn::data::dataloader::batcher::Batcher;
use burn::tensor::{DType, Device, FloatDType, Int, Tensor, TensorData};
use burn_rehearsal::RehearsalBatch;
use burn_rehearsal_train::augmentation::Augmentation;
use burn_rehearsal_train::data_parallel::compute_type;
use burn_rehearsal_train::methods::{Classifier, LabelledBatch};
use std::sync::Arc;

/// A mini-batch of images.
#[derive(Debug, Clone, RehearsalBatch)]
pub struct ImageBatch {
    /// `[rows, channels, height, width]`, values 0..=255; one byte each where the device has bytes.
    #[rehearsal(bytes)]
    pub images: Tensor<4, Int>,
    /// `[rows]`
    #[rehearsal(class)]
    pub targets: Tensor<1, Int>,
    /// `[rows]`: the number of each sample in its data set.
    #[rehearsal(id)]
    pub index: Tensor<1, Int>,
    /// The augmented images, `[rows, channels, height, width]`, values 0..=1, which the network
    /// sees instead of `images`. The buffer stores `images`.
    #[rehearsal(skip)]
    pub augmented: Option<Tensor<4>>,
    /// How many of the rows, the last ones, are representatives.
    #[rehearsal(skip, fill = count)]
    pub representatives: usize,
}

fn count(representatives: &mut usize, appended: usize) {
    *representatives = appended;
}

impl LabelledBatch for ImageBatch {
    fn targets(&self) -> Tensor<1, Int> {
        self.targets.clone()
    }

    fn representatives(&self) -> usize {
        self.representatives
    }
}

macro_rules! classify_images {
    ($($network:ty),*) => {$(
        impl Classifier for $network {
            type Batch = ImageBatch;

            fn logits(&self, batch: ImageBatch) -> Tensor<2> {
                self.forward(batch.pixels().cast(compute_type(self))).cast(FloatDType::F32)
            }
        }
    )*};
}

classify_images!(Mlp, ConvNet, ResNet, GhostNet, Network);

impl ImageBatch {
    /// The input of the network: `[rows, channels, height, width]`, values 0..=1.
    pub fn pixels(self) -> Tensor<4> {
        self.augmented.unwrap_or_else(|| self.images.float() / 255.0)
    }
}

/// Stacks images.
#[derive(Debug, Clone)]
pub struct ImageBatcher {
    /// The shape of every image.
    pub shape: ImageShape,
    /// For how many representatives a mini-batch has room.
    pub room: usize,
}

impl Augment {
    /// The pipeline for mini-batches of an [`experiment`](burn_rehearsal_train::experiment).
    pub fn into_augmentation(self) -> Augmentation<ImageBatch> {
        Arc::new(move |batch: ImageBatch, step, rank| {
            let augmented = self.apply_bytes(batch.images.clone(), step, rank)?;
            Ok(ImageBatch { augmented: Some(augmented), ..batch })
        })
    }
}

impl Batcher<Image, ImageBatch> for ImageBatcher {
    fn batch(&self, items: Vec<Image>, device: &Device) -> ImageBatch {
        let rows = items.len();
        let ImageShape { channels, height, width } = self.shape;
        // Memory that the buffer appends the representatives in.
        let mut pixels = Vec::with_capacity((rows + self.room) * self.shape.elements());
        items.iter().for_each(|image| pixels.extend_from_slice(&image.pixels));
        let integers = |value: fn(&Image) -> usize| {
            let values: Vec<i64> = items.iter().map(|image| value(image) as i64).collect();
            Tensor::from_data(TensorData::new(values, [rows]), device)
        };
        let pixels = TensorData::new(pixels, [rows, channels, height, width]);
        let dtype = if device.supports_dtype(DType::U8) { DType::U8 } else { DType::I32 };
        ImageBatch {
            images: Tensor::from_data(pixels, (device, dtype)),
            targets: integers(|image| image.class),
            index: integers(|image| image.index),
            augmented: None,
            representatives: 0,
        }
    }
}
