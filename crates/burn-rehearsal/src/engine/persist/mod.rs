//! Saving shards to disk and restoring them.
//!
//! A checkpoint is a request like any other. All engines have therefore inserted and drawn for the
//! same steps when they reach it. Pending representatives are saved as they are, because they were
//! drawn from the rows stored up to `lag` steps ago. Everything else that a draw or an eviction
//! depends on is a pure function of (seed, step), the tables, and the state of the policy.
//!
//! 1. The engine copies everything except the rows, and answers. The training thread continues.
//! 2. While no request is pending, the engine passes the rows to a [writer] thread, chunk by chunk.
//!    If a candidate overwrites a row before it is passed, the row is copied first
//!    ([`CopyOnWriteSnapshot`](crate::store::CopyOnWriteSnapshot)). The file therefore contains the
//!    shard as it was in 1.
//! 3. The writers of all ranks agree that all files are complete, and rank 0 writes the manifest.
//!
//! No step waits for a disk. An inline engine passes all rows at once, and only the disk works in
//! the background.

mod rank_file;
mod reshard;
mod restore;
mod writer;

pub use writer::{PendingCheckpoint, Saved};

pub(super) use writer::{Ticket, Writer};

use super::{Delivery, Engine, Inbox, Sent, Status};
use crate::batch::{FieldSpec, Schema};
use crate::checkpoint::Manifest;
use crate::config::Execution;
use crate::error::{CheckpointError, RehearsalError};
use burn::tensor::Device;
use burn_rehearsal_collective::{Collective, CollectiveExt, words_of};
use rank_file::{Contents, RankState};
use restore::Loaded;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;
use writer::Job;

/// The time for which the engine waits for a request before it tries a full writer again.
const DISK_PAUSE: Duration = Duration::from_millis(1);

/// The result of [`RehearsalBuffer::restore`](crate::RehearsalBuffer::restore).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restored {
    /// The number of steps done when the checkpoint was written.
    pub steps: u64,
    /// The task at that time.
    pub task: usize,
    /// The number of ranks at that time. If it differs from the present number, every sample was
    /// assigned to one of the present ranks.
    pub world_size: usize,
}

/// The state that the handle needs to continue.
pub(crate) struct Resumed {
    pub(crate) restored: Restored,
    pub(crate) schema: Option<Arc<Schema>>,
    pub(crate) pending: Vec<Delivery>,
}

impl Engine {
    /// Begins a checkpoint: copies everything except the rows, and starts a thread that writes the
    /// copy and the rows.
    pub(super) fn save(
        &mut self,
        directory: PathBuf,
        pending: Option<Vec<Delivery>>,
        ticket: Ticket,
    ) -> Result<(), RehearsalError> {
        let outcome = ticket.outcome.clone();
        let begun = self.begin_to_write(directory, pending, ticket);
        if let Err(error) = &begun {
            // The handle may be gone.
            let _ = outcome.send(Err(error.clone()));
        }
        begun
    }

    fn begin_to_write(
        &mut self,
        directory: PathBuf,
        pending: Option<Vec<Delivery>>,
        ticket: Ticket,
    ) -> Result<(), RehearsalError> {
        // There is only one checkpoint at a time. Two could use the same directory, and the writers
        // share a collective.
        let collective = self.finish_writing()?;
        // Removes an earlier checkpoint in that directory before any rank overwrites its file.
        let prepared = if self.rank == 0 { Manifest::remove(&directory) } else { Ok(()) };
        self.gather(Status::Checkpoint)?;
        let mut collective = match collective {
            Some(collective) => collective,
            None => self.collective()?.duplicate()?,
        };
        collective.set_purpose("checkpoint");
        collective.set_step(self.step);
        let pending = pending.map_or_else(|| self.redraw(), Ok)?;
        let contents = self.contents(&pending)?;
        let mut writer = Writer::start(Job { directory, prepared, contents, collective, ticket })?;
        match &mut self.shard {
            Some(shard) if !shard.table().is_empty() => shard.begin_saving(),
            _ => writer.no_more_rows(),
        }
        self.writer = Some(writer);
        if self.config.execution == Execution::Inline {
            self.hand_over_all();
        }
        Ok(())
    }

    /// Passes rows to the writer until a request arrives. Passes all rows if no handle is left.
    pub(crate) fn write_until_asked(&mut self, requests: &Inbox) -> Option<Sent> {
        while self.writer.as_ref().is_some_and(Writer::wants_rows) {
            let pause = if self.hand_over(false) { Duration::ZERO } else { DISK_PAUSE };
            match requests.recv_timeout(pause) {
                Ok(request) => return Some(request),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => self.hand_over_all(),
            }
        }
        None
    }

    /// Passes one chunk of rows to the writer. False if the writer has no room.
    fn hand_over(&mut self, wait: bool) -> bool {
        let Some(writer) = &mut self.writer else { return false };
        let Some(shard) = &mut self.shard else {
            writer.no_more_rows();
            return false;
        };
        let room = writer.room(wait);
        let has_room = room.is_some();
        if let Some(mut chunk) = room {
            let read = shard.read_unsaved(&mut chunk);
            let last = !matches!(read, Ok(false));
            writer.hand_over(read.map(|_| chunk).map_err(|error| error.to_string()), last);
        }
        if !writer.wants_rows() {
            shard.end_saving();
        }
        has_room
    }

    /// Passes all remaining rows to the writer.
    pub(super) fn hand_over_all(&mut self) {
        while self.writer.as_ref().is_some_and(Writer::wants_rows) {
            self.hand_over(true);
        }
    }

    /// Waits until the current checkpoint is complete or has failed. Returns the collective of the
    /// writers, if there was a checkpoint.
    fn finish_writing(&mut self) -> Result<Option<Box<dyn Collective>>, RehearsalError> {
        self.hand_over_all();
        self.writer.take().map(Writer::join).transpose()
    }

    /// Copies everything in this rank's file except the rows.
    fn contents(&self, pending: &[Delivery]) -> Result<Contents, RehearsalError> {
        let state = RankState {
            rank: self.rank,
            world_size: self.size,
            step: self.step,
            task: self.task,
            rows: self.rows[self.rank],
            fills: self.fills,
            samples: self.samples,
            draws: blake3::Hash::from_bytes(self.draws_digest).to_hex().to_string(),
            config: rank_file::config_fields(&self.config, &self.rules),
            pending: pending.iter().map(|pending| pending.handles.len()).collect(),
            pending_draws: match self.draws.len() {
                1 => Vec::new(),
                _ => pending.iter().map(|pending| pending.draws.to_vec()).collect(),
            },
            shard: None,
        };
        let present = self.counts.classes.as_ref().map_or(&[][..], |classes| classes.present());
        Contents::new(state, self.shard.as_ref(), present, pending)
    }

    /// Restores a checkpoint. After the inner error, the engine has no shard and stays usable.
    pub(super) fn restore(
        &mut self,
        directory: &Path,
        device: &Device,
        fields: &'static [FieldSpec],
    ) -> Result<Result<Resumed, CheckpointError>, RehearsalError> {
        if self.shard.is_some() || self.step > 0 {
            return Err(RehearsalError::Misuse(
                "a checkpoint can only be restored before the first step",
            ));
        }
        self.gather(Status::Checkpoint)?;
        let device = device.clone().inner();
        let loaded = self.load(directory, &device, fields);
        let failed = self.collective()?.first_true(loaded.is_err())?;
        let loaded = match (loaded, failed) {
            (Ok(loaded), None) => loaded,
            (Err(error), _) => return Ok(Err(error)),
            (Ok(_), Some(rank)) => return Ok(Err(CheckpointError::Rank(rank))),
        };
        let Loaded { state, shard, present, mut pending } = loaded;
        let schema = shard.as_ref().map(|shard| Arc::new(shard.schema().clone()));
        let restored =
            Restored { steps: state.step, task: state.task as usize, world_size: state.world_size };
        (self.step, self.task, self.shard) = (state.step, state.task, shard);
        self.rows[self.rank] = state.rows;
        (self.fills, self.samples) = (state.fills, state.samples);
        self.task_begun = self.task > 0;
        self.draws_digest = *blake3::Hash::from_hex(&state.draws)
            .map_err(|_| RehearsalError::EngineGone)?
            .as_bytes();
        self.devices = vec![device; schema.as_ref().map_or(0, |schema| schema.stored().count())];
        // Exchanges the fills of all ranks.
        self.gather(Status::Checkpoint)?;
        let same = state.world_size == self.size;
        self.rebuild_classes(same.then_some(&present[..]))?;
        if !same {
            pending = self.redraw()?;
        }
        Ok(Ok(Resumed { restored, schema, pending }))
    }

    /// Exchanges the rows per class of all ranks.
    fn rebuild_classes(&mut self, present: Option<&[u32]>) -> Result<(), RehearsalError> {
        if self.counts.classes.is_none() {
            return Ok(());
        }
        let mut own = Vec::new();
        for rows in self.shard.iter().flat_map(|shard| shard.table().per_class()) {
            own.extend_from_slice(&(rows as u64).to_le_bytes());
        }
        let all = self.collective()?.gather_bytes(&own)?;
        let per_rank: Vec<Vec<u64>> = all.iter().map(|bytes| words_of(bytes).collect()).collect();
        let classes = self.counts.classes.as_mut().ok_or(RehearsalError::EngineGone)?;
        let rebuilt = classes.rebuild(&per_rank, present);
        rebuilt.ok_or(RehearsalError::Misuse(
            "the class counts of the checkpoint do not match its shards",
        ))
    }
}
