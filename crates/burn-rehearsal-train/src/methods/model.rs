//! A network with a method.

use super::{MethodRef, cross_entropy};
use crate::data_parallel::scale_loss;
use burn::module::{Module, ModuleDisplay};
use burn::tensor::{Int, Tensor};
use burn::train::{ClassificationOutput, InferenceStep, TrainOutput, TrainStep};
use burn_rehearsal::RehearsalBatch;

/// A mini-batch whose rows have classes.
///
/// Derive [`RehearsalBatch`] and count the representatives in a skipped field:
///
/// ```
/// use burn::tensor::{Int, Tensor};
/// use burn_rehearsal::RehearsalBatch;
/// use burn_rehearsal_train::methods::LabeledBatch;
///
/// #[derive(RehearsalBatch)]
/// struct MyBatch {
///     inputs: Tensor<2>,
///     #[rehearsal(class)]
///     targets: Tensor<1, Int>,
///     /// The batcher sets this to 0, the buffer to the number of rows that it appends.
///     #[rehearsal(skip, fill = count)]
///     representatives: usize,
/// }
///
/// fn count(representatives: &mut usize, appended: usize) {
///     *representatives = appended;
/// }
///
/// impl LabeledBatch for MyBatch {
///     fn targets(&self) -> Tensor<1, Int> {
///         self.targets.clone()
///     }
///
///     fn representatives(&self) -> usize {
///         self.representatives
///     }
/// }
/// ```
pub trait LabeledBatch: RehearsalBatch {
    /// The class of every row, `[rows]`.
    fn targets(&self) -> Tensor<1, Int>;

    /// The number of representatives. They are the last rows.
    fn representatives(&self) -> usize;
}

/// A network that scores classes.
///
/// ```
/// # use burn::{module::Module, nn::Linear, tensor::{Int, Tensor}};
/// # use burn_rehearsal::RehearsalBatch;
/// # use burn_rehearsal_train::methods::{Classifier, LabeledBatch};
/// # #[derive(RehearsalBatch)]
/// # struct MyBatch { inputs: Tensor<2>, #[rehearsal(class)] targets: Tensor<1, Int> }
/// # impl LabeledBatch for MyBatch {
/// #     fn targets(&self) -> Tensor<1, Int> { self.targets.clone() }
/// #     fn representatives(&self) -> usize { 0 }
/// # }
/// #[derive(Module, Debug)]
/// struct Network {
///     layer: Linear,
/// }
///
/// impl Classifier for Network {
///     type Batch = MyBatch;
///
///     fn logits(&self, batch: MyBatch) -> Tensor<2> {
///         self.layer.forward(batch.inputs)
///     }
/// }
/// ```
pub trait Classifier: Module + ModuleDisplay + 'static {
    /// The type of its mini-batches.
    type Batch: LabeledBatch;

    /// The scores of every row, `[rows, classes]`, in `f32` whatever the precision of the network.
    fn logits(&self, batch: Self::Batch) -> Tensor<2>;
}

/// A network and the method it trains with. It implements Burn's `TrainStep` and `InferenceStep`,
/// so it works with Burn's learner and with [`DataParallel`](crate::data_parallel::DataParallel).
///
/// ```
/// use burn::optim::SgdConfig;
/// use burn::train::Learner;
/// use burn_rehearsal_train::methods::{Classifier, MethodModel, Rehearsal};
///
/// fn learner<N: Classifier>(network: N) -> Learner<MethodModel<N>> {
///     Learner::new(MethodModel::new(network, &Rehearsal), SgdConfig::new().init(), 0.1)
/// }
/// ```
#[derive(Module, Debug)]
pub struct MethodModel<N: Module + ModuleDisplay> {
    /// The network.
    pub network: N,
    #[module(skip)]
    method: MethodRef,
}

impl<N: Classifier> MethodModel<N> {
    /// Combines a network with a method.
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
