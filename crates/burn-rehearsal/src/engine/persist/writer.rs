//! The thread that writes a rank's part of a checkpoint while the engine works.
//!
//! It receives everything except the rows when the checkpoint begins. The rows follow chunk by
//! chunk, in [`CHUNKS_IN_FLIGHT`] buffers that are reused. The writers have a collective of their
//! own: when every rank's file is on the disk, rank 0 checks all of them and writes the manifest,
//! and then all ranks report success. The engines never wait for each other's disks.

use super::rank_file::{self, Contents};
use crate::checkpoint::{BUFFER, FileEntry, Glance, Manifest};
use crate::engine::{Answer, poll};
use crate::error::{CheckpointError, RehearsalError};
use crate::store::RowChunk;
use burn_rehearsal_collective::{Asked, Asker, Collective, CollectiveExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;

/// How many chunks are under way at most.
const CHUNKS_IN_FLIGHT: usize = 3;

/// What [`RehearsalBuffer::checkpoint`](crate::RehearsalBuffer::checkpoint) wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Saved {
    /// The bytes of all ranks' files.
    pub bytes: u64,
}

/// A checkpoint that is being written, see
/// [`RehearsalBuffer::begin_checkpoint`](crate::RehearsalBuffer::begin_checkpoint).
///
/// Dropping it does not stop the writing. A program that ends before leaves a complete checkpoint
/// or none.
#[derive(Debug)]
#[must_use = "call `wait` to learn whether the checkpoint was written"]
pub struct PendingCheckpoint {
    asker: Asker,
    outcome: Receiver<Answer<Saved>>,
}

/// Receives the outcome of a checkpoint.
pub(crate) struct Ticket {
    pub(crate) outcome: Sender<Answer<Saved>>,
    /// Dropped when the outcome has been sent.
    _asked: Asked,
}

impl PendingCheckpoint {
    /// A checkpoint to come, and what receives its outcome.
    pub(crate) fn new(mut asker: Asker) -> (Ticket, Self) {
        let (sender, outcome) = channel();
        (Ticket { outcome: sender, _asked: asker.announce() }, Self { asker, outcome })
    }

    /// Waits until the checkpoint of all ranks is complete and on the disk. Not collective; any
    /// thread may call it. All ranks must call it before or after the same step: a rank that waits
    /// before a step that others have begun waits forever.
    ///
    /// # Errors
    ///
    /// [`RehearsalError::Checkpoint`] on every rank if one could not write: with the reason on that
    /// rank, with its number on the others. The buffer stays usable. After any other error, later
    /// steps may fail too.
    pub fn wait(mut self) -> Result<Saved, RehearsalError> {
        let outcome = &self.outcome;
        self.asker
            .wait(|| poll(outcome), || outcome.recv().map_err(|_| RehearsalError::EngineGone)?)
    }
}

/// A chunk of rows, or why they cannot be read.
type Rows = Result<RowChunk, String>;

/// The engine's end.
pub(in crate::engine) struct Writer {
    /// `None` when all rows were handed over.
    rows: Option<Sender<Rows>>,
    /// Pieces whose rows are written.
    room: Receiver<RowChunk>,
    thread: JoinHandle<Box<dyn Collective>>,
}

/// What a writer begins with.
pub(super) struct Job {
    pub(super) directory: PathBuf,
    /// Whether the directory can be written to, as far as it was tried.
    pub(super) prepared: Result<(), CheckpointError>,
    pub(super) contents: Contents,
    pub(super) collective: Box<dyn Collective>,
    pub(super) ticket: Ticket,
}

impl Writer {
    /// Starts a thread that writes.
    pub(super) fn start(mut job: Job) -> Result<Self, RehearsalError> {
        let (rows, inbox) = channel();
        let (outbox, room) = channel();
        (0..CHUNKS_IN_FLIGHT)
            .try_for_each(|_| outbox.send(RowChunk::new()))
            .map_err(|_| RehearsalError::EngineGone)?;
        // This rank can proceed while the thread writes. Between checkpoints the collective is not
        // used.
        let (_, answerer) = job.collective.answer_requests();
        let work = answerer.work();
        let thread = std::thread::Builder::new()
            .name(format!("rehearsal-{}-disk", job.collective.rank()))
            .spawn(move || {
                let Job { directory, prepared, contents, mut collective, ticket } = job;
                let written = prepared.and_then(|()| contents.write(&directory, &inbox, &outbox));
                // After a failure the rows are not needed.
                drop((inbox, outbox));
                // The handle may be gone.
                let _ = ticket.outcome.send(complete(&directory, written, collective.as_mut()));
                drop((ticket, work));
                collective
            })
            .map_err(|error| RehearsalError::Thread(error.to_string()))?;
        Ok(Self { rows: Some(rows), room, thread })
    }

    /// Whether rows are still to be handed over.
    pub(super) fn wants_rows(&self) -> bool {
        self.rows.is_some()
    }

    /// Memory for the next chunk, if there is some now, or as soon as there is; `None`, too, if the
    /// writer has given up.
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

    /// Hands rows over; `last` if there are no more.
    pub(super) fn hand_over(&mut self, rows: Rows, last: bool) {
        let gone = self.rows.as_ref().is_some_and(|sender| sender.send(rows).is_err());
        if last || gone {
            self.rows = None;
        }
    }

    /// There are no rows, or no more.
    pub(super) fn no_more_rows(&mut self) {
        self.rows = None;
    }

    /// Waits for the thread; gives back its handle on the ranks. All rows must have been handed
    /// over.
    pub(super) fn join(self) -> Result<Box<dyn Collective>, RehearsalError> {
        drop(self.rows);
        self.thread.join().map_err(|_| RehearsalError::EngineGone)
    }
}

/// Makes all ranks' files a checkpoint, if every rank has written its own.
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
            // Nobody says that there is a checkpoint before there is one.
            match collective.first_true(sealed.is_err())? {
                Some(rank) => Err(sealed.err().unwrap_or(CheckpointError::Rank(rank))),
                None => Ok(Saved { bytes }),
            }
        }
    };
    if result.is_err() {
        // A part of a checkpoint is of no use, and a full disk may need the room.
        let _ = std::fs::remove_file(file);
    }
    Ok(result?)
}
