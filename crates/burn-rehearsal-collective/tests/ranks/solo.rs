//! Errors of a single rank. Its results are tested together with those of threads.

use burn_rehearsal_collective::{Collective, CollectiveError, Incoming, Outgoing, ReduceOp, Solo};

fn refused(result: Result<(), CollectiveError>) -> bool {
    matches!(result, Err(CollectiveError::InvalidArgument(_)))
}

#[test]
fn a_single_rank_checks_arguments() {
    assert!(refused(Solo::new().broadcast(&mut [0; 4], 1)));
    assert!(refused(Solo::new().all_gather(&[0; 4], &mut [0; 8])));
    for peer in [0, 1] {
        assert!(refused(Solo::new().exchange(&[Outgoing { peer, bytes: &[1] }], &mut [])));
        assert!(refused(Solo::new().exchange(&[], &mut [Incoming { peer, bytes: &mut [0] }])));
    }
}

#[test]
fn a_single_rank_returns_its_first_error_again() {
    let mut alone = Solo::new();
    let error = alone.broadcast(&mut [0; 4], 3).unwrap_err();
    assert_eq!(alone.barrier(), Err(error.clone()));
    assert_eq!(alone.all_gather(&[1], &mut [0]), Err(error.clone()));
    assert_eq!(alone.all_reduce(&mut [1.0], ReduceOp::Sum), Err(error.clone()));
    assert_eq!(alone.duplicate().err(), Some(error));
}

#[test]
fn a_duplicate_of_a_single_rank_does_not_share_its_errors() {
    let mut alone = Solo::new();
    let mut other = alone.duplicate().unwrap();
    assert!(refused(other.broadcast(&mut [], 1)));
    assert_eq!(alone.barrier(), Ok(()));
}
