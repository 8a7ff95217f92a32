//! Methods in whole runs: their state, their buffer, checkpoints, and bad input.

use super::harness::{assert_close, on_ranks, rows, values};
use burn::data::dataloader::DataLoader;
use burn::data::dataloader::batcher::Batcher;
use burn::data::dataset::{Dataset, InMemDataset};
use burn::module::Module;
use burn::nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig};
use burn::optim::momentum::MomentumConfig;
use burn::optim::{ModuleOptimizer, SgdConfig};
use burn::tensor::{Bool, DType, Device, FloatDType, Int, Tensor, TensorData};
use burn::train::{Interrupter, Learner, SupervisedTraining, TrainingStrategy};
use burn_rehearsal::error::RehearsalError;
use burn_rehearsal::{
    Capacity, RehearsalBatch, RehearsalBuffer, RehearsalConfig, RowLayout, ShardedLoader,
};
use burn_rehearsal_collective::{Rank, Solo};
use burn_rehearsal_testing::watchdog;
use burn_rehearsal_train::data_parallel::{
    DataParallel, Precision, compute_type, in_f32, without_renderer,
};
use burn_rehearsal_train::experiment::{Checkpoints, Experiment, Observer, Settings, Workload};
use burn_rehearsal_train::init::{Scheme, keyed_init};
use burn_rehearsal_train::methods::{
    self, AGem, Classifier, ClsEr, Der, DerPlusPlus, GDumb, LabeledBatch, Lwf, Method, MethodModel,
    MethodRef, OnlineEwc, Rehearsal, Step, TaskInfo,
};
use burn_rehearsal_train::report::RunReport;
use burn_rehearsal_train::report::schema::{BufferReport, Picture};
use burn_rehearsal_train::stream::{ClassIncremental, ClassOrder, TaskStream, select};
use burn_rehearsal_train::weights::load_safetensors;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

const CLASSES: usize = 6;
const FEATURES: usize = 4;

#[derive(Debug, Clone, RehearsalBatch)]
struct Batch {
    x: Tensor<2>,
    #[rehearsal(class)]
    class: Tensor<1, Int>,
    #[rehearsal(id)]
    number: Tensor<1, Int>,
    #[rehearsal(representative)]
    drawn: Tensor<1, Bool>,
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
        Self {
            x: self.x.clone().slice(rows.clone()),
            number: self.number.clone().slice(rows.clone()),
            drawn: self.drawn.clone().slice(rows),
            ..self.clone()
        }
    }

    fn valid(self) -> Self {
        Self { x: self.x.inner(), ..self }
    }

    fn stored_logits(&self) -> Option<Tensor<2>> {
        self.logits.clone()
    }

    fn store_logits(&self, logits: Tensor<2>) {
        self.rows.annotate(BatchLate { logits });
    }
}

/// A number and a class.
type Sample = (i64, i64);

#[derive(Debug, Clone)]
struct Stack;

impl Batcher<Sample, Batch> for Stack {
    fn batch(&self, samples: Vec<Sample>, device: &Device) -> Batch {
        let count = samples.len();
        let (numbers, classes): (Vec<i64>, Vec<i64>) = samples.into_iter().unzip();
        let inputs: Vec<f32> =
            numbers.iter().zip(&classes).flat_map(|(&n, &c)| input(n, c)).collect();
        let ints = |values| Tensor::from_data(TensorData::new(values, [count]), device);
        Batch {
            x: Tensor::from_data(TensorData::new(inputs, [count, FEATURES]), device),
            class: ints(classes),
            number: ints(numbers),
            drawn: Tensor::from_data(TensorData::new(vec![false; count], [count]), device),
            logits: None,
            rows: RowLayout::default(),
        }
    }
}

/// The inputs of a sample: noise around a center for its class.
fn input(number: i64, class: i64) -> [f32; FEATURES] {
    let mut x = rows(number as u32, 1)[0].x;
    x[class as usize % FEATURES] += if class < 4 { 1.0 } else { -1.0 };
    x
}

/// A row of a training pass: its number, its class, and whether it was drawn.
type PassRow = (i64, i64, bool);

/// The events of a run, on all ranks.
#[derive(Default)]
struct Events {
    /// The networks that were created for training.
    networks: AtomicUsize,
    /// The training passes: the network, and its rows.
    passes: Mutex<Vec<(usize, Vec<PassRow>)>>,
    /// The run stops after this number of passes.
    stop_after: Option<usize>,
    interrupters: Mutex<Vec<Interrupter>>,
    /// Scores are NaN from this pass on.
    nan_after: Option<usize>,
    /// The numbers of the stored rows at the end of the run.
    stored: Mutex<Vec<i64>>,
    /// Whether a stored row has logits that are NaN.
    stored_nan: Mutex<bool>,
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Events")
    }
}

#[derive(Module, Debug)]
struct Net {
    norm: Option<BatchNorm>,
    layer: Linear,
    /// The number of the network.
    #[module(skip)]
    number: usize,
    #[module(skip)]
    events: Arc<Events>,
}

impl Net {
    fn new(device: &Device, seed: u64, norm: bool, events: &Arc<Events>) -> Self {
        let number = match device.is_autodiff() {
            true => events.networks.fetch_add(1, Ordering::Relaxed),
            false => usize::MAX,
        };
        let net = Self {
            norm: norm.then(|| BatchNormConfig::new(FEATURES).init(device)),
            layer: LinearConfig::new(FEATURES, CLASSES).init(device),
            number,
            events: events.clone(),
        };
        keyed_init(net, seed, Scheme::default())
    }
}

fn ints(tensor: &Tensor<1, Int>) -> Vec<i64> {
    tensor.to_data().iter::<i64>().collect()
}

impl Classifier for Net {
    type Batch = Batch;

    fn logits(&self, batch: Batch) -> Tensor<2> {
        let mut bad = false;
        if batch.x.device().is_autodiff() {
            let drawn: Vec<bool> = batch.drawn.to_data().iter::<bool>().collect();
            // A selection has the classes of all rows.
            let classes = ints(&batch.class);
            let numbers = ints(&batch.number).into_iter().zip(drawn).enumerate();
            let rows = numbers.map(|(row, (number, drawn))| (number, classes[row], drawn));
            let mut passes = self.events.passes.lock().unwrap();
            passes.push((self.number, rows.collect()));
            if self.events.stop_after == Some(passes.len()) {
                self.events.interrupters.lock().unwrap()[0].stop(Some("the test stops the run"));
            }
            bad = self.events.nan_after.is_some_and(|after| passes.len() > after);
        }
        let x = batch.x.cast(compute_type(&self.layer));
        let x = match &self.norm {
            Some(norm) => in_f32(x, |x| norm.forward(x)),
            None => x,
        };
        let scores = self.layer.forward(x).cast(FloatDType::F32);
        if bad { scores * f32::NAN } else { scores }
    }
}

/// Samples of six classes, in tasks of equal numbers of classes.
struct World {
    train: Vec<Sample>,
    test: Vec<Sample>,
    stream: ClassIncremental,
    norm: bool,
    events: Arc<Events>,
}

impl World {
    /// A world with this number of training samples of each class.
    fn new(counts: [usize; CLASSES], tasks: usize) -> Self {
        let classes = counts.into_iter().enumerate();
        let classes = classes.flat_map(|(class, count)| std::iter::repeat_n(class as i64, count));
        let train: Vec<Sample> = classes.enumerate().map(|(n, class)| (n as i64, class)).collect();
        let test: Vec<Sample> = (0..24).map(|n| (1000 + n, n % CLASSES as i64)).collect();
        let labels = |samples: &[Sample]| {
            samples.iter().map(|(_, class)| *class as usize).collect::<Vec<_>>()
        };
        let (of_train, of_test) = (labels(&train), labels(&test));
        let stream =
            ClassIncremental::new(&of_train, &of_test, CLASSES, tasks, ClassOrder::Fixed).unwrap();
        Self { train, test, stream, norm: false, events: Arc::default() }
    }

    /// The same world with a batch norm, and no events yet.
    fn with(&self, norm: bool, events: Events) -> Self {
        let (train, test, stream) = (self.train.clone(), self.test.clone(), self.stream.clone());
        Self { train, test, stream, norm, events: Arc::new(events) }
    }

    /// The training passes of each network, in order.
    fn passes(&self) -> Vec<Vec<Vec<PassRow>>> {
        let mut networks = vec![Vec::new(); self.events.networks.load(Ordering::Relaxed)];
        for (network, rows) in &*self.events.passes.lock().unwrap() {
            networks[*network].push(rows.clone());
        }
        networks
    }
}

impl Observer for World {
    fn interrupter(&self, interrupter: &Interrupter) {
        self.events.interrupters.lock().unwrap().push(interrupter.clone());
    }
}

impl Workload for World {
    type Item = Sample;
    type Batch = Batch;
    type Batcher = Stack;
    type Model = Net;

    fn train(&self) -> Arc<dyn Dataset<Sample>> {
        Arc::new(InMemDataset::new(self.train.clone()))
    }

    fn test(&self) -> Arc<dyn Dataset<Sample>> {
        Arc::new(InMemDataset::new(self.test.clone()))
    }

    fn stream(&self) -> &dyn TaskStream {
        &self.stream
    }

    fn batcher(&self) -> Stack {
        Stack
    }

    fn model(&self, device: &Device, seed: u64) -> Net {
        Net::new(device, seed, self.norm, &self.events)
    }

    fn optimizer(&self) -> ModuleOptimizer {
        SgdConfig::new().with_momentum(Some(MomentumConfig::new().with_momentum(0.9))).init()
    }

    fn pictures(
        &self,
        buffer: &RehearsalBuffer<Batch>,
        _report: &BufferReport,
    ) -> Result<Vec<Picture>, RehearsalError> {
        for sample in buffer.snapshot()?.samples() {
            self.events.stored.lock().unwrap().push(sample.id.unwrap());
            let mut late = sample.fields.last().unwrap().iter::<f32>();
            *self.events.stored_nan.lock().unwrap() |= late.any(f32::is_nan);
        }
        Ok(Vec::new())
    }
}

fn buffer(capacity: usize) -> RehearsalConfig {
    RehearsalConfig::new(Capacity::Samples(capacity))
        .with_candidates(2)
        .with_representatives(3)
        .with_classes(Some(CLASSES))
}

fn settings() -> Settings {
    Settings::new()
        .with_epochs(2)
        .with_batch_size(4)
        .with_rehearsal(Some(buffer(12)))
        .with_learning_rate(0.05)
        .with_seed(3)
}

/// The reports or errors of all ranks.
fn try_run(
    world: &World,
    method: MethodRef,
    settings: &Settings,
    ranks: usize,
) -> Vec<Result<RunReport, String>> {
    let _watchdog = watchdog();
    let results = on_ranks(ranks, |_, link| {
        let experiment = Experiment::new(world, method, settings).with_observer(world);
        experiment.run(&Rank::new(Box::new(link))).map_err(|error| error.to_string())
    });
    results.into_iter().map(|result| result.unwrap()).collect()
}

/// The report of rank 0.
fn run(world: &World, method: MethodRef, settings: &Settings, ranks: usize) -> RunReport {
    try_run(world, method, settings, ranks).remove(0).unwrap()
}

/// The errors of all ranks.
fn errors(world: &World, method: MethodRef, settings: &Settings, ranks: usize) -> Vec<String> {
    let results = try_run(world, method, settings, ranks);
    results.into_iter().map(|result| result.unwrap_err()).collect()
}

type Values = Vec<(String, Vec<f32>)>;

/// A report without times and counters of this process.
fn comparable(report: &RunReport) -> Value {
    let mut report = serde_json::to_value(report).unwrap();
    report.as_object_mut().unwrap().remove("time").unwrap();
    if let Some(buffer) = report["buffer"].as_object_mut() {
        buffer.remove("per_step").unwrap();
    }
    report
}

/// Settings with checkpoints and a file for the network in this directory.
fn kept(directory: &Path) -> Settings {
    let checkpoints = Checkpoints {
        directory: directory.join("checkpoints"),
        every: None,
        keep: 1,
        resume: true,
    };
    settings()
        .with_checkpoints(Some(checkpoints))
        .with_network(Some(directory.join("network.safetensors")))
}

/// The parameters of the network that a run saved.
fn network(directory: &Path, norm: bool) -> Values {
    let net = Net::new(&Device::default(), 0, norm, &Arc::default());
    values(&load_safetensors(net, &directory.join("network.safetensors")).unwrap())
}

/// A CLS-ER that often moves its averages.
static CLS_ER: ClsEr = ClsEr {
    reg_weight: 0.5,
    stable_alpha: 0.9,
    stable_rate: 0.4,
    plastic_alpha: 0.7,
    plastic_rate: 0.6,
};

#[test]
fn methods_with_state_resume_with_the_same_bits() {
    let base = World::new([8; CLASSES], 3);
    let methods: [MethodRef; 6] =
        [&CLS_ER, &Lwf::DEFAULT, &OnlineEwc::DEFAULT, &AGem, &GDumb, &DerPlusPlus::DEFAULT];
    for method in methods {
        for ranks in [1, 3] {
            let context = format!("{method}, {ranks} ranks");
            let directory = tempfile::tempdir().unwrap();
            let settings = kept(directory.path());
            let world = base.with(true, Events::default());
            let whole = run(&world, method, &settings, ranks);
            let saved = network(directory.path(), true);
            assert!(whole.complete);
            let passes = world.events.passes.lock().unwrap().len();

            // From the checkpoint between the second and the third task.
            let again = run(&base.with(true, Events::default()), method, &settings, ranks);
            assert_eq!(again.time.checkpoints.unwrap().resumed, 1, "{context}");
            assert_eq!(comparable(&again), comparable(&whole), "{context}");
            assert_eq!(network(directory.path(), true), saved, "{context}");

            // Stopped in the first, the second and the third task.
            for sixth in [1, 3, 5] {
                let directory = tempfile::tempdir().unwrap();
                let settings = kept(directory.path());
                let events = Events { stop_after: Some(passes * sixth / 6), ..Events::default() };
                let stopped = run(&base.with(true, events), method, &settings, ranks);
                assert!(!stopped.complete, "{context}");
                let resumed =
                    try_run(&base.with(true, Events::default()), method, &settings, ranks);
                let resumed = resumed.into_iter().next().unwrap();
                let resumed = resumed.unwrap_or_else(|e| panic!("{context}, {sixth}/6: {e}"));
                assert_eq!(resumed.time.checkpoints.unwrap().resumed, 1, "{context}");
                assert_eq!(comparable(&resumed), comparable(&whole), "{context}, {sixth}/6");
                assert_eq!(network(directory.path(), true), saved, "{context}");
            }
        }
    }
}

#[test]
fn a_run_stopped_in_any_step_resumes_with_the_same_bits() {
    // Three tasks of eight steps, with one pass in each.
    let base = World::new([8; CLASSES], 3);
    let whole = tempfile::tempdir().unwrap();
    let report = run(&base, &Lwf::DEFAULT, &kept(whole.path()), 1);
    let steps = base.events.passes.lock().unwrap().len();
    assert_eq!(steps, 24);
    for step in 1..=steps {
        let directory = tempfile::tempdir().unwrap();
        let settings = kept(directory.path());
        let events = Events { stop_after: Some(step), ..Events::default() };
        let stopped = run(&base.with(false, events), &Lwf::DEFAULT, &settings, 1);
        assert!(!stopped.complete, "step {step}");
        let resumed = run(&base.with(false, Events::default()), &Lwf::DEFAULT, &settings, 1);
        assert_eq!(comparable(&resumed), comparable(&report), "step {step}");
        let [found, expected] = [&directory, &whole].map(|path| network(path.path(), false));
        assert_eq!(found, expected, "step {step}");
    }
}

#[test]
fn ewc_keeps_its_state_on_another_number_of_ranks() {
    static STRICT: OnlineEwc = OnlineEwc { lambda: 30.0, gamma: 0.9 };
    static LAX: OnlineEwc = OnlineEwc { lambda: 0.0, gamma: 0.9 };
    let base = World::new([9; CLASSES], 3);
    // Mini-batches of 12 rows over all ranks.
    let run_on = |method: MethodRef, directory: &Path, ranks: usize| {
        let settings = kept(directory).with_batch_size(12 / ranks);
        run(&base.with(false, Events::default()), method, &settings, ranks)
    };
    let mut found = Vec::new();
    for method in [&STRICT, &LAX] {
        let directory = tempfile::tempdir().unwrap();
        run_on(method, directory.path(), 2);
        let whole = network(directory.path(), false);
        for ranks in [3, 1] {
            // Each run resumes from the checkpoint before the third task.
            let resumed = run_on(method, directory.path(), ranks);
            assert!(resumed.complete && !resumed.earlier_world_sizes.is_empty());
            assert_close(&network(directory.path(), false), &whole, 1e-4);
        }
        found.push(whole);
    }
    let far = found[0].iter().zip(&found[1]).any(|((_, strict), (_, lax))| {
        strict.iter().zip(lax).any(|(strict, lax)| (strict - lax).abs() > 0.02)
    });
    assert!(far, "the penalty must matter");
}

#[test]
fn gdumb_trains_on_the_stored_rows_only() {
    const EPOCHS: usize = 3;
    for ranks in [1, 3] {
        for capacity in [9, 100] {
            let world = World::new([8; CLASSES], 3);
            let settings = settings().with_epochs(EPOCHS).with_rehearsal(Some(buffer(capacity)));
            let report = run(&world, &GDumb, &settings, ranks);
            let networks = world.passes();
            assert_eq!(networks.len(), 3 * ranks, "a new network for every task");
            let mut trained = BTreeMap::new();
            for (task, networks) in networks.chunks(ranks).enumerate() {
                // The number of times that each row was trained on.
                trained.clear();
                for (number, class, drawn) in networks.iter().flatten().flatten() {
                    assert!(drawn, "an incoming row");
                    assert!((*class as usize) < 2 * (task + 1), "a class of a later task");
                    trained.entry(*number).or_insert((*class, 0)).1 += 1;
                }
                assert_eq!(trained.len(), capacity.min(16 * (task + 1)), "task {task}");
                assert!(trained.values().all(|(_, times)| *times == EPOCHS), "{trained:?}");
                if task < 2 {
                    continue;
                }
                // The quotas of classes that have not arrived are lent until then.
                let of = |class| trained.values().filter(|(found, _)| *found == class).count();
                let counts: Vec<_> = (0..CLASSES as i64).map(of).collect();
                let (least, most) = (counts.iter().min(), counts.iter().max());
                assert!(most.unwrap() - least.unwrap() <= 1, "{ranks} ranks: {counts:?}");
            }
            let stored: BTreeSet<i64> =
                world.events.stored.lock().unwrap().iter().copied().collect();
            assert_eq!(stored, trained.keys().copied().collect(), "{ranks} ranks");
            assert_eq!(report.buffer.unwrap().len as usize, stored.len());
        }
    }
}

#[test]
fn agem_draws_equal_shares_of_earlier_tasks_only() {
    for ranks in [1, 3] {
        for (tasks, capacity) in [(3, 12), (3, 8), (6, 20), (6, 8)] {
            let context = format!("{ranks} ranks, {tasks} tasks, {capacity} rows");
            let share = capacity / tasks;
            let world = World::new([8; CLASSES], tasks);
            // Each step draws all stored rows.
            let buffer = buffer(capacity).with_representatives(capacity);
            let settings = settings().with_batch_size(2).with_rehearsal(Some(buffer));
            let report = run(&world, &AGem, &settings, ranks);
            let per_task = CLASSES / tasks;
            for passes in world.passes() {
                let mut task = 0;
                let mut drawing = BTreeSet::new();
                for rows in &passes {
                    if !rows[0].2 {
                        task = rows[0].1 as usize / per_task;
                        assert!(rows.iter().all(|(_, _, drawn)| !drawn), "{context}");
                        continue;
                    }
                    let drawn: BTreeSet<i64> = rows.iter().map(|(number, ..)| *number).collect();
                    assert_eq!(drawn.len(), rows.len(), "{context}: a row twice");
                    // Classes are in the order of numbers, with 8 samples each.
                    let tasks: Vec<_> =
                        drawn.iter().map(|number| *number as usize / 8 / per_task).collect();
                    for earlier in tasks {
                        assert!(
                            earlier < task,
                            "{context}: a row of task {earlier} in task {task}"
                        );
                    }
                    assert_eq!(drawn.len(), task * share, "{context}: a draw in task {task}");
                    drawing.insert(task);
                }
                assert_eq!(drawing, (1..tasks).collect(), "{context}");
            }
            // The last task does not end before another one.
            assert_eq!(report.buffer.unwrap().len as usize, (tasks - 1) * share, "{context}");
        }
    }
}

/// The rank's part of the samples of a world, in mini-batches of 12 rows over all ranks.
fn loader(world: &World, rank: &Rank) -> Arc<dyn DataLoader<Batch>> {
    let all: Vec<usize> = (0..world.train.len()).collect();
    ShardedLoader::builder(Stack)
        .batch_size(12 / rank.size())
        .shuffle(5)
        .shard(rank)
        .set_device(Device::default().autodiff())
        .build(select(&world.train(), &all))
}

/// Two epochs of Burn's training with `method`, without a buffer. Returns the model of every rank.
fn trained(world: &World, method: MethodRef, ranks: usize) -> Vec<MethodModel<Net>> {
    let _watchdog = watchdog();
    let models = on_ranks(ranks, |_, link| {
        let rank = Rank::new(Box::new(link));
        let strategy = Arc::new(DataParallel::new(&rank).unwrap());
        let net = world.model(&Device::default().autodiff(), 1);
        let model = MethodModel::new(net, method).with_seed(9);
        let empty = ShardedLoader::builder(Stack).build(InMemDataset::new(Vec::new()));
        let training = SupervisedTraining::new("/nonexistent", loader(world, &rank), empty);
        let result = without_renderer(training)
            .num_epochs(2)
            .with_training_strategy(TrainingStrategy::Custom(strategy.clone()))
            .launch(Learner::new(model, world.optimizer(), 0.05));
        assert!(result.error.is_none());
        strategy.take_learner().unwrap().model()
    });
    models.into_iter().map(|model| model.unwrap()).collect()
}

/// The values whose path ends with `name`.
fn part(values: &Values, name: &str) -> Vec<f32> {
    let found = values.iter().filter(|(path, _)| path.ends_with(name));
    found.flat_map(|(_, values)| values.clone()).collect()
}

#[test]
fn the_averages_of_cls_er_do_not_depend_on_the_number_of_ranks() {
    let world = World::new([8; CLASSES], 3);
    let one = values(&trained(&world, &CLS_ER, 1)[0]);
    let [plastic, stable] = [0, 1].map(|i| part(&one, &format!("snapshots.values.{i}")));
    let network = [part(&one, "layer.weight"), part(&one, "layer.bias")].concat();
    assert_eq!(network.len(), plastic.len());
    let far = |a: &[f32], b: &[f32]| a.iter().zip(b).any(|(a, b)| (a - b).abs() > 0.01);
    assert!(far(&plastic, &network) && far(&stable, &network) && far(&plastic, &stable));
    for ranks in [2, 3] {
        let all: Vec<_> = trained(&world, &CLS_ER, ranks).iter().map(values).collect();
        all.iter().for_each(|values| assert_eq!(values, &all[0], "{ranks} ranks"));
        assert_close(&all[0], &one, 1e-5);
    }
}

/// The snapshots of a model after the end of a task, on every rank.
fn ended(world: &World, ranks: usize) -> Vec<Values> {
    let _watchdog = watchdog();
    let ends = on_ranks(ranks, |_, link| {
        let rank = Rank::new(Box::new(link));
        let net = world.model(&Device::default().autodiff(), 1);
        let model = MethodModel::new(net, &OnlineEwc::DEFAULT);
        model.begin_task(TaskInfo::default());
        let mut collective = rank.collective().unwrap();
        let model = model.end_task(&*loader(world, &rank), collective.as_mut()).unwrap();
        values(&model)
    });
    ends.into_iter().map(|end| end.unwrap()).collect()
}

#[test]
fn the_fisher_information_equals_the_formula_on_any_number_of_ranks() {
    // The last rank has fewer rows, and none in the last mini-batch.
    let world = World::new([5, 4, 4, 4, 4, 4], 3);
    let one = ended(&world, 1).remove(0);
    let (weight, bias) = (part(&one, "layer.weight"), part(&one, "layer.bias"));
    let mut expected = vec![0.0; weight.len() + bias.len()];
    for &(number, class) in &world.train {
        let x = input(number, class).map(f64::from);
        let score = |class: usize| {
            let products = (0..FEATURES).map(|i| x[i] * f64::from(weight[i * CLASSES + class]));
            (products.sum::<f64>() + f64::from(bias[class])).exp()
        };
        let total: f64 = (0..CLASSES).map(score).sum();
        let p = score(class as usize) / total;
        for other in 0..CLASSES {
            let gradient = f64::from(u8::from(other == class as usize)) - score(other) / total;
            for i in 0..FEATURES {
                expected[i * CLASSES + other] += p * (gradient * x[i]).powi(2);
            }
            expected[weight.len() + other] += p * gradient.powi(2);
        }
    }
    let rows = world.train.len() as f64;
    let found = part(&one, "snapshots.values.1");
    assert_eq!(found.len(), expected.len());
    for (found, sum) in found.iter().zip(&expected) {
        assert!((f64::from(*found) - sum / rows).abs() < 1e-6, "{found}, not {}", sum / rows);
    }
    assert_eq!(part(&one, "snapshots.values.0"), [weight, bias].concat());
    for ranks in [2, 3, 4] {
        let all = ended(&world, ranks);
        all.iter().for_each(|values| assert_eq!(values, &all[0], "all ranks have the same bits"));
        assert_close(&all[0], &one, 1e-6);
    }
}

#[test]
fn the_end_of_a_task_leaves_running_statistics_as_they_are() {
    let world = World::new([4; CLASSES], 3).with(true, Events::default());
    let before = values(&world.model(&Device::default().autodiff(), 1));
    for after in ended(&world, 2) {
        for name in ["norm.running_mean", "norm.running_var", "layer.weight"] {
            assert_eq!(part(&after, name), part(&before, name), "{name}");
        }
    }
}

#[test]
fn a_record_keeps_snapshots_and_the_number_of_updates() {
    let world = World::new([8; CLASSES], 3);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model");
    // Coins and decays of CLS-ER depend on the number of updates.
    let model = trained(&world, &CLS_ER, 1).remove(0);
    model.clone().save_file(&path).unwrap();
    let net = world.model(&Device::default().autodiff(), 2);
    let loaded = MethodModel::new(net, &CLS_ER).with_seed(9).load_file(&path);
    assert_eq!(values(&loaded), values(&model));

    let further = |model: MethodModel<Net>| {
        let mut learner = Learner::new(model, SgdConfig::new().init(), 0.05);
        learner.lr_step();
        for batch in loader(&world, &Rank::solo()).iter() {
            let output = learner.train_step(batch.unwrap());
            learner.optimizer_step(output.grads);
        }
        values(&learner.model())
    };
    let expected = further(model);
    assert_ne!(part(&expected, "snapshots.values.1"), part(&values(&loaded), "snapshots.values.1"));
    assert_eq!(further(loaded), expected);
}

#[test]
fn every_method_copes_with_fewer_rows_than_ranks() {
    // Tasks of 2 rows on 3 ranks, and more draws than rows stored.
    let world = World::new([1; CLASSES], 3);
    for method in methods::ALL {
        for result in try_run(&world, *method, &settings(), 3) {
            let report = result.unwrap_or_else(|error| panic!("{method}: {error}"));
            assert!(report.complete, "{method}");
        }
    }
}

#[test]
fn every_method_trains_in_half_precision() {
    let world = World::new([8; CLASSES], 3);
    for precision in [Precision::Bf16, Precision::F16] {
        let settings = settings().with_precision(precision);
        for method in methods::ALL {
            let report = run(&world, *method, &settings, 2);
            let finite = report.curves.iter().all(|point| point.train_loss.is_some());
            assert!(report.complete && finite, "{method} in {precision}: {:?}", report.curves);
        }
    }
}

#[test]
fn late_fields_stay_empty_with_a_method_that_stores_none() {
    #[derive(Debug)]
    struct Checked;
    impl Method for Checked {
        fn name(&self) -> &'static str {
            "checked"
        }
        fn summary(&self) -> &'static str {
            "Rehearsal that expects no stored logits"
        }
        fn rehearses(&self) -> bool {
            true
        }
        fn loss(&self, step: &Step<'_>) -> Tensor<1> {
            assert!(step.stored_logits(0).is_none());
            // Ignored: the buffer stores no late fields.
            let logits = step.logits(step.incoming());
            step.store_logits(logits);
            Rehearsal.loss(step)
        }
    }
    for ranks in [1, 3] {
        for lag in [0, 1] {
            let world = World::new([8; CLASSES], 3);
            let settings = settings().with_rehearsal(Some(buffer(12).with_lag(lag)));
            let report = run(&world, &Checked, &settings, ranks);
            assert_eq!((report.complete, report.buffer.unwrap().len), (true, 12));
            let drawn = |pass: &Vec<(i64, i64, bool)>| pass.iter().any(|(_, _, drawn)| *drawn);
            assert!(world.passes().concat().iter().any(drawn));
        }
    }
}

/// The error of a training of `method` with a buffer of this configuration, on every rank.
fn custom_loop(method: MethodRef, config: &RehearsalConfig, ranks: usize) -> Vec<Option<String>> {
    let _watchdog = watchdog();
    let world = World::new([8; CLASSES], 3);
    let errors = on_ranks(ranks, |_, link| {
        let rank = Rank::new(Box::new(link));
        let buffer = config.init_on::<Batch>(&rank).unwrap();
        let strategy = Arc::new(DataParallel::new(&rank).unwrap());
        let model = MethodModel::new(world.model(&Device::default().autodiff(), 1), method);
        let empty = ShardedLoader::builder(Stack).build(InMemDataset::new(Vec::new()));
        let train = buffer.attach(loader(&world, &rank));
        let training = SupervisedTraining::new("/nonexistent", train, empty);
        let result = without_renderer(training)
            .num_epochs(2)
            .with_training_strategy(TrainingStrategy::Custom(strategy))
            .launch(Learner::new(model, world.optimizer(), 0.05));
        result.error.map(|error| error.to_string())
    });
    errors.into_iter().map(|error| error.unwrap()).collect()
}

#[test]
fn a_loop_with_the_default_configuration_learns_of_the_mistake() {
    for ranks in [1, 3] {
        for error in custom_loop(&Rehearsal, &buffer(12), ranks) {
            let error = error.unwrap();
            assert!(
                error.contains("was not annotated") && error.contains("with_late_fields(false)"),
                "{error}"
            );
        }
        let methods: [MethodRef; 3] = [&Rehearsal, &Der::DEFAULT, &DerPlusPlus::DEFAULT];
        for method in methods {
            for error in custom_loop(method, &method.configured(buffer(12)), ranks) {
                assert_eq!(error, None, "{method}");
            }
        }
    }
}

#[test]
fn stored_logits_need_a_lag() {
    for ranks in [1, 3] {
        let settings = settings().with_rehearsal(Some(buffer(12).with_lag(0)));
        for error in errors(&World::new([8; CLASSES], 3), &Der::DEFAULT, &settings, ranks) {
            assert!(error.contains("late fields need a lag of at least 1"), "{error}");
        }
    }
}

#[test]
fn nan_scores_become_stored_logits_and_an_unknown_loss() {
    for ranks in [1, 3] {
        // From within the second task on.
        let after = if ranks == 1 { 25 } else { 36 };
        let events = Events { nan_after: Some(after), ..Events::default() };
        let world = World::new([8; CLASSES], 3).with(false, events);
        for result in try_run(&world, &Der::DEFAULT, &settings(), ranks) {
            let report = result.unwrap();
            assert!(report.complete);
            serde_json::to_string(&report).unwrap();
            if let Some(last) = report.curves.last() {
                assert_eq!(last.train_loss, None, "{ranks} ranks");
                assert!(report.curves[0].train_loss.is_some());
            }
        }
        assert!(*world.events.stored_nan.lock().unwrap(), "{ranks} ranks");
    }
}

/// A wrong use of late fields.
#[derive(Debug, Clone, Copy)]
enum Mistake {
    Never,
    Twice,
    Rows,
    Classes,
    Type,
}

/// A method that makes a mistake in the step with a row of the last class.
#[derive(Debug)]
struct Careless(Mistake);

impl Method for Careless {
    fn name(&self) -> &'static str {
        "careless"
    }

    fn summary(&self) -> &'static str {
        "Stores logits, with a mistake"
    }

    fn rehearses(&self) -> bool {
        true
    }

    fn stores_logits(&self) -> bool {
        true
    }

    fn loss(&self, step: &Step<'_>) -> Tensor<1> {
        let logits = step.logits(step.incoming());
        let wrong = ints(&step.targets(step.incoming())).contains(&(CLASSES as i64 - 1));
        match self.0 {
            _ if !wrong => step.store_logits(logits.clone()),
            Mistake::Never => {}
            Mistake::Twice => (0..2).for_each(|_| step.store_logits(logits.clone())),
            Mistake::Rows => step.store_logits(Tensor::cat(vec![logits.clone(); 2], 0)),
            Mistake::Classes => step.store_logits(Tensor::cat(vec![logits.clone(); 2], 1)),
            Mistake::Type => step.store_logits(logits.clone().cast(DType::F64)),
        }
        step.cross_entropy(logits, step.incoming())
    }
}

#[test]
fn a_wrong_annotation_is_an_error_on_every_rank() {
    static NEVER: Careless = Careless(Mistake::Never);
    static TWICE: Careless = Careless(Mistake::Twice);
    static ROWS: Careless = Careless(Mistake::Rows);
    static OTHER_CLASSES: Careless = Careless(Mistake::Classes);
    static TYPE: Careless = Careless(Mistake::Type);
    let cases: [(&Careless, &str); 5] = [
        (&NEVER, "the last mini-batch was not annotated"),
        (&TWICE, "annotated twice"),
        (&ROWS, "rows for the late field `logits`"),
        (&OTHER_CLASSES, "field `logits` changed between steps"),
        (&TYPE, "field `logits` changed between steps"),
    ];
    for ranks in [1, 3] {
        for (method, words) in cases {
            // The last class has one row, which one of the ranks gets in the last task.
            let world = World::new([8, 8, 8, 8, 8, 1], 3);
            let errors = errors(&world, method, &settings(), ranks);
            // The others quote the error of this rank.
            let own = |error: &String| error.contains(words) && !error.starts_with("rank ");
            let culprit = errors.iter().position(own);
            let culprit = culprit.unwrap_or_else(|| panic!("{method:?}: {errors:?}"));
            for (rank, error) in errors.iter().enumerate().filter(|(rank, _)| *rank != culprit) {
                assert!(
                    error.contains(&format!("rank {culprit} failed")),
                    "{method:?}, rank {rank} of {ranks}: {error}"
                );
            }
        }
    }
}

#[test]
fn a_task_ends_without_a_mini_batch() {
    // An empty loader: the importance is that of no data.
    let world = World::new([1; CLASSES], 3);
    let model =
        MethodModel::new(world.model(&Device::default().autodiff(), 1), &OnlineEwc::DEFAULT);
    let empty = ShardedLoader::builder(Stack).build(InMemDataset::new(Vec::new()));
    let model = model.end_task(&*empty, &mut Solo::new()).unwrap();
    assert!(part(&values(&model), "snapshots.values.1").iter().all(|value| *value == 0.0));
}
