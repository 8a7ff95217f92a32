#![doc = include_str!("../PROTOCOL.md")]

mod calls;
mod endpoint;

mod notice;
mod reduce;
mod requests;
mod run;
mod service;
mod standstill;
mod turns;
mod watch;
mod work;

use std::fmt;
use std::sync::Arc;
use std::thread;

use self::service::{Service, Turn};
use self::turns::{Pace, Refused, Turns};
use self::work::{Answer, Lent, PeerBuffer, PeerBuffers, Work};
use crate::activity::{Answerer, Asker, Claim};
use crate::call::Call;
use crate::{Collective, CollectiveError, Incoming, Outgoing, ReduceOp};

pub use self::run::run_mpi;

/// One rank's handle on an MPI run; see [`run_mpi`].
///
/// Data go directly from one rank's buffers into another's, where the MPI library does so. Handles
/// may be used by different threads at the same time, and none waits for another's operations.
/// Dropping a handle is visible to the other ranks, as on every transport; its communicator is kept
/// until the end of the run.
pub struct Mpi {
    rank: usize,
    size: usize,
    step: u64,
    /// This handle's number in the service.
    handle: usize,
    turns: Arc<Turns<Service>>,
    claim: Claim,
    /// The first error, which every later call repeats.
    poison: Option<CollectiveError>,
    /// Empty between operations; kept for their capacity.
    buffers: PeerBuffers,
}

impl fmt::Debug for Mpi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rank, size, step, handle, poison, .. } = self;
        let mut out = f.debug_struct("Mpi");
        out.field("rank", rank)
            .field("size", size)
            .field("step", step)
            .field("handle", handle)
            .field("poison", poison)
            .finish_non_exhaustive()
    }
}

/// Ends the process if it is dropped by a panic: the caller's memory, which MPI may still write,
/// must not be freed by unwinding.
struct NoUnwinding;

impl Drop for NoUnwinding {
    fn drop(&mut self) {
        if thread::panicking() {
            std::process::abort();
        }
    }
}

impl Mpi {
    /// Takes a turn at calling MPI; `None` when MPI has ended. If a thread is stuck in MPI, this
    /// process ends, and the launcher ends the others.
    fn turn<R>(&self, turn: impl FnOnce(&mut Service) -> R) -> Option<R> {
        match self.turns.take(turn) {
            Ok(result) => Some(result),
            Err(Refused::Over) => None,
            Err(Refused::Broken) => wait_for_the_end(),
            Err(Refused::Stuck) => run::stuck(self.rank, self.step),
        }
    }

    /// Has one operation done, calling MPI until it is over; `None` when MPI has ended.
    fn operate(&self, work: Work) -> Option<Answer> {
        let guard = NoUnwinding;
        let mut pace = Pace::new(work.bytes());
        let mut turn = self.turn(|service| service.start(self.handle, work))?;
        let mut waits = false;
        let answer = loop {
            match turn {
                Turn::Answer(answer) => break answer,
                Turn::Aborting => wait_for_the_end(),
                Turn::Waiting(_) if !waits => {
                    waits = true;
                    // Whether this was the last that could move is seen at the next heartbeat.
                    let _ = self.claim.world().end();
                }
                Turn::Waiting(true) => pace.restart(),
                Turn::Waiting(false) => pace.pause(),
            }
            // MPI does not end while an operation is in progress.
            turn = self
                .turn(|service| {
                    let turn = service.advance(self.handle);
                    // Within the turn: the communication thread must not see the answer taken and
                    // this thread still waiting.
                    if waits && matches!(turn, Turn::Answer(_)) {
                        self.claim.world().begin(1);
                    }
                    turn
                })
                .unwrap_or_else(|| wait_for_the_end());
        };
        if !waits {
            self.claim.world().begin(0);
        }
        drop(guard);
        Some(answer)
    }

    /// Has one operation done. All memory lent in it stays borrowed by the caller until then.
    fn call(
        &mut self,
        call: Call,
        data: Lent,
        result: Lent,
    ) -> Result<Option<Self>, CollectiveError> {
        self.claim.touch();
        let buffers = std::mem::take(&mut self.buffers);
        let outcome = match self.operate(Work { call, step: self.step, data, result, buffers }) {
            Some(Answer { result, mut buffers }) => {
                buffers.outgoing.clear();
                buffers.incoming.clear();
                self.buffers = buffers;
                result
            }
            None => Err(CollectiveError::Transport {
                step: self.step,
                call: "MPI",
                reason: "the run has ended".to_owned(),
            }),
        };
        match outcome {
            Ok(child) => Ok(child.map(|handle| self.sibling(handle))),
            Err(error) => Err(self.poison.insert(error).clone()),
        }
    }

    /// Another handle of this rank.
    fn sibling(&self, handle: usize) -> Self {
        let mut claim = Claim::new(self.claim.world().clone());
        claim.touch();
        Self {
            rank: self.rank,
            size: self.size,
            step: self.step,
            handle,
            turns: Arc::clone(&self.turns),
            claim,
            poison: None,
            buffers: PeerBuffers::default(),
        }
    }

    /// Repeats the first error, or refuses what no rank could accept; the others learn that this
    /// rank has left.
    fn check(&mut self, problem: Option<String>) -> Result<(), CollectiveError> {
        if let Some(problem) = problem.filter(|_| self.poison.is_none()) {
            self.turn(|service| service.close(self.handle));
            self.poison =
                Some(CollectiveError::InvalidArgument(format!("rank {}, {problem}", self.rank)));
        }
        self.poison.clone().map_or(Ok(()), Err)
    }

    /// Why no rank could accept these peers.
    fn peer_problem(
        &self,
        direction: &str,
        peers: impl Iterator<Item = usize> + Clone,
    ) -> Option<String> {
        let (rank, size) = (self.rank, self.size);
        let mut rest = peers;
        while let Some(peer) = rest.next() {
            if peer >= size || peer == rank {
                return Some(format!(
                    "exchange: peer {peer} of an {direction} message is not another rank of a world of {size}"
                ));
            }
            if rest.clone().any(|other| other == peer) {
                return Some(format!("exchange: two {direction} messages with rank {peer}"));
            }
        }
        None
    }
}

impl Collective for Mpi {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn set_step(&mut self, step: u64) {
        self.step = step;
    }

    fn barrier(&mut self) -> Result<(), CollectiveError> {
        self.check(None)?;
        self.call(Call::Barrier, Lent::NOTHING, Lent::NOTHING).map(|_| ())
    }

    fn broadcast(&mut self, data: &mut [u8], root: usize) -> Result<(), CollectiveError> {
        let size = self.size;
        self.check(
            (root >= size)
                .then(|| format!("broadcast: root {root} is not a rank of a world of {size}")),
        )?;
        let len = data.len();
        self.call(Call::Broadcast { root, len }, Lent::write(data), Lent::NOTHING).map(|_| ())
    }

    fn all_gather(&mut self, send: &[u8], recv: &mut [u8]) -> Result<(), CollectiveError> {
        let (rank, size, len) = (self.rank, self.size, send.len());
        let wrong = len.checked_mul(size) != Some(recv.len());
        self.check(wrong.then(|| {
            format!(
                "all_gather: recv holds {} bytes, {size} ranks x {len} bytes are sent",
                recv.len()
            )
        }))?;
        recv[rank * len..][..len].copy_from_slice(send);
        self.call(Call::AllGather { len }, Lent::read(send), Lent::write(recv)).map(|_| ())
    }

    fn all_reduce(&mut self, data: &mut [f32], op: ReduceOp) -> Result<(), CollectiveError> {
        self.check(None)?;
        let len = data.len();
        self.call(Call::AllReduce { op, len }, Lent::values(data), Lent::NOTHING).map(|_| ())
    }

    fn exchange(
        &mut self,
        outgoing: &[Outgoing<'_>],
        incoming: &mut [Incoming<'_>],
    ) -> Result<(), CollectiveError> {
        let problem = self
            .peer_problem("outgoing", outgoing.iter().map(|message| message.peer))
            .or_else(|| self.peer_problem("incoming", incoming.iter().map(|message| message.peer)));
        self.check(problem)?;
        let sends = outgoing
            .iter()
            .map(|message| PeerBuffer { peer: message.peer, bytes: Lent::read(message.bytes) });
        self.buffers.outgoing.extend(sends);
        let receives = incoming
            .iter_mut()
            .map(|message| PeerBuffer { peer: message.peer, bytes: Lent::write(message.bytes) });
        self.buffers.incoming.extend(receives);
        self.call(Call::Exchange, Lent::NOTHING, Lent::NOTHING).map(|_| ())
    }

    fn duplicate(&mut self) -> Result<Box<dyn Collective>, CollectiveError> {
        self.check(None)?;
        let step = self.step;
        match self.call(Call::Duplicate, Lent::NOTHING, Lent::NOTHING)? {
            Some(handle) => Ok(Box::new(handle)),
            None => Err(CollectiveError::Transport {
                step,
                call: "MPI_Comm_idup",
                reason: "no communicator was made".to_owned(),
            }),
        }
    }

    fn set_purpose(&mut self, purpose: &'static str) {
        self.claim.touch();
        // If there is no turn, MPI has ended.
        let _ = self.turns.take(|service| service.set_purpose(self.handle, purpose));
    }

    fn answer_requests(&mut self) -> (Asker, Answerer) {
        self.claim.answer_requests()
    }
}

impl Drop for Mpi {
    fn drop(&mut self) {
        // If there is no turn, MPI has ended.
        let _ = self.turns.take(|service| service.close(self.handle));
    }
}

/// Never returns: the communication thread is about to end this process, and the caller's memory
/// must stay as it is.
fn wait_for_the_end() -> ! {
    loop {
        thread::park();
    }
}
