//! A rank that leaves ends the next operation of all other ranks, which name it.

use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use burn_rehearsal_collective::{
    Collective, CollectiveError, Incoming, Outgoing, RankFailure, ReduceOp, Threads, run_threads,
};

use burn_rehearsal_testing::guarded;
use burn_rehearsal_testing::reference::{check_all_gather, some};

type Operation = fn(&mut dyn Collective) -> Result<(), CollectiveError>;

/// Every operation, with arguments for any number of ranks.
const OPERATIONS: [Operation; 6] = [
    |ranks| ranks.barrier(),
    |ranks| ranks.broadcast(&mut [1; 5], 0),
    |ranks| ranks.all_gather(&[1; 3], &mut vec![0; 3 * ranks.size()]),
    |ranks| ranks.all_reduce(&mut [1.0; 9], ReduceOp::Sum),
    |ranks| {
        let (rank, size) = (ranks.rank(), ranks.size());
        let outgoing = [Outgoing { peer: (rank + 1) % size, bytes: &[1; 4] }];
        ranks.exchange(
            &outgoing,
            &mut [Incoming { peer: (rank + size - 1) % size, bytes: &mut [0; 4] }],
        )
    },
    |ranks| ranks.duplicate().map(drop),
];

#[derive(Debug, Clone, Copy, PartialEq)]
enum Exit {
    Drop,
    Error,
    Panic,
}

/// After a successful operation, `culprit` leaves, and the other ranks try the operation twice.
fn leave(size: usize, culprit: usize, exit: Exit, late: bool, operation: Operation) {
    let results = run_threads(size, |mut ranks| {
        ranks.set_step(7);
        operation(&mut ranks)?;
        ranks.set_step(8);
        if ranks.rank() != culprit {
            let error = operation(&mut ranks).expect_err("a rank is missing");
            ranks.set_step(9);
            assert_eq!(ranks.barrier(), Err(error.clone()), "the handle is poisoned");
            return Err(error);
        }
        if late {
            thread::sleep(Duration::from_millis(2));
        }
        match exit {
            Exit::Drop => Ok(()),
            Exit::Error => Err(CollectiveError::InvalidArgument("the loader failed".to_owned())),
            Exit::Panic => panic!("on purpose"),
        }
    });
    for (rank, result) in results.into_iter().enumerate() {
        if rank != culprit {
            let error = CollectiveError::PeerFailed { rank: culprit, step: 8 };
            assert_eq!(
                result,
                Err(RankFailure::Error { rank, error }),
                "{exit:?} of {culprit} of {size}"
            );
        } else {
            assert_eq!(result.is_ok(), exit == Exit::Drop);
            assert_eq!(matches!(result, Err(RankFailure::Panic { .. })), exit == Exit::Panic);
        }
    }
}

fn leave_every_operation(exit: Exit) {
    guarded(move || {
        for operation in OPERATIONS {
            for (size, culprit) in
                [(2, 0), (2, 1), (3, 1), (4, 3), (8, 5)].into_iter().take(some(100))
            {
                for late in [false, true] {
                    leave(size, culprit, exit, late, operation);
                }
            }
        }
    });
}

#[test]
fn a_rank_that_returns_ends_operations_of_other_ranks() {
    leave_every_operation(Exit::Drop);
}

#[test]
fn a_rank_that_fails_ends_operations_of_other_ranks() {
    leave_every_operation(Exit::Error);
}

#[test]
fn a_rank_that_panics_ends_operations_of_other_ranks() {
    leave_every_operation(Exit::Panic);
}

#[test]
fn waiting_ranks_wake_up_when_a_rank_leaves() {
    guarded(|| {
        let mut group = Threads::group(3).unwrap();
        let last = group.pop();
        let waiting: Vec<_> =
            group.into_iter().map(|mut ranks| thread::spawn(move || ranks.barrier())).collect();
        thread::sleep(Duration::from_millis(20));
        drop(last);
        for rank in waiting {
            assert_eq!(rank.join().unwrap(), Err(CollectiveError::PeerFailed { rank: 2, step: 0 }));
        }
    });
}

#[test]
fn a_kept_handle_of_a_failed_rank_blocks_no_rank() {
    guarded(|| {
        let kept = Mutex::new(Vec::new());
        let results = run_threads(4, |mut ranks| {
            if ranks.rank() == 2 {
                return Ok(());
            }
            let result = ranks.barrier();
            kept.lock().unwrap().push(ranks);
            result
        });
        assert_eq!(results.iter().filter(|result| result.is_err()).count(), 3);
        let mut kept = kept.into_inner().unwrap();
        for ranks in &mut kept {
            assert_eq!(
                ranks.all_reduce(&mut [0.0], ReduceOp::Sum),
                Err(CollectiveError::PeerFailed { rank: 2, step: 0 })
            );
        }
    });
}

#[test]
fn the_first_rank_to_leave_is_named() {
    guarded(|| {
        let mut group = Threads::group(4).unwrap();
        drop(group.remove(2));
        drop(group.remove(0));
        for ranks in &mut group {
            assert_eq!(ranks.barrier(), Err(CollectiveError::PeerFailed { rank: 2, step: 0 }));
        }
    });
}

#[test]
fn a_rank_can_leave_while_others_wake_up() {
    guarded(|| {
        for operation in OPERATIONS {
            for _ in 0..some(60) {
                let results = run_threads(5, |mut ranks| operation(&mut ranks));
                assert!(results.iter().all(Result::is_ok), "{results:?}");
            }
        }
    });
}

#[test]
fn a_rank_that_leaves_fails_only_the_next_operation() {
    guarded(|| {
        for round in 0..some(60) {
            let leaver = round % 4;
            let results = run_threads(4, |mut ranks| {
                check_all_gather(&mut ranks, round, some(1000))?;
                if ranks.rank() == leaver { Ok(()) } else { ranks.barrier() }
            });
            for (rank, result) in results.into_iter().enumerate() {
                let error = CollectiveError::PeerFailed { rank: leaver, step: 0 };
                assert_eq!(
                    result,
                    if rank == leaver { Ok(()) } else { Err(RankFailure::Error { rank, error }) }
                );
            }
        }
    });
}
