//! Guarantee 7 of docs/ARCHITECTURE.md for Dark Experience Replay++: N ranks compute the gradients
//! of one rank with all rows, if every rank has as many incoming and drawn rows as the others.
//!
//! The mini-batches of all ranks are recorded. The loss of the rows of all ranks together is then
//! written out by hand, and its gradients are applied to the same initial parameters.

use burn::data::dataloader::DataLoader;
use burn::data::dataloader::batcher::Batcher;
use burn::data::dataset::InMemDataset;
use burn::module::{Module, Param};
use burn::optim::SgdConfig;
use burn::tensor::activation::log_softmax;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use burn::train::{Learner, SupervisedTraining, TrainingStrategy};
use burn_rehearsal::{Capacity, RehearsalBatch, RehearsalConfig, RowLayout, ShardedLoader};
use burn_rehearsal_collective::{Collective, Rank};
use burn_rehearsal_testing::world;
use burn_rehearsal_train::augmentation::{AugmentLoader, Augmentation};
use burn_rehearsal_train::data_parallel::{DataParallel, without_renderer};
use burn_rehearsal_train::methods::{
    Classifier, DerPlusPlus, LabeledBatch, MethodModel, MethodRef,
};
use std::ops::Range;
use std::sync::{Arc, Mutex};

const FEATURES: usize = 5;
const HIDDEN: usize = 7;
const CLASSES: usize = 3;
const RATE: f64 = 0.1;
const ALPHA: f64 = 0.5;
const BETA: f64 = 0.75;
const METHOD: MethodRef = &DerPlusPlus { alpha: ALPHA, beta: BETA };
/// Representatives per draw.
const DRAWN: usize = 10;

#[derive(RehearsalBatch, Clone, Debug)]
struct Batch {
    inputs: Tensor<2>,
    #[rehearsal(class)]
    class: Tensor<1, Int>,
    #[rehearsal(late)]
    logits: Option<Tensor<2>>,
    #[rehearsal(layout)]
    rows: RowLayout<Self>,
}

impl LabeledBatch for Batch {
    fn targets(&self) -> Tensor<1, Int> {
        self.class.clone()
    }

    fn layout(&self) -> &RowLayout<Self> {
        &self.rows
    }

    fn select(&self, rows: Range<usize>) -> Self {
        Self { inputs: self.inputs.clone().slice(rows), ..self.clone() }
    }

    fn valid(self) -> Self {
        Self { inputs: self.inputs.inner(), ..self }
    }

    fn stored_logits(&self) -> Option<Tensor<2>> {
        self.logits.clone()
    }

    fn store_logits(&self, logits: Tensor<2>) {
        self.rows.annotate(BatchLate { logits });
    }
}

#[derive(Clone)]
pub struct Stack;

impl Batcher<usize, Batch> for Stack {
    fn batch(&self, numbers: Vec<usize>, device: &Device) -> Batch {
        let rows = numbers.len();
        let inputs = numbers.iter().flat_map(|&number| pseudo_random(number, FEATURES)).collect();
        let classes = numbers.iter().map(|number| (number % CLASSES) as i64).collect();
        Batch {
            inputs: matrix(inputs, FEATURES, device),
            class: Tensor::<1, Int>::from_data(TensorData::new::<i64, _>(classes, [rows]), device),
            logits: None,
            rows: RowLayout::default(),
        }
    }
}

/// Some numbers between −1 and 1.
fn pseudo_random(number: usize, count: usize) -> impl Iterator<Item = f32> {
    (0..count).map(move |index| ((number * count + index) as f32 * 78.233).sin())
}

/// The matrix of these values with `columns` columns.
fn matrix(values: Vec<f32>, columns: usize, device: &Device) -> Tensor<2> {
    let rows = values.len() / columns;
    Tensor::from_data(TensorData::new(values, [rows, columns]), (device, DType::F32))
}

fn values(tensor: &Tensor<2>) -> Vec<f32> {
    tensor.to_data().iter::<f32>().collect()
}

#[derive(Module, Debug)]
struct Net {
    first: Param<Tensor<2>>,
    second: Param<Tensor<2>>,
}

impl Net {
    fn new(parameters: &[f32]) -> Self {
        let device = Device::default().autodiff();
        let (first, second) = parameters.split_at(FEATURES * HIDDEN);
        let param =
            |values: &[f32], columns| Param::from_tensor(matrix(values.to_vec(), columns, &device));
        Self { first: param(first, HIDDEN), second: param(second, CLASSES) }
    }

    fn parameters(&self) -> Vec<f32> {
        [values(&self.first.val()), values(&self.second.val())].concat()
    }

    fn forward(&self, inputs: Tensor<2>) -> Tensor<2> {
        inputs.matmul(self.first.val()).tanh().matmul(self.second.val())
    }
}

impl Classifier for Net {
    type Batch = Batch;

    fn logits(&self, batch: Batch) -> Tensor<2> {
        self.forward(batch.inputs)
    }
}

/// The parameters before the first step.
fn initial() -> Vec<f32> {
    pseudo_random(1000, HIDDEN * (FEATURES + CLASSES)).map(|value| value * 0.8).collect()
}

/// The mini-batch of a step on one rank.
#[derive(Debug, Clone, PartialEq)]
struct Rows {
    incoming: usize,
    draws: [usize; 2],
    inputs: Vec<f32>,
    classes: Vec<i64>,
    /// The stored logits of both draws.
    stored: Vec<f32>,
}

impl Rows {
    fn of(batch: &Batch) -> Self {
        Self {
            incoming: batch.rows.incoming().unwrap(),
            draws: batch.rows.draws().try_into().unwrap(),
            inputs: values(&batch.inputs),
            classes: batch.class.to_data().iter::<i64>().collect(),
            stored: batch.logits.as_ref().map(values).unwrap_or_default(),
        }
    }

    /// The incoming rows and the rows of both draws.
    fn parts(&self) -> [Range<usize>; 3] {
        let first = self.incoming + self.draws[0];
        [0..self.incoming, self.incoming..first, first..first + self.draws[1]]
    }
}

/// The loss of the rows of several ranks together: CE(incoming) + α·MSE(draw 0) + β·CE(draw 1).
fn loss(net: &Net, ranks: &[&Rows]) -> Tensor<1> {
    let device = net.first.val().device();
    let [mut inputs, mut stored] = [const { Vec::new() }; 2];
    let mut classes: Vec<i64> = Vec::new();
    // All incoming rows, then the first draws of all ranks, then the second draws.
    let mut counts = [0; 3];
    for (part, count) in counts.iter_mut().enumerate() {
        for rows in ranks {
            let range = rows.parts()[part].clone();
            *count += range.len();
            inputs.extend(&rows.inputs[range.start * FEATURES..range.end * FEATURES]);
            classes.extend(&rows.classes[range]);
        }
    }
    ranks.iter().for_each(|rows| stored.extend(&rows.stored[..rows.draws[0] * CLASSES]));

    let logits = net.forward(matrix(inputs, FEATURES, &device));
    let total = classes.len();
    let classes = Tensor::<2, Int>::from_data(TensorData::new(classes, [total, 1]), &device);
    let log_probabilities = log_softmax(logits.clone(), 1).gather(1, classes);
    let [incoming, first, second] = counts;
    let mut loss = log_probabilities.clone().slice(0..incoming).mean().neg();
    if first > 0 {
        let logits = logits.slice(incoming..incoming + first);
        loss = loss + (logits - matrix(stored, CLASSES, &device)).square().mean() * ALPHA;
    }
    if second > 0 {
        loss = loss - log_probabilities.slice(incoming + first..total).mean() * BETA;
    }
    loss
}

/// The gradient of [`loss`].
fn gradient(parameters: &[f32], ranks: &[&Rows]) -> Vec<f32> {
    let net = Net::new(parameters);
    let gradients = loss(&net, ranks).backward();
    let of = |param: &Param<Tensor<2>>| {
        param.val().grad(&gradients).unwrap().into_data().iter::<f32>().collect::<Vec<_>>()
    };
    [of(&net.first), of(&net.second)].concat()
}

/// The parameters after a step of plain SGD.
fn descend(parameters: &[f32], gradient: &[f32]) -> Vec<f32> {
    parameters
        .iter()
        .zip(gradient)
        .map(|(value, gradient)| value - RATE as f32 * gradient)
        .collect()
}

fn norm(values: impl IntoIterator<Item = f32>) -> f64 {
    values.into_iter().map(|value| f64::from(value).powi(2)).sum::<f64>().sqrt()
}

fn distance(a: &[f32], b: &[f32]) -> f64 {
    norm(a.iter().zip(b).map(|(a, b)| a - b))
}

/// Trains one epoch on `samples` samples. Returns the mini-batches of all ranks in each step, and
/// the parameters after the last step.
fn train(ranks: usize, batch_size: usize, samples: usize) -> (Vec<Vec<Rows>>, Vec<f32>) {
    let results = world(ranks, |link| train_rank(link, batch_size, samples));
    let parameters = results[0].1.clone();
    assert!(results.iter().all(|(_, of_rank)| *of_rank == parameters));
    let steps = results.iter().map(|(steps, _)| steps.len()).max().unwrap();
    let of_step = |step| results.iter().filter_map(|(steps, _)| steps.get(step).cloned()).collect();
    ((0..steps).map(of_step).collect(), parameters)
}

fn train_rank(
    link: Box<dyn Collective>,
    batch_size: usize,
    samples: usize,
) -> (Vec<Rows>, Vec<f32>) {
    let rank = Rank::new(link);
    let model = MethodModel::new(Net::new(&initial()), METHOD);
    // Rows are evicted.
    let config =
        RehearsalConfig::new(Capacity::Samples(24)).with_candidates(2).with_representatives(DRAWN);
    let buffer = model.configured(config).init_on::<Batch>(&rank).unwrap();
    let loader = |samples: usize| -> Arc<dyn DataLoader<Batch>> {
        let loader = ShardedLoader::builder(Stack).batch_size(batch_size).shuffle(5).shard(&rank);
        loader.build(InMemDataset::new((0..samples).collect()))
    };
    let steps: Arc<Mutex<Vec<Rows>>> = Arc::default();
    let record: Augmentation<Batch> = {
        let steps = steps.clone();
        Arc::new(move |batch, _, _| {
            steps.lock().unwrap().push(Rows::of(&batch));
            Ok(batch)
        })
    };
    let recorded =
        AugmentLoader::new(buffer.attach(loader(samples)), record, rank.rank(), Arc::default());
    let training = without_renderer(SupervisedTraining::new(
        "/nonexistent/never-written",
        Arc::new(recorded),
        loader(0),
    ));
    let result = training
        .num_epochs(1)
        .with_training_strategy(TrainingStrategy::Custom(Arc::new(
            DataParallel::new(&rank).unwrap(),
        )))
        .launch(Learner::new(model, SgdConfig::new().init(), RATE));
    assert!(result.error.is_none(), "{:?}", result.error);
    let steps = std::mem::take(&mut *steps.lock().unwrap());
    (steps, result.model.network.parameters())
}

/// Compares the parameters after several steps, also with fewer stored rows than are drawn later.
pub(crate) fn several_ranks_compute_the_gradients_of_one(ranks: usize) {
    let (batch_size, steps) = (6, 9);
    let (batches, trained) = train(ranks, batch_size, ranks * batch_size * steps);
    assert_eq!(batches.len(), steps);
    let mut parameters = initial();
    let mut drawn = Vec::new();
    for batch in &batches {
        assert_eq!(batch.len(), ranks);
        let [incoming, draws] = [batch[0].incoming, batch[0].draws[0]];
        assert!(batch.iter().all(|rows| (rows.incoming, rows.draws) == (incoming, [draws; 2])));
        drawn.push(draws);
        parameters = descend(&parameters, &gradient(&parameters, &Vec::from_iter(batch)));
    }
    assert!(drawn[0] == 0 && (1..DRAWN).contains(&drawn[1]) && drawn[steps - 1] == DRAWN);
    let (way, off) = (distance(&initial(), &trained), distance(&parameters, &trained));
    assert!(off < 1e-5 * way, "{ranks} ranks: off by {off} after a distance of {way}");
    // The draws matter.
    let mut without = initial();
    for batch in &batches {
        let incoming = |rows: &Rows| Rows { draws: [0; 2], ..rows.clone() };
        let batch: Vec<_> = batch.iter().map(incoming).collect();
        without = descend(&without, &gradient(&without, &Vec::from_iter(&batch)));
    }
    assert!(distance(&without, &trained) > 0.05 * way);
}

#[test]
fn several_ranks_compute_the_gradients_of_one_rank_with_all_rows() {
    [1, 2, 4].into_iter().for_each(several_ranks_compute_the_gradients_of_one);
}

#[test]
fn gradients_of_an_uneven_step_are_weighted_by_all_rows_of_a_rank() {
    // The incoming rows of each rank in the last step.
    for (batch_size, last) in [
        (6, &[2, 1][..]),
        (6, &[5, 4]),
        (6, &[6, 5]),
        (32, &[17, 16]),
        (6, &[1, 1, 0, 0]),
        (6, &[2, 2, 1, 1]),
        (6, &[5, 5, 5, 4]),
        (32, &[17, 16, 16, 16]),
    ] {
        let (ranks, steps) = (last.len(), 8);
        let uneven: usize = last.iter().sum();
        let (batches, trained) =
            train(ranks, batch_size, ranks * batch_size * (steps - 1) + uneven);
        assert_eq!(batches.len(), steps);
        let mut parameters = initial();
        for batch in &batches[..steps - 1] {
            parameters = descend(&parameters, &gradient(&parameters, &Vec::from_iter(batch)));
        }
        let batch = &batches[steps - 1];
        let incoming: Vec<_> = batch.iter().map(|rows| rows.incoming).collect();
        assert_eq!(incoming, Vec::from_iter(last.iter().copied().filter(|rows| *rows > 0)));
        assert!(batch.iter().all(|rows| rows.draws == [DRAWN; 2]));

        let total: usize = batch.iter().map(|rows| rows.classes.len()).sum();
        let mut weighted = vec![0.0; parameters.len()];
        for rows in batch {
            let weight = rows.classes.len() as f32 / total as f32;
            let of_rank = gradient(&parameters, &[rows]);
            weighted.iter_mut().zip(of_rank).for_each(|(sum, value)| *sum += weight * value);
        }
        let of_one = gradient(&parameters, &Vec::from_iter(batch));
        parameters = descend(&parameters, &weighted);
        let (way, off) = (distance(&initial(), &trained), distance(&parameters, &trained));
        assert!(off < 1e-5 * way, "{last:?}: off by {off} after a distance of {way}");

        let difference = distance(&weighted, &of_one) / norm(of_one);
        println!("{last:?} incoming rows: relative difference of the gradient {difference:.6}");
        let same = last.iter().all(|rows| [0, last[0]].contains(rows));
        assert!(if same { difference < 1e-6 } else { difference > 1e-6 && difference < 0.5 });
    }
}
