// Shared parts of the examples in the documentation: names of Burn, a batch type, data and a model.

pub use burn::data::dataloader::{DataLoader, batcher::Batcher};
pub use burn::data::dataset::{Dataset, InMemDataset};
pub use burn::module::Module;
pub use burn::optim::{ModuleOptimizer, SgdConfig};
pub use burn::tensor::{Device, Int, Tensor};
pub use burn::train::{Learner, SupervisedTraining, TrainingStrategy};
pub use burn_rehearsal_collective::Rank;
pub use std::{error::Error, sync::Arc};

use burn::nn::{Linear, LinearConfig};
use burn_rehearsal::{RehearsalBatch, RowLayout};
use burn_rehearsal_train::methods::{Classifier, LabeledBatch, MethodModel};
use std::ops::Range;

pub type Loader = Arc<dyn DataLoader<MyBatch>>;
pub type Model = MethodModel<Network>;
pub type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// A mini-batch of rows with one feature.
#[derive(RehearsalBatch, Clone, Debug)]
pub struct MyBatch {
    pub inputs: Tensor<2>,
    #[rehearsal(class)]
    pub targets: Tensor<1, Int>,
    #[rehearsal(layout)]
    pub rows: RowLayout<Self>,
}

impl LabeledBatch for MyBatch {
    fn targets(&self) -> Tensor<1, Int> {
        self.targets.clone()
    }

    fn layout(&self) -> &RowLayout<Self> {
        &self.rows
    }

    fn select(&self, rows: Range<usize>) -> Self {
        Self { inputs: self.inputs.clone().slice(rows), ..self.clone() }
    }

    fn valid(self) -> Self {
        Self { inputs: self.inputs.inner(), ..self }
    }
}

/// A mini-batch for methods that store logits.
#[derive(RehearsalBatch, Clone, Debug)]
pub struct DerBatch {
    pub inputs: Tensor<2>,
    #[rehearsal(class)]
    pub targets: Tensor<1, Int>,
    #[rehearsal(late)]
    pub logits: Option<Tensor<2>>,
    #[rehearsal(layout)]
    pub rows: RowLayout<Self>,
}

#[derive(Clone)]
pub struct MyBatcher;

impl Batcher<i64, MyBatch> for MyBatcher {
    fn batch(&self, items: Vec<i64>, device: &Device) -> MyBatch {
        let targets = Tensor::<1, Int>::from_data(items.as_slice(), device);
        let inputs = targets.clone().float().unsqueeze_dim(1);
        MyBatch { inputs, targets, rows: RowLayout::default() }
    }
}

/// 20 samples of four classes. A sample is its class.
pub fn samples() -> InMemDataset<i64> {
    InMemDataset::new((0..20).map(|i| i % 4).collect())
}

#[derive(Module, Debug)]
pub struct Network {
    linear: Linear,
}

impl Network {
    pub fn new(device: &Device) -> Self {
        Self { linear: LinearConfig::new(1, 4).init(device) }
    }
}

impl Classifier for Network {
    type Batch = MyBatch;

    fn logits(&self, batch: MyBatch) -> Tensor<2> {
        self.linear.forward(batch.inputs)
    }
}
