//! Residual networks (He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, arXiv
//! 1512.03385).
//!
//! The stride of a bottleneck is in its 3×3 convolution, as in torchvision. In the paper it is in
//! the first 1×1 convolution.

use super::{conv, conv_norm, global_average, norm};
use burn::config::Config;
use burn::module::Module;
use burn::nn::conv::Conv2d;
use burn::nn::pool::{MaxPool2d, MaxPool2dConfig};
use burn::nn::{BatchNorm, Linear, LinearConfig, PaddingConfig2d};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

/// The kind of residual block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Block {
    /// Two 3×3 convolutions (ResNet-18).
    Basic,
    /// 1×1, 3×3 and 1×1 convolutions. The last one has four times the channels (ResNet-50).
    Bottleneck,
}

/// The first layers of a residual network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stem {
    /// A 7×7 convolution with stride 2 and 3×3 max-pooling with stride 2, for images of about 224
    /// pixels. It reduces their side to a quarter.
    ImageNet,
    /// A 3×3 convolution with stride 1, for images of 32 or 64 pixels.
    Small,
}

/// The configuration of a [`ResNet`].
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use burn_rehearsal_vision::models::{ResNetConfig, Stem};
///
/// let device = Device::default();
/// let network = ResNetConfig::resnet18(10).with_stem(Stem::Small).with_width(8).init(&device);
/// assert_eq!(network.forward(Tensor::zeros([2, 3, 32, 32], &device)).dims(), [2, 10]);
/// ```
#[derive(Config, Debug)]
pub struct ResNetConfig {
    /// The residual block.
    pub block: Block,
    /// The number of blocks of each of the four layers.
    pub layers: [usize; 4],
    /// The number of classes.
    pub classes: usize,
    /// The first layers. Default: [`Stem::ImageNet`].
    #[config(default = "Stem::ImageNet")]
    pub stem: Stem,
    /// The number of channels of the first layer, at least 1. The other layers scale with it.
    /// Default: 64.
    #[config(default = 64)]
    pub width: usize,
    /// The number of channels of an image, at least 1. Default: 3.
    #[config(default = 3)]
    pub channels: usize,
}

impl ResNetConfig {
    /// The configuration of ResNet-18.
    pub fn resnet18(classes: usize) -> Self {
        Self::new(Block::Basic, [2, 2, 2, 2], classes)
    }

    /// The configuration of ResNet-50.
    pub fn resnet50(classes: usize) -> Self {
        Self::new(Block::Bottleneck, [3, 4, 6, 3], classes)
    }

    /// Creates a network with Burn's random weights.
    /// [`keyed_init`](burn_rehearsal_train::init::keyed_init) replaces them with reproducible ones.
    pub fn init(&self, device: &Device) -> ResNet {
        let Self { block, layers, classes, stem, width, channels } = *self;
        let (width, channels) = (width.max(1), channels.max(1));
        let (kernel, stride) = match stem {
            Stem::ImageNet => (7, 2),
            Stem::Small => (3, 1),
        };
        let mut incoming = width;
        let mut layer = |number: usize| {
            let inner = width << number;
            let blocks = (0..layers[number]).map(|index| {
                let stride = if number > 0 && index == 0 { 2 } else { 1 };
                let made = Residual::new(block, incoming, inner, stride, device);
                incoming = inner * block.expansion();
                made
            });
            blocks.collect::<Vec<_>>()
        };
        let (layer1, layer2, layer3, layer4) = (layer(0), layer(1), layer(2), layer(3));
        let pool = MaxPool2dConfig::new([3, 3])
            .with_strides([2, 2])
            .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1));
        ResNet {
            conv1: conv([channels, width], kernel, stride, 1, device),
            bn1: norm(width, device),
            maxpool: (stem == Stem::ImageNet).then(|| pool.init()),
            layer1,
            layer2,
            layer3,
            layer4,
            fc: LinearConfig::new(incoming, classes).init(device),
        }
    }
}

impl Block {
    /// The ratio of output channels to inner channels.
    fn expansion(self) -> usize {
        match self {
            Self::Basic => 1,
            Self::Bottleneck => 4,
        }
    }
}

/// A residual network; see [`ResNetConfig`]. The fields have torchvision's names.
#[derive(Module, Debug)]
pub struct ResNet {
    conv1: Conv2d,
    bn1: BatchNorm,
    maxpool: Option<MaxPool2d>,
    layer1: Vec<Residual>,
    layer2: Vec<Residual>,
    layer3: Vec<Residual>,
    layer4: Vec<Residual>,
    fc: Linear,
}

/// A residual block: convolutions and a shortcut.
#[derive(Module, Debug)]
struct Residual {
    conv1: Conv2d,
    bn1: BatchNorm,
    conv2: Conv2d,
    bn2: BatchNorm,
    /// Only in bottlenecks.
    conv3: Option<Conv2d>,
    bn3: Option<BatchNorm>,
    /// The shortcut if the shape changes.
    downsample: Option<(Conv2d, BatchNorm)>,
}

impl Residual {
    fn new(block: Block, incoming: usize, inner: usize, stride: usize, device: &Device) -> Self {
        let outgoing = inner * block.expansion();
        let conv = |channels, kernel, stride| conv(channels, kernel, stride, 1, device);
        let (conv1, conv2, conv3) = match block {
            Block::Basic => (conv([incoming, inner], 3, stride), conv([inner, inner], 3, 1), None),
            Block::Bottleneck => (
                conv([incoming, inner], 1, 1),
                conv([inner, inner], 3, stride),
                Some(conv([inner, outgoing], 1, 1)),
            ),
        };
        let changes = stride != 1 || incoming != outgoing;
        Self {
            conv1,
            bn1: norm(inner, device),
            conv2,
            bn2: norm(inner, device),
            bn3: conv3.is_some().then(|| norm(outgoing, device)),
            conv3,
            downsample: changes
                .then(|| (conv([incoming, outgoing], 1, stride), norm(outgoing, device))),
        }
    }

    fn forward(&self, input: Tensor<4>) -> Tensor<4> {
        let around = match &self.downsample {
            Some((conv, norm)) => conv_norm(conv, norm, input.clone()),
            None => input.clone(),
        };
        let hidden = relu(conv_norm(&self.conv1, &self.bn1, input));
        let hidden = conv_norm(&self.conv2, &self.bn2, hidden);
        let hidden = match (&self.conv3, &self.bn3) {
            (Some(conv), Some(norm)) => conv_norm(conv, norm, relu(hidden)),
            _ => hidden,
        };
        relu(hidden + around)
    }
}

impl ResNet {
    /// Class scores: `[rows, channels, height, width]` → `[rows, classes]`.
    pub fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let hidden = relu(conv_norm(&self.conv1, &self.bn1, images));
        let hidden = match &self.maxpool {
            Some(pool) => pool.forward(hidden),
            None => hidden,
        };
        let layers = [&self.layer1, &self.layer2, &self.layer3, &self.layer4];
        let hidden =
            layers.into_iter().flatten().fold(hidden, |hidden, block| block.forward(hidden));
        self.fc.forward(global_average(hidden))
    }
}
