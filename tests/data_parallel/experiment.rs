//! Whole runs of several tasks: what is evaluated, and with which learning rate a step is made.
//!
//! The network has one parameter, whose gradient is 1, so that it says with which rate it was trained; what it answers depends on the sample's number.

use super::harness::on_ranks;
use burn::data::dataloader::batcher::Batcher;
use burn::data::dataset::{Dataset, InMemDataset};
use burn::module::{Module, Param};
use burn::optim::{ModuleOptimizer, SgdConfig};
use burn::tensor::{Device, Int, Tensor, TensorData};
use burn::train::renderer::MetricsRenderer;
use burn::train::{ClassificationOutput, InferenceStep, Interrupter, TrainOutput, TrainStep};
use burn_rehearsal::{Capacity, RehearsalBatch, RehearsalConfig};
use burn_rehearsal_train::data_parallel::{NoRenderer, Precision};
use burn_rehearsal_train::experiment::{Checkpoints, LaunchInfo, Observer, Settings, Workload, run_rank};
use burn_rehearsal_train::report::RunReport;
use burn_rehearsal_train::report::schema::Method;
use burn_rehearsal_train::stream::{ClassIncremental, ClassOrder, TaskStream};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

const CLASSES: usize = 7;

/// What the networks of all runs saw, by the run's number: the numbers of evaluated samples, and the parameter at each step on each rank.
static EVALUATED: Mutex<BTreeMap<usize, Vec<i64>>> = Mutex::new(BTreeMap::new());
static PARAMETERS: Mutex<BTreeMap<usize, Vec<f32>>> = Mutex::new(BTreeMap::new());
static RUNS: AtomicUsize = AtomicUsize::new(0);

#[derive(Debug, Clone, RehearsalBatch)]
struct Batch {
    #[rehearsal(id)]
    number: Tensor<1, Int>,
    #[rehearsal(class)]
    class: Tensor<1, Int>,
}

#[derive(Debug, Clone)]
struct Stack;

impl Batcher<(i64, i64), Batch> for Stack {
    fn batch(&self, items: Vec<(i64, i64)>, device: &Device) -> Batch {
        let rows = items.len();
        let (numbers, classes): (Vec<i64>, Vec<i64>) = items.into_iter().unzip();
        let tensor = |values| Tensor::from_data(TensorData::new(values, [rows]), device);
        Batch { number: tensor(numbers), class: tensor(classes) }
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
    /// The class of sample n is the (n mod 7)-th of the answers, counted from 0.
    fn answer(&self, batch: &Batch) -> ClassificationOutput {
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
        let output = Tensor::from_data(TensorData::new(scores, [numbers.len(), CLASSES]), &batch.class.device());
        ClassificationOutput::new(self.parameter.val().sum(), output, batch.class.clone())
    }
}

impl TrainStep for Probe {
    type Input = Batch;
    type Output = ClassificationOutput;

    fn step(&self, batch: Batch) -> TrainOutput<ClassificationOutput> {
        PARAMETERS.lock().unwrap().entry(self.run).or_default().push(self.parameter.val().into_scalar());
        let output = self.answer(&batch);
        TrainOutput::new(self, output.loss.backward(), output)
    }
}

impl InferenceStep for Probe {
    type Input = Batch;
    type Output = ClassificationOutput;

    fn step(&self, batch: Batch) -> ClassificationOutput {
        EVALUATED.lock().unwrap().entry(self.run).or_default().extend(integers(&batch.number));
        self.answer(&batch)
    }
}

/// Samples that are a number and a class.
struct Numbers {
    train: Vec<(i64, i64)>,
    test: Vec<(i64, i64)>,
    stream: ClassIncremental,
    run: usize,
}

impl Numbers {
    /// `train` and `test`: how many samples every class has. Three tasks, of 3, 2 and 2 classes.
    fn new(train: [usize; CLASSES], test: [usize; CLASSES]) -> Self {
        let samples = |counts: [usize; CLASSES]| -> Vec<(i64, i64)> {
            let classes = counts.into_iter().enumerate().flat_map(|(class, count)| std::iter::repeat_n(class as i64, count));
            classes.enumerate().map(|(number, class)| (number as i64, class)).collect()
        };
        let (train, test) = (samples(train), samples(test));
        let labels = |samples: &[(i64, i64)]| samples.iter().map(|(_, class)| *class as usize).collect::<Vec<_>>();
        let stream = ClassIncremental::new(&labels(&train), &labels(&test), CLASSES, 3, ClassOrder::Fixed).unwrap();
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

struct Unobserved;

impl Observer for Unobserved {
    fn renderer(&self, _launch: &LaunchInfo) -> Box<dyn MetricsRenderer> {
        Box::new(NoRenderer)
    }

    fn evaluated(&self, _task: usize, _top1: &[f64]) {}

    fn interrupter(&self, _interrupter: &Interrupter) {}
}

fn settings(method: Method) -> Settings {
    Settings {
        method,
        epochs: 1,
        batch_size: 4,
        rehearsal: RehearsalConfig::new(Capacity::Samples(8)).with_candidates(2).with_representatives(2).with_classes(Some(CLASSES)),
        learning_rate: 0.5,
        warmup_epochs: 0.0,
        milestones: Vec::new(),
        scale_cap: 1.0,
        keep_optimizer: false,
        seed: 1,
        workers: 1,
        precision: Precision::F32,
        evaluate_every: 0,
        profile: false,
        network: None,
        checkpoints: None,
    }
}

/// The reports of all ranks.
fn run(workload: &Numbers, settings: &Settings, ranks: usize) -> Vec<RunReport> {
    let reports = on_ranks(ranks, |_, link| {
        run_rank(workload, settings, serde_json::Value::Null, Box::new(link), &Device::default(), &Unobserved).unwrap()
    });
    reports.into_iter().map(|report| report.unwrap()).collect()
}

#[test]
fn every_test_sample_of_every_task_is_evaluated_once_whatever_the_number_of_ranks() {
    // The tasks have 601 (more than one mini-batch on each rank), 2 and 3 test samples: fewer than there are ranks.
    let test = [300, 1, 300, 1, 1, 2, 1];
    let of_tasks = [0..601, 601..603, 603..606];
    let share = |range: &std::ops::Range<usize>, places: usize| {
        range.clone().filter(|number| number % CLASSES < places).count() as f64 / range.len() as f64
    };
    let expected = |places| of_tasks.iter().map(|range| Some(share(range, places))).collect::<Vec<_>>();
    for ranks in [1, 2, 4, 5] {
        let workload = Numbers::new([5; CLASSES], test);
        for (rank, report) in
            run(&workload, &Settings { evaluate_every: 1, epochs: 2, ..settings(Method::Rehearsal) }, ranks).into_iter().enumerate()
        {
            for after in 0..3 {
                assert_eq!(report.accuracy.top1.rows()[after], expected(1), "{ranks} ranks");
                assert_eq!(report.accuracy.top5.rows()[after], expected(5), "{ranks} ranks");
            }
            assert_eq!(report.accuracy.initial_top1.unwrap(), expected(1).into_iter().flatten().collect::<Vec<_>>());
            // Within a task, too; rank 0 keeps the curves.
            assert!(
                report.curves.len() == if rank == 0 { 6 } else { 0 } && report.curves.iter().all(|point| point.top1 == expected(1)),
                "{:?}",
                report.curves
            );
        }
        let mut times = vec![0; 606];
        EVALUATED.lock().unwrap()[&workload.run].iter().for_each(|&number| times[number as usize] += 1);
        assert_eq!(times, [7; 606], "before the first task, and twice in each, on {ranks} ranks");
    }
}

#[test]
fn every_task_starts_the_schedule_again_and_its_epochs_are_those_of_its_own_samples() {
    for (method, keep_optimizer) in
        [(Method::Incremental, false), (Method::Incremental, true), (Method::Rehearsal, true), (Method::Scratch, false)]
    {
        let settings = Settings {
            epochs: 4,
            warmup_epochs: 1.0,
            milestones: vec![(2.0, 0.5), (3.0, 0.125)],
            scale_cap: 64.0,
            keep_optimizer,
            ..settings(method)
        };
        // 24, 16 and 16 samples: 3, 2 and 2 steps an epoch for two ranks with 4 rows each.
        let workload = Numbers::new([8; CLASSES], [1; CLASSES]);
        run(&workload, &settings, 2);
        let steps: [u64; 3] = if method == Method::Scratch { [3, 5, 7] } else { [3, 2, 2] };
        let rates = steps.iter().flat_map(|&steps| {
            let warm = (0..steps).map(move |step| 0.5 + 0.5 * step as f64 / steps as f64);
            let then = [1.0, 0.5, 0.125].into_iter().flat_map(move |rate| (0..steps).map(move |_| rate));
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
            // From scratch, every task starts with a new network.
            if method == Method::Scratch && ends.contains(&(step as u64)) {
                parameter = 0.0;
            }
            expected.push(parameter);
            parameter -= rate;
        }
        let seen = &PARAMETERS.lock().unwrap()[&workload.run];
        // Both ranks see the same at each step, in either order.
        let seen: Vec<f32> = seen
            .chunks(2)
            .map(|both| {
                assert_eq!(both[0], both[1]);
                both[0]
            })
            .collect();
        assert_eq!(seen.len(), expected.len(), "{method}, {keep_optimizer}");
        let far = seen.iter().zip(&expected).position(|(seen, expected)| (f64::from(*seen) - expected).abs() > 1e-4);
        assert_eq!(far, None, "{method}, {keep_optimizer}: {seen:?}, not {expected:?}");
    }
}

/// A run on every rank with settings of its own, which fails.
fn failures(of_rank: impl Fn(usize) -> (Numbers, Settings) + Sync, ranks: usize) -> Vec<String> {
    let errors = on_ranks(ranks, |rank, link| {
        let (workload, settings) = of_rank(rank);
        let run = run_rank(&workload, &settings, serde_json::Value::Null, Box::new(link), &Device::default(), &Unobserved);
        run.unwrap_err().to_string()
    });
    errors.into_iter().map(|error| error.unwrap()).collect()
}

#[test]
fn settings_and_data_that_differ_between_ranks_are_named_on_every_rank() {
    type Change = fn(&mut Settings);
    let cases: [(Change, &str); 6] = [
        (|settings| settings.epochs = 2, "epochs is 1 on ranks 0, 2 and 2 on rank 1"),
        (|settings| settings.batch_size = 2, "batch_size is 4 on ranks 0, 2 and 2 on rank 1"),
        (|settings| settings.method = Method::Scratch, "method is rehearsal on ranks 0, 2 and scratch on rank 1"),
        (|settings| settings.milestones = vec![(1.0, 0.5)], "milestones is [] on ranks 0, 2 and [[1.0,0.5]] on rank 1"),
        (|settings| settings.evaluate_every = 1, "evaluate_every is 0 on ranks 0, 2 and 1 on rank 1"),
        (|settings| settings.rehearsal.lag = 2, "rehearsal.lag is 1 on ranks 0, 2 and 2 on rank 1"),
    ];
    let numbers = || Numbers::new([3; CLASSES], [1; CLASSES]);
    for (change, words) in cases {
        let of_rank = |rank| {
            let mut settings = settings(Method::Rehearsal);
            if rank == 1 {
                change(&mut settings);
            }
            (numbers(), settings)
        };
        failures(of_rank, 3).iter().for_each(|error| assert!(error.contains(words), "{error}"));
    }
    for method in [Method::Incremental, Method::Scratch, Method::Rehearsal] {
        let one_less = |rank| (Numbers::new([3 - usize::from(rank == 1), 3, 3, 3, 3, 3, 3], [1; CLASSES]), settings(method));
        for error in failures(one_less, 2) {
            assert!(
                error.contains("data of rank 1 differs") && error.contains("training samples is 21 on rank 0 and 20 on rank 1"),
                "{error}"
            );
        }
    }
    // As many samples, which arrive in another order.
    let other_tasks = |rank| {
        let mut numbers = numbers();
        if rank == 1 {
            let labels: Vec<_> = numbers.train.iter().map(|(_, class)| *class as usize).collect();
            let tests: Vec<_> = numbers.test.iter().map(|(_, class)| *class as usize).collect();
            numbers.stream = ClassIncremental::new(&labels, &tests, CLASSES, 3, ClassOrder::Seeded(4)).unwrap();
        }
        (numbers, settings(Method::Incremental))
    };
    failures(other_tasks, 2).iter().for_each(|error| assert!(error.contains("the order of arrival is 3 tasks"), "{error}"));
}

#[test]
fn a_run_of_the_library_resumes_only_with_the_data_it_began_with() {
    let directory = tempfile::tempdir().unwrap();
    let checkpoints = Checkpoints { directory: directory.path().join("checkpoints"), every: None, keep: 1, resume: true };
    for method in [Method::Incremental, Method::Scratch, Method::Rehearsal] {
        let kept = Settings { checkpoints: Some(checkpoints.clone()), ..settings(method) };
        run(&Numbers::new([3; CLASSES], [1; CLASSES]), &kept, 2);
        let other = |_| (Numbers::new([3, 3, 3, 3, 3, 3, 4], [1; CLASSES]), kept.clone());
        for (rank, error) in failures(other, 2).iter().enumerate() {
            assert!(error.contains("the number of training samples was 21 and is 22"), "rank {rank}: {error}");
        }
        // Anew, with what is there in the way.
        run(
            &Numbers::new([4; CLASSES], [1; CLASSES]),
            &Settings { checkpoints: Some(Checkpoints { resume: false, ..checkpoints.clone() }), ..kept },
            2,
        );
        std::fs::remove_dir_all(&checkpoints.directory).unwrap();
    }
}
