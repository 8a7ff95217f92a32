//! Reports on the state of one shard, and of all shards together.

use super::Engine;
use super::shard::Shard;
use crate::error::RehearsalError;
use crate::rules::full_name;
use crate::slots::shard_capacity;
use crate::snapshot::Snapshot;
use crate::store::StoreLocation;
use burn_rehearsal_collective::{CollectiveExt, words_of};
use std::collections::HashSet;

/// A message encodes the location of a shard as its index in this list.
const LOCATIONS: [Option<StoreLocation>; 3] =
    [None, Some(StoreLocation::Host), Some(StoreLocation::Device)];

/// The state of one rank's shard, from
/// [`RehearsalBuffer::inspect`](crate::RehearsalBuffer::inspect).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// The number of rows that this shard can store. 0 before the first mini-batch if the capacity
    /// is configured in bytes.
    pub capacity: usize,
    /// The number of rows stored in this shard.
    pub len: usize,
    /// The size of this shard's rows at full capacity, in bytes. All of it is allocated at the
    /// first mini-batch; 0 before.
    pub bytes: usize,
    /// The location of this shard. `None` before the first mini-batch.
    pub store: Option<StoreLocation>,
    /// The number of stored rows of each class, up to the largest class ever stored.
    pub per_class: Vec<usize>,
    /// The number of distinct samples stored, if the batch has an `id` field.
    pub distinct: Option<usize>,
    /// The current task.
    pub task: usize,
    /// The number of steps done.
    pub steps: u64,
}

/// The state of all shards together, from
/// [`RehearsalBuffer::report`](crate::RehearsalBuffer::report). It is the same on all ranks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BufferReport {
    /// The name of the policy, and its parameters in parentheses if it has any.
    pub policy: String,
    /// The name of the sampling rule, and its parameters in parentheses if it has any. The rules of
    /// several draws are separated by commas.
    pub sampling: String,
    /// The number of rows that all ranks together can store, |B|.
    pub capacity: usize,
    /// The number of stored rows.
    pub len: usize,
    /// The size of all shards' rows at full capacity, in bytes.
    pub bytes: usize,
    /// The location of each rank's shard, in rank order. `None` for a rank that never had rows.
    pub stores: Vec<Option<StoreLocation>>,
    /// The number of stored rows of each class, up to the largest class ever stored.
    pub per_class: Vec<usize>,
    /// The number of distinct samples stored, if the batch has an `id` field.
    pub distinct: Option<usize>,
    /// The BLAKE3 digest of all stored rows in canonical form, in (rank, slot) order; hexadecimal.
    pub contents_digest: String,
    /// The BLAKE3 digest of all draws so far, hexadecimal.
    pub draws_digest: String,
}

impl Engine {
    pub(super) fn inspect(&self) -> Inspection {
        let planned = self.config.capacity_before_rows(self.size).unwrap_or(0);
        let table = self.shard.as_ref().map(Shard::table);
        Inspection {
            capacity: table
                .map_or(shard_capacity(planned, self.rank, self.size), |table| table.capacity()),
            len: table.map_or(0, |table| table.len()),
            bytes: self.shard.as_ref().map_or(0, |shard| shard.store().bytes()),
            store: self.shard.as_ref().map(Shard::location),
            per_class: table.map_or_else(Vec::new, |table| table.per_class().collect()),
            distinct: table.and_then(|table| table.distinct()),
            task: self.task as usize,
            steps: self.step,
        }
    }

    pub(super) fn snapshot(&self) -> Result<Snapshot, RehearsalError> {
        match &self.shard {
            Some(shard) => shard.snapshot(self.rank as u32),
            None => Ok(Snapshot::default()),
        }
    }

    /// Combines the states of all ranks. The result is the same on every rank.
    pub(super) fn report(&mut self) -> Result<BufferReport, RehearsalError> {
        let mine = self.inspect();
        let (this_rank, draws) = (self.rank, self.draws_digest);
        let contents =
            self.shard.as_ref().map_or_else(|| Ok(*blake3::hash(&[]).as_bytes()), Shard::digest)?;
        let ids: Vec<i64> =
            self.shard.iter().flat_map(|shard| shard.table().distinct_ids()).collect();
        let collective = self.collective()?;
        let counts = [
            mine.capacity,
            mine.len,
            mine.bytes,
            LOCATIONS.iter().position(|location| *location == mine.store).unwrap_or(0),
            usize::from(mine.distinct.is_some()),
            mine.per_class.len(),
        ];
        let counts = counts.iter().chain(&mine.per_class).map(|&count| count as u64);
        let words = counts.chain(ids.iter().map(|&id| id as u64));
        let message: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
        let states = collective.gather_bytes(&message)?;
        let hashes = collective.gather_bytes(&contents)?;
        let all_draws = collective.gather_bytes(&draws)?;
        if let Some(rank) = all_draws.iter().position(|other| *other != draws) {
            return Err(RehearsalError::Disagreement { rank, this_rank, detail: "draws".into() });
        }
        let policy = self.rules.policy(&self.config);
        let sampling = self.draws.iter().map(|draw| &draw.sampling);
        let sampling = sampling.map(|rule| full_name(rule.name(), rule.parameters()));
        let mut report = BufferReport {
            policy: full_name(policy.name(), policy.parameters()),
            sampling: sampling.collect::<Vec<_>>().join(", "),
            capacity: 0,
            len: 0,
            bytes: 0,
            stores: Vec::new(),
            per_class: Vec::new(),
            distinct: None,
            contents_digest: blake3::hash(&hashes.concat()).to_hex().to_string(),
            draws_digest: blake3::Hash::from_bytes(draws).to_hex().to_string(),
        };
        let mut distinct = HashSet::new();
        let mut has_ids = false;
        for state in &states {
            let mut words = words_of(state);
            let mut next = || words.next().unwrap_or(0) as usize;
            report.capacity += next();
            report.len += next();
            report.bytes += next();
            report.stores.push(LOCATIONS.get(next()).copied().flatten());
            has_ids |= next() != 0;
            let classes = next();
            report.per_class.resize(report.per_class.len().max(classes), 0);
            (0..classes).for_each(|class| report.per_class[class] += next());
            distinct.extend(words);
        }
        report.distinct = has_ids.then_some(distinct.len());
        Ok(report)
    }
}
