//! The user's handle to the engine of one rank.
//!
//! Requests and answers travel in order over a [`Link`]. The handle owns the pending
//! representatives, not the iterator of a loader. They therefore survive the end of an epoch, an
//! early `break`, and a validation.

mod outside;
mod state;

use crate::batch::{Annotate, Column, LayoutMaker, RehearsalBatch, Role, Schema, has_late};
use crate::candidates::CandidateSelector;
use crate::config::{Execution, OnRepeat, RehearsalConfig};
use crate::engine::{
    BufferReport, Delivery, EngineTimings, FailCode, Inspection, PendingCheckpoint, Reply, Request,
    Restored, Resumed, Saved, Timings,
};
use crate::error::{BatchError, ConfigError, RehearsalError, notice};
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

/// One rank's handle to a rehearsal buffer, also known as a replay buffer or exemplar memory.
///
/// The handle is cheap to clone and can be used from any thread. An engine behind it owns this
/// rank's shard of the stored samples and works in the background.
///
/// Create one with [`RehearsalConfig::init`] on one rank or [`RehearsalConfig::init_on`] on
/// several. Then [attach](Self::attach) it to a training loader, or call
/// [`rehearse`](Self::rehearse) in a training loop:
///
/// ```
/// # use burn::tensor::{Device, Tensor};
/// # use burn_rehearsal::{Capacity, RehearsalBatch, RehearsalConfig};
/// # #[derive(RehearsalBatch)]
/// # struct Batch { inputs: Tensor<2> }
/// # let load = |_| Batch { inputs: Tensor::zeros([4, 8], &Device::flex()) };
/// let config = RehearsalConfig::new(Capacity::Samples(100)).with_candidates(2);
/// let buffer = config.with_representatives(3).init::<Batch>()?;
/// for step in 0..10 {
///     // 4 new rows, followed by up to 3 stored ones.
///     let batch = buffer.rehearse(load(step))?;
///     assert_eq!(batch.inputs.dims()[0], 4 + (2 * step).min(3));
/// }
/// assert_eq!(buffer.len(), 20);
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
    /// Completed when a batcher has printed an error to standard error.
    reported: Once,
    state: Mutex<State>,
}

/// The result of [`RehearsalBuffer::rehearse_with_handles`].
#[derive(Debug, Clone)]
pub struct Rehearsed<B> {
    /// The incoming rows, followed by the representatives.
    pub batch: B,
    /// The handle of each representative, in the order of the appended rows.
    pub representatives: Vec<RowHandle>,
}

impl RehearsalConfig {
    /// Creates a buffer for one rank.
    ///
    /// On several ranks, each rank gets a separate buffer, and no rank draws from another's rows.
    /// A notice on standard error then recommends [`init_on`](Self::init_on).
    ///
    /// ```
    /// # use burn::tensor::Tensor;
    /// # use burn_rehearsal::{Capacity, RehearsalBatch, RehearsalConfig};
    /// # #[derive(RehearsalBatch)]
    /// # struct Batch { inputs: Tensor<2> }
    /// let buffer = RehearsalConfig::new(Capacity::Samples(500)).init::<Batch>()?;
    /// assert_eq!((buffer.len(), buffer.capacity()), (0, Some(500)));
    /// # Ok::<(), burn_rehearsal::error::RehearsalError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`RehearsalError::Config`] if the configuration is invalid, [`RehearsalError::Thread`] if
    /// the engine's thread cannot be started.
    pub fn init<B: RehearsalBatch>(&self) -> Result<RehearsalBuffer<B>, RehearsalError> {
        static NOTICED: Once = Once::new();
        if let Some((rank, size)) = current_rank().filter(|(_, size)| *size > 1) {
            notice(&NOTICED, || {
                format!(
                    "rank {rank} of {size} created a separate buffer (`RehearsalConfig::init`), \
                     and no rank draws from another's rows; to share one buffer, use \
                     `RehearsalConfig::init_on(&rank)`"
                )
            });
        }
        RehearsalBuffer::new(self, Box::new(Solo::new()))
    }

    /// Creates a buffer that is sharded over all ranks, and returns this rank's handle.
    ///
    /// Collective: all ranks call it with the same configuration.
    ///
    /// ```
    /// # use burn::tensor::{Device, Tensor};
    /// # use burn_rehearsal::{RehearsalBatch, error::RehearsalError};
    /// use burn_rehearsal::{Capacity, Ranks, RehearsalConfig};
    /// # #[derive(RehearsalBatch)]
    /// # struct Batch { inputs: Tensor<2> }
    /// # let load = || Batch { inputs: Tensor::zeros([4, 8], &Device::flex()) };
    /// Ranks::threads(2).run(|rank| {
    ///     let buffer = RehearsalConfig::new(Capacity::Samples(500)).init_on::<Batch>(&rank)?;
    ///     buffer.rehearse(load())?;
    ///     assert_eq!(buffer.len(), 8); // 4 rows of each rank
    ///     Ok::<(), RehearsalError>(())
    /// })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The errors of [`init`](Self::init), and [`RehearsalError::Collective`] if a rank has left.
    /// If the configurations differ, the first step returns [`RehearsalError::Configuration`].
    pub fn init_on<B: RehearsalBatch>(
        &self,
        rank: &Rank,
    ) -> Result<RehearsalBuffer<B>, RehearsalError> {
        self.init_with(rank, CustomRules::default())
    }

    /// Creates a buffer as [`init_on`](Self::init_on) does, with custom rules in place of those
    /// that this configuration names.
    ///
    /// Collective: all ranks pass rules with the same names and parameters. The modules
    /// [`policy`](crate::policy) and [`sampling`](crate::sampling) show how to write a rule. Its
    /// type is `Clone`, `Send` and `Sync`.
    ///
    /// ```
    /// # mod stubs { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/stubs.rs")); }
    /// # use stubs::*;
    /// use burn_rehearsal::{Capacity, CustomRules, Rank, RehearsalConfig};
    ///
    /// let rules = CustomRules::default().with_policy(MyPolicy);
    /// let config = RehearsalConfig::new(Capacity::Samples(500));
    /// let buffer = config.init_with::<MyBatch>(&Rank::solo(), rules)?; // or the rank of a run
    /// assert_eq!(buffer.report()?.policy, "my-policy");
    /// # Ok::<(), burn_rehearsal::error::RehearsalError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The errors of [`init_on`](Self::init_on). If the rules differ between ranks, the first step
    /// returns [`RehearsalError::Configuration`].
    pub fn init_with<B: RehearsalBatch>(
        &self,
        rank: &Rank,
        rules: CustomRules,
    ) -> Result<RehearsalBuffer<B>, RehearsalError> {
        RehearsalBuffer::with_rules(self, rules, rank.collective()?)
    }
}

impl<B: RehearsalBatch> RehearsalBuffer<B> {
    /// Creates a buffer that is sharded over the ranks of a custom transport, and returns this
    /// rank's handle. For the built-in transports, see [`RehearsalConfig::init_on`].
    ///
    /// Collective: all ranks call it with the same configuration. The engine keeps `collective`.
    /// Pass a [duplicate](Collective::duplicate) if gradients use the same transport.
    ///
    /// ```
    /// # mod stubs { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/stubs.rs")); }
    /// # use stubs::*;
    /// use burn_rehearsal::{Capacity, RehearsalBuffer, RehearsalConfig};
    /// use burn_rehearsal_collective::Solo; // or a transport of your own
    ///
    /// let config = RehearsalConfig::new(Capacity::Samples(500));
    /// let buffer = RehearsalBuffer::<MyBatch>::new(&config, Box::new(Solo::new()))?;
    /// assert_eq!((buffer.rank(), buffer.world_size()), (0, 1));
    /// # Ok::<(), burn_rehearsal::error::RehearsalError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`RehearsalError::Config`] if the configuration is invalid, [`RehearsalError::Thread`] if
    /// the engine's thread cannot be started.
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
        let fields = config.fields::<B>();
        let has_late = has_late(fields);
        if has_late && config.lag == 0 {
            return Err(ConfigError::LateLag.into());
        }
        let (link, rounds) = Link::new(config, rules, collective, timings.clone())?;
        let state = State {
            link,
            rounds,
            lag: config.lag as u64,
            fields,
            schema: None,
            incoming_schema: None,
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
            late: Vec::new(),
            layouts: LayoutMaker::default(),
            open: None,
            defers: has_late && size > 1 && config.execution == Execution::Inline,
            deferred: Vec::new(),
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

    /// Does one step: offers c rows of `batch` to the buffer, and appends r representatives
    /// (replayed rows) to it.
    ///
    /// A mini-batch of b rows returns with b + min(r, eligible) rows: the incoming rows in their
    /// order, then the representatives. The first `lag` mini-batches return unchanged. See
    /// [`RehearsalBuffer`] for an example.
    ///
    /// If the buffer stores [late fields](crate::batch::layout#late-fields), call
    /// [`annotate`](crate::RowLayout::annotate) on the row layout of the returned mini-batch before
    /// any other call on the buffer. [`inspect`](Self::inspect), [`snapshot`](Self::snapshot) and
    /// [`len`](Self::len) are allowed, and show the state before the step.
    ///
    /// Collective: every rank calls it, or [`skip_step`](Self::skip_step), once per step.
    ///
    /// # Errors
    ///
    /// Any [`RehearsalError`]. An error poisons the buffer: every later step returns it again.
    /// Shapes and element types are checked immediately. The engine checks the classes and byte
    /// values of candidates. Their errors are returned `lag` calls later, or by the next call that
    /// waits for the engine. The other ranks get [`RehearsalError::PeerFailed`] with the same step
    /// number.
    pub fn rehearse(&self, batch: B) -> Result<B, RehearsalError> {
        let mut state = self.lock();
        state.guarded(|state| {
            let (batch, delivery) = self.step(state, batch)?;
            state.recycle(delivery);
            Ok(batch)
        })
    }

    /// Does one step as [`rehearse`](Self::rehearse) does, and also returns the handle of each
    /// representative: its rank, slot and generation.
    ///
    /// ```
    /// # use burn::tensor::{Device, Tensor};
    /// # use burn_rehearsal::{Capacity, RehearsalBatch, RehearsalConfig};
    /// # #[derive(RehearsalBatch)]
    /// # struct Batch { inputs: Tensor<2> }
    /// # let load = || Batch { inputs: Tensor::zeros([4, 8], &Device::flex()) };
    /// let buffer = RehearsalConfig::new(Capacity::Samples(500)).init::<Batch>()?;
    /// buffer.rehearse(load())?;
    /// let rehearsed = buffer.rehearse_with_handles(load())?;
    /// assert_eq!(rehearsed.batch.inputs.dims(), [8, 8]);
    /// assert!(rehearsed.representatives.iter().all(|handle| handle.slot < 4));
    /// # Ok::<(), burn_rehearsal::error::RehearsalError>(())
    /// ```
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

    /// Does one step. The returned delivery still holds the handles of the representatives.
    fn step(&self, state: &mut State, batch: B) -> Result<(B, Option<Delivery>), RehearsalError> {
        let Shared { config, rank, timings, .. } = &*self.shared;
        let started = Instant::now();
        // Time that other calls waited does not belong to this step.
        state.link.take_waited();
        state.drain_if_needed()?;
        state.check_annotated()?;
        let (mut rest, schema, rows) = state.take_apart(batch)?;
        let mut copied = 0;
        if config.lag == 0 {
            // The representatives of a step depend on its own candidates.
            copied += state.offer(config, *rank, &schema, rows, Instant::now())?;
        }
        let queued = state.rounds_under_way();
        let mut delivery = state.next_delivery()?;
        let waited = state.link.take_waited();
        let ready = Instant::now();
        copied += state.merge(&schema, rows, delivery.as_mut())?;
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
        let representatives = drawn.map_or(0, |delivery| delivery.handles.len());
        B::fill(&mut rest, representatives);
        let draws = delivery.as_ref().map(|delivery| delivery.draws.iter().copied());
        let draws = (0..1 + config.further_draws.len())
            .map(|draw| draws.clone().and_then(|mut draws| draws.nth(draw)).unwrap_or(0));
        let layout = state.layouts.make(state.step - 1, rows, draws, || {
            let shared: Arc<dyn Annotate> = self.shared.clone();
            Arc::downgrade(&shared)
        });
        let batch = B::from_parts(state.merged.drain(..), rest, layout)?;
        timings.step(waited, started.elapsed().saturating_sub(waited), queued, staleness);
        timings.copied(copied);
        Ok((batch, delivery))
    }

    /// Takes part in a step for which this rank has no rows.
    ///
    /// Collective, like [`rehearse`](Self::rehearse). If no rank has rows, the call does nothing:
    /// no row is inserted or drawn, and it does not count as a step.
    ///
    /// ```
    /// # mod stubs { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/stubs.rs")); }
    /// # use stubs::*;
    /// # use burn_rehearsal::{Capacity, Ranks, RehearsalConfig, error::RehearsalError};
    /// # Ranks::threads(2).run(|rank| {
    /// # let buffer = RehearsalConfig::new(Capacity::Samples(500)).init_on::<MyBatch>(&rank)?;
    /// # let mut batches = rank.is_root().then(my_batch).into_iter();
    /// match batches.next() {
    ///     Some(batch) => drop(buffer.rehearse(batch)?),
    ///     None => buffer.skip_step()?, // this rank has reached the end of its data
    /// }
    /// assert_eq!(buffer.len(), 4); // rank 0 has added 4 rows
    /// # Ok::<(), RehearsalError>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`rehearse`](Self::rehearse).
    pub fn skip_step(&self) -> Result<(), RehearsalError> {
        self.lock().guarded(|state| {
            if self.shared.size == 1 {
                // Returns an error of an epoch's last mini-batch at the end of the epoch.
                return state.check_annotated().and_then(|()| state.drain());
            }
            state.drain_if_needed()?;
            state.check_annotated()?;
            state.skip()
        })
    }

    /// Poisons the buffer with `error`, and reports to the other ranks that the data of this rank
    /// failed. Their current step returns [`RehearsalError::PeerFailed`].
    ///
    /// Call it in a custom loop if a loader fails. A [`RehearsalLoader`](crate::RehearsalLoader)
    /// does so itself.
    ///
    /// ```
    /// # mod stubs { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/stubs.rs")); }
    /// # use stubs::*;
    /// # use burn_rehearsal::{Capacity, RehearsalConfig};
    /// # let buffer = RehearsalConfig::new(Capacity::Samples(500)).init::<MyBatch>()?;
    /// # let read = || Err::<MyBatch, _>("no such file");
    /// use burn_rehearsal::error::RehearsalError;
    ///
    /// match read() {
    ///     Ok(batch) => drop(buffer.rehearse(batch)?),
    ///     Err(error) => buffer.abort(RehearsalError::Data(error.to_string())),
    /// }
    /// assert!(buffer.check().is_err());
    /// # Ok::<(), RehearsalError>(())
    /// ```
    pub fn abort(&self, error: RehearsalError) {
        let mut state = self.lock();
        if state.error.is_none() {
            state.report_failure(FailCode::Data);
            state.poison(error);
        }
    }

    /// Begins a task (experience): rows stored from now on belong to it.
    ///
    /// Tasks are numbered from 0, and training begins in task 0. If the sampling rule depends on
    /// the task, pending representatives are drawn again. Returns without waiting for the engine
    /// or for other ranks.
    ///
    /// Collective: all ranks call it at the same step.
    ///
    /// ```
    /// # use burn::tensor::{Device, Tensor};
    /// # use burn_rehearsal::{Capacity, RehearsalBatch, RehearsalConfig};
    /// # #[derive(RehearsalBatch)]
    /// # struct Batch { inputs: Tensor<2> }
    /// # let load = || Batch { inputs: Tensor::zeros([4, 8], &Device::flex()) };
    /// let buffer = RehearsalConfig::new(Capacity::Samples(500)).init::<Batch>()?;
    /// for task in 0..3 {
    ///     buffer.begin_task(task)?;
    ///     buffer.rehearse(load())?;
    /// }
    /// assert_eq!(buffer.inspect()?.task, 2);
    /// # Ok::<(), burn_rehearsal::error::RehearsalError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The errors of earlier steps, as for [`rehearse`](Self::rehearse). If the ranks are at
    /// different steps or begin different tasks, the next call returns
    /// [`RehearsalError::Disagreement`].
    pub fn begin_task(&self, task: usize) -> Result<(), RehearsalError> {
        self.lock().guarded(|state| {
            state.drain_if_needed()?;
            state.check_annotated()?;
            let (reply, answer) = Reply::channel();
            state.link.send(Request::BeginTask(u32::try_from(task).unwrap_or(u32::MAX), reply))?;
            state.outstanding.push_back(Awaited::Task(answer));
            Ok(())
        })
    }

    /// Returns the state of this rank's shard after all steps so far: rows per class, bytes, task.
    ///
    /// Waits for this rank's engine. Not collective.
    ///
    /// ```
    /// # use burn::tensor::{Device, Int, Tensor};
    /// # use burn_rehearsal::{Capacity, RehearsalBatch, RehearsalConfig};
    /// # #[derive(RehearsalBatch)]
    /// # struct Batch { #[rehearsal(class)] targets: Tensor<1, Int> }
    /// # let load = || Batch { targets: Tensor::from_data([0, 1, 1, 1], &Device::flex()) };
    /// let buffer = RehearsalConfig::new(Capacity::Samples(500)).init::<Batch>()?;
    /// buffer.rehearse(load())?;
    /// assert_eq!(buffer.inspect()?.per_class, [1, 3]);
    /// # Ok::<(), burn_rehearsal::error::RehearsalError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`rehearse`](Self::rehearse).
    pub fn inspect(&self) -> Result<Inspection, RehearsalError> {
        self.lock().guarded(|state| {
            state.drain()?;
            state.link.ask(Request::Inspect)
        })
    }

    /// Returns the state of all shards, with digests of their contents and of all draws.
    ///
    /// Collective. All ranks get the same report. Equal digests show that two runs stored and drew
    /// the same rows.
    ///
    /// ```
    /// # use burn::tensor::{Device, Tensor};
    /// # use burn_rehearsal::{Capacity, RehearsalBatch, RehearsalConfig};
    /// # #[derive(RehearsalBatch)]
    /// # struct Batch { inputs: Tensor<2> }
    /// # let load = || Batch { inputs: Tensor::zeros([4, 8], &Device::flex()) };
    /// let config = RehearsalConfig::new(Capacity::Samples(500));
    /// let buffers = [config.init::<Batch>()?, config.init::<Batch>()?];
    /// buffers.iter().try_for_each(|buffer| buffer.rehearse(load()).map(drop))?;
    /// assert_eq!(buffers[0].report()?, buffers[1].report()?);
    /// # Ok::<(), burn_rehearsal::error::RehearsalError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`rehearse`](Self::rehearse), and [`RehearsalError::Disagreement`] if the draws differ
    /// between ranks.
    pub fn report(&self) -> Result<BufferReport, RehearsalError> {
        self.ask(Request::Report)
    }

    /// Copies this rank's shard to a Burn [`Dataset`](burn::data::dataset::Dataset).
    ///
    /// Not collective. After an error, the copy contains the rows stored before the failed step.
    /// See [`Snapshot`] for an example.
    ///
    /// # Errors
    ///
    /// [`RehearsalError::EngineGone`], or [`RehearsalError::Batch`] if the device cannot be read.
    pub fn snapshot(&self) -> Result<Snapshot, RehearsalError> {
        let mut state = self.lock();
        if state.error.is_none() {
            // An error found here poisons the buffer. The stored rows are returned anyway.
            let _ = state.guarded(State::drain);
        }
        if state.error.is_some() {
            state.abandon();
        }
        state.link.ask(Request::Snapshot)
    }

    /// Writes all shards to `directory` and waits until they are on disk.
    ///
    /// The directory becomes a [checkpoint](crate::checkpoint) that is complete or absent. This is
    /// [`begin_checkpoint`](Self::begin_checkpoint) followed by [`PendingCheckpoint::wait`].
    /// Collective.
    ///
    /// After an error on a single rank, for example in a mini-batch, the checkpoint contains the
    /// buffer as it was before the failed step. On several ranks nothing can be written after an
    /// error, since the other ranks have left.
    ///
    /// ```
    /// # use burn::tensor::{Device, Tensor};
    /// # use burn_rehearsal::{Capacity, RehearsalBatch, RehearsalConfig};
    /// # #[derive(RehearsalBatch)]
    /// # struct Batch { inputs: Tensor<2> }
    /// # let (device, directory) = (Device::flex(), tempfile::tempdir()?);
    /// # let directory = directory.path().join("buffer");
    /// let config = RehearsalConfig::new(Capacity::Samples(500));
    /// let buffer = config.init::<Batch>()?;
    /// buffer.rehearse(Batch { inputs: Tensor::zeros([4, 8], &device) })?;
    /// buffer.checkpoint(&directory)?;
    ///
    /// let resumed = config.init::<Batch>()?;
    /// assert_eq!(resumed.restore(&directory, &device)?.steps, 1);
    /// assert_eq!(resumed.report()?, buffer.report()?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`RehearsalError::Checkpoint`] if a rank cannot write. The buffer stays usable. Otherwise as
    /// for [`rehearse`](Self::rehearse).
    pub fn checkpoint(&self, directory: impl AsRef<Path>) -> Result<Saved, RehearsalError> {
        let saved = self.begin_checkpoint(directory)?.wait();
        // Returns an error of the engine now instead of at the next step.
        let mut state = self.lock();
        if state.error.is_none() {
            state.guarded(State::drain)?;
        }
        saved
    }

    /// Begins to write all shards to `directory` in the background.
    ///
    /// Returns when the steps so far are done, without waiting for other ranks or for a disk.
    /// Training can continue at once. The checkpoint contains the buffer as it is now.
    ///
    /// Collective: all ranks call it between the same two steps, with the same directory, on a file
    /// system that they share. An earlier checkpoint in that directory is removed. To keep it until
    /// this one is complete, use one directory per checkpoint.
    ///
    /// The checkpoint contains everything that later steps depend on: rows and their handles,
    /// tables, the states of the policies, and pending representatives. The engine finishes an
    /// earlier checkpoint first. It then copies everything except the rows, and passes the rows to
    /// a writer thread between steps. If a step overwrites a row before it is passed, the row is
    /// copied first. The copies take at most the shard's bytes, and usually a few rows. Checkpoints
    /// do not change results. With [`Execution::Inline`](crate::Execution::Inline), this call
    /// passes all rows.
    ///
    /// ```
    /// # use burn::tensor::{Device, Tensor};
    /// # use burn_rehearsal::{Capacity, RehearsalBatch, RehearsalConfig};
    /// # #[derive(RehearsalBatch)]
    /// # struct Batch { inputs: Tensor<2> }
    /// # let load = || Batch { inputs: Tensor::zeros([4, 8], &Device::flex()) };
    /// # let directory = tempfile::tempdir()?;
    /// let buffer = RehearsalConfig::new(Capacity::Samples(500)).init::<Batch>()?;
    /// buffer.rehearse(load())?;
    /// let pending = buffer.begin_checkpoint(&directory)?;
    /// buffer.rehearse(load())?; // while the checkpoint is written
    /// assert!(pending.wait()?.bytes > 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The errors of the steps so far, as for [`rehearse`](Self::rehearse).
    /// [`PendingCheckpoint::wait`] returns the outcome of the checkpoint.
    pub fn begin_checkpoint(
        &self,
        directory: impl AsRef<Path>,
    ) -> Result<PendingCheckpoint, RehearsalError> {
        let directory = directory.as_ref().to_path_buf();
        let mut state = self.lock();
        if state.error.is_some() && self.shared.size == 1 {
            // The failed step has consumed its representatives. The engine draws them again.
            state.abandon();
            let (ticket, checkpoint) = PendingCheckpoint::new(state.link.another_asker());
            state.link.ask(|reply| Request::Save(directory, None, ticket, reply))?;
            return Ok(checkpoint);
        }
        state.guarded(|state| {
            state.drain()?;
            state.check_annotated()?;
            let (ticket, checkpoint) = PendingCheckpoint::new(state.link.another_asker());
            let pending = state.ready.iter().cloned().collect();
            let (reply, answer) = Reply::channel();
            state.link.send(Request::Save(directory, Some(pending), ticket, reply))?;
            state.outstanding.push_back(Awaited::Done(answer));
            Ok(checkpoint)
        })
    }

    /// Resumes from a checkpoint. [`checkpoint`](Self::checkpoint) has an example.
    ///
    /// `device` is the device of the mini-batches to come. All options that can change a result
    /// must be those of the checkpoint. The buffer continues with the task of the checkpoint. The
    /// caller restores the positions of the loaders.
    ///
    /// On the same number of ranks, every later step gives the same bits as without the
    /// interruption. On another number, every stored sample is kept exactly once, and shards,
    /// quotas and draws follow the new world size.
    ///
    /// Collective: all ranks call it before the first step.
    ///
    /// # Errors
    ///
    /// [`RehearsalError::Checkpoint`] with the file that is missing, damaged, or of another buffer.
    /// The buffer then stays empty and usable. [`RehearsalError::Misuse`] after the first step.
    pub fn restore(
        &self,
        directory: impl AsRef<Path>,
        device: &Device,
    ) -> Result<Restored, RehearsalError> {
        let directory = directory.as_ref().to_path_buf();
        let mut state = self.lock();
        let resumed = state.guarded(|state| {
            state.drain()?;
            state.check_annotated()?;
            let fields = state.fields;
            state.link.ask(|reply| Request::Restore(directory, device.clone(), fields, reply))
        })?;
        let Resumed { restored, schema, pending } = resumed?;
        state.step = restored.steps;
        let incoming = |schema: &Arc<Schema>| match state.has_late() {
            true => Arc::new(schema.without_late()),
            false => schema.clone(),
        };
        state.incoming_schema = schema.as_ref().map(incoming);
        state.schema = schema;
        state.ready = pending.into();
        Ok(restored)
    }

    /// Waits for all steps so far and for the answer to a request. An error if the last mini-batch
    /// was not annotated.
    fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, RehearsalError> {
        self.lock().guarded(|state| {
            state.drain()?;
            state.check_annotated()?;
            state.link.ask(request)
        })
    }
}

impl Annotate for Shared {
    fn annotate(
        &self,
        step: u64,
        late: &mut dyn FnMut(&mut Vec<Column>) -> Result<(), BatchError>,
    ) {
        if !self.config.late_fields {
            return;
        }
        let started = Instant::now();
        let mut state = self.state.lock();
        if state.error.is_some() {
            return;
        }
        // The next call returns an error.
        if let Ok(copied) = state.guarded(|state| state.annotate(step, late)) {
            self.timings.copied(copied);
            self.timings.assemble(started);
        }
    }
}

impl<B> RehearsalBuffer<B> {
    /// This rank, in `0..world_size`.
    pub fn rank(&self) -> usize {
        self.shared.rank
    }

    /// The number of ranks.
    pub fn world_size(&self) -> usize {
        self.shared.size
    }

    /// The number of rows that all ranks together store after the steps so far.
    ///
    /// Waits for this rank's engine. Not collective. After an error, it is the number before the
    /// failed step.
    pub fn len(&self) -> usize {
        // The next step returns the error.
        let _ = self.lock().guarded(State::drain);
        self.shared.timings.read().stored as usize
    }

    /// Whether no rank stores a row. Waits as [`len`](Self::len) does.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of rows that all ranks together can store, |B|. `None` before the first
    /// mini-batch if the capacity is configured in bytes. With late fields, it is known after the
    /// first [`annotate`](crate::RowLayout::annotate).
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

    /// The time spent and the work done so far on this rank.
    pub fn timings(&self) -> EngineTimings {
        self.shared.timings.read()
    }

    /// The counters behind [`timings`](Self::timings).
    pub(crate) fn counters(&self) -> Arc<Timings> {
        self.shared.timings.clone()
    }

    /// Returns the error that poisoned the buffer, if any.
    ///
    /// Call it after training with a learner that cannot return the error of a loader or batcher.
    /// On one rank it waits for the engine, and therefore also finds an error in the last
    /// mini-batch.
    ///
    /// ```
    /// # mod stubs { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/stubs.rs")); }
    /// # use stubs::*;
    /// # use burn_rehearsal::{Capacity, RehearsalConfig};
    /// # let loader = DataLoaderBuilder::new(MyBatcher).batch_size(10).build(training_set(0));
    /// # let learn = |data: std::sync::Arc<dyn DataLoader<MyBatch>>| data.iter().for_each(drop);
    /// let buffer = RehearsalConfig::new(Capacity::Samples(500)).init::<MyBatch>()?;
    /// learn(buffer.attach(loader));
    /// buffer.check()?;
    /// # Ok::<(), burn_rehearsal::error::RehearsalError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The error that poisoned the buffer. Every later step returns it too.
    pub fn check(&self) -> Result<(), RehearsalError> {
        let mut state = self.lock();
        match self.shared.size {
            1 => state.guarded(State::drain),
            _ => state.error.clone().map_or(Ok(()), Err),
        }
    }

    /// Prints the error that poisoned the buffer to standard error, once, for callers that cannot
    /// return it.
    pub(crate) fn report_error(&self, error: &RehearsalError) {
        tracing::error!(%error, "the rehearsal buffer is poisoned; mini-batches stay unchanged");
        notice(&self.shared.reported, || {
            format!("rehearsal has stopped; training continues without it: {error}")
        });
    }

    /// Reserves the buffer for one iterator. False if another iterator is alive.
    pub(crate) fn start_iterating(&self) -> bool {
        !std::mem::replace(&mut self.lock().iterating, true)
    }

    pub(crate) fn stop_iterating(&self) {
        self.lock().iterating = false;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic under the lock leaves at worst a request without its answer. The next receive
        // turns it into an error.
        self.shared.state.lock()
    }
}
