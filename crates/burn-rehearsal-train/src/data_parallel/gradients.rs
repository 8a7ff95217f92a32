//! The mean gradient over all rows of all ranks, through one flat buffer.
//!
//! The buffer holds the gradients of all trained parameters in visit order, followed by one flag
//! per parameter, which says whether any rank has a gradient for it, and one flag for a reference
//! gradient. It is built on the device (one `cat`), read and summed bucket by bucket, and uploaded
//! once. The part of a rank is scaled by its share of the rows *before* the sum. A share of 1 then
//! changes no bit, and gradients in half precision cannot overflow. The sum is in `f32`, whatever
//! the type of the model.
//!
//! A single rank needs no buffer: its gradients are Burn's own. They are flattened only if their
//! precision differs from that of the parameters, and then stay on the device.

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::{DType, Device, FloatDType, Tensor, TensorData};
use burn_rehearsal_collective::Collective;

use super::buckets::{self, BUCKET, BucketError};
use super::error::DataParallelError;
use super::params::{ParamInfo, Role};
use super::projection::{Reference, project, project_now, project_values};

/// Collects the gradients of one update on this rank and reduces them over the ranks.
pub(crate) struct GradientSync<M> {
    /// There is only one rank.
    alone: bool,
    /// The gradients have the precision of the parameters.
    plain: bool,
    /// The device of the gradients: the training device without autodiff.
    device: Device,
    /// Number of trained parameters.
    params: usize,
    /// Elements of all trained parameters together.
    elements: usize,
    /// Gradients on a single rank. They are left as they are, so that the result is Burn's own, bit
    /// for bit.
    local: GradientsAccumulator<M>,
    /// The flat buffer of the micro-batches so far. `None` if this rank had no rows yet.
    flat: Option<Tensor<1>>,
    /// The flags of a single rank: whether any micro-batch had a gradient for the parameter.
    present: Vec<bool>,
    /// The sum of this rank's reference gradients over drawn rows. A factor does not change the
    /// projection.
    reference: Option<Tensor<1>>,
}

/// The gradients of an update.
pub(crate) struct Reduced {
    pub(crate) grads: GradientsParams,
    /// Whether all values are finite, the same on all ranks. Checked only if the loss is scaled.
    pub(crate) finite: bool,
}

impl<M: Module> GradientSync<M> {
    /// `plain`: the gradients have the precision of the parameters.
    pub(crate) fn new(
        world_size: usize,
        plain: bool,
        device: Device,
        params: &[ParamInfo],
    ) -> Self {
        let trained = || params.iter().filter(|param| param.role == Role::Trained);
        Self {
            alone: world_size == 1,
            plain,
            device,
            params: trained().count(),
            elements: trained().map(|param| param.shape.iter().product::<usize>()).sum(),
            local: GradientsAccumulator::new(),
            flat: None,
            present: Vec::new(),
            reference: None,
        }
    }

    /// Adds the gradients of a micro-batch of this rank, after its reference. `share` (0..=1) is
    /// its part of the rows of all ranks' micro-batches.
    pub(crate) fn add(&mut self, model: &M, grads: GradientsParams, share: f32) {
        if self.alone && self.plain {
            self.local.accumulate(model, grads);
            return;
        }
        let (mut pieces, flags) = pieces(model, grads);
        if flags.is_empty() {
            return;
        }
        if self.alone {
            self.present.resize(flags.len(), false);
            self.present.iter_mut().zip(&flags).for_each(|(present, flag)| *present |= *flag);
        } else {
            let flags = flags.into_iter().chain([self.reference.is_some()]);
            let flags: Vec<f32> = flags.map(|flag| f32::from(u8::from(flag))).collect();
            let count = flags.len();
            pieces.push(Tensor::from_data(
                TensorData::new(flags, [count]),
                (&self.device, DType::F32),
            ));
        }
        let mut flat = Tensor::cat(pieces, 0);
        if share != 1.0 {
            flat = flat.mul_scalar(share);
        }
        self.flat = Some(match self.flat.take() {
            Some(sum) => sum.add(flat),
            None => flat,
        });
    }

    /// Adds the reference gradient of a micro-batch of this rank, a mean over `rows` drawn rows.
    pub(crate) fn add_reference(&mut self, model: &M, (reference, rows): Reference) {
        let sum = flatten(model, reference).0.mul_scalar(rows as f32);
        self.reference = Some(match self.reference.take() {
            Some(before) => before + sum,
            None => sum,
        });
    }

    /// Returns the gradients of the update: the row-weighted means over all ranks, summed over the
    /// micro-batches since the last call.
    ///
    /// Collective if there is more than one rank. A parameter without a gradient on every rank has
    /// none in the result. If the loss was multiplied by `factor`, a power of two, the gradients
    /// are divided by it. If any rank added a reference, the result is
    /// [projected](super::project_gradients).
    pub(crate) fn reduce(
        &mut self,
        model: &M,
        collective: &mut dyn Collective,
        step: u64,
        factor: Option<f32>,
    ) -> Result<Reduced, DataParallelError> {
        let reference = self.reference.take();
        if self.alone && self.plain {
            let mut grads = self.local.grads();
            if let Some(reference) = reference {
                grads = project_now(model, grads, reference);
            }
            return Ok(Reduced { grads, finite: true });
        }
        let unreadable = |error: String| DataParallelError::Device {
            step,
            reason: format!("the gradients could not be read: {error}"),
        };
        let (flat, present, finite) = if self.alone {
            let Some(flat) = self.flat.take() else {
                return Ok(Reduced { grads: GradientsParams::new(), finite: true });
            };
            let flat = match reference {
                Some(reference) => project(flat, reference),
                None => flat,
            };
            // After the projection: the reference may have overflowed, too.
            let finite = match factor {
                Some(_) => all_finite(&flat).map_err(unreadable)?,
                None => true,
            };
            (flat, std::mem::take(&mut self.present), finite)
        } else {
            let mut sum = |flat: Option<Tensor<1>>, len: usize| {
                buckets::sum(flat, len, BUCKET, collective).map_err(|error| match error {
                    BucketError::Read(error) => unreadable(error),
                    BucketError::Collective(error) => DataParallelError::from(error),
                })
            };
            let mut host = sum(self.flat.take(), self.elements + self.params + 1)?;
            let any_reference = host.pop().is_some_and(|flag| flag > 0.0);
            let present: Vec<bool> = host[self.elements..].iter().map(|flag| *flag > 0.0).collect();
            host.truncate(self.elements);
            if any_reference {
                project_values(&mut host, &sum(reference, self.elements)?);
            }
            let finite = factor.is_none() || host.iter().all(|value| value.is_finite());
            (
                Tensor::from_data(
                    TensorData::new(host, [self.elements]),
                    (&self.device, DType::F32),
                ),
                present,
                finite,
            )
        };
        let flat = if let Some(factor) = factor { flat.div_scalar(factor) } else { flat };
        Ok(Reduced { grads: unflatten(model, flat, &present), finite })
    }
}

fn all_finite(values: &Tensor<1>) -> Result<bool, String> {
    let data =
        values.clone().is_finite().all().try_into_data().map_err(|error| format!("{error:?}"))?;
    Ok(data.iter::<bool>().all(|finite| finite))
}

/// The gradients of all trained parameters in visit order, shape `[elements]`, and whether each
/// parameter has one.
pub(super) fn flatten<M: Module>(model: &M, grads: GradientsParams) -> (Tensor<1>, Vec<bool>) {
    let (pieces, present) = pieces(model, grads);
    let flat = match pieces.is_empty() {
        true => Tensor::zeros([0], &Device::default()),
        false => Tensor::cat(pieces, 0),
    };
    (flat, present)
}

/// The gradients of [`flatten`], one tensor per parameter.
fn pieces<M: Module>(model: &M, mut grads: GradientsParams) -> (Vec<Tensor<1>>, Vec<bool>) {
    let mut flatten = Flatten { grads: &mut grads, pieces: Vec::new(), present: Vec::new() };
    model.visit(&mut flatten);
    (flatten.pieces, flatten.present)
}

struct Flatten<'a> {
    grads: &'a mut GradientsParams,
    pieces: Vec<Tensor<1>>,
    present: Vec<bool>,
}

impl ModuleVisitor for Flatten<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        // Running statistics and frozen parameters are visited too. They have no gradient.
        if !param.is_require_grad() {
            return;
        }
        let elements = param.lazy_shape().num_elements();
        let grad = self.grads.remove::<D>(param.id);
        self.present.push(grad.is_some());
        if elements > 0 {
            self.pieces.push(match grad {
                Some(grad) => grad.reshape([elements]).cast(FloatDType::F32),
                None => Tensor::zeros([elements], (&param.val().inner().device(), DType::F32)),
            });
        }
    }
}

/// The gradients of the parameters that are `present`, from the values of [`flatten`].
pub(super) fn unflatten<M: Module>(
    model: &M,
    flat: Tensor<1>,
    present: &[bool],
) -> GradientsParams {
    let mut grads = GradientsParams::new();
    model.visit(&mut Unflatten { flat, present, index: 0, offset: 0, grads: &mut grads });
    grads
}

struct Unflatten<'a> {
    flat: Tensor<1>,
    present: &'a [bool],
    index: usize,
    offset: usize,
    grads: &'a mut GradientsParams,
}

impl ModuleVisitor for Unflatten<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if !param.is_require_grad() {
            return;
        }
        let tensor = param.val();
        let elements = tensor.shape().num_elements();
        let (index, start) = (self.index, self.offset);
        self.index += 1;
        self.offset += elements;
        if self.present[index] && elements > 0 {
            let grad = self.flat.clone().narrow(0, start, elements).reshape(tensor.shape());
            let dtype = tensor.dtype();
            self.grads
                .register::<D>(param.id, if dtype == DType::F32 { grad } else { grad.cast(dtype) });
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::data_parallel::loss_scale::{scale_loss, with_factor};
    use crate::data_parallel::{Precision, params};
    use burn::nn::{Linear, LinearConfig};
    use burn_rehearsal_collective::run_threads;

    /// The gradient of the bias, 1e-9 for each of two rows, as the network computes it in `f16`
    /// from a loss that is multiplied by `factor`.
    fn gradient(factor: f32, ranks: usize) -> Vec<f32> {
        let results = run_threads(ranks, |mut collective| {
            let device = Device::flex().autodiff();
            let network: Linear = LinearConfig::new(3, 1).init(&device);
            let lowered = Precision::F16.lower(network.clone());
            let x = Tensor::<2>::ones([2, 3], &device).cast(FloatDType::F16);
            let loss = lowered.forward(x).cast(FloatDType::F32).sum().mul_scalar(1e-9);
            let (gradients, scaled) = with_factor(factor, || scale_loss(loss).backward());
            assert!(scaled);
            let mut sync = GradientSync::new(ranks, false, device.inner(), &params::list(&network));
            let share = 1.0 / ranks as f32;
            sync.add(&network, GradientsParams::from_grads(gradients, &lowered), share);
            let reduced = sync.reduce(&network, &mut collective, 0, Some(factor)).unwrap();
            assert!(reduced.finite);
            let bias = network.bias.as_ref().unwrap().id;
            Ok::<_, ()>(
                reduced.grads.get::<1>(bias).unwrap().into_data().try_into_vec::<f32>().unwrap()[0],
            )
        });
        results.into_iter().map(|rank| rank.unwrap()).collect()
    }

    #[test]
    fn gradients_too_small_for_f16_survive_because_the_loss_is_scaled() {
        for ranks in [1, 2] {
            assert_eq!(
                gradient(1.0, ranks),
                vec![0.0; ranks],
                "below half of the smallest number of f16"
            );
            for gradient in gradient(65_536.0, ranks) {
                assert!((gradient / 2e-9 - 1.0).abs() < 1e-3, "{gradient} on {ranks} ranks");
            }
        }
    }
}
