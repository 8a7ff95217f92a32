//! One operation of a handle: what it is, the memory that is lent to it, and its outcome.
#![allow(unsafe_code, reason = "buffers are lent to MPI by address; see `Lent`")]

use crate::CollectiveError;
use crate::call::Call;

/// The memory of a caller, lent to MPI.
///
/// A handle that has started [`Work`] with a `Lent` keeps the borrow and does not return until the
/// answer is there, which is only when MPI has let go of the memory; otherwise the process ends. So
/// the memory is alive, and nothing else uses it, for as long as MPI may touch it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lent {
    start: *mut u8,
    len: usize,
}

// SAFETY: the memory outlives its use, by whichever thread calls MPI, and the owner does not touch
// it meanwhile (see the type).
unsafe impl Send for Lent {}

impl Lent {
    pub(super) const NOTHING: Self = Self { start: std::ptr::NonNull::dangling().as_ptr(), len: 0 };

    /// To be read only.
    pub(super) fn read(bytes: &[u8]) -> Self {
        Self { start: bytes.as_ptr().cast_mut(), len: bytes.len() }
    }

    /// To be read and written.
    pub(super) fn write(bytes: &mut [u8]) -> Self {
        Self { start: bytes.as_mut_ptr(), len: bytes.len() }
    }

    /// Values, as their bytes.
    pub(super) fn values(values: &mut [f32]) -> Self {
        Self { start: values.as_mut_ptr().cast(), len: size_of_val(values) }
    }

    pub(super) fn start(self) -> *mut u8 {
        self.start
    }

    pub(super) fn len(self) -> usize {
        self.len
    }

    /// `len` bytes from `start` on, as far as there are any.
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
    /// What all ranks must agree on.
    pub(super) call: Call,
    /// The training step, for errors.
    pub(super) step: u64,
    /// What is sent: all of it, in a broadcast or an all-reduce also what is received into.
    pub(super) data: Lent,
    /// Where an all-gather's result goes.
    pub(super) result: Lent,
}

/// The outcome of one operation, with the number of the new handle after a duplication.
pub(super) type Answer = Result<Option<usize>, CollectiveError>;

/// How far an operation has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// Nothing has arrived.
    Nothing,
    /// It has entered another stage.
    Moved,
    /// It is over.
    Over,
}
