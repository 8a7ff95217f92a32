//! Duplicated handles are independent.

use std::thread;

use burn_rehearsal_collective::{Collective, CollectiveError, ReduceOp, Solo, run_threads};

use burn_rehearsal_testing::guarded;
use burn_rehearsal_testing::reference::{
    SIZES, check_all_gather, check_all_reduce, check_exchange, some,
};

#[test]
fn a_duplicate_has_the_same_rank_and_size() {
    guarded(|| {
        assert_eq!(Solo::new().duplicate().unwrap().size(), 1);
        for size in SIZES {
            let results = run_threads(size, |mut ranks| {
                let mut second = ranks.duplicate()?;
                let third = second.duplicate()?;
                let all = [(second.rank(), second.size()), (third.rank(), third.size())];
                assert_eq!(all, [(ranks.rank(), size); 2]);
                Ok::<_, CollectiveError>(())
            });
            assert!(results.iter().all(Result::is_ok), "{results:?}");
        }
    });
}

#[test]
fn two_threads_of_each_rank_interleave_operations_freely() {
    guarded(|| {
        for size in SIZES {
            let results = run_threads(size, |mut gradients| {
                let mut rows = gradients.duplicate()?;
                thread::scope(|scope| {
                    let engine = scope.spawn(move || {
                        for step in 0..some(100) {
                            rows.set_step(step as u64);
                            check_all_gather(&mut *rows, step, 8)?;
                            check_exchange(&mut *rows, step, |from, to| Some(from + to + step))?;
                        }
                        Ok::<_, CollectiveError>(())
                    });
                    for step in 0..some(150) {
                        check_all_reduce(&mut gradients, step, 100 + step, ReduceOp::Mean)?;
                    }
                    engine.join().unwrap()
                })
            });
            assert!(results.iter().all(Result::is_ok), "{results:?}");
        }
    });
}

#[test]
fn a_failed_handle_does_not_poison_its_relatives() {
    guarded(|| {
        let results = run_threads(3, |mut ranks| {
            let mut second = ranks.duplicate()?;
            let mut third = ranks.duplicate()?;
            if second.rank() == 1 {
                drop(second);
            } else {
                assert_eq!(second.barrier(), Err(CollectiveError::PeerFailed { rank: 1, step: 0 }));
            }
            third.barrier()?;
            ranks.barrier()
        });
        assert!(results.iter().all(Result::is_ok), "{results:?}");
    });
}

#[test]
fn a_duplicate_outlives_its_origin_and_keeps_the_step() {
    guarded(|| {
        let results = run_threads(3, |mut ranks| {
            ranks.set_step(12);
            let mut second = ranks.duplicate()?;
            drop(ranks);
            second.barrier()?;
            if second.rank() == 0 { Ok(()) } else { second.barrier() }
        });
        let step_12 = "failed: rank 0 failed or left the run at step 12";
        assert!(results[0].is_ok());
        for result in &results[1..] {
            let text = result.as_ref().unwrap_err().to_string();
            assert!(text.ends_with(step_12), "{text}");
        }
    });
}
