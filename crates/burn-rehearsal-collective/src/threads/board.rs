//! The board: what the ranks write for each other before gate A, and the check that it matches.
//!
//! The board is read only behind gate A, when every rank has rewritten its part. Entries of earlier
//! rounds are never read.

use super::address::Address;
use crate::call::Call;
use crate::{Incoming, Outgoing, WaitingRank};

/// The reason why gate A never opens again.
#[derive(Debug, Clone)]
pub(super) enum Failure {
    /// The rank with this number dropped its handle.
    Left(usize),
    /// The ranks called different operations, or the same operation with different sizes.
    Disagreement(String),
    /// An argument that fits no call.
    Invalid(String),
    /// No rank of the world can proceed, see [`super::deadlock`].
    Deadlock(Vec<WaitingRank>),
}

/// One rank's call.
#[derive(Debug)]
pub(super) struct RankCall {
    pub(super) call: Call,
    /// The buffer that other ranks read or write. Null if `call` needs none from this rank.
    pub(super) address: Address,
    /// What is wrong with the arguments.
    pub(super) problem: Option<String>,
    /// Whether the rank waits at gate A.
    waits: bool,
}

impl RankCall {
    pub(super) fn new(call: Call, address: Address) -> Self {
        Self { call, address, problem: None, waits: true }
    }
}

/// The message of one ordered pair of ranks in an exchange.
#[derive(Debug, Clone, Copy, Default)]
struct Transfer {
    /// Written by the sender: the address and the number of bytes.
    sent: Option<(Address, usize)>,
    /// Written by the receiver: the number of bytes.
    expected: Option<usize>,
}

/// The entries of all ranks for one round.
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

    /// Writes the messages of a rank's exchange, whose peers have been checked.
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

    /// The addresses of all ranks, in rank order.
    pub(super) fn addresses(&self) -> impl Iterator<Item = Address> {
        self.calls.iter().map(|posted| posted.address)
    }

    pub(super) fn address(&self, rank: usize) -> Address {
        self.calls[rank].address
    }

    /// The address of the message from one rank to another, or null.
    pub(super) fn transfer(&self, from: usize, to: usize) -> Address {
        self.transfers[from * self.calls.len() + to]
            .sent
            .map_or(Address::NULL, |(address, _)| address)
    }

    /// Checks that the calls of all ranks match. The last rank to arrive does it for all ranks.
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

    /// Lists the calls, such as "barrier on rank 0; exchange on ranks 1, 2".
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

    /// Gate A opens, and no rank waits there.
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

    /// The ranks that have not arrived at gate A.
    pub(super) fn missing(&self) -> impl Iterator<Item = usize> {
        self.calls.iter().enumerate().filter(|(_, posted)| !posted.waits).map(|(rank, _)| rank)
    }
}
