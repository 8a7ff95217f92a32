//! Networks of the continual-learning literature, as Burn modules.
//!
//! * [`Mlp`], [`ConvNet`]: small networks.
//! * [`ResNet`]: ResNet-18 and ResNet-50, with a stem for ImageNet or for images of 32 or 64
//!   pixels.
//! * [`GhostNet`]: a network for mobile devices, which computes half of its features cheaply.
//! * `Network`: any of them, by name (feature `images`).
//!
//! All map images, `[rows, channels, height, width]`, to class scores, `[rows, classes]`. They
//! compute in half precision if their parameters are in half precision; batch norms stay in `f32`.
//!
//! # Compatibility with PyTorch
//!
//! Fields have the names of torchvision (ResNet) and timm (GhostNet), so [their
//! weights](burn_rehearsal_train::weights) can be loaded. The tests compare the outputs for equal
//! weights with PyTorch's to 1e-4, in evaluation and in training mode. Two details of training
//! differ. Burn's batch norm updates the running variance with the biased variance of a mini-batch,
//! and PyTorch's with the unbiased one. GhostNet has no dropout before the classifier, because
//! Burn's dropout draws from a generator that is global to the process.
//!
//! [`keyed_init`](burn_rehearsal_train::init::keyed_init) draws reproducible initial weights.
//! torchvision initializes ResNets as
//! [`HeNormal`](burn_rehearsal_train::init::Scheme::HeNormal). timm initializes GhostNet as
//! [`KaimingUniform`](burn_rehearsal_train::init::Scheme::KaimingUniform), PyTorch's default.

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

/// A square convolution without bias. With stride 1 it preserves the size of the image.
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

/// Applies a convolution and its batch norm, which stays in `f32` in a network in half precision.
fn conv_norm(conv: &Conv2d, norm: &BatchNorm, input: Tensor<4>) -> Tensor<4> {
    in_f32(conv.forward(input), |features| norm.forward(features))
}

/// The mean of every channel: `[rows, channels, height, width]` → `[rows, channels]`.
fn global_average(features: Tensor<4>) -> Tensor<2> {
    features.flatten::<3>(2, 3).mean_dim(2).flatten(1, 2)
}
