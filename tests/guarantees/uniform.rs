//! Guarantee 1 of docs/ARCHITECTURE.md: every stored row of all shards is drawn with the same
//! probability.

use burn_rehearsal::random::{Purpose, Stream};
use burn_rehearsal::{OnRepeat, RehearsalConfig, SamplingKind};
use burn_rehearsal_testing::{
    CLASS, assert_augmented, batch, buffer, config, p_value, uniform_p, world,
};
use std::collections::{BTreeMap, BTreeSet};

/// The number of rows that each rank stores in a shard of 40 slots.
const FILLS: [usize; 8] = [1, 20, 40, 7, 33, 2, 40, 13];
const SHARD: usize = 40;
const P: f64 = 1e-3;

/// The IDs that `rank` stores: three quarters of class 0, the rest of classes 1 and 2.
fn stored_ids(rank: usize, fill: usize) -> Vec<i64> {
    let class = |row: usize| if row % 4 < 3 { 0 } else { 1 + (row / 4 % 2) as i64 };
    (0..fill).map(|row| class(row) * CLASS + (rank * 1000 + row) as i64).collect()
}

/// The (rank, slot) of each representative of a step, in the order of the appended rows.
type Places = Vec<(u32, u32)>;

/// The draws of a rank in each step.
type Drawn = Vec<Places>;

/// Fills shards with `contents`, freezes them, and draws `steps` times on every rank that stores
/// rows.
///
/// The contents are frozen because every later mini-batch is a row that its rank already stores.
fn draw_from_frozen(
    config: &RehearsalConfig,
    contents: &[Vec<i64>],
    steps: usize,
    expected: usize,
) -> Vec<Drawn> {
    let config = config.clone().with_on_repeat(OnRepeat::SkipIfStored);
    world(contents.len(), |threads| {
        let buffer = buffer(&config, threads);
        let ids = &contents[buffer.rank()];
        let Some(&mine) = ids.first() else {
            (0..=steps).for_each(|_| buffer.skip_step().unwrap());
            assert_eq!(buffer.inspect().unwrap().len, 0);
            return Vec::new();
        };
        buffer.rehearse(batch(ids)).unwrap();
        let mut at = BTreeMap::new();
        let drawn = (0..steps)
            .map(|step| {
                let rehearsed = buffer.rehearse_with_handles(batch(&[mine])).unwrap();
                let ids = assert_augmented(&[mine], &rehearsed.batch);
                assert_eq!(
                    ids.len(),
                    expected,
                    "step {step} must have min(r, stored) representatives"
                );
                let places: Vec<_> = rehearsed
                    .representatives
                    .iter()
                    .map(|handle| (handle.rank, handle.slot))
                    .collect();
                assert_eq!(
                    places.iter().collect::<BTreeSet<_>>().len(),
                    expected,
                    "a row was drawn twice in one draw"
                );
                for (handle, id) in rehearsed.representatives.iter().zip(ids) {
                    assert_eq!(
                        *at.entry(*handle).or_insert(id),
                        id,
                        "a handle refers to two rows of frozen contents"
                    );
                    assert_eq!(
                        contents[handle.rank as usize].iter().find(|&&stored| stored == id),
                        Some(&id),
                        "the row is not stored on that rank"
                    );
                }
                places
            })
            .collect();
        let snapshot = buffer.snapshot().unwrap();
        assert_eq!(snapshot.samples().len(), ids.len(), "the contents must stay frozen");
        for sample in snapshot.samples() {
            assert!(
                at.get(&sample.handle).is_none_or(|&id| sample.id == Some(id)),
                "a handle does not refer to its row"
            );
        }
        drawn
    })
}

/// How often each row of shards with these `fills` was drawn.
fn count<'a>(fills: &[usize], draws: impl Iterator<Item = &'a (u32, u32)>) -> Vec<u64> {
    let starts: Vec<usize> =
        fills.iter().scan(0, |end, fill| Some(std::mem::replace(end, *end + fill))).collect();
    let mut counts = vec![0; fills.iter().sum()];
    draws.for_each(|&(rank, slot)| counts[starts[rank as usize] + slot as usize] += 1);
    counts
}

fn fills_of(size: usize) -> Vec<usize> {
    if size == 1 { vec![23] } else { FILLS[..size].to_vec() }
}

pub(crate) fn uniform_in_world(size: usize, steps: usize) {
    let (fills, r) = (fills_of(size), 7);
    let total: usize = fills.iter().sum();
    let contents: Vec<_> =
        fills.iter().enumerate().map(|(rank, &fill)| stored_ids(rank, fill)).collect();
    let drawn = draw_from_frozen(
        &config(SHARD * size, 64, r).with_seed(11),
        &contents,
        steps,
        r.min(total),
    );
    let pooled = uniform_p(
        &count(&fills, drawn.iter().flatten().flatten()),
        (steps * size) as u64,
        r as u64,
    );
    assert!(pooled > P, "{size} ranks: p = {pooled:e}");
    for (rank, drawn) in drawn.iter().enumerate() {
        let p = uniform_p(&count(&fills, drawn.iter().flatten()), steps as u64, r as u64);
        assert!(p > P, "rank {rank} of {size} does not draw uniformly: p = {p:e}");
    }
}

#[test]
fn draws_are_uniform_on_one_rank() {
    uniform_in_world(1, 12_000);
}

#[test]
fn draws_are_uniform_over_two_ranks_with_one_and_20_rows() {
    uniform_in_world(2, 8000);
}

#[test]
fn draws_are_uniform_over_three_unequally_filled_ranks() {
    uniform_in_world(3, 5000);
}

#[test]
fn draws_are_uniform_over_four_unequally_filled_ranks() {
    uniform_in_world(4, 4000);
}

#[test]
fn draws_are_uniform_over_eight_unequally_filled_ranks() {
    uniform_in_world(8, 1200);
}

#[test]
fn draws_are_uniform_while_one_shard_is_empty() {
    let fills = [12, 0, 30];
    let contents: Vec<_> =
        fills.iter().enumerate().map(|(rank, &fill)| stored_ids(rank, fill)).collect();
    let drawn = draw_from_frozen(&config(120, 64, 5).with_seed(3), &contents, 1500, 5);
    assert!(drawn[1].is_empty());
    let p = uniform_p(&count(&fills, drawn.iter().flatten().flatten()), 3000, 5);
    assert!(p > P, "p = {p:e}");
}

#[test]
fn if_fewer_than_r_rows_are_stored_all_are_drawn_once() {
    for fills in [vec![4], vec![1, 3], vec![1, 0, 2, 1]] {
        let total = fills.iter().sum();
        let contents: Vec<_> =
            fills.iter().enumerate().map(|(rank, &fill)| stored_ids(rank, fill)).collect();
        for drawn in draw_from_frozen(&config(40, 64, 9), &contents, 30, total).iter().flatten() {
            assert_eq!(drawn.iter().collect::<BTreeSet<_>>().len(), total);
        }
    }
}

/// Checks that pairs of draws of r out of n are independent: the number of their common rows is
/// hypergeometric.
fn assert_independent<'a>(
    pairs: impl ExactSizeIterator<Item = (&'a Places, &'a Places)>,
    n: f64,
    r: f64,
) {
    let trials = pairs.len() as f64;
    let common: usize =
        pairs.map(|(a, b)| a.iter().filter(|place| b.contains(place)).count()).sum();
    let (mean, variance) = (r * r / n, r * (r / n) * (1.0 - r / n) * (n - r) / (n - 1.0));
    let z = (common as f64 - trials * mean) / (trials * variance).sqrt();
    assert!(z.abs() < 4.0, "{common} common rows, expected {:.1}: z = {z:.1}", trials * mean);
}

#[test]
fn draws_of_different_ranks_and_steps_are_independent() {
    let fills = [9, 20, 3];
    let contents: Vec<_> =
        fills.iter().enumerate().map(|(rank, &fill)| stored_ids(rank, fill)).collect();
    let drawn = draw_from_frozen(&config(120, 64, 6).with_seed(21), &contents, 1500, 6);
    for (a, b) in [(0, 1), (1, 2), (0, 2)] {
        assert_independent(drawn[a].iter().zip(&drawn[b]), 32.0, 6.0);
    }
    for draws in &drawn {
        assert_independent(draws.windows(2).map(|pair| (&pair[0], &pair[1])), 32.0, 6.0);
    }
}

/// The sampler of the paper's implementation: a random slot of a shard's capacity, modulo the
/// number of its rows.
fn folded(fills: &[usize], r: usize, rng: &mut Stream) -> Vec<(u32, u32)> {
    let mut drawn = BTreeSet::new();
    while drawn.len() < r {
        let virtual_slot = rng.below((SHARD * fills.len()) as u64) as usize;
        let (rank, slot) =
            (virtual_slot / SHARD, virtual_slot % SHARD % fills[virtual_slot / SHARD]);
        drawn.insert((rank as u32, slot as u32));
    }
    drawn.into_iter().collect()
}

/// Uniform, except that rows of rank 0 are rejected with probability 1/5.
fn slightly_biased(fills: &[usize], r: usize, rng: &mut Stream) -> Vec<(u32, u32)> {
    let rows: Vec<_> = fills
        .iter()
        .enumerate()
        .flat_map(|(rank, &fill)| (0..fill).map(move |slot| (rank as u32, slot as u32)))
        .collect();
    let mut drawn = BTreeSet::new();
    while drawn.len() < r {
        let row = rows[rng.below(rows.len() as u64) as usize];
        if row.0 != 0 || rng.below(5) != 0 {
            drawn.insert(row);
        }
    }
    drawn.into_iter().collect()
}

/// Never draws the first slot of a shard.
fn without_slot_0(fills: &[usize], r: usize, rng: &mut Stream) -> Vec<(u32, u32)> {
    let rows: Vec<_> = fills
        .iter()
        .enumerate()
        .flat_map(|(rank, &fill)| (1..fill).map(move |slot| (rank as u32, slot as u32)))
        .collect();
    let mut drawn = BTreeSet::new();
    while drawn.len() < r {
        drawn.insert(rows[rng.below(rows.len() as u64) as usize]);
    }
    drawn.into_iter().collect()
}

#[test]
fn the_test_of_uniformity_rejects_biased_samplers() {
    type Sampler = fn(&[usize], usize, &mut Stream) -> Vec<(u32, u32)>;
    let samplers: [(&str, Sampler, &[usize]); 4] = [
        ("modulo folding, unequal fill", folded, &[5, 20, 40]),
        ("modulo folding, one rank", folded, &[23]),
        ("a rank drawn 20 % less", slightly_biased, &[20, 20, 40]),
        ("slot 0 never drawn", without_slot_0, &[5, 20, 40]),
    ];
    for (name, sampler, fills) in samplers {
        let mut rng = Stream::new(5, Purpose::Draw, 0, 0);
        let drawn: Drawn = (0..1500).map(|_| sampler(fills, 4, &mut rng)).collect();
        let p = uniform_p(&count(fills, drawn.iter().flatten()), 1500, 4);
        assert!(p < P, "{name}: p = {p:e}, so the test accepts a biased sampler");
    }
    // The test accepts a uniform sampler.
    let mut rng = Stream::new(5, Purpose::Draw, 0, 0);
    let draw = |rng: &mut Stream| {
        let mut rows: Vec<(u32, u32)> = [5u32, 20, 40]
            .iter()
            .zip(0..)
            .flat_map(|(&fill, rank)| (0..fill).map(move |slot| (rank, slot)))
            .collect();
        rng.shuffle(&mut rows);
        rows[..4].to_vec()
    };
    let drawn: Drawn = (0..1500).map(|_| draw(&mut rng)).collect();
    let p = uniform_p(&count(&[5, 20, 40], drawn.iter().flatten()), 1500, 4);
    assert!(p > P, "p = {p:e} for a uniform sampler");
}

/// Contents in which class c has `sizes[c]` rows, distributed very unequally over the ranks.
fn imbalanced(sizes: &[usize], ranks: usize) -> Vec<Vec<i64>> {
    let mut contents = vec![Vec::new(); ranks];
    for (class, &size) in sizes.iter().enumerate() {
        for row in 0..size {
            let rank = if row % 5 == 0 { (row / 5 + class) % ranks } else { class % ranks };
            contents[rank].push(class as i64 * CLASS + row as i64);
        }
    }
    contents
}

/// The IDs of drawn rows. Contents are stored in the order in which they were offered.
fn ids_of(contents: &[Vec<i64>], drawn: &[Drawn]) -> Vec<i64> {
    drawn
        .iter()
        .flatten()
        .flatten()
        .map(|&(rank, slot)| contents[rank as usize][slot as usize])
        .collect()
}

pub(crate) fn class_balanced_in_world(size: usize, steps: usize) {
    let sizes = [2, 6, 30, 60];
    let contents = imbalanced(&sizes, size);
    let config = config(120 * size, 120, 1).with_sampling(SamplingKind::ClassBalanced).with_seed(2);
    let drawn = draw_from_frozen(&config, &contents, steps, 1);
    let ids = ids_of(&contents, &drawn);
    let mut per_class = vec![0u64; sizes.len()];
    ids.iter().for_each(|id| per_class[(id / CLASS) as usize] += 1);
    let p = uniform_p(&per_class, ids.len() as u64, 1);
    assert!(p > P, "{size} ranks: classes {per_class:?}, p = {p:e}");
    for (class, &rows) in sizes.iter().enumerate() {
        let mut counts = vec![0u64; rows];
        ids.iter()
            .filter(|&&id| id / CLASS == class as i64)
            .for_each(|id| counts[(id % CLASS) as usize] += 1);
        let p = uniform_p(&counts, per_class[class], 1);
        assert!(p > P, "{size} ranks: rows of class {class}: p = {p:e}");
    }
}

#[test]
fn class_balanced_draws_are_uniform_over_classes_and_within_them() {
    class_balanced_in_world(1, 9000);
    class_balanced_in_world(3, 3000);
}

#[test]
fn class_balanced_draws_continue_when_a_small_class_runs_out() {
    // With 2 + 3 + 20 rows and 9 draws, the first two classes run out in most draws.
    let sizes = [2, 3, 20];
    let contents = imbalanced(&sizes, 2);
    let config = config(200, 120, 9).with_sampling(SamplingKind::ClassBalanced);
    let drawn = draw_from_frozen(&config, &contents, 400, 9);
    let ids = ids_of(&contents, &drawn);
    let share =
        |class: i64| ids.iter().filter(|&&id| id / CLASS == class).count() as f64 / (2.0 * 400.0);
    assert!(share(0) <= 2.0 && share(1) <= 3.0, "more rows were drawn than are stored");
    assert!(
        share(0) > 1.7 && share(1) > 2.0,
        "almost all rows of small classes must be drawn: {} and {}",
        share(0),
        share(1)
    );
    // If r is large enough, all rows are drawn.
    let all = draw_from_frozen(&config.with_representatives(60), &contents, 20, 25);
    assert!(all.iter().flatten().all(|places| places.iter().collect::<BTreeSet<_>>().len() == 25));
}

#[test]
fn exclude_current_draws_uniformly_from_earlier_tasks() {
    let old = [3usize, 17, 9];
    let (steps, r) = (1500, 5);
    let config = config(120, 64, r)
        .with_sampling(SamplingKind::ExcludeCurrent)
        .with_on_repeat(OnRepeat::SkipIfStored)
        .with_seed(8);
    let drawn = world(3, |threads| {
        let buffer = buffer(&config, threads);
        let rank = buffer.rank();
        let before = stored_ids(rank, old[rank]);
        for _ in 0..3 {
            let augmented = buffer.rehearse(batch(&before)).unwrap();
            assert!(
                assert_augmented(&before, &augmented).is_empty(),
                "all rows belong to the current task"
            );
        }
        buffer.begin_task(1).unwrap();
        let now: Vec<i64> = (0..20 - 5 * rank as i64)
            .map(|row| 5 * CLASS + rank as i64 * 1000 + 500 + row)
            .collect();
        let mine = now[0];
        (0..steps)
            .map(|step| {
                let incoming = if step == 0 { now.as_slice() } else { &[mine] };
                let rehearsed = buffer.rehearse_with_handles(batch(incoming)).unwrap();
                let ids = assert_augmented(incoming, &rehearsed.batch);
                assert_eq!(ids.len(), r);
                assert!(
                    ids.iter().all(|id| id / CLASS != 5),
                    "a row of the current task was drawn in step {step}"
                );
                rehearsed
                    .representatives
                    .iter()
                    .map(|handle| (handle.rank, handle.slot))
                    .collect::<Vec<_>>()
            })
            .collect::<Drawn>()
    });
    let p = uniform_p(&count(&old, drawn.iter().flatten().flatten()), 3 * steps, r as u64);
    assert!(p > P, "p = {p:e}");
}

#[test]
fn mini_batches_before_the_start_task_are_stored_but_not_augmented() {
    for size in [1, 3] {
        world(size, |threads| {
            let buffer = buffer(&config(100, 4, 6).with_start_task(2), threads);
            let mut step = 0;
            for task in 0..4 {
                buffer.begin_task(task).unwrap();
                for _ in 0..3 {
                    let ids = [(buffer.rank() * 100 + step) as i64];
                    let drawn = assert_augmented(&ids, &buffer.rehearse(batch(&ids)).unwrap());
                    // Step t draws from the t·size rows of the steps before it.
                    assert_eq!(
                        drawn.len(),
                        if task < 2 { 0 } else { (step * size).min(6) },
                        "task {task}, step {step}"
                    );
                    step += 1;
                }
            }
        });
    }
}

#[test]
fn draws_return_whole_rows_while_the_buffer_changes() {
    for size in [1, 2, 4] {
        world(size, |threads| {
            let buffer = buffer(&config(9 * size, 5, 6).with_seed(4), threads);
            for step in 0..200 {
                let ids = burn_rehearsal_testing::fresh(1, buffer.rank(), step, 7, 5);
                let drawn = assert_augmented(&ids, &buffer.rehearse(batch(&ids)).unwrap());
                assert_eq!(drawn.len(), (step * size * 5).min(6));
                assert_eq!(drawn.iter().collect::<BTreeSet<_>>().len(), drawn.len());
                assert!(
                    !drawn.iter().any(|id| ids.contains(id)),
                    "with a lag, no row of this mini-batch can be drawn"
                );
            }
        });
    }
}

#[test]
fn handles_refer_to_the_row_and_generation_that_was_drawn() {
    for (size, lag, sampling) in [
        (1, 1, SamplingKind::Uniform),
        (3, 0, SamplingKind::ClassBalanced),
        (3, 2, SamplingKind::ExcludeCurrent),
    ] {
        let steps = 40;
        let histories = world(size, |threads| {
            let buffer =
                buffer(&config(6 * size, 3, 5).with_lag(lag).with_sampling(sampling), threads);
            let mut history = Vec::new();
            for step in 0..steps {
                if step == 10 {
                    buffer.begin_task(1).unwrap();
                }
                let ids = burn_rehearsal_testing::fresh(2, buffer.rank(), step, 4, 4);
                let rehearsed = buffer.rehearse_with_handles(batch(&ids)).unwrap();
                let drawn: Vec<_> = rehearsed
                    .representatives
                    .iter()
                    .copied()
                    .zip(assert_augmented(&ids, &rehearsed.batch))
                    .collect();
                assert_eq!(drawn.len(), rehearsed.batch.id.dims()[0] - 4);
                let stored: BTreeMap<_, _> = buffer
                    .snapshot()
                    .unwrap()
                    .samples()
                    .iter()
                    .map(|sample| (sample.handle, sample.id.unwrap()))
                    .collect();
                history.push((drawn, stored));
            }
            history
        });
        let mut checked = 0;
        for (step, (drawn, _)) in histories.iter().flat_map(|history| history.iter().enumerate()) {
            for (handle, id) in drawn {
                // Draws that are repeated when a task begins see the rows after step 9.
                let moment = if (10..10 + lag).contains(&step) { 9 } else { step - lag };
                assert_eq!(
                    histories[handle.rank as usize][moment].1.get(handle),
                    Some(id),
                    "step {step}, lag {lag}"
                );
                checked += 1;
            }
        }
        assert!(
            checked > 0 && histories[0][steps - 1].1.keys().any(|handle| handle.generation > 2)
        );
    }
}

#[test]
fn p_values_match_published_tables() {
    assert!((p_value(27.877, 9.0) - 1e-3).abs() < 1e-5);
    assert!((p_value(9.342, 10.0) - 0.5).abs() < 1e-3);
}
