//! Projection of gradients, so that an update does not increase a reference loss.

use std::cell::RefCell;

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::Tensor;

use super::gradients::{flatten, unflatten};

/// The gradient of a reference loss, and the number of rows of which the loss is the mean.
pub(super) type Reference = (GradientsParams, usize);

thread_local! {
    /// During a step of a [`DataParallel`](super::DataParallel) on this thread: the reference of
    /// the step.
    static STEP: RefCell<Option<Option<Reference>>> = const { RefCell::new(None) };
}

/// Projects `gradients` so that an update does not increase a reference loss, to first order.
///
/// `reference` is the gradient of the reference loss, which is a mean over `rows` rows. If the dot
/// product of g (`gradients`) and r (`reference`) is negative, g becomes g − (g·r / r·r) r
/// (Chaudhry et al., "Efficient Lifelong Learning with A-GEM", ICLR 2019, equation 11). Call it in
/// `TrainStep::step`.
///
/// In a training with [`DataParallel`](super::DataParallel), the call only submits the reference
/// and returns `gradients` as they are. The gradients of an update are combined as usual: averaged
/// over the rows of all ranks, and added up over the micro-batches. References are averaged over
/// the drawn rows of all ranks and micro-batches. The result is projected once, before the update.
/// N ranks then project as one rank with all rows. Elsewhere, the projection is done at once.
///
/// ```
/// use burn::module::Module;
/// use burn::optim::GradientsParams;
/// use burn::tensor::Tensor;
/// use burn_rehearsal_train::data_parallel::project_gradients;
///
/// fn gradients<M: Module>(model: &M, loss: Tensor<1>, stored: Tensor<1>) -> GradientsParams {
///     let gradients = GradientsParams::from_grads(loss.backward(), model);
///     let reference = GradientsParams::from_grads(stored.backward(), model);
///     project_gradients(model, gradients, reference, 10) // `stored` is a mean over 10 rows
/// }
/// ```
#[must_use]
pub fn project_gradients<M: Module>(
    model: &M,
    gradients: GradientsParams,
    reference: GradientsParams,
    rows: usize,
) -> GradientsParams {
    let mut reference = Some((reference, rows));
    STEP.with_borrow_mut(|step| {
        if let Some(step) = step {
            *step = reference.take();
        }
    });
    match reference {
        None => gradients,
        Some((reference, _)) => project_now(model, gradients, flatten(model, reference).0),
    }
}

/// Projects on the device. `reference` is flat and may have any positive factor.
pub(super) fn project_now<M: Module>(
    model: &M,
    gradients: GradientsParams,
    reference: Tensor<1>,
) -> GradientsParams {
    let (gradients, present) = flatten(model, gradients);
    unflatten(model, project(gradients, reference), &present)
}

/// [`project_now`] for flat gradients.
pub(super) fn project(gradients: Tensor<1>, reference: Tensor<1>) -> Tensor<1> {
    let dot = (gradients.clone() * reference.clone()).sum();
    let square = reference.clone().square().sum();
    // If the reference is zero, so is the dot product.
    let factor = dot.clamp_max(0.0) / square.clamp_min(f32::MIN_POSITIVE);
    gradients - reference * factor
}

/// Projects values that are the same on all ranks. The sums have a fixed order, so that all ranks
/// get the same bits.
pub(super) fn project_values(gradients: &mut [f32], reference: &[f32]) {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
    };
    let (product, square) = (dot(gradients, reference), dot(reference, reference));
    // If the reference is not finite, the result is NaN, as on the device.
    if square == 0.0 || (product >= 0.0 && square.is_finite()) {
        return;
    }
    let factor = product / square;
    for (gradient, &reference) in gradients.iter_mut().zip(reference) {
        *gradient = (f64::from(*gradient) - factor * f64::from(reference)) as f32;
    }
}

/// Runs a step and returns the reference that it submitted to [`project_gradients`].
pub(super) fn with_reference<T>(step: impl FnOnce() -> T) -> (T, Option<Reference>) {
    struct Reset;
    impl Drop for Reset {
        fn drop(&mut self) {
            STEP.with_borrow_mut(|step| *step = None);
        }
    }
    STEP.with_borrow_mut(|step| *step = Some(None));
    let _reset = Reset;
    let result = step();
    (result, STEP.with_borrow_mut(|step| step.as_mut().and_then(Option::take)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use burn::tensor::Device;

    #[test]
    fn a_conflict_is_removed_and_nothing_else_changes() {
        for (g, r, expected) in [
            ([1.0f32, -2.0], [0.0f32, 1.0], [1.0f32, 0.0]),
            ([1.0, 2.0], [0.0, 1.0], [1.0, 2.0]),
            ([1.0, -2.0], [0.0, 0.0], [1.0, -2.0]),
            ([-3.0, -1.0], [1.0, 1.0], [-1.0, 1.0]),
        ] {
            let tensor = |values| Tensor::<1>::from_data(values, &Device::flex());
            let device: Vec<f32> =
                project(tensor(g), tensor(r)).into_data().try_into_vec().unwrap();
            assert_eq!(device, expected);
            let mut host = g;
            project_values(&mut host, &r);
            assert_eq!(host, expected);
        }
    }

    #[test]
    fn a_reference_that_is_not_finite_leaves_no_finite_gradient() {
        for (g, bad) in [(1.0f32, f32::NAN), (1.0, f32::INFINITY), (-1.0, f32::INFINITY)] {
            let tensor = |values: [f32; 2]| Tensor::<1>::from_data(values, &Device::flex());
            let device = project(tensor([g, 1.0]), tensor([bad, 0.0])).into_data();
            let mut host = [g, 1.0];
            project_values(&mut host, &[bad, 0.0]);
            let device: Vec<f32> = device.try_into_vec().unwrap();
            for values in [&device[..], &host] {
                assert!(values.iter().any(|value| value.is_nan()), "{g} and {bad}: {values:?}");
            }
        }
    }
}
