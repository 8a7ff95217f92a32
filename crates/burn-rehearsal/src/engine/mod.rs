//! The engine: one per rank, sole owner of the shard.
//!
//! A *round* is one collective turn of all engines. In a round every engine
//!
//! 1. writes this rank's candidates to its shard,
//! 2. all-gathers a fixed header (round, digests, status, fill) and, for class-balanced sampling, the changes of class counts,
//! 3. computes the draws of *every* rank for step t + lag from the same numbers, hence equally everywhere,
//! 4. pushes the rows that others drew from its shard and receives those it drew from theirs,
//! 5. builds the columns of its representatives.
//!
//! A round in which no rank has rows (the end of an epoch) changes nothing and is not a step.

mod draws;
mod persist;
mod round;
mod shard;
mod timings;

pub use persist::{PendingCheckpoint, Restored, Saved};
pub use timings::EngineTimings;

pub(crate) use persist::Resumed;
pub(crate) use round::{FailCode, Status};
pub(crate) use timings::Timings;

use crate::agreement::agree_on;
use crate::batch::{Column, FieldSpec, Schema};
use crate::candidates::CandidateSelector;
use crate::config::RehearsalConfig;
use crate::error::{CheckpointError, RehearsalError};
use crate::random::{Purpose, Stream};
use crate::rules::{CustomRules, policy_name, sampling_name};
use crate::sampling::{Draw, RowLocation, Sampling, ShardCounts};
use crate::slots::{RowHandle, shard_capacity};
use crate::snapshot::Snapshot;
use crate::store::StoreLocation;
use burn::tensor::Device;
use burn_rehearsal_collective::{Answerer, Asked, Asker, Collective};
use persist::{Ticket, Writer};
use round::RoundHeader;
use shard::Shard;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Instant;

/// Candidates of one mini-batch.
pub(crate) struct Offer {
    /// The layout of the mini-batch.
    pub(crate) schema: Arc<Schema>,
    /// What travels with it.
    pub(crate) parcel: Parcel,
    /// The number of incoming rows, the first ones of the columns.
    pub(crate) rows: usize,
    /// Whether the candidates are still to be chosen among them; otherwise the parcel names them.
    pub(crate) choose: bool,
    /// When it was sent.
    pub(crate) sent: Instant,
}

/// Lists that travel from the handle to the engine, come back with the round's representatives, and are used again: so that neither side
/// allocates them at every step.
#[derive(Default)]
pub(crate) struct Parcel {
    /// To the engine: one column per stored field, with the candidates among its rows. Empty on the way back.
    pub(crate) candidates: Vec<Column>,
    /// Which rows of the columns are the candidates.
    pub(crate) rows: Vec<u32>,
    /// To the engine: where representatives are wanted, one device per stored field.
    pub(crate) devices: Vec<Device>,
    /// To the handle: one column per stored field; empty if no row was drawn. Back to the engine, which uses their memory again.
    pub(crate) columns: Vec<Column>,
    /// To the handle: where each representative is stored.
    pub(crate) handles: Vec<RowHandle>,
    /// To the handle: the last step whose candidates could be drawn.
    pub(crate) drawn_at: u64,
}

/// Representatives of a step to come, as the handle keeps them.
pub(crate) struct PendingDraw {
    pub(crate) handles: Vec<RowHandle>,
    /// One per stored field.
    pub(crate) columns: Vec<Column>,
}

/// What a handle asks of its engine. Requests are answered in order.
pub(crate) enum Request {
    /// A round with candidates.
    Rows(Offer),
    /// A round of a rank that has no rows at this step.
    NoRows,
    /// A last round that tells the others why this rank leaves.
    Failed(FailCode),
    /// A new task, at the same step on all ranks.
    BeginTask(u32),
    /// This shard's state.
    Inspect,
    /// The state of all shards; collective.
    Report,
    /// A copy of this shard.
    Snapshot,
    /// All shards on disk, and the representatives that this rank's handle keeps; the ticket receives the outcome. Collective.
    /// Without representatives, those of the next steps are drawn now.
    Save(PathBuf, Option<Vec<PendingDraw>>, Ticket),
    /// What was saved; collective.
    Restore(PathBuf, Device, &'static [FieldSpec]),
}

/// A request on its way to an engine of another thread.
pub(crate) struct Sent {
    pub(crate) request: Request,
    /// Dropped when the answer has been sent.
    pub(crate) asked: Asked,
}

pub(crate) type Inbox = Receiver<Sent>;

/// The answers to [`Request`].
pub(crate) enum Response {
    /// To `Rows` and `NoRows`.
    Round {
        /// Whether any rank had rows, so that the round was a step.
        counted: bool,
        /// The representatives of the step that is `lag` steps later.
        representatives: Option<Parcel>,
    },
    /// To `BeginTask`: the representatives of all pending steps, in order, if they had to be drawn again.
    Redrawn(Option<Vec<Parcel>>),
    /// To `Inspect`.
    Inspection(Inspection),
    /// To `Report`.
    Report(BufferReport),
    /// To `Snapshot`.
    Snapshot(Snapshot),
    /// To `Save`: what is small has been copied.
    Saving,
    /// To `Restore`. The engine goes on if it failed.
    Restored(Result<Resumed, CheckpointError>),
    /// To `Failed`.
    Failed,
}

/// The state of one rank's shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// The slots of this shard; 0 before the first mini-batch if the capacity was given in bytes.
    pub capacity: usize,
    /// The rows stored in this shard.
    pub len: usize,
    /// The bytes of this shard's rows, allocated whole at the first mini-batch.
    pub bytes: usize,
    /// Where this shard lives; `None` before the first mini-batch.
    pub store: Option<StoreLocation>,
    /// Stored rows per class.
    pub per_class: Vec<usize>,
    /// The number of distinct samples stored, if the batch has an `id`.
    pub distinct: Option<usize>,
    /// The current task.
    pub task: usize,
    /// Steps done.
    pub steps: u64,
}

/// The state of all shards together; equal on all ranks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BufferReport {
    /// The name of the policy and its parameters, if it has any.
    pub policy: String,
    /// The name of the sampling rule and its parameters, if it has any.
    pub sampling: String,
    /// |B|, in samples.
    pub capacity: usize,
    /// Rows stored.
    pub len: usize,
    /// Bytes of all shards' rows.
    pub bytes: usize,
    /// Where each rank's shard lives, in rank order; `None` for a rank that never had rows.
    pub stores: Vec<Option<StoreLocation>>,
    /// Stored rows per class.
    pub per_class: Vec<usize>,
    /// Distinct samples stored, if the batch has an `id`.
    pub distinct: Option<usize>,
    /// Digest of all stored rows in canonical form, in (rank, slot) order; hexadecimal.
    pub contents_digest: String,
    /// Digest of all draws so far; hexadecimal.
    pub draws_digest: String,
}

/// The single-threaded state machine behind a buffer handle.
pub(crate) struct Engine {
    config: RehearsalConfig,
    rules: CustomRules,
    config_digest: u64,
    /// Dropped at the first error, so that no other rank waits for this one.
    collective: Option<Box<dyn Collective>>,
    rank: usize,
    size: usize,
    shard: Option<Shard>,
    selector: CandidateSelector,
    /// Where representatives are wanted, as the last mini-batch told.
    devices: Vec<Device>,
    counts: ShardCounts,
    sampling: Box<dyn Sampling>,
    task: u32,
    /// Whether `begin_task` was ever called.
    task_begun: bool,
    round: u64,
    step: u64,
    /// The ranks that know the layout of a row and can receive some.
    ready: Vec<bool>,
    /// The rows of each rank's last mini-batch, to which ratios refer.
    rows: Vec<u64>,
    /// Digest of the digest before and the draws since: unlike the state of a hasher it can be kept in a checkpoint.
    draws_digest: [u8; 32],
    failure: Option<RehearsalError>,
    timings: Arc<Timings>,
    /// Writes the last checkpoint, or has written it.
    writer: Option<Writer>,
    scratch: Scratch,
}

/// Buffers that are reused from round to round.
#[derive(Default)]
struct Scratch {
    /// Everybody's draws, and how many of them are those of the ranks up to each.
    draws: Vec<Draw>,
    ends: Vec<usize>,
    /// This rank's draws: where they are, and their group.
    own: Vec<(RowLocation, u32)>,
    /// Everybody's draws as numbers, for the digest.
    drawn: Vec<u64>,
    /// The slots of the rows that others drew here, and for whom each is.
    pushed: Vec<u32>,
    peers: Vec<usize>,
    /// Bytes to send and to receive, per peer: the (slot, generation) of every row, then the rows.
    outgoing: Vec<Vec<u8>>,
    incoming: Vec<Vec<u8>>,
    /// How many rows of each incoming message were used.
    cursor: Vec<usize>,
    /// What the ranks said in the last round, as words and understood.
    words: Vec<u64>,
    headers: Vec<RoundHeader>,
}

impl Engine {
    pub(crate) fn new(
        config: RehearsalConfig,
        rules: CustomRules,
        mut collective: Box<dyn Collective>,
        timings: Arc<Timings>,
    ) -> Result<Self, RehearsalError> {
        collective.set_purpose("rehearsal");
        let (rank, size) = (collective.rank(), collective.size());
        config.validate(size)?;
        let sampling = rules.sampling(&config);
        Ok(Self {
            config_digest: round::config_digest(&rules.agreed(&config), size),
            collective: Some(collective),
            rank,
            size,
            shard: None,
            selector: CandidateSelector::default(),
            devices: Vec::new(),
            counts: ShardCounts::new(rank, size, sampling.needs_class_counts()),
            sampling,
            task: 0,
            task_begun: false,
            round: 0,
            step: 0,
            ready: vec![false; size],
            rows: vec![0; size],
            draws_digest: [0; 32],
            failure: None,
            timings,
            writer: None,
            scratch: Scratch {
                outgoing: vec![Vec::new(); size],
                incoming: vec![Vec::new(); size],
                cursor: vec![0; size],
                ..Scratch::default()
            },
            config,
            rules,
        })
    }

    /// From now on a thread of its own calls this engine, when it is asked.
    pub(crate) fn answer_requests(&mut self) -> (Asker, Answerer) {
        self.collective.as_mut().map(|collective| collective.answer_requests()).unwrap_or_default()
    }

    /// Answers one request. After an error every later request is answered with the same error.
    pub(crate) fn handle(&mut self, request: Request) -> Result<Response, RehearsalError> {
        if let Some(error) = &self.failure {
            // What needs no other rank still works.
            match request {
                Request::Snapshot => {}
                Request::Save(..) if self.size == 1 => {}
                _ => return Err(error.clone()),
            }
        }
        let result = match request {
            Request::Rows(offer) => self.rows(offer),
            Request::NoRows => self.turn(Status::NoRows, &[], Parcel::default(), Instant::now()),
            Request::Failed(code) => self.turn(Status::Failed(code), &[], Parcel::default(), Instant::now()).map(|_| Response::Failed),
            Request::BeginTask(task) => self.begin_task(task),
            Request::Inspect => Ok(Response::Inspection(self.inspect())),
            Request::Report => self.report().map(Response::Report),
            Request::Snapshot => self.snapshot().map(Response::Snapshot),
            Request::Save(directory, pending, ticket) => self.save(directory, pending, ticket).map(|()| Response::Saving),
            Request::Restore(directory, device, fields) => self.restore(&directory, &device, fields).map(Response::Restored),
        };
        if let Err(error) = &result
            && self.failure.is_none()
        {
            self.failure = Some(error.clone());
            if self.size > 1 {
                self.collective = None;
            }
        }
        result
    }

    fn collective(&mut self) -> Result<&mut Box<dyn Collective>, RehearsalError> {
        self.collective.as_mut().ok_or(RehearsalError::EngineGone)
    }

    fn rows(&mut self, mut offer: Offer) -> Result<Response, RehearsalError> {
        let started = Instant::now();
        let inserted = self.insert(&mut offer);
        let started = self.timings.insert(started);
        match inserted {
            Ok(changes) => {
                let response = self.turn(Status::Rows, &changes, offer.parcel, started);
                if let Some(shard) = &mut self.shard {
                    shard.recycle(changes);
                }
                response
            }
            Err(error) => {
                // The others must learn why this rank leaves; whether they listen does not change this rank's error.
                let _ = self.turn(Status::Failed(FailCode::Batch), &[], Parcel::default(), started);
                Err(error)
            }
        }
    }

    fn insert(&mut self, offer: &mut Offer) -> Result<Vec<(u32, i32)>, RehearsalError> {
        std::mem::swap(&mut self.devices, &mut offer.parcel.devices);
        let mut shard = match self.shard.take() {
            Some(shard) => shard,
            None => Shard::new(&self.config, &self.rules, &offer.schema, &self.devices, self.rank, self.size)?,
        };
        shard.begin_task(self.task);
        if offer.choose {
            self.selector.select(&self.config, self.step, self.rank, offer.rows, &mut offer.parcel.rows);
        }
        let mut rng = Stream::new(self.config.seed, Purpose::Evict, self.step, self.rank as u32);
        let changes = shard.insert(&mut offer.parcel.candidates, &offer.parcel.rows, &mut rng);
        if changes.is_ok() {
            self.rows[self.rank] = offer.rows as u64;
        }
        self.timings.copied(shard.written() * shard.schema().row_bytes());
        self.shard = Some(shard);
        changes
    }

    /// Steps 2 to 5 of a round, from `started` on: each part's end is the beginning of the next, since reading the clock takes time, too.
    fn turn(&mut self, status: Status, changes: &[(u32, i32)], parcel: Parcel, started: Instant) -> Result<Response, RehearsalError> {
        if matches!(status, Status::Failed(_)) {
            // The others may take long to come to this round, or wait for a checkpoint that lacks this rank's rows.
            self.hand_over_all();
        }
        self.gather(status, changes)?;
        let started = self.timings.exchange(started);
        if matches!(status, Status::Failed(_)) {
            return Ok(Response::Failed);
        }
        if !self.scratch.headers.iter().any(|header| header.status == Status::Rows) {
            return Ok(Response::Round { counted: false, representatives: None });
        }
        self.step += 1;
        let representatives = self.draw_for(self.step - 1 + self.config.lag as u64, parcel, started)?;
        Ok(Response::Round { counted: true, representatives: Some(representatives) })
    }

    /// Tells every rank this one's state and learns theirs.
    fn gather(&mut self, status: Status, changes: &[(u32, i32)]) -> Result<(), RehearsalError> {
        let with_classes = self.counts.classes.is_some();
        let mine = RoundHeader {
            round: self.round,
            step: self.step,
            config: self.config_digest,
            schema: self.shard.as_ref().map_or(0, |shard| shard.schema().digest()),
            status,
            task: self.task,
            rows: self.rows[self.rank],
            fill: self.shard.as_ref().map_or(0, |shard| shard.table().len() as u64),
            from_earlier_tasks: self.shard.as_ref().map_or(0, |shard| shard.table().from_earlier_tasks() as u64),
            changes: if with_classes { changes.len() as u64 } else { 0 },
            changes_check: if with_classes { round::check_changes(changes) } else { 0 },
        };
        let step = self.step;
        let Self { collective, config, rules, scratch: Scratch { words, headers, .. }, counts, ready, rows, timings, .. } = self;
        let collective = collective.as_mut().ok_or(RehearsalError::EngineGone)?;
        collective.set_step(step);
        round::all_gather(collective.as_mut(), &mine, words, headers)?;
        self.round += 1;
        if round::configured_differently(headers) {
            agree_on(collective.as_mut(), &rules.agreed(config))?;
        }
        round::check(headers, self.rank)?;
        counts.fill.set(headers.iter().map(|header| header.fill));
        timings.stored(headers.iter().map(|header| header.fill).sum());
        counts.from_earlier_tasks.set(headers.iter().map(|header| header.from_earlier_tasks));
        for ((ready, rows), header) in ready.iter_mut().zip(rows.iter_mut()).zip(headers.iter()) {
            *ready = header.schema != 0;
            *rows = header.rows;
        }
        let most = headers.iter().map(|header| header.changes).max().unwrap_or(0);
        if let Some(classes) = &mut counts.classes
            && most > 0
        {
            round::gather_changes(collective.as_mut(), changes, headers, most as usize, words, classes)?;
        }
        Ok(())
    }

    fn begin_task(&mut self, task: u32) -> Result<Response, RehearsalError> {
        let before = self.task;
        self.task = task;
        self.task_begun = true;
        if let Some(shard) = &mut self.shard {
            shard.begin_task(task);
        }
        self.gather(Status::Task, &[])?;
        let start = self.config.start_task as u32;
        let crossed = (before >= start) != (task >= start);
        if before == task || !(crossed || self.sampling.depends_on_task()) {
            return Ok(Response::Redrawn(None));
        }
        self.redraw().map(|all| Response::Redrawn(Some(all)))
    }

    /// The representatives of the steps to come that are drawn already, drawn again from the union as it is now.
    fn redraw(&mut self) -> Result<Vec<Parcel>, RehearsalError> {
        let lag = self.config.lag as u64;
        let steps = self.step.max(lag)..if self.step == 0 { lag } else { self.step + lag };
        steps.map(|step| self.draw_for(step, Parcel::default(), Instant::now())).collect()
    }

    fn inspect(&self) -> Inspection {
        let planned = self.config.capacity_in_samples(usize::MAX, self.size).unwrap_or(0);
        let table = self.shard.as_ref().map(Shard::table);
        Inspection {
            capacity: table.map_or(shard_capacity(planned, self.rank, self.size), |table| table.capacity()),
            len: table.map_or(0, |table| table.len()),
            bytes: self.shard.as_ref().map_or(0, |shard| shard.store().bytes()),
            store: self.shard.as_ref().map(Shard::location),
            per_class: table.map_or_else(Vec::new, |table| table.per_class().collect()),
            distinct: table.and_then(|table| table.distinct()),
            task: self.task as usize,
            steps: self.step,
        }
    }

    fn snapshot(&self) -> Result<Snapshot, RehearsalError> {
        match &self.shard {
            Some(shard) => shard.snapshot(self.rank as u32),
            None => Ok(Snapshot::default()),
        }
    }

    fn report(&mut self) -> Result<BufferReport, RehearsalError> {
        let inspection = self.inspect();
        let draws = self.draws_digest;
        let contents = self.shard.as_ref().map_or_else(|| Ok(*blake3::hash(&[]).as_bytes()), Shard::digest)?;
        let ids: Vec<i64> = self.shard.iter().flat_map(|shard| shard.table().distinct_ids()).collect();
        let rank = self.rank;
        let rules = [policy_name(self.rules.policy(&self.config).as_ref()), sampling_name(self.sampling.as_ref())];
        let collective = self.collective()?;
        round::report(collective.as_mut(), rank, &inspection, &contents, &draws, &ids, rules)
    }
}
