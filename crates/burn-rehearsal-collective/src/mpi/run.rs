//! The entry of a rank: starting MPI on the communication thread, running the rank's function, and ending together.

use std::any::Any;
use std::fmt::Display;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use super::calls::Library;
use super::job::Job;
use super::service::{End, Service};
use super::{Mpi, MpiOptions};
use crate::CollectiveError;
use crate::launch::Launch;

/// After a failure, the other ranks have so long to say what they were doing.
const GRACE: Duration = Duration::from_secs(2);
/// If the communication thread has not ended the run by then, this process ends itself.
const LAST_RESORT: Duration = Duration::from_secs(5);

/// Runs `f` as this process's rank of an MPI run, on the calling thread, and ends MPI when all ranks have finished.
///
/// Call it once per process. MPI is initialised with `MPI_THREAD_FUNNELED` on a thread of its own, the only one that calls MPI.
///
/// If `f` fails or panics, this function does not return: it prints the error, tells the other ranks, whose operations then fail, and ends the
/// whole run within a few seconds with exit code 1 (`MPI_Abort`). So does a rank whose operation failed in such a way that MPI keeps its
/// memory.
///
/// # Errors
///
/// [`CollectiveError::Transport`] if MPI cannot be started, or if the launcher is not of the same MPI as this program: such a
/// launcher starts N worlds of one rank each.
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
    let (handle, jobs) = start.recv().unwrap_or_else(|_| Err(failure("MPI_Init_thread", "the communication thread ended".to_owned())))?;
    let rank = crate::Collective::rank(&handle);
    // Whatever `f` leaves half done is not looked at again: the process ends.
    match catch_unwind(AssertUnwindSafe(|| f(handle))) {
        Ok(Ok(value)) => {
            let (told, all_finished) = sync_channel(1);
            let lost = |_| failure("the end of the run", "the communication thread is gone".to_owned());
            jobs.send(Job::Finish(told)).map_err(|error| lost(error.to_string()))?;
            all_finished.recv().map_err(|error| lost(error.to_string()))??;
            // It has only to return.
            let _ = thread.join();
            Ok(value)
        }
        Ok(Err(error)) => end(rank, &error.to_string(), &jobs),
        Err(payload) => end(rank, &format!("panicked: {}", message_of(payload.as_ref())), &jobs),
    }
}

/// Prints why, and ends the run.
fn end(rank: usize, reason: &str, jobs: &SyncSender<Job>) -> ! {
    complain(rank, reason);
    // If nobody listens any more, the run is ending already.
    let _ = jobs.try_send(Job::Fail(GRACE));
    thread::sleep(GRACE + LAST_RESORT);
    // The launcher sees that this process has failed, and ends the others. Not `exit`: it would run handlers of the library, which may wait
    // for the thread that is stuck.
    std::process::abort()
}

/// Prints a line in one piece: other ranks may complain at the same time, and the launcher mixes what comes in pieces.
pub(super) fn complain(rank: usize, reason: &str) {
    // Nobody can be told that standard error is gone.
    let _ = std::io::stderr().write_all(format!("rank {rank}: {reason}\n").as_bytes());
}

/// The communication thread.
fn communicate(options: &MpiOptions, started: &SyncSender<Result<(Mpi, SyncSender<Job>), CollectiveError>>) {
    let (library, mut service) = match start(options) {
        Ok((library, service, handle, jobs)) => {
            // The receiver waits for it.
            let _ = started.send(Ok((handle, jobs)));
            (library, service)
        }
        Err(error) => {
            let _ = started.send(Err(error));
            return;
        }
    };
    match catch_unwind(AssertUnwindSafe(|| service.run())) {
        Ok(End::Clean(told)) => {
            // No handle can ask for anything any more before MPI is gone.
            drop(service);
            drop(library);
            let _ = told.send(Ok(()));
        }
        Ok(End::Abort) | Err(_) => {
            // Handles may be waiting, and their memory belongs to MPI: nothing may be dropped.
            std::mem::forget(service);
            library.abort();
            std::process::exit(1);
        }
    }
}

type Started = (Library, Service, Mpi, SyncSender<Job>);

/// Starts MPI and compares its world with what the launcher and the caller say.
fn start(options: &MpiOptions) -> Result<Started, CollectiveError> {
    let transport = |fault: super::calls::Fault| failure(fault.call, fault.reason);
    let launch = Launch::detect();
    let library = Library::start().map_err(transport)?;
    let (_, size) = super::calls::Comm::world().rank_and_size().map_err(transport)?;
    if let Some(launched) = launch.map(|launch| launch.size).filter(|launched| *launched != size) {
        let reason = format!(
            "the launcher started {launched} processes, but MPI sees a world of {size}: the launcher (mpirun, mpiexec, srun) belongs to \
             another MPI than the one this program was built with"
        );
        return Err(failure("MPI_Comm_size", reason));
    }
    if let Some(expected) = options.expected_ranks.filter(|expected| *expected != size) {
        return Err(failure("MPI_Comm_size", format!("{expected} ranks were asked for, but {size} were started")));
    }
    let (service, handle, jobs) = Service::new(options).map_err(transport)?;
    Ok((library, service, handle, jobs))
}

fn failure(call: &'static str, reason: String) -> CollectiveError {
    CollectiveError::Transport { step: 0, call, reason }
}

fn message_of(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("(not a text)")
}
