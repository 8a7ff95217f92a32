//! The engine. There is one per rank, and it is the only owner of the rank's shard.
//!
//! A *round* is one collective turn of all engines. In the round of step t, every engine
//!
//! 1. writes this rank's candidates to its shard,
//! 2. all-gathers a header of fixed size (round, digests, status, fill) and, for class-balanced
//!    sampling, the changes of class counts,
//! 3. computes the draws of *every* rank for step t + lag from the same numbers as all other ranks;
//!    a rank can have several draws per step,
//! 4. sends the rows that other ranks drew from its shard, and receives those it drew from theirs,
//! 5. builds the columns of its representatives.
//!
//! A round in which no rank has rows (the end of an epoch) changes nothing and is not a step.

mod draws;
mod messages;
mod outside;
mod persist;
mod report;
mod round;
mod shard;
mod timings;

pub use persist::{PendingCheckpoint, Restored, Saved};
pub use report::{BufferReport, Inspection};
pub use timings::EngineTimings;

pub(crate) use messages::{
    Answer, CandidateBatch, CandidateLists, Delivery, Inbox, Reply, Request, Round, Sent, poll,
};
pub(crate) use persist::Resumed;
pub(crate) use round::FailCode;
pub(crate) use timings::Timings;

use crate::agreement::agree_on;
use crate::batch::Schema;
use crate::candidates::CandidateSelector;
use crate::config::RehearsalConfig;
use crate::error::RehearsalError;
use crate::random::{Purpose, Stream};
use crate::rules::{CustomRules, DrawRule};
use crate::sampling::{Draw, ShardCounts};
use burn::tensor::Device;
use burn_rehearsal_collective::{Answerer, Asker, Collective};
use persist::Writer;
use round::{RoundHeader, Status};
use shard::Shard;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Instant;

/// The number of requests that can be pending in addition to `lag` rounds: one more round or the
/// beginning of a task, the beginning of a checkpoint, and the reason to leave. Channels with room
/// for all of them never block.
pub(crate) const MAX_IN_FLIGHT: usize = 3;

/// The single-threaded state machine behind a buffer handle.
pub(crate) struct Engine {
    config: RehearsalConfig,
    rules: CustomRules,
    config_digest: u64,
    /// The answers to rounds.
    rounds: SyncSender<Answer<Round>>,
    /// Dropped at the first error on several ranks, so that no other rank waits for this one.
    collective: Option<Box<dyn Collective>>,
    rank: usize,
    size: usize,
    shard: Option<Shard>,
    selector: CandidateSelector,
    /// The devices of the last mini-batch, on which representatives are built.
    devices: Vec<Device>,
    counts: ShardCounts,
    /// The draws of a step, in order.
    draws: Vec<DrawRule>,
    task: u32,
    /// Whether `begin_task` was ever called.
    task_begun: bool,
    rounds_done: u64,
    step: u64,
    /// The ranks that know the layout of a row, and can therefore receive rows.
    ready: Vec<bool>,
    /// The rows of each rank's last mini-batch, to which ratios refer.
    rows: Vec<u64>,
    /// The digest of the previous digest and the draws since then. Unlike the state of a hasher, a
    /// checkpoint can store it.
    draws_digest: [u8; 32],
    /// The numbers of mini-batches inserted and of draws made outside of steps. They are the keys
    /// of their random numbers.
    fills: u64,
    samples: u64,
    /// Changes of class counts that the other ranks do not know yet.
    changes: Vec<(u32, i32)>,
    failure: Option<RehearsalError>,
    timings: Arc<Timings>,
    /// The writer of the last checkpoint. It may be done.
    writer: Option<Writer>,
    scratch: Scratch,
}

/// Buffers that are reused from round to round.
#[derive(Default)]
struct Scratch {
    /// The number of rows in each draw of each rank. Those of a rank are adjacent.
    wanted: Vec<usize>,
    /// The drawn rows of all draws in this order, and the end of each draw among them.
    draws: Vec<Draw>,
    ends: Vec<usize>,
    /// The owner of each row that this rank drew, and its slot if the owner is this rank.
    own: Vec<(u32, u32)>,
    /// The draws of all ranks as numbers, for the digest.
    drawn: Vec<u64>,
    /// The slots of the rows that other ranks drew from this shard, and the rank that drew each.
    pushed: Vec<u32>,
    peers: Vec<usize>,
    /// Bytes to send and to receive, per peer: the (slot, generation) of every row, then the rows.
    outgoing: Vec<Vec<u8>>,
    incoming: Vec<Vec<u8>>,
    /// The number of rows used of each incoming message.
    cursor: Vec<usize>,
    /// The headers of the last round, encoded and decoded.
    words: Vec<u64>,
    headers: Vec<RoundHeader>,
}

impl Engine {
    /// Creates an engine, and the receiver of its answers to rounds.
    pub(crate) fn new(
        config: RehearsalConfig,
        rules: CustomRules,
        mut collective: Box<dyn Collective>,
        timings: Arc<Timings>,
    ) -> Result<(Self, Receiver<Answer<Round>>), RehearsalError> {
        collective.set_purpose("rehearsal");
        let (rank, size) = (collective.rank(), collective.size());
        config.validate(size)?;
        let (rounds, answers) = sync_channel(config.lag + MAX_IN_FLIGHT);
        let draws = rules.draws(&config)?;
        let with_classes = draws.iter().any(|draw| draw.sampling.needs_class_counts());
        let engine = Self {
            config_digest: round::config_digest(&rules.agreed(&config), size),
            rounds,
            collective: Some(collective),
            rank,
            size,
            shard: None,
            selector: CandidateSelector::default(),
            devices: Vec::new(),
            counts: ShardCounts::new(rank, size, with_classes),
            draws,
            task: 0,
            task_begun: false,
            rounds_done: 0,
            step: 0,
            ready: vec![false; size],
            rows: vec![0; size],
            draws_digest: [0; 32],
            fills: 0,
            samples: 0,
            changes: Vec::new(),
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
        };
        Ok((engine, answers))
    }

    /// Prepares this engine to answer requests in its own thread.
    pub(crate) fn answer_requests(&mut self) -> (Asker, Answerer) {
        self.collective.as_mut().map(|collective| collective.answer_requests()).unwrap_or_default()
    }

    /// Answers one request. After an error, requests that need other ranks get the same error.
    pub(crate) fn handle(&mut self, request: Request) {
        match request {
            Request::Rows(batch) => {
                let round = self.guarded(|engine| engine.insert_and_draw(batch));
                self.answer_round(round);
            }
            Request::SkipStep => {
                let round = self.guarded(|engine| {
                    engine.round(Status::NoRows, Delivery::default(), Instant::now())
                });
                self.answer_round(round);
            }
            Request::Leave(code, reply) => reply.send(self.guarded(|engine| engine.leave(code))),
            Request::BeginTask(task, reply) => {
                reply.send(self.guarded(|engine| engine.begin_task(task)))
            }
            Request::Fill(schema, lists, reply) => {
                reply.send(self.guarded(|engine| engine.fill(&schema, lists)))
            }
            Request::EndFill(reply) => reply.send(self.guarded(Self::end_fill)),
            Request::Sample(rows, reply) => reply.send(self.guarded(|engine| engine.sample(rows))),
            Request::Inspect(reply) => reply.send(self.guarded(|engine| Ok(engine.inspect()))),
            Request::Report(reply) => reply.send(self.guarded(Self::report)),
            Request::Snapshot(reply) => reply.send(self.recorded(|engine| engine.snapshot())),
            Request::Save(directory, pending, ticket, reply) => {
                let save = |engine: &mut Self| engine.save(directory, pending, ticket);
                reply.send(if self.size == 1 { self.recorded(save) } else { self.guarded(save) });
            }
            Request::Restore(directory, device, fields, reply) => {
                reply.send(self.guarded(|engine| engine.restore(&directory, &device, fields)));
            }
        }
    }

    fn answer_round(&self, round: Answer<Round>) {
        // The handle may be gone.
        let _ = self.rounds.send(round);
    }

    /// Runs `work` unless the engine has failed.
    fn guarded<T>(&mut self, work: impl FnOnce(&mut Self) -> Answer<T>) -> Answer<T> {
        match &self.failure {
            Some(error) => Err(error.clone()),
            None => self.recorded(work),
        }
    }

    /// Runs `work`. Its error becomes the error of the engine.
    fn recorded<T>(&mut self, work: impl FnOnce(&mut Self) -> Answer<T>) -> Answer<T> {
        let result = work(self);
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

    /// Does a round with candidates.
    fn insert_and_draw(&mut self, batch: CandidateBatch) -> Result<Round, RehearsalError> {
        let started = Instant::now();
        let CandidateBatch { schema, rows, mut lists, select, recycled, .. } = batch;
        if select {
            self.selector.select(&self.config, self.step, self.rank, rows, &mut lists.selected);
        }
        let mut rng = Stream::new(self.config.seed, Purpose::Evict, self.step, self.rank as u32);
        let inserted = self.insert(&schema, &mut lists, &mut rng);
        let started = self.timings.insert(started);
        inserted.inspect_err(|_| self.leave_with_bad_batch())?;
        self.rows[self.rank] = rows as u64;
        self.round(Status::Rows, Delivery { lists, ..recycled }, started)
    }

    /// Offers candidates to this rank's shard. The first call creates the shard.
    fn insert(
        &mut self,
        schema: &Schema,
        lists: &mut CandidateLists,
        rng: &mut Stream,
    ) -> Result<(), RehearsalError> {
        std::mem::swap(&mut self.devices, &mut lists.devices);
        let mut shard = match self.shard.take() {
            Some(shard) => shard,
            None => {
                Shard::new(&self.config, &self.rules, schema, &self.devices, self.rank, self.size)?
            }
        };
        shard.begin_task(self.task);
        let inserted = shard.insert(&mut lists.columns, &lists.selected, rng, &mut self.changes);
        self.timings.copied(shard.written() * shard.schema().row_bytes());
        self.shard = Some(shard);
        inserted
    }

    /// Does a last round, in which this rank reports why it leaves.
    fn leave(&mut self, code: FailCode) -> Result<(), RehearsalError> {
        // Comes first: the other ranks may reach this round late, or wait for a checkpoint that
        // lacks this rank's rows.
        self.hand_over_all();
        self.gather(Status::Failed(code))
    }

    /// Reports to the other ranks that this rank's mini-batch was refused. The outcome does not
    /// change this rank's error.
    fn leave_with_bad_batch(&mut self) {
        let _ = self.leave(FailCode::Batch);
    }

    /// Does steps 2 to 5 of a round, and writes the representatives to `delivery`. Step 2 began at
    /// `started`. Each step begins when the previous one ends, since reading the clock takes time.
    fn round(
        &mut self,
        status: Status,
        delivery: Delivery,
        started: Instant,
    ) -> Result<Round, RehearsalError> {
        self.gather(status)?;
        let started = self.timings.exchange(started);
        if !self.scratch.headers.iter().any(|header| header.status == Status::Rows) {
            return Ok(Round::NoStep);
        }
        self.step += 1;
        self.draw_for(self.step - 1 + self.config.lag as u64, delivery, started).map(Round::Step)
    }

    /// Exchanges the states of all ranks, and the changes of class counts since the last round.
    fn gather(&mut self, status: Status) -> Result<(), RehearsalError> {
        let (shard, with_classes) = (self.shard.as_ref(), self.counts.classes.is_some());
        let table = shard.map(Shard::table);
        let mine = RoundHeader {
            round: self.rounds_done,
            step: self.step,
            config: self.config_digest,
            schema: shard.map_or(0, |shard| shard.schema().digest()),
            status,
            task: self.task,
            rows: self.rows[self.rank],
            fill: table.map_or(0, |table| table.len() as u64),
            from_earlier_tasks: table.map_or(0, |table| table.from_earlier_tasks() as u64),
            changes: if with_classes { self.changes.len() as u64 } else { 0 },
            changes_check: if with_classes { round::check_changes(&self.changes) } else { 0 },
        };
        let collective = self.collective.as_mut().ok_or(RehearsalError::EngineGone)?;
        let Scratch { words, headers, .. } = &mut self.scratch;
        collective.set_step(self.step);
        round::all_gather(collective.as_mut(), &mine, words, headers)?;
        self.rounds_done += 1;
        if round::configured_differently(headers) {
            agree_on(collective.as_mut(), &self.rules.agreed(&self.config))?;
        }
        round::check(headers, self.rank)?;
        self.counts.fill.set(headers.iter().map(|header| header.fill));
        self.timings.stored(headers.iter().map(|header| header.fill).sum());
        self.counts.from_earlier_tasks.set(headers.iter().map(|header| header.from_earlier_tasks));
        for (rank, header) in headers.iter().enumerate() {
            self.ready[rank] = header.schema != 0;
            self.rows[rank] = header.rows;
        }
        if let Some(classes) = &mut self.counts.classes {
            round::gather_changes(collective.as_mut(), &self.changes, headers, words, classes)?;
        }
        self.changes.clear();
        Ok(())
    }

    fn begin_task(&mut self, task: u32) -> Result<Option<Vec<Delivery>>, RehearsalError> {
        let before = self.task;
        self.task = task;
        self.task_begun = true;
        if let Some(shard) = &mut self.shard {
            shard.begin_task(task);
        }
        self.gather(Status::Task)?;
        let start = self.config.start_task as u32;
        let crossed = (before >= start) != (task >= start);
        let depends_on_task = self.draws.iter().any(|draw| draw.sampling.depends_on_task());
        if before == task || !(crossed || depends_on_task) {
            return Ok(None);
        }
        self.redraw().map(Some)
    }

    /// Draws the pending representatives again, from the rows that are stored now.
    fn redraw(&mut self) -> Result<Vec<Delivery>, RehearsalError> {
        let lag = self.config.lag as u64;
        let steps = self.step.max(lag)..if self.step == 0 { lag } else { self.step + lag };
        steps.map(|step| self.draw_for(step, Delivery::default(), Instant::now())).collect()
    }
}
