//! Results of all operations, compared with a simple reference.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use burn_rehearsal_collective::{
    Collective, CollectiveError, RankFailure, ReduceOp, Solo, Threads, run_threads,
};

use burn_rehearsal_testing::guarded;
use burn_rehearsal_testing::reference::{
    SIZES, bits, check_all_gather, check_all_reduce, check_broadcast, check_exchange, some, values,
};

/// Runs `check` on a single rank and on threads, for all sizes.
fn everywhere(
    check: impl Fn(&mut dyn Collective) -> Result<(), CollectiveError> + Send + Sync + 'static,
) {
    guarded(move || {
        check(&mut Solo::new()).unwrap();
        for size in SIZES {
            for result in run_threads(size, |mut ranks| check(&mut ranks)) {
                result.unwrap();
            }
        }
    });
}

#[test]
fn handles_know_their_rank_and_the_size() {
    for size in SIZES {
        let group = Threads::group(size).unwrap();
        assert_eq!(
            group.iter().map(Collective::rank).collect::<Vec<_>>(),
            (0..size).collect::<Vec<_>>()
        );
        assert!(group.iter().all(|handle| handle.size() == size));
    }
    assert!(matches!(Threads::group(0), Err(CollectiveError::InvalidArgument(_))));
}

#[test]
fn all_reduce_adds_in_rank_order_for_all_lengths() {
    everywhere(|ranks| {
        let size = ranks.size();
        for len in [
            0,
            1,
            size - 1,
            size,
            size + 1,
            7,
            some(1000),
            some(4095 * size + 3),
            some(2 * 4096 * size + 1),
        ] {
            check_all_reduce(ranks, len, len, ReduceOp::Sum)?;
            check_all_reduce(ranks, len, len, ReduceOp::Mean)?;
        }
        Ok(())
    });
}

#[test]
fn all_reduce_depends_on_the_order_of_the_ranks() {
    guarded(|| {
        let inputs = [1e8_f32, 1.0, -1e8];
        let results = run_threads(3, |mut ranks| {
            let mut data = [inputs[ranks.rank()]; 5];
            ranks.all_reduce(&mut data, ReduceOp::Sum)?;
            Ok::<_, CollectiveError>(data)
        });
        // The 1 is lost in 1e8 + 1. Any order that adds 1e8 and -1e8 first gives 1.
        for result in results {
            assert_eq!(result.unwrap(), [0.0; 5]);
        }
    });
}

#[test]
fn all_reduce_has_the_same_bits_in_every_run() {
    guarded(|| {
        for size in SIZES {
            let run = || {
                let sum = |mut ranks: Threads| {
                    let mut data = values(&[99, ranks.rank()], some(10_007));
                    ranks.all_reduce(&mut data, ReduceOp::Mean)?;
                    Ok::<_, CollectiveError>(bits(&data))
                };
                run_threads(size, sum).into_iter().collect::<Result<Vec<_>, _>>().unwrap()
            };
            let first = run();
            assert!(first.iter().all(|bits| *bits == first[0]));
            for _ in 0..some(10) {
                assert_eq!(run(), first);
            }
        }
    });
}

#[test]
fn all_reduce_keeps_infinities_and_nan() {
    everywhere(|ranks| {
        let mut data =
            if ranks.rank() == 0 { [f32::INFINITY, f32::NAN, -0.0] } else { [1.0, 1.0, -0.0] };
        ranks.all_reduce(&mut data, ReduceOp::Sum)?;
        assert!(data[0] == f32::INFINITY && data[1].is_nan());
        assert_eq!(data[2].to_bits(), (-0.0_f32).to_bits());
        Ok(())
    });
}

#[test]
fn all_gather_concatenates_in_rank_order() {
    everywhere(|ranks| {
        for len in [0, 1, 8, some(1000), some(70_000)] {
            check_all_gather(ranks, len, len)?;
        }
        Ok(())
    });
}

#[test]
fn broadcast_copies_from_every_root() {
    everywhere(|ranks| {
        for root in 0..ranks.size() {
            for len in [0, 1, 8, some(70_000)] {
                check_broadcast(ranks, len, len, root)?;
            }
        }
        Ok(())
    });
}

#[test]
fn exchange_moves_messages_between_all_pairs() {
    everywhere(|ranks| {
        let size = ranks.size();
        check_exchange(ranks, 1, |_, _| None)?;
        check_exchange(ranks, 2, |_, _| Some(0))?;
        check_exchange(ranks, 3, |from, to| Some(100 * from + to))?;
        check_exchange(ranks, 4, |from, to| (to == (from + 1) % size).then_some(some(50_000)))?;
        check_exchange(ranks, 5, |from, _| (from == 0).then_some(17))?;
        check_exchange(ranks, 6, |_, to| (to == 0).then_some(17))
    });
}

#[test]
fn no_rank_leaves_a_barrier_before_all_have_entered() {
    guarded(|| {
        for size in SIZES {
            let entered = AtomicUsize::new(0);
            let results = run_threads(size, |mut ranks| {
                for round in 1..some(200) {
                    entered.fetch_add(1, Ordering::Relaxed);
                    ranks.barrier()?;
                    assert!(entered.load(Ordering::Relaxed) >= round * size);
                }
                Ok::<_, CollectiveError>(())
            });
            assert!(results.iter().all(Result::is_ok), "{results:?}");
        }
    });
}

#[test]
fn no_rank_leaves_an_all_reduce_before_all_slices_are_written() {
    guarded(|| {
        let results = run_threads(4, |mut ranks| {
            for round in 0..some(500) {
                // New memory each time. A rank that returned early would free it while other ranks
                // still write to it.
                let mut data = vec![round as f32; 257];
                ranks.all_reduce(&mut data, ReduceOp::Sum)?;
                assert!(data.iter().all(|value| *value == 4.0 * round as f32));
            }
            Ok::<_, CollectiveError>(())
        });
        assert!(results.iter().all(Result::is_ok), "{results:?}");
    });
}

#[test]
fn waiting_ranks_leave_the_cores_to_other_ranks() {
    guarded(|| {
        let start = Instant::now();
        let results = run_threads(8, |mut ranks| (0..some(1000)).try_for_each(|_| ranks.barrier()));
        assert!(results.iter().all(Result::is_ok), "{results:?}");
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    });
}

#[test]
fn run_threads_returns_results_in_rank_order() {
    guarded(|| {
        let results = run_threads(4, |ranks| match ranks.rank() {
            0 => Ok(std::thread::current().name().map(str::to_owned)),
            1 => Err("no data".to_owned()),
            2 => panic!("row {} is missing", 7),
            _ => std::panic::panic_any(42),
        });
        assert_eq!(
            results,
            [
                Ok(Some("rank-0".to_owned())),
                Err(RankFailure::Error { rank: 1, error: "no data".to_owned() }),
                Err(RankFailure::Panic { rank: 2, message: "row 7 is missing".to_owned() }),
                Err(RankFailure::Panic { rank: 3, message: "(not a text)".to_owned() }),
            ]
        );
        assert_eq!(results[2].as_ref().unwrap_err().rank(), 2);
        assert_eq!(run_threads(0, |_| Ok::<_, CollectiveError>(())), []);
    });
}
