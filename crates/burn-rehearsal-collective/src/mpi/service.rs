//! The communication thread: the only caller of MPI. It serves all handles of its rank and never blocks in MPI.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::time::{Duration, Instant};

use super::calls::{Comm, Fault};
use super::endpoint::Endpoint;
use super::job::{Answer, Job, Work};
use super::notice::Notice;
use super::run::complain;
use super::watch::Watch;
use super::{Mpi, MpiOptions, Parcels, Pulse};
use crate::CollectiveError;
use crate::call::Call;

/// Between two looks at notices.
const LOOK: Duration = Duration::from_millis(2);
/// A rank that waits for longer tells the ranks that it waits for, again and again.
const TELL: Duration = Duration::from_secs(1);
/// If a rank answers so often that it has long finished the operation, its data will not come any more.
const ANSWERS: u32 = 5;
/// Waiting for messages: spin, then yield, then sleep.
const SPIN: Duration = Duration::from_micros(20);
const YIELD: Duration = Duration::from_micros(300);
const SLEEP: Duration = Duration::from_micros(100);

/// Everything the communication thread knows.
pub(super) struct Service {
    options: MpiOptions,
    rank: usize,
    size: usize,
    jobs: Receiver<Job>,
    /// For new handles.
    sender: SyncSender<Job>,
    endpoints: Vec<Endpoint>,
    watch: Watch,
    /// Tells the handles that this thread is not stuck in MPI.
    pulse: Pulse,
    last_look: Instant,
    /// Told by `Left` about groups that this rank does not have yet.
    early: Vec<(usize, u64, u64)>,
    /// Set when this rank has finished: whom to tell when all have.
    finish: Option<SyncSender<Result<(), CollectiveError>>>,
    /// Set when this rank has failed: when the run is ended.
    deadline: Option<Instant>,
}

/// How a service ends.
pub(super) enum End {
    /// All ranks have finished; MPI may be finalised. The channel is told afterwards.
    Clean(SyncSender<Result<(), CollectiveError>>),
    /// The run must be aborted.
    Abort,
}

impl Service {
    /// The service of a rank, with its first handle. MPI is running.
    pub(super) fn new(options: &MpiOptions) -> Result<(Self, Mpi, SyncSender<Job>), Fault> {
        let world = Comm::world();
        let (rank, size) = world.rank_and_size()?;
        let watch = Watch::new(world.duplicate_now()?, rank, size, options.silence_limit)?;
        // Room for a job of each of a few handles; who finds none waits for a moment.
        let (sender, jobs) = sync_channel(16);
        let mut service = Self {
            options: options.clone(),
            rank,
            size,
            jobs,
            sender,
            endpoints: Vec::new(),
            watch,
            pulse: Pulse { looks: Arc::default(), limit: options.silence_limit },
            last_look: Instant::now(),
            early: Vec::new(),
            finish: None,
            deadline: None,
        };
        let first = service.handle(world.duplicate_now()?, 0, 0);
        let sender = service.sender.clone();
        Ok((service, first, sender))
    }

    /// Makes a handle and its endpoint.
    fn handle(&mut self, comm: Comm, group: u64, step: u64) -> Mpi {
        let (answer, answers) = sync_channel(1);
        let mut endpoint = Endpoint::new(comm, (self.rank, self.size), group, answer, &self.options);
        self.early.retain(|&(peer, left, operation)| {
            if left == group {
                endpoint.left[peer] = operation;
            }
            left != group
        });
        self.endpoints.push(endpoint);
        Mpi {
            rank: self.rank,
            size: self.size,
            step,
            handle: self.endpoints.len() - 1,
            jobs: self.sender.clone(),
            answers,
            pulse: self.pulse.clone(),
            poison: None,
            parcels: Parcels::default(),
        }
    }

    /// Serves until all ranks have finished, or the run must be aborted.
    pub(super) fn run(&mut self) -> End {
        let mut waiting_since = Instant::now();
        loop {
            let mut progress = self.take_jobs();
            for index in 0..self.endpoints.len() {
                match self.endpoints[index].advance() {
                    Ok(false) => {}
                    Ok(true) => {
                        progress = true;
                        self.complete(index);
                    }
                    Err(fault) => {
                        let error = self.error_of(index, fault);
                        if self.fail(index, error).is_err() {
                            return End::Abort;
                        }
                    }
                }
            }
            let now = Instant::now();
            if progress {
                waiting_since = now;
            }
            if now - self.last_look >= LOOK {
                self.last_look = now;
                self.pulse.looks.fetch_add(1, Ordering::Relaxed);
                if self.look(now).is_err() {
                    return End::Abort;
                }
                let idle = self.endpoints.iter().all(|endpoint| endpoint.active.is_none());
                if self.finish.is_some() && idle && !self.watch.has_parted() {
                    (0..self.endpoints.len()).for_each(|handle| self.close(handle));
                    self.watch.part();
                }
                if let Some(told) = self.finish.take_if(|_| self.watch.is_done()) {
                    return End::Clean(told);
                }
                if self.deadline.is_some_and(|deadline| now >= deadline) {
                    return End::Abort;
                }
            }
            self.wait(now - waiting_since);
        }
    }

    /// Spins, yields or sleeps, depending on how long there has been nothing to do; a job ends a sleep.
    fn wait(&mut self, waited: Duration) {
        let busy = self.endpoints.iter().any(|endpoint| endpoint.active.is_some());
        let pause = match (busy, waited) {
            (true, waited) if waited < SPIN => return std::hint::spin_loop(),
            (true, waited) if waited < YIELD => return std::thread::yield_now(),
            (true, _) => SLEEP,
            // What MPI has accepted but not yet put on the wire, and notices.
            (false, waited) if waited < 20 * LOOK || self.finish.is_some() || self.deadline.is_some() => LOOK / 2,
            (false, _) => 10 * LOOK,
        };
        match self.jobs.recv_timeout(pause) {
            Ok(job) => self.take(job),
            // There is always a sender: this thread keeps one for new handles.
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
    }

    /// Takes what has been asked for meanwhile; true if there was something.
    fn take_jobs(&mut self) -> bool {
        let mut some = false;
        loop {
            match self.jobs.try_recv() {
                Ok(job) => self.take(job),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return some,
            }
            some = true;
        }
    }

    fn take(&mut self, job: Job) {
        match job {
            Job::Start { handle, work } if self.watch.has_parted() => {
                let error = CollectiveError::Transport { step: work.step, call: "MPI", reason: "the run has ended".to_owned() };
                // The handle waits for this.
                let _ = self.endpoints[handle].answers.send(Answer { result: Err(error), parcels: work.parcels });
            }
            Job::Start { handle, work } => {
                if let Err(fault) = self.endpoints[handle].start(work) {
                    // Reported by the next `advance`, like every other failure.
                    self.endpoints[handle].fault = Some(fault);
                }
            }
            Job::Close { handle } => self.close(handle),
            Job::Finish(told) => self.finish = Some(told),
            Job::Fail(grace) => {
                self.watch.tell_all(Notice::Failed);
                self.deadline = Some(Instant::now() + grace);
            }
        }
    }

    /// Tells the others that this rank takes part in no further operation of a handle.
    fn close(&mut self, handle: usize) {
        let endpoint = &mut self.endpoints[handle];
        if !std::mem::replace(&mut endpoint.closed, true) {
            self.watch.tell_all(Notice::Left { group: endpoint.group, operation: endpoint.next });
        }
    }

    /// Answers a handle whose operation is over.
    fn complete(&mut self, index: usize) {
        let Some(active) = self.endpoints[index].active.take() else { return };
        let Work { call, step, parcels, .. } = active.work;
        let result = match call {
            Call::Duplicate => match self.endpoints[index].take_child() {
                Ok((comm, group)) => Ok(Some(self.handle(comm, group, step))),
                Err(Fault { call, reason, .. }) => Err(CollectiveError::Transport { step, call, reason }),
            },
            _ => Ok(None),
        };
        // The handle waits for this.
        let _ = self.endpoints[index].answers.send(Answer { result, parcels });
    }

    /// Answers a handle whose operation cannot be completed. If MPI does not let go of the caller's memory, the process must end.
    fn fail(&mut self, index: usize, error: CollectiveError) -> Result<(), End> {
        let endpoint = &mut self.endpoints[index];
        let released = endpoint.abandon();
        if !released {
            complain(self.rank, &error.to_string());
            self.watch.tell_all(Notice::Failed);
            // Best effort: the run ends in any case.
            let _ = self.watch.look(Instant::now(), |_, _| {});
            return Err(End::Abort);
        }
        if let Some(active) = endpoint.active.take() {
            // An operation that began but failed is the last one in which this rank took part.
            let _ = endpoint.answers.send(Answer { result: Err(error), parcels: active.work.parcels });
        }
        self.close(index);
        Ok(())
    }

    fn error_of(&self, index: usize, fault: Fault) -> CollectiveError {
        let active = self.endpoints[index].active.as_ref();
        let step = active.map_or(0, |active| active.work.step);
        match (fault.size, active) {
            (true, Some(active)) => CollectiveError::Mismatch { step, reason: format!("{}: {}", active.work.call, fault.reason) },
            _ => CollectiveError::Transport { step, call: fault.call, reason: fault.reason },
        }
    }

    /// Receives notices, sends heartbeats, and looks whether somebody waits in vain.
    fn look(&mut self, now: Instant) -> Result<(), End> {
        let mut heard = Vec::new();
        if let Err(fault) = self.watch.look(now, |peer, notice| heard.push((peer, notice))) {
            complain(self.rank, &format!("{} failed: {}", fault.call, fault.reason));
            return Err(End::Abort);
        }
        let mut broken = Vec::new();
        for (peer, notice) in heard {
            self.hear(peer, notice, &mut broken);
        }
        for index in 0..self.endpoints.len() {
            if let Some(error) = self.in_vain(index, now) {
                broken.push((index, error));
            }
        }
        broken.into_iter().try_for_each(|(index, error)| self.fail(index, error))
    }

    fn hear(&mut self, peer: usize, notice: Notice, broken: &mut Vec<(usize, CollectiveError)>) {
        let find = |group| self.endpoints.iter().position(|endpoint| endpoint.group == group);
        match notice {
            Notice::Left { group, operation } => match find(group) {
                Some(index) => self.endpoints[index].left[peer] = operation,
                None => self.early.push((peer, group, operation)),
            },
            Notice::Waiting { group, operation, call } => {
                let Some(index) = find(group) else { return };
                let endpoint = &self.endpoints[index];
                let active = endpoint.active.as_ref().filter(|_| endpoint.next == operation + 1);
                if active.is_none() && endpoint.next > operation {
                    self.watch.tell(peer, Notice::Done { group, operation });
                }
                if let Some(active) = active.filter(|active| active.work.call != call) {
                    let reason = format!("{} on rank {}; {call} on rank {peer}", active.work.call, self.rank);
                    // The other rank finds out in the same way.
                    self.watch.tell(peer, Notice::Waiting { group, operation, call: active.work.call });
                    broken.push((index, CollectiveError::Mismatch { step: active.work.step, reason }));
                }
            }
            Notice::Done { group, operation } => {
                let Some(index) = find(group) else { return };
                let endpoint = &mut self.endpoints[index];
                let next = endpoint.next;
                if let Some(active) = endpoint.active.as_mut().filter(|_| next == operation + 1) {
                    active.done_elsewhere += 1;
                    if active.done_elsewhere >= ANSWERS {
                        let reason = format!("{}: rank {peer} has finished it, but its data have not come", active.work.call);
                        broken.push((index, CollectiveError::Mismatch { step: active.work.step, reason }));
                    }
                }
            }
            Notice::Alive | Notice::Failed | Notice::Goodbye => {}
        }
    }

    /// Why the operation of a handle cannot be completed, if that is known.
    fn in_vain(&mut self, index: usize, now: Instant) -> Option<CollectiveError> {
        let endpoint = &self.endpoints[index];
        let active = endpoint.active.as_ref()?;
        let (operation, step) = (endpoint.next - 1, active.work.step);
        let is_gone = |peer: usize| self.watch.is_gone(peer) || endpoint.left[peer] <= operation;
        let somebody_gone = self.watch.gone().next().is_some() || endpoint.left.iter().any(|left| *left <= operation);
        let stalled = self.options.stall_limit.is_some_and(|limit| now - active.since > limit);
        let tell = now - active.told >= TELL;
        if !(somebody_gone || stalled || tell) {
            return None;
        }
        let mut pending = Vec::new();
        endpoint.pending(|peer| match peer {
            Some(peer) => pending.push(peer),
            None => pending.extend((0..self.size).filter(|peer| *peer != self.rank)),
        });
        pending.sort_unstable();
        pending.dedup();
        // One that said why it left explains more than one that is merely silent; the first of several will do.
        if let Some(&rank) = pending.iter().find(|peer| is_gone(**peer)) {
            let silent: Vec<_> = pending.iter().copied().filter(|peer| self.watch.is_silent(*peer)).collect();
            return Some(match silent.len() {
                0 | 1 => CollectiveError::PeerFailed { rank, step },
                _ => CollectiveError::Transport {
                    step,
                    call: "heartbeat",
                    reason: format!("no sign of life from ranks {silent:?} for {:?}", self.options.silence_limit),
                },
            });
        }
        if stalled && !pending.is_empty() {
            let reason = format!("{} does not end: waiting for ranks {pending:?} since {:?}", active.work.call, now - active.since);
            return Some(CollectiveError::Transport { step, call: "progress limit", reason });
        }
        if tell {
            let notice = Notice::Waiting { group: endpoint.group, operation, call: active.work.call };
            for peer in pending {
                self.watch.tell(peer, notice);
            }
            if let Some(active) = &mut self.endpoints[index].active {
                active.told = now;
            }
        }
        None
    }
}
