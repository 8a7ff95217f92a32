use super::{Method, MethodOption, Step, TaskEnd, options};
use crate::experiment::ExperimentError;
use burn::tensor::{Int, Tensor, TensorData, activation};
use burn_rehearsal::error::ConfigError;

options! {
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

    fn options(&self) -> Vec<MethodOption> {
        self.list()
    }

    fn with_options(&self, values: &[(&str, f64)]) -> Result<Box<dyn Method>, ConfigError> {
        self.replaced(values)
    }

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
