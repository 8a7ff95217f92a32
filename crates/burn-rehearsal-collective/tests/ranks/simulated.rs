//! The simulated network: it injects the chosen fault, and changes no results without one.

use std::time::Duration;

use burn_rehearsal_collective::{Collective, CollectiveError, Incoming, Outgoing, RankFailure};
use rand::RngExt;

use crate::stress::operation;
use burn_rehearsal_testing::reference::some;
use burn_rehearsal_testing::{
    Disturbance, Fault, FaultKind, Simulated, guarded, run_simulated, seeded,
};

#[test]
fn random_operations_with_delays_match_the_reference() {
    guarded(|| {
        for size in [1, 2, 3, 5] {
            let disturbance =
                Disturbance { seed: size as u64, delay: Duration::from_micros(50), fault: None };
            let results = run_simulated(size, &disturbance, |mut ranks| {
                (0..some(600)).try_for_each(|step| operation(&mut ranks, size, step))
            });
            assert!(results.iter().all(Result::is_ok), "{results:?}");
        }
    });
}

#[test]
fn senders_do_not_wait_for_receivers() {
    guarded(|| {
        let results = run_simulated(2, &Disturbance::default(), |mut ranks| {
            if ranks.rank() == 0 {
                // Rank 1 begins only after this rank has returned from all broadcasts.
                return (0..5)
                    .try_for_each(|step| ranks.broadcast(&mut [step], 0))
                    .map(|()| Vec::new());
            }
            std::thread::sleep(Duration::from_millis(5));
            let mut heard = Vec::new();
            for _ in 0..5 {
                let mut byte = [9];
                ranks.broadcast(&mut byte, 0)?;
                heard.extend(byte);
            }
            Ok::<_, CollectiveError>(heard)
        });
        assert_eq!(results[1], Ok(vec![0, 1, 2, 3, 4]));
    });
}

/// The results of a run of random [`operation`]s in which `fault` happens.
fn ends(size: usize, fault: Fault, seed: usize) -> Vec<Result<(), RankFailure<CollectiveError>>> {
    let disturbance =
        Disturbance { seed: seed as u64, delay: Duration::from_micros(20), fault: Some(fault) };
    run_simulated(size, &disturbance, |mut ranks| {
        (0..60).try_for_each(|step| {
            ranks.set_step(step as u64);
            operation(&mut ranks, seed, step)
        })
    })
}

/// Whether an error names `rank`.
fn names(error: &CollectiveError, rank: usize) -> bool {
    match error {
        CollectiveError::PeerFailed { rank: failed, .. } => *failed == rank,
        CollectiveError::Mismatch { reason, .. } | CollectiveError::Transport { reason, .. } => {
            reason.contains(&format!("rank {rank}"))
        }
        CollectiveError::Silent { ranks, .. } => ranks.contains(&rank),
        CollectiveError::InvalidArgument(_)
        | CollectiveError::Damaged { .. }
        | CollectiveError::Deadlock { .. } => false,
    }
}

#[test]
fn detectable_faults_end_all_ranks_and_name_the_culprit() {
    guarded(|| {
        for seed in 0..some(200) {
            let mut random = seeded(&[seed, 1]);
            let size = random.random_range(2..6);
            let kind = [
                FaultKind::Stall,
                FaultKind::Die,
                FaultKind::Panic,
                FaultKind::Length,
                FaultKind::Operation,
            ][random.random_range(..5_usize)];
            let fault = Fault {
                rank: random.random_range(..size),
                handle: 0,
                operation: random.random_range(0..40),
                kind,
            };
            let results = ends(size, fault, seed);
            let mut named = false;
            for (rank, result) in results.iter().enumerate().filter(|(rank, _)| *rank != fault.rank)
            {
                let Err(RankFailure::Error { error, .. }) = result else {
                    panic!("seed {seed}, {fault:?}: {results:?}")
                };
                assert!(
                    (0..size).any(|other| other != rank && names(error, other)),
                    "seed {seed}, {fault:?}: {results:?}"
                );
                named |= names(error, fault.rank);
            }
            assert!(named, "seed {seed}, {fault:?}: {results:?}");
            assert_eq!(
                matches!(results[fault.rank], Err(RankFailure::Panic { .. })),
                kind == FaultKind::Panic,
                "seed {seed}: {results:?}"
            );
        }
    });
}

#[test]
fn a_fault_happens_at_its_operation_and_is_reproducible() {
    guarded(|| {
        for kind in [FaultKind::Die, FaultKind::Length, FaultKind::Operation] {
            let run = |handle: usize| {
                let fault = Fault { rank: 1, handle, operation: 3, kind };
                run_simulated(
                    3,
                    &Disturbance { seed: 5, fault: Some(fault), ..Disturbance::default() },
                    |mut ranks| {
                        let mut second = ranks.duplicate()?;
                        for step in 0..20 {
                            let ranks: &mut dyn Collective =
                                if step % 2 == 0 { &mut ranks } else { &mut *second };
                            ranks.set_step(step);
                            ranks.all_gather(&[7], &mut [0; 3])?;
                        }
                        Ok::<_, CollectiveError>(())
                    },
                )
            };
            // Operation 0 of the first handle is the duplication.
            for (handle, step) in [(0, 4), (1, 7)] {
                let results = run(handle);
                assert_eq!(results, run(handle), "{kind:?}");
                let message = |rank: usize| results[rank].as_ref().unwrap_err().to_string();
                assert!(
                    (0..3).any(|rank| message(rank).contains(&format!("step {step}"))),
                    "{kind:?}: {results:?}"
                );
            }
        }
    });
}

#[test]
fn the_network_delivers_wrong_contents_without_an_error() {
    guarded(|| {
        let (mut one, mut all) = (0, 0);
        for seed in 0..40 {
            for kind in [FaultKind::Corrupt, FaultKind::Stale] {
                let fault = Fault { rank: 0, handle: 0, operation: 2, kind };
                let results = run_simulated(
                    3,
                    &Disturbance { seed, fault: Some(fault), ..Disturbance::default() },
                    |mut ranks| {
                        let mut wrong = Vec::new();
                        for step in 0..6_u8 {
                            let mut received = [0; 3];
                            ranks.all_gather(&[10 * step + ranks.rank() as u8], &mut received)?;
                            if received != [10 * step, 10 * step + 1, 10 * step + 2] {
                                wrong.push((step, received[0]));
                            }
                        }
                        Ok::<_, CollectiveError>(wrong)
                    },
                );
                let wrong: Vec<_> = results.into_iter().map(Result::unwrap).collect();
                assert!(wrong[0].is_empty(), "the faulty rank itself receives nothing wrong");
                let seen: Vec<_> = wrong.concat();
                assert!(seen.iter().all(|(step, _)| *step == 2), "{seen:?}");
                match kind {
                    FaultKind::Stale => {
                        assert!(seen.iter().all(|(_, value)| *value == 10), "{seen:?}")
                    }
                    _ => assert!(
                        seen.iter().all(|(_, value)| (value ^ 20_u8).count_ones() == 1),
                        "{seen:?}"
                    ),
                }
                *[&mut one, &mut all][seen.len() - 1] += 1;
            }
        }
        assert!(one > 10 && all > 10, "{one} and {all}");
    });
}

#[test]
fn invalid_arguments_are_errors_of_the_rank_that_passes_them() {
    guarded(|| {
        type Bad = fn(&mut Simulated) -> Result<(), CollectiveError>;
        let bad: [Bad; 5] = [
            |ranks| ranks.broadcast(&mut [0], 3),
            |ranks| ranks.all_gather(&[0; 2], &mut [0; 7]),
            |ranks| ranks.exchange(&[Outgoing { peer: 1, bytes: &[1] }], &mut []),
            |ranks| ranks.exchange(&[], &mut [Incoming { peer: 9, bytes: &mut [0] }]),
            |ranks| {
                ranks.exchange(
                    &[Outgoing { peer: 0, bytes: &[1] }, Outgoing { peer: 0, bytes: &[1] }],
                    &mut [],
                )
            },
        ];
        for operation in bad {
            let results = run_simulated(3, &Disturbance::default(), |mut ranks| {
                if ranks.rank() == 1 {
                    operation(&mut ranks)?;
                }
                ranks.barrier()
            });
            let errors: Vec<String> =
                results.into_iter().map(|result| result.unwrap_err().to_string()).collect();
            assert!(errors[1].contains("invalid argument: rank 1"), "{errors:?}");
            assert!(
                errors[0].contains("rank 1 failed") || errors[0].contains("rank 2 failed"),
                "{errors:?}"
            );
        }
        assert!(Simulated::group(0, &Disturbance::default()).is_err());
    });
}
