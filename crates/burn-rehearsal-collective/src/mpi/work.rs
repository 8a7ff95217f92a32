//! One operation of a handle: the memory that is lent to it, and its outcome.
#![allow(unsafe_code, reason = "MPI accesses buffers by address, see `Lent`")]

use crate::CollectiveError;
use crate::call::Call;

/// Memory of a caller that is lent to MPI.
///
/// A handle that has started [`Work`] keeps the borrow of the memory and does not return before the
/// answer. There is an answer only after MPI has released the memory. Otherwise the process ends.
/// Therefore the memory is alive, and nothing else uses it, while MPI may access it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lent {
    start: *mut u8,
    len: usize,
}

// SAFETY: the memory outlives its use by any thread that calls MPI, and the owner does not access
// it during that time (see the type).
unsafe impl Send for Lent {}

impl Lent {
    pub(super) const NOTHING: Self = Self { start: std::ptr::NonNull::dangling().as_ptr(), len: 0 };

    /// Memory that MPI reads.
    pub(super) fn read(bytes: &[u8]) -> Self {
        Self { start: bytes.as_ptr().cast_mut(), len: bytes.len() }
    }

    /// Memory that MPI reads and writes.
    pub(super) fn write(bytes: &mut [u8]) -> Self {
        Self { start: bytes.as_mut_ptr(), len: bytes.len() }
    }

    /// The bytes of values that MPI reads and writes.
    pub(super) fn values(values: &mut [f32]) -> Self {
        Self { start: values.as_mut_ptr().cast(), len: size_of_val(values) }
    }

    pub(super) fn start(self) -> *mut u8 {
        self.start
    }

    pub(super) fn len(self) -> usize {
        self.len
    }

    /// The part of `len` bytes from `start`, cut to the end of the memory.
    pub(super) fn part(self, start: usize, len: usize) -> Self {
        let start = start.min(self.len);
        // SAFETY: `start` is at most the length, so the result points into the same memory or to
        // its end.
        Self { start: unsafe { self.start.add(start) }, len: len.min(self.len - start) }
    }
}

/// One operation of a handle.
#[derive(Debug, Clone, Copy)]
pub(super) struct Work {
    /// The part that is equal on all ranks.
    pub(super) call: Call,
    /// The training step for errors.
    pub(super) step: u64,
    /// The data to send. A broadcast or an all-reduce also receives into it.
    pub(super) data: Lent,
    /// The result of an all-gather.
    pub(super) result: Lent,
}

/// The outcome of an operation: the number of the new handle after a duplication, else `None`.
pub(super) type Answer = Result<Option<usize>, CollectiveError>;

/// The progress of an operation in one turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// The operation is in the same stage as before.
    Nothing,
    /// The operation has entered another stage.
    Moved,
    /// The operation is over.
    Over,
}
