//! Detects that all ranks wait for each other in different operations.
//!
//! A rank that cannot proceed is at a *standstill*. It reports this with each heartbeat: the number
//! of the standstill, which changes when something has proceeded, and for each handle the next
//! operation and the one that it waits in. An operation is blocked if it waits for a rank that has
//! not begun it, or for a rank whose own wait there is blocked. Suppose that all operations of all
//! ranks are blocked, and that every rank then confirms its standstill in answer to a later
//! heartbeat. Nothing has proceeded in between, so nothing ever will.

use super::notice::{Handle, Standstill};
use crate::WaitingRank;

/// The last report of one rank.
#[derive(Debug, Clone, Default)]
struct Said {
    /// The number of its standstill, or 0 if it can proceed.
    standstill: u64,
    /// Its handles at that standstill.
    handles: Vec<Handle>,
    /// The number and the handles of its next report, as far as they have arrived.
    next: (u64, Vec<Handle>),
    /// The number of its last heartbeat.
    beat: u64,
    /// The number of this rank's last heartbeat that it had received by then.
    echo: u64,
    /// Whether it has said goodbye.
    parted: bool,
}

impl Said {
    fn handle(&self, group: u64) -> Option<&Handle> {
        self.handles.iter().find(|handle| handle.group == group)
    }

    /// Its handle of a group, if it waits in this operation.
    fn waits(&self, group: u64, operation: u64) -> Option<&Handle> {
        self.handle(group)
            .filter(|handle| handle.call.is_some() && handle.next.wrapping_sub(1) == operation)
    }

    /// Whether it has not begun an operation and cannot begin it. False for a rank that can
    /// proceed.
    fn lacks(&self, group: u64, operation: u64) -> bool {
        self.standstill != 0 && self.handle(group).is_none_or(|handle| handle.next <= operation)
    }
}

/// The reports of all ranks.
#[derive(Debug)]
pub(super) struct Standstills {
    rank: usize,
    said: Vec<Said>,
    /// The number of heartbeats that this rank has sent.
    beat: u64,
    /// A suspected deadlock: the heartbeat of this rank that all ranks must answer, and the
    /// standstills of all ranks.
    suspicion: Option<(u64, Vec<u64>)>,
}

impl Standstills {
    pub(super) fn new(rank: usize, size: usize) -> Self {
        Self { rank, said: vec![Said::default(); size], beat: 0, suspicion: None }
    }

    /// The contents of this rank's heartbeat for `peer`: its number, the number of the last one
    /// from `peer`, and the standstill.
    pub(super) fn alive(&self, peer: usize) -> (u64, u64, u64) {
        (self.beat, self.said[peer].beat, self.said[self.rank].standstill)
    }

    /// Counts a heartbeat of this rank, and returns the reports on its handles that precede it.
    pub(super) fn beat(&mut self) -> impl Iterator<Item = Standstill> {
        self.beat += 1;
        let own = &self.said[self.rank];
        let number = own.standstill;
        own.handles
            .iter()
            .filter(move |_| number != 0)
            .map(move |handle| Standstill { number, handle: *handle })
    }

    /// Records a report on a handle of a rank.
    pub(super) fn hear_handle(&mut self, peer: usize, Standstill { number, handle }: Standstill) {
        let (collected, handles) = &mut self.said[peer].next;
        if *collected != number {
            handles.clear();
        }
        *collected = number;
        handles.push(handle);
    }

    /// Records a heartbeat of a rank.
    pub(super) fn hear_beat(&mut self, peer: usize, beat: u64, echo: u64, standstill: u64) {
        let said = &mut self.said[peer];
        (said.beat, said.echo, said.standstill) = (beat, echo, standstill);
        let (number, handles) = std::mem::take(&mut said.next);
        said.handles = handles;
        if number != standstill {
            // The report is incomplete.
            said.standstill = 0;
        }
    }

    /// Records that a rank has said goodbye and takes part in no further operation.
    pub(super) fn hear_goodbye(&mut self, peer: usize) {
        self.said[peer].parted = true;
    }

    /// Sets the standstill of this rank and its handles, each with its pending ranks.
    pub(super) fn set_own(
        &mut self,
        standstill: Option<u64>,
        handles: impl Iterator<Item = (Handle, Vec<usize>)>,
    ) {
        let Self { rank, said, .. } = self;
        let (rank, said) = (*rank, &mut *said);
        let handles = handles.map(|(handle, pending)| {
            let operation = handle.next.wrapping_sub(1);
            // Prefer a rank that has not begun the operation. Ranks that wait for all others could
            // otherwise name each other.
            let lacks = |peer: &usize| said[*peer].lacks(handle.group, operation);
            let in_vain = |peer: &usize| {
                said[*peer]
                    .waits(handle.group, operation)
                    .is_some_and(|other| other.blocker.is_some())
            };
            let blocker = pending
                .iter()
                .copied()
                .find(lacks)
                .or_else(|| pending.iter().copied().find(in_vain));
            Handle { blocker, ..handle }
        });
        let handles = if standstill.is_some() { handles.collect() } else { Vec::new() };
        let own = &mut said[rank];
        own.standstill = standstill.unwrap_or(0);
        own.handles = handles;
    }

    /// Returns whether there is certainly a deadlock.
    pub(super) fn is_deadlock(&mut self) -> bool {
        if !self.could_be_deadlock() {
            self.suspicion = None;
            return false;
        }
        let standstills = || self.said.iter().map(|said| said.standstill);
        match &self.suspicion {
            Some((beat, suspected)) if standstills().eq(suspected.iter().copied()) => {
                let confirmed = |(rank, said): (usize, &Said)| {
                    rank == self.rank || said.parted || said.echo >= *beat
                };
                self.said.iter().enumerate().all(confirmed)
            }
            _ => {
                self.suspicion = Some((self.beat + 1, standstills().collect()));
                false
            }
        }
    }

    /// Whether all operations in progress are blocked according to the reports.
    fn could_be_deadlock(&self) -> bool {
        let live = || self.said.iter().filter(|said| !said.parted);
        let mut waiting =
            live().flat_map(|said| &said.handles).filter(|handle| handle.call.is_some()).peekable();
        live().all(|said| said.standstill != 0)
            && waiting.peek().is_some()
            && waiting.all(|handle| self.is_blocked(handle))
    }

    /// Whether the chain of blockers of this handle leads to a rank that has not begun the
    /// operation.
    fn is_blocked(&self, handle: &Handle) -> bool {
        let operation = handle.next.wrapping_sub(1);
        let mut blocker = handle.blocker;
        for _ in 0..self.said.len() {
            let Some(said) =
                blocker.and_then(|blocker| self.said.get(blocker)).filter(|said| !said.parted)
            else {
                return false;
            };
            if said.lacks(handle.group, operation) {
                return true;
            }
            blocker = said.waits(handle.group, operation).and_then(|other| other.blocker);
        }
        false
    }

    /// The ranks that wait in operations. `name` names the handle of a group.
    pub(super) fn waiting(&self, name: impl Fn(u64) -> String) -> Vec<WaitingRank> {
        let mut waiting = Vec::new();
        for (rank, said) in self.said.iter().enumerate().filter(|(_, said)| !said.parted) {
            for handle in &said.handles {
                let Handle { group, next, call: Some(call), .. } = *handle else { continue };
                let operation = next.wrapping_sub(1);
                let lacks =
                    |peer: &usize| *peer != rank && self.said[*peer].lacks(group, operation);
                let missing = (0..self.said.len()).filter(lacks).collect();
                waiting.push(WaitingRank {
                    rank,
                    call: call.to_string(),
                    operation,
                    handle: name(group),
                    missing,
                });
            }
        }
        waiting
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::Call;

    const GRADIENTS: u64 = 1;
    const ROWS: u64 = 2;

    /// A handle that has begun `next` operations, and waits in the last one if `waits`.
    fn handle(group: u64, next: u64, waits: bool) -> Handle {
        Handle { group, next, call: waits.then_some(Call::Barrier), blocker: None }
    }

    /// Two ranks.
    struct World([Standstills; 2]);

    impl World {
        fn new() -> Self {
            Self([Standstills::new(0, 2), Standstills::new(1, 2)])
        }

        /// Each rank updates its report and sends a heartbeat. Returns which ranks are certain of a
        /// deadlock.
        fn beat(&mut self, standstills: [Option<u64>; 2], handles: [[Handle; 2]; 2]) -> [bool; 2] {
            let mut certain = [false; 2];
            for rank in 0..2 {
                let peer = 1 - rank;
                let own = handles[rank].into_iter().map(|handle| {
                    (handle, if handle.call.is_some() { vec![peer] } else { Vec::new() })
                });
                self.0[rank].set_own(standstills[rank], own);
                certain[rank] = self.0[rank].is_deadlock();
                let said: Vec<_> = self.0[rank].beat().collect();
                let (beat, echo, standstill) = self.0[rank].alive(peer);
                said.into_iter().for_each(|said| self.0[peer].hear_handle(rank, said));
                self.0[peer].hear_beat(rank, beat, echo, standstill);
            }
            certain
        }
    }

    /// Rank 0 waits in operation 4 of the gradients for rank 1, which waits in operation 7 of the
    /// rows for rank 0.
    const CROSSED: fn() -> [[Handle; 2]; 2] = || {
        [
            [handle(GRADIENTS, 5, true), handle(ROWS, 7, false)],
            [handle(GRADIENTS, 4, false), handle(ROWS, 8, true)],
        ]
    };

    #[test]
    fn a_deadlock_is_certain_within_six_heartbeats() {
        let mut world = World::new();
        let beats = (1..).find(|_| world.beat([Some(3), Some(9)], CROSSED()) == [true; 2]);
        assert!(beats.is_some_and(|beats| beats <= 6), "{beats:?}");
        let waiting = world.0[1].waiting(|group| group.to_string());
        let words: Vec<_> = waiting.iter().map(ToString::to_string).collect();
        let expected = [
            "rank 0 waits in barrier (operation 4 of the handle `1`) for rank 1",
            "rank 1 waits in barrier (operation 7 of the handle `2`) for rank 0",
        ];
        assert_eq!(words, expected);
        assert_eq!(world.0[0].waiting(|group| group.to_string()), waiting);
    }

    #[test]
    fn an_operation_is_blocked_by_the_rank_that_has_not_begun_it() {
        let mut ranks: Vec<_> = (0..3).map(|rank| Standstills::new(rank, 3)).collect();
        let handles = |rank| match rank {
            2 => [handle(GRADIENTS, 4, false), handle(ROWS, 8, true)],
            _ => [handle(GRADIENTS, 5, true), handle(ROWS, 7, false)],
        };
        let mut beat = || {
            let mut certain = true;
            for rank in 0..3 {
                let others: Vec<usize> = (0..3).filter(|peer| *peer != rank).collect();
                let own = handles(rank).into_iter().map(|handle| {
                    (handle, if handle.call.is_some() { others.clone() } else { Vec::new() })
                });
                ranks[rank].set_own(Some(3), own);
                certain &= ranks[rank].is_deadlock();
                for peer in others {
                    let said: Vec<_> = ranks[rank].beat().collect();
                    let (beat, echo, standstill) = ranks[rank].alive(peer);
                    said.into_iter().for_each(|said| ranks[peer].hear_handle(rank, said));
                    ranks[peer].hear_beat(rank, beat, echo, standstill);
                }
            }
            certain
        };
        assert!((0..6).any(|_| beat()));
    }

    #[test]
    fn progress_or_an_operation_that_all_have_begun_is_no_deadlock() {
        for beats in 0..20 {
            let mut world = World::new();
            for beat in 0..beats {
                assert_eq!(world.beat([None, Some(9)], CROSSED()), [false; 2]);
                // As if the rank had proceeded between two heartbeats.
                assert_eq!(world.beat([Some(2 * beat + 1), Some(9)], CROSSED()), [false; 2]);
                assert_eq!(world.beat([Some(2 * beat + 2), Some(9)], CROSSED()), [false; 2]);
                let begun = [
                    [handle(GRADIENTS, 5, true), handle(ROWS, 8, true)],
                    [handle(GRADIENTS, 4, false), handle(ROWS, 8, true)],
                ];
                assert_eq!(world.beat([Some(100), Some(9)], begun), [false; 2]);
            }
        }
    }
}
