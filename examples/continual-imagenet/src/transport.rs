//! Choice of the transport: ranks as threads of this process, or as processes over MPI.

use crate::cli::CollectiveArg;
use crate::config::Config;
use crate::error::AppError;
use burn_rehearsal_collective::launch::Launch;
use burn_rehearsal_collective::{Collective, MpiOptions, Ranks, Solo};

/// Whether this is the first process of the run, which prints.
pub fn is_first_process() -> bool {
    Launch::detect().is_none_or(|launch| launch.rank.unwrap_or(0) == 0)
}

/// The number of this process among those on its machine.
#[cfg(feature = "cuda")]
pub fn local_rank() -> usize {
    Launch::detect().and_then(|launch| launch.local_rank).unwrap_or(0)
}

/// Chooses the transport and the number of ranks. `asked` and `ranks` are the options as given,
/// `usual` is the default number of ranks, and `with_mpi` is whether this program includes MPI.
///
/// # Errors
///
/// [`AppError::Option`] if MPI is needed and missing, or if the launcher started a different number
/// of processes.
pub fn choose(
    asked: Option<CollectiveArg>,
    ranks: Option<usize>,
    usual: usize,
    launch: Option<Launch>,
    with_mpi: bool,
) -> Result<(CollectiveArg, usize), AppError> {
    let wrong =
        |choice: CollectiveArg, reason: String| Err(AppError::choice("collective", choice, reason));
    let processes = launch.map_or(1, |launch| launch.size);
    match asked {
        // Each process would be a separate run in the same directory.
        Some(CollectiveArg::Threads) if processes > 1 => {
            let reason = format!(
                "the launcher started {processes} processes; omit the option, or start the program \
                 without a launcher"
            );
            return wrong(CollectiveArg::Threads, reason);
        }
        None if processes > 1 => {}
        None | Some(CollectiveArg::Threads) => {
            return Ok((CollectiveArg::Threads, ranks.unwrap_or(usual)));
        }
        Some(CollectiveArg::Mpi) => {}
    }
    if !with_mpi {
        let reason = "this program was built without MPI; build it with `--features mpi`";
        return wrong(CollectiveArg::Mpi, reason.into());
    }
    match ranks {
        Some(ranks) if ranks != processes => {
            let reason = format!(
                "the launcher started {processes} processes, so `--ranks {ranks}` is not possible"
            );
            wrong(CollectiveArg::Mpi, reason)
        }
        _ => Ok((CollectiveArg::Mpi, processes)),
    }
}

/// Runs `f` with a collective of the processes of the run: over MPI, or with this process only.
///
/// # Errors
///
/// [`AppError::Option`] if MPI is needed and missing; [`choose`] reports that earlier.
pub fn run_process<T: Send>(
    config: &Config,
    f: impl Fn(&mut dyn Collective) -> Result<T, AppError> + Sync,
) -> Result<T, AppError> {
    if config.collective == CollectiveArg::Threads {
        return f(&mut Solo::new());
    }
    let options = MpiOptions {
        reduction: config.reduction.into(),
        expected_ranks: Some(config.ranks),
        ..MpiOptions::default()
    };
    let ranks = Ranks::processes()
        .map_err(|error| AppError::option("collective", "mpi", error.to_string()))?;
    let mut values = ranks
        .with_mpi_options(options)
        .run(|rank| f(rank.collective()?.as_mut()))
        .map_err(|failure| AppError::RankEnded(failure.to_string()))?;
    values.pop().ok_or_else(|| AppError::RankEnded("no rank was started".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launched(size: usize) -> Option<Launch> {
        Some(Launch { size, rank: Some(0), local_rank: Some(0), local_size: Some(size) })
    }

    #[test]
    fn ranks_are_threads_without_several_processes() {
        assert_eq!(choose(None, None, 2, None, true).unwrap(), (CollectiveArg::Threads, 2));
        assert_eq!(
            choose(None, Some(3), 2, launched(1), true).unwrap(),
            (CollectiveArg::Threads, 3)
        );
        assert_eq!(
            choose(Some(CollectiveArg::Threads), None, 2, launched(1), true).unwrap(),
            (CollectiveArg::Threads, 2)
        );
        let error = choose(Some(CollectiveArg::Threads), None, 2, launched(4), true)
            .unwrap_err()
            .to_string();
        assert!(error.contains("--collective threads") && error.contains("4 processes"), "{error}");
    }

    #[test]
    fn the_launcher_sets_the_number_of_processes() {
        assert_eq!(choose(None, None, 2, launched(4), true).unwrap(), (CollectiveArg::Mpi, 4));
        assert_eq!(
            choose(Some(CollectiveArg::Mpi), None, 2, None, true).unwrap(),
            (CollectiveArg::Mpi, 1)
        );
        let error = choose(None, Some(3), 2, launched(4), true).unwrap_err().to_string();
        assert!(error.contains("4 processes") && error.contains("--ranks 3"), "{error}");
    }

    #[test]
    fn several_processes_need_mpi() {
        let error = choose(None, None, 2, launched(4), false).unwrap_err().to_string();
        assert!(error.contains("--features mpi"), "{error}");
    }
}
