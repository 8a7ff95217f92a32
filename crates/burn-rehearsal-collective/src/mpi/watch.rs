//! Detects which ranks are alive: sends and receives heartbeats and other notices, on a separate
//! communicator.
//!
//! A rank whose process is stopped sends no heartbeats. A slow rank does, because its communication
//! thread computes nothing.
#![allow(unsafe_code, reason = "MPI accesses the buffers of notices")]

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::calls::{Comm, Fault};
use super::notice::{BYTES, Notice};
use super::reduce::others;
use super::requests::Direction::{Receive, Send};
use super::requests::Requests;
use super::standstill::Standstills;
use super::work::Lent;

/// The notices to and from one peer.
struct Line {
    inbox: Requests,
    received: Box<[u8; BYTES]>,
    outbox: Requests,
    sent: Box<[u8; BYTES]>,
    /// Notices that wait until `outbox` is free.
    queue: VecDeque<Notice>,
    /// When the last notice arrived.
    heard: Instant,
    failed: bool,
    /// The peer has sent its last notice.
    goodbye: bool,
}

/// The notices to and from all other ranks.
pub(super) struct Watch {
    /// One line for each rank. That of this rank is not used.
    lines: Vec<Line>,
    rank: usize,
    /// A rank without notices for this time is silent.
    limit: Duration,
    /// The time between two heartbeats.
    period: Duration,
    /// This rank has said goodbye and sends no more notices.
    parted: bool,
    last_beat: Instant,
    last_look: Instant,
    /// The standstills of all ranks.
    pub(super) standstills: Standstills,
}

impl Watch {
    pub(super) fn new(
        comm: Comm,
        rank: usize,
        size: usize,
        limit: Duration,
    ) -> Result<Self, Fault> {
        let now = Instant::now();
        let line = || Line {
            inbox: Requests::new(comm, BYTES),
            received: Box::new([0; BYTES]),
            outbox: Requests::new(comm, BYTES),
            sent: Box::new([0; BYTES]),
            queue: VecDeque::new(),
            heard: now,
            failed: false,
            goodbye: false,
        };
        let period = (limit / 5).min(Duration::from_secs(1));
        let lines = (0..size).map(|_| line()).collect();
        let standstills = Standstills::new(rank, size);
        let mut watch = Self {
            lines,
            rank,
            limit,
            period,
            parted: false,
            last_beat: now,
            last_look: now,
            standstills,
        };
        for peer in others(rank, size) {
            watch.lines[peer].listen(peer)?;
        }
        Ok(watch)
    }

    /// Receives and sends notices. `hear` gets every notice that other modules handle.
    pub(super) fn look(
        &mut self,
        now: Instant,
        mut hear: impl FnMut(usize, Notice),
    ) -> Result<(), Fault> {
        let pause = now - self.last_look;
        self.last_look = now;
        let beat = self.is_beat_due(now) && !self.parted;
        let mut beats = Vec::new();
        if beat {
            self.last_beat = now;
            beats.extend(self.standstills.beat().map(Notice::Standstill));
        }
        for peer in others(self.rank, self.lines.len()) {
            let line = &mut self.lines[peer];
            if pause > self.period {
                // This process did not listen, because it was stopped or the machine slept.
                line.heard += pause;
            }
            while !line.goodbye && line.inbox.test()? {
                line.heard = now;
                match Notice::decode(&line.received) {
                    Some(Notice::Goodbye) => {
                        line.goodbye = true;
                        self.standstills.hear_goodbye(peer);
                    }
                    Some(Notice::Failed) => line.failed = true,
                    Some(Notice::Alive { beat, echo, standstill }) => {
                        self.standstills.hear_beat(peer, beat, echo, standstill)
                    }
                    Some(Notice::Standstill(said)) => self.standstills.hear_handle(peer, said),
                    None => {}
                    Some(notice) => hear(peer, notice),
                }
                if !line.goodbye {
                    line.listen(peer)?;
                }
            }
            if beat && line.queue.is_empty() && line.outbox.is_empty() {
                let (beat, echo, standstill) = self.standstills.alive(peer);
                line.queue.extend(beats.iter().copied().chain([Notice::Alive {
                    beat,
                    echo,
                    standstill,
                }]));
            }
            line.flush(peer)?;
        }
        Ok(())
    }

    /// Whether the next [`look`](Self::look) sends heartbeats.
    pub(super) fn is_beat_due(&self, now: Instant) -> bool {
        now - self.last_beat >= self.period
    }

    /// Sends a notice to one rank, unless this rank has said goodbye.
    pub(super) fn notify(&mut self, peer: usize, notice: Notice) {
        if !self.parted {
            self.lines[peer].queue.push_back(notice);
        }
    }

    /// Sends a notice to all other ranks.
    pub(super) fn notify_all(&mut self, notice: Notice) {
        others(self.rank, self.lines.len()).for_each(|peer| self.notify(peer, notice));
    }

    /// Whether no notice of `peer` has arrived within the limit.
    pub(super) fn is_silent(&self, peer: usize) -> bool {
        !self.lines[peer].goodbye
            && self.last_look.saturating_duration_since(self.lines[peer].heard) > self.limit
    }

    /// Whether `peer` has failed or is silent.
    pub(super) fn is_gone(&self, peer: usize) -> bool {
        self.lines[peer].failed || self.is_silent(peer)
    }

    /// Says goodbye to all other ranks.
    pub(super) fn part(&mut self) {
        self.notify_all(Notice::Goodbye);
        self.parted = true;
    }

    /// Whether all ranks have said goodbye, and all notices have been delivered.
    pub(super) fn is_done(&self) -> bool {
        let done = |line: &Line| line.queue.is_empty() && line.outbox.is_empty() && line.goodbye;
        self.parted && others(self.rank, self.lines.len()).all(|peer| done(&self.lines[peer]))
    }

    /// Whether this rank has said goodbye.
    pub(super) fn has_parted(&self) -> bool {
        self.parted
    }
}

impl Line {
    fn listen(&mut self, peer: usize) -> Result<(), Fault> {
        // SAFETY: the buffer belongs to this line and is read only after the request is complete. A
        // watch is dropped after `Goodbye`, or leaked.
        unsafe { self.inbox.post(Receive, 0, peer, Lent::write(&mut *self.received)) }
    }

    fn flush(&mut self, peer: usize) -> Result<(), Fault> {
        while self.outbox.test()? {
            let Some(notice) = self.queue.pop_front() else { break };
            *self.sent = notice.encode();
            // SAFETY: the buffer belongs to this line and is written only after the request is
            // complete. See `listen`.
            unsafe { self.outbox.post(Send, 0, peer, Lent::read(&*self.sent))? };
        }
        Ok(())
    }
}
