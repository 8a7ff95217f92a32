//! Inserting and drawing rows outside of steps.

use super::round::{FailCode, Status};
use super::{CandidateBatch, Delivery, Engine};
use crate::error::RehearsalError;
use crate::random::{Purpose, Stream};
use burn_rehearsal_collective::CollectiveExt;
use std::time::Instant;

impl Engine {
    /// Offers all rows of a mini-batch to this rank's shard. The other ranks learn of it in
    /// the next round.
    pub(super) fn fill(&mut self, batch: CandidateBatch) -> Result<(), RehearsalError> {
        let CandidateBatch { schema, mut lists, .. } = batch;
        let mut rng = Stream::new(self.config.seed, Purpose::Fill, self.fills, self.rank as u32);
        self.fills += 1;
        let changes = self.insert(&schema, &mut lists, &mut rng);
        // Whether the others hear why this rank leaves does not change its error.
        let changes = changes.inspect_err(|_| drop(self.leave(FailCode::Batch)))?;
        self.filled.extend_from_slice(&changes);
        if let Some(shard) = &mut self.shard {
            shard.recycle(changes);
        }
        Ok(())
    }

    /// All ranks have filled their shards. Collective.
    pub(super) fn end_fill(&mut self) -> Result<(), RehearsalError> {
        self.gather(Status::Fill, &[])
    }

    /// Draws `rows` rows for this rank. Collective.
    pub(super) fn sample(&mut self, rows: usize) -> Result<Delivery, RehearsalError> {
        let started = Instant::now();
        self.gather(Status::Sample, &[])?;
        let all = self.collective()?.gather_words([rows as u64])?;
        self.scratch.wanted.clear();
        self.scratch.wanted.extend(
            all.iter()
                .zip(&self.ready)
                .map(|([rows], &ready)| if ready { *rows as usize } else { 0 }),
        );
        self.plan(Purpose::Sample, self.samples)?;
        self.samples += 1;
        self.deliver(Delivery::default(), started)
    }
}
