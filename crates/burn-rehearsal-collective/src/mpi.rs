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
use self::work::{Answer, Lent, Work};
use crate::activity::{Answerer, Asker, Claim};
use crate::arguments::{exchange_problem, gather_problem, root_problem};
use crate::call::Call;
use crate::{Collective, CollectiveError, Incoming, Outgoing, ReduceOp};

pub use self::run::run_mpi;

/// One rank's handle on an MPI run. See [`run_mpi`] for an example.
///
/// Data goes directly from the buffers of one rank into those of another, if the MPI library does
/// so. Different threads can use different handles at the same time. No handle waits for the
/// operations of another one. A rank that drops its handle leaves the group of the handle. The
/// communicator lives until the end of the run.
pub struct Mpi {
    rank: usize,
    size: usize,
    step: u64,
    /// The number of this handle in the service.
    handle: usize,
    turns: Arc<Turns<Service>>,
    claim: Claim,
    /// The first error, which every later call returns.
    poison: Option<CollectiveError>,
}

impl fmt::Debug for Mpi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rank, size, handle, .. } = self;
        write!(f, "Mpi {{ rank: {rank}, size: {size}, handle: {handle} }}")
    }
}

/// Aborts the process if a panic drops it. MPI may still write the memory of the caller, which
/// unwinding would free.
struct NoUnwinding;

impl Drop for NoUnwinding {
    fn drop(&mut self) {
        if thread::panicking() {
            std::process::abort();
        }
    }
}

impl Mpi {
    /// Takes a turn. Returns `None` if MPI has ended. If another thread is stuck in its turn, this
    /// process ends, and the launcher ends the others.
    fn turn<R>(&self, turn: impl FnOnce(&mut Service) -> R) -> Option<R> {
        match self.turns.take(turn) {
            Ok(result) => Some(result),
            Err(Refused::Over) => None,
            Err(Refused::Broken) => wait_for_the_end(),
            Err(Refused::Stuck) => run::stuck(self.rank, self.step),
        }
    }

    /// Calls MPI until one operation is over. Returns `None` if MPI has ended.
    fn operate(
        &self,
        work: Work,
        outgoing: &[Outgoing<'_>],
        incoming: &mut [Incoming<'_>],
    ) -> Option<Answer> {
        let _guard = NoUnwinding;
        let messages = outgoing.iter().map(|message| message.bytes.len());
        let messages = messages.chain(incoming.iter().map(|message| message.bytes.len()));
        let mut pace = Pace::new(work.data.len() + work.result.len() + messages.sum::<usize>());
        let mut turn = self.turn(|service| service.start(self.handle, work, outgoing, incoming))?;
        let mut waits = false;
        loop {
            match turn {
                Turn::Answer(answer) => return Some(answer),
                Turn::Aborting => wait_for_the_end(),
                Turn::Waiting(_) if !waits => {
                    waits = true;
                    // If this thread was the last that could proceed, the next heartbeat reports
                    // it.
                    let _ = self.claim.world().end();
                }
                Turn::Waiting(true) => pace.restart(),
                Turn::Waiting(false) => pace.pause(),
            }
            // MPI does not end while an operation is in progress.
            turn = self
                .turn(|service| {
                    let turn = service.advance(self.handle);
                    // Within the turn, so that the communication thread never sees that the answer
                    // has been taken while this thread does not count.
                    if waits && matches!(turn, Turn::Answer(_)) {
                        self.claim.world().begin(1);
                    }
                    turn
                })
                .unwrap_or_else(|| wait_for_the_end());
        }
    }

    /// Runs one operation other than an exchange, see [`call_with`](Self::call_with).
    fn call(&mut self, problem: Option<String>, call: Call, data: Lent, result: Lent) -> Answer {
        self.call_with(problem, call, (data, result), &[], &mut [])
    }

    /// Runs one operation and remembers its error. An earlier error, or a `problem` with the
    /// arguments, is returned instead. The caller keeps the borrow of all memory.
    fn call_with(
        &mut self,
        problem: Option<String>,
        call: Call,
        (data, result): (Lent, Lent),
        outgoing: &[Outgoing<'_>],
        incoming: &mut [Incoming<'_>],
    ) -> Answer {
        if let Some(problem) = problem.filter(|_| self.poison.is_none()) {
            // The other ranks get `PeerFailed`.
            self.turn(|service| service.close(self.handle));
            self.poison = Some(CollectiveError::InvalidArgument(problem));
        }
        if let Some(error) = &self.poison {
            return Err(error.clone());
        }
        self.claim.touch();
        let work = Work { call, step: self.step, data, result };
        let answer =
            self.operate(work, outgoing, incoming).unwrap_or_else(|| Err(ended(self.step)));
        answer.map_err(|error| self.poison.insert(error).clone())
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
        }
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
        self.call(None, Call::Barrier, Lent::NOTHING, Lent::NOTHING).map(drop)
    }

    fn broadcast(&mut self, data: &mut [u8], root: usize) -> Result<(), CollectiveError> {
        let problem = root_problem(self.rank, self.size, root);
        let call = Call::Broadcast { root, len: data.len() };
        self.call(problem, call, Lent::write(data), Lent::NOTHING).map(drop)
    }

    fn all_gather(&mut self, send: &[u8], recv: &mut [u8]) -> Result<(), CollectiveError> {
        let (rank, len) = (self.rank, send.len());
        let problem = gather_problem(rank, self.size, send, recv);
        self.call(problem, Call::AllGather { len }, Lent::read(send), Lent::write(recv))?;
        recv[rank * len..][..len].copy_from_slice(send);
        Ok(())
    }

    fn all_reduce(&mut self, data: &mut [f32], op: ReduceOp) -> Result<(), CollectiveError> {
        let call = Call::AllReduce { op, len: data.len() };
        self.call(None, call, Lent::values(data), Lent::NOTHING).map(drop)
    }

    fn exchange(
        &mut self,
        outgoing: &[Outgoing<'_>],
        incoming: &mut [Incoming<'_>],
    ) -> Result<(), CollectiveError> {
        let problem = exchange_problem(self.rank, self.size, outgoing, incoming);
        let nothing = (Lent::NOTHING, Lent::NOTHING);
        self.call_with(problem, Call::Exchange, nothing, outgoing, incoming).map(drop)
    }

    fn duplicate(&mut self) -> Result<Box<dyn Collective>, CollectiveError> {
        match self.call(None, Call::Duplicate, Lent::NOTHING, Lent::NOTHING)? {
            Some(handle) => Ok(Box::new(self.sibling(handle))),
            None => Err(ended(self.step)),
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

/// The error of operations after MPI has ended.
fn ended(step: u64) -> CollectiveError {
    CollectiveError::Transport { step, call: "MPI", reason: "the run has ended".to_owned() }
}

/// Never returns. The communication thread is about to end this process, and the memory of the
/// caller must stay alive.
fn wait_for_the_end() -> ! {
    loop {
        thread::park();
    }
}
