//! Short messages between ranks, apart from all data: who is alive, who waits in which operation, who has left.

use crate::ReduceOp;
use crate::call::Call;

/// The bytes of a notice on the way.
pub(super) const BYTES: usize = 48;

/// What one rank tells another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Notice {
    /// The heartbeat.
    Alive,
    /// The sender has been waiting for the receiver for a while, in operation number `operation` of `group`.
    Waiting { group: u64, operation: u64, call: Call },
    /// The answer, if the sender has finished that operation long ago.
    Done { group: u64, operation: u64 },
    /// The sender takes part in no operation of `group` from this number on.
    Left { group: u64, operation: u64 },
    /// The sender's function failed; it ends the run in a moment.
    Failed,
    /// The sender's function has finished; this is its last notice.
    Goodbye,
}

impl Notice {
    pub(super) fn encode(self) -> [u8; BYTES] {
        let words = match self {
            Self::Alive => [0; 6],
            Self::Waiting { group, operation, call } => {
                let (code, a, b) = encode_call(call);
                [1, group, operation, code, a, b]
            }
            Self::Done { group, operation } => [2, group, operation, 0, 0, 0],
            Self::Left { group, operation } => [3, group, operation, 0, 0, 0],
            Self::Failed => [4, 0, 0, 0, 0, 0],
            Self::Goodbye => [5, 0, 0, 0, 0, 0],
        };
        let mut bytes = [0; BYTES];
        bytes.chunks_exact_mut(8).zip(words).for_each(|(bytes, word)| bytes.copy_from_slice(&word.to_le_bytes()));
        bytes
    }

    /// `None` for what no rank of this version sends.
    pub(super) fn decode(bytes: &[u8; BYTES]) -> Option<Self> {
        let mut words = [0_u64; 6];
        for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64::from_le_bytes(bytes.try_into().ok()?);
        }
        let [kind, group, operation, code, a, b] = words;
        Some(match kind {
            0 => Self::Alive,
            1 => Self::Waiting { group, operation, call: decode_call(code, a, b)? },
            2 => Self::Done { group, operation },
            3 => Self::Left { group, operation },
            4 => Self::Failed,
            5 => Self::Goodbye,
            _ => return None,
        })
    }
}

fn encode_call(call: Call) -> (u64, u64, u64) {
    match call {
        Call::Barrier => (0, 0, 0),
        Call::Broadcast { root, len } => (1, root as u64, len as u64),
        Call::AllGather { len } => (2, len as u64, 0),
        Call::AllReduce { op: ReduceOp::Sum, len } => (3, len as u64, 0),
        Call::AllReduce { op: ReduceOp::Mean, len } => (4, len as u64, 0),
        Call::Exchange => (5, 0, 0),
        Call::Duplicate => (6, 0, 0),
    }
}

fn decode_call(code: u64, a: u64, b: u64) -> Option<Call> {
    let (first, second) = (usize::try_from(a).ok()?, usize::try_from(b).ok()?);
    Some(match code {
        0 => Call::Barrier,
        1 => Call::Broadcast { root: first, len: second },
        2 => Call::AllGather { len: first },
        3 => Call::AllReduce { op: ReduceOp::Sum, len: first },
        4 => Call::AllReduce { op: ReduceOp::Mean, len: first },
        5 => Call::Exchange,
        6 => Call::Duplicate,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_notice_arrives_as_it_was_sent() {
        let calls = [
            Call::Barrier,
            Call::Broadcast { root: 3, len: 1 << 40 },
            Call::AllGather { len: 7 },
            Call::AllReduce { op: ReduceOp::Sum, len: 11 },
            Call::AllReduce { op: ReduceOp::Mean, len: 11 },
            Call::Exchange,
            Call::Duplicate,
        ];
        let waiting = calls.map(|call| Notice::Waiting { group: u64::MAX, operation: 5, call });
        let others = [
            Notice::Alive,
            Notice::Done { group: 1, operation: 2 },
            Notice::Left { group: 3, operation: 4 },
            Notice::Failed,
            Notice::Goodbye,
        ];
        for notice in waiting.into_iter().chain(others) {
            assert_eq!(Notice::decode(&notice.encode()), Some(notice));
        }
        assert_eq!(Notice::decode(&[9; BYTES]), None);
    }
}
