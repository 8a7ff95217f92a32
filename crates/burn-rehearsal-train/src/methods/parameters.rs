//! All float parameters of a network as one flat tensor, and back.
//!
//! Trained parameters, running statistics and frozen parameters follow each other in visit order.

use crate::data_parallel::visit_floats;
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{FloatDType, Tensor};

/// All float parameters of `network` in `f32`, shape `[parameters]`. On an autodiff device, the
/// result is differentiable.
pub(super) fn flatten<N: Module>(network: &N) -> Tensor<1> {
    let mut parts = Vec::new();
    visit_floats(network, |_, _, values| parts.push(values().cast(FloatDType::F32)));
    if parts.is_empty() {
        Tensor::zeros([0], &network.devices().first().cloned().unwrap_or_default())
    } else {
        Tensor::cat(parts, 0)
    }
}

/// The values of [`flatten`] without autodiff, with all updates of running statistics.
pub(super) fn values<N: Module>(network: &N) -> Tensor<1> {
    // Burn applies pending updates of running statistics in this conversion.
    flatten(&network.valid())
}

/// A copy of `network` for inference, with the parameters `flat`, as [`flatten`] returns them.
pub(super) fn with_values<N: Module>(network: &N, flat: Tensor<1>) -> N {
    // The conversion copies running statistics. Clones would share them.
    network.valid().map(&mut Unflatten { flat, offset: 0 })
}

/// The gradients of all float parameters, in the order of [`flatten`]. Those without a gradient
/// have zeros.
pub(super) fn gradients<N: Module>(network: &N, gradients: &GradientsParams) -> Tensor<1> {
    let mut flatten = FlattenGradients { gradients, parts: Vec::new() };
    network.visit(&mut flatten);
    Tensor::cat(flatten.parts, 0)
}

struct FlattenGradients<'a> {
    gradients: &'a GradientsParams,
    parts: Vec<Tensor<1>>,
}

impl ModuleVisitor for FlattenGradients<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let gradient = self.gradients.get::<D>(param.id);
        let gradient = gradient.unwrap_or_else(|| param.val().inner().zeros_like());
        self.parts.push(gradient.flatten(0, -1).cast(FloatDType::F32));
    }
}

struct Unflatten {
    flat: Tensor<1>,
    offset: usize,
}

impl ModuleMapper for Unflatten {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|old| {
            let (shape, dtype) = (old.shape(), FloatDType::from(old.dtype()));
            let elements = shape.num_elements();
            let start = self.offset;
            self.offset += elements;
            self.flat.clone().narrow(0, start, elements).reshape(shape).cast(dtype)
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use burn::nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig};
    use burn::tensor::Device;

    #[derive(Module, Debug)]
    struct Network {
        layer: Linear,
        norm: BatchNorm,
    }

    #[test]
    fn a_network_with_flat_values_is_a_separate_copy() {
        let device = Device::flex().autodiff();
        let network = Network {
            layer: LinearConfig::new(3, 2).init(&device),
            norm: BatchNormConfig::new(2).init(&device),
        };
        let x = Tensor::<2>::from_data([[1f32, 2.0, 3.0], [-1.0, 0.5, 0.0]], &device);
        drop(network.norm.forward(network.layer.forward(x.clone())));
        let before = values(&network);
        assert_eq!(before.dims(), [3 * 2 + 2 + 4 * 2]);
        let copy = with_values(&network, before.clone() * 2.0);
        assert_eq!(values(&copy).into_data(), (before.clone() * 2.0).into_data());
        assert_eq!(values(&network).into_data(), before.into_data());
        assert!(!copy.layer.weight.val().is_autodiff());
        let flat = flatten(&network);
        let gradients = flat.square().sum().backward();
        assert!(network.layer.weight.val().grad(&gradients).is_some());
    }
}
