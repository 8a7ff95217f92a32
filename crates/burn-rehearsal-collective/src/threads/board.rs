//! What the ranks write for each other before gate A, and the check that it fits together.
//!
//! The board is read only behind gate A, when every rank has rewritten its part: what an earlier
//! round left there is never seen.

use super::address::Address;
use crate::call::Call;
use crate::{Incoming, Outgoing, WaitingRank};

/// Why gate A will never open again.
#[derive(Debug, Clone)]
pub(super) enum Failure {
    /// This rank dropped its handle.
    Left(usize),
    /// The ranks called different operations, or with sizes that do not fit together.
    Disagreement(String),
    /// An argument that no rank could accept.
    Invalid(String),
    /// No rank of the world can move, see [`super::deadlock`].
    Deadlock(Vec<WaitingRank>),
}

/// One rank's call.
#[derive(Debug)]
pub(super) struct RankCall {
    pub(super) call: Call,
    /// Of the buffer that others read or write; null where `call` needs none from this rank.
    pub(super) address: Address,
    /// Why no rank can accept the arguments.
    pub(super) problem: Option<String>,
    /// Whether it was written for the round whose gate A is still closed.
    waits: bool,
}

impl RankCall {
    pub(super) fn new(call: Call, address: Address) -> Self {
        Self { call, address, problem: None, waits: true }
    }
}

/// The message of one ordered pair of ranks, as both sides see it.
#[derive(Debug, Clone, Copy, Default)]
struct Transfer {
    /// Written by the sender: where, and how many bytes.
    sent: Option<(Address, usize)>,
    /// Written by the receiver: how many bytes.
    expected: Option<usize>,
}

/// What all ranks have written for one round.
#[derive(Debug, Default)]
pub(super) struct Board {
    /// One for each rank.
    calls: Vec<RankCall>,
    /// One for each ordered pair of ranks, at `from * size + to`.
    transfers: Vec<Transfer>,
}

impl Board {
    pub(super) fn new(size: usize) -> Self {
        Self {
            calls: (0..size)
                .map(|_| RankCall { waits: false, ..RankCall::new(Call::Barrier, Address::NULL) })
                .collect(),
            transfers: vec![Transfer::default(); size * size],
        }
    }

    pub(super) fn post(&mut self, rank: usize, call: RankCall) {
        self.calls[rank] = call;
    }

    /// The messages of a rank's exchange, to and from other ranks that exist.
    pub(super) fn post_messages(
        &mut self,
        rank: usize,
        outgoing: &[Outgoing<'_>],
        incoming: &[Incoming<'_>],
    ) {
        let size = self.calls.len();
        for peer in 0..size {
            self.transfers[rank * size + peer].sent = None;
            self.transfers[peer * size + rank].expected = None;
        }
        for Outgoing { peer, bytes } in outgoing {
            self.transfers[rank * size + peer].sent = Some((Address::of(bytes), bytes.len()));
        }
        for Incoming { peer, bytes } in incoming {
            self.transfers[peer * size + rank].expected = Some(bytes.len());
        }
    }

    /// Every rank's address, in rank order.
    pub(super) fn addresses(&self) -> impl Iterator<Item = Address> {
        self.calls.iter().map(|posted| posted.address)
    }

    pub(super) fn address(&self, rank: usize) -> Address {
        self.calls[rank].address
    }

    /// Where the message from one rank to another lies; null if there is none.
    pub(super) fn transfer(&self, from: usize, to: usize) -> Address {
        self.transfers[from * self.calls.len() + to]
            .sent
            .map_or(Address::NULL, |(address, _)| address)
    }

    /// Whether the calls of all ranks fit together. Done once a round, by the last rank to arrive,
    /// so that all ranks get the same answer.
    pub(super) fn agree(&self) -> Result<(), Failure> {
        if let Some(problem) = self.calls.iter().find_map(|posted| posted.problem.as_ref()) {
            return Err(Failure::Invalid(problem.clone()));
        }
        let call = self.calls[0].call;
        if self.calls.iter().any(|posted| posted.call != call) {
            return Err(Failure::Disagreement(self.who_called_what()));
        }
        if call == Call::Exchange { self.agree_on_transfers() } else { Ok(()) }
    }

    fn agree_on_transfers(&self) -> Result<(), Failure> {
        let size = self.calls.len();
        for (pair, transfer) in self.transfers.iter().enumerate() {
            let (from, to) = (pair / size, pair % size);
            let reason = match (transfer.sent.map(|(_, len)| len), transfer.expected) {
                (sent, expected) if sent == expected => continue,
                (Some(sent), Some(expected)) => {
                    format!("sends {sent} bytes to rank {to}, which expects {expected}")
                }
                (Some(sent), None) => {
                    format!("sends {sent} bytes to rank {to}, which expects nothing from it")
                }
                (None, expected) => format!(
                    "sends nothing to rank {to}, which expects {} bytes",
                    expected.unwrap_or(0)
                ),
            };
            return Err(Failure::Disagreement(format!("exchange: rank {from} {reason}")));
        }
        Ok(())
    }

    /// "barrier on rank 0; exchange on ranks 1, 2".
    fn who_called_what(&self) -> String {
        let mut groups: Vec<(Call, String)> = Vec::new();
        for (rank, posted) in self.calls.iter().enumerate() {
            match groups.iter_mut().find(|(call, _)| *call == posted.call) {
                Some((_, ranks)) => *ranks += &format!(", {rank}"),
                None => groups.push((posted.call, rank.to_string())),
            }
        }
        let part = |(call, ranks): &(Call, String)| {
            format!("{call} on rank{} {ranks}", if ranks.contains(',') { "s" } else { "" })
        };
        groups.iter().map(part).collect::<Vec<_>>().join("; ")
    }

    /// Gate A opens: no rank waits there any more.
    pub(super) fn open(&mut self) {
        self.calls.iter_mut().for_each(|posted| posted.waits = false);
    }

    /// The ranks that wait at gate A, with their calls.
    pub(super) fn waiting(&self) -> impl Iterator<Item = (usize, Call)> {
        self.calls
            .iter()
            .enumerate()
            .filter(|(_, posted)| posted.waits)
            .map(|(rank, posted)| (rank, posted.call))
    }

    /// The ranks that have not come to gate A.
    pub(super) fn missing(&self) -> impl Iterator<Item = usize> {
        self.calls.iter().enumerate().filter(|(_, posted)| !posted.waits).map(|(rank, _)| rank)
    }
}
