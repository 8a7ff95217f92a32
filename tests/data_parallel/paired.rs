//! Guarantee 10 of docs/ARCHITECTURE.md for training: every replayed row has exactly the logits
//! that the network gave its sample in the step that stored it.
//!
//! The scores of a row are the digits of the sample's number, the parameter, and a sum of both. The
//! parameter changes by about 1 in every update. Every sample arrives once per run, so the logits
//! of another sample and of another step are both detected. Each rank records its incoming rows and
//! its drawn rows. They are compared after the run, because most drawn rows come from other ranks.

use burn::data::dataloader::DataLoader;
use burn::data::dataloader::batcher::Batcher;
use burn::data::dataset::{Dataset, InMemDataset};
use burn::module::{Module, Param};
use burn::optim::{ModuleOptimizer, SgdConfig};
use burn::tensor::{DType, Device, FloatDType, Int, Tensor, TensorData};
use burn::train::{Interrupter, Learner, SupervisedTraining, TrainingStrategy};
use burn_rehearsal::{
    Capacity, Execution, RehearsalBatch, RehearsalConfig, RowLayout, ShardedLoader, StorePreference,
};
use burn_rehearsal_collective::{Collective, CollectiveExt, Rank};
use burn_rehearsal_testing::world;
use burn_rehearsal_train::data_parallel::{DataParallel, Precision, without_renderer};
use burn_rehearsal_train::experiment::{Checkpoints, Experiment, Observer, Settings, Workload};
use burn_rehearsal_train::methods::{Classifier, LabeledBatch, Method, MethodModel, Step};
use burn_rehearsal_train::stream::{ClassIncremental, ClassOrder, TaskStream};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tempfile::TempDir;

const CLASSES: usize = 4;
/// Samples of each class.
const PER_CLASS: usize = 55;
const TASKS: usize = 2;
/// Incoming rows per rank and step. The last step of a task is uneven on several ranks.
const ROWS: usize = 4;
/// The loss is multiplied by its inverse, because the gradient must be small enough for `f16`.
const RATE: f64 = 16.0;

/// The scores of a row: both digits of its number to the base 128, the parameter, and the sum of
/// the second digit and the parameter.
type Scores = [f32; CLASSES];

/// A sample: its number and its class.
type Sample = (i64, i64);

/// All training samples.
fn samples() -> Vec<Sample> {
    (0..CLASSES * PER_CLASS).map(|number| (number as i64, (number / PER_CLASS) as i64)).collect()
}

fn number(scores: &Scores) -> i64 {
    (scores[0] * 128.0 + scores[1]) as i64
}

/// The scores of the samples with these numbers.
fn scores(numbers: &Tensor<1, Int>, parameter: Tensor<1>) -> Tensor<2> {
    let digits: Vec<f32> = numbers
        .to_data()
        .iter::<i64>()
        .flat_map(|number| [number / 128, number % 128, 0, number % 128])
        .map(|digit| digit as f32)
        .collect();
    let (rows, device) = (digits.len() / CLASSES, parameter.device());
    let digits = Tensor::from_data(TensorData::new(digits, [rows, CLASSES]), (&device, DType::F32));
    let share = Tensor::from_data([[0.0f32, 0.0, 1.0, 1.0]], (&device, DType::F32));
    digits + share * parameter.cast(FloatDType::F32).unsqueeze()
}

fn rows_of(scores: &Tensor<2>) -> Vec<Scores> {
    let values: Vec<f32> = scores.to_data().iter::<f32>().collect();
    values.chunks_exact(CLASSES).map(|row| row.try_into().unwrap()).collect()
}

#[derive(Debug, Clone)]
pub struct Stack;

/// A workload whose stored logits have one element type.
trait Kind: Workload<Item = Sample, Batch: fmt::Debug, Batcher = Stack> + 'static {
    const DTYPE: DType;
    fn new() -> Self;
}

macro_rules! kind {
    ($module:ident, $dtype:ident, $($late:tt)+) => {
        mod $module {
            use super::*;

            #[derive(RehearsalBatch, Clone, Debug)]
            pub struct Batch {
                #[rehearsal(id)]
                pub number: Tensor<1, Int>,
                #[rehearsal(class)]
                pub class: Tensor<1, Int>,
                #[rehearsal($($late)+)]
                pub logits: Option<Tensor<2>>,
                #[rehearsal(layout)]
                pub rows: RowLayout<Self>,
            }

            impl LabeledBatch for Batch {
                fn targets(&self) -> Tensor<1, Int> {
                    self.class.clone()
                }

                fn layout(&self) -> &RowLayout<Self> {
                    &self.rows
                }

                fn select(&self, rows: Range<usize>) -> Self {
                    Self { number: self.number.clone().slice(rows), ..self.clone() }
                }

                fn valid(self) -> Self {
                    Self { number: self.number.inner(), ..self }
                }

                fn stored_logits(&self) -> Option<Tensor<2>> {
                    self.logits.clone()
                }

                fn store_logits(&self, logits: Tensor<2>) {
                    self.rows.annotate(BatchLate { logits });
                }
            }

            impl Batcher<Sample, Batch> for Stack {
                fn batch(&self, items: Vec<Sample>, device: &Device) -> Batch {
                    let rows = items.len();
                    let (numbers, classes): (Vec<i64>, Vec<i64>) = items.into_iter().unzip();
                    let ints = |values| Tensor::from_data(TensorData::new(values, [rows]), device);
                    Batch {
                        number: ints(numbers),
                        class: ints(classes),
                        logits: None,
                        rows: RowLayout::default(),
                    }
                }
            }

            #[derive(Module, Debug)]
            pub struct Probe {
                pub parameter: Param<Tensor<1>>,
            }

            impl Classifier for Probe {
                type Batch = Batch;

                fn logits(&self, batch: Batch) -> Tensor<2> {
                    scores(&batch.number, self.parameter.val())
                }
            }

            pub struct Numbers(ClassIncremental);

            impl Workload for Numbers {
                type Item = Sample;
                type Batch = Batch;
                type Batcher = Stack;
                type Model = Probe;

                fn train(&self) -> Arc<dyn Dataset<Sample>> {
                    Arc::new(InMemDataset::new(samples()))
                }

                fn test(&self) -> Arc<dyn Dataset<Sample>> {
                    Arc::new(InMemDataset::new(
                        (0..CLASSES as i64).map(|class| (class, class)).collect(),
                    ))
                }

                fn stream(&self) -> &dyn TaskStream {
                    &self.0
                }

                fn batcher(&self) -> Stack {
                    Stack
                }

                fn model(&self, device: &Device, _seed: u64) -> Probe {
                    Probe { parameter: Param::from_tensor(Tensor::zeros([1], device)) }
                }

                fn optimizer(&self) -> ModuleOptimizer {
                    SgdConfig::new().init()
                }
            }

            impl Kind for Numbers {
                const DTYPE: DType = DType::$dtype;

                fn new() -> Self {
                    let train: Vec<usize> =
                        samples().iter().map(|(_, class)| *class as usize).collect();
                    let test: Vec<usize> = (0..CLASSES).collect();
                    let order = ClassOrder::Fixed;
                    Self(ClassIncremental::new(&train, &test, CLASSES, TASKS, order).unwrap())
                }
            }
        }
    };
}

kind!(kept, F32, late);
kind!(single, F32, late(f32));
kind!(half, F16, late(f16));
kind!(brain, BF16, late(bf16));

/// A mistake in what a method stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// Stores the logits of the next row.
    Row,
    /// Stores the logits of the next step.
    Step,
}

impl Fault {
    fn apply(self, logits: Tensor<2>) -> Tensor<2> {
        match self {
            Self::None => logits,
            Self::Row => logits.roll_dim(1, 0),
            Self::Step => {
                let device = logits.device();
                logits - Tensor::from_data([[0.0f32, 0.0, 1.0, 1.0]], (&device, DType::F32))
            }
        }
    }
}

/// A drawn row.
#[derive(Debug, Clone, PartialEq)]
struct Drawn {
    class: i64,
    stored: Scores,
    dtype: DType,
    /// The scores of the row in this step.
    now: Scores,
}

/// The rows of one rank.
#[derive(Debug, Clone, Default, PartialEq)]
struct Record {
    rank: usize,
    steps: usize,
    incoming: Vec<Scores>,
    drawn: Vec<Drawn>,
}

/// A method that records all rows on one rank.
struct Recorder {
    draws: usize,
    fault: Fault,
    /// The step in which the run is stopped. It ends with the next step.
    stop_at: Option<usize>,
    interrupter: Mutex<Interrupter>,
    record: Mutex<Record>,
}

impl Recorder {
    /// Experiments take static references.
    fn leak(draws: usize, fault: Fault, stop_at: Option<usize>) -> &'static Self {
        let (interrupter, record) = Default::default();
        Box::leak(Box::new(Self { draws, fault, stop_at, interrupter, record }))
    }

    fn take(&self, rank: usize) -> Record {
        Record { rank, ..std::mem::take(&mut *self.record.lock().unwrap()) }
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Recorder")
    }
}

impl Observer for Recorder {
    fn interrupter(&self, interrupter: &Interrupter) {
        *self.interrupter.lock().unwrap() = interrupter.clone();
    }
}

impl Method for Recorder {
    fn name(&self) -> &'static str {
        "recorder"
    }

    fn summary(&self) -> &'static str {
        "Records incoming and drawn rows"
    }

    fn rehearses(&self) -> bool {
        true
    }

    fn draws(&self) -> usize {
        self.draws
    }

    fn stores_logits(&self) -> bool {
        true
    }

    fn loss(&self, step: &Step<'_>) -> Tensor<1> {
        let mut record = self.record.lock().unwrap();
        record.steps += 1;
        if self.stop_at == Some(record.steps) {
            self.interrupter.lock().unwrap().stop(Some("the test stops the run"));
        }
        let logits = step.logits(step.incoming());
        record.incoming.extend(rows_of(&logits));
        step.store_logits(self.fault.apply(logits.clone()));
        for draw in 0..self.draws {
            let rows = step.draw(draw);
            let Some(stored) = step.stored_logits(draw) else {
                assert!(rows.is_empty(), "rows without stored logits");
                continue;
            };
            assert_eq!(stored.dims(), [rows.len(), CLASSES]);
            let classes: Vec<i64> = step.targets(rows.clone()).to_data().iter::<i64>().collect();
            let now = rows_of(&step.logits(rows));
            for ((class, stored_row), now) in classes.into_iter().zip(rows_of(&stored)).zip(now) {
                let (stored, dtype) = (stored_row, stored.dtype());
                record.drawn.push(Drawn { class, stored, dtype, now });
            }
        }
        // The gradient of the parameter is 1 / RATE, whatever the rows.
        let parameter = logits.slice([0..1, 2..3]).reshape([1]);
        parameter / RATE
    }
}

/// These values in the element type of stored logits.
fn rounded(scores: &Scores, dtype: DType) -> Scores {
    let data = TensorData::new(scores.to_vec(), [CLASSES]).convert_dtype(dtype);
    let values: Vec<f32> = data.iter::<f32>().collect();
    values.try_into().unwrap()
}

/// Checks the records of all ranks. Returns the number of drawn rows, and of those among them that
/// another rank has stored.
fn check(records: &[Record], dtype: DType) -> Result<[usize; 2], String> {
    let mut given = BTreeMap::new();
    for record in records {
        for scores in &record.incoming {
            if given.insert(number(scores), (record.rank, *scores)).is_some() {
                return Err(format!("sample {} arrives twice", number(scores)));
            }
        }
    }
    let mut counts = [0; 2];
    for record in records {
        for drawn in &record.drawn {
            let sample = number(&drawn.now);
            let (stored_by, scores) = given
                .get(&sample)
                .ok_or_else(|| format!("sample {sample} is drawn, and never arrived"))?;
            let (expected, class) = (rounded(scores, dtype), sample / PER_CLASS as i64);
            if (drawn.stored, drawn.class, drawn.dtype) != (expected, class, dtype) {
                return Err(format!(
                    "sample {sample} has the stored logits {:?} ({:?}) and class {}, not \
                     {expected:?} ({dtype:?}) and class {class}",
                    drawn.stored, drawn.dtype, drawn.class
                ));
            }
            counts[0] += 1;
            counts[1] += usize::from(*stored_by != record.rank);
        }
    }
    Ok(counts)
}

/// Whether a run is stopped and resumed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Plain,
    Resumed,
    ResumedOnOtherRanks,
}

/// A combination of options.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Case {
    ranks: usize,
    store: StorePreference,
    /// Whether the capacity is far below the number of samples.
    evicts: bool,
    life: Life,
    precision: Precision,
    /// The index of the element type of stored logits.
    kind: usize,
    draws: usize,
    execution: Execution,
}

/// The number of values of each option of a [`Case`].
const VALUES: [usize; 8] = [4, 2, 2, 3, 3, 4, 2, 2];

/// Cases in which every pair of values of two options occurs.
const PAIRWISE: [[usize; 8]; 17] = [
    [0, 0, 0, 0, 0, 3, 0, 0],
    [0, 0, 1, 1, 1, 2, 1, 1],
    [0, 0, 1, 1, 2, 1, 1, 0],
    [0, 1, 0, 2, 2, 1, 0, 1],
    [0, 1, 1, 0, 1, 0, 1, 1],
    [1, 0, 0, 1, 0, 1, 1, 1],
    [1, 0, 1, 0, 1, 3, 1, 1],
    [1, 1, 0, 0, 1, 2, 0, 0],
    [1, 1, 1, 2, 2, 0, 1, 1],
    [2, 0, 1, 0, 2, 2, 1, 1],
    [2, 1, 0, 1, 0, 0, 1, 0],
    [2, 1, 1, 2, 1, 1, 1, 0],
    [2, 1, 1, 2, 1, 3, 0, 0],
    [3, 0, 0, 1, 1, 0, 0, 1],
    [3, 0, 0, 1, 2, 3, 0, 0],
    [3, 0, 1, 2, 0, 2, 0, 0],
    [3, 1, 1, 0, 0, 1, 1, 1],
];

impl Case {
    fn new([ranks, store, capacity, life, precision, kind, draws, execution]: [usize; 8]) -> Self {
        Self {
            ranks: ranks + 1,
            store: [StorePreference::Host, StorePreference::Device][store],
            evicts: [true, false][capacity],
            life: [Life::Plain, Life::Resumed, Life::ResumedOnOtherRanks][life],
            precision: [Precision::F32, Precision::Bf16, Precision::F16][precision],
            kind,
            draws: draws + 1,
            execution: [Execution::Background, Execution::Inline][execution],
        }
    }

    /// The number of ranks on which the run ends.
    fn last_ranks(&self) -> usize {
        match self.life {
            Life::Plain | Life::Resumed => self.ranks,
            Life::ResumedOnOtherRanks => [2, 4, 1, 3][self.ranks - 1],
        }
    }

    fn capacity(&self) -> usize {
        if self.evicts { 20 } else { 1000 }
    }

    fn rehearsal(&self) -> RehearsalConfig {
        RehearsalConfig::new(Capacity::Samples(self.capacity()))
            .with_candidates(3)
            .with_representatives(3)
            .with_store(self.store)
            .with_execution(self.execution)
    }

    fn settings(&self, directory: Option<&Path>) -> Settings {
        let checkpoints = directory.map(|directory| Checkpoints {
            directory: directory.into(),
            every: None,
            keep: 1,
            resume: true,
        });
        Settings::new()
            .with_batch_size(ROWS)
            .with_rehearsal(Some(self.rehearsal()))
            .with_learning_rate(RATE)
            .with_precision(self.precision)
            .with_checkpoints(checkpoints)
            .with_seed(3)
    }

    /// Runs the case and checks all rows. Returns the number of drawn rows, and of those that
    /// another rank has stored.
    fn run(&self, fault: Fault) -> Result<[usize; 2], String> {
        match self.kind {
            0 => self.run_kind::<kept::Numbers>(fault),
            1 => self.run_kind::<single::Numbers>(fault),
            2 => self.run_kind::<half::Numbers>(fault),
            _ => self.run_kind::<brain::Numbers>(fault),
        }
    }

    fn run_kind<W: Kind>(&self, fault: Fault) -> Result<[usize; 2], String> {
        if self.life == Life::Plain {
            let records =
                world(self.ranks, |link| self.experiment::<W>(link, fault, None, None, true));
            return check(&records, W::DTYPE);
        }
        // In the second task, after six steps: on the other number of ranks, this is also the end
        // of a step, so that no sample arrives twice.
        let stop_at = (TASKS - 1) * (CLASSES / TASKS * PER_CLASS).div_ceil(ROWS * self.ranks) + 5;
        let directories = Directories::default();
        let mut records = world(self.ranks, |mut link| {
            let directory = directories.create(&mut *link);
            let stop_at = (link.rank() == 0).then_some(stop_at);
            self.experiment::<W>(link, fault, Some(&directory), stop_at, false)
        });
        records.extend(world(self.last_ranks(), |mut link| {
            let directory = directories.next(&mut *link);
            self.experiment::<W>(link, fault, Some(&directory), None, true)
        }));
        check(&records, W::DTYPE)
    }

    /// A run on one rank.
    fn experiment<W: Kind>(
        &self,
        link: Box<dyn Collective>,
        fault: Fault,
        directory: Option<&Path>,
        stop_at: Option<usize>,
        complete: bool,
    ) -> Record {
        let recorder = Recorder::leak(self.draws, fault, stop_at);
        let (workload, settings, rank) = (W::new(), self.settings(directory), Rank::new(link));
        let report = Experiment::new(&workload, recorder, &settings)
            .with_observer(recorder)
            .run(&rank)
            .unwrap();
        let stored = report.buffer.unwrap();
        assert_eq!(report.complete, complete);
        assert_eq!(stored.len == self.capacity() as u64, self.evicts, "{stored:?}");
        assert_eq!(stored.store, self.store.name());
        recorder.take(rank.rank())
    }
}

/// The directories for the checkpoints of a run: one of the threads, and one of the processes of an
/// MPI run that repeat it.
#[derive(Default)]
struct Directories {
    made: Mutex<Vec<(PathBuf, Option<TempDir>)>>,
    used: AtomicUsize,
}

impl Directories {
    /// A new directory, the same on all ranks.
    fn create(&self, link: &mut dyn Collective) -> PathBuf {
        let own = (link.rank() == 0).then(|| tempfile::tempdir().unwrap());
        let path = of_rank_0(link, own.as_ref().map(TempDir::path).unwrap_or(Path::new("")));
        let mut made = self.made.lock().unwrap();
        if own.is_some() || made.iter().all(|(other, _)| *other != path) {
            made.retain(|(other, _)| *other != path);
            made.push((path.clone(), own));
        }
        path
    }

    /// The directories in the order of their creation, the last one repeatedly.
    fn next(&self, link: &mut dyn Collective) -> PathBuf {
        let mut path = PathBuf::new();
        if link.rank() == 0 {
            let made = self.made.lock().unwrap();
            let next = self.used.fetch_add(1, Ordering::Relaxed).min(made.len() - 1);
            path.clone_from(&made[next].0);
        }
        of_rank_0(link, &path)
    }
}

fn of_rank_0(link: &mut dyn Collective, path: &Path) -> PathBuf {
    let path = path.to_str().unwrap().as_bytes();
    String::from_utf8(link.gather_bytes(path).unwrap().swap_remove(0)).unwrap().into()
}

/// Runs a case that must succeed.
fn holds(case: &Case) {
    let [drawn, foreign] =
        case.run(Fault::None).unwrap_or_else(|error| panic!("{case:?}: {error}"));
    assert!(drawn >= 140 * case.draws, "{case:?}: {drawn} rows");
    assert_eq!(foreign > 0, case.ranks > 1 || case.last_ranks() > 1, "{case:?}: {foreign} rows");
}

/// Runs the cases of [`PAIRWISE`]: all of them, or those that begin or end on a number of ranks.
pub(crate) fn replayed_rows_have_their_logits(on: Option<usize>) {
    for case in PAIRWISE.map(Case::new) {
        if on.is_none_or(|ranks| [case.ranks, case.last_ranks()].contains(&ranks)) {
            holds(&case);
        }
    }
}

#[test]
fn every_pair_of_options_occurs() {
    for first in 0..VALUES.len() {
        for second in 0..first {
            for a in 0..VALUES[first] {
                for b in 0..VALUES[second] {
                    let occurs = PAIRWISE.iter().any(|case| case[first] == a && case[second] == b);
                    assert!(occurs, "options {first} and {second} with values {a} and {b}");
                }
            }
        }
    }
}

/// If this variable is `all`, the tests run all combinations.
const VARIABLE: &str = "BURN_REHEARSAL_PAIRED";

#[test]
fn paired_rows_have_the_logits_of_the_step_that_stored_them() {
    if std::env::var_os(VARIABLE).is_none_or(|value| value != "all") {
        return replayed_rows_have_their_logits(None);
    }
    let combinations = VALUES.iter().product();
    for index in 0..combinations {
        let mut rest = index;
        let case = Case::new(VALUES.map(|values| {
            let value = rest % values;
            rest /= values;
            value
        }));
        holds(&case);
        if index % 100 == 99 || index + 1 == combinations {
            println!("{} of {combinations} combinations", index + 1);
        }
    }
}

#[test]
fn logits_of_the_next_row_or_step_are_detected() {
    for fault in [Fault::Row, Fault::Step] {
        for case in [PAIRWISE[0], PAIRWISE[1], PAIRWISE[8], PAIRWISE[16]].map(Case::new) {
            let error = case.run(fault).unwrap_err();
            assert!(error.contains("has the stored logits"), "{fault:?}, {case:?}: {error}");
        }
    }
}

/// One epoch of all samples with Burn's learner, on one rank.
fn learner(
    link: Box<dyn Collective>,
    draws: usize,
    accumulation: Option<usize>,
    data_parallel: bool,
) -> Record {
    let (recorder, rank) = (Recorder::leak(draws, Fault::None, None), Rank::new(link));
    let workload = kept::Numbers::new();
    let device = Device::default().autodiff();
    let model = MethodModel::new(workload.model(&device, 0), recorder);
    let config = model.configured(Case::new(PAIRWISE[0]).rehearsal());
    let buffer = config.init_on::<kept::Batch>(&rank).unwrap();
    let loader = |samples: Vec<Sample>| -> Arc<dyn DataLoader<kept::Batch>> {
        let loader = ShardedLoader::builder(Stack).batch_size(ROWS).shuffle(3).shard(&rank);
        loader.build(InMemDataset::new(samples))
    };
    let training = SupervisedTraining::new(
        "/nonexistent/never-written",
        buffer.attach(loader(samples())),
        loader(Vec::new()),
    );
    let mut training = without_renderer(training.num_epochs(1));
    if let Some(accumulation) = accumulation {
        training = training.grads_accumulation(accumulation);
    }
    if data_parallel {
        let strategy = Arc::new(DataParallel::new(&rank).unwrap());
        training = training.with_training_strategy(TrainingStrategy::Custom(strategy));
    }
    let result = training.launch(Learner::new(model, SgdConfig::new().init(), RATE));
    assert!(result.error.is_none(), "{:?}", result.error);
    // One update per group of steps.
    let steps = samples().len().div_ceil(ROWS * rank.size());
    let updates = steps.div_ceil(accumulation.unwrap_or(1));
    let parameter = result.model.network.parameter.val().into_scalar::<f32>();
    assert!((parameter + steps as f32).abs() < 1e-3, "{parameter} after {updates} updates");
    recorder.take(rank.rank())
}

#[test]
fn burns_learner_replays_rows_with_their_logits() {
    for (ranks, draws, accumulation, data_parallel) in [
        (1, 1, None, false),
        (1, 2, Some(4), false),
        (1, 2, None, true),
        (2, 1, Some(3), true),
        (3, 2, Some(4), true),
        (4, 1, None, true),
    ] {
        let records = world(ranks, |link| learner(link, draws, accumulation, data_parallel));
        let [drawn, foreign] = check(&records, DType::F32).unwrap();
        assert!(drawn > 150 * draws && (foreign > 0) == (ranks > 1), "{drawn} and {foreign} rows");
    }
}
