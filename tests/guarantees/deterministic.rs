//! Guarantee 4 of docs/ARCHITECTURE.md: the same seed, data and world size give the same bits. Also
//! the meaning of `lag`.

use crate::model::{Model, assert_draws};
use burn::tensor::{Bool, DType, Device, Int, Tensor, TensorData};
use burn_rehearsal::{
    CandidateMode, Capacity, Execution, OnRepeat, PolicyKind, RehearsalBatch, RehearsalBuffer,
    RehearsalConfig, SamplingKind, StorePreference,
};
use burn_rehearsal_testing::{
    Mixed, Row, assert_augmented, batch, batch_on, buffer, config, device, fresh, read, stored_ids,
    world,
};

const STEPS: usize = 24;

/// The observable results of a run: both digests and all augmented mini-batches of this rank.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Trace {
    contents: String,
    draws: String,
    batches: Vec<Vec<Row>>,
}

/// Runs three tasks with mini-batches of different sizes, some of them empty.
fn trace(buffer: &RehearsalBuffer<Mixed>, data: u64) -> Trace {
    trace_on(buffer, data, &device())
}

/// Like [`trace`], with mini-batches on `device`.
pub(crate) fn trace_on(buffer: &RehearsalBuffer<Mixed>, data: u64, device: &Device) -> Trace {
    let mut batches = Vec::new();
    for step in 0..STEPS {
        if step % 8 == 0 {
            buffer.begin_task(step / 8).unwrap();
        }
        let rows = [5, 3, 0, 7, 1][(step * 3 + buffer.rank()) % 5];
        let ids = fresh(data, buffer.rank(), step, rows, 2 + step as u64 / 8);
        if rows == 0 {
            buffer.skip_step().unwrap();
            continue;
        }
        let augmented = buffer.rehearse(batch_on(&ids, device)).unwrap();
        assert_augmented(&ids, &augmented);
        batches.push(read(&augmented));
    }
    let report = buffer.report().unwrap();
    assert!(report.len > 0 && report.len <= report.capacity);
    Trace { contents: report.contents_digest, draws: report.draws_digest, batches }
}

fn traces(size: usize, config: &RehearsalConfig) -> Vec<Trace> {
    world(size, |threads| trace(&buffer(config, threads), 77))
}

/// Configurations that cover every policy, sampling rule and candidate mode, and several lags.
pub(crate) fn configurations(size: usize) -> Vec<RehearsalConfig> {
    let base = config(12 * size + size / 2, 3, 5).with_seed(9);
    vec![
        base.clone(),
        base.clone()
            .with_policy(PolicyKind::Reservoir)
            .with_sampling(SamplingKind::ClassBalanced)
            .with_lag(3),
        base.clone()
            .with_policy(PolicyKind::Fifo)
            .with_sampling(SamplingKind::ExcludeCurrent)
            .with_lag(0),
        base.clone()
            .with_classes(Some(4))
            .with_sampling(SamplingKind::ExcludeCurrent)
            .with_lag(2)
            .with_on_repeat(OnRepeat::SkipIfStored),
        base.clone()
            .with_policy(PolicyKind::RandomReplacement)
            .with_candidates(0.5)
            .with_representatives(1.5)
            .with_lag(2),
        base.with_candidate_mode(CandidateMode::Bernoulli).with_start_task(1),
    ]
}

pub(crate) fn repetitions_are_bit_identical(size: usize) {
    for (number, config) in configurations(size).into_iter().enumerate() {
        let first = traces(size, &config);
        assert!(
            first
                .iter()
                .all(|trace| trace.contents == first[0].contents && trace.draws == first[0].draws),
            "ranks differ"
        );
        // The first run mixes both stores, and each repetition uses one of them.
        let host = config.clone().with_store(StorePreference::Host);
        assert_eq!(
            first,
            traces(size, &host),
            "{size} ranks, configuration {number}: a repetition differs"
        );
        let inline = config.with_execution(Execution::Inline).with_store(StorePreference::Device);
        assert_eq!(
            first,
            traces(size, &inline),
            "{size} ranks, configuration {number}: inline differs from background"
        );
    }
}

#[test]
fn a_repeated_run_is_bit_identical_inline_and_in_the_background() {
    [1, 2, 3, 4, 8].into_iter().for_each(repetitions_are_bit_identical);
}

#[test]
fn one_rank_gives_the_same_bits_solo_and_on_threads() {
    for config in configurations(1) {
        let solo = trace(&config.clone().with_store(StorePreference::Host).init().unwrap(), 77);
        assert_eq!(vec![solo], traces(1, &config));
    }
}

#[test]
fn another_seed_or_other_data_change_the_run() {
    let base = config(30, 3, 5);
    let first = traces(2, &base.clone().with_seed(1));
    let other = traces(2, &base.clone().with_seed(2));
    assert!(
        first[0].contents != other[0].contents
            && first[0].draws != other[0].draws
            && first[0].batches != other[0].batches
    );
    let data = world(2, |threads| trace(&buffer(&base.clone().with_seed(1), threads), 78));
    assert_ne!(first[0].contents, data[0].contents);
    assert_eq!(
        first[0].draws, data[0].draws,
        "draws depend on the fills of the shards only, not on the data"
    );
}

#[derive(RehearsalBatch, Clone, Debug)]
struct Ints {
    #[rehearsal(bytes)]
    image: Tensor<3, Int>,
    #[rehearsal(class)]
    class: Tensor<1, Int>,
    #[rehearsal(id)]
    id: Tensor<1, Int>,
    value: Tensor<2, Int>,
    flag: Tensor<1, Bool>,
}

fn ints(step: i64, dtype: DType) -> Ints {
    let device = device();
    let of = |values: Vec<i64>| {
        Tensor::<1, Int>::from_data(
            TensorData::new(values, [4]).convert_dtype(dtype),
            (&device, dtype),
        )
    };
    let all: Vec<i64> = (0..16).map(|i| (step * 7 + i * 5) % 120).collect();
    let block = || {
        Tensor::<1, Int>::from_data(
            TensorData::new(all.clone(), [16]).convert_dtype(dtype),
            (&device, dtype),
        )
    };
    Ints {
        image: block().reshape([4, 2, 2]),
        class: of((0..4).map(|i| (i + step) % 3).collect()),
        id: of((0..4).map(|i| (step * 4 + i) % 120).collect()),
        value: block().reshape([4, 4]),
        flag: Tensor::from_data(TensorData::new(vec![step % 2 == 0; 4], [4]), &device),
    }
}

#[test]
fn integer_types_are_kept_and_do_not_change_digests() {
    for on_repeat in [OnRepeat::KeepBoth, OnRepeat::SkipIfStored] {
        let reports: Vec<_> = [DType::I64, DType::I32, DType::I16, DType::U8, DType::U32]
            .into_iter()
            .map(|dtype| {
                world(2, |threads| {
                    let config = config(20, 3, 6).with_on_repeat(on_repeat);
                    let buffer: RehearsalBuffer<Ints> =
                        RehearsalBuffer::new(&config, threads).unwrap();
                    for step in 0..20 {
                        let out =
                            buffer.rehearse(ints(step + 50 * buffer.rank() as i64, dtype)).unwrap();
                        assert_eq!(
                            [
                                out.image.dtype(),
                                out.class.dtype(),
                                out.id.dtype(),
                                out.value.dtype()
                            ],
                            [dtype; 4]
                        );
                        let images: Vec<i64> = out.image.into_data().iter::<i64>().collect();
                        let values: Vec<i64> = out.value.into_data().iter::<i64>().collect();
                        assert_eq!(
                            images, values,
                            "{dtype:?}: both fields must return the same numbers"
                        );
                    }
                    let report = buffer.report().unwrap();
                    (report.contents_digest, report.draws_digest, report.per_class, report.distinct)
                })
            })
            .collect();
        assert!(reports.windows(2).all(|pair| pair[0] == pair[1]), "{reports:?}");
    }
}

#[test]
fn negative_integers_and_signed_zeros_are_stored_by_their_bits() {
    #[derive(RehearsalBatch, Clone, Debug)]
    struct Signed {
        value: Tensor<2, Int>,
        float: Tensor<1>,
    }
    let run = |dtype: DType, zero: f32| {
        let buffer: RehearsalBuffer<Signed> = config(9, 3, 3).init().unwrap();
        for step in 0..4 {
            let value =
                TensorData::new(vec![-1i64, -128, 127, -step, 0, 5], [3, 2]).convert_dtype(dtype);
            let value = Tensor::from_data(value, (&device(), dtype));
            let out = buffer
                .rehearse(Signed {
                    value,
                    float: Tensor::from_floats([zero, 1.0, f32::MAX], &device()),
                })
                .unwrap();
            let rows: Vec<i64> = out.value.into_data().iter::<i64>().collect();
            assert!(
                rows.chunks(2).all(|row| row == [-1, -128] || row[0] == 127 || row == [0, 5]),
                "{rows:?}"
            );
            assert_eq!(out.float.dims(), [rows.len() / 2]);
        }
        buffer.report().unwrap().contents_digest
    };
    let wide = run(DType::I64, 0.0);
    assert_eq!(wide, run(DType::I8, 0.0));
    assert_eq!(wide, run(DType::I32, 0.0));
    assert_ne!(wide, run(DType::I64, -0.0), "floats are compared by their bits");
}

/// The number of rows of each rank in a step. Some ranks have none, and in some steps all have
/// none.
fn uneven(size: usize, step: usize) -> Vec<usize> {
    (0..size)
        .map(|rank| if step % 7 == 5 { 0 } else { [4, 0, 6, 1, 3][(step + 2 * rank) % 5] })
        .collect()
}

pub(crate) fn draws_lag_behind_the_contents(size: usize) {
    for lag in [0, 1, 3] {
        for execution in [Execution::Background, Execution::Inline] {
            let config = config(7 * size + 1, 3, 4)
                .with_policy(PolicyKind::Fifo)
                .with_lag(lag)
                .with_seed(5)
                .with_execution(execution);
            let mut model = Model::new(size, 7 * size + 1, 3, 4, 5, lag as u64);
            let data = |rank: usize, step: usize| fresh(3, rank, step, uneven(size, step)[rank], 4);
            let expected: Vec<_> = (0..40)
                .map(|step| model.step(&(0..size).map(|rank| data(rank, step)).collect::<Vec<_>>()))
                .collect();
            assert!(
                expected[..lag].iter().flatten().all(Vec::is_empty),
                "the first {lag} steps have no representatives"
            );
            let shards = world(size, |threads| {
                let buffer = buffer(&config, threads);
                let ids = |step| data(buffer.rank(), step);
                assert_draws(&buffer, ids, &expected, &format!("{size} ranks, lag {lag}"));
                stored_ids(&buffer)
            });
            assert_eq!(shards, model.shards, "lag {lag}, {size} ranks");
        }
    }
}

#[test]
fn draws_see_the_candidates_up_to_lag_steps_before() {
    [1, 2, 3, 4].into_iter().for_each(draws_lag_behind_the_contents);
}

#[test]
fn with_a_large_r_all_rows_of_lag_steps_ago_are_drawn() {
    for lag in [0, 1, 2, 3, 5] {
        world(2, |threads| {
            let buffer = buffer(&config(400, 5, 400).with_lag(lag), threads);
            for step in 0..12 {
                let of = |rank: usize, step: usize| fresh(0, rank, step, 5, 3);
                let ids = of(buffer.rank(), step);
                let mut drawn = assert_augmented(&ids, &buffer.rehearse(batch(&ids)).unwrap());
                drawn.sort_unstable();
                let stored = if step < lag { 0..0 } else { 0..step - lag + 1 };
                let mut expected: Vec<i64> =
                    stored.flat_map(|step| [of(0, step), of(1, step)].concat()).collect();
                expected.sort_unstable();
                assert_eq!(drawn, expected, "lag {lag}, step {step}");
            }
        });
    }
}

#[test]
fn equal_capacities_in_samples_fraction_and_bytes_give_the_same_run() {
    let run = |capacity: Capacity| {
        let base = config(1, 3, 0).with_representatives(5).with_dataset_len(Some(200));
        traces(2, &RehearsalConfig { capacity, ..base })
    };
    let samples = run(Capacity::Samples(30));
    assert_eq!(samples, run(Capacity::Fraction(0.15)));
    assert_eq!(samples, run(Capacity::Bytes(30 * 28 + 27)));
}
