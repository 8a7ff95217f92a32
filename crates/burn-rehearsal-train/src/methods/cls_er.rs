use super::{Method, MethodOption, Step, Update, options};
use burn::nn::loss::{MseLoss, Reduction};
use burn::tensor::{Tensor, activation};
use burn_rehearsal::error::ConfigError;
use burn_rehearsal::random::{Purpose, Stream};

/// The snapshots.
const PLASTIC: usize = 0;
const STABLE: usize = 1;

options! {
    /// CLS-ER (Arani et al., "Learning Fast, Learning Slow: A General Continual Learning Method
    /// based on Complementary Learning System", ICLR 2022, arXiv 2201.12604).
    ///
    /// Two networks follow the trained one as exponential moving averages of its parameters: a
    /// plastic one that is updated often, and a stable one that is updated rarely and is the one to
    /// evaluate. The loss is the mean cross entropy of all rows, plus λ·MSE(network(x′), z′) for
    /// drawn rows x′. z′ are the logits of the average that gives the class of the row the higher
    /// probability.
    ///
    /// After update t, each average is moved with its probability, with the decay
    /// min(1 − 1/(t + 1), α). All ranks draw the same random numbers. Running statistics are averaged
    /// like parameters, and the averages run in inference mode.
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

    fn options(&self) -> Vec<MethodOption> {
        self.list()
    }

    fn with_options(&self, values: &[(&str, f64)]) -> Result<Box<dyn Method>, ConfigError> {
        self.replaced(values)
    }

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

    fn updated(&self, update: &Update, snapshots: &mut [Tensor<1>]) {
        let mut stream = Stream::new(update.seed, Purpose::Method, update.number, 0);
        let ramp = 1.0 - 1.0 / (update.number as f64 + 1.0);
        for (snapshot, rate, alpha) in [
            (PLASTIC, self.plastic_rate, self.plastic_alpha),
            (STABLE, self.stable_rate, self.stable_alpha),
        ] {
            if stream.unit_f64() < rate {
                let decay = ramp.min(alpha);
                snapshots[snapshot] = snapshots[snapshot].clone() * decay
                    + update.parameters.clone() * (1.0 - decay);
            }
        }
    }
}
