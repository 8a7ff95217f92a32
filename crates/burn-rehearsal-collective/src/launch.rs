//! What the environment says about the launcher (`mpirun`, `mpiexec`, `srun`) that started this
//! process.
//!
//! Nothing here needs MPI: a program can find out whether to use it, and which of the machine's
//! devices and cores are its own.

use std::cell::Cell;

thread_local! {
    static RANK: Cell<Option<(usize, usize)>> = const { Cell::new(None) };
}

/// The rank that the calling thread runs and the world size, inside
/// [`run_threads`](crate::run_threads) or `run_mpi`. `None` on every other thread.
///
/// Lets a library detect that single-rank code runs on several ranks.
pub fn current_rank() -> Option<(usize, usize)> {
    RANK.get()
}

/// Runs `f` as `rank` of `size` ranks; see [`current_rank`].
pub(crate) fn as_rank<T>(rank: usize, size: usize, f: impl FnOnce() -> T) -> T {
    RANK.set(Some((rank, size)));
    let result = f();
    RANK.set(None);
    result
}

/// Prints why a rank failed, in one piece: other ranks may print at the same time, and the launcher
/// mixes pieces.
#[cfg(feature = "mpi")]
pub(crate) fn print_failure(rank: usize, reason: &str) {
    let prefix = format!("rank {rank}: ");
    // The error may name the rank itself.
    let reason = reason.strip_prefix(&prefix).unwrap_or(reason);
    // Standard error may be closed.
    let _ =
        std::io::Write::write_all(&mut std::io::stderr(), format!("{prefix}{reason}\n").as_bytes());
}

/// How a launcher started this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Launch {
    /// The number of processes that the launcher started.
    pub size: usize,
    /// This process among all of them, from 0, if the launcher says so. MPI may number them
    /// differently.
    pub rank: Option<usize>,
    /// This process among those on the same machine, from 0; if the launcher says so.
    pub local_rank: Option<usize>,
    /// The number of processes on the same machine, if the launcher says so.
    pub local_size: Option<usize>,
}

impl Launch {
    /// The launcher of this process, or `None` if it was started by hand.
    pub fn detect() -> Option<Self> {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    /// Open MPI's and Hydra's variables come first: their launchers may themselves have been
    /// started by SLURM.
    fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Option<Self> {
        // SLURM's tasks per node are a list such as `4(x2),3`.
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
        // Not SLURM_NTASKS, which a batch script itself has, too: only what `srun` starts has a
        // step with tasks.
        let slurm = launch(
            "SLURM_STEP_NUM_TASKS",
            ["SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE"],
        );
        // `srun` sets PMI_SIZE for some libraries, without Hydra's local numbers.
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
    fn every_launcher_is_recognised_by_its_own_variables() {
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
    fn neither_a_shell_nor_a_batch_script_is_a_launcher() {
        assert_eq!(detect(&[]), None);
        assert_eq!(detect(&[("SLURM_NTASKS", "8"), ("SLURM_LOCALID", "0")]), None);
    }
}
