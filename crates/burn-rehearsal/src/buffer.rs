//! The handle on a rank's engine.
//!
//! Requests and answers travel in order over a [`Link`]. The handle keeps the pending
//! representatives. They belong to it and not to an iterator, so they survive the end of an epoch,
//! an early break and a validation.

mod outside;
mod state;

use crate::batch::{RehearsalBatch, Role};
use crate::candidates::CandidateSelector;
use crate::config::{OnRepeat, RehearsalConfig};
use crate::engine::{
    BufferReport, Delivery, EngineTimings, FailCode, Inspection, PendingCheckpoint, Reply, Request,
    Restored, Resumed, Saved, Timings,
};
use crate::error::{ConfigError, RehearsalError, notice};
use crate::link::Link;
use crate::rules::CustomRules;
use crate::slots::RowHandle;
use crate::snapshot::Snapshot;
use burn::tensor::Device;
use burn_rehearsal_collective::launch::current_rank;
use burn_rehearsal_collective::{Collective, Rank, Solo};
use parking_lot::{Mutex, MutexGuard};
use state::{Awaited, State};
use std::collections::VecDeque;
use std::marker::PhantomData;
use std::path::Path;
use std::sync::{Arc, Once};
use std::time::Instant;

/// A rank's rehearsal buffer: a cheap handle (`Clone + Send + Sync`) on the engine that owns the
/// shard.
///
/// ```
/// use burn_rehearsal::{Capacity, RehearsalConfig};
/// # use burn::tensor::{Device, Int, Tensor};
/// # #[derive(burn_rehearsal::RehearsalBatch, Clone)]
/// # struct Batch { images: Tensor<2>, #[rehearsal(class)] targets: Tensor<1, Int> }
/// # let device = Device::flex();
/// let config = RehearsalConfig::new(Capacity::Samples(100)).with_candidates(2).with_representatives(3);
/// let buffer = config.init::<Batch>()?;
/// for step in 0..10 {
///     # let batch = Batch { images: Tensor::zeros([4, 8], &device), targets: Tensor::full([4], step as i64, &device) };
///     let batch = buffer.rehearse(batch)?; // the same rows, and up to 3 that were seen before
///     # assert_eq!(batch.images.dims()[0], 4 + (2 * step).min(3));
/// }
/// assert_eq!(buffer.inspect()?.len, 20);
/// # Ok::<(), burn_rehearsal::error::RehearsalError>(())
/// ```
pub struct RehearsalBuffer<B> {
    shared: Arc<Shared>,
    batch: PhantomData<fn(B) -> B>,
}

impl<B> Clone for RehearsalBuffer<B> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), batch: PhantomData }
    }
}

impl<B> std::fmt::Debug for RehearsalBuffer<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RehearsalBuffer")
            .field("rank", &self.shared.rank)
            .field("size", &self.shared.size)
            .finish_non_exhaustive()
    }
}

struct Shared {
    config: RehearsalConfig,
    rank: usize,
    size: usize,
    timings: Arc<Timings>,
    /// Whether a batcher has reported an error on standard error.
    reported: Once,
    state: Mutex<State>,
}

/// A mini-batch after [`RehearsalBuffer::rehearse_with_handles`].
#[derive(Debug, Clone)]
pub struct Rehearsed<B> {
    /// The incoming rows followed by the representatives.
    pub batch: B,
    /// Where each representative is stored, in the order of the appended rows.
    pub representatives: Vec<RowHandle>,
}

impl RehearsalConfig {
    /// A buffer for one rank. On each of several ranks it makes a buffer of its own, from which the
    /// other ranks do not draw; a line on standard error then points to [`init_on`](Self::init_on).
    ///
    /// # Errors
    ///
    /// [`RehearsalError::Config`] if the configuration makes no sense, [`RehearsalError::Thread`]
    /// if the engine's thread cannot be started.
    pub fn init<B: RehearsalBatch>(&self) -> Result<RehearsalBuffer<B>, RehearsalError> {
        static NOTICED: Once = Once::new();
        if let Some((rank, size)) = current_rank().filter(|(_, size)| *size > 1) {
            notice(&NOTICED, || {
                format!(
                    "rank {rank} of {size} has a buffer of its own (`RehearsalConfig::init`): no rank draws from another's rows; \
                     `RehearsalConfig::init_on(&rank)` shares them"
                )
            });
        }
        RehearsalBuffer::new(self, Box::new(Solo::new()))
    }

    /// This rank's end of a buffer that is sharded over all ranks. Collective: all ranks call it,
    /// with the same configuration.
    ///
    /// # Errors
    ///
    /// As [`init`](Self::init), and [`RehearsalError::Collective`] if a rank is gone.
    pub fn init_on<B: RehearsalBatch>(
        &self,
        rank: &Rank,
    ) -> Result<RehearsalBuffer<B>, RehearsalError> {
        self.init_with(rank, CustomRules::default())
    }

    /// As [`init_on`](Self::init_on), with the user's own policy or sampling rule in place of those
    /// that this configuration names. Collective: all ranks pass rules of the same names and
    /// parameters.
    ///
    /// # Errors
    ///
    /// As [`init_on`](Self::init_on). Ranks with different rules get
    /// [`RehearsalError::Configuration`] at the first step.
    pub fn init_with<B: RehearsalBatch>(
        &self,
        rank: &Rank,
        rules: CustomRules,
    ) -> Result<RehearsalBuffer<B>, RehearsalError> {
        RehearsalBuffer::with_rules(self, rules, rank.collective()?)
    }
}

impl<B: RehearsalBatch> RehearsalBuffer<B> {
    /// This rank's end of a buffer that is sharded over the ranks of a transport of your own;
    /// otherwise see [`RehearsalConfig::init_on`]. All ranks call it, with the same configuration.
    /// The engine keeps `collective`: pass a [duplicate](Collective::duplicate) if gradients use
    /// the same transport.
    ///
    /// # Errors
    ///
    /// [`RehearsalError::Config`] if the configuration makes no sense, [`RehearsalError::Thread`]
    /// if no thread can be had.
    pub fn new(
        config: &RehearsalConfig,
        collective: Box<dyn Collective>,
    ) -> Result<Self, RehearsalError> {
        Self::with_rules(config, CustomRules::default(), collective)
    }

    fn with_rules(
        config: &RehearsalConfig,
        rules: CustomRules,
        collective: Box<dyn Collective>,
    ) -> Result<Self, RehearsalError> {
        let timings = Arc::new(Timings::default());
        let (rank, size) = (collective.rank(), collective.size());
        if config.on_repeat == OnRepeat::SkipIfStored
            && !B::FIELDS.iter().any(|field| field.role == Role::Id)
        {
            return Err(ConfigError::NoId.into());
        }
        let (link, rounds) = Link::new(config, rules, collective, timings.clone())?;
        let state = State {
            link,
            rounds,
            lag: config.lag as u64,
            schema: None,
            autodiff: None,
            step: 0,
            outstanding: VecDeque::new(),
            ready: VecDeque::new(),
            spare: Vec::new(),
            error: None,
            iterating: false,
            selector: CandidateSelector::default(),
            incoming: Vec::new(),
            merged: Vec::new(),
        };
        let shared = Shared {
            config: config.clone(),
            rank,
            size,
            timings,
            reported: Once::new(),
            state: Mutex::new(state),
        };
        Ok(Self { shared: Arc::new(shared), batch: PhantomData })
    }

    /// Offers c rows of `batch` to the buffer and appends r representatives to it: b rows in, b +
    /// min(r, eligible) out.
    ///
    /// This is one step, and collective: every rank calls it (or [`skip_step`](Self::skip_step))
    /// once per step. The first `lag` mini-batches of a rank return unchanged.
    ///
    /// # Errors
    ///
    /// [`RehearsalError`]; the buffer is poisoned from then on. Shapes and element types are
    /// checked at once. Classes and byte values of candidates are checked by the engine: their
    /// errors are returned `lag` calls later, or by the next call that waits for the engine. The
    /// other ranks get [`RehearsalError::PeerFailed`] with the same step number.
    pub fn rehearse(&self, batch: B) -> Result<B, RehearsalError> {
        let mut state = self.lock();
        state.guarded(|state| {
            let (batch, delivery) = self.step(state, batch)?;
            state.recycle(delivery);
            Ok(batch)
        })
    }

    /// Like [`rehearse`](Self::rehearse), and says where each representative is stored.
    ///
    /// # Errors
    ///
    /// As [`rehearse`](Self::rehearse).
    pub fn rehearse_with_handles(&self, batch: B) -> Result<Rehearsed<B>, RehearsalError> {
        let mut state = self.lock();
        state.guarded(|state| {
            let (batch, mut delivery) = self.step(state, batch)?;
            let representatives = delivery
                .as_mut()
                .map(|delivery| std::mem::take(&mut delivery.handles))
                .unwrap_or_default();
            state.recycle(delivery);
            Ok(Rehearsed { batch, representatives })
        })
    }

    /// One step; the delivery that is returned still names where the representatives are stored.
    fn step(&self, state: &mut State, batch: B) -> Result<(B, Option<Delivery>), RehearsalError> {
        let Shared { config, rank, timings, .. } = &*self.shared;
        let started = Instant::now();
        // What other calls waited for is not this step's.
        state.link.take_waited();
        state.drain_if_needed()?;
        let (mut rest, schema, rows) = state.take_apart(batch)?;
        let mut copied = 0;
        if config.lag == 0 {
            // The representatives of a step depend on its own candidates.
            copied += state.offer(config, *rank, &schema, rows, Instant::now())?;
        }
        let queued = state.rounds_under_way();
        let delivery = state.next_delivery()?;
        let waited = state.link.take_waited();
        let ready = Instant::now();
        copied += state.merge(&schema, rows, delivery.as_ref())?;
        let merged = timings.append(ready);
        if config.lag > 0 {
            // Offered columns are shared with the engine, and Burn copies a shared tensor before it
            // writes to it. So the representatives are appended first.
            copied += state.offer(config, *rank, &schema, rows, merged)?;
        }
        state.step += 1;
        let drawn = delivery.as_ref().filter(|delivery| !delivery.handles.is_empty());
        let staleness =
            drawn.map_or(0, |delivery| (state.step - 1).saturating_sub(delivery.drawn_at));
        B::fill(&mut rest, drawn.map_or(0, |delivery| delivery.handles.len()));
        let batch = B::from_parts(state.merged.drain(..), rest)?;
        timings.step(waited, started.elapsed().saturating_sub(waited), queued, staleness);
        timings.copied(copied);
        Ok((batch, delivery))
    }

    /// Takes part in a step for which this rank has no rows. Collective, like
    /// [`rehearse`](Self::rehearse). A step for which no rank has rows is no step: nothing is
    /// inserted, drawn or used up.
    ///
    /// # Errors
    ///
    /// As [`rehearse`](Self::rehearse).
    pub fn skip_step(&self) -> Result<(), RehearsalError> {
        self.lock().guarded(|state| {
            if self.shared.size == 1 {
                // An error in the last mini-batch of an epoch is reported at its end.
                return state.drain();
            }
            state.drain_if_needed()?;
            state.link.send(Request::SkipStep)?;
            state.outstanding.push_back(Awaited::Round { skipped: true });
            Ok(())
        })
    }

    /// Reports to all ranks that this one failed because of its data; their current step ends
    /// with [`RehearsalError::PeerFailed`]. The buffer is poisoned.
    pub fn abort(&self, error: RehearsalError) {
        let mut state = self.lock();
        if state.error.is_none() {
            state.report_failure(FailCode::Data);
            state.error = Some(error);
        }
    }

    /// Begins task `task`: rows stored from now on belong to it. Collective: all ranks call it at
    /// the same step. If the sampling rule depends on the task, pending representatives are drawn
    /// again. Returns without waiting for the engine or for other ranks.
    ///
    /// # Errors
    ///
    /// As [`rehearse`](Self::rehearse), of earlier steps. The next call returns
    /// [`RehearsalError::Disagreement`] if the ranks are at different steps or begin different
    /// tasks.
    pub fn begin_task(&self, task: usize) -> Result<(), RehearsalError> {
        self.lock().guarded(|state| {
            state.drain_if_needed()?;
            let (reply, answer) = Reply::channel();
            state.link.send(Request::BeginTask(u32::try_from(task).unwrap_or(u32::MAX), reply))?;
            state.outstanding.push_back(Awaited::Task(answer));
            Ok(())
        })
    }

    /// The state of this rank's shard, after all steps so far. Not collective.
    ///
    /// # Errors
    ///
    /// As [`rehearse`](Self::rehearse).
    pub fn inspect(&self) -> Result<Inspection, RehearsalError> {
        self.ask(Request::Inspect)
    }

    /// The state of all shards, with digests of contents and draws; equal on all ranks. Collective.
    ///
    /// # Errors
    ///
    /// As [`rehearse`](Self::rehearse), and [`RehearsalError::Disagreement`] if the ranks' draws
    /// differ.
    pub fn report(&self) -> Result<BufferReport, RehearsalError> {
        self.ask(Request::Report)
    }

    /// A copy of this rank's shard as a Burn [`Dataset`](burn::data::dataset::Dataset). Not
    /// collective. Also works after an error: it then contains the rows stored before the failed
    /// step.
    ///
    /// # Errors
    ///
    /// [`RehearsalError::EngineGone`], or [`RehearsalError::Batch`] if the device cannot be read.
    pub fn snapshot(&self) -> Result<Snapshot, RehearsalError> {
        let mut state = self.lock();
        if state.error.is_none() {
            // An error that is found here poisons the buffer, and what is stored is returned all
            // the same.
            let _ = state.guarded(State::drain);
        }
        if state.error.is_some() {
            state.abandon();
        }
        state.link.ask(Request::Snapshot)
    }

    /// Writes all shards to `directory`, which becomes a [checkpoint](crate::checkpoint) that is
    /// complete or absent. Returns when everything is on the disk:
    /// [`begin_checkpoint`](Self::begin_checkpoint) and [`wait`](PendingCheckpoint::wait) in one
    /// call. Collective.
    ///
    /// After an error of a single process, for example in a mini-batch, the checkpoint holds the
    /// buffer as it was before the step that failed. On several ranks nothing can be written then,
    /// since the other ranks have left.
    ///
    /// # Errors
    ///
    /// [`RehearsalError::Checkpoint`] if a rank cannot write; the buffer stays usable. Otherwise as
    /// [`rehearse`](Self::rehearse).
    pub fn checkpoint(&self, directory: impl AsRef<Path>) -> Result<Saved, RehearsalError> {
        let saved = self.begin_checkpoint(directory)?.wait();
        // An error that is not the checkpoint's alone is known now, and not only at the next step.
        let mut state = self.lock();
        if state.error.is_none() {
            state.guarded(State::drain)?;
        }
        saved
    }

    /// Begins to write all shards to `directory`. Returns when the steps so far are done, without
    /// waiting for other ranks or for a disk. The checkpoint holds the buffer as it is now, while
    /// steps continue.
    ///
    /// Collective: all ranks call it between the same two steps, with the same directory, on a file
    /// system that they share. An earlier checkpoint in that directory is removed. Use a directory
    /// per checkpoint to keep it until this one is complete.
    ///
    /// The checkpoint holds everything that later steps depend on: rows and their handles, tables,
    /// the policies' states, and pending representatives. The engine finishes an earlier checkpoint
    /// first. Then it copies everything except the rows, and passes the rows to a writer thread
    /// between steps. A row that a step overwrites before its turn is copied, which takes at most
    /// the shard's bytes, and usually a few rows. Results do not depend on it. With
    /// [`Execution::Inline`](crate::Execution::Inline) this call passes all rows.
    ///
    /// # Errors
    ///
    /// As [`rehearse`](Self::rehearse), of the steps so far. [`PendingCheckpoint::wait`] returns
    /// the outcome.
    pub fn begin_checkpoint(
        &self,
        directory: impl AsRef<Path>,
    ) -> Result<PendingCheckpoint, RehearsalError> {
        let directory = directory.as_ref().to_path_buf();
        let mut state = self.lock();
        if state.error.is_some() && self.shared.size == 1 {
            // The step that failed has used up its representatives: the engine draws them again.
            state.abandon();
            let (ticket, checkpoint) = PendingCheckpoint::new(state.link.another_asker());
            state.link.ask(|reply| Request::Save(directory, None, ticket, reply))?;
            return Ok(checkpoint);
        }
        state.guarded(|state| {
            state.drain()?;
            let (ticket, checkpoint) = PendingCheckpoint::new(state.link.another_asker());
            let pending = state.ready.iter().cloned().collect();
            let (reply, answer) = Reply::channel();
            state.link.send(Request::Save(directory, Some(pending), ticket, reply))?;
            state.outstanding.push_back(Awaited::Done(answer));
            Ok(checkpoint)
        })
    }

    /// Resumes from a [checkpoint](Self::checkpoint). On the same number of ranks, every later step
    /// gives the same bits as without the interruption. On another number, every stored sample is
    /// kept once, and shards, quotas and draws are those of the new world size. Collective, before
    /// the first step. `device` is the device of the mini-batches to come.
    ///
    /// All options that can change a result must be unchanged. The task is that of the checkpoint;
    /// the caller restores the position of its loaders.
    ///
    /// # Errors
    ///
    /// [`RehearsalError::Checkpoint`] naming the file that is missing, damaged, or does not belong
    /// to this buffer. The buffer stays empty. [`RehearsalError::Misuse`] after the first step.
    pub fn restore(
        &self,
        directory: impl AsRef<Path>,
        device: &Device,
    ) -> Result<Restored, RehearsalError> {
        let directory = directory.as_ref().to_path_buf();
        let mut state = self.lock();
        let resumed = state.guarded(|state| {
            state.drain()?;
            state.link.ask(|reply| Request::Restore(directory, device.clone(), B::FIELDS, reply))
        })?;
        let Resumed { restored, schema, pending } = resumed?;
        state.step = restored.steps;
        state.schema = schema;
        state.ready = pending.into();
        Ok(restored)
    }

    fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, RehearsalError> {
        self.lock().guarded(|state| {
            state.drain()?;
            state.link.ask(request)
        })
    }
}

impl<B> RehearsalBuffer<B> {
    /// This rank, in `0..size`.
    pub fn rank(&self) -> usize {
        self.shared.rank
    }

    /// The number of ranks.
    pub fn world_size(&self) -> usize {
        self.shared.size
    }

    /// The number of stored rows, of all ranks together, after the steps so far. Waits for this
    /// rank's engine, as [`inspect`](RehearsalBuffer::inspect) does; not collective.
    ///
    /// After an error it is the number before the step that failed.
    pub fn len(&self) -> usize {
        // The next step returns the error.
        let _ = self.lock().guarded(State::drain);
        self.shared.timings.read().stored as usize
    }

    /// Whether no row is stored, on any rank; see [`len`](Self::len).
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of rows that all ranks together can store. `None` before the first mini-batch if
    /// the capacity is configured in bytes.
    pub fn capacity(&self) -> Option<usize> {
        let Shared { config, size, .. } = &*self.shared;
        let state = self.lock();
        let schema = state.schema.as_ref();
        schema.map_or_else(
            || config.capacity_before_rows(*size),
            |schema| config.capacity_in_samples(schema.row_bytes(), *size).ok(),
        )
    }

    /// The configuration.
    pub fn config(&self) -> &RehearsalConfig {
        &self.shared.config
    }

    /// Where time went so far, on this rank.
    pub fn timings(&self) -> EngineTimings {
        self.shared.timings.read()
    }

    /// The counters behind [`timings`](Self::timings).
    pub(crate) fn counters(&self) -> Arc<Timings> {
        self.shared.timings.clone()
    }

    /// Returns the error that poisoned the buffer, if any: after an error every step returns it. On
    /// one rank this waits for the engine, so that an error in the last mini-batch is found, too.
    ///
    /// # Errors
    ///
    /// That error.
    pub fn check(&self) -> Result<(), RehearsalError> {
        let mut state = self.lock();
        match self.shared.size {
            1 => state.guarded(State::drain),
            _ => state.error.clone().map_or(Ok(()), Err),
        }
    }

    /// Reports the error that poisoned the buffer on standard error, once, for callers that cannot
    /// return it.
    pub(crate) fn report_error(&self, error: &RehearsalError) {
        tracing::error!(%error, "the rehearsal buffer is poisoned; mini-batches pass unchanged");
        notice(&self.shared.reported, || {
            format!("rehearsal has stopped; training continues without it: {error}")
        });
    }

    /// Marks the one iterator that a handle may serve; false if there is one already.
    pub(crate) fn start_iterating(&self) -> bool {
        !std::mem::replace(&mut self.lock().iterating, true)
    }

    pub(crate) fn stop_iterating(&self) {
        self.lock().iterating = false;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic inside leaves at worst a request without its answer, which the next receive turns
        // into an error.
        self.shared.state.lock()
    }
}
