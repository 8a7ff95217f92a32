//! A checkpoint of another number of ranks: every stored sample goes to one of the new shards, exactly once.
//!
//! All samples are put in one order and dealt to the new ranks in turn. Shards then differ by at most one sample and fit, since their capacities sum to the
//! same |B|; with the samples sorted by class, each class is spread evenly too, so that quotas hold where they held before. A first-in-first-out buffer is dealt
//! from the oldest to the newest instead, and each new shard is a ring that begins with its oldest.

use super::rank_file::{RankFile, RankState};
use super::restore::ShardRestorer;
use crate::batch::Schema;
use crate::config::{PolicyKind, RehearsalConfig, shard_capacity};
use crate::engine::shard::Shard;
use crate::error::CheckpointError;
use crate::policy::{ClassBalanced, RandomReplacement};
use crate::slots::{SlotState, SlotTable};
use crate::store::{Store, rows_per_chunk};
use burn::tensor::Device;
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// One rank's part of a checkpoint that was dealt anew.
pub(super) struct Reshard {
    pub(super) state: RankState,
    pub(super) shard: Option<Shard>,
    pub(super) schema: Option<Schema>,
}

/// Where a sample was.
#[derive(Debug, Clone, Copy)]
struct Sample {
    file: usize,
    slot: usize,
    row: SlotState,
    /// Whether it is of an earlier task than the current one.
    from_earlier_task: bool,
}

/// The shard of `rank` among `size` from the files of all ranks of another world.
pub(super) fn load(
    mut files: Vec<RankFile>,
    config: &RehearsalConfig,
    rank: usize,
    size: usize,
    device: &Device,
) -> Result<Reshard, CheckpointError> {
    let world_size = files.len();
    let mut state = files[0].state.clone();
    for (number, file) in files.iter().enumerate() {
        let RankState { rank, world_size: of, step, task, draws, .. } = &file.state;
        let same = (*step, *task, draws) == (state.step, state.task, &state.draws) && blake3::Hash::from_hex(draws).is_ok();
        let digests = |file: &RankFile| file.schema.as_ref().map(Schema::digest);
        let first = files.iter().find_map(digests);
        if *rank != number || *of != world_size || !same || digests(file).is_some_and(|digest| Some(digest) != first) {
            return Err(file.reader.damaged("it is not of the same checkpoint as the first"));
        }
    }
    state.rows = files.iter().map(|file| file.state.rows).max().unwrap_or(0);
    let Some(schema) = files.iter().find_map(|file| file.schema.clone()) else { return Ok(Reshard { state, shard: None, schema: None }) };
    let own: Vec<Sample> = order(&files, config.policy).into_iter().skip(rank).step_by(size).collect();
    let current = files.iter().filter_map(|file| file.state.shard.as_ref()).map(|shard| shard.current_task).max().unwrap_or(state.task);
    let policy = policy(&files, config.policy, &own, rank, size);
    let (rows, from_earlier_tasks, seen) = renumber(&own);
    let path = files[0].reader.path().to_path_buf();
    let has_id = schema.position(crate::batch::Role::Id).is_some();
    let table = |capacity| SlotTable::of_rows(capacity, has_id, current, from_earlier_tasks, &seen, &rows);
    let load = |store: &mut dyn Store| {
        for (chunk, samples) in own.chunks(rows_per_chunk(&schema)).enumerate() {
            let mut fields = vec![Vec::new(); schema.stored().count()];
            for sample in samples {
                for (field, bytes) in schema.stored().zip(&mut fields) {
                    files[sample.file].read(field, sample.slot, 1, bytes)?;
                }
            }
            store.load((chunk * rows_per_chunk(&schema)) as u32, samples.len(), &fields);
        }
        Ok(())
    };
    let restorer = ShardRestorer { path: &path, config, schema: &schema, rank, size, device };
    let shard = restorer.restore(table, &policy, load)?;
    Ok(Reshard { state, shard: Some(shard), schema: Some(schema) })
}

/// All samples in the order in which they are dealt.
fn order(files: &[RankFile], policy: PolicyKind) -> Vec<Sample> {
    let mut keyed = Vec::new();
    for (number, file) in files.iter().enumerate() {
        let Some(shard) = &file.state.shard else { continue };
        let oldest = if policy == PolicyKind::Fifo { file.policy.first().map_or(0, |&next| next as usize % shard.len.max(1)) } else { 0 };
        for (slot, &row) in file.rows.iter().enumerate() {
            let sample = Sample { file: number, slot, row, from_earlier_task: (row.task_pos as usize) < shard.old };
            // In a ring: how many samples are newer.
            let newer = (oldest + 2 * shard.len - 1 - slot) % shard.len;
            let key = if policy == PolicyKind::Fifo { (Reverse(newer), 0) } else { (Reverse(0), row.class) };
            keyed.push((key, sample));
        }
    }
    // A stable sort: by rank and slot where the keys are equal.
    keyed.sort_by_key(|(key, _)| *key);
    keyed.into_iter().map(|(_, sample)| sample).collect()
}

/// The state of the policy of a new shard that holds `own`.
fn policy(files: &[RankFile], kind: PolicyKind, own: &[Sample], rank: usize, size: usize) -> Vec<u64> {
    let states = || files.iter().map(|file| file.policy.as_slice());
    let count = |rows: &mut dyn Iterator<Item = &SlotState>| {
        let mut counts: BTreeMap<u32, u64> = BTreeMap::new();
        rows.for_each(|row| *counts.entry(row.class).or_default() += 1);
        counts
    };
    match kind {
        PolicyKind::ClassBalanced => {
            let before = count(&mut files.iter().flat_map(|file| &file.rows));
            ClassBalanced::merge(states(), &before, &count(&mut own.iter().map(|sample| &sample.row)), size)
        }
        PolicyKind::RandomReplacement => RandomReplacement::merge(states()),
        // As if the samples offered so far had been dealt like those that are stored.
        PolicyKind::Reservoir => {
            let offered = states().filter_map(|state| state.first().copied()).fold(0, u64::saturating_add);
            vec![shard_capacity(offered as usize, rank, size) as u64]
        }
        PolicyKind::Fifo => vec![0],
    }
}

/// A new table's rows, how many are of earlier tasks, and the classes among them.
fn renumber(samples: &[Sample]) -> (Vec<SlotState>, usize, Vec<u32>) {
    let from_earlier_tasks = samples.iter().filter(|sample| sample.from_earlier_task).count();
    let mut classes: BTreeMap<u32, u32> = BTreeMap::new();
    let (mut next_earlier, mut next_current) = (0, from_earlier_tasks as u32);
    let rows = samples.iter().map(|sample| {
        let members = classes.entry(sample.row.class).or_insert(0);
        let position = if sample.from_earlier_task { &mut next_earlier } else { &mut next_current };
        let row = SlotState { generation: 0, class_pos: *members, task_pos: *position, ..sample.row };
        *members += 1;
        *position += 1;
        row
    });
    let rows = rows.collect();
    (rows, from_earlier_tasks, classes.into_keys().collect())
}
