//! The rendezvous: two gates in one lock.
//!
//! Invariants, all under the lock: `passed_b <= passed_a`; no rank is more than one round ahead of
//! another; `failure`, once set, stays, and then `passed_a` never changes again.

use std::sync::PoisonError;

use super::address::Address;
use super::board::{Board, Failure, RankCall};
use crate::WaitingRank;
use crate::activity::World;
use crate::call::Call;
use crate::sync::{Arc, Condvar, Mutex, MutexGuard};

/// What the handles of one group share.
#[derive(Debug)]
pub(super) struct Gate {
    size: usize,
    state: Mutex<State>,
    /// Signalled whenever a gate opens or the group fails.
    changed: Condvar,
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// The purpose of the handles, if set.
    purpose: Option<&'static str>,
    board: Board,
    /// The group that a `duplicate` in progress makes.
    child: Option<Arc<Gate>>,
    /// Ranks that have written on the board for the round whose gate A is still closed.
    arrived: usize,
    /// Rounds whose gate A has opened.
    passed_a: u64,
    /// Ranks that have moved their data in the round whose gate B is still closed.
    finished: usize,
    /// The last round whose gate B has opened; rounds of [`Gate::pass`] have none.
    passed_b: u64,
    failure: Option<Failure>,
    /// Handles that are gone.
    left: usize,
}

impl Gate {
    pub(super) fn new(size: usize) -> Self {
        let state = State { board: Board::new(size), ..State::default() };
        Self { size, state: Mutex::new(state), changed: Condvar::new() }
    }

    pub(super) fn size(&self) -> usize {
        self.size
    }

    pub(super) fn set_purpose(&self, purpose: &'static str) {
        self.lock().purpose = Some(purpose);
    }

    /// Marks `rank` as gone and wakes the ranks that wait for it. The first failure is the one that
    /// is reported.
    pub(super) fn leave(&self, rank: usize, world: &World) {
        let mut state = self.lock();
        state.left += 1;
        state.fail(Failure::Left(rank), world);
        drop(state);
        self.changed.notify_all();
    }

    /// Whether all handles are gone.
    pub(super) fn is_abandoned(&self) -> bool {
        self.lock().left == self.size
    }

    /// Ends what waits here; `state` is this gate's.
    pub(super) fn end_waiting(&self, state: &mut State, waiting: &[WaitingRank], world: &World) {
        state.fail(Failure::Deadlock(waiting.to_vec()), world);
        self.changed.notify_all();
    }

    fn gate_b(&self, round: u64) {
        let mut state = self.lock();
        state.finished += 1;
        if state.finished == self.size {
            state.finished = 0;
            state.passed_b = round;
            // Only the ranks still hold the group that a `duplicate` made.
            state.child = None;
            self.changed.notify_all();
        }
        while state.passed_b < round {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Closes gate A for good, unless it is already. The ranks that wait there return.
    fn fail(&mut self, failure: Failure, world: &World) {
        if self.failure.is_none() {
            world.begin(self.arrived);
            self.failure = Some(failure);
        }
    }

    /// Who waits at gate A, and for whom; the handle is called `handle` if it has no purpose.
    pub(super) fn waiting(&self, handle: &str) -> Vec<WaitingRank> {
        if self.failure.is_some() {
            return Vec::new();
        }
        let handle = self.purpose.unwrap_or(handle);
        let wait = |(rank, call): (usize, Call)| WaitingRank {
            rank,
            call: call.to_string(),
            operation: self.passed_a,
            handle: handle.to_owned(),
            missing: self.board.missing().collect(),
        };
        self.board.waiting().map(wait).collect()
    }
}

/// A gate as a rank that can move in a world comes to it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entrance<'a> {
    pub(super) gate: &'a Gate,
    pub(super) world: &'a World,
}

impl<'a> Entrance<'a> {
    pub(super) fn size(self) -> usize {
        self.gate.size
    }

    /// A rendezvous at which nothing is read: returns as soon as gate A has opened.
    pub(super) fn pass(self, write: impl FnOnce(&mut Board)) -> Result<(), Failure> {
        self.gate_a(|state| write(&mut state.board)).map(drop)
    }

    /// A rendezvous at which memory is touched: `write` puts this rank's call on the board; behind
    /// gate A, `read` takes from it what this rank needs. Dropping the guard waits at gate B.
    ///
    /// `read` runs, and a guard exists, only if all ranks wrote calls that fit together. As long as
    /// one rank has not dropped its guard, no rank gets past dropping its own. After an error no
    /// rank gets a guard.
    pub(super) fn meet<V>(
        self,
        write: impl FnOnce(&mut Board),
        read: impl FnOnce(&Board) -> V,
    ) -> Result<(V, GateB<'a>), Failure> {
        self.rendezvous(|state| write(&mut state.board), |state| read(&state.board))
    }

    /// A rendezvous at which all ranks get the same new group.
    pub(super) fn duplicate(self, rank: usize) -> Result<Arc<Gate>, Failure> {
        let (child, gate_b) = self.rendezvous(
            |state| {
                state.child.get_or_insert_with(|| Arc::new(Gate::new(self.size())));
                state.board.post(rank, RankCall::new(Call::Duplicate, Address::NULL));
            },
            |state| state.child.clone(),
        )?;
        drop(gate_b);
        // Never missing: all ranks, this one included, have seen to it that there is one.
        child.ok_or(Failure::Left(rank))
    }

    fn rendezvous<V>(
        self,
        write: impl FnOnce(&mut State),
        read: impl FnOnce(&State) -> V,
    ) -> Result<(V, GateB<'a>), Failure> {
        let state = self.gate_a(write)?;
        let gate_b = GateB { gate: self.gate, round: state.passed_a };
        // Declared after the guard, so unlocked before gate B even if `read` panics.
        let state = state;
        let view = read(&state);
        drop(state);
        Ok((view, gate_b))
    }

    fn gate_a(self, write: impl FnOnce(&mut State)) -> Result<MutexGuard<'a, State>, Failure> {
        let Self { gate, world } = self;
        let mut state = gate.lock();
        if let Some(failure) = &state.failure {
            return Err(failure.clone());
        }
        write(&mut state);
        state.arrived += 1;
        let round = state.passed_a + 1;
        if state.arrived == gate.size {
            world.begin(gate.size - 1);
            match state.board.agree() {
                Ok(()) => {
                    state.board.open();
                    state.arrived = 0;
                    state.passed_a = round;
                }
                Err(failure) => state.failure = Some(failure),
            }
            gate.changed.notify_all();
        } else if world.end() {
            drop(state);
            world.check();
            state = gate.lock();
        }
        // The round first, the failure second: a rank behind this gate may already have left.
        while state.passed_a < round {
            if let Some(failure) = &state.failure {
                return Err(failure.clone());
            }
            state = gate.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(state)
    }
}

/// Waits at gate B when dropped: not even a panic between the gates ends the borrow of a buffer
/// that others may touch.
///
/// A leaked guard keeps all other ranks waiting, which is safe, but this rank would return early:
/// never leak it.
#[must_use = "dropping it early ends the operation for this rank"]
pub(super) struct GateB<'a> {
    gate: &'a Gate,
    round: u64,
}

impl Drop for GateB<'_> {
    fn drop(&mut self) {
        self.gate.gate_b(self.round);
    }
}
