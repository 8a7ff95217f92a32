//! Random operations with random sizes and random delays.

use std::thread;

use burn_rehearsal_collective::{Collective, CollectiveError, RankFailure, ReduceOp, run_threads};

use burn_rehearsal_testing::reference::{
    SIZES, check_all_gather, check_all_reduce, check_broadcast, check_exchange, some,
};
use burn_rehearsal_testing::{guarded, seeded};
use rand::RngExt;

/// Runs operation number `step` of the random sequence `seed`, which is the same on all ranks.
pub(crate) fn operation(
    ranks: &mut dyn Collective,
    seed: usize,
    step: usize,
) -> Result<(), CollectiveError> {
    let size = ranks.size();
    let key = seed * 1_000_000 + step;
    let mut plan = seeded(&[key]);
    let limit = if plan.random_bool(0.02) { some(20_000) } else { 60 };
    let len = plan.random_range(..limit);
    match plan.random_range(0..12) {
        0 => ranks.barrier(),
        1 | 2 => check_broadcast(ranks, key, len, plan.random_range(..size)),
        3 | 4 => check_all_gather(ranks, key, len),
        5 | 6 => check_all_reduce(ranks, key, len, ReduceOp::Sum),
        7 | 8 => check_all_reduce(ranks, key, len, ReduceOp::Mean),
        9 => check_all_gather(&mut *ranks.duplicate()?, key, len),
        _ => check_exchange(ranks, key, |from, to| {
            let mut pair = seeded(&[key, from, to]);
            pair.random_bool(0.7).then(|| pair.random_range(..=len))
        }),
    }
}

/// Sometimes lets other ranks go first.
fn pause(random: &mut impl RngExt) {
    for _ in 12..random.random_range(0..16) {
        thread::yield_now();
    }
}

#[test]
fn random_operations_match_the_reference() {
    guarded(|| {
        for size in SIZES {
            let results = run_threads(size, |mut ranks| {
                let mut delays = seeded(&[size, ranks.rank()]);
                for step in 0..some(1500) {
                    pause(&mut delays);
                    operation(&mut ranks, size, step)?;
                }
                Ok::<_, CollectiveError>(())
            });
            for result in results {
                result.unwrap();
            }
        }
    });
}

#[test]
fn a_rank_that_leaves_at_a_random_step_is_named() {
    guarded(|| {
        for seed in 0..some(60) {
            let mut random = seeded(&[seed]);
            let size = random.random_range(2..7);
            let (culprit, end) = (random.random_range(..size), random.random_range(0..40));
            let results = run_threads(size, |mut ranks| {
                let mut delays = seeded(&[seed, ranks.rank()]);
                for step in 0..=end {
                    ranks.set_step(step as u64);
                    pause(&mut delays);
                    if step == end && ranks.rank() == culprit {
                        return Ok(());
                    }
                    operation(&mut ranks, seed, step)?;
                }
                Ok(())
            });
            for (rank, result) in results.into_iter().enumerate() {
                let error = CollectiveError::PeerFailed { rank: culprit, step: end as u64 };
                assert_eq!(
                    result,
                    if rank == culprit { Ok(()) } else { Err(RankFailure::Error { rank, error }) },
                    "seed {seed}"
                );
            }
        }
    });
}
