//! What the class-balanced policy keeps: a uniform subset of what each class was offered.

use burn::tensor::{Tensor, TensorData};
use burn_rehearsal::policy::{ClassBalanced, Placement, Policy};
use burn_rehearsal::random::{Purpose, Stream};
use burn_rehearsal::{Capacity, Execution, PolicyKind, RehearsalBatch, RehearsalBuffer, RehearsalConfig, SlotTable};
use burn_rehearsal_testing::{batch, buffer, config, device, fresh, p_value, uniform_p, world};
use std::collections::BTreeMap;
use tempfile::TempDir;

const P: f64 = 1e-3;

/// The ids of each class that a shard of `capacity` slots holds after these (class, id) were offered.
fn stored(seed: u64, capacity: usize, offered: impl IntoIterator<Item = (u32, i64)>) -> BTreeMap<u32, Vec<i64>> {
    let mut policy = ClassBalanced::new(None, 0);
    let mut table = SlotTable::new(capacity, true);
    for (step, (class, id)) in offered.into_iter().enumerate() {
        let mut rng = Stream::new(seed, Purpose::Evict, step as u64, 0);
        policy.begin(&[class]);
        policy.offered(class);
        if !table.is_full() {
            table.push(class, Some(id));
        } else if let Placement::Replace(slot) = policy.place(class, &table, &mut rng) {
            table.replace(slot, class, Some(id));
        }
    }
    let mut ids: BTreeMap<u32, Vec<i64>> = BTreeMap::new();
    for slot in 0..table.len() as u32 {
        ids.entry(table.class(slot)).or_default().extend(table.id(slot));
    }
    ids.values_mut().for_each(|ids| ids.sort_unstable());
    ids
}

fn binomial(n: u64, k: u64) -> u64 {
    (0..k).fold(1, |product, i| product * (n - i) / (i + 1))
}

/// Fails unless every subset of `held` of the rows 0..offered of `class` occurs equally often over seeds: single rows, pairs and all.
fn assert_every_subset(stream: impl Fn() -> Vec<(u32, i64)>, capacity: usize, class: u32, offered: u64, held: u64) {
    let subsets = binomial(offered, held);
    let trials = 60 * subsets;
    let mut counts: BTreeMap<Vec<i64>, u64> = BTreeMap::new();
    for seed in 0..trials {
        let ids = stored(seed, capacity, stream()).remove(&class).unwrap();
        assert_eq!(ids.len() as u64, held, "class {class}");
        *counts.entry(ids).or_default() += 1;
    }
    let statistic: f64 =
        (counts.values().map(|&n| (n as f64 - 60.0).powi(2) / 60.0).sum::<f64>()) + (subsets - counts.len() as u64) as f64 * 60.0;
    let p = p_value(statistic, subsets as f64 - 1.0);
    assert!(p > P, "class {class}: p = {p:e} over {subsets} subsets: {counts:?}");
}

fn rows(class: u32, ids: std::ops::Range<i64>) -> Vec<(u32, i64)> {
    ids.map(|id| (class, id)).collect()
}

#[test]
fn a_class_that_fills_its_share_keeps_a_uniform_subset_of_what_it_was_offered() {
    // One class alone is a plain reservoir.
    assert_every_subset(|| rows(0, 0..7), 3, 0, 7, 3);
    // Two classes in turn: three slots each.
    let in_turn = || (0..7).flat_map(|id| [(0, id), (1, id)]).collect::<Vec<_>>();
    assert_every_subset(in_turn, 6, 0, 7, 3);
    assert_every_subset(in_turn, 6, 1, 7, 3);
}

#[test]
fn a_class_that_shrinks_for_a_late_one_stays_uniform_and_so_is_the_late_one() {
    let late = || [rows(0, 0..9), rows(4, 0..7)].concat();
    assert_every_subset(late, 6, 0, 9, 3);
    assert_every_subset(late, 6, 4, 7, 3);
}

#[test]
fn loans_that_are_taken_back_leave_uniform_subsets() {
    // Class 1 has a single row at first, and its two other slots are lent.
    let stream = || [rows(1, 0..1), rows(0, 0..6), rows(2, 0..6), rows(1, 1..6), rows(0, 6..8)].concat();
    assert_every_subset(stream, 6, 0, 8, 2);
    assert_every_subset(stream, 6, 1, 6, 2);
    assert_every_subset(stream, 6, 2, 6, 2);
}

/// A mini-batch without a class.
#[derive(RehearsalBatch)]
struct Plain {
    /// `[rows, 1]`: the task.
    task: Tensor<2>,
}

/// How many rows of each of 5 tasks are stored after all of them, in 200 slots.
fn rows_by_task(policy: PolicyKind, seed: u64) -> Vec<u64> {
    let config = RehearsalConfig::new(Capacity::Samples(200)).with_policy(policy).with_seed(seed).with_execution(Execution::Inline);
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
fn without_a_class_the_default_keeps_all_tasks_alike_and_random_replacement_only_the_last() {
    let mut counts = vec![0; 5];
    for seed in 0..5 {
        rows_by_task(PolicyKind::ClassBalanced, seed).iter().zip(&mut counts).for_each(|(rows, count)| *count += rows);
    }
    // Rows are stored without replacement, which only makes the counts vary less.
    assert!(uniform_p(&counts, 1000, 1) > P, "{counts:?}");
    let last = rows_by_task(PolicyKind::RandomReplacement, 0);
    assert!(last[4] > 190, "{last:?}");
}

#[test]
fn the_same_classes_in_every_task_are_kept_from_all_tasks_alike_on_several_ranks() {
    for size in [1, 3] {
        let mut counts = [0u64; 4];
        for seed in 0..4 {
            let config = config(240, 8, 8).with_seed(seed);
            let shards = world(size, |threads| {
                let buffer = buffer(&config, threads);
                for task in 0..4 {
                    buffer.begin_task(task).unwrap();
                    for step in 0..60 {
                        buffer.rehearse(batch(&fresh(seed, buffer.rank(), 100 * task + step, 8, 5))).unwrap();
                    }
                }
                buffer.snapshot().unwrap().samples().iter().map(|sample| sample.task).collect::<Vec<_>>()
            });
            shards.iter().flatten().for_each(|&task| counts[task] += 1);
        }
        assert!(uniform_p(&counts, 960, 1) > P, "{size} ranks: {counts:?}");
    }
}

#[test]
fn ranks_that_are_offered_fewer_rows_are_over_represented_by_the_ratio_of_the_rows() {
    // Rank 0 is offered 160 rows and rank 1 80, for 20 slots each: of the first 40 rows of either, an eighth and a quarter stay.
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
            let snapshot = buffer.snapshot().unwrap();
            snapshot.samples().iter().filter(|sample| step(sample.id.unwrap()) < 40 / rows as i64).count() as u64
        });
        stored.iter_mut().zip(shards).for_each(|(all, count)| *all += count);
    }
    for (rank, (&count, share)) in stored.iter().zip([0.125, 0.25]).enumerate() {
        let expected = 40.0 * share * SEEDS as f64;
        let p = p_value((count as f64 - expected).powi(2) / expected, 1.0);
        assert!(p > P, "rank {rank}: {count} rows where {expected} are expected, p = {p:e}");
    }
}

#[test]
fn a_change_of_the_world_keeps_the_ratio_of_rows_stored_to_rows_offered() {
    // 4 ranks are offered 100 rows each for 10 slots each; then 3 ranks about as many more in all.
    let (mut counts, mut expected) = ([0u64; 2], [0.0; 2]);
    for seed in 0..25 {
        let (directory, config) = (TempDir::new().unwrap(), config(40, 10, 1).with_seed(seed));
        world(4, |threads| {
            let buffer = buffer(&config, threads);
            (0..10).for_each(|step| drop(buffer.rehearse(batch(&fresh(seed, buffer.rank(), step, 10, 1))).unwrap()));
            buffer.checkpoint(directory.path()).unwrap();
        });
        let shards = world(3, |threads| {
            let buffer = buffer(&config, threads);
            buffer.restore(directory.path(), &device()).unwrap();
            (10..23).for_each(|step| drop(buffer.rehearse(batch(&fresh(seed, buffer.rank(), step, 10, 1))).unwrap()));
            buffer.snapshot().unwrap().samples().iter().map(|sample| (sample.id.unwrap() / 64 / 8) < 10).collect::<Vec<_>>()
        });
        for rows in &shards {
            rows.iter().for_each(|&early| counts[usize::from(early)] += 1);
            // n′ = n·m′/m is 10 per slot, and 130 rows follow.
            let (slots, before) = (rows.len() as f64, 10.0 * rows.len() as f64);
            expected[1] += slots * before / (before + 130.0);
            expected[0] += slots * 130.0 / (before + 130.0);
        }
    }
    let statistic: f64 =
        counts.iter().zip(expected).map(|(&count, expected): (&u64, f64)| (count as f64 - expected).powi(2) / expected).sum();
    assert!(p_value(statistic, 1.0) > P, "{counts:?}, expected {expected:?}");
}

#[test]
fn without_a_class_the_default_is_a_reservoir_bit_for_bit() {
    for size in [1, 2] {
        let run = |policy| {
            let config = RehearsalConfig::new(Capacity::Samples(30)).with_policy(policy).with_seed(4);
            world(size, |threads| {
                let buffer: RehearsalBuffer<Plain> = RehearsalBuffer::new(&config, threads).unwrap();
                for step in 0..40 {
                    let values = TensorData::new((0..6).map(|row| (6 * step + row) as f32).collect::<Vec<_>>(), [6, 1]);
                    buffer.rehearse(Plain { task: Tensor::from_data(values, &device()) }).unwrap();
                }
                buffer.report().unwrap().contents_digest
            })
        };
        assert_eq!(run(PolicyKind::ClassBalanced), run(PolicyKind::Reservoir), "{size} ranks");
    }
}
