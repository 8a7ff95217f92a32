//! Messages on their way between ranks, and who is still there to send any.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use burn_rehearsal_collective::Call;

/// What one rank sends another in one operation.
#[derive(Debug, Clone)]
pub(super) struct Message {
    pub(super) call: Call,
    /// The sender's number of the operation.
    pub(super) operation: u64,
    pub(super) bytes: Vec<u8>,
    /// When it arrives.
    pub(super) due: Instant,
}

/// Why a message will never come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    /// Its sender has left.
    Left,
    /// Its sender gives no sign of life.
    Silent,
    /// The rank that waits for it has stopped itself, and all others have noticed.
    Stopped,
}

/// What joins all handles of all ranks.
#[derive(Debug)]
pub(super) struct Network {
    state: Mutex<State>,
    /// Signalled at every change.
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// In the order in which they were sent, by channel, sender and receiver.
    messages: HashMap<(usize, usize, usize), VecDeque<Message>>,
    /// The handles that there are, by channel and rank.
    handles: HashSet<(usize, usize)>,
    /// The ranks that send nothing more on a channel.
    left: HashSet<(usize, usize)>,
    /// The ranks that send nothing more at all.
    dead: Vec<bool>,
    /// The ranks that have stopped.
    silent: Vec<bool>,
    /// The ranks one of whose handles has failed.
    failed: Vec<bool>,
    /// The channel that each `duplicate` made, by the channel and operation of the call.
    children: HashMap<(usize, u64), usize>,
    /// The channel from which each was made; that of the group is its own.
    parents: Vec<usize>,
}

impl State {
    /// Whether a rank sends nothing more on a channel. One that never got there, because it had
    /// left the channel from which this one was made, never will.
    fn is_gone(&self, channel: usize, rank: usize) -> bool {
        let parent = self.parents[channel];
        let never_came = || {
            parent != channel
                && !self.handles.contains(&(channel, rank))
                && self.is_gone(parent, rank)
        };
        self.dead[rank] || self.left.contains(&(channel, rank)) || never_came()
    }

    /// Whether a rank knows that something went wrong, or is at its end.
    fn is_over(&self, rank: usize) -> bool {
        self.failed[rank] || !self.handles.iter().any(|(_, holder)| *holder == rank)
    }
}

impl Network {
    pub(super) fn new(size: usize) -> Self {
        let state = State {
            messages: HashMap::new(),
            handles: (0..size).map(|rank| (0, rank)).collect(),
            left: HashSet::new(),
            dead: vec![false; size],
            silent: vec![false; size],
            failed: vec![false; size],
            children: HashMap::new(),
            parents: vec![0],
        };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Never waits. What a rank that is gone or has stopped would send is lost.
    pub(super) fn send(&self, channel: usize, from: usize, to: usize, message: Message) {
        let mut state = self.lock();
        if !state.dead[from] && !state.silent[from] {
            state.messages.entry((channel, from, to)).or_default().push_back(message);
            self.changed.notify_all();
        }
    }

    /// Waits for the next message of one rank to another.
    pub(super) fn receive(
        &self,
        channel: usize,
        from: usize,
        to: usize,
    ) -> Result<Message, Missing> {
        let mut state = self.lock();
        loop {
            if state.silent[to] {
                drop(state);
                self.wait_until_noticed(to);
                return Err(Missing::Stopped);
            }
            let now = Instant::now();
            let next =
                state.messages.get_mut(&(channel, from, to)).filter(|queue| !queue.is_empty());
            if let Some(queue) = next {
                let due = queue.front().map_or(now, |message| message.due);
                if due <= now
                    && let Some(message) = queue.pop_front()
                {
                    return Ok(message);
                }
                state = self
                    .changed
                    .wait_timeout(state, due - now)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0;
            } else if state.is_gone(channel, from) {
                return Err(Missing::Left);
            } else if state.silent[from] {
                return Err(Missing::Silent);
            } else {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    /// The channel of the handle that a `duplicate` makes on this rank.
    pub(super) fn child(&self, channel: usize, operation: u64, rank: usize) -> usize {
        let mut state = self.lock();
        let next = state.parents.len();
        let child = *state.children.entry((channel, operation)).or_insert(next);
        if child == next {
            state.parents.push(channel);
        }
        state.handles.insert((child, rank));
        child
    }

    /// The rank sends nothing more on this channel, because its handle has failed or, if it is
    /// `dropped`, is gone.
    pub(super) fn leave(&self, channel: usize, rank: usize, dropped: bool) {
        let mut state = self.lock();
        state.left.insert((channel, rank));
        if dropped {
            state.handles.remove(&(channel, rank));
        } else {
            state.failed[rank] = true;
        }
        self.changed.notify_all();
    }

    /// The rank is gone.
    pub(super) fn die(&self, rank: usize) {
        self.lock().dead[rank] = true;
        self.changed.notify_all();
    }

    /// The rank stops until every other rank has noticed, or is at its end.
    pub(super) fn stop(&self, rank: usize) {
        self.lock().silent[rank] = true;
        self.changed.notify_all();
        self.wait_until_noticed(rank);
    }

    fn wait_until_noticed(&self, rank: usize) {
        let mut state = self.lock();
        while (0..state.failed.len()).any(|peer| peer != rank && !state.is_over(peer)) {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
