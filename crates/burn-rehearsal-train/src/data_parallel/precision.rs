//! Forward and backward passes in half precision, with parameters in `f32`.
//!
//! Every step makes a copy of the network with parameters in the lower format. Its gradients are
//! summed over the ranks and applied to the parameters in `f32`, so nothing that accumulates over
//! steps is rounded to half precision (Micikevicius et al., "Mixed Precision Training", ICLR 2018,
//! arXiv 1710.03740, §3.1).

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{DType, Device, FloatDType, Tensor};

use super::params::{ModulePath, track_path, visit_floats};
use crate::named;

named! {
    /// The number format of a network's forward and backward passes.
    ///
    /// Parameters, optimizer state, checkpoints, evaluation, the sum of gradients over ranks and
    /// the rehearsal buffer do not depend on it. In `f16` the loss is [scaled](super::LossScale),
    /// so that small gradients do not vanish.
    ///
    /// # Requirements on the network
    ///
    /// In half precision, its [`TrainStep`](burn::train::TrainStep)
    ///
    /// * casts its input to the format of its parameters, [`compute_type`], since Burn combines
    ///   only tensors of equal formats;
    /// * calls its batch norms through [`in_f32`], since their parameters and statistics stay in
    ///   `f32`;
    /// * casts its output to `f32` before the loss, and calls `backward` on
    ///   [`scale_loss(loss)`](super::scale_loss).
    ///
    /// In `F32` these calls change no bit. For a network of a batch norm and a linear layer:
    ///
    /// ```
    /// # use burn::module::Module;
    /// # use burn::nn::{BatchNorm, Linear};
    /// # use burn::tensor::{FloatDType, Tensor};
    /// # use burn_rehearsal_train::data_parallel::{compute_type, in_f32};
    /// # #[derive(Module, Debug)]
    /// # struct Network {
    /// #     norm: BatchNorm,
    /// #     layer: Linear,
    /// # }
    /// impl Network {
    ///     fn forward(&self, x: Tensor<2>) -> Tensor<2> {
    ///         let x = in_f32(x.cast(compute_type(self)), |x| self.norm.forward(x));
    ///         self.layer.forward(x).cast(FloatDType::F32)
    ///     }
    /// }
    /// ```
    pub enum Precision: "precision", default F32 {
        /// 32 bits.
        F32 = "f32",
        /// 16 bits with the range of `f32`: 8 bits of exponent, 8 significant bits.
        Bf16 = "bf16",
        /// 16 bits (IEEE 754) with a scaled loss: 5 bits of exponent, 11 significant bits.
        F16 = "f16",
    }
}

impl Precision {
    /// Whether `device` supports this format.
    pub fn is_supported_by(self, device: &Device) -> bool {
        device.supports_dtype(DType::from(self.dtype()))
    }

    /// Whether the loss is multiplied by a [`LossScale`](super::LossScale).
    pub(super) fn scales_loss(self) -> bool {
        self == Self::F16
    }

    fn dtype(self) -> FloatDType {
        match self {
            Self::F32 => FloatDType::F32,
            Self::Bf16 => FloatDType::BF16,
            Self::F16 => FloatDType::F16,
        }
    }

    /// A copy of `model` in this format. It has its own parameters under the same ids, and its
    /// batch norms share the statistics of `model`.
    pub(crate) fn lower<M: Module>(self, model: M) -> M {
        model.map(&mut Lower { path: ModulePath::default(), dtype: self.dtype() })
    }
}

/// The number format in which a network computes: that of its first float parameter outside of
/// batch norms, or `F32` if there is none. [`Precision`] has an example.
pub fn compute_type<M: Module>(model: &M) -> FloatDType {
    let mut first = None;
    visit_floats(model, |path, _, values| {
        if first.is_none() && !path.in_batch_norm() {
            first = Some(FloatDType::from(values().dtype()));
        }
    });
    first.unwrap_or(FloatDType::F32)
}

/// Calls `layer` with its input in `f32` and casts the output back to the format of `input`.
/// [`Precision`] has an example.
pub fn in_f32<const D: usize, const E: usize>(
    input: Tensor<D>,
    layer: impl FnOnce(Tensor<D>) -> Tensor<E>,
) -> Tensor<E> {
    let dtype = FloatDType::from(input.dtype());
    layer(input.cast(FloatDType::F32)).cast(dtype)
}

struct Lower {
    path: ModulePath,
    dtype: FloatDType,
}

impl ModuleMapper for Lower {
    track_path!();

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if self.path.in_batch_norm() || self.path.in_snapshots() {
            return param;
        }
        let dtype = self.dtype;
        // A leaf of its own, so that gradients come in the lower format under the id of the
        // parameter.
        param.map(|tensor| {
            let trained = tensor.is_require_grad();
            tensor.set_require_grad(false).cast(dtype).set_require_grad(trained)
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use burn::nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig};
    use burn::optim::GradientsParams;

    #[derive(Module, Debug)]
    struct Net {
        norm: BatchNorm,
        layer: Linear,
    }

    impl Net {
        fn new() -> Self {
            let device = Device::flex().autodiff();
            Self {
                norm: BatchNormConfig::new(3).init(&device),
                layer: LinearConfig::new(3, 2).init(&device),
            }
        }

        fn forward(&self, x: Tensor<2>) -> Tensor<2> {
            let x = in_f32(x.cast(compute_type(self)), |x| self.norm.forward(x));
            self.layer.forward(x)
        }
    }

    #[test]
    fn a_copy_in_half_precision_keeps_ids_and_leaves_the_network_unchanged() {
        let device = Device::flex().autodiff();
        let x = Tensor::<2>::from_data([[0.5f32, -1.0, 2.0], [1.5, 0.25, -3.0]], &device);
        for precision in [Precision::F32, Precision::Bf16, Precision::F16] {
            let net = Net::new();
            let before = net.layer.weight.val().to_data();
            let statistics = net.norm.running_mean.value_sync().to_data();
            let lowered = precision.lower(net.clone());
            assert_eq!(
                (compute_type(&net), compute_type(&lowered)),
                (FloatDType::F32, precision.dtype())
            );
            let output = lowered.forward(x.clone());
            assert_eq!(FloatDType::from(output.dtype()), precision.dtype());
            let gradients = GradientsParams::from_grads(output.sum().backward(), &lowered);
            assert_eq!(gradients.len(), 4, "{precision}: weight and bias of both layers");
            let gradient = gradients.get::<2>(net.layer.weight.id).unwrap();
            assert_eq!(FloatDType::from(gradient.dtype()), precision.dtype());
            assert_eq!(
                FloatDType::from(gradients.get::<1>(net.norm.gamma.id).unwrap().dtype()),
                FloatDType::F32
            );
            assert_eq!(net.layer.weight.val().to_data(), before);
            assert!(net.layer.weight.val().is_require_grad());
            assert_ne!(
                net.norm.running_mean.value_sync().to_data(),
                statistics,
                "statistics are shared with the copy"
            );
        }
    }

    #[test]
    fn names_are_those_of_options_and_reports() {
        for &precision in Precision::ALL {
            assert_eq!(serde_json::to_value(precision).unwrap(), precision.name());
            assert_eq!(precision.name().parse(), Ok(precision));
        }
        let error = "f64".parse::<Precision>().unwrap_err().to_string();
        assert_eq!(error, "there is no precision `f64`; expected one of f32, bf16, f16");
        assert!(Precision::F16.is_supported_by(&Device::flex()));
    }
}
