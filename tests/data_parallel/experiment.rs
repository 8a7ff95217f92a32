//! Runs of several tasks: the evaluated samples, and the learning rate of every step.
//!
//! The network has one parameter with a gradient of 1, so that its value shows the learning rates.
//! Its answers depend on the number of a sample.

use super::harness::on_ranks;
use burn::data::dataloader::batcher::Batcher;
use burn::data::dataset::{Dataset, InMemDataset};
use burn::module::{Module, Param};
use burn::optim::{ModuleOptimizer, SgdConfig};
use burn::tensor::{Device, Int, Tensor, TensorData};
use burn_rehearsal::checkpoint::Manifest;
use burn_rehearsal::{Capacity, RehearsalBatch, RehearsalConfig, RowLayout};
use burn_rehearsal_collective::Rank;
use burn_rehearsal_train::experiment::{Checkpoints, Experiment, Settings, Workload};
use burn_rehearsal_train::methods::{
    Classifier, Der, Incremental, LabeledBatch, Method, MethodRef, Rehearsal, Scratch, Step,
    TrainingData,
};
use burn_rehearsal_train::report::RunReport;
use burn_rehearsal_train::stream::{ClassIncremental, ClassOrder, TaskStream};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

const CLASSES: usize = 7;

/// The numbers of evaluated samples, by run.
static EVALUATED: Mutex<BTreeMap<usize, Vec<i64>>> = Mutex::new(BTreeMap::new());
/// The parameter in each step on each rank, by run.
static PARAMETERS: Mutex<BTreeMap<usize, Vec<f32>>> = Mutex::new(BTreeMap::new());
static RUNS: AtomicUsize = AtomicUsize::new(0);

#[derive(Debug, Clone, RehearsalBatch)]
struct Batch {
    #[rehearsal(id)]
    number: Tensor<1, Int>,
    #[rehearsal(class)]
    class: Tensor<1, Int>,
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
        Self { number: self.number.clone().slice(rows), ..self.clone() }
    }

    fn valid(self) -> Self {
        Self { number: self.number.inner(), ..self }
    }
}

#[derive(Debug, Clone)]
struct Stack;

impl Batcher<(i64, i64), Batch> for Stack {
    fn batch(&self, items: Vec<(i64, i64)>, device: &Device) -> Batch {
        let rows = items.len();
        let (numbers, classes): (Vec<i64>, Vec<i64>) = items.into_iter().unzip();
        let tensor = |values| Tensor::from_data(TensorData::new(values, [rows]), device);
        Batch { number: tensor(numbers), class: tensor(classes), rows: RowLayout::default() }
    }
}

#[derive(Module, Debug)]
struct Probe {
    parameter: Param<Tensor<1>>,
    run: usize,
}

fn integers(tensor: &Tensor<1, Int>) -> Vec<i64> {
    tensor.to_data().convert::<i64>().try_into_vec().unwrap()
}

impl Probe {
    /// Scores in which the class of sample n has rank n mod 7, counted from 0.
    fn answer(&self, batch: &Batch) -> Tensor<2> {
        let (numbers, classes) = (integers(&batch.number), integers(&batch.class));
        let scores: Vec<f32> = numbers
            .iter()
            .zip(classes)
            .flat_map(|(number, class)| {
                let mut better = number % CLASSES as i64;
                (0..CLASSES as i64).map(move |other| {
                    if other == class {
                        return 0.0;
                    }
                    better -= 1;
                    if better >= 0 { 1.0 } else { -1.0 }
                })
            })
            .collect();
        Tensor::from_data(TensorData::new(scores, [numbers.len(), CLASSES]), &batch.class.device())
    }
}

impl Classifier for Probe {
    type Batch = Batch;

    fn logits(&self, batch: Batch) -> Tensor<2> {
        let parameter = self.parameter.val();
        if parameter.device().is_autodiff() {
            PARAMETERS
                .lock()
                .unwrap()
                .entry(self.run)
                .or_default()
                .push(parameter.clone().into_scalar());
        } else {
            EVALUATED.lock().unwrap().entry(self.run).or_default().extend(integers(&batch.number));
        }
        self.answer(&batch) + parameter.unsqueeze()
    }
}

/// A method whose loss is the mean score, so that the gradient of the probe's parameter is 1.
#[derive(Debug)]
struct MeanScore(MethodRef);

impl Method for MeanScore {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn summary(&self) -> &'static str {
        self.0.summary()
    }

    fn rehearses(&self) -> bool {
        self.0.rehearses()
    }

    fn training_data(&self) -> TrainingData {
        self.0.training_data()
    }

    fn loss(&self, step: &Step<'_>) -> Tensor<1> {
        step.logits(step.all()).mean()
    }
}

const INCREMENTAL: MethodRef = &MeanScore(&Incremental);
const REHEARSAL: MethodRef = &MeanScore(&Rehearsal);
const SCRATCH: MethodRef = &MeanScore(&Scratch);

/// Samples that consist of a number and a class.
struct Numbers {
    train: Vec<(i64, i64)>,
    test: Vec<(i64, i64)>,
    stream: ClassIncremental,
    run: usize,
}

impl Numbers {
    /// Three tasks of 3, 2 and 2 classes. `train` and `test` are the numbers of samples of each
    /// class.
    fn new(train: [usize; CLASSES], test: [usize; CLASSES]) -> Self {
        let samples = |counts: [usize; CLASSES]| -> Vec<(i64, i64)> {
            let classes = counts
                .into_iter()
                .enumerate()
                .flat_map(|(class, count)| std::iter::repeat_n(class as i64, count));
            classes.enumerate().map(|(number, class)| (number as i64, class)).collect()
        };
        let (train, test) = (samples(train), samples(test));
        let labels = |samples: &[(i64, i64)]| {
            samples.iter().map(|(_, class)| *class as usize).collect::<Vec<_>>()
        };
        let stream =
            ClassIncremental::new(&labels(&train), &labels(&test), CLASSES, 3, ClassOrder::Fixed)
                .unwrap();
        Self { train, test, stream, run: RUNS.fetch_add(1, Ordering::Relaxed) }
    }
}

impl Workload for Numbers {
    type Item = (i64, i64);
    type Batch = Batch;
    type Batcher = Stack;
    type Model = Probe;

    fn train(&self) -> Arc<dyn Dataset<(i64, i64)>> {
        Arc::new(InMemDataset::new(self.train.clone()))
    }

    fn test(&self) -> Arc<dyn Dataset<(i64, i64)>> {
        Arc::new(InMemDataset::new(self.test.clone()))
    }

    fn stream(&self) -> &dyn TaskStream {
        &self.stream
    }

    fn batcher(&self) -> Stack {
        Stack
    }

    fn model(&self, device: &Device, _seed: u64) -> Probe {
        Probe { parameter: Param::from_tensor(Tensor::zeros([1], device)), run: self.run }
    }

    fn optimizer(&self) -> ModuleOptimizer {
        SgdConfig::new().init()
    }
}

fn settings() -> Settings {
    let rehearsal = RehearsalConfig::new(Capacity::Samples(8))
        .with_candidates(2)
        .with_representatives(2)
        .with_classes(Some(CLASSES));
    Settings::new()
        .with_batch_size(4)
        .with_rehearsal(Some(rehearsal))
        .with_learning_rate(0.5)
        .with_seed(1)
}

/// The reports of all ranks.
fn run(workload: &Numbers, method: MethodRef, settings: &Settings, ranks: usize) -> Vec<RunReport> {
    let reports = on_ranks(ranks, |_, link| {
        Experiment::new(workload, method, settings).run(&Rank::new(Box::new(link))).unwrap()
    });
    reports.into_iter().map(|report| report.unwrap()).collect()
}

#[test]
fn every_test_sample_is_evaluated_once_on_any_number_of_ranks() {
    // The tasks have 601 test samples, which is more than one mini-batch per rank, and 2 and 3,
    // which is fewer than the number of ranks.
    let test = [300, 1, 300, 1, 1, 2, 1];
    let of_tasks = [0..601, 601..603, 603..606];
    let share = |range: &std::ops::Range<usize>, places: usize| {
        range.clone().filter(|number| number % CLASSES < places).count() as f64 / range.len() as f64
    };
    let expected =
        |places| of_tasks.iter().map(|range| Some(share(range, places))).collect::<Vec<_>>();
    // A sample competes with the classes 0..3, 3..5 or 5..7 of its task, and lower classes have the
    // better scores.
    let task_il: Vec<_> =
        of_tasks.iter().zip([1, 4, 6]).map(|(range, places)| Some(share(range, places))).collect();
    for ranks in [1, 2, 4, 5] {
        let workload = Numbers::new([5; CLASSES], test);
        let settings = settings().with_evaluate_every(1).with_epochs(2);
        for (rank, report) in run(&workload, REHEARSAL, &settings, ranks).into_iter().enumerate() {
            for after in 0..3 {
                assert_eq!(report.accuracy.top1.rows()[after], expected(1), "{ranks} ranks");
                assert_eq!(report.accuracy.top5.rows()[after], expected(5), "{ranks} ranks");
                assert_eq!(report.accuracy.task_il.rows()[after], task_il, "{ranks} ranks");
            }
            assert_eq!(
                report.accuracy.initial_top1.unwrap(),
                expected(1).into_iter().flatten().collect::<Vec<_>>()
            );
            // Rank 0 also keeps the evaluations within a task.
            assert!(
                report.curves.len() == if rank == 0 { 6 } else { 0 }
                    && report.curves.iter().all(|point| point.top1 == expected(1)),
                "{:?}",
                report.curves
            );
        }
        let mut times = vec![0; 606];
        EVALUATED.lock().unwrap()[&workload.run]
            .iter()
            .for_each(|&number| times[number as usize] += 1);
        assert_eq!(
            times, [7; 606],
            "once before the first task and twice in each task, on {ranks} ranks"
        );
    }
}

#[test]
fn every_task_restarts_the_schedule_with_its_own_epochs() {
    for (method, keep_optimizer) in
        [(INCREMENTAL, false), (INCREMENTAL, true), (REHEARSAL, true), (SCRATCH, false)]
    {
        let settings = settings()
            .with_epochs(4)
            .with_warmup_epochs(1.0)
            .with_milestones(vec![(2.0, 0.5), (3.0, 0.125)])
            .with_scale_cap(64.0)
            .with_keep_optimizer(keep_optimizer);
        // With two ranks of 4 rows, 24, 16 and 16 samples are 3, 2 and 2 steps per epoch.
        let workload = Numbers::new([8; CLASSES], [1; CLASSES]);
        run(&workload, method, &settings, 2);
        let steps: [u64; 3] = if method.restarts() { [3, 5, 7] } else { [3, 2, 2] };
        let rates = steps.iter().flat_map(|&steps| {
            let warm = (0..steps).map(move |step| 0.5 + 0.5 * step as f64 / steps as f64);
            let then =
                [1.0, 0.5, 0.125].into_iter().flat_map(move |rate| (0..steps).map(move |_| rate));
            warm.chain(then)
        });
        let mut expected = Vec::new();
        let mut parameter = 0.0;
        let ends: Vec<u64> = steps
            .iter()
            .scan(0, |end, steps| {
                *end += 4 * steps;
                Some(*end)
            })
            .collect();
        for (step, rate) in rates.enumerate() {
            // Training from scratch starts every task with a new network.
            if method.restarts() && ends.contains(&(step as u64)) {
                parameter = 0.0;
            }
            expected.push(parameter);
            parameter -= rate;
        }
        let seen = &PARAMETERS.lock().unwrap()[&workload.run];
        // Both ranks have the same parameter in each step.
        let seen: Vec<f32> = seen
            .chunks(2)
            .map(|both| {
                assert_eq!(both[0], both[1]);
                both[0]
            })
            .collect();
        assert_eq!(seen.len(), expected.len(), "{method}, {keep_optimizer}");
        let far = seen
            .iter()
            .zip(&expected)
            .position(|(seen, expected)| (f64::from(*seen) - expected).abs() > 1e-4);
        assert_eq!(far, None, "{method}, {keep_optimizer}: {seen:?}, expected {expected:?}");
    }
}

/// The errors of a run in which each rank has its own settings.
fn failures(
    of_rank: impl Fn(usize) -> (Numbers, MethodRef, Settings) + Sync,
    ranks: usize,
) -> Vec<String> {
    let errors = on_ranks(ranks, |rank, link| {
        let (workload, method, settings) = of_rank(rank);
        Experiment::new(&workload, method, &settings)
            .run(&Rank::new(Box::new(link)))
            .unwrap_err()
            .to_string()
    });
    errors.into_iter().map(|error| error.unwrap()).collect()
}

#[test]
fn different_settings_or_data_are_named_on_every_rank() {
    type Change = fn(&mut Settings, &mut MethodRef);
    let cases: [(Change, &str); 6] = [
        (|settings, _| settings.epochs = 2, "epochs is 1 on ranks 0, 2 and 2 on rank 1"),
        (|settings, _| settings.batch_size = 2, "batch_size is 4 on ranks 0, 2 and 2 on rank 1"),
        (|_, method| *method = SCRATCH, "method is rehearsal on ranks 0, 2 and scratch on rank 1"),
        (
            |settings, _| settings.milestones = vec![(1.0, 0.5)],
            "milestones is [] on ranks 0, 2 and [[1.0,0.5]] on rank 1",
        ),
        (
            |settings, _| settings.evaluate_every = 1,
            "evaluate_every is 0 on ranks 0, 2 and 1 on rank 1",
        ),
        (
            |settings, _| settings.rehearsal.as_mut().unwrap().lag = 2,
            "rehearsal.lag is 1 on ranks 0, 2 and 2 on rank 1",
        ),
    ];
    let numbers = || Numbers::new([3; CLASSES], [1; CLASSES]);
    for (change, words) in cases {
        let of_rank = |rank| {
            let (mut settings, mut method) = (settings(), REHEARSAL);
            if rank == 1 {
                change(&mut settings, &mut method);
            }
            (numbers(), method, settings)
        };
        failures(of_rank, 3).iter().for_each(|error| assert!(error.contains(words), "{error}"));
    }
    for method in [INCREMENTAL, SCRATCH, REHEARSAL] {
        let one_less = |rank| {
            (
                Numbers::new([3 - usize::from(rank == 1), 3, 3, 3, 3, 3, 3], [1; CLASSES]),
                method,
                settings(),
            )
        };
        for error in failures(one_less, 2) {
            assert!(
                error.contains("data of rank 1 differs")
                    && error.contains("training samples is 21 on rank 0 and 20 on rank 1"),
                "{error}"
            );
        }
    }
    // The same number of samples in another order.
    let other_tasks = |rank| {
        let mut numbers = numbers();
        if rank == 1 {
            let labels: Vec<_> = numbers.train.iter().map(|(_, class)| *class as usize).collect();
            let tests: Vec<_> = numbers.test.iter().map(|(_, class)| *class as usize).collect();
            numbers.stream =
                ClassIncremental::new(&labels, &tests, CLASSES, 3, ClassOrder::Seeded(4)).unwrap();
        }
        (numbers, INCREMENTAL, settings())
    };
    failures(other_tasks, 2)
        .iter()
        .for_each(|error| assert!(error.contains("the order of arrival is 3 tasks"), "{error}"));
}

#[test]
fn a_method_that_stores_logits_needs_a_late_field() {
    for ranks in [1, 3] {
        let run =
            |_| (Numbers::new([3; CLASSES], [1; CLASSES]), &Der::DEFAULT as MethodRef, settings());
        for error in failures(run, ranks) {
            assert!(error.contains("`der` stores logits"), "{error}");
            assert!(error.contains("no late field"), "{error}");
        }
    }
}

#[test]
fn a_run_resumes_from_a_checkpoint_without_task_il() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("checkpoints");
    let checkpoints = Checkpoints { directory: path.clone(), every: None, keep: 1, resume: true };
    let settings = settings().with_checkpoints(Some(checkpoints));
    let workload = Numbers::new([3; CLASSES], [2; CLASSES]);
    let whole = run(&workload, REHEARSAL, &settings, 2).remove(0);
    // The last checkpoint is that before the third task.
    let checkpoint = std::fs::read_dir(&path).unwrap().next().unwrap().unwrap().path();
    let manifest = Manifest::read(&checkpoint, "run").unwrap();
    let mut state: serde_json::Value = manifest.state().unwrap();
    state["accuracy"].as_object_mut().unwrap().remove("task_il").unwrap();
    let older = Manifest::new("run", manifest.files().to_vec(), &state).unwrap();
    older.write(&checkpoint).unwrap();

    let resumed = run(&workload, REHEARSAL, &settings, 2).remove(0);
    assert_eq!(resumed.time.checkpoints.unwrap().resumed, 1);
    assert_eq!(resumed.accuracy.top1, whole.accuracy.top1);
    assert_eq!(resumed.summary.average_task_il, whole.summary.average_task_il);
    let [first, second, third] = resumed.accuracy.task_il.rows() else { panic!("three tasks") };
    assert_eq!([first, second], [&vec![None; 3]; 2]);
    assert_eq!(third, &whole.accuracy.task_il.rows()[2]);
}

#[test]
fn a_run_resumes_only_with_its_own_data() {
    let directory = tempfile::tempdir().unwrap();
    let checkpoints = Checkpoints {
        directory: directory.path().join("checkpoints"),
        every: None,
        keep: 1,
        resume: true,
    };
    for method in [INCREMENTAL, SCRATCH, REHEARSAL] {
        let kept = settings().with_checkpoints(Some(checkpoints.clone()));
        run(&Numbers::new([3; CLASSES], [1; CLASSES]), method, &kept, 2);
        let other = |_| (Numbers::new([3, 3, 3, 3, 3, 3, 4], [1; CLASSES]), method, kept.clone());
        for (rank, error) in failures(other, 2).iter().enumerate() {
            assert!(
                error.contains("the number of training samples was 21 and is 22"),
                "rank {rank}: {error}"
            );
        }
        // A new run may replace the checkpoints of an earlier one.
        let fresh =
            kept.with_checkpoints(Some(Checkpoints { resume: false, ..checkpoints.clone() }));
        run(&Numbers::new([4; CLASSES], [1; CLASSES]), method, &fresh, 2);
        std::fs::remove_dir_all(&checkpoints.directory).unwrap();
    }
}
