//! Gradient projection: many ranks project as one rank with all rows, before each update.

use std::sync::Arc;

use burn::data::dataloader::{DataLoader, DataLoaderIterator, Progress};
use burn::data::dataset::DatasetError;
use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::{GradientsParams, ModuleOptimizer, SgdConfig};
use burn::tensor::{Device, Tensor};
use burn::train::{
    ClassificationOutput, InferenceStep, Learner, SupervisedTraining, TrainOutput, TrainStep,
    TrainingStrategy,
};
use burn_rehearsal_testing::watchdog;
use burn_rehearsal_train::data_parallel::{
    DataParallel, LossScale, Precision, project_gradients, scale_loss, without_renderer,
};

use crate::harness::*;

const RATE: f64 = 0.1;

/// Incoming rows, and drawn rows. Each may be empty.
type Rows = (Vec<Row>, Vec<Row>);

#[derive(Debug, Clone)]
struct Pair {
    incoming: Batch,
    drawn: Option<Batch>,
}

impl Pair {
    fn new((incoming, drawn): &Rows, device: &Device) -> Self {
        let drawn = (!drawn.is_empty()).then(|| Batch::new(drawn, device));
        Self { incoming: Batch::new(incoming, device), drawn }
    }

    /// The rows of which the loss is the mean.
    fn rows(&self) -> usize {
        self.incoming.rows()
    }
}

/// A network whose updates do not increase the loss of drawn rows.
#[derive(Module, Debug)]
struct Projected {
    net: Net,
    /// Whether gradients are projected.
    projects: bool,
}

impl Projected {
    fn new(projects: bool) -> Self {
        Self { net: Net::new(1, false), projects }
    }

    fn gradients(&self, loss: Tensor<1>) -> GradientsParams {
        GradientsParams::from_grads(scale_loss(loss).backward(), self)
    }
}

impl TrainStep for Projected {
    type Input = Pair;
    type Output = ClassificationOutput;

    fn step(&self, pair: Pair) -> TrainOutput<ClassificationOutput> {
        let item = self.net.forward(pair.incoming);
        let mut grads = self.gradients(item.loss.clone());
        if let Some(drawn) = pair.drawn.filter(|_| self.projects) {
            let rows = drawn.rows();
            let reference = self.gradients(self.net.forward(drawn).loss);
            grads = project_gradients(self, grads, reference, rows);
        }
        TrainOutput { grads, item }
    }
}

impl InferenceStep for Projected {
    type Input = Pair;
    type Output = ClassificationOutput;

    fn step(&self, pair: Pair) -> ClassificationOutput {
        self.net.forward(pair.incoming)
    }
}

/// A loader of fixed pairs.
#[derive(Clone, Default)]
struct Pairs {
    steps: Vec<Rows>,
    device: Device,
}

struct Iter<'a> {
    pairs: &'a Pairs,
    next: usize,
}

impl Iterator for Iter<'_> {
    type Item = Result<Pair, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        let rows = self.pairs.steps.get(self.next)?;
        self.next += 1;
        Some(Ok(Pair::new(rows, &self.pairs.device)))
    }
}

impl DataLoaderIterator<Pair> for Iter<'_> {
    fn progress(&self) -> Progress {
        Progress::new(self.next, self.pairs.steps.len(), None)
    }
}

impl DataLoader<Pair> for Pairs {
    fn iter<'a>(&'a self) -> Box<dyn DataLoaderIterator<Pair> + 'a> {
        Box::new(Iter { pairs: self, next: 0 })
    }

    fn num_items(&self) -> usize {
        self.steps.len()
    }

    fn to_device(&self, device: &Device) -> Arc<dyn DataLoader<Pair>> {
        Arc::new(Self { device: device.clone(), ..self.clone() })
    }

    fn slice(&self, start: usize, end: usize) -> Arc<dyn DataLoader<Pair>> {
        Arc::new(Self { steps: self.steps[start..end].to_vec(), ..self.clone() })
    }
}

/// The rows of a step: `count` incoming ones of one class, and drawn ones of another class, so that
/// the gradients conflict.
fn conflict(seed: u32, count: usize, drawn: usize) -> Rows {
    let of_class = |seed, count, y| -> Vec<Row> {
        rows(seed, count).into_iter().map(|row| Row { y, ..row }).collect()
    };
    (of_class(seed, count, 0), of_class(100 + seed, drawn, 1))
}

/// Deals rows to ranks: incoming rows almost evenly, drawn rows as 3 : 1 : 0.
fn deal_pairs(steps: &[Rows], ranks: usize) -> Vec<Pairs> {
    let incoming: Vec<Vec<Row>> = steps.iter().map(|(incoming, _)| incoming.clone()).collect();
    let parts = deal(&incoming, ranks);
    let part = |(rank, script): (usize, Script)| {
        let steps = script.batches.into_iter().zip(steps).map(|(incoming, (_, drawn))| {
            let all = drawn.len();
            let cuts = if ranks == 1 { vec![0, all] } else { vec![0, all - all / 4, all, all] };
            (incoming, drawn[cuts[rank]..cuts[rank + 1]].to_vec())
        });
        Pairs { steps: steps.collect(), ..Pairs::default() }
    };
    parts.into_iter().enumerate().map(part).collect()
}

type Training = SupervisedTraining<Projected>;
type Values = Vec<(String, Vec<f32>)>;

fn training(pairs: &Pairs) -> Training {
    without_renderer(SupervisedTraining::new(
        "/nonexistent/never-written",
        Arc::new(pairs.clone()),
        Arc::new(Pairs::default()),
    ))
}

fn plain_sgd() -> ModuleOptimizer {
    SgdConfig::new().init()
}

/// The parameters of every rank after a training, and the loss scale.
fn learned(
    steps: &[Rows],
    ranks: usize,
    projects: bool,
    configure: impl Fn(DataParallel<Projected>) -> DataParallel<Projected> + Sync,
    train: impl Fn(Training) -> Training + Sync,
) -> (Vec<Values>, Option<LossScale>) {
    let _watchdog = watchdog();
    let pairs = deal_pairs(steps, ranks);
    let outcomes = on_ranks(ranks, |rank, link| {
        let strategy = DataParallel::on_collective(Box::new(link), Pair::rows);
        let strategy = Arc::new(configure(strategy));
        let learner = Learner::new(Projected::new(projects), plain_sgd(), RATE);
        let result = train(training(&pairs[rank]))
            .with_training_strategy(TrainingStrategy::Custom(strategy.clone()))
            .launch(learner);
        assert_eq!(strategy.take_error(), None);
        (values(&result.model), strategy.loss_scale())
    });
    let outcomes: Vec<_> = outcomes.into_iter().map(|outcome| outcome.unwrap()).collect();
    let scale = outcomes[0].1;
    (outcomes.into_iter().map(|(values, _)| values).collect(), scale)
}

/// Like `learned`, in f32 on all ranks. All ranks must have the same bits.
fn trained(
    steps: &[Rows],
    ranks: usize,
    projects: bool,
    train: impl Fn(Training) -> Training + Sync,
) -> Values {
    let (mut all, _) = learned(steps, ranks, projects, |strategy| strategy, train);
    all.iter().for_each(|values| assert_eq!(values, &all[0], "all ranks must have the same bits"));
    all.remove(0)
}

struct Flatten<'a> {
    gradients: &'a GradientsParams,
    values: Vec<f64>,
}

impl ModuleVisitor for Flatten<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let gradient = self.gradients.get::<D>(param.id);
        let gradient = gradient.unwrap_or_else(|| param.val().inner().zeros_like());
        self.values.extend(gradient.into_data().iter::<f32>().map(f64::from));
    }
}

/// The gradient of the mean loss over `rows` in the initial network.
fn gradient(rows: &[Row]) -> Vec<f64> {
    let net = Projected::new(true);
    let device = Device::default().autodiff();
    let gradients = net.gradients(net.net.forward(Batch::new(rows, &device)).loss);
    let mut flatten = Flatten { gradients: &gradients, values: Vec::new() };
    net.visit(&mut flatten);
    flatten.values
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn sum(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

/// g − (g·r / r·r) r. The gradients must conflict.
fn projection(g: &[f64], r: &[f64]) -> Vec<f64> {
    let product = dot(g, r);
    assert!(product < -1e-3, "the gradients must conflict: {product}");
    let factor = product / dot(r, r);
    g.iter().zip(r).map(|(g, r)| g - factor * r).collect()
}

/// Checks the parameters after one update of the initial network along `gradient`.
fn assert_updated(found: &Values, gradient: &[f64]) {
    let before = values(&Projected::new(true));
    let flat = |values: &Values| values.iter().flat_map(|(_, v)| v.clone()).collect::<Vec<f32>>();
    let (found, before) = (flat(found), flat(&before));
    assert_eq!(found.len(), gradient.len());
    for ((found, before), gradient) in found.iter().zip(before).zip(gradient) {
        let expected = f64::from(before) - RATE * gradient;
        assert!((f64::from(*found) - expected).abs() < 1e-6, "{found}, expected {expected}");
    }
}

#[test]
fn one_update_equals_the_projection_by_hand() {
    let step = conflict(3, 12, 8);
    let expected = projection(&gradient(&step.0), &gradient(&step.1));
    for ranks in [1, 2, 3] {
        let steps = std::slice::from_ref(&step);
        assert_updated(&trained(steps, ranks, true, |training| training), &expected);
    }
}

#[test]
fn accumulated_gradients_are_projected_once_per_update() {
    // The second micro-batch has fewer rows, and more of them are drawn.
    let steps = [conflict(3, 12, 12), conflict(4, 6, 18)];
    let [g, r] = [|step: &Rows| gradient(&step.0), |step: &Rows| gradient(&step.1)];
    // Means of micro-batches add up. The reference is weighted by its rows.
    let r1: Vec<f64> = r(&steps[0]).iter().map(|r| 12.0 * r).collect();
    let r2: Vec<f64> = r(&steps[1]).iter().map(|r| 18.0 * r).collect();
    let expected = projection(&sum(&g(&steps[0]), &g(&steps[1])), &sum(&r1, &r2));
    for ranks in [1, 2, 3] {
        let found = trained(&steps, ranks, true, |training| training.grads_accumulation(2));
        assert_updated(&found, &expected);
    }
}

/// Six steps, some without drawn rows, and a last one with fewer rows than ranks.
fn steps() -> Vec<Rows> {
    vec![
        conflict(1, 12, 0),
        conflict(2, 12, 8),
        conflict(3, 12, 1),
        conflict(4, 12, 12),
        conflict(5, 7, 5),
        conflict(6, 2, 4),
    ]
}

#[test]
fn several_ranks_project_as_one_rank_with_all_rows() {
    for accumulation in [1, 4] {
        let train = |training: Training| training.num_epochs(2).grads_accumulation(accumulation);
        let one = trained(&steps(), 1, true, train);
        let far = |a: &Values, b: &Values| {
            let pairs = a.iter().zip(b).flat_map(|((_, a), (_, b))| a.iter().zip(b));
            pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
        };
        let unprojected = trained(&steps(), 1, false, train);
        assert!(far(&one, &unprojected) > 0.01, "the projection must matter");
        for ranks in [2, 3] {
            assert_close(&trained(&steps(), ranks, true, train), &one, 1e-5);
        }
    }
}

#[test]
fn without_a_conflict_no_bit_changes() {
    // The drawn rows are the incoming ones, so the gradients are the same.
    let steps: Vec<Rows> = (0..4).map(|seed| (rows(seed, 8), rows(seed, 8))).collect();
    for ranks in [1, 2] {
        let train = |projects| trained(&steps, ranks, projects, |training| training);
        assert_eq!(train(true), train(false), "{ranks} ranks");
    }
}

#[test]
fn burns_own_learner_projects_each_micro_batch_at_once() {
    let steps = [conflict(3, 12, 12), conflict(4, 6, 18)];
    let projected = |step: &Rows| projection(&gradient(&step.0), &gradient(&step.1));
    let pairs = Pairs { steps: steps.to_vec(), ..Pairs::default() };
    let learner = Learner::new(Projected::new(true), plain_sgd(), RATE);
    let result = training(&pairs).grads_accumulation(2).launch(learner);
    let expected = sum(&projected(&steps[0]), &projected(&steps[1]));
    assert_updated(&values(&result.model), &expected);
}

#[test]
fn a_custom_loop_gets_projected_gradients() {
    let step = conflict(3, 12, 8);
    let device = Device::default().autodiff();
    let mut learner = Learner::new(Projected::new(true), plain_sgd(), RATE);
    learner.lr_step();
    let output = learner.train_step(Pair::new(&step, &device));
    learner.optimizer_step(output.grads);
    let expected = projection(&gradient(&step.0), &gradient(&step.1));
    assert!(dot(&expected, &gradient(&step.1)).abs() < 1e-9, "the conflict is gone");
    assert_updated(&values(&learner.model()), &expected);
}

fn in_f16(scale: f32) -> impl Fn(DataParallel<Projected>) -> DataParallel<Projected> + Sync {
    move |strategy| {
        let scale = LossScale { factor: scale, ..LossScale::default() };
        strategy.with_precision(Precision::F16).with_loss_scale(scale)
    }
}

#[test]
fn the_projection_works_in_f16_with_a_scaled_loss() {
    let steps = &steps()[..5];
    let train = |training: Training| training.num_epochs(2);
    let exact = trained(steps, 1, true, train);
    for ranks in [1, 2, 3] {
        let (all, scale) = learned(steps, ranks, true, in_f16(1024.0), train);
        all.iter().for_each(|values| assert_eq!(values, &all[0]));
        assert_close(&all[0], &exact, 0.01);
        let scale = scale.unwrap();
        assert_eq!((scale.factor, scale.skipped), (1024.0, 0));
    }
}

#[test]
fn a_reference_that_overflows_skips_the_update() {
    let good = conflict(3, 12, 8);
    let mut bad = good.clone();
    // The largest number of f16 is 65504.
    bad.1[0].x[0] = 1e6;
    for ranks in [1, 2, 3] {
        let (all, scale) =
            learned(&[bad.clone()], ranks, true, in_f16(1024.0), |training| training);
        let scale = scale.unwrap();
        assert_eq!((scale.factor, scale.skipped), (512.0, 1), "{ranks} ranks");
        for found in all {
            assert_eq!(found, values(&Projected::new(true)), "{ranks} ranks");
        }
    }
}
