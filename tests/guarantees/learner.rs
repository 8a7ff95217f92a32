//! A small linear network for Burn's learner.

use burn::data::dataloader::batcher::Batcher;
use burn::module::Module;
use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::{Linear, LinearConfig};
use burn::optim::SgdConfig;
use burn::tensor::{Device, Int, Tensor, TensorData};
use burn::train::{ClassificationOutput, InferenceStep, Learner, TrainOutput, TrainStep};
use burn_rehearsal::RehearsalBatch;

#[derive(RehearsalBatch, Clone, Debug)]
pub(crate) struct Pair {
    /// `[rows, 1]`
    pub(crate) x: Tensor<2>,
    /// `[rows]`
    #[rehearsal(class)]
    pub(crate) y: Tensor<1, Int>,
}

#[derive(Clone)]
pub(crate) struct ToPair;

impl Batcher<(f32, i64), Pair> for ToPair {
    fn batch(&self, items: Vec<(f32, i64)>, device: &Device) -> Pair {
        let rows = items.len();
        let (x, y): (Vec<f32>, Vec<i64>) = items.into_iter().unzip();
        Pair {
            x: Tensor::from_data(TensorData::new(x, [rows, 1]), device),
            y: Tensor::from_data(TensorData::new(y, [rows]), device),
        }
    }
}

#[derive(Module, Debug)]
pub(crate) struct Net {
    linear: Linear,
}

impl Net {
    pub(crate) fn learner() -> Learner<Self> {
        let net = Self { linear: LinearConfig::new(1, 3).init(&Device::flex().autodiff()) };
        Learner::new(net, SgdConfig::new().init(), 0.1)
    }

    fn classify(&self, batch: Pair) -> ClassificationOutput {
        let output = self.linear.forward(batch.x);
        let loss = CrossEntropyLossConfig::new()
            .init(&output.device())
            .forward(output.clone(), batch.y.clone());
        ClassificationOutput::new(loss, output, batch.y)
    }
}

impl TrainStep for Net {
    type Input = Pair;
    type Output = ClassificationOutput;

    fn step(&self, batch: Pair) -> TrainOutput<ClassificationOutput> {
        let output = self.classify(batch);
        TrainOutput::new(self, output.loss.backward(), output)
    }
}

impl InferenceStep for Net {
    type Input = Pair;
    type Output = ClassificationOutput;

    fn step(&self, batch: Pair) -> ClassificationOutput {
        self.classify(batch)
    }
}
