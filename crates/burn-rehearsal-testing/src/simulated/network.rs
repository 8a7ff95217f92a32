//! The messages in transit between ranks, and the state of the ranks.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use burn_rehearsal_collective::Call;

/// The message of one rank to another in one operation.
#[derive(Debug, Clone)]
pub(super) struct Message {
    pub(super) call: Call,
    /// The number of the operation on the sender.
    pub(super) operation: u64,
    pub(super) bytes: Vec<u8>,
    /// The time of arrival.
    pub(super) due: Instant,
}

/// The reason why a message never arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    /// The sender has left.
    Left,
    /// The sender has stopped.
    Silent,
    /// The receiver itself has stopped, and all other ranks have noticed.
    Stopped,
}

/// The network, which all handles of all ranks share.
#[derive(Debug)]
pub(super) struct Network {
    state: Mutex<State>,
    /// Signalled at every change.
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// By channel, sender and receiver, in the order of sending.
    messages: HashMap<(usize, usize, usize), VecDeque<Message>>,
    /// The living handles, by channel and rank.
    handles: HashSet<(usize, usize)>,
    /// The ranks that have left a channel, by channel and rank.
    left: HashSet<(usize, usize)>,
    /// Whether each rank has died.
    dead: Vec<bool>,
    /// Whether each rank has stopped.
    silent: Vec<bool>,
    /// Whether a handle of each rank has failed.
    failed: Vec<bool>,
    /// The channels that `duplicate` has made, by the channel and the operation of the call.
    children: HashMap<(usize, u64), usize>,
    /// The channel from which each channel was made. The first one is its own parent.
    parents: Vec<usize>,
}

impl State {
    /// Whether a rank sends no more messages on a channel. This includes ranks that have left the
    /// parent of the channel before the channel was made.
    fn is_gone(&self, channel: usize, rank: usize) -> bool {
        let parent = self.parents[channel];
        let never_came = || {
            parent != channel
                && !self.handles.contains(&(channel, rank))
                && self.is_gone(parent, rank)
        };
        self.dead[rank] || self.left.contains(&(channel, rank)) || never_came()
    }

    /// Whether a rank has noticed a failure or has finished.
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

    /// Sends a message and never waits. Messages of ranks that have died or stopped are lost.
    pub(super) fn send(&self, channel: usize, from: usize, to: usize, message: Message) {
        let mut state = self.lock();
        if !state.dead[from] && !state.silent[from] {
            state.messages.entry((channel, from, to)).or_default().push_back(message);
            self.changed.notify_all();
        }
    }

    /// Waits for the next message from one rank to another.
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

    /// Adds the handle that a `duplicate` makes on this rank, and returns its channel.
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

    /// Records that a rank leaves a channel, because its handle has been `dropped` or has failed.
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

    /// Records that the rank has died.
    pub(super) fn die(&self, rank: usize) {
        self.lock().dead[rank] = true;
        self.changed.notify_all();
    }

    /// Stops the rank until every other rank has noticed a failure or has finished.
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
