//! Collective operations between the ranks of a data-parallel run.
//!
//! [`Ranks`] runs a function on every rank, as threads of this process or as the processes of a
//! launcher. The function gets a [`Rank`], and everything that communicates takes a handle of its
//! own from it:
//!
//! ```
//! use burn_rehearsal_collective::{CollectiveError, CollectiveExt, Ranks, ReduceOp};
//!
//! Ranks::from_env_or_threads(4)?.run(|rank| {
//!     let mut ranks = rank.collective()?;
//!     let mut gradients = vec![rank.rank() as f32; 3];
//!     ranks.all_reduce(&mut gradients, ReduceOp::Mean)?;
//!     assert_eq!(gradients, [1.5; 3]);
//!     assert!(ranks.any(rank.is_root())?);
//!     Ok::<_, CollectiveError>(())
//! })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`Collective`] is the one small, object-safe trait that the rehearsal engine and the
//! data-parallel learner use; [`CollectiveExt`] adds messages of any length. [`Solo`] is a world of
//! one rank, [`Threads`] joins the threads of one process, and with the feature `mpi`, `Mpi` joins
//! processes on many machines.
//!
//! Every operation is *collective*: all ranks call the same operations in the same order. A rank
//! that leaves (its handle is dropped, by a return, an error or a panic) while others wait for it
//! makes their call return [`CollectiveError::PeerFailed`]; no rank hangs.
//!
//! # Deadlocks
//!
//! Ranks can wait for each other in operations of *different* handles: one rank reduces gradients
//! while the other waits for its engine, which exchanges rows. When no rank can proceed, all ranks
//! get [`CollectiveError::Deadlock`], which names the operation of each rank and the ranks it waits
//! for: at once among threads, within six heartbeats (six seconds) over MPI. A slow rank never
//! causes it.
//!
//! A rank can proceed as long as one of its threads can. These are the threads that own a handle. A
//! handle belongs to the thread that used it last, and a new duplicate to the thread that made it.
//! Such a thread waits only inside an operation, or for a thread that answers requests
//! ([`Collective::answer_requests`]). A thread that waits for anything else (a channel, a lock,
//! another thread) counts as able to proceed: such a deadlock is not detected. When a thread hands
//! a handle to another thread, all ranks should do so.
#![cfg_attr(docsrs, feature(doc_cfg))]
#![warn(missing_docs)]
#![deny(unsafe_op_in_unsafe_fn)]

mod activity;
#[doc(hidden)]
pub mod arguments;
mod call;
mod error;
mod ext;
pub mod launch;
#[cfg(feature = "mpi")]
pub mod mpi;
mod ranks;
mod reduce;
mod solo;
mod sync;
mod threads;

// For the simulated network of the tests.
#[doc(hidden)]
pub use call::Call;

pub use activity::{Answerer, Asked, Asker};
pub use error::{CollectiveError, WaitingRank, panic_message};
pub use ext::{CollectiveExt, checksum, words_of};
#[cfg(feature = "mpi")]
pub use mpi::{Mpi, run_mpi};
pub use ranks::{LaunchError, MpiOptions, Rank, Ranks, Reduction, RunError};
pub use reduce::{ReduceOp, even_split};
pub use solo::Solo;
pub use threads::{RankFailure, Threads, run_on, run_threads};

/// Bytes for one peer in an [`exchange`](Collective::exchange).
#[derive(Debug)]
pub struct Outgoing<'a> {
    /// The receiving rank; never the caller's own.
    pub peer: usize,
    /// What to send.
    pub bytes: &'a [u8],
}

/// Room for the bytes of one peer in an [`exchange`](Collective::exchange).
#[derive(Debug)]
pub struct Incoming<'a> {
    /// The sending rank; never the caller's own.
    pub peer: usize,
    /// Where the bytes go; its length is exactly what the peer sends.
    pub bytes: &'a mut [u8],
}

/// One rank's end of a group of ranks that act together.
///
/// All methods are collective, except [`rank`](Self::rank), [`size`](Self::size),
/// [`set_step`](Self::set_step), [`set_purpose`](Self::set_purpose) and
/// [`answer_requests`](Self::answer_requests): they return on a rank only with the help of all
/// others, and all ranks must call them in the same order with compatible arguments. A handle does
/// one operation at a time; for independent streams of operations (gradients and rows),
/// [`duplicate`](Self::duplicate) it.
///
/// # Errors
///
/// Every collective method returns
///
/// * [`CollectiveError::PeerFailed`] when a rank it waits for has left,
/// * [`CollectiveError::Silent`] when ranks it waits for send no heartbeat (over MPI),
/// * [`CollectiveError::Mismatch`] when the ranks disagree about the operation or its sizes,
/// * [`CollectiveError::InvalidArgument`] when one rank's argument fits no call (its message says
///   which rank),
/// * [`CollectiveError::Deadlock`] when no rank can proceed,
/// * [`CollectiveError::Transport`] when the library below fails.
///
/// Among threads, a mismatch and an invalid argument reach all ranks, and then no data has moved.
/// Over MPI the ranks that are not to blame may get `PeerFailed` instead, and may have received
/// data. After an error the handle is poisoned: later calls return the same error.
pub trait Collective: Send {
    /// This rank, in `0..size`.
    fn rank(&self) -> usize;

    /// The number of ranks (the world size), at least 1.
    fn size(&self) -> usize;

    /// Names the training step for later errors of this handle.
    fn set_step(&mut self, step: u64);

    /// Waits until every rank has called it.
    fn barrier(&mut self) -> Result<(), CollectiveError>;

    /// Copies `root`'s `data` into everybody's `data`; all lengths (in bytes) are equal.
    fn broadcast(&mut self, data: &mut [u8], root: usize) -> Result<(), CollectiveError>;

    /// Concatenates every rank's `send` in rank order into `recv`, whose length is `size *
    /// send.len()`.
    fn all_gather(&mut self, send: &[u8], recv: &mut [u8]) -> Result<(), CollectiveError>;

    /// Replaces `data` by its combination over all ranks, in rank order, so that the bits do not
    /// depend on timing or transport.
    fn all_reduce(&mut self, data: &mut [f32], op: ReduceOp) -> Result<(), CollectiveError>;

    /// Sends bytes to some peers and receives bytes from some: at most one message per ordered
    /// pair, of a length both sides know. Every rank calls it, with empty lists if it has nothing
    /// to move.
    fn exchange(
        &mut self,
        outgoing: &[Outgoing<'_>],
        incoming: &mut [Incoming<'_>],
    ) -> Result<(), CollectiveError>;

    /// A second handle on the same ranks whose operations are independent of this one's.
    fn duplicate(&mut self) -> Result<Box<dyn Collective>, CollectiveError>;

    /// Names the purpose of this handle in one word, for [`CollectiveError::Deadlock`]. All ranks
    /// use the same. Default: the number of the handle.
    fn set_purpose(&mut self, purpose: &'static str) {
        let _ = purpose;
    }

    /// Declares that from now on only a thread that answers requests uses this handle, so that a
    /// deadlock is detected while it waits for requests.
    ///
    /// The thread that sends requests keeps the [`Asker`], and the thread that answers keeps the
    /// [`Answerer`]. The default does nothing: it is for collectives that wrap another one.
    fn answer_requests(&mut self) -> (Asker, Answerer) {
        Default::default()
    }
}
