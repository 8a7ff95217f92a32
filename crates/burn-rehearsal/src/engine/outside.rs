//! Pre-filling the shard and drawing rows outside of steps.

use super::round::Status;
use super::{CandidateLists, Delivery, Engine};
use crate::batch::Schema;
use crate::error::RehearsalError;
use crate::random::{Purpose, Stream};
use burn_rehearsal_collective::CollectiveExt;
use std::time::Instant;

impl Engine {
    /// Offers all rows of a mini-batch to this rank's shard. The next round announces them to the
    /// other ranks.
    pub(super) fn fill(
        &mut self,
        schema: &Schema,
        mut lists: CandidateLists,
    ) -> Result<(), RehearsalError> {
        let mut rng = Stream::new(self.config.seed, Purpose::Fill, self.fills, self.rank as u32);
        self.fills += 1;
        let inserted = self.insert(schema, &mut lists, &mut rng);
        inserted.inspect_err(|_| self.leave_with_bad_batch())
    }

    /// Exchanges the states of all ranks after they have filled their shards. Collective.
    pub(super) fn end_fill(&mut self) -> Result<(), RehearsalError> {
        self.gather(Status::Fill)
    }

    /// Draws `rows` rows for this rank. Collective.
    pub(super) fn sample(&mut self, rows: usize) -> Result<Delivery, RehearsalError> {
        let started = Instant::now();
        self.gather(Status::Sample)?;
        let all = self.collective()?.gather_words([rows as u64])?;
        let wanted = all.iter().zip(&self.ready);
        let wanted = wanted.map(|([rows], &ready)| if ready { *rows as usize } else { 0 });
        self.scratch.wanted.clear();
        self.scratch.wanted.extend(wanted);
        self.plan(Purpose::Sample, self.samples, 1)?;
        self.samples += 1;
        self.deliver(Delivery::default(), started)
    }
}
