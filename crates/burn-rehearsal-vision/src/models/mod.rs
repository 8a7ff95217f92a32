//! The networks of the continual-learning literature, as Burn modules.
//!
//! * [`Mlp`], [`ConvNet`]: small networks.
//! * [`ResNet`]: ResNet-18 and ResNet-50, with the stem for ImageNet or the one for images of 32 or
//!   64 pixels.
//! * [`GhostNet`]: a network made cheap by linear copies of its features.
//! * `Network`: any of them, by name (feature `images`).
//!
//! The fields of the modules have the names of torchvision's (ResNet) and timm's (GhostNet), so
//! that [their weights](burn_rehearsal_train::weights) fit as they are. What comes out for the same
//! weights is compared with PyTorch's to 1e-4, with running statistics and with those of the
//! mini-batch; see `tests/models.rs`. Two things differ in training. Burn's batch norm adds the
//! biased variance of a mini-batch to its running variance, PyTorch's the unbiased one (divided by
//! n − 1 instead of n, for n values of a channel). And there is no dropout before GhostNet's
//! classifier, since Burn draws from a generator that is global to the process.
//!
//! Initial values are those of [`keyed_init`](burn_rehearsal_train::init::keyed_init):
//! [`HeNormal`](burn_rehearsal_train::init::Scheme::HeNormal) is what torchvision does for its
//! ResNets, [`KaimingUniform`](burn_rehearsal_train::init::Scheme::KaimingUniform), PyTorch's
//! default, what timm does for GhostNet.

mod convnet;
mod ghostnet;
mod mlp;
#[cfg(feature = "images")]
mod network;
mod resnet;

pub use convnet::{ConvNet, ConvNetConfig};
pub use ghostnet::{GhostNet, GhostNetConfig};
pub use mlp::{Mlp, MlpConfig};
#[cfg(feature = "images")]
pub use network::{Network, NetworkConfig, NetworkKind};
pub use resnet::{Block, ResNet, ResNetConfig, Stem};

use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{BatchNorm, BatchNormConfig, PaddingConfig2d};
use burn::tensor::{Device, Tensor};
use burn_rehearsal_train::data_parallel::in_f32;

/// A square convolution without bias. With stride 1 it keeps the size of the image.
fn conv(
    channels: [usize; 2],
    kernel: usize,
    stride: usize,
    groups: usize,
    device: &Device,
) -> Conv2d {
    let padding = kernel / 2;
    Conv2dConfig::new(channels, [kernel, kernel])
        .with_stride([stride, stride])
        .with_padding(PaddingConfig2d::Explicit(padding, padding, padding, padding))
        .with_groups(groups)
        .with_bias(false)
        .init(device)
}

fn norm(channels: usize, device: &Device) -> BatchNorm {
    BatchNormConfig::new(channels).init(device)
}

/// A convolution and its batch norm, which stays in `f32` in a network that computes in half
/// precision.
fn conv_norm(conv: &Conv2d, norm: &BatchNorm, input: Tensor<4>) -> Tensor<4> {
    in_f32(conv.forward(input), |features| norm.forward(features))
}

/// The mean of every channel: `[rows, channels, height, width]` → `[rows, channels]`.
fn global_average(features: Tensor<4>) -> Tensor<2> {
    features.flatten::<3>(2, 3).mean_dim(2).flatten(1, 2)
}
