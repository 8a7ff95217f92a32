//! Ranks as processes: whether they are, and what each of them takes of its machine.

use crate::cli::CollectiveArg;
use crate::config::Config;
use crate::device;
use crate::error::AppError;
use burn_rehearsal_collective::launch::Launch;
use burn_rehearsal_collective::{Collective, CollectiveError};
use std::path::{Path, PathBuf};

/// The launcher that started this process, if one did.
pub fn launch() -> Option<Launch> {
    Launch::detect()
}

/// Whether this process is the one of the run that speaks.
pub fn is_first_process() -> bool {
    launch().is_none_or(|launch| launch.rank.unwrap_or(0) == 0)
}

/// What joins the ranks and how many there are, from what was `asked` for, the number of `ranks` that was asked for and the number that is
/// usual otherwise.
///
/// # Errors
///
/// [`AppError::Option`] if MPI is needed but not built in, or if the launcher started another number of processes.
pub fn choose(
    asked: Option<CollectiveArg>,
    ranks: Option<usize>,
    usual: usize,
    launch: Option<Launch>,
) -> Result<(CollectiveArg, usize), AppError> {
    let wrong = |value: &str, reason: String| AppError::Option { option: "collective", value: value.into(), reason };
    let processes = launch.map_or(1, |launch| launch.size);
    match asked {
        // Each process would be a run of its own in the same directory.
        Some(CollectiveArg::Threads) if processes > 1 => {
            let reason =
                format!("the launcher started {processes} processes; leave the option out, or start the program without a launcher");
            return Err(wrong("threads", reason));
        }
        Some(CollectiveArg::Threads) => return Ok((CollectiveArg::Threads, ranks.unwrap_or(usual))),
        None if processes == 1 => return Ok((CollectiveArg::Threads, ranks.unwrap_or(usual))),
        _ => {}
    }
    if !cfg!(feature = "mpi") {
        let reason = format!(
            "{processes} ranks were asked for as processes, but this program was built without MPI; build it with `--features mpi`"
        );
        return Err(wrong("mpi", reason));
    }
    match ranks {
        Some(ranks) if ranks != processes => {
            let reason = format!("the launcher started {processes} processes, so `--ranks {ranks}` is not possible");
            Err(wrong("mpi", reason))
        }
        _ => Ok((CollectiveArg::Mpi, processes)),
    }
}

/// The device of this process among those on its machine.
pub fn device(name: &str) -> String {
    let local_rank = launch().and_then(|launch| launch.local_rank).unwrap_or(0);
    device::of_process(name, local_rank, std::env::var("CUDA_VISIBLE_DEVICES").ok().as_deref())
}

/// Whether `value` is true on any rank.
pub fn any(value: bool, ranks: &mut dyn Collective) -> Result<bool, CollectiveError> {
    let mut all = vec![0; ranks.size()];
    ranks.all_gather(&[u8::from(value)], &mut all)?;
    Ok(all.contains(&1))
}

/// The first process's `path`, on all.
///
/// # Errors
///
/// [`AppError::Collective`] if the processes cannot talk.
pub fn same_path(path: &Path, ranks: &mut dyn Collective) -> Result<PathBuf, AppError> {
    let first = ranks.rank() == 0;
    let own = if first { path.display().to_string().into_bytes() } else { Vec::new() };
    let mut length = (own.len() as u64).to_le_bytes();
    ranks.broadcast(&mut length, 0)?;
    let mut bytes = if first { own } else { vec![0; u64::from_le_bytes(length) as usize] };
    ranks.broadcast(&mut bytes, 0)?;
    Ok(if first { path.to_path_buf() } else { PathBuf::from(String::from_utf8_lossy(&bytes).into_owned()) })
}

/// Runs `f` as this process's rank.
#[cfg(feature = "mpi")]
pub fn run_mpi<T>(config: &Config, f: impl FnOnce(Box<dyn Collective>) -> Result<T, AppError>) -> Result<T, AppError> {
    use crate::cli::ReductionArg;
    use burn_rehearsal_collective::{MpiOptions, Reduction};

    share_cores();
    let reduction = match config.reduction {
        ReductionArg::Fixed => Reduction::FixedOrder,
        ReductionArg::Fast => Reduction::Fast,
    };
    let options = MpiOptions { reduction, expected_ranks: Some(config.ranks), ..MpiOptions::default() };
    Ok(burn_rehearsal_collective::run_mpi(&options, |ranks| f(Box::new(ranks)))?)
}

/// Runs nothing: [`choose`] does not choose MPI in a program without it.
#[cfg(not(feature = "mpi"))]
pub fn run_mpi<T>(config: &Config, _f: impl FnOnce(Box<dyn Collective>) -> Result<T, AppError>) -> Result<T, AppError> {
    let reason = format!("this program was built without MPI, which {} ranks in {:?} need", config.ranks, config.collective);
    Err(AppError::Option { option: "collective", value: "mpi".into(), reason })
}

/// Gives each process of a machine its part of the cores for tensor operations, unless `RAYON_NUM_THREADS` says how many threads.
#[cfg(feature = "mpi")]
fn share_cores() {
    let Some(processes) = launch().and_then(|launch| launch.local_size).filter(|processes| *processes > 1) else { return };
    if std::env::var_os("RAYON_NUM_THREADS").is_some() {
        return;
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    if let Err(error) = rayon::ThreadPoolBuilder::new().num_threads((cores / processes).max(1)).build_global() {
        tracing::warn!(%error, "cannot share the cores among the ranks of this machine");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launched(size: usize) -> Option<Launch> {
        Some(Launch { size, rank: Some(0), local_rank: Some(0), local_size: Some(size) })
    }

    #[test]
    fn ranks_are_threads_unless_a_launcher_started_several_processes() {
        assert_eq!(choose(None, None, 2, None).unwrap(), (CollectiveArg::Threads, 2));
        assert_eq!(choose(None, Some(3), 2, launched(1)).unwrap(), (CollectiveArg::Threads, 3));
        assert_eq!(choose(Some(CollectiveArg::Threads), None, 2, launched(1)).unwrap(), (CollectiveArg::Threads, 2));
        let error = choose(Some(CollectiveArg::Threads), None, 2, launched(4)).unwrap_err().to_string();
        assert!(error.contains("--collective threads") && error.contains("4 processes"), "{error}");
    }

    #[cfg(feature = "mpi")]
    #[test]
    fn the_launcher_says_how_many_processes_there_are() {
        assert_eq!(choose(None, None, 2, launched(4)).unwrap(), (CollectiveArg::Mpi, 4));
        assert_eq!(choose(Some(CollectiveArg::Mpi), None, 2, None).unwrap(), (CollectiveArg::Mpi, 1));
        let error = choose(None, Some(3), 2, launched(4)).unwrap_err().to_string();
        assert!(error.contains("4 processes") && error.contains("--ranks 3"), "{error}");
    }

    #[cfg(not(feature = "mpi"))]
    #[test]
    fn a_program_without_mpi_says_so_when_a_launcher_starts_it() {
        let error = choose(None, None, 2, launched(4)).unwrap_err().to_string();
        assert!(error.contains("--features mpi"), "{error}");
    }
}
