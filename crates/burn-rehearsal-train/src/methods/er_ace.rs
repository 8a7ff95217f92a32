use super::{Method, Step, cross_entropy};
use burn::tensor::{Int, IntDType, Tensor};

/// The score of a class that is hidden from a row: its probability is 0.
const UNSEEN: f32 = -1e9;

/// Experience replay with asymmetric cross entropy, ER-ACE (Caccia et al., "New Insights on
/// Reducing Abrupt Representation Change in Online Continual Learning", ICLR 2022, arXiv
/// 2104.05025, equation 5).
///
/// The loss is the mean cross entropy of the incoming rows over the classes of the incoming rows
/// only, so that new classes do not push away the representations of earlier ones, plus the mean
/// cross entropy of the drawn rows over all classes. As long as nothing is drawn, it is the plain
/// cross entropy of the incoming rows. Incoming rows and the draw have a forward pass each.
///
/// On several ranks, each rank uses the classes of its own mini-batch. The classes of all ranks
/// would have to be exchanged between the ranks before each backward pass.
#[derive(Debug, Clone, Copy)]
pub struct ErAce;

impl ErAce {
    pub(super) const DEFAULT: Self = Self;
}

impl Method for ErAce {
    fn name(&self) -> &'static str {
        "er-ace"
    }

    fn summary(&self) -> &'static str {
        "Rehearsal whose incoming rows compete only with the classes of their mini-batch"
    }

    fn rehearses(&self) -> bool {
        true
    }

    fn loss(&self, step: &Step<'_>) -> Tensor<1> {
        let incoming = step.incoming();
        let logits = step.logits(incoming.clone());
        let targets = step.targets(incoming);
        let rows = step.draw(0);
        if rows.is_empty() {
            return cross_entropy(logits, targets);
        }
        asymmetric(logits, targets) + step.cross_entropy(step.logits(rows.clone()), rows)
    }
}

/// The mean cross entropy over the classes in `targets` only.
fn asymmetric(logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
    let [rows, classes] = logits.dims();
    // Targets may have another element type than Burn's default for integers.
    let numbers = Tensor::<1, Int>::arange(0..classes as i64, &targets.device());
    let numbers = numbers.cast(IntDType::from(targets.dtype()));
    let present = targets
        .clone()
        .reshape([rows, 1])
        .equal(numbers.reshape([1, classes]))
        .any_dim(0)
        .expand([rows, classes]);
    cross_entropy(logits.mask_fill(present.bool_not(), UNSEEN), targets)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use burn::tensor::{DType, Device, TensorData};

    const CLASSES: usize = 4;

    /// Minus the logarithm of the softmax of `target` among `classes`.
    fn row(scores: &[f32], target: usize, classes: &[usize]) -> f32 {
        classes.iter().map(|&class| scores[class].exp()).sum::<f32>().ln() - scores[target]
    }

    #[test]
    fn incoming_rows_see_their_own_classes_only() {
        let values = [[0.5f32, -1.0, 2.0, 0.1], [1.5, 0.3, -0.7, 0.9]];
        let logits = Tensor::<2>::from_data(values, &Device::flex());
        let loss = |targets: [i64; 2]| -> f32 {
            asymmetric(logits.clone(), Tensor::from_data(targets, &Device::flex())).into_scalar()
        };
        let expected = row(&values[0], 0, &[0, 2]) + row(&values[1], 2, &[0, 2]);
        assert!((loss([0, 2]) - expected / 2.0).abs() < 1e-6);
        // Rows of a single class have no loss.
        assert_eq!(loss([1, 1]), 0.0);
    }

    #[test]
    fn drawn_rows_see_all_classes() {
        use crate::methods::testing::{Mock, ROWS, assert_close, cross_entropy, cross_entropy_among};
        // The incoming rows have the classes 0, 1 and 3.
        let (incoming, drawn) = (&ROWS[..3], &ROWS[3..7]);
        let loss = Mock::new(incoming, &[drawn]).loss(&ErAce, &[]).value;
        assert_close(loss, cross_entropy_among(incoming, &[0, 1, 3]) + cross_entropy(drawn));
        // As long as nothing is drawn, incoming rows see all classes, too.
        let loss = Mock::new(incoming, &[&[]]).loss(&ErAce, &[]).value;
        assert_close(loss, cross_entropy(incoming));
    }

    #[test]
    fn targets_may_have_any_integer_type() {
        let logits = Tensor::<2>::zeros([2, CLASSES], &Device::flex());
        for dtype in [DType::I64, DType::I32] {
            let targets = TensorData::from([0i64, 1]).convert_dtype(dtype);
            let targets = Tensor::<1, Int>::from_data(targets, (&Device::flex(), dtype));
            let loss: f32 = asymmetric(logits.clone(), targets).into_scalar();
            assert!((loss - 2f32.ln()).abs() < 1e-6, "{dtype:?}");
        }
    }

    #[test]
    fn with_all_classes_in_the_mini_batch_it_equals_cross_entropy() {
        let targets = Tensor::<1, Int>::from_data([3, 1, 0, 2], &Device::flex());
        let logits = Tensor::<2>::from_data([[0.5f32, -1.0, 2.0, 0.1]; CLASSES], &Device::flex());
        let ours: f32 = asymmetric(logits.clone(), targets.clone()).into_scalar();
        let plain: f32 = cross_entropy(logits, targets).into_scalar();
        assert_eq!(ours, plain);
    }

    #[test]
    fn absent_classes_have_no_gradient() {
        let device = Device::flex().autodiff();
        let logits = Tensor::<2>::zeros([2, CLASSES], &device).require_grad();
        let targets = Tensor::<1, Int>::from_data([0, 1], &device);
        let gradients = asymmetric(logits.clone(), targets).backward();
        let gradients: Vec<f32> =
            logits.grad(&gradients).unwrap().into_data().try_into_vec().unwrap();
        assert!(gradients.chunks(CLASSES).all(|row| row[2..] == [0.0; 2] && row[0] != 0.0));
    }
}
