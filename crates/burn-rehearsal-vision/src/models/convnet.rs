//! A small convolutional network.

use burn::config::Config;
use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::pool::{MaxPool2d, MaxPool2dConfig};
use burn::nn::{Linear, LinearConfig, PaddingConfig2d, Relu};
use burn::tensor::{Device, Tensor};

/// The configuration of a [`ConvNet`].
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use burn_rehearsal_vision::models::ConvNetConfig;
///
/// let device = Device::default();
/// let network = ConvNetConfig::new([3, 32, 32], 10).init(&device);
/// assert_eq!(network.forward(Tensor::zeros([4, 3, 32, 32], &device)).dims(), [4, 10]);
/// ```
#[derive(Config, Debug)]
pub struct ConvNetConfig {
    /// Channels, height and width of an image. Height and width are at least 4.
    pub shape: [usize; 3],
    /// The number of classes.
    pub classes: usize,
}

/// A convolutional network for small images: two 3×3 convolutions with 32 and 64 channels, each
/// followed by ReLU and 2×2 max-pooling, and a linear layer.
#[derive(Module, Debug)]
pub struct ConvNet {
    first: Conv2d,
    second: Conv2d,
    pool: MaxPool2d,
    output: Linear,
    relu: Relu,
}

impl ConvNetConfig {
    /// Creates a network with Burn's random weights.
    /// [`keyed_init`](burn_rehearsal_train::init::keyed_init) replaces them with reproducible ones.
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
