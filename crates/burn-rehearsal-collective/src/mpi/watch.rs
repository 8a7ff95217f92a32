//! Who is alive: heartbeats and other notices, on a communicator of their own.
//!
//! A rank whose process is stopped sends no heartbeat; one that is merely slow does, for its
//! communication thread computes nothing.
#![allow(unsafe_code, reason = "the buffers of notices are lent to MPI")]

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
    /// Not yet given to MPI, for one is still under way.
    queue: VecDeque<Notice>,
    /// When something came last.
    heard: Instant,
    failed: bool,
    /// Nothing more will come.
    goodbye: bool,
}

/// This rank's view of all others.
pub(super) struct Watch {
    /// One for each rank; this rank's own is not used.
    lines: Vec<Line>,
    rank: usize,
    /// Who is not heard from for so long is gone.
    limit: Duration,
    /// Between two heartbeats.
    period: Duration,
    /// This rank has said goodbye: no notice may be sent any more.
    parted: bool,
    last_beat: Instant,
    last_look: Instant,
    /// Who can move.
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

    /// Receives and sends what there is; `hear` gets every notice that is not for the watch alone.
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
                // It was this process that did not listen (it was stopped, or the machine slept).
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

    /// Whether the next look sends heartbeats.
    pub(super) fn is_beat_due(&self, now: Instant) -> bool {
        now - self.last_beat >= self.period
    }

    /// Tells one rank, unless this one has said goodbye.
    pub(super) fn notify(&mut self, peer: usize, notice: Notice) {
        if !self.parted {
            self.lines[peer].queue.push_back(notice);
        }
    }

    /// Tells all other ranks.
    pub(super) fn notify_all(&mut self, notice: Notice) {
        others(self.rank, self.lines.len()).for_each(|peer| self.notify(peer, notice));
    }

    /// Whether nothing came from `peer` for longer than the limit.
    pub(super) fn is_silent(&self, peer: usize) -> bool {
        !self.lines[peer].goodbye
            && self.last_look.saturating_duration_since(self.lines[peer].heard) > self.limit
    }

    /// Whether a wait for `peer` is in vain.
    pub(super) fn is_gone(&self, peer: usize) -> bool {
        self.lines[peer].failed || self.is_silent(peer)
    }

    /// Tells all others that nothing more will come from this rank.
    pub(super) fn part(&mut self) {
        self.notify_all(Notice::Goodbye);
        self.parted = true;
    }

    /// Whether this rank and all others have said goodbye, so that no notice is under way any more.
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
        // SAFETY: the buffer is ours and read only after the request is complete; a watch is
        // dropped after `Goodbye`, or leaked.
        unsafe { self.inbox.post(Receive, 0, peer, Lent::write(&mut *self.received)) }
    }

    fn flush(&mut self, peer: usize) -> Result<(), Fault> {
        while self.outbox.test()? {
            let Some(notice) = self.queue.pop_front() else { break };
            *self.sent = notice.encode();
            // SAFETY: the buffer is ours and written only after the request is complete; see
            // `listen`.
            unsafe { self.outbox.post(Send, 0, peer, Lent::read(&*self.sent))? };
        }
        Ok(())
    }
}
