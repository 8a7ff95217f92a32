//! The multi-layer perceptron of the continual-learning literature.

use burn::config::Config;
use burn::module::Module;
use burn::nn::{Linear, LinearConfig, Relu};
use burn::tensor::{Device, Tensor};

/// The configuration of an [`Mlp`].
#[derive(Config, Debug)]
pub struct MlpConfig {
    /// Values of an image: channels × height × width.
    pub inputs: usize,
    /// Classes.
    pub classes: usize,
    /// Units of each of the two hidden layers.
    #[config(default = 100)]
    pub hidden: usize,
}

/// Two hidden layers with ReLU: the usual network for MNIST.
#[derive(Module, Debug)]
pub struct Mlp {
    first: Linear,
    second: Linear,
    output: Linear,
    relu: Relu,
}

impl MlpConfig {
    /// A network with Burn's initial values; [`keyed_init`](burn_rehearsal_train::init::keyed_init)
    /// replaces them.
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
