//! The MPI side of one handle: its communicator and the operation in progress.
#![allow(unsafe_code, reason = "MPI accesses lent buffers")]

use std::ffi::c_int;
use std::time::{Duration, Instant};

use super::calls::{Comm, Fault};
use super::reduce::{Channel, Reduce, others};
use super::requests::Direction::{Receive, Send};
use super::requests::Requests;
use super::work::{Answer, Lent, Progress, Work};
use crate::call::Call;
use crate::reduce::divide;
use crate::{CollectiveError, Incoming, MpiOptions, Outgoing, ReduceOp, Reduction};

/// The time that MPI has to release the memory of the caller after a failure.
const LET_GO: Duration = Duration::from_secs(1);

/// An operation in progress.
pub(super) struct Active {
    pub(super) work: Work,
    pub(super) since: Instant,
    /// When the pending ranks were last notified.
    pub(super) notified: Instant,
    /// How often pending ranks have answered that they have finished this operation.
    pub(super) done_elsewhere: u32,
}

impl Active {
    /// The error for ranks that disagree.
    pub(super) fn mismatch(&self, reason: String) -> CollectiveError {
        CollectiveError::Mismatch { step: self.work.step, reason }
    }
}

/// The MPI side of one handle.
pub(super) struct Endpoint {
    rank: usize,
    size: usize,
    /// Identifies the handle on all ranks.
    pub(super) group: u64,
    /// The purpose of the handle, if set.
    pub(super) purpose: Option<&'static str>,
    children: u64,
    /// The number of the next operation.
    pub(super) next: u64,
    /// The outcome of the last operation, until the handle takes it.
    pub(super) answer: Option<Answer>,
    messages: Requests,
    reduce: Reduce,
    reduction: Reduction,
    /// The input of `MPI_Iallreduce`.
    copy: Vec<f32>,
    /// The result of a duplication. Boxed, so that its address is stable.
    child: Box<Comm>,
    pub(super) active: Option<Active>,
    /// Whether the operation in progress is a broadcast whose data this rank passes on after its
    /// arrival.
    passes_on: bool,
    /// The error that occurred at the start of the operation in progress.
    pub(super) fault: Option<Fault>,
    /// For each rank, the number of the first operation in which it does not take part.
    pub(super) left: Vec<u64>,
    /// Whether the handle has been dropped or has failed, and the other ranks have been notified.
    pub(super) closed: bool,
}

impl Endpoint {
    pub(super) fn new(
        comm: Comm,
        (rank, size): (usize, usize),
        group: u64,
        options: &MpiOptions,
    ) -> Self {
        let requests = || Requests::new(comm, options.largest_message);
        Self {
            rank,
            size,
            group,
            purpose: None,
            children: 0,
            next: 0,
            answer: None,
            messages: requests(),
            reduce: Reduce::new(requests),
            reduction: options.reduction,
            copy: Vec::new(),
            child: Box::new(Comm::none()),
            active: None,
            passes_on: false,
            fault: None,
            left: vec![u64::MAX; size],
            closed: false,
        }
    }

    /// The communicator and the group of the handle that a finished duplication has made.
    pub(super) fn take_child(&mut self) -> Result<(Comm, u64), Fault> {
        self.children += 1;
        let comm = std::mem::replace(&mut *self.child, Comm::none());
        comm.return_errors()?;
        Ok((comm, child_group(self.group, self.children)))
    }

    /// Begins an operation. `outgoing` and `incoming` are the messages of an exchange.
    pub(super) fn start(
        &mut self,
        work: Work,
        outgoing: &[Outgoing<'_>],
        incoming: &mut [Incoming<'_>],
    ) -> Result<(), Fault> {
        let now = Instant::now();
        let Work { call, data, result, .. } = work;
        self.passes_on = matches!(call, Call::Broadcast { root, .. } if root != self.rank);
        // Set even if posting fails, so that requests which have been posted are abandoned.
        self.active = Some(Active { work, since: now, notified: now, done_elsewhere: 0 });
        self.next += 1;
        let channel = self.channel(call);
        let Channel { rank, size, tag } = channel;
        match call {
            Call::Barrier => others(rank, size).try_for_each(|peer| {
                // SAFETY: the messages are empty.
                unsafe {
                    self.messages.post_piece(Receive, tag, peer, Lent::NOTHING)?;
                    self.messages.post_piece(Send, tag, peer, Lent::NOTHING)
                }
            }),
            Call::Broadcast { root, .. } if self.passes_on => {
                // SAFETY: lent (see `Lent`).
                unsafe { self.messages.post(Receive, tag, parent(rank, root, size), data) }
            }
            Call::Broadcast { root, .. } => self.pass_on(channel, root, data),
            Call::AllGather { len } => others(rank, size).try_for_each(|peer| {
                // SAFETY: lent. The parts of the result are disjoint.
                unsafe {
                    self.messages.post(Receive, tag, peer, result.part(peer * len, len))?;
                    self.messages.post(Send, tag, peer, data)
                }
            }),
            Call::AllReduce { op, .. } if self.reduction == Reduction::FixedOrder => {
                self.reduce.start(data, op);
                Ok(())
            }
            Call::AllReduce { .. } => self.start_library_sum(data),
            Call::Exchange => {
                for Incoming { peer, bytes } in incoming {
                    // SAFETY: lent. The buffers are disjoint.
                    unsafe { self.messages.post(Receive, tag, *peer, Lent::write(bytes))? };
                }
                for Outgoing { peer, bytes } in outgoing {
                    // SAFETY: as above.
                    unsafe { self.messages.post(Send, tag, *peer, Lent::read(bytes))? };
                }
                Ok(())
            }
            // SAFETY: boxed. An endpoint with an unfinished duplication lives until the process
            // ends.
            Call::Duplicate => unsafe { self.messages.duplicate(&mut self.child) },
        }
    }

    /// Advances the operation in progress, if any.
    pub(super) fn advance(&mut self) -> Result<Progress, Fault> {
        if let Some(fault) = self.fault.take() {
            return Err(fault);
        }
        let Some(Active { work, .. }) = &self.active else { return Ok(Progress::Nothing) };
        let Work { call, data, .. } = *work;
        let channel = self.channel(call);
        if matches!(call, Call::AllReduce { .. }) && self.reduction == Reduction::FixedOrder {
            return self.reduce.advance(channel);
        }
        if !self.messages.test()? {
            return Ok(Progress::Nothing);
        }
        match call {
            Call::Broadcast { root, .. } if self.passes_on => {
                self.passes_on = false;
                self.pass_on(channel, root, data)?;
                return Ok(if self.messages.test()? { Progress::Over } else { Progress::Moved });
            }
            Call::AllReduce { op: ReduceOp::Mean, len } => {
                // SAFETY: a lent `&mut [f32]` of `len` values, which MPI no longer accesses.
                divide(
                    unsafe { std::slice::from_raw_parts_mut(data.start().cast::<f32>(), len) },
                    self.size,
                );
            }
            _ => {}
        }
        Ok(Progress::Over)
    }

    /// Sends the data of a broadcast to the children of this rank in the binomial tree.
    fn pass_on(
        &mut self,
        Channel { rank, size, tag }: Channel,
        root: usize,
        data: Lent,
    ) -> Result<(), Fault> {
        // SAFETY: lent. The data is no longer written.
        children(rank, root, size)
            .try_for_each(|peer| unsafe { self.messages.post(Send, tag, peer, data) })
    }

    fn start_library_sum(&mut self, data: Lent) -> Result<(), Fault> {
        // SAFETY: a lent `&mut [f32]`.
        let values = unsafe {
            std::slice::from_raw_parts(data.start().cast::<f32>(), data.len() / size_of::<f32>())
        };
        self.copy.clear();
        self.copy.extend_from_slice(values);
        // SAFETY: lent, and a copy that only the next operation accesses.
        unsafe { self.messages.all_reduce(Lent::values(&mut self.copy), data) }
    }

    /// The channel of the operation in progress.
    fn channel(&self, call: Call) -> Channel {
        Channel { rank: self.rank, size: self.size, tag: tag(call, self.next - 1) }
    }

    /// The pending ranks, for which the operation in progress may wait, in order.
    pub(super) fn pending_ranks(&self) -> Vec<usize> {
        let mut pending = Vec::new();
        let mut each = |peer| match peer {
            Some(peer) => pending.push(peer),
            // A request that involves all ranks may wait for any of them.
            None => pending.extend(others(self.rank, self.size)),
        };
        self.messages.pending(&mut each);
        self.reduce.requests().for_each(|requests| requests.pending(&mut each));
        pending.sort_unstable();
        pending.dedup();
        pending
    }

    /// Abandons the operation in progress. Returns false if MPI keeps the memory of the caller.
    pub(super) fn abandon(&mut self) -> bool {
        let messages = self.messages.abandon(LET_GO);
        self.reduce.requests_mut().all(|requests| requests.abandon(LET_GO)) && messages
    }
}

/// The first of the 256 tags of an operation.
///
/// Different calls and successive operations have different tags, so that they never receive each
/// other's data. All tags fit into the 15 bits that every MPI has.
fn tag(call: Call, operation: u64) -> c_int {
    let kind = match call {
        Call::Barrier | Call::Duplicate => 0,
        Call::Broadcast { .. } => 1,
        Call::AllGather { .. } => 2,
        Call::AllReduce { op: ReduceOp::Sum, .. } => 3,
        Call::AllReduce { op: ReduceOp::Mean, .. } => 4,
        Call::Exchange => 5,
    };
    kind << 12 | ((operation % 16) as c_int) << 8
}

/// The rank that sends a broadcast to `rank`, which is not the root. Its number relative to the
/// root is that of `rank` without the lowest set bit.
fn parent(rank: usize, root: usize, size: usize) -> usize {
    let relative = (rank + size - root) % size;
    ((relative & (relative.wrapping_sub(1))) + root) % size
}

/// The ranks to which `rank` passes a broadcast on, those with the most descendants first.
fn children(rank: usize, root: usize, size: usize) -> impl Iterator<Item = usize> {
    let relative = (rank + size - root) % size;
    let bits =
        if relative == 0 { usize::BITS - size.leading_zeros() } else { relative.trailing_zeros() };
    (0..bits)
        .rev()
        .map(move |bit| relative + (1 << bit))
        .filter(move |child| *child < size)
        .map(move |child| (child + root) % size)
}

/// The group of a duplicate, which is the same on all ranks because they duplicate a handle equally
/// often. It is computed with the finalizer of SplitMix64.
fn child_group(group: u64, child: u64) -> u64 {
    let mut z = group ^ child.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rank_except_the_root_has_one_parent() {
        for size in 1..=17 {
            for root in 0..size {
                let mut parents = vec![None; size];
                for rank in 0..size {
                    for child in children(rank, root, size) {
                        assert_eq!(parents[child].replace(rank), None, "two parents");
                        assert_eq!(parent(child, root, size), rank);
                    }
                }
                assert!(
                    (0..size).all(|rank| parents[rank].is_none() == (rank == root)),
                    "{size} ranks, root {root}: {parents:?}"
                );
            }
        }
    }

    #[test]
    fn tags_fit_into_15_bits() {
        assert_eq!(tag(Call::Exchange, 31) + 255, 0x5FFF);
    }
}
