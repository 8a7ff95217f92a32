//! A small convolutional network.

use burn::config::Config;
use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::pool::{MaxPool2d, MaxPool2dConfig};
use burn::nn::{Linear, LinearConfig, PaddingConfig2d, Relu};
use burn::tensor::{Device, Tensor};

/// The configuration of a [`ConvNet`].
#[derive(Config, Debug)]
pub struct ConvNetConfig {
    /// Channels, height and width of an image.
    pub shape: [usize; 3],
    /// Classes.
    pub classes: usize,
}

/// Two 3×3 convolutions with 32 and 64 channels, each followed by ReLU and 2×2 max-pooling, and a
/// linear layer.
#[derive(Module, Debug)]
pub struct ConvNet {
    first: Conv2d,
    second: Conv2d,
    pool: MaxPool2d,
    output: Linear,
    relu: Relu,
}

impl ConvNetConfig {
    /// A network with Burn's initial values; [`keyed_init`](burn_rehearsal_train::init::keyed_init)
    /// replaces them.
    pub fn init(&self, device: &Device) -> ConvNet {
        let conv = |from, to| {
            Conv2dConfig::new([from, to], [3, 3]).with_padding(PaddingConfig2d::Same).init(device)
        };
        let [channels, height, width] = self.shape;
        ConvNet {
            first: conv(channels, 32),
            second: conv(32, 64),
            pool: MaxPool2dConfig::new([2, 2]).with_strides([2, 2]).init(),
            output: LinearConfig::new(64 * (height / 4) * (width / 4), self.classes).init(device),
            relu: Relu::new(),
        }
    }
}

impl ConvNet {
    /// Class scores: `[rows, channels, height, width]` → `[rows, classes]`.
    pub fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let hidden = self.pool.forward(self.relu.forward(self.first.forward(images)));
        let hidden = self.pool.forward(self.relu.forward(self.second.forward(hidden)));
        self.output.forward(hidden.flatten(1, 3))
    }
}
