//! `fill` and `sample`, which work outside of training steps.

use burn::data::dataset::DatasetError;
use burn_rehearsal::error::RehearsalError;
use burn_rehearsal::{Capacity, RehearsalBuffer, RehearsalConfig, SamplingKind};
use burn_rehearsal_testing::{
    CLASS, Mixed, Row, batch, buffer, config, device, fresh, read, uniform_p, world,
};

/// The IDs of some mini-batches of a rank. Rank 1 has none, the others have different numbers.
fn mini_batches(rank: usize) -> Vec<Vec<i64>> {
    let count = [3, 0, 5, 2][rank];
    (0..count).map(|step| fresh(7, rank, step, 4, 3)).collect()
}

fn fill(buffer: &RehearsalBuffer<Mixed>, batches: &[Vec<i64>]) -> usize {
    buffer.fill(batches.iter().map(|ids| Ok(batch(ids)))).unwrap()
}

/// Draws `rows` rows, checks them and returns their IDs.
fn sample(buffer: &RehearsalBuffer<Mixed>, rows: usize) -> Vec<i64> {
    let drawn = buffer.sample(rows).unwrap().map(|drawn| read(&drawn)).unwrap_or_default();
    drawn.iter().for_each(|row: &Row| {
        row.assert_whole();
        assert!(row.replayed);
    });
    drawn.iter().map(|row| row.id).collect()
}

#[test]
fn fill_offers_all_rows_of_all_ranks() {
    for size in [1, 2, 3, 4] {
        for sampling in [SamplingKind::Uniform, SamplingKind::ClassBalanced] {
            world(size, |threads| {
                let buffer = buffer(&config(100, 2, 4).with_sampling(sampling), threads);
                assert!(buffer.is_empty());
                let rows = fill(&buffer, &mini_batches(buffer.rank()));
                assert_eq!(rows, 4 * mini_batches(buffer.rank()).len());
                let all: Vec<i64> = (0..size).flat_map(mini_batches).flatten().collect();
                assert_eq!(
                    (buffer.len(), buffer.capacity(), buffer.inspect().unwrap().steps),
                    (all.len(), Some(100), 0)
                );
                // The second mini-batch is augmented with rows of all shards.
                for step in 0..2 {
                    buffer.rehearse(batch(&fresh(8, buffer.rank(), step, 4, 3))).unwrap();
                }
                let drawn = sample(&buffer, 1000);
                assert!(all.iter().all(|id| drawn.contains(id)), "{drawn:?}");
                assert_eq!(drawn.len(), buffer.report().unwrap().len);
            });
        }
    }
}

#[test]
fn filling_beyond_the_capacity_keeps_a_uniform_sample() {
    let (offered, capacity, runs) = (40, 8, 400);
    let mut counts = vec![0; offered];
    for seed in 0..runs {
        let buffer = config(capacity, 1, 1).with_seed(seed).init().unwrap();
        let ids: Vec<i64> = (0..offered as i64).collect();
        fill(&buffer, &ids.chunks(5).map(<[i64]>::to_vec).collect::<Vec<_>>());
        assert_eq!(buffer.len(), capacity);
        buffer
            .snapshot()
            .unwrap()
            .samples()
            .iter()
            .for_each(|sample| counts[sample.id.unwrap() as usize] += 1);
    }
    assert!(uniform_p(&counts, runs, capacity as u64) > 1e-3, "{counts:?}");
}

#[test]
fn samples_are_distinct_and_uniform_over_all_shards() {
    world(3, |threads| {
        let buffer = buffer(&config(60, 1, 1), threads);
        let own: Vec<i64> =
            (0..[9, 1, 5][buffer.rank()]).map(|row| 3 * row + buffer.rank() as i64).collect();
        fill(&buffer, &[own]);
        buffer.rehearse(batch(&fresh(9, buffer.rank(), 0, 2, 3))).unwrap();
        let stored = buffer.len();
        let (rows, trials) = ([4, 0, 3][buffer.rank()], 600);
        let mut counts = std::collections::BTreeMap::new();
        for _ in 0..trials {
            let mut drawn = sample(&buffer, rows);
            assert_eq!(drawn.len(), rows);
            drawn.iter().for_each(|id| *counts.entry(*id).or_insert(0) += 1);
            drawn.sort_unstable();
            drawn.dedup();
            assert_eq!(drawn.len(), rows, "a row is drawn twice");
        }
        if rows > 0 {
            let counts: Vec<u64> = counts.into_values().collect();
            assert_eq!(counts.len(), stored);
            assert!(uniform_p(&counts, trials, rows as u64) > 1e-3, "{counts:?}");
        }
    });
}

/// Runs ten steps with `samples` draws after each. Returns all rows of the steps and the digest of
/// their draws.
fn run(size: usize, samples: usize) -> Vec<(Vec<Row>, String)> {
    world(size, |threads| {
        let buffer = buffer(&config(20, 2, 5).with_seed(3), threads);
        let mut rows = Vec::new();
        for step in 0..10 {
            rows.extend(read(
                &buffer.rehearse(batch(&fresh(2, buffer.rank(), step, 4, 3))).unwrap(),
            ));
            (0..samples).for_each(|_| drop(buffer.sample(3 + buffer.rank()).unwrap()));
        }
        (rows, buffer.report().unwrap().draws_digest)
    })
}

#[test]
fn samples_do_not_change_the_draws_of_steps() {
    for size in [1, 3] {
        assert_eq!(run(size, 0), run(size, 2));
    }
}

#[test]
fn fill_and_sample_continue_after_a_checkpoint_bit_for_bit() {
    for size in [1, 3] {
        let directory = tempfile::tempdir().unwrap();
        let before = world(size, |threads| {
            let buffer = buffer(&config(12, 2, 5), threads);
            fill(&buffer, &mini_batches(buffer.rank()));
            buffer.rehearse(batch(&fresh(1, buffer.rank(), 0, 3, 3))).unwrap();
            sample(&buffer, 4);
            buffer.checkpoint(directory.path()).unwrap();
            fill(&buffer, &mini_batches(buffer.rank()));
            (sample(&buffer, 4), buffer.report().unwrap())
        });
        let after = world(size, |threads| {
            let buffer = buffer(&config(12, 2, 5), threads);
            buffer.restore(directory.path(), &device()).unwrap();
            fill(&buffer, &mini_batches(buffer.rank()));
            (sample(&buffer, 4), buffer.report().unwrap())
        });
        assert_eq!(before, after, "{size} ranks");
    }
}

#[test]
fn an_error_during_fill_reaches_all_ranks() {
    let errors = world(2, |threads| {
        let rank = threads.rank();
        let buffer = buffer(&RehearsalConfig::new(Capacity::Samples(10)), threads);
        let error = if rank == 0 {
            buffer
                .fill([Err(DatasetError::new(std::io::Error::other("no such file")))])
                .unwrap_err()
        } else {
            buffer.fill([Ok(batch(&[1, 2]))]).unwrap_err()
        };
        assert_eq!(buffer.check(), Err(error.clone()));
        matches!(
            (rank, error),
            (0, RehearsalError::Data(_))
                | (1, RehearsalError::PeerFailed { rank: 0, reason: "data", .. })
        )
    });
    assert_eq!(errors, [true; 2]);
}

#[test]
fn a_checkpoint_after_a_failed_fill_can_be_restored() {
    let config = config(4, 4, 4).with_sampling(SamplingKind::ClassBalanced);
    let buffer = config.init().unwrap();
    buffer.rehearse(batch(&[1, 2])).unwrap();
    // A new class comes before the error.
    let batches = [
        Ok(batch(&[CLASS + 1, CLASS + 2, CLASS + 3])),
        Err(DatasetError::new(RehearsalError::EngineGone)),
    ];
    buffer.fill(batches).unwrap_err();
    let directory = tempfile::tempdir().unwrap();
    buffer.checkpoint(directory.path()).unwrap();
    let restored = config.init::<Mixed>().unwrap();
    restored.restore(directory.path(), &device()).unwrap();
    assert_eq!(sample(&restored, 10).len(), 4);
}
