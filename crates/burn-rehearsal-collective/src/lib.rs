//! Collective operations between the ranks of a data-parallel run.
//!
//! A *rank* is one worker of the run: a thread of this process, or a process that `mpirun` or
//! `srun` started. [`Ranks`] runs a function on every rank. The function opens a [`Collective`],
//! over which the ranks exchange data:
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
//! * [`Ranks`] starts the ranks: with threads, `mpirun` or SLURM, and with one GPU per rank.
//! * [`Collective`] is the object-safe trait with the operations: barrier, broadcast, all-gather,
//!   all-reduce and exchange. The rehearsal buffer and the data-parallel learner use nothing else.
//! * [`CollectiveExt`] adds flags and messages of any length.
//! * [`Threads`] and [`Solo`] are the transports for several ranks of one process and for a single
//!   rank. With the feature `mpi`, `Mpi` connects processes on one or many machines.
//! * [`CollectiveError`] names what failed, and on which rank.
//!
//! All ranks call the same operations in the same order. A rank leaves when its handle is dropped:
//! by a return, an error or a panic. Operations of other ranks that wait for it then return
//! [`CollectiveError::PeerFailed`]. No rank hangs.
//!
//! By default, sums are added in rank order. They have the same bits in every run and on every
//! transport.
//!
//! # Deadlocks
//!
//! Ranks can wait for each other in operations of *different* handles: one rank reduces gradients
//! while the other waits for its engine, which exchanges rows. When no rank can proceed, all ranks
//! get [`CollectiveError::Deadlock`], which names the operation of each rank and the ranks it waits
//! for. It is detected at once among threads, and within six heartbeats (six seconds) over MPI. A
//! slow rank never causes it.
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

// Public for the simulated network of the tests.
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

/// A message to one peer in an [`exchange`](Collective::exchange).
#[derive(Debug)]
pub struct Outgoing<'a> {
    /// The receiving rank. Never the caller's own.
    pub peer: usize,
    /// The bytes to send.
    pub bytes: &'a [u8],
}

/// The buffer for a message from one peer in an [`exchange`](Collective::exchange).
#[derive(Debug)]
pub struct Incoming<'a> {
    /// The sending rank. Never the caller's own.
    pub peer: usize,
    /// Receives the message. Its length is exactly that of the peer's message.
    pub bytes: &'a mut [u8],
}

/// One rank's handle on a group of ranks that communicate.
///
/// Most methods are *collective*: a call returns on one rank only when the other ranks take part,
/// and all ranks call them in the same order with matching arguments. The exceptions are
/// [`rank`](Self::rank), [`size`](Self::size), [`set_step`](Self::set_step),
/// [`set_purpose`](Self::set_purpose) and [`answer_requests`](Self::answer_requests).
///
/// A handle runs one operation at a time. [`duplicate`](Self::duplicate) makes a handle for an
/// independent sequence of operations, for example on another thread.
///
/// ```
/// use burn_rehearsal_collective::{CollectiveError, Ranks};
///
/// let gathered = Ranks::threads(2).run(|rank| {
///     let mut ranks = rank.collective()?;
///     let mut all = [0; 2];
///     ranks.all_gather(&[10 + rank.rank() as u8], &mut all)?;
///     Ok::<_, CollectiveError>(all)
/// })?;
/// assert_eq!(gathered, [[10, 11]; 2]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// Every collective method returns
///
/// * [`CollectiveError::PeerFailed`] if a rank it waits for has left,
/// * [`CollectiveError::Silent`] if ranks it waits for send no heartbeat (MPI only),
/// * [`CollectiveError::Mismatch`] if the ranks disagree about the operation or its sizes,
/// * [`CollectiveError::InvalidArgument`] if a rank passes an argument that fits no call. The
///   message names the rank,
/// * [`CollectiveError::Deadlock`] if no rank can proceed,
/// * [`CollectiveError::Transport`] if the underlying library fails.
///
/// Among threads, all ranks get a mismatch or an invalid argument, and no data has moved. Over MPI,
/// ranks that did not cause it may get `PeerFailed` instead, and may have received data. An error
/// poisons the handle: later calls return the same error.
pub trait Collective: Send {
    /// This rank, in `0..size`.
    fn rank(&self) -> usize;

    /// The number of ranks (the world size), at least 1.
    fn size(&self) -> usize;

    /// Sets the training step that later errors of this handle report.
    fn set_step(&mut self, step: u64);

    /// Waits until every rank has called it.
    fn barrier(&mut self) -> Result<(), CollectiveError>;

    /// Copies the `data` of rank `root` into the `data` of all ranks. All have the same length.
    ///
    /// ```
    /// use burn_rehearsal_collective::{CollectiveError, Ranks};
    ///
    /// let seeds = Ranks::threads(2).run(|rank| {
    ///     let mut seed = [7 * rank.rank() as u8];
    ///     rank.collective()?.broadcast(&mut seed, 1)?;
    ///     Ok::<_, CollectiveError>(seed[0])
    /// })?;
    /// assert_eq!(seeds, [7, 7]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    fn broadcast(&mut self, data: &mut [u8], root: usize) -> Result<(), CollectiveError>;

    /// Concatenates the `send` of all ranks in rank order into `recv`, whose length is `size *
    /// send.len()`.
    fn all_gather(&mut self, send: &[u8], recv: &mut [u8]) -> Result<(), CollectiveError>;

    /// Replaces each value of `data` by its sum or mean over all ranks.
    ///
    /// Values are added in rank order, so the bits depend neither on timing nor on the transport.
    /// [`Reduction::Fast`] gives this up over MPI. The [crate's page](crate) has an example.
    fn all_reduce(&mut self, data: &mut [f32], op: ReduceOp) -> Result<(), CollectiveError>;

    /// Sends messages to some peers and receives messages from some.
    ///
    /// There is at most one message per ordered pair of ranks, and both sides know its length.
    /// Every rank calls it, with empty lists if it has nothing to send or receive.
    ///
    /// ```
    /// use burn_rehearsal_collective::{CollectiveError, Incoming, Outgoing, Ranks};
    ///
    /// let received = Ranks::threads(2).run(|rank| {
    ///     let (own, peer) = (rank.rank() as u8, 1 - rank.rank());
    ///     let outgoing = [Outgoing { peer, bytes: &[own; 3] }];
    ///     let mut row = [0; 3];
    ///     let incoming = &mut [Incoming { peer, bytes: &mut row }];
    ///     rank.collective()?.exchange(&outgoing, incoming)?;
    ///     Ok::<_, CollectiveError>(row)
    /// })?;
    /// assert_eq!(received, [[1; 3], [0; 3]]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    fn exchange(
        &mut self,
        outgoing: &[Outgoing<'_>],
        incoming: &mut [Incoming<'_>],
    ) -> Result<(), CollectiveError>;

    /// Makes a second handle on the same ranks. Its operations are independent of this handle's.
    ///
    /// Collective: all ranks call it. The new handle can move to another thread:
    ///
    /// ```
    /// use burn_rehearsal_collective::{Collective, CollectiveError, run_threads};
    ///
    /// let results = run_threads(2, |mut ranks| {
    ///     let mut background = ranks.duplicate()?;
    ///     let thread = std::thread::spawn(move || background.barrier());
    ///     ranks.barrier()?;
    ///     thread.join().unwrap()
    /// });
    /// assert_eq!(results, [Ok(()), Ok(())]);
    /// ```
    fn duplicate(&mut self) -> Result<Box<dyn Collective>, CollectiveError>;

    /// Names the purpose of this handle in one word, for [`CollectiveError::Deadlock`].
    ///
    /// All ranks use the same word. Defaults to the number of the handle.
    fn set_purpose(&mut self, purpose: &'static str) {
        let _ = purpose;
    }

    /// Declares that only a thread that answers requests uses this handle from now on.
    ///
    /// The thread that sends requests keeps the [`Asker`], and the thread that answers them keeps
    /// the [`Answerer`]. A deadlock is then detected while the latter waits for requests. The
    /// default implementation does nothing. It is for collectives that wrap another one.
    fn answer_requests(&mut self) -> (Asker, Answerer) {
        Default::default()
    }
}
