//! Starts MPI on the communication thread, runs the function of the rank, and ends MPI together
//! with the other ranks.

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

/// The time that the other ranks have to report their errors after a failure.
const GRACE: Duration = Duration::from_secs(2);
/// The time after which this process aborts if the communication thread has not ended the run.
const LAST_RESORT: Duration = Duration::from_secs(5);

/// Runs `f` on this process's rank of an MPI run, and ends MPI when all ranks have finished.
///
/// Most programs call [`Ranks::run`](crate::Ranks::run) instead. `f` runs on the calling thread.
/// MPI is initialized with `MPI_THREAD_SERIALIZED` on another thread, which exchanges heartbeats
/// while this rank computes. Call this function once per process.
///
/// If `f` fails or panics, this function does not return. It prints the error, lets the operations
/// of the other ranks fail, and ends the whole run within a few seconds with exit code 1
/// (`MPI_Abort`). It does the same if MPI keeps the memory of a failed operation.
///
/// ```no_run
/// use burn_rehearsal_collective::{Collective, CollectiveError, MpiOptions, ReduceOp, run_mpi};
///
/// let mean = run_mpi(&MpiOptions::default(), |mut ranks| {
///     let mut gradients = vec![ranks.rank() as f32; 3];
///     ranks.all_reduce(&mut gradients, ReduceOp::Mean)?;
///     Ok::<_, CollectiveError>(gradients)
/// })?;
/// # Ok::<(), CollectiveError>(())
/// ```
///
/// # Errors
///
/// [`CollectiveError::Transport`] if MPI cannot be started, or if the launcher belongs to another
/// MPI than this program. Such a launcher starts N worlds of one rank each.
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
    // State that `f` leaves inconsistent is not used again, since the process ends.
    match catch_unwind(AssertUnwindSafe(|| as_rank(rank, size, || f(handle)))) {
        Ok(Ok(value)) => {
            let (notify, all_finished) = sync_channel(1);
            let lost = |reason: String| failure("the end of the run", reason);
            turns
                .take(|service| service.finish(notify))
                .map_err(|refused| lost(format!("MPI is gone ({refused:?})")))?;
            thread.thread().unpark();
            all_finished.recv().map_err(|error| lost(error.to_string()))??;
            // The thread is about to return.
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

/// Prints the reason and ends the run.
fn end(rank: usize, reason: &str, turns: Arc<Turns<Service>>, communication: &Thread) -> ! {
    print_failure(rank, reason);
    // On another thread, so that this process aborts even if a thread is stuck in its turn. If
    // there is no turn, the run is already ending.
    let communication = communication.clone();
    let _ = thread::Builder::new().spawn(move || {
        let _ = turns.take(|service| service.give_up(GRACE));
        communication.unpark();
    });
    thread::sleep(GRACE + LAST_RESORT);
    // The launcher detects the failure and ends the other processes. `exit` would run handlers of
    // the library, which may wait for the stuck thread.
    std::process::abort()
}

/// Ends this process because a call of MPI does not return. The launcher ends the other processes.
pub(super) fn stuck(rank: usize, step: u64) -> ! {
    print_failure(
        rank,
        &format!("MPI failed at step {step}: a call has not returned within the limit of silence"),
    );
    // See `end` for why this is not `exit`.
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
    // The receiver exists, since it waits for this message.
    let _ = started.send(Ok(handle));
    match catch_unwind(AssertUnwindSafe(|| attend(rank, &turns))) {
        Ok(End::Clean(notify)) => {
            // No handle calls MPI after this.
            let ended = turns.end();
            drop(library);
            let _ = notify.send(
                ended
                    .map(|_| ())
                    .map_err(|refused| failure("the end of the run", format!("{refused:?}"))),
            );
        }
        // Handles may be waiting, and MPI may access their memory, so nothing is dropped.
        Ok(End::Abort) | Err(_) => {
            library.abort();
            std::process::exit(1);
        }
    }
}

/// Takes turns until all ranks have finished or the run must be aborted.
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

/// Starts MPI, and compares the world size with that of the launcher and of the options.
fn start(options: &MpiOptions) -> Result<(Library, Mpi), CollectiveError> {
    let transport = |fault: Fault| failure(fault.call, fault.reason);
    let launch = Launch::detect();
    let library = Library::start().map_err(transport)?;
    let (rank, size) = Comm::world().rank_and_size().map_err(transport)?;
    if let Some(launched) = launch.map(|launch| launch.size).filter(|launched| *launched != size) {
        let reason = format!(
            "the launcher started {launched} processes, but MPI sees a world of {size}: the \
             launcher (mpirun, mpiexec, srun) belongs to another MPI than this program"
        );
        return Err(failure("MPI_Comm_size", reason));
    }
    if let Some(expected) = options.expected_ranks.filter(|expected| *expected != size) {
        return Err(failure(
            "MPI_Comm_size",
            format!("{expected} ranks are expected, but {size} were started"),
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
