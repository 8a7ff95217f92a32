//! Checks of arguments, with the same error messages on every transport.
//!
//! Each function returns what is wrong with the arguments of `rank` in a world of `size` ranks, for
//! [`CollectiveError::InvalidArgument`](crate::CollectiveError::InvalidArgument).

use crate::{Incoming, Outgoing};

/// Checks the root of a broadcast.
pub fn root_problem(rank: usize, size: usize, root: usize) -> Option<String> {
    (root >= size)
        .then(|| format!("rank {rank}, broadcast: root {root} is not a rank of a world of {size}"))
}

/// Checks the lengths of an all-gather.
pub fn gather_problem(rank: usize, size: usize, send: &[u8], recv: &[u8]) -> Option<String> {
    let (len, room) = (send.len(), recv.len());
    (len.checked_mul(size) != Some(room)).then(|| {
        format!("rank {rank}, all_gather: recv has {room} bytes, but {size} ranks send {len} each")
    })
}

/// Checks the peers of an exchange.
pub fn exchange_problem(
    rank: usize,
    size: usize,
    outgoing: &[Outgoing<'_>],
    incoming: &[Incoming<'_>],
) -> Option<String> {
    let problem = |direction: &str, messages: usize, peer: &dyn Fn(usize) -> usize| {
        (0..messages).find_map(|index| {
            let other = peer(index);
            if other >= size || other == rank {
                return Some(format!(
                    "rank {rank}, exchange: a message {direction} rank {other}, \
                     which is not another rank of a world of {size}"
                ));
            }
            (0..index)
                .any(|earlier| peer(earlier) == other)
                .then(|| format!("rank {rank}, exchange: two messages {direction} rank {other}"))
        })
    };
    problem("to", outgoing.len(), &|index| outgoing[index].peer)
        .or_else(|| problem("from", incoming.len(), &|index| incoming[index].peer))
}
