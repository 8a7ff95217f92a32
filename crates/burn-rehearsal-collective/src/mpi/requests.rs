//! Messages under way: posting them, asking whether they have arrived, and giving up on them. MPI
//! never blocks here.
//!
//! Messages longer than the limit go in several pieces with the same tag; MPI keeps their order,
//! and both sides cut alike.
#![allow(unsafe_code, reason = "MPI is a C library")]

use std::ffi::c_int;
use std::time::{Duration, Instant};

use ::mpi::ffi;

use super::calls::{Comm, Fault, byte, check, int, void};
use super::work::Lent;

/// What one request is about.
#[derive(Debug, Clone, Copy)]
struct Message {
    /// The other rank; `None` for what involves all ranks.
    peer: Option<usize>,
    /// The bytes that must arrive; `None` for what is sent.
    expected: Option<usize>,
}

/// Which way a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Send,
    Receive,
}

/// A set of requests that are waited for together. Vectors keep their capacity from one operation
/// to the next.
pub(super) struct Requests {
    comm: Comm,
    requests: Vec<ffi::MPI_Request>,
    statuses: Vec<ffi::MPI_Status>,
    messages: Vec<Message>,
    /// No message has more bytes.
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

    /// Sends `bytes` to `peer`, or receives exactly that many from it; nothing if there are none.
    ///
    /// # Safety
    ///
    /// The memory is alive until [`test`](Self::test) returns true or [`abandon`](Self::abandon)
    /// does. Until then nothing writes it, and nothing reads what is being received.
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
    /// As for [`post`](Self::post); the memory is not longer than the limit.
    pub(super) unsafe fn post_piece(
        &mut self,
        direction: Direction,
        tag: c_int,
        peer: usize,
        piece: Lent,
    ) -> Result<(), Fault> {
        let mut request = null();
        let (start, len, rank) = (void(piece.start()), int(piece.len()), int(peer));
        // SAFETY: the caller's promise keeps the memory; the communicator is alive, and the request
        // is writable.
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

    /// Sums `count` values of all ranks with the library's own algorithm, whose order of additions
    /// is its own affair.
    ///
    /// # Safety
    ///
    /// As for [`post`](Self::post); both memories hold `count` values, and they are different.
    pub(super) unsafe fn all_reduce(&mut self, send: Lent, receive: Lent) -> Result<(), Fault> {
        let step = (self.limit / size_of::<f32>()).max(1) * size_of::<f32>();
        for start in (0..send.len()).step_by(step) {
            let (send, receive) = (send.part(start, step), receive.part(start, step));
            let count = int(send.len() / size_of::<f32>());
            let mut request = null();
            // SAFETY: the caller's promise keeps both memories, which hold `count` values; the rest
            // are constants of the library.
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

    /// Makes a communicator of the same ranks; `new` is valid once [`test`](Self::test) returns
    /// true.
    ///
    /// # Safety
    ///
    /// `new` stays where it is until then, or for ever.
    pub(super) unsafe fn duplicate(&mut self, new: &mut Comm) -> Result<(), Fault> {
        let mut request = null();
        // SAFETY: a living communicator; the caller keeps `new` in its place.
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

    /// Lets MPI work, and returns whether all requests are complete; if so, the set is empty again.
    pub(super) fn test(&mut self) -> Result<bool, Fault> {
        if self.requests.is_empty() {
            return Ok(true);
        }
        let mut done = 0;
        // SAFETY: both vectors have that many elements, and the requests are ours.
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

    /// The message that an error of `MPI_Testall` is about.
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

    /// Whether every message had the length that was expected.
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

    /// Calls `each` with the peer of every request that is not complete (twice, if there are two);
    /// `None` stands for some rank.
    pub(super) fn pending(&self, mut each: impl FnMut(Option<usize>)) {
        for (request, message) in self.requests.iter().zip(&self.messages) {
            let (mut done, mut status) = (0, empty_status());
            // SAFETY: a request of ours (null is allowed), which the call leaves as it is.
            let code = unsafe { ffi::MPI_Request_get_status(*request, &mut done, &mut status) };
            if code == 0 && done == 0 {
                each(message.peer);
            }
        }
    }

    /// Gives up: true if MPI has let go of all memory within `limit`. Otherwise it must stay as it
    /// is for ever.
    pub(super) fn abandon(&mut self, limit: Duration) -> bool {
        for (request, message) in self.requests.iter_mut().zip(&self.messages) {
            // Only receives can be cancelled everywhere; a send completes when it is received, or
            // has been copied already.
            if message.expected.is_some() && *request != null() {
                // SAFETY: a request of ours that is not complete yet.
                unsafe { ffi::MPI_Cancel(request) };
            }
        }
        let start = Instant::now();
        loop {
            let mut all = true;
            for request in self.requests.iter_mut().filter(|request| **request != null()) {
                let (mut done, mut status) = (0, empty_status());
                // SAFETY: a request of ours. An error completes it as well.
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

/// No request.
fn null() -> ffi::MPI_Request {
    // SAFETY: a constant of the library.
    unsafe { ffi::RSMPI_REQUEST_NULL }
}

/// A status to be written by MPI.
fn empty_status() -> ffi::MPI_Status {
    // SAFETY: a C struct of integers.
    unsafe { std::mem::zeroed() }
}
