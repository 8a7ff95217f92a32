//! Guarantee 2 of docs/ARCHITECTURE.md: the capacity is global and never exceeded, class quotas are
//! even, and unused quota is lent and taken back.

use burn_rehearsal::random::{Purpose, Stream};
use burn_rehearsal::{
    Capacity, Inspection, PolicyKind, RehearsalBuffer, RehearsalConfig, shard_capacity,
};
use burn_rehearsal_testing::{CLASS, Mixed, batch, buffer, config, fresh, world};

pub(crate) fn never_holds_more_than_its_capacity(size: usize) {
    for (capacity, policy) in [
        (size, PolicyKind::ClassBalanced),
        (17, PolicyKind::Reservoir),
        (26, PolicyKind::Fifo),
        (19, PolicyKind::ClassBalanced),
    ] {
        let config = config(capacity, 5, 1).with_policy(policy);
        let capacities = world(size, |threads| {
            let buffer = buffer(&config, threads);
            let rank = buffer.rank();
            for step in 0..16 {
                // Ranks fill at different speeds.
                buffer.rehearse(batch(&fresh(0, rank, step, 1 + (step + rank) % 5, 6))).unwrap();
                let inspection = buffer.inspect().unwrap();
                assert!(inspection.len <= inspection.capacity);
                assert_eq!(inspection.per_class.iter().sum::<usize>(), inspection.len);
                let report = buffer.report().unwrap();
                assert!(report.len <= capacity && report.capacity == capacity, "{report:?}");
                assert_eq!(
                    report.bytes,
                    capacity * 28,
                    "memory is allocated at the first mini-batch and never grows"
                );
            }
            assert_eq!(
                buffer.report().unwrap().len,
                capacity,
                "a buffer that was offered enough rows is full"
            );
            buffer.inspect().unwrap().capacity
        });
        let expected: Vec<_> =
            (0..size).map(|rank| capacity / size + usize::from(rank < capacity % size)).collect();
        assert_eq!(capacities, expected, "|B| mod N slots go to the first ranks");
    }
}

#[test]
fn shards_and_worlds_never_exceed_their_capacity() {
    [1, 2, 3, 4, 8].into_iter().for_each(never_holds_more_than_its_capacity);
}

#[test]
fn a_capacity_in_bytes_or_as_a_fraction_holds_whole_rows() {
    // A row has 4 bytes of image, 8 of class, 8 of id and 8 of features.
    let base = config(1, 4, 1);
    for (capacity, samples) in [
        (Capacity::Bytes(10 * 28 + 27), 10),
        (Capacity::Bytes(11 * 28), 11),
        (Capacity::Fraction(0.25), 10),
    ] {
        let config = RehearsalConfig { capacity, ..base.clone().with_dataset_len(Some(43)) };
        let shards = world(3, |threads| {
            let buffer = buffer(&config, threads);
            let before = buffer.inspect().unwrap();
            assert_eq!((before.len, before.bytes), (0, 0));
            (0..6).for_each(|step| {
                drop(buffer.rehearse(batch(&fresh(0, buffer.rank(), step, 4, 2))).unwrap())
            });
            let report = buffer.report().unwrap();
            assert_eq!(
                (report.capacity, report.len, report.bytes),
                (samples, samples, samples * 28)
            );
            buffer.inspect().unwrap()
        });
        for (rank, shard) in shards.iter().enumerate() {
            assert_eq!(
                (shard.capacity, shard.bytes),
                (shard_capacity(samples, rank, 3), shard.capacity * 28)
            );
        }
    }
}

/// The order in which classes reach the ranks.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Order {
    /// All rows of a class come before the first row of the next.
    Incremental,
    /// Every row has a random class.
    Mixed,
    /// Like `Incremental`, but each rank has its own order of classes.
    PerRank,
}

const PER_CLASS: usize = 48;

fn class_order(order: Order, classes: usize, rank: usize, seed: u64) -> Vec<usize> {
    let mut all: Vec<usize> = (0..classes).collect();
    if order == Order::PerRank {
        Stream::new(seed, Purpose::TaskStream, 0, rank as u32).shuffle(&mut all);
    }
    all
}

/// Offers every class to every rank and returns the shards.
fn feed(
    size: usize,
    config: &RehearsalConfig,
    classes: usize,
    order: Order,
    seed: u64,
) -> Vec<Inspection> {
    world(size, |threads| {
        let buffer = buffer(&config.clone().with_seed(seed), threads);
        feed_one(&buffer, classes, order, seed);
        buffer.inspect().unwrap()
    })
}

fn feed_one(buffer: &RehearsalBuffer<Mixed>, classes: usize, order: Order, seed: u64) {
    let rank = buffer.rank();
    let order_of_classes = class_order(order, classes, rank, seed);
    let rows = 24;
    for step in 0..classes * PER_CLASS / rows {
        let ids = match order {
            Order::Mixed => fresh(seed, rank, step, rows, classes as u64),
            _ => {
                let class = order_of_classes[step * rows / PER_CLASS] as i64;
                fresh(seed, rank, step, rows, 1).into_iter().map(|id| id + class * CLASS).collect()
            }
        };
        buffer.rehearse(batch(&ids)).unwrap();
    }
}

fn spread(counts: &[usize], classes: usize) -> usize {
    let count = |class: usize| counts.get(class).copied().unwrap_or(0);
    (0..classes).map(count).max().unwrap_or(0) - (0..classes).map(count).min().unwrap_or(0)
}

fn union(shards: &[Inspection]) -> Vec<usize> {
    let classes = shards.iter().map(|shard| shard.per_class.len()).max().unwrap_or(0);
    (0..classes)
        .map(|class| {
            shards.iter().map(|shard| shard.per_class.get(class).copied().unwrap_or(0)).sum()
        })
        .collect()
}

pub(crate) fn class_quotas_are_even(size: usize, capacity: usize, classes: usize) {
    for order in [Order::Incremental, Order::Mixed, Order::PerRank] {
        for known in [Some(classes), None] {
            let shards =
                feed(size, &config(capacity, 24, 1).with_classes(known), classes, order, 4);
            let context = || {
                format!(
                    "{order:?}, {classes} classes (configured: {known:?}), {capacity} slots, \
                     {size} ranks: {shards:?}"
                )
            };
            assert!(shards.iter().all(|shard| shard.len == shard.capacity), "{}", context());
            assert!(
                shards.iter().all(|shard| spread(&shard.per_class, classes) <= 1),
                "{}",
                context()
            );
            // Without configured classes, rows of a class that has ended cannot be recovered when
            // the remainder moves to another class.
            if known.is_some() || order == Order::Mixed {
                assert!(
                    spread(&union(&shards), classes) <= 1,
                    "{} {:?}",
                    context(),
                    union(&shards)
                );
            }
        }
    }
}

#[test]
fn class_quotas_differ_by_at_most_one_per_shard_and_globally() {
    for (size, capacity, classes) in
        [(1, 45, 7), (2, 45, 7), (3, 100, 11), (4, 61, 6), (8, 101, 5), (3, 30, 10), (4, 10, 4)]
    {
        class_quotas_are_even(size, capacity, classes);
    }
}

/// Offers rows of random `classes` to every rank and returns how many of each all ranks store.
fn union_of(size: usize, config: &RehearsalConfig, classes: &[i64], steps: usize) -> Vec<usize> {
    let shards = world(size, |threads| {
        let buffer = buffer(config, threads);
        for step in 0..steps {
            let ids = fresh(9, buffer.rank(), step, 24, classes.len() as u64);
            let ids: Vec<i64> = ids
                .into_iter()
                .map(|id| classes[(id / CLASS) as usize] * CLASS + id % CLASS)
                .collect();
            buffer.rehearse(batch(&ids)).unwrap();
        }
        buffer.inspect().unwrap()
    });
    let union = union(&shards);
    classes.iter().map(|&class| union[class as usize]).collect()
}

#[test]
fn the_union_is_even_if_some_class_numbers_never_occur() {
    for (size, capacity, classes, known) in [
        (8, 120, (0..10).collect::<Vec<i64>>(), Some(20)),
        (4, 120, (0..10).collect(), Some(20)),
        (8, 125, (0..10).map(|class| 3 * class + 1).collect(), None),
        (4, 67, vec![2, 3, 5, 7, 11, 13, 17], None),
        (4, 67, vec![2, 3, 5, 7, 11, 13, 17], Some(18)),
        (8, 101, vec![0, 99], Some(100)),
        (8, 120, (1..=10).collect(), None),
        (4, 61, (1..=8).collect(), None),
        // Some quotas exceed the fair share by up to one row per class and shard.
        (8, 120, (0..10).collect(), Some(11)),
        (8, 120, (0..10).collect(), Some(13)),
    ] {
        let rows = union_of(size, &config(capacity, 24, 1).with_classes(known), &classes, 20);
        assert_eq!(rows.iter().sum::<usize>(), capacity);
        let floor = |known: usize| capacity / size / known == capacity / size / classes.len();
        let bound =
            if known.is_some_and(|known| known > classes.len() && floor(known)) { size } else { 1 };
        assert!(
            spread(&rows, rows.len()) <= bound,
            "{size} ranks, {capacity} slots, configured {known:?}: {rows:?}"
        );
    }
}

#[test]
fn the_union_is_even_after_every_task() {
    let (size, capacity) = (16, 240);
    let config = config(capacity, 24, 1).with_classes(Some(10));
    let shards = world(size, |threads| {
        let buffer = buffer(&config, threads);
        let after_task = |task: i64| {
            for step in 0..8 {
                let ids = fresh(task as u64, buffer.rank(), step, 24, 2);
                buffer
                    .rehearse(batch(
                        &ids.into_iter().map(|id| id + 2 * task * CLASS).collect::<Vec<_>>(),
                    ))
                    .unwrap();
            }
            buffer.inspect().unwrap()
        };
        (0..5).map(after_task).collect::<Vec<_>>()
    });
    for task in 0..5 {
        let rows = union(&shards.iter().map(|tasks| tasks[task].clone()).collect::<Vec<_>>());
        let seen = 2 * task + 2;
        // With 8 of 10 classes, some quotas already exceed the fair share of the others.
        let bound = if task == 3 { size } else { 1 };
        assert!(spread(&rows, seen) <= bound, "after task {task}: {rows:?}");
    }
}

#[test]
fn every_class_is_stored_although_a_shard_has_fewer_slots_than_classes() {
    for (size, capacity, classes) in
        [(2, 9, 8), (2, 10, 10), (3, 10, 10), (4, 13, 10), (4, 20, 10), (8, 16, 16), (8, 17, 12)]
    {
        assert!(capacity / size < classes && classes <= capacity);
        for order in [Order::Incremental, Order::PerRank, Order::Mixed] {
            // Slot s < K belongs to class s for every K, so this also holds while the number of
            // classes still grows.
            for (seed, known) in [(0, Some(classes)), (1, Some(classes)), (2, None), (3, None)] {
                let held = union(&feed(
                    size,
                    &config(capacity, 24, 1).with_classes(known),
                    classes,
                    order,
                    seed,
                ));
                assert!(
                    held.len() == classes && held.iter().all(|&rows| rows > 0),
                    "{order:?}, {size} ranks, seed {seed}: {held:?}"
                );
                let even = known.is_some() || order == Order::Mixed;
                assert!(
                    !even || spread(&held, classes) <= 1,
                    "{order:?}, {size} ranks, seed {seed}: {held:?}"
                );
            }
        }
    }
}

#[test]
fn early_classes_use_all_slots_and_return_them_evenly() {
    for known in [Some(5), None] {
        let buffer: RehearsalBuffer<Mixed> = config(20, 10, 1).with_classes(known).init().unwrap();
        for class in 0..5 {
            for step in 0..8 {
                let ids: Vec<i64> = (0..10).map(|row| class * CLASS + step * 10 + row).collect();
                buffer.rehearse(batch(&ids)).unwrap();
                let inspection = buffer.inspect().unwrap();
                assert_eq!(
                    inspection.len,
                    if class == 0 { 10 * (step as usize + 1) } else { 20 }.min(20),
                    "all slots are used"
                );
            }
            let seen = class as usize + 1;
            let held = buffer.inspect().unwrap().per_class;
            assert!(
                held.len() == seen && spread(&held, seen) <= 1,
                "after class {class} of {known:?}: {held:?}"
            );
        }
        assert_eq!(buffer.inspect().unwrap().per_class, [4; 5]);
    }
}

#[test]
fn a_rare_class_keeps_all_rows_and_the_others_share_the_rest() {
    for known in [Some(4), None] {
        let shards = world(2, |threads| {
            let buffer = buffer(&config(80, 12, 1).with_classes(known), threads);
            let rank = buffer.rank() as i64;
            // Class 1 has three early rows per rank, and class 3 has two late ones.
            for step in 0..60i64 {
                let mut ids: Vec<i64> = (0..10)
                    .map(|row| 2 * (row % 2) * CLASS + rank * 10_000 + step * 20 + row)
                    .collect();
                if step < 3 {
                    ids.push(CLASS + rank * 100 + step);
                } else if step >= 58 {
                    ids.push(3 * CLASS + rank * 100 + step);
                }
                buffer.rehearse(batch(&ids)).unwrap();
            }
            buffer.inspect().unwrap()
        });
        for shard in shards {
            assert_eq!((shard.per_class[1], shard.per_class[3]), (3, 2), "{shard:?}");
            assert!(
                shard.per_class[0].abs_diff(shard.per_class[2]) <= 1 && shard.len == 40,
                "{shard:?}"
            );
        }
    }
}

#[test]
fn a_class_that_overflows_replaces_its_own_rows_evenly() {
    // Over many runs, every slot is overwritten about equally often.
    let mut generations = [0u32; 8];
    for seed in 0..100 {
        let buffer: RehearsalBuffer<Mixed> = config(8, 8, 1)
            .with_policy(PolicyKind::RandomReplacement)
            .with_seed(seed)
            .init()
            .unwrap();
        for step in 0..6 {
            buffer.rehearse(batch(&fresh(seed, 0, step, 8, 1))).unwrap();
        }
        for sample in buffer.snapshot().unwrap().samples() {
            generations[sample.handle.slot as usize] += sample.handle.generation;
        }
    }
    let counts: Vec<u64> = generations.iter().map(|&n| n.into()).collect();
    assert_eq!(
        counts.iter().sum::<u64>(),
        100 * 40,
        "every candidate of a full class replaces a row"
    );
    assert!(burn_rehearsal_testing::uniform_p(&counts, 4000, 1) > 1e-3, "{counts:?}");
}
