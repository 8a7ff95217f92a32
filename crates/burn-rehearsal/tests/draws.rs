//! Several draws per step: independent, each with its own rule, in one round.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use burn_rehearsal::error::{CheckpointError, ConfigError, RehearsalError};
use burn_rehearsal::random::Stream;
use burn_rehearsal::sampling::{Draw, Sampling, ShardCounts};
use burn_rehearsal::{
    CandidateMode, Capacity, CustomRules, DrawConfig, Execution, RehearsalBatch, RehearsalBuffer,
    RehearsalConfig, RowLayout, SamplingKind, StorePreference,
};
use burn_rehearsal_collective::{Collective, Rank, run_threads};
use statrs::distribution::{ChiSquared, ContinuousCDF};
use std::convert::Infallible;
use std::path::Path;

#[derive(RehearsalBatch, Clone, Debug)]
struct Batch {
    /// `[rows, 1]`: the class times 100, plus the number of the row.
    features: Tensor<2>,
    /// `[rows]`
    #[rehearsal(class)]
    class: Tensor<1, Int>,
    #[rehearsal(layout)]
    rows: RowLayout<Self>,
}

/// A mini-batch of these rows.
fn batch(numbers: &[usize]) -> Batch {
    let (rows, device) = (numbers.len(), Device::flex());
    let features: Vec<f32> = numbers.iter().map(|&number| number as f32).collect();
    let classes: Vec<i64> = numbers.iter().map(|&number| (number / 100) as i64).collect();
    Batch {
        features: Tensor::from_data(TensorData::new(features, [rows, 1]), &device),
        class: Tensor::from_data(TensorData::new(classes, [rows]), (&device, DType::I64)),
        rows: RowLayout::default(),
    }
}

/// The rows of each draw of a mini-batch.
fn drawn(batch: &Batch) -> Vec<Vec<usize>> {
    let numbers: Vec<usize> =
        batch.features.clone().into_data().iter::<f32>().map(|number| number as usize).collect();
    (0..batch.rows.draws().len()).map(|draw| numbers[batch.rows.range(draw)].to_vec()).collect()
}

/// Runs `f` on `size` ranks.
fn world<T: Send>(size: usize, f: impl Fn(Box<dyn Collective>) -> T + Sync) -> Vec<T> {
    run_threads(size, |threads| Ok::<T, Infallible>(f(Box::new(threads))))
        .into_iter()
        .map(|result| result.unwrap_or_else(|failure| panic!("{failure}")))
        .collect()
}

fn config(draws: impl IntoIterator<Item = DrawConfig>) -> RehearsalConfig {
    RehearsalConfig::new(Capacity::Samples(24)).with_draws(draws)
}

/// A configuration in which no row becomes a candidate, so shards stay as they are filled.
fn still(draws: impl IntoIterator<Item = DrawConfig>) -> RehearsalConfig {
    config(draws).with_candidate_mode(CandidateMode::Bernoulli).with_candidates(1e-300)
}

/// The probability that a uniform choice among the cells deviates at least as much.
fn p_value(counts: &[u64]) -> f64 {
    let expected = counts.iter().sum::<u64>() as f64 / counts.len() as f64;
    assert!(expected >= 5.0, "too few draws for a χ² test");
    let statistic = counts.iter().map(|&n| (n as f64 - expected).powi(2) / expected).sum();
    ChiSquared::new(counts.len() as f64 - 1.0).unwrap().sf(statistic)
}

/// The pairs of rows in `steps` steps of two draws of one row each, on 2 ranks with 5 and 2 stored
/// rows, as counts of (first, second).
fn pairs(steps: usize) -> Vec<u64> {
    let counts = world(2, |collective| {
        let config = still([DrawConfig::new(1), DrawConfig::new(1)]);
        let buffer = RehearsalBuffer::new(&config, collective).unwrap();
        let stored = if buffer.rank() == 0 { 0..5 } else { 5..7 };
        buffer.fill([Ok(batch(&stored.collect::<Vec<_>>()))]).unwrap();
        let mut counts = vec![0; 7 * 7];
        for _ in 0..steps {
            let drawn = drawn(&buffer.rehearse(batch(&[50])).unwrap());
            if let [first, second] = drawn.as_slice()
                && !first.is_empty()
            {
                assert_eq!((first.len(), second.len()), (1, 1));
                counts[first[0] * 7 + second[0]] += 1;
            }
        }
        counts
    });
    counts[0].iter().zip(&counts[1]).map(|(a, b)| a + b).collect()
}

#[test]
fn two_draws_of_a_step_are_independent_and_each_is_uniform() {
    let pairs = pairs(3000);
    let p = p_value(&pairs);
    assert!(p > 1e-3, "p = {p} for pairs {pairs:?}");
    let first: Vec<u64> = pairs.chunks(7).map(|row| row.iter().sum()).collect();
    let second: Vec<u64> = (0..7).map(|at| pairs.iter().skip(at).step_by(7).sum()).collect();
    assert!(p_value(&first) > 1e-3 && p_value(&second) > 1e-3, "{first:?}, {second:?}");
    // Draws with the same random numbers would be on the diagonal.
    let diagonal = Vec::from_iter((0..49).map(|cell| if cell % 8 == 0 { 100 } else { 0 }));
    assert!(p_value(&diagonal) < 1e-6);
}

/// The candidates of a step: classes 0 and 1 only at the beginning, then class 2.
fn rows(step: usize, rank: usize) -> Vec<usize> {
    let count = 2 + (step + rank) % 3;
    let class = if step < 3 { step % 2 } else { 2 };
    (0..count).map(|row| 100 * class + (3 * step + row) % 50 + 50 * (rank % 2)).collect()
}

/// Some steps on `size` ranks, from one checkpoint to another. Returns the rows of each draw and
/// the digest of all draws, for each rank.
fn run(
    size: usize,
    config: &RehearsalConfig,
    [from, to]: [Option<&Path>; 2],
    steps: std::ops::Range<usize>,
) -> Vec<(Vec<Vec<Vec<usize>>>, String)> {
    world(size, |collective| {
        let buffer = RehearsalBuffer::new(config, collective).unwrap();
        if let Some(from) = from {
            buffer.restore(from, &Device::flex()).unwrap();
        }
        let step = |step| drawn(&buffer.rehearse(batch(&rows(step, buffer.rank()))).unwrap());
        let drawn = steps.clone().map(step).collect();
        if let Some(to) = to {
            buffer.checkpoint(to).unwrap();
        }
        (drawn, buffer.report().unwrap().draws_digest)
    })
}

#[test]
fn the_first_draw_does_not_depend_on_further_draws() {
    for size in [1, 3] {
        let one = run(size, &config([DrawConfig::new(4)]), [None; 2], 0..20);
        let several = [DrawConfig::new(4), DrawConfig::new(3), DrawConfig::new(1.0)];
        let three = run(size, &config(several), [None; 2], 0..20);
        for (rank, ((one, one_digest), (three, three_digest))) in one.iter().zip(&three).enumerate()
        {
            assert_ne!(one_digest, three_digest);
            for (step, (one, three)) in one.iter().zip(three).enumerate() {
                assert_eq!((one.len(), three.len()), (1, 3));
                assert_eq!(one[0], three[0], "rank {rank}, step {step}");
                // A ratio refers to the mini-batch one step earlier.
                let expected = if step == 0 { 0 } else { rows(step - 1, rank).len() };
                assert_eq!(three[2].len(), expected, "rank {rank}, step {step}");
            }
        }
        assert!(three[0].0[19][1] != three[0].0[19][0][..3], "the draws are different");
    }
}

#[test]
fn every_draw_has_its_own_rule() {
    let balanced = DrawConfig::new(2).with_sampling(SamplingKind::ClassBalanced);
    let shares = world(2, |collective| {
        let buffer =
            RehearsalBuffer::new(&still([DrawConfig::new(2), balanced]), collective).unwrap();
        // Rank 0 stores 2 rows of class 0 and 3 of class 1, rank 1 stores 7 of class 1.
        let stored = match buffer.rank() {
            0 => vec![0, 1, 100, 101, 102],
            _ => (103..110).collect(),
        };
        buffer.fill([Ok(batch(&stored))]).unwrap();
        let mut class_0 = [0.0; 2];
        for _ in 0..1001 {
            let drawn = drawn(&buffer.rehearse(batch(&[150])).unwrap());
            for (draw, count) in drawn.iter().zip(&mut class_0) {
                *count += draw.iter().filter(|number| **number < 100).count() as f64;
            }
        }
        class_0.map(|count| count / 2000.0)
    });
    for [uniform, balanced] in shares {
        assert!((uniform - 2.0 / 12.0).abs() < 0.03, "{uniform}");
        assert!((balanced - 0.5).abs() < 0.04, "{balanced}");
    }

    let earlier = DrawConfig::new(2).with_sampling(SamplingKind::ExcludeCurrent);
    let buffer = RehearsalConfig::new(Capacity::Samples(24))
        .with_draws([DrawConfig::new(2), earlier])
        .init::<Batch>()
        .unwrap();
    let mut lengths = Vec::new();
    for task in 0..2 {
        buffer.begin_task(task).unwrap();
        for _ in 0..2 {
            let batch = buffer.rehearse(batch(&[100 * task, 100 * task + 1])).unwrap();
            lengths.push(batch.rows.draws().to_vec());
            if task == 1 {
                assert!(drawn(&batch)[1].iter().all(|number| number / 100 == 0));
            }
        }
    }
    // The draws are made again when the task begins.
    assert_eq!(lengths, [[0, 0], [2, 0], [2, 2], [2, 2]]);
    assert_eq!(buffer.report().unwrap().sampling, "uniform, exclude-current");
    assert_eq!(buffer.sample(3).unwrap().unwrap().rows.draws(), [3]);
}

#[test]
fn a_resumed_run_continues_all_draws() {
    for (size, store, execution) in [
        (1, StorePreference::Device, Execution::Inline),
        (3, StorePreference::Host, Execution::Background),
    ] {
        let balanced = DrawConfig::new(2).with_sampling(SamplingKind::ClassBalanced);
        let config = config([DrawConfig::new(3), balanced, DrawConfig::new(0.5)])
            .with_lag(2)
            .with_store(store)
            .with_execution(execution);
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let whole = run(size, &config, [None; 2], 0..20);
        let first = run(size, &config, [None, Some(path)], 0..9);
        let rest = run(size, &config, [Some(path), None], 9..20);
        for ((whole, first), rest) in whole.into_iter().zip(first).zip(rest) {
            assert_eq!(whole, ([first.0, rest.0].concat(), rest.1));
        }
        // On another number of ranks, the pending rows are drawn again.
        for (steps, _) in run(2, &config, [Some(path), None], 9..12) {
            assert!(steps.iter().all(|draws| (draws[0].len(), draws[1].len()) == (3, 2)));
        }
        // Another number of draws is another configuration.
        let other = RehearsalConfig { further_draws: Vec::new(), ..config };
        let error = other.init::<Batch>().unwrap().restore(path, &Device::flex()).unwrap_err();
        assert!(
            matches!(&error, RehearsalError::Checkpoint(CheckpointError::Foreign { .. }))
                && error.to_string().contains("further_draws"),
            "{error}"
        );
    }
}

/// Draws the first rows of all shards.
#[derive(Clone)]
struct First;

impl Sampling for First {
    fn name(&self) -> &'static str {
        "first"
    }

    fn plan(
        &mut self,
        counts: &ShardCounts,
        _rng: &mut Stream,
        representatives: usize,
        draws: &mut Vec<Draw>,
    ) {
        let rows = counts.fill.total().min(representatives as u64);
        draws.extend((0..rows).map(|number| Draw { group: 0, number }));
    }
}

#[test]
fn a_custom_rule_can_replace_the_rule_of_any_draw() {
    let config = config([DrawConfig::new(2), DrawConfig::new(2)]);
    let rules = CustomRules::default().with_draw_sampling(1, First);
    let agreed = serde_json::to_value(rules.agreed(&config)).unwrap();
    assert_eq!(agreed["sampling"], "uniform");
    assert_eq!(agreed["further_draws"][0]["sampling"], "custom:first");
    let buffer = config.init_with::<Batch>(&Rank::solo(), rules.clone()).unwrap();
    for step in 0..5 {
        let draws = drawn(&buffer.rehearse(batch(&[10 + step, 20 + step])).unwrap());
        assert_eq!(draws[1], if step == 0 { vec![] } else { vec![10, 20] });
    }
    assert_eq!(buffer.report().unwrap().sampling, "uniform, first");

    let wrong = rules.with_draw_sampling(2, First);
    let error = config.init_with::<Batch>(&Rank::solo(), wrong).unwrap_err();
    assert_eq!(error, ConfigError::NoDraw { draw: 2, draws: 2 }.into());
}

#[test]
fn every_draw_is_checked() {
    let error = config([DrawConfig::new(1), DrawConfig::new(25)]).init::<Batch>().unwrap_err();
    let expected = ConfigError::RepresentativesBeyondCapacity { representatives: 25, capacity: 24 };
    assert_eq!(error, expected.into());
    let error = config([DrawConfig::new(1), DrawConfig::new(-0.5)]).init::<Batch>().unwrap_err();
    assert!(matches!(error, RehearsalError::Config(ConfigError::Ratio { .. })), "{error}");

    let none = config([]).init::<Batch>().unwrap();
    for _ in 0..3 {
        assert_eq!(none.rehearse(batch(&[1])).unwrap().rows.draws(), [0]);
    }
    let errors = world(2, |collective| {
        let draws = [DrawConfig::new(2), DrawConfig::new(1 + collective.rank())];
        let buffer = RehearsalBuffer::new(&config(draws), collective).unwrap();
        (0..3).find_map(|step| buffer.rehearse(batch(&[step])).err())
    });
    for error in errors {
        let error = error.unwrap();
        assert!(matches!(&error, RehearsalError::Configuration(_)), "{error}");
        assert!(error.to_string().contains("further_draws"), "{error}");
    }
}
