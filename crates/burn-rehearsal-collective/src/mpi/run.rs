//! The entry of a rank: starting MPI on the communication thread, running the rank's function, and
//! ending together.

use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, Thread};
use std::time::Duration;

use super::Mpi;
use super::calls::{Comm, Fault, Library};
use super::service::{End, Service};
use super::turns::{Refused, Turns};
use crate::activity::Claim;
use crate::launch::{Launch, as_rank, print_failure};
use crate::{CollectiveError, MpiOptions, panic_message};

/// After a failure, the other ranks have so long to say what they were doing.
const GRACE: Duration = Duration::from_secs(2);
/// If the communication thread has not ended the run by then, this process ends itself.
const LAST_RESORT: Duration = Duration::from_secs(5);

/// Runs `f` as this process's rank of an MPI run, on the calling thread, and ends MPI when all
/// ranks have finished.
///
/// Call it once per process. MPI is initialised with `MPI_THREAD_SERIALIZED` on a thread of its
/// own, which keeps in touch with the other ranks while this one computes; a thread that uses a
/// handle calls MPI itself.
///
/// If `f` fails or panics, this function does not return: it prints the error and notifies the
/// other ranks, whose operations then fail, and ends the whole run within a few seconds with exit
/// code 1 (`MPI_Abort`). So does a rank whose operation failed in such a way that MPI keeps its
/// memory.
///
/// # Errors
///
/// [`CollectiveError::Transport`] if MPI cannot be started, or if the launcher is not of the same
/// MPI as this program: such a launcher starts N worlds of one rank each.
pub fn run_mpi<T, E, F>(options: &MpiOptions, f: F) -> Result<T, CollectiveError>
where
    E: Display,
    F: FnOnce(Mpi) -> Result<T, E>,
{
    let (started, start) = sync_channel(1);
    let own = options.clone();
    let thread = thread::Builder::new()
        .name("mpi".to_owned())
        .spawn(move || communicate(&own, &started))
        .map_err(|error| failure("the start of a thread", error.to_string()))?;
    let handle = start.recv().unwrap_or_else(|_| {
        Err(failure("MPI_Init_thread", "the communication thread ended".to_owned()))
    })?;
    let (rank, size, turns) = (handle.rank, handle.size, Arc::clone(&handle.turns));
    // Whatever `f` leaves half done is not looked at again: the process ends.
    match catch_unwind(AssertUnwindSafe(|| as_rank(rank, size, || f(handle)))) {
        Ok(Ok(value)) => {
            let (notify, all_finished) = sync_channel(1);
            let lost = |reason: String| failure("the end of the run", reason);
            turns
                .take(|service| service.finish(notify))
                .map_err(|refused| lost(format!("MPI is gone ({refused:?})")))?;
            thread.thread().unpark();
            all_finished.recv().map_err(|error| lost(error.to_string()))??;
            // It has only to return.
            let _ = thread.join();
            Ok(value)
        }
        Ok(Err(error)) => end(rank, &error.to_string(), turns, thread.thread()),
        Err(payload) => end(
            rank,
            &format!("panicked: {}", panic_message(payload.as_ref())),
            turns,
            thread.thread(),
        ),
    }
}

/// Prints why, and ends the run.
fn end(rank: usize, reason: &str, turns: Arc<Turns<Service>>, communication: &Thread) -> ! {
    print_failure(rank, reason);
    // On a thread of its own: the last resort comes even if another one is stuck in its turn. If
    // there is no turn, the run is ending already.
    let communication = communication.clone();
    let _ = thread::Builder::new().spawn(move || {
        let _ = turns.take(|service| service.give_up(GRACE));
        communication.unpark();
    });
    thread::sleep(GRACE + LAST_RESORT);
    // The launcher sees that this process has failed, and ends the others. Not `exit`: it would run
    // handlers of the library, which may wait for the thread that is stuck.
    std::process::abort()
}

/// Ends this process, because a thread has not come back from MPI; the launcher ends the others.
pub(super) fn stuck(rank: usize, step: u64) -> ! {
    print_failure(
        rank,
        &format!(
            "MPI failed at step {step}: a call has not returned for as long as a rank may be silent"
        ),
    );
    // Not `exit`, as above.
    std::process::abort()
}

/// The communication thread.
fn communicate(options: &MpiOptions, started: &SyncSender<Result<Mpi, CollectiveError>>) {
    let (library, handle) = match start(options) {
        Ok(parts) => parts,
        Err(error) => {
            let _ = started.send(Err(error));
            return;
        }
    };
    let (rank, turns) = (handle.rank, Arc::clone(&handle.turns));
    // The receiver waits for it.
    let _ = started.send(Ok(handle));
    match catch_unwind(AssertUnwindSafe(|| attend(rank, &turns))) {
        Ok(End::Clean(notify)) => {
            // No handle can ask for anything any more before MPI is gone.
            let ended = turns.end();
            drop(library);
            let _ = notify.send(
                ended
                    .map(|_| ())
                    .map_err(|refused| failure("the end of the run", format!("{refused:?}"))),
            );
        }
        // Handles may be waiting, and their memory belongs to MPI: nothing is dropped.
        Ok(End::Abort) | Err(_) => {
            library.abort();
            std::process::exit(1);
        }
    }
}

/// Looks after the run, between the turns of others, until all ranks have finished or the run must
/// be aborted.
fn attend(rank: usize, turns: &Turns<Service>) -> End {
    loop {
        match turns.take(|service| (service.attend(), service.pause())) {
            Ok((Some(end), _)) => return end,
            Ok((None, pause)) => thread::park_timeout(pause),
            Err(Refused::Stuck) => stuck(rank, 0),
            Err(Refused::Over | Refused::Broken) => return End::Abort,
        }
    }
}

/// Starts MPI and compares its world with what the launcher and the caller say.
fn start(options: &MpiOptions) -> Result<(Library, Mpi), CollectiveError> {
    let transport = |fault: Fault| failure(fault.call, fault.reason);
    let launch = Launch::detect();
    let library = Library::start().map_err(transport)?;
    let (rank, size) = Comm::world().rank_and_size().map_err(transport)?;
    if let Some(launched) = launch.map(|launch| launch.size).filter(|launched| *launched != size) {
        let reason = format!(
            "the launcher started {launched} processes, but MPI sees a world of {size}: the launcher (mpirun, mpiexec, srun) belongs to \
             another MPI than the one this program was built with"
        );
        return Err(failure("MPI_Comm_size", reason));
    }
    if let Some(expected) = options.expected_ranks.filter(|expected| *expected != size) {
        return Err(failure(
            "MPI_Comm_size",
            format!("{expected} ranks were asked for, but {size} were started"),
        ));
    }
    let service = Service::new(options, rank, size).map_err(transport)?;
    let claim = Claim::new(service.world.clone());
    let turns = Arc::new(Turns::new(service, options.silence_limit));
    Ok((library, Mpi { rank, size, step: 0, handle: 0, turns, claim, poison: None }))
}

fn failure(call: &'static str, reason: String) -> CollectiveError {
    CollectiveError::Transport { step: 0, call, reason }
}
