//! Rehearsal with Burn's learner: handwritten digits, two new classes per task.

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
use burn_rehearsal_vision::data::open_digits;
use burn_rehearsal_vision::models::MlpConfig;
use burn_rehearsal_vision::{ImageBatch, ImageBatcher};
use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let data = open_digits(8)?;
    let (labels, test_labels) = (&data.train_labels, &data.test_labels);
    let stream = ClassIncremental::new(labels, test_labels, data.classes, 5, ClassOrder::Fixed)?;
    let batcher = ImageBatcher { shape: data.shape, room: 0 };

    let device = Device::default().autodiff();
    device.seed(1);
    let network = MlpConfig::new(data.shape.elements(), data.classes).init(&device);
    let mut model = MethodModel::new(network, &Rehearsal);
    // The buffer stores 200 of the 1,442 training samples.
    let buffer = RehearsalConfig::new(Capacity::Samples(200)).init::<ImageBatch>()?;

    for task in 0..stream.tasks() {
        buffer.begin_task(task)?;
        let train = select(&data.train, stream.train(task));
        let train = DataLoaderBuilder::new(batcher.clone()).batch_size(16).shuffle(1).build(train);
        let valid = DataLoaderBuilder::new(batcher.clone()).batch_size(256);
        let valid = valid.build(data.test.clone());
        // Stored samples are appended to each mini-batch of the attached loader. Test data has no
        // buffer.
        let train = buffer.attach(train);
        let training =
            SupervisedTraining::new("runs/quickstart", train, valid.clone()).num_epochs(10);
        let learner = Learner::new(model, SgdConfig::new().init(), 0.1);
        let trained = without_renderer(training).launch(learner).model;
        let accuracy = evaluate(&trained, &*valid, &mut Solo::new())?.top1_accuracy();
        println!("task {}: accuracy on all ten digits {accuracy:.3}", task + 1);
        model = trained.train();
    }
    Ok(())
}
