//! A simulated network with seeded delays and faults, for tests of code that runs on a
//! [`Collective`]. The ranks are threads of one process.
//!
//! The ranks of [`Threads`](burn_rehearsal_collective::Threads) meet in every operation and fail
//! together. Simulated ranks are as independent as processes: a rank sends its messages and returns
//! as soon as it has received those that it needs. One rank can be several operations ahead of
//! another. It can fail in an operation that other ranks have finished, or leave when only some of
//! its peers have received its message.

mod network;
mod plan;

use std::collections::HashMap;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Instant;

use burn_rehearsal_collective::arguments::{exchange_problem, gather_problem, root_problem};
use burn_rehearsal_collective::{
    Call, Collective, CollectiveError, Incoming, Outgoing, RankFailure, ReduceOp, run_on,
};
use rand::RngExt;
use rand::rngs::Xoshiro256PlusPlus;
use rand::seq::SliceRandom;

use self::network::{Message, Missing, Network};
use crate::seeded;

pub use self::plan::{Disturbance, Fault, FaultKind};

/// The source that errors of this network name.
const NETWORK: &str = "the simulated network";

/// One rank's handle on a simulated network.
///
/// Without a fault, every operation has the same results as on
/// [`Threads`](burn_rehearsal_collective::Threads), regardless of delays.
///
/// ```
/// use burn_rehearsal_collective::Collective;
/// use burn_rehearsal_testing::{Disturbance, Fault, FaultKind, run_simulated};
///
/// let fault = Fault { rank: 1, handle: 0, operation: 2, kind: FaultKind::Die };
/// let disturbance = Disturbance { seed: 7, fault: Some(fault), ..Disturbance::default() };
/// let results = run_simulated(3, &disturbance, |mut ranks| {
///     (0..5).try_for_each(|_| ranks.barrier())
/// });
/// assert!(results.iter().all(Result::is_err)); // no rank hangs, and none continues alone
/// ```
#[derive(Debug)]
pub struct Simulated {
    network: Arc<Network>,
    size: usize,
    plan: Disturbance,
    channel: usize,
    rank: usize,
    step: u64,
    operation: u64,
    /// The first error, which every later call returns.
    poison: Option<CollectiveError>,
    /// Whether the fault has happened.
    faulty: bool,
    /// The last bytes sent in an `all_gather` of each length, if the fault needs them.
    last: HashMap<usize, Vec<u8>>,
}

/// Runs `f` on `size` ranks of a simulated network. Threads and results are as in
/// [`run_threads`](burn_rehearsal_collective::run_threads).
pub fn run_simulated<T, E, F>(
    size: usize,
    disturbance: &Disturbance,
    f: F,
) -> Vec<Result<T, RankFailure<E>>>
where
    T: Send,
    E: Send,
    F: Fn(Simulated) -> Result<T, E> + Sync,
{
    // `group` refuses only 0 ranks.
    run_on(Simulated::group(size, disturbance).unwrap_or_default(), f)
}

impl Simulated {
    /// Makes the handles of a new group of `size` ranks, in rank order, one for each thread.
    ///
    /// # Errors
    ///
    /// [`CollectiveError::InvalidArgument`] if `size` is 0.
    pub fn group(size: usize, disturbance: &Disturbance) -> Result<Vec<Self>, CollectiveError> {
        if size == 0 {
            return Err(CollectiveError::InvalidArgument(
                "a group needs at least 1 rank, not 0".to_owned(),
            ));
        }
        let network = Arc::new(Network::new(size));
        Ok((0..size)
            .map(|rank| Self::on(network.clone(), size, *disturbance, 0, rank, 0))
            .collect())
    }

    fn on(
        network: Arc<Network>,
        size: usize,
        plan: Disturbance,
        channel: usize,
        rank: usize,
        step: u64,
    ) -> Self {
        Self {
            network,
            size,
            plan,
            channel,
            rank,
            step,
            operation: 0,
            poison: None,
            faulty: false,
            last: HashMap::new(),
        }
    }

    fn peers(&self) -> impl Iterator<Item = usize> + use<> {
        let rank = self.rank;
        (0..self.size).filter(move |peer| *peer != rank)
    }

    /// Random numbers for this rank and this operation. `purpose` separates several uses.
    fn random(&self, purpose: usize) -> Xoshiro256PlusPlus {
        seeded(&[
            self.plan.seed as usize,
            self.channel,
            self.rank,
            self.operation as usize,
            purpose,
        ])
    }

    /// Runs one operation: sends messages, then receives messages of the lengths of the buffers.
    fn operate(
        &mut self,
        call: Call,
        sends: &[(usize, &[u8])],
        receives: &mut [(usize, &mut [u8])],
    ) -> Result<(), CollectiveError> {
        if let Some(error) = &self.poison {
            return Err(error.clone());
        }
        let result = self.send(call, sends).and_then(|()| self.receive(call, receives));
        self.operation += 1;
        result.map_err(|error| self.fail(error))
    }

    fn fail(&mut self, error: CollectiveError) -> CollectiveError {
        self.network.leave(self.channel, self.rank, false);
        self.poison.insert(error).clone()
    }

    /// Returns the earlier error or the problem with the arguments, if any.
    fn check(&mut self, problem: Option<String>) -> Result<(), CollectiveError> {
        match (&self.poison, problem) {
            (Some(error), _) => Err(error.clone()),
            (None, Some(problem)) => Err(self.fail(CollectiveError::InvalidArgument(problem))),
            (None, None) => Ok(()),
        }
    }

    /// Returns the fault if it happens in this operation.
    fn fault(&mut self, call: Call, sends: &[(usize, &[u8])]) -> Option<FaultKind> {
        let gathers = matches!(call, Call::AllGather { len } if len > 0) && !sends.is_empty();
        let fault = self.plan.fault.filter(|fault| {
            let possible = match fault.kind {
                FaultKind::Stall | FaultKind::Die | FaultKind::Panic => true,
                FaultKind::Length | FaultKind::Operation => !sends.is_empty(),
                FaultKind::Stale => {
                    gathers
                        && self.last.get(&sends[0].1.len()).is_some_and(|last| last != sends[0].1)
                }
                FaultKind::Corrupt => gathers,
            };
            (fault.rank, fault.handle) == (self.rank, self.channel)
                && fault.operation <= self.operation
                && !self.faulty
                && possible
        })?;
        self.faulty = true;
        Some(fault.kind)
    }

    fn send(&mut self, call: Call, sends: &[(usize, &[u8])]) -> Result<(), CollectiveError> {
        let fault = self.fault(call, sends);
        let mut random = self.random(0);
        let mut order: Vec<_> = sends.iter().collect();
        order.shuffle(&mut random);
        let ends = matches!(fault, Some(FaultKind::Stall | FaultKind::Die | FaultKind::Panic));
        if ends {
            order.truncate(random.random_range(..=order.len()));
        }
        // Either one peer or all peers get a wrong message.
        let wrong = if random.random_bool(0.5) { 1 } else { order.len() };
        let now = Instant::now();
        for (index, &&(peer, bytes)) in order.iter().enumerate() {
            let due = now + self.plan.draw_delay(&mut random);
            let mut message =
                Message { call, operation: self.operation, bytes: bytes.to_vec(), due };
            if index < wrong {
                self.spoil(fault, &mut message, &mut random);
            }
            self.network.send(self.channel, self.rank, peer, message);
        }
        if let (Call::AllGather { len }, Some((_, bytes))) = (call, sends.first())
            && self.plan.fault.is_some_and(|fault| fault.kind == FaultKind::Stale)
        {
            self.last.insert(len, bytes.to_vec());
        }
        match fault {
            Some(FaultKind::Stall) => self.network.stop(self.rank),
            Some(FaultKind::Die) => self.network.die(self.rank),
            // `panic!` would print a message.
            Some(FaultKind::Panic) => resume_unwind(Box::new("this rank panics on purpose")),
            _ => return Ok(()),
        }
        Err(self.transport("this rank stops on purpose".to_owned()))
    }

    fn spoil(
        &self,
        fault: Option<FaultKind>,
        message: &mut Message,
        random: &mut Xoshiro256PlusPlus,
    ) {
        match fault {
            Some(FaultKind::Length) if random.random_bool(0.5) && !message.bytes.is_empty() => {
                let _ = message.bytes.pop();
            }
            Some(FaultKind::Length) => message.bytes.push(0),
            Some(FaultKind::Operation) => {
                message.operation = message.operation.wrapping_add(random.random_range(1..4))
            }
            Some(FaultKind::Stale) => {
                if let Some(last) = self.last.get(&message.bytes.len()) {
                    message.bytes.clone_from(last);
                }
            }
            Some(FaultKind::Corrupt) => {
                let at = random.random_range(..message.bytes.len());
                message.bytes[at] ^= 1 << random.random_range(0..8_u32);
            }
            _ => {}
        }
    }

    fn receive(
        &mut self,
        call: Call,
        receives: &mut [(usize, &mut [u8])],
    ) -> Result<(), CollectiveError> {
        let mut order: Vec<_> = receives.iter_mut().collect();
        order.shuffle(&mut self.random(1));
        let step = self.step;
        for (peer, bytes) in order {
            let peer = *peer;
            let message = self.network.receive(self.channel, peer, self.rank).map_err(
                |missing| match missing {
                    Missing::Left => CollectiveError::PeerFailed { rank: peer, step },
                    Missing::Silent => self.transport(format!("rank {peer} is silent")),
                    Missing::Stopped => self.transport("this rank stops on purpose".to_owned()),
                },
            )?;
            let mismatch = |reason: String| CollectiveError::Mismatch { step, reason };
            if (message.call, message.operation) != (call, self.operation) {
                let (theirs, ours) = (message.operation, self.operation);
                return Err(mismatch(format!(
                    "{call} on rank {} (operation {ours}); {} on rank {peer} (operation {theirs})",
                    self.rank, message.call
                )));
            }
            if message.bytes.len() != bytes.len() {
                let (found, expected) = (message.bytes.len(), bytes.len());
                return Err(mismatch(format!(
                    "{call}: rank {peer} sends {found} bytes to rank {}, which expects {expected}",
                    self.rank
                )));
            }
            bytes.copy_from_slice(&message.bytes);
        }
        Ok(())
    }

    fn transport(&self, reason: String) -> CollectiveError {
        CollectiveError::Transport { step: self.step, call: NETWORK, reason }
    }

    /// Sends the same bytes to all peers and receives from all peers.
    fn all_to_all(
        &mut self,
        call: Call,
        send: &[u8],
        mut room: Vec<(usize, &mut [u8])>,
    ) -> Result<(), CollectiveError> {
        let sends: Vec<_> = self.peers().map(|peer| (peer, send)).collect();
        self.operate(call, &sends, &mut room)
    }
}

impl Collective for Simulated {
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
        let room = self.peers().map(|peer| (peer, &mut [][..])).collect();
        self.all_to_all(Call::Barrier, &[], room)
    }

    fn broadcast(&mut self, data: &mut [u8], root: usize) -> Result<(), CollectiveError> {
        self.check(root_problem(self.rank, self.size, root))?;
        let call = Call::Broadcast { root, len: data.len() };
        if self.rank == root {
            let sends: Vec<_> = self.peers().map(|peer| (peer, &*data)).collect();
            return self.operate(call, &sends, &mut []);
        }
        self.operate(call, &[], &mut [(root, data)])
    }

    fn all_gather(&mut self, send: &[u8], recv: &mut [u8]) -> Result<(), CollectiveError> {
        let (size, len) = (self.size, send.len());
        self.check(gather_problem(self.rank, size, send, recv))?;
        let mut parts: Vec<(usize, &mut [u8])> = match len {
            0 => (0..size).map(|rank| (rank, &mut [][..])).collect(),
            _ => recv.chunks_exact_mut(len).enumerate().collect(),
        };
        let (_, own) = parts.remove(self.rank);
        own.copy_from_slice(send);
        self.all_to_all(Call::AllGather { len }, send, parts)
    }

    fn all_reduce(&mut self, data: &mut [f32], op: ReduceOp) -> Result<(), CollectiveError> {
        let send: Vec<u8> = data.iter().flat_map(|value| value.to_le_bytes()).collect();
        let mut received = vec![vec![0; send.len()]; self.size];
        let room = received
            .iter_mut()
            .map(Vec::as_mut_slice)
            .enumerate()
            .filter(|(peer, _)| *peer != self.rank)
            .collect();
        self.all_to_all(Call::AllReduce { op, len: data.len() }, &send, room)?;
        received[self.rank] = send;
        let values = |bytes: &Vec<u8>| {
            bytes
                .as_chunks::<4>()
                .0
                .iter()
                .map(|bytes| f32::from_le_bytes(*bytes))
                .collect::<Vec<_>>()
        };
        data.copy_from_slice(&values(&received[0]));
        for other in &received[1..] {
            data.iter_mut().zip(values(other)).for_each(|(sum, value)| *sum += value);
        }
        if op == ReduceOp::Mean {
            data.iter_mut().for_each(|sum| *sum /= self.size as f32);
        }
        Ok(())
    }

    fn exchange(
        &mut self,
        outgoing: &[Outgoing<'_>],
        incoming: &mut [Incoming<'_>],
    ) -> Result<(), CollectiveError> {
        self.check(exchange_problem(self.rank, self.size, outgoing, incoming))?;
        let sends: Vec<_> = outgoing.iter().map(|message| (message.peer, message.bytes)).collect();
        let mut receives: Vec<_> =
            incoming.iter_mut().map(|message| (message.peer, &mut *message.bytes)).collect();
        self.operate(Call::Exchange, &sends, &mut receives)
    }

    fn duplicate(&mut self) -> Result<Box<dyn Collective>, CollectiveError> {
        let operation = self.operation;
        let room = self.peers().map(|peer| (peer, &mut [][..])).collect();
        self.all_to_all(Call::Duplicate, &[], room)?;
        let child = self.network.child(self.channel, operation, self.rank);
        Ok(Box::new(Self::on(
            self.network.clone(),
            self.size,
            self.plan,
            child,
            self.rank,
            self.step,
        )))
    }
}

impl Drop for Simulated {
    fn drop(&mut self) {
        self.network.leave(self.channel, self.rank, true);
    }
}
