//! Notices: short messages between ranks that carry no data of operations.

use crate::call::Call;
use crate::{ReduceOp, words_of};

/// The length of an encoded notice in bytes.
pub(super) const BYTES: usize = 8 * WORDS;
const WORDS: usize = 8;

/// A handle of a rank that cannot proceed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Handle {
    pub(super) group: u64,
    /// The number of the next operation.
    pub(super) next: u64,
    /// The operation before that, if the rank waits in it.
    pub(super) call: Option<Call>,
    /// A rank that has not begun that operation.
    pub(super) blocker: Option<usize>,
}

/// The state of one handle of a rank that cannot proceed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Standstill {
    /// The number of the rank's standstill.
    pub(super) number: u64,
    pub(super) handle: Handle,
}

/// A message from one rank to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Notice {
    /// A heartbeat: its number, the number of the receiver's last one, and the number of the
    /// sender's standstill (0 if the sender can proceed).
    Alive { beat: u64, echo: u64, standstill: u64 },
    /// One handle of a rank that cannot proceed. Precedes a heartbeat.
    Standstill(Standstill),
    /// No rank can proceed. The sender is about to return this error to its callers.
    Deadlock,
    /// The sender has waited for the receiver for a while, in operation number `operation` of
    /// `group`.
    Waiting { group: u64, operation: u64, call: Call },
    /// The answer to `Waiting` from a rank that has finished the operation.
    Done { group: u64, operation: u64 },
    /// The sender takes no part in `operation` of `group` and in later ones.
    Left { group: u64, operation: u64 },
    /// The function of the sender has failed, and the sender is about to end the run.
    Failed,
    /// The function of the sender has finished. This is its last notice.
    Goodbye,
}

impl Notice {
    pub(super) fn encode(self) -> [u8; BYTES] {
        let words = match self {
            Self::Alive { beat, echo, standstill } => [0, beat, echo, standstill, 0, 0, 0, 0],
            Self::Waiting { group, operation, call } => {
                let (code, a, b) = encode_call(call);
                [1, group, operation, code, a, b, 0, 0]
            }
            Self::Done { group, operation } => [2, group, operation, 0, 0, 0, 0, 0],
            Self::Left { group, operation } => [3, group, operation, 0, 0, 0, 0, 0],
            Self::Failed => [4, 0, 0, 0, 0, 0, 0, 0],
            Self::Goodbye => [5, 0, 0, 0, 0, 0, 0, 0],
            Self::Standstill(Standstill {
                number,
                handle: Handle { group, next, call, blocker },
            }) => {
                let (code, a, b) = call.map_or((NO_CALL, 0, 0), encode_call);
                [6, number, group, next, code, a, b, blocker.map_or(u64::MAX, |rank| rank as u64)]
            }
            Self::Deadlock => [7, 0, 0, 0, 0, 0, 0, 0],
        };
        let mut bytes = [0; BYTES];
        bytes
            .chunks_exact_mut(8)
            .zip(words)
            .for_each(|(bytes, word)| bytes.copy_from_slice(&word.to_le_bytes()));
        bytes
    }

    /// Returns `None` for bytes that no rank of this version sends.
    pub(super) fn decode(bytes: &[u8; BYTES]) -> Option<Self> {
        let mut received = words_of(bytes);
        let words: [u64; WORDS] = std::array::from_fn(|_| received.next().unwrap_or(0));
        let [kind, group, operation, code, a, b, ..] = words;
        Some(match kind {
            0 => Self::Alive { beat: words[1], echo: words[2], standstill: words[3] },
            1 => Self::Waiting { group, operation, call: decode_call(code, a, b)? },
            2 => Self::Done { group, operation },
            3 => Self::Left { group, operation },
            4 => Self::Failed,
            5 => Self::Goodbye,
            6 => {
                let [_, number, group, next, code, a, b, blocker] = words;
                let call = if code == NO_CALL { None } else { Some(decode_call(code, a, b)?) };
                let blocker =
                    if blocker == u64::MAX { None } else { Some(usize::try_from(blocker).ok()?) };
                Self::Standstill(Standstill {
                    number,
                    handle: Handle { group, next, call, blocker },
                })
            }
            7 => Self::Deadlock,
            _ => return None,
        })
    }
}

/// The code for the absence of a call.
const NO_CALL: u64 = u64::MAX;

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
    fn notices_survive_encoding_and_decoding() {
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
            Notice::Alive { beat: 1, echo: 2, standstill: 3 },
            Notice::Deadlock,
            Notice::Done { group: 1, operation: 2 },
            Notice::Left { group: 3, operation: 4 },
            Notice::Failed,
            Notice::Goodbye,
        ];
        let calls = calls.map(Some).into_iter().chain([None]);
        let standstill = calls.map(|call| {
            let handle = Handle { group: 4, next: u64::MAX, call, blocker: call.map(|_| 9) };
            Notice::Standstill(Standstill { number: 8, handle })
        });
        for notice in waiting.into_iter().chain(others).chain(standstill) {
            assert_eq!(Notice::decode(&notice.encode()), Some(notice));
        }
        assert_eq!(Notice::decode(&[9; BYTES]), None);
    }
}
