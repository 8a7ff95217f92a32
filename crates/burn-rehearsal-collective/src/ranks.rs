//! One function on every rank of a run, as threads of this process or as processes of a launcher.

use std::error::Error;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::launch::Launch;
use crate::threads::run_on;
use crate::{Collective, CollectiveError, RankFailure, Solo, Threads};

/// Who adds up floating-point values over MPI, and in which order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reduction {
    /// In rank order: the same bits in every run, and the same as among threads.
    #[default]
    FixedOrder,
    /// The library's own `MPI_Iallreduce`, for large worlds. Its order of additions may depend on
    /// the number of ranks, their placement and the library.
    Fast,
}

/// How processes are joined over MPI.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MpiOptions {
    /// The all-reduce. Default: [`Reduction::FixedOrder`].
    pub reduction: Reduction,
    /// The world size that the caller expects; another one is an error. Default: any.
    pub expected_ranks: Option<usize>,
    /// A rank without a heartbeat for this time counts as failed. Default: 60 s. Slow ranks send
    /// heartbeats.
    pub silence_limit: Duration,
    /// An operation that takes longer fails, although all ranks are alive. Default: no limit.
    pub stall_limit: Option<Duration>,
    /// Longer messages are sent in pieces of this many bytes. Default and maximum: 1 GiB.
    pub largest_message: usize,
}

impl Default for MpiOptions {
    fn default() -> Self {
        Self {
            reduction: Reduction::FixedOrder,
            expected_ranks: None,
            silence_limit: Duration::from_secs(60),
            stall_limit: None,
            largest_message: 1 << 30,
        }
    }
}

/// One rank of a run: its number, and the means to reach the others.
///
/// [`Ranks::run`] passes it to the function that it runs on every rank. Everything that works on
/// several ranks takes a `&Rank` and communicates over a [`collective`](Self::collective) of its
/// own.
///
/// ```
/// use burn_rehearsal_collective::Rank;
///
/// let alone = Rank::solo();
/// assert!(alone.is_root());
/// assert_eq!((alone.rank(), alone.size()), (0, 1));
/// ```
pub struct Rank {
    rank: usize,
    size: usize,
    local_rank: usize,
    local_size: usize,
    /// Used only to make duplicates.
    collective: Mutex<Box<dyn Collective>>,
}

impl Rank {
    /// The only rank of a run.
    pub fn solo() -> Self {
        Self::new(Box::new(Solo::new()))
    }

    /// A rank on a transport of your own. All ranks count as ranks of this machine.
    pub fn new(collective: Box<dyn Collective>) -> Self {
        let (rank, size) = (collective.rank(), collective.size());
        Self { rank, size, local_rank: rank, local_size: size, collective: Mutex::new(collective) }
    }

    /// This rank, in `0..size`.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// The number of ranks (the world size), at least 1.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Whether this is rank 0, which by convention prints and writes files.
    pub fn is_root(&self) -> bool {
        self.rank == 0
    }

    /// This rank among those on the same machine, from 0: for choosing its device.
    pub fn local_rank(&self) -> usize {
        self.local_rank
    }

    /// The number of ranks on the same machine.
    pub fn local_size(&self) -> usize {
        self.local_size
    }

    /// A new handle on the ranks of this run whose operations are independent of all others.
    ///
    /// Collective: all ranks call it the same number of times and in the same order.
    ///
    /// # Errors
    ///
    /// Those of [`Collective::duplicate`].
    pub fn collective(&self) -> Result<Box<dyn Collective>, CollectiveError> {
        self.collective.lock().unwrap_or_else(PoisonError::into_inner).duplicate()
    }
}

impl fmt::Debug for Rank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rank, size, local_rank, local_size, .. } = self;
        let mut out = f.debug_struct("Rank");
        out.field("rank", rank)
            .field("size", size)
            .field("local_rank", local_rank)
            .field("local_size", local_size);
        out.finish_non_exhaustive()
    }
}

/// An error of any type.
type BoxedError = Box<dyn Error + Send + Sync>;

/// Why the ranks of a run cannot be started.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// Ranks as processes need MPI.
    #[error(
        "{processes} ranks as processes need MPI, but this program was built without the feature `mpi`"
    )]
    WithoutMpi {
        /// The number of processes that the launcher started.
        processes: usize,
    },
}

/// The ranks of a run, before it begins.
///
/// ```
/// use burn_rehearsal_collective::{CollectiveError, Ranks, ReduceOp};
///
/// let means = Ranks::from_env_or_threads(4)?.run(|rank| {
///     let mut gradients = [rank.rank() as f32];
///     rank.collective()?.all_reduce(&mut gradients, ReduceOp::Mean)?;
///     Ok::<_, CollectiveError>(gradients[0])
/// })?;
/// assert_eq!(means, [1.5; 4]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Ranks {
    /// The number of threads, or `None` for the processes of a launcher.
    threads: Option<usize>,
    mpi: MpiOptions,
}

impl Ranks {
    /// `size` ranks as threads of this process; none run if it is 0.
    pub fn threads(size: usize) -> Self {
        Self { threads: Some(size), mpi: MpiOptions::default() }
    }

    /// The processes that `mpirun`, `mpiexec` or `srun` started, of which this is one.
    ///
    /// # Errors
    ///
    /// [`LaunchError::WithoutMpi`] without the feature `mpi`.
    pub fn processes() -> Result<Self, LaunchError> {
        if cfg!(feature = "mpi") {
            return Ok(Self { threads: None, mpi: MpiOptions::default() });
        }
        Err(LaunchError::WithoutMpi { processes: Launch::detect().map_or(1, |launch| launch.size) })
    }

    /// The processes of the launcher if it started more than one; otherwise `size` threads.
    ///
    /// # Errors
    ///
    /// [`LaunchError::WithoutMpi`] if a launcher started several processes and the feature `mpi` is
    /// missing.
    pub fn from_env_or_threads(size: usize) -> Result<Self, LaunchError> {
        match Launch::detect() {
            Some(launch) if launch.size > 1 => Self::processes(),
            _ => Ok(Self::threads(size)),
        }
    }

    /// Sets the options of MPI. Threads ignore them.
    #[must_use]
    pub fn with_mpi_options(mut self, options: MpiOptions) -> Self {
        self.mpi = options;
        self
    }

    /// Runs `f` on every rank of this process and returns the values in rank order.
    ///
    /// Among threads, these are all ranks; each is a thread named `rank-0`, `rank-1`, …, and `f`
    /// may borrow from the caller. Under a launcher there is one rank per process: it runs on the
    /// calling thread, and rayon's global pool, which computes tensor operations on the CPU, gets
    /// this rank's share of the cores unless `RAYON_NUM_THREADS` is set.
    ///
    /// # Errors
    ///
    /// The failures of all ranks, if any failed. A process of several does not return after an
    /// error of `f`: it prints the error and ends the whole run with exit code 1.
    pub fn run<T, E, F>(&self, f: F) -> Result<Vec<T>, RunError>
    where
        T: Send,
        E: Into<BoxedError> + Send,
        F: Fn(Rank) -> Result<T, E> + Sync,
    {
        let f = |rank: Rank| f(rank).map_err(Into::into);
        match self.threads {
            // A group of 0 ranks is the only one that cannot be made.
            Some(size) => values(run_on(Threads::group(size).unwrap_or_default(), |threads| {
                f(Rank::new(Box::new(threads)))
            })),
            None => values(vec![self.run_process(f)]),
        }
    }

    #[cfg(feature = "mpi")]
    fn run_process<T>(
        &self,
        f: impl Fn(Rank) -> Result<T, BoxedError>,
    ) -> Result<T, RankFailure<BoxedError>> {
        let launch = Launch::detect();
        let rank = launch.and_then(|launch| launch.rank).unwrap_or(0);
        let local_rank = launch.and_then(|launch| launch.local_rank).unwrap_or(0);
        let local_size = launch.and_then(|launch| launch.local_size).unwrap_or(1);
        share_cores(local_size);
        let f = |ranks| f(Rank { local_rank, local_size, ..Rank::new(Box::new(ranks)) });
        crate::run_mpi(&self.mpi, f)
            .map_err(|error| RankFailure::Error { rank, error: error.into() })
    }

    #[cfg(not(feature = "mpi"))]
    fn run_process<T, F>(&self, _: F) -> Result<T, RankFailure<BoxedError>> {
        // Not reached: `processes` has refused.
        Err(RankFailure::Error { rank: 0, error: LaunchError::WithoutMpi { processes: 1 }.into() })
    }
}

/// Gives this process its share of the machine's cores for tensor operations on the CPU.
#[cfg(feature = "mpi")]
fn share_cores(processes: usize) {
    if processes < 2 || std::env::var_os("RAYON_NUM_THREADS").is_some() {
        return;
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    if let Err(error) =
        rayon::ThreadPoolBuilder::new().num_threads((cores / processes).max(1)).build_global()
    {
        tracing::warn!(%error, "cannot share the cores among the ranks of this machine");
    }
}

/// The values of all ranks, or the failures.
fn values<T>(results: Vec<Result<T, RankFailure<BoxedError>>>) -> Result<Vec<T>, RunError> {
    let (mut values, mut failures) = (Vec::new(), Vec::new());
    for result in results {
        match result {
            Ok(value) => values.push(value),
            Err(failure) => failures.push(failure),
        }
    }
    failures.sort_by_key(is_echo);
    if failures.is_empty() { Ok(values) } else { Err(RunError { failures }) }
}

/// Why some ranks of [`Ranks::run`] have no value.
///
/// Displayed are the different failures, one per line. A rank whose error or one of its sources is
/// [`PeerFailed`](CollectiveError::PeerFailed) or [`Silent`](CollectiveError::Silent) only noticed
/// the failure of another; it is displayed only if no other failure is known.
#[derive(Debug)]
pub struct RunError {
    /// Never empty; those that only noticed another failure come last.
    failures: Vec<RankFailure<BoxedError>>,
}

impl RunError {
    /// The failures of all ranks that failed. The first is the best explanation of the others.
    pub fn failures(&self) -> &[RankFailure<BoxedError>] {
        &self.failures
    }
}

impl Error for RunError {}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Errors that all ranks agree on differ only in the rank that returns them.
        let mut shown: Vec<String> = Vec::new();
        for (index, failure) in self.failures.iter().enumerate() {
            let reason = match failure {
                RankFailure::Error { error, .. } => error.to_string(),
                RankFailure::Panic { message, .. } | RankFailure::NotStarted { message, .. } => {
                    message.clone()
                }
            };
            if index == 0 || !is_echo(failure) && !shown.contains(&reason) {
                write!(f, "{}{failure}", if index == 0 { "" } else { "\n" })?;
                shown.push(reason);
            }
        }
        Ok(())
    }
}

/// Whether a rank failed only because another one is gone.
fn is_echo(failure: &RankFailure<BoxedError>) -> bool {
    let RankFailure::Error { error, .. } = failure else { return false };
    let error: &(dyn Error + 'static) = error.as_ref();
    std::iter::successors(Some(error), |&error| error.source())
        .filter_map(|error| error.downcast_ref())
        .any(|error| {
            matches!(error, CollectiveError::PeerFailed { .. } | CollectiveError::Silent { .. })
        })
}
