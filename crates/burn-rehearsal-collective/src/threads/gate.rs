//! The rendezvous: two gates in one lock.
//!
//! Invariants whenever the lock is free: `passed_b <= passed_a`, and no rank is more than one round
//! ahead of another. Once `failure` is set, neither it nor `passed_a` ever changes.

use std::sync::PoisonError;

use super::address::Address;
use super::board::{Board, Failure, RankCall};
use crate::WaitingRank;
use crate::activity::World;
use crate::call::Call;
use crate::sync::{Arc, Condvar, Mutex, MutexGuard};

/// The state that the handles of one group share.
#[derive(Debug)]
pub(super) struct Gate {
    size: usize,
    state: Mutex<State>,
    /// Signalled whenever a gate opens or the group fails.
    changed: Condvar,
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// The purpose of the handles.
    purpose: Option<&'static str>,
    board: Board,
    /// The new group of a `duplicate` in progress.
    child: Option<Arc<Gate>>,
    /// The number of ranks that wait at gate A.
    arrived: usize,
    /// The number of rounds whose gate A has opened.
    passed_a: u64,
    /// The number of ranks that wait at gate B.
    finished: usize,
    /// The last round whose gate B has opened. Rounds of [`Entrance::pass`] have no gate B.
    passed_b: u64,
    failure: Option<Failure>,
    /// The number of dropped handles.
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

    /// Marks `rank` as gone and wakes the ranks that wait for it. The first failure of a group is
    /// the one that all ranks report.
    pub(super) fn leave(&self, rank: usize, world: &World) {
        let mut state = self.lock();
        state.left += 1;
        state.fail(Failure::Left(rank), world);
        drop(state);
        self.changed.notify_all();
    }

    /// Whether all handles have been dropped.
    pub(super) fn is_abandoned(&self) -> bool {
        self.lock().left == self.size
    }

    /// Ends the waits at this gate because of a deadlock. `state` is that of this gate.
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
            // The new group of a `duplicate` belongs to the handles alone.
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
    /// Closes gate A for good, unless it already is. The ranks that wait there return.
    fn fail(&mut self, failure: Failure, world: &World) {
        if self.failure.is_none() {
            world.begin(self.arrived);
            self.failure = Some(failure);
        }
    }

    /// The ranks that wait at gate A. Handles without a purpose are called `handle`.
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

/// A gate and the world of the rank that arrives at it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entrance<'a> {
    pub(super) gate: &'a Gate,
    pub(super) world: &'a World,
}

impl<'a> Entrance<'a> {
    pub(super) fn size(self) -> usize {
        self.gate.size
    }

    /// A rendezvous without access to memory. Returns as soon as gate A has opened.
    pub(super) fn pass(self, write: impl FnOnce(&mut Board)) -> Result<(), Failure> {
        self.gate_a(|state| write(&mut state.board)).map(drop)
    }

    /// A rendezvous with access to the memory of other ranks.
    ///
    /// `write` puts this rank's call on the board. Behind gate A, `read` takes from the board what
    /// this rank needs. Dropping the returned guard waits at gate B.
    ///
    /// `read` runs, and a guard exists, only if the calls of all ranks match. No rank finishes
    /// dropping its guard before all ranks have begun to. After an error no rank gets a guard.
    pub(super) fn meet<V>(
        self,
        write: impl FnOnce(&mut Board),
        read: impl FnOnce(&Board) -> V,
    ) -> Result<(V, GateB<'a>), Failure> {
        self.rendezvous(|state| write(&mut state.board), |state| read(&state.board))
    }

    /// A rendezvous from which all ranks get the same new group.
    pub(super) fn duplicate(self, rank: usize) -> Result<Arc<Gate>, Failure> {
        let (child, gate_b) = self.rendezvous(
            |state| {
                state.child.get_or_insert_with(|| Arc::new(Gate::new(self.size())));
                state.board.post(rank, RankCall::new(Call::Duplicate, Address::NULL));
            },
            |state| state.child.clone(),
        )?;
        drop(gate_b);
        // Never `None`: each rank has made the group if there was none.
        child.ok_or(Failure::Left(rank))
    }

    fn rendezvous<V>(
        self,
        write: impl FnOnce(&mut State),
        read: impl FnOnce(&State) -> V,
    ) -> Result<(V, GateB<'a>), Failure> {
        let state = self.gate_a(write)?;
        let gate_b = GateB { gate: self.gate, round: state.passed_a };
        // Declared after the guard, so that it is unlocked before gate B even if `read` panics.
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
        // The round first, then the failure: a rank behind this gate may already have left.
        while state.passed_a < round {
            if let Some(failure) = &state.failure {
                return Err(failure.clone());
            }
            state = gate.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(state)
    }
}

/// Waits at gate B when dropped. Even a panic between the gates does not end the borrow of a buffer
/// that other ranks may access.
///
/// Never leak a guard: this rank would return early, while the other ranks wait forever.
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
