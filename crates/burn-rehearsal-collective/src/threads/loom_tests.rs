//! Model tests with loom: the gates and the operations in every interleaving of the threads, up to
//! a number of preemptions.
//!
//! loom fails a test whose threads wait for each other forever. It checks accesses to its own
//! cells, but not to the buffers that ranks lend to each other. The first test has such cells in
//! place of buffers. The other tests check results.
//!
//! `cargo xtask test --only loom` runs these tests.
#![allow(clippy::unwrap_used)]
#![allow(unsafe_code, reason = "loom's cells are reached through pointers")]

use loom::cell::UnsafeCell;
use loom::model::Builder;
use loom::sync::Arc as Shared;
use loom::sync::mpsc::channel;
use loom::thread;

use super::Threads;
use super::address::Address;
use super::board::{Board, RankCall};
use super::gate::{Entrance, Gate};
use crate::activity::{Answerer, Asked, Asker, Claim, World};
use crate::call::Call;
use crate::sync::{Arc, AtomicU64, Ordering};
use crate::{Collective, CollectiveError, Incoming, Outgoing, ReduceOp};

/// Runs `f` on every rank of `size`, in every interleaving with at most `switches` preemptions.
/// Without a limit a test takes minutes.
fn in_every_order(
    size: usize,
    switches: Option<usize>,
    f: impl Fn(Threads) + Send + Sync + Copy + 'static,
) {
    let mut model = Builder::new();
    model.preemption_bound = switches;
    model.check(move || {
        let mut group = Threads::group(size).unwrap();
        let first = group.remove(0);
        let others: Vec<_> =
            group.into_iter().map(|ranks| thread::spawn(move || f(ranks))).collect();
        f(first);
        others.into_iter().for_each(|rank| rank.join().unwrap());
    });
}

#[test]
fn gates_order_accesses_to_memory() {
    let mut model = Builder::new();
    model.preemption_bound = None;
    model.check(|| {
        let gate = Arc::new(Gate::new(2));
        let world = World::new(|_| {});
        world.begin(2);
        let lent = Shared::new([UnsafeCell::new(0), UnsafeCell::new(0)]);
        let rank = |rank: usize,
                    gate: Arc<Gate>,
                    world: Arc<World>,
                    lent: Shared<[UnsafeCell<u32>; 2]>| {
            for round in 1..=2 {
                // SAFETY: the other rank is not between the gates. Otherwise loom fails the test.
                lent[rank].with_mut(|value| unsafe { *value = round });
                let posted = |board: &mut Board| {
                    board.post(rank, RankCall::new(Call::Barrier, Address::NULL))
                };
                let entrance = Entrance { gate: &gate, world: &world };
                let ((), gate_b) = entrance.meet(posted, |_| ()).unwrap();
                // SAFETY: the owner does not write now. Otherwise loom fails the test.
                assert_eq!(lent[1 - rank].with(|value| unsafe { *value }), round);
                drop(gate_b);
            }
        };
        let other = (gate.clone(), world.clone(), lent.clone());
        let thread = thread::spawn(move || rank(1, other.0, other.1, other.2));
        rank(0, gate, world, lent);
        thread.join().unwrap();
    });
}

#[test]
fn operations_return_only_when_all_ranks_are_done() {
    in_every_order(2, Some(4), |mut ranks| {
        let rank = ranks.rank() as u8;
        // The buffer is written again at once. A late reader would see the new value.
        let mut send = [10 + rank];
        let mut received = [0; 2];
        ranks.all_gather(&send, &mut received).unwrap();
        assert_eq!(received, [10, 11]);
        send[0] = 20 + rank;
        ranks.all_gather(&send, &mut received).unwrap();
        send[0] = 99;
        assert_eq!((send, received), ([99], [20, 21]));
    });
    in_every_order(2, Some(4), |mut ranks| {
        let mut data = [1.0 + ranks.rank() as f32; 3];
        ranks.all_reduce(&mut data, ReduceOp::Sum).unwrap();
        assert_eq!(data, [3.0; 3]);
        data = [7.0; 3];
        ranks.all_reduce(&mut data, ReduceOp::Mean).unwrap();
        assert_eq!(data, [7.0; 3]);
    });
    in_every_order(2, Some(4), |mut ranks| {
        let (rank, peer) = (ranks.rank() as u8, 1 - ranks.rank());
        let mut received = [0; 2];
        ranks
            .exchange(
                &[Outgoing { peer, bytes: &[rank; 2] }],
                &mut [Incoming { peer, bytes: &mut received }],
            )
            .unwrap();
        assert_eq!(received, [peer as u8; 2]);
        let mut root = [rank];
        ranks.broadcast(&mut root, 1).unwrap();
        assert_eq!(root, [1]);
    });
}

#[test]
fn three_ranks_meet() {
    in_every_order(3, Some(2), |mut ranks| {
        let rank = ranks.rank() as u8;
        let mut received = [0; 3];
        ranks.all_gather(&[rank], &mut received).unwrap();
        assert_eq!(received, [0, 1, 2]);
        ranks.barrier().unwrap();
    });
}

#[test]
fn a_rank_that_leaves_ends_the_next_operation() {
    in_every_order(2, Some(4), |mut ranks| {
        ranks.barrier().unwrap();
        if ranks.rank() == 1 {
            return;
        }
        assert_eq!(
            ranks.all_gather(&[1], &mut [0; 2]),
            Err(CollectiveError::PeerFailed { rank: 1, step: 0 })
        );
    });
    in_every_order(3, Some(3), |mut ranks| {
        if ranks.rank() == 1 {
            return;
        }
        // All ranks report the first failure.
        assert_eq!(ranks.barrier(), Err(CollectiveError::PeerFailed { rank: 1, step: 0 }));
    });
}

#[test]
fn ranks_that_disagree_get_a_mismatch() {
    in_every_order(2, Some(4), |mut ranks| {
        let result = match ranks.rank() {
            0 => ranks.barrier(),
            _ => ranks.all_gather(&[1], &mut [0; 2]),
        };
        let reason = "barrier on rank 0; all_gather of 1 bytes each on rank 1".to_owned();
        assert_eq!(result, Err(CollectiveError::Mismatch { step: 0, reason }));
    });
}

#[test]
fn a_duplicate_is_independent() {
    in_every_order(2, Some(4), |mut ranks| {
        let mut second = ranks.duplicate().unwrap();
        let mut received = [0; 2];
        second.all_gather(&[ranks.rank() as u8], &mut received).unwrap();
        assert_eq!(received, [0, 1]);
        ranks.barrier().unwrap();
    });
}

/// Runs `f` on both ranks of two groups of one world.
fn with_two_handles(
    switches: Option<usize>,
    f: impl Fn([Threads; 2]) + Send + Sync + Copy + 'static,
) {
    let mut model = Builder::new();
    model.preemption_bound = switches;
    model.check(move || {
        let gate = Arc::new(Gate::new(2));
        let pair = |ranks: Threads| {
            let second = Threads::on(
                gate.clone(),
                ranks.gates.clone(),
                ranks.claim.world().clone(),
                ranks.rank,
                0,
            );
            [ranks, second]
        };
        let mut pairs: Vec<_> = Threads::group(2).unwrap().into_iter().map(pair).collect();
        drop(gate);
        let other = pairs.pop().unwrap();
        let other = thread::spawn(move || f(other));
        f(pairs.remove(0));
        other.join().unwrap();
    });
}

fn is_deadlock(result: &Result<(), CollectiveError>) -> bool {
    matches!(result, Err(CollectiveError::Deadlock { .. }))
}

#[test]
fn a_deadlock_is_always_detected() {
    with_two_handles(Some(4), |[mut first, mut second]| {
        // Each rank has used both handles, so they belong to this thread.
        first.set_purpose("first");
        second.set_purpose("second");
        let result = if first.rank() == 0 { first.barrier() } else { second.barrier() };
        assert!(is_deadlock(&result), "{result:?}");
    });
}

#[test]
fn ranks_that_can_proceed_are_no_deadlock() {
    with_two_handles(Some(3), |[mut first, mut second]| {
        first.barrier().unwrap();
        second.barrier().unwrap();
        first.barrier().unwrap();
    });
    // One thread of rank 1 waits in an operation that rank 0 enters later.
    with_two_handles(Some(3), |[mut first, mut second]| {
        if first.rank() == 0 {
            second.barrier().unwrap();
            first.barrier().unwrap();
        } else {
            let other = thread::spawn(move || second.barrier().unwrap());
            first.barrier().unwrap();
            other.join().unwrap();
        }
    });
}

/// Starts a thread that runs an operation for the asker. Returns a function that waits for it.
fn ask(
    asker: &mut Asker,
    mut handle: Threads,
    answerer: Answerer,
) -> impl FnMut(&mut Asker) -> Result<(), CollectiveError> + use<> {
    let asked = asker.ask();
    let answered = Shared::new(AtomicU64::new(0));
    let answers = answered.clone();
    let mut engine = Some(thread::spawn(move || {
        let result = handle.barrier();
        answers.store(1, Ordering::SeqCst);
        drop(asked);
        drop(handle);
        drop(answerer);
        result
    }));
    move |asker| {
        let mut engine = engine.take();
        let mut join = || engine.take().unwrap().join().unwrap();
        // The answer arrives before the request ends.
        let there =
            asker.wait(|| (answered.load(Ordering::SeqCst) == 1).then_some(None), || Some(join()));
        there.unwrap_or_else(join)
    }
}

#[test]
fn a_rank_whose_engine_works_can_proceed() {
    with_two_handles(Some(2), |[mut first, mut second]| {
        first.set_purpose("first");
        if first.rank() == 0 {
            let (mut asker, answerer) = second.answer_requests();
            let mut wait = ask(&mut asker, second, answerer);
            first.barrier().unwrap();
            wait(&mut asker).unwrap();
        } else {
            second.barrier().unwrap();
            first.barrier().unwrap();
        }
    });
    with_two_handles(Some(2), |[mut first, mut second]| {
        first.set_purpose("first");
        if first.rank() == 0 {
            let (mut asker, answerer) = second.answer_requests();
            let mut wait = ask(&mut asker, second, answerer);
            wait(&mut asker).unwrap();
            first.barrier().unwrap();
        } else {
            second.barrier().unwrap();
            first.barrier().unwrap();
        }
    });
}

#[test]
fn an_engine_that_is_idle_or_waits_cannot_proceed() {
    with_two_handles(Some(2), |[mut first, mut second]| {
        first.set_purpose("first");
        if first.rank() == 0 {
            // There are no requests.
            let (_asker, _answerer) = second.answer_requests();
            assert!(is_deadlock(&first.barrier()));
        } else {
            assert!(is_deadlock(&second.barrier()));
        }
    });
    with_two_handles(Some(2), |[mut first, mut second]| {
        first.set_purpose("first");
        second.set_purpose("second");
        if first.rank() == 0 {
            let (mut asker, answerer) = second.answer_requests();
            let mut wait = ask(&mut asker, second, answerer);
            assert!(is_deadlock(&wait(&mut asker)));
        } else {
            assert!(is_deadlock(&first.barrier()));
        }
    });
}

#[test]
fn an_asker_or_its_engine_can_always_proceed() {
    let mut model = Builder::new();
    model.preemption_bound = Some(4);
    model.check(|| {
        let world = World::new(|_| panic!("the asker or the engine can proceed"));
        let mut handle = Claim::new(world.clone());
        let (mut asker, answerer) = handle.answer_requests();
        let (requests, inbox) = channel::<Asked>();
        let (outbox, answers) = channel();
        let engine = thread::spawn(move || {
            // Channels of loom do not report that the other end has been dropped.
            for _ in 0..2 {
                let asked = inbox.recv().unwrap();
                outbox.send(()).unwrap();
                drop(asked);
            }
            drop(handle);
            drop(answerer);
        });
        for _ in 0..2 {
            requests.send(asker.ask()).unwrap();
            asker.wait(|| answers.try_recv().ok(), || answers.recv().unwrap());
        }
        // The end of both threads is not tested here.
        world.begin(1);
        drop((requests, asker));
        engine.join().unwrap();
    });
}
