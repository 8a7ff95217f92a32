//! Mini-batches of images.

use crate::augment::Augment;
use crate::data::{Image, ImageShape};
use crate::models::{ConvNet, GhostNet, Mlp, Network, ResNet};
use burn::data::dataloader::batcher::Batcher;
use burn::tensor::{DType, Device, FloatDType, Int, Tensor, TensorData};
use burn_rehearsal::{RehearsalBatch, RowLayout};
use burn_rehearsal_train::augmentation::Augmentation;
use burn_rehearsal_train::data_parallel::compute_type;
use burn_rehearsal_train::methods::{Classifier, LabeledBatch};
use std::ops::Range;
use std::sync::Arc;

/// A mini-batch of labeled images, which a [`RehearsalBuffer`](burn_rehearsal::RehearsalBuffer) can
/// store.
///
/// Make it with an [`ImageBatcher`]. A training step of your own takes the input of the network
/// from [`pixels`](Self::pixels), and the classes from `targets`:
///
/// ```
/// use burn::nn::loss::CrossEntropyLoss;
/// use burn::tensor::Tensor;
/// use burn_rehearsal_vision::{ImageBatch, models::Mlp};
///
/// fn loss(network: &Mlp, batch: ImageBatch, cross_entropy: &CrossEntropyLoss) -> Tensor<1> {
///     let targets = batch.targets.clone();
///     cross_entropy.forward(network.forward(batch.pixels()), targets)
/// }
/// ```
#[derive(Debug, Clone, RehearsalBatch)]
pub struct ImageBatch {
    /// The images, `[rows, channels, height, width]`, values 0..=255, of type `u8` if the device
    /// supports it, otherwise `i32`.
    #[rehearsal(bytes)]
    pub images: Tensor<4, Int>,
    /// The classes, `[rows]`.
    #[rehearsal(class)]
    pub targets: Tensor<1, Int>,
    /// The indices of the samples in their data set, `[rows]`.
    #[rehearsal(id)]
    pub index: Tensor<1, Int>,
    /// Augmented images, `[rows, channels, height, width]`, which replace `images` as the input of
    /// the network. The buffer stores `images`.
    #[rehearsal(skip)]
    pub augmented: Option<Tensor<4>>,
    /// The logits that a method has stored with the drawn rows, `[representatives, classes]`.
    #[rehearsal(late(f32))]
    pub logits: Option<Tensor<2>>,
    /// The incoming rows and those of each draw.
    #[rehearsal(layout)]
    pub rows: RowLayout<Self>,
}

impl LabeledBatch for ImageBatch {
    fn targets(&self) -> Tensor<1, Int> {
        self.targets.clone()
    }

    fn layout(&self) -> &RowLayout<Self> {
        &self.rows
    }

    fn select(&self, rows: Range<usize>) -> Self {
        let augmented = self.augmented.clone();
        Self {
            images: self.images.clone().slice(rows.clone()),
            augmented: augmented.map(|images| images.slice(rows)),
            ..self.clone()
        }
    }

    fn valid(self) -> Self {
        Self { images: self.images.inner(), augmented: self.augmented.map(Tensor::inner), ..self }
    }

    fn stored_logits(&self) -> Option<Tensor<2>> {
        self.logits.clone()
    }

    fn store_logits(&self, logits: Tensor<2>) {
        self.rows.annotate(ImageBatchLate { logits });
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
    /// The input of the network, `[rows, channels, height, width]`: the augmented images, or the
    /// original ones with values 0..=1.
    pub fn pixels(self) -> Tensor<4> {
        self.augmented.unwrap_or_else(|| self.images.float() / 255.0)
    }
}

/// Stacks [`Image`]s into an [`ImageBatch`].
///
/// ```
/// use burn::data::dataloader::DataLoaderBuilder;
/// use burn_rehearsal_vision::{ImageBatch, ImageBatcher, data::open_digits};
///
/// let digits = open_digits(8)?;
/// let batcher = ImageBatcher { shape: digits.shape, room: 16 };
/// let loader = DataLoaderBuilder::new(batcher).batch_size(16).build(digits.train.clone());
/// let batch: ImageBatch = loader.iter().next().ok_or("no mini-batch")??;
/// assert_eq!(batch.images.dims(), [16, 1, 8, 8]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct ImageBatcher {
    /// The shape of every image.
    pub shape: ImageShape,
    /// The number of representatives to reserve memory for. With enough memory, the buffer appends
    /// them without copying the mini-batch. 0 is always valid.
    pub room: usize,
}

impl Augment {
    /// The pipeline as a function on mini-batches, for
    /// [`AugmentLoader`](burn_rehearsal_train::augmentation::AugmentLoader) and
    /// [`experiment`](burn_rehearsal_train::experiment).
    ///
    /// ```
    /// use burn::data::dataloader::DataLoader;
    /// use burn_rehearsal_train::augmentation::AugmentLoader;
    /// use burn_rehearsal_vision::{ImageBatch, augment::Augment};
    /// use std::sync::Arc;
    ///
    /// fn augmented(loader: Arc<dyn DataLoader<ImageBatch>>) -> AugmentLoader<ImageBatch> {
    ///     let augment = Augment::new(42).random_crop(32, 4).horizontal_flip(0.5);
    ///     AugmentLoader::new(loader, augment.into_augmentation(), 0, Arc::default())
    /// }
    /// ```
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
        // The buffer appends representatives in the spare capacity.
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
            logits: None,
            rows: RowLayout::default(),
        }
    }
}
