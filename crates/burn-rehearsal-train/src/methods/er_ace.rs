use super::{Method, cross_entropy};
use burn::tensor::{Int, Tensor};

/// The score of a class that is hidden from a row: its probability is 0.
const UNSEEN: f32 = -1e9;

/// Experience replay with asymmetric cross entropy, ER-ACE (Caccia et al., "New Insights on
/// Reducing Abrupt Representation Change in Online Continual Learning", ICLR 2022, arXiv
/// 2104.05025, equation 5).
///
/// The cross entropy of incoming rows is taken over the classes of the incoming rows only, so that
/// new classes do not push away the representations of earlier ones. The cross entropy of
/// representatives is taken over all classes. On several ranks, each rank uses the classes of its
/// own mini-batch.
///
/// The paper adds the means over incoming rows and over representatives. Here the loss is the mean
/// over all rows. With as many representatives as incoming rows, it is half of the paper's loss,
/// and twice the learning rate compensates for that.
#[derive(Debug, Clone, Copy)]
pub struct ErAce;

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

    fn loss(
        &self,
        logits: Tensor<2>,
        targets: Tensor<1, Int>,
        representatives: usize,
    ) -> Tensor<1> {
        let [rows, classes] = logits.dims();
        let incoming = rows.saturating_sub(representatives);
        if incoming == 0 {
            return cross_entropy(logits, targets);
        }
        let number = |count: usize| Tensor::<1, Int>::arange(0..count as i64, &targets.device());
        let seen = targets
            .clone()
            .narrow(0, 0, incoming)
            .reshape([incoming, 1])
            .equal(number(classes).reshape([1, classes]))
            .any_dim(0);
        let is_incoming = number(rows).lower_elem(incoming as i64).reshape([rows, 1]);
        let hidden =
            is_incoming.expand([rows, classes]).bool_and(seen.bool_not().expand([rows, classes]));
        cross_entropy(logits.mask_fill(hidden, UNSEEN), targets)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use burn::tensor::Device;

    const CLASSES: usize = 4;

    fn logits() -> Tensor<2> {
        let values = [[0.5f32, -1.0, 2.0, 0.1], [1.5, 0.3, -0.7, 0.9], [-0.2, 0.8, 0.4, 1.1]];
        Tensor::from_data(values, &Device::default())
    }

    /// Minus the logarithm of the softmax of `target` among `classes`.
    fn row(scores: &[f32], target: usize, classes: impl Iterator<Item = usize>) -> f32 {
        classes.map(|class| scores[class].exp()).sum::<f32>().ln() - scores[target]
    }

    fn loss(targets: [i64; 3], representatives: usize) -> f32 {
        ErAce
            .loss(logits(), Tensor::from_data(targets, &Device::default()), representatives)
            .into_scalar()
    }

    #[test]
    fn incoming_rows_see_their_own_classes_and_representatives_all_classes() {
        let scores: Vec<f32> = logits().into_data().try_into_vec().unwrap();
        let scores: Vec<_> = scores.chunks(CLASSES).collect();
        // Two incoming rows of classes 0 and 2, one representative of class 1.
        let expected = row(scores[0], 0, [0, 2].into_iter())
            + row(scores[1], 2, [0, 2].into_iter())
            + row(scores[2], 1, 0..CLASSES);
        assert!((loss([0, 2, 1], 1) - expected / 3.0).abs() < 1e-6);
        // Incoming rows do not see a class that only representatives have. Incoming rows of a
        // single class have no loss.
        let expected = row(scores[1], 1, 0..CLASSES) + row(scores[2], 3, 0..CLASSES);
        assert!((loss([0, 1, 3], 2) - expected / 3.0).abs() < 1e-6);
    }

    #[test]
    fn with_all_classes_in_the_mini_batch_it_equals_cross_entropy() {
        let targets = Tensor::<1, Int>::from_data([3, 1, 0, 2], &Device::default());
        let logits =
            Tensor::cat(vec![logits(), Tensor::zeros([1, CLASSES], &Device::default())], 0);
        let ours: f32 = ErAce.loss(logits.clone(), targets.clone(), 0).into_scalar();
        let plain: f32 = cross_entropy(logits, targets).into_scalar();
        assert_eq!(ours, plain);
    }

    #[test]
    fn only_representatives_have_gradients_for_absent_classes() {
        let device = Device::default().autodiff();
        let logits = Tensor::<2>::zeros([2, CLASSES], &device).require_grad();
        let targets = Tensor::<1, Int>::from_data([0, 1], &device);
        let gradients = ErAce.loss(logits.clone(), targets, 1).backward();
        let gradients: Vec<f32> =
            logits.grad(&gradients).unwrap().into_data().try_into_vec().unwrap();
        assert_eq!(gradients[..4], [0.0; 4]);
        assert!(gradients[4..].iter().all(|gradient| gradient.abs() > 0.1), "{gradients:?}");
    }
}
