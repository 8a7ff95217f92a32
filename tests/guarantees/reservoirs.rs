//! The class-balanced policy keeps a uniform subset of the rows that were offered of each class.

use burn::tensor::{Tensor, TensorData};
use burn_rehearsal::{
    Capacity, Execution, PolicyKind, RehearsalBatch, RehearsalBuffer, RehearsalConfig,
};
use burn_rehearsal_testing::{
    batch, buffer, config, device, fresh, p_value, stored_ids, uniform_p, world,
};
use tempfile::TempDir;

const P: f64 = 1e-3;

/// A mini-batch without a class.
#[derive(RehearsalBatch)]
struct Plain {
    /// `[rows, 1]`: the task.
    task: Tensor<2>,
}

/// The number of rows of each of 5 tasks in 200 slots, after all tasks.
fn rows_by_task(policy: PolicyKind, seed: u64) -> Vec<u64> {
    let config = RehearsalConfig::new(Capacity::Samples(200))
        .with_policy(policy)
        .with_seed(seed)
        .with_execution(Execution::Inline);
    let buffer: RehearsalBuffer<Plain> = config.init().unwrap();
    for task in 0..5 {
        buffer.begin_task(task).unwrap();
        for _ in 0..60 {
            let values = TensorData::new(vec![task as f32; 20], [20, 1]);
            buffer.rehearse(Plain { task: Tensor::from_data(values, &device()) }).unwrap();
        }
    }
    let mut counts = vec![0; 5];
    buffer.snapshot().unwrap().samples().iter().for_each(|sample| counts[sample.task] += 1);
    counts
}

#[test]
fn without_a_class_the_default_policy_keeps_all_tasks_equally() {
    let mut counts = vec![0; 5];
    for seed in 0..5 {
        rows_by_task(PolicyKind::ClassBalanced, seed)
            .iter()
            .zip(&mut counts)
            .for_each(|(rows, count)| *count += rows);
    }
    // Rows are drawn without replacement, which only reduces the variance of the counts.
    assert!(uniform_p(&counts, 1000, 1) > P, "{counts:?}");
    let last = rows_by_task(PolicyKind::RandomReplacement, 0);
    assert!(last[4] > 190, "{last:?}");
}

#[test]
fn recurring_classes_are_kept_from_all_tasks_equally() {
    for size in [1, 3] {
        let mut counts = [0u64; 4];
        for seed in 0..4 {
            let config = config(240, 8, 8).with_seed(seed);
            let shards = world(size, |threads| {
                let buffer = buffer(&config, threads);
                for task in 0..4 {
                    buffer.begin_task(task).unwrap();
                    for step in 0..60 {
                        buffer
                            .rehearse(batch(&fresh(seed, buffer.rank(), 100 * task + step, 8, 5)))
                            .unwrap();
                    }
                }
                buffer
                    .snapshot()
                    .unwrap()
                    .samples()
                    .iter()
                    .map(|sample| sample.task)
                    .collect::<Vec<_>>()
            });
            shards.iter().flatten().for_each(|&task| counts[task] += 1);
        }
        assert!(uniform_p(&counts, 960, 1) > P, "{size} ranks: {counts:?}");
    }
}

#[test]
fn rows_of_ranks_with_fewer_offers_are_kept_more_often() {
    // With 20 slots each, rank 0 is offered 160 rows and rank 1 is offered 80. They keep an eighth
    // and a quarter of their first 40 rows.
    const SEEDS: u64 = 60;
    let mut stored = [0u64; 2];
    for seed in 0..SEEDS {
        let shards = world(2, |threads| {
            let buffer = buffer(&config(40, 8, 1).with_seed(seed), threads);
            let rows = [8, 4][buffer.rank()];
            for step in 0..20 {
                buffer.rehearse(batch(&fresh(seed, buffer.rank(), step, rows, 1))).unwrap();
            }
            let step = |id: i64| id / 64 / 8;
            let kept = stored_ids(&buffer);
            kept.into_iter().filter(|&id| step(id) < 40 / rows as i64).count() as u64
        });
        stored.iter_mut().zip(shards).for_each(|(all, count)| *all += count);
    }
    for (rank, (&count, share)) in stored.iter().zip([0.125, 0.25]).enumerate() {
        let expected = 40.0 * share * SEEDS as f64;
        let p = p_value((count as f64 - expected).powi(2) / expected, 1.0);
        assert!(p > P, "rank {rank}: {count} rows, expected {expected}, p = {p:e}");
    }
}

#[test]
fn another_world_size_keeps_the_ratio_of_stored_to_offered_rows() {
    // Each of 4 ranks is offered 100 rows for 10 slots, and each of 3 ranks then 130 more.
    let (mut counts, mut expected) = ([0u64; 2], [0.0; 2]);
    for seed in 0..25 {
        let (directory, config) = (TempDir::new().unwrap(), config(40, 10, 1).with_seed(seed));
        world(4, |threads| {
            let buffer = buffer(&config, threads);
            (0..10).for_each(|step| {
                drop(buffer.rehearse(batch(&fresh(seed, buffer.rank(), step, 10, 1))).unwrap())
            });
            buffer.checkpoint(directory.path()).unwrap();
        });
        let shards = world(3, |threads| {
            let buffer = buffer(&config, threads);
            buffer.restore(directory.path(), &device()).unwrap();
            (10..23).for_each(|step| {
                drop(buffer.rehearse(batch(&fresh(seed, buffer.rank(), step, 10, 1))).unwrap())
            });
            stored_ids(&buffer).iter().map(|id| (id / 64 / 8) < 10).collect::<Vec<_>>()
        });
        for rows in &shards {
            rows.iter().for_each(|&early| counts[usize::from(early)] += 1);
            // After resharding, n′ = n·m′/m is 10 per slot, and 130 rows follow.
            let (slots, before) = (rows.len() as f64, 10.0 * rows.len() as f64);
            expected[1] += slots * before / (before + 130.0);
            expected[0] += slots * 130.0 / (before + 130.0);
        }
    }
    let statistic: f64 = counts
        .iter()
        .zip(expected)
        .map(|(&count, expected): (&u64, f64)| (count as f64 - expected).powi(2) / expected)
        .sum();
    assert!(p_value(statistic, 1.0) > P, "{counts:?}, expected {expected:?}");
}

#[test]
fn without_a_class_the_default_policy_is_a_reservoir_bit_for_bit() {
    for size in [1, 2] {
        let run = |policy| {
            let config =
                RehearsalConfig::new(Capacity::Samples(30)).with_policy(policy).with_seed(4);
            world(size, |threads| {
                let buffer: RehearsalBuffer<Plain> =
                    RehearsalBuffer::new(&config, threads).unwrap();
                for step in 0..40 {
                    let values = TensorData::new(
                        (0..6).map(|row| (6 * step + row) as f32).collect::<Vec<_>>(),
                        [6, 1],
                    );
                    buffer.rehearse(Plain { task: Tensor::from_data(values, &device()) }).unwrap();
                }
                buffer.report().unwrap().contents_digest
            })
        };
        assert_eq!(run(PolicyKind::ClassBalanced), run(PolicyKind::Reservoir), "{size} ranks");
    }
}
