//! A network under a method.

use super::{MethodRef, cross_entropy};
use crate::data_parallel::scale_loss;
use burn::module::{Module, ModuleDisplay};
use burn::tensor::{Int, Tensor};
use burn::train::{ClassificationOutput, InferenceStep, TrainOutput, TrainStep};
use burn_rehearsal::RehearsalBatch;

/// A mini-batch of rows with classes.
pub trait LabelledBatch: RehearsalBatch {
    /// The class of every row, `[rows]`.
    fn targets(&self) -> Tensor<1, Int>;

    /// How many of the rows, the last ones, are representatives. A skipped field counts them:
    ///
    /// ```
    /// # use burn::tensor::{Int, Tensor};
    /// # use burn_rehearsal::RehearsalBatch;
    /// #[derive(RehearsalBatch)]
    /// struct Batch {
    ///     inputs: Tensor<2>,
    ///     #[rehearsal(class)]
    ///     targets: Tensor<1, Int>,
    ///     /// The batcher writes 0.
    ///     #[rehearsal(skip, fill = count)]
    ///     representatives: usize,
    /// }
    ///
    /// fn count(representatives: &mut usize, appended: usize) {
    ///     *representatives = appended;
    /// }
    /// ```
    fn representatives(&self) -> usize;
}

/// A network that scores classes.
pub trait Classifier: Module + ModuleDisplay + 'static {
    /// Its mini-batches.
    type Batch: LabelledBatch;

    /// The logits of every row, `[rows, classes]`, in `f32` whatever the network computes in.
    fn logits(&self, batch: Self::Batch) -> Tensor<2>;
}

/// A network and the method whose loss it trains with; works with Burn's learner and with
/// [`DataParallel`](crate::data_parallel::DataParallel) alike.
#[derive(Module, Debug)]
pub struct MethodModel<N: Module + ModuleDisplay> {
    /// The network.
    pub network: N,
    #[module(skip)]
    method: MethodRef,
}

impl<N: Classifier> MethodModel<N> {
    /// Puts `method` around a network.
    pub fn new(network: N, method: MethodRef) -> Self {
        Self { network, method }
    }
}

impl<N: Classifier> TrainStep for MethodModel<N> {
    type Input = N::Batch;
    type Output = ClassificationOutput;

    fn step(&self, batch: N::Batch) -> TrainOutput<ClassificationOutput> {
        let (targets, representatives) = (batch.targets(), batch.representatives());
        let output = self.network.logits(batch);
        let loss = self.method.loss(output.clone(), targets.clone(), representatives);
        let gradients = scale_loss(loss.clone()).backward();
        TrainOutput::new(self, gradients, ClassificationOutput { loss, output, targets })
    }
}

impl<N: Classifier> InferenceStep for MethodModel<N> {
    type Input = N::Batch;
    type Output = ClassificationOutput;

    fn step(&self, batch: N::Batch) -> ClassificationOutput {
        let targets = batch.targets();
        let output = self.network.logits(batch);
        ClassificationOutput {
            loss: cross_entropy(output.clone(), targets.clone()),
            output,
            targets,
        }
    }
}
