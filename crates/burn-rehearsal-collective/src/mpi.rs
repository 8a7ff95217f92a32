#![doc = include_str!("../PROTOCOL.md")]

mod calls;
mod endpoint;
mod job;
mod notice;
mod reduce;
mod requests;
mod run;
mod service;
mod watch;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::Duration;

use self::job::{Answer, Job, Lent, Parcel, Parcels, Work};
use crate::call::Call;
use crate::{Collective, CollectiveError, Incoming, Outgoing, ReduceOp};

pub use self::run::run_mpi;

/// Who adds up floating-point values, and in which order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reduction {
    /// In rank order: the same bits in every run, and the same as among threads.
    #[default]
    FixedOrder,
    /// The library's own `MPI_Iallreduce`: for very many ranks. Its order of additions may depend on the number of ranks, their
    /// places and the library.
    Fast,
}

/// How [`run_mpi`] runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MpiOptions {
    /// The all-reduce. Default: [`Reduction::FixedOrder`].
    pub reduction: Reduction,
    /// The world size that the caller expects; another one is an error. Default: any.
    pub expected_ranks: Option<usize>,
    /// A rank that has sent no heartbeat for so long counts as failed. Default: 60 s. Slow ranks send heartbeats.
    pub silence_limit: Duration,
    /// An operation that takes longer fails, although all ranks are alive. Default: no limit.
    pub stall_limit: Option<Duration>,
    /// Longer messages are sent in pieces of so many bytes. Default and maximum: 1 GiB.
    pub largest_message: usize,
}

impl Default for MpiOptions {
    fn default() -> Self {
        Self {
            reduction: Reduction::FixedOrder,
            expected_ranks: None,
            silence_limit: Duration::from_secs(60),
            stall_limit: None,
            largest_message: 1 << 30,
        }
    }
}

/// One rank's handle on an MPI run; see [`run_mpi`].
///
/// Data go directly from one rank's buffers into another's, where the MPI library does so. Handles may be used by different threads at the
/// same time, and none waits for another's operations. Dropping a handle tells the other ranks, as everywhere; its communicator is kept
/// until the end of the run.
#[derive(Debug)]
pub struct Mpi {
    rank: usize,
    size: usize,
    step: u64,
    /// This handle's number on its communication thread.
    handle: usize,
    jobs: SyncSender<Job>,
    answers: Receiver<Answer>,
    pulse: Pulse,
    /// The first error, which every later call repeats.
    poison: Option<CollectiveError>,
    /// Empty between operations; kept for their capacity.
    parcels: Parcels,
}

/// Whether the communication thread still goes round.
///
/// MPI promises that its non-blocking calls return, but Open MPI's shared memory does not keep that promise when another process is stopped
/// in the middle of writing to it.
#[derive(Debug, Clone)]
struct Pulse {
    /// Changes whenever the thread looks at notices.
    looks: Arc<AtomicU64>,
    /// It counts as stuck after so long.
    limit: Duration,
}

impl Pulse {
    fn looks(&self) -> u64 {
        self.looks.load(Ordering::Relaxed)
    }
}

impl Mpi {
    /// Waits for the communication thread's answer; `None` if it has ended. If it is stuck, this process ends, and the launcher ends the others.
    fn answer(&self) -> Option<Answer> {
        // Short waits: a process that was itself stopped finds that one of them was long, not that nothing happened in many.
        let pause = (self.pulse.limit / 20).min(Duration::from_secs(1));
        let (mut seen, mut waited) = (self.pulse.looks(), Duration::ZERO);
        loop {
            match self.answers.recv_timeout(pause) {
                Ok(answer) => return Some(answer),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => {
                    let looks = self.pulse.looks();
                    waited = if looks == seen { waited + pause } else { Duration::ZERO };
                    seen = looks;
                }
            }
            if waited > self.pulse.limit {
                let step = self.step;
                run::complain(self.rank, &format!("MPI failed at step {step}: a call has not returned for {:?}", self.pulse.limit));
                // Not `exit`: it would run handlers of the library, which may wait for the thread that is stuck.
                std::process::abort();
            }
        }
    }

    /// Has one operation done and waits for its end. All memory lent in it stays borrowed by the caller until then.
    fn call(&mut self, call: Call, data: Lent, result: Lent) -> Result<Option<Self>, CollectiveError> {
        let parcels = std::mem::take(&mut self.parcels);
        let work = Work { call, step: self.step, data, result, parcels };
        let ended = |step| CollectiveError::Transport { step, call: "MPI", reason: "the run has ended".to_owned() };
        let answer = match self.jobs.send(Job::Start { handle: self.handle, work }) {
            Ok(()) => self.answer(),
            Err(_) => None,
        };
        let outcome = match answer {
            Some(Answer { result, mut parcels }) => {
                parcels.outgoing.clear();
                parcels.incoming.clear();
                self.parcels = parcels;
                result
            }
            None => Err(ended(self.step)),
        };
        outcome.map_err(|error| self.poison.insert(error).clone())
    }

    /// Repeats the first error, or refuses what no rank could accept; the others learn that this rank has left.
    fn check(&mut self, problem: Option<String>) -> Result<(), CollectiveError> {
        if let Some(problem) = problem.filter(|_| self.poison.is_none()) {
            let _ = self.jobs.send(Job::Close { handle: self.handle });
            self.poison = Some(CollectiveError::InvalidArgument(format!("rank {}, {problem}", self.rank)));
        }
        self.poison.clone().map_or(Ok(()), Err)
    }

    /// Why no rank could accept these peers.
    fn peer_problem(&self, direction: &str, peers: impl Iterator<Item = usize> + Clone) -> Option<String> {
        let (rank, size) = (self.rank, self.size);
        let mut rest = peers;
        while let Some(peer) = rest.next() {
            if peer >= size || peer == rank {
                return Some(format!("exchange: peer {peer} of an {direction} message is not another rank of a world of {size}"));
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
        self.check((root >= size).then(|| format!("broadcast: root {root} is not a rank of a world of {size}")))?;
        let len = data.len();
        self.call(Call::Broadcast { root, len }, Lent::write(data), Lent::NOTHING).map(|_| ())
    }

    fn all_gather(&mut self, send: &[u8], recv: &mut [u8]) -> Result<(), CollectiveError> {
        let (rank, size, len) = (self.rank, self.size, send.len());
        let wrong = len.checked_mul(size) != Some(recv.len());
        self.check(wrong.then(|| format!("all_gather: recv holds {} bytes, {size} ranks x {len} bytes are sent", recv.len())))?;
        recv[rank * len..][..len].copy_from_slice(send);
        self.call(Call::AllGather { len }, Lent::read(send), Lent::write(recv)).map(|_| ())
    }

    fn all_reduce(&mut self, data: &mut [f32], op: ReduceOp) -> Result<(), CollectiveError> {
        self.check(None)?;
        let len = data.len();
        self.call(Call::AllReduce { op, len }, Lent::values(data), Lent::NOTHING).map(|_| ())
    }

    fn exchange(&mut self, outgoing: &[Outgoing<'_>], incoming: &mut [Incoming<'_>]) -> Result<(), CollectiveError> {
        let problem = self
            .peer_problem("outgoing", outgoing.iter().map(|message| message.peer))
            .or_else(|| self.peer_problem("incoming", incoming.iter().map(|message| message.peer)));
        self.check(problem)?;
        let sends = outgoing.iter().map(|message| Parcel { peer: message.peer, bytes: Lent::read(message.bytes) });
        self.parcels.outgoing.extend(sends);
        let receives = incoming.iter_mut().map(|message| Parcel { peer: message.peer, bytes: Lent::write(message.bytes) });
        self.parcels.incoming.extend(receives);
        self.call(Call::Exchange, Lent::NOTHING, Lent::NOTHING).map(|_| ())
    }

    fn duplicate(&mut self) -> Result<Box<dyn Collective>, CollectiveError> {
        self.check(None)?;
        let step = self.step;
        match self.call(Call::Duplicate, Lent::NOTHING, Lent::NOTHING)? {
            Some(handle) => Ok(Box::new(handle)),
            None => Err(CollectiveError::Transport { step, call: "MPI_Comm_idup", reason: "no communicator was made".to_owned() }),
        }
    }
}

impl Drop for Mpi {
    fn drop(&mut self) {
        // If nobody listens, MPI has ended.
        let _ = self.jobs.send(Job::Close { handle: self.handle });
    }
}
