use super::{Insertion, Method, Step};
use burn::tensor::Tensor;

/// Averaged gradient episodic memory, A-GEM (Chaudhry et al., "Efficient Lifelong Learning with
/// A-GEM", ICLR 2019, arXiv 1812.00420, equation 11).
///
/// The loss is the cross entropy of the incoming rows. If its gradient g and the gradient r of the
/// cross entropy of drawn rows have a negative dot product, g is replaced by g − (g·r / r·r) r, so
/// that the update does not increase the loss on stored samples, to first order.
///
/// The buffer is filled after each task, with an equal share of the capacity for each task of the
/// stream. On several ranks, both gradients are averaged over the rows of all ranks before the
/// projection. With gradient accumulation, both are summed over the micro-batches of an update, and
/// the sums are projected once.
#[derive(Debug, Clone, Copy)]
pub struct AGem;

impl AGem {
    pub(super) const DEFAULT: Self = Self;
}

impl Method for AGem {
    fn name(&self) -> &'static str {
        "agem"
    }

    fn aliases(&self) -> &'static [&'static str] {
        &["a-gem"]
    }

    fn summary(&self) -> &'static str {
        "Project gradients so that the loss on stored samples does not grow (A-GEM)"
    }

    fn rehearses(&self) -> bool {
        true
    }

    fn insertion(&self) -> Insertion {
        Insertion::TaskEnd
    }

    fn loss(&self, step: &Step<'_>) -> Tensor<1> {
        step.cross_entropy(step.logits(step.incoming()), step.incoming())
    }

    fn reference_loss(&self, step: &Step<'_>) -> Option<Tensor<1>> {
        let rows = step.draw(0);
        (!rows.is_empty()).then(|| step.cross_entropy(step.logits(rows.clone()), rows))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::TaskInfo;
    use crate::methods::testing::*;

    #[test]
    fn incoming_and_drawn_rows_have_a_loss_of_their_own() {
        let (incoming, drawn) = (&ROWS[..3], &ROWS[3..7]);
        let mock = Mock::new(incoming, &[drawn]);
        assert_close(mock.loss(&AGem, &[]).value, cross_entropy(incoming));
        let reference = mock.step(&[], &TaskInfo::default(), |step| AGem.reference_loss(step));
        let reference: Option<f32> = reference.map(Tensor::into_scalar);
        assert_close(f64::from(reference.unwrap_or(f32::NAN)), cross_entropy(drawn));
    }

    #[test]
    fn without_drawn_rows_nothing_is_projected() {
        for mock in [Mock::new(&ROWS, &[]), Mock::new(&ROWS, &[&[]])] {
            let reference = mock.step(&[], &TaskInfo::default(), |step| AGem.reference_loss(step));
            assert!(reference.is_none());
        }
    }
}
