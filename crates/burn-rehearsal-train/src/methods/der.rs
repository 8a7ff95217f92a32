use super::{Method, Step, options};
use burn::nn::loss::{MseLoss, Reduction};
use burn::tensor::Tensor;

options::options! {
    /// Dark Experience Replay (Buzzega et al., "Dark Experience for General Continual Learning",
    /// NeurIPS 2020, arXiv 2004.07211, equation 6).
    ///
    /// Stores the logits of every sample, of the pass in which it was an incoming row. The loss is
    /// CE(incoming) + α·MSE(network(x′), z′) for drawn rows x′ with their stored logits z′. MSE is
    /// a mean over rows and classes. Incoming rows and the draw have a forward pass each.
    pub struct Der {
        /// Weight of the distance to stored logits.
        alpha = 0.3 in 0.0..=1e6,
    }
}

impl Method for Der {
    fn name(&self) -> &'static str {
        "der"
    }

    fn summary(&self) -> &'static str {
        "Rehearsal of stored logits (Dark Experience Replay)"
    }

    options::forward!();

    fn rehearses(&self) -> bool {
        true
    }

    fn stores_logits(&self) -> bool {
        true
    }

    fn loss(&self, step: &Step<'_>) -> Tensor<1> {
        loss(step, self.alpha)
    }
}

/// The loss of DER: CE(incoming) + α·MSE(draw 0).
pub(super) fn loss(step: &Step<'_>, alpha: f64) -> Tensor<1> {
    let logits = step.logits(step.incoming());
    step.store_logits(logits.clone());
    let loss = step.cross_entropy(logits, step.incoming());
    let Some(stored) = step.stored_logits(0) else { return loss };
    let logits = step.logits(step.draw(0));
    let stored = stored.cast(logits.dtype());
    loss + MseLoss::new().forward(logits, stored, Reduction::Mean) * alpha
}

#[cfg(test)]
mod tests {
    #![allow(clippy::panic)]

    use super::*;
    use crate::methods::testing::*;

    const STORED: [[f64; CLASSES]; 2] = [[0.5, -1.0, 2.0, 0.25], [1.5, 0.0, -0.5, 1.0]];

    #[test]
    fn the_loss_is_cross_entropy_plus_the_distance_to_stored_logits() {
        let (incoming, drawn) = (&ROWS[..3], &ROWS[3..5]);
        let mock = Mock::new(incoming, &[drawn]).with_stored(&STORED);
        let loss = mock.loss(&Der { alpha: 0.7 }, &[]);
        assert_close(loss.value, cross_entropy(incoming) + 0.7 * distance(drawn, &STORED));
        assert_eq!(*mock.passes.borrow(), [0..3, 3..5]);
        // The logits of the incoming rows are stored, once.
        let [annotated] = &mock.annotated.borrow()[..] else { panic!("annotated once") };
        let expected: Vec<_> = incoming.iter().flat_map(|row| scores(&WEIGHTS, row)).collect();
        assert_eq!(annotated.len(), expected.len());
        for (found, expected) in annotated.iter().zip(expected) {
            assert_close(f64::from(*found), expected);
        }
    }

    #[test]
    fn without_drawn_rows_the_loss_is_cross_entropy() {
        // Before the first delivery, and if nothing is stored.
        for mock in [Mock::new(&ROWS[..3], &[]), Mock::new(&ROWS[..3], &[&[]])] {
            assert_close(mock.loss(&Der::DEFAULT, &[]).value, cross_entropy(&ROWS[..3]));
            assert_eq!(mock.annotated.borrow().len(), 1);
        }
    }

    #[test]
    fn stored_logits_get_no_gradient() {
        let mock = Mock::new(&ROWS[..3], &[&ROWS[3..5]]).with_stored(&STORED);
        let plain = mock.loss(&Der { alpha: 0.0 }, &[]).gradient;
        let found = mock.loss(&Der { alpha: 0.7 }, &[]).gradient;
        // The gradient of the distance: 2/(rows·classes) Σ (scores − stored)·inputs.
        for (index, (found, plain)) in found.iter().zip(plain).enumerate() {
            let (feature, class) = (index / CLASSES, index % CLASSES);
            let rows = ROWS[3..5].iter().zip(&STORED);
            let sum: f64 = rows
                .map(|(row, stored)| {
                    (scores(&WEIGHTS, row)[class] - stored[class]) * f64::from(row.0[feature])
                })
                .sum();
            assert_close(*found, plain + 0.7 * 2.0 / (2 * CLASSES) as f64 * sum);
        }
    }
}
