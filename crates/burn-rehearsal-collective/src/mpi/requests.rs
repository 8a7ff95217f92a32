//! Requests of MPI: posts messages, tests whether they are complete, and abandons them. No call
//! blocks.
//!
//! Messages longer than a limit are sent in pieces with the same tag. MPI keeps their order, and
//! both sides split messages in the same way.
#![allow(unsafe_code, reason = "MPI is a C library")]

use std::ffi::c_int;
use std::time::{Duration, Instant};

use ::mpi::ffi;

use super::calls::{Comm, Fault, byte, check, int, void};
use super::work::Lent;

/// The message of a request.
#[derive(Debug, Clone, Copy)]
struct Message {
    /// The other rank, or `None` if the request involves all ranks.
    peer: Option<usize>,
    /// The number of bytes that must arrive, or `None` if the message is sent.
    expected: Option<usize>,
}

/// Whether a message is sent or received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Send,
    Receive,
}

/// A set of requests that are completed together. The vectors keep their capacity.
pub(super) struct Requests {
    comm: Comm,
    requests: Vec<ffi::MPI_Request>,
    statuses: Vec<ffi::MPI_Status>,
    messages: Vec<Message>,
    /// The largest message in bytes.
    limit: usize,
}

impl Requests {
    pub(super) fn new(comm: Comm, limit: usize) -> Self {
        Self {
            comm,
            requests: Vec::new(),
            statuses: Vec::new(),
            messages: Vec::new(),
            limit: limit.clamp(1, 1 << 30),
        }
    }

    /// Sends `bytes` to `peer` or receives `bytes` from it. Does nothing if `bytes` is empty.
    ///
    /// # Safety
    ///
    /// The memory is alive until [`test`](Self::test) or [`abandon`](Self::abandon) returns true.
    /// Until then, it is not written, and if it is received, it is not read either.
    pub(super) unsafe fn post(
        &mut self,
        direction: Direction,
        tag: c_int,
        peer: usize,
        bytes: Lent,
    ) -> Result<(), Fault> {
        for start in (0..bytes.len()).step_by(self.limit) {
            // SAFETY: the caller's promise.
            unsafe { self.post_piece(direction, tag, peer, bytes.part(start, self.limit))? };
        }
        Ok(())
    }

    /// Sends or receives one message, which may be empty.
    ///
    /// # Safety
    ///
    /// As for [`post`](Self::post), and the memory is not longer than the limit.
    pub(super) unsafe fn post_piece(
        &mut self,
        direction: Direction,
        tag: c_int,
        peer: usize,
        piece: Lent,
    ) -> Result<(), Fault> {
        let mut request = null();
        let (start, len, rank) = (void(piece.start()), int(piece.len()), int(peer));
        // SAFETY: the caller keeps the memory, the communicator is alive, and the request is
        // writable.
        let (call, code) = unsafe {
            let (comm, request) = (self.comm.0, &mut request);
            match direction {
                Direction::Send => {
                    ("MPI_Isend", ffi::MPI_Isend(start, len, byte(), rank, tag, comm, request))
                }
                Direction::Receive => {
                    ("MPI_Irecv", ffi::MPI_Irecv(start, len, byte(), rank, tag, comm, request))
                }
            }
        };
        check(call, code)?;
        let expected = (direction == Direction::Receive).then_some(piece.len());
        self.push(request, Message { peer: Some(peer), expected });
        Ok(())
    }

    /// Adds the values of all ranks with `MPI_Iallreduce`, in an order that the library chooses.
    ///
    /// # Safety
    ///
    /// As for [`post`](Self::post). Both memories have the same length, and are disjoint.
    pub(super) unsafe fn all_reduce(&mut self, send: Lent, receive: Lent) -> Result<(), Fault> {
        let step = (self.limit / size_of::<f32>()).max(1) * size_of::<f32>();
        for start in (0..send.len()).step_by(step) {
            let (send, receive) = (send.part(start, step), receive.part(start, step));
            let count = int(send.len() / size_of::<f32>());
            let mut request = null();
            // SAFETY: the caller keeps both memories, which have `count` values. The rest are
            // constants of the library.
            let code = unsafe {
                let (from, to) = (void(send.start()), void(receive.start()));
                let (float, sum, comm) = (ffi::RSMPI_FLOAT, ffi::RSMPI_SUM, self.comm.0);
                ffi::MPI_Iallreduce(from, to, count, float, sum, comm, &mut request)
            };
            check("MPI_Iallreduce", code)?;
            self.push(request, Message { peer: None, expected: None });
        }
        Ok(())
    }

    /// Duplicates the communicator into `new`, which is valid when [`test`](Self::test) returns
    /// true.
    ///
    /// # Safety
    ///
    /// `new` keeps its address until then, or forever.
    pub(super) unsafe fn duplicate(&mut self, new: &mut Comm) -> Result<(), Fault> {
        let mut request = null();
        // SAFETY: a living communicator. The caller keeps the address of `new`.
        let code = unsafe { ffi::MPI_Comm_idup(self.comm.0, &mut new.0, &mut request) };
        check("MPI_Comm_idup", code)?;
        self.push(request, Message { peer: None, expected: None });
        Ok(())
    }

    fn push(&mut self, request: ffi::MPI_Request, message: Message) {
        self.requests.push(request);
        self.statuses.push(empty_status());
        self.messages.push(message);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// Lets MPI make progress. Returns true and empties the set if all requests are complete.
    pub(super) fn test(&mut self) -> Result<bool, Fault> {
        if self.requests.is_empty() {
            return Ok(true);
        }
        let mut done = 0;
        // SAFETY: both vectors have that many elements, and the requests belong to this set.
        let code = unsafe {
            ffi::MPI_Testall(
                int(self.requests.len()),
                self.requests.as_mut_ptr(),
                &mut done,
                self.statuses.as_mut_ptr(),
            )
        };
        if code != 0 {
            return Err(self.culprit(code));
        }
        if done == 0 {
            return Ok(false);
        }
        let result = self.check_lengths();
        self.clear();
        result.map(|()| true)
    }

    /// The error of the message that made `MPI_Testall` fail.
    fn culprit(&self, code: c_int) -> Fault {
        let failed = |status: &ffi::MPI_Status| {
            status.MPI_ERROR != 0 && status.MPI_ERROR != ffi::MPI_ERR_PENDING as c_int
        };
        let found = self.statuses.iter().zip(&self.messages).find(|(status, _)| failed(status));
        let mut fault =
            match check("MPI_Testall", found.map_or(code, |(status, _)| status.MPI_ERROR)) {
                Err(fault) => fault,
                Ok(()) => {
                    Fault { call: "MPI_Testall", reason: format!("error code {code}"), size: false }
                }
            };
        if let Some((_, Message { peer: Some(peer), expected })) = found {
            fault.reason = match (fault.size, expected) {
                (true, Some(expected)) => format!(
                    "rank {peer} sends more than the {expected} bytes that are expected from it"
                ),
                _ => format!("rank {peer}: {}", fault.reason),
            };
        }
        fault
    }

    /// Checks that every message has the expected length.
    fn check_lengths(&self) -> Result<(), Fault> {
        for (status, message) in self.statuses.iter().zip(&self.messages) {
            let Message { peer: Some(peer), expected: Some(expected) } = *message else { continue };
            let mut count = 0;
            // SAFETY: the status of a completed receive.
            check("MPI_Get_count", unsafe { ffi::MPI_Get_count(status, byte(), &mut count) })?;
            if usize::try_from(count) != Ok(expected) {
                let reason = format!(
                    "rank {peer} sends {count} bytes where {expected} are expected from it"
                );
                return Err(Fault { call: "MPI_Testall", reason, size: true });
            }
        }
        Ok(())
    }

    /// Calls `each` with the peer of every incomplete request. `None` means any rank. A peer can
    /// occur several times.
    pub(super) fn pending(&self, mut each: impl FnMut(Option<usize>)) {
        for (request, message) in self.requests.iter().zip(&self.messages) {
            let (mut done, mut status) = (0, empty_status());
            // SAFETY: a request of this set or null. The call does not change it.
            let code = unsafe { ffi::MPI_Request_get_status(*request, &mut done, &mut status) };
            if code == 0 && done == 0 {
                each(message.peer);
            }
        }
    }

    /// Abandons the requests. Returns true if MPI has released all memory within `limit`.
    /// Otherwise the memory must stay alive forever.
    pub(super) fn abandon(&mut self, limit: Duration) -> bool {
        for (request, message) in self.requests.iter_mut().zip(&self.messages) {
            // Not every MPI can cancel sends. A send completes when it has been received, or has
            // been copied.
            if message.expected.is_some() && *request != null() {
                // SAFETY: an incomplete request of this set.
                unsafe { ffi::MPI_Cancel(request) };
            }
        }
        let start = Instant::now();
        loop {
            let mut all = true;
            for request in self.requests.iter_mut().filter(|request| **request != null()) {
                let (mut done, mut status) = (0, empty_status());
                // SAFETY: a request of this set. An error completes it, too.
                let code = unsafe { ffi::MPI_Test(request, &mut done, &mut status) };
                all &= done != 0 || code != 0;
                if code != 0 {
                    *request = null();
                }
            }
            if all {
                self.clear();
                return true;
            }
            if start.elapsed() > limit {
                return false;
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    fn clear(&mut self) {
        self.requests.clear();
        self.statuses.clear();
        self.messages.clear();
    }
}

/// The null request.
fn null() -> ffi::MPI_Request {
    // SAFETY: a constant of the library.
    unsafe { ffi::RSMPI_REQUEST_NULL }
}

/// A status for MPI to write.
fn empty_status() -> ffi::MPI_Status {
    // SAFETY: a C struct of integers.
    unsafe { std::mem::zeroed() }
}
