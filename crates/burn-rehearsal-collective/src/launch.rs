//! Detects the launcher (`mpirun`, `mpiexec` or `srun`) that started this process.
//!
//! The detection reads environment variables and does not need MPI. A program can decide whether to
//! use MPI, and choose its device among those of the machine.

use std::cell::Cell;

thread_local! {
    static RANK: Cell<Option<(usize, usize)>> = const { Cell::new(None) };
}

/// The rank of the calling thread and the world size, inside [`Ranks::run`](crate::Ranks::run),
/// [`run_threads`](crate::run_threads) or `run_mpi`. `None` on every other thread.
///
/// A library can detect with it that single-rank code runs on several ranks.
///
/// ```
/// use burn_rehearsal_collective::launch::current_rank;
/// use burn_rehearsal_collective::{CollectiveError, Ranks};
///
/// let ranks = Ranks::threads(2).run(|_| Ok::<_, CollectiveError>(current_rank()))?;
/// assert_eq!(ranks, [Some((0, 2)), Some((1, 2))]);
/// assert_eq!(current_rank(), None);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn current_rank() -> Option<(usize, usize)> {
    RANK.get()
}

/// Runs `f` as `rank` of `size` ranks, see [`current_rank`].
pub(crate) fn as_rank<T>(rank: usize, size: usize, f: impl FnOnce() -> T) -> T {
    RANK.set(Some((rank, size)));
    let result = f();
    RANK.set(None);
    result
}

/// Prints why a rank failed, in one write. The launcher interleaves the writes of different ranks.
#[cfg(feature = "mpi")]
pub(crate) fn print_failure(rank: usize, reason: &str) {
    let prefix = format!("rank {rank}: ");
    // The error may already name the rank.
    let reason = reason.strip_prefix(&prefix).unwrap_or(reason);
    // Standard error may be closed.
    let _ =
        std::io::Write::write_all(&mut std::io::stderr(), format!("{prefix}{reason}\n").as_bytes());
}

/// How a launcher started this process.
///
/// ```
/// use burn_rehearsal_collective::launch::Launch;
///
/// let processes = Launch::detect().map_or(1, |launch| launch.size);
/// assert!(processes >= 1);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Launch {
    /// The number of processes that the launcher started.
    pub size: usize,
    /// The number of this process among all of them, from 0, if known. MPI may number them
    /// differently.
    pub rank: Option<usize>,
    /// The number of this process among those on the same machine, from 0, if known.
    pub local_rank: Option<usize>,
    /// The number of processes on the same machine, if known.
    pub local_size: Option<usize>,
}

impl Launch {
    /// Detects the launcher of this process. Returns `None` without a launcher.
    pub fn detect() -> Option<Self> {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    /// The variables of Open MPI and Hydra have precedence, since SLURM may have started their
    /// launchers.
    fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Option<Self> {
        // SLURM's tasks per node are a list such as `4(x2),3`, of which the first number is used.
        let number =
            |name: &str| variable(name)?.split(['(', ',']).next()?.trim().parse::<usize>().ok();
        let launch = |size: &str, [rank, local_rank, local_size]: [&str; 3]| {
            let [rank, local_rank, local_size] = [rank, local_rank, local_size].map(number);
            number(size).map(|size| Self { size, rank, local_rank, local_size })
        };
        let open_mpi = launch(
            "OMPI_COMM_WORLD_SIZE",
            ["OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"],
        );
        let hydra = launch("PMI_SIZE", ["PMI_RANK", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"]);
        // A batch script also has SLURM_NTASKS. Only processes of `srun` belong to a step.
        let slurm = launch(
            "SLURM_STEP_NUM_TASKS",
            ["SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE"],
        );
        // `srun` may set PMI_SIZE and PMI_RANK, but not the local numbers of Hydra.
        let of_slurm = |field: fn(Self) -> Option<usize>| slurm.and_then(field);
        let hydra = hydra.map(|hydra| Self {
            rank: hydra.rank.or(of_slurm(|slurm| slurm.rank)),
            local_rank: hydra.local_rank.or(of_slurm(|slurm| slurm.local_rank)),
            local_size: hydra.local_size.or(of_slurm(|slurm| slurm.local_size)),
            ..hydra
        });
        open_mpi.or(hydra).or(slurm)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detect(variables: &[(&str, &str)]) -> Option<Launch> {
        Launch::from_variables(|name| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn launchers_are_detected_by_their_variables() {
        let expected =
            Some(Launch { size: 8, rank: Some(5), local_rank: Some(1), local_size: Some(4) });
        let open_mpi = [
            ("OMPI_COMM_WORLD_SIZE", "8"),
            ("OMPI_COMM_WORLD_RANK", "5"),
            ("OMPI_COMM_WORLD_LOCAL_RANK", "1"),
            ("OMPI_COMM_WORLD_LOCAL_SIZE", "4"),
        ];
        assert_eq!(detect(&open_mpi), expected);
        assert_eq!(
            detect(&[
                ("PMI_SIZE", "8"),
                ("PMI_RANK", "5"),
                ("MPI_LOCALRANKID", "1"),
                ("MPI_LOCALNRANKS", "4")
            ]),
            expected
        );
        let slurm = [
            ("SLURM_STEP_NUM_TASKS", "8"),
            ("SLURM_PROCID", "5"),
            ("SLURM_LOCALID", "1"),
            ("SLURM_STEP_TASKS_PER_NODE", "4(x2)"),
        ];
        assert_eq!(detect(&slurm), expected);
    }

    #[test]
    fn shells_and_batch_scripts_are_no_launchers() {
        assert_eq!(detect(&[]), None);
        assert_eq!(detect(&[("SLURM_NTASKS", "8"), ("SLURM_LOCALID", "0")]), None);
    }
}
