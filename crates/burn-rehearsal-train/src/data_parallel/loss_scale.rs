//! Loss scaling, which keeps gradients in `f16` from vanishing and overflowing.
//!
//! The loss is multiplied by a factor before the backward pass, which scales every gradient. The
//! sum over ranks is divided by it in `f32`. The factor is adapted while training: if it is too
//! large, gradients are not finite, and all ranks skip the update (Micikevicius et al., arXiv
//! 1710.03740, §3.2; the constants are PyTorch's).

use std::cell::Cell;

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

/// The initial factor.
const FIRST: f32 = 65_536.0;
/// The factor is doubled after this number of consecutive updates with finite gradients.
const PATIENCE: u32 = 2_000;
/// The range of the factor. All values are powers of two, so that scaling does not round.
const LEAST: f32 = 1.0;
const LARGEST: f32 = 16_777_216.0;

/// The factor of the loss and its history. It is the same on all ranks, since they see the same
/// sums.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LossScale {
    /// The factor that multiplies losses.
    pub factor: f32,
    /// Updates since the last change of the factor and the last skipped update.
    pub good: u32,
    /// Updates that were skipped because gradients were not finite.
    pub skipped: u64,
}

impl Default for LossScale {
    fn default() -> Self {
        Self { factor: FIRST, good: 0, skipped: 0 }
    }
}

impl LossScale {
    /// Records whether the gradients of an update, summed over all ranks, are finite. If not, the
    /// update must be skipped.
    pub(crate) fn record(&mut self, finite: bool) {
        if !finite {
            *self =
                Self { factor: (self.factor / 2.0).max(LEAST), good: 0, skipped: self.skipped + 1 };
            return;
        }
        self.good += 1;
        if self.good == PATIENCE {
            *self = Self { factor: (self.factor * 2.0).min(LARGEST), good: 0, ..*self };
        }
    }
}

thread_local! {
    /// The factor of the current step on this thread, and whether it was applied.
    static STEP: Cell<(f32, bool)> = const { Cell::new((1.0, false)) };
}

/// Multiplies `loss` by the factor of the current step. Call `backward` on the result.
///
/// The factor is 1 unless a [`DataParallel`](super::DataParallel) on this thread trains in
/// [`Precision::F16`](super::Precision::F16). `loss` should be in `f32`. Report `loss` itself, not
/// the result.
///
/// ```
/// use burn::module::Module;
/// use burn::optim::GradientsParams;
/// use burn::tensor::Tensor;
/// use burn_rehearsal_train::data_parallel::scale_loss;
///
/// fn gradients<M: Module>(model: &M, loss: Tensor<1>) -> GradientsParams {
///     GradientsParams::from_grads(scale_loss(loss).backward(), model)
/// }
/// ```
#[must_use]
pub fn scale_loss(loss: Tensor<1>) -> Tensor<1> {
    let (factor, _) = STEP.get();
    STEP.set((factor, true));
    if factor == 1.0 { loss } else { loss.mul_scalar(factor) }
}

/// Runs a step in which [`scale_loss`] multiplies by `factor`. Also returns whether the step called
/// it.
pub(crate) fn with_factor<T>(factor: f32, step: impl FnOnce() -> T) -> (T, bool) {
    struct Reset;
    impl Drop for Reset {
        fn drop(&mut self) {
            STEP.set((1.0, false));
        }
    }
    STEP.set((factor, false));
    let _reset = Reset;
    let result = step();
    (result, STEP.get().1)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use burn::tensor::Device;

    #[test]
    fn the_factor_halves_on_overflow_and_doubles_after_patience() {
        let mut scale = LossScale::default();
        (0..3).for_each(|_| scale.record(false));
        assert_eq!(scale, LossScale { factor: 8192.0, good: 0, skipped: 3 });
        (1..PATIENCE).for_each(|_| scale.record(true));
        assert_eq!(scale, LossScale { factor: 8192.0, good: PATIENCE - 1, skipped: 3 });
        scale.record(true);
        assert_eq!(scale, LossScale { factor: 16384.0, good: 0, skipped: 3 });
        (1..PATIENCE).for_each(|_| scale.record(true));
        scale.record(false);
        scale.record(true);
        assert_eq!(
            scale,
            LossScale { factor: 8192.0, good: 1, skipped: 4 },
            "patience starts again"
        );
    }

    #[test]
    fn the_factor_stays_in_its_range() {
        let mut scale = LossScale::default();
        (0..100).for_each(|_| scale.record(false));
        assert_eq!(scale.factor, LEAST);
        (0..100 * PATIENCE).for_each(|_| scale.record(true));
        assert_eq!(scale.factor, LARGEST);
    }

    #[test]
    fn only_steps_scale_losses_and_a_step_that_does_not_is_detected() {
        let loss = || Tensor::<1>::from_floats([1.5], &Device::flex());
        let value = |loss: Tensor<1>| loss.into_data().try_into_vec::<f32>().unwrap()[0];
        assert_eq!(value(scale_loss(loss())), 1.5);
        assert_eq!(with_factor(8.0, || value(scale_loss(loss()))), (12.0, true));
        assert_eq!(with_factor(8.0, || value(loss())), (1.5, false));
        let panicked = std::panic::catch_unwind(|| with_factor(8.0, || std::panic::panic_any(())));
        assert!(panicked.is_err());
        assert_eq!(value(scale_loss(loss())), 1.5);
    }
}
