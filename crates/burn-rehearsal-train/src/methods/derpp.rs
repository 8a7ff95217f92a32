use super::{Method, Step, der, options};
use burn::tensor::Tensor;

options::options! {
    /// Dark Experience Replay++ (Buzzega et al., NeurIPS 2020, arXiv 2004.07211, equation 7).
    ///
    /// The loss is that of [`Der`](super::Der), CE(incoming) + α·MSE(network(x′), z′), plus
    /// β·CE(network(x″), y″) for a second, independent draw of rows x″ with their classes y″.
    /// Incoming rows and each draw have a forward pass of their own.
    ///
    /// On several ranks, the gradient is that of one rank with all rows if every rank has the same
    /// number of incoming rows and of drawn rows. In the last step of an epoch, ranks may have
    /// numbers of incoming rows that differ by one. The incoming rows of the ranks with fewer then
    /// weigh more: for 10 rows per draw, the gradient differs by 4 to 14 % with 5 rows per rank,
    /// and by less than 1 % with 17.
    pub struct DerPlusPlus {
        /// Weight of the distance to stored logits.
        alpha = 0.2 in 0.0..=1e6,
        /// Weight of the cross entropy of the second draw.
        beta = 1.0 in 0.0..=1e6,
    }
}

impl Method for DerPlusPlus {
    fn name(&self) -> &'static str {
        "derpp"
    }

    fn aliases(&self) -> &'static [&'static str] {
        &["der++"]
    }

    fn summary(&self) -> &'static str {
        "Rehearsal of stored logits and of classes (Dark Experience Replay++)"
    }

    options::forward!();

    fn rehearses(&self) -> bool {
        true
    }

    fn draws(&self) -> usize {
        2
    }

    fn stores_logits(&self) -> bool {
        true
    }

    fn loss(&self, step: &Step<'_>) -> Tensor<1> {
        let loss = der::loss(step, self.alpha);
        let rows = step.draw(1);
        if rows.is_empty() {
            return loss;
        }
        loss + step.cross_entropy(step.logits(rows.clone()), rows) * self.beta
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::testing::*;

    #[test]
    fn the_loss_adds_the_cross_entropy_of_the_second_draw() {
        let (incoming, first, second) = (&ROWS[..2], &ROWS[2..4], &ROWS[4..7]);
        // Rows of both draws have stored logits. Those of the second draw are not used.
        let stored: Vec<[f64; CLASSES]> =
            (0..5).map(|row| [0.5 * f64::from(row), -1.0, 0.25, 2.0 - f64::from(row)]).collect();
        let mock = Mock::new(incoming, &[first, second]).with_stored(&stored);
        let loss = mock.loss(&DerPlusPlus { alpha: 0.7, beta: 0.4 }, &[]).value;
        let expected = cross_entropy(incoming) + 0.7 * distance(first, &stored[..2]);
        assert_close(loss, expected + 0.4 * cross_entropy(second));
        assert_eq!(*mock.passes.borrow(), [0..2, 2..4, 4..7]);
        assert_eq!(mock.annotated.borrow().len(), 1);
    }

    #[test]
    fn without_drawn_rows_the_loss_is_cross_entropy() {
        let mock = Mock::new(&ROWS[..3], &[&[], &[]]);
        assert_close(mock.loss(&DerPlusPlus::DEFAULT, &[]).value, cross_entropy(&ROWS[..3]));
    }
}
