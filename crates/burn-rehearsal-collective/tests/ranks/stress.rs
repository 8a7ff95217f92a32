//! Thousands of random operations with random sizes and random delays.

use std::thread;

use burn_rehearsal_collective::{Collective, CollectiveError, RankFailure, ReduceOp, run_threads};

use burn_rehearsal_testing::reference::{
    SIZES, check_all_gather, check_all_reduce, check_broadcast, check_exchange, some,
};
use burn_rehearsal_testing::{Random, guarded};

/// Operation `step` of the plan `seed`: all ranks draw the same one.
pub(crate) fn operation(
    ranks: &mut dyn Collective,
    seed: usize,
    step: usize,
) -> Result<(), CollectiveError> {
    let size = ranks.size();
    let key = seed * 1_000_000 + step;
    let mut plan = Random::new(&[key]);
    let limit = if plan.below(50) == 0 { some(20_000) } else { 60 };
    let len = plan.below(limit);
    match plan.below(12) {
        0 => ranks.barrier(),
        1 | 2 => check_broadcast(ranks, key, len, plan.below(size)),
        3 | 4 => check_all_gather(ranks, key, len),
        5 | 6 => check_all_reduce(ranks, key, len, ReduceOp::Sum),
        7 | 8 => check_all_reduce(ranks, key, len, ReduceOp::Mean),
        9 => check_all_gather(&mut *ranks.duplicate()?, key, len),
        _ => check_exchange(ranks, key, |from, to| {
            let mut pair = Random::new(&[key, from, to]);
            (pair.below(3) > 0).then(|| pair.below(len + 1))
        }),
    }
}

/// Lets the others go first, now and then.
fn dawdle(random: &mut Random) {
    for _ in 0..random.below(16).saturating_sub(12) {
        thread::yield_now();
    }
}

#[test]
fn thousands_of_random_operations_agree_with_the_reference() {
    guarded(|| {
        for size in SIZES {
            let results = run_threads(size, |mut ranks| {
                let mut delays = Random::new(&[size, ranks.rank()]);
                for step in 0..some(1500) {
                    dawdle(&mut delays);
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
fn a_rank_that_leaves_at_a_random_time_is_named_by_all_others() {
    guarded(|| {
        for seed in 0..some(60) {
            let mut random = Random::new(&[seed]);
            let size = 2 + random.below(5);
            let (culprit, end) = (random.below(size), random.below(40));
            let results = run_threads(size, |mut ranks| {
                let mut delays = Random::new(&[seed, ranks.rank()]);
                for step in 0..=end {
                    ranks.set_step(step as u64);
                    dawdle(&mut delays);
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
