//! Late fields: every stored sample keeps the values that were annotated in the step that stored
//! it.
//!
//! The features of a row encode the step, the rank and the row that it came from, and its logits
//! are a function of these three. A row with the logits of another row or step is therefore
//! detected.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use burn::data::dataloader::DataLoaderBuilder;
use burn::data::dataloader::batcher::Batcher;
use burn::data::dataset::InMemDataset;
use burn::tensor::{Bool, DType, Device, Int, Tensor, TensorData};
use burn_rehearsal::batch::{LateFields, RowLayout};
use burn_rehearsal::error::{BatchError, CheckpointError, ConfigError, RehearsalError};
use burn_rehearsal::{
    BufferReport, Capacity, DrawConfig, Execution, PolicyKind, RehearsalBatch, RehearsalBatcher,
    RehearsalBuffer, RehearsalConfig, SamplingKind, StorePreference, StoredSample,
};
use burn_rehearsal_collective::{Collective, Solo, run_threads};
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::ops::Range;
use std::path::Path;

/// The number of logits of a row.
const WIDTH: usize = 4;

/// The number of the row `row` of a mini-batch. All numbers of a run are different.
fn number(step: usize, rank: usize, row: usize) -> i64 {
    ((step * 4 + rank) * 16 + row) as i64
}

/// The logits of a row. All values are exact in 16 bits.
fn logits_of(number: i64) -> [f32; WIDTH] {
    let (step, rank) = (number / 64, number / 16 % 4);
    [number % 251, number / 251 % 251, step % 251, rank].map(|value| value as f32)
}

/// A batch type of these tests.
trait TestBatch: RehearsalBatch + Clone {
    /// The element type of drawn logits.
    const DTYPE: DType;
    fn make(numbers: &[i64], device: &Device) -> Self;
    fn late(logits: Tensor<2>) -> Self::Late;
    fn layout(&self) -> &RowLayout<Self>;
    /// The numbers of all rows, and the logits of the representatives.
    fn read(&self) -> (Vec<i64>, Option<Tensor<2>>);
}

macro_rules! batch_type {
    ($module:ident, $dtype:ident, $($late:tt)+) => {
        mod $module {
            use super::*;

            #[derive(RehearsalBatch, Clone, Debug)]
            pub struct Batch {
                /// `[rows, 2]`
                pub features: Tensor<2>,
                #[rehearsal($($late)+)]
                pub logits: Option<Tensor<2>>,
                /// `[rows]`
                #[rehearsal(class)]
                pub class: Tensor<1, Int>,
                /// `[rows]`
                #[rehearsal(id)]
                pub id: Tensor<1, Int>,
                /// `[rows]`
                #[rehearsal(representative)]
                pub replayed: Tensor<1, Bool>,
                #[rehearsal(layout)]
                pub rows: RowLayout<Self>,
            }

            impl TestBatch for Batch {
                const DTYPE: DType = DType::$dtype;

                fn make(numbers: &[i64], device: &Device) -> Self {
                    let rows = numbers.len();
                    let ints = |values: Vec<i64>| {
                        Tensor::from_data(TensorData::new(values, [rows]), (device, DType::I64))
                    };
                    let features: Vec<f32> =
                        numbers.iter().flat_map(|&n| [n as f32, -n as f32]).collect();
                    Self {
                        features: Tensor::from_data(TensorData::new(features, [rows, 2]), device),
                        logits: None,
                        class: ints(numbers.iter().map(|number| number % 5).collect()),
                        id: ints(numbers.iter().map(|number| number % 97).collect()),
                        replayed: Tensor::from_data(
                            TensorData::new(vec![false; rows], [rows]),
                            device,
                        ),
                        rows: RowLayout::default(),
                    }
                }

                fn late(logits: Tensor<2>) -> BatchLate {
                    BatchLate { logits }
                }

                fn layout(&self) -> &RowLayout<Self> {
                    &self.rows
                }

                fn read(&self) -> (Vec<i64>, Option<Tensor<2>>) {
                    let features: Vec<f32> =
                        self.features.clone().into_data().iter::<f32>().collect();
                    let ids: Vec<i64> = self.id.clone().into_data().iter::<i64>().collect();
                    let classes: Vec<i64> = self.class.clone().into_data().iter::<i64>().collect();
                    let flags: Vec<bool> =
                        self.replayed.clone().into_data().iter::<bool>().collect();
                    let numbers: Vec<i64> =
                        features.chunks(2).map(|features| features[0] as i64).collect();
                    assert_eq!(ids, numbers.iter().map(|n| n % 97).collect::<Vec<_>>());
                    assert_eq!(classes, numbers.iter().map(|n| n % 5).collect::<Vec<_>>());
                    let incoming = self.rows.incoming().unwrap_or(numbers.len());
                    assert!(flags.iter().enumerate().all(|(row, &flag)| flag == (row >= incoming)));
                    (numbers, self.logits.clone())
                }
            }
        }
    };
}

batch_type!(kept, F32, late);
batch_type!(single, F32, late(f32));
batch_type!(half, F16, late(f16));
batch_type!(brain, BF16, late(bf16));

use kept::{Batch, BatchLate};

/// The logits of these rows.
fn logits(numbers: &[i64], device: &Device) -> Tensor<2> {
    let values: Vec<f32> = numbers.iter().flat_map(|&number| logits_of(number)).collect();
    Tensor::from_data(TensorData::new(values, [numbers.len(), WIDTH]), (device, DType::F32))
}

/// Checks a mini-batch from the buffer: the incoming rows, its layout, and that each representative
/// has its logits. Returns the numbers of the representatives.
fn check<B: TestBatch>(incoming: &[i64], batch: &B) -> Result<Vec<i64>, String> {
    let (numbers, logits) = batch.read();
    let layout = batch.layout();
    if numbers[..incoming.len()] != *incoming || layout.incoming() != Some(incoming.len()) {
        return Err("the incoming rows changed".into());
    }
    let drawn = numbers[incoming.len()..].to_vec();
    let end = layout.range(layout.draws().len() - 1).end;
    if layout.representatives() != drawn.len() || end != numbers.len() {
        return Err(format!("{} rows, but the layout is {layout:?}", numbers.len()));
    }
    let found = logits.map(|logits| (logits.dtype(), logits.dims(), logits.into_data()));
    match found {
        None if drawn.is_empty() => Ok(drawn),
        None => Err("no logits".into()),
        Some((dtype, dims, data)) => {
            let expected: Vec<f32> = drawn.iter().flat_map(|&n| logits_of(n)).collect();
            let found: Vec<f32> = data.iter::<f32>().collect();
            if (dtype, dims) != (B::DTYPE, [drawn.len(), WIDTH]) || drawn.is_empty() {
                return Err(format!("logits of {dtype:?} and {dims:?} for {} rows", drawn.len()));
            }
            if found != expected {
                return Err(format!("rows {drawn:?} have the logits {found:?}"));
            }
            Ok(drawn)
        }
    }
}

/// The representatives of each step of a rank, its stored rows at the end, and the digests of
/// contents and draws.
type Outcome = Result<(Vec<Vec<i64>>, Vec<i64>, [String; 2]), String>;

/// A run of the tests.
#[derive(Clone)]
struct Setup {
    size: usize,
    lag: usize,
    execution: Execution,
    /// The stores of the ranks, repeated.
    stores: &'static [StorePreference],
    /// The number of rows by which annotated logits are shifted. 0 is right.
    shift: usize,
}

const HOST: &[StorePreference] = &[StorePreference::Host];
const DEVICE: &[StorePreference] = &[StorePreference::Device];
const MIXED: &[StorePreference] = &[StorePreference::Host, StorePreference::Device];

impl Setup {
    fn new(size: usize) -> Self {
        Self { size, lag: 1, execution: Execution::Background, stores: HOST, shift: 0 }
    }

    fn config(&self, rank: usize) -> RehearsalConfig {
        // Small, so that rows are evicted.
        RehearsalConfig::new(Capacity::Samples(30))
            .with_candidates(3)
            .with_draws([
                DrawConfig::new(3),
                DrawConfig::new(2).with_sampling(SamplingKind::ClassBalanced),
            ])
            .with_policy(PolicyKind::RandomReplacement)
            .with_lag(self.lag)
            .with_execution(self.execution)
            .with_store(self.stores[rank % self.stores.len()])
    }

    /// The rows of a mini-batch. Ranks have different numbers, and none in every fifth step.
    fn rows(step: usize, rank: usize) -> Vec<i64> {
        let rows = [0, 4, 6, 3, 5][(step + 2 * rank) % 5];
        (0..rows).map(|row| number(step, rank, row)).collect()
    }

    /// Does these steps. Returns the representatives of each.
    fn steps<B: TestBatch>(
        &self,
        buffer: &RehearsalBuffer<B>,
        barrier: &mut dyn Collective,
        steps: Range<usize>,
    ) -> Result<Vec<Vec<i64>>, String> {
        let device = Device::flex();
        let mut drawn = Vec::new();
        for step in steps {
            let incoming = Self::rows(step, buffer.rank());
            let mut batch = None;
            if incoming.is_empty() {
                buffer.skip_step().unwrap();
            } else {
                batch = Some(buffer.rehearse(B::make(&incoming, &device)).unwrap());
            }
            // As in a learner, which agrees on the step and later reduces gradients.
            barrier.barrier().unwrap();
            if let Some(batch) = &batch {
                let mut values = incoming.clone();
                values.rotate_left(self.shift % incoming.len());
                batch.layout().annotate(B::late(logits(&values, &device)));
            }
            barrier.barrier().unwrap();
            drawn.push(batch.map_or(Ok(Vec::new()), |batch| check(&incoming, &batch))?);
        }
        Ok(drawn)
    }

    /// Does these steps on all ranks, from one checkpoint to another.
    fn run<B: TestBatch>(
        &self,
        from: Option<&Path>,
        to: Option<&Path>,
        steps: Range<usize>,
    ) -> Vec<Outcome> {
        let ranks = world(self.size, |mut collective| {
            let mut barrier = collective.duplicate().unwrap();
            let config = self.config(collective.rank());
            let buffer = RehearsalBuffer::<B>::new(&config, collective).unwrap();
            if let Some(from) = from {
                buffer.restore(from, &Device::flex()).unwrap();
            }
            let drawn = self.steps(&buffer, &mut *barrier, steps.clone());
            if let Some(to) = to {
                buffer.checkpoint(to).unwrap();
            }
            let report = buffer.report().unwrap();
            let mut stored = Vec::new();
            for sample in buffer.snapshot().unwrap().samples() {
                let [features, logits] = [&sample.fields[0], &sample.fields[3]];
                let number = features.iter::<f32>().next().unwrap() as i64;
                if self.shift == 0 {
                    let logits: Vec<f32> = logits.iter::<f32>().collect();
                    assert_eq!(logits, logits_of(number), "the stored row {number}");
                }
                stored.push(number);
            }
            Ok((drawn?, stored, [report.contents_digest, report.draws_digest]))
        });
        ranks.into_iter().collect()
    }
}

/// Runs `f` on `size` ranks.
fn world<T: Send>(size: usize, f: impl Fn(Box<dyn Collective>) -> T + Sync) -> Vec<T> {
    run_threads(size, |threads| Ok::<T, Infallible>(f(Box::new(threads))))
        .into_iter()
        .map(|result| result.unwrap_or_else(|failure| panic!("{failure}")))
        .collect()
}

#[test]
fn every_replayed_row_has_the_logits_of_the_step_that_stored_it() {
    use Execution::{Background, Inline};
    // Every pair of values of two options occurs.
    type Run = fn(&Setup, Option<&Path>, Option<&Path>, Range<usize>) -> Vec<Outcome>;
    let types: [Run; 4] = [
        Setup::run::<kept::Batch>,
        Setup::run::<single::Batch>,
        Setup::run::<half::Batch>,
        Setup::run::<brain::Batch>,
    ];
    let setups = [
        (1, 1, Background, HOST, 0),
        (1, 2, Inline, DEVICE, 1),
        (1, 1, Inline, HOST, 2),
        (1, 2, Background, DEVICE, 3),
        (2, 1, Inline, MIXED, 0),
        (2, 2, Background, HOST, 1),
        (2, 1, Background, DEVICE, 2),
        (2, 2, Inline, MIXED, 3),
        (3, 1, Background, MIXED, 1),
        (3, 2, Background, DEVICE, 0),
        (3, 2, Inline, MIXED, 2),
        (3, 1, Inline, HOST, 3),
    ];
    let mut first = std::collections::BTreeMap::new();
    for (size, lag, execution, stores, kind) in setups {
        let setup = Setup { lag, execution, stores, ..Setup::new(size) };
        let ranks = types[kind](&setup, None, None, 0..40);
        let ranks: Vec<_> = ranks.into_iter().map(Result::unwrap).collect();
        let drawn: Vec<_> = ranks.iter().map(|(drawn, ..)| drawn.clone()).collect();
        let stored: Vec<_> = ranks.iter().map(|(_, stored, _)| stored.clone()).collect();
        let context = format!("{size} ranks, lag {lag}, {execution:?}, type {kind}");
        assert_eq!(stored.concat().len(), 30, "{context}");
        assert!(drawn.concat().concat().len() > 100 * size, "{context}");
        // The element type, the store and the thread change nothing else.
        let same = first.entry((size, lag)).or_insert_with(|| (drawn.clone(), stored.clone()));
        assert_eq!(*same, (drawn, stored), "{context}");
    }
}

#[test]
fn logits_of_another_row_are_detected() {
    for size in [1, 3] {
        let setup = Setup { shift: 1, ..Setup::new(size) };
        let results = setup.run::<Batch>(None, None, 0..1);
        assert!(results.iter().all(Result::is_ok), "nothing was drawn yet");
        let solo = Setup { shift: 1, ..Setup::new(1) };
        let error = solo.run::<Batch>(None, None, 0..20).remove(0).unwrap_err();
        assert!(error.contains("have the logits"), "{error}");
    }
}

#[test]
fn a_resumed_run_continues_with_the_same_bits() {
    for (size, lag, execution, stores) in [
        (1, 2, Execution::Background, HOST),
        (2, 1, Execution::Background, MIXED),
        (2, 2, Execution::Inline, DEVICE),
    ] {
        let setup = Setup { lag, execution, stores, ..Setup::new(size) };
        let directory = tempfile::tempdir().unwrap();
        let whole = setup.run::<half::Batch>(None, None, 0..24);
        let first = setup.run::<half::Batch>(None, Some(directory.path()), 0..11);
        let rest = setup.run::<half::Batch>(Some(directory.path()), None, 11..24);
        for ((whole, first), rest) in whole.into_iter().zip(first).zip(rest) {
            let ((drawn, stored, digests), (mut before, ..), (after, stored_after, digests_after)) =
                (whole.unwrap(), first.unwrap(), rest.unwrap());
            before.extend(after);
            assert_eq!((drawn, stored, digests), (before, stored_after, digests_after));
        }
    }
}

#[test]
fn logits_follow_their_rows_to_another_number_of_ranks() {
    let directories = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let mut stored: Option<BTreeSet<i64>> = None;
    let mut from = None;
    for (index, size) in [2, 3, 1].into_iter().enumerate() {
        let setup = Setup { lag: 2, stores: MIXED, ..Setup::new(size) };
        // The checkpoint of another number of ranks keeps every row.
        if let Some(stored) = &stored {
            let ranks = setup.run::<brain::Batch>(from, None, 0..0);
            let now = ranks.into_iter().flat_map(|rank| rank.unwrap().1).collect::<BTreeSet<_>>();
            assert_eq!(now, *stored);
        }
        let steps = 15 * index..15 * (index + 1);
        let ranks = setup.run::<brain::Batch>(from, Some(directories[index].path()), steps);
        stored = Some(ranks.into_iter().flat_map(|rank| rank.unwrap().1).collect());
        from = Some(directories[index].path());
    }
}

fn config() -> RehearsalConfig {
    RehearsalConfig::new(Capacity::Samples(20)).with_candidates(3).with_representatives(2)
}

fn solo() -> RehearsalBuffer<Batch> {
    config().init().unwrap()
}

/// The mini-batch of a step with 4 rows, before it goes to the buffer.
fn incoming(step: usize) -> Batch {
    let numbers: Vec<i64> = (0..4).map(|row| number(step, 0, row)).collect();
    Batch::make(&numbers, &Device::flex())
}

fn step(buffer: &RehearsalBuffer<Batch>, step: usize) -> Result<Batch, RehearsalError> {
    buffer.rehearse(incoming(step))
}

/// Annotates a mini-batch of 4 rows with `rows` rows of `width` values.
fn annotate(batch: &Batch, rows: usize, width: usize) {
    batch.rows.annotate(BatchLate { logits: Tensor::ones([rows, width], &Device::flex()) });
}

/// The error of `buffer`.
fn poisoned(buffer: &RehearsalBuffer<Batch>) -> RehearsalError {
    let error = step(buffer, 9).unwrap_err();
    assert_eq!(buffer.begin_task(1).unwrap_err(), error);
    error
}

fn assert_misuse(error: &RehearsalError, words: &str) {
    assert!(
        matches!(error, RehearsalError::Misuse(_)) && error.to_string().contains(words),
        "{error}"
    );
}

#[test]
fn the_first_annotate_wins_and_the_second_is_an_error() {
    let buffer = solo();
    let batch = step(&buffer, 0).unwrap();
    let clone = batch.clone();
    annotate(&clone, 4, WIDTH);
    annotate(&batch, 4, WIDTH);
    assert_misuse(&poisoned(&buffer), "annotated twice");
    assert_eq!(buffer.snapshot().unwrap().samples().len(), 3, "the first one was stored");

    // Also for an earlier mini-batch.
    let buffer = solo();
    let first = step(&buffer, 0).unwrap();
    annotate(&first, 4, WIDTH);
    let _second = step(&buffer, 1).unwrap();
    annotate(&first, 4, WIDTH);
    assert_misuse(&poisoned(&buffer), "annotated twice");
}

#[test]
fn a_step_without_annotate_is_an_error_of_the_next_call() {
    fn nowhere() -> std::path::PathBuf {
        std::env::temp_dir().join("a-step-without-annotate")
    }
    type Call = fn(&RehearsalBuffer<Batch>) -> Result<(), RehearsalError>;
    let calls: [(&str, Call); 8] = [
        ("next", |buffer| step(buffer, 1).map(drop)),
        ("skip_step", |buffer| buffer.skip_step()),
        ("begin_task", |buffer| buffer.begin_task(1)),
        ("report", |buffer| buffer.report().map(drop)),
        ("sample", |buffer| buffer.sample(1).map(drop)),
        ("checkpoint", |buffer| buffer.checkpoint(nowhere()).map(drop)),
        ("begin_checkpoint", |buffer| buffer.begin_checkpoint(nowhere()).map(drop)),
        ("restore", |buffer| buffer.restore(nowhere(), &Device::flex()).map(drop)),
    ];
    for (name, call) in calls {
        let buffer = solo();
        let batch = step(&buffer, 0).unwrap();
        let error = call(&buffer).expect_err(name);
        assert_misuse(&error, "was not annotated");
        assert_misuse(&error, "`RehearsalConfig::with_late_fields(false)`");
        assert_eq!(poisoned(&buffer), error, "{name}");
        // The open step is gone.
        annotate(&batch, 4, WIDTH);
        assert!(buffer.snapshot().unwrap().samples().is_empty(), "{name}");
    }
}

#[test]
fn the_state_before_the_step_is_visible_until_it_is_annotated() {
    let buffer = RehearsalConfig::new(Capacity::Bytes(1 << 10)).with_candidates(3);
    let buffer = buffer.with_representatives(2).init::<Batch>().unwrap();
    let batch = step(&buffer, 0).unwrap();
    assert_eq!((buffer.len(), buffer.inspect().unwrap().len), (0, 0));
    assert!(buffer.snapshot().unwrap().samples().is_empty());
    assert_eq!(buffer.capacity(), None);
    annotate(&batch, 4, WIDTH);
    // 2 + 4 floats, a class and an id.
    assert_eq!(buffer.capacity(), Some((1 << 10) / (6 * 4 + 2 * 8)));
    assert_eq!((buffer.len(), buffer.inspect().unwrap().len), (3, 3));
}

#[test]
fn logits_of_another_shape_or_type_are_an_error() {
    let field = "logits";
    let buffer = solo();
    annotate(&step(&buffer, 0).unwrap(), 4, WIDTH);
    let batch = step(&buffer, 1).unwrap();
    annotate(&batch, batch.class.dims()[0], WIDTH);
    let expected = BatchError::LateRows { field, found: 6, incoming: 4 };
    assert_eq!(poisoned(&buffer), expected.into());

    let buffer = solo();
    annotate(&step(&buffer, 0).unwrap(), 4, WIDTH);
    annotate(&step(&buffer, 1).unwrap(), 4, WIDTH + 1);
    let error = poisoned(&buffer);
    assert!(matches!(error, RehearsalError::Batch(BatchError::Changed { .. })), "{error}");

    let buffer = solo();
    annotate(&step(&buffer, 0).unwrap(), 4, WIDTH);
    let logits = Tensor::<2>::ones([4, WIDTH], &Device::flex()).cast(DType::F64);
    step(&buffer, 1).unwrap().rows.annotate(BatchLate { logits });
    let error = poisoned(&buffer);
    assert!(matches!(error, RehearsalError::Batch(BatchError::Changed { .. })), "{error}");

    let buffer = solo();
    annotate(&step(&buffer, 0).unwrap(), 0, WIDTH);
    assert!(matches!(
        poisoned(&buffer),
        RehearsalError::Batch(BatchError::EmptyField { field: "logits", .. })
    ));
}

#[test]
fn a_batcher_must_not_fill_late_fields() {
    let logits = Some(Tensor::ones([4, WIDTH], &Device::flex()));
    let error = solo().rehearse(Batch { logits, ..incoming(0) }).unwrap_err();
    assert_eq!(error, BatchError::LateFilled { field: "logits" }.into());
}

#[derive(Clone)]
struct Rows;

impl Batcher<i64, Batch> for Rows {
    fn batch(&self, items: Vec<i64>, device: &Device) -> Batch {
        Batch::make(&items, device)
    }
}

#[test]
fn late_fields_need_a_lag_and_an_attached_loader() {
    let error = config().with_lag(0).init::<Batch>().unwrap_err();
    assert_eq!(error, ConfigError::LateLag.into());
    let error = RehearsalBatcher::new(Rows, solo()).err();
    assert_eq!(error, Some(ConfigError::BatcherLate.into()));
    let buffer = solo();
    assert_misuse(&buffer.fill([Ok(incoming(0))]).unwrap_err(), "`fill` has no values");
    assert!(step(&buffer, 0).is_ok(), "the buffer is unchanged");

    let buffer = solo();
    let data = InMemDataset::new((0..22).collect());
    let loader = DataLoaderBuilder::new(Rows).batch_size(4).build(data);
    for epoch in 0..2 {
        for (index, batch) in buffer.attach(loader.clone()).iter().enumerate() {
            let batch = batch.unwrap();
            let rows = if index < 5 { 4 } else { 2 };
            let numbers: Vec<i64> = (0..rows).map(|row| 4 * index as i64 + row).collect();
            check(&numbers, &batch).unwrap();
            assert_eq!(batch.logits.is_some(), epoch + index > 0);
            batch.rows.annotate(BatchLate { logits: logits(&numbers, &Device::flex()) });
        }
    }
    let sampled = buffer.sample(7).unwrap().unwrap();
    assert_eq!((sampled.rows.incoming(), sampled.rows.draws()), (Some(0), [7].as_slice()));
    check(&[], &sampled).unwrap();
    sampled.rows.annotate(BatchLate { logits: logits(&[], &Device::flex()) });
    buffer.check().unwrap();
}

#[test]
fn a_detached_layout_has_incoming_rows_only() {
    let layout = RowLayout::<Batch>::default();
    assert_eq!((layout.incoming(), layout.draws().len()), (None, 0));
    assert_eq!((layout.representatives(), layout.range(0)), (0, 0..0));
    layout.annotate(BatchLate { logits: Tensor::ones([1, 1], &Device::flex()) });
    assert_eq!(format!("{layout:?}"), "RowLayout { incoming: None, draws: [] }");
}

/// A batch with a layout, but without a late field.
#[derive(RehearsalBatch, Clone, Debug)]
struct Plain {
    features: Tensor<2>,
    #[rehearsal(layout)]
    rows: RowLayout<Self>,
}

#[test]
fn a_layout_without_late_fields_names_the_rows() {
    let buffer = config().with_lag(0).init::<Plain>().unwrap();
    for step in 0..3 {
        let features = Tensor::ones([4, 2], &Device::flex());
        let batch = buffer.rehearse(Plain { features, rows: RowLayout::default() }).unwrap();
        assert_eq!(batch.rows.incoming(), Some(4), "step {step}");
        assert_eq!((batch.rows.draws(), batch.rows.range(0)), ([2].as_slice(), 4..6));
        assert_eq!((batch.rows.range(1), batch.features.dims()), (6..6, [6, 2]));
        batch.rows.annotate(burn_rehearsal::batch::NoLateFields);
    }
}

/// Two late fields of different kinds and ranks.
#[derive(RehearsalBatch, Clone, Debug)]
struct Several<const D: usize> {
    #[rehearsal(late(bf16))]
    maps: Option<Tensor<D>>,
    features: Tensor<2>,
    #[rehearsal(late)]
    votes: Option<Tensor<1, Int>>,
    #[rehearsal(layout)]
    rows: RowLayout<Self>,
}

#[test]
fn a_batch_can_have_several_late_fields() {
    let device = Device::flex();
    let buffer = config().init::<Several<3>>().unwrap();
    let late = || SeveralLate {
        maps: Tensor::<3>::ones([4, 2, 3], &device),
        votes: Tensor::from_data([7, 7, 7, 7], &device),
    };
    let mut columns = Vec::new();
    late().into_columns(&mut columns).unwrap();
    assert_eq!((columns[0].dtype(), columns[0].row_shape()), (DType::BF16, [2, 3].as_slice()));
    for step in 0..3 {
        let features = Tensor::ones([4, 2], &device);
        let batch = Several { maps: None, features, votes: None, rows: RowLayout::default() };
        let batch = buffer.rehearse(batch).unwrap();
        batch.rows.annotate(late());
        if step > 0 {
            let (maps, votes) = (batch.maps.unwrap(), batch.votes.unwrap());
            assert_eq!((maps.dims(), maps.dtype()), ([2, 2, 3], DType::BF16));
            assert_eq!(votes.into_data().iter::<i64>().collect::<Vec<_>>(), [7, 7]);
        }
    }
}

#[test]
fn nan_logits_are_stored_as_they_are() {
    let device = Device::flex();
    let buffer = solo();
    let nan = || Tensor::<2>::full([4, WIDTH], f32::NAN, &device);
    step(&buffer, 0).unwrap().rows.annotate(BatchLate { logits: nan() });
    let drawn = step(&buffer, 1).unwrap().logits.unwrap();
    assert!(drawn.into_data().iter::<f32>().all(f32::is_nan));
}

#[test]
fn logits_leave_the_autodiff_graph() {
    let device = Device::flex().autodiff();
    let buffer = solo();
    // The outputs of a row are its number.
    let weight = Tensor::<2>::from_data([[2.0; WIDTH], [1.0; WIDTH]], &device).require_grad();
    for step in 0..3 {
        let numbers: Vec<i64> = (0..4).map(|row| number(step, 0, row)).collect();
        let batch = buffer.rehearse(Batch::make(&numbers, &device)).unwrap();
        let outputs = batch.features.clone().matmul(weight.clone());
        batch.rows.annotate(BatchLate { logits: outputs.clone().slice(0..4) });
        let mut loss = outputs.clone().slice(0..4).sum();
        if let Some(stored) = batch.logits {
            assert!(stored.device().is_autodiff() && !stored.is_tracked());
            let difference = outputs.slice(batch.rows.range(0)) - stored;
            loss = loss + (difference.clone() * difference).sum();
        }
        // The weights are constant, so only the incoming rows have a gradient.
        let gradient = weight.grad(&loss.backward()).unwrap().into_data();
        let sum: i64 = numbers.iter().sum();
        let expected = [sum, -sum].map(|sum| [sum as f32; WIDTH]).concat();
        assert_eq!(gradient.iter::<f32>().collect::<Vec<_>>(), expected, "step {step}");
    }
}

#[test]
fn a_kept_mini_batch_does_not_keep_the_engine_alive() {
    let errors = world(2, |collective| {
        let buffer = RehearsalBuffer::<Batch>::new(&config(), collective).unwrap();
        let batch = step(&buffer, 0).unwrap();
        if buffer.rank() == 0 {
            drop(buffer);
            // The buffer is gone, so this does nothing.
            annotate(&batch, 4, WIDTH);
            // Rank 1 ends while the mini-batch is alive.
            std::thread::sleep(std::time::Duration::from_millis(100));
            return None;
        }
        annotate(&batch, 4, WIDTH);
        step(&buffer, 1).err()
    });
    assert!(errors[1].is_some());
}

#[test]
fn an_error_on_one_rank_ends_all() {
    type Mistake = fn(&Batch);
    let mistakes: [(&str, Mistake); 4] = [
        ("never", |_| {}),
        ("twice", |batch| (0..2).for_each(|_| annotate(batch, 4, WIDTH))),
        ("rows", |batch| annotate(batch, 3, WIDTH)),
        ("width", |batch| annotate(batch, 4, WIDTH + 1)),
    ];
    for execution in [Execution::Background, Execution::Inline] {
        for (name, mistake) in mistakes {
            let errors = world(3, |collective| {
                let config = config().with_execution(execution);
                let buffer = RehearsalBuffer::<Batch>::new(&config, collective).unwrap();
                for at in 0..9 {
                    match step(&buffer, at) {
                        Ok(batch) if buffer.rank() == 1 && at == 2 => mistake(&batch),
                        Ok(batch) => annotate(&batch, 4, WIDTH),
                        Err(error) => return error,
                    }
                }
                panic!("no error")
            });
            for (rank, error) in errors.iter().enumerate() {
                let own = matches!(error, RehearsalError::Misuse(_) | RehearsalError::Batch(_));
                let peer = matches!(error, RehearsalError::PeerFailed { rank: 1, .. });
                assert!(if rank == 1 { own } else { peer }, "{execution:?}, {name}: {error:?}");
            }
        }
    }
}

#[test]
fn an_aborted_step_is_discarded_on_all_ranks() {
    for execution in [Execution::Background, Execution::Inline] {
        let errors = world(2, |collective| {
            let config = config().with_execution(execution);
            let buffer = RehearsalBuffer::<Batch>::new(&config, collective).unwrap();
            annotate(&step(&buffer, 0).unwrap(), 4, WIDTH);
            let batch = step(&buffer, 1).unwrap();
            if buffer.rank() == 0 {
                buffer.abort(RehearsalError::Data("gone".into()));
            }
            annotate(&batch, 4, WIDTH);
            step(&buffer, 2).err()
        });
        assert_eq!(errors[0], Some(RehearsalError::Data("gone".into())));
        assert!(matches!(errors[1], Some(RehearsalError::PeerFailed { rank: 0, .. })));
    }
}

#[test]
fn a_rank_that_never_has_rows_takes_part() {
    for execution in [Execution::Background, Execution::Inline] {
        let stored = world(2, |mut collective| {
            let mut barrier = collective.duplicate().unwrap();
            let config = config().with_execution(execution);
            let buffer = RehearsalBuffer::<Batch>::new(&config, collective).unwrap();
            for at in 0..5 {
                let batch = match buffer.rank() {
                    0 => Some(step(&buffer, at).unwrap()),
                    _ => buffer.skip_step().map(|()| None).unwrap(),
                };
                barrier.barrier().unwrap();
                if let Some(batch) = batch {
                    annotate(&batch, 4, WIDTH);
                }
                barrier.barrier().unwrap();
            }
            assert_eq!(buffer.report().unwrap().len, 10);
            buffer.snapshot().unwrap().samples().len()
        });
        // The shard of rank 0 is half of the capacity.
        assert_eq!(stored, [10, 0], "{execution:?}");
    }
}

#[test]
fn a_transport_of_one_rank_works_inline() {
    let config = config().with_execution(Execution::Inline);
    let buffer = RehearsalBuffer::<Batch>::new(&config, Box::new(Solo::new())).unwrap();
    annotate(&step(&buffer, 0).unwrap(), 4, WIDTH);
    // No call is needed for the candidates to be stored.
    assert_eq!(buffer.timings().stored, 3);
}

#[test]
fn stored_rows_return_as_a_mini_batch_with_logits() {
    let buffer = solo();
    for at in 0..4 {
        let incoming: Vec<i64> = (0..4).map(|row| number(at, 0, row)).collect();
        let batch = step(&buffer, at).unwrap();
        batch.rows.annotate(BatchLate { logits: logits(&incoming, &Device::flex()) });
    }
    let snapshot = buffer.snapshot().unwrap();
    let stored: Vec<i64> = snapshot
        .samples()
        .iter()
        .map(|sample| sample.fields[0].iter::<f32>().next().unwrap() as i64)
        .collect();
    let rows = [7, 0, 7, 3];
    let batch: Batch = snapshot.batch(&rows, &Device::flex()).unwrap();
    let numbers = rows.map(|row| stored[row]);
    let features = batch.features.into_data();
    let found = features.iter::<f32>().step_by(2).map(|number| number as i64);
    assert_eq!(found.collect::<Vec<_>>(), numbers);
    let expected = logits(&numbers, &Device::flex()).into_data();
    assert_eq!(batch.logits.unwrap().into_data(), expected);
    assert!(batch.replayed.into_data().iter::<bool>().all(|flag| flag));
    assert_eq!(batch.rows.incoming(), None);
}

/// The batch type of most tests without its late field.
#[derive(RehearsalBatch, Clone, Debug)]
struct Twin {
    features: Tensor<2>,
    #[rehearsal(class)]
    class: Tensor<1, Int>,
    #[rehearsal(id)]
    id: Tensor<1, Int>,
    #[rehearsal(representative)]
    replayed: Tensor<1, Bool>,
    #[rehearsal(layout)]
    rows: RowLayout<Self>,
}

impl Twin {
    fn make(numbers: &[i64], device: &Device) -> Self {
        let Batch { features, class, id, replayed, .. } = Batch::make(numbers, device);
        Self { features, class, id, replayed, rows: RowLayout::default() }
    }
}

/// The report, the stored rows, the representatives and the checkpoint of a rank.
type Ending = (BufferReport, Vec<StoredSample>, Vec<f32>, Vec<u8>);

/// Runs some steps of a batch type. `features` receives a mini-batch from the buffer.
fn run_without_late<B: RehearsalBatch<Rest: Default>>(
    setup: &Setup,
    directory: &Path,
    make: fn(&[i64], &Device) -> B,
    features: fn(&B) -> Tensor<2>,
) -> Vec<Ending> {
    let device = Device::flex();
    world(setup.size, |collective| {
        let rank = collective.rank();
        let config = setup.config(rank).with_late_fields(false);
        let buffer = RehearsalBuffer::<B>::new(&config, collective).unwrap();
        buffer.fill([Ok(make(&[number(90, rank, 0), number(90, rank, 1)], &device))]).unwrap();
        let mut drawn = Vec::new();
        for step in 0..20 {
            let incoming = Setup::rows(step, rank);
            if incoming.is_empty() {
                buffer.skip_step().unwrap();
                continue;
            }
            let batch = buffer.rehearse(make(&incoming, &device)).unwrap();
            drawn.extend(features(&batch).into_data().iter::<f32>());
        }
        let sampled = buffer.sample(5).unwrap().unwrap();
        drawn.extend(features(&sampled).into_data().iter::<f32>());
        buffer.checkpoint(directory).unwrap();
        let file = std::fs::read(directory.join(format!("rank-{rank:05}.safetensors"))).unwrap();
        let samples = buffer.snapshot().unwrap().samples().to_vec();
        (buffer.report().unwrap(), samples, drawn, file)
    })
}

#[test]
fn switched_off_late_fields_leave_no_trace() {
    for (size, lag, execution, stores) in [
        (1, 0, Execution::Background, HOST),
        (1, 1, Execution::Inline, DEVICE),
        (3, 0, Execution::Inline, MIXED),
        (3, 2, Execution::Background, MIXED),
    ] {
        let setup = Setup { lag, execution, stores, ..Setup::new(size) };
        let directories = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let twin = |batch: &Twin| batch.features.clone();
        let expected = run_without_late(&setup, directories[0].path(), Twin::make, twin);
        let found = run_without_late(&setup, directories[1].path(), Batch::make, |batch| {
            assert!(batch.logits.is_none());
            // Does nothing, whatever the values are.
            (0..2).for_each(|_| annotate(batch, 1, WIDTH));
            batch.features.clone()
        });
        assert!(expected == found, "{size} ranks, lag {lag}");
    }
}

#[test]
fn without_late_fields_all_ways_to_use_a_buffer_are_open() {
    let buffer = config().with_lag(0).with_late_fields(false).init::<Batch>().unwrap();
    assert_eq!(buffer.fill([Ok(incoming(0))]).unwrap(), 4);
    let batcher = RehearsalBatcher::new(Rows, buffer.clone()).unwrap();
    let batch = batcher.batch(vec![1, 2], &Device::flex());
    assert_eq!((batch.rows.draws(), batch.logits.is_none()), ([2].as_slice(), true));
    buffer.begin_task(1).unwrap();
    buffer.check().unwrap();
    let batch: Batch = buffer.snapshot().unwrap().batch(&[3, 1], &Device::flex()).unwrap();
    assert!(batch.logits.is_none() && batch.features.dims() == [2, 2]);
}

#[test]
fn a_checkpoint_and_its_buffer_agree_on_late_fields() {
    let directories = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let [with, without, twin] = directories.each_ref().map(|directory| directory.path());
    let buffer = solo();
    annotate(&step(&buffer, 0).unwrap(), 4, WIDTH);
    buffer.checkpoint(with).unwrap();
    let off = || config().with_late_fields(false).init::<Batch>().unwrap();
    let buffer = off();
    step(&buffer, 0).unwrap();
    buffer.checkpoint(without).unwrap();
    let buffer = config().init::<Twin>().unwrap();
    buffer.rehearse(Twin::make(&[1, 2, 3, 4], &Device::flex())).unwrap();
    buffer.checkpoint(twin).unwrap();

    for (buffer, directory, words) in [
        (off(), with, "its rows have late fields"),
        (solo(), without, "its rows have no late fields"),
        (solo(), twin, "its rows have no late fields"),
    ] {
        let error = buffer.restore(directory, &Device::flex()).unwrap_err();
        assert!(
            matches!(&error, RehearsalError::Checkpoint(CheckpointError::Foreign { .. }))
                && error.to_string().contains(words)
                && error.to_string().contains("with_late_fields(false)"),
            "{error}"
        );
    }
    for directory in [without, twin] {
        let buffer = off();
        buffer.restore(directory, &Device::flex()).unwrap();
        assert!(step(&buffer, 1).unwrap().logits.is_none());
    }
}

#[test]
fn ranks_agree_on_late_fields() {
    let errors = world(2, |collective| {
        let config = config().with_late_fields(collective.rank() == 0);
        let buffer = RehearsalBuffer::<Batch>::new(&config, collective).unwrap();
        (0..3).find_map(|at| match step(&buffer, at) {
            Ok(batch) => {
                annotate(&batch, 4, WIDTH);
                None
            }
            Err(error) => Some(error),
        })
    });
    for error in errors {
        let error = error.unwrap();
        assert!(matches!(error, RehearsalError::Configuration(_)), "{error}");
        assert!(error.to_string().contains("late_fields"), "{error}");
    }
}
