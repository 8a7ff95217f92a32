use super::{Method, Step, TaskEnd, options};
use crate::experiment::ExperimentError;
use burn::tensor::Tensor;

/// The snapshots: the parameters at the end of the last task, and their importance.
const ANCHOR: usize = 0;
const IMPORTANCE: usize = 1;

options::options! {
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

    options::forward!();

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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::methods::TaskInfo;
    use crate::methods::testing::*;

    #[test]
    fn the_penalty_weighs_the_change_of_each_parameter() {
        let anchor = WEIGHTS.map(|weight| 0.5 - weight);
        let importance: [f32; FEATURES * CLASSES] = std::array::from_fn(|i| 0.25 * i as f32);
        let method = OnlineEwc { lambda: 3.0, ..OnlineEwc::DEFAULT };
        let mock = Mock::new(&ROWS, &[]);
        let first = mock.loss(&method, &[&anchor, &importance]);
        assert_close(first.value, cross_entropy(&ROWS));
        let task = TaskInfo { task: 1, ..TaskInfo::default() };
        let second = mock.loss_in(&method, &[&anchor, &importance], &task);
        let change = |i: usize| f64::from(WEIGHTS[i] - anchor[i]);
        let penalty: f64 =
            (0..WEIGHTS.len()).map(|i| f64::from(importance[i]) * change(i).powi(2)).sum();
        assert_close(second.value, first.value + 3.0 * penalty);
        for (i, &importance) in importance.iter().enumerate() {
            let expected = first.gradient[i] + 3.0 * 2.0 * f64::from(importance) * change(i);
            assert_close(second.gradient[i], expected);
        }
    }

    #[test]
    fn importance_decays_and_adds_up_from_task_to_task() {
        let method = OnlineEwc { gamma: 0.5, ..OnlineEwc::DEFAULT };
        // Snapshots start as copies of the parameters.
        let mut snapshots = [plain(&[7.0, 8.0]), plain(&[7.0, 8.0])];
        for (task, expected) in [(0, [1.0, 10.0]), (1, [2.5, 15.0]), (2, [4.25, 17.5])] {
            let parameters = [task as f32, -1.0];
            let fisher = [1.0 + task as f32, 10.0];
            let mut end = TaskEnd {
                task,
                parameters: plain(&parameters),
                snapshots: &mut snapshots,
                fisher: &mut || Ok(plain(&fisher)),
            };
            method.end_task(&mut end).unwrap();
            assert_eq!(floats(&snapshots[ANCHOR]), parameters);
            assert_eq!(floats(&snapshots[IMPORTANCE]), expected);
        }
    }
}
