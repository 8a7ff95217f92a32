//! Handwritten digits, two classes per task, with Burn's own learner: `cargo run -p quickstart`.

use burn::data::dataloader::DataLoaderBuilder;
use burn::module::Module;
use burn::optim::SgdConfig;
use burn::tensor::Device;
use burn::train::{Learner, SupervisedTraining};
use burn_rehearsal::{Capacity, RehearsalConfig};
use burn_rehearsal_collective::Solo;
use burn_rehearsal_train::data_parallel::without_renderer;
use burn_rehearsal_train::evaluate::evaluate;
use burn_rehearsal_train::methods::{MethodModel, Rehearsal};
use burn_rehearsal_train::stream::{ClassIncremental, ClassOrder, TaskStream, select};
use burn_rehearsal_vision::{ImageBatch, ImageBatcher, data::open_digits, models::MlpConfig};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let data = open_digits(8)?;
    let stream = ClassIncremental::new(
        &data.train_labels,
        &data.test_labels,
        data.classes,
        5,
        ClassOrder::Fixed,
    )?;
    let batcher = ImageBatcher { shape: data.shape, room: 0 };
    let buffer = RehearsalConfig::new(Capacity::Samples(200)).init::<ImageBatch>()?;
    let network =
        MlpConfig::new(data.shape.elements(), data.classes).init(&Device::default().autodiff());
    let mut model = MethodModel::new(network, &Rehearsal);
    for task in 0..stream.tasks() {
        buffer.begin_task(task)?;
        let train = select(&data.train, stream.train(task));
        let train = DataLoaderBuilder::new(batcher.clone()).batch_size(16).shuffle(1).build(train);
        let valid =
            DataLoaderBuilder::new(batcher.clone()).batch_size(256).build(data.test.clone());
        let training =
            SupervisedTraining::new("runs/quickstart", buffer.attach(train), valid.clone())
                .num_epochs(10);
        let trained = without_renderer(training)
            .launch(Learner::new(model, SgdConfig::new().init(), 0.1))
            .model;
        let accuracy = evaluate(&trained, &*valid, &mut Solo::new())?.top1_accuracy();
        println!("task {}: accuracy on all ten digits {accuracy:.3}", task + 1);
        model = trained.train();
    }
    Ok(())
}
