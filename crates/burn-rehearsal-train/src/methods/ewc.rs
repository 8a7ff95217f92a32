use super::{Method, MethodOption, Step, TaskEnd, options};
use crate::experiment::ExperimentError;
use burn::tensor::Tensor;
use burn_rehearsal::error::ConfigError;

/// The snapshots: the parameters at the end of the last task, and their importance.
const ANCHOR: usize = 0;
const IMPORTANCE: usize = 1;

options! {
    /// Online elastic weight consolidation (Kirkpatrick et al. 2017, arXiv 1612.00796; the online
    /// form by Schwarz et al., "Progress & Compress", ICML 2018, arXiv 1805.06370, equation 9). A
    /// baseline without stored samples.
    ///
    /// The loss is the cross entropy of the incoming rows, plus λ·Σᵢ Fᵢ (θᵢ − θ*ᵢ)², where θ* are
    /// the parameters at the end of the last task. After each task, F becomes γ·F plus the
    /// [Fisher information](TaskEnd::fisher) of the task.
    pub struct OnlineEwc {
        /// Weight λ of the penalty.
        lambda = 10.0 in 0.0..=1e12,
        /// Decay γ of the importance from task to task.
        gamma = 1.0 in 0.0..=1.0,
    }
}

impl Method for OnlineEwc {
    fn name(&self) -> &'static str {
        "ewc"
    }

    fn aliases(&self) -> &'static [&'static str] {
        &["online-ewc"]
    }

    fn summary(&self) -> &'static str {
        "Penalize changes of important parameters (online EWC)"
    }

    fn options(&self) -> Vec<MethodOption> {
        self.list()
    }

    fn with_options(&self, values: &[(&str, f64)]) -> Result<Box<dyn Method>, ConfigError> {
        self.replaced(values)
    }

    fn snapshots(&self) -> usize {
        2
    }

    fn loss(&self, step: &Step<'_>) -> Tensor<1> {
        let rows = step.incoming();
        let loss = step.cross_entropy(step.logits(rows.clone()), rows);
        if step.task() == 0 {
            return loss;
        }
        let change = step.parameters() - step.snapshot(ANCHOR);
        loss + (step.snapshot(IMPORTANCE) * change.square()).sum() * self.lambda
    }

    fn end_task(&self, end: &mut TaskEnd<'_>) -> Result<(), ExperimentError> {
        let fisher = end.fisher()?;
        let before = (end.task > 0).then(|| end.snapshots[IMPORTANCE].clone() * self.gamma);
        end.snapshots[ANCHOR] = end.parameters.clone();
        end.snapshots[IMPORTANCE] = before.map_or(fisher.clone(), |before| before + fisher);
        Ok(())
    }
}
