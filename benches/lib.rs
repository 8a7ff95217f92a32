//! Shared parts of the benchmarks: measuring, recording figures, mini-batches of any size, and a
//! synthetic image workload to train on.
//!
//! Each benchmark answers one question. `docs/BENCHMARKS.md` lists them with their last figures.
#![warn(missing_docs)]

mod figures;
mod measure;
mod rows;

pub use figures::{Figures, Target};
pub use measure::{
    Cpu, Series, Time, interleave, log_slope, median, micros, python, resident_mib, timed,
};
pub use rows::{FloatBatch, Image, Images, StackImages, fill, random_batches, random_images};

use burn::data::dataloader::batcher::Batcher;
use burn::data::dataset::{Dataset, InMemDataset};
use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::pool::{MaxPool2d, MaxPool2dConfig};
use burn::nn::{Linear, LinearConfig, PaddingConfig2d, Relu};
use burn::optim::{ModuleOptimizer, SgdConfig};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use burn_rehearsal::random::{Purpose, Stream};
use burn_rehearsal::{Capacity, Execution, PolicyKind, RehearsalBatch, RehearsalConfig, RowLayout};
use burn_rehearsal_train::experiment::Workload;
use burn_rehearsal_train::init::{Scheme, keyed_init};
use burn_rehearsal_train::methods::{Classifier, LabeledBatch};
use burn_rehearsal_train::stream::{ClassIncremental, ClassOrder, StreamError, TaskStream};
use std::ops::Range;
use std::sync::Arc;

// The program's allocator: glibc returns the memory of large tensors to the system in every step.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Incoming rows of a mini-batch.
pub const B: usize = 56;
/// Candidates of a mini-batch.
pub const C: usize = 14;
/// Representatives of a mini-batch.
pub const R: usize = 7;

/// Side of the images of [`Synthetic`], in pixels.
const SIDE: usize = 32;
/// The number of classes of [`Synthetic`]; each task has two.
const CLASSES: usize = 4;

/// The measured device: the one that `BURN_DEVICE` names, by default flex.
pub fn device() -> Device {
    if std::env::var_os("BURN_DEVICE").is_some() { Device::default() } else { Device::flex() }
}

/// The smallest integer type of `device` that holds a byte.
pub fn byte_type(device: &Device) -> DType {
    if device.supports_dtype(DType::U8) { DType::U8 } else { DType::I32 }
}

/// A buffer that stores every candidate, which is the most work: `capacity` samples, [`C`]
/// candidates and [`R`] representatives per mini-batch.
pub fn config(capacity: usize, execution: Execution) -> RehearsalConfig {
    RehearsalConfig::new(Capacity::Samples(capacity))
        .with_candidates(C)
        .with_representatives(R)
        .with_policy(PolicyKind::RandomReplacement)
        .with_execution(execution)
        .with_late_fields(false)
}

/// A random image of 3 × 32 × 32 bytes and its class.
#[derive(Debug, Clone)]
pub struct Sample {
    pixels: Arc<[u8]>,
    class: usize,
}

/// A mini-batch of images.
#[derive(Debug, Clone, RehearsalBatch)]
pub struct Batch {
    /// `[rows, 3, 32, 32]`
    #[rehearsal(bytes)]
    pub images: Tensor<4, Int>,
    /// `[rows]`
    #[rehearsal(class)]
    pub targets: Tensor<1, Int>,
    /// `[representatives, classes]`: the stored logits of the drawn rows.
    #[rehearsal(late)]
    pub logits: Option<Tensor<2>>,
    /// The incoming rows and the representatives.
    #[rehearsal(layout)]
    pub rows: RowLayout<Self>,
}

impl LabeledBatch for Batch {
    fn targets(&self) -> Tensor<1, Int> {
        self.targets.clone()
    }

    fn layout(&self) -> &RowLayout<Self> {
        &self.rows
    }

    fn select(&self, rows: Range<usize>) -> Self {
        Self { images: self.images.clone().slice(rows), ..self.clone() }
    }

    fn valid(self) -> Self {
        Self { images: self.images.inner(), ..self }
    }

    fn stored_logits(&self) -> Option<Tensor<2>> {
        self.logits.clone()
    }

    fn store_logits(&self, logits: Tensor<2>) {
        self.rows.annotate(BatchLate { logits });
    }
}

/// Stacks samples.
#[derive(Debug, Clone)]
pub struct Stack;

impl Batcher<Sample, Batch> for Stack {
    fn batch(&self, items: Vec<Sample>, device: &Device) -> Batch {
        let rows = items.len();
        let pixels: Vec<u8> = items.iter().flat_map(|item| item.pixels.iter().copied()).collect();
        let classes: Vec<i64> = items.iter().map(|item| item.class as i64).collect();
        Batch {
            images: Tensor::from_data(
                TensorData::new(pixels, [rows, 3, SIDE, SIDE]),
                (device, byte_type(device)),
            ),
            targets: Tensor::from_data(TensorData::new(classes, [rows]), device),
            logits: None,
            rows: RowLayout::default(),
        }
    }
}

/// Two 3×3 convolutions with pooling, and a linear layer.
#[derive(Module, Debug)]
pub struct Net {
    first: Conv2d,
    second: Conv2d,
    pool: MaxPool2d,
    output: Linear,
    relu: Relu,
}

impl Net {
    fn new(device: &Device, seed: u64) -> Self {
        let conv = |from, to| {
            Conv2dConfig::new([from, to], [3, 3]).with_padding(PaddingConfig2d::Same).init(device)
        };
        let net = Self {
            first: conv(3, 16),
            second: conv(16, 32),
            pool: MaxPool2dConfig::new([2, 2]).with_strides([2, 2]).init(),
            output: LinearConfig::new(32 * (SIDE / 4) * (SIDE / 4), CLASSES).init(device),
            relu: Relu::new(),
        };
        keyed_init(net, seed, Scheme::default())
    }
}

impl Classifier for Net {
    type Batch = Batch;

    fn logits(&self, batch: Batch) -> Tensor<2> {
        let images = batch.images.float() / 255.0;
        let hidden = self.pool.forward(self.relu.forward(self.first.forward(images)));
        let hidden = self.pool.forward(self.relu.forward(self.second.forward(hidden)));
        self.output.forward(hidden.flatten(1, 3))
    }
}

/// Random images of four classes, in tasks of two classes.
pub struct Synthetic {
    train: Arc<InMemDataset<Sample>>,
    test: Arc<InMemDataset<Sample>>,
    stream: ClassIncremental,
}

impl Synthetic {
    /// A training set of `samples` images.
    ///
    /// # Errors
    ///
    /// [`StreamError`] if there are fewer samples than classes.
    pub fn new(samples: usize) -> Result<Self, StreamError> {
        let images = |count: usize, seed| -> Vec<Sample> {
            let mut random = Stream::new(seed, Purpose::Augment, 0, 0);
            (0..count)
                .map(|i| Sample {
                    pixels: (0..3 * SIDE * SIDE).map(|_| random.next_u32() as u8).collect(),
                    class: i % CLASSES,
                })
                .collect()
        };
        let (train, test) = (images(samples, 1), images(CLASSES, 2));
        let labels =
            |samples: &[Sample]| samples.iter().map(|sample| sample.class).collect::<Vec<_>>();
        let stream = ClassIncremental::new(
            &labels(&train),
            &labels(&test),
            CLASSES,
            CLASSES / 2,
            ClassOrder::Fixed,
        )?;
        Ok(Self {
            train: Arc::new(InMemDataset::new(train)),
            test: Arc::new(InMemDataset::new(test)),
            stream,
        })
    }
}

impl Workload for Synthetic {
    type Item = Sample;
    type Batch = Batch;
    type Batcher = Stack;
    type Model = Net;

    fn train(&self) -> Arc<dyn Dataset<Sample>> {
        self.train.clone()
    }

    fn test(&self) -> Arc<dyn Dataset<Sample>> {
        self.test.clone()
    }

    fn stream(&self) -> &dyn TaskStream {
        &self.stream
    }

    fn batcher(&self) -> Stack {
        Stack
    }

    fn model(&self, device: &Device, seed: u64) -> Net {
        Net::new(device, seed)
    }

    fn optimizer(&self) -> ModuleOptimizer {
        SgdConfig::new().init()
    }
}
