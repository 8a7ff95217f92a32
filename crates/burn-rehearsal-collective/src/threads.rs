//! Ranks that are threads of one process and read each other's memory.
//!
//! # Protocol
//!
//! Every operation is one *rendezvous* at a [`Gate`], which all handles of a group share:
//!
//! 1. Under the lock, each rank writes its call and the address of its memory on the board
//!    ([`board`]).
//! 2. **Gate A** opens when all ranks have written. The last rank to arrive compares the calls. If
//!    they do not match, the gate fails. This is decided under the lock, for all ranks at once.
//! 3. Every rank reads the addresses that it needs from the board and moves the data, without the
//!    lock and without an intermediate copy ([`copies`], with [`address`] the only unsafe code).
//! 4. **Gate B** opens when all ranks have moved their data. No rank returns before that, so every
//!    buffer is borrowed for as long as another rank can access it.
//!
//! # Why no rank hangs, and why no address outlives its buffer
//!
//! * Operations take `&mut self`, so a rank can leave (drop its handle) only outside of an
//!   operation. When a rank has passed gate A, all ranks are inside the operation: gate B cannot
//!   fail, and nothing between the gates returns early. All sizes have been compared before gate A
//!   opens. In case of a panic between the gates, the unwinding rank still waits at gate B.
//! * A failure is final. After a rank has left, or the ranks have disagreed, gate A of the group
//!   never opens again. Ranks that wait there or arrive later get the error. The board is read only
//!   behind gate A, so their entries are never read.
//! * A gate counts rounds. A waiting rank checks first whether its own round has passed, and then
//!   whether there is a failure. A rank that returns and leaves at once does not disturb ranks that
//!   have yet to wake up from the same operation.
//! * Ranks may wait for each other at the gates A of different handles. The last thread that begins
//!   to wait detects it and lets all gates fail ([`deadlock`]).

mod address;
mod board;
mod copies;
mod deadlock;
mod gate;
#[cfg(all(test, loom))]
mod loom_tests;
mod run;

use self::address::Address;
use self::board::Failure;
use self::deadlock::Gates;
use self::gate::{Entrance, Gate};
use crate::activity::{Answerer, Asker, Claim, World};
use crate::sync::Arc;
use crate::{Collective, CollectiveError, Incoming, Outgoing, ReduceOp};

pub use self::run::{RankFailure, run_on, run_threads};

/// One rank's handle on a group of threads of this process. See [`run_threads`] for an example.
///
/// Data is copied directly from the buffers of one rank into those of another.
/// [`all_reduce`](Collective::all_reduce) adds in rank order, `((x0 + x1) + x2) + …`, and exactly
/// one rank adds each value: the bits are the same on every rank and in every run. After the first
/// calls, no operation allocates memory, except [`duplicate`](Collective::duplicate). Waiting ranks
/// sleep, so there can be more ranks than cores.
///
/// A rank that drops its handle leaves the group. After the last operation this has no effect.
#[derive(Debug)]
pub struct Threads {
    gate: Arc<Gate>,
    /// All gates of the world.
    gates: Arc<Gates>,
    claim: Claim,
    rank: usize,
    step: u64,
    /// The first error, which every later call returns.
    poison: Option<CollectiveError>,
    /// The addresses of the operation in progress. Kept for its capacity.
    addresses: Vec<Address>,
}

impl Threads {
    /// Makes the handles of a new group of `size` ranks, in rank order, one for each thread.
    ///
    /// ```
    /// use burn_rehearsal_collective::{Collective, Threads};
    ///
    /// let handles = Threads::group(3)?;
    /// let ranks: Vec<_> = handles.iter().map(|handle| (handle.rank(), handle.size())).collect();
    /// assert_eq!(ranks, [(0, 3), (1, 3), (2, 3)]);
    /// # Ok::<(), burn_rehearsal_collective::CollectiveError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`CollectiveError::InvalidArgument`] if `size` is 0.
    pub fn group(size: usize) -> Result<Vec<Self>, CollectiveError> {
        if size == 0 {
            return Err(CollectiveError::InvalidArgument(
                "a group needs at least 1 rank, not 0".to_owned(),
            ));
        }
        let gate = Arc::new(Gate::new(size));
        let gates = Arc::new(Gates::default());
        let watched = gates.clone();
        let world = World::new(move |world| watched.end_deadlock(world));
        Ok((0..size)
            .map(|rank| Self::on(gate.clone(), gates.clone(), world.clone(), rank, 0))
            .collect())
    }

    fn on(gate: Arc<Gate>, gates: Arc<Gates>, world: Arc<World>, rank: usize, step: u64) -> Self {
        gates.add(&gate);
        Self {
            gate,
            gates,
            claim: Claim::new(world),
            rank,
            step,
            poison: None,
            addresses: Vec::new(),
        }
    }

    /// Runs one operation, unless an earlier one failed, and remembers its error.
    fn call<T>(
        &mut self,
        operation: impl FnOnce(Entrance<'_>, usize, &mut Vec<Address>) -> Result<T, Failure>,
    ) -> Result<T, CollectiveError> {
        if let Some(error) = &self.poison {
            return Err(error.clone());
        }
        self.claim.touch();
        let entrance = Entrance { gate: &self.gate, world: self.claim.world() };
        operation(entrance, self.rank, &mut self.addresses).map_err(|failure| {
            let step = self.step;
            let error = match failure {
                Failure::Left(rank) => CollectiveError::PeerFailed { rank, step },
                Failure::Disagreement(reason) => CollectiveError::Mismatch { step, reason },
                Failure::Invalid(reason) => CollectiveError::InvalidArgument(reason),
                Failure::Deadlock(waiting) => CollectiveError::Deadlock { step, waiting },
            };
            self.poison.insert(error).clone()
        })
    }
}

impl Collective for Threads {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.gate.size()
    }

    fn set_step(&mut self, step: u64) {
        self.step = step;
    }

    fn barrier(&mut self) -> Result<(), CollectiveError> {
        self.call(|gate, rank, _| copies::barrier(gate, rank))
    }

    fn broadcast(&mut self, data: &mut [u8], root: usize) -> Result<(), CollectiveError> {
        self.call(|gate, rank, _| copies::broadcast(gate, rank, data, root))
    }

    fn all_gather(&mut self, send: &[u8], recv: &mut [u8]) -> Result<(), CollectiveError> {
        self.call(|gate, rank, addresses| copies::all_gather(gate, rank, addresses, send, recv))
    }

    fn all_reduce(&mut self, data: &mut [f32], op: ReduceOp) -> Result<(), CollectiveError> {
        self.call(|gate, rank, addresses| copies::all_reduce(gate, rank, addresses, data, op))
    }

    fn exchange(
        &mut self,
        outgoing: &[Outgoing<'_>],
        incoming: &mut [Incoming<'_>],
    ) -> Result<(), CollectiveError> {
        self.call(|gate, rank, addresses| {
            copies::exchange(gate, rank, addresses, outgoing, incoming)
        })
    }

    fn duplicate(&mut self) -> Result<Box<dyn Collective>, CollectiveError> {
        let child = self.call(|gate, rank, _| gate.duplicate(rank))?;
        let mut child =
            Self::on(child, self.gates.clone(), self.claim.world().clone(), self.rank, self.step);
        child.claim.touch();
        Ok(Box::new(child))
    }

    fn set_purpose(&mut self, purpose: &'static str) {
        self.claim.touch();
        self.gate.set_purpose(purpose);
    }

    fn answer_requests(&mut self) -> (Asker, Answerer) {
        self.claim.answer_requests()
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.gate.leave(self.rank, self.claim.world());
    }
}
