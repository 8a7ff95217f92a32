//! The networks.

use crate::batch::ImageBatch;
use crate::cli::{ModelArg, StemArg};
use crate::config::Config;
use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::pool::{MaxPool2d, MaxPool2dConfig};
use burn::nn::{Linear, LinearConfig, PaddingConfig2d, Relu};
use burn::tensor::{Device, FloatDType, Tensor};
use burn::train::{ClassificationOutput, InferenceStep, TrainOutput, TrainStep};
use burn_rehearsal_train::data::ImageShape;
use burn_rehearsal_train::data_parallel::{compute_type, scale_loss};
use burn_rehearsal_train::init::keyed_init;
use burn_rehearsal_train::models::{GhostNet, GhostNetConfig, ResNet, ResNetConfig, Stem, WeightsError, load_safetensors};
use std::path::Path;

/// Units of each hidden layer of the multi-layer perceptron.
const HIDDEN: usize = 100;
/// The largest images, in pixels, that meet a 3×3 convolution first if nothing is said.
const SMALL: usize = 64;

/// A classifier of images.
#[derive(Module, Debug)]
pub enum Network {
    /// Fully connected.
    Mlp(Mlp),
    /// Convolutional.
    Conv(ConvNet),
    /// Residual.
    ResNet(ResNet),
    /// Made of ghost modules.
    GhostNet(GhostNet),
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
    /// The network that `config` asks for, for images of `shape` and `classes` classes, initialised from `seed`.
    pub fn new(config: &Config, shape: ImageShape, classes: usize, device: &Device, seed: u64) -> Self {
        let residual = |network: ResNetConfig| {
            let small = match config.stem {
                StemArg::Auto => shape.height <= SMALL,
                StemArg::Imagenet => false,
                StemArg::Small => true,
            };
            let stem = if small { Stem::Small } else { Stem::ImageNet };
            Network::ResNet(network.with_stem(stem).with_width(config.model_width).with_channels(shape.channels).init(device))
        };
        let network = match config.model {
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
            ModelArg::Resnet18 => residual(ResNetConfig::resnet18(classes)),
            ModelArg::Resnet50 => residual(ResNetConfig::resnet50(classes)),
            ModelArg::Ghostnet => Network::GhostNet(GhostNetConfig::new(classes).with_channels(shape.channels).init(device)),
        };
        keyed_init(network, seed, config.init.into())
    }

    /// The same network with the weights in a file.
    ///
    /// # Errors
    ///
    /// [`WeightsError`] if the file does not fit.
    pub fn load(self, path: &Path) -> Result<Self, WeightsError> {
        Ok(match self {
            Network::Mlp(network) => Network::Mlp(load_safetensors(network, path)?),
            Network::Conv(network) => Network::Conv(load_safetensors(network, path)?),
            Network::ResNet(network) => Network::ResNet(load_safetensors(network, path)?),
            Network::GhostNet(network) => Network::GhostNet(load_safetensors(network, path)?),
        })
    }

    /// Class scores: `[rows, channels, height, width]`, values 0..=1, to `[rows, classes]`, in `f32` whatever the network computes in.
    pub fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let images = images.cast(compute_type(self));
        let scores = match self {
            Network::Mlp(mlp) => mlp.forward(images),
            Network::Conv(conv) => conv.forward(images),
            Network::ResNet(network) => network.forward(images),
            Network::GhostNet(network) => network.forward(images),
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

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::Dtype;
    use safetensors::tensor::TensorView;

    /// Bytes of `sin(0.37 i + offset) × scale`.
    fn wave(offset: f64, count: usize, scale: f64) -> Vec<u8> {
        (0..count).flat_map(|i| (((0.37 * i as f64 + offset).sin() * scale) as f32).to_le_bytes()).collect()
    }

    /// The expected scores are those of PyTorch 2.15: `Linear(784, 100), ReLU, Linear(100, 100), ReLU, Linear(100, 10)` with the same weights and images.
    #[test]
    fn the_mlp_answers_as_pytorchs_with_the_same_weights() {
        const PYTORCH: [f32; 20] = [
            -0.74412, -1.0702, -0.89128, -0.27946, 0.48803, 1.05763, 1.1644, 0.75604, 0.01771, -0.71397, -0.41962, -0.598, -0.49293,
            -0.14186, 0.30033, 0.63269, 0.70159, 0.47249, 0.04646, -0.38641,
        ];
        let device = Device::default();
        let linear = |from, to| LinearConfig::new(from, to).init(&device);
        let [first, second, output] = [linear(784, HIDDEN), linear(HIDDEN, HIDDEN), linear(HIDDEN, 10)];
        let layers = [("first", vec![HIDDEN, 784]), ("second", vec![HIDDEN, HIDDEN]), ("output", vec![10, HIDDEN])];
        let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = (1..)
            .zip(layers)
            .flat_map(|(number, (name, shape))| {
                let (weight, bias) = (wave(f64::from(number), shape[0] * shape[1], 0.1), wave(f64::from(number) + 3.0, shape[0], 0.1));
                [(format!("{name}.bias"), vec![shape[0]], bias), (format!("{name}.weight"), shape, weight)]
            })
            .collect();
        let views = tensors.iter().map(|(name, shape, bytes)| (name, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mlp.safetensors");
        safetensors::serialize_to_file(views, None, &path).unwrap();

        let network = Network::Mlp(Mlp { first, second, output, relu: Relu::new() }).load(&path).unwrap();
        let images: Vec<f32> = wave(0.0, 2 * 784, 1.0).chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect();
        let images = Tensor::<4>::from_data(burn::tensor::TensorData::new(images, [2, 1, 28, 28]), &device);
        let scores: Vec<f32> = network.forward(images).into_data().try_into_vec().unwrap();
        assert!(scores.len() == 20 && scores.iter().zip(PYTORCH).all(|(ours, theirs)| (ours - theirs).abs() < 1e-4), "{scores:?}");
    }
}
