//! What handles ask of the communication thread, and what it answers.
#![allow(unsafe_code, reason = "buffers are lent to the communication thread by address; see `Lent`")]

use std::sync::mpsc::SyncSender;
use std::time::Duration;

use crate::CollectiveError;
use crate::call::Call;

/// The memory of a caller, lent to the communication thread.
///
/// A handle that has sent a `Lent` in a [`Job`] keeps the borrow and blocks until the answer has come; the communication thread answers only
/// when MPI has let go of the memory, or ends the process. So the memory is alive, and nobody else uses it, for as long as the
/// communication thread may touch it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lent {
    start: *mut u8,
    len: usize,
}

// SAFETY: the memory outlives its use on the other thread, and the owner does not touch it meanwhile (see the type).
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
        // SAFETY: `start` is at most the length, so the result points into the same memory or to its end.
        Self { start: unsafe { self.start.add(start) }, len: len.min(self.len - start) }
    }
}

/// The bytes for or from one peer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Parcel {
    pub(super) peer: usize,
    pub(super) bytes: Lent,
}

/// The parcels of an exchange; the vectors go back to the handle with the answer, so that they are allocated once.
#[derive(Debug, Default)]
pub(super) struct Parcels {
    pub(super) outgoing: Vec<Parcel>,
    pub(super) incoming: Vec<Parcel>,
}

/// One operation of a handle.
#[derive(Debug)]
pub(super) struct Work {
    /// What all ranks must agree on.
    pub(super) call: Call,
    /// The training step, for errors.
    pub(super) step: u64,
    /// What is sent: all of it, in a broadcast or an all-reduce also what is received into.
    pub(super) data: Lent,
    /// Where an all-gather's result goes.
    pub(super) result: Lent,
    /// An exchange's messages.
    pub(super) parcels: Parcels,
}

/// What the communication thread is asked to do.
#[derive(Debug)]
pub(super) enum Job {
    /// An operation; answered on the handle's own channel.
    Start { handle: usize, work: Work },
    /// A handle is gone, or its rank made a call that no rank could accept: it takes part in nothing any more.
    Close { handle: usize },
    /// This rank has finished; acknowledged when all have.
    Finish(SyncSender<Result<(), CollectiveError>>),
    /// This rank has failed: tell the others, then end all of them, at the latest after this time.
    Fail(Duration),
}

/// The outcome of one operation.
#[derive(Debug)]
pub(super) struct Answer {
    /// The new handle after a duplication.
    pub(super) result: Result<Option<super::Mpi>, CollectiveError>,
    /// Given back, for the next exchange.
    pub(super) parcels: Parcels,
}
