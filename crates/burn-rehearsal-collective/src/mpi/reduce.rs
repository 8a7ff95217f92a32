//! The all-reduce in a fixed order: the same additions as among threads, and so the same bits.
//!
//! The values are split into buckets of 4 MiB, and each bucket into one slice per rank. Every rank
//! sends the slices of the other ranks to them, adds the parts of its own slice in rank order, and
//! sends the sums to all. Each value crosses the network twice, for any number of ranks. Several
//! buckets are in progress at a time, so that one is summed while others are transferred.
#![allow(unsafe_code, reason = "values of a lent buffer are read and written between messages")]

use std::ffi::c_int;

use super::calls::Fault;
use super::requests::Direction::{Receive, Send};
use super::requests::Requests;
use super::work::{Lent, Progress};
use crate::reduce::{BLOCK, ReduceOp, divide, even_split};

/// The number of values in a bucket (4 MiB).
const BUCKET: usize = 1 << 20;
/// The number of buckets in progress at a time.
const LANES: usize = 4;
const VALUE: usize = size_of::<f32>();

/// What a lane waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The other ranks' parts of this rank's slice.
    Parts,
    /// The sums of the other ranks.
    Sums,
    /// Nothing. It can take the next bucket.
    Free,
}

/// A bucket in progress.
struct Lane {
    stage: Stage,
    requests: Requests,
    /// The other ranks' parts of this rank's slice, in rank order.
    parts: Vec<f32>,
    bucket: usize,
}

/// An all-reduce in progress.
pub(super) struct Reduce {
    lanes: Vec<Lane>,
    data: Lent,
    op: ReduceOp,
    /// The next bucket to start.
    next: usize,
}

/// The ranks and the tags of an operation.
#[derive(Clone, Copy)]
pub(super) struct Channel {
    pub(super) rank: usize,
    pub(super) size: usize,
    /// The first of the 256 tags of the operation.
    pub(super) tag: c_int,
}

impl Reduce {
    pub(super) fn new(requests: impl Fn() -> Requests) -> Self {
        let lane =
            |_| Lane { stage: Stage::Free, requests: requests(), parts: Vec::new(), bucket: 0 };
        let lanes = (0..LANES).map(lane).collect();
        Self { lanes, data: Lent::NOTHING, op: ReduceOp::Sum, next: 0 }
    }

    /// Begins an all-reduce of `data`. No lane is in use.
    pub(super) fn start(&mut self, data: Lent, op: ReduceOp) {
        (self.data, self.op, self.next) = (data, op, 0);
    }

    /// Advances as far as possible.
    pub(super) fn advance(&mut self, channel: Channel) -> Result<Progress, Fault> {
        let buckets = (self.data.len() / VALUE).div_ceil(BUCKET);
        let (mut busy, mut moved) = (false, false);
        for lane in &mut self.lanes {
            loop {
                match lane.stage {
                    Stage::Free if self.next == buckets => break,
                    Stage::Free => {
                        lane.bucket = self.next;
                        self.next += 1;
                        lane.scatter(channel, self.data)?;
                    }
                    Stage::Parts if lane.requests.test()? => {
                        lane.sum(channel, self.data, self.op)?
                    }
                    Stage::Sums if lane.requests.test()? => lane.stage = Stage::Free,
                    Stage::Parts | Stage::Sums => break,
                }
                moved = true;
            }
            busy |= lane.stage != Stage::Free;
        }
        Ok(match (busy, moved) {
            (false, _) => Progress::Over,
            (true, true) => Progress::Moved,
            (true, false) => Progress::Nothing,
        })
    }

    pub(super) fn requests(&self) -> impl Iterator<Item = &Requests> {
        self.lanes.iter().map(|lane| &lane.requests)
    }

    pub(super) fn requests_mut(&mut self) -> impl Iterator<Item = &mut Requests> {
        self.lanes.iter_mut().map(|lane| &mut lane.requests)
    }
}

impl Lane {
    /// The bytes of `rank`'s slice of this lane's bucket.
    fn slice(&self, data: Lent, rank: usize, size: usize) -> Lent {
        let bucket = data.part(self.bucket * BUCKET * VALUE, BUCKET * VALUE);
        let slice = even_split(bucket.len() / VALUE, size, rank);
        bucket.part(slice.start * VALUE, slice.len() * VALUE)
    }

    /// The first tag of the bucket. Buckets in progress have different tags.
    fn tag(&self, channel: Channel) -> c_int {
        channel.tag + 2 * (self.bucket % 128) as c_int
    }

    fn scatter(&mut self, channel: Channel, data: Lent) -> Result<(), Fault> {
        let Channel { rank, size, .. } = channel;
        let tag = self.tag(channel);
        let own = self.slice(data, rank, size).len();
        self.parts.resize(own / VALUE * (size - 1), 0.0);
        let parts = Lent::values(&mut self.parts);
        self.stage = Stage::Parts;
        for peer in others(rank, size) {
            let part = parts.part((peer - usize::from(peer > rank)) * own, own);
            // SAFETY: `parts` is not accessed until the requests are complete (`sum`). After a
            // failure the lane is abandoned or leaked.
            unsafe { self.requests.post(Receive, tag, peer, part)? };
        }
        for peer in others(rank, size) {
            // SAFETY: a lent buffer. This slice is written only after the sends are complete
            // (`sum`).
            unsafe { self.requests.post(Send, tag, peer, self.slice(data, peer, size))? };
        }
        Ok(())
    }

    /// Adds the parts of this rank's slice and begins to exchange the sums.
    fn sum(&mut self, channel: Channel, data: Lent, op: ReduceOp) -> Result<(), Fault> {
        let Channel { rank, size, .. } = channel;
        let tag = self.tag(channel) + 1;
        let own = self.slice(data, rank, size);
        // SAFETY: part of a lent `&mut [f32]` that begins at a value, so it is aligned. No request
        // uses the slice of this rank now.
        let values =
            unsafe { std::slice::from_raw_parts_mut(own.start().cast::<f32>(), own.len() / VALUE) };
        sum_in_rank_order(values, &self.parts, rank, size, op);
        self.stage = Stage::Sums;
        for peer in others(rank, size) {
            // SAFETY: a lent buffer. The slices of different ranks are disjoint, and the sends from
            // this slice are complete.
            unsafe { self.requests.post(Receive, tag, peer, self.slice(data, peer, size))? };
        }
        for peer in others(rank, size) {
            // SAFETY: a lent buffer. The slice of this rank is not written until the operation is
            // over.
            unsafe { self.requests.post(Send, tag, peer, own)? };
        }
        Ok(())
    }
}

/// All ranks except `rank`, beginning with the next one, so that not all ranks send to the same
/// rank at the same time.
pub(super) fn others(rank: usize, size: usize) -> impl Iterator<Item = usize> {
    (1..size).map(move |distance| (rank + distance) % size)
}

/// Replaces `own`, the values of `rank`, by `((x0 + x1) + x2) + …`. `parts` has the values of all
/// other ranks in rank order.
fn sum_in_rank_order(own: &mut [f32], parts: &[f32], rank: usize, size: usize, op: ReduceOp) {
    let len = own.len();
    let mut sums = [0.0; BLOCK];
    for start in (0..len).step_by(BLOCK) {
        let end = len.min(start + BLOCK);
        let sums = &mut sums[..end - start];
        for peer in 0..size {
            let values = match peer.cmp(&rank) {
                std::cmp::Ordering::Equal => &own[start..end],
                std::cmp::Ordering::Less => &parts[peer * len + start..peer * len + end],
                std::cmp::Ordering::Greater => {
                    &parts[(peer - 1) * len + start..(peer - 1) * len + end]
                }
            };
            if peer == 0 {
                sums.copy_from_slice(values);
            } else {
                sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += *value);
            }
        }
        if op == ReduceOp::Mean {
            divide(sums, size);
        }
        own[start..end].copy_from_slice(sums);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rank_adds_in_rank_order() {
        // The 1 is lost in 1e8 + 1. Any order that adds 1e8 and -1e8 first gives 1.
        let inputs = [1e8_f32, 1.0, -1e8];
        for rank in 0..3 {
            let mut own = vec![inputs[rank]; BLOCK + 3];
            let parts: Vec<f32> = (0..3)
                .filter(|peer| *peer != rank)
                .flat_map(|peer| vec![inputs[peer]; BLOCK + 3])
                .collect();
            sum_in_rank_order(&mut own, &parts, rank, 3, ReduceOp::Sum);
            assert!(own.iter().all(|sum| *sum == 0.0));
        }
    }

    #[test]
    fn every_rank_begins_with_the_next_one() {
        assert_eq!(others(1, 4).collect::<Vec<_>>(), [2, 3, 0]);
        assert_eq!(others(0, 1).count(), 0);
    }
}
