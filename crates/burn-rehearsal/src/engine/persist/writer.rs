//! The thread that writes a rank's part of a checkpoint while the engine works.
//!
//! It gets everything except the rows when the checkpoint begins. The rows follow chunk by chunk,
//! in [`CHUNKS_IN_FLIGHT`] buffers that are reused. The writers have their own collective. When the
//! files of all ranks are on disk, rank 0 checks them and writes the manifest. Then all ranks
//! report success. No engine waits for the disk of another rank.

use super::rank_file::{self, Contents};
use crate::checkpoint::{BUFFER, FileEntry, Glance, Manifest};
use crate::engine::{Answer, poll};
use crate::error::{CheckpointError, RehearsalError};
use crate::store::RowChunk;
use burn_rehearsal_collective::{Asked, Asker, Collective, CollectiveExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;

/// The largest number of chunks between the engine and the writer.
const CHUNKS_IN_FLIGHT: usize = 3;

/// The result of [`RehearsalBuffer::checkpoint`](crate::RehearsalBuffer::checkpoint).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Saved {
    /// The size of the files of all ranks, in bytes.
    pub bytes: u64,
}

/// A checkpoint that is being written. See
/// [`RehearsalBuffer::begin_checkpoint`](crate::RehearsalBuffer::begin_checkpoint) for an example.
///
/// Dropping it does not stop the writer. If the program ends early, the checkpoint is complete or
/// absent.
#[derive(Debug)]
#[must_use = "call `wait` to learn whether the checkpoint was written"]
pub struct PendingCheckpoint {
    asker: Asker,
    outcome: Receiver<Answer<Saved>>,
}

/// The sender of the outcome of a checkpoint.
pub(crate) struct Ticket {
    pub(crate) outcome: Sender<Answer<Saved>>,
    /// Dropped after the outcome is sent.
    _asked: Asked,
}

impl PendingCheckpoint {
    /// A pending checkpoint, and the sender of its outcome.
    pub(crate) fn new(mut asker: Asker) -> (Ticket, Self) {
        let (sender, outcome) = channel();
        (Ticket { outcome: sender, _asked: asker.announce() }, Self { asker, outcome })
    }

    /// Waits until the checkpoint of all ranks is complete and on disk.
    ///
    /// Any thread can call it. It is not collective, but all ranks must call it between the same
    /// two steps: a rank that waits before a step that other ranks have begun waits forever.
    ///
    /// # Errors
    ///
    /// [`RehearsalError::Checkpoint`] on all ranks if one rank could not write. That rank gets the
    /// reason, and the others get its number. The buffer stays usable. After any other error, later
    /// steps may fail too.
    pub fn wait(mut self) -> Result<Saved, RehearsalError> {
        let outcome = &self.outcome;
        self.asker
            .wait(|| poll(outcome), || outcome.recv().map_err(|_| RehearsalError::EngineGone)?)
    }
}

/// A chunk of rows, or the reason why they cannot be read.
type Rows = Result<RowChunk, String>;

/// The engine's end of the channels to the writer thread.
pub(in crate::engine) struct Writer {
    /// `None` after the last row.
    rows: Option<Sender<Rows>>,
    /// Written chunks, to be filled again.
    room: Receiver<RowChunk>,
    thread: JoinHandle<Box<dyn Collective>>,
}

/// The input of a writer, apart from the rows.
pub(super) struct Job {
    pub(super) directory: PathBuf,
    /// Whether an earlier checkpoint in the directory could be removed.
    pub(super) prepared: Result<(), CheckpointError>,
    pub(super) contents: Contents,
    pub(super) collective: Box<dyn Collective>,
    pub(super) ticket: Ticket,
}

impl Writer {
    /// Starts the writer thread.
    pub(super) fn start(mut job: Job) -> Result<Self, RehearsalError> {
        let (rows, inbox) = channel();
        let (outbox, room) = channel();
        (0..CHUNKS_IN_FLIGHT)
            .try_for_each(|_| outbox.send(RowChunk::new()))
            .map_err(|_| RehearsalError::EngineGone)?;
        // This rank can proceed while the thread writes. The collective is idle between
        // checkpoints.
        let (_, answerer) = job.collective.answer_requests();
        let work = answerer.work();
        let thread = std::thread::Builder::new()
            .name(format!("rehearsal-{}-disk", job.collective.rank()))
            .spawn(move || {
                let Job { directory, prepared, contents, mut collective, ticket } = job;
                let written = prepared.and_then(|()| contents.write(&directory, &inbox, &outbox));
                // The rows are not needed after a failure.
                drop((inbox, outbox));
                // The handle may be gone.
                let _ = ticket.outcome.send(complete(&directory, written, collective.as_mut()));
                drop((ticket, work));
                collective
            })
            .map_err(|error| RehearsalError::Thread(error.to_string()))?;
        Ok(Self { rows: Some(rows), room, thread })
    }

    /// Whether the writer needs more rows.
    pub(super) fn wants_rows(&self) -> bool {
        self.rows.is_some()
    }

    /// Returns the memory for the next chunk. If there is none, `wait` decides whether to wait for
    /// it. `None` also if the writer has failed.
    pub(super) fn room(&mut self, wait: bool) -> Option<RowChunk> {
        match if wait {
            self.room.recv().map_err(|_| TryRecvError::Disconnected)
        } else {
            self.room.try_recv()
        } {
            Ok(chunk) => Some(chunk),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => {
                self.rows = None;
                None
            }
        }
    }

    /// Passes a chunk to the writer. `last` marks the last one.
    pub(super) fn hand_over(&mut self, rows: Rows, last: bool) {
        let gone = self.rows.as_ref().is_some_and(|sender| sender.send(rows).is_err());
        if last || gone {
            self.rows = None;
        }
    }

    /// Marks the end of the rows.
    pub(super) fn no_more_rows(&mut self) {
        self.rows = None;
    }

    /// Waits for the thread and returns its collective. All rows must have been passed.
    pub(super) fn join(self) -> Result<Box<dyn Collective>, RehearsalError> {
        drop(self.rows);
        self.thread.join().map_err(|_| RehearsalError::EngineGone)
    }
}

/// Turns the files of all ranks into a checkpoint, if every rank has written its file.
fn complete(
    directory: &Path,
    written: Result<FileEntry, CheckpointError>,
    collective: &mut dyn Collective,
) -> Result<Saved, RehearsalError> {
    let (rank, file) = (collective.rank(), directory.join(rank_file::file_name(collective.rank())));
    let written = written.and_then(|entry| Ok((entry, Glance::of(&file)?)));
    let own = written
        .as_ref()
        .map(|parts| serde_json::to_vec(parts).unwrap_or_default())
        .unwrap_or_default();
    let all = collective.gather_bytes(&own)?;
    let parts: Option<Vec<(FileEntry, Glance)>> =
        all.iter().map(|bytes| serde_json::from_slice(bytes).ok()).collect();
    let result = match parts {
        None => {
            let rank = all.iter().position(Vec::is_empty).unwrap_or(0);
            Err(written.err().unwrap_or(CheckpointError::Rank(rank)))
        }
        Some(parts) => {
            let (entries, glances): (Vec<FileEntry>, Vec<Glance>) = parts.into_iter().unzip();
            let bytes = entries.iter().map(|entry| entry.bytes).sum();
            let damaged = |error| CheckpointError::damaged(directory, error);
            let seal = || {
                // A rank with a different directory has written its file elsewhere.
                for (rank, glance) in glances.iter().enumerate() {
                    glance.check(&directory.join(rank_file::file_name(rank)), rank)?;
                }
                Manifest::new(BUFFER, entries, &()).map_err(damaged)?.write(directory)
            };
            let sealed = if rank == 0 { seal() } else { Ok(()) };
            // No rank reports success before the manifest is written.
            match collective.first_true(sealed.is_err())? {
                Some(rank) => Err(sealed.err().unwrap_or(CheckpointError::Rank(rank))),
                None => Ok(Saved { bytes }),
            }
        }
    };
    if result.is_err() {
        // A partial checkpoint is useless, and a full disk may need the space.
        let _ = std::fs::remove_file(file);
    }
    Ok(result?)
}
