//! Rehearsal with Burn's learner: handwritten digits, two new classes per task.

use burn::train::{Learner, SupervisedTraining};
use burn::{data::dataloader::DataLoaderBuilder, module::Module, optim::SgdConfig, tensor::Device};
use burn_rehearsal::{Capacity, RehearsalConfig};
use burn_rehearsal_collective::Solo;
use burn_rehearsal_train::data_parallel::without_renderer;
use burn_rehearsal_train::evaluate::evaluate;
use burn_rehearsal_train::methods::{MethodModel, Rehearsal};
use burn_rehearsal_train::stream::{ClassIncremental, ClassOrder, TaskStream, select};
use burn_rehearsal_vision::{ImageBatch, ImageBatcher, data::open_digits, models::MlpConfig};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let data = open_digits(8)?;
    let (labels, test_labels) = (&data.train_labels, &data.test_labels);
    let stream = ClassIncremental::new(labels, test_labels, data.classes, 5, ClassOrder::Fixed)?;
    let batcher = ImageBatcher { shape: data.shape, room: 0 };

    let device = Device::default().autodiff();
    device.seed(1);
    let network = MlpConfig::new(data.shape.elements(), data.classes).init(&device);
    let mut model = MethodModel::new(network, &Rehearsal); // your own model needs no wrapper
    let config = model.configured(RehearsalConfig::new(Capacity::Samples(200)));
    let buffer = config.init::<ImageBatch>()?;

    for task in 0..stream.tasks() {
        buffer.begin_task(task)?;
        let train = select(&data.train, stream.train(task));
        let train = DataLoaderBuilder::new(batcher.clone()).batch_size(16).shuffle(1).build(train);
        let test = DataLoaderBuilder::new(batcher.clone()).batch_size(256).build(data.test.clone());
        // Stored samples are appended to each training mini-batch. Test data has no buffer.
        let training = SupervisedTraining::new("runs", buffer.attach(train), test.clone());
        let learner = Learner::new(model, SgdConfig::new().init(), 0.1);
        let trained = without_renderer(training.num_epochs(10)).launch(learner).model;
        let accuracy = evaluate(&trained, &*test, &mut Solo::new())?.top1_accuracy();
        println!("task {}: accuracy on all ten digits {accuracy:.3}", task + 1);
        model = trained.train();
    }
    Ok(())
}
