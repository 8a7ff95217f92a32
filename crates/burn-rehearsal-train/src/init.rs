//! Initial parameters as a pure function of a seed.
//!
//! Burn initializes from a generator that is global to the process, so the parameters depend on
//! everything else that draws from it. [`keyed_init`] overwrites the parameters of a model with
//! values from a counter-based generator. They are the same on every rank, in every process and on
//! every device.

use crate::data_parallel::{ModulePath, track_path};
use crate::named;
use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Tensor, TensorData};
use burn_rehearsal::random::{Purpose, Stream};

named! {
    /// The distribution of initial weights and biases.
    ///
    /// * [`KaimingUniform`](Self::KaimingUniform): He et al., "Delving Deep into Rectifiers", arXiv
    ///   1502.01852, with a = √5.
    /// * [`XavierUniform`](Self::XavierUniform): Glorot and Bengio, "Understanding the difficulty
    ///   of training deep feedforward neural networks", AISTATS 2010.
    /// * [`HeNormal`](Self::HeNormal): He et al., with fan_out as the first dimension times the
    ///   product of all but the first two.
    pub enum Scheme: "initialization", default KaimingUniform {
        /// The default of PyTorch: weights and biases uniform in ±1/√fan_in.
        KaimingUniform = "kaiming",
        /// Glorot: weights uniform in ±√(6/(fan_in + fan_out)), biases zero.
        XavierUniform = "xavier",
        /// He, as in torchvision's ResNets: convolutions normal with variance 2/fan_out, everything
        /// else as `kaiming`.
        HeNormal = "he-normal",
    }
}

/// Overwrites the weights and biases of a model with values that depend only on `seed`, `scheme`
/// and the order of the parameters.
///
/// It sets every float parameter called `weight` with at least two dimensions, and the `bias` next
/// to it. fan_in is the first dimension of a [`Linear`](burn::nn::Linear) layer (`[d_in, d_out]`).
/// Elsewhere it is the product of all but the first dimension (convolutions: `[out, in / groups,
/// k…]`). All other parameters (norms, running statistics, biases without such a weight) keep their
/// values. Parameter ids and gradient settings are kept.
///
/// ```
/// use burn::nn::LinearConfig;
/// use burn::tensor::Device;
/// use burn_rehearsal_train::init::{Scheme, keyed_init};
///
/// let device = Device::default();
/// let layer = || keyed_init(LinearConfig::new(4, 2).init(&device), 7, Scheme::default());
/// assert_eq!(layer().weight.val().to_data(), layer().weight.val().to_data());
/// ```
pub fn keyed_init<M: Module>(model: M, seed: u64, scheme: Scheme) -> M {
    model.map(&mut KeyedInit {
        seed,
        scheme,
        parameter: 0,
        path: ModulePath::default(),
        last_weight: None,
    })
}

struct KeyedInit {
    seed: u64,
    scheme: Scheme,
    /// The number of float parameters before the current one, initialized or not.
    parameter: u64,
    path: ModulePath,
    /// The module of the last initialized weight and the distribution of its bias. A bias is
    /// visited after the weight next to it.
    last_weight: Option<(String, Distribution)>,
}

/// The distribution of the values of a parameter.
#[derive(Debug, Clone, Copy)]
enum Distribution {
    /// Uniform between minus and plus this value.
    Uniform(f32),
    /// Normal around 0 with this standard deviation.
    Normal(f64),
}

impl Distribution {
    fn draw(self, stream: &mut Stream) -> f32 {
        match self {
            Self::Uniform(bound) => (2.0 * stream.unit_f32() - 1.0) * bound,
            Self::Normal(deviation) => {
                // The Box–Muller transform of two uniform values, the first of which must not be 0.
                let (radius, angle) = (1.0 - stream.unit_f64(), stream.unit_f64());
                (deviation * (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * angle).cos())
                    as f32
            }
        }
    }
}

impl KeyedInit {
    /// The distribution of the current float parameter. `None` if it keeps its value.
    fn distribution(&mut self, shape: &[usize]) -> Option<Distribution> {
        let (name, container) = self.path.last()?;
        match name {
            "weight" if shape.len() >= 2 => {
                let linear = container == "Struct:Linear";
                let (fan_in, fan_out): (usize, usize) = if linear {
                    (shape[0], shape[1])
                } else {
                    (shape[1..].iter().product(), shape[0] * shape[2..].iter().product::<usize>())
                };
                let of_fan_in = Distribution::Uniform((1.0 / (fan_in.max(1) as f64).sqrt()) as f32);
                let (weight, bias) = match self.scheme {
                    Scheme::HeNormal if !linear => {
                        (Distribution::Normal((2.0 / fan_out.max(1) as f64).sqrt()), of_fan_in)
                    }
                    Scheme::KaimingUniform | Scheme::HeNormal => (of_fan_in, of_fan_in),
                    Scheme::XavierUniform => {
                        let bound = (6.0 / (fan_in + fan_out).max(1) as f64).sqrt() as f32;
                        (Distribution::Uniform(bound), Distribution::Uniform(0.0))
                    }
                };
                self.last_weight = Some((self.path.module(), bias));
                Some(weight)
            }
            "bias" => {
                let module = self.path.module();
                self.last_weight
                    .as_ref()
                    .filter(|(owner, _)| *owner == module)
                    .map(|(_, bias)| *bias)
            }
            _ => None,
        }
    }
}

impl ModuleMapper for KeyedInit {
    track_path!();

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let parameter = self.parameter;
        self.parameter += 1;
        let shape = param.lazy_shape();
        let Some(distribution) = self.distribution(shape.as_slice()) else { return param };
        let mut stream = Stream::new(self.seed, Purpose::Init, parameter, 0);
        let values =
            (0..shape.num_elements()).map(|_| distribution.draw(&mut stream)).collect::<Vec<f32>>();
        let data = TensorData::new(values, shape);
        param.map(|old| {
            let new = Tensor::from_data(data, (&old.device(), old.dtype()));
            // A device without autodiff cannot track gradients. The parameter keeps its setting.
            if old.is_require_grad() { new.require_grad() } else { new }
        })
    }
}

#[cfg(test)]
mod tests {
    use burn::nn::conv::{Conv2d, Conv2dConfig};
    use burn::nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig};
    use burn::tensor::Device;

    use super::*;

    #[derive(Module, Debug)]
    struct Net {
        conv: Conv2d,
        norm: BatchNorm,
        linear: Linear,
        heads: Vec<Linear>,
    }

    fn net(device: &Device) -> Net {
        Net {
            conv: Conv2dConfig::new([3, 5], [3, 3]).init(device),
            norm: BatchNormConfig::new(5).init(device),
            linear: LinearConfig::new(64, 16).init(device),
            heads: vec![
                LinearConfig::new(4, 2).init(device),
                LinearConfig::new(4, 2).with_bias(false).init(device),
            ],
        }
    }

    fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
        tensor.into_data().try_into_vec().unwrap()
    }

    #[test]
    fn values_depend_only_on_the_seed_and_ids_are_kept() {
        let device = Device::default().autodiff();
        let before = net(&device);
        let id = before.linear.weight.id;
        let first = keyed_init(before, 7, Scheme::default());
        assert_eq!(first.linear.weight.id, id);
        assert!(first.linear.weight.is_require_grad() && first.conv.weight.is_require_grad());
        device.seed(99);
        let again = keyed_init(net(&device), 7, Scheme::default());
        let other = keyed_init(net(&device), 8, Scheme::default());
        assert_eq!(values(first.conv.weight.val()), values(again.conv.weight.val()));
        assert_eq!(values(first.heads[1].weight.val()), values(again.heads[1].weight.val()));
        assert_ne!(values(first.conv.weight.val()), values(other.conv.weight.val()));
        assert_ne!(values(first.heads[0].weight.val()), values(first.heads[1].weight.val()));
    }

    #[test]
    fn weights_are_bounded_by_fan_in_and_norms_keep_their_values() {
        let net = keyed_init(net(&Device::default()), 1, Scheme::default());
        let extent = |values: Vec<f32>| values.iter().fold(0.0f32, |a, b| a.max(b.abs()));
        let linear = extent(values(net.linear.weight.val()));
        assert!(linear <= 1.0 / 8.0 && linear > 0.9 / 8.0, "{linear}");
        assert!(extent(values(net.linear.bias.unwrap().val())) <= 1.0 / 8.0);
        let conv = extent(values(net.conv.weight.val()));
        let bound = 1.0 / 27f32.sqrt();
        assert!(conv <= bound && conv > 0.9 * bound, "{conv}");
        assert!(extent(values(net.conv.bias.unwrap().val())) <= bound);
        assert_eq!(values(net.norm.gamma.val()), vec![1.0; 5]);
        assert_eq!(values(net.norm.beta.val()), vec![0.0; 5]);
        assert_eq!(values(net.norm.running_var.value()), vec![1.0; 5]);
    }

    #[test]
    fn a_model_built_for_inference_can_still_be_trained() {
        let net = keyed_init(net(&Device::default()), 1, Scheme::default());
        assert!(!net.linear.weight.is_require_grad());
        assert!(net.train().linear.weight.is_require_grad());
    }

    #[test]
    fn xavier_bounds_weights_by_both_fans_and_leaves_biases_at_zero() {
        let net = keyed_init(net(&Device::default()), 1, Scheme::XavierUniform);
        let extent = |values: Vec<f32>| values.iter().fold(0.0f32, |a, b| a.max(b.abs()));
        let bound = (6.0f32 / 80.0).sqrt();
        let linear = extent(values(net.linear.weight.val()));
        assert!(linear <= bound && linear > 0.9 * bound, "{linear}");
        assert_eq!(extent(values(net.linear.bias.unwrap().val())), 0.0);
    }

    #[test]
    fn he_draws_convolutions_from_a_normal_distribution() {
        let device = Device::default();
        let conv =
            keyed_init(Conv2dConfig::new([32, 64], [3, 3]).init(&device), 1, Scheme::HeNormal);
        let weights = values(conv.weight.val());
        let deviation = (2.0f64 / (64.0 * 9.0)).sqrt();
        let within = |times: f64| {
            weights.iter().filter(|&&value| f64::from(value).abs() < times * deviation).count()
                as f64
                / weights.len() as f64
        };
        let mean =
            weights.iter().map(|&value| f64::from(value)).sum::<f64>() / weights.len() as f64;
        assert!(mean.abs() < 4.0 * deviation / (weights.len() as f64).sqrt(), "{mean}");
        // For 18,432 values, four standard errors are at most 0.015.
        for (times, share) in [(0.5, 0.3829), (1.0, 0.6827), (2.0, 0.9545)] {
            assert!((within(times) - share).abs() < 0.015, "{times}: {}", within(times));
        }
        let uniform = keyed_init(net(&device), 1, Scheme::KaimingUniform);
        let he = keyed_init(net(&device), 1, Scheme::HeNormal);
        assert_eq!(values(he.linear.weight.val()), values(uniform.linear.weight.val()));
        assert_eq!(
            values(he.linear.bias.unwrap().val()),
            values(uniform.linear.bias.unwrap().val())
        );
    }
}
