use super::{Method, Step, Update, options};
use burn::nn::loss::{MseLoss, Reduction};
use burn::tensor::{Tensor, activation};
use burn_rehearsal::random::{Purpose, Stream};

/// The snapshots.
const PLASTIC: usize = 0;
const STABLE: usize = 1;

options::options! {
    /// CLS-ER (Arani et al., "Learning Fast, Learning Slow: A General Continual Learning Method
    /// based on Complementary Learning System", ICLR 2022, arXiv 2201.12604).
    ///
    /// Two networks follow the trained one as exponential moving averages of its parameters: a
    /// plastic one that is updated often, and a stable one that is updated rarely and is the one to
    /// evaluate. The loss is the mean cross entropy of all rows, plus λ·MSE(network(x′), z′) for
    /// drawn rows x′. z′ are the logits of the average that gives the class of the row the higher
    /// probability.
    ///
    /// After update t, each average is moved with its probability and a decay of
    /// min(1 − 1/(t + 1), α). All ranks draw the same random numbers. Running statistics are
    /// averaged like parameters, and the averages run in inference mode.
    pub struct ClsEr {
        /// Weight λ of the distance to the averaged networks.
        reg_weight = 0.15 in 0.0..=1e6,
        /// Largest decay of the stable average.
        stable_alpha = 0.999 in 0.0..=1.0,
        /// Probability that an update moves the stable average.
        stable_rate = 0.1 in 0.0..=1.0,
        /// Largest decay of the plastic average.
        plastic_alpha = 0.999 in 0.0..=1.0,
        /// Probability that an update moves the plastic average.
        plastic_rate = 0.3 in 0.0..=1.0,
    }
}

impl Method for ClsEr {
    fn name(&self) -> &'static str {
        "cls-er"
    }

    fn summary(&self) -> &'static str {
        "Rehearsal with a fast and a slow average of the network (CLS-ER)"
    }

    options::forward!();

    fn rehearses(&self) -> bool {
        true
    }

    fn snapshots(&self) -> usize {
        2
    }

    fn evaluated_snapshot(&self) -> Option<usize> {
        Some(STABLE)
    }

    fn loss(&self, step: &Step<'_>) -> Tensor<1> {
        let logits = step.logits(step.all());
        let loss = step.cross_entropy(logits.clone(), step.all());
        let rows = step.draw(0);
        if rows.is_empty() {
            return loss;
        }
        let [stable, plastic] =
            [STABLE, PLASTIC].map(|snapshot| step.snapshot_logits(snapshot, rows.clone()));
        let classes = step.targets(rows.clone()).reshape([rows.len(), 1]);
        let [p_stable, p_plastic] = [&stable, &plastic]
            .map(|logits| activation::softmax(logits.clone(), 1).gather(1, classes.clone()));
        let better = p_stable.greater(p_plastic).expand(stable.dims());
        let target = plastic.mask_where(better, stable);
        let distance = MseLoss::new().forward(logits.slice(rows), target, Reduction::Mean);
        loss + distance * self.reg_weight
    }

    fn updated(&self, update: &Update<'_>, snapshots: &mut [Tensor<1>]) {
        let mut stream = Stream::new(update.seed, Purpose::Method, update.number, 0);
        let ramp = 1.0 - 1.0 / (update.number as f64 + 1.0);
        for (snapshot, rate, alpha) in [
            (PLASTIC, self.plastic_rate, self.plastic_alpha),
            (STABLE, self.stable_rate, self.stable_alpha),
        ] {
            if stream.unit_f64() < rate {
                let decay = ramp.min(alpha);
                snapshots[snapshot] = snapshots[snapshot].clone() * decay
                    + update.parameters() * (1.0 - decay);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::panic)]

    use super::*;
    use crate::methods::testing::*;

    /// Other weights than those of the network.
    const OTHER: [f32; FEATURES * CLASSES] = [-0.2, 0.4, 0.1, 0.3, 0.5, -0.6, 0.2, 0.7];
    const THIRD: [f32; FEATURES * CLASSES] = [0.3, 0.2, -0.5, -0.1, 0.1, 0.4, -0.3, 0.2];

    fn probability(weights: &[f32], row: &Row) -> f64 {
        log_probability(&scores(weights, row), row.1, &[0, 1, 2, 3]).exp()
    }

    #[test]
    fn each_row_follows_the_average_that_is_surer_of_its_class() {
        let (incoming, drawn) = (&ROWS[..2], &ROWS[2..7]);
        let better: Vec<bool> = drawn
            .iter()
            .map(|row| probability(&OTHER, row) > probability(&THIRD, row))
            .collect();
        assert!(better.contains(&true) && better.contains(&false), "both averages must be used");
        let targets: Vec<_> = drawn
            .iter()
            .zip(better)
            .map(|(row, stable)| scores(if stable { &OTHER } else { &THIRD }, row))
            .collect();
        let method = ClsEr { reg_weight: 0.3, ..ClsEr::DEFAULT };
        let mock = Mock::new(incoming, &[drawn]);
        let loss = mock.loss(&method, &[&THIRD, &OTHER]).value;
        assert_close(loss, cross_entropy(&ROWS) + 0.3 * distance(drawn, &targets));
        let passes = mock.passes.borrow();
        assert_eq!((passes.len(), &passes[0]), (1, &(0..7)), "one pass of the trained network");

        let mock = Mock::new(incoming, &[&[]]);
        assert_close(mock.loss(&method, &[&THIRD, &OTHER]).value, cross_entropy(incoming));
    }

    #[test]
    fn averages_move_with_a_decay_that_grows_up_to_its_limit() {
        let method = ClsEr {
            stable_alpha: 0.95,
            stable_rate: 1.0,
            plastic_alpha: 0.6,
            plastic_rate: 1.0,
            ..ClsEr::DEFAULT
        };
        let cases = [(1, 0.5, 0.5), (3, 0.6, 0.75), (9, 0.6, 0.9), (99, 0.6, 0.95)];
        for (number, plastic, stable) in cases {
            let mut snapshots = [plain(&[1.0, -2.0]), plain(&[1.0, -2.0])];
            update(&method, number, 0, &[3.0, 4.0], &mut snapshots);
            for (snapshot, decay) in snapshots.iter().zip([plastic, stable]) {
                let [first, second] = floats(snapshot)[..] else { panic!("two parameters") };
                assert_close(f64::from(first), decay + (1.0 - decay) * 3.0);
                assert_close(f64::from(second), decay * -2.0 + (1.0 - decay) * 4.0);
            }
        }
    }

    /// The updates among the first 2000 that move the plastic and the stable average.
    fn moved(method: &ClsEr, seed: u64) -> Vec<[bool; 2]> {
        let moved = (1..=2000).map(|number| {
            let mut snapshots = [plain(&[0.0]), plain(&[0.0])];
            update(method, number, seed, &[1.0], &mut snapshots);
            [0, 1].map(|snapshot: usize| floats(&snapshots[snapshot]) != [0.0])
        });
        moved.collect()
    }

    #[test]
    fn averages_move_with_their_probabilities() {
        let method = ClsEr::DEFAULT;
        let first = moved(&method, 7);
        let share = |chosen: &dyn Fn(&[bool; 2]) -> bool| {
            first.iter().filter(|moved| chosen(moved)).count() as f64 / first.len() as f64
        };
        // More than four standard deviations.
        assert!((share(&|moved| moved[PLASTIC]) - 0.3).abs() < 0.045);
        assert!((share(&|moved| moved[STABLE]) - 0.1).abs() < 0.03);
        assert!((share(&|moved| moved[PLASTIC] && moved[STABLE]) - 0.03).abs() < 0.02);
        assert_eq!(first, moved(&method, 7), "the coins depend on the seed and the update only");
        assert_ne!(first, moved(&method, 8));
        let never = ClsEr { stable_rate: 0.0, plastic_rate: 1.0, ..method };
        assert!(moved(&never, 7).iter().all(|moved| *moved == [true, false]));
    }
}
