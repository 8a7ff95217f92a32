//! The draws of all ranks for one step, and the exchange of rows: steps 3 to 5 of a round.

use super::{Delivery, Engine, Scratch};
use crate::error::{RehearsalError, notice};
use crate::random::{Purpose, Stream};
use crate::sampling::Sampling;
use crate::slots::{RowHandle, SlotTable};
use crate::store::Source;
use burn_rehearsal_collective::{Incoming, Outgoing};
use smallvec::SmallVec;
use std::sync::Once;
use std::time::Instant;

/// A draw that is in no shard: a rule is wrong, or the tables of the ranks differ.
const NOT_STORED: RehearsalError = RehearsalError::Misuse("a draw names a row that is not stored");

/// The bytes of a row's handle in a message: slot and generation.
const HANDLE: usize = 8;

impl Engine {
    /// Plans the draws of all ranks for `step`, exchanges the rows, and builds this rank's columns.
    pub(super) fn draw_for(
        &mut self,
        step: u64,
        delivery: Delivery,
        started: Instant,
    ) -> Result<Delivery, RehearsalError> {
        let Self { config, ready, rows, draws, scratch, .. } = self;
        let active = self.task as usize >= config.start_task;
        scratch.wanted.clear();
        for (&rows, &ready) in rows.iter().zip(ready.iter()) {
            scratch.wanted.extend(draws.iter().map(|draw| {
                if active && ready { draw.representatives.of(rows as usize) } else { 0 }
            }));
        }
        self.plan(Purpose::Draw, step, self.draws.len())?;
        self.digest_draws(step);
        self.notice_unused();
        self.deliver(delivery, started)
    }

    /// Exchanges the rows of planned draws, and builds this rank's columns.
    pub(super) fn deliver(
        &mut self,
        mut delivery: Delivery,
        started: Instant,
    ) -> Result<Delivery, RehearsalError> {
        let mut started = self.timings.plan(started);
        if self.size > 1 {
            self.exchange()?;
            started = self.timings.exchange(started);
        }
        self.assemble(&mut delivery)?;
        self.timings.deliver(started);
        let width = self.shard.as_ref().map_or(0, |shard| shard.schema().row_bytes());
        self.timings.copied((self.scratch.pushed.len() + delivery.handles.len()) * width);
        delivery.drawn_at = self.step.saturating_sub(1);
        Ok(delivery)
    }

    /// Prints a notice if no row is drawn from a full buffer because no task was begun.
    fn notice_unused(&self) {
        static NOTICED: Once = Once::new();
        let full = self.shard.as_ref().is_some_and(|shard| shard.table().is_full());
        if full
            && !self.task_begun
            && self.scratch.draws.is_empty()
            && self.draws.iter().any(|draw| draw.representatives.of(1) > 0)
        {
            let mut rules = self.draws.iter().map(|draw| &draw.sampling);
            let reason = match (self.config.start_task, rules.find(|rule| rule.depends_on_task())) {
                (0, Some(rule)) => {
                    format!("the sampling rule `{}` depends on the task", rule.name())
                }
                (0, None) => return,
                (task, _) => format!("mini-batches get representatives from task {task} on"),
            };
            notice(&NOTICED, || {
                format!(
                    "the buffer is full and no row was drawn: {reason}, and no task was begun \
                     (`RehearsalBuffer::begin_task`)"
                )
            });
        }
    }

    /// Plans the draws of the numbers of rows in `scratch.wanted`, which has `number` draws for
    /// each rank. Fills `scratch.own` with this rank's draws and `scratch.pushed` with the rows
    /// that others drew from this shard. Writes the handles of these rows to the messages.
    pub(super) fn plan(
        &mut self,
        purpose: Purpose,
        key: u64,
        number: usize,
    ) -> Result<(), RehearsalError> {
        let scratch = &mut self.scratch;
        scratch.own.clear();
        scratch.draws.clear();
        scratch.ends.clear();
        scratch.pushed.clear();
        scratch.peers.clear();
        scratch.outgoing.iter_mut().for_each(Vec::clear);
        for (index, &rows) in scratch.wanted.iter().enumerate() {
            if rows > 0 {
                let (rank, draw) = (index / number, index % number);
                let mut rng = Stream::for_draw(self.config.seed, purpose, key, rank as u32, draw);
                let sampling = &mut self.draws[draw].sampling;
                sampling.plan(&self.counts, &mut rng, rows, &mut scratch.draws);
            }
            scratch.ends.push(scratch.draws.len());
        }
        let Some(shard) = &self.shard else { return Ok(()) };
        let mut first = 0;
        for (index, &end) in scratch.ends.iter().enumerate() {
            let (rank, sampling) = (index / number, self.draws[index % number].sampling.as_ref());
            let draws = &scratch.draws[first..end];
            first = end;
            if rank == self.rank {
                for &draw in draws {
                    let place = sampling
                        .locate(&self.counts, draw)
                        .filter(|place| (place.owner as usize) < self.size);
                    let place = place.ok_or(NOT_STORED)?;
                    let slot = if place.owner as usize == rank {
                        stored_slot(sampling, shard.table(), draw.group, place.index)?
                    } else {
                        0
                    };
                    scratch.own.push((place.owner, slot));
                }
                continue;
            }
            for &draw in draws {
                let Some(index) = sampling.local_index(&self.counts, draw) else { continue };
                let slot = stored_slot(sampling, shard.table(), draw.group, index)?;
                let message = &mut scratch.outgoing[rank];
                message.extend_from_slice(&slot.to_le_bytes());
                message.extend_from_slice(&shard.table().generation(slot).to_le_bytes());
                scratch.pushed.push(slot);
                scratch.peers.push(rank);
            }
        }
        Ok(())
    }

    /// Adds the draws of `step` to the digest of all draws.
    fn digest_draws(&mut self, step: u64) {
        let scratch = &mut self.scratch;
        scratch.drawn.clear();
        scratch.drawn.push(step.to_le());
        scratch.drawn.extend(scratch.ends.iter().map(|&end| (end as u64).to_le()));
        // One word per draw, since hashing takes much of the time with many ranks. It suffices: a
        // class has fewer than 2³² rows, and without classes the group is 0.
        scratch.drawn.extend(
            scratch.draws.iter().map(|draw| (draw.number ^ u64::from(draw.group) << 32).to_le()),
        );
        let mut hash = blake3::Hasher::new();
        hash.update(&self.draws_digest).update(bytemuck::cast_slice(&scratch.drawn));
        self.draws_digest = *hash.finalize().as_bytes();
    }

    fn exchange(&mut self) -> Result<(), RehearsalError> {
        let record = self.shard.as_ref().map_or(0, |shard| shard.schema().row_bytes() + HANDLE);
        let rank = self.rank;
        let Scratch { own, pushed, peers, outgoing, incoming, .. } = &mut self.scratch;
        if let Some(shard) = self.shard.as_ref().filter(|_| !pushed.is_empty()) {
            shard.store().read(pushed, &mut |index, _, bytes| {
                outgoing[peers[index]].extend_from_slice(bytes)
            })?;
        }
        incoming.iter_mut().for_each(Vec::clear);
        for (owner, _) in own.iter().filter(|(owner, _)| *owner as usize != rank) {
            let message = &mut incoming[*owner as usize];
            message.resize(message.len() + record, 0);
        }
        let sends: Vec<_> = outgoing
            .iter()
            .enumerate()
            .filter(|(_, bytes)| !bytes.is_empty())
            .map(|(peer, bytes)| Outgoing { peer, bytes })
            .collect();
        let mut receives: Vec<_> = incoming
            .iter_mut()
            .enumerate()
            .filter(|(_, bytes)| !bytes.is_empty())
            .map(|(peer, bytes)| Incoming { peer, bytes })
            .collect();
        self.collective
            .as_mut()
            .ok_or(RehearsalError::EngineGone)?
            .exchange(&sends, &mut receives)?;
        Ok(())
    }

    fn assemble(&mut self, delivery: &mut Delivery) -> Result<(), RehearsalError> {
        let Scratch { own, ends, incoming, cursor, .. } = &mut self.scratch;
        let number = ends.len() / self.size;
        delivery.draws.clear();
        for index in self.rank * number..(self.rank + 1) * number {
            let start = index.checked_sub(1).map_or(0, |before| ends[before]);
            delivery.draws.push(ends[index] - start);
        }
        delivery.handles.clear();
        let Some(shard) = &self.shard else {
            delivery.columns.clear();
            return Ok(());
        };
        let width = shard.schema().row_bytes();
        cursor.fill(0);
        let mut sources: SmallVec<[_; 64]> = SmallVec::with_capacity(own.len());
        for &(rank, slot) in own.iter() {
            let owner = rank as usize;
            if owner == self.rank {
                sources.push(Source::Slot(slot));
                delivery.handles.push(RowHandle {
                    rank,
                    slot,
                    generation: shard.table().generation(slot),
                });
            } else {
                let (handles, rows) =
                    incoming[owner].split_at(incoming[owner].len() / (HANDLE + width) * HANDLE);
                let (handle, row) = (
                    &handles[cursor[owner] * HANDLE..][..HANDLE],
                    &rows[cursor[owner] * width..][..width],
                );
                cursor[owner] += 1;
                delivery.handles.push(RowHandle {
                    rank,
                    slot: read_u32(&handle[..4]),
                    generation: read_u32(&handle[4..]),
                });
                sources.push(Source::Packed(row));
            }
        }
        if sources.is_empty() {
            delivery.columns.clear();
        } else {
            shard.store().assemble(&sources, &self.devices, &mut delivery.columns);
        }
        Ok(())
    }
}

/// The slot of a drawn row of this rank's shard.
fn stored_slot(
    sampling: &dyn Sampling,
    table: &SlotTable,
    group: u32,
    index: u32,
) -> Result<u32, RehearsalError> {
    sampling
        .slot_of(table, group, index)
        .filter(|&slot| (slot as usize) < table.len())
        .ok_or(NOT_STORED)
}

fn read_u32(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |value, &byte| value << 8 | u32::from(byte))
}
