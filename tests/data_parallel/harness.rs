//! A small network, scripted loaders, and a launcher for N thread ranks.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use burn::data::dataloader::{DataLoader, DataLoaderIterator, Progress};
use burn::data::dataset::DatasetError;
use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig};
use burn::optim::momentum::MomentumConfig;
use burn::optim::{ModuleOptimizer, SgdConfig};
use burn::tensor::activation::relu;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use burn::train::{
    ClassificationOutput, InferenceStep, Interrupter, Interruption, Learner, LearningResult,
    SupervisedTraining, TrainOutput, TrainStep, TrainingStrategy,
};
use burn_rehearsal_collective::{Collective, Threads};
use burn_rehearsal_train::data_parallel::{
    DataParallel, DataParallelError, in_f32, scale_loss, without_renderer,
};
use burn_rehearsal_train::init::{Scheme, keyed_init};

pub(crate) const FEATURES: usize = 4;
pub(crate) const CLASSES: usize = 3;

/// One sample. Only `extra` rows use the extra branch of the network.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) x: [f32; FEATURES],
    pub(crate) y: i64,
    pub(crate) extra: bool,
}

/// `count` rows that depend only on `seed`.
pub(crate) fn rows(seed: u32, count: usize) -> Vec<Row> {
    let mut state = u64::from(seed) * 2 + 1;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1 << 24) as f32
    };
    (0..count)
        .map(|_| {
            let x = std::array::from_fn(|_| 2.0 * next() - 1.0);
            Row { x, y: (next() * CLASSES as f32) as i64, extra: false }
        })
        .collect()
}

#[derive(Debug, Clone)]
pub(crate) struct Batch {
    pub(crate) x: Tensor<2>,
    pub(crate) y: Tensor<1, Int>,
    /// `[rows, 1]`: 1 for rows of the extra branch. `None` if there is no such row.
    pub(crate) extra: Option<Tensor<2>>,
}

impl Batch {
    pub(crate) fn new(rows: &[Row], device: &Device) -> Self {
        let n = rows.len();
        let x: Vec<f32> = rows.iter().flat_map(|row| row.x).collect();
        let y: Vec<i64> = rows.iter().map(|row| row.y).collect();
        let extra: Vec<f32> = rows.iter().map(|row| f32::from(u8::from(row.extra))).collect();
        Self {
            x: Tensor::from_data(TensorData::new(x, [n, FEATURES]), device),
            y: Tensor::from_data(TensorData::new(y, [n]), device),
            extra: rows
                .iter()
                .any(|row| row.extra)
                .then(|| Tensor::from_data(TensorData::new(extra, [n, 1]), device)),
        }
    }

    pub(crate) fn rows(&self) -> usize {
        self.x.dims()[0]
    }
}

#[derive(Module, Debug)]
pub(crate) struct Net {
    pub(crate) hidden: Linear,
    pub(crate) norm: Option<BatchNorm>,
    pub(crate) output: Linear,
    pub(crate) extra: Linear,
    /// Whether the loss is scaled, as training in `f16` needs.
    pub(crate) scales: bool,
}

impl Net {
    pub(crate) fn new(seed: u64, norm: bool) -> Self {
        let device = Device::default().autodiff();
        let net = Self {
            hidden: LinearConfig::new(FEATURES, 8).init(&device),
            norm: norm.then(|| BatchNormConfig::new(8).init(&device)),
            output: LinearConfig::new(8, CLASSES).init(&device),
            extra: LinearConfig::new(FEATURES, CLASSES).init(&device),
            scales: true,
        };
        keyed_init(net, seed, Scheme::default())
    }

    pub(crate) fn forward(&self, batch: Batch) -> ClassificationOutput {
        assert!(batch.rows() > 0, "a network never receives an empty mini-batch");
        // The network may be in half precision.
        let x = batch.x.cast(self.hidden.weight.val().dtype());
        let mut hidden = self.hidden.forward(x.clone());
        if let Some(norm) = &self.norm {
            hidden = in_f32(hidden, |hidden| norm.forward(hidden));
        }
        let mut output = self.output.forward(relu(hidden));
        if let Some(mask) = batch.extra {
            let mask = mask.cast(x.dtype());
            output = output + self.extra.forward(x) * mask;
        }
        let output = output.cast(DType::F32);
        let loss = CrossEntropyLossConfig::new()
            .init(&output.device())
            .forward(output.clone(), batch.y.clone());
        ClassificationOutput::new(loss, output, batch.y)
    }
}

impl TrainStep for Net {
    type Input = Batch;
    type Output = ClassificationOutput;

    fn step(&self, batch: Batch) -> TrainOutput<ClassificationOutput> {
        // A class of -1 makes the model panic.
        let classes: Vec<i64> = batch.y.to_data().convert::<i64>().try_into_vec().unwrap();
        assert!(classes.iter().all(|class| *class >= 0), "the model panics on purpose");
        let output = self.forward(batch);
        let loss = if self.scales { scale_loss(output.loss.clone()) } else { output.loss.clone() };
        TrainOutput::new(self, loss.backward(), output)
    }
}

impl InferenceStep for Net {
    type Input = Batch;
    type Output = ClassificationOutput;

    fn step(&self, batch: Batch) -> ClassificationOutput {
        self.forward(batch)
    }
}

/// An event at one of a loader's mini-batches.
#[derive(Clone)]
pub(crate) enum Incident {
    Fail,
    Stop(Interrupter),
}

/// A loader of fixed mini-batches that counts calls of `next`.
#[derive(Clone, Default)]
pub(crate) struct Script {
    pub(crate) batches: Vec<Vec<Row>>,
    pub(crate) incident: Option<(usize, Incident)>,
    pub(crate) calls: Arc<AtomicUsize>,
    device: Device,
}

impl Script {
    pub(crate) fn new(batches: Vec<Vec<Row>>) -> Self {
        Self { batches, ..Self::default() }
    }

    pub(crate) fn with_incident(mut self, batch: usize, incident: Incident) -> Self {
        self.incident = Some((batch, incident));
        self
    }
}

struct ScriptIterator<'a> {
    script: &'a Script,
    next: usize,
}

#[derive(Debug)]
struct Unreadable;

impl std::fmt::Display for Unreadable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("sample 17 is unreadable")
    }
}

impl std::error::Error for Unreadable {}

impl Iterator for ScriptIterator<'_> {
    type Item = Result<Batch, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.script.calls.fetch_add(1, Ordering::Relaxed);
        let rows = self.script.batches.get(self.next)?;
        let incident = self.script.incident.as_ref().filter(|(batch, _)| *batch == self.next);
        self.next += 1;
        match incident {
            Some((_, Incident::Fail)) => return Some(Err(DatasetError::new(Unreadable))),
            Some((_, Incident::Stop(interrupter))) => {
                interrupter.stop(Some("the test stops training"))
            }
            None => {}
        }
        Some(Ok(Batch::new(rows, &self.script.device)))
    }
}

impl DataLoaderIterator<Batch> for ScriptIterator<'_> {
    fn progress(&self) -> Progress {
        Progress::new(self.next, self.script.batches.len(), None)
    }
}

impl DataLoader<Batch> for Script {
    fn iter<'a>(&'a self) -> Box<dyn DataLoaderIterator<Batch> + 'a> {
        Box::new(ScriptIterator { script: self, next: 0 })
    }

    fn num_items(&self) -> usize {
        self.batches.len()
    }

    fn to_device(&self, device: &Device) -> Arc<dyn DataLoader<Batch>> {
        Arc::new(Self { device: device.clone(), ..self.clone() })
    }

    fn slice(&self, start: usize, end: usize) -> Arc<dyn DataLoader<Batch>> {
        Arc::new(Self { batches: self.batches[start..end].to_vec(), ..self.clone() })
    }
}

/// Deals the rows of every step to `ranks`. Sizes differ by at most one, and ranks without a row in
/// the last step have one mini-batch fewer.
pub(crate) fn deal(steps: &[Vec<Row>], ranks: usize) -> Vec<Script> {
    (0..ranks)
        .map(|rank| {
            let part = |rows: &Vec<Row>| {
                let start =
                    |rank: usize| rank * (rows.len() / ranks) + rank.min(rows.len() % ranks);
                rows[start(rank)..start(rank + 1)].to_vec()
            };
            Script::new(steps.iter().map(part).filter(|rows| !rows.is_empty()).collect())
        })
        .collect()
}

pub(crate) fn sgd() -> ModuleOptimizer {
    SgdConfig::new().with_momentum(Some(MomentumConfig::new().with_momentum(0.9))).init()
}

pub(crate) fn learner(seed: u64) -> Learner<Net> {
    Learner::new(Net::new(seed, false), sgd(), 0.1)
}

/// A launch on one rank.
pub(crate) type Training = SupervisedTraining<Net>;

pub(crate) struct Outcome {
    pub(crate) model: Net,
    pub(crate) learner: Option<Learner<Net>>,
    pub(crate) error: Option<DataParallelError>,
    pub(crate) result_error: Option<String>,
    pub(crate) interrupted: Option<Interruption>,
}

impl Outcome {
    pub(crate) fn values(&self) -> Vec<(String, Vec<f32>)> {
        values(&self.model)
    }
}

/// A training that writes no files.
pub(crate) fn training(script: &Script, valid: Vec<Vec<Row>>) -> Training {
    without_renderer(SupervisedTraining::new(
        "/nonexistent/never-written",
        Arc::new(script.clone()),
        Arc::new(Script::new(valid)),
    ))
}

/// Trains with Burn's strategy for a single device.
pub(crate) fn single_device(training: Training, learner: Learner<Net>) -> Net {
    training.launch(learner).model
}

/// The strategy of a thread rank.
pub(crate) fn strategy(link: Threads) -> DataParallel<Net> {
    strategy_on(Box::new(link))
}

/// The strategy of a rank on any transport.
pub(crate) fn strategy_on(link: Box<dyn Collective>) -> DataParallel<Net> {
    DataParallel::on_collective(link, Batch::rows)
}

pub(crate) fn launch(
    strategy: &Arc<DataParallel<Net>>,
    training: Training,
    learner: Learner<Net>,
) -> Outcome {
    let training = training.with_training_strategy(TrainingStrategy::Custom(strategy.clone()));
    let LearningResult { model, error, interrupted, .. } = training.launch(learner);
    Outcome {
        model,
        learner: strategy.take_learner(),
        error: strategy.take_error(),
        result_error: error.map(|error| error.to_string()),
        interrupted,
    }
}

/// Runs `work` on `ranks` thread ranks. A panic of a rank is an `Err`.
pub(crate) fn on_ranks<T: Send>(
    ranks: usize,
    work: impl Fn(usize, Threads) -> T + Sync,
) -> Vec<thread::Result<T>> {
    let links = Threads::group(ranks).unwrap();
    thread::scope(|scope| {
        let work = &work;
        let handles: Vec<_> = links
            .into_iter()
            .enumerate()
            .map(|(rank, link)| scope.spawn(move || work(rank, link)))
            .collect();
        handles.into_iter().map(|handle| handle.join()).collect()
    })
}

/// Launches a training on the rank of every script, after `configure` has changed it.
pub(crate) fn train(
    scripts: &[Script],
    learner: impl Fn(usize) -> Learner<Net> + Sync,
    configure: impl Fn(usize, Training) -> Training + Sync,
) -> Vec<Outcome> {
    let outcomes = on_ranks(scripts.len(), |rank, link| {
        launch(
            &Arc::new(strategy(link)),
            configure(rank, training(&scripts[rank], Vec::new())),
            learner(rank),
        )
    });
    outcomes.into_iter().map(|outcome| outcome.unwrap()).collect()
}

/// The path and the values of every float parameter.
pub(crate) fn values(model: &impl Module) -> Vec<(String, Vec<f32>)> {
    let mut values = Values::default();
    model.visit(&mut values);
    values.found.into_iter().map(|(path, _, values)| (path, values)).collect()
}

pub(crate) fn ids(model: &Net) -> Vec<(String, ParamId)> {
    let mut values = Values::default();
    model.visit(&mut values);
    values.found.into_iter().map(|(path, id, _)| (path, id)).collect()
}

#[derive(Default)]
struct Values {
    path: Vec<String>,
    found: Vec<(String, ParamId, Vec<f32>)>,
}

impl ModuleVisitor for Values {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.found.push((
            self.path.join("."),
            param.id,
            param.val().into_data().convert::<f32>().try_into_vec().unwrap(),
        ));
    }
}

pub(crate) fn assert_close(a: &[(String, Vec<f32>)], b: &[(String, Vec<f32>)], tolerance: f32) {
    assert_eq!(a.len(), b.len());
    for ((path, a), (_, b)) in a.iter().zip(b) {
        for (x, y) in a.iter().zip(b) {
            assert!((x - y).abs() <= tolerance, "{path}: {x} and {y}");
        }
    }
}
