//! Wrappers of MPI functions that return errors. This module and [`requests`](super::requests)
//! contain all `ffi` calls of the crate.
//!
//! MPI is initialized with `MPI_THREAD_SERIALIZED`: every thread may call it, but only one at a
//! time. See [`turns`](super::turns).
#![allow(unsafe_code, reason = "MPI is a C library")]

use std::ffi::{c_char, c_int, c_void};

use ::mpi::environment::Universe;
use ::mpi::ffi;
use ::mpi::{Threading, initialize_with_threading};

/// An error of an MPI function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    /// The name of the function.
    pub(super) call: &'static str,
    /// The error message of the library.
    pub(super) reason: String,
    /// Whether a message does not have the length that its receiver expects.
    pub(super) size: bool,
}

/// Converts a return code into a result.
pub(super) fn check(call: &'static str, code: c_int) -> Result<(), Fault> {
    if code == 0 {
        Ok(())
    } else {
        Err(Fault { call, reason: text(code), size: class(code) == ffi::MPI_ERR_TRUNCATE as c_int })
    }
}

fn class(code: c_int) -> c_int {
    let mut class = 0;
    // SAFETY: `class` is writable, and any code is allowed.
    unsafe { ffi::MPI_Error_class(code, &mut class) };
    class
}

fn text(code: c_int) -> String {
    // MPI_MAX_ERROR_STRING is 256 in Open MPI and 1024 in MPICH.
    let mut buffer = [0_u8; 4096];
    let mut len = 0;
    // SAFETY: the buffer is larger than the longest message of any library.
    let done =
        unsafe { ffi::MPI_Error_string(code, buffer.as_mut_ptr().cast::<c_char>(), &mut len) };
    let len = usize::try_from(len).unwrap_or(0).min(buffer.len());
    if done == 0 {
        String::from_utf8_lossy(&buffer[..len]).into_owned()
    } else {
        format!("error code {code}")
    }
}

/// A running MPI. Dropping it ends MPI on all ranks together. After a failure, call
/// [`abort`](Self::abort) instead.
pub(super) struct Library(Universe);

impl Library {
    /// Starts MPI. The same thread must end it.
    pub(super) fn start() -> Result<Self, Fault> {
        let fault = |reason: &str| Fault {
            call: "MPI_Init_thread",
            reason: reason.to_owned(),
            size: false,
        };
        let (universe, provided) = initialize_with_threading(Threading::Serialized)
            .ok_or_else(|| fault("MPI has already been started in this process"))?;
        let library = Self(universe);
        if provided < Threading::Serialized {
            return Err(fault(
                "the MPI library does not support calls from several threads, one at a time \
                 (MPI_THREAD_SERIALIZED)",
            ));
        }
        Comm::world().return_errors()?;
        Ok(library)
    }

    /// Ends all ranks with exit code 1. MPI is not finalized, since that would wait for ranks that
    /// are gone.
    pub(super) fn abort(self) {
        // SAFETY: MPI is running. The call ends this process.
        unsafe { ffi::MPI_Abort(Comm::world().0, 1) };
        std::mem::forget(self.0);
    }
}

/// A communicator.
#[derive(Clone, Copy)]
pub(super) struct Comm(pub(super) ffi::MPI_Comm);

impl Comm {
    /// The communicator of all ranks. MPI is running.
    pub(super) fn world() -> Self {
        // SAFETY: a constant of the library.
        Self(unsafe { ffi::RSMPI_COMM_WORLD })
    }

    /// The null communicator, which [`duplicate`](super::requests) overwrites.
    pub(super) fn none() -> Self {
        // SAFETY: a constant of the library.
        Self(unsafe { ffi::RSMPI_COMM_NULL })
    }

    /// Makes functions on this communicator return errors instead of aborting.
    pub(super) fn return_errors(self) -> Result<(), Fault> {
        // SAFETY: a living communicator and a constant.
        check("MPI_Comm_set_errhandler", unsafe {
            ffi::MPI_Comm_set_errhandler(self.0, ffi::RSMPI_ERRORS_RETURN)
        })
    }

    /// Duplicates the communicator and waits for all ranks, at the start of the run only.
    pub(super) fn duplicate_now(self) -> Result<Self, Fault> {
        let mut new = Self::none();
        // SAFETY: a living communicator, and a writable one.
        check("MPI_Comm_dup", unsafe { ffi::MPI_Comm_dup(self.0, &mut new.0) })?;
        new.return_errors()?;
        Ok(new)
    }

    /// Returns this rank and the number of ranks.
    pub(super) fn rank_and_size(self) -> Result<(usize, usize), Fault> {
        let (mut rank, mut size) = (0, 0);
        // SAFETY: a living communicator and two writable integers.
        check("MPI_Comm_rank", unsafe { ffi::MPI_Comm_rank(self.0, &mut rank) })?;
        // SAFETY: as above.
        check("MPI_Comm_size", unsafe { ffi::MPI_Comm_size(self.0, &mut size) })?;
        Ok((usize::try_from(rank).unwrap_or(0), usize::try_from(size).unwrap_or(1)))
    }
}

/// The data type of all messages.
pub(super) fn byte() -> ffi::MPI_Datatype {
    // SAFETY: a constant of the library.
    unsafe { ffi::RSMPI_UINT8_T }
}

/// Converts a message length or a rank for MPI. Messages are shorter than 2 GiB.
pub(super) fn int(value: usize) -> c_int {
    c_int::try_from(value).unwrap_or(c_int::MAX)
}

/// Converts a pointer for MPI.
pub(super) fn void(start: *mut u8) -> *mut c_void {
    start.cast()
}
