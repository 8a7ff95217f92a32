use super::{Method, Step, TaskEnd, options};
use crate::experiment::ExperimentError;
use burn::tensor::{Int, Tensor, TensorData, activation};

options::options! {
    /// Learning without Forgetting (Li and Hoiem, "Learning without Forgetting", ECCV 2016, arXiv
    /// 1606.09282). A baseline without stored samples.
    ///
    /// The loss is the cross entropy of the incoming rows, plus α times the cross entropy between
    /// the scores of the network at the end of the last task and the present scores, for the
    /// classes of earlier tasks, both with a softmax of temperature T.
    pub struct Lwf {
        /// Weight of the distillation.
        alpha = 1.0 in 0.0..=1e6,
        /// Temperature T of the distillation.
        temperature = 2.0 in 0.01..=1e6,
    }
}

impl Method for Lwf {
    fn name(&self) -> &'static str {
        "lwf"
    }

    fn summary(&self) -> &'static str {
        "Distill the network of the last task (Learning without Forgetting)"
    }

    options::forward!();

    fn snapshots(&self) -> usize {
        1
    }

    fn loss(&self, step: &Step<'_>) -> Tensor<1> {
        let rows = step.incoming();
        let logits = step.logits(rows.clone());
        let loss = step.cross_entropy(logits.clone(), rows.clone());
        let classes: Vec<i64> = step.earlier_classes().iter().map(|&class| class as i64).collect();
        if classes.is_empty() {
            return loss;
        }
        let count = classes.len();
        let classes =
            Tensor::<1, Int>::from_data(TensorData::new(classes, [count]), &logits.device());
        let earlier = |logits: Tensor<2>| logits.select(1, classes.clone()) / self.temperature;
        let before = activation::softmax(earlier(step.snapshot_logits(0, rows)), 1);
        let now = activation::log_softmax(earlier(logits), 1);
        loss + (before * now).sum_dim(1).mean() * -self.alpha
    }

    fn end_task(&self, end: &mut TaskEnd<'_>) -> Result<(), ExperimentError> {
        end.snapshots[0] = end.parameters.clone();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::TaskInfo;
    use crate::methods::testing::*;

    const BEFORE: [f32; FEATURES * CLASSES] = [-0.2, 0.4, 0.1, 0.3, 0.5, -0.6, 0.2, 0.7];

    #[test]
    fn the_scores_of_earlier_classes_are_distilled_with_a_temperature() {
        let rows = &ROWS[..4];
        let earlier = [0, 2];
        let method = Lwf { alpha: 0.6, temperature: 3.0 };
        let task = TaskInfo { task: 1, earlier_classes: earlier.to_vec() };
        let loss = Mock::new(rows, &[]).loss_in(&method, &[&BEFORE], &task).value;
        let distilled = mean(rows.iter().map(|row| {
            let [before, now] =
                [&BEFORE, &WEIGHTS].map(|weights| scores(weights, row).map(|score| score / 3.0));
            earlier
                .iter()
                .map(|&class| {
                    let before = log_probability(&before, class, &earlier).exp();
                    -before * log_probability(&now, class, &earlier)
                })
                .sum()
        }));
        assert_close(loss, cross_entropy(rows) + 0.6 * distilled);
    }

    #[test]
    fn the_first_task_has_nothing_to_distill() {
        let loss = Mock::new(&ROWS, &[]).loss(&Lwf::DEFAULT, &[&BEFORE]).value;
        assert_close(loss, cross_entropy(&ROWS));
    }

    #[test]
    fn the_network_before_the_task_gets_no_gradient() {
        // With equal networks, the distillation is at its minimum.
        let task = TaskInfo { task: 1, earlier_classes: vec![0, 1, 3] };
        let mock = Mock::new(&ROWS, &[]);
        let with = mock.loss_in(&Lwf::DEFAULT, &[&WEIGHTS], &task).gradient;
        let without = mock.loss(&Lwf::DEFAULT, &[&WEIGHTS]).gradient;
        with.iter().zip(without).for_each(|(with, without)| assert_close(*with, without));
    }
}
