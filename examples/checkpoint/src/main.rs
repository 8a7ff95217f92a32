//! Save a buffer in the middle of a run, inspect it, and resume from it.

use burn::data::dataloader::DataLoaderBuilder;
use burn::data::dataset::Dataset;
use burn::module::Module;
use burn::optim::SgdConfig;
use burn::tensor::Device;
use burn::train::{Learner, SupervisedTraining};
use burn_rehearsal::{Capacity, RehearsalBuffer, RehearsalConfig};
use burn_rehearsal_collective::Solo;
use burn_rehearsal_train::data_parallel::without_renderer;
use burn_rehearsal_train::evaluate::evaluate;
use burn_rehearsal_train::methods::{MethodModel, Rehearsal};
use burn_rehearsal_train::stream::{ClassIncremental, ClassOrder, TaskStream, select};
use burn_rehearsal_vision::data::{ImageData, open_digits};
use burn_rehearsal_vision::models::{Mlp, MlpConfig};
use burn_rehearsal_vision::{ImageBatch, ImageBatcher};
use std::error::Error;
use std::ops::Range;

const MODEL: &str = "runs/checkpoint/model.bpk";
const BUFFER: &str = "runs/checkpoint/buffer";

fn main() -> Result<(), Box<dyn Error>> {
    let data = open_digits(8)?;
    let device = Device::default().autodiff();
    device.seed(1);
    let network = MlpConfig::new(data.shape.elements(), data.classes);

    // The first process learns three of five tasks.
    let model = MethodModel::new(network.init(&device), &Rehearsal);
    let config = model.configured(RehearsalConfig::new(Capacity::Samples(200)));
    let buffer = config.init()?;
    let model = train(model, &buffer, &data, 0..3)?;
    buffer.checkpoint(BUFFER)?;
    model.save_file(MODEL)?;
    drop(buffer);

    // A second process starts with an empty buffer and restores it.
    let buffer = config.init()?;
    let restored = buffer.restore(BUFFER, &device)?;
    let stored = buffer.snapshot()?;
    println!("restored {} samples after {} steps", stored.len(), restored.steps);
    for task in 0..=restored.task {
        let samples = stored.samples().iter().filter(|sample| sample.task == task);
        println!("  {} samples of task {}", samples.count(), task + 1);
    }

    // The second process learns the other tasks.
    let model = MethodModel::new(network.init(&device), &Rehearsal).try_load_file(MODEL)?;
    train(model, &buffer, &data, 3..5)?;
    Ok(())
}

/// Trains the model on some of the tasks.
fn train(
    mut model: MethodModel<Mlp>,
    buffer: &RehearsalBuffer<ImageBatch>,
    data: &ImageData,
    tasks: Range<usize>,
) -> Result<MethodModel<Mlp>, Box<dyn Error>> {
    let (labels, test_labels) = (&data.train_labels, &data.test_labels);
    let stream = ClassIncremental::new(labels, test_labels, data.classes, 5, ClassOrder::Fixed)?;
    let loader = || DataLoaderBuilder::new(ImageBatcher { shape: data.shape, room: 0 });
    for task in tasks {
        buffer.begin_task(task)?;
        let train = select(&data.train, stream.train(task));
        let train = buffer.attach(loader().batch_size(16).shuffle(1).build(train));
        let valid = loader().batch_size(256).build(data.test.clone());
        let training =
            SupervisedTraining::new("runs/checkpoint", train, valid.clone()).num_epochs(10);
        let learner = Learner::new(model, SgdConfig::new().init(), 0.1);
        let trained = without_renderer(training).launch(learner).model;
        let accuracy = evaluate(&trained, &*valid, &mut Solo::new())?.top1_accuracy();
        println!("task {}: accuracy on all ten digits {accuracy:.3}", task + 1);
        model = trained.train();
    }
    Ok(model)
}
