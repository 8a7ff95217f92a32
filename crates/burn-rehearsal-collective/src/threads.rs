//! Ranks that are threads of one process and read each other's memory.
//!
//! # Protocol
//!
//! Every operation is one *rendezvous* at a [`Gate`], which all handles of a group share:
//!
//! 1. Under the lock, a rank writes on the board what it calls and where its memory is ([`board`]).
//! 2. **Gate A** opens when all ranks have written. The last to arrive compares what they wrote; if
//!    it does not fit together, the gate fails. Opening and failing are decided under the lock, so
//!    for all ranks or for none.
//! 3. Every rank takes the addresses it needs from the board and moves the data, without lock and
//!    without a copy in between ([`copies`], with [`address`] the only unsafe code).
//! 4. **Gate B** opens when all ranks have moved their data. Only then does any rank return, so a
//!    buffer is borrowed for as long as another rank can touch it.
//!
//! # Why no rank hangs, and why no address outlives its buffer
//!
//! * Operations take `&mut self`, so a rank can leave (drop its handle) only outside an operation.
//!   A rank that passed gate A is inside one, and so are all others: gate B cannot fail, and
//!   nothing between the gates returns early. All sizes were compared before gate A opened; were
//!   there a panic all the same, the unwinding rank would still wait at gate B.
//! * A failure is final: once a rank has left, or the ranks disagreed, no gate A of the group opens
//!   any more, and a rank that waits there or comes later gets the error. What it wrote on the
//!   board is never looked at again, for the board is read only behind gate A.
//! * A gate counts rounds, and a waiting rank first asks whether its own round has passed, then
//!   whether there is a failure. So a rank that returns and leaves at once does not disturb those
//!   who have not yet woken up from the same operation.
//! * Ranks may wait for each other at the gates A of different handles. The last thread that begins
//!   to wait notices it, and all gates fail ([`deadlock`]).

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

/// One rank's handle on a group of threads of this process.
///
/// Data goes directly from one rank's buffers into another's.
/// [`all_reduce`](Collective::all_reduce) adds in rank order, `((x0 + x1) + x2) + …`, on exactly
/// one rank for each value: the bits are the same on every rank and in every run. Once warm, no
/// operation but [`duplicate`](Collective::duplicate) allocates. Waiting ranks sleep, so that there
/// may be more ranks than cores.
///
/// Dropping a handle is visible to the others as the rank leaving; after the last operation this
/// has no effect. See [`run_threads`] for an example.
#[derive(Debug)]
pub struct Threads {
    gate: Arc<Gate>,
    /// All gates of this world.
    gates: Arc<Gates>,
    claim: Claim,
    rank: usize,
    step: u64,
    /// The first error, which every later call repeats.
    poison: Option<CollectiveError>,
    /// Addresses of the operation in progress; between operations only its capacity matters.
    addresses: Vec<Address>,
}

impl Threads {
    /// The handles of a new group of `size` ranks, in rank order; each is meant for a thread of its
    /// own.
    ///
    /// # Errors
    ///
    /// [`CollectiveError::InvalidArgument`] when `size` is 0.
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

    /// Runs one operation unless an earlier one failed, and remembers its failure.
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
