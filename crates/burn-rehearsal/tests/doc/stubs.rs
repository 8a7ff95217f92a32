// Shared parts of the examples in the documentation: names of Burn, batch types, data, a model, and
// the methods of a policy that an example does not show.

pub use burn::data::dataloader::{DataLoader, DataLoaderBuilder, batcher::Batcher};
pub use burn::data::dataset::InMemDataset;
pub use burn::module::Module;
pub use burn::optim::SgdConfig;
pub use burn::tensor::{Device, Int, Tensor};
pub use burn::train::{Learner, SupervisedTraining};
pub use burn_rehearsal::policy::{Placement, Policy, SavedShard, ShardInfo, StateError};
pub use burn_rehearsal::{RehearsalBatch, RowLayout, SlotTable, random::Stream};

use burn::nn::{Linear, LinearConfig, loss::CrossEntropyLossConfig};
use burn::train::{ClassificationOutput, InferenceStep, TrainOutput, TrainStep};
use burn_rehearsal::error::RehearsalError;
use burn_rehearsal::sampling::{DistinctSampler, Draw, Sampling, ShardCounts};
use burn_rehearsal::{Capacity, RehearsalBuffer, RehearsalConfig};

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

/// A mini-batch of 4 rows.
pub fn my_batch() -> MyBatch {
    MyBatcher.batch((0..4).collect(), &Device::default())
}

/// The mini-batches of Dark Experience Replay.
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

/// A mini-batch of 4 rows.
pub fn der_batch() -> DerBatch {
    let MyBatch { inputs, targets } = MyBatcher.batch((0..4).collect(), &training_device());
    DerBatch { inputs, targets, logits: None, rows: RowLayout::default() }
}

pub fn der_buffer() -> Result<RehearsalBuffer<DerBatch>, RehearsalError> {
    RehearsalConfig::new(Capacity::Samples(100)).init()
}

pub fn training_device() -> Device {
    Device::default().autodiff()
}

/// The 20 samples of a task. Each task has two classes of its own.
pub fn training_set(task: usize) -> InMemDataset<i64> {
    InMemDataset::new((0..20).map(|i| (2 * task + i % 2) as i64).collect())
}

pub fn test_set(task: usize) -> InMemDataset<i64> {
    training_set(task)
}

/// Implements methods of a policy without a state.
macro_rules! policy_methods {
    (@name) => {
        fn name(&self) -> &'static str {
            "my-policy"
        }
    };
    (@place) => {
        fn place(&mut self, _class: u32, _table: &SlotTable, _rng: &mut Stream) -> Placement {
            Placement::Reject
        }
    };
    (@state) => {
        fn state(&self) -> Vec<u64> {
            Vec::new()
        }
    };
    (@restore) => {
        fn restore(&mut self, _state: &[u64], _table: &SlotTable) -> Result<(), StateError> {
            Ok(())
        }
    };
    (@merge) => {
        fn merge(
            &self,
            _saved: &[SavedShard<'_>],
            _table: &SlotTable,
            _shard: &ShardInfo,
        ) -> Vec<u64> {
            Vec::new()
        }
    };
    ($($method:ident),+) => {
        $(policy_methods!(@$method);)+
    };
}
pub(crate) use policy_methods;

/// Stores the first rows, and rejects all others.
#[derive(Clone)]
pub struct MyPolicy;

impl Policy for MyPolicy {
    policy_methods!(name, place, state, restore, merge);
}

/// Draws half of the representatives, uniformly.
#[derive(Clone, Default)]
pub struct Half(DistinctSampler);

impl Sampling for Half {
    fn name(&self) -> &'static str {
        "half"
    }

    fn plan(
        &mut self,
        counts: &ShardCounts,
        rng: &mut Stream,
        representatives: usize,
        draws: &mut Vec<Draw>,
    ) {
        let numbers = self.0.draw(rng, representatives / 2, counts.fill.total());
        draws.extend(numbers.map(|number| Draw { group: 0, number }));
    }
}

/// A network of one layer.
pub fn network() -> Linear {
    LinearConfig::new(1, 10).init(&training_device())
}

pub fn cross_entropy(logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
    CrossEntropyLossConfig::new().init(&logits.device()).forward(logits, targets)
}

#[derive(Module, Debug)]
pub struct Model {
    linear: Linear,
}

impl Model {
    pub fn new() -> Self {
        Self { linear: network() }
    }

    fn classify(&self, batch: MyBatch) -> ClassificationOutput {
        let output = self.linear.forward(batch.inputs);
        let loss = cross_entropy(output.clone(), batch.targets.clone());
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
