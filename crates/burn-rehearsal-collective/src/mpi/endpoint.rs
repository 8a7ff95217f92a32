//! One handle as MPI sees it: its communicator and the operation in progress.
#![allow(unsafe_code, reason = "lent buffers are given to MPI")]

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

/// After a failure, MPI has so long to let go of the caller's memory.
const LET_GO: Duration = Duration::from_secs(1);

/// An operation in progress.
pub(super) struct Active {
    pub(super) work: Work,
    pub(super) since: Instant,
    /// When the ranks that are waited for were last notified.
    pub(super) notified: Instant,
    /// How often a rank that is waited for has answered that it has finished this operation.
    pub(super) done_elsewhere: u32,
}

impl Active {
    /// The error if the ranks disagree.
    pub(super) fn mismatch(&self, reason: String) -> CollectiveError {
        CollectiveError::Mismatch { step: self.work.step, reason }
    }
}

/// One handle.
pub(super) struct Endpoint {
    rank: usize,
    size: usize,
    /// The same on all ranks, different from that of every other handle.
    pub(super) group: u64,
    /// What it is for, if its rank has said so.
    pub(super) purpose: Option<&'static str>,
    children: u64,
    /// The number of the next operation.
    pub(super) next: u64,
    /// The outcome of the last operation, until the handle takes it.
    pub(super) answer: Option<Answer>,
    messages: Requests,
    reduce: Reduce,
    reduction: Reduction,
    /// What the library's own all-reduce reads.
    copy: Vec<f32>,
    /// Where a duplication writes; boxed, so that it stays in its place.
    child: Box<Comm>,
    pub(super) active: Option<Active>,
    /// Whether it is a broadcast whose data must be passed on as soon as they are here.
    passes_on: bool,
    /// Why the operation in progress could not even begin.
    pub(super) fault: Option<Fault>,
    /// For each rank, the number of the first operation in which it takes no part.
    pub(super) left: Vec<u64>,
    /// Whether the handle is gone, or has failed: the others have been notified.
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

    /// The communicator and the group of a handle made by the duplication that has just finished.
    pub(super) fn take_child(&mut self) -> Result<(Comm, u64), Fault> {
        self.children += 1;
        let comm = std::mem::replace(&mut *self.child, Comm::none());
        comm.return_errors()?;
        Ok((comm, child_group(self.group, self.children)))
    }

    /// Begins an operation; the messages are those of an exchange.
    pub(super) fn start(
        &mut self,
        work: Work,
        outgoing: &[Outgoing<'_>],
        incoming: &mut [Incoming<'_>],
    ) -> Result<(), Fault> {
        let now = Instant::now();
        let Work { call, data, result, .. } = work;
        self.passes_on = matches!(call, Call::Broadcast { root, .. } if root != self.rank);
        // Also after a failure, so that what has been posted is given up in an orderly way.
        self.active = Some(Active { work, since: now, notified: now, done_elsewhere: 0 });
        self.next += 1;
        let channel = self.channel(call);
        let Channel { rank, size, tag } = channel;
        match call {
            Call::Barrier => others(rank, size).try_for_each(|peer| {
                // SAFETY: no memory is involved.
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
                // SAFETY: lent; each peer's part of the result is another.
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
                    // SAFETY: lent, every buffer on its own.
                    unsafe { self.messages.post(Receive, tag, *peer, Lent::write(bytes))? };
                }
                for Outgoing { peer, bytes } in outgoing {
                    // SAFETY: as above.
                    unsafe { self.messages.post(Send, tag, *peer, Lent::read(bytes))? };
                }
                Ok(())
            }
            // SAFETY: boxed, and an endpoint with an unfinished duplication is never dropped before
            // the process ends.
            Call::Duplicate => unsafe { self.messages.duplicate(&mut self.child) },
        }
    }

    /// Advances the operation in progress, if there is one.
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
                // SAFETY: a lent `&mut [f32]` of `len` values that MPI has finished with.
                divide(
                    unsafe { std::slice::from_raw_parts_mut(data.start().cast::<f32>(), len) },
                    self.size,
                );
            }
            _ => {}
        }
        Ok(Progress::Over)
    }

    /// Sends a broadcast's data to this rank's children in the binomial tree.
    fn pass_on(
        &mut self,
        Channel { rank, size, tag }: Channel,
        root: usize,
        data: Lent,
    ) -> Result<(), Fault> {
        // SAFETY: lent; the data are not written any more.
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
        // SAFETY: lent, and a copy that is touched only by the next operation.
        unsafe { self.messages.all_reduce(Lent::values(&mut self.copy), data) }
    }

    /// The channel of the operation in progress.
    fn channel(&self, call: Call) -> Channel {
        Channel { rank: self.rank, size: self.size, tag: tag(call, self.next - 1) }
    }

    /// The ranks that the operation in progress may wait for, in order.
    pub(super) fn pending_ranks(&self) -> Vec<usize> {
        let mut pending = Vec::new();
        let mut each = |peer| match peer {
            Some(peer) => pending.push(peer),
            // What involves all ranks waits for any of them.
            None => pending.extend(others(self.rank, self.size)),
        };
        self.messages.pending(&mut each);
        self.reduce.requests().for_each(|requests| requests.pending(&mut each));
        pending.sort_unstable();
        pending.dedup();
        pending
    }

    /// Gives up the operation in progress; false if MPI still holds the caller's memory.
    pub(super) fn abandon(&mut self) -> bool {
        let messages = self.messages.abandon(LET_GO);
        self.reduce.requests_mut().all(|requests| requests.abandon(LET_GO)) && messages
    }
}

/// The first of the 256 tags of an operation. Different calls have different tags, so that they
/// never receive each other's data; neither do operations that follow each other. All tags fit into
/// the 15 bits that every MPI has.
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

/// From whom a rank other than the root gets a broadcast: its number relative to the root, without
/// the lowest bit.
fn parent(rank: usize, root: usize, size: usize) -> usize {
    let relative = (rank + size - root) % size;
    ((relative & (relative.wrapping_sub(1))) + root) % size
}

/// To whom a rank passes a broadcast on, those with the most descendants first.
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

/// The same on all ranks, for they duplicate a handle equally often (SplitMix64's finaliser).
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
    fn every_rank_but_the_root_has_one_parent_in_the_tree() {
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
