//! Rehearsal on four ranks that share one buffer. The ranks are threads of this process.

use burn::train::{Learner, SupervisedTraining};
use burn::{module::Module, optim::SgdConfig};
use burn_rehearsal::{Capacity, RehearsalConfig, ShardedLoader};
use burn_rehearsal_collective::{Rank, Ranks};
use burn_rehearsal_train::data_parallel::{DataParallel, without_renderer};
use burn_rehearsal_train::init::{Scheme, keyed_init};
use burn_rehearsal_train::methods::{MethodModel, Rehearsal};
use burn_rehearsal_train::stream::{ClassIncremental, ClassOrder, TaskStream, select};
use burn_rehearsal_train::{device, evaluate::evaluate};
use burn_rehearsal_vision::data::{ImageData, open_digits};
use burn_rehearsal_vision::{ImageBatch, ImageBatcher, models::MlpConfig};
use std::error::Error;

const SEED: u64 = 1;

fn main() -> Result<(), Box<dyn Error>> {
    let data = open_digits(8)?;
    let (labels, test_labels) = (&data.train_labels, &data.test_labels);
    let stream = ClassIncremental::new(labels, test_labels, data.classes, 5, ClassOrder::Fixed)?;
    Ranks::from_env_or_threads(4)?.run(|rank| train(&rank, &data, &stream))?;
    Ok(())
}

/// Trains on one rank, with its part of each mini-batch, of the buffer and of the test set.
fn train(
    rank: &Rank,
    data: &ImageData,
    stream: &ClassIncremental,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let device = device::for_rank(rank);
    // Every rank loads `rows` rows of each mini-batch.
    let loader = |rows| {
        let batcher = ImageBatcher { shape: data.shape, room: 0 };
        ShardedLoader::builder(batcher).shard(rank).batch_size(rows).set_device(device.clone())
    };
    let network =
        MlpConfig::new(data.shape.elements(), data.classes).init(&device.clone().autodiff());
    let mut model = MethodModel::new(keyed_init(network, SEED, Scheme::default()), &Rehearsal);
    // One buffer of 200 samples, of which every rank stores 50. Each rank draws from all of it.
    let config = model.configured(RehearsalConfig::new(Capacity::Samples(200)));
    let buffer = config.init_on::<ImageBatch>(rank)?;
    let mut collective = rank.collective()?;

    for task in 0..stream.tasks() {
        buffer.begin_task(task)?;
        let train = select(&data.train, stream.train(task));
        let train = buffer.attach(loader(4).shuffle(SEED).task(task).build(train));
        let valid = loader(256).build(data.test.clone());
        let training = SupervisedTraining::new("runs/ranks", train, valid.clone())
            .with_training_strategy(DataParallel::new(rank)?.with_device(device.clone()).into())
            .num_epochs(10);
        let learner = Learner::new(model, SgdConfig::new().init(), 0.1);
        let result = without_renderer(training).launch(learner);
        if let Some(error) = result.error {
            return Err(error.into());
        }
        let accuracy = evaluate(&result.model, &*valid, collective.as_mut())?.top1_accuracy();
        if rank.is_root() {
            println!("task {}: accuracy on all ten digits {accuracy:.3}", task + 1);
        }
        model = result.model.train();
    }
    Ok(())
}
