//! A multi-layer perceptron.

use burn::config::Config;
use burn::module::Module;
use burn::nn::{Linear, LinearConfig, Relu};
use burn::tensor::{Device, Tensor};

/// The configuration of an [`Mlp`].
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use burn_rehearsal_vision::models::MlpConfig;
///
/// let device = Device::default();
/// let network = MlpConfig::new(28 * 28, 10).with_hidden(256).init(&device);
/// assert_eq!(network.forward(Tensor::zeros([4, 1, 28, 28], &device)).dims(), [4, 10]);
/// ```
#[derive(Config, Debug)]
pub struct MlpConfig {
    /// The number of values of an image: channels × height × width.
    pub inputs: usize,
    /// The number of classes.
    pub classes: usize,
    /// The number of units of each hidden layer. Default: 100.
    #[config(default = 100)]
    pub hidden: usize,
}

/// A multi-layer perceptron with two hidden layers and ReLU: the usual network for MNIST in
/// continual learning.
#[derive(Module, Debug)]
pub struct Mlp {
    first: Linear,
    second: Linear,
    output: Linear,
    relu: Relu,
}

impl MlpConfig {
    /// Creates a network with Burn's random weights.
    /// [`keyed_init`](burn_rehearsal_train::init::keyed_init) replaces them with reproducible ones.
    pub fn init(&self, device: &Device) -> Mlp {
        Mlp {
            first: LinearConfig::new(self.inputs, self.hidden).init(device),
            second: LinearConfig::new(self.hidden, self.hidden).init(device),
            output: LinearConfig::new(self.hidden, self.classes).init(device),
            relu: Relu::new(),
        }
    }
}

impl Mlp {
    /// Class scores: `[rows, channels, height, width]` → `[rows, classes]`.
    pub fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let hidden = self.relu.forward(self.first.forward(images.flatten(1, 3)));
        self.output.forward(self.relu.forward(self.second.forward(hidden)))
    }
}
