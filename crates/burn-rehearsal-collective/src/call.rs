//! The part of a collective call that all ranks must agree on.

use std::fmt;

use crate::ReduceOp;

/// The part of a call that is equal on all ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// A barrier.
    Barrier,
    /// A broadcast.
    Broadcast {
        /// The sending rank.
        root: usize,
        /// The length in bytes.
        len: usize,
    },
    /// An all-gather.
    AllGather {
        /// The length of each rank's `send` in bytes.
        len: usize,
    },
    /// An all-reduce.
    AllReduce {
        /// Sum or mean.
        op: ReduceOp,
        /// The number of values.
        len: usize,
    },
    /// An exchange.
    Exchange,
    /// A duplication of the handle.
    Duplicate,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Barrier => write!(f, "barrier"),
            Self::Broadcast { root, len } => write!(f, "broadcast of {len} bytes from rank {root}"),
            Self::AllGather { len } => write!(f, "all_gather of {len} bytes each"),
            Self::AllReduce { op: ReduceOp::Sum, len } => {
                write!(f, "all_reduce to the sum of {len} values")
            }
            Self::AllReduce { op: ReduceOp::Mean, len } => {
                write!(f, "all_reduce to the mean of {len} values")
            }
            Self::Exchange => write!(f, "exchange"),
            Self::Duplicate => write!(f, "duplicate"),
        }
    }
}
