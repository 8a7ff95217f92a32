//! The networks.

use crate::batch::{ImageBatch, ImageShape};
use crate::cli::ModelArg;
use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::pool::{MaxPool2d, MaxPool2dConfig};
use burn::nn::{Linear, LinearConfig, PaddingConfig2d, Relu};
use burn::tensor::{Device, FloatDType, Tensor};
use burn::train::{ClassificationOutput, InferenceStep, TrainOutput, TrainStep};
use burn_rehearsal_train::data_parallel::{compute_type, scale_loss};
use burn_rehearsal_train::init::{Scheme, keyed_init};

/// Units of each hidden layer of the multi-layer perceptron.
const HIDDEN: usize = 100;

/// A classifier of images.
#[derive(Module, Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one network per rank, and it is moved once per task")]
pub enum Network {
    /// Fully connected.
    Mlp(Mlp),
    /// Convolutional.
    Conv(ConvNet),
}

/// Input – 100 – 100 – classes with ReLU: the network of the continual-learning literature for MNIST.
#[derive(Module, Debug)]
pub struct Mlp {
    first: Linear,
    second: Linear,
    output: Linear,
    relu: Relu,
}

/// Two 3×3 convolutions with 32 and 64 channels, each followed by ReLU and 2×2 max-pooling, and a linear layer.
#[derive(Module, Debug)]
pub struct ConvNet {
    first: Conv2d,
    second: Conv2d,
    pool: MaxPool2d,
    output: Linear,
    relu: Relu,
}

impl Network {
    /// The network for images of `shape` and `classes` classes, initialised from `seed` by `scheme`.
    pub fn new(kind: ModelArg, shape: ImageShape, classes: usize, device: &Device, seed: u64, scheme: Scheme) -> Self {
        let network = match kind {
            ModelArg::Mlp => Network::Mlp(Mlp {
                first: LinearConfig::new(shape.elements(), HIDDEN).init(device),
                second: LinearConfig::new(HIDDEN, HIDDEN).init(device),
                output: LinearConfig::new(HIDDEN, classes).init(device),
                relu: Relu::new(),
            }),
            ModelArg::Conv => {
                let conv = |from, to| Conv2dConfig::new([from, to], [3, 3]).with_padding(PaddingConfig2d::Same).init(device);
                Network::Conv(ConvNet {
                    first: conv(shape.channels, 32),
                    second: conv(32, 64),
                    pool: MaxPool2dConfig::new([2, 2]).with_strides([2, 2]).init(),
                    output: LinearConfig::new(64 * (shape.height / 4) * (shape.width / 4), classes).init(device),
                    relu: Relu::new(),
                })
            }
        };
        keyed_init(network, seed, scheme)
    }

    /// Class scores: `[rows, channels, height, width]`, values 0..=1, to `[rows, classes]`, in `f32` whatever the network computes in.
    pub fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let images = images.cast(compute_type(self));
        let scores = match self {
            Network::Mlp(mlp) => mlp.forward(images),
            Network::Conv(conv) => conv.forward(images),
        };
        scores.cast(FloatDType::F32)
    }

    fn classify(&self, batch: ImageBatch) -> ClassificationOutput {
        let targets = batch.targets.clone();
        let output = self.forward(batch.pixels());
        let loss = CrossEntropyLossConfig::new().init(&output.device()).forward(output.clone(), targets.clone());
        ClassificationOutput { loss, output, targets }
    }
}

impl Mlp {
    fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let hidden = self.relu.forward(self.first.forward(images.flatten(1, 3)));
        self.output.forward(self.relu.forward(self.second.forward(hidden)))
    }
}

impl ConvNet {
    fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let hidden = self.pool.forward(self.relu.forward(self.first.forward(images)));
        let hidden = self.pool.forward(self.relu.forward(self.second.forward(hidden)));
        self.output.forward(hidden.flatten(1, 3))
    }
}

impl TrainStep for Network {
    type Input = ImageBatch;
    type Output = ClassificationOutput;

    fn step(&self, batch: ImageBatch) -> TrainOutput<ClassificationOutput> {
        let output = self.classify(batch);
        let gradients = scale_loss(output.loss.clone()).backward();
        TrainOutput::new(self, gradients, output)
    }
}

impl InferenceStep for Network {
    type Input = ImageBatch;
    type Output = ClassificationOutput;

    fn step(&self, batch: ImageBatch) -> ClassificationOutput {
        self.classify(batch)
    }
}
