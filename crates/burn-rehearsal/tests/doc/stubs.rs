// Shared parts of the examples in the documentation: names of Burn, a batch type, data and a model.

pub use burn::data::dataloader::{DataLoader, DataLoaderBuilder, batcher::Batcher};
pub use burn::data::dataset::InMemDataset;
pub use burn::module::Module;
pub use burn::optim::SgdConfig;
pub use burn::tensor::{Device, Int, Tensor};
pub use burn::train::{Learner, SupervisedTraining};

use burn::nn::{Linear, LinearConfig, loss::CrossEntropyLossConfig};
use burn::train::{ClassificationOutput, InferenceStep, TrainOutput, TrainStep};
use burn_rehearsal::policy::{Placement, Policy, SavedShard, ShardInfo, StateError};
use burn_rehearsal::{RehearsalBatch, SlotTable, random::Stream};

/// A mini-batch of rows with one feature.
#[derive(RehearsalBatch, Clone, Debug)]
pub struct MyBatch {
    pub inputs: Tensor<2>,
    #[rehearsal(class)]
    pub targets: Tensor<1, Int>,
}

#[derive(Clone)]
pub struct MyBatcher;

impl Batcher<i64, MyBatch> for MyBatcher {
    fn batch(&self, items: Vec<i64>, device: &Device) -> MyBatch {
        let targets = Tensor::<1, Int>::from_data(items.as_slice(), device);
        MyBatch { inputs: targets.clone().float().unsqueeze_dim(1), targets }
    }
}

/// The 20 samples of a task. Each task has two classes of its own.
pub fn training_set(task: usize) -> InMemDataset<i64> {
    InMemDataset::new((0..20).map(|i| (2 * task + i % 2) as i64).collect())
}

pub fn test_set(task: usize) -> InMemDataset<i64> {
    training_set(task)
}

/// Stores the first rows, and rejects all others.
#[derive(Clone)]
pub struct MyPolicy;

impl Policy for MyPolicy {
    fn name(&self) -> &'static str {
        "my-policy"
    }

    fn place(&mut self, _class: u32, _table: &SlotTable, _rng: &mut Stream) -> Placement {
        Placement::Reject
    }

    fn state(&self) -> Vec<u64> {
        Vec::new()
    }

    fn restore(&mut self, _state: &[u64], _table: &SlotTable) -> Result<(), StateError> {
        Ok(())
    }

    fn merge(&self, _saved: &[SavedShard<'_>], _table: &SlotTable, _shard: &ShardInfo) -> Vec<u64> {
        Vec::new()
    }
}

#[derive(Module, Debug)]
pub struct Model {
    linear: Linear,
}

impl Model {
    pub fn new() -> Self {
        Self { linear: LinearConfig::new(1, 10).init(&Device::default().autodiff()) }
    }

    fn classify(&self, batch: MyBatch) -> ClassificationOutput {
        let output = self.linear.forward(batch.inputs);
        let loss = CrossEntropyLossConfig::new().init(&output.device());
        let loss = loss.forward(output.clone(), batch.targets.clone());
        ClassificationOutput::new(loss, output, batch.targets)
    }
}

impl TrainStep for Model {
    type Input = MyBatch;
    type Output = ClassificationOutput;

    fn step(&self, batch: MyBatch) -> TrainOutput<ClassificationOutput> {
        let output = self.classify(batch);
        TrainOutput::new(self, output.loss.backward(), output)
    }
}

impl InferenceStep for Model {
    type Input = MyBatch;
    type Output = ClassificationOutput;

    fn step(&self, batch: MyBatch) -> ClassificationOutput {
        self.classify(batch)
    }
}
