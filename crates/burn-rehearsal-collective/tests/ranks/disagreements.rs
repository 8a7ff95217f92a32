//! Calls that do not match fail on all ranks with the same error.

use burn_rehearsal_collective::{
    Collective, CollectiveError, Incoming, Outgoing, RankFailure, ReduceOp, Threads, run_threads,
};

use burn_rehearsal_testing::guarded;

/// Asserts that all three ranks return the same error twice, and returns it.
fn common_error(
    operation: impl Fn(&mut Threads) -> Result<(), CollectiveError> + Sync + Send + 'static,
) -> CollectiveError {
    guarded(move || {
        let results = run_threads(3, |mut ranks| {
            ranks.set_step(4);
            ranks.barrier()?;
            let result = operation(&mut ranks);
            ranks.set_step(5);
            assert_eq!(ranks.barrier(), result, "the handle is poisoned");
            result
        });
        let error = |result| match result {
            Err(RankFailure::Error { error, .. }) => error,
            other => panic!("{other:?}"),
        };
        let errors: Vec<CollectiveError> = results.into_iter().map(error).collect();
        assert!(errors.iter().all(|error| *error == errors[0]), "{errors:?}");
        errors[0].clone()
    })
}

fn mismatch(reason: &str) -> CollectiveError {
    CollectiveError::Mismatch { step: 4, reason: reason.to_owned() }
}

fn invalid(reason: &str) -> CollectiveError {
    CollectiveError::InvalidArgument(reason.to_owned())
}

#[test]
fn different_operations_are_named() {
    let error = common_error(|ranks| match ranks.rank() {
        1 => ranks.all_reduce(&mut [0.0; 6], ReduceOp::Mean),
        _ => ranks.barrier(),
    });
    assert_eq!(
        error,
        mismatch("barrier on ranks 0, 2; all_reduce to the mean of 6 values on rank 1")
    );
    let error = common_error(|ranks| match ranks.rank() {
        0 => ranks.exchange(&[], &mut []),
        1 => ranks.duplicate().map(drop),
        _ => ranks.broadcast(&mut [0; 2], 1),
    });
    assert_eq!(
        error,
        mismatch(
            "exchange on rank 0; duplicate on rank 1; broadcast of 2 bytes from rank 1 on rank 2"
        )
    );
}

#[test]
fn different_lengths_roots_and_reductions_are_named() {
    let error = common_error(|ranks| {
        ranks.all_reduce(&mut vec![0.0; 10 + ranks.rank() / 2], ReduceOp::Sum)
    });
    assert_eq!(
        error,
        mismatch(
            "all_reduce to the sum of 10 values on ranks 0, 1; \
             all_reduce to the sum of 11 values on rank 2"
        )
    );
    let error = common_error(|ranks| {
        ranks.all_reduce(&mut [0.0], if ranks.rank() == 0 { ReduceOp::Sum } else { ReduceOp::Mean })
    });
    assert_eq!(
        error,
        mismatch(
            "all_reduce to the sum of 1 values on rank 0; \
             all_reduce to the mean of 1 values on ranks 1, 2"
        )
    );
    let error = common_error(|ranks| {
        let len = ranks.rank().max(1);
        ranks.all_gather(&vec![0; len], &mut vec![0; 3 * len])
    });
    assert_eq!(
        error,
        mismatch("all_gather of 1 bytes each on ranks 0, 1; all_gather of 2 bytes each on rank 2")
    );
    let error = common_error(|ranks| ranks.broadcast(&mut vec![0; ranks.rank().min(1)], 0));
    assert_eq!(
        error,
        mismatch(
            "broadcast of 0 bytes from rank 0 on rank 0; \
             broadcast of 1 bytes from rank 0 on ranks 1, 2"
        )
    );
    let error = common_error(|ranks| ranks.broadcast(&mut [0], ranks.rank() / 2));
    assert_eq!(
        error,
        mismatch(
            "broadcast of 1 bytes from rank 0 on ranks 0, 1; \
             broadcast of 1 bytes from rank 1 on rank 2"
        )
    );
}

#[test]
fn invalid_arguments_fail_on_all_ranks() {
    let error =
        common_error(|ranks| ranks.broadcast(&mut [0], if ranks.rank() == 1 { 3 } else { 0 }));
    assert_eq!(error, invalid("rank 1, broadcast: root 3 is not a rank of a world of 3"));
    let error = common_error(|ranks| ranks.all_gather(&[0; 2], &mut vec![0; 6 + ranks.rank()]));
    assert_eq!(error, invalid("rank 1, all_gather: recv has 7 bytes, but 3 ranks send 2 each"));
}

/// The messages of one rank in an exchange: `(peer, bytes)` to send and to receive.
type Lists = (&'static [(usize, usize)], &'static [(usize, usize)]);

fn exchange_error(lists: [Lists; 3]) -> CollectiveError {
    common_error(move |ranks| {
        let (sends, expects) = lists[ranks.rank()];
        let room: &mut [u8] = &mut [0; 100];
        let outgoing: Vec<_> =
            sends.iter().map(|&(peer, len)| Outgoing { peer, bytes: &[0; 100][..len] }).collect();
        let mut rest = room;
        let mut incoming = Vec::new();
        for &(peer, len) in expects {
            let (bytes, more) = rest.split_at_mut(len);
            incoming.push(Incoming { peer, bytes });
            rest = more;
        }
        ranks.exchange(&outgoing, &mut incoming)
    })
}

#[test]
fn unmatched_messages_fail_on_all_ranks() {
    let error = exchange_error([(&[(1, 8)], &[]), (&[], &[]), (&[], &[])]);
    assert_eq!(
        error,
        mismatch("exchange: rank 0 sends 8 bytes to rank 1, which expects nothing from it")
    );
    let error = exchange_error([(&[], &[]), (&[], &[(2, 8)]), (&[], &[])]);
    assert_eq!(error, mismatch("exchange: rank 2 sends nothing to rank 1, which expects 8 bytes"));
    let error = exchange_error([(&[(1, 8)], &[]), (&[], &[(0, 9)]), (&[], &[])]);
    assert_eq!(error, mismatch("exchange: rank 0 sends 8 bytes to rank 1, which expects 9"));
    // An empty message needs a receiver, too.
    let error = exchange_error([(&[], &[]), (&[], &[]), (&[(0, 0)], &[])]);
    assert_eq!(
        error,
        mismatch("exchange: rank 2 sends 0 bytes to rank 0, which expects nothing from it")
    );
    // As many messages as expected, but from the wrong rank.
    let error = exchange_error([(&[(1, 8)], &[]), (&[], &[(2, 8)]), (&[], &[])]);
    assert_eq!(
        error,
        mismatch("exchange: rank 0 sends 8 bytes to rank 1, which expects nothing from it")
    );
}

#[test]
fn invalid_peers_fail_on_all_ranks() {
    let error = exchange_error([(&[], &[]), (&[(1, 8)], &[]), (&[], &[])]);
    assert_eq!(
        error,
        invalid("rank 1, exchange: a message to rank 1, which is not another rank of a world of 3")
    );
    let error = exchange_error([(&[], &[(0, 8)]), (&[], &[]), (&[], &[])]);
    assert_eq!(
        error,
        invalid(
            "rank 0, exchange: a message from rank 0, which is not another rank of a world of 3"
        )
    );
    let error = exchange_error([(&[], &[]), (&[], &[]), (&[(3, 8)], &[])]);
    assert_eq!(
        error,
        invalid("rank 2, exchange: a message to rank 3, which is not another rank of a world of 3")
    );
    let error = exchange_error([(&[], &[]), (&[], &[]), (&[], &[(usize::MAX, 8)])]);
    let peer = usize::MAX;
    assert_eq!(
        error,
        invalid(&format!(
            "rank 2, exchange: a message from rank {peer}, \
             which is not another rank of a world of 3"
        ))
    );
}

#[test]
fn two_messages_for_one_pair_fail_on_all_ranks() {
    let error = exchange_error([(&[(1, 8), (1, 8)], &[]), (&[], &[(0, 8)]), (&[], &[])]);
    assert_eq!(error, invalid("rank 0, exchange: two messages to rank 1"));
    let error = exchange_error([(&[(1, 8)], &[]), (&[], &[(0, 8), (0, 8)]), (&[], &[])]);
    assert_eq!(error, invalid("rank 1, exchange: two messages from rank 0"));
}
