//! Starts the ranks of a run, as threads of this process or as processes of a launcher.

use std::error::Error;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::launch::Launch;
use crate::threads::run_on;
use crate::{Collective, CollectiveError, RankFailure, Solo, Threads};

/// The algorithm of [`Collective::all_reduce`] over MPI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reduction {
    /// Adds in rank order. Sums have the same bits in every run, and the same as among threads.
    #[default]
    FixedOrder,
    /// Calls `MPI_Iallreduce` of the MPI library, for large worlds. The order of additions may
    /// depend on the number of ranks, their placement and the library.
    Fast,
}

/// Options of runs over MPI, for [`Ranks::with_mpi_options`].
///
/// ```
/// use burn_rehearsal_collective::{MpiOptions, Ranks, Reduction};
///
/// let options = MpiOptions { reduction: Reduction::Fast, ..MpiOptions::default() };
/// let ranks = Ranks::threads(2).with_mpi_options(options);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MpiOptions {
    /// The algorithm of the all-reduce. Defaults to [`Reduction::FixedOrder`].
    pub reduction: Reduction,
    /// The expected world size. Any other size is an error. Defaults to any size.
    pub expected_ranks: Option<usize>,
    /// A rank that sends no heartbeat for this time counts as failed. Slow ranks do send
    /// heartbeats. Defaults to 60 s.
    pub silence_limit: Duration,
    /// An operation that takes longer fails, even if all ranks are alive. Defaults to no limit.
    pub stall_limit: Option<Duration>,
    /// The largest message in bytes. Longer messages are split. Defaults to 1 GiB, the maximum.
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

/// One rank of a run. [`Ranks::run`] passes it to the function that runs on every rank.
///
/// It knows the number of the rank, its place on the machine, and how to reach the other ranks.
/// Buffers, loaders and learners that work on several ranks take a `&Rank`, and communicate over a
/// [`collective`](Self::collective) of their own.
///
/// ```
/// use burn_rehearsal_collective::{CollectiveError, Rank, Ranks};
///
/// fn greeting(rank: &Rank) -> Result<String, CollectiveError> {
///     rank.collective()?.barrier()?;
///     Ok(format!("rank {} of {}", rank.rank(), rank.size()))
/// }
///
/// let greetings = Ranks::threads(2).run(|rank| greeting(&rank))?;
/// assert_eq!(greetings, ["rank 0 of 2", "rank 1 of 2"]);
/// assert_eq!(greeting(&Rank::solo())?, "rank 0 of 1");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Once per run
///
/// By convention, rank 0 prints and writes files: check [`is_root`](Self::is_root). The decision
/// must not change which collective operations a rank calls.
///
/// # Devices
///
/// [`local_rank`](Self::local_rank) numbers the ranks of one machine from 0, so it can serve as the
/// number of a GPU. See [`Ranks`](Ranks#one-gpu-per-rank).
pub struct Rank {
    rank: usize,
    size: usize,
    local_rank: usize,
    local_size: usize,
    /// Serves only to make duplicates.
    collective: Mutex<Box<dyn Collective>>,
}

impl Rank {
    /// The single rank of a run without other ranks.
    pub fn solo() -> Self {
        Self::new(Box::new(Solo::new()))
    }

    /// A rank on the transport of `collective`, for example a custom one.
    ///
    /// All its ranks count as ranks of the same machine.
    ///
    /// ```
    /// use burn_rehearsal_collective::{Rank, Solo};
    ///
    /// let rank = Rank::new(Box::new(Solo::new()));
    /// assert_eq!((rank.rank(), rank.local_size()), (0, 1));
    /// ```
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

    /// Whether this is rank 0.
    pub fn is_root(&self) -> bool {
        self.rank == 0
    }

    /// The number of this rank among the ranks on the same machine, from 0.
    pub fn local_rank(&self) -> usize {
        self.local_rank
    }

    /// The number of ranks on the same machine.
    pub fn local_size(&self) -> usize {
        self.local_size
    }

    /// Makes a new handle on the ranks of this run. Its operations are independent of those of
    /// other handles.
    ///
    /// This is itself a collective operation: all ranks call it equally often and in the same
    /// order.
    ///
    /// # Errors
    ///
    /// The errors of [`Collective::duplicate`].
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

/// The reason why the ranks of a run cannot be started.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// The ranks are processes, but the feature `mpi` is missing.
    #[error(
        "{processes} ranks as processes need MPI, but this program was built without the feature \
         `mpi`"
    )]
    WithoutMpi {
        /// The number of processes that the launcher started.
        processes: usize,
    },
}

/// The ranks of a run: how many there are, and whether they are threads or processes.
///
/// [`run`](Self::run) calls a function on every rank.
///
/// # Threads
///
/// [`Ranks::threads`] makes every rank a thread of this process. It needs nothing installed, and
/// suits one machine.
///
/// ```
/// use burn_rehearsal_collective::{CollectiveError, Ranks, ReduceOp};
///
/// let means = Ranks::threads(4).run(|rank| {
///     let mut gradients = [rank.rank() as f32];
///     rank.collective()?.all_reduce(&mut gradients, ReduceOp::Mean)?;
///     Ok::<_, CollectiveError>(gradients[0])
/// })?;
/// assert_eq!(means, [1.5; 4]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Processes with `mpirun`
///
/// With the feature `mpi`, ranks can be processes, on one machine or on many.
/// [`Ranks::from_env_or_threads`] uses the processes of a launcher if there are several, and
/// threads otherwise. One program then supports both:
///
/// ```text
/// target/release/train                # threads
/// mpirun -n 16 target/release/train   # 16 processes
/// ```
///
/// To build, the feature needs Open MPI or MPICH with its headers, and libclang. On Debian, these
/// are the packages `libopenmpi-dev`, `openmpi-bin` and `libclang-dev`. Start the program with the
/// launcher of the MPI that it was built with. [`MpiOptions`] sets limits and the all-reduce.
///
/// # SLURM
///
/// `srun` is a launcher, too. `srun --mpi=list` prints what it supports.
///
/// ```text
/// #!/bin/bash
/// #SBATCH --nodes=4 --ntasks-per-node=8 --cpus-per-task=8 --gpus-per-node=8
/// export RAYON_NUM_THREADS=$SLURM_CPUS_PER_TASK
/// srun --mpi=pmix target/release/train
/// ```
///
/// # One GPU per rank
///
/// [`Rank::local_rank`] is the number of a rank on its machine. Use it as the number of the GPU:
///
/// ```
/// use burn_rehearsal_collective::{CollectiveError, Ranks};
///
/// let gpus = Ranks::threads(2).run(|rank| Ok::<_, CollectiveError>(rank.local_rank()))?;
/// assert_eq!(gpus, [0, 1]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// `burn_rehearsal_train::device::for_rank` chooses Burn's device in this way. If the launcher
/// shows each process only its own GPU (in `CUDA_VISIBLE_DEVICES`), that GPU is number 0.
#[derive(Debug, Clone)]
pub struct Ranks {
    /// The number of threads, or `None` for the processes of a launcher.
    threads: Option<usize>,
    mpi: MpiOptions,
}

impl Ranks {
    /// `size` ranks as threads of this process. A `size` of 0 runs nothing.
    pub fn threads(size: usize) -> Self {
        Self { threads: Some(size), mpi: MpiOptions::default() }
    }

    /// The processes that `mpirun`, `mpiexec` or `srun` started. This process is one of them.
    ///
    /// ```no_run
    /// use burn_rehearsal_collective::Ranks;
    ///
    /// Ranks::processes()?.run(|rank| rank.collective()?.barrier())?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
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

    /// The processes of the launcher if it started several, otherwise `size` threads.
    ///
    /// ```
    /// use burn_rehearsal_collective::{CollectiveError, Ranks};
    ///
    /// Ranks::from_env_or_threads(4)?.run(|rank| {
    ///     println!("rank {} of {}", rank.rank(), rank.size());
    ///     Ok::<_, CollectiveError>(())
    /// })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`LaunchError::WithoutMpi`] if a launcher started several processes, and the feature `mpi`
    /// is missing.
    pub fn from_env_or_threads(size: usize) -> Result<Self, LaunchError> {
        match Launch::detect() {
            Some(launch) if launch.size > 1 => Self::processes(),
            _ => Ok(Self::threads(size)),
        }
    }

    /// Sets the options of MPI, which threads ignore.
    #[must_use]
    pub fn with_mpi_options(mut self, options: MpiOptions) -> Self {
        self.mpi = options;
        self
    }

    /// Runs `f` on every rank of this process and returns the values in rank order.
    ///
    /// With threads, these are all ranks. Each is a thread named `rank-0`, `rank-1`, …, and `f` may
    /// borrow from the caller.
    ///
    /// Under a launcher, each process has one rank, which runs on the calling thread. Rayon's
    /// global pool, which computes tensor operations on the CPU, gets an equal share of the
    /// available cores for every rank of the machine. Set `RAYON_NUM_THREADS` to choose another
    /// number of threads.
    ///
    /// # Errors
    ///
    /// [`RunError`] with the failures of all ranks. Under a launcher, an error of `f` does not
    /// return: the process prints it and ends the whole run with exit code 1.
    pub fn run<T, E, F>(&self, f: F) -> Result<Vec<T>, RunError>
    where
        T: Send,
        E: Into<BoxedError> + Send,
        F: Fn(Rank) -> Result<T, E> + Sync,
    {
        let f = |rank: Rank| f(rank).map_err(Into::into);
        match self.threads {
            // `group` refuses only 0 ranks.
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
        // Not reached: `processes` has returned this error.
        Err(RankFailure::Error { rank: 0, error: LaunchError::WithoutMpi { processes: 1 }.into() })
    }
}

/// Limits Rayon's global pool to this process's share of the cores.
#[cfg(feature = "mpi")]
fn share_cores(processes: usize) {
    if processes < 2 || std::env::var_os("RAYON_NUM_THREADS").is_some() {
        return;
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    if let Err(error) =
        rayon::ThreadPoolBuilder::new().num_threads((cores / processes).max(1)).build_global()
    {
        tracing::warn!(%error, "cannot limit the threads of this rank to its share of the cores");
    }
}

/// Returns the values of all ranks, or the failures.
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

/// The failures of [`Ranks::run`].
///
/// `Display` shows different failures, one per line. A rank only noticed the failure of another if
/// its error, or a source of it, is [`PeerFailed`](CollectiveError::PeerFailed) or
/// [`Silent`](CollectiveError::Silent). Such a failure is shown only if there is no other.
///
/// ```
/// use burn_rehearsal_collective::Ranks;
/// use std::error::Error;
///
/// let result = Ranks::threads(2).run(|rank| -> Result<(), Box<dyn Error + Send + Sync>> {
///     if rank.rank() == 1 {
///         return Err("no more data".into());
///     }
///     Ok(rank.collective()?.barrier()?)
/// });
/// assert_eq!(result.unwrap_err().to_string(), "rank 1 failed: no more data");
/// ```
#[derive(Debug)]
pub struct RunError {
    /// Never empty. Failures that only noticed another one come last.
    failures: Vec<RankFailure<BoxedError>>,
}

impl RunError {
    /// The failures of all ranks that failed. The first one explains the others best.
    ///
    /// ```
    /// use burn_rehearsal_collective::Ranks;
    ///
    /// let error = Ranks::threads(2)
    ///     .run(|rank| if rank.is_root() { Err("no more data") } else { Ok(()) })
    ///     .unwrap_err();
    /// assert_eq!(error.failures()[0].rank(), 0);
    /// ```
    pub fn failures(&self) -> &[RankFailure<BoxedError>] {
        &self.failures
    }
}

impl Error for RunError {}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // An error that all ranks agree on is shown once.
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

/// Whether a rank failed only because another rank is gone.
fn is_echo(failure: &RankFailure<BoxedError>) -> bool {
    let RankFailure::Error { error, .. } = failure else { return false };
    let error: &(dyn Error + 'static) = error.as_ref();
    std::iter::successors(Some(error), |&error| error.source())
        .filter_map(|error| error.downcast_ref())
        .any(|error| {
            matches!(error, CollectiveError::PeerFailed { .. } | CollectiveError::Silent { .. })
        })
}
