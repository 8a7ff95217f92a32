//! The networks.

use crate::cli::{ModelArg, StemArg};
use crate::config::Config;
use burn::module::Module;
use burn::tensor::{Device, Tensor};
use burn_rehearsal_train::init::keyed_init;
use burn_rehearsal_train::methods::Classifier;
use burn_rehearsal_train::weights::{WeightsError, load_safetensors};
use burn_rehearsal_vision::ImageBatch;
use burn_rehearsal_vision::data::ImageShape;
use burn_rehearsal_vision::models::{ConvNet, ConvNetConfig, GhostNet, GhostNetConfig, Mlp, MlpConfig, ResNet, ResNetConfig, Stem};
use std::path::Path;

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
            ModelArg::Mlp => Network::Mlp(MlpConfig::new(shape.elements(), classes).init(device)),
            ModelArg::Conv => Network::Conv(ConvNetConfig::new([shape.channels, shape.height, shape.width], classes).init(device)),
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
}

impl Classifier for Network {
    type Batch = ImageBatch;

    fn logits(&self, batch: ImageBatch) -> Tensor<2> {
        match self {
            Network::Mlp(network) => network.logits(batch),
            Network::Conv(network) => network.logits(batch),
            Network::ResNet(network) => network.logits(batch),
            Network::GhostNet(network) => network.logits(batch),
        }
    }
}
