//! Rehearsal in a training loop written by hand, without a learner.

use burn::data::dataloader::{DataLoader, DataLoaderBuilder};
use burn::module::Module;
use burn::nn::loss::CrossEntropyLossConfig;
use burn::optim::{GradientsParams, SgdConfig};
use burn::tensor::Device;
use burn_rehearsal::{Capacity, RehearsalConfig};
use burn_rehearsal_train::stream::{ClassIncremental, ClassOrder, TaskStream, select};
use burn_rehearsal_vision::data::open_digits;
use burn_rehearsal_vision::models::{Mlp, MlpConfig};
use burn_rehearsal_vision::{ImageBatch, ImageBatcher};
use std::error::Error;

const EPOCHS: usize = 10;
const LEARNING_RATE: f64 = 0.1;

fn main() -> Result<(), Box<dyn Error>> {
    let data = open_digits(8)?;
    let (labels, test_labels) = (&data.train_labels, &data.test_labels);
    let stream = ClassIncremental::new(labels, test_labels, data.classes, 5, ClassOrder::Fixed)?;
    let batcher = ImageBatcher { shape: data.shape, room: 0 };
    let test = DataLoaderBuilder::new(batcher.clone()).batch_size(256).build(data.test.clone());

    let device = Device::default().autodiff();
    device.seed(1);
    let mut model = MlpConfig::new(data.shape.elements(), data.classes).init(&device);
    let mut optimizer = SgdConfig::new().init();
    let cross_entropy = CrossEntropyLossConfig::new().init(&device);
    let config = RehearsalConfig::new(Capacity::Samples(200)).with_late_fields(false); // no logits
    let buffer = config.init::<ImageBatch>()?;

    for task in 0..stream.tasks() {
        buffer.begin_task(task)?;
        let train = DataLoaderBuilder::new(batcher.clone())
            .batch_size(16)
            .shuffle(1)
            .set_device(device.clone())
            .build(select(&data.train, stream.train(task)));
        for _ in 0..EPOCHS {
            for batch in train.iter() {
                // 16 new rows in; the same rows and 16 stored ones out.
                let batch = buffer.rehearse(batch?)?;
                let targets = batch.targets.clone();
                let loss = cross_entropy.forward(model.forward(batch.pixels()), targets);
                let gradients = GradientsParams::from_grads(loss.backward(), &model);
                model = optimizer.step(LEARNING_RATE, model, gradients);
            }
        }
        let accuracy = accuracy(&model.valid(), &*test)?;
        println!("task {}: accuracy on all ten digits {accuracy:.3}", task + 1);
    }
    Ok(())
}

/// The fraction of images that the model classifies correctly.
fn accuracy(model: &Mlp, images: &dyn DataLoader<ImageBatch>) -> Result<f64, Box<dyn Error>> {
    let (mut correct, mut rows) = (0, 0);
    for batch in images.iter() {
        let batch = batch?;
        let targets = batch.targets.clone();
        rows += targets.dims()[0];
        let predicted = model.forward(batch.pixels()).argmax(1).squeeze_dim(1);
        correct += predicted.equal(targets).int().sum().try_into_scalar::<i64>()?;
    }
    Ok(correct as f64 / rows as f64)
}
