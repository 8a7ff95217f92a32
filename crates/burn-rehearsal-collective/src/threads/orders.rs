//! The gates and the operations in every order in which the threads can take their turns, as far as loom goes through them.
//!
//! loom fails a test whose threads wait for each other forever. It sees accesses to its own cells, not those to the buffers that ranks lend each other: a first
//! test has such cells in their place, the others look at what comes out.
//!
//! `cargo xtask test --only loom` runs these tests.
#![allow(clippy::unwrap_used)]
#![allow(unsafe_code, reason = "loom's cells are reached through pointers")]

use loom::cell::UnsafeCell;
use loom::model::Builder;
use loom::sync::Arc as Shared;
use loom::thread;

use super::Threads;
use super::board::Offer;
use super::gate::Gate;
use super::moves::Address;
use super::sync::Arc;
use crate::call::Call;
use crate::{Collective, CollectiveError, Incoming, Outgoing, ReduceOp};

/// Runs `f` on every rank of `size`, in every order, or in those with at most `switches` turns that are cut short.
fn in_every_order(size: usize, switches: Option<usize>, f: impl Fn(Threads) + Send + Sync + Copy + 'static) {
    let mut model = Builder::new();
    model.preemption_bound = switches;
    model.check(move || {
        let mut group = Threads::group(size).unwrap();
        let first = group.remove(0);
        let others: Vec<_> = group.into_iter().map(|ranks| thread::spawn(move || f(ranks))).collect();
        f(first);
        others.into_iter().for_each(|rank| rank.join().unwrap());
    });
}

#[test]
fn what_lies_before_gate_a_is_seen_behind_it_and_nothing_is_written_before_gate_b() {
    let mut model = Builder::new();
    model.preemption_bound = None;
    model.check(|| {
        let gate = Arc::new(Gate::new(2));
        let lent = Shared::new([UnsafeCell::new(0), UnsafeCell::new(0)]);
        let rank = |rank: usize, gate: Arc<Gate>, lent: Shared<[UnsafeCell<u32>; 2]>| {
            for round in 1..=2 {
                // SAFETY: what this test is about: the other rank is not between the gates. loom fails the test if it is.
                lent[rank].with_mut(|value| unsafe { *value = round });
                let offer = |board: &mut super::board::Board| board.offer(rank, Offer::new(Call::Barrier, Address::NULL));
                let ((), gate_b) = gate.meet(offer, |_| ()).unwrap();
                // SAFETY: as above: its owner does not write now.
                assert_eq!(lent[1 - rank].with(|value| unsafe { *value }), round);
                drop(gate_b);
            }
        };
        let other = (gate.clone(), lent.clone());
        let thread = thread::spawn(move || rank(1, other.0, other.1));
        rank(0, gate, lent);
        thread.join().unwrap();
    });
}

#[test]
fn operations_give_the_same_results_and_return_only_when_all_are_done() {
    in_every_order(2, None, |mut ranks| {
        let rank = ranks.rank() as u8;
        // A buffer that is written again at once: who read it late would see that.
        let mut send = [10 + rank];
        let mut received = [0; 2];
        ranks.all_gather(&send, &mut received).unwrap();
        assert_eq!(received, [10, 11]);
        send[0] = 20 + rank;
        ranks.all_gather(&send, &mut received).unwrap();
        send[0] = 99;
        assert_eq!((send, received), ([99], [20, 21]));
    });
    in_every_order(2, None, |mut ranks| {
        let mut data = [1.0 + ranks.rank() as f32; 3];
        ranks.all_reduce(&mut data, ReduceOp::Sum).unwrap();
        assert_eq!(data, [3.0; 3]);
        data = [7.0; 3];
        ranks.all_reduce(&mut data, ReduceOp::Mean).unwrap();
        assert_eq!(data, [7.0; 3]);
    });
    in_every_order(2, None, |mut ranks| {
        let (rank, peer) = (ranks.rank() as u8, 1 - ranks.rank());
        let mut received = [0; 2];
        ranks.exchange(&[Outgoing { peer, bytes: &[rank; 2] }], &mut [Incoming { peer, bytes: &mut received }]).unwrap();
        assert_eq!(received, [peer as u8; 2]);
        let mut root = [rank];
        ranks.broadcast(&mut root, 1).unwrap();
        assert_eq!(root, [1]);
    });
}

#[test]
fn three_ranks_meet_and_nobody_is_left_behind() {
    in_every_order(3, Some(3), |mut ranks| {
        let rank = ranks.rank() as u8;
        let mut received = [0; 3];
        ranks.all_gather(&[rank], &mut received).unwrap();
        assert_eq!(received, [0, 1, 2]);
        ranks.barrier().unwrap();
    });
}

#[test]
fn a_rank_that_leaves_ends_the_next_operation_of_the_other_and_not_the_last_one() {
    in_every_order(2, None, |mut ranks| {
        ranks.barrier().unwrap();
        if ranks.rank() == 1 {
            return;
        }
        assert_eq!(ranks.all_gather(&[1], &mut [0; 2]), Err(CollectiveError::PeerFailed { rank: 1, step: 0 }));
    });
    in_every_order(3, Some(3), |mut ranks| {
        if ranks.rank() == 1 {
            return;
        }
        // The first failure is the one that is named, whoever notices.
        assert_eq!(ranks.barrier(), Err(CollectiveError::PeerFailed { rank: 1, step: 0 }));
    });
}

#[test]
fn ranks_that_disagree_are_told_so_in_every_order() {
    in_every_order(2, None, |mut ranks| {
        let result = match ranks.rank() {
            0 => ranks.barrier(),
            _ => ranks.all_gather(&[1], &mut [0; 2]),
        };
        let reason = "barrier on rank 0; all_gather of 1 bytes each on rank 1".to_owned();
        assert_eq!(result, Err(CollectiveError::Mismatch { step: 0, reason }));
    });
}

#[test]
fn a_duplicate_is_a_group_of_its_own_in_every_order() {
    in_every_order(2, Some(4), |mut ranks| {
        let mut second = ranks.duplicate().unwrap();
        let mut received = [0; 2];
        second.all_gather(&[ranks.rank() as u8], &mut received).unwrap();
        assert_eq!(received, [0, 1]);
        ranks.barrier().unwrap();
    });
}
