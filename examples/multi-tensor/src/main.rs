//! Rehearsal for regression: a sample of several tensors and no class.

mod data;

use burn::data::dataloader::{DataLoaderBuilder, batcher::Batcher};
use burn::data::dataset::InMemDataset;
use burn::module::Module;
use burn::nn::loss::{MseLoss, Reduction};
use burn::nn::{Linear, LinearConfig};
use burn::optim::{AdamConfig, GradientsParams};
use burn::tensor::{Device, Tensor, activation::relu};
use burn_rehearsal::{Capacity, RehearsalConfig};
use data::{ArmBatch, ArmBatcher, TASKS, arms};
use std::error::Error;

#[derive(Module, Debug)]
struct Network {
    input: Linear,
    hidden: Linear,
    output: Linear,
}

impl Network {
    fn new(device: &Device) -> Self {
        Self {
            input: LinearConfig::new(4, 64).init(device),
            hidden: LinearConfig::new(64, 64).init(device),
            output: LinearConfig::new(64, 2).init(device),
        }
    }

    /// The predicted position of each hand, `[rows, 2]`.
    fn forward(&self, angles: Tensor<2>, lengths: Tensor<2>) -> Tensor<2> {
        let input = Tensor::cat(vec![angles, lengths], 1);
        let hidden = relu(self.hidden.forward(relu(self.input.forward(input))));
        self.output.forward(hidden)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    // Draw one stored row for every new row, or none.
    let (with, without) = (train(1.0)?, train(0.0)?);
    println!("mean error on all tasks without rehearsal: {without:.3} m");
    println!("mean error on all tasks with rehearsal: {with:.3} m");
    println!("rehearsal divides the error by {:.1}", without / with);
    Ok(())
}

/// Learns one task after the other, and returns the mean distance between predicted and true hands.
fn train(representatives: f64) -> Result<f32, Box<dyn Error>> {
    let device = Device::default().autodiff();
    device.seed(1);
    let mut model = Network::new(&device);
    let mut optimizer = AdamConfig::new().init();
    let config = RehearsalConfig::new(Capacity::Samples(200)).with_representatives(representatives);
    let buffer = config.init::<ArmBatch>()?;

    for task in 0..TASKS {
        buffer.begin_task(task)?;
        let train = DataLoaderBuilder::new(ArmBatcher).batch_size(32).shuffle(1);
        let train = train.set_device(device.clone()).build(InMemDataset::new(arms(task, 1000, 1)));
        for _ in 0..10 {
            for batch in train.iter() {
                let ArmBatch { angles, lengths, hand } = buffer.rehearse(batch?)?;
                let predicted = model.forward(angles, lengths);
                let loss = MseLoss::new().forward(predicted, hand, Reduction::Mean);
                let gradients = GradientsParams::from_grads(loss.backward(), &model);
                model = optimizer.step(3e-3, model, gradients);
            }
        }
    }

    let test = (0..TASKS).flat_map(|task| arms(task, 200, 2)).collect();
    let ArmBatch { angles, lengths, hand } = ArmBatcher.batch(test, &Device::default());
    let error = model.valid().forward(angles, lengths) - hand;
    Ok(error.square().sum_dim(1).sqrt().mean().try_into_scalar()?)
}
