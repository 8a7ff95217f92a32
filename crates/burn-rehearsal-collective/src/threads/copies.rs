//! The operations: what each rank publishes, and how it moves data between the gates. This module
//! and `address.rs` contain all unsafe code of this transport.
//!
//! Every SAFETY comment below rests on three facts. **Alive:** between the gates, all ranks are
//! inside the same operation and hold the borrows of the buffers that they have published. **Same
//! length:** gate A opens only if all ranks have published equal calls (and, in an exchange, equal
//! lengths for each pair). **Ordered:** because of the lock, everything that a rank does before
//! gate A happens before the accesses of other ranks, and these happen before everything that it
//! does after gate B.
#![allow(
    unsafe_code,
    reason = "ranks access each other's buffers between the gates, see threads.rs"
)]

use super::address::Address;
use super::board::{Failure, RankCall};
use super::gate::Entrance;
use crate::arguments::{exchange_problem, gather_problem, root_problem};
use crate::call::Call;
use crate::reduce::{BLOCK, divide, even_split};
use crate::{Incoming, Outgoing, ReduceOp};

pub(super) fn barrier(gate: Entrance<'_>, rank: usize) -> Result<(), Failure> {
    gate.pass(|board| board.post(rank, RankCall::new(Call::Barrier, Address::NULL)))
}

pub(super) fn broadcast(
    gate: Entrance<'_>,
    rank: usize,
    data: &mut [u8],
    root: usize,
) -> Result<(), Failure> {
    let len = data.len();
    let address = if rank == root { Address::of(data) } else { Address::NULL };
    let mut posted = RankCall::new(Call::Broadcast { root, len }, address);
    posted.problem = root_problem(rank, gate.size(), root);
    let (source, gate_b) =
        gate.meet(|board| board.post(rank, posted), |board| board.address(root))?;
    if rank != root {
        // SAFETY: alive and `len` bytes long (module head). The root does not access its buffer
        // here, and the other ranks only read it.
        data.copy_from_slice(unsafe { source.bytes(len) });
    }
    drop(gate_b);
    Ok(())
}

pub(super) fn all_gather(
    gate: Entrance<'_>,
    rank: usize,
    addresses: &mut Vec<Address>,
    send: &[u8],
    recv: &mut [u8],
) -> Result<(), Failure> {
    let len = send.len();
    let mut posted = RankCall::new(Call::AllGather { len }, Address::of(send));
    posted.problem = gather_problem(rank, gate.size(), send, recv);
    let (sources, gate_b) =
        gate.meet(|board| board.post(rank, posted), |board| refill(addresses, board.addresses()))?;
    // `chunks_exact_mut` panics for chunks of 0 bytes.
    for (part, source) in recv.chunks_exact_mut(len.max(1)).zip(sources) {
        // SAFETY: alive and `len` bytes long (module head). Its owner has lent it as shared, so
        // no rank writes it.
        part.copy_from_slice(unsafe { source.bytes(len) });
    }
    drop(gate_b);
    Ok(())
}

/// Rank i adds up slice i of all buffers and writes the sums into slice i of all buffers.
pub(super) fn all_reduce(
    gate: Entrance<'_>,
    rank: usize,
    addresses: &mut Vec<Address>,
    data: &mut [f32],
    op: ReduceOp,
) -> Result<(), Failure> {
    let len = data.len();
    // Until gate B, this rank accesses its own buffer only through the published address, too.
    let address = Address::of_values(data);
    let posted = RankCall::new(Call::AllReduce { op, len }, address);
    let (buffers, gate_b) =
        gate.meet(|board| board.post(rank, posted), |board| refill(addresses, board.addresses()))?;
    let slice = even_split(len, buffers.len(), rank);
    for block in slice.clone().step_by(BLOCK) {
        // SAFETY: the block lies within `slice`, and so within each of the buffers, which are
        // alive, long enough and aligned (all of them are `&mut [f32]`). The buffers are distinct,
        // and the slices of different ranks are disjoint, so no other rank accesses these values
        // between the gates.
        unsafe { reduce_block(buffers, block, BLOCK.min(slice.end - block), op) };
    }
    drop(gate_b);
    Ok(())
}

/// Adds the values `start..start + len` of all buffers in rank order, in the first buffer, and
/// copies the result into the others.
///
/// # Safety
///
/// The addresses are those of distinct living arrays of at least `start + len` values, and no other
/// thread accesses `start..start + len` of any of them during the call.
unsafe fn reduce_block(buffers: &[Address], start: usize, len: usize, op: ReduceOp) {
    // SAFETY: the caller's promise.
    let block = |buffer: &Address| unsafe {
        std::slice::from_raw_parts_mut(buffer.start().cast::<f32>().add(start), len)
    };
    let Some((first, others)) = buffers.split_first() else { return };
    let sums = block(first);
    for other in others {
        for (sum, value) in sums.iter_mut().zip(block(other)) {
            *sum += *value;
        }
    }
    if op == ReduceOp::Mean {
        divide(sums, buffers.len());
    }
    for other in others {
        block(other).copy_from_slice(sums);
    }
}

pub(super) fn exchange(
    gate: Entrance<'_>,
    rank: usize,
    addresses: &mut Vec<Address>,
    outgoing: &[Outgoing<'_>],
    incoming: &mut [Incoming<'_>],
) -> Result<(), Failure> {
    let mut posted = RankCall::new(Call::Exchange, Address::NULL);
    posted.problem = exchange_problem(rank, gate.size(), outgoing, incoming);
    let (sources, gate_b) = gate.meet(
        |board| {
            if posted.problem.is_none() {
                board.post_messages(rank, outgoing, incoming);
            }
            board.post(rank, posted);
        },
        |board| {
            refill(addresses, incoming.iter().map(|message| board.transfer(message.peer, rank)))
        },
    )?;
    for (message, source) in incoming.iter_mut().zip(sources) {
        let len = message.bytes.len();
        // SAFETY: the sender has published this transfer with `len` bytes (gate A has compared both
        // sides) and is alive (module head). It has lent the bytes as shared, so no rank writes
        // them.
        message.bytes.copy_from_slice(unsafe { source.bytes(len) });
    }
    drop(gate_b);
    Ok(())
}

/// Replaces the contents of `list` and keeps its capacity.
fn refill(list: &mut Vec<Address>, addresses: impl Iterator<Item = Address>) -> &[Address] {
    list.clear();
    list.extend(addresses);
    list
}
