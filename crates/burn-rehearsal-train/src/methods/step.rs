//! What a method sees of a training step, an update and the end of a task.

use super::model::{Network, TaskInfo};
use crate::experiment::ExperimentError;
use burn::nn::loss::CrossEntropyLossConfig;
use burn::tensor::{Int, Tensor};
use std::cell::RefCell;
use std::ops::Range;

/// The cross entropy between the softmax of `logits`, `[rows, classes]`, and the classes `targets`,
/// `[rows]`: the mean over rows, shape `[1]`.
pub fn cross_entropy(logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
    CrossEntropyLossConfig::new().init(&logits.device()).forward(logits, targets)
}

/// The mini-batch and the network of a training step.
///
/// Rows are ranges of the mini-batch: the [incoming](Self::incoming) rows, then the rows of each
/// [draw](Self::draw). Every call of [`logits`](Self::logits) is one forward pass.
pub struct Step<'a> {
    network: &'a dyn Network,
    snapshots: &'a [Tensor<1>],
    task: &'a TaskInfo,
    passes: RefCell<Vec<(Range<usize>, Tensor<2>)>>,
}

impl<'a> Step<'a> {
    pub(super) fn new(
        network: &'a dyn Network,
        snapshots: &'a [Tensor<1>],
        task: &'a TaskInfo,
    ) -> Self {
        Self { network, snapshots, task, passes: RefCell::default() }
    }

    /// All rows.
    pub fn all(&self) -> Range<usize> {
        0..self.network.rows()
    }

    /// The incoming rows. Never empty: a rank without incoming rows has no step.
    pub fn incoming(&self) -> Range<usize> {
        0..self.network.layout().0
    }

    /// The rows of a draw, counted from 0. Empty if nothing was drawn.
    pub fn draw(&self, draw: usize) -> Range<usize> {
        let (incoming, draws) = self.network.layout();
        let start = incoming + draws.iter().take(draw).sum::<usize>();
        start..start + draws.get(draw).unwrap_or(&0)
    }

    /// The classes of these rows, `[rows]`.
    pub fn targets(&self, rows: Range<usize>) -> Tensor<1, Int> {
        let targets = self.network.targets();
        if rows == self.all() { targets } else { targets.slice(rows) }
    }

    /// Runs the network on these rows and returns their scores, `[rows, classes]`.
    pub fn logits(&self, rows: Range<usize>) -> Tensor<2> {
        let logits = self.network.logits(rows.clone());
        self.passes.borrow_mut().push((rows, logits.clone()));
        logits
    }

    /// The [mean cross entropy](cross_entropy) of these rows, of which `logits` are the scores.
    pub fn cross_entropy(&self, logits: Tensor<2>, rows: Range<usize>) -> Tensor<1> {
        cross_entropy(logits, self.targets(rows))
    }

    /// Stores the logits of the incoming rows, `[incoming, classes]`, with the candidates among
    /// them. Call it once, as early as possible: the buffer then works during the backward pass.
    pub fn store_logits(&self, logits: Tensor<2>) {
        self.network.store_logits(logits);
    }

    /// The logits that were stored with the rows of a draw, `[rows, classes]`. `None` if nothing
    /// was drawn.
    pub fn stored_logits(&self, draw: usize) -> Option<Tensor<2>> {
        let rows = self.draw(draw);
        let first = self.incoming().end;
        let stored = self.network.stored_logits().filter(|_| !rows.is_empty())?;
        Some(stored.slice(rows.start - first..rows.end - first))
    }

    /// All float parameters in visit order, shape `[parameters]`, differentiable.
    pub fn parameters(&self) -> Tensor<1> {
        self.network.parameters()
    }

    /// A snapshot, shape `[parameters]`. Not differentiable.
    pub fn snapshot(&self, snapshot: usize) -> Tensor<1> {
        self.snapshots[snapshot].clone().autodiff()
    }

    /// Runs the network with the parameters of a snapshot on these rows, in inference mode and
    /// without gradients. Returns their scores, `[rows, classes]`.
    pub fn snapshot_logits(&self, snapshot: usize, rows: Range<usize>) -> Tensor<2> {
        self.network.logits_of(self.snapshots[snapshot].clone(), rows).autodiff()
    }

    /// The number of the current task, counted from 0.
    pub fn task(&self) -> usize {
        self.task.task
    }

    /// The classes of the tasks before the current one, in ascending order.
    pub fn earlier_classes(&self) -> &[usize] {
        &self.task.earlier_classes
    }

    /// The rows of all passes, with their scores.
    pub(super) fn into_output(self) -> (Tensor<2>, Tensor<1, Int>) {
        let passes = std::mem::take(&mut *self.passes.borrow_mut());
        let targets: Vec<_> = passes.iter().map(|(rows, _)| self.targets(rows.clone())).collect();
        let logits: Vec<_> = passes.into_iter().map(|(_, logits)| logits).collect();
        match <[_; 1]>::try_from(logits) {
            Ok([logits]) => {
                (logits, targets.into_iter().next().unwrap_or_else(|| self.network.targets()))
            }
            Err(logits) if logits.is_empty() => {
                (self.network.logits(self.all()), self.network.targets())
            }
            Err(logits) => (Tensor::cat(logits, 0), Tensor::cat(targets, 0)),
        }
    }
}

/// An update of the parameters. It is the same on all ranks.
pub struct Update<'a> {
    /// The number of updates so far, from 1.
    pub number: u64,
    /// The seed of the run.
    pub seed: u64,
    pub(super) parameters: &'a dyn Fn() -> Tensor<1>,
}

impl Update<'_> {
    /// Copies all float parameters after the update, shape `[parameters]`.
    pub fn parameters(&self) -> Tensor<1> {
        (self.parameters)()
    }
}

/// The end of a task, after the last update. It is the same on all ranks.
pub struct TaskEnd<'a> {
    /// The task, counted from 0.
    pub task: usize,
    /// All float parameters, shape `[parameters]`.
    pub parameters: Tensor<1>,
    /// The snapshots, which the method may replace.
    pub snapshots: &'a mut [Tensor<1>],
    pub(super) fisher: &'a mut dyn FnMut() -> Result<Tensor<1>, ExperimentError>,
}

impl TaskEnd<'_> {
    /// The diagonal of the empirical Fisher information on the training data of the task, shape
    /// `[parameters]`: the mean over samples of `p·g²`, where g is the gradient of the log
    /// probability of the sample's class, and p the probability. Frozen parameters have 0.
    ///
    /// Takes a forward and a backward pass per sample, shared among the ranks. Collective.
    ///
    /// # Errors
    ///
    /// A loader failed, or a rank has left.
    pub fn fisher(&mut self) -> Result<Tensor<1>, ExperimentError> {
        (self.fisher)()
    }
}
