//! GhostNet (Han et al., "GhostNet: More Features from Cheap Operations", CVPR 2020, arXiv
//! 1911.11907).
//!
//! A ghost module computes half of its channels with a convolution, and the other half from them
//! with a depthwise convolution.

use super::{conv, conv_norm, global_average, norm};
use burn::config::Config;
use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{BatchNorm, Linear, LinearConfig};
use burn::tensor::activation::{hard_sigmoid, relu};
use burn::tensor::{Device, Tensor};

/// Channels before the classifier, at every width.
const HEAD: usize = 1280;
/// Channels of the stem at width 1.
const STEM: usize = 16;

/// A bottleneck at width 1, a row of table 1 of the paper.
struct Row {
    /// The kernel size of the depthwise convolution.
    kernel: usize,
    /// Channels between the two ghost modules.
    inner: usize,
    outgoing: usize,
    /// Whether the bottleneck has squeeze and excitation.
    excited: bool,
    stride: usize,
}

const fn row(kernel: usize, inner: usize, outgoing: usize, excited: bool, stride: usize) -> Row {
    Row { kernel, inner, outgoing, excited, stride }
}

/// Table 1 of the paper, by stage.
const STAGES: [&[Row]; 9] = [
    &[row(3, 16, 16, false, 1)],
    &[row(3, 48, 24, false, 2)],
    &[row(3, 72, 24, false, 1)],
    &[row(5, 72, 40, true, 2)],
    &[row(5, 120, 40, true, 1)],
    &[row(3, 240, 80, false, 2)],
    &[
        row(3, 200, 80, false, 1),
        row(3, 184, 80, false, 1),
        row(3, 184, 80, false, 1),
        row(3, 480, 112, true, 1),
        row(3, 672, 112, true, 1),
    ],
    &[row(5, 672, 160, true, 2)],
    &[
        row(5, 960, 160, false, 1),
        row(5, 960, 160, true, 1),
        row(5, 960, 160, false, 1),
        row(5, 960, 160, true, 1),
    ],
];

/// The configuration of a [`GhostNet`].
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use burn_rehearsal_vision::models::GhostNetConfig;
///
/// let device = Device::default();
/// let network = GhostNetConfig::new(100).init(&device);
/// assert_eq!(network.forward(Tensor::zeros([1, 3, 64, 64], &device)).dims(), [1, 100]);
/// ```
#[derive(Config, Debug)]
pub struct GhostNetConfig {
    /// The number of classes.
    pub classes: usize,
    /// The width: the paper's numbers of channels are multiplied by it. Default: 0.5.
    #[config(default = 0.5)]
    pub width: f64,
    /// The number of channels of an image, at least 1. Default: 3.
    #[config(default = 3)]
    pub channels: usize,
}

impl GhostNetConfig {
    /// Creates a network with Burn's random weights.
    /// [`keyed_init`](burn_rehearsal_train::init::keyed_init) replaces them with reproducible ones.
    pub fn init(&self, device: &Device) -> GhostNet {
        let wide = |channels: usize| by_four(channels as f64 * self.width);
        let stem = wide(STEM);
        let mut incoming = stem;
        let mut last = stem;
        let mut stages: Vec<Stage> = Vec::new();
        for rows in STAGES {
            let blocks = rows.iter().map(|row| {
                let outgoing = wide(row.outgoing);
                last = wide(row.inner);
                let block = Bottleneck::new(incoming, last, outgoing, row, device);
                incoming = outgoing;
                block
            });
            stages.push(Stage::Bottlenecks(blocks.collect()));
        }
        stages.push(Stage::Widen(vec![Widen {
            conv: conv([incoming, last], 1, 1, 1, device),
            bn1: norm(last, device),
        }]));
        GhostNet {
            conv_stem: conv([self.channels.max(1), stem], 3, 2, 1, device),
            bn1: norm(stem, device),
            blocks: stages,
            conv_head: Conv2dConfig::new([last, HEAD], [1, 1]).init(device),
            classifier: LinearConfig::new(HEAD, self.classes).init(device),
        }
    }
}

/// The nearest multiple of four, or the next larger one if the nearest is smaller than 90 % of
/// `channels`.
fn by_four(channels: f64) -> usize {
    let nearest = 4 * (((channels + 2.0) / 4.0) as usize).max(1);
    if (nearest as f64) < 0.9 * channels { nearest + 4 } else { nearest }
}

/// GhostNet; see [`GhostNetConfig`]. The fields have timm's names.
#[derive(Module, Debug)]
pub struct GhostNet {
    conv_stem: Conv2d,
    bn1: BatchNorm,
    blocks: Vec<Stage>,
    conv_head: Conv2d,
    classifier: Linear,
}

#[derive(Module, Debug)]
enum Stage {
    Bottlenecks(Vec<Bottleneck>),
    /// The last stage: a 1×1 convolution.
    Widen(Vec<Widen>),
}

#[derive(Module, Debug)]
struct Widen {
    conv: Conv2d,
    bn1: BatchNorm,
}

#[derive(Module, Debug)]
struct Ghost {
    primary_conv: (Conv2d, BatchNorm),
    cheap_operation: (Conv2d, BatchNorm),
}

#[derive(Module, Debug)]
struct Excite {
    conv_reduce: Conv2d,
    conv_expand: Conv2d,
}

#[derive(Module, Debug)]
struct Bottleneck {
    ghost1: Ghost,
    conv_dw: Option<Conv2d>,
    bn_dw: Option<BatchNorm>,
    se: Option<Excite>,
    ghost2: Ghost,
    /// The shortcut if the shape changes: a depthwise and a 1×1 convolution.
    shortcut: Option<(Conv2d, BatchNorm, Conv2d, BatchNorm)>,
}

impl Ghost {
    /// `outgoing` is even at every width.
    fn new(incoming: usize, outgoing: usize, device: &Device) -> Self {
        let half = outgoing / 2;
        Self {
            primary_conv: (conv([incoming, half], 1, 1, 1, device), norm(half, device)),
            cheap_operation: (conv([half, half], 3, 1, half, device), norm(half, device)),
        }
    }

    fn forward(&self, input: Tensor<4>, activation: fn(Tensor<4>) -> Tensor<4>) -> Tensor<4> {
        let [primary, cheap] = [&self.primary_conv, &self.cheap_operation];
        let primary = activation(conv_norm(&primary.0, &primary.1, input));
        let cheap = activation(conv_norm(&cheap.0, &cheap.1, primary.clone()));
        Tensor::cat(vec![primary, cheap], 1)
    }
}

impl Excite {
    fn new(channels: usize, device: &Device) -> Self {
        let reduced = by_four(channels as f64 / 4.0);
        let conv = |channels| Conv2dConfig::new(channels, [1, 1]).init(device);
        Self { conv_reduce: conv([channels, reduced]), conv_expand: conv([reduced, channels]) }
    }

    fn forward(&self, input: Tensor<4>) -> Tensor<4> {
        let [rows, channels, ..] = input.dims();
        let squeezed = global_average(input.clone()).reshape([rows, channels, 1, 1]);
        let gate = self.conv_expand.forward(relu(self.conv_reduce.forward(squeezed)));
        input * hard_sigmoid(gate, 1.0 / 6.0, 0.5)
    }
}

impl Bottleneck {
    fn new(incoming: usize, inner: usize, outgoing: usize, row: &Row, device: &Device) -> Self {
        let Row { kernel, stride, excited, .. } = *row;
        let shortcut = || {
            (
                conv([incoming, incoming], kernel, stride, incoming, device),
                norm(incoming, device),
                conv([incoming, outgoing], 1, 1, 1, device),
                norm(outgoing, device),
            )
        };
        Self {
            ghost1: Ghost::new(incoming, inner, device),
            conv_dw: (stride > 1).then(|| conv([inner, inner], kernel, stride, inner, device)),
            bn_dw: (stride > 1).then(|| norm(inner, device)),
            se: excited.then(|| Excite::new(inner, device)),
            ghost2: Ghost::new(inner, outgoing, device),
            shortcut: (stride > 1 || incoming != outgoing).then(shortcut),
        }
    }

    fn forward(&self, input: Tensor<4>) -> Tensor<4> {
        let mut hidden = self.ghost1.forward(input.clone(), relu);
        if let (Some(conv), Some(norm)) = (&self.conv_dw, &self.bn_dw) {
            hidden = conv_norm(conv, norm, hidden);
        }
        if let Some(excite) = &self.se {
            hidden = excite.forward(hidden);
        }
        let around = match &self.shortcut {
            Some((depthwise, norm1, pointwise, norm2)) => {
                conv_norm(pointwise, norm2, conv_norm(depthwise, norm1, input))
            }
            None => input,
        };
        self.ghost2.forward(hidden, |features| features) + around
    }
}

impl GhostNet {
    /// Class scores: `[rows, channels, height, width]` → `[rows, classes]`.
    pub fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let mut hidden = relu(conv_norm(&self.conv_stem, &self.bn1, images));
        for stage in &self.blocks {
            hidden = match stage {
                Stage::Bottlenecks(blocks) => {
                    blocks.iter().fold(hidden, |hidden, block| block.forward(hidden))
                }
                Stage::Widen(layers) => layers
                    .iter()
                    .fold(hidden, |hidden, layer| relu(conv_norm(&layer.conv, &layer.bn1, hidden))),
            };
        }
        let [rows, channels, ..] = hidden.dims();
        let pooled = global_average(hidden).reshape([rows, channels, 1, 1]);
        self.classifier.forward(relu(self.conv_head.forward(pooled)).flatten(1, 3))
    }
}
