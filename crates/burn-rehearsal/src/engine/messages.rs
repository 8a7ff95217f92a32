//! The messages between a buffer's handle and its engine.
//!
//! Requests are answered in order. The answers to rounds share one channel, which lives as long as
//! the engine, so that a warm step allocates nothing. Every other request carries a [`Reply`] of
//! its own type.

use super::persist::{Resumed, Ticket};
use super::report::{BufferReport, Inspection};
use super::round::FailCode;
use crate::batch::{Column, FieldSpec, Schema};
use crate::error::{CheckpointError, RehearsalError};
use crate::slots::RowHandle;
use crate::snapshot::Snapshot;
use burn::tensor::Device;
use burn_rehearsal_collective::Asked;
use smallvec::SmallVec;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::time::Instant;

/// An answer, or the error that ended the engine's work.
pub(crate) type Answer<T> = Result<T, RehearsalError>;

/// The answer that has arrived, if any, or the error that no answer will come.
pub(crate) fn poll<T>(answers: &Receiver<Answer<T>>) -> Option<Answer<T>> {
    match answers.try_recv() {
        Ok(answer) => Some(answer),
        Err(TryRecvError::Disconnected) => Some(Err(RehearsalError::EngineGone)),
        Err(TryRecvError::Empty) => None,
    }
}

/// The candidates of one mini-batch.
pub(crate) struct CandidateBatch {
    /// The layout of the mini-batch.
    pub(crate) schema: Arc<Schema>,
    /// The number of incoming rows. They are the first rows of the columns.
    pub(crate) rows: usize,
    /// The columns, with the candidates among their rows.
    pub(crate) lists: CandidateLists,
    /// Whether the engine selects the candidates among the incoming rows. If not, `lists` names
    /// them.
    pub(crate) select: bool,
    /// The time at which it was sent.
    pub(crate) sent: Instant,
    /// A used delivery whose memory the engine overwrites.
    pub(crate) recycled: Delivery,
}

/// The lists of a [`CandidateBatch`]. The delivery returns their memory, to be used again.
#[derive(Clone, Default)]
pub(crate) struct CandidateLists {
    /// One column per stored field.
    pub(crate) columns: Vec<Column>,
    /// The rows of the columns that are candidates.
    pub(crate) selected: Vec<u32>,
    /// The devices for representatives, one per stored field.
    pub(crate) devices: Vec<Device>,
}

/// The representatives of one step. A clone shares the memory of the columns.
#[derive(Clone, Default)]
pub(crate) struct Delivery {
    /// One column per stored field; empty if no row was drawn.
    pub(crate) columns: Vec<Column>,
    /// The handle of each representative.
    pub(crate) handles: Vec<RowHandle>,
    /// The number of representatives of each draw.
    pub(crate) draws: SmallVec<[usize; 4]>,
    /// The last step whose candidates could be drawn.
    pub(crate) drawn_at: u64,
    /// The lists of the candidates that were inserted before the draw.
    pub(crate) lists: CandidateLists,
}

/// The outcome of a round.
pub(crate) enum Round {
    /// The representatives of the step that is `lag` steps later.
    Step(Delivery),
    /// No rank had rows, so the round was no step.
    NoStep,
}

/// A request of a handle to its engine.
pub(crate) enum Request {
    /// A round with candidates. Answered with a [`Round`].
    Rows(CandidateBatch),
    /// A round for a step in which this rank has no rows. Answered with a [`Round`].
    SkipStep,
    /// A last round in which this rank reports why it leaves.
    Leave(FailCode, Reply<()>),
    /// A new task, at the same step on all ranks. The answer holds the representatives of all
    /// pending steps, in order, if they were drawn again.
    BeginTask(u32, Reply<Option<Vec<Delivery>>>),
    /// Inserts all rows of a mini-batch outside of a step.
    Fill(Arc<Schema>, CandidateLists, Reply<()>),
    /// Exchanges the fills of all shards after [`Fill`](Self::Fill). Collective.
    EndFill(Reply<()>),
    /// Draws rows outside of a step. Collective.
    Sample(usize, Reply<Delivery>),
    /// This shard's state.
    Inspect(Reply<Inspection>),
    /// The state of all shards. Collective.
    Report(Reply<BufferReport>),
    /// A copy of this shard.
    Snapshot(Reply<Snapshot>),
    /// Writes all shards and this rank's pending representatives. They are drawn again if the
    /// request has none. Collective. Answered when everything except the rows has been copied. The
    /// ticket receives the outcome.
    Save(PathBuf, Option<Vec<Delivery>>, Ticket, Reply<()>),
    /// Reads a checkpoint. Collective. If it fails, the engine stays usable.
    Restore(PathBuf, Device, &'static [FieldSpec], Reply<Result<Resumed, CheckpointError>>),
}

/// The sender of the answer to one request.
pub(crate) struct Reply<T>(SyncSender<Answer<T>>);

impl<T> Reply<T> {
    /// Both ends of a channel for one answer.
    pub(crate) fn channel() -> (Self, Receiver<Answer<T>>) {
        let (sender, receiver) = sync_channel(1);
        (Self(sender), receiver)
    }

    pub(super) fn send(self, answer: Answer<T>) {
        // The handle may be gone.
        let _ = self.0.send(answer);
    }
}

/// A request to an engine in another thread.
pub(crate) struct Sent {
    pub(crate) request: Request,
    /// Dropped after the answer is sent.
    pub(crate) asked: Asked,
}

pub(crate) type Inbox = Receiver<Sent>;
