//! The state that the threads of a rank use in their turns. Each handle advances its operation, and
//! every turn also handles notices.
#![allow(
    unsafe_code,
    reason = "MPI's handles are pointers in some libraries, and threads must share them"
)]

use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use super::calls::{Comm, Fault};
use super::ended;
use super::endpoint::Endpoint;
use super::notice::{Handle, Notice};
use super::reduce::others;
use super::watch::Watch;
use super::work::{Answer, Progress, Work};
use crate::activity::World;
use crate::call::Call;
use crate::launch::print_failure;
use crate::sync::Arc;
use crate::{CollectiveError, Incoming, MpiOptions, Outgoing};

/// The time between two checks of notices.
const LOOK: Duration = Duration::from_millis(2);
/// The time after an operation during which MPI may have accepted messages but not yet sent them.
const LINGER: Duration = Duration::from_millis(40);
/// The time after which a waiting rank notifies the pending ranks, and the interval of repetition.
const NOTIFY: Duration = Duration::from_secs(1);
/// The number of answers from ranks that have finished an operation after which their data is
/// considered missing.
const ANSWERS: u32 = 5;

/// The state that the threads of this rank share.
pub(super) struct Service {
    options: MpiOptions,
    rank: usize,
    size: usize,
    endpoints: Vec<Endpoint>,
    watch: Watch,
    /// Counts what can proceed in this process.
    pub(super) world: Arc<World>,
    last_look: Instant,
    /// When the last operation ended.
    last_end: Instant,
    /// `Left` notices for groups that this rank does not have yet: (peer, group, operation).
    early: Vec<(usize, u64, u64)>,
    /// Set when this rank has finished: the channel to notify when all ranks have.
    finish: Option<SyncSender<Result<(), CollectiveError>>>,
    /// Set when this rank has failed: the time at which the run is aborted.
    deadline: Option<Instant>,
    /// Whether MPI keeps the memory of a caller, or has failed. It may then be called only to end
    /// the run.
    broken: bool,
}

// SAFETY: communicators and requests, which are pointers in some libraries, are not `Send`. MPI is
// initialized with `MPI_THREAD_SERIALIZED`, so they belong to no thread. `Turns` ensures that only
// one thread uses them at a time.
unsafe impl Send for Service {}

/// How the run ends.
pub(super) enum End {
    /// All ranks have finished, and MPI can be finalized. The channel is notified afterwards.
    Clean(SyncSender<Result<(), CollectiveError>>),
    /// The run must be aborted.
    Abort,
}

/// The state of a handle's operation at the end of a turn.
pub(super) enum Turn {
    /// The operation is over.
    Answer(Answer),
    /// The operation is in progress. True if it has entered another stage.
    Waiting(bool),
    /// The run is ending, and MPI keeps the memory of the caller, which must not continue.
    Aborting,
}

impl Service {
    /// The service of a rank and its first handle, number 0. MPI is running.
    pub(super) fn new(options: &MpiOptions, rank: usize, size: usize) -> Result<Self, Fault> {
        let world = Comm::world();
        let watch = Watch::new(world.duplicate_now()?, rank, size, options.silence_limit)?;
        let now = Instant::now();
        let mut service = Self {
            options: options.clone(),
            rank,
            size,
            endpoints: Vec::new(),
            watch,
            // Heartbeats report a standstill.
            world: World::new(|_| {}),
            last_look: now,
            last_end: now,
            early: Vec::new(),
            finish: None,
            deadline: None,
            broken: false,
        };
        service.handle(world.duplicate_now()?, 0);
        Ok(service)
    }

    /// Adds the endpoint of a new handle and returns its number.
    fn handle(&mut self, comm: Comm, group: u64) -> usize {
        let mut endpoint = Endpoint::new(comm, (self.rank, self.size), group, &self.options);
        self.early.retain(|&(peer, left, operation)| {
            if left == group {
                endpoint.left[peer] = operation;
            }
            left != group
        });
        self.endpoints.push(endpoint);
        self.endpoints.len() - 1
    }

    /// Begins and advances an operation of a handle that has none in progress.
    pub(super) fn start(
        &mut self,
        handle: usize,
        work: Work,
        outgoing: &[Outgoing<'_>],
        incoming: &mut [Incoming<'_>],
    ) -> Turn {
        if self.broken {
            return Turn::Aborting;
        }
        if self.watch.has_parted() {
            return Turn::Answer(Err(ended(work.step)));
        }
        let endpoint = &mut self.endpoints[handle];
        // `advance` reports it like every other failure.
        endpoint.fault = endpoint.start(work, outgoing, incoming).err();
        self.advance(handle)
    }

    /// Advances the operation of a handle, and handles notices.
    pub(super) fn advance(&mut self, handle: usize) -> Turn {
        let mut moved = false;
        if !self.broken {
            match self.endpoints[handle].advance() {
                Ok(Progress::Nothing) => {}
                Ok(Progress::Moved) => moved = true,
                Ok(Progress::Over) => self.complete(handle),
                Err(fault) => self.fail(handle, self.error_of(handle, fault)),
            }
            self.look(Instant::now());
        }
        // A finished operation has its answer even if the run has failed.
        match self.endpoints[handle].answer.take() {
            Some(answer) => Turn::Answer(answer),
            None if self.broken => Turn::Aborting,
            None => Turn::Waiting(moved),
        }
    }

    /// The turn of the communication thread. Handles notices, and returns how the run ends, if it
    /// does.
    pub(super) fn attend(&mut self) -> Option<End> {
        let now = Instant::now();
        self.look(now);
        if self.broken || self.deadline.is_some_and(|deadline| now >= deadline) {
            // No other thread may call MPI after this.
            self.broken = true;
            return Some(End::Abort);
        }
        let idle = self.endpoints.iter().all(|endpoint| endpoint.active.is_none());
        if self.finish.is_some() && idle && !self.watch.has_parted() {
            (0..self.endpoints.len()).for_each(|handle| self.close(handle));
            self.watch.part();
        }
        self.finish.take_if(|_| self.watch.is_done()).map(End::Clean)
    }

    /// The time for which the communication thread sleeps. Operations in progress do not matter,
    /// because their callers take turns.
    pub(super) fn pause(&self) -> Duration {
        let soon =
            self.finish.is_some() || self.deadline.is_some() || self.last_end.elapsed() < LINGER;
        if soon { LOOK / 2 } else { 10 * LOOK }
    }

    /// Marks the function of this rank as finished. `notify` receives a value when those of all
    /// ranks have finished.
    pub(super) fn finish(&mut self, notify: SyncSender<Result<(), CollectiveError>>) {
        self.finish = Some(notify);
    }

    /// Notifies the other ranks that the function of this rank has failed. The run is aborted after
    /// `grace`.
    pub(super) fn give_up(&mut self, grace: Duration) {
        self.watch.notify_all(Notice::Failed);
        self.deadline = Some(Instant::now() + grace);
    }

    /// Notifies the other ranks that this rank takes part in no further operation of a handle.
    pub(super) fn close(&mut self, handle: usize) {
        let endpoint = &mut self.endpoints[handle];
        if !std::mem::replace(&mut endpoint.closed, true) {
            self.watch.notify_all(Notice::Left { group: endpoint.group, operation: endpoint.next });
        }
    }

    /// Sets the purpose of a handle.
    pub(super) fn set_purpose(&mut self, handle: usize, purpose: &'static str) {
        self.endpoints[handle].purpose = Some(purpose);
    }

    /// Sets the answer for a handle whose operation is over.
    fn complete(&mut self, index: usize) {
        let Some(active) = self.endpoints[index].active.take() else { return };
        let Work { call, step, .. } = active.work;
        let answer = match call {
            Call::Duplicate => match self.endpoints[index].take_child() {
                Ok((comm, group)) => Ok(Some(self.handle(comm, group))),
                Err(Fault { call, reason, .. }) => {
                    Err(CollectiveError::Transport { step, call, reason })
                }
            },
            _ => Ok(None),
        };
        self.last_end = Instant::now();
        self.endpoints[index].answer = Some(answer);
    }

    /// Sets the answer for a handle whose operation cannot be completed. If MPI keeps the memory of
    /// the caller, the run must end.
    fn fail(&mut self, index: usize, error: CollectiveError) {
        let endpoint = &mut self.endpoints[index];
        if !endpoint.abandon() {
            print_failure(self.rank, &error.to_string());
            self.watch.notify_all(Notice::Failed);
            // An error does not matter, because the run ends in any case.
            let _ = self.watch.look(Instant::now(), |_, _| {});
            self.broken = true;
            return;
        }
        if endpoint.active.take().is_some() {
            // The failed operation is the last one in which this rank took part.
            endpoint.answer = Some(Err(error));
        }
        self.close(index);
    }

    fn error_of(&self, index: usize, fault: Fault) -> CollectiveError {
        let active = self.endpoints[index].active.as_ref();
        let step = active.map_or(0, |active| active.work.step);
        let Fault { call, reason, size } = fault;
        match active.filter(|_| size) {
            Some(active) => active.mismatch(format!("{}: {reason}", active.work.call)),
            None => CollectiveError::Transport { step, call, reason },
        }
    }

    /// At intervals, receives notices, sends heartbeats, and checks whether an operation waits in
    /// vain.
    fn look(&mut self, now: Instant) {
        if self.broken || now.saturating_duration_since(self.last_look) < LOOK {
            return;
        }
        self.last_look = now;
        let mut failed = Vec::new();
        if self.watch.is_beat_due(now) && self.is_deadlock() {
            self.watch.notify_all(Notice::Deadlock);
            failed = self.deadlock();
        }
        let mut heard = Vec::new();
        if let Err(fault) = self.watch.look(now, |peer, notice| heard.push((peer, notice))) {
            print_failure(self.rank, &format!("{} failed: {}", fault.call, fault.reason));
            self.broken = true;
            return;
        }
        for (peer, notice) in heard {
            self.hear(peer, notice, &mut failed);
        }
        for index in 0..self.endpoints.len() {
            if let Some(error) = self.in_vain(index, now) {
                failed.push((index, error));
            }
        }
        for (index, error) in failed {
            if !self.broken {
                self.fail(index, error);
            }
        }
    }

    fn hear(&mut self, peer: usize, notice: Notice, failed: &mut Vec<(usize, CollectiveError)>) {
        let (group, operation) = match notice {
            Notice::Left { group, operation }
            | Notice::Waiting { group, operation, .. }
            | Notice::Done { group, operation } => (group, operation),
            Notice::Deadlock => return failed.extend(self.deadlock()),
            _ => return,
        };
        let Some(index) = self.endpoints.iter().position(|endpoint| endpoint.group == group) else {
            if matches!(notice, Notice::Left { .. }) {
                self.early.push((peer, group, operation));
            }
            return;
        };
        let endpoint = &mut self.endpoints[index];
        let next = endpoint.next;
        let active = endpoint.active.as_mut().filter(|_| next.checked_sub(1) == Some(operation));
        match (notice, active) {
            (Notice::Left { .. }, _) => endpoint.left[peer] = operation,
            (Notice::Waiting { .. }, None) if next > operation => {
                self.watch.notify(peer, Notice::Done { group, operation });
            }
            (Notice::Waiting { call: theirs, .. }, Some(active)) if active.work.call != theirs => {
                let call = active.work.call;
                // The peer detects the mismatch in the same way.
                self.watch.notify(peer, Notice::Waiting { group, operation, call });
                let reason = format!("{call} on rank {}; {theirs} on rank {peer}", self.rank);
                failed.push((index, active.mismatch(reason)));
            }
            (Notice::Done { .. }, Some(active)) => {
                active.done_elsewhere += 1;
                if active.done_elsewhere >= ANSWERS {
                    let call = active.work.call;
                    let reason =
                        format!("{call}: rank {peer} has finished, but its data did not arrive");
                    failed.push((index, active.mismatch(reason)));
                }
            }
            _ => {}
        }
    }

    /// Updates the standstill of this rank, and returns whether there is certainly a deadlock.
    fn is_deadlock(&mut self) -> bool {
        let Self { endpoints, watch, world, .. } = self;
        let handles = endpoints.iter().map(|endpoint| {
            let call = endpoint.active.as_ref().map(|active| active.work.call);
            let pending = if call.is_some() { endpoint.pending_ranks() } else { Vec::new() };
            (Handle { group: endpoint.group, next: endpoint.next, call, blocker: None }, pending)
        });
        // A thread that has yet to take its answer can proceed.
        let answered = endpoints.iter().any(|endpoint| endpoint.answer.is_some());
        let standstill = world.standstill_number().filter(|_| !answered);
        watch.standstills.set_own(standstill, handles);
        watch.standstills.is_deadlock()
    }

    /// The errors of all operations in progress when no rank can proceed.
    fn deadlock(&self) -> Vec<(usize, CollectiveError)> {
        let name = |group| {
            let index = self.endpoints.iter().position(|endpoint| endpoint.group == group);
            let number = || index.map_or_else(|| "?".to_owned(), |index| index.to_string());
            let purpose = index.and_then(|index| self.endpoints[index].purpose);
            purpose.map_or_else(number, str::to_owned)
        };
        let waiting = self.watch.standstills.waiting(name);
        let error = |(index, endpoint): (usize, &Endpoint)| {
            let step = endpoint.active.as_ref()?.work.step;
            Some((index, CollectiveError::Deadlock { step, waiting: waiting.clone() }))
        };
        self.endpoints.iter().enumerate().filter_map(error).collect()
    }

    /// Returns the reason why the operation of a handle cannot be completed, if there is one.
    fn in_vain(&mut self, index: usize, now: Instant) -> Option<CollectiveError> {
        let endpoint = &self.endpoints[index];
        let active = endpoint.active.as_ref()?;
        let (operation, step) = (endpoint.next - 1, active.work.step);
        let is_gone = |peer: usize| self.watch.is_gone(peer) || endpoint.left[peer] <= operation;
        let some_gone = others(self.rank, self.size).any(is_gone);
        let stalled = self.options.stall_limit.is_some_and(|limit| now - active.since > limit);
        let notify = now - active.notified >= NOTIFY;
        if !(some_gone || stalled || notify) {
            return None;
        }
        let pending = endpoint.pending_ranks();
        // A rank that has left explains more than a silent one. One rank is enough.
        let said_so = |peer: &&usize| is_gone(**peer) && !self.watch.is_silent(**peer);
        if let Some(&rank) = pending.iter().find(said_so) {
            return Some(CollectiveError::PeerFailed { rank, step });
        }
        let silent: Vec<_> =
            pending.iter().copied().filter(|peer| self.watch.is_silent(*peer)).collect();
        if !silent.is_empty() {
            return Some(CollectiveError::Silent {
                ranks: silent,
                step,
                limit: self.options.silence_limit,
            });
        }
        if stalled && !pending.is_empty() {
            let reason = format!(
                "{} has waited for ranks {pending:?} for {:?}",
                active.work.call,
                now - active.since
            );
            return Some(CollectiveError::Transport { step, call: "progress limit", reason });
        }
        if notify {
            let notice =
                Notice::Waiting { group: endpoint.group, operation, call: active.work.call };
            for peer in pending {
                self.watch.notify(peer, notice);
            }
            if let Some(active) = &mut self.endpoints[index].active {
                active.notified = now;
            }
        }
        None
    }
}
